"""Convolutions of any geometry: matrix products over shifted planes (see ``planes``)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from sparseplan.ops.base import Array
from sparseplan.ops.planes import Layout, Pair, Window, offset_layout, padded_planes, window_layout
from sparseplan.ops.scratch import scratch, zeros

#: bytes of stacked columns, and of planes, worked on at a time; they should stay in a core's L2 cache
BLOCK_BYTES = 1 << 19
GROUP_BYTES = 1 << 18


def _block(rows: int, span: int, itemsize: int) -> int:
    """Columns to stack at a time: even blocks of at most BLOCK_BYTES, never narrower than 256."""
    widest = max(256, BLOCK_BYTES // (rows * itemsize))
    blocks = -(-span // widest)
    return -(-span // blocks)


def _gather(planes: Array, taps: list[Pair], weights: Array, groups: int, span: int, flat: int) -> Array:
    """``weights (groups, out, taps * in)`` times the stacked planes: ``(groups, out, flat)``."""
    channels = planes.shape[1] // groups
    out = scratch("sums", (groups, weights.shape[1], flat), planes.dtype)
    if len(taps) == 1:
        phase, shift = taps[0]
        plane = planes[phase].reshape(groups, channels, -1)
        np.matmul(weights, plane[:, :, shift : shift + span], out=out[:, :, :span])
        return out
    if groups == 1 and all(tap == (i, 0) for i, tap in enumerate(taps)) and len(taps) == planes.shape[0]:
        stacked = planes.reshape(1, len(taps) * channels, -1)
        np.matmul(weights, stacked[:, :, :span], out=out[:, :, :span])
        return out
    block = _block(len(taps) * channels * groups, span, planes.itemsize)
    grouped = planes.reshape(planes.shape[0], groups, channels, -1)
    stack = scratch("stack", (groups, len(taps), channels, block), planes.dtype)
    for start in range(0, span, block):
        n = min(block, span - start)
        for i, (phase, shift) in enumerate(taps):
            stack[:, i, :, :n] = grouped[phase, :, :, start + shift : start + shift + n]
        columns = stack.reshape(groups, len(taps) * channels, block)[:, :, :n]
        np.matmul(weights, columns, out=out[:, :, start : start + n])
    return out


def _scatter(planes: Array, taps: list[Pair], weights: Array, groups: int, span: int, flat: int) -> Array:
    """As ``_gather`` with few outputs: products of whole planes, then shifted sums.

    ``weights`` is ``(taps, groups, out, in)``.
    """
    channels = planes.shape[1] // groups
    outs = weights.shape[2]
    total = zeros("sums", (groups, outs, flat), planes.dtype)
    for phase in range(planes.shape[0]):
        mine = [i for i, (p, _) in enumerate(taps) if p == phase]
        rows = weights[mine].transpose(1, 0, 2, 3).reshape(groups, len(mine) * outs, channels)
        product = scratch("more", (groups, len(mine) * outs, planes.shape[2]), planes.dtype)
        np.matmul(rows, planes[phase].reshape(groups, channels, -1), out=product)
        product = product.reshape(groups, len(mine), outs, -1)
        for i, tap in enumerate(mine):
            shift = taps[tap][1]
            total[:, :, :span] += product[:, i, :, shift : shift + span]
    return total


def _sample_groups(batch: int, layout: Layout, channels: int, itemsize: int) -> list[Pair]:
    """Half-open ranges of samples whose planes stay in cache together."""
    size = min(batch, max(1, GROUP_BYTES // (layout.phases * layout.plane * channels * itemsize)))
    return [(start, min(batch, start + size)) for start in range(0, batch, size)]


def correlate(
    x: Array,
    weight: Array,
    window: Window,
    out: Pair,
    groups: int = 1,
    bias: Array | None = None,
    few: bool = False,
) -> Array:
    """``windows.correlate``; ``few`` outputs are summed from products of whole planes."""
    batch, _, height, width = x.shape
    outs, channels, kh, kw = weight.shape
    per_group = outs // groups
    layout = window_layout(window, (height, width), out)
    taps = layout.taps
    few = few and len(taps) > 1
    rows: Array = weight.reshape(groups, per_group, channels, kh * kw)
    rows = rows.transpose(3, 0, 1, 2) if few else rows.swapaxes(2, 3).reshape(groups, per_group, -1)
    y = np.empty((batch, outs, *out), x.dtype)
    for start, stop in _sample_groups(batch, layout, channels * groups, x.itemsize):
        planes = padded_planes(x[start:stop], layout)
        span, flat = layout.span(stop - start), (stop - start) * layout.plane
        made = (_scatter if few else _gather)(planes, taps, rows, groups, span, flat)
        wide = made.reshape(outs, stop - start, layout.rows.size, layout.cols.size)
        _put(wide[:, :, : out[0], : out[1]].swapaxes(0, 1), bias, y[start:stop])
    return y


def _put(values: Array, bias: Array | None, target: Array) -> None:
    """``target[...] = values``, and a bias a channel (axis 1 of both)."""
    if bias is None:
        target[...] = values
    else:
        np.add(values, bias[:, None, None], out=target)


def correlate_transposed(
    dy: Array,
    weight: Array,
    window: Window,
    size: Pair,
    groups: int = 1,
    bias: Array | None = None,
    few: bool = False,
) -> Array:
    """``windows.correlate_transposed``; ``few`` as in ``correlate``.

    Each phase of the result is a correlation of ``dy`` with the taps that meet it. All phases are
    made by one product, with zeros where a phase lacks a tap that another has.
    """
    batch, outs, _, _ = dy.shape
    _, channels, kh, kw = weight.shape
    per_group = outs // groups
    (sh, sw), (dh, dw) = window.stride, window.dilation
    rows = _adjoint_axis(kh, sh, dh, window.padding[0], size[0])
    cols = _adjoint_axis(kw, sw, dw, window.padding[1], size[1])
    layout = offset_layout(rows.offsets, cols.offsets, (1, 1), (rows.pad, cols.pad), dy.shape[2:], (rows.out, cols.out))
    taps = layout.taps
    phases = [(pr, pc) for pr in rows.phases for pc in cols.phases]
    by_tap = weight.reshape(groups, per_group, channels, kh, kw).transpose(3, 4, 0, 2, 1)
    dense = np.zeros((groups, len(phases), channels, len(taps), per_group), weight.dtype)
    for i, (pr, pc) in enumerate(phases):
        for ky, r in zip(pr.taps, pr.shifts, strict=True):
            for kx, c in zip(pc.taps, pc.shifts, strict=True):
                dense[:, i, :, r * len(cols.offsets) + c] = by_tap[ky, kx]
    few = few and len(taps) > 1
    joined: Array = dense.reshape(groups, len(phases) * channels, len(taps), per_group)
    joined = joined.transpose(2, 0, 1, 3) if few else joined.reshape(*joined.shape[:2], len(taps) * per_group)
    dx = np.empty((batch, groups, channels, *size), dy.dtype)
    spread = None if bias is None else bias.reshape(groups, channels, 1, 1)
    if len(phases) < sh * sw:  # strides beyond the kernel leave pixels that no output sees
        dx[...] = 0 if spread is None else spread
        if not phases:
            return dx.reshape(batch, groups * channels, *size)
    for start, stop in _sample_groups(batch, layout, outs, dy.itemsize):
        planes = padded_planes(dy[start:stop], layout)
        span, flat = layout.span(stop - start), (stop - start) * layout.plane
        made = (_scatter if few else _gather)(planes, taps, joined, groups, span, flat)
        made = made.reshape(groups, len(phases), channels, stop - start, layout.rows.size, layout.cols.size)
        for i, (pr, pc) in enumerate(phases):
            part = made[:, i, :, :, pr.skip : pr.skip + pr.count, pc.skip : pc.skip + pc.count]
            part, target = part.transpose(2, 0, 1, 3, 4), dx[start:stop, :, :, pr.first :: sh, pc.first :: sw]
            if spread is None:
                target[...] = part
            else:
                np.add(part, spread, out=target)
    return dx.reshape(batch, groups * channels, *size)


@dataclass(frozen=True, slots=True)
class _AdjointPhase:
    """Pixels ``first + stride * i`` of the result, ``count`` of them, ``skip`` into the made rows.

    ``taps`` are the kernel positions that reach them, ``shifts`` indices into the offsets read.
    """

    first: int
    count: int
    skip: int
    taps: tuple[int, ...]
    shifts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _AdjointAxis:
    offsets: tuple[int, ...]
    pad: int
    out: int
    phases: tuple[_AdjointPhase, ...]


@lru_cache(maxsize=4096)
def _adjoint_axis(kernel: int, stride: int, dilation: int, pad: int, extent: int) -> _AdjointAxis:
    # pixel i stands at padded index i + pad = phase + stride * q; tap k reads dy at q - shift
    shift = [k * dilation // stride for k in range(kernel)]
    reach = max(shift)
    offsets = tuple(sorted({reach - s for s in shift}))
    q0 = pad // stride
    q1 = (pad + extent - 1) // stride + 1
    phases = []
    for first in range(min(stride, extent)):
        phase = (first + pad) % stride
        taps = tuple(k for k in range(kernel) if k * dilation % stride == phase)
        if taps:
            count = -(-(extent - first) // stride)
            skip = (first + pad) // stride - q0
            phases.append(_AdjointPhase(first, count, skip, taps, tuple(offsets.index(reach - shift[k]) for k in taps)))
    return _AdjointAxis(offsets, reach - q0, q1 - q0, tuple(phases))


def correlate_weight(
    x: Array,
    dy: Array,
    window: Window,
    groups: int = 1,
    few: bool = False,
    full: int | None = None,
    deep: int | None = None,
) -> Array:
    """``windows.correlate_weight``; with ``few`` outputs it is these that are shifted and stacked."""
    batch, inputs, height, width = x.shape
    outs = dy.shape[1]
    channels, per_group = inputs // groups, outs // groups
    layout = window_layout(window, (height, width), dy.shape[2:])
    method = _weight_of_shifted_outputs if few and len(layout.taps) > 1 else _weight_of_shifted_inputs
    total = np.zeros((len(layout.taps), groups, per_group, channels), x.dtype)
    # cuts depend on the channels of the whole, lest a part's sums be taken in another order
    stacked = (deep or outs) if few else (full or inputs)
    for start, stop in _sample_groups(batch, layout, full or inputs, x.itemsize):
        planes = padded_planes(x[start:stop], layout)
        planes = planes.reshape(layout.phases, groups, channels, -1)
        # outputs at the planes' width: zeros where a row wraps, and before the first to shift into
        flat = (stop - start) * layout.plane
        wide = zeros("turned", (groups, per_group, layout.reach + max(flat, planes.shape[3])), dy.dtype)
        view = wide[:, :, layout.reach : layout.reach + flat]
        view = view.reshape(outs, stop - start, layout.rows.size, layout.cols.size)
        view[:, :, : dy.shape[2], : dy.shape[3]] = dy[start:stop].swapaxes(0, 1)
        method(planes, wide, layout, layout.span(stop - start), total, stacked)
    return np.ascontiguousarray(total.transpose(1, 2, 3, 0)).reshape(outs, channels, *window.kernel)


def _weight_of_shifted_inputs(planes: Array, wide: Array, layout: Layout, span: int, total: Array, full: int) -> None:
    taps, reach = layout.taps, layout.reach
    _, groups, channels, _ = planes.shape
    if channels == wide.shape[1] == 1:  # depthwise
        for i, (phase, shift) in enumerate(taps):
            total[i, :, 0, 0] += np.vecdot(planes[phase, :, 0, shift : shift + span], wide[:, 0, reach : reach + span])
        return
    block = _block(len(taps) * full, span, planes.itemsize)
    stack = scratch("stack", (groups, len(taps), channels, block), planes.dtype)
    for start in range(0, span, block):
        n = min(block, span - start)
        for i, (phase, shift) in enumerate(taps):
            stack[:, i, :, :n] = planes[phase, :, :, start + shift : start + shift + n]
        stacked = stack.reshape(groups, len(taps) * channels, block)[:, :, :n]
        # the many rows first: OpenBLAS is half as fast the other way round
        part = np.matmul(stacked, wide[:, :, reach + start : reach + start + n].swapaxes(1, 2))
        total += part.reshape(groups, len(taps), channels, -1).transpose(1, 0, 3, 2)


def _weight_of_shifted_outputs(planes: Array, wide: Array, layout: Layout, span: int, total: Array, full: int) -> None:
    taps, reach = layout.taps, layout.reach
    groups, per_group, _ = wide.shape
    length = planes.shape[3]
    for phase in range(layout.phases):
        mine = [i for i, (p, _) in enumerate(taps) if p == phase]
        block = _block(len(mine) * full, length, planes.itemsize)
        stack = scratch("stack", (groups, len(mine), per_group, block), planes.dtype)
        for start in range(0, length, block):
            n = min(block, length - start)
            for i, tap in enumerate(mine):
                at = reach - taps[tap][1] + start
                stack[:, i, :, :n] = wide[:, :, at : at + n]
            stacked = stack.reshape(groups, len(mine) * per_group, block)[:, :, :n]
            part = np.matmul(stacked, planes[phase, :, :, start : start + n].swapaxes(1, 2))
            total[mine] += part.reshape(groups, len(mine), per_group, -1).swapaxes(0, 1)
