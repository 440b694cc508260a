"""Constant folding: what depends on constants and shapes alone, in NumPy, with sizes known before it is made."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from sparseplan.importers.draft import Array, Known, Shape, axis_of, broadcast
from sparseplan.importers.onnxcall import Call, Fold, Malformed, Unsupported, is_float
from sparseplan.importers.onnxdata import dtype_of
from sparseplan.importers.onnxgraph import short
from sparseplan.importers.onnxshapes import (
    expand_shape,
    flattened,
    perm_of,
    repeats_of,
    reshaped,
    sized,
    slice_ranges,
    split_sizes,
    squeezed,
    unsqueeze_axes,
    unsqueezed,
)

#: elements that all constants computed while importing may have together
MAX_FOLDED_ALL = 2**26


def _spread(call: Call, count: int | None = None) -> list[Array]:
    arrays = [call.array(i) for i in range(len(call.values) if count is None else count)]
    sized(broadcast(*(a.shape for a in arrays)))
    return arrays


def _unary(function: Callable[[Array], Any]) -> Fold:
    def fold(call: Call) -> Array:
        x = call.array(0)
        return np.asarray(function(x)).astype(x.dtype, copy=False)

    return fold


def _binary(function: Callable[[Array, Array], Any], same: bool = True) -> Fold:
    def fold(call: Call) -> Array:
        a, b = _spread(call, 2)
        if same and a.dtype != b.dtype:
            raise Malformed(f"inputs are of types {a.dtype} and {b.dtype}; they must be the same")
        made = np.asarray(function(a, b))
        return made.astype(a.dtype, copy=False) if same else made

    return fold


def _many(function: Callable[[Array, Array], Any]) -> Fold:
    def fold(call: Call) -> Array:
        first, *rest = _spread(call)
        for other in rest:
            first = np.asarray(function(first, other)).astype(first.dtype, copy=False)
        return first

    return fold


def _div(a: Array, b: Array) -> Array:
    if a.dtype.kind not in "iu":
        quotient: Array = np.divide(a, b)
        return quotient
    if not b.all():
        raise Malformed("division of integers by 0")
    whole: Array = np.floor_divide(a, b)  # ONNX rounds towards 0
    if a.dtype.kind == "i":
        whole = whole + ((whole < 0) & (whole * b != a))
    return whole


def _mod(call: Call) -> Array:
    a, b = _spread(call, 2)
    if a.dtype.kind in "iu" and not b.all():
        raise Malformed("remainder of a division of integers by 0")
    function = np.fmod if call.integer("fmod", 0) else np.mod
    return np.asarray(function(a, b))


def _pow(a: Array, b: Array) -> Array:
    if a.dtype.kind in "iu" and b.dtype.kind == "i" and (b < 0).any():
        raise Malformed("an integer to a negative power")
    power: Array = np.power(a, b).astype(a.dtype)
    return power


def _cast(call: Call) -> Array:
    return cast(call.array(0), call.integer("to"))


def cast(x: Array, to: int) -> Array:
    """Elements as another type; NaN and what lies beyond an integer type become anything, as in ONNX."""
    return x.astype(dtype_of(to, "attribute 'to'"))


def _cast_like(call: Call) -> Array:
    return call.array(0).astype(call.array(1).dtype)


def fill(call: Call) -> Array:
    """ConstantOfShape: a value over a shape."""
    value = call.attr("value", "tensor", np.zeros(1, np.float32))
    if value.size != 1:
        raise Malformed(f"attribute 'value' has shape {value.shape}; it must be one number")
    return np.full(sized(call.numbers(0)), value.reshape(()))


def _range(call: Call) -> Array:
    start, limit, delta = (call.array(i).reshape(()) if call.array(i).size == 1 else None for i in range(3))
    if start is None or limit is None or delta is None:
        raise Malformed("start, limit and delta must be one number each")
    if not float(delta) or not all(math.isfinite(float(v)) for v in (start, limit, delta)):
        raise Malformed(f"start={start}, limit={limit}, delta={delta} are no range")
    count = max(0, math.ceil((float(limit) - float(start)) / float(delta)))
    sized((count,))
    made: Array = (start + np.arange(count) * delta).astype(start.dtype)
    return made


def _concat(call: Call) -> Array:
    arrays = [call.array(i) for i in range(len(call.values))]
    if not arrays or len({a.ndim for a in arrays}) > 1 or not arrays[0].ndim:
        raise Malformed(f"shapes {[a.shape for a in arrays]} do not concatenate")
    axis = axis_of(call.integer("axis"), arrays[0].ndim)
    if len({a.shape[:axis] + a.shape[axis + 1 :] for a in arrays}) > 1:
        raise Malformed(f"shapes {[a.shape for a in arrays]} do not concatenate along axis {axis}")
    # a list of 1e5 copies of one constant is small in the file
    sized((sum(a.size for a in arrays),))
    return np.concatenate(arrays, axis)


def _slice(call: Call) -> Array:
    x = call.array(0)
    for axis, taken in enumerate(slice_ranges(call, x.shape)):
        if len(taken) != x.shape[axis] or taken.step != 1:
            x = np.take(x, np.asarray(taken, np.intp), axis)
    return x


def _gather(call: Call) -> Array:
    x, indices = call.array(0), call.array(1)
    if indices.dtype.kind not in "iu":
        raise Malformed(f"indices are of type {indices.dtype}; they must be integers")
    axis = axis_of(call.integer("axis", 0), x.ndim)
    sized((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))
    n = x.shape[axis]
    if indices.size and not (-n <= indices.min() and indices.max() < n):
        raise Malformed(f"indices {indices.reshape(-1)[:8].tolist()} lie outside extent {n} of axis {axis}")
    taken: Array = np.take(x, indices.astype(np.intp) % max(1, n), axis)
    return taken


def _expand(call: Call) -> Array:
    made: Array = np.broadcast_to(call.array(0), sized(expand_shape(call, call.array(0).shape)))
    return made


def _tile(call: Call) -> Array:
    x = call.array(0)
    repeats = repeats_of(call, x.ndim)
    sized([n * r for n, r in zip(x.shape, repeats, strict=True)])
    return np.tile(x, repeats)


def _where(call: Call) -> Array:
    condition, a, b = _spread(call, 3)
    return np.where(condition.astype(bool), a, b)


def _reduce(function: Callable[..., Any]) -> Fold:
    def fold(call: Call) -> Array:
        x = call.array(0)
        axes = call.axes(x.ndim)
        if not axes and call.integer("noop_with_empty_axes", 0):
            return x
        over = tuple(sorted(set(axes))) if axes else tuple(range(x.ndim))
        if not x.size:
            raise Malformed(f"a reduction of shape {x.shape}, which has no elements")
        made = function(x, axis=over, keepdims=bool(call.integer("keepdims", 1)))
        return np.asarray(made).astype(x.dtype, copy=False)

    return fold


def _split(call: Call) -> list[Array]:
    x = call.array(0)
    axis = axis_of(call.integer("axis", 0), x.ndim)
    return np.split(x, np.cumsum(split_sizes(call, x.shape[axis]))[:-1].tolist(), axis)


def _pad(call: Call) -> Array:
    x = call.array(0)
    if call.text("mode", "constant") != "constant" or call.has(3) or min(call.numbers(1), default=0) < 0:
        raise Unsupported("a constant padded in this way")
    pads, n = call.numbers(1), x.ndim
    if len(pads) != 2 * n:
        raise Malformed(f"pads={pads} must be {2 * n} numbers")
    widths = list(zip(pads[:n], pads[n:], strict=True))
    sized([a + m + b for m, (a, b) in zip(x.shape, widths, strict=True)])
    return np.pad(x, widths, constant_values=call.array(2).reshape(-1)[0] if call.has(2) else 0)


def _matmul(call: Call) -> Array:
    a, b = call.array(0), call.array(1)
    if not a.ndim or not b.ndim or a.shape[-1] != b.shape[-2 if b.ndim > 1 else 0]:
        raise Malformed(f"matrices {a.shape} and {b.shape} do not fit")
    rows, columns = a.shape[-2:-1], b.shape[-1:] if b.ndim > 1 else ()
    made = sized((*broadcast(a.shape[:-2], b.shape[:-2]), *rows, *columns))
    sized((math.prod(made), max(1, a.shape[-1] // 64)))  # bounds the time, too
    return np.asarray(np.matmul(a, b))


def _clip(call: Call) -> Array:
    low, high = (call.array(i).reshape(()) if call.has(i) and call.array(i).size == 1 else None for i in (1, 2))
    x = call.array(0)
    return x if low is None and high is None else np.clip(x, low, high)


def _constant(call: Call) -> Array:
    given = {name: attr for name, attr in call.node.attrs.items() if name.startswith("value")}
    if len(given) != 1:
        raise Malformed("exactly one of value, value_float, value_int, value_floats, value_ints must be given")
    ((name, attr),) = given.items()
    if name == "value" and attr.kind == "tensor":
        return np.asarray(attr.value)
    for wanted, kind, dtype in (
        ("value_float", "float", np.float32), ("value_int", "int", np.int64),
        ("value_floats", "floats", np.float32), ("value_ints", "ints", np.int64),
    ):  # fmt: skip
        if (name, attr.kind) == (wanted, kind):
            return np.array(attr.value, dtype)
    raise Malformed(f"attribute {short(name)} of kind {attr.kind} is no constant that can be read; use numbers")


def _onehot(call: Call) -> Array:
    indices, depth, values = call.array(0), call.numbers(1), call.array(2)
    if len(depth) != 1 or values.size != 2 or indices.dtype.kind not in "iu" or depth[0] < 1:
        raise Unsupported("this one-hot")
    axis = axis_of(call.integer("axis", -1), indices.ndim + 1)
    sized((*indices.shape, depth[0]))
    hot = (indices[..., None] % depth[0]) == np.arange(depth[0])
    return np.moveaxis(np.where(hot, values.reshape(-1)[1], values.reshape(-1)[0]), -1, axis)


def _trilu(call: Call) -> Array:
    shift = call.numbers(1)[0] if call.has(1) and call.array(1).size == 1 else 0
    shift = max(-(2**24), min(2**24, shift))
    if call.array(0).ndim < 2:
        raise Malformed(f"shape {call.array(0).shape} is no matrix")
    return np.triu(call.array(0), shift) if call.integer("upper", 1) else np.tril(call.array(0), shift)


def _cumsum(call: Call) -> Array:
    axis = call.numbers(1)
    if len(axis) != 1 or call.integer("exclusive", 0) or call.integer("reverse", 0):
        raise Unsupported("this cumulative sum")
    x = call.array(0)
    return np.cumsum(x, axis_of(axis[0], x.ndim), dtype=x.dtype)


def _reshape(call: Call) -> Array:
    return call.array(0).reshape(sized(reshaped(call, call.array(0).shape)))


def _nonzero(call: Call) -> Array:
    x = call.array(0)
    return np.array(np.nonzero(np.atleast_1d(x)), np.int64)


def _size_dtype(function: Callable[[Array], Any]) -> Fold:
    return lambda call: np.asarray(function(call.array(0)))


def named(call: Call, x: Known) -> Known:
    """A constant moved by Identity, Transpose, Reshape and the like, which stays the parameter that it is."""
    op, shape = call.node.op, x.shape
    if op == "Transpose":
        return x.transposed(perm_of(call, len(shape)))
    if op == "Reshape":
        return x.reshaped(reshaped(call, shape))
    if op == "Unsqueeze":
        return x.reshaped(unsqueezed(shape, unsqueeze_axes(call)))
    if op == "Squeeze":
        return x.reshaped(squeezed(shape, call.axes(len(shape))))
    if op == "Flatten":
        return x.reshaped(flattened(call, shape))
    if op == "Cast":
        made = cast(x.array, call.integer("to"))
        floats = is_float(made.dtype) and is_float(x.array.dtype)
        return (
            Known(made) if not floats and made.dtype.kind != x.array.dtype.kind else replace(x, array=made, scale=None)
        )
    return x


def whole(call: Call, x: Known) -> Known | None:
    """What a selection takes of a parameter, if that is all of it in its order: the parameter that it was."""
    if len(call.node.outputs) != 1 or (call.node.op == "Concat" and len(call.values) > 1):
        return None
    numbers = np.arange(x.array.size).reshape(x.shape)
    made = FOLDS[call.node.op](replace(call, values=(Known(numbers), *call.values[1:])))
    if not isinstance(made, np.ndarray) or made.size != numbers.size or (made.reshape(-1) != numbers.reshape(-1)).any():
        return None
    return x.reshaped(made.shape)


#: ops that take entries of a constant input; where they take all, it stays the parameter that it is
SELECTS = frozenset(("Concat", "Expand", "Gather", "Slice", "Split", "Tile"))

#: ops whose constant input stays the parameter that it is
NAMED = frozenset(("Identity", "Dropout", "Transpose", "Reshape", "Unsqueeze", "Squeeze", "Flatten", "Cast"))

FOLDS: dict[str, Fold] = {
    "Abs": _unary(np.abs),
    "Add": _binary(np.add),
    "And": _binary(np.logical_and, same=False),
    "Cast": _cast,
    "CastLike": _cast_like,
    "Ceil": _unary(np.ceil),
    "Clip": _clip,
    "Concat": _concat,
    "Constant": _constant,
    "ConstantOfShape": fill,
    "Cos": _unary(np.cos),
    "CumSum": _cumsum,
    "Div": _binary(_div),
    "Equal": _binary(np.equal, same=False),
    "Exp": _unary(np.exp),
    "Expand": _expand,
    "Floor": _unary(np.floor),
    "Gather": _gather,
    "Greater": _binary(np.greater, same=False),
    "GreaterOrEqual": _binary(np.greater_equal, same=False),
    "Less": _binary(np.less, same=False),
    "LessOrEqual": _binary(np.less_equal, same=False),
    "Log": _unary(np.log),
    "MatMul": _matmul,
    "Max": _many(np.maximum),
    "Min": _many(np.minimum),
    "Mod": _mod,
    "Mul": _binary(np.multiply),
    "Neg": _unary(np.negative),
    "NonZero": _nonzero,
    "Not": _size_dtype(np.logical_not),
    "OneHot": _onehot,
    "Or": _binary(np.logical_or, same=False),
    "Pad": _pad,
    "Pow": _binary(_pow, same=False),
    "Range": _range,
    "Reciprocal": _unary(np.reciprocal),
    "ReduceL1": _reduce(lambda x, **over: np.sum(np.abs(x), **over)),
    "ReduceL2": _reduce(lambda x, **over: np.sqrt(np.sum(np.square(x), **over))),
    "ReduceMax": _reduce(np.max),
    "ReduceMean": _reduce(np.mean),
    "ReduceMin": _reduce(np.min),
    "ReduceProd": _reduce(np.prod),
    "ReduceSum": _reduce(np.sum),
    "ReduceSumSquare": _reduce(lambda x, **over: np.sum(np.square(x), **over)),
    "Reshape": _reshape,
    "Round": _unary(np.round),
    "Shape": lambda call: shape_of(call, call.array(0).shape),
    "Sign": _unary(np.sign),
    "Sin": _unary(np.sin),
    "Size": lambda call: np.array(call.array(0).size, np.int64),
    "Slice": _slice,
    "Split": _split,
    "Sqrt": _unary(np.sqrt),
    "Sub": _binary(np.subtract),
    "Sum": _many(np.add),
    "Tanh": _unary(np.tanh),
    "Tile": _tile,
    "Trilu": _trilu,
    "Where": _where,
    "Xor": _binary(np.logical_xor, same=False),
}


def shape_of(call: Call, shape: Shape) -> Array:
    """Shape's output: some of the extents."""
    start, end = call.integer("start", 0), call.integer("end", len(shape))
    return np.array(shape[slice(start, end)], np.int64)
