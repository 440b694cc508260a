"""With everything decided, the least peak that the solver's rows allow is what liveness counts of the schedule."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from savings import AGAIN, graph_of, some_savings, with_savings

from sparseplan.problem import Problem
from sparseplan.steps import UpdateSet
from sparseplan.testing import check_rows_with_savings, problems


def decided(problem: Problem, data: st.DataObject) -> None:
    """Draw all decisions, and compare."""
    update = {}
    for p, fractions in problem.choices.items():
        r = data.draw(st.sampled_from([*fractions, 0.0]), label=p)
        if r:
            update[p] = r
    graph = graph_of(problem)
    picks = {p.op: data.draw(st.sampled_from(p.options), label=p.op) for p in graph.picks}
    base = graph.restrict(UpdateSet(update), picks)
    check_rows_with_savings(problem, update, picks, data.draw(some_savings(problem, base), label="savings"))


@given(problem=problems(tight=False), data=st.data())
def test_rows_with_savings_equal_liveness(problem: Problem, data: st.DataObject) -> None:
    decided(with_savings(problem, data.draw(st.sampled_from([AGAIN, AGAIN[:1], AGAIN[:2], AGAIN[2:]]))), data)
