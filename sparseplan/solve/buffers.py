"""From lifetimes to offsets: groups of a level's buffers, placed; and every buffer where it lies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from sparseplan.liveness import Memory
from sparseplan.plan import PlacedBuffer
from sparseplan.solve.clock import Limits
from sparseplan.solve.place import place_min
from sparseplan.solve.rects import Group, Placement, Rect
from sparseplan.steps import MAIN
from sparseplan.units import align_up

#: groups from which on those that are always there are stacked first
STACKED = 600


def groups_of(memory: Memory, level: str = MAIN) -> list[Group]:
    """Rigid groups of a level's buffers, for placing."""
    rects: dict[int, list[Rect]] = {}
    names: dict[int, str] = {}
    for b in memory.buffers:
        if b.level == level:
            rects.setdefault(b.group, []).append(Rect(b.offset, b.bytes, b.start, b.stop))
            names.setdefault(b.group, b.value)
    return [Group(names[g], tuple(items)) for g, items in rects.items()]


def placed_above(
    groups: Sequence[Group], steps: int, alignment: int, limits: Limits, capacity: int | None,
    like: Sequence[Mapping[str, int]],
) -> tuple[Placement, int]:  # fmt: skip
    """``place_min``; of many groups, those that are there all along are stacked at the bottom first.

    Nothing is lost by that, and each live set that is looked at has so many fewer groups.
    """
    always = [i for i, g in enumerate(groups) if len(g.rects) == 1 and g.rects[0].stop - g.rects[0].start == steps]
    if len(groups) < STACKED or len(always) == len(groups):
        return place_min(groups, alignment, limits, capacity, like)
    offsets = dict[int, int]()
    floor = 0
    for i in always:
        offsets[i] = floor - groups[i].rects[0].offset
        floor += align_up(groups[i].rects[0].bytes, alignment)
    rest = [i for i in range(len(groups)) if i not in offsets]
    room = None if capacity is None else capacity - floor
    if room is not None and room < 0:
        return Placement("IMPOSSIBLE", (), 0, "live bytes", 0.0), floor
    found, bound = place_min([groups[i] for i in rest], alignment, limits, room, like)
    if found.status == "PLACED":
        offsets |= {i: floor + at for i, at in zip(rest, found.offsets, strict=True)}
        found = replace(found, offsets=tuple(offsets[i] for i in range(len(groups))), peak=floor + found.peak)
    return found, floor + bound


def placed_buffers(
    memory: Memory, placement: Placement, alignments: Mapping[str, int]
) -> tuple[tuple[PlacedBuffer, ...], dict[str, int]]:
    """Absolute offsets of all buffers, and the arena of each level.

    Only main memory needs a search; other levels hold constants, one after the other.
    """
    numbers = list(dict.fromkeys(b.group for b in memory.buffers if b.level == MAIN))
    base = dict(zip(numbers, placement.offsets, strict=True))
    buffers: list[PlacedBuffer] = []
    peaks = {MAIN: 0}
    for b in memory.buffers:
        if b.level == MAIN:
            offset = base[b.group] + b.offset
        else:
            offset = align_up(peaks.get(b.level, 0), alignments.get(b.level, 1))
        buffers.append(PlacedBuffer(b.value, b.lo, b.bytes, b.start, b.stop, b.level, offset))
        peaks[b.level] = max(peaks.get(b.level, 0), offset + b.bytes)
    return tuple(buffers), peaks
