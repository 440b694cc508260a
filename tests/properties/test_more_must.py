"""Adding a ``must`` never improves the optimum."""

from __future__ import annotations

from hypothesis import assume, given
from hypothesis import strategies as st

from sparseplan.problem import Problem
from sparseplan.testing import check_must, problems


@given(problem=problems(), data=st.data())
def test_more_must_never_improves(problem: Problem, data: st.DataObject) -> None:
    assume(problem.choices)
    names = data.draw(st.lists(st.sampled_from(list(problem.choices)), min_size=1, max_size=3, unique=True))
    check_must(problem, {p: data.draw(st.sampled_from(problem.choices[p])) for p in names})
