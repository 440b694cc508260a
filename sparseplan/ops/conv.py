"""Convolution and transposed convolution, grouped and dilated, as in PyTorch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from sparseplan.errors import OpError
from sparseplan.network import Attr
from sparseplan.ops.attrs import image, integer, padding4, pair, window_rows
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
    Stripe,
    TileSpace,
    need,
    register,
)
from sparseplan.ops.windows import Window, correlate, correlate_transposed, correlate_weight


def window_of(attrs: Mapping[str, Any]) -> Window:
    """The sliding window that completed attributes describe."""
    return Window(attrs["kernel"], attrs["stride"], attrs["padding"], attrs["dilation"])


def gathered(axis: str, full: int, stride: int, extent: int) -> Dim:
    """Extent of what a tile of window outputs reads: exact within the image, less at its border."""
    return Dim(axis, full, stride, extent)


def scattered(axis: str, full: int, stride: int, extent: int, pad: int) -> Dim:
    """Extent of the window outputs that meet a tile of window *inputs*.

    The axis counts blocks of ``stride`` pixels, so a tile starts at a multiple of the stride and
    the count is exact within the image: pixels ``[s·a, s·(a + t))`` meet the outputs from
    ``a + ceil((pad - extent + 1) / s)`` to ``a + t + floor((pad - 1) / s)``.
    """
    window = (pad - 1) // stride + ((extent - 1 - pad) // stride) + 2
    return Dim(axis, full, 1, max(1, window))


def blocks(axis: str, full: int, stride: int) -> Dim:
    """Pixels in a tile of an axis that counts blocks of ``stride`` of them."""
    return Dim(axis, full, stride, stride)


def _whole(axis: str, extent: int) -> Dim:
    return Dim(axis, extent)


class _Conv(OpDef):
    """What both directions share. *Wide* is the side that windows slide over (the input of a
    convolution, the output of a transposed one), *deep* the side with one entry a window."""

    defaults: ClassVar[Mapping[str, Any]] = {
        "kernel": REQUIRED,
        "out_channels": REQUIRED,
        "stride": 1,
        "padding": 0,
        "dilation": 1,
        "groups": 1,
    }

    def complete_attrs(self, attrs: Mapping[str, Attr]) -> dict[str, Any]:
        full = super().complete_attrs(attrs)
        return full | {
            "kernel": pair("kernel", full["kernel"]),
            "out_channels": integer("out_channels", full["out_channels"]),
            "stride": pair("stride", full["stride"]),
            "padding": padding4("padding", full["padding"]),
            "dilation": pair("dilation", full["dilation"]),
            "groups": integer("groups", full["groups"]),
        }

    def _image(self, attrs: Mapping[str, Any], inputs: Sequence[Shape]) -> tuple[int, int, int]:
        channels, height, width = image(inputs)
        for name, value in (("input channels", channels), ("out_channels", attrs["out_channels"])):
            if value % attrs["groups"]:
                raise OpError(f"{name}={value} is not a multiple of groups={attrs['groups']}")
        return channels, height, width

    def required_params(self, attrs: Mapping[str, Any]) -> frozenset[str]:
        return frozenset(("weight",))

    def needs_for_input(self, info: OpInfo, slot: int) -> Alternatives:
        return need("weight")

    def needs_for_param(self, info: OpInfo, slot: str) -> Alternatives:
        return need("x0") if slot == "weight" else NOTHING

    # -- the loop nests, told once for wide and deep ---------------------------------------
    def _axes(self, info: OpInfo, pixels: tuple[tuple[str, int], ...]) -> tuple[tuple[str, int], ...]:
        groups = info.attrs["groups"]
        return (("g", groups), ("co", info.output[0] // groups), ("ci", info.inputs[0][0] // groups), *pixels)

    def _weights(self, info: OpInfo, tag: str, role: str, transposed: bool) -> Operand:
        groups = info.attrs["groups"]
        outs, ins = _whole("co", info.output[0] // groups), _whole("ci", info.inputs[0][0] // groups)
        kh, kw = info.attrs["kernel"]
        order = (ins, outs) if transposed else (outs, ins)
        return Operand(tag, (_whole("g", groups), *order, Dim(None, kh * kw)), role)

    def _bias(self, info: OpInfo, tag: str, role: str) -> Operand:
        groups = info.attrs["groups"]
        return Operand(tag, (_whole("g", groups), _whole("co", info.output[0] // groups)), role)

    def _image_operand(
        self, info: OpInfo, tag: str, role: str, channel: str, shape: Shape, pixels: tuple[Dim, Dim]
    ) -> Operand:
        groups = info.attrs["groups"]
        return Operand(tag, (_whole("g", groups), _whole(channel, shape[0] // groups), *pixels), role)

    def _sliding(self, wide: Shape, deep: Shape, info: OpInfo) -> tuple[tuple[Dim, Dim], tuple[Dim, Dim]]:
        """Pixel dims of (wide, deep) for a nest over the deep side's pixels."""
        window = window_of(info.attrs)
        rows = gathered("oh", wide[1], window.stride[0], window.extent[0])
        cols = gathered("ow", wide[2], window.stride[1], window.extent[1])
        return (rows, cols), (_whole("oh", deep[1]), _whole("ow", deep[2]))

    def _meeting(self, wide: Shape, deep: Shape, info: OpInfo) -> tuple[tuple[Dim, Dim], tuple[Dim, Dim]]:
        """Pixel dims of (wide, deep) for a nest over the wide side's pixels, in blocks of the stride."""
        window = window_of(info.attrs)
        (sh, sw), (eh, ew), pads = window.stride, window.extent, window.padding
        rows = scattered("ih", deep[1], sh, eh, pads[0])
        cols = scattered("iw", deep[2], sw, ew, pads[1])
        return (blocks("ih", wide[1], sh), blocks("iw", wide[2], sw)), (rows, cols)

    def _meeting_axes(self, wide: Shape, info: OpInfo) -> tuple[tuple[str, int], ...]:
        sh, sw = info.attrs["stride"]
        return ("ih", -(-wide[1] // sh)), ("iw", -(-wide[2] // sw))


@register
class Conv(_Conv):
    """``y = x * weight + bias``: 2-D convolution (cross-correlation).

    Attributes are ``kernel``, ``out_channels``, ``stride``, ``padding`` (int, pair, or (top, left,
    bottom, right)), ``dilation``, ``groups``. Input ``(C, H, W)``, weight ``(out, C / groups, kh,
    kw)``, bias ``(out,)`` or absent.
    """

    kind = "conv"
    partial_input = True

    def output_shape(self, attrs: Mapping[str, Any], inputs: Sequence[Shape]) -> Shape:
        _, height, width = self._image(attrs, inputs)
        return (attrs["out_channels"], *window_of(attrs).output(height, width))

    def param_shapes(self, attrs: Mapping[str, Any], inputs: Sequence[Shape]) -> dict[str, Shape]:
        channels, outs = inputs[0][0], attrs["out_channels"]
        return {"weight": (outs, channels // attrs["groups"], *attrs["kernel"]), "bias": (outs,)}

    def macs(self, info: OpInfo, pass_: str) -> int:
        if pass_ == "bias":
            return 0
        per_group: int = info.inputs[0][0] // info.attrs["groups"]
        kernel: tuple[int, int] = info.attrs["kernel"]
        return info.out_elements * per_group * math.prod(kernel)

    def fraction(self, info: OpInfo, slot: str) -> Fraction | None:
        if slot != "weight":
            return None
        channels, groups = info.inputs[0][0], info.attrs["groups"]
        if groups == 1:
            return Fraction(axis=1, units=channels, per_unit=1, rows=1)
        return Fraction(axis=0, units=groups, per_unit=info.output[0] // groups, rows=channels // groups)

    def stripe(self, info: OpInfo, lo: int, hi: int) -> Stripe | None:
        window = window_of(info.attrs)
        _, left, _, right = window.padding
        rows, top, bottom = window_rows(lo, hi, info.output[1], info.inputs[0][1], window.stride[0], window.extent[0],
                                        window.padding[0])  # fmt: skip
        return Stripe((rows,), {**info.attrs, "padding": (top, left, bottom, right)})

    def forward(self, info: OpInfo, x: Sequence[Array], params: Mapping[str, Array]) -> Array:
        out = (info.output[1], info.output[2])
        return correlate(x[0], params["weight"], window_of(info.attrs), out, info.attrs["groups"], params.get("bias"))

    def grad_input(
        self,
        info: OpInfo,
        slot: int,
        dy: Array,
        saved: Mapping[str, Array],
        channels: tuple[int, int] | None = None,
    ) -> Array:
        total, height, width = info.inputs[0]
        groups, weight = info.attrs["groups"], saved["weight"]
        skip = 0
        if channels is not None:
            first, last = channels
            if groups == 1:
                weight = weight[:, first:last]
            else:  # whole groups are computed, then cut
                per, outs = total // groups, info.output[0] // groups
                low, high = first // per, -(-last // per)
                weight, dy, groups = weight[low * outs : high * outs], dy[:, low * outs : high * outs], high - low
                skip = first - low * per
        dx = correlate_transposed(dy, weight, window_of(info.attrs), (height, width), groups, full=total)
        if channels is not None and dx.shape[1] != channels[1] - channels[0]:
            dx = dx[:, skip : skip + channels[1] - channels[0]].copy()
        return dx

    def grad_param(
        self, info: OpInfo, slot: str, dy: Array, saved: Mapping[str, Array], keep: int | None = None
    ) -> Array:
        if slot == "bias":
            total: Array = dy.sum(axis=(0, 2, 3))
            return total
        x, groups = saved["x0"], info.attrs["groups"]
        channels = info.inputs[0][0]
        if keep is not None:
            x = x[:, : keep * (channels // groups)]
            if groups > 1:
                dy, groups = dy[:, : keep * (info.output[0] // groups)], keep
        return correlate_weight(x, dy, window_of(info.attrs), groups, full=channels, deep=info.output[0])

    def tile_space(self, info: OpInfo, pass_: str) -> TileSpace | None:
        x, y, macs = info.inputs[0], info.output, self.macs(info, pass_)
        if pass_ == "x0":
            wide, deep = self._meeting(x, y, info)
            return TileSpace(
                self._axes(info, self._meeting_axes(x, info)),
                (
                    self._image_operand(info, "dy", "in", "co", y, deep),
                    self._weights(info, "weight", "in", transposed=False),
                    self._image_operand(info, "dx", "out", "ci", x, wide),
                ),
                macs,
            )
        wide, deep = self._sliding(x, y, info)
        axes = self._axes(info, (("oh", y[1]), ("ow", y[2])))
        image_in = self._image_operand(info, "x0", "in", "ci", x, wide)
        if pass_ == "weight":
            grad = self._image_operand(info, "dy", "in", "co", y, deep)
            return TileSpace(axes, (image_in, grad, self._weights(info, "dweight", "out", transposed=False)), macs)
        if pass_ == "bias":
            grad = self._image_operand(info, "dy", "in", "co", y, deep)
            kept = tuple(a for a in axes if a[0] != "ci")
            return TileSpace(kept, (grad, self._bias(info, "dbias", "out")), macs)
        weights = [self._weights(info, "weight", "in", transposed=False)]
        if "bias" in info.params:
            weights.append(self._bias(info, "bias", "in"))
        return TileSpace(axes, (image_in, *weights, self._image_operand(info, "y", "out", "co", y, deep)), macs)


@register
class ConvTranspose(_Conv):
    """Transposed convolution: the adjoint of ``conv`` in its input.

    Attributes are those of ``conv`` and ``output_padding`` (rows and columns added at the bottom
    right; below the stride or the dilation). Input ``(C, H, W)``, weight ``(C, out / groups, kh,
    kw)``, bias ``(out,)`` or absent; output extent ``(H - 1) * stride - top - bottom +
    dilation * (kh - 1) + output_padding + 1``, as PyTorch's ``ConvTranspose2d``.
    """

    kind = "conv_transpose"
    partial_input = True
    defaults: ClassVar[Mapping[str, Any]] = {**_Conv.defaults, "output_padding": 0}

    def complete_attrs(self, attrs: Mapping[str, Attr]) -> dict[str, Any]:
        full = super().complete_attrs(attrs)
        extra = pair("output_padding", full["output_padding"], low=0)
        for i in range(2):
            if extra[i] >= max(full["stride"][i], full["dilation"][i]):
                raise OpError(
                    f"output_padding={extra} must be below the stride={full['stride']} or dilation={full['dilation']}"
                )
        return full | {"output_padding": extra}

    def output_shape(self, attrs: Mapping[str, Any], inputs: Sequence[Shape]) -> Shape:
        _, height, width = self._image(attrs, inputs)
        window, extra = window_of(attrs), attrs["output_padding"]
        top, left, bottom, right = window.padding
        return (
            attrs["out_channels"],
            (height - 1) * window.stride[0] - top - bottom + window.extent[0] + extra[0],
            (width - 1) * window.stride[1] - left - right + window.extent[1] + extra[1],
        )

    def param_shapes(self, attrs: Mapping[str, Any], inputs: Sequence[Shape]) -> dict[str, Shape]:
        channels, outs = inputs[0][0], attrs["out_channels"]
        return {"weight": (channels, outs // attrs["groups"], *attrs["kernel"]), "bias": (outs,)}

    def macs(self, info: OpInfo, pass_: str) -> int:
        if pass_ == "bias":
            return 0
        per_group: int = info.output[0] // info.attrs["groups"]
        kernel: tuple[int, int] = info.attrs["kernel"]
        return math.prod(info.inputs[0]) * per_group * math.prod(kernel)

    def fraction(self, info: OpInfo, slot: str) -> Fraction | None:
        if slot != "weight":
            return None
        channels, groups = info.inputs[0][0], info.attrs["groups"]
        # the weight's axis 0 is the input channel; with groups a unit is a group of them
        per = 1 if groups == 1 else channels // groups
        return Fraction(axis=0, units=channels // per, per_unit=per, rows=per)

    def stripe(self, info: OpInfo, lo: int, hi: int) -> Stripe | None:
        window, height = window_of(info.attrs), info.inputs[0][1]
        (top, left, _, right), stride, extent = window.padding, window.stride[0], window.extent[0]
        # input row i meets output rows [i * stride - top, i * stride - top + extent)
        first = 0 if lo == 0 else max(0, -(-(lo + top - extent + 1) // stride))
        last = height if hi == info.output[1] else min(height, (hi - 1 + top) // stride + 1)
        first = min(first, (lo + top) // stride, last - 1)  # rows between windows begin with the one before
        above = lo - (first * stride - top)
        below = (last - 1) * stride - top + extent - hi
        extra = (max(0, -below), info.attrs["output_padding"][1])
        attrs = {**info.attrs, "padding": (above, left, max(0, below), right), "output_padding": extra}
        return Stripe(((first, last),), attrs)

    def forward(self, info: OpInfo, x: Sequence[Array], params: Mapping[str, Array]) -> Array:
        size = (info.output[1], info.output[2])
        return correlate_transposed(
            x[0], params["weight"], window_of(info.attrs), size, info.attrs["groups"], params.get("bias")
        )

    def grad_input(
        self,
        info: OpInfo,
        slot: int,
        dy: Array,
        saved: Mapping[str, Array],
        channels: tuple[int, int] | None = None,
    ) -> Array:
        total, height, width = info.inputs[0]
        groups, weight = info.attrs["groups"], saved["weight"]
        skip = 0
        if channels is not None:
            first, last = channels
            if groups == 1:
                weight = weight[first:last]
            else:  # whole groups are computed, then cut
                per, outs = total // groups, info.output[0] // groups
                low, high = first // per, -(-last // per)
                weight, dy, groups = weight[low * per : high * per], dy[:, low * outs : high * outs], high - low
                skip = first - low * per
        dx = correlate(dy, weight, window_of(info.attrs), (height, width), groups, full=total)
        if channels is not None and dx.shape[1] != channels[1] - channels[0]:
            dx = dx[:, skip : skip + channels[1] - channels[0]].copy()
        return dx

    def grad_param(
        self, info: OpInfo, slot: str, dy: Array, saved: Mapping[str, Array], keep: int | None = None
    ) -> Array:
        if slot == "bias":
            total: Array = dy.sum(axis=(0, 2, 3))
            return total
        x, groups = saved["x0"], info.attrs["groups"]
        channels = info.inputs[0][0]
        if keep is not None:
            per = 1 if groups == 1 else channels // groups
            x = x[:, : keep * per]
            if groups > 1:
                dy, groups = dy[:, : keep * (info.output[0] // groups)], keep
        return correlate_weight(dy, x, window_of(info.attrs), groups, full=info.output[0], deep=channels)

    def tile_space(self, info: OpInfo, pass_: str) -> TileSpace | None:
        x, y, macs = info.inputs[0], info.output, self.macs(info, pass_)
        if pass_ in ("forward", "bias"):
            wide, deep = self._meeting(y, x, info)
            axes = self._axes(info, self._meeting_axes(y, info))
            if pass_ == "bias":
                grad = self._image_operand(info, "dy", "in", "co", y, wide)
                kept = tuple(a for a in axes if a[0] != "ci")
                return TileSpace(kept, (grad, self._bias(info, "dbias", "out")), macs)
            weights = [self._weights(info, "weight", "in", transposed=True)]
            if "bias" in info.params:
                weights.append(self._bias(info, "bias", "in"))
            image_in = self._image_operand(info, "x0", "in", "ci", x, deep)
            return TileSpace(axes, (image_in, *weights, self._image_operand(info, "y", "out", "co", y, wide)), macs)
        wide, deep = self._sliding(y, x, info)
        axes = self._axes(info, (("oh", x[1]), ("ow", x[2])))
        grad = self._image_operand(info, "dy", "in", "co", y, wide)
        if pass_ == "weight":
            image_in = self._image_operand(info, "x0", "in", "ci", x, deep)
            return TileSpace(axes, (image_in, grad, self._weights(info, "dweight", "out", transposed=True)), macs)
        weights = [self._weights(info, "weight", "in", transposed=True)]
        return TileSpace(axes, (grad, *weights, self._image_operand(info, "dx", "out", "ci", x, deep)), macs)
