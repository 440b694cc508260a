"""Schedule -> buffers with lifetimes, bytes at each step, and a lower bound on the arena.

A buffer is the smallest thing with one lifetime: a value, or a piece of one when its tail is
freed before its head (an input of which only some channels are kept). Buffers of one group have
fixed relative offsets: pieces of a value, parts of a free concat, and values that overwrite one
another in place.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from sparseplan.steps import MAIN, Schedule
from sparseplan.units import align_up, live_bytes


@dataclass(frozen=True, slots=True)
class Buffer:
    """Bytes ``[lo, lo + bytes)`` of a value, alive during steps ``[start, stop)``.

    ``group`` and ``offset`` place it relative to the buffers that it is bound to.
    """

    value: str
    lo: int
    bytes: int
    start: int
    stop: int
    level: str
    group: int
    offset: int


@dataclass(frozen=True)
class Memory:
    """Buffers of a schedule.

    Attributes:
        inplace: (step, value written, value overwritten) of each overwriting that takes place.
        steps: number of steps.
    """

    buffers: tuple[Buffer, ...]
    inplace: tuple[tuple[int, str, str], ...]
    steps: int

    def at(self, level: str) -> tuple[int, ...]:
        """Live bytes of a level at each step."""
        return live_bytes(((b.start, b.stop, b.bytes) for b in self.buffers if b.level == level), self.steps)

    def peak(self, level: str = MAIN) -> int:
        """The most live bytes of a level: a lower bound on its arena."""
        return max(self.at(level), default=0)

    def peak_step(self, level: str = MAIN) -> int:
        """The first step at the peak."""
        live = self.at(level)
        return live.index(max(live))

    def live(self, step: int, level: str = MAIN) -> tuple[Buffer, ...]:
        """Buffers alive at a step, largest first."""
        found = [b for b in self.buffers if b.level == level and b.start <= step < b.stop]
        return tuple(sorted(found, key=lambda b: (-b.bytes, b.value, b.lo)))

    @cached_property
    def levels(self) -> tuple[str, ...]:
        """Levels that hold any buffer."""
        return tuple(sorted({b.level for b in self.buffers}))


def pieces(ends: Iterable[int]) -> list[tuple[int, int]]:
    """Adjoining half-open ranges between sorted distinct ends."""
    points = sorted(set(ends))
    return list(itertools.pairwise(points))


def analyse(schedule: Schedule) -> Memory:
    """Lifetimes of every buffer: from its first write until after its last access.

    Network inputs arrive before the first step (copies that a step writes do not); persistent values
    live throughout. Where a step may overwrite a value that nothing accesses later, it does.
    """
    count = len(schedule.steps)
    accesses: dict[str, list[tuple[int, int, int]]] = {}
    for i, step in enumerate(schedule.steps):
        for arg in (*step.reads, *step.writes):
            for span in arg.spans:
                accesses.setdefault(span.value, []).append((i, span.lo, span.hi))
    last = {name: max(i for i, _, _ in uses) for name, uses in accesses.items()}
    made = {s.value for step in schedule.steps for arg in step.writes for s in arg.spans}

    freed_early: dict[str, int] = {}  # value -> the step that overwrites it
    inplace: list[tuple[int, str, str]] = []
    for i, step in enumerate(schedule.steps):
        placed: set[str] = set()
        for y, x in step.inplace:
            value = schedule.values[x]
            if y in placed or x in freed_early or value.persistent or last[x] != i:
                continue
            inplace.append((i, y, x))
            placed.add(y)
            freed_early[x] = i

    where = _bind(schedule, inplace)
    buffers: list[Buffer] = []
    for name, uses in accesses.items():
        value = schedule.values[name]
        group, base = where[name]
        size = align_up(value.bytes, schedule.options.alignment)
        if value.persistent:
            buffers.append(Buffer(name, 0, size, 0, count, value.level, group, base))
            continue
        for lo, hi in pieces(end for _, a, b in uses for end in (a, b)):
            touched = [i for i, a, b in uses if a < hi and lo < b]
            start = 0 if value.role == "input" and name not in made else min(touched)
            stop = max(touched) + (0 if freed_early.get(name) == max(touched) else 1)
            buffers.append(Buffer(name, lo, hi - lo, start, stop, value.level, group, base + lo))
    return Memory(tuple(buffers), tuple(inplace), count)


def _bind(schedule: Schedule, inplace: list[tuple[int, str, str]]) -> dict[str, tuple[int, int]]:
    """Group and relative offset of every value (union-find with offsets)."""
    parent: dict[str, tuple[str, int]] = {name: (name, 0) for name in schedule.values}

    def find(name: str) -> tuple[str, int]:
        offset, path = 0, []
        while parent[name][0] != name:
            path.append((name, offset))
            offset += parent[name][1]
            name = parent[name][0]
        for seen, before in path:
            parent[seen] = (name, offset - before)
        return name, offset

    def unite(a: str, b: str, delta: int) -> None:
        """Place ``b`` at ``delta`` bytes after ``a``."""
        (root_a, at_a), (root_b, at_b) = find(a), find(b)
        if root_a != root_b:
            parent[root_b] = (root_a, at_a + delta - at_b)
        elif at_b != at_a + delta:
            raise AssertionError(f"values {a!r} and {b!r} are bound to two places")

    for composite in schedule.composites:
        (first, start), *rest = composite
        for name, offset in rest:
            unite(first, name, offset - start)
    for _, y, x in inplace:
        unite(x, y, 0)
    lowest: dict[str, int] = {}
    for name in schedule.values:
        root, offset = find(name)
        lowest[root] = min(lowest.get(root, 0), offset)
    numbers: dict[str, int] = {}
    result = {}
    for name in schedule.values:
        root, offset = find(name)
        group = numbers.setdefault(root, len(numbers))
        result[name] = (group, offset - lowest[root])
    return result
