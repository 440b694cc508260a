"""Exact is never worse than greedy."""

from __future__ import annotations

from hypothesis import given

from sparseplan.problem import Problem
from sparseplan.testing import check_exact_at_least_greedy, networks, problems


@given(problem=problems())
def test_exact_is_at_least_greedy(problem: Problem) -> None:
    check_exact_at_least_greedy(problem)


@given(problem=problems(networks("ushape", max_ops=12)))
def test_exact_is_at_least_greedy_on_u_shapes(problem: Problem) -> None:
    check_exact_at_least_greedy(problem)
