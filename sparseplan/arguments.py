"""Values of a training step, and the arguments by which its steps read and write them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from sparseplan.dtypes import bytes_of
from sparseplan.errors import NetworkError
from sparseplan.layout import Composites, Patch, whole
from sparseplan.network import Network, Op
from sparseplan.ops import OpDef, OpInfo, op_def
from sparseplan.ops.base import Fraction
from sparseplan.steps import MAIN, Box, TrainingOptions, Value, ValueRole
from sparseplan.training import ALWAYS, NEVER, Levels, MaybeArg, MaybeSpan
from sparseplan.units import align_up


class Arguments:
    """Declares values as arguments name them, and remembers which rows of gradients are there.

    Attributes:
        values, value_when: declared so far, and the conditions under which they exist.
        up: root value to the condition that a parameter at or upstream of it is updated.
        levels: of every parameter.
    """

    def __init__(self, network: Network, infos: Mapping[str, OpInfo], options: TrainingOptions) -> None:
        self.network, self.infos, self.options = network, infos, options
        self.defs: dict[str, OpDef] = {op.name: op_def(op.kind) for op in network.ops}
        self.values: dict[str, Value] = {}
        self.value_when: dict[str, int] = {}
        self.composites = Composites(network, infos, options)
        self.spans = self.composites.spans
        self.up: dict[str, int] = {}
        self.levels: dict[str, Levels] = {}
        self._written: dict[str, set[int]] = {}  # root -> rows of its gradient (-1: all) that a step has written

    # -- values ---------------------------------------------------------------------------------
    def value(self, name: str, role: ValueRole, shape: tuple[int, ...], dtype: str, tensor: str,
              when: int = ALWAYS, persistent: bool = False, scale: float | None = None) -> str:  # fmt: skip
        """Declare a value (once) and return its name."""
        if name not in self.values:
            size = bytes_of(math.prod(shape), dtype)
            images = role in ("input", "activation", "gradient") and tensor in self.composites.by_row
            layout = "hcw" if images else "chw"
            self.values[name] = Value(name, role, shape, dtype, size, tensor, persistent, MAIN, scale, layout)
            self.value_when[name] = when
        elif self.values[name].role != role:
            raise NetworkError(f"tensor name {name!r} is reserved by the training step; rename the tensor")
        return name

    def padded(self, name: str) -> int:
        return align_up(self.values[name].bytes, self.options.alignment)

    def batched(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (self.options.batch, *shape)

    def tensor_dtype(self, name: str) -> str:
        return self.network.tensor[name].dtype or self.options.dtype

    def same_storage(self, a: str, b: str) -> bool:
        one, other = self.values[a], self.values[b]
        return self.padded(a) == self.padded(b) and (one.dtype, one.layout) == (other.dtype, other.layout)

    def sole_root(self, tensor: str) -> str | None:
        """The root that a tensor is, if it is one root in whole."""
        (root, lo, hi), *more = self.spans[tensor]
        return None if more or (lo, hi) != (0, self.values[root].bytes) else root

    # -- arguments --------------------------------------------------------------------------------
    def span(self, name: str, lo: int, hi: int, when: int = ALWAYS) -> MaybeSpan:
        """Bytes of a value, with its padding if they are its last."""
        return MaybeSpan(name, lo, self.padded(name) if hi == self.values[name].bytes else hi, when)

    def arg(self, tag: str, tensor: str, pick: tuple[int, int] | None = None) -> MaybeArg:
        """An activation or input in whole."""
        for root, _, _ in self.spans[tensor]:
            t = self.network.tensor[root]
            role: ValueRole = "input" if t.role == "input" else "activation"
            self.value(root, role, self.batched(t.shape), self.tensor_dtype(root), root, scale=t.scale)
        spans = tuple(self.span(*part) for part in self.spans[tensor])
        boxes = tuple(p.box for p in self.composites.patches.get(tensor, ()))
        shape = self.batched(self.network.tensor[tensor].shape)
        return MaybeArg(tag, shape, self.tensor_dtype(self.spans[tensor][0][0]), spans, pick, boxes=boxes)

    def param_arg(self, tag: str, name: str, pick: tuple[int, int] | None = None) -> MaybeArg:
        t = self.network.tensor[name]
        dtype = self.tensor_dtype(name)
        when = ALWAYS
        if self.options.frozen != MAIN:  # only updated parameters take main memory
            when = self.levels[name].atoms[0] if self.levels[name].atoms else NEVER
        self.value(name, "parameter", t.shape, dtype, name, when, persistent=True, scale=t.scale)
        return MaybeArg(tag, t.shape, dtype, whole(name, self.padded(name)), pick)

    def prefix_arg(
        self, tag: str, tensor: str, cut: Fraction, levels: Levels, pick: tuple[int, int] | None
    ) -> MaybeArg:
        """The leading channels of an input that the kept units of a parameter need."""
        arg = self.arg(tag, tensor, pick)
        if cut.rows is None or self.options.batch > 1 or arg.boxes:
            return arg  # channels of several samples, or of rows, do not adjoin, so the whole is held
        shape = self.network.tensor[tensor].shape
        row = bytes_of(math.prod(shape[1:]), arg.dtype)
        spans: list[MaybeSpan] = []
        done = 0
        for (_, keep), atom in zip(levels.fractions, levels.atoms, strict=True):
            stop = row * (shape[0] if keep is None else keep * cut.rows)
            base = 0
            for root, _, size in self.spans[tensor]:
                lo, hi = max(done - base, 0), min(stop - base, size)
                lo = min(align_up(lo, self.options.alignment), self.padded(root))
                hi = min(align_up(max(hi, 0), self.options.alignment), self.padded(root))
                if hi > lo:
                    spans.append(MaybeSpan(root, lo, hi, atom))
                base += size
            done = stop
        return replace(arg, spans=tuple(spans), cut=(1, cut.rows))

    def grad(self, root: str) -> str:
        """The gradient value of an activation."""
        shape = self.batched(self.network.tensor[root].shape)
        return self.value(f"grad({root})", "gradient", shape, self.options.dtype, root, self.up[root])

    def dy_arg(self, op: Op) -> MaybeArg:
        """The gradient of an op's output; rows that nothing depends on are zero, and take no bytes."""
        name = self.grad(op.output)
        shape = self.values[name].shape
        if self.values[name].layout != "hcw":
            return MaybeArg("dy", shape, self.options.dtype, whole(name, self.padded(name)))
        row = self.composites.row_bytes(op.output, self.options.dtype)
        known = self._written.get(op.output, set())
        ends = [r for r in range(shape[2] + 1) if (r in known) != (r - 1 in known)]
        runs = list(zip(ends[::2], ends[1::2], strict=True))
        spans = tuple(self.span(name, first * row, last * row) for first, last in runs)
        boxes = tuple(Box((0, shape[1]), run) for run in runs)
        return MaybeArg("dy", shape, self.options.dtype, spans, boxes=boxes)

    def aux_arg(self, op: Op, info: OpInfo, tag: str, late: bool, when: int, pick: tuple[int, int] | None) -> MaybeArg:
        aux = self.defs[op.name].aux(info)[tag]
        name = ("late " if late else "") + f"{tag}({op.name})"
        self.value(name, "auxiliary", self.batched(aux.shape), aux.dtype, op.name, when)
        return MaybeArg(tag, self.batched(aux.shape), aux.dtype, whole(name, self.padded(name)), pick)

    def param_storage(self, p: str, kind: str, cut: Fraction | None) -> MaybeArg:
        """Gradient, accumulator or optimizer state of a parameter, sized by its fraction."""
        levels = self.levels[p]
        shape = self.network.tensor[p].shape
        roles: dict[str, ValueRole] = {"grad": "parameter gradient", "acc": "accumulator"}
        role = roles.get(kind, "state")
        name = self.value(f"{kind}({p})", role, shape, self.options.dtype, p, levels.atoms[0], kind != "grad")
        spans, done = [], 0
        for (_, keep), atom in zip(levels.fractions, levels.atoms, strict=True):
            size = self.values[name].bytes
            if keep is not None and cut is not None:
                size = size * keep // cut.units
            size = align_up(size, self.options.alignment)
            if size > done:
                spans.append(MaybeSpan(name, done, size, atom))
            done = size
        where = (cut.axis, cut.per_unit) if cut is not None else None
        return MaybeArg(kind, shape, self.options.dtype, tuple(spans), cut=where)

    # -- gradients of activations -------------------------------------------------------------------
    def gradient_writes(
        self, tag: str, tensor: str, partial: bool, over: str | None
    ) -> tuple[list[MaybeArg], list[tuple[str, str]]]:
        """Arguments that write (or add to) the gradients of a tensor's parts."""
        if tensor in self.composites.patches:
            return self._patch_writes(tag, tensor, over)
        shape = self.network.tensor[tensor].shape
        row = math.prod(shape[1:])
        writes: list[MaybeArg] = []
        pairs: list[tuple[str, str]] = []
        start = 0
        roots = self.spans[tensor]
        for root, _, _ in roots:
            elements = self.network.tensor[root].elements
            flow = self.up.get(root, NEVER)
            if flow != NEVER:
                name = self.grad(root)
                ((_, add),) = self._fresh(root, (0, 0))
                span = (MaybeSpan(name, 0, self.padded(name), flow),)
                if len(roots) == 1:
                    writes.append(MaybeArg(tag, self.batched(shape), self.options.dtype, span, add=add))
                    if over is not None and not add and self.same_storage(name, over):
                        pairs.append((name, over))
                elif partial:
                    part = (start // row, (start + elements) // row)
                    writes.append(MaybeArg(tag, self.batched((part[1] - part[0], *shape[1:])), self.options.dtype, span,
                                           channels=part, add=add))  # fmt: skip
                else:
                    writes.append(MaybeArg(tag, self.batched((elements,)), self.options.dtype, span,
                                           channels=(start, start + elements), add=add))  # fmt: skip
            start += elements
        return writes, pairs

    def _patch_writes(self, tag: str, tensor: str, over: str | None) -> tuple[list[MaybeArg], list[tuple[str, str]]]:
        """The same for a tensor that is made up of rows: an argument for each run of rows to set or to add to."""
        shape = self.network.tensor[tensor].shape
        writes: list[MaybeArg] = []
        pairs: list[tuple[str, str]] = []
        for p in self.composites.patches[tensor]:
            flow = self.up.get(p.root, NEVER)
            if flow == NEVER:
                continue
            name = self.grad(p.root)
            layout, row = self.values[name].layout, self.composites.row_bytes(p.root, self.options.dtype)
            runs = self._fresh(p.root, p.rows) if layout == "hcw" else self._fresh(p.root, (0, 0))
            for (first, last), add in runs:
                if layout == "chw":  # such a root is there in whole
                    first, last = p.rows
                shift = p.box.rows[0] - p.rows[0]
                rows, channels = (first + shift, last + shift), p.box.channels
                extent = (channels[1] - channels[0], last - first, shape[2])
                span = self.span(name, first * row, last * row, flow)
                arg = MaybeArg(tag, self.batched(extent), self.options.dtype, (span,), add=add,
                               boxes=(Box((0, extent[0]), (0, extent[1])),))  # fmt: skip
                if extent != shape:
                    arg = replace(arg, channels=channels, rows=rows)
                elif over is not None and not add and self.covers(p) and self.same_storage(name, over):
                    pairs.append((name, over))
                writes.append(arg)
        return writes, pairs

    def covers(self, p: Patch) -> bool:
        """Whether a patch is all of its root."""
        return p.rows == (0, self.network.tensor[p.root].shape[1])

    def _fresh(self, root: str, rows: tuple[int, int]) -> list[tuple[tuple[int, int], bool]]:
        """Runs of rows of a gradient, each with whether it was written before; from now on all are.

        Rows ``(0, 0)`` stand for a gradient that is written in whole.
        """
        known = self._written.setdefault(root, set())
        if rows == (0, 0):
            before = -1 in known
            known.add(-1)
            return [(rows, before)]
        runs: list[tuple[tuple[int, int], bool]] = []
        for r in range(*rows):
            if runs and runs[-1][1] == (r in known):
                runs[-1] = ((runs[-1][0][0], r + 1), runs[-1][1])
            else:
                runs.append(((r, r + 1), r in known))
        known.update(range(*rows))
        return runs
