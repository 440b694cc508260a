"""Convolutions of stride 1 that keep the width: matrix products over strips of shifted rows.

For each column of the kernel the whole image is copied once, shifted by whole elements, with
zeros where a row would wrap into the next. A row of the kernel is then a view into this stack, so
a ``kh × kw`` kernel costs ``kw`` long copies and ``kh`` matrix products, whose results *are* the
output: nothing is cropped. Samples are worked on in groups whose stack stays in cache.
"""

from __future__ import annotations

import numpy as np

from sparseplan.ops.base import Array
from sparseplan.ops.phases import Pair, Window

#: bytes of stacked samples worked on at a time; they should stay in a core's L2 cache
GROUP_BYTES = 1 << 19


def fits(window: Window, size: Pair, out: Pair) -> bool:
    """Whether this module's functions take a correlation of ``size`` (rows, columns) to ``out``."""
    _, left, *_ = window.padding
    reach = max(left, (window.kernel[1] - 1) * window.dilation[1] - left)
    return window.stride == (1, 1) and out[1] == size[1] and reach < size[1] and min(window.padding) >= 0


class _Stack:
    """Shifted copies of a group of samples, ``(group, kw * channels (+ 1), rows * columns)``."""

    def __init__(self, x: Array, window: Window, out: Pair, ones: bool) -> None:
        batch, self.channels, self.height, self.width = x.shape
        self.window, self.x = window, x.reshape(batch, self.channels, -1)
        self.taps = window.kernel[1] * self.channels
        self.pixels = out[0] * self.width
        rows = out[0] + window.extent[0] - 1
        per_sample = (self.taps + ones) * rows * self.width
        self.group = min(batch, max(1, GROUP_BYTES // (per_sample * x.itemsize)))
        self.data = np.empty((self.group, self.taps + ones, rows * self.width), x.dtype)
        start = window.padding[0] * self.width
        self.data[:, :, :start] = 0
        self.data[:, :, start + self.x.shape[2] :] = 0
        if ones:
            self.data[:, -1] = 1

    def fill(self, first: int, last: int) -> Array:
        """Samples ``first`` to ``last`` stacked; rows above and below the image stay zero."""
        data = self.data[: last - first]
        x, width = self.x[first:last], self.width
        start = self.window.padding[0] * width
        size = x.shape[2]
        image = data.reshape(last - first, -1, data.shape[2] // width, width)
        for k in range(self.window.kernel[1]):
            part = slice(k * self.channels, (k + 1) * self.channels)
            shift = k * self.window.dilation[1] - self.window.padding[1]
            if shift >= 0:
                data[:, part, start : start + size - shift] = x[:, :, shift:]
                image[:, part, :, width - shift :] = 0
            else:
                data[:, part, start - shift : start + size] = x[:, :, : size + shift]
                image[:, part, :, :-shift] = 0
        return data

    def rows(self, data: Array, ky: int) -> slice:
        """The columns of ``data`` that row ``ky`` of the kernel reads."""
        at = ky * self.window.dilation[0] * self.width
        return slice(at, at + self.pixels)


def correlate(x: Array, weight: Array, window: Window, out: Pair, bias: Array | None = None) -> Array:
    """``windows.correlate`` without groups, where ``fits``."""
    batch = x.shape[0]
    outs, _, kh, _ = weight.shape
    stack = _Stack(x, window, out, bias is not None)
    by_row = weight.transpose(2, 0, 3, 1).reshape(kh, outs, stack.taps)
    # the bias is the weight of a row of ones
    first_row = by_row[0] if bias is None else np.concatenate((by_row[0], bias[:, None]), axis=1)
    y = np.empty((batch, outs, stack.pixels), x.dtype)
    more = np.empty((stack.group if kh > 1 else 0, outs, stack.pixels), x.dtype)
    for start in range(0, batch, stack.group):
        stop = min(batch, start + stack.group)
        data, made = stack.fill(start, stop), y[start:stop]
        np.matmul(first_row, data[:, :, stack.rows(data, 0)], out=made)
        for ky in range(1, kh):
            part = np.matmul(by_row[ky], data[:, : stack.taps, stack.rows(data, ky)], out=more[: stop - start])
            np.add(made, part, out=made)
    return y.reshape(batch, outs, *out)


def correlate_weight(x: Array, dy: Array, window: Window) -> Array:
    """``windows.correlate_weight`` without groups, where ``fits``."""
    batch, outs = dy.shape[:2]
    kh, kw = window.kernel
    stack = _Stack(x, window, (dy.shape[2], dy.shape[3]), False)
    columns = dy.reshape(batch, outs, stack.pixels).swapaxes(1, 2)
    total = np.zeros((kh, stack.taps, outs), x.dtype)
    for start in range(0, batch, stack.group):
        stop = min(batch, start + stack.group)
        data = stack.fill(start, stop)
        for ky in range(kh):
            # the many rows first: OpenBLAS is half as fast the other way round
            part = np.matmul(data[:, :, stack.rows(data, ky)], columns[start:stop])
            total[ky] += part[0] if stop - start == 1 else part.sum(axis=0)
    grad = total.reshape(kh, kw, stack.channels, outs).transpose(3, 2, 0, 1)
    return np.ascontiguousarray(grad)
