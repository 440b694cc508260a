"""Softmax and its logarithm along one axis of a sample."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from sparseplan.errors import OpError
from sparseplan.network import Attr
from sparseplan.ops.attrs import integer
from sparseplan.ops.base import Alternatives, Array, Dim, OpDef, Operand, OpInfo, Shape, TileSpace, need, register


class _Softmax(OpDef):
    """``axis`` counts the sample's axes, negative from the last; both gradients need the output alone."""

    defaults: ClassVar[Mapping[str, Any]] = {"axis": -1}

    def complete_attrs(self, attrs: Mapping[str, Attr]) -> dict[str, Any]:
        full = super().complete_attrs(attrs)
        return full | {"axis": integer("axis", full["axis"], -(2**31))}

    def output_shape(self, attrs: Mapping[str, Any], inputs: Sequence[Shape]) -> Shape:
        rank = len(inputs[0])
        if not -rank <= attrs["axis"] < rank:
            raise OpError(f"axis={attrs['axis']} is beyond the {rank} axes of input shape {inputs[0]}")
        return inputs[0]

    def needs_for_input(self, info: OpInfo, slot: int) -> Alternatives:
        return need("y")

    def inplace(self, info: OpInfo) -> tuple[int, ...]:
        return (0,)  # a run's largest entry and sum are known before it is written

    def inplace_grad(self, info: OpInfo, slot: int) -> bool:
        return True

    @staticmethod
    def _axis(info: OpInfo) -> int:
        """Axis of a batched array."""
        axis: int = info.attrs["axis"] % len(info.output) + 1
        return axis

    def tile_space(self, info: OpInfo, pass_: str) -> TileSpace | None:
        axis = self._axis(info) - 1
        outer, inner = math.prod(info.output[:axis]), math.prod(info.output[axis + 1 :])
        whole = (Dim("o", outer), Dim(None, info.output[axis]), Dim("i", inner))
        reads = ("x0",) if pass_ == "forward" else ("y", "dy")
        made = Operand("y" if pass_ == "forward" else "dx", whole, "out")
        operands = (*(Operand(tag, whole) for tag in reads), made)
        return TileSpace((("o", outer), ("i", inner)), operands, self.macs(info, pass_))


@register
class Softmax(_Softmax):
    """``exp(x) / sum(exp(x))`` along ``axis``, computed without overflow."""

    kind = "softmax"

    def macs(self, info: OpInfo, pass_: str) -> int:
        return 2 * info.out_elements

    def forward(self, info: OpInfo, x: Sequence[Array], params: Mapping[str, Array]) -> Array:
        axis = self._axis(info)
        y: Array = x[0] - x[0].max(axis=axis, keepdims=True)
        np.exp(y, out=y)
        y /= y.sum(axis=axis, keepdims=True)
        return y

    def grad_input(
        self,
        info: OpInfo,
        slot: int,
        dy: Array,
        saved: Mapping[str, Array],
        channels: tuple[int, int] | None = None,
    ) -> Array:
        y = saved["y"]
        dx: Array = dy - (dy * y).sum(axis=self._axis(info), keepdims=True)
        dx *= y
        return dx


@register
class LogSoftmax(_Softmax):
    """``x - log(sum(exp(x)))`` along ``axis``, computed without overflow."""

    kind = "log_softmax"

    def macs(self, info: OpInfo, pass_: str) -> int:
        return info.out_elements if pass_ == "forward" else 2 * info.out_elements

    def forward(self, info: OpInfo, x: Sequence[Array], params: Mapping[str, Array]) -> Array:
        axis = self._axis(info)
        y: Array = x[0] - x[0].max(axis=axis, keepdims=True)
        y -= np.log(np.exp(y).sum(axis=axis, keepdims=True))
        return y

    def grad_input(
        self,
        info: OpInfo,
        slot: int,
        dy: Array,
        saved: Mapping[str, Array],
        channels: tuple[int, int] | None = None,
    ) -> Array:
        dx: Array = np.exp(saved["y"])
        dx *= -dy.sum(axis=self._axis(info), keepdims=True)
        dx += dy
        return dx
