"""Random reruns and fetches on problems that allow them, for tests."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from sparseplan.autodiff import trace
from sparseplan.device import LEVELS, Level
from sparseplan.problem import SAVINGS, Problem
from sparseplan.recompute import Savings
from sparseplan.solve.again import candidates
from sparseplan.steps import PAGE_LEVEL, Schedule
from sparseplan.training import TrainingGraph


def with_savings(problem: Problem, savings: tuple[str, ...] = SAVINGS, l3: int | None = None) -> Problem:
    """The problem where that may be done to hold less; its device has an L3 (None: unbounded) if it has to."""
    device = problem.device
    if "page" in savings and not device.has(PAGE_LEVEL):
        at = device.level("L2").alignment
        levels = sorted((*device.levels, Level(PAGE_LEVEL, l3, 0, at)), key=lambda v: LEVELS.index(v.name))
        device = replace(device, levels=tuple(levels))
    return replace(problem, device=device, savings=savings)


def graph_of(problem: Problem) -> TrainingGraph:
    """All possible steps of a problem."""
    return trace(problem.network, problem.options, problem.choices)


def possible(problem: Problem, schedule: Schedule) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Reruns and fetches before steps that the schedule has."""
    graph = graph_of(problem)
    bound = {v for group in graph.composites for v, _ in group}
    runs, fetches, _ = candidates(graph, problem.savings, bound)
    there = {s.name for s in schedule.steps}
    name = [s.name for s in graph.steps]
    return (
        [(op, name[i]) for op, i in runs if name[i] in there],
        [(t, name[i]) for t, i in fetches if name[i] in there],
    )


@st.composite
def some_savings(draw: st.DrawFn, problem: Problem, schedule: Schedule, most: int = 12) -> Savings:
    """Any of them, but never a rerun and a fetch of one tensor before one step."""
    runs, fetches = possible(problem, schedule)
    maker = {s.op: s.writes[0].spans[0].value for s in schedule.steps if s.kind == "forward"}
    reruns = draw(st.sets(st.sampled_from(runs), max_size=most)) if runs else set()
    made = {(maker[op], at) for op, at in reruns}
    free = [f for f in fetches if f not in made]
    fetched = draw(st.sets(st.sampled_from(free), max_size=most // 2)) if free else set()
    return Savings(frozenset(reruns), frozenset(fetched))
