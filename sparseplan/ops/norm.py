"""Normalisation by statistics of the sample at hand: layer, group and instance norms.

All three standardise *rows*: runs of elements with one mean and one variance. Backward keeps the
input alone and takes the statistics from it anew, which costs little beside two more saved values a row.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from sparseplan.errors import OpError
from sparseplan.network import Attr
from sparseplan.ops.attrs import integer, number
from sparseplan.ops.base import (
    NOTHING,
    REQUIRED,
    Alternatives,
    Array,
    Dim,
    OpDef,
    Operand,
    OpInfo,
    Shape,
    TileSpace,
    need,
    register,
)


def standardised(rows: Array, eps: float) -> tuple[Array, Array]:
    """``(x - mean) / sqrt(var + eps)`` over the last axis, and ``1 / sqrt(var + eps)`` with that axis kept as 1."""
    centred = rows - rows.mean(axis=-1, keepdims=True)
    scale: Array = 1 / np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + rows.dtype.type(eps))
    centred *= scale
    return centred, scale


class _RowNorm(OpDef):
    """``y = (x - mean) / sqrt(var + eps) * weight + bias`` with mean and (biased) variance of each row."""

    defaults: ClassVar[Mapping[str, Any]] = {"eps": 1e-5}

    def complete_attrs(self, attrs: Mapping[str, Attr]) -> dict[str, Any]:
        full = super().complete_attrs(attrs)
        return full | {"eps": number("eps", full["eps"], 0, above=True)}

    @abstractmethod
    def _rows(self, info: OpInfo) -> tuple[int, int]:
        """Number of rows of a sample, and elements of each."""

    @abstractmethod
    def _spread(self, info: OpInfo, values: Array) -> Array:
        """A parameter, shaped to broadcast over ``(rows, elements)``."""

    @abstractmethod
    def _collect(self, info: OpInfo, product: Array) -> Array:
        """Adjoint of ``_spread``, of a ``(batch, rows, elements)`` array summed over the batch."""

    @abstractmethod
    def _param_dims(self, info: OpInfo) -> tuple[Dim, ...]:
        """A parameter's tile, when rows are cut along the axis ``r``."""

    def output_shape(self, attrs: Mapping[str, Any], inputs: Sequence[Shape]) -> Shape:
        self.param_shapes(attrs, inputs)  # checks the input's axes
        return inputs[0]

    def init(self, slot: str, shape: Shape, rng: np.random.Generator) -> Array:
        return np.full(shape, 1 if slot == "weight" else 0, np.float32)

    def macs(self, info: OpInfo, pass_: str) -> int:
        # squares and scaling, the weight; backward standardises again, then scales twice and correlates
        weighted = info.out_elements if "weight" in info.params else 0
        if pass_ == "forward":
            return 2 * info.out_elements + weighted
        if pass_ == "x0":
            return 5 * info.out_elements + weighted
        return 3 * info.out_elements if pass_ == "weight" else 0

    def needs_for_input(self, info: OpInfo, slot: int) -> Alternatives:
        return need("x0", "weight") if "weight" in info.params else need("x0")

    def needs_for_param(self, info: OpInfo, slot: str) -> Alternatives:
        return need("x0") if slot == "weight" else NOTHING

    def inplace(self, info: OpInfo) -> tuple[int, ...]:
        return (0,)  # a row's statistics are known before it is written

    def inplace_grad(self, info: OpInfo, slot: int) -> bool:
        return True

    def _as_rows(self, info: OpInfo, array: Array) -> Array:
        return array.reshape(array.shape[0], *self._rows(info))

    def forward(self, info: OpInfo, x: Sequence[Array], params: Mapping[str, Array]) -> Array:
        y, _ = standardised(self._as_rows(info, x[0]), info.attrs["eps"])
        if "weight" in params:
            y *= self._spread(info, params["weight"])
        if "bias" in params:
            y += self._spread(info, params["bias"])
        return np.reshape(y, x[0].shape)

    def grad_input(
        self,
        info: OpInfo,
        slot: int,
        dy: Array,
        saved: Mapping[str, Array],
        channels: tuple[int, int] | None = None,
    ) -> Array:
        z, scale = standardised(self._as_rows(info, saved["x0"]), info.attrs["eps"])
        g = self._as_rows(info, dy)
        if "weight" in saved:
            g = g * self._spread(info, saved["weight"])
        dx = g - g.mean(axis=-1, keepdims=True)
        z *= (g * z).mean(axis=-1, keepdims=True)
        dx -= z
        dx *= scale
        return np.reshape(dx, dy.shape)

    def grad_param(
        self, info: OpInfo, slot: str, dy: Array, saved: Mapping[str, Array], keep: int | None = None
    ) -> Array:
        product = self._as_rows(info, dy)
        if slot == "weight":
            product = product * standardised(self._as_rows(info, saved["x0"]), info.attrs["eps"])[0]
        return self._collect(info, product)

    def tile_space(self, info: OpInfo, pass_: str) -> TileSpace | None:
        rows, n = self._rows(info)
        whole, param = (Dim("r", rows), Dim(None, n)), self._param_dims(info)
        operands: tuple[Operand, ...]
        if pass_ == "forward":
            weights = [Operand(slot, param) for slot in ("weight", "bias") if slot in info.params]
            operands = (Operand("x0", whole), *weights, Operand("y", whole, "out"))
        elif pass_ == "x0":
            weights = [Operand("weight", param)] if "weight" in info.params else []
            operands = (Operand("x0", whole), Operand("dy", whole), *weights, Operand("dx", whole, "out"))
        elif pass_ == "weight":
            operands = (Operand("x0", whole), Operand("dy", whole), Operand("dweight", param, "out"))
        else:
            operands = (Operand("dy", whole), Operand("dbias", param, "out"))
        return TileSpace((("r", rows),), operands, self.macs(info, pass_))


