"""Layouts of padded images as flat planes, in which a tap of a kernel is a shift.

One layout serves the three passes of convolutions and transposed convolutions. The padded
input is split into ``stride`` phases, each a flat plane of channels × (batch · rows · columns).
A tap of the kernel is then a *shift* of a plane: what it reads for consecutive outputs is
consecutive in memory, so columns are stacked by long copies rather than by small windows.
Outputs are computed at the plane's width; what wraps around a row is dropped at the end.
The zeros right of a row double as the zeros left of the next one.

All arrays are ``(batch, channels, height, width)``, weights ``(out, in / groups, kh, kw)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from sparseplan.ops.base import Array
from sparseplan.ops.scratch import zeros

Pair = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Window:
    """Geometry of a sliding window; ``padding`` is (top, left, bottom, right)."""

    kernel: Pair
    stride: Pair = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: Pair = (1, 1)

    @property
    def extent(self) -> Pair:
        """Rows and columns that the dilated kernel spans."""
        return ((self.kernel[0] - 1) * self.dilation[0] + 1, (self.kernel[1] - 1) * self.dilation[1] + 1)

    def output(self, height: int, width: int) -> Pair:
        """Rows and columns of outputs (below 1 where the window does not fit)."""
        top, left, bottom, right = self.padding
        return (
            (height + top + bottom - self.extent[0]) // self.stride[0] + 1,
            (width + left + right - self.extent[1]) // self.stride[1] + 1,
        )


@dataclass(frozen=True, slots=True)
class _Axis:
    """One axis of a layout.

    Attributes:
        taps: (phase, shift in the phase) of each kernel position.
        copies: for each phase: first plane index, first source index, count.
        size: extent of a plane; a row's trailing zeros beyond it are the next row's leading ones.
        reach: largest shift.
    """

    taps: tuple[Pair, ...]
    copies: tuple[tuple[int, int, int], ...]
    size: int
    reach: int


def _axis(offsets: tuple[int, ...], stride: int, pad: int, extent: int, out: int) -> _Axis:
    phases = sorted({o % stride for o in offsets})
    taps = tuple((phases.index(o % stride), o // stride) for o in offsets)
    reach = max(shift for _, shift in taps)
    full = out + reach
    copies = []
    share = reach
    for phase in phases:
        # plane index q stands for source index phase + stride * q - pad
        first = max(0, -((phase - pad) // stride))
        last = min(full, (extent - 1 + pad - phase) // stride + 1)
        count = max(0, last - first)
        copies.append((first, phase + stride * first - pad, count))
        if count:
            share = min(share, first, full - last)
    return _Axis(taps, tuple(copies), full - share, reach)


@dataclass(frozen=True, slots=True)
class Layout:
    rows: _Axis
    cols: _Axis
    out: Pair
    stride: Pair

    @property
    def plane(self) -> int:
        return self.rows.size * self.cols.size

    @property
    def phases(self) -> int:
        return len(self.rows.copies) * len(self.cols.copies)

    @property
    def taps(self) -> list[Pair]:
        """(phase, flat shift) of each tap, row by row."""
        wide = len(self.cols.copies)
        return [(pr * wide + pc, sr * self.cols.size + sc) for pr, sr in self.rows.taps for pc, sc in self.cols.taps]

    @property
    def reach(self) -> int:
        return self.rows.reach * self.cols.size + self.cols.reach

    def span(self, batch: int) -> int:
        """Flat columns from the first to the last output."""
        return (batch - 1) * self.plane + (self.out[0] - 1) * self.cols.size + self.out[1]


@lru_cache(maxsize=4096)
def offset_layout(
    row_offsets: tuple[int, ...],
    col_offsets: tuple[int, ...],
    stride: Pair,
    pad: Pair,
    size: Pair,
    out: Pair,
) -> Layout:
    return Layout(
        _axis(row_offsets, stride[0], pad[0], size[0], out[0]),
        _axis(col_offsets, stride[1], pad[1], size[1], out[1]),
        out,
        stride,
    )


def window_layout(window: Window, size: Pair, out: Pair) -> Layout:
    (kh, kw), (dh, dw) = window.kernel, window.dilation
    return offset_layout(
        tuple(range(0, kh * dh, dh)), tuple(range(0, kw * dw, dw)), window.stride, window.padding[:2], size, out
    )


def padded_planes(x: Array, layout: Layout) -> Array:
    """Phases of the padded input, ``(phases, channels, flat)``."""
    batch, channels = x.shape[:2]
    rows, cols = layout.rows, layout.cols
    flat = batch * layout.plane
    # shared zeros: the last row's wrap reads past the last plane
    length = max(flat, layout.span(batch) + layout.reach)
    planes = zeros("planes", (layout.phases, channels, length), x.dtype)
    view = planes[:, :, :flat].reshape(layout.phases, channels, batch, rows.size, cols.size)
    sh, sw = layout.stride
    source = x.transpose(1, 0, 2, 3)
    phase = 0
    for r0, y0, nr in rows.copies:
        for c0, x0, nc in cols.copies:
            if nr and nc:
                view[phase, :, :, r0 : r0 + nr, c0 : c0 + nc] = source[
                    :, :, y0 : y0 + (nr - 1) * sh + 1 : sh, x0 : x0 + (nc - 1) * sw + 1 : sw
                ]
            phase += 1
    return planes
