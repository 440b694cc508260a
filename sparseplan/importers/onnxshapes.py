"""Shapes and ranges that nodes ask for in attributes and constants; of folding and of the rules alike."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sparseplan.importers.draft import Shape, axis_of, broadcast
from sparseplan.importers.onnxcall import Call, Malformed

#: elements that one constant computed while importing may have
MAX_FOLDED = 2**24


def sized(shape: Sequence[int]) -> Shape:
    """``shape`` if a computed constant may have it. Raises NetworkError."""
    if any(n < 0 for n in shape):
        raise Malformed(f"shape {list(shape)} has a negative extent")
    if math.prod(shape) > MAX_FOLDED:
        raise Malformed(f"a constant of shape {list(shape)} would be computed; at most 2**24 elements are")
    if len(shape) > 32:
        raise Malformed(f"{len(shape)} axes; at most 32 are read")
    return tuple(shape)


def slice_ranges(call: Call, shape: Shape) -> list[range]:
    """Indices that Slice takes of each axis."""
    starts, ends = call.numbers(1), call.numbers(2)
    axes = call.numbers(3) if call.has(3) else list(range(len(starts)))
    steps = call.numbers(4) if call.has(4) else [1] * len(starts)
    if not len(starts) == len(ends) == len(axes) == len(steps):
        raise Malformed(f"starts={starts}, ends={ends}, axes={axes}, steps={steps} must be of one length")
    if 0 in steps:
        raise Malformed(f"steps={steps} must not be 0")
    taken = [range(n) for n in shape]
    done: set[int] = set()
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        at, n = axis_of(axis, len(shape)), shape[axis_of(axis, len(shape))]
        if at in done:
            raise Malformed(f"axes={axes} name an axis twice")
        done.add(at)
        start, end = (v + n if v < 0 else v for v in (start, end))
        if step > 0:
            taken[at] = range(min(max(start, 0), n), min(max(end, 0), n), step)
        else:
            taken[at] = range(min(max(start, 0), n - 1), min(max(end, -1), n - 1), step)
    return taken


def reshaped(call: Call, shape: Shape) -> Shape:
    """The shape that Reshape makes of one; 0 keeps an extent, -1 is what is left. Raises NetworkError."""
    wanted = call.numbers(1)
    keep = not call.integer("allowzero", 0)
    made = []
    for i, n in enumerate(wanted):
        if n == 0 and keep:
            if i >= len(shape):
                raise Malformed(f"shape={wanted} keeps axis {i} of {list(shape)}, which has none")
            n = shape[i]
        made.append(n)
    return filled(made, shape)


def filled(wanted: Sequence[int], shape: Shape) -> Shape:
    """``wanted`` with its one -1 so that it holds as many elements as ``shape``. Raises NetworkError."""
    total, rest = math.prod(shape), math.prod(n for n in wanted if n != -1)
    if any(n < -1 for n in wanted) or sum(n == -1 for n in wanted) > 1:
        raise Malformed(f"shape={list(wanted)} must hold extents, and -1 once at most")
    if -1 in wanted and rest and not total % rest:
        return tuple(total // rest if n == -1 else n for n in wanted)
    if -1 in wanted or rest != total:
        raise Malformed(f"shape={list(wanted)} does not hold the {total} elements of {list(shape)}")
    return tuple(wanted)


def unsqueezed(shape: Shape, axes: Sequence[int]) -> Shape:
    """Extents of 1 put in at ``axes`` (of the result). Raises NetworkError."""
    rank = len(shape) + len(axes)
    if rank > 32:
        raise Malformed(f"{rank} axes; at most 32 are read")
    at = {axis_of(a, rank) for a in axes}
    if len(at) != len(axes):
        raise Malformed(f"axes={list(axes)} name an axis twice")
    rest = iter(shape)
    return tuple(1 if i in at else next(rest) for i in range(rank))


def unsqueeze_axes(call: Call) -> list[int]:
    """Axes of Unsqueeze in either form."""
    found = call.numbers(1) if call.has(1) else call.ints("axes")
    if found is None:
        raise Malformed("axes are missing")
    return found


def squeezed(shape: Shape, axes: Sequence[int] | None) -> Shape:
    """Extents of 1 taken out. Raises NetworkError."""
    if axes is None:
        return tuple(n for n in shape if n != 1)
    wrong = [a for a in axes if shape[a] != 1]
    if wrong:
        raise Malformed(f"axis {wrong[0]} of shape {list(shape)} is not 1 long, and cannot be squeezed")
    return tuple(n for i, n in enumerate(shape) if i not in axes)


def flattened(call: Call, shape: Shape) -> Shape:
    """Flatten's two axes."""
    axis = call.integer("axis", 1)
    if not -len(shape) <= axis <= len(shape):
        raise Malformed(f"axis={axis} is beyond rank {len(shape)}")
    axis = axis % len(shape) if axis < 0 else axis
    return math.prod(shape[:axis]), math.prod(shape[axis:])


def perm_of(call: Call, rank: int) -> list[int]:
    """Transpose's permutation. Raises NetworkError."""
    perm = call.ints("perm")
    perm = list(range(rank))[::-1] if perm is None else perm
    if sorted(perm) != list(range(rank)):
        raise Malformed(f"perm={perm} is no permutation of {rank} axes")
    return perm


def expand_shape(call: Call, shape: Shape) -> Shape:
    """What Expand makes of a shape. Raises NetworkError."""
    wanted = tuple(call.numbers(1))
    if any(n < 0 for n in wanted):
        raise Malformed(f"shape={list(wanted)} has a negative extent")
    return broadcast(shape, wanted)


def repeats_of(call: Call, rank: int) -> list[int]:
    """Tile's repeats. Raises NetworkError."""
    repeats = call.numbers(1)
    if len(repeats) != rank or any(n < 0 for n in repeats):
        raise Malformed(f"repeats={repeats} must be {rank} numbers of at least 0")
    return repeats


def split_sizes(call: Call, extent: int) -> list[int]:
    """How Split cuts an extent. Raises NetworkError."""
    sizes = call.numbers(1) if call.has(1) else call.ints("split")
    if sizes is None:
        count = call.integer("num_outputs", len(call.node.outputs))
        if count < 1 or count != len(call.node.outputs):
            raise Malformed(f"num_outputs={count}, but {len(call.node.outputs)} outputs are named")
        size = -(-extent // count)
        sizes = [size] * (count - 1) + [extent - size * (count - 1)]
    if any(n < 0 for n in sizes) or sum(sizes) != extent or len(sizes) != len(call.node.outputs):
        raise Malformed(f"split={sizes} does not cut {extent} into {len(call.node.outputs)} outputs")
    return sizes
