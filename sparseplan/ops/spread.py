"""Elementwise ops of several inputs whose extents of 1 are spread: sub, div, maximum, minimum.

Inputs have one rank; along each axis they have one extent, or 1. The gradient of an input is summed
over the axes along which it was spread.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sparseplan.errors import OpError
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
    need,
    register,
)


def spread_axes(shape: Shape, output: Shape) -> tuple[int, ...]:
    """Axes of a sample along which ``shape`` is spread to ``output``."""
    return tuple(i for i, (m, n) in enumerate(zip(shape, output, strict=True)) if m != n)


def spread_dims(shape: Shape, output: Shape) -> tuple[Dim, ...]:
    """Dims over axes ``a0``, ``a1`` … of the output; what is spread is not tiled."""
    return tuple(
        Dim(f"a{i}", m) if m == n else Dim(None, m) for i, (m, n) in enumerate(zip(shape, output, strict=True))
    )


def spread_nest(output: Shape) -> tuple[tuple[str, int], ...]:
    """The loops over all elements of the output."""
    return tuple((f"a{i}", n) for i, n in enumerate(output))


def summed(dx: Array, shape: Shape, output: Shape) -> Array:
    """A gradient of the output's shape (with its batch) summed to that of an input that was spread."""
    axes = tuple(i + 1 for i in spread_axes(shape, output))
    return dx.sum(axis=axes, keepdims=True) if axes else dx


class Spread(OpDef):
    """An elementwise op of several inputs."""

    partial_input = True

    def output_shape(self, attrs: Mapping[str, Any], inputs: Sequence[Shape]) -> Shape:
        output = tuple(max(extents) for extents in zip(*inputs, strict=False))
        alike = all(len(shape) == len(output) for shape in inputs)
        if not alike or any(m not in (1, n) for shape in inputs for m, n in zip(shape, output, strict=True)):
            raise OpError(f"inputs have shapes {list(inputs)}; {self.kind} takes equal ones, or extents of 1 to spread")
        return output

    def stripe(self, info: OpInfo, lo: int, hi: int) -> Stripe | None:
        # what is spread over all rows is read in whole by every stripe
        rows = tuple((lo, hi) if shape[1] == info.output[1] else None for shape in info.inputs)
        return Stripe(rows, info.attrs)

    def inplace(self, info: OpInfo) -> tuple[int, ...]:
        return tuple(i for i, shape in enumerate(info.inputs) if shape == info.output)

    def inplace_grad(self, info: OpInfo, slot: int) -> bool:
        return info.inputs[slot] == info.output

    def grad_input(
        self,
        info: OpInfo,
        slot: int,
        dy: Array,
        saved: Mapping[str, Array],
        channels: tuple[int, int] | None = None,
    ) -> Array:
        shape, output = info.inputs[slot], info.output
        if channels is not None and shape[0] == output[0]:
            cut = slice(*channels)
            dy = dy[:, cut]
            saved = {tag: kept[:, cut] if kept.shape[1] == output[0] else kept for tag, kept in saved.items()}
        return summed(self._term(slot, dy, saved), shape, output)

    @abstractmethod
    def _term(self, slot: int, dy: Array, saved: Mapping[str, Array]) -> Array:
        """The gradient of input ``slot`` before what was spread is summed: a new array like ``dy``."""

    def tile_space(self, info: OpInfo, pass_: str) -> TileSpace | None:
        aux, whole = self.aux(info), spread_dims(info.output, info.output)
        inputs = {f"x{i}": spread_dims(shape, info.output) for i, shape in enumerate(info.inputs)}
        if pass_ == "forward":
            operands = [Operand(tag, dims) for tag, dims in inputs.items()]
            operands.append(Operand("y", whole, "out"))
            operands += [Operand(tag, whole, "out", a.dtype) for tag, a in aux.items()]
        else:
            slot = int(pass_[1:])
            read = sorted(self.needs_for_input(info, slot)[0])
            operands = [Operand("dy", whole)]
            operands += [
                Operand(tag, inputs.get(tag, whole), "in", aux[tag].dtype if tag in aux else "data") for tag in read
            ]
            operands.append(Operand("dx", inputs[f"x{slot}"], "out"))
        return TileSpace(spread_nest(info.output), tuple(operands), self.macs(info, pass_))


