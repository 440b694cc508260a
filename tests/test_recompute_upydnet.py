"""The plans' model of recomputation agrees on uPyD-Net with the matrix of ops and stages, a model of its own."""

from __future__ import annotations

import os
from functools import cache

import pytest

import sparseplan as sp
from sparseplan.autodiff import trace
from sparseplan.liveness import analyse
from sparseplan.problem import Problem
from sparseplan.recompute import Savings, apply
from sparseplan.run import run
from sparseplan.solve.cpsat import Limits, solve_in_order
from sparseplan.solve.rematinstance import instance, peak_of
from sparseplan.solve.rematmatrix import RematAnswer, least_macs
from sparseplan.solve.select import SEARCH, Program
from sparseplan.steps import Schedule, UpdateSet
from sparseplan.testing import check_rows_with_savings
from sparseplan.training import TrainingGraph
from sparseplan.verify import verify

BLOCK = ("decoder0.*", "ups0.*")


@cache
def case(update: tuple[str, ...]) -> tuple[Problem, TrainingGraph, dict[str, str], Schedule]:
    """A problem, its steps, the picks of masks made late, and the schedule without reruns."""
    problem = sp.problem(sp.zoo.upydnet(), "gap9", must=update, may=update, savings="recompute")
    graph = trace(problem.network, problem.options, problem.choices)
    late = {p.op: next(o for o in reversed(p.options) if o in ("late mask from y", "mask")) for p in graph.picks}
    return problem, graph, late, graph.restrict(UpdateSet(problem.least_update()), late)


def named(schedule: Schedule, answer: RematAnswer) -> Savings:
    """The oracle's reruns by names."""
    forward = [s.op for s in schedule.steps if s.kind == "forward"]
    return Savings(frozenset((forward[o], schedule.steps[i].name) for o, i in answer.reruns))


def least_by_rows(update: tuple[str, ...], budget: int) -> tuple[str, int | None]:
    """Status and fewest MACs added by the plans' own model, everything else decided."""
    problem, graph, picks, base = case(update)
    program = Program(problem, graph, [])
    model = program.model.clone()
    program.limit_bytes(model, budget)
    for p, options in zip(graph.picks, program.literals.picks, strict=True):
        model.add(options[p.options.index(picks[p.op])] == 1)
    goal = ("min", program.expression(program.macs))
    (found,) = solve_in_order(model, [goal], Limits(600.0), parameters=SEARCH, narrow=program.narrow)
    return found.status, None if found.objective is None else found.objective - sum(base.macs.values())


@pytest.mark.parametrize("budget", [590_000, 580_000, 570_000])
def test_fewest_macs_for_decoder_0(budget: int) -> None:
    oracle = least_macs(instance(case(BLOCK)[3]), budget, Limits(60.0))
    assert oracle.status == "OPTIMAL"
    assert least_by_rows(BLOCK, budget) == ("OPTIMAL", oracle.macs)


def test_what_no_reruns_can_do() -> None:
    oracle = least_macs(instance(case(BLOCK)[3]), 550_000, Limits(60.0))
    assert (oracle.status, least_by_rows(BLOCK, 550_000)[0]) == ("INFEASIBLE", "INFEASIBLE")


@pytest.mark.parametrize("budget", [900_000, 630_000])
def test_the_oracles_reruns_of_all_parameters_count_the_same(budget: int) -> None:
    """The oracle's optimum by the rows, by liveness, and by the oracle itself."""
    problem, _, picks, base = case(("*",))
    oracle = least_macs(instance(base), budget, Limits(240.0))
    assert oracle.status == "OPTIMAL"
    savings = named(base, oracle)
    schedule = apply(base, savings)
    assert schedule.macs["recompute"] == oracle.macs
    assert analyse(schedule).peak() == oracle.peak == peak_of(instance(base), oracle.reruns) <= budget
    check_rows_with_savings(problem, problem.least_update(), picks, savings)


@pytest.mark.skipif(os.environ.get("HYPOTHESIS_PROFILE") != "nightly", reason="takes minutes: make property runs it")
def test_fewest_macs_for_all_parameters_in_630_kb() -> None:
    problem = sp.problem(sp.zoo.upydnet(), "gap9", l2="630kB", must=("*",), savings="recompute")
    plan = sp.plan(problem, time_limit=900.0)
    assert (plan.status, plan.ties["macs"]) == ("OPTIMAL", "OPTIMAL")
    graph = trace(problem.network, problem.options, problem.choices)
    base = graph.restrict(UpdateSet(dict(plan.update)), dict(plan.picks))
    oracle = least_macs(instance(base), 630_000, Limits(600.0))
    assert (oracle.status, oracle.macs) == ("OPTIMAL", plan.macs["recompute"])
    assert plan.macs["recompute"] <= 0.15 * (plan.macs["forward"] + plan.macs["backward"])
    assert verify(problem, plan) == ()
    done = run(plan)
    assert done.bitwise_equal
    assert done.claimed_bytes == done.touched_bytes
