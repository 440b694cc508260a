"""Runs under way tell how far they are, in an arena and in other processes, and the result is the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import sparseplan as sp
from sparseplan.builder import NetworkBuilder, init_parameters
from sparseplan.check import check
from sparseplan.longwork import underway
from sparseplan.longwork.underway import Share, shares, watched
from sparseplan.solve.clock import OutOfTime
from sparseplan.tasks.base import Split
from sparseplan.tasks.regress import SETTINGS, RegressionTask


def test_shares_are_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(underway, "LOOK", 0.0)
    one, two = Share(str(tmp_path), "one"), Share(str(tmp_path), "two")
    assert shares(str(tmp_path)) == {}
    one(1, 4)
    two(5, 5)
    one(2, 4)
    (tmp_path / "half").write_text("3/")
    assert shares(str(tmp_path)) == {"one": 0.5, "two": 1.0}
    Share(None, "none")(1, 2)
    Share(str(tmp_path / "absent"), "x")(1, 2)  # not worth failing for
    assert shares(str(tmp_path / "absent")) == {}


def test_nothing_is_watched_without_a_listener() -> None:
    with watched(3, None) as place:
        assert place is None


@pytest.mark.parametrize("jobs", [1, 2])
def test_training_in_an_arena_tells_how_far_it_is(monkeypatch: pytest.MonkeyPatch, jobs: int) -> None:
    net = NetworkBuilder("small")
    x = net.linear(net.input("x", (6,)), 6, name="a")
    made = net.build(net.linear(x, 2, name="b"))
    rng = np.random.default_rng(0)

    def split() -> Split:
        y = rng.normal(size=(40, 2)).astype(np.float32)
        return Split(rng.normal(size=(40, 6)), y, y)

    task = RegressionTask("t", split(), split(), split(), SETTINGS)
    plan = sp.plan(made, l2="20kB", loss="mse")
    monkeypatch.setattr(underway, "LOOK", 0.02)
    lines: list[str] = []
    weights = init_parameters(made, 0)
    found = check(made, weights, {}, task, seeds=2, epochs=12, jobs=jobs, plans={"p": plan}, progress=lines.append)
    shown = [line for line in lines if "under way" in line]
    assert shown
    assert [x for x in shown if "of 2 runs trained" not in x or "%" not in x] == []
    assert check(made, weights, {}, task, seeds=2, epochs=12, plans={"p": plan}) == found


def test_a_run_ends_when_its_time_is_up(tmp_path: Path) -> None:
    late = Share(str(tmp_path), "late", until=0.0)
    with pytest.raises(OutOfTime):
        late(1, 2)
    late(2, 2)  # done, however late
    Share(None, "early", until=2.0**62)(1, 2)
