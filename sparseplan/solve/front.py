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
from sparseplan.solve.clock import Clock, Limits
from sparseplan.solve.pipeline import Effort
from sparseplan.solve.search import Search, search
from sparseplan.solve.tiling import least_l1
from sparseplan.steps import MAIN

AXES = ("l2", "l1", "macs")
#: a hard placement is left open rather than searched for long, for what is not placed soon hardly ever is; another set
#: of decisions that is worth as much often is, and a few of them cost less
EFFORT = Effort(attempts=5, placing=0.03)
#: share of the remaining time that one point gets, so that those behind it get some too; and the least seconds
POINT = 0.2
POINT_SECONDS = 1.0


@dataclass(frozen=True)
class Window:
    """Costs [low, high) at which a plan of up to ``value`` was neither found nor proven impossible."""

    low: float
    high: float
    value: float


@dataclass(frozen=True)
class Found:
    """A point of a front: the plan at its own budget, and what stayed open just above it.

    Of a point that is not proven either, the window tells no more than its bound, while the point is there.
    """

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
    part: float = POINT,
) -> Iterator[Found | Window]:
    """Points of the front with a cost in [low, high), from the most expensive one down.

    The first may be cheaper than ``low`` where nothing lies between. ``limits`` hold for the whole walk: where they
    end it, what is left comes last, as a window; the first point is looked for however late it is. ``part`` is the
    share of the remaining time that one point gets.

    Raises:
        ProblemError: an unknown axis.
    """
    if axis not in AXES:
        raise ProblemError(f"axis={axis!r} must be one of {', '.join(AXES)}")
    step = problem.options.alignment if axis == "l2" else 1
    order = ("macs", "area") if axis == "macs" else ("peak", "area")
    clock = Clock(limits or Limits())
    looking: Search | None = None
    budget = high
    open_ = problem.most_worth()  # nothing below the last cost is worth more
    floor = {"l2": MAIN, "l1": "L1"}.get(axis)
    # a level below what is reserved is none, nor is one of no bytes
    low = max(low, 0 if floor is None or not problem.device.has(floor) else problem.device.level(floor).reserved + 1)
    while budget is None or budget >= low:
        asked = problem if budget is None else bounded(problem, axis, budget)
        if looking is not None and budget is not None and clock.passed():
            yield Window(low, budget + step, open_)
            return
        if looking is None or axis == "l1":  # another L1, other tiles
            looking = search(asked, share(clock, part), None, order, effort, front=axis != "l1")
            plan = looking.run()
        else:
            plan = looking.again(asked, share(clock, part))
        if plan.status == "UNKNOWN":  # a smaller budget is no easier
            yield Window(low, math.inf if budget is None else budget + step, min(open_, plan.bound))
            return
        if not plan.feasible:
            return
        open_ = plan.bound
        cost = cost_of(plan, axis)
        own = bounded(problem, axis, max(cost, 0 if axis == "macs" else 1))
        if axis == "l1":
            again = search(own, share(clock, part), None, order, effort).run()
            point = again if again.feasible else replace(plan, problem=own)
        else:
            point = looking.at_its_own_budget(plan, own)
        doubt = plan.bound if plan.bound > plan.objective + plan.resolution else -math.inf
        window = None
        if doubt > -math.inf:
            top = cost + step if budget is None else budget + step
            window = Window(max(looking.least_in_doubt(plan.objective) or cost, cost + step), top, doubt)
        yield Found(point, cost, window)
        budget = cost - step


def share(clock: Clock, part: float) -> Limits:
    """Limits for the next of several points."""
    left = clock.left()
    seconds = None if left.seconds is None else max(part * left.seconds, min(POINT_SECONDS, left.seconds))
    return replace(left, seconds=seconds)
