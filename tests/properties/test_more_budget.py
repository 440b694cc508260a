"""More budget never worsens a proven optimum."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sparseplan.problem import Problem
from sparseplan.testing import budgets, check_more_budget, problems


@given(problem=problems(), data=st.data())
def test_more_budget_never_worsens(problem: Problem, data: st.DataObject) -> None:
    check_more_budget(problem, data.draw(st.lists(budgets(problem.network, problem.options), min_size=2, max_size=4)))
