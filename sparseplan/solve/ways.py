"""Lowerings as ways to run a network: what each takes at least, found without a search."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from sparseplan.autodiff import trace
from sparseplan.liveness import analyse
from sparseplan.plan import Plan
from sparseplan.problem import Problem
from sparseplan.solve.floor import chosen_reads, held_anyway, stay
from sparseplan.solve.pipeline import Pipeline
from sparseplan.steps import MAIN, Schedule, UpdateSet
from sparseplan.stripes import Lowered, Stripes

#: (bytes of main memory, MACs) that a problem allows
Caps = tuple[float, float]


@dataclass(eq=False)
class Way:
    """A lowering, and what is known of plans on it.

    Attributes:
        number: its place among the lowerings; 0 is the network without stripes.
        macs, size: MACs and bytes of main memory that no plan on it goes below.
        sure: what has to be updated, and nothing else, keeps the budgets in live bytes without any other saving.
        bound: nothing on it is worth more, within the budgets last asked for.
        later: the same within the smaller budgets ``caps``.
        plan: the last one found, with the status that its search gave it.
        pipeline: the search, while it is kept for the next point of a front; ``asked``: the caps it was last asked for.
    """

    number: int
    lowered: Lowered
    macs: int
    size: int
    sure: bool
    bound: float
    later: float = math.inf
    caps: Caps = (-math.inf, -math.inf)
    plan: Plan | None = None
    pipeline: Pipeline | None = None
    asked: Caps = (math.inf, math.inf)


def caps_of(problem: Problem) -> Caps:
    """What a problem allows."""
    capacity, most = problem.capacity(MAIN), problem.max_macs
    return (math.inf if capacity is None else capacity, math.inf if most is None else most)


def within(some: Caps, others: Caps) -> bool:
    """Whether caps allow nothing that others do not."""
    return some[0] <= others[0] and some[1] <= others[1]


def spent(plan: Plan) -> Caps:
    """What a plan takes, to compare with caps."""
    return (plan.peak_bytes.get(MAIN, 0), sum(plan.macs.values()))


def measured(problem: Problem, lowered: Lowered, number: int, look: Callable[[], None]) -> Way:
    """A way with what it takes at least; ``look`` may raise where time is up."""
    least = problem.least_update()
    graph = trace(lowered.network, problem.options, {p: (r,) for p, r in least.items()}, look)
    schedule = graph.restrict(UpdateSet(least))
    look()
    macs = sum(schedule.macs.values())
    size = least_bytes(schedule, frozenset(problem.savings), chosen_reads(graph.steps))
    look()
    bytes_, most = caps_of(problem)
    sure = size <= bytes_ and macs <= most and analyse(schedule).peak() <= bytes_
    return Way(number, lowered, macs, size, sure, problem.most_worth())


def least_bytes(schedule: Schedule, savings: frozenset[str], chosen: Mapping[str, frozenset[str]]) -> int:
    """Bytes of main memory that no plan goes below that updates at least what a schedule does.

    Args:
        chosen: by step, tags of what it may read in one of several ways, which is not counted.
    """
    live = held_anyway(schedule, savings, chosen)
    return sum(stay(schedule, savings).values()) + max((sum(held.values()) for held in live), default=0)


def describe(groups: Iterable[Stripes]) -> str:
    """Stripes in a few words."""
    return "; ".join(
        f"{g.ops[0]} to {g.ops[-1]} in {len(g.rows)} stripes" + (f", {len(g.copied)} ops copied" if g.copied else "")
        for g in groups
    ) or "none"  # fmt: skip
