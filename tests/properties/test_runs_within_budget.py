"""Accepted plans run within budget: claimed = touched bytes, guards intact, arena = reference bit for bit."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sparseplan.problem import Problem
from sparseplan.testing import check_accepted, check_runs_within_budget, options, problems


@given(problem=problems(), seed=st.integers(0, 99))
def test_accepted_plans_run_within_budget(problem: Problem, seed: int) -> None:
    plan = check_accepted(problem)
    if plan.feasible:
        check_runs_within_budget(plan, seed, samples=1 + seed % 2)


@given(problem=problems(setting=options(dtype="fp32", batch=1), tight=False))
def test_plans_without_a_budget_run(problem: Problem) -> None:
    plan = check_accepted(problem)
    if plan.feasible:  # but for a cap on MACs
        check_runs_within_budget(plan)
