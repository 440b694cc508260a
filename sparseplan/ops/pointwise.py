"""Activations: unary ops computed element by element, in place where nothing else reads the input."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from sparseplan.network import Attr
from sparseplan.ops.attrs import number
from sparseplan.ops.base import (
    Alternatives,
    Array,
    Aux,
    Dim,
    OpDef,
    Operand,
    OpInfo,
    Shape,
    Stripe,
    TileSpace,
    either,
    need,
    register,
)


def logistic(x: Array) -> Array:
    """``1 / (1 + exp(-x))`` without overflow."""
    small = np.exp(-np.abs(x))
    y: Array = np.where(x >= 0, 1, small).astype(x.dtype, copy=False) / (1 + small)
    return y


class Unary(OpDef):
    """``y[i] = f(x[i])``; the gradient is elementwise as well."""

    partial_input = True

    def output_shape(self, attrs: Mapping[str, Any], inputs: Sequence[Shape]) -> Shape:
        return inputs[0]

    def macs(self, info: OpInfo, pass_: str) -> int:
        return info.out_elements

    def stripe(self, info: OpInfo, lo: int, hi: int) -> Stripe | None:
        return Stripe(((lo, hi),), info.attrs)

    def inplace(self, info: OpInfo) -> tuple[int, ...]:
        return (0,)

    def inplace_grad(self, info: OpInfo, slot: int) -> bool:
        return True

    def tile_space(self, info: OpInfo, pass_: str) -> TileSpace | None:
        n = info.out_elements
        whole = (Dim("n", n),)
        aux = self.aux(info)
        if pass_ == "forward":
            # the auxiliary is written only where backward wants it; drop the operand otherwise
            made = [Operand(tag, whole, "out", a.dtype) for tag, a in aux.items()]
            operands = [Operand("x0", whole), Operand("y", whole, "out"), *made]
        else:
            read = sorted(self.needs_for_input(info, 0)[0])
            saved = [Operand(tag, whole, "in", aux[tag].dtype if tag in aux else "data") for tag in read]
            operands = [Operand("dy", whole), *saved, Operand("dx", whole, "out")]
        return TileSpace((("n", n),), tuple(operands), self.macs(info, pass_))

    def grad_input(
        self,
        info: OpInfo,
        slot: int,
        dy: Array,
        saved: Mapping[str, Array],
        channels: tuple[int, int] | None = None,
    ) -> Array:
        ((tag, kept),) = saved.items()
        if channels is not None:
            first, last = channels
            dy, kept = dy[:, first:last], kept[:, first:last]
        if tag not in ("mask", "x0") and "mask" in self.aux(info):
            kept = self.make_aux(info, "mask", tag, kept)
        return self._backward(info, dy, kept)

    @abstractmethod
    def _backward(self, info: OpInfo, dy: Array, kept: Array) -> Array:
        """Gradient from ``dy`` and the saved mask, else output, else input."""


class _Masked(Unary):
    """A kink at zero: one bit an element tells the side, and so does the output's sign."""

    def macs(self, info: OpInfo, pass_: str) -> int:
        return 0  # a comparison

    def aux(self, info: OpInfo) -> Mapping[str, Aux]:
        return {"mask": Aux(info.output, "bit", ("y", "x0"))}

    def needs_for_input(self, info: OpInfo, slot: int) -> Alternatives:
        return either("mask", "y")

    def make_aux(self, info: OpInfo, tag: str, source: str, array: Array) -> Array:
        if tag != "mask":
            return super().make_aux(info, tag, source, array)
        # y > 0 exactly where x > 0: positive values pass unchanged
        mask: Array = array > 0
        return mask


@register
class Relu(_Masked):
    """``max(x, 0)``; the gradient at 0 is 0."""

    kind = "relu"

    def forward(self, info: OpInfo, x: Sequence[Array], params: Mapping[str, Array]) -> Array:
        y: Array = np.maximum(x[0], 0)
        return y

    def _backward(self, info: OpInfo, dy: Array, kept: Array) -> Array:
        return dy * kept


