"""The self-test passes on sound networks, says what it skipped, and tells a planted fault."""

from __future__ import annotations

import pytest
from jumping import jump_at

import sparseplan.testing.rows
import sparseplan.testing.theorems
from sparseplan.builder import NetworkBuilder
from sparseplan.errors import ProblemError
from sparseplan.network import Network
from sparseplan.testing import selftest
from sparseplan.verify.findings import Violation


def small() -> Network:
    net = NetworkBuilder("small")
    x = net.leaky_relu(net.conv(net.input("image", (2, 6, 6)), 4, 3, padding=1), 0.1)
    return net.build(net.linear(net.op("flatten", net.op("max_pool", x, kernel=2)), 3))


def test_a_sound_network_passes() -> None:
    lines: list[str] = []
    report = selftest(small(), examples=2, progress=lines.append)
    assert report.passed, report.text()
    assert [row.outcome for row in report.rows] == ["passed"] * len(report.rows)
    told = [line for line in lines if not line.endswith(" s)")]  # signs of life aside
    assert len(told) == len(report.rows) == 13
    assert report.text().endswith(" s)")
    assert "13 passed (seed 0" in report.text()


def test_the_same_seed_draws_the_same_cases() -> None:
    a, b = (selftest(small(), examples=1, seed=3, device="gap9") for _ in range(2))
    assert a.rows == b.rows


def test_what_says_nothing_is_skipped_with_a_reason() -> None:
    net = NetworkBuilder("fixed")
    network = net.build(net.relu(net.input("image", (2, 2))))
    report = selftest(network, examples=1)
    assert report.passed
    assert {row.detail for row in report.rows if row.outcome == "skipped"} == {
        "no parameter gets a gradient from the loss",
        "the loss has kinks wherever it was tried",
    }


def test_what_cannot_be_run_is_planned_alone() -> None:
    net = NetworkBuilder("walled")
    x = net.op("opaque", net.input("image", (2, 4, 4)), "odd", type="Odd", shape=(2, 4, 4))
    report = selftest(net.build(net.conv(x, 2, 3, padding=1)), examples=1)
    assert report.passed, report.text()
    skipped = {row.theorem: row.detail for row in report.rows if row.outcome == "skipped"}
    assert set(skipped.values()) == {"op 'odd' (Odd) is known by its shapes alone and cannot be run"}
    assert len(skipped) == 3


def test_a_fault_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sparseplan.testing.theorems, "verify", lambda problem, plan: (Violation("peak", "L2", "planted"),)
    )

    def broken(*args: object) -> None:
        raise KeyError("planted")

    monkeypatch.setattr(sparseplan.testing.rows, "analyse", broken)
    report = selftest(small(), examples=1)
    failed = {row.theorem: row.detail for row in report.rows if row.outcome == "failed"}
    assert not report.passed
    assert set(failed) == {"the verifier accepts what is planned", "solver and liveness count the same bytes"}
    assert failed["the verifier accepts what is planned"].startswith("case 1: verify finds peak: L2: planted")
    assert failed["solver and liveness count the same bytes"] == "case 1: KeyError: 'planted'"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"examples": 0}, "examples=0 must be a whole number, at least 1"),
        ({"seconds": -1.0}, "seconds=-1.0 must be a positive number"),
        ({"seconds": float("nan")}, "seconds=nan must be a positive number"),
    ],
)
def test_bad_arguments(given: dict[str, float], message: str) -> None:
    with pytest.raises(ProblemError, match="^" + message.replace(".", r"\.")):
        selftest(small(), **given)  # type: ignore[arg-type]


def test_time_is_for_all_theorems_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not begun in time is skipped, and says so; what was done counts."""
    jump_at(monkeypatch, 200)
    report = selftest(small(), examples=3, seconds=20.0)
    assert report.passed
    assert report.rows[0].cases >= 1
    last = report.rows[-1]
    assert (last.outcome, last.cases, last.detail) == ("skipped", 0, "out of time before case 1 of 3")
