"""Exact fronts of value against bytes, as data: every plan that no other beats in both.

Stretches of the budget are independent, so they are walked side by side through joblib: choose
another backend (Dask, Ray) with ``joblib.parallel_config``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import joblib
import pandas as pd

from sparseplan.errors import InternalError, OutputError, ProblemError
from sparseplan.plan import Plan
from sparseplan.planfile import write_plan
from sparseplan.problem import Problem
from sparseplan.solve.cpsat import Limits
from sparseplan.solve.front import AXES, EFFORT, Found, Window, bounded, cost_of, walk
from sparseplan.solve.pipeline import Effort, solve
from sparseplan.steps import MAIN
from sparseplan.verify import verify

__all__ = ["Front", "FrontPoint", "Window", "pareto", "undominated"]

#: stretches that a front is cut into at most, and how many open fractions make one worth while; they do not depend
#: on the number of cores, so neither do results
STRETCHES = 12
LEVELS_A_STRETCH = 8
TIME = "time"


@dataclass(frozen=True)
class FrontPoint:
    """A plan of the front, without its schedule.

    Attributes:
        cost: bytes of the axis with what is reserved, MACs or seconds: the least budget of the plan.
        l2, l1: bytes that the plan takes; l1 is None without L1.
        macs: of one training step, forward and backward.
        value, bound, status: of the plan at that budget; OPTIMAL is proven.
        update: parameter to fraction.
    """

    cost: float
    l2: int
    l1: int | None
    macs: int
    value: float
    bound: float
    status: str
    update: Mapping[str, float]


@dataclass(frozen=True)
class Front:
    """A front, cheapest point first.

    Attributes:
        axis: l2, l1, macs or time.
        windows: stretches of the axis in which a better plan was neither found nor proven impossible.
        exhaustive: every point between the smallest feasible budget and the full update is there (windows aside).
    """

    problem: Problem
    axis: str
    points: tuple[FrontPoint, ...]
    windows: tuple[Window, ...] = ()
    exhaustive: bool = True

    @property
    def proven(self) -> bool:
        """Whether every point is optimal at its budget, and nothing is open between them."""
        return not self.windows and all(p.status == "OPTIMAL" for p in self.points)

    def thin(self, count: int) -> Front:
        """About ``count`` points, evenly spread over the axis, the first and the last among them.

        Raises:
            ProblemError: fewer than two points.
        """
        if isinstance(count, bool) or not isinstance(count, int) or count < 2:
            raise ProblemError(f"points={count!r} must be a whole number, at least 2")
        if count >= len(self.points):
            return self
        first, last = self.points[0].cost, self.points[-1].cost
        wanted = [first + (last - first) * i / (count - 1) for i in range(count)]
        # the most that each budget affords
        kept = dict.fromkeys(max(i for i, p in enumerate(self.points) if p.cost <= w * (1 + 1e-12)) for w in wanted)
        return replace(self, points=tuple(self.points[i] for i in kept), exhaustive=False)

    def frame(self) -> pd.DataFrame:
        """One row a point: cost, l2_bytes, l1_bytes, macs, value, bound, status, tensors, elements, update (JSON)."""
        tensor = self.problem.network.tensor
        rows = [
            {"axis": self.axis, "cost": p.cost, "l2_bytes": p.l2, "l1_bytes": p.l1, "macs": p.macs, "value": p.value,
             "bound": p.bound, "status": p.status, "tensors": len(p.update),
             "elements": round(sum(r * tensor[n].elements for n, r in p.update.items())),
             "update": json.dumps(dict(p.update), sort_keys=True)}
            for p in self.points
        ]  # fmt: skip
        columns = ["axis", "cost", "l2_bytes", "l1_bytes", "macs", "value", "bound", "status", "tensors", "elements",
                   "update"]  # fmt: skip
        return pd.DataFrame(rows, columns=columns)


@dataclass(frozen=True)
class _Stretch:
    """A stretch of the axis, as a worker process needs it."""

    problem: Problem
    axis: str
    low: int
    high: int | None
    limits: Limits
    effort: Effort
    plans: str | None
    first: bool = False

    def points(self) -> tuple[str, list[FrontPoint], list[Window]]:
        """The mark in its files' names, its points and windows."""
        mark = f".{self.low}.{self.high or 0}"  # two stretches may find plans of the same cost
        points, windows = [], []
        for found in walk(self.problem, self.axis, self.high, self.low, self.limits, self.effort):
            points.append(_point(found, self.plans, mark))
            if found.window is not None:
                windows.append(found.window)
            if self.first:
                break
        return mark, points, windows


