"""Kernels of ops that move elements, reduce axes or multiply matrices."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sparseplan.exporters.c.calls import Call
from sparseplan.exporters.c.context import Context, flat, lowers, lowers_aux
from sparseplan.exporters.c.pointwise import copied
from sparseplan.exporters.c.views import View, Views
from sparseplan.ops.base import Shape
from sparseplan.ops.interpolate import Resize

#: rules of an axis, as arrange.c numbers them
_LINEAR, _EDGE, _REFLECT, _TILE, _TABLE = range(5)
#: extent of y, extent of x, rule, two numbers
_Axis = tuple[int, int, int, int, int]


@lowers("forward", "flatten", "reshape", "detach")
def _view(c: Context) -> Call:
    return Call("sp_map:sp_same", c.inputs(), c.y())


@lowers("grad_input", "flatten", "reshape")
def _view_grad(c: Context) -> Call:
    return copied(c)


# -- parts of axes -----------------------------------------------------------------------------------------
def _plain(shape: Shape) -> list[_Axis]:
    return [(n, n, _LINEAR, 0, 1) for n in shape]


def _cut(shape: Shape, axis: int, lo: int, hi: int) -> list[_Axis]:
    """Entries ``[lo, hi)`` of an axis."""
    axes = _plain(shape)
    axes[axis] = (hi - lo, shape[axis], _LINEAR, lo, 1)
    return axes


def _axes(c: Context) -> tuple[list[_Axis], float, tuple[int, ...]]:
    """How each axis of an op's output is one of its input, what stands elsewhere, and a table."""
    attrs, x, y = c.attrs, c.info.inputs[0], c.info.output
    kind, fill = c.info.kind, 0.0
    if kind == "rows":
        return _cut(x, 1, attrs["lo"], attrs["hi"]), fill, ()
    if kind == "slice":
        starts = [slice(a, b, s).indices(n)[0]
                  for a, b, s, n in zip(attrs["starts"], attrs["stops"], attrs["steps"], x, strict=True)]  # fmt: skip
        return [(m, n, _LINEAR, a, s) for m, n, a, s in zip(y, x, starts, attrs["steps"], strict=True)], fill, ()
    if kind == "pad":
        if attrs["mode"] == "constant":
            return [(m, n, _LINEAR, -b, 1) for m, n, b in zip(y, x, attrs["before"], strict=True)], attrs["value"], ()
        rule = _EDGE if attrs["mode"] == "edge" else _REFLECT
        return [(m, n, rule, b, 0) for m, n, b in zip(y, x, attrs["before"], strict=True)], fill, ()
    if kind == "expand":
        return [(m, n, _LINEAR, 0, int(n == m)) for m, n in zip(y, x, strict=True)], fill, ()
    if kind == "tile":
        return [(m, n, _TILE, 0, 0) for m, n in zip(y, x, strict=True)], fill, ()
    axis = attrs["axis"] % len(x)  # gather
    axes = _plain(x)
    axes[axis] = (y[axis], x[axis], _TABLE, 1 + 5 * len(x), 0)
    return axes, fill, attrs["indices"]


def _arranged(axes: Sequence[_Axis], table: Sequence[int] = ()) -> tuple[int, ...]:
    return flat(len(axes), *axes, table)


_MOVES = ("rows", "slice", "pad", "expand", "tile", "gather")


@lowers("forward", *_MOVES)
def _move(c: Context) -> Call:
    axes, fill, table = _axes(c)
    return Call("sp_arrange", c.inputs(), c.y(), _arranged(axes, table), (fill,))


@lowers("grad_input", *_MOVES)
def _move_grad(c: Context) -> Call:
    axes, _, table = _axes(c)
    return Call("sp_arrange_grad", (c.read("dy"),), c.dx(), _arranged(axes, table))


def _joined_axis(c: Context) -> int:
    return 1 if c.info.kind == "join_rows" else c.attrs["axis"]