@register
class LeakyRelu(_Masked):
    """``x`` where positive, else ``slope * x``, with ``slope >= 0`` (so that y tells x's sign)."""

    kind = "leaky_relu"
    defaults: ClassVar[Mapping[str, Any]] = {"slope": 0.01}

    def complete_attrs(self, attrs: Mapping[str, Attr]) -> dict[str, Any]:
        full = super().complete_attrs(attrs)
        return full | {"slope": number("slope", full["slope"], 0)}

    def macs(self, info: OpInfo, pass_: str) -> int:
        return info.out_elements

    def forward(self, info: OpInfo, x: Sequence[Array], params: Mapping[str, Array]) -> Array:
        y: Array = x[0] * info.attrs["slope"]
        pick = np.maximum if info.attrs["slope"] <= 1 else np.minimum
        pick(x[0], y, out=y)
        return y

    def _backward(self, info: OpInfo, dy: Array, kept: Array) -> Array:
        slope = info.attrs["slope"]
        if slope > 1:
            return np.where(kept, dy, dy * slope)
        # 1 or slope without a branch: a mask of real data is unpredictable
        factor: Array = kept.astype(dy.dtype)
        np.maximum(factor, slope, out=factor)
        factor *= dy
        return factor


@register
class Relu6(_Masked):
    """``min(max(x, 0), 6)``; the gradient is 0 at 0 and at 6."""

    kind = "relu6"

    def make_aux(self, info: OpInfo, tag: str, source: str, array: Array) -> Array:
        if tag != "mask":
            return super().make_aux(info, tag, source, array)
        mask: Array = (array > 0) & (array < 6)
        return mask

    def forward(self, info: OpInfo, x: Sequence[Array], params: Mapping[str, Array]) -> Array:
        y: Array = np.clip(x[0], 0, 6)
        return y

    def _backward(self, info: OpInfo, dy: Array, kept: Array) -> Array:
        return dy * kept


class _FromOutput(Unary):
    """The derivative is a function of the output alone."""

    def needs_for_input(self, info: OpInfo, slot: int) -> Alternatives:
        return need("y")


@register
class Sigmoid(_FromOutput):
    """``1 / (1 + exp(-x))``, computed without overflow."""

    kind = "sigmoid"

    def forward(self, info: OpInfo, x: Sequence[Array], params: Mapping[str, Array]) -> Array:
        return logistic(x[0])

    def _backward(self, info: OpInfo, dy: Array, kept: Array) -> Array:
        dx: Array = dy * kept * (1 - kept)
        return dx


@register
class Tanh(_FromOutput):
    """Hyperbolic tangent."""

    kind = "tanh"

    def forward(self, info: OpInfo, x: Sequence[Array], params: Mapping[str, Array]) -> Array:
        y: Array = np.tanh(x[0])
        return y

    def _backward(self, info: OpInfo, dy: Array, kept: Array) -> Array:
        dx: Array = dy * (1 - kept * kept)
        return dx


@register
class Hardswish(Unary):
    """``x * min(max(x + 3, 0), 6) / 6``; not monotone, so the gradient needs the input."""

    kind = "hardswish"

    def needs_for_input(self, info: OpInfo, slot: int) -> Alternatives:
        return need("x0")

    def forward(self, info: OpInfo, x: Sequence[Array], params: Mapping[str, Array]) -> Array:
        y: Array = x[0] * (np.clip(x[0] + 3, 0, 6) / 6)
        return y

    def _backward(self, info: OpInfo, dy: Array, kept: Array) -> Array:
        slope = np.where(kept >= 3, 1, kept / 3 + 0.5).astype(kept.dtype, copy=False)
        return np.where(kept <= -3, 0, dy * slope).astype(dy.dtype, copy=False)
