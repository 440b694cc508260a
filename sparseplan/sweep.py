"""Exact fronts of value against bytes, as data: every plan that no other beats in both.

Stretches of the budget are independent, so they are walked side by side through joblib: choose
another backend (Dask, Ray) with ``joblib.parallel_config``.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from sparseplan.api import limits_of
from sparseplan.errors import InternalError, OutputError, ProblemError
from sparseplan.longwork.parallel import spread
from sparseplan.planfile import write_plan
from sparseplan.problem import Problem
from sparseplan.scalars import plain, plain_arguments
from sparseplan.solve.clock import Clock, Limits, alive
from sparseplan.solve.front import AXES, EFFORT, POINT, Found, Window, bounded, cost_of, share, walk
from sparseplan.solve.pipeline import Effort
from sparseplan.solve.search import solve
from sparseplan.steps import MAIN
from sparseplan.verify import verify

__all__ = ["Front", "FrontPoint", "Window", "pareto", "undominated"]

#: stretches that a front is cut into at most, and how many open fractions make one worth while; they do not depend
#: on the number of cores, so neither do results
STRETCHES = 12
LEVELS_A_STRETCH = 8
TIME = "time"
#: seconds for a whole front where no limit is given
TIME_LIMIT = 600.0


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
        note: that the time limit cut it short, if it did.
    """

    problem: Problem
    axis: str
    points: tuple[FrontPoint, ...]
    windows: tuple[Window, ...] = ()
    exhaustive: bool = True
    note: str = ""

    @property
    def proven(self) -> bool:
        """Whether every point is optimal at its budget, and nothing is open between them."""
        return not self.windows and all(p.status == "OPTIMAL" for p in self.points)

    @plain_arguments
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


#: seconds in which no stretch is worth beginning, and in which no other processes are
SOON, SPREAD = 0.3, 10.0


@dataclass(frozen=True)
class _Stretch:
    """A stretch of the axis, as a worker process needs it.

    Attributes:
        worth: nothing in it is worth more.
        turn: how many have to follow one another until the last one is walked, this one among them.
        first: only the dearest point is wanted.
    """

    problem: Problem
    axis: str
    low: int
    high: int | None
    effort: Effort
    plans: str | None
    worth: float
    turn: int = 1
    first: bool = False

    @property
    def mark(self) -> str:
        """What tells its files apart: two stretches may find plans of the same cost."""
        return f".{self.low}.{self.high or 0}"

    def walked(self, limits: Limits) -> _Walked:
        """Points and windows, within a fair share of the limits."""
        left = limits.seconds
        if left is not None:
            if left <= SOON and self.high is not None:  # the first is begun however late it is
                return _Walked(self.mark, (), (Window(self.low, self.high + 1, self.worth),))
            limits = replace(limits, seconds=left / self.turn)
        points: list[tuple[FrontPoint, Window | None]] = []
        part = 1.0 if self.first else POINT
        for found in walk(self.problem, self.axis, self.high, self.low, limits, self.effort, part):
            if isinstance(found, Window):
                return _Walked(self.mark, tuple(points), (found,))
            points.append((_point(found, self.plans, self.mark), found.window))
            limits.say(f"front: {found.plan.status} at {self.axis} {found.cost:,}")
            if self.first:
                break
        return _Walked(self.mark, tuple(points), ())

    def elsewhere(self, seed: int, until: float | None) -> _Walked:
        """The same in another process, ``until`` a time of day."""
        return self.walked(Limits(None if until is None else max(0.0, until - time.time()), seed))


@dataclass(frozen=True)
class _Walked:
    """What came of a stretch: points with what is open above them, and what was not walked for want of time."""

    mark: str
    points: tuple[tuple[FrontPoint, Window | None], ...]
    cut: tuple[Window, ...]


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


