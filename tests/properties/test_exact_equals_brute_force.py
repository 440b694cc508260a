"""Exact equals brute force: value, feasibility, tie-breaks by MACs and then by live peak."""

from __future__ import annotations

from hypothesis import assume, given

from sparseplan.errors import ProblemError
from sparseplan.problem import Problem
from sparseplan.testing import check_exact_equals_brute_force, check_fewest_bytes, problems
from sparseplan.testing.theorems import solved

MOST = 400


@given(problem=problems(max_choices=60))
def test_exact_equals_brute_force(problem: Problem) -> None:
    plan = solved(problem)
    try:
        check_exact_equals_brute_force(problem, plan, MOST)
        check_fewest_bytes(problem, plan, MOST)
    except ProblemError:  # too many ways to keep what backward needs
        assume(False)
