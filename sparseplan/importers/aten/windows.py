"""Rules for pools and for images of another size."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from sparseplan.importers.aten.base import Call, Result, Unsaid, floats, rule
from sparseplan.importers.aten.layers import along, extents, padded
from sparseplan.importers.aten.reduce import places
from sparseplan.importers.draft import Array, Attr, Made, Value

#: most entries of a window whose place fits a byte
_MOST = 256


@rule("max_pool1d", "max_pool2d", "max_pool2d_with_indices", "max_pool1d_with_indices", "max_pool3d")
def _max_pool(c: Call) -> Result:
    x = c.made()
    y = _pool(c, x, "max_pool", {})
    return [y, *places(c, x)] if c.op.endswith("indices") else y


@rule("avg_pool1d", "avg_pool2d", "avg_pool3d")
def _avg_pool(c: Call) -> Value:
    if c.get("divisor_override"):
        raise Unsaid("it has a divisor of its own")
    return _pool(c, c.made(), "avg_pool", {"count_include_pad": bool(c["count_include_pad"])})


def _pool(c: Call, x: Made, kind: str, extra: dict[str, Attr]) -> Made:
    spatial = 1 if "1d" in c.op else 2
    if "3d" in c.op:
        raise Unsaid("pools have at most two spatial axes here")
    kernel = extents(c["kernel_size"], spatial)
    stride = extents(c["stride"], spatial) if c.get("stride") else kernel
    before = extents(c["padding"], spatial)
    if any(d != 1 for d in extents(c.get("dilation", 1), spatial)):
        raise Unsaid("pools are not dilated here")
    inner = x.shape[-spatial:]
    # what ceil_mode adds is padding behind; windows start within the image or its padding
    wanted = [
        (o - 1) * s + k - n - p for o, s, k, n, p in zip(c.shape[-spatial:], stride, kernel, inner, before, strict=True)
    ]
    after = tuple(max(p, w) for p, w in zip(before, wanted, strict=True))
    if kind == "avg_pool" and after != before:
        if any(before) and extra["count_include_pad"]:
            raise Unsaid("ceil_mode with padding that counts divides by what no window holds")
        extra = {"count_include_pad": False}
    attrs = {"kernel": along(spatial, kernel), "stride": along(spatial, stride),
             "padding": padded(spatial, before, after), **extra}  # fmt: skip
    return c.draft.spatial(kind + ("1d" if spatial == 1 else ""), x, spatial, None, **attrs)


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
    if size == inner and mode == "nearest":
        return x
    factors = _factors(c, spatial)
    whole = all(o % n == 0 for n, o in zip(inner, size, strict=True))
    plain = all(f is None or f * n == o for f, n, o in zip(factors, inner, size, strict=True))
    if spatial == 2 and whole and plain and mode != "cubic" and not c.get("align_corners") and x.rank in (3, 4):
        scale = tuple(o // n for n, o in zip(inner, size, strict=True))
        return c.draft.spatial("upsample", x, 2, None, scale=scale, mode="nearest" if mode == "nearest" else "bilinear")
    if not plain:
        raise Unsaid(f"its scale factors {factors} do not lead from {inner} to {size} exactly")
    attrs: dict[str, Attr] = {"size": size, "mode": mode}
    if mode == "nearest":
        attrs |= {"coordinates": "half_pixel" if exact else "asymmetric"}
        attrs |= {"rounding": "round_prefer_ceil" if exact else "floor"}
    else:
        attrs |= {"coordinates": "align_corners" if c.get("align_corners") else "half_pixel"}
    if mode == "cubic":
        attrs |= {"cubic_a": -0.75}
    return c.draft.spatial("resize", x, spatial, None, **attrs)


def _factors(c: Call, spatial: int) -> list[float | None]:
    given = c.get("scale_factors")
    if given is not None:
        return [float(f) for f in given]
    names = ("scales",) if spatial == 1 else ("scales_h", "scales_w")
    return [None if c.get(n) is None else float(c[n]) for n in names]
