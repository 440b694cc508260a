"""Rigid groups of rectangles: what lives together, first-fit and best-fit, and the orders that exact search follows.

Everything here is in whole units (offsets and sizes divided by their common unit). A group is known by its index;
its base is the unit at which its lowest rectangle begins.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from sparseplan.solve.manyfit import Crowd, first_gap

Ints = npt.NDArray[np.int64]
Fit = Literal["first", "best"]
Late = Callable[[], bool]

# Pairs of rectangles that live together beyond which they are not listed: a hundred megabytes.
PAIRS = 4_000_000

# Beyond every base that can occur, and far from overflow when sizes are added.
FAR = 2**60


@dataclass(frozen=True, slots=True)
class Block:
    """Rectangles to be placed, one row each; rows of the same group keep their relative offsets.

    Attributes:
        owner: group of each rectangle; groups are 0, 1, … ``count - 1`` and each has a rectangle.
        offset: units above the group's base.
        size: units, > 0.
        start: first step at which the rectangle is live.
        stop: first step at which it no longer is.
        count: groups.
    """

    owner: Ints
    offset: Ints
    size: Ints
    start: Ints
    stop: Ints
    count: int

    def subset(self, groups: Sequence[int]) -> Block:
        """The block of these groups alone, renumbered in the order given."""
        number = np.full(self.count, -1, dtype=np.int64)
        number[list(groups)] = np.arange(len(groups))
        kept = number[self.owner] >= 0
        offset, size, start, stop = (column[kept] for column in (self.offset, self.size, self.start, self.stop))
        return Block(number[self.owner[kept]], offset, size, start, stop, len(groups))

    def reduce(self, function: np.ufunc, column: Ints, initial: int) -> Ints:
        """``function`` (add, maximum, minimum) of ``column`` over each group's rectangles."""
        total = np.full(self.count, initial, dtype=np.int64)
        function.at(total, self.owner, column)
        return total

    def compressed(self) -> Block:
        """The same block on a time axis that has one step for each maximal live set.

        What meets whom stays as it is, and a rectangle that is live at all those steps is live as long as matters.
        """
        starts = np.unique(self.start)
        # The live set is maximal at the last start before some stop.
        steps = np.unique(starts[np.searchsorted(starts, np.unique(self.stop), side="left") - 1])
        start, stop = np.searchsorted(steps, self.start), np.searchsorted(steps, self.stop)
        return Block(self.owner, self.offset, self.size, start, stop, self.count)

    def height(self) -> Ints:
        """Units from each group's base to the top of its highest rectangle."""
        return self.reduce(np.maximum, self.offset + self.size, 0)


def sections(
    block: Block, look: Callable[[], None] | None = None
) -> Iterator[tuple[tuple[int, int, int], ...]]:  # fmt: skip
    """Each maximal set of units live at once, as (group, offset, size).

    Neighbours of one group are joined, also over holes that nothing else live there could fit. ``look`` is called at
    each step; what it raises ends the work, as where time is up.
    """
    block = block.compressed()
    seen: set[tuple[tuple[int, int, int], ...]] = set()
    for step in range(int(block.stop.max())):
        if look is not None:
            look()
        live = np.flatnonzero((block.start <= step) & (step < block.stop))
        spans: dict[int, list[tuple[int, int]]] = defaultdict(list)
        columns = (block.owner[live], block.offset[live], block.size[live])
        for g, offset, size in zip(*(c.tolist() for c in columns), strict=True):
            spans[g].append((offset, offset + size))
        least = sorted((min(hi - lo for lo, hi in spans[g]), g) for g in spans)
        section: list[tuple[int, int, int]] = []
        for g, pieces in spans.items():
            other = next((size for size, owner in least if owner != g), math.inf)
            pieces.sort()
            low, high = pieces[0]
            for lo, hi in pieces[1:]:
                if lo - high >= other:
                    section.append((g, low, high - low))
                    low = lo
                high = hi
            section.append((g, low, high - low))
        key = tuple(sorted(section))
        if key not in seen:
            seen.add(key)
            yield key


def widest_hole(block: Block) -> int:
    """The most units within a group, between its lowest and highest, that it never covers."""
    widest = 0
    reach: dict[int, int] = {}
    for row in np.argsort(block.offset, kind="stable").tolist():
        g, low, high = int(block.owner[row]), int(block.offset[row]), int(block.offset[row] + block.size[row])
        widest = max(widest, low - reach.get(g, low))
        reach[g] = max(reach.get(g, 0), high)
    return widest


@dataclass(frozen=True, slots=True)
class Rivals:
    """For each group, the others that are live when it is, and which distances between bases would collide.

    ``base[i]`` collides with ``who[i][k]`` when it lies strictly between ``base[who[i][k]] + low[i][k]`` and
    ``base[who[i][k]] + high[i][k]``.
    """

    who: tuple[Ints, ...]
    low: tuple[Ints, ...]
    high: tuple[Ints, ...]

    @staticmethod
    def of(block: Block) -> Rivals | Crowd:
        """Pairs of rectangles of different groups that overlap in time, gathered by group.

        Where there are too many to be listed, a crowd, which ``fit`` takes as well.
        """
        if 2 * pairs(block) > PAIRS:
            return Crowd(block.owner, block.offset, block.size, block.start, block.stop, block.count)
        who: list[list[Ints]] = [[] for _ in range(block.count)]
        low: list[list[Ints]] = [[] for _ in range(block.count)]
        high: list[list[Ints]] = [[] for _ in range(block.count)]
        for r, group in enumerate(block.owner.tolist()):
            met = np.flatnonzero((block.start < block.stop[r]) & (block.start[r] < block.stop) & (block.owner != group))
            shift = block.offset[met] - block.offset[r]
            who[group].append(block.owner[met])
            low[group].append(shift - block.size[r])
            high[group].append(shift + block.size[met])
        return Rivals(*(tuple(np.concatenate(rows) for rows in table) for table in (who, low, high)))


