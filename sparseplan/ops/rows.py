"""Rows of images, cut out and put together: what stripes of a network are joined by (see stripes)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from sparseplan.errors import OpError
from sparseplan.network import Attr
from sparseplan.ops.attrs import image, integer
from sparseplan.ops.base import REQUIRED, Array, OpDef, OpInfo, Shape, register


@register
class Rows(OpDef):
    """Rows ``[lo, hi)`` of ``(C, H, W)``: ``(C, hi - lo, W)``. Costs nothing where rows can be read from where
    they lie; the gradient of the other rows is zero."""

    kind = "rows"
    window = True
    partial_input = True
    defaults: ClassVar[Mapping[str, Any]] = {"lo": REQUIRED, "hi": REQUIRED}

    def complete_attrs(self, attrs: Mapping[str, Attr]) -> dict[str, Any]:
        full = super().complete_attrs(attrs)
        low = integer("lo", full["lo"], 0)
        return full | {"lo": low, "hi": integer("hi", full["hi"], low + 1)}

    def output_shape(self, attrs: Mapping[str, Any], inputs: Sequence[Shape]) -> Shape:
        channels, height, width = image(inputs)
        if attrs["hi"] > height:
            raise OpError(f"hi={attrs['hi']} is beyond the {height} rows of input shape {inputs[0]}")
        return channels, attrs["hi"] - attrs["lo"], width

    def forward(self, info: OpInfo, x: Sequence[Array], params: Mapping[str, Array]) -> Array:
        return x[0][:, :, info.attrs["lo"] : info.attrs["hi"]].copy()

    def grad_input(
        self,
        info: OpInfo,
        slot: int,
        dy: Array,
        saved: Mapping[str, Array],
        channels: tuple[int, int] | None = None,
    ) -> Array:
        if channels is not None:
            dy = dy[:, channels[0] : channels[1]]
        dx = np.zeros((*dy.shape[:2], *info.inputs[0][1:]), dy.dtype)
        dx[:, :, info.attrs["lo"] : info.attrs["hi"]] = dy
        return dx


@register
class JoinRows(OpDef):
    """Images one below the other: ``(C, h0, W)``, ``(C, h1, W)`` … to ``(C, h0 + h1 + …, W)``. Costs nothing
    where rows can be read from where the parts lie."""

    kind = "join_rows"
    arity = (1, None)
    stack = True
    partial_input = True

    def output_shape(self, attrs: Mapping[str, Any], inputs: Sequence[Shape]) -> Shape:
        channels, _, width = image(inputs)
        for shape in inputs:
            if len(shape) != 3 or (shape[0], shape[2]) != (channels, width):
                raise OpError(f"inputs have shapes {list(inputs)}; they may differ in their rows only")
        return channels, sum(shape[1] for shape in inputs), width

    def forward(self, info: OpInfo, x: Sequence[Array], params: Mapping[str, Array]) -> Array:
        return np.concatenate(x, axis=2)

    def grad_input(
        self,
        info: OpInfo,
        slot: int,
        dy: Array,
        saved: Mapping[str, Array],
        channels: tuple[int, int] | None = None,
    ) -> Array:
        start = sum(shape[1] for shape in info.inputs[:slot])
        dx: Array = dy[:, :, start : start + info.inputs[slot][1]]
        if channels is not None:
            dx = dx[:, channels[0] : channels[1]]
        return dx.copy()
