"""The door to CP-SAT: limits, exact objectives, goals in order."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ortools.sat.python import cp_model

from sparseplan.errors import InternalError, ProblemError
from sparseplan.solve.cpsat import Clock, Limits, solve, solve_in_order


def knapsack(worth: list[int], weight: list[int], most: int) -> tuple[cp_model.CpModel, list[cp_model.IntVar]]:
    """Take some of the things, together no heavier than ``most``."""
    model = cp_model.CpModel()
    taken = [model.new_bool_var(f"taken{i}") for i in range(len(worth))]
    model.add(sum(w * t for w, t in zip(weight, taken, strict=True)) <= most)
    model.maximize(sum(v * t for v, t in zip(worth, taken, strict=True)) + 7)
    return model, taken


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"seconds": -1.0}, r"seconds=-1\.0"),
        ({"seconds": float("nan")}, "seconds=nan"),
        ({"work": float("inf")}, "work=inf"),
        ({"seconds": True}, "seconds=True"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": 2**31}, "seed=2147483648"),
        ({"seed": 1.5}, r"seed=1\.5"),
    ],
)
def test_limits_are_checked(wrong: dict[str, float], text: str) -> None:
    with pytest.raises(ProblemError, match=text):
        Limits(**wrong)


def test_clock_gives_what_is_left() -> None:
    clock = Clock(Limits(seconds=1000.0, seed=3, work=2.0))
    assert clock.left(seconds=1.0, work=5.0) == Limits(1.0, 3, 2.0)
    clock.spend(1.5)
    assert clock.left().work == 0.5
    assert not clock.passed()
    clock.spend(1.0)
    assert clock.passed()
    assert not clock.late()
    assert Clock(Limits(seconds=0)).late()
    assert Clock(Limits()).left() == Limits()


def test_objective_beyond_the_integers_of_floats() -> None:
    model, taken = knapsack([2**60 + 1, 2**60 + 3], [1, 1], 1)
    outcome = solve(model, Limits())
    assert (outcome.status, outcome.objective, outcome.bound) == ("OPTIMAL", 2**60 + 10, 2**60 + 10)
    assert [outcome.value(t) for t in taken] == [0, 1]


def test_infeasible_and_out_of_time() -> None:
    model, taken = knapsack([1], [1], 1)
    assert solve(model, Limits(work=0.0)).status == "UNKNOWN"
    model.add(taken[0] >= 2)
    outcome = solve(model, Limits())
    assert (outcome.status, outcome.objective, outcome.bound, outcome.values) == ("INFEASIBLE", None, None, ())
    with pytest.raises(InternalError, match="ended INFEASIBLE"):
        outcome.value(taken[0])


def test_malformed_model_is_our_fault() -> None:
    model = cp_model.CpModel()
    model.new_int_var(0, 2**63 - 1, "too wide")
    with pytest.raises(InternalError, match="rejects"):
        solve(model, Limits())


@given(st.lists(st.tuples(st.integers(-3, 9), st.integers(0, 9)), min_size=1, max_size=7), st.integers(0, 30))
def test_goals_in_order_are_those_of_enumeration(things: list[tuple[int, int]], most: int) -> None:
    worth, weight = [v for v, _ in things], [w for _, w in things]
    model, taken = knapsack(worth, weight, most)
    ways = [way for way in itertools.product((0, 1), repeat=len(things)) if sum(map(int.__mul__, weight, way)) <= most]
    best = max((sum(map(int.__mul__, worth, way)), -sum(way)) for way in ways)
    value = sum(v * t for v, t in zip(worth, taken, strict=True))
    first, second = solve_in_order(model, [("max", value), ("min", sum(taken))], Limits())
    assert (first.status, second.status) == ("OPTIMAL", "OPTIMAL")
    assert (first.objective, second.objective) == (best[0], -best[1])
    assert solve(model, Limits()).objective == best[0] + 7  # the model given is as it was


def test_goals_without_solution_end_early() -> None:
    model, taken = knapsack([1], [1], 1)
    model.add(taken[0] == 0)
    model.add(taken[0] == 1)
    outcomes = solve_in_order(model, [("max", taken[0]), ("min", taken[0])], Limits())
    assert [o.status for o in outcomes] == ["INFEASIBLE"]
