"""What bytes hold, symbolically: a map from byte ranges of a level to contents."""

from __future__ import annotations

import bisect
from collections.abc import Hashable
from typing import NamedTuple


class Content(NamedTuple):
    """A tensor in one state.

    Attributes:
        kind: a value's role, or ``freed`` or ``blank`` (a buffer that nobody has written yet).
        name: of the tensor, parameter or value.
        state: what tells its versions apart: the contributions added to a gradient, 0 or 1 for what
            an update changes, the tag of an auxiliary.
    """

    kind: str
    name: str
    state: Hashable = None


class Held(NamedTuple):
    """Bytes ``[lo, hi)`` hold ``content``, whose first byte would be at ``base``; None: nothing yet."""

    lo: int
    hi: int
    content: Content | None
    base: int


class LevelBytes:
    """The bytes of one level."""

    def __init__(self) -> None:
        self._held: list[Held] = []

    def write(self, lo: int, hi: int, content: Content, base: int) -> None:
        """Let ``[lo, hi)`` hold a content."""
        first, last = self._meeting(lo, hi)
        kept: list[Held] = []
        for h in self._held[first:last]:
            if h.lo < lo:
                kept.append(h._replace(hi=lo))
        kept.append(Held(lo, hi, content, base))
        for h in self._held[first:last]:
            if hi < h.hi:
                kept.append(h._replace(lo=hi))
        self._held[first:last] = kept

    def _meeting(self, lo: int, hi: int) -> tuple[int, int]:
        """The half-open range of what is held that meets ``[lo, hi)``; all is in order and apart."""
        return (bisect.bisect_right(self._held, lo, key=lambda h: h.hi),
                bisect.bisect_left(self._held, hi, key=lambda h: h.lo))  # fmt: skip

    def read(self, lo: int, hi: int) -> list[Held]:
        """What ``[lo, hi)`` holds, in order and without gaps."""
        result: list[Held] = []
        at = lo
        first, last = self._meeting(lo, hi)
        for h in self._held[first:last]:
            if at < h.lo:
                result.append(Held(at, h.lo, None, 0))
            result.append(h._replace(lo=max(h.lo, lo), hi=min(h.hi, hi)))
            at = min(h.hi, hi)
        if at < hi:
            result.append(Held(at, hi, None, 0))
        return result
