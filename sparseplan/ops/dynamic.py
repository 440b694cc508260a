"""Ops whose weight is an activation: convolutions with a kernel that is computed, rows of a table that is computed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from sparseplan.errors import OpError
from sparseplan.network import Attr
from sparseplan.ops.base import (
    NOTHING,
    Alternatives,
    Array,
    Dim,
    OpDef,
    Operand,
    OpInfo,
    Shape,
    TileSpace,
    need,
    register,
)
from sparseplan.ops.conv import Conv, ConvTranspose


class _Dynamic(OpDef):
    """An op whose every rule is that of ``fixed_op``, save that its weight is input 1: another for each sample."""

    fixed_op: ClassVar[OpDef]
    arity = (2, 2)

    def complete_attrs(self, attrs: Mapping[str, Attr]) -> dict[str, Any]:
        return self.fixed_op.complete_attrs(super().complete_attrs(attrs))

    def output_shape(self, attrs: Mapping[str, Any], inputs: Sequence[Shape]) -> Shape:
        output = self.fixed_op.output_shape(attrs, inputs[:1])
        wanted = self.fixed_op.param_shapes(attrs, inputs[:1])["weight"]
        if inputs[1] != wanted:
            raise OpError(f"input 1, the weight, has shape {inputs[1]}, expected {wanted}")
        return output

    def param_shapes(self, attrs: Mapping[str, Any], inputs: Sequence[Shape]) -> dict[str, Shape]:
        return {"bias": self.fixed_op.param_shapes(attrs, inputs[:1])["bias"]}

    def _fixed(self, info: OpInfo) -> OpInfo:
        """The op with its weight as a parameter."""
        params = {"weight": info.inputs[1], **info.params}
        return OpInfo(info.name, self.fixed_op.kind, info.attrs, info.inputs[:1], info.output, params)

    def macs(self, info: OpInfo, pass_: str) -> int:
        return self.fixed_op.macs(self._fixed(info), "weight" if pass_ == "x1" else pass_)

    def needs_for_input(self, info: OpInfo, slot: int) -> Alternatives:
        return need(f"x{1 - slot}")

    def forward(self, info: OpInfo, x: Sequence[Array], params: Mapping[str, Array]) -> Array:
        fixed = self._fixed(info)
        return np.concatenate([
            self.fixed_op.forward(fixed, [image], {"weight": weight, **params})
            for image, weight in zip(np.split(x[0], len(x[0])), x[1], strict=True)
        ])  # fmt: skip

    def grad_input(
        self,
        info: OpInfo,
        slot: int,
        dy: Array,
        saved: Mapping[str, Array],
        channels: tuple[int, int] | None = None,
    ) -> Array:
        fixed, parts = self._fixed(info), list[Array]()
        other = saved[f"x{1 - slot}"]
        for n in range(len(dy)):
            one = dy[n : n + 1]
            if slot == 0:
                parts.append(self.fixed_op.grad_input(fixed, 0, one, {"weight": other[n]}))
            else:
                parts.append(self.fixed_op.grad_param(fixed, "weight", one, {"x0": other[n : n + 1]})[None])
        return np.concatenate(parts)

    def grad_param(
        self, info: OpInfo, slot: str, dy: Array, saved: Mapping[str, Array], keep: int | None = None
    ) -> Array:
        return self.fixed_op.grad_param(self._fixed(info), slot, dy, saved, keep)

    def tile_space(self, info: OpInfo, pass_: str) -> TileSpace | None:
        space = self.fixed_op.tile_space(self._fixed(info), "weight" if pass_ == "x1" else pass_)
        if space is None:
            return None
        tags = {"weight": "x1", "dweight": "dx"}
        return replace(space, operands=tuple(replace(o, tag=tags.get(o.tag, o.tag)) for o in space.operands))


@register
class DynamicConv(_Dynamic):
    """``conv`` whose weight ``(out, C / groups, kh, kw)`` is input 1, as where it is computed from parameters (weight
    norm, low-rank updates) or from data; bias ``(out,)`` or absent. Attributes are those of ``conv``."""

    kind = "dynamic_conv"
    fixed_op: ClassVar[OpDef] = Conv()
    defaults: ClassVar[Mapping[str, Any]] = Conv.defaults


@register
class DynamicConvTranspose(_Dynamic):
    """``conv_transpose`` whose weight ``(C, out / groups, kh, kw)`` is input 1; bias ``(out,)`` or absent. Attributes
    are those of ``conv_transpose``."""

    kind = "dynamic_conv_transpose"
    fixed_op: ClassVar[OpDef] = ConvTranspose()
    defaults: ClassVar[Mapping[str, Any]] = ConvTranspose.defaults


@register
class Lookup(OpDef):
    """Rows of a table that is computed, by their numbers: ids of any shape and a table ``(num, dim)`` to
    ``(*shape, dim)``.

    As ``embedding``, save that the table is input 1. Its gradient is ``dy`` added to the rows that were looked up.
    """

    kind = "lookup"
    arity = (2, 2)
    integer_inputs: ClassVar[frozenset[int] | None] = frozenset((0,))

    def output_shape(self, attrs: Mapping[str, Any], inputs: Sequence[Shape]) -> Shape:
        if len(inputs[1]) != 2:
            raise OpError(f"input 1, the table, has shape {inputs[1]}, expected (rows, features)")
        return (*inputs[0], inputs[1][1])

    def differentiable(self, info: OpInfo, slot: int) -> bool:
        return slot == 1

    def obstacle(self, info: OpInfo) -> str:
        return "ids have no gradient; there is nothing before a lookup to update but its table"

    def needs_for_input(self, info: OpInfo, slot: int) -> Alternatives:
        return need("x0") if slot == 1 else NOTHING

    def forward(self, info: OpInfo, x: Sequence[Array], params: Mapping[str, Array]) -> Array:
        return np.stack([table[ids] for ids, table in zip(*x, strict=True)])

    def grad_input(
        self,
        info: OpInfo,
        slot: int,
        dy: Array,
        saved: Mapping[str, Array],
        channels: tuple[int, int] | None = None,
    ) -> Array:
        total: Array = np.zeros((len(dy), *info.inputs[1]), dy.dtype)
        for table, ids, rows in zip(total, saved["x0"], dy, strict=True):
            # one after the other, in the order of the ids: an id may occur more than once
            np.add.at(table, ids.reshape(-1), rows.reshape(-1, table.shape[1]))
        return total

    def tile_space(self, info: OpInfo, pass_: str) -> TileSpace | None:
        (num, dim), ids = info.inputs[1], math.prod(info.inputs[0])
        if pass_ == "x0":
            return None  # never computed
        r, d = Dim("r", ids), Dim("d", dim)
        numbers, axes = Operand("x0", (r,), "in", "i32"), (("r", ids), ("d", dim))
        if pass_ == "forward":  # of the table, the rows that a tile looks up, one an id
            return TileSpace(axes, (numbers, Operand("x1", (r, d)), Operand("y", (r, d), "out")), 0)
        return TileSpace(axes, (numbers, Operand("dy", (r, d)), Operand("dx", (Dim(None, num), d), "out")), 0)
