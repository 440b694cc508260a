"""Recomputation on networks that the 0/1 program is slow on: a plan all the same, and few MACs."""

from __future__ import annotations

import pytest

import sparseplan as sp
from sparseplan.autodiff import trace
from sparseplan.recompute import Savings
from sparseplan.run import run
from sparseplan.solve import pipeline
from sparseplan.solve.cpsat import Limits
from sparseplan.solve.fewer import fewer_macs
from sparseplan.solve.select import Decisions
from sparseplan.verify import verify


def test_what_has_to_be_updated_is_found_without_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """Taken as too large for it, a small network's plan has the value that the program proves, and no fewer MACs."""
    asked = sp.api.problem("resnet8", l2="440kB", must=["*"], fractions=(1.0,), savings="recompute",
                           loss="cross_entropy")  # fmt: skip
    exact = sp.plan(asked, time_limit=60)
    monkeypatch.setattr(pipeline, "MANY", 0)
    found = sp.plan(asked, time_limit=60)
    assert exact.status == found.status == "OPTIMAL"
    assert found.objective == exact.objective
    assert sum(exact.macs.values()) <= sum(found.macs.values()) <= 1.05 * sum(exact.macs.values())
    assert not verify(asked, found)
    report = run(found)
    assert report.bitwise_equal
    assert report.touched_bytes == report.claimed_bytes


def test_decisions_that_save_otherwise_are_left_alone() -> None:
    asked = sp.api.problem("resnet8", l2="1MB", loss="cross_entropy")
    graph = trace(asked.network, asked.options, asked.choices)
    moved = Decisions({}, {}, Savings(packed=frozenset({"stem"})))
    assert fewer_macs(graph, moved, 10**6, Limits(1.0)) is moved
