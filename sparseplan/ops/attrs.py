"""Normalising and checking of op attributes, shared by the families."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from sparseplan.errors import OpError
from sparseplan.ops.base import Shape


def integer(name: str, value: Any, low: int = 1) -> int:
    """``value`` as an int of at least ``low``; raises OpError."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise OpError(f"{name}={value!r} must be an integer")
    if value < low:
        raise OpError(f"{name}={value} must be at least {low}")
    return value


def integers(name: str, value: Any, lengths: tuple[int, ...], low: int = 1) -> tuple[int, ...]:
    """``value`` as a tuple of ints of one of ``lengths``; raises OpError."""
    if not isinstance(value, (tuple, list)) or len(value) not in lengths:
        wanted = " or ".join(str(n) for n in lengths)
        raise OpError(f"{name}={value!r} must be an integer or {wanted} of them")
    return tuple(integer(name, v, low) for v in value)


def several(name: str, value: Any, low: int | None = None) -> tuple[int, ...]:
    """``value`` (an int, or any number of them) as a tuple of ints of at least ``low``; raises OpError."""
    given = value if isinstance(value, (tuple, list)) else (value,)
    if any(isinstance(v, bool) or not isinstance(v, int) for v in given):
        raise OpError(f"{name}={value!r} must be integers")
    if low is not None and min(given, default=low) < low:
        raise OpError(f"{name}={value!r} must be integers of at least {low}")
    return tuple(given)


def along(name: str, axis: int, shape: Shape) -> int:
    """An axis of ``shape``, counted from the end where it is negative; raises OpError where there is none."""
    if not -len(shape) <= axis < len(shape):
        raise OpError(f"{name}={axis} is beyond the {len(shape)} axes of input shape {shape}")
    return axis % len(shape)


def per_axis(name: str, values: Sequence[int], shape: Shape) -> Sequence[int]:
    """``values`` if there is one for each axis of ``shape``; raises OpError."""
    if len(values) != len(shape):
        raise OpError(f"{name}={values} must have one entry for each of the {len(shape)} axes of input shape {shape}")
    return values


def pair(name: str, value: Any, low: int = 1) -> tuple[int, int]:
    """An int, or (rows, columns), as a pair."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = (value, value)
    rows, cols = integers(name, value, (2,), low)
    return rows, cols


def padding4(name: str, value: Any) -> tuple[int, int, int, int]:
    """An int, (rows, columns) or (top, left, bottom, right) as the latter."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = (value, value)
    given = integers(name, value, (2, 4), low=0)
    if len(given) == 2:
        return given[0], given[1], given[0], given[1]
    return given[0], given[1], given[2], given[3]


def number(name: str, value: Any, low: float = -math.inf, *, above: bool = False) -> float:
    """``value`` as a finite float of at least (``above``: greater than) ``low``; raises OpError."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise OpError(f"{name}={value!r} must be a finite number")
    if value < low or (above and value == low):
        raise OpError(f"{name}={value} must be {'above' if above else 'at least'} {low:g}")
    return float(value)


def boolean(name: str, value: Any) -> bool:
    """``value`` as a bool; raises OpError."""
    if not isinstance(value, bool):
        raise OpError(f"{name}={value!r} must be true or false")
    return value


def window_rows(
    lo: int, hi: int, total: int, height: int, stride: int, extent: int, top: int
) -> tuple[tuple[int, int], int, int]:
    """Rows that windows ``[lo, hi)`` of ``total`` see, and the padding above and below that they see as well.

    Rows that no window sees (strides beyond the extent) go with the windows before them, so that the rows
    of windows that adjoin do so, too. Raises OpError where windows see nothing but padding.
    """
    start, stop = lo * stride - top, (hi - 1) * stride - top + extent
    first, last = max(start, 0), min(stop, height)
    if first >= last:
        raise OpError(f"rows [{lo}, {hi}) see nothing but padding; use fewer stripes")
    seen = height if hi == total else min(hi * stride - top, height)
    return (first, max(last, seen)), first - start, max(0, stop - height)


def image(inputs: Sequence[Shape]) -> tuple[int, int, int]:
    """The one input's (channels, height, width); raises OpError where it is no image."""
    shape = inputs[0]
    if len(shape) != 3:
        raise OpError(f"input has shape {shape}, expected (channels, height, width)")
    return shape[0], shape[1], shape[2]
