"""First-fit and best-fit where rivals are too many to be listed: they are sought anew for each group.

The answers are those of ``firstfit.fit``. It takes some passes over what is placed for each rectangle, and memory
for the rectangles alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]

#: groups placed between looks at the clock
_OFTEN = 32


def first_gap(low: Ints, high: Ints, top: int, how: Literal["first", "best"]) -> int | None:
    """The base of a group in the lowest or tightest gap, at ``top`` or below.

    Args:
        low, high: bases strictly between collide with a rival; sorted by ``low``.
    """
    # gap k begins above the k lowest rivals and ends where the next one would be hit
    begin = np.empty(len(low) + 1, dtype=np.int64)
    begin[0] = 0
    begin[1:] = high
    np.maximum.accumulate(begin, out=begin)
    room = np.append(low, top) - begin
    far = np.iinfo(np.int64).max
    gap = int(np.argmax(room >= 0) if how == "first" else np.argmin(np.where(room >= 0, room, far)))
    return None if room[gap] < 0 or begin[gap] > top else int(begin[gap])


class Crowd:
    """Rectangles by group, to be placed one group after another."""

    def __init__(self, owner: Ints, offset: Ints, size: Ints, start: Ints, stop: Ints, count: int) -> None:
        by = np.argsort(owner, kind="stable")
        self.offset, self.size, self.start, self.stop = offset[by], size[by], start[by], stop[by]
        self.ends = np.searchsorted(owner[by], np.arange(count + 1))

    def fit(
        self, order: Sequence[int], top: Ints, how: Literal["first", "best"], late: Callable[[], bool] | None
    ) -> Ints | None:
        """The base of each group; None where one found no place, or time was up."""
        base = np.zeros(len(self.ends) - 1, dtype=np.int64)
        # low end, high end, first step and step behind the last of what is placed, by low end
        placed = np.empty((4, len(self.offset)), dtype=np.int64)
        count = 0
        for done, group in enumerate(order):
            if late is not None and done % _OFTEN == 0 and late():
                return None
            low, high = [], []
            rows = range(int(self.ends[group]), int(self.ends[group + 1]))
            for row in rows:
                there = placed[:, :count]
                met = np.flatnonzero((there[2] < self.stop[row]) & (self.start[row] < there[3]))
                low.append(there[0][met] - (self.offset[row] + self.size[row]))
                high.append(there[1][met] - self.offset[row])
            lows, highs = np.concatenate(low), np.concatenate(high)
            if len(rows) > 1:
                sort = np.argsort(lows, kind="stable")
                lows, highs = lows[sort], highs[sort]
            found = first_gap(lows, highs, int(top[group]), how)
            if found is None:
                return None
            base[group] = found
            for row in rows:
                lo = found + int(self.offset[row])
                at = int(np.searchsorted(placed[0, :count], lo))
                placed[:, at + 1 : count + 1] = placed[:, at:count]
                placed[:, at] = lo, lo + self.size[row], self.start[row], self.stop[row]
                count += 1
        return base