@register
class LayerNorm(_RowNorm):
    """Each run of the last ``dims`` axes is a row; weight and bias have the shape of these axes, or are absent."""

    kind = "layer_norm"
    defaults: ClassVar[Mapping[str, Any]] = {"dims": 1, **_RowNorm.defaults}

    def complete_attrs(self, attrs: Mapping[str, Attr]) -> dict[str, Any]:
        full = super().complete_attrs(attrs)
        return full | {"dims": integer("dims", full["dims"])}

    def param_shapes(self, attrs: Mapping[str, Any], inputs: Sequence[Shape]) -> dict[str, Shape]:
        if attrs["dims"] > len(inputs[0]):
            raise OpError(f"dims={attrs['dims']} is beyond the {len(inputs[0])} axes of input shape {inputs[0]}")
        shape = inputs[0][-attrs["dims"] :]
        return {"weight": shape, "bias": shape}

    def _rows(self, info: OpInfo) -> tuple[int, int]:
        dims = info.attrs["dims"]
        return math.prod(info.output[:-dims]), math.prod(info.output[-dims:])

    def _spread(self, info: OpInfo, values: Array) -> Array:
        return values.reshape(-1)

    def _collect(self, info: OpInfo, product: Array) -> Array:
        total: Array = product.sum(axis=(0, 1))
        return total.reshape(info.output[-info.attrs["dims"] :])

    def _param_dims(self, info: OpInfo) -> tuple[Dim, ...]:
        return (Dim(None, self._rows(info)[1]),)


class _ChannelNorm(_RowNorm):
    """Rows are runs of channels, with all their pixels; weight and bias have an entry a channel."""

    def param_shapes(self, attrs: Mapping[str, Any], inputs: Sequence[Shape]) -> dict[str, Shape]:
        if not inputs[0]:
            raise OpError("input has shape (), expected at least the axis of channels")
        return {"weight": inputs[0][:1], "bias": inputs[0][:1]}

    def _groups(self, info: OpInfo) -> int:
        return info.output[0]

    def _rows(self, info: OpInfo) -> tuple[int, int]:
        groups = self._groups(info)
        return groups, info.out_elements // groups

    def _spread(self, info: OpInfo, values: Array) -> Array:
        return np.repeat(values, math.prod(info.output[1:])).reshape(self._rows(info))

    def _collect(self, info: OpInfo, product: Array) -> Array:
        total: Array = product.reshape(product.shape[0], info.output[0], -1).sum(axis=(0, 2))
        return total

    def _param_dims(self, info: OpInfo) -> tuple[Dim, ...]:
        groups = self._groups(info)
        return Dim("r", groups), Dim(None, info.output[0] // groups)


@register
class GroupNorm(_ChannelNorm):
    """Channels in ``groups`` of equal size, each group with its pixels a row; input ``(C, *spatial)``, weight
    and bias ``(C,)`` or absent."""

    kind = "group_norm"
    defaults: ClassVar[Mapping[str, Any]] = {"groups": REQUIRED, **_RowNorm.defaults}

    def complete_attrs(self, attrs: Mapping[str, Attr]) -> dict[str, Any]:
        full = super().complete_attrs(attrs)
        return full | {"groups": integer("groups", full["groups"])}

    def param_shapes(self, attrs: Mapping[str, Any], inputs: Sequence[Shape]) -> dict[str, Shape]:
        shapes = super().param_shapes(attrs, inputs)
        if inputs[0][0] % attrs["groups"]:
            raise OpError(f"input channels={inputs[0][0]} is not a multiple of groups={attrs['groups']}")
        return shapes

    def _groups(self, info: OpInfo) -> int:
        groups: int = info.attrs["groups"]
        return groups


@register
class InstanceNorm(_ChannelNorm):
    """Each channel with its pixels is a row; input ``(C, *spatial)``, weight and bias ``(C,)`` or absent."""

    kind = "instance_norm"