def _point(found: Found, plans: str | None, mark: str = "") -> FrontPoint:
    plan = found.plan
    if violations := verify(plan.problem, plan):
        raise InternalError(f"the verifier rejects a plan of the front, a bug in sparseplan: {violations[0]}")
    if plans is not None:
        write_plan(plan, Path(plans) / f"plan-{found.cost}{mark}.json")
    return FrontPoint(
        found.cost, plan.peak_bytes[MAIN], plan.peak_bytes.get("L1"), sum(plan.macs.values()), plan.objective,
        plan.bound, plan.status, dict(plan.update),
    )  # fmt: skip


def pareto(
    problem: Problem,
    axis: str = "l2",
    *,
    budgets: Sequence[int] | None = None,
    points: int | None = None,
    jobs: int = 1,
    time_limit: float | None = None,
    seed: int = 0,
    effort: Effort = EFFORT,
    plans: str | os.PathLike[str] | None = None,
    progress: Callable[[str], None] | None = None,
) -> Front:
    """The front of value against ``axis``: all of it, or sampled at budgets. Every plan is verified.

    Args:
        problem: its own budget of the axis is the largest one considered.
        axis: l2 (bytes of main memory), l1, macs (of a training step), or time (seconds of compute a
            training step, on devices with one known MAC rate and a clock).
        budgets: only the best plan at each of these.
        points: only about that many of the front's points, evenly spread: the most that each budget affords.
        jobs: stretches walked at a time.
        time_limit: seconds for each point; None searches until proven.
        effort: how hard placements are searched for; what stays open is told as windows.
        plans: folder to write every point's plan to.
        progress: called with a line of text now and then.

    Raises:
        ProblemError: unknown axis, nothing feasible, or what the axis needs is not known of the device.
    """
    limits = Limits(time_limit, seed)
    tell = progress or (lambda _: None)
    scale = _seconds_per_mac(problem) if axis == TIME else 1.0
    solved = "macs" if axis == TIME else axis
    if solved not in AXES:
        raise ProblemError(f"axis={axis!r} must be one of {', '.join((*AXES, TIME))}")
    if solved == "l1" and (not problem.device.has("L1") or problem.device.level("L1").usable is None):
        raise ProblemError(
            f"axis='l1': device {problem.device.name!r} has no L1 of known size; give l1, or another axis"
        )
    if "stripes" in problem.savings:
        raise ProblemError("savings='stripes': a front is walked in one network; drop it, or plan budget by budget")
    if isinstance(jobs, bool) or not isinstance(jobs, int) or jobs < 1:
        raise ProblemError(f"jobs={jobs!r} must be a whole number, at least 1")
    folder = _folder(plans)
    if budgets is not None:
        return _sampled(problem, axis, solved, budgets, scale, limits, folder, tell)
    if points is not None and (isinstance(points, bool) or not isinstance(points, int) or points < 2):
        raise ProblemError(f"points={points!r} must be a whole number, at least 2")
    stretches = _stretches(problem, solved, limits, effort, folder, points)
    found: list[FrontPoint] = []
    windows: list[Window] = []
    written: list[tuple[FrontPoint, str]] = []
    pool = joblib.Parallel(n_jobs=max(1, min(jobs, len(stretches))), return_as="generator_unordered")
    for done, (mark, some, more) in enumerate(pool(joblib.delayed(_Stretch.points)(s) for s in stretches), start=1):
        found += some
        windows += more
        written += [(p, f"plan-{p.cost}{mark}.json") for p in some]
        tell(f"front: {done} of {len(stretches)} stretches, {len(found)} points")
    if not found:
        answer = solve(problem, limits)
        text = answer.reason.message if answer.reason is not None else "no plan within the limits"
        raise ProblemError(f"no update set is feasible, not even the smallest: {text}")
    best = undominated(found)
    front = Front(problem, axis, tuple(best), _open(windows, best), exhaustive=not stretches[0].first)
    if points is not None:
        front = front.thin(points)
    if folder is not None:
        _keep(Path(folder), front.points, written)
    if scale == 1.0:
        return front
    return replace(
        front,
        points=tuple(_scaled(p, scale) for p in front.points),
        windows=tuple(replace(w, low=w.low * scale, high=w.high * scale) for w in front.windows),
    )


def undominated(points: Iterable[FrontPoint]) -> list[FrontPoint]:
    """Points that no other beats in cost and value, cheapest first; of equals, one."""
    kept: list[FrontPoint] = []
    for p in sorted(points, key=lambda p: (p.cost, -p.value, p.status != "OPTIMAL", sorted(p.update.items()))):
        if not kept or p.value > kept[-1].value:
            kept.append(p)
    return kept


