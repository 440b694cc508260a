"""Same inputs and seed, same plan."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sparseplan.problem import Problem
from sparseplan.solve.cpsat import Limits
from sparseplan.testing import check_same_seed, problems


@given(problem=problems(), seed=st.integers(0, 3))
def test_same_seed_same_plan(problem: Problem, seed: int) -> None:
    check_same_seed(problem, Limits(seed=seed))
