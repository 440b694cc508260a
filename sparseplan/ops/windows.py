"""Convolution and its two adjoints, by the fastest method for the geometry at hand.

All arrays are ``(batch, channels, height, width)``, weights ``(out, in / groups, kh, kw)``. Which
method is taken depends on shapes alone, and on those of the whole: ``full`` (and ``deep``) tell
the channels of the whole where a call computes only some of them, so that a part is computed by
the same method and cuts as within the whole: equal but for the order in which BLAS sums.
"""

from __future__ import annotations

from typing import cast

import numpy as np

from sparseplan.ops import phases, strips
from sparseplan.ops.base import Array
from sparseplan.ops.planes import Pair, Window

__all__ = ["Pair", "Window", "correlate", "correlate_transposed", "correlate_weight"]


def _pointwise(window: Window, groups: int) -> bool:
    return window.kernel == window.stride == (1, 1) and groups == 1 and not any(window.padding)


def correlate(
    x: Array,
    weight: Array,
    window: Window,
    out: Pair,
    groups: int = 1,
    bias: Array | None = None,
    full: int | None = None,
) -> Array:
    """Convolution as networks mean it: ``(batch, out, *out)`` from ``(batch, in, …)``.

    ``full``: output channels of the whole, where ``weight`` holds only some.
    """
    batch, channels, height, width = x.shape
    outs = weight.shape[0]
    if _pointwise(window, groups):
        y: Array = np.matmul(weight.reshape(outs, channels), x.reshape(batch, channels, height * width))
        if bias is not None:
            y += bias[:, None]
        return y.reshape(batch, outs, height, width)
    few = 2 * (full or outs) <= channels
    if groups == 1 and not few and strips.fits(window, (height, width), out):
        return strips.correlate(x, weight, window, out, bias, full)
    return phases.correlate(x, weight, window, out, groups, bias, few)


def correlate_transposed(
    dy: Array,
    weight: Array,
    window: Window,
    size: Pair,
    groups: int = 1,
    bias: Array | None = None,
    full: int | None = None,
) -> Array:
    """The adjoint of ``correlate`` in its input: ``(batch, in, *size)`` from ``(batch, out, …)``.

    ``weight`` is that of ``correlate``. ``full``: input channels of the whole, where ``weight``
    holds only some.
    """
    batch, outs, height, width = dy.shape
    channels = weight.shape[1]
    if _pointwise(window, groups):
        dx: Array = np.matmul(weight.reshape(outs, channels).T, dy.reshape(batch, outs, height * width))
        if bias is not None:
            dx += bias[:, None]
        return dx.reshape(batch, channels, *size)
    few = 2 * (full or groups * channels) <= outs
    if window.stride == (1, 1) and groups == 1 and not few:
        # a correlation with the kernel turned around
        (eh, ew), (top, left, bottom, right) = window.extent, window.padding
        turned = Window(
            window.kernel, (1, 1), (eh - 1 - top, ew - 1 - left, eh - 1 - bottom, ew - 1 - right), window.dilation
        )
        if strips.fits(turned, (height, width), size):
            return strips.correlate(dy, weight[:, :, ::-1, ::-1].swapaxes(0, 1), turned, size, bias, full)
    return phases.correlate_transposed(dy, weight, window, size, groups, bias, few)


def correlate_weight(
    x: Array, dy: Array, window: Window, groups: int = 1, full: int | None = None, deep: int | None = None
) -> Array:
    """The adjoint of ``correlate`` in its weight, summed over the batch: ``(out, in / groups, kh, kw)``.

    ``full`` and ``deep``: channels of the whole ``x`` and ``dy``, where these hold only some.
    """
    few = (deep or dy.shape[1]) < (full or x.shape[1])
    narrow = 2 * (deep or dy.shape[1]) <= (full or x.shape[1])
    out = cast(Pair, dy.shape[2:])
    if groups == 1 and not narrow and strips.fits(window, cast(Pair, x.shape[2:]), out):
        return strips.correlate_weight(x, dy, window, full, deep)
    return phases.correlate_weight(x, dy, window, groups, few, full, deep)
