"""Fronts with stripes are exact over the lowerings: what no lowering's sets of decisions beat, each tried by itself.

The networks are convolutions alone, whose backward pass has one way to have what it needs, so that brute force over a
lowered network tries what the planner may choose.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import problem_of

from sparseplan.baselines import plan_for
from sparseplan.builder import NetworkBuilder
from sparseplan.errors import InternalError, ProblemError
from sparseplan.network import Network
from sparseplan.problem import Problem
from sparseplan.solve import pipeline, search, striped
from sparseplan.solve.buffers import groups_of
from sparseplan.solve.clock import Clock, Limits
from sparseplan.solve.front import bounded
from sparseplan.solve.pipeline import Pipeline
from sparseplan.solve.place import place_min
from sparseplan.solve.ways import measured
from sparseplan.steps import MAIN
from sparseplan.stripegroups import candidates, lowerings
from sparseplan.stripes import lower
from sparseplan.sweep import pareto
from sparseplan.testing import check_accepted
from sparseplan.testing.peers import every_option

FEWER = settings(max_examples=max(2, settings().max_examples // 8))


@st.composite
def convolutions(draw: st.DrawFn) -> Network:
    """Two or three convolutions over more rows than columns."""
    net = NetworkBuilder("convolutions")
    t = net.input("image", (draw(st.sampled_from([1, 2])), draw(st.sampled_from([6, 8])), 2))
    for i in range(draw(st.integers(2, 3))):
        t = net.conv(t, draw(st.sampled_from([4, 3, 1])), 3, draw(st.sampled_from([1, 1, 2])), 1, name=f"c{i}",
                     bias=draw(st.booleans()) and i > 0)  # fmt: skip
    return net.build(t)


@st.composite
def asked(draw: st.DrawFn) -> Problem:
    network = draw(convolutions())
    gradients = draw(st.sampled_from(["fused", "accumulate"]))
    problem = problem_of(network, None, alignment=4, loss="mse", gradients=gradients)
    values = {p: {1.0: float(draw(st.integers(1, 9)))} for p in problem.choices}
    choices = dict.fromkeys(problem.choices, (1.0,))
    return replace(problem, choices=choices, values=values, savings=("stripes",))


def tried(problem: Problem, axis: str) -> list[tuple[int, float]]:
    """(cost, worth) of every set of decisions on every lowering."""
    network, found = problem.network, []
    for groups in [(), *((g,) for g in candidates(network))]:
        one = replace(problem, network=lower(network, groups).network, savings=())
        for option in every_option(one, 500):
            if axis == "macs":
                found.append((option.macs, option.worth))
            else:
                placement, bound = place_min(groups_of(option.memory), problem.options.alignment)
                assert placement.peak == bound
                found.append((placement.peak + problem.device.level(MAIN).reserved, option.worth))
    return found


def undominated(pairs: list[tuple[int, float]]) -> list[tuple[int, float]]:
    kept: list[tuple[int, float]] = []
    for cost, worth in sorted(pairs, key=lambda p: (p[0], -p[1])):
        if not kept or worth > kept[-1][1]:
            kept.append((cost, worth))
    return kept


@FEWER
@given(problem=asked(), axis=st.sampled_from(["l2", "l2", "macs"]))
def test_the_front_is_what_nothing_beats_on_any_lowering(problem: Problem, axis: str) -> None:
    front = pareto(problem, axis, time_limit=None)
    assert front.proven
    assert [(p.cost, p.value) for p in front.points] == undominated(tried(problem, axis))
    for p in front.points:  # and a plan at each budget is as good as the front there
        plan = search.solve(bounded(problem, axis, int(p.cost)))
        assert (plan.status, plan.objective) == ("OPTIMAL", p.value)


@FEWER
@given(problem=asked(), savings=st.sampled_from([(), ("recompute",), ("int8",), ("order",), ("page",)]))
def test_what_a_way_takes_at_least_is_no_more_than_a_plan_takes(problem: Problem, savings: tuple[str, ...]) -> None:
    if savings == ("page",) and not problem.device.has("L3"):
        savings = ("recompute", "int8")
    network = problem.network
    for must in ({}, {next(iter(problem.choices)): 1.0}):
        one = replace(problem, savings=("stripes", *savings), must=must)
        for n, lowered in enumerate(lowerings(network, heights=(2, 4))):
            way = measured(one, lowered, n, Clock(Limits()).check)
            low = replace(one, choices=dict.fromkeys(must, (1.0,)), values={p: {1.0: 1.0} for p in must})
            plan = Pipeline(low, Limits(5.0), order=("peak", "area"), lowered=lowered).run()
            assert plan.feasible
            assert way.size <= plan.peak_bytes[MAIN]
            assert way.macs <= sum(plan.macs.values())
            if not savings:
                assert way.sure


# -- one door ---------------------------------------------------------------------------------------------
def chain() -> Network:
    net = NetworkBuilder("chain")
    x = net.input("image", (2, 16, 8))
    for i in range(3):
        x = net.relu(net.conv(x, 8, 3, 1, 1, name=f"a{i}"), name=f"b{i}")
    return net.build(net.op("avg_pool", (net.conv(x, 2, 3, 2, 1, name="c"),), kernel=4))


def tight(*savings: str) -> Problem:
    problem = problem_of(chain(), 6300, alignment=4, may=("c.*",), must=("c.*",), loss="mse")
    return replace(problem, savings=savings)


def test_every_way_to_ask_looks_at_stripes() -> None:
    problem = tight("stripes", "recompute")
    assert search.solve(tight("recompute")).status == "INFEASIBLE"
    for solve in (search.solve, pipeline.solve, striped.solve):
        plan = check_accepted(problem, solve(problem, Limits(60.0)))
        assert plan.status == "OPTIMAL"
        assert plan.stripes
    assert plan_for(problem, dict.fromkeys(problem.must, 1.0)).stripes
    with pytest.raises(ProblemError):
        plan_for(tight("recompute"), dict.fromkeys(problem.must, 1.0))


def test_one_network_is_not_asked_about_stripes() -> None:
    with pytest.raises(InternalError, match=r"savings='stripes' is no question of one network: ask solve\.search"):
        Pipeline(tight("stripes"))
