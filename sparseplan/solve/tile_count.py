"""What a tile of a loop nest holds and moves: the counting that the tile search rests on.

The model is told in ``solve.tile``.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from sparseplan.ops.base import Operand, TileSpace

Ints = npt.NDArray[np.int64]


def ceil_div(a: Ints | int, b: Ints | int) -> Ints:
    """``a / b`` rounded up."""
    return np.asarray(-(-np.asarray(a) // b), np.int64)


def dtype_of(o: Operand, dtype: str) -> str:
    """The storage type of an operand in a plan of ``dtype``."""
    return dtype if o.dtype == "data" else o.dtype


def grain(space: TileSpace, axis: str) -> int:
    """What sizes of an axis are multiples of: 8 where a one-bit mask lies along it."""
    return 8 if any(o.dtype == "bit" and any(d.axis == axis for d in o.dims) for o in space.operands) else 1


def extent_of(o: Operand, axis: str | None, t: int) -> int:
    """Elements of an operand's tile along ``axis`` (None: along all untiled dims)."""
    along = (d for d in o.dims if d.axis == axis)
    return math.prod(d.full if axis is None else min(d.full, (t - 1) * d.scale + d.window) for d in along)


def extents_of(o: Operand, axis: str, t: Ints) -> Ints:
    """``extent_of`` for many sizes at once."""
    result = np.ones_like(t)
    for d in o.dims:
        if d.axis == axis:
            result = result * np.minimum(d.full, (t - 1) * d.scale + d.window)
    return result


def sum_over_tiles(o: Operand, axis: str, extent: int, t: Ints) -> Ints:
    """Elements along ``axis`` summed over its tiles, for each size in ``t``: ``n - 1`` full tiles
    and a clipped one. 1 for an operand that does not depend on the axis."""
    along = [d for d in o.dims if d.axis == axis]
    if not along:
        return np.ones_like(t)
    n = ceil_div(extent, t)
    total = (n - 1) * extents_of(o, axis, t) + extents_of(o, axis, extent - (n - 1) * t)
    if all(d.window <= d.scale for d in along) and len(along) == 1:  # tiles are disjoint: never more than all
        total = np.minimum(total, along[0].full)
    return total


def repeating(order: tuple[str, ...], depends: set[str]) -> tuple[str, ...]:
    """Loops that make an operand be moved again: those that it does not depend on, outside of the
    innermost that it does. ``depends`` holds loops of more than one trip."""
    inner = max((k for k, axis in enumerate(order) if axis in depends), default=-1)
    return tuple(axis for axis in order[: inner + 1] if axis not in depends)
