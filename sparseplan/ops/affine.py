"""Scale and offset a channel: what a batch-norm is once its statistics are frozen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from sparseplan.errors import OpError
from sparseplan.ops.base import (
    NOTHING,
    Alternatives,
    Array,
    Dim,
    Fraction,
    OpDef,
    Operand,
    OpInfo,
    Shape,
    Stripe,
    TileSpace,
    need,
    register,
)


def spread_channels(values: Array, rank: int) -> Array:
    """A value a channel, shaped to broadcast over a sample's other axes."""
    return values.reshape(-1, *(1,) * (rank - 1))


class PerChannel(OpDef):
    """An elementwise op with parameters of a value a channel (axis 0 of a sample), ``(C,)``."""

    partial_input = True

    def output_shape(self, attrs: Mapping[str, Any], inputs: Sequence[Shape]) -> Shape:
        if not inputs[0]:
            raise OpError("input has shape (), expected at least the axis of channels")
        return inputs[0]

    def stripe(self, info: OpInfo, lo: int, hi: int) -> Stripe | None:
        return Stripe(((lo, hi),), info.attrs)

    def inplace(self, info: OpInfo) -> tuple[int, ...]:
        return (0,)

    def inplace_grad(self, info: OpInfo, slot: int) -> bool:
        return True

    def fraction(self, info: OpInfo, slot: str) -> Fraction | None:
        if slot != "weight":
            return None
        return Fraction(axis=0, units=info.inputs[0][0], per_unit=1, rows=1)


@register
class Affine(PerChannel):
    """``y[c] = weight[c] * x[c] + bias[c]`` along axis 0 of a sample; ``bias`` may be absent."""

    kind = "affine"

    def param_shapes(self, attrs: Mapping[str, Any], inputs: Sequence[Shape]) -> dict[str, Shape]:
        return {"weight": inputs[0][:1], "bias": inputs[0][:1]}

    def required_params(self, attrs: Mapping[str, Any]) -> frozenset[str]:
        return frozenset(("weight",))

    def macs(self, info: OpInfo, pass_: str) -> int:
        return 0 if pass_ == "bias" else info.out_elements

    def needs_for_input(self, info: OpInfo, slot: int) -> Alternatives:
        return need("weight")

    def needs_for_param(self, info: OpInfo, slot: str) -> Alternatives:
        return need("x0") if slot == "weight" else NOTHING

    def forward(self, info: OpInfo, x: Sequence[Array], params: Mapping[str, Array]) -> Array:
        rank = len(info.output)
        y: Array = x[0] * spread_channels(params["weight"], rank)
        if "bias" in params:
            y += spread_channels(params["bias"], rank)
        return y

    def grad_input(
        self,
        info: OpInfo,
        slot: int,
        dy: Array,
        saved: Mapping[str, Array],
        channels: tuple[int, int] | None = None,
    ) -> Array:
        weight = saved["weight"]
        if channels is not None:
            dy, weight = dy[:, channels[0] : channels[1]], weight[channels[0] : channels[1]]
        dx: Array = dy * spread_channels(weight, len(info.output))
        return dx

    def grad_param(
        self, info: OpInfo, slot: str, dy: Array, saved: Mapping[str, Array], keep: int | None = None
    ) -> Array:
        rest = (0, *range(2, dy.ndim))
        product = dy if slot == "bias" else dy[:, :keep] * saved["x0"][:, :keep]
        total: Array = product.sum(axis=rest)
        return total

    def tile_space(self, info: OpInfo, pass_: str) -> TileSpace | None:
        c, rest = info.output[0], math.prod(info.output[1:])
        whole, channel = (Dim("c", c), Dim("n", rest)), (Dim("c", c),)
        operands: tuple[Operand, ...]
        if pass_ == "forward":
            weights = [Operand(slot, channel) for slot in ("weight", "bias") if slot in info.params]
            operands = (Operand("x0", whole), *weights, Operand("y", whole, "out"))
        elif pass_ == "x0":
            operands = (Operand("dy", whole), Operand("weight", channel), Operand("dx", whole, "out"))
        elif pass_ == "weight":
            operands = (Operand("x0", whole), Operand("dy", whole), Operand("dweight", channel, "out"))
        else:
            operands = (Operand("dy", whole), Operand("dbias", channel, "out"))
        return TileSpace((("c", c), ("n", rest)), operands, self.macs(info, pass_))