def _stretches(
    problem: Problem, axis: str, limits: Limits, effort: Effort, plans: str | None, points: int | None
) -> list[_Stretch]:
    """The whole front in stretches of equal length, dearest first."""
    tied = {p for tie in problem.ties for p in tie}
    levels = sum(len(problem.joint_levels(tie)) for tie in problem.ties)
    levels += sum(len(r) for p, r in problem.choices.items() if p not in tied)
    count = min(STRETCHES, max(1, levels // LEVELS_A_STRETCH))
    if axis == "l1" or (count == 1 and points is None):
        return [_Stretch(problem, axis, 0, None, limits, effort, plans)]
    top = next(walk(problem, axis, None, 0, limits, effort), None)
    if top is None:
        return []
    bottom = min(_least(problem, axis, limits), top.cost)
    if points is not None:
        budgets = [bottom + (top.cost - bottom) * i // (points - 1) for i in range(points)]
        return [_Stretch(problem, axis, 0, b, limits, effort, plans, first=True) for b in dict.fromkeys(budgets)]
    edges = [bottom + (top.cost - bottom) * i // count for i in range(count)]
    edges[0] = 0  # whatever is cheaper than the guess belongs to the last stretch
    highs = [*(e - 1 for e in edges[1:]), top.cost]
    found = [_Stretch(problem, axis, low, high, limits, effort, plans)
             for low, high in zip(edges, highs, strict=True) if high >= low]  # fmt: skip
    return found[::-1]


def _least(problem: Problem, axis: str, limits: Limits) -> int:
    """Roughly where the front begins: the cost of the least update."""
    bare = replace(problem, choices={p: (r,) for p, r in problem.least_update().items()}, terms=(), ties=())
    answer = solve(bare, limits)
    return cost_of(answer, axis) if answer.feasible else 0


def _sampled(
    problem: Problem, axis: str, solved: str, budgets: Sequence[int], scale: float, limits: Limits,
    folder: str | None, tell: Callable[[str], None],
) -> Front:  # fmt: skip
    found = []
    for budget in sorted(set(budgets)):
        if isinstance(budget, bool) or not isinstance(budget, (int, float)) or budget <= 0:
            raise ProblemError(f"budget={budget!r} must be above 0")
        answer: Plan = solve(bounded(problem, solved, int(budget / scale)), limits)
        tell(f"{axis} {budget:,}: {answer.status}")
        if answer.feasible:
            own = Found(answer, int(budget / scale), None)
            found.append(replace(_scaled(_point(own, folder), scale), cost=budget))
    if not found:
        raise ProblemError(f"budgets={list(budgets)}: none is feasible; the front tells the smallest one")
    return Front(problem, axis, tuple(found), exhaustive=False)


def _scaled(point: FrontPoint, scale: float) -> FrontPoint:
    return point if scale == 1.0 else replace(point, cost=point.cost * scale)


def _open(windows: Iterable[Window], points: Sequence[FrontPoint]) -> tuple[Window, ...]:
    """Windows that some point does not already fill: one of as much value at no more cost."""
    left = {
        w for w in windows
        if w.low < w.high and not any(p.cost <= w.low and p.value >= w.value for p in points)
    }  # fmt: skip
    return tuple(sorted(left, key=lambda w: w.low))


def _folder(plans: str | os.PathLike[str] | None) -> str | None:
    if plans is None:
        return None
    try:
        Path(plans).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"folder {os.fspath(plans)!r} cannot be made: {error.strerror}") from None
    return os.fspath(plans)


def _keep(folder: Path, points: Sequence[FrontPoint], written: Sequence[tuple[FrontPoint, str]]) -> None:
    """Leave one plan a point, ``plan-COST.json``; remove those that another stretch beats, and older ones."""
    names = {f"plan-{p.cost}.json": next(name for q, name in written if q == p) for p in points}
    for name, source in names.items():
        os.replace(folder / source, folder / name)
    for path in folder.glob("plan-*.json"):
        digits = path.stem.removeprefix("plan-").replace(".", "")
        if digits.isdigit() and path.name not in names:
            path.unlink()


def _seconds_per_mac(problem: Problem) -> float:
    device = problem.device
    rates = {r.value for r in device.mac_rates if r.dtype in (problem.options.dtype, "*")}
    if not rates or device.clock_hz is None:
        missing = " and ".join(
            what for what, known in (("MAC rates", rates), ("a clock", device.clock_hz)) if not known
        )
        raise ProblemError(
            f"axis='time': device {device.name!r} gives no {missing} for {problem.options.dtype}; "
            "add them to a TOML file of yours (mac_per_cycle, clock_hz), or use axis 'macs'"
        )
    if len(rates) > 1:
        raise ProblemError(
            f"axis='time': device {device.name!r} has {len(rates)} MAC rates for {problem.options.dtype}; "
            "fronts of time take one rate for all passes so far; use axis 'macs'"
        )
    return 1.0 / (rates.pop() * device.clock_hz)
