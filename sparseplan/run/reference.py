"""The oracle: one training step as a textbook would have it, without schedule, pruning or arena.

Forward keeps every tensor in an array of its own; backward walks all ops in reverse and computes
every gradient. It shares the op definitions with what it judges (they are checked elsewhere,
against finite differences and PyTorch) and nothing else.

Floating-point sums depend on their order, and rounding on its points. ``Arithmetic`` names the
points where two right executions may differ in the last bit, so that a comparison can be bit for
bit; its defaults are the plain way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sparseplan.dtypes import numpy_dtype
from sparseplan.network import Network, Op
from sparseplan.objective import Loss, labels_of, weighted_sum
from sparseplan.ops import OpInfo, infos, loss_def, op_def
from sparseplan.ops.base import Array
from sparseplan.run.packing import pack, unpack


@dataclass(frozen=True)
class Arithmetic:
    """How the reference rounds, and how it calls kernels.

    Attributes:
        dtype: storage of activations, gradients and parameters without a dtype of their own.
        free: ops (reshapes, concats) whose output is not stored: gradients pass them unrounded.
        parts: (op, input slot) to channel ranges of the input's gradient that are computed by a
            call of their own; matrix products of other shapes may sum in another order.
        saved: (op, what is computed) to the tags that backward reads, where it has a choice.
        keep: parameter to the units of which the gradient is computed (see ops.base.Fraction).
        packed: ops whose parameters' gradients are computed from an input that was saved in 8 bits.
        exact: gradients of parameters are not stored, so not rounded: they are added to a sum.
    """

    dtype: str = "fp32"
    free: frozenset[str] = frozenset()
    parts: Mapping[tuple[str, int], Sequence[tuple[int, int]]] = field(default_factory=dict)
    saved: Mapping[tuple[str, str], frozenset[str]] = field(default_factory=dict)
    keep: Mapping[str, int] = field(default_factory=dict)
    exact: bool = False
    packed: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Reference:
    """What one step computes.

    Attributes:
        loss: the weighted sum; losses: each by itself, without its weight, in order.
        tensors: every activation and input by name.
        tensor_gradients: gradients of the tensors that one reaches.
        gradients: gradients of all parameters that one reaches: sums over the ops that use each.
        terms: the terms of these sums, in the order in which backward comes to them.
    """

    loss: float
    losses: Sequence[float]
    tensors: Mapping[str, Array]
    tensor_gradients: Mapping[str, Array]
    gradients: Mapping[str, Array]
    terms: Mapping[str, Sequence[Array]]


def store(array: Array, dtype: str, scale: float | None = None) -> Array:
    """``array`` rounded to a storage type, as float32; a NaN is 0 in int8."""
    if dtype == "fp32":
        return array
    if dtype == "int8":
        assert scale is not None
        with np.errstate(over="ignore"):
            quanta = np.rint(array / np.float32(scale))
        quanta = np.where(np.isnan(quanta), 0, np.clip(quanta, -128, 127)) + 0.0  # codes know no negative zero
        return (quanta * np.float32(scale)).astype(np.float32)
    with np.errstate(over="ignore"):
        return array.astype(numpy_dtype(dtype)).astype(np.float32)


def reference(
    network: Network,
    parameters: Mapping[str, Array],
    x: Mapping[str, Array],
    target: Array | Mapping[str, Array],
    loss: str | Sequence[Loss],
    loss_attrs: Mapping[str, Any] | None = None,
    arithmetic: Arithmetic | None = None,
    weight: float = 1,
) -> Reference:
    """Loss and all gradients of one batch.

    Args:
        parameters, x, target: float32 (or int32 target), already as stored; the targets of several losses by
            their labels (see ``objective.labels_of``).
        loss: kind of the loss on the network's first output, or several losses.
        weight: what losses send back is multiplied by it.
    """
    if isinstance(loss, str):
        losses = [Loss(network.outputs[0], loss, 1.0, loss_attrs or {})]
        targets = [np.asarray(target)]
    else:
        losses, given = list(loss), dict(target)
        targets = [given[label] for label in labels_of(losses)]
    return _Walk(network, parameters, x, arithmetic or Arithmetic()).run(losses, targets, weight)


class _Walk:
    def __init__(
        self, network: Network, parameters: Mapping[str, Array], x: Mapping[str, Array], arithmetic: Arithmetic
    ) -> None:
        self.network, self.parameters, self.arithmetic = network, parameters, arithmetic
        self.infos = infos(network)
        self.tensors: dict[str, Array] = dict(x)
        self.gradients: dict[str, Array] = {}
        self.terms: dict[str, list[Array]] = {}
        self.tensor_gradients: dict[str, Array] = {}
        self.rows: dict[str, np.ndarray[Any, np.dtype[np.bool_]]] = {}  # of gradients that come row by row: there yet?

    def run(self, losses: Sequence[Loss], targets: Sequence[Array], weight: float) -> Reference:
        for op in self.network.ops:
            t = self.network.tensor[op.output]
            inputs = [self.tensors[name] for name in op.inputs]
            params = {slot: self.parameters[p] for slot, p in op.params.items()}
            y = op_def(op.kind).forward(self.infos[op.name], inputs, params)
            if not inputs:  # what is made from nothing is the same for every sample
                y = np.repeat(y, len(targets[0]), axis=0)
            self.tensors[op.output] = store(y, t.dtype or self.arithmetic.dtype, t.scale)
        values = []
        for judged, target in zip(losses, targets, strict=True):
            definition, output = loss_def(judged.kind), self.tensors[judged.output]
            value, dy = definition.value_and_grad(output, target, {**definition.defaults, **judged.attrs})
            values.append(value)
            for factor in (judged.weight, weight):
                dy = dy if factor == 1 else dy * factor
            self.flow(judged.output, dy)
        for op in reversed(self.network.ops):
            if op.output in self.tensor_gradients:
                self.backward(op, self.tensor_gradients[op.output])
        total = weighted_sum(losses, values)
        return Reference(total, tuple(values), self.tensors, self.tensor_gradients, self.gradients, self.terms)

    def backward(self, op: Op, dy: Array) -> None:
        d, info = op_def(op.kind), self.infos[op.name]
        for slot, p in op.params.items():
            if not d.updatable(slot):
                continue
            saved = self.saved(op, info, slot, d.needs_for_param(info, slot)[0])
            if op.name in self.arithmetic.packed and "x0" in saved:
                saved["x0"] = unpack(*pack(saved["x0"]))
            keep = self.arithmetic.keep.get(p)
            cut = d.fraction(info, slot)
            if keep is not None and cut is not None and cut.rows is not None:
                saved["x0"] = saved["x0"][:, : keep * cut.rows]
            grad = d.grad_param(info, slot, dy, saved, keep)
            self.terms.setdefault(p, []).append(grad)
            total = self.gradients[p] + grad if p in self.gradients else grad
            self.gradients[p] = total if self.arithmetic.exact else store(total, self.arithmetic.dtype)
        for i, name in enumerate(op.inputs):
            if not d.differentiable(info, i):
                continue
            saved = self.saved(op, info, f"x{i}", d.needs_for_input(info, i)[0])
            dx = d.grad_input(info, i, dy, saved)
            for lo, hi in self.arithmetic.parts.get((op.name, i), ()):
                dx[:, lo:hi] = d.grad_input(info, i, dy, saved, (lo, hi))
            self.flow(name, dx)

    def saved(self, op: Op, info: OpInfo, computed: str, default: frozenset[str]) -> dict[str, Array]:
        """What backward reads, by tag; auxiliary tensors are made from what forward left."""
        d = op_def(op.kind)
        aux = d.aux(info)
        by_tag = {f"x{i}": self.tensors[name] for i, name in enumerate(op.inputs)}
        by_tag["y"] = self.tensors[op.output]
        by_tag |= {slot: self.parameters[p] for slot, p in op.params.items()}
        result = {}
        for tag in self.arithmetic.saved.get((op.name, computed), default):
            if tag in aux:
                result[tag] = d.forward_aux(info, tag, [self.tensors[t] for t in op.inputs], by_tag["y"])
            else:
                result[tag] = by_tag[tag]
        return result

    def flow(self, name: str, dx: Array, first: int | None = None) -> None:
        """Add to the gradient of a tensor (of its rows from ``first`` on); through free ops, to what lies behind it."""
        op = self.network.producer.get(name)
        if op is not None and op.name in self.arithmetic.free:
            d, info = op_def(op.kind), self.infos[op.name]
            if d.window:
                self.flow(op.inputs[0], dx, info.attrs["lo"] + (first or 0))
            elif d.stack:
                self.spread(op, info, dx, first or 0)
            elif d.concat and first is not None:
                for t, part in zip(op.inputs, _channels(info, dx), strict=True):
                    self.flow(t, part, first)
            else:
                for i, t in enumerate(op.inputs):
                    self.flow(t, d.grad_input(info, i, dx, {}))
            return
        if first is not None and dx.shape[2] != self.tensors[name].shape[2]:
            self.add_rows(name, dx, first)
            return
        if name in self.rows:
            self.add_rows(name, dx, 0)
            return
        if name in self.tensor_gradients:
            dx = self.tensor_gradients[name] + dx
        self.tensor_gradients[name] = store(dx, self.arithmetic.dtype)

    def spread(self, op: Op, info: OpInfo, dx: Array, first: int) -> None:
        """Gradient rows from ``first`` on, to the images one below the other that they belong to."""
        at = 0
        for t, shape in zip(op.inputs, info.inputs, strict=True):
            lo, hi = max(at, first), min(at + shape[1], first + dx.shape[2])
            if lo < hi:
                self.flow(t, dx[:, :, lo - first : hi - first], lo - at)
            at += shape[1]

    def add_rows(self, name: str, dx: Array, first: int) -> None:
        """Add to rows of a gradient that are there, set those that are not."""
        whole = self.tensor_gradients.get(name)
        if name not in self.rows:
            self.rows[name] = np.full(self.tensors[name].shape[2], whole is not None)
        there = self.rows[name][first : first + dx.shape[2]]
        whole = np.zeros(self.tensors[name].shape, dx.dtype) if whole is None else whole.copy()
        part = whole[:, :, first : first + dx.shape[2]]
        part[:] = store(np.where(there[:, None], part + dx, dx), self.arithmetic.dtype)
        there[:] = True
        self.tensor_gradients[name] = whole


def _channels(info: OpInfo, dx: Array) -> list[Array]:
    """A gradient cut into those of a concat's inputs, whatever its rows."""
    ends = np.cumsum([shape[0] for shape in info.inputs])
    return list(np.split(dx, ends[:-1].tolist(), axis=1))
