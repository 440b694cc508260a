"""Rules for pools and for images of another size."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from sparseplan.importers.aten.base import Call, Result, Unsaid, floats, rule
from sparseplan.importers.aten.layers import along, extents
from sparseplan.importers.aten.reduce import places
from sparseplan.importers.draft import Array, Attr, Made, Value
from sparseplan.importers.pooling import beyond, pooled
from sparseplan.importers.resampling import blended, bounded, taken

#: most entries of a window whose place fits a byte
_MOST = 256


@rule("max_pool1d", "max_pool2d", "max_pool2d_with_indices", "max_pool1d_with_indices", "max_pool3d")
def _max_pool(c: Call) -> Result:
    x = c.made()
    y = _pool(c, x, "max_pool")
    return [y, *places(c, x)] if c.op.endswith("indices") else y


@rule("avg_pool1d", "avg_pool2d", "avg_pool3d")
def _avg_pool(c: Call) -> Value:
    return _pool(c, c.made(), "avg_pool", bool(c["count_include_pad"]), c.get("divisor_override"))


def _pool(c: Call, x: Made, kind: str, counted: bool | None = None, divisor: int | None = None) -> Made:
    spatial = 1 if "1d" in c.op else 2
    if "3d" in c.op:
        raise Unsaid("pools have at most two spatial axes here")
    kernel = extents(c["kernel_size"], spatial)
    stride = extents(c["stride"], spatial) if c.get("stride") else kernel
    pads = extents(c["padding"], spatial)
    if any(d != 1 for d in extents(c.get("dilation", 1), spatial)):
        raise Unsaid("pools are not dilated here")
    more = beyond(x.shape[-spatial:], kernel, stride, pads, pads) if c.get("ceil_mode") else ()
    return pooled(c.draft, kind, x, kernel, stride, pads, pads, more, counted, divisor)


@rule("adaptive_avg_pool1d", "adaptive_avg_pool2d", "_adaptive_avg_pool2d", "adaptive_avg_pool3d")
def _adaptive_avg(c: Call) -> Value:
    x = c.made()
    spatial = int(c.op[-2])
    outs, inner = c.shape[-spatial:], x.shape[-spatial:]
    if spatial == 2 and outs == (1, 1) and (x.rank == 3 or x.shape[0] == 1):
        return c.draft.spatial("global_avg_pool", x, 2)
    if all(n == 1 for n in outs):
        return c.draft.reduce("mean", x, range(x.rank - spatial, x.rank), True)
    if spatial < 3 and all(n % o == 0 for n, o in zip(inner, outs, strict=True)):
        kernel = along(spatial, tuple(n // o for n, o in zip(inner, outs, strict=True)))
        return c.draft.spatial("avg_pool" + ("1d" if spatial == 1 else ""), x, spatial, None, kernel=kernel)
    # windows of several sizes: a product with their shares, an axis at a time
    return mixed(c, x, [_shares(n, o) for n, o in zip(inner, outs, strict=True)])


def _shares(extent: int, outs: int) -> Array:
    """What each entry of an axis adds to each window of an adaptive mean: (outs, extent)."""
    found = np.zeros((outs, extent))
    for i in range(outs):
        lo, hi = i * extent // outs, -(-(i + 1) * extent // outs)
        found[i, lo:hi] = 1 / (hi - lo)
    return found


def mixed(c: Call, x: Made, matrices: Sequence[Array]) -> Made:
    """The last axes, each multiplied by a constant matrix (new extent, old extent)."""
    n = len(matrices)
    if sum(m.size for m in matrices) > 1 << 16:
        raise Unsaid("its windows have several sizes")
    for i, matrix in enumerate(matrices):
        axis = x.rank - n + i
        perm = [a for a in range(x.rank) if a != axis] + [axis]
        back = [perm.index(a) for a in range(x.rank)]
        x = c.draft.transpose(c.draft.matmul(c.draft.transpose(x, perm), c.draft.made(floats(matrix.T))), back)
    return x


@rule("adaptive_max_pool1d", "adaptive_max_pool2d")
def _adaptive_max(c: Call) -> Result:
    x = c.made()
    spatial = int(c.op[-2])
    outs, inner = c.shape[-spatial:], x.shape[-spatial:]
    if any(n % o for n, o in zip(inner, outs, strict=True)):
        raise Unsaid("its windows have several sizes")
    kernel = tuple(n // o for n, o in zip(inner, outs, strict=True))
    if math.prod(kernel) <= _MOST:
        kind = "max_pool" + ("1d" if spatial == 1 else "")
        y = c.draft.spatial(kind, x, spatial, None, kernel=along(spatial, kernel))
    elif all(o == 1 for o in outs):
        y = c.draft.reduce("amax", x, range(x.rank - spatial, x.rank), True)
    else:
        raise Unsaid(f"its windows have over {_MOST} entries")
    return [y, *places(c, x)]


_MODES = {"nearest": "nearest", "bilinear": "linear", "linear": "linear", "bicubic": "cubic"}


@rule("upsample_nearest1d", "upsample_nearest2d", "upsample_linear1d", "upsample_bilinear2d", "upsample_bicubic2d",
      "_upsample_nearest_exact1d", "_upsample_nearest_exact2d")  # fmt: skip
def _upsample(c: Call) -> Value:
    x = c.made("input" if "input" in c.args else "self")
    spatial = int(c.op[-2])
    exact = "exact" in c.op
    mode = next(v for k, v in _MODES.items() if k in c.op)
    size, inner = c.shape[-spatial:], x.shape[-spatial:]
    factors, corners = _factors(c, spatial), bool(c.get("align_corners"))
    # axes that stay are copied, and images doubled as such, whatever the factor was that was rounded to that
    if mode == "linear" or (mode == "nearest" and not exact and spatial > 1):
        factors = [1.0 if f and n == o else f for n, o, f in zip(inner, size, factors, strict=True)]
    if mode == "nearest" and not exact and spatial > 1:
        factors = [2.0 if f and 2 * n == o else f for n, o, f in zip(inner, size, factors, strict=True)]
    given = [f or 0.0 for f in factors] if all(factors) and not corners else None
    lead = x.rank - spatial
    scales = None if given is None else [*[1.0] * lead, *given]
    if mode == "nearest":
        bounded(size)
        rows = {
            lead + i: _nearest(n, o, f, exact) for i, (n, o, f) in enumerate(zip(inner, size, factors, strict=True))
        }
        return taken(c.draft, x, rows, scales)
    if given is None and any(factors) and not corners:
        raise Unsaid(f"its scale factors {factors} are given for some axes alone")
    attrs: dict[str, Attr] = {"mode": mode, "coordinates": "align_corners" if corners else "half_pixel"}
    if mode == "cubic":
        attrs["cubic_a"] = -0.75
    whole = (*x.shape[:lead], *size)
    return blended(c.draft, x, whole, scales, range(lead, x.rank), attrs)


def _nearest(extent: int, size: int, factor: float | None, exact: bool) -> list[int]:
    """Which input every output of an axis takes, in the single precision in which PyTorch reckons."""
    ratio = np.float32(1 / factor) if factor else np.float32(extent) / np.float32(size)
    at = np.arange(size, dtype=np.float32) + np.float32(0.5 * exact)
    return [int(i) for i in np.minimum(np.floor(at * ratio), extent - 1)]


def _factors(c: Call, spatial: int) -> list[float | None]:
    given = c.get("scale_factors")
    if given is not None:
        return [float(f) for f in given]
    names = ("scales",) if spatial == 1 else ("scales_h", "scales_w")
    return [None if c.get(n) is None else float(c[n]) for n in names]
