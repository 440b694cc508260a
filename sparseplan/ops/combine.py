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


@register
class Add(OpDef):
    """Sum of two or more inputs of one shape; every gradient is ``dy`` itself."""

    kind = "add"
    arity = (2, None)
    partial_input = True

    def output_shape(self, attrs: Mapping[str, Any], inputs: Sequence[Shape]) -> Shape:
        if len(set(inputs)) > 1:
            raise OpError(f"inputs have shapes {list(inputs)}; add takes equal ones")
        return inputs[0]

    def stripe(self, info: OpInfo, lo: int, hi: int) -> Stripe | None:
        return Stripe(((lo, hi),) * len(info.inputs), info.attrs)

    def inplace(self, info: OpInfo) -> tuple[int, ...]:
        return tuple(range(len(info.inputs)))

    def inplace_grad(self, info: OpInfo, slot: int) -> bool:
        return True

    def forward(self, info: OpInfo, x: Sequence[Array], params: Mapping[str, Array]) -> Array:
        y: Array = x[0] + x[1]
        for other in x[2:]:
            y += other
        return y

    def grad_input(
        self,
        info: OpInfo,
        slot: int,
        dy: Array,
        saved: Mapping[str, Array],
        channels: tuple[int, int] | None = None,
    ) -> Array:
        return dy.copy() if channels is None else dy[:, channels[0] : channels[1]].copy()

    def tile_space(self, info: OpInfo, pass_: str) -> TileSpace | None:
        whole = (Dim("n", info.out_elements),)
        if pass_ == "forward":
            ins = tuple(Operand(f"x{i}", whole) for i in range(len(info.inputs)))
            operands = (*ins, Operand("y", whole, "out"))
        else:
            operands = (Operand("dy", whole), Operand("dx", whole, "out"))
        return TileSpace((("n", info.out_elements),), operands, 0)


@register
class Mul(OpDef):
    """Product of two inputs of equal rank; an extent of 1 is spread over the other's (squeeze and
    excite: ``(C, 1, 1)`` with ``(C, H, W)``). The gradient of one input needs the other."""

    kind = "mul"
    arity = (2, 2)
    partial_input = True

    def output_shape(self, attrs: Mapping[str, Any], inputs: Sequence[Shape]) -> Shape:
        a, b = inputs
        if len(a) != len(b) or any(m != n and 1 not in (m, n) for m, n in zip(a, b, strict=False)):
            raise OpError(f"inputs have shapes {list(inputs)}; mul takes equal ones, or extents of 1 to spread")
        return tuple(max(m, n) for m, n in zip(a, b, strict=True))

    def macs(self, info: OpInfo, pass_: str) -> int:
        return info.out_elements

    def needs_for_input(self, info: OpInfo, slot: int) -> Alternatives:
        return need(f"x{1 - slot}")

    def stripe(self, info: OpInfo, lo: int, hi: int) -> Stripe | None:
        # what is spread over all rows is read in whole by every stripe
        rows = tuple((lo, hi) if shape[1] == info.output[1] else None for shape in info.inputs)
        return Stripe(rows, info.attrs)

    def inplace(self, info: OpInfo) -> tuple[int, ...]:
        return (0, 1) if info.inputs[0] == info.inputs[1] else ()

    def inplace_grad(self, info: OpInfo, slot: int) -> bool:
        return info.inputs[0] == info.inputs[1]

    def forward(self, info: OpInfo, x: Sequence[Array], params: Mapping[str, Array]) -> Array:
        return x[0] * x[1]

    def grad_input(
        self,
        info: OpInfo,
        slot: int,
        dy: Array,
        saved: Mapping[str, Array],
        channels: tuple[int, int] | None = None,
    ) -> Array:
        other = saved[f"x{1 - slot}"]
        if channels is not None and info.inputs[slot][0] == info.output[0]:
            cut = slice(*channels)
            dy, other = dy[:, cut], other if info.inputs[1 - slot][0] != info.output[0] else other[:, cut]
        dx = dy * other
        spread = tuple(i + 1 for i, (m, n) in enumerate(zip(info.inputs[slot], info.output, strict=True)) if m != n)
        return dx.sum(axis=spread, keepdims=True) if spread else dx

    def tile_space(self, info: OpInfo, pass_: str) -> TileSpace | None:
        axes = tuple((f"a{i}", n) for i, n in enumerate(info.output))

        def dims(shape: Shape) -> tuple[Dim, ...]:
            return tuple(
                Dim(f"a{i}", m) if m == n else Dim(None, 1)
                for i, (m, n) in enumerate(zip(shape, info.output, strict=True))
            )

        if pass_ == "forward":
            operands = tuple(Operand(f"x{i}", dims(s)) for i, s in enumerate(info.inputs))
            made = Operand("y", dims(info.output), "out")
        else:
            slot = int(pass_[1:])
            operands = (Operand("dy", dims(info.output)), Operand(f"x{1 - slot}", dims(info.inputs[1 - slot])))
            made = Operand("dx", dims(info.inputs[slot]), "out")
        return TileSpace(axes, (*operands, made), self.macs(info, pass_))


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
