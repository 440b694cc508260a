"""Reductions over some axes of a sample: mean, sum, largest and least entry."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from sparseplan.errors import OpError
from sparseplan.network import Attr
from sparseplan.ops.attrs import along, boolean, several
from sparseplan.ops.base import (
    REQUIRED,
    Alternatives,
    Array,
    Aux,
    Dim,
    OpDef,
    Operand,
    OpInfo,
    Shape,
    TileSpace,
    either,
    register,
)


class _Reduction(OpDef):
    """``axes`` (of a sample, from the end where negative) become extents of 1, or go where ``keepdims`` is false."""

    partial_input = True
    defaults: ClassVar[Mapping[str, Any]] = {"axes": REQUIRED, "keepdims": True}

    def complete_attrs(self, attrs: Mapping[str, Attr]) -> dict[str, Any]:
        full = super().complete_attrs(attrs)
        axes = several("axes", full["axes"])
        if not axes:
            raise OpError("axes=() reduce nothing; give at least one")
        return full | {"axes": axes, "keepdims": boolean("keepdims", full["keepdims"])}

    @staticmethod
    def reduced(attrs: Mapping[str, Any], shape: Shape) -> tuple[int, ...]:
        """The axes, counted from the front and in order."""
        axes = sorted(along("axes", axis, shape) for axis in attrs["axes"])
        if len(set(axes)) < len(axes):
            raise OpError(f"axes={attrs['axes']} name an axis of input shape {shape} twice")
        return tuple(axes)

    def output_shape(self, attrs: Mapping[str, Any], inputs: Sequence[Shape]) -> Shape:
        axes = self.reduced(attrs, inputs[0])
        extents = ((i, 1 if i in axes else n) for i, n in enumerate(inputs[0]))
        return tuple(n for i, n in extents if attrs["keepdims"] or i not in axes)

    @classmethod
    def _axes(cls, info: OpInfo) -> tuple[int, ...]:
        """Of batched arrays."""
        return tuple(i + 1 for i in cls.reduced(info.attrs, info.inputs[0]))

    @classmethod
    def _count(cls, info: OpInfo) -> int:
        """How many entries become one."""
        return math.prod(info.inputs[0][i] for i in cls.reduced(info.attrs, info.inputs[0]))

    def _over(self, info: OpInfo, array: Array) -> Array:
        """A batched array of the output's shape with extents of 1 for what was reduced."""
        axes = self._axes(info)
        return array.reshape(len(array), *(1 if i in axes else n for i, n in enumerate(info.inputs[0], 1)))

    def _spread(self, info: OpInfo, dy: Array, channels: tuple[int, int] | None) -> Array:
        """``dy`` for every entry (of some channels) that it was reduced from: a new array."""
        over, shape = self._over(info, dy), info.inputs[0]
        if channels is not None:
            shape = (channels[1] - channels[0], *shape[1:])
            over = over[:, channels[0] : channels[1]] if 1 not in self._axes(info) else over
        spread = over.copy()
        for axis in self._axes(info):
            spread = spread.repeat(shape[axis - 1], axis)
        return spread

    def tile_space(self, info: OpInfo, pass_: str) -> TileSpace | None:
        reduced = self.reduced(info.attrs, info.inputs[0])
        axes = tuple((f"a{i}", n) for i, n in enumerate(info.inputs[0]) if i not in reduced)
        whole = tuple(Dim(None if i in reduced else f"a{i}", n) for i, n in enumerate(info.inputs[0]))
        left = tuple(Dim(axis, n) for axis, n in axes)
        aux = self.aux(info)
        if pass_ == "forward":
            made = [Operand(tag, whole, "out", a.dtype) for tag, a in aux.items()]
            return TileSpace(axes, (Operand("x0", whole), Operand("y", left, "out"), *made), self.macs(info, pass_))
        read = sorted(self.needs_for_input(info, 0)[0])
        saved = [Operand(tag, whole, "in", aux[tag].dtype if tag in aux else "data") for tag in read]
        return TileSpace(axes, (Operand("dy", left), *saved, Operand("dx", whole, "out")), self.macs(info, pass_))


@register
class Sum(_Reduction):
    """The sum over ``axes``; the gradient of every entry is ``dy``."""

    kind = "sum"

    def forward(self, info: OpInfo, x: Sequence[Array], params: Mapping[str, Array]) -> Array:
        y: Array = x[0].sum(axis=self._axes(info))
        return y.reshape(len(y), *info.output)

    def grad_input(
        self,
        info: OpInfo,
        slot: int,
        dy: Array,
        saved: Mapping[str, Array],
        channels: tuple[int, int] | None = None,
    ) -> Array:
        return self._spread(info, dy, channels)


@register
class Mean(_Reduction):
    """The mean over ``axes``; every entry has an equal share of the gradient."""

    kind = "mean"

    def macs(self, info: OpInfo, pass_: str) -> int:
        return info.out_elements

    def forward(self, info: OpInfo, x: Sequence[Array], params: Mapping[str, Array]) -> Array:
        y: Array = x[0].mean(axis=self._axes(info))
        return y.reshape(len(y), *info.output)

    def grad_input(
        self,
        info: OpInfo,
        slot: int,
        dy: Array,
        saved: Mapping[str, Array],
        channels: tuple[int, int] | None = None,
    ) -> Array:
        return self._spread(info, dy / self._count(info), channels)


class _Extreme(_Reduction):
    """The gradient goes in equal shares to all entries that attain the result: one bit tells each."""

    def macs(self, info: OpInfo, pass_: str) -> int:
        return 0 if pass_ == "forward" else info.out_elements

    def aux(self, info: OpInfo) -> Mapping[str, Aux]:
        return {"mask": Aux(info.inputs[0], "bit", ("x0",))}

    def needs_for_input(self, info: OpInfo, slot: int) -> Alternatives:
        return either("mask", "x0")

    def make_aux(self, info: OpInfo, tag: str, source: str, array: Array) -> Array:
        if tag != "mask":
            return super().make_aux(info, tag, source, array)
        mask: Array = array == self._over(info, self.forward(info, [array], {}))
        return mask

    def grad_input(
        self,
        info: OpInfo,
        slot: int,
        dy: Array,
        saved: Mapping[str, Array],
        channels: tuple[int, int] | None = None,
    ) -> Array:
        ((tag, kept),) = saved.items()
        mask = kept if tag == "mask" else self.make_aux(info, "mask", tag, kept)
        share = self._over(info, dy) / mask.sum(axis=self._axes(info), keepdims=True, dtype=dy.dtype)
        if channels is not None:
            mask = mask[:, channels[0] : channels[1]]
            share = share[:, channels[0] : channels[1]] if 1 not in self._axes(info) else share
        dx: Array = mask * share
        return dx


@register
class AMax(_Extreme):
    """The largest entry over ``axes``."""

    kind = "amax"

    def forward(self, info: OpInfo, x: Sequence[Array], params: Mapping[str, Array]) -> Array:
        y: Array = x[0].max(axis=self._axes(info))
        return y.reshape(len(y), *info.output)


@register
class AMin(_Extreme):
    """The least entry over ``axes``."""

    kind = "amin"

    def forward(self, info: OpInfo, x: Sequence[Array], params: Mapping[str, Array]) -> Array:
        y: Array = x[0].min(axis=self._axes(info))
        return y.reshape(len(y), *info.output)
