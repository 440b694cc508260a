"""Ops that move elements, look them up, or rename axes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sparseplan.importers.draft import Draft, Known, Made, Shape, axis_of
from sparseplan.importers.onnxcall import Call, Held, Malformed, OneHot, Picked, Rule, Unsupported, is_float
from sparseplan.importers.onnxdata import dtype_of
from sparseplan.importers.onnxshapes import (
    expand_shape,
    flattened,
    perm_of,
    repeats_of,
    reshaped,
    slice_ranges,
    split_sizes,
    squeezed,
    unsqueeze_axes,
    unsqueezed,
)


def is_ids(draft: Draft, held: Held | None) -> bool:
    """Whether a value is an input of integers, which only ops that look something up read."""
    return isinstance(held, Made) and draft.stored(held.tensor) == "i32"


def _renamed(call: Call, shape: Shape) -> Held:
    """Input 0 under another shape; one of integers is renamed when it is looked up."""
    held = call.values[0]
    if isinstance(held, OneHot):
        if shape[-1:] != held.shape[-1:]:
            raise Unsupported("a one-hot of integers under another depth")
        return OneHot(held.ids, shape)
    if isinstance(held, Made) and is_ids(call.draft, held):
        if np.prod(shape, dtype=object) != np.prod(held.shape, dtype=object):
            raise Malformed(f"shape {held.shape} cannot be read as {shape}")
        return Made(held.tensor, shape)
    return call.draft.reshape(call.made(0), shape)


def _shape(call: Call) -> Shape:
    held = call.values[0] if call.values else None
    if held is None:
        raise Malformed("input 0 is missing")
    return held.shape


def _reshape(call: Call) -> Held:
    return _renamed(call, reshaped(call, _shape(call)))


def _flatten(call: Call) -> Held:
    return _renamed(call, flattened(call, _shape(call)))


def _squeeze(call: Call) -> Held:
    return _renamed(call, squeezed(_shape(call), call.axes(len(_shape(call)))))


def _unsqueeze(call: Call) -> Held:
    return _renamed(call, unsqueezed(_shape(call), unsqueeze_axes(call)))


def _identity(call: Call) -> Held:
    held = call.values[0] if call.values else None
    if held is None:
        raise Malformed("input 0 is missing")
    return held


def _dropout(call: Call) -> Held:
    if call.has(2) and bool(call.array(2).reshape(-1)[:1].any()):
        raise Unsupported("training_mode=true; export the network for inference")
    call.one_output()
    return _identity(call)


def _cast(call: Call) -> Held:
    held, to = _identity(call), dtype_of(call.integer("to"), "attribute 'to'")
    return cast_to(call, held, to)


def _cast_like(call: Call) -> Held:
    to = call.dtypes[1]
    if to is None:
        raise Unsupported("the type that it casts to is not known")
    return cast_to(call, _identity(call), to)


def cast_to(call: Call, held: Held, to: np.dtype[np.generic]) -> Held:
    """A value as another type: nothing is done among floats, nor from integers."""
    if isinstance(held, OneHot):
        return held
    if isinstance(held, Known):  # like a tensor, of which only the type matters
        made = held.array.astype(to)
        floats = is_float(to) and is_float(held.array.dtype)
        return replace(held, array=made, scale=None) if floats else Known(made, parents=call.draft.parents(held))
    source = call.dtypes[0]
    if isinstance(held, Picked) or is_ids(call.draft, held):
        if not is_float(to) and to.kind in "iu":
            return held
        raise Unsupported("an input of integers is read both as numbers of things and as floats")
    if is_float(to) or (source is not None and source.kind == "b"):
        return held
    if source is not None and source.kind in "iu" and to.kind in "iu" and to.itemsize >= source.itemsize:
        return held
    raise Unsupported(f"a cast from {source} to {to}")


def _transpose(call: Call) -> Held:
    x = call.made(0)
    return call.draft.transpose(x, perm_of(call, x.rank))


def _slice(call: Call) -> Held:
    x = call.made(0)
    ranges = slice_ranges(call, x.shape)
    draft = call.draft
    for axis, taken in enumerate(ranges):
        if not taken:
            raise Malformed(f"nothing of axis {axis} of shape {x.shape} is taken")
    plain = [r if r.step > 0 else range(n) for r, n in zip(ranges, x.shape, strict=True)]
    x = draft.slice(x, [r.start for r in plain], [r.stop for r in plain], [r.step for r in plain])
    for axis, taken in enumerate(ranges):
        if taken.step < 0:
            x = draft.gather(x, axis, np.asarray(taken, np.int64))
    return x


def _split(call: Call) -> list[Held]:
    x = call.made(0)
    axis = axis_of(call.integer("axis", 0), x.rank)
    result: list[Held] = []
    at = 0
    for name, size in zip(call.node.outputs, split_sizes(call, x.shape[axis]), strict=True):
        if size < 1:
            raise Malformed("one of its outputs is empty")
        starts, stops = [0] * x.rank, list(x.shape)
        starts[axis], stops[axis] = at, at + size
        result.append(call.draft.slice(x, starts, stops, [1] * x.rank) if name else x)
        at += size
    return result


def _concat(call: Call) -> Held:
    values = [call.value(i) for i in range(len(call.values))]
    if not values or not values[0].shape:
        raise Malformed("there is nothing to concatenate")
    axis = axis_of(call.integer("axis"), len(values[0].shape))
    kept = [v for v in values if len(v.shape) <= axis or v.shape[axis]]  # nothing joins to nothing
    return call.draft.concat(kept, axis)


def _expand(call: Call) -> Held:
    shape = expand_shape(call, _shape(call))
    if shape == _shape(call):
        return _identity(call)
    if isinstance(call.values[0], OneHot) or is_ids(call.draft, call.values[0]):
        held = call.values[0]
        # an integer spread along a new last axis is told by its own shape, until it is compared there
        if isinstance(held, Made) and held.shape[-1:] == (1,) and shape[:-1] == held.shape[:-1]:
            return OneHot(held, shape)
        raise Unsupported("integers are spread")
    return call.draft.expand(call.made(0), shape)


def _tile(call: Call) -> Held:
    x = call.made(0)
    repeats = repeats_of(call, x.rank)
    work = [i for i, n in enumerate(repeats) if n != 1]
    if not work:
        return x
    if 0 in repeats:
        raise Malformed(f"repeats={repeats} leave nothing")
    shape = tuple(n * r for n, r in zip(x.shape, repeats, strict=True))
    if all(x.shape[i] == 1 for i in work):
        return call.draft.expand(x, shape)
    tensor, shift = call.draft.with_axes(x, work)
    return call.draft.wrap(call.draft.op("tile", [tensor], repeats=tuple(repeats[shift:])), shape)


def _gather(call: Call) -> Held:
    table, where = call.value(0), call.values[1] if len(call.values) > 1 else None
    axis = axis_of(call.integer("axis", 0), len(table.shape))
    if isinstance(where, Known):
        if where.array.dtype.kind not in "iu":
            raise Malformed(f"indices are of type {where.array.dtype}; they must be integers")
        extent = table.shape[axis]
        if where.array.size and not (-extent <= where.array.min() and where.array.max() < extent):
            some = where.array.reshape(-1)[:8].tolist()
            raise Malformed(f"indices {some} lie outside extent {extent} of axis {axis}")
        if where.array.size > 2**20:
            raise Unsupported("over 2**20 constant indices")
        return call.draft.gather(call.made(0), axis, call.array(1))
    if not is_ids(call.draft, table) and axis == 0 and len(table.shape) == 2:
        if isinstance(where, Made) and is_ids(call.draft, where):
            return embed(call.draft, where, where.shape, call.weight(0))
        if isinstance(where, Picked):
            rows = embed(call.draft, where.ids, (where.ids.count,), call.weight(0))
            return call.draft.gather(rows, 0, where.index)
    call.value(1)
    raise Unsupported("indices are computed")


def embed(draft: Draft, ids: Made, shape: Shape, table: Known) -> Made:
    """Rows of a constant table by an input of integers whose full shape was renamed to ``shape``."""
    num, dim = table.shape
    tensor = draft.op("embedding", [ids.tensor], {"weight": table}, num=num, dim=dim)
    return draft.wrap(tensor, (*shape, dim))


def _equal(call: Call) -> Held:
    """Integers compared with 0, 1, 2 … along a last axis of their own: a one-hot."""
    for a, b in (call.values[:2], call.values[1::-1]):
        if not isinstance(b, Known) or b.array.dtype.kind not in "iu":
            continue
        if isinstance(a, OneHot) and a.ids.shape[-1:] == (1,):
            ids, shape = a.ids, a.shape
        elif isinstance(a, Made) and is_ids(call.draft, a) and a.shape[-1:] == (1,):
            ids, shape = a, (*a.shape[:-1], b.shape[-1] if b.shape else 1)
        else:
            continue
        depth = shape[-1]
        counted = np.arange(depth)
        if b.shape[-1:] == (depth,) and len(b.shape) <= len(shape):
            rows = b.array.reshape(-1, depth)
            lead = all(n in (1, m) for n, m in zip(b.shape[:-1][::-1], shape[:-1][::-1], strict=False))
            if lead and (rows == counted).all():
                return OneHot(Made(ids.tensor, ids.shape[:-1]), shape)
    raise Unsupported("truth values are computed")


def _one_hot(call: Call) -> Held:
    held, depth, values = call.values[0], call.numbers(1), call.array(2)
    rank = len(_shape(call)) + 1
    plain = values.size == 2 and [float(v) for v in values.reshape(-1)] == [0.0, 1.0]
    if not (isinstance(held, Made) and is_ids(call.draft, held) and plain and len(depth) == 1):
        raise Unsupported("this one-hot")
    if axis_of(call.integer("axis", -1), rank) != rank - 1:
        raise Unsupported("a one-hot along another axis than the last")
    return OneHot(held, (*held.shape, depth[0]))


def _pad(call: Call) -> Held:
    x = call.made(0)
    pads = call.numbers(1)
    axes = call.axes(x.rank, 3) if call.has(3) else list(range(x.rank))
    if axes is None or len(pads) != 2 * len(axes):
        raise Malformed(f"pads={pads[:16]} must be two numbers an axis")
    before, after = [0] * x.rank, [0] * x.rank
    for i, axis in enumerate(axes):
        before[axis], after[axis] = pads[i], pads[len(axes) + i]
    mode = call.text("mode", "constant")
    if mode not in ("constant", "reflect", "edge"):
        raise Unsupported(f"mode={mode!r}")
    value = call.scalar(2) if call.has(2) and mode == "constant" else 0.0
    if not np.isfinite(value):
        raise Unsupported(f"padding with {value}")
    return call.draft.pad(x, before, after, mode, value)


def _depth_to_space(call: Call) -> Held:
    x, size = call.made(0), call.integer("blocksize")
    if x.rank != 4 or size < 1 or x.shape[1] % (size * size):
        raise Malformed(f"shape {x.shape} has no channels for blocks of {size}")
    n, c, h, w = x.shape
    deep, mode = c // (size * size), call.text("mode", "DCR")
    if mode not in ("DCR", "CRD"):
        raise Malformed(f"mode={mode!r} must be DCR or CRD")
    split, perm = ((n, size, size, deep, h, w), (0, 3, 4, 1, 5, 2)) if mode == "DCR" else (
        (n, deep, size, size, h, w), (0, 1, 4, 2, 5, 3))  # fmt: skip
    draft = call.draft
    return draft.reshape(draft.transpose(draft.reshape(x, split), perm), (n, deep, h * size, w * size))


def _space_to_depth(call: Call) -> Held:
    x, size = call.made(0), call.integer("blocksize")
    if x.rank != 4 or size < 1 or x.shape[2] % size or x.shape[3] % size:
        raise Malformed(f"shape {x.shape} does not divide into blocks of {size}")
    n, c, h, w = x.shape
    draft = call.draft
    moved = draft.transpose(draft.reshape(x, (n, c, h // size, size, w // size, size)), (0, 3, 5, 1, 2, 4))
    return draft.reshape(moved, (n, c * size * size, h // size, w // size))


def _trilu(call: Call) -> Held:
    """A triangle of matrices: a product with ones and zeros."""
    x, shift = call.made(0), call.numbers(1)[0] if call.has(1) else 0
    if x.rank < 2:
        raise Malformed(f"shape {x.shape} is no matrix")
    keep = np.triu if call.integer("upper", 1) else np.tril
    return call.draft.mul(x, Known(keep(np.ones(x.shape[-2:], np.float32), max(-(2**24), min(2**24, shift)))))


def _fill(call: Call) -> Held:
    raise Unsupported("a shape that is computed from data")


RULES: dict[str, Rule] = {
    "Cast": _cast,
    "CastLike": _cast_like,
    "Concat": _concat,
    "ConstantOfShape": _fill,
    "DepthToSpace": _depth_to_space,
    "Dropout": _dropout,
    "Equal": _equal,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "Identity": _identity,
    "OneHot": _one_hot,
    "Pad": _pad,
    "Reshape": _reshape,
    "Slice": _slice,
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Trilu": _trilu,
    "Unsqueeze": _unsqueeze,
}

#: rules that an input of integers may be given to
IDS = frozenset(
    (
        "Cast",
        "CastLike",
        "Equal",
        "Expand",
        "Flatten",
        "Gather",
        "Identity",
        "OneHot",
        "Reshape",
        "Squeeze",
        "Unsqueeze",
    )
)
#: rules that values of any type may be given to, once computed
INTEGERS = IDS | {"Concat", "Slice", "Split", "Tile", "Transpose", "DepthToSpace", "SpaceToDepth"}
