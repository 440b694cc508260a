"""Exact fronts: every plan that no other beats in both value and bytes (or MACs, or L1).

Solve at the largest budget, take the plan of least cost at that value, set the next budget just
below its cost, and go on until nothing is feasible (the epsilon-constraint method; Haimes et al.,
1971). Each point is the proven optimum at its own budget. A range of budgets is independent of
the others, so that several can be walked side by side.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from sparseplan.errors import ProblemError
from sparseplan.plan import Plan
from sparseplan.problem import Problem
from sparseplan.solve.cpsat import Limits
from sparseplan.solve.pipeline import Effort, Pipeline
from sparseplan.solve.tiling import least_l1
from sparseplan.steps import MAIN

AXES = ("l2", "l1", "macs")
#: a hard placement is left open rather than searched for long, for what is not placed soon hardly ever is; another set
#: of decisions that is worth as much often is, and a few of them cost less
EFFORT = Effort(attempts=5, placing=0.03)


@dataclass(frozen=True)
class Window:
    """Costs [low, high) at which a plan of up to ``value`` was neither found nor proven impossible."""

    low: float
    high: float
    value: float


@dataclass(frozen=True)
class Found:
    """A point of a front: the plan at its own budget, and what stayed open just above it."""

    plan: Plan
    cost: int
    window: Window | None


def cost_of(plan: Plan, axis: str) -> int:
    """What a plan takes of the axis: bytes with what is reserved, or MACs of a training step."""
    if axis == "macs":
        return sum(plan.macs.values())
    if axis == "l2":
        return plan.peak_bytes[MAIN] + plan.problem.device.level(MAIN).reserved
    return least_l1(plan)


def bounded(problem: Problem, axis: str, budget: int) -> Problem:
    """The same problem under a budget of the axis."""
    if axis == "macs":
        return replace(problem, max_macs=budget)
    device = problem.device.with_budget(**{axis: budget})
    return replace(problem, device=device)


def walk(
    problem: Problem,
    axis: str = "l2",
    high: int | None = None,
    low: int = 0,
    limits: Limits | None = None,
    effort: Effort = EFFORT,
) -> Iterator[Found]:
    """Points of the front with a cost in [low, high), from the most expensive one down.

    The first may be cheaper than ``low`` where nothing lies between. ``limits`` hold for each point.

    Raises:
        ProblemError: an unknown axis.
    """
    if axis not in AXES:
        raise ProblemError(f"axis={axis!r} must be one of {', '.join(AXES)}")
    step = problem.options.alignment if axis == "l2" else 1
    order = ("macs", "area") if axis == "macs" else ("peak", "area")
    pipeline: Pipeline | None = None
    budget = high
    floor = {"l2": MAIN, "l1": "L1"}.get(axis)
    # a level below what is reserved is none, nor is one of no bytes
    low = max(low, 0 if floor is None or not problem.device.has(floor) else problem.device.level(floor).reserved + 1)
    while budget is None or budget >= low:
        asked = problem if budget is None else bounded(problem, axis, budget)
        if pipeline is None or axis == "l1":  # another L1, other tiles
            pipeline = Pipeline(asked, limits, order=order, effort=effort)
            plan = pipeline.run()
        else:
            plan = pipeline.again(asked)
        if not plan.feasible:
            return
        cost = cost_of(plan, axis)
        own = bounded(problem, axis, max(cost, 0 if axis == "macs" else 1))
        if axis == "l1":
            point = Pipeline(own, limits, order=order, effort=effort).run()
        else:
            point = pipeline.at_its_own_budget(plan, own)
        doubt = plan.bound if plan.bound > plan.objective + plan.resolution else -math.inf
        window = None
        if doubt > -math.inf and point.status == "OPTIMAL":
            top = cost + step if budget is None else budget + step
            window = Window(max(pipeline.least_in_doubt(plan.objective) or cost, cost + step), top, doubt)
        yield Found(point, cost, window)
        budget = cost - step
