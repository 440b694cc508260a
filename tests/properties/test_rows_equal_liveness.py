"""The solver's linear rows, at any decisions, are the bytes that liveness counts for these decisions."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sparseplan.autodiff import trace
from sparseplan.problem import Problem
from sparseplan.testing import check_rows, problems


@given(problem=problems(tight=False), data=st.data())
def test_rows_equal_liveness(problem: Problem, data: st.DataObject) -> None:
    graph = trace(problem.network, problem.options, problem.choices)
    update = {}
    for p, fractions in problem.choices.items():
        r = data.draw(st.sampled_from([0.0, *fractions]), label=p)
        if r:
            update[p] = r
    picks = {p.op: data.draw(st.sampled_from(p.options), label=p.op) for p in graph.picks}
    check_rows(problem, update, picks)
