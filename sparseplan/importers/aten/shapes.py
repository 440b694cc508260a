"""Rules for views, cuts and joins. A parameter that is only viewed stays a parameter."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from sparseplan.errors import NetworkError
from sparseplan.importers.aten.base import Call, Result, Unsaid, floats, rule, value
from sparseplan.importers.draft import Array, Draft, Known, Made, Shape, Value, axis_of

#: views that keep the order of elements
RESHAPES = frozenset((
    "view", "_unsafe_view", "reshape", "_reshape_alias", "flatten", "unflatten", "unsqueeze", "squeeze", "view_as",
    "ravel", "view_copy", "squeeze_copy", "unsqueeze_copy",
))  # fmt: skip
#: views that change the order of axes
TURNS = frozenset(("permute", "transpose", "t", "numpy_T", "movedim", "swapaxes", "permute_copy", "transpose_copy"))
#: what moves elements and computes nothing
MOVES = RESHAPES | TURNS | frozenset((
    "clone", "contiguous", "alias", "detach", "to", "_to_copy", "slice", "select", "narrow", "index_select", "split",
    "split_with_sizes", "chunk", "unbind", "flip", "roll", "repeat", "expand", "cat", "stack",
))  # fmt: skip


@rule(*sorted(RESHAPES))
def _reshape(c: Call) -> Value:
    # whatever the arguments say, the output's shape says it all
    return reshaped(c.draft, value(c["self"]), c.shape)


@rule(
    "clone", "contiguous", "alias", "detach", "detach_", "lift_fresh_copy", "lift_fresh", "lift", "dropout",
    "feature_dropout", "alpha_dropout", "native_dropout", "to", "_to_copy", "type_as", "positive", "identity",
    "alias_copy", "detach_copy",
)  # fmt: skip
def _same(c: Call) -> Result:
    x = value(c.get("self", c.get("input")))
    if c.get("train"):
        c.draft.note("dropout that is on in eval mode, too, is read as off")
    if c.op.startswith("detach"):
        fixed = isinstance(x, Known) and not c.draft.parents(x)
        return x if fixed else c.draft.same("detach", c.draft.made(x))
    numbers = isinstance(x, Made) or x.array.dtype.kind == "f"
    if c.dtypes and numbers and "float" not in c.dtypes[0]:  # of constants PyTorch says what comes of it
        raise Unsaid(f"it turns numbers to {c.dtypes[0]}")
    if c.dtypes and c.dtypes[0] in ("torch.float16", "torch.bfloat16") and "to" in c.op:
        c.draft.note(f"casts to {c.dtypes[0]} are left out: a plan stores all tensors in one dtype of its own")
    return [x] if c.op == "native_dropout" else x


@rule(*sorted(TURNS))
def _transpose(c: Call) -> Value:
    x = value(c["self"])
    rank = len(x.shape)
    if c.op in ("permute", "permute_copy"):
        perm = [axis_of(int(a), rank) for a in c["dims"]]
    elif c.op in ("t", "numpy_T"):
        perm = list(range(rank))[::-1]
    elif c.op == "movedim":
        sources, ends = c.axes("source", rank), c.axes("destination", rank)
        perm = [a for a in range(rank) if a not in sources]
        for end, source in sorted(zip(ends, sources, strict=True)):
            perm.insert(end, source)
    else:
        perm = list(range(rank))
        a, b = axis_of(int(c.get("dim0", c.get("axis0"))), rank), axis_of(int(c.get("dim1", c.get("axis1"))), rank)
        perm[a], perm[b] = b, a
    return x.transposed(perm) if isinstance(x, Known) else c.draft.transpose(x, perm)


@rule("expand", "expand_as", "broadcast_to", "expand_copy")
def _expand(c: Call) -> Value:
    x = value(c["self"])
    if isinstance(x, Known) and math.prod(c.shape) == math.prod(x.shape):
        return x.reshaped(c.shape)
    return c.draft.expand(c.draft.made(x), c.shape)


@rule("cat", "concat", "concatenate")
def _cat(c: Call) -> Value:
    values = [value(v) for v in c["tensors"]]
    values = [v for v in values if v.shape != (0,)]
    return c.draft.concat(values, int(c["dim"]))


@rule("stack")
def _stack(c: Call) -> Value:
    axis = axis_of(int(c["dim"]), len(c.shape))
    shape = (*c.shape[:axis], 1, *c.shape[axis + 1 :])
    return c.draft.concat([reshaped(c.draft, value(v), shape) for v in c["tensors"]], axis)


def reshaped(draft: Draft, x: Value, shape: Shape) -> Value:
    """A value of as many elements under another shape."""
    return x.reshaped(shape) if isinstance(x, Known) else draft.reshape(x, shape)


def cut(draft: Draft, x: Made, axis: int, start: int, stop: int, step: int = 1) -> Made:
    """A half-open range along an axis."""
    starts, stops, steps = [0] * x.rank, list(x.shape), [1] * x.rank
    starts[axis], stops[axis], steps[axis] = start, stop, step
    return draft.slice(x, starts, stops, steps)


def _bounds(c: Call, extent: int) -> tuple[int, int]:
    start, stop = c.get("start"), c.get("end")
    start, stop = 0 if start is None else int(start), extent if stop is None else int(stop)
    start, stop = (max(0, n + extent) if n < 0 else min(n, extent) for n in (start, stop))
    return start, max(start, stop)


@rule("slice", "slice_copy", "narrow", "narrow_copy")
def _slice(c: Call) -> Value:
    x = c.made()
    axis = axis_of(int(c["dim"]), x.rank)
    if c.op.startswith("narrow"):
        start = int(c["start"]) % x.shape[axis]
        return cut(c.draft, x, axis, start, start + int(c["length"]))
    start, stop = _bounds(c, x.shape[axis])
    return cut(c.draft, x, axis, start, stop, int(c.get("step", 1)))


@rule("select", "select_copy")
def _select(c: Call) -> Value:
    x = c.made()
    axis = axis_of(int(c["dim"]), x.rank)
    at = int(c["index"]) % x.shape[axis]
    return c.draft.reshape(cut(c.draft, x, axis, at, at + 1), c.shape)


@rule("slice_scatter", "select_scatter")
def _scatter(c: Call) -> Value:
    """A write into a part: what is before it, the new part, what is behind it."""
    x = c.made()
    axis = axis_of(int(c["dim"]), x.rank)
    step = 1
    if c.op == "select_scatter":
        start = int(c["index"]) % x.shape[axis]
        stop = start + 1
    else:
        start, stop = _bounds(c, x.shape[axis])
        step = int(c.get("step", 1))
    written = range(start, stop, step)
    new = reshaped(c.draft, value(c["src"]), (*x.shape[:axis], len(written), *x.shape[axis + 1 :]))
    if step != 1:
        places = np.arange(x.shape[axis])
        places[written] = x.shape[axis] + np.arange(len(written))
        return c.draft.gather(c.draft.concat([x, new], axis), axis, places)
    pieces: list[Value] = [new]
    if start > 0:
        pieces.insert(0, cut(c.draft, x, axis, 0, start))
    if stop < x.shape[axis]:
        pieces.append(cut(c.draft, x, axis, stop, x.shape[axis]))
    return c.draft.concat(pieces, axis)


@rule("copy", "copy_")
def _copy(c: Call) -> Value:
    source = value(c["src"])
    return source if source.shape == c.shape else c.draft.expand(c.draft.made(source), c.shape)


@rule("fill", "fill_", "full_like", "zeros_like", "ones_like", "new_zeros", "new_ones", "new_full", "zero")
def _filled(c: Call) -> Value:
    given = c.get("value", c.get("fill_value"))
    number = 0.0 if "zero" in c.op else 1.0 if "ones" in c.op else given
    if isinstance(number, Known):
        return floats(np.broadcast_to(number.array, c.shape))
    if isinstance(number, Made):
        return c.draft.expand(number, c.shape)
    if number is None:
        raise NetworkError("its value is missing")
    return floats(np.full(c.shape, number))


@rule("split", "split_with_sizes", "chunk", "tensor_split", "unsafe_split", "unsafe_chunk", "split_copy",
      "split_with_sizes_copy", "unsafe_split_with_sizes", "unbind", "unbind_copy")  # fmt: skip
def _split(c: Call) -> Result:
    # the shapes of the outputs say where the cuts are
    x = c.made()
    axis = axis_of(int(c.get("dim", 0)), x.rank)
    parts, at = list[Value](), 0
    for shape in c.shapes:
        extent = 1 if c.op.startswith("unbind") else shape[axis]
        parts.append(c.draft.reshape(cut(c.draft, x, axis, at, at + extent), shape))
        at += extent
    return parts


@rule("index_select")
def _index_select(c: Call) -> Value:
    x = c.made()
    return c.draft.gather(x, int(c["dim"]), c.array("index").reshape(-1))


@rule("index", "_unsafe_index")
def _index(c: Call) -> Value:
    x, given = c.made(), list(c["indices"])
    at = [i for i, v in enumerate(given) if v is not None]
    known = [c.numbers(given[i], f"indices[{i}]") for i in at]
    if any(a.dtype == bool for a in known):
        if len(known) != 1:
            raise Unsaid("it has several indices, one of them a mask")
        return _masked(c.draft, x, at[0], known[0])
    spread = list(np.broadcast_arrays(*known))
    if at != list(range(at[0], at[-1] + 1)):
        raise Unsaid("the axes that it indexes are apart")
    # several axes become one; so do their indices
    extents = [x.shape[i] for i in at]
    wrapped = [np.where(a < 0, a + n, a) for a, n in zip(spread, extents, strict=True)]
    flat = np.ravel_multi_index(tuple(wrapped), tuple(extents))
    joined = c.draft.reshape(x, (*x.shape[: at[0]], math.prod(extents), *x.shape[at[-1] + 1 :]))
    return c.draft.gather(joined, at[0], np.asarray(flat))


def _masked(draft: Draft, x: Made, axis: int, mask: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> Value:
    """Entries where a mask over some axes holds."""
    joined = draft.reshape(x, (*x.shape[:axis], mask.size, *x.shape[axis + mask.ndim :]))
    return draft.gather(joined, axis, np.flatnonzero(mask))


@rule("gather")
def _gather(c: Call) -> Value:
    """Entry by entry: one gather over all elements, at constant places."""
    x, axis, index = c.made(), int(c["dim"]), c.array("index").astype(np.int64)
    axis = axis_of(axis, x.rank)
    grid: list[Array] = list(np.indices(index.shape))
    grid[axis] = index
    places = np.ravel_multi_index(tuple(grid), x.shape)
    flat = c.draft.gather(c.draft.reshape(x, (math.prod(x.shape),)), 0, np.asarray(places).reshape(-1))
    return c.draft.reshape(flat, c.shape)


@rule("flip")
def _flip(c: Call) -> Value:
    x = c.made()
    for axis in c.axes("dims", x.rank):
        x = c.draft.gather(x, axis, np.arange(x.shape[axis])[::-1])
    return x


@rule("roll")
def _roll(c: Call) -> Value:
    x = c.made()
    shifts = [c["shifts"]] if isinstance(c["shifts"], int) else list(c["shifts"])
    if not c.get("dims"):
        flat = c.draft.reshape(x, (math.prod(x.shape),))
        return c.draft.reshape(_rolled(c.draft, flat, 0, int(shifts[0])), x.shape)
    for axis, shift in zip(c.axes("dims", x.rank), shifts, strict=True):
        x = _rolled(c.draft, x, axis, int(shift))
    return x


def _rolled(draft: Draft, x: Made, axis: int, shift: int) -> Made:
    extent = x.shape[axis]
    at = (-shift) % extent
    if at == 0:
        return x
    return draft.concat([cut(draft, x, axis, at, extent), cut(draft, x, axis, 0, at)], axis)


@rule("repeat", "tile")
def _repeat(c: Call) -> Value:
    x = c.made()
    repeats = [int(n) for n in c.get("repeats", c.get("dims"))]
    repeats = [1] * (x.rank - len(repeats)) + repeats
    x = c.draft.reshape(x, (1,) * (len(repeats) - x.rank) + x.shape)
    for axis, n in enumerate(repeats):
        if n == 1:
            continue
        if x.shape[axis] == 1:
            x = c.draft.expand(x, (*x.shape[:axis], n, *x.shape[axis + 1 :]))
        else:
            x = c.draft.concat([x] * n, axis)
    return x


@rule("repeat_interleave")
def _interleave(c: Call) -> Value:
    x, n = c.made(), c["repeats"]
    if not isinstance(n, int):
        raise Unsaid("its repeats are a tensor")
    axis = c.get("dim")
    if axis is None:
        x, axis = c.draft.reshape(x, (math.prod(x.shape),)), 0
    axis = axis_of(int(axis), x.rank)
    wide = c.draft.reshape(x, (*x.shape[: axis + 1], 1, *x.shape[axis + 1 :]))
    wide = c.draft.expand(wide, (*x.shape[: axis + 1], n, *x.shape[axis + 1 :]))
    return c.draft.reshape(wide, c.shape)


@rule("pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "native_channel_shuffle")
def _shuffle(c: Call) -> Value:
    x = c.made()
    *lead, channels, height, width = x.shape
    n = len(lead)
    if c.op == "pixel_shuffle":
        r = int(c["upscale_factor"])
        parts, perm = (channels // r**2, r, r, height, width), (0, 3, 1, 4, 2)
    elif c.op == "pixel_unshuffle":
        r = int(c["downscale_factor"])
        parts, perm = (channels, height // r, r, width // r, r), (0, 2, 4, 1, 3)
    else:
        groups = int(c["groups"])
        parts, perm = (groups, channels // groups, height, width, 1), (1, 0, 2, 3, 4)
    wide = c.draft.reshape(x, (*lead, *parts))
    moved = c.draft.transpose(wide, (*range(n), *(n + i for i in perm)))
    return c.draft.reshape(moved, c.shape)


@rule("unfold")
def _unfold(c: Call) -> Value:
    """Windows along an axis, which come last."""
    if "dimension" not in c.args:
        raise Unsaid("it unfolds an image")
    x = c.made()
    axis, size, step = axis_of(int(c["dimension"]), x.rank), int(c["size"]), int(c["step"])
    count = (x.shape[axis] - size) // step + 1
    index = np.arange(count)[:, None] * step + np.arange(size)
    taken = c.draft.gather(x, axis, index)
    perm = [i for i in range(taken.rank) if i != axis + 1] + [axis + 1]
    return c.draft.transpose(taken, perm)


@rule("tril", "triu")
def _triangle(c: Call) -> Value:
    keep: Callable[..., np.ndarray[tuple[int, ...], np.dtype[np.float64]]] = np.tril if c.op == "tril" else np.triu
    x = c.made()
    return c.draft.mul(x, floats(keep(np.ones(x.shape), int(c["diagonal"]))))


@rule(
    "pad", "constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "replication_pad1d", "replication_pad2d",
    "_pad_circular", "_pad_enum",
)  # fmt: skip
def _pad(c: Call) -> Value:
    x = c.made()
    amounts = [int(n) for n in c.get("pad", c.get("padding"))]
    mode = {"reflection": "reflect", "replication": "edge"}.get(c.op.partition("_")[0], c.get("mode", "constant"))
    mode = "circular" if c.op == "_pad_circular" else {"replicate": "edge"}.get(mode, mode)
    before, after = [0] * x.rank, [0] * x.rank
    for i, (lo, hi) in enumerate(zip(amounts[::2], amounts[1::2], strict=True), start=1):
        before[-i], after[-i] = lo, hi
    if mode == "circular":
        return _circular(c.draft, x, before, after)
    filler = c.get("value")
    number = 0.0 if filler is None else float(filler)
    if not math.isfinite(number):
        raise Unsaid(f"it pads with {number}")
    return c.draft.pad(x, before, after, mode, number)


def _circular(draft: Draft, x: Made, before: Sequence[int], after: Sequence[int]) -> Made:
    for axis, (lo, hi) in enumerate(zip(before, after, strict=True)):
        extent = x.shape[axis]
        parts: list[Value] = [x]
        if lo:
            parts.insert(0, cut(draft, x, axis, extent - lo, extent))
        if hi:
            parts.append(cut(draft, x, axis, 0, hi))
        x = draft.concat(parts, axis)
    return x
