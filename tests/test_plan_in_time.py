"""Whenever time is up, there is a valid plan with an honest bound; what is too large is planned without the program."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
from jumping import jump_at
from planted import problem_of

from sparseplan.autodiff import trace
from sparseplan.builder import NetworkBuilder
from sparseplan.liveness import analyse
from sparseplan.network import Network
from sparseplan.problem import Problem
from sparseplan.recompute import Savings, apply
from sparseplan.solve import pipeline
from sparseplan.solve.clock import Clock, Limits, OutOfTime, Pulse
from sparseplan.solve.early import evicted, fullest
from sparseplan.solve.pipeline import Pipeline
from sparseplan.solve.search import solve
from sparseplan.steps import MAIN, UpdateSet
from sparseplan.testing import check_accepted

LOOKS = [1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377, 610, 987, 1597, 2584, 4181, 10946]
SAVINGS = [(), ("recompute",), ("recompute", "order")]


def chain(length: int = 6) -> Network:
    net = NetworkBuilder("chain")
    x = net.input("image", (2, 8, 8))
    for i in range(length):
        x = net.relu(net.conv(x, 4, 3, 1, 1, name=f"c{i}"), name=f"r{i}")
    return net.build(net.conv(x, 2, 3, 2, 1, name="last"))


def asked(l2: int | None, savings: tuple[str, ...] = (), must: tuple[str, ...] = ()) -> Problem:
    problem = problem_of(chain(), l2, alignment=4, must=must, loss="mse")
    choices = dict.fromkeys(problem.choices, (1.0,))
    values = {p: {1.0: float(i + 1)} for i, p in enumerate(choices)}
    return replace(problem, savings=savings, choices=choices, values=values)


@cache
def between(savings: tuple[str, ...]) -> Problem:
    """With a budget at which some, but without recomputation not all, can be updated."""
    least = solve(asked(None, savings, ("last.bias",)))
    assert least.status == "OPTIMAL"
    most = solve(asked(None)).peak_bytes[MAIN]
    low = solve(replace(asked(None), choices={}, values={}, must={})).peak_bytes[MAIN]
    return asked((low + most) // 2, savings, ("last.bias",))


@pytest.fixture(scope="module")
def best() -> dict[tuple[str, ...], float]:
    found = {savings: solve(between(savings)) for savings in SAVINGS}
    assert all(plan.status == "OPTIMAL" for plan in found.values())
    return {savings: plan.objective for savings, plan in found.items()}


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("savings", SAVINGS, ids="-".join)
@pytest.mark.parametrize("look", LOOKS)
def test_a_plan_cut_short(
    monkeypatch: pytest.MonkeyPatch,
    best: dict[tuple[str, ...], float],
    look: int,
    savings: tuple[str, ...],
    large: bool,
) -> None:
    assert savings in best  # asked for before the clock is another one
    problem = between(savings)
    if large:
        monkeypatch.setattr(pipeline, "MOST_TERMS", 0)
        monkeypatch.setattr(pipeline, "MOST_PLAIN_TERMS", 0)
    jump_at(monkeypatch, look)
    plan = check_accepted(problem, solve(problem, Limits(5.0)))
    assert plan.status in ("OPTIMAL", "FEASIBLE")
    assert plan.objective <= best[savings] <= plan.bound


@pytest.mark.parametrize("savings", SAVINGS, ids="-".join)
def test_too_large_for_the_program(
    monkeypatch: pytest.MonkeyPatch, best: dict[tuple[str, ...], float], savings: tuple[str, ...]
) -> None:
    """With recomputation everything fits, which is then proven; otherwise what is found is near the best."""
    monkeypatch.setattr(pipeline, "MOST_TERMS", 0)
    monkeypatch.setattr(pipeline, "MOST_PLAIN_TERMS", 0)
    monkeypatch.setattr(Pipeline, "built", lambda *_: pytest.fail("the program was built"))
    problem = between(savings)
    plan = check_accepted(problem, solve(problem, Limits(20.0)))
    assert 0.6 * best[savings] <= plan.objective <= best[savings] <= plan.bound
    if best[savings] == problem.most_worth():
        assert plan.status == "OPTIMAL"


def test_too_little_for_anything_is_told_without_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "MOST_TERMS", 0)
    monkeypatch.setattr(Pipeline, "built", lambda *_: pytest.fail("the program was built"))
    plan = check_accepted(problem := asked(1000, ("recompute",)), solve(problem))
    assert plan.status == "INFEASIBLE"
    assert plan.reason is not None
    assert plan.reason.needed > plan.reason.available == 1000


def test_paging_frees_what_is_idle() -> None:
    """Of the full update, each budget that is met is met exactly as counted; where nothing is idle nothing is paged."""
    problem = asked(None)
    graph = trace(problem.network, problem.options, problem.choices)
    schedule = graph.restrict(UpdateSet(fullest(problem)))
    peak = analyse(schedule).peak()
    met = 0
    for share in (95, 90, 80, 70, 60, 10):
        fetches = evicted(schedule, peak * share // 100)
        if fetches:
            met += 1
            assert analyse(apply(schedule, Savings(fetches=fetches))).peak() <= peak * share // 100
    assert met >= 2
    assert evicted(schedule, 10) == frozenset()


def test_a_silent_search_tells_its_last_line_again(monkeypatch: pytest.MonkeyPatch) -> None:
    at = [0.0]
    monkeypatch.setattr("sparseplan.solve.clock.now", lambda: at[0])
    told: list[str] = []
    pulse = Pulse(told.append)
    clock = Clock(Limits(3.0, pulse=pulse))
    pulse.say("placing")
    for tick in range(1, 30):
        at[0] = 0.1 * tick
        clock.check()
    assert told[0] == "placing"
    assert 2 <= len(told) - 1 <= 6
    assert all(line.startswith("placing (") for line in told[1:])
    at[0] = 3.0
    with pytest.raises(OutOfTime):
        clock.check()
