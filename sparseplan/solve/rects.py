"""What is placed, and where it lies: rectangles of bytes and steps, rigid groups of them, and their offsets."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from sparseplan.errors import ProblemError
from sparseplan.solve.exactfit import PlacementStatus

# No size or step may reach this, nor all sizes together, so that 64 bits hold every sum.
HUGE = 2**48


@dataclass(frozen=True, slots=True)
class Rect:
    """Bytes that are live over an interval of steps.

    Attributes:
        offset: bytes above the base of its group, >= 0, a multiple of the alignment.
        bytes: > 0.
        start: first step at which it is live, >= 0.
        stop: first step at which it no longer is.
    """

    offset: int
    bytes: int
    start: int
    stop: int

    def __post_init__(self) -> None:
        for name, least in (("offset", 0), ("bytes", 1), ("start", 0), ("stop", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value < HUGE:
                raise ProblemError(f"rectangle {name}={value!r}: give an integer in [{least}, {HUGE})")
        if self.stop <= self.start:
            raise ProblemError(f"rectangle start={self.start}, stop={self.stop}: it is never live; leave it out")

    def meets(self, other: Rect) -> bool:
        """Whether both are live at some step."""
        return self.start < other.stop and other.start < self.stop


@dataclass(frozen=True, slots=True)
class Group:
    """Rectangles placed as one, at fixed relative offsets; no two overlap in both steps and bytes."""

    name: str
    rects: tuple[Rect, ...]

    def __post_init__(self) -> None:
        if not self.rects:
            raise ProblemError(f"group {self.name!r} has no rectangle; leave it out")
        for a, b in itertools.combinations(self.rects, 2):
            if a.meets(b) and a.offset < b.offset + b.bytes and b.offset < a.offset + a.bytes:
                raise ProblemError(f"group {self.name!r}: {a} and {b} overlap in steps and bytes")


@dataclass(frozen=True, slots=True)
class Placement:
    """Where each group lies.

    Attributes:
        status: IMPOSSIBLE is proven; UNKNOWN means that the limits ran out.
        offsets: base of each group in bytes, in the order given; empty unless PLACED. A base is negative only where
            no rectangle of the group has offset 0.
        peak: bytes from 0 to the top of the highest rectangle; 0 unless PLACED.
        method: what decided it.
        seconds: wall-clock seconds it took.
    """

    status: PlacementStatus
    offsets: tuple[int, ...]
    peak: int
    method: str
    seconds: float
