"""The rectifier whose slope is a parameter."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from sparseplan.network import Attr
from sparseplan.ops.affine import PerChannel, spread_channels
from sparseplan.ops.attrs import boolean
from sparseplan.ops.base import (
    Alternatives,
    Array,
    Aux,
    Dim,
    Fraction,
    Operand,
    OpInfo,
    Shape,
    TileSpace,
    need,
    register,
)


@register
class PRelu(PerChannel):
    """``x`` where positive, else ``weight * x``: a weight a channel (axis 0), ``(C,)``, or ``shared``, ``(1,)``.

    The input's gradient needs one bit an element and the weight; the weight's needs the input.
    """

    kind = "prelu"
    defaults: ClassVar[Mapping[str, Any]] = {"shared": False}

    def complete_attrs(self, attrs: Mapping[str, Attr]) -> dict[str, Any]:
        full = super().complete_attrs(attrs)
        return full | {"shared": boolean("shared", full["shared"])}

    def param_shapes(self, attrs: Mapping[str, Any], inputs: Sequence[Shape]) -> dict[str, Shape]:
        return {"weight": (1,) if attrs["shared"] else inputs[0][:1]}

    def required_params(self, attrs: Mapping[str, Any]) -> frozenset[str]:
        return frozenset(("weight",))

    def init(self, slot: str, shape: Shape, rng: np.random.Generator) -> Array:
        return np.full(shape, 0.25, np.float32)

    def macs(self, info: OpInfo, pass_: str) -> int:
        return info.out_elements

    def aux(self, info: OpInfo) -> Mapping[str, Aux]:
        # the output's sign tells nothing: a weight may be negative
        return {"mask": Aux(info.output, "bit", ("x0",))}

    def needs_for_input(self, info: OpInfo, slot: int) -> Alternatives:
        return frozenset(("mask", "weight")), frozenset(("x0", "weight"))

    def needs_for_param(self, info: OpInfo, slot: str) -> Alternatives:
        return need("x0")

    def fraction(self, info: OpInfo, slot: str) -> Fraction | None:
        return None if info.attrs["shared"] else super().fraction(info, slot)

    def make_aux(self, info: OpInfo, tag: str, source: str, array: Array) -> Array:
        if tag != "mask":
            return super().make_aux(info, tag, source, array)
        mask: Array = array > 0
        return mask

    @staticmethod
    def _factor(info: OpInfo, positive: Array, weight: Array) -> Array:
        return np.where(positive, weight.dtype.type(1), spread_channels(weight, len(info.output)))

    def forward(self, info: OpInfo, x: Sequence[Array], params: Mapping[str, Array]) -> Array:
        y: Array = self._factor(info, x[0] > 0, params["weight"])
        y *= x[0]
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
        positive = saved["mask"] if "mask" in saved else saved["x0"] > 0
        if channels is not None:
            part = slice(*channels)
            dy, positive = dy[:, part], positive[:, part]
            weight = weight if info.attrs["shared"] else weight[part]
        dx: Array = self._factor(info, positive, weight)
        dx *= dy
        return dx

    def grad_param(
        self, info: OpInfo, slot: str, dy: Array, saved: Mapping[str, Array], keep: int | None = None
    ) -> Array:
        product = np.minimum(saved["x0"][:, :keep], 0)
        product *= dy[:, :keep]
        if info.attrs["shared"]:
            return np.reshape(product.sum(), (1,))
        total: Array = product.sum(axis=(0, *range(2, dy.ndim)))
        return total

    def tile_space(self, info: OpInfo, pass_: str) -> TileSpace | None:
        c, rest = info.output[0], math.prod(info.output[1:])
        whole = (Dim("c", c), Dim("n", rest))
        slopes = (Dim(None, 1),) if info.attrs["shared"] else (Dim("c", c),)
        operands: tuple[Operand, ...]
        mask = Operand("mask", whole, "out" if pass_ == "forward" else "in", "bit")
        if pass_ == "forward":
            # the mask is written only where backward wants it
            operands = (Operand("x0", whole), Operand("weight", slopes), Operand("y", whole, "out"), mask)
        elif pass_ == "x0":
            operands = (Operand("dy", whole), mask, Operand("weight", slopes), Operand("dx", whole, "out"))
        else:
            operands = (Operand("x0", whole), Operand("dy", whole), Operand("dweight", slopes, "out"))
        return TileSpace((("c", c), ("n", rest)), operands, self.macs(info, pass_))
