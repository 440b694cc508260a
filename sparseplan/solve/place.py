"""Placing of buffers at offsets: whether they fit a capacity, and the least capacity that they fit.

What is placed are groups: rigid sets of rectangles (bytes × steps) whose relative offsets are given. A plain buffer
is a group of one rectangle; a tensor overwritten in place, a concat laid side by side, or a tensor whose tail is
freed before its head is a group of several.

Live bytes bound the peak from below, and first-fit meets that bound on most training graphs. Where it does not,
CP-SAT decides at a capacity: one no-overlap of offsets for each maximal set of rectangles that are live at once,
searched in the static orders round-robin with doubling limits (tried on the instances of Moffitt, MiniMalloc,
ASPLOS 2023).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from sparseplan.errors import InternalError, ProblemError
from sparseplan.solve.clock import Clock, Limits, OutOfTime
from sparseplan.solve.exactfit import PlacementStatus, decide
from sparseplan.solve.firstfit import Block, Ints, Rivals, attempts, sections, widest_hole
from sparseplan.solve.rects import HUGE, Group, Placement
from sparseplan.units import align_up

Bools = npt.NDArray[np.bool_]

# Groups that first-fit places anew in changed orders before exact search is begun: some tenths of a second.
_REFITS = 15_000
# Groups beyond which first-fit comes before all else.
MANY = 2000
# Share of the time for a lower bound that counts holes inside groups.
_BOUNDING = 0.1
# Divides between small and large groups that are tried.
_DIVIDES = 16


def lower_bound(groups: Sequence[Group], alignment: int = 1) -> int:
    """Bytes that every placement needs: the most that is live at a step, sizes rounded up to ``alignment``.

    Holes inside a group that nothing live at that step could fill count as live.
    """
    return _Task.of(groups, alignment).bound if groups else 0


def place(groups: Sequence[Group], capacity: int, alignment: int = 1, limits: Limits | None = None) -> Placement:
    """Place every group within ``[0, capacity)``, or prove that it cannot be done.

    Args:
        groups: what to place; rectangles of different groups that are live together must not share a byte.
        capacity: bytes.
        alignment: every base is a multiple of it, and so must the relative offsets be.
        limits: when to give up; by default, never.

    Raises:
        ProblemError: negative capacity, alignment below 1, or a relative offset that is not aligned.
    """
    clock = Clock(limits or Limits())
    _check_capacity(capacity)
    if not groups:
        return Placement("PLACED", (), 0, "nothing to place", clock.elapsed())
    task = _Task.of(groups, alignment, clock)
    if len(groups) > MANY:
        first = task.quick(clock, [])
        if first.peak <= capacity:
            return task.result(first, clock)
    answer = _Search(task, min(capacity, task.stacked()), clock).run()
    if answer.status == "UNKNOWN" and clock.late() and len(groups) <= MANY:  # no worse than first-fit, however late
        first = task.quick(clock, [])
        answer = first if first.peak <= capacity else answer
    return task.result(answer, clock)


def place_min(
    groups: Sequence[Group],
    alignment: int = 1,
    limits: Limits | None = None,
    capacity: int | None = None,
    like: Sequence[Mapping[str, int]] = (),
) -> tuple[Placement, int]:
    """Place every group with the lowest peak.

    Tries the lower bound first, then halves what lies between the best peak and the best proven bound.

    Args:
        groups: as for ``place``.
        alignment: as for ``place``.
        limits: for all capacities tried together; by default, none.
        capacity: bytes that the peak must not exceed; None for no limit.
        like: bases of the groups in placements of similar problems, by name: their orders are tried first.

    Returns:
        The best placement, and a proven lower bound on the peak of every placement. The placement is optimal when
        its peak equals the bound, IMPOSSIBLE when the bound exceeds the capacity.
    """
    clock = Clock(limits or Limits())
    if capacity is not None:
        _check_capacity(capacity)
    if not groups:
        return Placement("PLACED", (), 0, "nothing to place", clock.elapsed()), 0
    task = _Task.of(groups, alignment, clock)
    bound = task.attainable(task.bound)
    if capacity is not None and bound > capacity:
        return Placement("IMPOSSIBLE", (), 0, "live bytes", clock.elapsed()), bound
    best = task.quick(clock, [[known.get(g.name, HUGE) for g in groups] for known in like])
    ceiling = best.peak if capacity is None else min(best.peak, capacity + 1)
    rounds = range(2)
    if capacity is not None and bound < capacity < best.peak:
        # whether it fits at all matters more than how low it gets
        answer = _Search(task, capacity, clock, rounds, refits=0).run()
        if answer.status == "PLACED":
            best, ceiling = answer, answer.peak
        elif answer.status == "IMPOSSIBLE":
            return task.result(answer, clock), task.attainable(capacity + 1)
    while bound < ceiling and not clock.passed():
        fits = capacity is not None and ceiling <= capacity
        if fits:
            rounds = range(1)  # a lower peak is welcome, but not worth much time
        # Capacities below the floor resisted these rounds of search, though nothing is proven of them.
        trial = floor = bound
        while floor < ceiling and not clock.passed():
            answer = _Search(task, trial, clock, rounds, refits=0, strips=not fits).run()
            if answer.status == "PLACED":
                best = answer
                ceiling = answer.peak
            elif answer.status == "IMPOSSIBLE":
                bound = floor = task.attainable(trial + 1)
            else:
                floor = task.attainable(trial + 1)
            trial = task.attainable((floor + ceiling) // 2)
            if trial >= ceiling:
                trial = floor
            if fits:
                break
        if fits:
            break
        rounds = range(rounds.stop, rounds.stop + 1)
    if capacity is not None and best.peak > capacity:
        status: PlacementStatus = "IMPOSSIBLE" if bound > capacity else "UNKNOWN"
        best = _Answer(status, method=best.method)
    return task.result(best, clock), bound


def _check_capacity(capacity: int) -> None:
    if isinstance(capacity, bool) or not isinstance(capacity, int) or capacity < 0:
        raise ProblemError(f"capacity={capacity!r} is not a number of bytes; give an integer >= 0")


@dataclass(frozen=True, slots=True)
class _Answer:
    status: PlacementStatus
    base: Ints = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    peak: int = 0
    method: str = ""


@dataclass(frozen=True, slots=True)
class _Task:
    """Groups in units. Rounding sizes up to the unit loses nothing: every base may be rounded down to it."""

    block: Block
    unit: int
    lowest: tuple[int, ...]  # bytes below each group's lowest rectangle
    extent: Ints  # exact bytes from lowest to highest byte of each group, not rounded
    bound: int

    @staticmethod
    def of(groups: Sequence[Group], alignment: int, clock: Clock | None = None) -> _Task:
        if isinstance(alignment, bool) or not isinstance(alignment, int) or alignment < 1:
            raise ProblemError(f"alignment={alignment!r}: give an integer >= 1")
        rows: list[tuple[int, int, int, int, int]] = []
        lowest = tuple(min(r.offset for r in g.rects) for g in groups)
        for g, group in enumerate(groups):
            for r in group.rects:
                if r.offset % alignment:
                    raise ProblemError(
                        f"group {group.name!r}: offset={r.offset} is not a multiple of alignment={alignment}"
                    )
                rows.append((g, r.offset - lowest[g], align_up(r.bytes, alignment), r.start, r.stop))
        rows = _joined(rows)
        total = sum(max(align_up(r.offset + r.bytes, alignment) for r in g.rects) for g in groups)
        if total >= HUGE:
            raise ProblemError(f"groups take {total} bytes side by side at alignment={alignment}; {HUGE} is too many")
        unit = math.gcd(*(value for row in rows for value in row[1:3]))
        table = np.array(rows, dtype=np.int64).T
        block = Block(table[0], table[1] // unit, table[2] // unit, table[3], table[4], len(groups))
        extent = [max(r.offset + r.bytes for r in g.rects) - low for g, low in zip(groups, lowest, strict=True)]
        exact = np.array(extent, dtype=np.int64)
        # The topmost bytes need not be rounded, so the bound forgives the largest rounding of a top.
        slack = block.height() * unit - exact
        bound = max(int(exact.max()), int((_live(block) * unit - _at_most(block, slack)).max()))
        if len(block.owner) > block.count:  # holes in groups that nothing could fill
            part = None if clock is None or clock.limits.seconds is None else _BOUNDING * clock.limits.seconds
            with suppress(OutOfTime):
                for section in sections(block, None if clock is None else clock.part(part).check):
                    live = sum(size for _, _, size in section) * unit
                    bound = max(bound, live - max(int(slack[g]) for g, _, _ in section))
        return _Task(block, unit, lowest, exact, bound)

    def top(self, capacity: int) -> Ints:
        """Highest base, in units, that each group may take."""
        return (capacity - self.extent) // self.unit

    def stacked(self) -> int:
        """Bytes that always do: each group above the one before."""
        return int(self.block.height().sum()) * self.unit

    def peak(self, base: Ints) -> int:
        return int((base * self.unit + self.extent).max())

    def attainable(self, capacity: int) -> int:
        """The least peak >= capacity that some group could reach with its top."""
        return int((self.extent + np.maximum(0, -((self.extent - capacity) // self.unit)) * self.unit).min())

    def quick(self, clock: Clock, like: Sequence[Sequence[int]]) -> _Answer:
        """The best of first-fit and best-fit without limit on bytes."""
        rivals = Rivals.of(self.block)
        best = _Answer("UNKNOWN")
        far = np.full(self.block.count, 2**58)
        extra = {f"as before ({i})": np.argsort(known, kind="stable").tolist() for i, known in enumerate(like, 1)}
        trials = _trials(_REFITS // 8 if like else _REFITS, self.block)
        for method, base in attempts(self.block, rivals, far, clock.limits.seed, trials, extra, clock.late):
            if best.status == "UNKNOWN" or self.peak(base) < best.peak:
                best = _Answer("PLACED", base, self.peak(base), method)
            if best.peak <= self.bound or clock.late():
                break
        return best

    def result(self, answer: _Answer, clock: Clock) -> Placement:
        offsets: tuple[int, ...] = ()
        if answer.status == "PLACED":
            offsets = tuple(b * self.unit - low for b, low in zip(answer.base.tolist(), self.lowest, strict=True))
        return Placement(answer.status, offsets, answer.peak, answer.method, clock.elapsed())


def _live(block: Block) -> Ints:
    """Units live at each step at which something begins."""
    steps = np.unique(block.start)
    change = np.zeros(len(steps) + 1, dtype=np.int64)
    np.add.at(change, np.searchsorted(steps, block.start), block.size)
    np.subtract.at(change, np.searchsorted(steps, block.stop), block.size)
    return np.cumsum(change[:-1])


def _at_most(block: Block, slack: Ints) -> Ints:
    """The most slack of a group that is live, at each step at which something begins."""
    steps = np.unique(block.start)
    first, last = np.searchsorted(steps, block.start), np.searchsorted(steps, block.stop)
    most = np.zeros(len(steps), dtype=np.int64)
    for row in np.argsort(slack[block.owner], kind="stable").tolist():  # larger ones over smaller ones
        most[first[row] : last[row]] = slack[block.owner[row]]
    return most


def _joined(rows: list[tuple[int, int, int, int, int]]) -> list[tuple[int, int, int, int, int]]:
    """Rows (group, offset, bytes, start, stop) with those joined that follow upon each other in time."""
    joined: list[tuple[int, int, int, int, int]] = []
    for row in sorted(rows):
        if joined and joined[-1][:3] == row[:3] and joined[-1][4] == row[3]:
            joined[-1] = (*row[:3], joined[-1][3], row[4])
        else:
            joined.append(row)
    return joined


def _trials(refits: int, block: Block) -> int:
    """How many changed orders to try; few groups have few orders worth trying."""
    return min(refits // block.count, 10 * block.count)


@dataclass(slots=True)
class _Search:
    """Decides whether a task fits a capacity."""

    task: _Task
    capacity: int
    clock: Clock
    rounds: range | None = None  # of exact search; None for all it takes
    refits: int = _REFITS
    strips: bool = True
    methods: list[str] = field(default_factory=list)

    def run(self) -> _Answer:
        task = self.task
        if task.bound > self.capacity:
            return _Answer("IMPOSSIBLE", method="live bytes")
        base = np.zeros(task.block.count, dtype=np.int64)
        try:
            status = self.settle(base)
        except OutOfTime:
            self.methods, status = ["limits"], "UNKNOWN"
        if status != "PLACED":
            return _Answer(status, method=self.methods[-1] if self.methods else "limits")
        if task.peak(base) > self.capacity:
            raise InternalError(f"placed with peak={task.peak(base)} beyond capacity={self.capacity}")
        method = " + ".join(dict.fromkeys(self.methods)) or "stacked"
        return _Answer("PLACED", base, task.peak(base), method)

    def settle(self, base: Ints) -> PlacementStatus:
        """Place all groups, writing ``base``.

        Groups that never live together are independent, and what is live all along lies at the bottom; what is then
        left above it may split again.
        """
        worst: PlacementStatus = "PLACED"
        agenda = [(list(range(len(base))), 0)]
        while agenda:
            groups, floor = agenda.pop()
            self.clock.check()
            for part in self.parts(groups):
                rest, ground = self.stack(part, floor, base)
                if not rest:
                    continue
                if len(rest) < len(part):
                    agenda.append((rest, ground))
                    continue
                status = self.leaf(rest, ground, base)
                if status == "IMPOSSIBLE":
                    return status
                if status == "UNKNOWN":
                    worst = status
        return worst

    def parts(self, groups: list[int]) -> Iterator[list[int]]:
        """Groups split where no step is shared."""
        block = self.task.block.subset(groups)
        begin, end = block.reduce(np.minimum, block.start, 2**62), block.reduce(np.maximum, block.stop, 0)
        part: list[int] = []
        horizon = 0
        for i in np.argsort(begin, kind="stable").tolist():
            if part and begin[i] >= horizon:
                yield part
                part = []
            part.append(groups[i])
            horizon = max(horizon, int(end[i]))
        if part:
            yield part

    def stack(self, part: list[int], floor: int, base: Ints) -> tuple[list[int], int]:
        """Lay at the bottom the plain buffers that are live as long as the part is; what remains, and on what floor.

        Nothing is lost by it unless a hole in some group could take such a buffer, or its rounded-up bytes would
        have done no harm at the very top.
        """
        task = self.task
        block = task.block.subset(part).compressed()
        begin, end = int(block.start.min()), int(block.stop.max())
        count = np.bincount(block.owner, minlength=block.count)
        hole = widest_hole(block)
        row_of = np.zeros(block.count, dtype=np.int64)
        row_of[block.owner[::-1]] = np.arange(len(block.owner))[::-1]  # the first of each
        rest: list[int] = []
        for i, group in enumerate(part):
            row = int(row_of[i])
            size = int(block.size[row])
            always = count[i] == 1 and int(block.start[row]) == begin and int(block.stop[row]) == end
            exact = size * task.unit == int(task.extent[group]) or self.capacity % task.unit == 0
            if always and size > hole and exact:
                base[group] = floor
                floor += size
            else:
                rest.append(group)
        return rest, floor

    def in_strips(self, groups: list[int], floor: int, base: Ints) -> bool:
        """Place small groups in a strip at the bottom and large ones above it, at some divides between sizes.

        Where bytes of very different sizes mix, the search for the large ones is lost in the permutations of the
        small ones; a strip of their own costs hardly more than the bytes that are live there.
        """
        height = self.task.block.height()[groups]
        sizes = np.unique(height)
        divides = [int(a) for a, b in itertools.pairwise(sizes.tolist()) if b >= 1.25 * a][:_DIVIDES]
        strips = [found for divide in divides if (found := self.strip(groups, height <= divide, floor))]
        for rounds in (None, range(1), range(1, 2)):
            for small, large, lower, top in strips:
                if self.clock.late():
                    return False
                upper = self.above(large, top, rounds)
                if upper is not None:
                    base[small] = lower + floor
                    base[large] = upper + self.task.top(self.capacity)[large] - top
                    self.methods.append("strips")
                    return True
        return False

    def strip(self, groups: list[int], low: Bools, floor: int) -> tuple[list[int], list[int], Ints, Ints] | None:
        """Small groups, large ones, bases of the small in a strip, highest bases of the large above it.

        None where the large ones' live bytes leave too little for the strip.
        """
        small = [g for g, s in zip(groups, low.tolist(), strict=True) if s]
        large = [g for g, s in zip(groups, low.tolist(), strict=True) if not s]
        block = self.task.block.subset(small).compressed()
        tall, far = block.height(), np.full(block.count, 2**58)
        self.clock.check()
        trials = _trials(_REFITS // 8, block)
        tries = attempts(block, Rivals.of(block), far, self.clock.limits.seed, trials, late=self.clock.late)
        lower = min((found for _, found in tries), key=lambda found: int((found + tall).max()))
        block = self.task.block.subset(large).compressed()
        top = self.task.top(self.capacity)[large] - floor - int((lower + tall).max())
        most = max(sum(size for _, _, size in section) for section in sections(block, self.clock.check))
        if int(top.min()) < 0 or most > int((top + block.height()).max()):
            return None
        return small, large, lower, top

    def above(self, large: list[int], top: Ints, rounds: range | None) -> Ints | None:
        """Bases of the large groups at ``top`` or below: by first-fit, or by these rounds of exact search."""
        block = self.task.block.subset(large).compressed()
        if rounds is None:
            trials = _trials(_REFITS, block)
            tries = attempts(block, Rivals.of(block), top, self.clock.limits.seed, trials, late=self.clock.late)
            return next((found for _, found in tries if bool((found <= top).all())), None)
        decision = decide(block, top, self.clock, rounds)
        return decision.base if decision.status == "PLACED" else None

    def leaf(self, groups: list[int], floor: int, base: Ints) -> PlacementStatus:
        """Place groups that cannot be split further: first-fit, then exact search."""
        block = self.task.block.subset(groups).compressed()
        top = self.task.top(self.capacity)[groups] - floor
        if int(top.min()) < 0:
            self.methods.append("live bytes")
            return "IMPOSSIBLE"
        trials = _trials(self.refits, block)
        for method, found in attempts(
            block, Rivals.of(block), top, self.clock.limits.seed, trials, late=self.clock.late
        ):  # fmt: skip
            if bool((found <= top).all()):
                self.methods.append(method)
                base[groups] = found + floor
                return "PLACED"
            if self.clock.late():
                self.methods.append("limits")
                return "UNKNOWN"
        if self.strips and self.in_strips(groups, floor, base):
            return "PLACED"
        decision = decide(block, top, self.clock, self.rounds)
        self.methods.append(decision.method)
        if decision.status == "PLACED":
            base[groups] = decision.base + floor
        return decision.status
