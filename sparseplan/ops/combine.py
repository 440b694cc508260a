"""Ops of several inputs: add, mul, concat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from sparseplan.errors import OpError
from sparseplan.network import Attr
from sparseplan.ops.attrs import integer
from sparseplan.ops.base import (
    Alternatives,
    Array,
    Dim,
    OpDef,
    Operand,
    OpInfo,
    Shape,
    Stripe,
    TileSpace,
    need,
    register,
)
from sparseplan.ops.spread import Spread


@register
class Add(Spread):
    """Sum of two or more inputs; an extent of 1 is spread over the others'. Every gradient is ``dy``, summed
    over what was spread."""

    kind = "add"
    arity = (2, None)

    def forward(self, info: OpInfo, x: Sequence[Array], params: Mapping[str, Array]) -> Array:
        y: Array = x[0] + x[1]
        for other in x[2:]:
            y = y + other
        return y

    def _term(self, slot: int, dy: Array, saved: Mapping[str, Array]) -> Array:
        return dy.copy()

    def tile_space(self, info: OpInfo, pass_: str) -> TileSpace | None:
        if len({*info.inputs}) > 1:
            return super().tile_space(info, pass_)
        whole = (Dim("n", info.out_elements),)
        if pass_ == "forward":
            ins = tuple(Operand(f"x{i}", whole) for i in range(len(info.inputs)))
            operands = (*ins, Operand("y", whole, "out"))
        else:
            operands = (Operand("dy", whole), Operand("dx", whole, "out"))
        return TileSpace((("n", info.out_elements),), operands, 0)


@register
class Mul(Spread):
    """Product of two inputs of equal rank; an extent of 1 is spread over the other's (squeeze and
    excite: ``(C, 1, 1)`` with ``(C, H, W)``). The gradient of one input needs the other."""

    kind = "mul"
    arity = (2, 2)

    def macs(self, info: OpInfo, pass_: str) -> int:
        return info.out_elements

    def needs_for_input(self, info: OpInfo, slot: int) -> Alternatives:
        return need(f"x{1 - slot}")

    def inplace(self, info: OpInfo) -> tuple[int, ...]:
        return (0, 1) if info.inputs[0] == info.inputs[1] else ()

    def inplace_grad(self, info: OpInfo, slot: int) -> bool:
        return info.inputs[0] == info.inputs[1]

    def forward(self, info: OpInfo, x: Sequence[Array], params: Mapping[str, Array]) -> Array:
        return x[0] * x[1]

    def _term(self, slot: int, dy: Array, saved: Mapping[str, Array]) -> Array:
        return dy * saved[f"x{1 - slot}"]


@register
class Concat(OpDef):
    """Inputs side by side along ``axis`` (of a sample: 0 is the channel)."""

    kind = "concat"
    arity = (1, None)
    concat = True
    partial_input = True
    defaults: ClassVar[Mapping[str, Any]] = {"axis": 0}

    def complete_attrs(self, attrs: Mapping[str, Attr]) -> dict[str, Any]:
        full = super().complete_attrs(attrs)
        return full | {"axis": integer("axis", full["axis"], 0)}

    def output_shape(self, attrs: Mapping[str, Any], inputs: Sequence[Shape]) -> Shape:
        axis, first = attrs["axis"], inputs[0]
        if axis >= len(first):
            raise OpError(f"axis={axis} is beyond the {len(first)} axes of input shape {first}")
        for shape in inputs:
            if len(shape) != len(first) or any(
                m != n for i, (m, n) in enumerate(zip(shape, first, strict=True)) if i != axis
            ):
                raise OpError(f"inputs have shapes {list(inputs)}; they may differ along axis={axis} only")
        return (*first[:axis], sum(s[axis] for s in inputs), *first[axis + 1 :])

    def stripe(self, info: OpInfo, lo: int, hi: int) -> Stripe | None:
        return None if info.attrs["axis"] == 1 else Stripe(((lo, hi),) * len(info.inputs), info.attrs)

    def forward(self, info: OpInfo, x: Sequence[Array], params: Mapping[str, Array]) -> Array:
        return np.concatenate(x, axis=info.attrs["axis"] + 1)

    def grad_input(
        self,
        info: OpInfo,
        slot: int,
        dy: Array,
        saved: Mapping[str, Array],
        channels: tuple[int, int] | None = None,
    ) -> Array:
        axis = info.attrs["axis"]
        start = sum(s[axis] for s in info.inputs[:slot])
        part = (slice(None),) * (axis + 1) + (slice(start, start + info.inputs[slot][axis]),)
        dx: Array = dy[part] if channels is None else dy[part][:, channels[0] : channels[1]]
        return dx.copy()