@register
class Sub(Spread):
    """``x0 - x1``; every gradient is ``dy`` or ``-dy``."""

    kind = "sub"
    arity = (2, 2)

    def forward(self, info: OpInfo, x: Sequence[Array], params: Mapping[str, Array]) -> Array:
        return x[0] - x[1]

    def _term(self, slot: int, dy: Array, saved: Mapping[str, Array]) -> Array:
        return -dy if slot else dy.copy()


@register
class Div(Spread):
    """``x0 / x1``. The gradient of ``x0`` needs ``x1``; that of ``x1`` also the quotient, or ``x0``."""

    kind = "div"
    arity = (2, 2)

    def macs(self, info: OpInfo, pass_: str) -> int:
        return info.out_elements

    def needs_for_input(self, info: OpInfo, slot: int) -> Alternatives:
        return (*need("x1", "y"), *need("x0", "x1")) if slot else need("x1")

    def forward(self, info: OpInfo, x: Sequence[Array], params: Mapping[str, Array]) -> Array:
        return x[0] / x[1]

    def _term(self, slot: int, dy: Array, saved: Mapping[str, Array]) -> Array:
        if slot == 0:
            return dy / saved["x1"]
        y = saved["y"] if "y" in saved else saved["x0"] / saved["x1"]
        return dy * (-y / saved["x1"])


class _Choice(Spread):
    """The one or the other input; where they are equal the first is chosen and gets the gradient.

    One bit an element tells whether the input got through: ``mask0`` of the first, ``mask1`` of the second. It
    takes both inputs to make, so forward makes it or nobody does.
    """

    arity = (2, 2)

    def aux(self, info: OpInfo) -> Mapping[str, Aux]:
        return {f"mask{slot}": Aux(info.output, "bit", ()) for slot in (0, 1)}

    def forward_aux(self, info: OpInfo, tag: str, x: Sequence[Array], y: Array) -> Array:
        chosen = self._first(x[0], x[1])
        return chosen if tag == "mask0" else ~chosen

    def needs_for_input(self, info: OpInfo, slot: int) -> Alternatives:
        return (*need(f"mask{slot}"), *need("x0", "y"), *need("x0", "x1"))

    @abstractmethod
    def _first(self, x0: Array, other: Array) -> Array:
        """Where the first input is chosen; ``other`` is the second input or the output."""

    def _term(self, slot: int, dy: Array, saved: Mapping[str, Array]) -> Array:
        if "x0" not in saved:
            return dy * saved[f"mask{slot}"]
        chosen = self._first(saved["x0"], saved["y"] if "y" in saved else saved["x1"])
        return dy * (~chosen if slot else chosen)


@register
class Maximum(_Choice):
    """The larger of two inputs; where they are equal the first gets the gradient."""

    kind = "maximum"

    def forward(self, info: OpInfo, x: Sequence[Array], params: Mapping[str, Array]) -> Array:
        y: Array = np.maximum(x[0], x[1])
        return y

    def _first(self, x0: Array, other: Array) -> Array:
        chosen: Array = x0 >= other
        return chosen


@register
class Minimum(_Choice):
    """The smaller of two inputs; where they are equal the first gets the gradient."""

    kind = "minimum"

    def forward(self, info: OpInfo, x: Sequence[Array], params: Mapping[str, Array]) -> Array:
        y: Array = np.minimum(x[0], x[1])
        return y

    def _first(self, x0: Array, other: Array) -> Array:
        chosen: Array = x0 <= other
        return chosen
