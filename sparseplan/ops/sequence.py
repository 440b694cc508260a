"""Convolutions and pools over sequences ``(C, L)``: the ops on images, of one row.

Each is its two-dimensional sibling (``ops.conv``, ``ops.pool``) on ``(C, 1, L)``, so that costs,
loop nests and kernels are told once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from sparseplan.errors import OpError
from sparseplan.network import Attr
from sparseplan.ops.attrs import integer, integers
from sparseplan.ops.base import (
    Alternatives,
    Array,
    Aux,
    Fraction,
    OpDef,
    OpInfo,
    Shape,
    TileSpace,
    register,
)
from sparseplan.ops.conv import Conv, ConvTranspose
from sparseplan.ops.pool import AvgPool, MaxPool

#: attributes of one number along the sequence, and what they are along the row's height
_ALONG = {"kernel": 1, "stride": 1, "dilation": 1, "output_padding": 0}


def _image(shape: Shape) -> Shape:
    """``(C, L)`` as ``(C, 1, L)``."""
    return (*shape[:-1], 1, shape[-1])


def _rows(array: Array) -> Array:
    """A batched sequence, or the weights of a kernel along it, with an axis for the one row."""
    return array[..., None, :]


def _padding2(name: str, value: Any) -> tuple[int, int]:
    """An int, or (before, after), as a pair."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = (value, value)
    before, after = integers(name, value, (2,), low=0)
    return before, after


class _Sequence(OpDef):
    """An op whose every rule is that of ``image_op`` on images of one row."""

    image_op: ClassVar[OpDef]
    partial_input = True

    def complete_attrs(self, attrs: Mapping[str, Attr]) -> dict[str, Any]:
        full = super().complete_attrs(attrs)
        for name, other in _ALONG.items():
            if full.get(name) is not None:
                full[name] = integer(name, full[name], other)
        if full.get("stride", 0) is None:
            full["stride"] = full["kernel"]
        full["padding"] = _padding2("padding", full["padding"])
        self.image_op.complete_attrs(self._attrs(full))  # checks what is left
        return full

    @staticmethod
    def _attrs(attrs: Mapping[str, Any]) -> dict[str, Any]:
        """The sibling's attributes."""
        flat = {name: (other, attrs[name]) for name, other in _ALONG.items() if name in attrs}
        before, after = attrs["padding"]
        return {**attrs, **flat, "padding": (0, before, 0, after)}

    def _info(self, info: OpInfo) -> OpInfo:
        """The sibling's op."""
        params = {slot: _image(shape) if slot == "weight" else shape for slot, shape in info.params.items()}
        return OpInfo(
            info.name, self.image_op.kind, self._attrs(info.attrs), tuple(map(_image, info.inputs)),
            _image(info.output), params,
        )  # fmt: skip

    @staticmethod
    def _arrays(arrays: Mapping[str, Array]) -> dict[str, Array]:
        return {tag: array if tag == "bias" else _rows(array) for tag, array in arrays.items()}

    def output_shape(self, attrs: Mapping[str, Any], inputs: Sequence[Shape]) -> Shape:
        if len(inputs[0]) != 2:
            raise OpError(f"input has shape {inputs[0]}, expected (channels, length)")
        channels, _, length = self.image_op.output_shape(self._attrs(attrs), [_image(inputs[0])])
        return channels, length

    def param_shapes(self, attrs: Mapping[str, Any], inputs: Sequence[Shape]) -> dict[str, Shape]:
        found = self.image_op.param_shapes(self._attrs(attrs), [_image(inputs[0])])
        return {slot: (*shape[:2], shape[3]) if slot == "weight" else shape for slot, shape in found.items()}

    def required_params(self, attrs: Mapping[str, Any]) -> frozenset[str]:
        return self.image_op.required_params(attrs)

    def macs(self, info: OpInfo, pass_: str) -> int:
        return self.image_op.macs(self._info(info), pass_)

    def aux(self, info: OpInfo) -> Mapping[str, Aux]:
        found = self.image_op.aux(self._info(info))
        return {tag: Aux(info.output, aux.dtype, aux.sources) for tag, aux in found.items()}

    def needs_for_input(self, info: OpInfo, slot: int) -> Alternatives:
        return self.image_op.needs_for_input(self._info(info), slot)

    def needs_for_param(self, info: OpInfo, slot: str) -> Alternatives:
        return self.image_op.needs_for_param(self._info(info), slot)

    def fraction(self, info: OpInfo, slot: str) -> Fraction | None:
        return self.image_op.fraction(self._info(info), slot)

    def tile_space(self, info: OpInfo, pass_: str) -> TileSpace | None:
        return self.image_op.tile_space(self._info(info), pass_)

    def forward(self, info: OpInfo, x: Sequence[Array], params: Mapping[str, Array]) -> Array:
        y = self.image_op.forward(self._info(info), [_rows(x[0])], self._arrays(params))
        return y.reshape(len(y), *info.output)

    def make_aux(self, info: OpInfo, tag: str, source: str, array: Array) -> Array:
        if tag not in self.aux(info):
            return super().make_aux(info, tag, source, array)
        made = self.image_op.make_aux(self._info(info), tag, source, _rows(array))
        return made.reshape(len(made), *info.output)

    def grad_input(
        self,
        info: OpInfo,
        slot: int,
        dy: Array,
        saved: Mapping[str, Array],
        channels: tuple[int, int] | None = None,
    ) -> Array:
        dx = self.image_op.grad_input(self._info(info), slot, _rows(dy), self._arrays(saved), channels)
        return dx.reshape(*dx.shape[:2], dx.shape[3])

    def grad_param(
        self, info: OpInfo, slot: str, dy: Array, saved: Mapping[str, Array], keep: int | None = None
    ) -> Array:
        grad = self.image_op.grad_param(self._info(info), slot, _rows(dy), self._arrays(saved), keep)
        return grad if slot == "bias" else grad.reshape(*grad.shape[:2], grad.shape[3])


@register
class Conv1d(_Sequence):
    """1-D convolution (cross-correlation).

    Attributes are ``out_channels``, ``kernel``, ``stride``, ``padding`` (int, or (before, after)),
    ``dilation``, ``groups``. Input ``(C, L)``, weight ``(out, C / groups, k)``, bias ``(out,)`` or absent.
    """

    kind = "conv1d"
    image_op = Conv()
    defaults: ClassVar[Mapping[str, Any]] = Conv.defaults


@register
class ConvTranspose1d(_Sequence):
    """1-D transposed convolution: the adjoint of ``conv1d`` in its input.

    Attributes are those of ``conv1d`` and ``output_padding`` (entries added at the end; below the
    stride or the dilation). Input ``(C, L)``, weight ``(C, out / groups, k)``, bias ``(out,)`` or absent.
    """

    kind = "conv_transpose1d"
    image_op = ConvTranspose()
    defaults: ClassVar[Mapping[str, Any]] = ConvTranspose.defaults


@register
class MaxPool1d(_Sequence):
    """The largest entry of each window of ``(C, L)``; attributes ``kernel`` (at most 256), ``stride`` (the kernel
    by default), ``padding`` (int, or (before, after))."""

    kind = "max_pool1d"
    image_op = MaxPool()
    defaults: ClassVar[Mapping[str, Any]] = MaxPool.defaults


@register
class AvgPool1d(_Sequence):
    """The mean of each window of ``(C, L)``; attributes as ``max_pool1d``, and ``count_include_pad`` (true by
    default): whether padding counts as zeros."""

    kind = "avg_pool1d"
    image_op = AvgPool()
    defaults: ClassVar[Mapping[str, Any]] = AvgPool.defaults