@plain_arguments
def pareto(
    problem: Problem,
    axis: str = "l2",
    *,
    budgets: Sequence[int] | None = None,
    points: int | None = None,
    jobs: int = 1,
    time_limit: float | None = TIME_LIMIT,
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
        time_limit: wall-clock seconds for the whole front, which is cut short there: it then has the points found so
            far, windows for what was not walked, and a note. None searches until all is proven.
        effort: how hard placements are searched for; what stays open is told as windows.
        plans: folder to write every point's plan to.
        progress: called with a line of text now and then.

    Raises:
        ProblemError: unknown axis, nothing feasible, or what the axis needs is not known of the device.
    """
    limits = limits_of(time_limit, seed).told(progress)
    clock = Clock(limits)
    scale = _seconds_per_mac(problem) if axis == TIME else 1.0
    solved = "macs" if axis == TIME else axis
    if solved not in AXES:
        raise ProblemError(f"axis={axis!r} must be one of {', '.join((*AXES, TIME))}")
    if solved == "l1" and (not problem.device.has("L1") or problem.device.level("L1").usable is None):
        raise ProblemError(
            f"axis='l1': device {problem.device.name!r} has no L1 of known size; give l1, or another axis"
        )
    if isinstance(jobs, bool) or not isinstance(jobs, int) or jobs < 1:
        raise ProblemError(f"jobs={jobs!r} must be a whole number, at least 1")
    folder = _folder(plans)
    if budgets is not None:
        return _sampled(problem, axis, solved, budgets, scale, clock, folder)
    if points is not None and (isinstance(points, bool) or not isinstance(points, int) or points < 2):
        raise ProblemError(f"points={points!r} must be a whole number, at least 2")
    top, stretches = _stretches(problem, solved, clock, effort, folder, points, jobs)
    walked = [] if top is None else [top]
    for done in _all_walked(stretches, jobs, clock):
        walked.append(done)
        limits.say(f"front: {len(walked)} of {len(stretches)} stretches, {sum(len(w.points) for w in walked)} points")
    pairs = [pair for w in walked for pair in w.points]
    if not pairs:
        pairs = [(_only_point(problem, solved, clock, folder), None)]
    best = undominated(p for p, _ in pairs)
    # what a point that is not proven leaves open is its bound, as long as it is there
    windows = [w for p, w in pairs if w is not None and (p.status == "OPTIMAL" or p not in best)]
    windows += [v for w in walked for v in w.cut]
    cut = any(w.cut for w in walked) or not stretches
    front = Front(problem, axis, tuple(best), _open(windows, best), not (stretches and stretches[0].first),
                  _cut_short(time_limit) if cut else "")  # fmt: skip
    if points is not None:
        front = front.thin(points)
    if folder is not None:
        _keep(Path(folder), front.points, [(p, f"plan-{p.cost}{w.mark}.json") for w in walked for p, _ in w.points])
    if scale == 1.0:
        return front
    return replace(
        front,
        points=tuple(_scaled(p, scale) for p in front.points),
        windows=tuple(replace(w, low=w.low * scale, high=w.high * scale) for w in front.windows),
    )


def _cut_short(time_limit: float | None) -> str:
    return f"cut short at the time limit of {time_limit:g} s: more time may add points, and close what is open"


def _only_point(problem: Problem, axis: str, clock: Clock, folder: str | None) -> FrontPoint:
    """Whatever fits, where no walk found any point."""
    answer = solve(problem, clock.left())
    if answer.feasible:
        return _point(Found(replace(answer, status="FEASIBLE"), cost_of(answer, axis), None), folder)
    if answer.reason is None:
        raise ProblemError(f"time_limit={clock.limits.seconds:g}: no plan was found in that time; give more")
    raise ProblemError(f"no update set is feasible, not even the smallest: {answer.reason.message}")


def _all_walked(stretches: Sequence[_Stretch], jobs: int, clock: Clock) -> Iterator[_Walked]:
    """Stretches as they are walked, here or in other processes."""
    left = clock.left()
    if min(jobs, len(stretches)) <= 1 or (left.seconds is not None and left.seconds < SPREAD):
        for i, stretch in enumerate(stretches):
            yield replace(stretch, turn=len(stretches) - i).walked(clock.left())
        return
    until = None if left.seconds is None else time.time() + left.seconds
    with alive(left):
        yield from spread([(_Stretch.elsewhere, (s, left.seed, until)) for s in stretches], jobs)


def undominated(points: Iterable[FrontPoint]) -> list[FrontPoint]:
    """Points that no other beats in cost and value, cheapest first; of equals, one."""
    kept: list[FrontPoint] = []
    for p in sorted(points, key=lambda p: (p.cost, -p.value, p.status != "OPTIMAL", sorted(p.update.items()))):
        if not kept or p.value > kept[-1].value:
            kept.append(p)
    return kept


def _stretches(
    problem: Problem, axis: str, clock: Clock, effort: Effort, plans: str | None, points: int | None, jobs: int
) -> tuple[_Walked | None, list[_Stretch]]:
    """The whole front in stretches of equal length, dearest first, and the dearest point where it had to be found."""
    tied = {p for tie in problem.ties for p in tie}
    levels = sum(len(problem.joint_levels(tie)) for tie in problem.ties)
    levels += sum(len(r) for p, r in problem.choices.items() if p not in tied)
    count = min(STRETCHES, max(1, levels // LEVELS_A_STRETCH))
    worth = problem.most_worth()
    if axis == "l1" or (count == 1 and points is None):
        return None, [_Stretch(problem, axis, 0, None, effort, plans, worth)]
    top = next(walk(problem, axis, None, 0, clock.left(), effort), None)
    if top is None or isinstance(top, Window):
        return None, []
    known = _Walked(".top", ((_point(top, plans, ".top"), top.window),), ())
    worth = top.plan.bound
    bottom = min(_least(problem, axis, share(clock, POINT)), top.cost)
    if points is not None:
        budgets = dict.fromkeys(bottom + (top.cost - bottom) * i // (points - 1) for i in range(points))
        found = [_Stretch(problem, axis, 0, b, effort, plans, worth, first=True) for b in budgets]
    else:
        edges = [bottom + (top.cost - bottom) * i // count for i in range(count)]
        edges[0] = 0  # whatever is cheaper than the guess belongs to the last stretch
        highs = [*(e - 1 for e in edges[1:]), top.cost]
        found = [_Stretch(problem, axis, low, high, effort, plans, worth)
                 for low, high in zip(edges, highs, strict=True) if high >= low][::-1]  # fmt: skip
    return known, [replace(s, turn=math.ceil((len(found) - i) / jobs)) for i, s in enumerate(found)]


def _least(problem: Problem, axis: str, limits: Limits) -> int:
    """Roughly where the front begins: the cost of the least update."""
    bare = replace(problem, choices={p: (r,) for p, r in problem.least_update().items()}, terms=(), ties=())
    answer = solve(bare, limits)
    return cost_of(answer, axis) if answer.feasible else 0


def _sampled(
    problem: Problem, axis: str, solved: str, budgets: Sequence[int], scale: float, clock: Clock, folder: str | None
) -> Front:
    found, cut = [], False
    asked = sorted(set(plain(list(budgets))))
    for i, budget in enumerate(asked):
        if isinstance(budget, bool) or not isinstance(budget, (int, float)) or budget <= 0:
            raise ProblemError(f"budget={budget!r} must be above 0")
        answer = solve(bounded(problem, solved, int(budget / scale)), share(clock, 1 / (len(asked) - i)))
        clock.limits.say(f"{axis} {budget:,}: {answer.status}")
        cut = cut or answer.status == "UNKNOWN" or (answer.status == "FEASIBLE" and clock.late())
        if answer.feasible:
            own = Found(answer, int(budget / scale), None)
            found.append(replace(_scaled(_point(own, folder), scale), cost=budget))
    if not found:
        why = "no plan was found in time" if cut else "none is feasible; the front tells the smallest one"
        raise ProblemError(f"budgets={list(budgets)}: {why}")
    note = _cut_short(clock.limits.seconds) if cut else ""
    return Front(problem, axis, tuple(found), exhaustive=False, note=note)


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
