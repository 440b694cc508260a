"""Convolutions of stride 1 that keep the width: matrix products over strips of shifted rows.

An image is cut into strips of a few rows. For each column of the kernel a strip is copied once,
shifted by whole elements, with zeros where a row would wrap into the next. A row of the kernel is
then a view into this stack, so a ``kh × kw`` kernel costs ``kw`` long copies and ``kh`` products.

Strips are low because OpenBLAS multiplies small matrices (``m · n · k`` up to a million) without
packing them first, a fifth faster than large ones that have but few rows.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.lib.stride_tricks import as_strided

from sparseplan.ops.base import Array
from sparseplan.ops.planes import Pair, Window
from sparseplan.ops.scratch import scratch, zeros

#: most multiplications of a product that OpenBLAS takes without packing
SMALL_PRODUCT = 1_000_000
#: bytes of stacked samples worked on at a time; they should stay in a core's L2 cache
GROUP_BYTES = 1 << 19


def fits(window: Window, size: Pair, out: Pair) -> bool:
    """Whether this module's functions take a correlation of ``size`` (rows, columns) to ``out``."""
    _, left, *_ = window.padding
    reach = max(left, (window.kernel[1] - 1) * window.dilation[1] - left)
    return window.stride == (1, 1) and out[1] == size[1] and reach < size[1] and min(window.padding) >= 0


