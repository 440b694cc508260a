"""Spreading a layout, so that a guard zone lies between all buffers that coexist."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sparseplan.plan import PlacedBuffer
from sparseplan.steps import Step
from sparseplan.units import align_up


def spread(
    buffers: Sequence[PlacedBuffer], steps: Sequence[Step], guard: int, alignment: int, split: bool = False
) -> tuple[tuple[PlacedBuffer, ...], dict[str, int]]:
    """The same buffers with at least ``guard`` bytes (aligned up) between any two that coexist.

    Buffers keep their order in memory: new offsets are longest paths over "lies above, at the
    same time". Pieces of one value, values that overwrite one another and, unless ``split``, parts
    that one argument reads as a whole stay where they are relative to each other; a hole among
    them that is too narrow keeps what lies in it without a guard.

    Returns:
        The buffers, and the bytes that each level then takes.
    """
    guard = align_up(guard, alignment)
    group = _groups(buffers, steps, split)
    base: dict[int, int] = {}
    for b, g in zip(buffers, group, strict=True):
        base[g] = min(b.offset, base.get(g, b.offset))
    edges: dict[tuple[int, int], int] = {}
    for i, a in enumerate(buffers):
        for j, b in enumerate(buffers):
            apart = a.level != b.level or a.start >= b.stop or b.start >= a.stop or group[i] == group[j]
            if apart or a.end > b.offset:
                continue
            least = (a.end - base[group[i]]) - (b.offset - base[group[j]])
            key = (group[i], group[j])
            edges[key] = max(least, edges.get(key, least))
    place = _longest(dict.fromkeys(base, 0), base, edges, guard)
    moved = tuple(
        PlacedBuffer(b.value, b.lo, b.bytes, b.start, b.stop, b.level, b.offset - base[g] + place[g])
        for b, g in zip(buffers, group, strict=True)
    )
    sizes: dict[str, int] = {}
    for b in moved:
        sizes[b.level] = max(sizes.get(b.level, 0), b.end)
    return moved, sizes


def _groups(buffers: Sequence[PlacedBuffer], steps: Sequence[Step], split: bool) -> list[int]:
    """A number for each buffer, equal where their relative offsets must stay."""
    parent: dict[str, str] = {b.value: b.value for b in buffers}

    def find(v: str) -> str:
        while parent[v] != v:
            parent[v] = parent[parent[v]]
            v = parent[v]
        return v

    home = {b.value: b.offset - b.lo for b in buffers}
    for step in steps:
        for arg in (*step.reads, *step.writes):
            for s in () if split else arg.spans[1:]:
                parent[find(s.value)] = find(arg.spans[0].value)
        for y, x in step.inplace:
            if y in home and x in home and home[y] == home[x]:
                parent[find(y)] = find(x)
    numbers: dict[str, int] = {}
    return [numbers.setdefault(find(b.value), len(numbers)) for b in buffers]


def _longest(
    start: dict[int, int], base: Mapping[int, int], edges: Mapping[tuple[int, int], int], guard: int
) -> dict[int, int]:
    """Least places with ``place[b] >= place[a] + least + guard``; edges on a cycle lose the guard."""
    guards = dict.fromkeys(edges, guard)
    while True:
        place = dict(start)
        changed: list[tuple[int, int]] = []
        for _ in range(len(place) + 1):
            changed = []
            for (a, b), least in edges.items():
                wanted = place[a] + least + guards[a, b]
                if wanted > place[b]:
                    place[b] = wanted
                    changed.append((a, b))
            if not changed:
                return place
        # a hole narrower than its guards: the old offsets satisfy every edge without them
        fresh = [e for e in changed if guards[e]]
        if not fresh:
            return dict(base)
        for e in fresh:
            guards[e] = 0
