"""Lowerings as ways to run a network: what each takes at least, found without a search."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from sparseplan.autodiff import trace
from sparseplan.liveness import analyse
from sparseplan.plan import Plan
from sparseplan.problem import Problem
from sparseplan.solve.pipeline import Pipeline
from sparseplan.steps import MAIN, Schedule, UpdateSet
from sparseplan.stripes import Lowered, Stripes
from sparseplan.units import live_bytes

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
    chosen = {s.name: frozenset(a.tag for a in s.reads if a.pick is not None) for s in graph.steps}
    size = least_bytes(schedule, frozenset(problem.savings), chosen)
    look()
    bytes_, most = caps_of(problem)
    sure = size <= bytes_ and macs <= most and analyse(schedule).peak() <= bytes_
    return Way(number, lowered, macs, size, sure, problem.most_worth())


def least_bytes(schedule: Schedule, savings: frozenset[str], chosen: Mapping[str, frozenset[str]]) -> int:
    """Bytes of main memory that no plan goes below that updates at least what a schedule does.

    A step holds at least what it reads and writes whatever is decided. Beyond that, in the network's order, what
    forward reads again is held; and, where nothing is made again or paged, what backward reads.

    Args:
        chosen: by step, tags of what it may read in one of several ways, which is not counted.
    """
    away = {n for n, v in schedule.values.items() if v.persistent}
    here = set() if {"stream", "page"} & savings else {n for n in away if schedule.values[n].level == MAIN}
    size = sum(schedule.values[n].bytes for n in here)
    packable = frozenset({"x0"} if "int8" in savings else ())
    bare = []
    for step in schedule.steps:
        # late auxiliaries depend on what is chosen, and so do those that forward writes
        if step.kind == "aux":
            continue
        dropped = chosen.get(step.name, frozenset()) | (packable if step.kind == "grad_param" else frozenset())
        reads = tuple(a for a in step.reads if a.tag not in dropped)
        bare.append(replace(step, reads=reads, writes=step.writes[:1]))
    most = 0
    for step in bare:
        free = away | {x for _, x in step.inplace}
        spans = {s for a in (*step.reads, *step.writes) for s in a.spans if s.value not in free}
        most = max(most, sum(s.hi - s.lo for s in spans))
    if "order" not in savings:
        held = not {"recompute", "page"} & savings
        loss = next(i for i, s in enumerate(bare) if s.kind == "loss")
        steps = tuple(bare if held else bare[:loss])
        found = analyse(replace(schedule, steps=steps))
        live = live_bytes(((b.start, b.stop, b.bytes) for b in found.buffers if b.value not in away), len(steps))
        most = max(most, *live)
    return size + most


def describe(groups: Iterable[Stripes]) -> str:
    """Stripes in a few words."""
    return "; ".join(
        f"{g.ops[0]} to {g.ops[-1]} in {len(g.rows)} stripes" + (f", {len(g.copied)} ops copied" if g.copied else "")
        for g in groups
    ) or "none"  # fmt: skip
