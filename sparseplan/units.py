"""Bytes, their spelling, and half-open intervals.

All sizes are integers of bytes. ``KiB`` = 1024, ``kB`` = 1000; a bare number is bytes.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass

from sparseplan.errors import ProblemError
from sparseplan.scalars import plain_arguments

_UNITS = {
    "": 1, "b": 1,
    "kb": 10**3, "mb": 10**6, "gb": 10**9,
    "kib": 2**10, "mib": 2**20, "gib": 2**30,
}  # fmt: skip
_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([A-Za-z]*)\s*")


@plain_arguments
def parse_bytes(text: str | int) -> int:
    """Bytes from ``1200000``, ``"1.2MB"``, ``"128KiB"``.

    Raises:
        ProblemError: not a size, a fraction of a byte, or negative.
    """
    if isinstance(text, bool) or not isinstance(text, (str, int)):
        raise ProblemError(f"size={text!r} is not a number of bytes; write 128KiB, 1.2MB or 1200000")
    if isinstance(text, int):
        if text < 0:
            raise ProblemError(f"size={text} is negative; give a number of bytes >= 0")
        return text
    # the length check keeps absurd literals from being echoed or multiplied out
    match = _SIZE.fullmatch(text) if len(text) <= 64 else None
    unit = match.group(2).lower() if match else ""
    if match is None or unit not in _UNITS:
        raise ProblemError(
            f"size={text[:64]!r} is not a number of bytes; write 128KiB, 1.2MB or 1200000 "
            "(units: B, kB, MB, GB, KiB, MiB, GiB)"
        )
    whole, _, decimals = match.group(1).partition(".")
    scale: int = 10 ** len(decimals)
    value, rest = divmod(int((whole or "0") + decimals) * _UNITS[unit], scale)
    if rest:
        raise ProblemError(f"size={text!r} is not a whole number of bytes; round it")
    return value


def format_bytes(n: int) -> str:
    """``598866`` -> ``"598,866 B"``: exact, as plans are compared to the byte."""
    return f"{n:,} B"


def align_up(n: int, alignment: int) -> int:
    """The least multiple of ``alignment`` that is at least ``n``."""
    return -(-n // alignment) * alignment


def live_bytes(buffers: Iterable[tuple[int, int, int]], steps: int) -> tuple[int, ...]:
    """Bytes alive at each of ``steps`` steps, of buffers given as (start, stop, bytes)."""
    delta = [0] * (steps + 1)
    for start, stop, n in buffers:
        delta[start] += n
        delta[stop] -= n
    return tuple(itertools.accumulate(delta[:-1]))


@dataclass(frozen=True, slots=True, order=True)
class Interval:
    """Half-open interval ``[start, stop)`` of steps or bytes."""

    start: int
    stop: int

    def __post_init__(self) -> None:
        if self.start < 0 or self.stop < self.start:
            raise ProblemError(f"interval [{self.start}, {self.stop}) is negative or ends before it starts")

    def __len__(self) -> int:
        return self.stop - self.start

    def overlaps(self, other: Interval) -> bool:
        """Whether both hold some point in common."""
        return self.start < other.stop and other.start < self.stop

    def __contains__(self, point: int) -> bool:
        return self.start <= point < self.stop
