"""What the tests of placing share: strategies for groups, an independent checker, and exhaustive search."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from hypothesis import strategies as st

from sparseplan.solve.rects import Group, Rect


def collide(a: Rect, b: Rect) -> bool:
    """Whether two rectangles share a byte at some step, their offsets taken as absolute."""
    return max(a.start, b.start) < min(a.stop, b.stop) and max(a.offset, b.offset) < min(
        a.offset + a.bytes, b.offset + b.bytes
    )


def faults(groups: Sequence[Group], offsets: Sequence[int], capacity: int, alignment: int) -> list[str]:
    """Everything that is wrong with a placement, by looking at every pair of rectangles."""
    found = [] if len(groups) == len(offsets) else ["not one base a group"]
    laid = []
    for g, (group, base) in enumerate(zip(groups, offsets, strict=False)):
        if base % alignment:
            found.append(f"{group.name} at {base} is not aligned")
        laid += [(g, base + r.offset, base + r.offset + r.bytes, r.start, r.stop) for r in group.rects]
    found += [f"{r} outside [0, {capacity})" for r in laid if r[1] < 0 or r[2] > capacity]
    for a, b in itertools.combinations(laid, 2):
        if a[0] != b[0] and a[1] < b[2] and b[1] < a[2] and a[3] < b[4] and b[3] < a[4]:
            found.append(f"{a} overlaps {b}")
    return found


def fits(groups: Sequence[Group], capacity: int, alignment: int) -> bool:
    """Whether some placement exists: every base of every group, one group after the other."""

    def apart(a: Group, at_a: int, b: Group, at_b: int) -> bool:
        return not any(
            x.start < y.stop
            and y.start < x.stop
            and at_a + x.offset < at_b + y.offset + y.bytes
            and at_b + y.offset < at_a + x.offset + x.bytes
            for x in a.rects
            for y in b.rects
        )

    def extend(bases: list[int]) -> bool:
        if len(bases) == len(groups):
            return True
        group = groups[len(bases)]
        low, high = min(r.offset for r in group.rects), max(r.offset + r.bytes for r in group.rects)
        first = -(low // alignment) * alignment
        return any(
            all(apart(group, base, other, at) for other, at in zip(groups, bases, strict=False))
            and extend([*bases, base])
            for base in range(first, capacity - high + 1, alignment)
        )

    return extend([])


@st.composite
def group_lists(
    draw: st.DrawFn,
    *,
    most_groups: int = 4,
    most_rects: int = 3,
    most_steps: int = 6,
    alignments: Sequence[int] = (1, 2, 4),
) -> tuple[list[Group], int]:
    """Groups and an alignment, small enough for exhaustive search; shrinks to few plain buffers at offset 0."""
    alignment = draw(st.sampled_from(alignments))
    horizon = draw(st.integers(1, most_steps))
    groups = []
    for g in range(draw(st.integers(1, most_groups))):
        rects: list[Rect] = []
        for _ in range(draw(st.integers(1, most_rects))):
            start = draw(st.integers(0, horizon - 1))
            stop = draw(st.integers(start + 1, horizon))
            offset = alignment * draw(st.integers(0, 3))
            rect = Rect(offset, draw(st.integers(1, 3 * alignment)), start, stop)
            if not any(collide(rect, other) for other in rects):
                rects.append(rect)
        groups.append(Group(f"g{g}", tuple(rects)))
    return groups, alignment