class _Stack:
    """Strips of a group of samples, ``(group, strips, kw * channels (+ 1), elements)``.

    Attributes:
        strips, rows, pixels: number of strips of an image, output rows and pixels of a strip; the
            last strip may reach below the image.
        halo: rows that a strip reads more than it makes.
        group: samples stacked at a time.
    """

    def __init__(self, x: Array, outs: int, window: Window, height: int, ones: bool, full: int | None = None) -> None:
        self.batch, self.channels, self.height, self.width = x.shape
        self.window = window
        self.x = x.reshape(self.batch, self.channels, -1)
        self.taps = window.kernel[1] * self.channels
        depth = self.taps + ones
        # cuts depend on the channels of the whole, lest a part's sums be taken in another order
        whole = window.kernel[1] * (full or self.channels) + ones
        most = SMALL_PRODUCT // (outs * whole * self.width)
        # products that are large whatever the strip are best left whole
        self.strips = -(-height // most) if most else 1
        self.rows = -(-height // self.strips)
        self.strips = -(-height // self.rows)
        self.pixels = self.rows * self.width
        self.halo = window.extent[0] - 1
        elements = (self.rows + self.halo) * self.width
        per_sample = self.strips * whole * elements * x.itemsize
        self.group = min(self.batch, max(1, GROUP_BYTES // per_sample))
        self.data = scratch("stack", (self.group, self.strips, depth, elements), x.dtype)
        if ones:
            self.data[:, :, -1] = 1
        top, size = window.padding[0] * self.width, self.x.shape[2]
        if self.strips == 1:
            # rows above and below the image, which fills leave alone
            self.data[:, :, : self.taps, :top] = 0
            self.data[:, :, : self.taps, top + size :] = 0
        else:
            # images between rows of zeros, and the elements that shifts reach beyond these
            self.lead = top + window.padding[1]
            length = (self.strips * self.rows + self.halo) * self.width + window.extent[1] - 1
            self.padded = zeros("padded", (self.group, self.channels, length), x.dtype)

    def fill(self, first: int, last: int) -> Array:
        """Samples ``first`` to ``last`` stacked."""
        data = self.data[: last - first]
        image = data.reshape(last - first, self.strips, data.shape[2], -1, self.width)
        copy = self._copy_whole if self.strips == 1 else self._copy_strips
        copy(first, last, data)
        for _, part, shift in self._shifts():
            # what wrapped into the next row, or the one before
            if shift < 0:
                image[:, :, part, :, :-shift] = 0
            elif shift > 0:
                image[:, :, part, :, self.width - shift :] = 0
        return data

    def _shifts(self) -> Iterator[tuple[int, slice, int]]:
        """Of each column of the kernel: number, place in the stack, elements that it is shifted by."""
        for k in range(self.window.kernel[1]):
            part = slice(k * self.channels, (k + 1) * self.channels)
            yield k, part, k * self.window.dilation[1] - self.window.padding[1]

    def _copy_whole(self, first: int, last: int, data: Array) -> None:
        x, top = self.x[first:last], self.window.padding[0] * self.width
        size = x.shape[2]
        for _, part, shift in self._shifts():
            low, high = max(0, shift), min(size, size + shift)
            data[:, 0, part, top + low - shift : top + high - shift] = x[:, :, low:high]

    def _copy_strips(self, first: int, last: int, data: Array) -> None:
        padded = self.padded[: last - first]
        padded[:, :, self.lead : self.lead + self.x.shape[2]] = self.x[first:last]
        sample, channel, element = padded.strides
        strips = as_strided(  # overlapping by the halo; only read
            padded,
            (last - first, self.strips, self.channels, padded.shape[2] - (self.strips - 1) * self.pixels),
            (sample, self.pixels * element, channel, element),
            writeable=False,
        )
        for k, part, _ in self._shifts():
            at = k * self.window.dilation[1]
            data[:, :, part] = strips[:, :, :, at : at + data.shape[3]]

    def seen(self, ky: int) -> slice:
        """The elements of a strip that row ``ky`` of the kernel reads."""
        at = ky * self.window.dilation[0] * self.width
        return slice(at, at + self.pixels)


def correlate(
    x: Array, weight: Array, window: Window, out: Pair, bias: Array | None = None, full: int | None = None
) -> Array:
    """``windows.correlate`` without groups, where ``fits``."""
    batch = x.shape[0]
    outs, _, kh, _ = weight.shape
    stack = _Stack(x, full or outs, window, out[0], bias is not None)
    by_row = np.ascontiguousarray(weight.transpose(2, 0, 3, 1)).reshape(kh, outs, stack.taps)
    # the bias is the weight of a row of ones
    first_row = by_row[0] if bias is None else np.concatenate((by_row[0], bias[:, None]), axis=1)
    y = np.empty((batch, outs, out[0] * out[1]), x.dtype)
    whole = out[0] // stack.rows
    cut = whole * stack.pixels
    shape = (stack.group, stack.strips, outs, stack.pixels)
    sums, more = scratch("sums", shape, x.dtype), scratch("more", shape, x.dtype)
    for start in range(0, batch, stack.group):
        stop = min(batch, start + stack.group)
        data, total, part = stack.fill(start, stop), sums[: stop - start], more[: stop - start]
        np.matmul(first_row, data[..., stack.seen(0)], out=total)
        for ky in range(1, kh):
            np.matmul(by_row[ky], data[:, :, : stack.taps, stack.seen(ky)], out=part)
            if ky < kh - 1:
                np.add(total, part, out=total)
        made = y[start:stop]
        target = made[:, :, :cut].reshape(stop - start, outs, whole, stack.pixels).swapaxes(1, 2)
        rest = made.shape[2] - cut
        # the last sum puts strips in their place
        if kh > 1:
            np.add(total[:, :whole], part[:, :whole], out=target)
            if rest:
                np.add(total[:, -1, :, :rest], part[:, -1, :, :rest], out=made[:, :, cut:])
        else:
            target[...] = total[:, :whole]
            if rest:
                made[:, :, cut:] = total[:, -1, :, :rest]
    return y.reshape(batch, outs, *out)


def correlate_weight(x: Array, dy: Array, window: Window, full: int | None = None, deep: int | None = None) -> Array:
    """``windows.correlate_weight`` without groups, where ``fits``."""
    batch, outs, height, _ = dy.shape
    kh, kw = window.kernel
    stack = _Stack(x, deep or outs, window, height, False, full)
    total = np.zeros((kh, stack.taps, outs), x.dtype)
    flat = dy.reshape(batch, outs, -1)
    whole = height // stack.rows
    cut = whole * stack.pixels
    rest = flat.shape[2] - cut
    # pixels first, as products read them; what the last strip has below the image stays zero
    turned = zeros("turned", (stack.group, stack.strips, stack.pixels, outs), dy.dtype)
    for start in range(0, batch, stack.group):
        stop = min(batch, start + stack.group)
        data, columns, given = stack.fill(start, stop), turned[: stop - start], flat[start:stop]
        columns[:, :whole] = given[:, :, :cut].reshape(-1, outs, whole, stack.pixels).transpose(0, 2, 3, 1)
        if rest:
            columns[:, -1, :rest] = given[:, :, cut:].swapaxes(1, 2)
        for ky in range(kh):
            # the many rows first: OpenBLAS is half as fast the other way round
            part = np.matmul(data[..., stack.seen(ky)], columns)
            total[ky] += part[0, 0] if part.shape[:2] == (1, 1) else part.sum(axis=(0, 1))
    grad = total.reshape(kh, kw, stack.channels, outs).transpose(3, 2, 0, 1)
    return np.ascontiguousarray(grad)