@lowers("forward", "concat", "join_rows")
def _join(c: Context) -> Call:
    axis, shape = _joined_axis(c), c.info.output
    ints = flat(math.prod(shape[:axis]), math.prod(shape[axis + 1 :]), [s[axis] for s in c.info.inputs])
    return Call("sp_concat", c.inputs(), c.y(), ints)


@lowers("grad_input", "concat", "join_rows")
def _join_grad(c: Context) -> Call:
    axis, shapes = _joined_axis(c), c.info.inputs
    start = sum(s[axis] for s in shapes[: c.slot])
    # dx is entries [start, stop) of dy: as the forward move of a slice
    axes = _cut(c.info.output, axis, start, start + shapes[c.slot][axis])
    return Call("sp_arrange", (c.read("dy"),), c.dx(), _arranged(axes), (0.0,))


def _resized(c: Context) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Extents, entries and weights of every axis, as the kernel takes them."""
    axes = Resize.axes(c.info)
    heads: list[int] = [len(axes)]
    table: list[int] = []
    weights: list[float] = []
    base = 1 + 7 * len(axes)
    for axis in axes:
        size, taps = axis.taps.shape
        first, last = axis.read_by()
        at = base + len(table)
        heads += [axis.extent, size, taps, at, len(weights), at + size * taps, at + size * taps + axis.extent]
        table += [*map(int, axis.taps.reshape(-1)), *map(int, first), *map(int, last)]
        weights += map(float, axis.weights.reshape(-1))
    return flat(heads, table), tuple(weights)


@lowers("forward", "resize")
def _resize(c: Context) -> Call:
    return Call("sp_resize", c.inputs(), c.y(), *_resized(c))


@lowers("grad_input", "resize")
def _resize_grad(c: Context) -> Call:
    return Call("sp_resize_grad", (c.read("dy"),), c.dx(), *_resized(c))


# -- sums of products ------------------------------------------------------------------------------------------
def _strides(shape: Shape) -> list[int]:
    return [math.prod(shape[i + 1 :]) for i in range(len(shape))]


@lowers("forward", "transpose")
def _transpose(c: Context) -> Call:
    strides, perm = _strides(c.info.inputs[0]), c.attrs["perm"]
    ints = flat(len(perm), 0, *((n, strides[p], 0) for n, p in zip(c.info.output, perm, strict=True)))
    return Call("sp_contract", c.inputs(), c.y(), ints, (1.0,))


@lowers("grad_input", "transpose")
def _transpose_grad(c: Context) -> Call:
    strides, perm = _strides(c.info.output), c.attrs["perm"]
    ints = flat(len(perm), 0, *((n, strides[perm.index(i)], 0) for i, n in enumerate(c.info.inputs[0])))
    return Call("sp_contract", (c.read("dy"),), c.dx(), ints, (1.0,))


class _Side:
    """Strides of a matmul's operand by axis: leads, rows, columns (as if it were not transposed)."""

    def __init__(self, shape: Shape, lead: Shape, turned: bool) -> None:
        strides = _strides(shape)
        self.lead = [0 if m != n else s for m, n, s in zip(shape[:-2], lead, strides, strict=False)]
        self.rows, self.cols = strides[-2:][::-1] if turned else strides[-2:]


def _sides(c: Context) -> tuple[_Side, _Side, _Side, Shape, tuple[int, int, int]]:
    lead, (m, n) = c.info.output[:-2], c.info.output[-2:]
    turn_a, turn_b = c.attrs["transpose_a"], c.attrs["transpose_b"]
    a, b = c.info.inputs
    k = a[-2 if turn_a else -1]
    return _Side(a, lead, turn_a), _Side(b, lead, turn_b), _Side(c.info.output, lead, False), lead, (m, n, k)


@lowers("forward", "matmul")
def _matmul(c: Context) -> Call:
    a, b, _, lead, (m, n, k) = _sides(c)
    axes = [*zip(lead, a.lead, b.lead, strict=True), (m, a.rows, 0), (n, 0, b.cols)]
    return Call("sp_contract", c.inputs(), c.y(), flat(len(axes), 1, *axes, (k, a.cols, b.rows)), (1.0,))


