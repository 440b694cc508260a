"""The pipeline: what is decided when placing fails, when time is short, and when nothing fits."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

import sparseplan as sp
from sparseplan.errors import ProblemError
from sparseplan.network import Network
from sparseplan.solve import whynot
from sparseplan.solve.cpsat import Limits
from sparseplan.solve.pipeline import Candidate, Effort, Pipeline
from sparseplan.solve.rects import Placement
from sparseplan.solve.search import solve
from sparseplan.solve.select import Decisions, Selection
from sparseplan.testing.peers import greedy
from sparseplan.verify import verify


@pytest.fixture(scope="module")
def net() -> Network:
    return sp.zoo.upydnet()


def test_adjoining_concats_are_placed_or_honestly_bounded(net: Network) -> None:
    """At this budget the relaxation's optimum cannot be placed with contiguous concats (602,324 B is
    the least found), so the second best has to be proven, or the bound has to say what is in doubt."""
    problem = sp.problem(net, "gap9", l2="600kB", concat="adjoin")
    plan = solve(problem, Limits(seconds=30.0))
    assert plan.status in ("OPTIMAL", "FEASIBLE")
    assert verify(problem, plan) == ()
    assert plan.peak_bytes["L2"] <= 600_000
    assert plan.objective <= plan.bound <= 51_297
    assert plan.objective >= 0.99 * plan.bound
    split = sp.plan(net, "gap9", l2="600kB")
    assert split.objective >= plan.objective


def test_short_of_time_there_is_still_a_plan(net: Network) -> None:
    plan = sp.plan("mobilenetv1_025", l2=637_530, time_limit=0.01)
    assert plan.status in ("OPTIMAL", "FEASIBLE")
    assert plan.bound >= plan.objective
    assert math.isfinite(plan.bound)
    assert plan.peak_bytes["L2"] <= 637_530


@pytest.mark.parametrize("share", [0.5, 0.8])
def test_cut_short_a_plan_is_no_worse_than_greedy(share: float) -> None:
    """Without any work by the solver."""
    whole = sp.plan("dscnn", l2="10MB").peak_bytes["L2"]
    problem = sp.problem("dscnn", "gap9", l2=int(share * whole))
    plan = solve(problem, Limits(work=0.0))
    by_hand = greedy(problem)
    assert by_hand is not None
    assert 0 < by_hand.objective <= plan.objective <= plan.bound
    assert verify(problem, plan) == ()
    assert dict(plan.update) == dict(solve(problem, Limits(work=0.0)).update)


def test_where_the_best_cannot_be_placed_in_time_something_else_of_worth_is(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = sp.plan("dscnn", l2="10MB").peak_bytes["L2"]
    problem = sp.problem("dscnn", "gap9", l2=whole // 2)
    place, tried = Pipeline.place, []

    def first_in_vain(self: Pipeline, decisions: Decisions, capacity: int | None) -> Candidate:
        tried.append(decisions)
        found = place(self, decisions, capacity)
        return replace(found, placement=Placement("UNKNOWN", (), 0, "cut short", 0.0)) if len(tried) == 1 else found

    monkeypatch.setattr(Pipeline, "place", first_in_vain)
    plan = Pipeline(problem, effort=Effort(attempts=1)).run()
    assert len(tried) == 2
    assert plan.status == "FEASIBLE"
    assert verify(problem, plan) == ()
    assert 0.9 * plan.bound < plan.objective <= problem.worth(tried[0].update) <= plan.bound


def test_cut_short_a_plan_with_savings_is_no_worse_than_without(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = sp.plan("dscnn", l2="10MB").peak_bytes["L2"]
    problem = sp.problem("dscnn", "gap9", l2=whole // 2, savings=("recompute", "int8"))
    without = solve(replace(problem, savings=()))
    pipeline = Pipeline(problem, effort=Effort(attempts=1))
    nothing = Selection("UNKNOWN", None, math.inf, {}, 0.0)
    monkeypatch.setattr(pipeline.program, "select", lambda *given, **named: nothing)
    plan = pipeline.run()
    assert plan.status == "FEASIBLE"
    assert without.status == "OPTIMAL"
    assert without.objective <= plan.objective <= plan.bound
    assert verify(problem, plan) == ()


def test_no_time_for_why_nothing_fits_is_told() -> None:
    problem = sp.problem("dscnn", "gap9", l2=20_000)
    pipeline = Pipeline(problem, Limits(work=0.0))
    reason = whynot.reason(pipeline)
    assert (reason.level, reason.available, reason.fewest_bytes) == ("L2", problem.capacity("L2"), None)
    assert "time ran out" in reason.message


def test_a_frozen_level_that_is_too_small_is_named(net: Network) -> None:
    device = sp.load_device("nrf52840")
    small = sp.Device(
        "small",
        "",
        tuple(v if v.name != "flash" else type(v)("flash", 1000) for v in device.with_budget(l2="2MB").levels),
    )
    plan = sp.plan(net, small, frozen="flash", never=["*"], alignment=1)
    assert plan.status == "INFEASIBLE"
    assert plan.reason is not None
    assert plan.reason.level == "flash"


def test_ties_go_to_fewer_macs_then_lower_peak(net: Network) -> None:
    """Two layers of equal worth, room for either: the one with less backward work is taken."""
    values = {"*": 0, "decoder0.conv2.weight": 1, "decoder2.conv2.weight": 1}
    both = sp.plan(net, "gap9", values=values, fractions=(1.0,))
    assert set(both.update) == {"decoder0.conv2.weight", "decoder2.conv2.weight"}
    late = sp.plan(net, "gap9", values=values, fractions=(1.0,), max_macs=sum(both.macs.values()) - 1)
    assert set(late.update) == {"decoder2.conv2.weight"}


def test_worthless_and_harmful_updates_are_left_out(net: Network) -> None:
    plan = sp.plan(net, "gap9", values={"*": 0, "ups0.tconv.bias": -1.0, "decoder0.*": 1.0})
    assert all(p.startswith("decoder0.") for p in plan.update)
    forced = sp.plan(net, "gap9", values={"*": 0, "ups0.tconv.bias": -1.0}, must=["ups0.tconv.bias"])
    assert forced.objective == -1.0
    assert set(forced.update) == {"ups0.tconv.bias"}


def test_must_with_a_fraction_is_a_floor(net: Network) -> None:
    plan = sp.plan(net, "gap9", must=["decoder0.conv0.weight@1/4"], may=["decoder0.conv0.weight@1/2"], values={"*": -1})
    assert dict(plan.update) == {"decoder0.conv0.weight": 0.25}


def test_reserved_bytes_count_against_the_budget(net: Network) -> None:
    free = sp.plan(net, "gap9", l2="600kB")
    device = sp.load_device("gap9").with_budget(l2="600kB")
    levels = tuple(type(v)(v.name, v.bytes, 20_000 if v.name == "L2" else 0, v.alignment) for v in device.levels)
    tight = sp.plan(net, sp.Device("tight", "", levels, double_buffer=True))
    assert tight.peak_bytes["L2"] <= 580_000
    assert tight.objective < free.objective


def test_a_problem_says_everything(net: Network) -> None:
    problem = sp.problem(net, "gap9")
    with pytest.raises(ProblemError, match="already says"):
        sp.plan(problem, l2="1MB")


def test_int8_tensors_are_planned_as_frozen() -> None:
    b = sp.NetworkBuilder("quantised")
    x = b.input("x", (4, 8, 8))
    y = b.relu(b.conv(x, 8, 3, padding=1, name="a"))
    net = b.build(b.conv(y, 2, 3, padding=1, name="b"))
    tensors = tuple(
        sp.Tensor(t.name, t.shape, t.role, "int8", 0.05) if t.name in ("x", "a.out", "a.weight", y) else t
        for t in net.tensors
    )
    mixed = sp.Network("quantised", tensors, net.ops, net.outputs)
    plan = sp.plan(mixed, l2="1MB")
    assert plan.status == "OPTIMAL"
    assert "a.weight" not in plan.update
    assert "b.weight" in plan.update
    assert {v.name: v.bytes for v in plan.values}["a.out"] == 8 * 8 * 8
    done = sp.run(plan)
    assert done.bitwise_equal
    assert done.guard_intact
