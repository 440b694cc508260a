"""Random reruns, fetches and other savings on problems that allow them, for tests."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import TypeVar

from hypothesis import strategies as st

from sparseplan.autodiff import trace
from sparseplan.builder import NetworkBuilder
from sparseplan.device import LEVELS, Level
from sparseplan.network import Network
from sparseplan.problem import Problem
from sparseplan.recompute import Savings
from sparseplan.solve.again import candidates, movable, packable_steps
from sparseplan.steps import MAIN, PAGE_LEVEL, Schedule
from sparseplan.training import TrainingGraph

T = TypeVar("T")
#: what apply knows: all but running in stripes
AGAIN = ("recompute", "page", "stream", "int8")


def with_savings(problem: Problem, savings: tuple[str, ...] = AGAIN, l3: int | None = None) -> Problem:
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


def possible(problem: Problem, schedule: Schedule) -> Savings:
    """Everything that may be done: reruns and fetches before steps that the schedule has."""
    graph = graph_of(problem)
    bound = {v for group in graph.composites for v, _ in group}
    runs, fetches, _ = candidates(graph, problem.savings, bound)
    there = {s.name for s in schedule.steps}
    name = [s.name for s in graph.steps]
    packs = packable_steps(graph, problem.savings, bound)
    here = MAIN if problem.options.frozen == MAIN else ""
    return Savings(
        frozenset((op, name[i]) for op, i in runs if name[i] in there),
        frozenset((t, name[i]) for t, i in fetches if name[i] in there),
        frozenset(graph.steps[i].op for i in packs if name[i] in there),
        frozenset(
            (v, level)
            for v, level in movable(graph, problem.savings, problem.stream_level)
            if v in schedule.values
            and (schedule.values[v].role != "parameter" or (here and schedule.values[v].tensor not in schedule.update))
        ),
    )


@st.composite
def some_savings(draw: st.DrawFn, problem: Problem, schedule: Schedule, most: int = 12) -> Savings:
    """Any of them, but never a rerun and a fetch of one tensor before one step."""

    def some(items: Collection[T], most: int) -> frozenset[T]:
        return frozenset(draw(st.sets(st.sampled_from(sorted(items)), max_size=most))) if items else frozenset()

    all_ = possible(problem, schedule)
    maker = {s.op: s.writes[0].spans[0].value for s in schedule.steps if s.kind == "forward"}
    reruns = some(all_.reruns, most)
    fetches = some(all_.fetches - {(maker[op], at) for op, at in reruns}, most // 2)
    return Savings(reruns, fetches, some(all_.packed, 3), some(all_.moved, 3))


@st.composite
def hourglasses(draw: st.DrawFn, max_ops: int = 8) -> Network:
    """Chains that are large at both ends and small between, where holding the first tensors hurts at the last."""
    net = NetworkBuilder("hourglass")
    t = net.input("image", (draw(st.sampled_from([1, 2])), 4, 4))
    widths = st.sampled_from([4, 2, 1])
    acts = st.sampled_from(["relu", "hardswish", "sigmoid"])
    ends = max(1, (max_ops - 2) // 2)
    for part in range(2):
        for i in range(draw(st.integers(1, ends))):
            if draw(st.booleans()) or (part, i) == (0, 0):
                kernel = draw(st.sampled_from([1, 3]))
                t = net.conv(t, draw(widths), kernel, padding=kernel // 2, bias=draw(st.booleans()))
            else:
                t = net.op(draw(acts), (t,))
        if part == 0:
            t = net.op("avg_pool", (t,), kernel=4)
            t = net.op("upsample", (t,), scale=4, mode="nearest")
    return net.build(t)