@lowers("grad_input", "matmul")
def _matmul_grad(c: Context) -> Call:
    a, b, y, lead, (m, n, k) = _sides(c)
    shape = c.info.inputs[c.slot]
    other = b if c.slot == 0 else a
    axes: list[tuple[int, int, int]] = []
    sums: list[tuple[int, int, int]] = []
    for extent, own, dy, with_ in zip(lead, shape[:-2], y.lead, other.lead, strict=True):
        if own == extent:
            axes.append((extent, dy, with_))
        else:  # spread in forward, so summed
            axes.append((1, 0, 0))
            sums.append((extent, dy, with_))
    if c.slot == 0:  # (m, k): over n
        last = [(m, y.rows, 0), (k, 0, b.rows)]
        sums.append((n, y.cols, b.cols))
    else:  # (k, n): over m
        last = [(k, 0, a.cols), (n, y.cols, 0)]
        sums.append((m, y.rows, a.rows))
    turned = c.attrs["transpose_b" if c.slot else "transpose_a"]
    axes += last[::-1] if turned else last
    ints = flat(len(axes), len(sums), *axes, *sums)
    return Call("sp_contract", (c.read("dy"), c.read(f"x{1 - c.slot}")), c.dx(), ints, (1.0,))


# -- reductions --------------------------------------------------------------------------------------------------
def _reduced(c: Context) -> list[int]:
    """Whether each axis of the input is reduced."""
    shape = c.info.inputs[0]
    axes = {a % len(shape) for a in c.attrs["axes"]}
    return [int(i in axes) for i in range(len(shape))]


def _count(c: Context) -> int:
    return math.prod(n for n, gone in zip(c.info.inputs[0], _reduced(c), strict=True) if gone)


@lowers("forward", "mean", "sum")
def _reduce(c: Context) -> Call:
    shape, gone = c.info.inputs[0], _reduced(c)
    each = [(n, s, 0) for n, s in zip(shape, _strides(shape), strict=True)]
    axes = [a for a, g in zip(each, gone, strict=True) if not g]
    sums = [a for a, g in zip(each, gone, strict=True) if g]
    factor = 1 / _count(c) if c.info.kind == "mean" else 1.0
    return Call("sp_contract", c.inputs(), c.y(), flat(len(axes), len(sums), *axes, *sums), (factor,))


@lowers("grad_input", "mean", "sum")
def _reduce_grad(c: Context) -> Call:
    shape, gone = c.info.inputs[0], _reduced(c)
    strides = _strides(tuple(1 if g else n for n, g in zip(shape, gone, strict=True)))
    axes = [(n, 0 if g else s, 0) for n, s, g in zip(shape, strides, gone, strict=True)]
    factor = 1 / _count(c) if c.info.kind == "mean" else 1.0
    return Call("sp_contract", (c.read("dy"),), c.dx(), flat(len(axes), 0, *axes), (factor,))


def _extreme_ints(c: Context) -> tuple[int, ...]:
    shape = c.info.inputs[0]
    return flat(len(shape), shape, _reduced(c), 1 if c.info.kind == "amax" else -1)


@lowers("forward", "amax", "amin")
def _extreme(c: Context) -> Call:
    return Call("sp_extreme", c.inputs(), c.y(), _extreme_ints(c))


@lowers_aux("amax", "amin")
def _extreme_mask(c: Context, tag: str, x: Views, mask: View) -> Call:
    return Call("sp_extreme_mask", x, (mask,), _extreme_ints(c))


@lowers("grad_input", "amax", "amin")
def _extreme_grad(c: Context) -> Call:
    masked = c.has("mask")
    reads = (c.read("dy"), c.read("mask" if masked else "x0"))
    return Call("sp_extreme_grad", reads, c.dx(), (*_extreme_ints(c), int(masked)))
