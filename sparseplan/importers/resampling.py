"""Images of another size while a network is imported: entries taken, and entries blended."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np

from sparseplan.errors import NetworkError
from sparseplan.importers.draft import Attr, Draft, Made, Shape
from sparseplan.ops.interpolate import MAX_SIZE, resized

COORDINATES = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric")
ROUNDINGS = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")

Scales = Sequence[float] | None


def taken(draft: Draft, x: Made, rows: Mapping[int, Sequence[int]], scales: Scales = None) -> Made:
    """Entries along some axes: ``rows`` says which.

    By an op that resizes images, where one takes the same; by gathers along the axes otherwise.
    ``scales``: of all axes, as they were given, to try.
    """
    lead = x.rank - 3 if x.rank == 3 and x.shape[0] != 1 else 1  # before the channels
    inner = x.shape[lead + 1 :]
    if inner and x.shape[:lead] == (1,) * lead and min(rows, default=0) > lead:
        every = [list(rows.get(i, range(n))) for i, n in enumerate(inner, lead + 1)]
        outer = tuple(map(len, every))
        factors = whole_factors(inner, outer)
        if len(inner) == 2 and factors and all(
            row == [i // f for i in range(n)] for row, f, n in zip(every, factors, outer, strict=True)
        ):  # fmt: skip
            return draft.spatial("upsample", x, 2, None, scale=factors, mode="nearest")
        for tried in (None,) if scales is None else (None, scales[lead + 1 :]):
            named = _named(every, inner, tried)
            if named is not None:
                attrs: dict[str, Attr] = {"size": outer, "mode": "nearest", **named, **scales_of(tried)}
                return draft.spatial("resize", x, len(inner), None, **attrs)
    for axis, row in rows.items():
        x = draft.gather(x, axis, np.array(row, np.int64))
    return x


def _named(rows: Sequence[Sequence[int]], shape: Shape, scales: Scales) -> dict[str, Attr] | None:
    """Attributes of the ``resize`` whose outputs take these inputs; None where none does."""
    ratios = [None] * len(shape) if scales is None else scales
    for coordinates, rounding in product(COORDINATES, ROUNDINGS):
        axes = [
            resized(n, len(row), s, "nearest", coordinates, rounding, 0.0)
            for n, row, s in zip(shape, rows, ratios, strict=True)
        ]
        if all(axis.taps[:, 0].tolist() == list(row) for axis, row in zip(axes, rows, strict=True)):
            return {"coordinates": coordinates, "rounding": rounding}
    return None


def bounded(size: Sequence[int]) -> None:
    """Raise NetworkError where the rows of an axis would be too many to be told one by one."""
    if max(size, default=1) > MAX_SIZE:
        raise NetworkError(f"size={tuple(size)} has an extent over {MAX_SIZE}; use fewer")


def scales_of(scales: Scales) -> dict[str, Attr]:
    """Scales as the attribute of ``resize``."""
    return {} if scales is None else {"scales": ",".join(map(repr, scales))}


def whole_factors(shape: Shape, size: Shape, scales: Scales = None) -> tuple[int, ...] | None:
    """Whole factors that lead from an image to another; None where they do not."""
    factors = tuple(a // b for a, b in zip(size, shape, strict=True))
    exact = size == tuple(n * f for n, f in zip(shape, factors, strict=True))
    return factors if exact and (scales is None or tuple(scales) == factors) else None


def blended(draft: Draft, x: Made, size: Shape, scales: Scales, work: Sequence[int], attrs: dict[str, Attr]) -> Made:
    """Linear or cubic along the axes of ``work``: these are brought to the end, all others are channels."""
    if x.rank > 2 and x.shape[0] == 1 and min(work, default=2) > 1:
        return _image(draft, x, size, None if scales is None else scales[2:], attrs)
    rest = [i for i in range(x.rank) if i not in work]
    perm = [*rest, *work]
    channels = math.prod(x.shape[i] for i in rest)
    image = draft.reshape(draft.transpose(x, perm), (1, channels, *(x.shape[i] for i in work)))
    ratios = None if scales is None else [scales[i] for i in work]
    made = _image(draft, image, (1, channels, *(size[i] for i in work)), ratios, attrs)
    return draft.transpose(draft.reshape(made, tuple(size[i] for i in perm)), [perm.index(i) for i in range(x.rank)])


def _image(draft: Draft, x: Made, size: Shape, scales: Scales, attrs: dict[str, Attr]) -> Made:
    factors = whole_factors(x.shape[2:], size[2:], scales)
    coordinates = attrs["coordinates"]
    centred = coordinates == "half_pixel" or (coordinates == "pytorch_half_pixel" and 1 not in size[2:])
    if factors and x.rank == 4 and attrs["mode"] == "linear" and centred:
        return draft.spatial("upsample", x, 2, None, scale=factors, mode="bilinear")
    return draft.spatial("resize", x, x.rank - 2, None, size=size[2:], **attrs, **scales_of(scales))
