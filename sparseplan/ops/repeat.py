"""Ops that repeat elements: expand and tile. The gradient of an element is the sum over its copies."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from sparseplan.errors import OpError
from sparseplan.network import Attr
from sparseplan.ops.attrs import per_axis, several
from sparseplan.ops.base import REQUIRED, Array, Dim, OpDef, Operand, OpInfo, Shape, TileSpace, register
from sparseplan.ops.spread import spread_dims, spread_nest, summed


@register
class Expand(OpDef):
    """Extents of 1 repeated to those of ``shape``, which has the input's rank."""

    kind = "expand"
    partial_input = True
    defaults: ClassVar[Mapping[str, Any]] = {"shape": REQUIRED}

    def complete_attrs(self, attrs: Mapping[str, Attr]) -> dict[str, Any]:
        full = super().complete_attrs(attrs)
        return full | {"shape": several("shape", full["shape"], 1)}

    def output_shape(self, attrs: Mapping[str, Any], inputs: Sequence[Shape]) -> Shape:
        shape: Shape = attrs["shape"]
        if any(m not in (1, n) for m, n in zip(inputs[0], per_axis("shape", shape, inputs[0]), strict=True)):
            raise OpError(f"shape={shape} must have the extents of input shape {inputs[0]} where these are not 1")
        return shape

    def forward(self, info: OpInfo, x: Sequence[Array], params: Mapping[str, Array]) -> Array:
        return np.broadcast_to(x[0], (len(x[0]), *info.output)).copy()

    def grad_input(
        self,
        info: OpInfo,
        slot: int,
        dy: Array,
        saved: Mapping[str, Array],
        channels: tuple[int, int] | None = None,
    ) -> Array:
        if channels is not None and info.inputs[0][0] == info.output[0]:
            dy = dy[:, channels[0] : channels[1]]
        dx = summed(dy, info.inputs[0], info.output)
        return dx.copy() if info.inputs[0] == info.output else dx

    def tile_space(self, info: OpInfo, pass_: str) -> TileSpace | None:
        whole, source = spread_dims(info.output, info.output), spread_dims(info.inputs[0], info.output)
        if pass_ == "forward":
            return TileSpace(spread_nest(info.output), (Operand("x0", source), Operand("y", whole, "out")), 0)
        return TileSpace(spread_nest(info.output), (Operand("dy", whole), Operand("dx", source, "out")), 0)


@register
class Tile(OpDef):
    """The sample laid side by side ``repeats[i]`` times along each axis ``i``."""

    kind = "tile"
    partial_input = True
    defaults: ClassVar[Mapping[str, Any]] = {"repeats": REQUIRED}

    def complete_attrs(self, attrs: Mapping[str, Attr]) -> dict[str, Any]:
        full = super().complete_attrs(attrs)
        return full | {"repeats": several("repeats", full["repeats"], 1)}

    def output_shape(self, attrs: Mapping[str, Any], inputs: Sequence[Shape]) -> Shape:
        return tuple(map(math.prod, zip(inputs[0], per_axis("repeats", attrs["repeats"], inputs[0]), strict=True)))

    def forward(self, info: OpInfo, x: Sequence[Array], params: Mapping[str, Array]) -> Array:
        return np.tile(x[0], (1, *info.attrs["repeats"]))

    def grad_input(
        self,
        info: OpInfo,
        slot: int,
        dy: Array,
        saved: Mapping[str, Array],
        channels: tuple[int, int] | None = None,
    ) -> Array:
        apart = [extent for pair in zip(info.attrs["repeats"], info.inputs[0], strict=True) for extent in pair]
        copies = dy.reshape(len(dy), *apart)
        if channels is not None:
            copies = copies[:, :, channels[0] : channels[1]]
        dx: Array = copies.sum(axis=tuple(range(1, 1 + len(apart), 2)))
        return dx

    def tile_space(self, info: OpInfo, pass_: str) -> TileSpace | None:
        times = tuple((f"r{i}", r) for i, r in enumerate(info.attrs["repeats"]))
        axes = tuple((f"a{i}", n) for i, n in enumerate(info.inputs[0]))
        source = tuple(Dim(axis, n) for axis, n in axes)
        whole = (*(Dim(axis, r) for axis, r in times), *source)
        if pass_ == "forward":
            return TileSpace((*times, *axes), (Operand("x0", source), Operand("y", whole, "out")), 0)
        return TileSpace((*times, *axes), (Operand("dy", whole), Operand("dx", source, "out")), 0)
