"""Whenever time is up, what is answered with stripes is a valid plan with an honest bound; fronts have their points."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from jumping import jump_at
from planted import problem_of

from sparseplan.builder import NetworkBuilder
from sparseplan.errors import ProblemError
from sparseplan.problem import Problem
from sparseplan.report import front_text
from sparseplan.solve import striped
from sparseplan.solve.clock import Limits
from sparseplan.solve.search import solve
from sparseplan.solve.ways import Way
from sparseplan.stripes import Lowered
from sparseplan.sweep import Front, pareto
from sparseplan.testing import check_accepted

LOOKS = [1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377, 610, 987, 1597, 2584, 4181]


def asked(l2: int | None, must: tuple[str, ...] = ("c2.*",)) -> Problem:
    net = NetworkBuilder("tall")
    x = net.input("image", (2, 12, 4))
    for i in range(2):
        x = net.relu(net.conv(x, 6, 3, 1, 1, name=f"c{i}"), name=f"r{i}")
    network = net.build(net.conv(x, 2, 3, 2, 1, name="c2"))
    problem = problem_of(network, l2, alignment=4, must=must, loss="mse")
    choices = dict.fromkeys(problem.choices, (1.0,))
    return replace(problem, savings=("stripes",), choices=choices,
                   values={p: {1.0: float(i + 1)} for i, p in enumerate(choices)})  # fmt: skip


@pytest.fixture(scope="module")
def best() -> dict[int, float]:
    """The proven value at bytes that do without stripes, and at some that do not."""
    found = {}
    for l2 in (4000, 5200):
        plan = solve(asked(l2))
        assert plan.status == "OPTIMAL"
        found[l2] = plan.objective
    return found


@pytest.mark.parametrize("l2", [4000, 5200])
@pytest.mark.parametrize("look", LOOKS)
def test_a_plan_cut_short(monkeypatch: pytest.MonkeyPatch, best: dict[int, float], look: int, l2: int) -> None:
    jump_at(monkeypatch, look)
    problem = asked(l2)
    plan = check_accepted(problem, solve(problem, Limits(5.0)))
    assert plan.status != "INFEASIBLE"
    assert plan.bound >= best[l2]
    if plan.feasible:
        assert plan.objective <= best[l2]
        assert plan.status == "FEASIBLE" or plan.objective == best[l2]


@pytest.mark.parametrize("look", LOOKS)
def test_stripes_among_the_savings_cost_nothing(monkeypatch: pytest.MonkeyPatch, look: int) -> None:
    """Cut short while other lowerings are made, the answer is that without stripes at the least."""
    problem = asked(5200, ())
    without = solve(replace(problem, savings=())).objective
    began = []
    make = striped.measured

    def jumping(problem: Problem, lowered: Lowered, number: int, check: Callable[[], None]) -> Way:
        if number == 1:
            began.append(jump_at(monkeypatch, look))
        return make(problem, lowered, number, check)

    monkeypatch.setattr(striped, "measured", jumping)
    plan = check_accepted(problem, solve(problem, Limits(60.0)))
    assert began
    assert plan.objective >= without


@pytest.fixture(scope="module")
def whole() -> Front:
    """The front without a limit."""
    front = pareto(asked(None, ()), time_limit=None)
    assert front.proven
    assert not front.note
    return front


@pytest.mark.parametrize("look", LOOKS[::3])
def test_a_front_cut_short(monkeypatch: pytest.MonkeyPatch, whole: Front, look: int) -> None:
    jump_at(monkeypatch, look)
    front = pareto(asked(None, ()), time_limit=5.0)
    assert front.points
    assert front.proven or front.note
    assert (front.note in front_text(front)) or not front.note
    for p in whole.points:  # nothing is ruled out that there is
        known = any(q.cost <= p.cost and q.value >= p.value for q in front.points)
        bound = any(q.cost <= p.cost and q.status == "FEASIBLE" and q.bound >= p.value for q in front.points)
        window = any(w.low <= p.cost < w.high and w.value >= p.value for w in front.windows)
        assert known or bound or window, (p, front)


def test_limits_that_are_none() -> None:
    for wrong in (-1, float("nan"), True, "5"):
        with pytest.raises(ProblemError, match=r"time_limit=.* is no number of seconds; give one >= 0, or None"):
            pareto(asked(None), time_limit=wrong)  # type: ignore[arg-type]
