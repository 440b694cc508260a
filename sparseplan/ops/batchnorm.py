"""Batch normalisation with frozen statistics, as networks are fine-tuned on a device."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from sparseplan.network import Attr
from sparseplan.ops.affine import PerChannel, spread_channels
from sparseplan.ops.attrs import number
from sparseplan.ops.base import (
    NOTHING,
    Alternatives,
    Array,
    Dim,
    Operand,
    OpInfo,
    Shape,
    TileSpace,
    need,
    register,
)


@register
class BatchNorm(PerChannel):
    """``y = (x - mean) / sqrt(var + eps) * weight + bias`` along axis 0 of a sample.

    Input ``(C, …)``, all parameters ``(C,)``; weight and bias may be absent. ``mean`` and ``var``
    are statistics of the training data: they are never updated. Its statistics gone, it is an
    ``affine`` (see ``fold``).
    """

    kind = "batch_norm"
    frozen: ClassVar[frozenset[str]] = frozenset(("mean", "var"))
    defaults: ClassVar[Mapping[str, Any]] = {"eps": 1e-5}

    def complete_attrs(self, attrs: Mapping[str, Attr]) -> dict[str, Any]:
        full = super().complete_attrs(attrs)
        return full | {"eps": number("eps", full["eps"], 0)}

    def param_shapes(self, attrs: Mapping[str, Any], inputs: Sequence[Shape]) -> dict[str, Shape]:
        return dict.fromkeys(("weight", "bias", "mean", "var"), inputs[0][:1])

    def required_params(self, attrs: Mapping[str, Any]) -> frozenset[str]:
        return self.frozen

    def init(self, slot: str, shape: Shape, rng: np.random.Generator) -> Array:
        return np.full(shape, 1 if slot in ("weight", "var") else 0, np.float32)

    def macs(self, info: OpInfo, pass_: str) -> int:
        return 0 if pass_ == "bias" else info.out_elements

    def needs_for_input(self, info: OpInfo, slot: int) -> Alternatives:
        return need("weight", "var") if "weight" in info.params else need("var")

    def needs_for_param(self, info: OpInfo, slot: str) -> Alternatives:
        return need("x0", "mean", "var") if slot == "weight" else NOTHING

    def _scale(self, info: OpInfo, params: Mapping[str, Array]) -> Array:
        """The factor of each channel."""
        scale: Array = 1 / np.sqrt(params["var"] + params["var"].dtype.type(info.attrs["eps"]))
        return scale * params["weight"] if "weight" in params else scale

    def forward(self, info: OpInfo, x: Sequence[Array], params: Mapping[str, Array]) -> Array:
        rank = len(info.output)
        y: Array = x[0] - spread_channels(params["mean"], rank)
        y *= spread_channels(self._scale(info, params), rank)
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
        scale = self._scale(info, saved)
        if channels is not None:
            dy, scale = dy[:, channels[0] : channels[1]], scale[channels[0] : channels[1]]
        dx: Array = dy * spread_channels(scale, len(info.output))
        return dx

    def grad_param(
        self, info: OpInfo, slot: str, dy: Array, saved: Mapping[str, Array], keep: int | None = None
    ) -> Array:
        rest = (0, *range(2, dy.ndim))
        if slot == "bias":
            total: Array = dy.sum(axis=rest)
            return total
        if slot != "weight":
            return super().grad_param(info, slot, dy, saved, keep)
        centred = saved["x0"][:, :keep] - spread_channels(saved["mean"][:keep], len(info.output))
        centred *= dy[:, :keep]
        grad: Array = centred.sum(axis=rest)
        grad *= 1 / np.sqrt(saved["var"][:keep] + dy.dtype.type(info.attrs["eps"]))
        return grad

    def tile_space(self, info: OpInfo, pass_: str) -> TileSpace | None:
        if pass_ in self.frozen:
            return None
        c, rest = info.output[0], math.prod(info.output[1:])
        whole, channel = (Dim("c", c), Dim("n", rest)), (Dim("c", c),)
        operands: tuple[Operand, ...]
        if pass_ == "forward":
            given = [Operand(slot, channel) for slot in ("weight", "bias", "mean", "var") if slot in info.params]
            operands = (Operand("x0", whole), *given, Operand("y", whole, "out"))
        elif pass_ == "x0":
            given = [Operand(slot, channel) for slot in ("weight", "var") if slot in info.params]
            operands = (Operand("dy", whole), *given, Operand("dx", whole, "out"))
        elif pass_ == "weight":
            given = [Operand("mean", channel), Operand("var", channel)]
            operands = (Operand("x0", whole), Operand("dy", whole), *given, Operand("dweight", channel, "out"))
        else:
            operands = (Operand("dy", whole), Operand("dbias", channel, "out"))
        return TileSpace((("c", c), ("n", rest)), operands, self.macs(info, pass_))
