"""Baselines are update sets of the kind they are named for, feasible at what they are said to need."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sparseplan import api
from sparseplan.baselines import baselines, biases, by_hand, last_layers, plan_for, random_set
from sparseplan.errors import ProblemError
from sparseplan.problem import Problem
from sparseplan.solve.front import bounded
from sparseplan.solve.search import solve
from sparseplan.verify import verify


@pytest.fixture(scope="module")
def problem() -> Problem:
    return api.problem("resnet8", "gap9", loss="cross_entropy", fractions=(1.0,))


def test_what_people_choose(problem: Problem) -> None:
    net, choices = problem.network, problem.choices
    assert set(last_layers(net, choices, 1)) == {"classifier.weight", "classifier.bias"}
    assert all(p.endswith("bias") for p in biases(net, choices))
    kinds = [kind for kind, _, _ in by_hand(problem, [("stack0", ("stack0.b.conv.weight",))])]
    assert kinds == ["none", "last layers", "last layers", "last layers", "last layers", "last layers", "biases",
                     "blocks", "full"]  # fmt: skip
    assert by_hand(problem)[-1][2] == dict.fromkeys(choices, 1.0)


def test_costs_are_the_least_budgets(problem: Problem) -> None:
    sets = baselines(problem, blocks=[("stack0", ("stack0.b.conv.weight", "stack0.b.norm.bias"))])
    assert dict(next(b.update for b in sets if b.kind == "blocks")) == {
        "stack0.b.conv.weight": 1.0, "stack0.b.norm.bias": 1.0,
    }  # fmt: skip
    for found in sets:
        plan = plan_for(problem, found.update)
        assert not verify(plan.problem, plan)
        patterns = list(found.update)
        if not patterns:
            continue
        exact = replace(problem, choices={p: (r,) for p, r in found.update.items()}, must=dict(found.update),
                        values={p: {r: 1.0} for p, r in found.update.items()})  # fmt: skip
        assert solve(bounded(exact, "l2", found.cost)).feasible
        assert not solve(bounded(exact, "l2", plan.lower_bound_bytes["L2"] - 4)).feasible


def test_random_sets_fit_differ_and_repeat(problem: Problem) -> None:
    sets = [random_set(problem, "l2", 290_000, seed) for seed in (0, 1)]
    assert sets[0] != sets[1]
    assert sets[0] == random_set(problem, "l2", 290_000, 0)
    for update in sets:
        assert plan_for(problem, update).peak_bytes["L2"] <= 290_000


def test_sets_that_a_cap_forbids_are_left_out(problem: Problem) -> None:
    capped = replace(problem, max_macs=14_000_000)
    kinds = {b.kind for b in baselines(capped)}
    assert "none" in kinds
    assert "full" not in kinds


def test_bad_input(problem: Problem) -> None:
    with pytest.raises(ProblemError, match="axis='l3' must be one of l2, l1, macs"):
        baselines(problem, "l3")