def pairs(block: Block) -> int:
    """How many pairs of rectangles are live at a time together."""
    # of those that began before, all are met but those that have ended
    gone = np.searchsorted(np.sort(block.stop), np.sort(block.start), side="right")
    return int((np.arange(len(gone)) - gone).sum())


def fit(
    rivals: Rivals | Crowd, order: Sequence[int], top: Ints, how: Fit = "first", late: Late | None = None
) -> Ints | None:
    """Place groups one by one in ``order``, each in the lowest or in the tightest gap that takes it.

    Args:
        rivals: of the block to place.
        order: every group once.
        top: the highest base allowed to each group.
        how: "first" takes the lowest gap, "best" the one with least room to spare.
        late: whether time is up; asked now and then.

    Returns:
        The base of each group, or None if one found no place, or time was up.
    """
    if isinstance(rivals, Crowd):
        return rivals.fit(order, top, how, late)
    base = np.full(len(order), FAR, dtype=np.int64)
    for done, group in enumerate(order):
        if late is not None and done % 64 == 0 and late():
            return None
        theirs = base[rivals.who[group]]
        placed = theirs < FAR
        theirs = theirs[placed]
        low = theirs + rivals.low[group][placed]
        sort = np.argsort(low, kind="stable")
        found = first_gap(low[sort], (theirs + rivals.high[group][placed])[sort], int(top[group]), how)
        if found is None:
            return None
        base[group] = found
    return base


def orders(block: Block) -> dict[str, list[int]]:
    """Static orders by name, most constraining group first; ties broken by area, then by index."""
    begin = block.reduce(np.minimum, block.start, FAR)
    end = block.reduce(np.maximum, block.stop, 0)
    area = block.reduce(np.add, block.size * (block.stop - block.start), 0)
    # Live units change only where some rectangle begins or ends.
    steps = np.unique(np.concatenate((block.start, block.stop)))
    first, last = np.searchsorted(steps, block.start), np.searchsorted(steps, block.stop)
    change = np.zeros(len(steps), dtype=np.int64)
    np.add.at(change, first, block.size)
    np.subtract.at(change, last, block.size)
    live = np.cumsum(change)
    crowd = block.reduce(np.maximum, np.array([live[a:b].max() for a, b in zip(first, last, strict=True)]), 0)
    met = [np.count_nonzero((block.start < b) & (a < block.stop)) for a, b in zip(block.start, block.stop, strict=True)]
    overlaps = block.reduce(np.add, np.array(met, dtype=np.int64), 0)
    keys = {
        "longest-lived": begin - end,
        "crowded": -crowd,
        "area": -area,
        "size": -block.height(),
        "overlaps": -overlaps,
        "start": begin,
        "stop": -end,
    }
    return {name: np.lexsort((-area, key)).tolist() for name, key in keys.items()}


def attempts(
    block: Block,
    rivals: Rivals | Crowd,
    top: Ints,
    seed: int,
    trials: int,
    extra: Mapping[str, list[int]] | None = None,
    late: Late | None = None,
) -> Iterator[tuple[str, Ints]]:
    """Placements by ever other orders: the static ones, then seeded changes to the one that served best.

    Args:
        block: what to place.
        rivals: of ``block``.
        top: the highest base allowed to each group. Only best-fit heeds it, so check what is yielded.
        seed: of the changes.
        trials: how many changed orders to try.
        extra: orders by name to try before all others.
        late: whether time is up: then no more than the first placement is made.

    Yields:
        The name of the method, and the bases.
    """
    free = np.full(block.count, FAR // 2)
    height = block.height()
    best: list[int] = []
    base, least = free, FAR
    known = {**(extra or {}), **orders(block)}

    def looked() -> bool:
        """A look at the clock that ends nothing."""
        return late is not None and late() and False

    for name, order in known.items():
        found = fit(rivals, order, free, late=late if best else looked)
        if found is not None:
            yield f"first-fit, {name}", found
            peak = int((found + height).max())
            if peak < least:
                best, base, least = order, found, peak
    for name, order in known.items():
        if late is not None and late():
            return
        found = fit(rivals, order, np.minimum(top, least - 1 - height), "best", late)
        if found is not None:
            yield f"best-fit, {name}", found
    draw = random.Random(seed)
    for _ in range(trials):
        if late is not None and late():
            return
        # A group that makes the peak goes earlier; a second, random move leads out of dead ends.
        changed = list(best)
        for group in (draw.choice(np.flatnonzero(base + height == least).tolist()), draw.randrange(block.count)):
            at = changed.index(group)
            changed.insert(draw.randrange(at + 1), changed.pop(at))
        found = fit(rivals, changed, free, late=late)
        if found is not None:
            yield "first-fit, changed order", found
            peak = int((found + height).max())
            if peak <= least:
                best, base, least = changed, found, peak
