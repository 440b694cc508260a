"""The fully connected layer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from sparseplan.errors import OpError
from sparseplan.network import Attr
from sparseplan.ops.attrs import integer
from sparseplan.ops.base import (
    NOTHING,
    REQUIRED,
    Alternatives,
    Array,
    Dim,
    Fraction,
    OpDef,
    Operand,
    OpInfo,
    Shape,
    TileSpace,
    need,
    register,
)


@register
class Linear(OpDef):
    """``y = x @ weight.T + bias`` on the last axis.

    Input ``(..., in)``, weight ``(out_features, in)``, bias ``(out_features,)`` or absent.
    """

    kind = "linear"
    partial_input = True
    defaults: ClassVar[Mapping[str, Any]] = {"out_features": REQUIRED}

    def complete_attrs(self, attrs: Mapping[str, Attr]) -> dict[str, Any]:
        full = super().complete_attrs(attrs)
        return full | {"out_features": integer("out_features", full["out_features"])}

    def output_shape(self, attrs: Mapping[str, Any], inputs: Sequence[Shape]) -> Shape:
        if not inputs[0]:
            raise OpError("input has shape (), expected at least one axis of features")
        return (*inputs[0][:-1], attrs["out_features"])

    def param_shapes(self, attrs: Mapping[str, Any], inputs: Sequence[Shape]) -> dict[str, Shape]:
        return {"weight": (attrs["out_features"], inputs[0][-1]), "bias": (attrs["out_features"],)}

    def required_params(self, attrs: Mapping[str, Any]) -> frozenset[str]:
        return frozenset(("weight",))

    def macs(self, info: OpInfo, pass_: str) -> int:
        return 0 if pass_ == "bias" else info.out_elements * info.inputs[0][-1]

    def needs_for_input(self, info: OpInfo, slot: int) -> Alternatives:
        return need("weight")

    def needs_for_param(self, info: OpInfo, slot: str) -> Alternatives:
        return need("x0") if slot == "weight" else NOTHING

    def fraction(self, info: OpInfo, slot: str) -> Fraction | None:
        if slot != "weight":
            return None
        # with more axes the features are no leading entries of the saved input
        return Fraction(axis=1, units=info.inputs[0][-1], per_unit=1, rows=1 if len(info.inputs[0]) == 1 else None)

    def forward(self, info: OpInfo, x: Sequence[Array], params: Mapping[str, Array]) -> Array:
        y: Array = np.matmul(x[0], params["weight"].T)
        if "bias" in params:
            y += params["bias"]
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
            if len(info.inputs[0]) == 1:
                weight = weight[:, channels[0] : channels[1]]
            else:
                dy = dy[:, channels[0] : channels[1]]
        dx: Array = np.matmul(dy, weight)
        return dx

    def grad_param(
        self, info: OpInfo, slot: str, dy: Array, saved: Mapping[str, Array], keep: int | None = None
    ) -> Array:
        rows = dy.reshape(-1, dy.shape[-1])
        if slot == "bias":
            total: Array = rows.sum(axis=0)
            return total
        x = saved["x0"]
        x = x.reshape(-1, x.shape[-1])[:, :keep]
        grad: Array = np.matmul(rows.T, x)
        return grad

    def tile_space(self, info: OpInfo, pass_: str) -> TileSpace | None:
        rows, ins, outs = math.prod(info.inputs[0][:-1]), info.inputs[0][-1], info.output[-1]
        r, ci, co = Dim("r", rows), Dim("ci", ins), Dim("co", outs)
        axes = (("r", rows), ("co", outs), ("ci", ins))
        macs = self.macs(info, pass_)
        if pass_ == "x0":
            return TileSpace(
                axes, (Operand("dy", (r, co)), Operand("weight", (co, ci)), Operand("dx", (r, ci), "out")), macs
            )
        if pass_ == "weight":
            return TileSpace(
                axes, (Operand("x0", (r, ci)), Operand("dy", (r, co)), Operand("dweight", (co, ci), "out")), macs
            )
        if pass_ == "bias":
            return TileSpace(axes[:2], (Operand("dy", (r, co)), Operand("dbias", (co,), "out")), macs)
        weights = [Operand("weight", (co, ci))]
        if "bias" in info.params:
            weights.append(Operand("bias", (co,)))
        return TileSpace(axes, (Operand("x0", (r, ci)), *weights, Operand("y", (r, co), "out")), macs)
