"""A network while it is imported: values with the shapes of their origin, written as ops per sample.

Graphs from outside carry the batch axis among the others, move it, and drop it. They are read for one
sample. A value of theirs keeps its *full* shape; in the network the leading axis is left out where its
extent is 1 (the canonical form), so that an image ``(1, 3, 48, 48)`` becomes ``(3, 48, 48)``. Every rule
below speaks of full shapes and axes; views, which cost nothing, come and go as needed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from sparseplan.builder import NetworkBuilder
from sparseplan.errors import NetworkError
from sparseplan.importers.draftops import HUGE, Ops
from sparseplan.importers.values import (
    Array,
    Imported,
    Known,
    Made,
    Shape,
    Value,
    axis_of,
    broadcast,
    clean,
    sample,
    windows,
)
from sparseplan.network import Attr, Network, Op, Tensor

__all__ = [
    "HUGE",
    "Array",
    "Attr",
    "Draft",
    "Imported",
    "Known",
    "Made",
    "Shape",
    "Value",
    "axis_of",
    "broadcast",
    "clean",
    "sample",
    "windows",
]


class Draft(Ops):
    """What a network that is imported is told in.

    Methods take and return values, check what they are given, and raise NetworkError (of which OpError
    is one) where the network cannot say it; the importer adds which node that was.
    """

    # -- rules --------------------------------------------------------------------------------
    def same(self, kind: str, x: Made, params: Mapping[str, Known] | None = None, /, **attrs: Attr) -> Made:
        """An op that keeps shape and does not care for axes."""
        return Made(self.op(kind, [x.tensor], params, **attrs), x.shape)

    def elementwise(self, kind: str, values: Sequence[Value]) -> Made:
        """An op of several inputs that spreads extents of 1; constants become tensors."""
        shape = broadcast(*(v.shape for v in values))
        inner = sample(shape)
        tensors = []
        for value in map(self.made, values):
            wide = (1,) * (len(shape) - value.rank) + value.shape
            tensors.append(self.view(value.tensor, wide[len(shape) - len(inner) :]))
        return self.wrap(self.op(kind, tensors), shape)

    def add(self, a: Value, b: Value) -> Value:
        """Sum, as cheaply as it can be said."""
        return self._with_constant("add", a, b)

    def mul(self, a: Value, b: Value) -> Value:
        """Product, as cheaply as it can be said."""
        return self._with_constant("mul", a, b)

    def _with_constant(self, kind: str, a: Value, b: Value) -> Value:
        if isinstance(a, Known) and isinstance(b, Known):
            if not self.parents(a) | self.parents(b):
                return Known(a.array + b.array if kind == "add" else a.array * b.array)
            if not self.parents(a):
                a, b = b, a
            a = self.made(a)
        if isinstance(a, Known):
            a, b = b, a
        if isinstance(a, Known) or isinstance(b, Made) or not self.direct(b):
            return self.elementwise(kind, (a, b))
        if b.array.size == 1 and not (b.name and self.learned(b.name)):
            number = float(b.array.reshape(()))
            if not math.isfinite(number):
                raise NetworkError(f"{kind} of the constant {number}; it must be finite")
            x = self.reshape(a, broadcast(a.shape, b.shape))
            if number == (0 if kind == "add" else 1):
                return x
            attrs = {"shift": number} if kind == "add" else {"scale": number}
            return Made(self.op("scale_shift", [x.tensor], None, **attrs), x.shape)
        shape = broadcast(a.shape, b.shape)
        if math.prod(shape) != math.prod(a.shape):
            return self.elementwise(kind, (a, b))
        inner = sample(shape)
        # as many axes as the tensor has; leading extents of 1 say nothing
        weight = b.shape[max(0, len(b.shape) - len(inner)) :] or (1,)
        made = ("param_" if b.name else "const_") + kind
        tensor = self.op(made, [self.view(a.tensor, inner)], {"weight": b.reshaped(weight)}, shape=weight)
        return self.wrap(tensor, shape)

    def linear(self, x: Made, weight: Known, bias: Known | None = None) -> Made:
        """``x @ weight.T + bias`` on the last axis; weight ``(out, in)``."""
        if x.rank < 1 or len(weight.shape) != 2 or x.shape[-1] != weight.shape[1]:
            raise NetworkError(f"shape {x.shape} does not fit a linear layer's weight {weight.shape}")
        outs = weight.shape[0]
        params = {"weight": weight} | ({} if bias is None else {"bias": bias.reshaped((outs,))})
        tensor = self.full(x) if x.rank == 1 else x.tensor
        return self.wrap(self.op("linear", [tensor], params, out_features=outs), (*x.shape[:-1], outs))

    def matmul(self, a: Made, b: Made, transpose_b: bool = False) -> Made:
        """Product of matrices on the last two axes, others spread; ``b`` may be given transposed."""
        if a.rank < 1 or b.rank < 1:
            raise NetworkError(f"shapes {a.shape} and {b.shape} are no matrices")
        turned = transpose_b and b.rank > 1
        left, right = (1, *a.shape) if a.rank == 1 else a.shape, (*b.shape, 1) if b.rank == 1 else b.shape
        wide_b = right
        if turned:
            right = (*right[:-2], right[-1], right[-2])
        if left[-1] != right[-2]:
            raise NetworkError(f"matrices {a.shape} and {b.shape} do not fit")
        lead = broadcast(left[:-2], right[:-2])
        drop = lead[:1] == (1,)
        rank = len(lead) + 2
        tensors = []
        for value, shape in ((a, left), (b, wide_b)):
            wide = (1,) * (rank - len(shape)) + shape
            tensors.append(self.view(value.tensor, wide[1:] if drop else wide))
        tail = ((left[-2],) if a.rank > 1 else ()) + ((right[-1],) if b.rank > 1 else ())
        attrs: dict[str, Attr] = {"transpose_b": True} if turned else {}
        return self.wrap(self.op("matmul", tensors, None, **attrs), (*lead, *tail))

    def image(self, x: Made, spatial: int) -> str:
        """The tensor as (channels, *spatial) of one sample."""
        if x.rank == spatial + 1 and x.shape[0] != 1:  # no batch axis
            return x.tensor
        if x.rank != spatial + 2 or x.shape[0] != 1:
            raise NetworkError(f"shape {x.shape} must be (1, channels{', extent' * spatial})")
        return x.tensor

    def spatial(
        self, kind: str, x: Made, spatial: int, params: Mapping[str, Known] | None = None, **attrs: Attr
    ) -> Made:
        """An op on (channels, *spatial)."""
        tensor = self.op(kind, [self.image(x, spatial)], params, **attrs)
        inner = self.net.shape(tensor)
        return self.wrap(tensor, inner if x.rank == spatial + 1 and x.shape[0] != 1 else (1, *inner))

    def along(self, kind: str, x: Made, axis: int, **attrs: Attr) -> Made:
        """An op that keeps shape and works along one axis (softmax)."""
        tensor, shift = self.with_axes(x, (axis_of(axis, x.rank),))
        return self.wrap(self.op(kind, [tensor], axis=axis_of(axis, x.rank) - shift, **attrs), x.shape)

    def with_axes(self, x: Made, axes: Iterable[int]) -> tuple[str, int]:
        """A tensor that has ``axes``, and how many leading axes it lacks."""
        if x.shape[:1] == (1,) and 0 not in set(axes):
            return x.tensor, 1
        return self.full(x), 0

    def reduce(self, kind: str, x: Made, axes: Sequence[int], keepdims: bool) -> Made:
        """mean, sum, amax, amin over axes; over extents of 1 there is nothing to do."""
        axes = sorted({axis_of(a, x.rank) for a in axes})
        kept = tuple(1 if i in axes else n for i, n in enumerate(x.shape))
        shape = kept if keepdims else tuple(n for i, n in enumerate(x.shape) if i not in axes)
        work = [a for a in axes if x.shape[a] > 1]
        if not work:
            return self.wrap(x.tensor, shape)
        tensor, shift = self.with_axes(x, work)
        return self.wrap(self.op(kind, [tensor], axes=tuple(a - shift for a in work), keepdims=True), shape)

    def slice(self, x: Made, starts: Sequence[int], stops: Sequence[int], steps: Sequence[int]) -> Made:
        """Half-open ranges of all axes, already brought within the extents; steps of at least 1."""
        shape = tuple(max(0, -(-(hi - lo) // s)) for lo, hi, s in zip(starts, stops, steps, strict=True))
        if shape == x.shape:
            return x
        if 0 in shape:
            raise NetworkError(f"slice of shape {x.shape} is empty: starts {list(starts)}, stops {list(stops)}")
        cut = [i for i in range(x.rank) if shape[i] != x.shape[i]]
        tensor, shift = self.with_axes(x, cut)
        ranges = {"starts": starts, "stops": stops, "steps": steps}
        made = self.op("slice", [tensor], None, **{k: tuple(v[shift:]) for k, v in ranges.items()})
        return self.wrap(made, shape)

    def concat(self, values: Sequence[Value], axis: int) -> Made:
        """Values side by side."""
        rank = len(values[0].shape)
        axis = axis_of(axis, rank)
        if len(values) == 1:
            return self.made(values[0])
        shapes = [v.shape for v in values]
        if any(len(s) != rank or s[:axis] + s[axis + 1 :] != shapes[0][:axis] + shapes[0][axis + 1 :] for s in shapes):
            raise NetworkError(f"shapes {shapes} do not concatenate along axis {axis}")
        shape = (*shapes[0][:axis], sum(s[axis] for s in shapes), *shapes[0][axis + 1 :])
        made = [self.made(v) for v in values]
        if axis == 0:  # the axis that the canonical form may lack
            return self.wrap(self.op("concat", [self.full(v) for v in made], axis=0), shape)
        shift = 1 if shape[0] == 1 else 0
        return self.wrap(self.op("concat", [v.tensor for v in made], axis=axis - shift), shape)

    def expand(self, x: Made, shape: Shape) -> Made:
        """Extents of 1 spread to ``shape``."""
        if broadcast(x.shape, shape) != shape:
            raise NetworkError(f"shape {x.shape} does not spread to {shape}")
        wide = (1,) * (len(shape) - x.rank) + x.shape
        if wide == shape:
            return self.wrap(x.tensor, shape)
        inner = sample(shape)
        tensor = self.view(x.tensor, wide[len(shape) - len(inner) :])
        return self.wrap(self.op("expand", [tensor], shape=inner), shape)

    def pad(self, x: Made, before: Sequence[int], after: Sequence[int], mode: str, value: float = 0.0) -> Made:
        """More entries around; negative amounts cut."""
        if any(n < 0 for n in (*before, *after)):
            starts = [max(0, -n) for n in before]
            stops = [n - max(0, -a) for n, a in zip(x.shape, after, strict=True)]
            x = self.slice(x, starts, stops, [1] * x.rank)
            before, after = [max(0, n) for n in before], [max(0, n) for n in after]
        wide = [i for i in range(x.rank) if before[i] or after[i]]
        if not wide:
            return x
        shape = tuple(b + n + a for b, n, a in zip(before, x.shape, after, strict=True))
        tensor, shift = self.with_axes(x, wide)
        extra: dict[str, Attr] = {"value": float(value)} if mode == "constant" else {}
        extra |= {"before": tuple(before[shift:]), "after": tuple(after[shift:]), "mode": mode}
        return self.wrap(self.op("pad", [tensor], None, **extra), shape)

    def gather(self, x: Made, axis: int, indices: Array) -> Made:
        """Entries at constant ``indices`` along an axis, whose place their axes take."""
        axis = axis_of(axis, x.rank)
        extent = x.shape[axis]
        flat = [int(i) for i in indices.reshape(-1)]
        if any(not -extent <= i < extent for i in flat):
            raise NetworkError(f"indices={flat[:8]} lie outside extent {extent} of axis {axis}")
        flat = [i % extent for i in flat]
        shape = (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])
        if not flat:
            raise NetworkError("indices=[] gather nothing")
        if flat == list(range(flat[0], flat[0] + len(flat))):
            starts, stops = [0] * x.rank, list(x.shape)
            starts[axis], stops[axis] = flat[0], flat[0] + len(flat)
            return self.reshape(self.slice(x, starts, stops, [1] * x.rank), shape)
        tensor, shift = self.with_axes(x, (axis,))
        return self.wrap(self.op("gather", [tensor], axis=axis - shift, indices=tuple(flat)), shape)

    def opaque(
        self,
        type_: str,
        inputs: Sequence[Value],
        shapes: Sequence[Shape],
        macs: int | None = None,
        once: bool = False,
        read: int = 0,
    ) -> tuple[Made, ...]:
        """An op known by its shapes alone, one for each output; its constants are parameters of one, whose its cost
        is: of output ``read``, the first that something reads, since others may drop out. ``macs``: None where not
        known; ``once``: whether a second run makes other numbers."""
        tensors = [v.tensor for v in inputs if isinstance(v, Made)]
        params = [_codes(v) for v in inputs if isinstance(v, Known) and v.array.size > 1 and _holds_weights(v.array)]
        result = []
        for i, shape in enumerate(shapes):
            mine = {f"p{j}": k for j, k in enumerate(params)} if i == read else {}
            told: dict[str, Attr] = {slot: k.shape for slot, k in mine.items()}
            if macs is not None or i != read:
                told["macs"] = macs if macs is not None and i == read else 0
            if once or (i != read and macs != 0):
                told["once"] = True
            made = self.op("opaque", tensors, mine, type=type_, shape=sample(shape), **told)
            result.append(Made(made, shape))
        return tuple(result)

    # -- the end ------------------------------------------------------------------------------
    def finish(self, outputs: Sequence[Made], called: Sequence[str] = ()) -> Imported:
        """The network of what the outputs depend on; ``called``: what the origin calls each of them.

        Raises:
            NetworkError: nothing is left, or an output is an input.
        """
        names = tuple(dict.fromkeys(v.tensor for v in outputs))
        network = _pruned(self.net, names, self._storage)
        weights = {p: self.weights[p] for p in network.parameters}
        layouts = {p: perm for p, perm in self.layouts.items() if p in weights}
        tensors = {name: v.tensor for name, v in zip(called, outputs, strict=False)}
        if len(names) > 1:
            shown = [repr(name) + ("" if t == name else f" (tensor {t!r})") for name, t in tensors.items()]
            shown = shown or [repr(t) for t in names]
            more = f" and {len(shown) - 8} more" if len(shown) > 8 else ""
            self.note(
                f"of {len(shown)} outputs, {', '.join(shown[:8])}{more}, the loss is on the first, unless --output "
                "NAME chooses another or --loss NAME=KIND gives one to each (in Python outputs=, loss=)"
            )
        constants = [p for p in dict.fromkeys(self.fixed) if p in weights]
        if constants:
            self.note(f"parameters {constants} are constants of the origin, and never updated")
        settled = [p for p in self.settled if clean(p) in weights]
        for p in settled:
            self.note(self.settled[p])
        fixed = tuple(dict.fromkeys((*constants, *map(clean, settled))))
        return Imported(network, weights, layouts, tuple(self.notes), fixed, outputs=tensors)


def _holds_weights(array: Array) -> bool:
    """Whether a constant of an op that is not known may be its weights, rather than axes or extents."""
    return array.dtype.kind == "f" or array.dtype in (np.int8, np.uint8, np.int32)


def _codes(known: Known) -> Known:
    """Integers of 8 bits are stored as such; their quantum is 1, and unsigned ones are shifted into the range."""
    if known.array.dtype not in (np.int8, np.uint8):
        return known
    shift = np.float32(128 if known.array.dtype == np.uint8 else 0)
    return Known(known.array.astype(np.float32) - shift, known.name, known.layout, 1.0)


def _pruned(net: NetworkBuilder, outputs: tuple[str, ...], storage: Mapping[str, tuple[str, float | None]]) -> Network:
    name, tensors, ops = net.parts()
    wanted, kept = set(outputs), list[Op]()
    for op in reversed(ops):
        if op.output in wanted:
            kept.append(op)
            wanted.update((*op.inputs, *op.params.values()))
    if not kept:
        raise NetworkError(f"network {name!r}: its outputs {list(outputs)} are computed by no op; nothing to plan")
    found = tuple(
        Tensor(t.name, t.shape, t.role, *storage.get(t.name, (t.dtype, t.scale))) for t in tensors if t.name in wanted
    )
    return Network(name, found, tuple(reversed(kept)), outputs)
