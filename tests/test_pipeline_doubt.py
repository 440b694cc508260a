"""What was neither placed nor proven impossible stays in the bound, in the status and in what ties are said to be."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
from planted import problem_of

from sparseplan.builder import NetworkBuilder
from sparseplan.device import Device, Level
from sparseplan.network import Network
from sparseplan.plan import Plan
from sparseplan.problem import Problem
from sparseplan.solve.pipeline import Candidate, Pipeline
from sparseplan.solve.rects import Placement
from sparseplan.solve.select import Decisions
from sparseplan.verify import verify

Trick = Callable[[int, Candidate], Candidate]


def chain() -> Network:
    net = NetworkBuilder("chain")
    t = net.input("image", (2, 6, 6))
    for i, channels in enumerate((3, 4, 2)):
        t = net.conv(t, channels, 1, bias=False, name=f"c{i}")
    return net.build(t)


#: worths of sets are all different, and none is as much as 1
WORTH = {"c0.weight": 0.03125, "c1.weight": 0.0625, "c2.weight": 0.125}


def problem(must: tuple[str, ...] = ()) -> Problem:
    """Nothing but three weights to choose, in whole, and room for all of them."""
    found = problem_of(chain(), 100_000, must=must, dtype="fp32")
    choices = dict.fromkeys(WORTH, (1.0,))
    return replace(found, choices=choices, values={p: {1.0: v} for p, v in WORTH.items()})


def solved(trick: Trick, given: Problem | None = None) -> tuple[Plan, list[Decisions]]:
    """The plan where placing goes as ``trick`` says of the n-th trial, and what was tried."""
    tried: list[Decisions] = []

    class Tricked(Pipeline):
        def place(self, decisions: Decisions, capacity: int | None) -> Candidate:
            tried.append(decisions)
            return trick(len(tried), super().place(decisions, capacity))

    given = given or problem()
    plan = Tricked(given).run()
    if plan.status in ("OPTIMAL", "FEASIBLE"):
        assert verify(given, plan) == ()
    return plan, tried


def late(candidate: Candidate, peak: int = 0) -> Candidate:
    """Not placed in time: nothing is proven. ``peak``: placed, but so much too high."""
    status = "PLACED" if peak else "UNKNOWN"
    offsets = candidate.placement.offsets if peak else ()
    return replace(candidate, placement=Placement(status, offsets, peak, "cut short", 0.0), bound=0)


def test_without_tricks_all_is_proven() -> None:
    plan, tried = solved(lambda _, c: c)
    assert (plan.status, plan.objective, len(tried)) == ("OPTIMAL", sum(WORTH.values()), 1)
    assert set(plan.ties.values()) == {"OPTIMAL"}


def test_what_was_not_placed_may_still_be_the_best() -> None:
    """The best is not placed in time, nothing fits a budget tightened that much, and the second best is placed."""
    plan, tried = solved(lambda n, c: late(c, 300_000) if n == 1 else c)
    assert set(tried[0].update) == set(WORTH)
    assert plan.objective == sum(WORTH.values()) - WORTH["c0.weight"]
    assert plan.bound == sum(WORTH.values())
    assert plan.status == "FEASIBLE"
    assert set(plan.ties.values()) == {"FEASIBLE"}


def test_doubt_stays_when_nothing_better_is_left() -> None:
    """The best is not placed in time, the next is found within a budget tightened a little."""
    plan, _ = solved(lambda n, c: late(c) if n == 1 else c)
    assert plan.objective == sum(WORTH.values()) - WORTH["c0.weight"]
    assert (plan.status, plan.bound) == ("FEASIBLE", sum(WORTH.values()))


def test_a_proof_stays_but_not_of_the_ties_of_a_tightened_budget() -> None:
    """The best is proven impossible: the second is optimal. Its equals may be among what the tightening left out."""

    def impossible(n: int, c: Candidate) -> Candidate:
        return replace(late(c), bound=10**9) if n == 1 else c

    plan, _ = solved(impossible)
    assert (plan.status, plan.bound) == ("OPTIMAL", plan.objective)
    assert plan.objective == sum(WORTH.values()) - WORTH["c0.weight"]
    assert plan.ties
    assert set(plan.ties.values()) == {"FEASIBLE"}


def test_what_was_not_placed_is_not_infeasible() -> None:
    plan, _ = solved(lambda _, c: late(c), problem(must=tuple(WORTH)))
    assert plan.status == "UNKNOWN"
    assert plan.reason is None
    assert plan.objective == -math.inf


@pytest.mark.parametrize(("flash", "allowed"), [(24 + 48 + 32, True), (24 + 48 + 31, False)])
def test_decisions_keep_the_budget_of_the_frozen_level(flash: int, allowed: bool) -> None:
    """Weights of 3 x 2, 4 x 3 and 2 x 4 floats stay there."""
    base = problem()
    device = Device("small", "", (Level("L2", 100_000), Level("flash", flash)))
    given = replace(base, device=device, options=replace(base.options, frozen="flash"))
    assert Pipeline(given).allowed(Decisions({}, {})) == allowed
    assert Pipeline(given).allowed(Decisions({"c2.weight": 1.0}, {}))


def test_a_slower_level_is_filled_at_its_own_alignment() -> None:
    """Weights of 24, 48 and 32 bytes, one after the other, each at a multiple of 64."""
    base = problem()
    device = Device("coarse", "", (Level("L2", 100_000), Level("flash", 192, alignment=64)))
    given = replace(base, device=device, options=replace(base.options, frozen="flash"), choices={}, values={})
    plan = Pipeline(given).run()
    assert verify(given, plan) == ()
    assert sorted((b.offset, b.bytes) for b in plan.buffers if b.level == "flash") == [(0, 24), (64, 48), (128, 32)]
    assert plan.peak_bytes["flash"] == 160
