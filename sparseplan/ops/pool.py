"""Pooling: largest or mean of windows, mean of an image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from sparseplan.errors import OpError
from sparseplan.network import Attr
from sparseplan.ops.attrs import boolean, image, padding4, pair, window_rows
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
    Stripe,
    TileSpace,
    either,
    register,
)
from sparseplan.ops.conv import blocks, gathered, scattered
from sparseplan.ops.windows import Window


class _Pool(OpDef):
    """Windows slide over each channel alone; a window's outputs are ``(channels, oh, ow)``."""

    partial_input = True
    defaults: ClassVar[Mapping[str, Any]] = {"kernel": REQUIRED, "stride": None, "padding": 0}

    def complete_attrs(self, attrs: Mapping[str, Attr]) -> dict[str, Any]:
        full = super().complete_attrs(attrs)
        kernel = pair("kernel", full["kernel"])
        padding = padding4("padding", full["padding"])
        if any(p >= kernel[i % 2] for i, p in enumerate(padding)):
            raise OpError(f"padding={padding} must be below kernel={kernel}, or windows hold nothing")
        stride = kernel if full["stride"] is None else pair("stride", full["stride"])
        return full | {"kernel": kernel, "stride": stride, "padding": padding}

    def output_shape(self, attrs: Mapping[str, Any], inputs: Sequence[Shape]) -> Shape:
        channels, height, width = image(inputs)
        return (channels, *self._window(attrs).output(height, width))

    @staticmethod
    def _window(attrs: Mapping[str, Any]) -> Window:
        return Window(attrs["kernel"], attrs["stride"], attrs["padding"])

    @staticmethod
    def _taps(info: OpInfo, padded: Array) -> Iterator[Array]:
        """For each position of the window, row by row, the padded input as the outputs see it."""
        (kh, kw), (sh, sw) = info.attrs["kernel"], info.attrs["stride"]
        _, oh, ow = info.output
        for ky in range(kh):
            for kx in range(kw):
                yield padded[:, :, ky : ky + (oh - 1) * sh + 1 : sh, kx : kx + (ow - 1) * sw + 1 : sw]

    @staticmethod
    def _pad(info: OpInfo, x: Array, value: float) -> Array:
        top, left, bottom, right = info.attrs["padding"]
        if not (top or left or bottom or right):
            return x
        return np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=value)

    def _spread(self, info: OpInfo, parts: Iterator[Array], like: Array) -> Array:
        """Adjoint of ``_taps``: each position's part added where it was read."""
        top, left, bottom, right = info.attrs["padding"]
        _, height, width = info.inputs[0]
        padded = np.zeros((*like.shape[:2], top + height + bottom, left + width + right), like.dtype)
        for target, part in zip(self._taps(info, padded), parts, strict=True):
            target += part
        return np.ascontiguousarray(padded[:, :, top : top + height, left : left + width])

    def stripe(self, info: OpInfo, lo: int, hi: int) -> Stripe | None:
        window = self._window(info.attrs)
        _, left, _, right = window.padding
        rows, top, bottom = window_rows(lo, hi, info.output[1], info.inputs[0][1], window.stride[0], window.extent[0],
                                        window.padding[0])  # fmt: skip
        return Stripe((rows,), {**info.attrs, "padding": (top, left, bottom, right)})

    def tile_space(self, info: OpInfo, pass_: str) -> TileSpace | None:
        window = self._window(info.attrs)
        (c, height, width), (_, oh, ow) = info.inputs[0], info.output
        (sh, sw), (eh, ew), pads = window.stride, window.extent, window.padding
        channel = Dim("c", c)
        aux = self.aux(info)
        if pass_ == "forward":
            out = (channel, Dim("oh", oh), Dim("ow", ow))
            seen = (channel, gathered("oh", height, sh, eh), gathered("ow", width, sw, ew))
            # the auxiliary is written only where backward wants it; drop the operand otherwise
            made = [Operand(tag, out, "out", a.dtype) for tag, a in aux.items()]
            return TileSpace(
                (("c", c), ("oh", oh), ("ow", ow)),
                (Operand("x0", seen), Operand("y", out, "out"), *made),
                self.macs(info, pass_),
            )
        met = (channel, scattered("ih", oh, sh, eh, pads[0]), scattered("iw", ow, sw, ew, pads[1]))
        pixels = (channel, blocks("ih", height, sh), blocks("iw", width, sw))
        saved = [Operand(tag, met, "in", a.dtype) for tag, a in aux.items()]
        return TileSpace(
            (("c", c), ("ih", -(-height // sh)), ("iw", -(-width // sw))),
            (Operand("dy", met), *saved, Operand("dx", pixels, "out")),
            self.macs(info, pass_),
        )


@register
class MaxPool(_Pool):
    """The largest entry of each window; the first of equals gets the gradient.

    Attributes: ``kernel``, ``stride`` (the kernel by default), ``padding`` (int, pair or (top,
    left, bottom, right)). The index of the largest within its window takes a byte, so windows
    have at most 256 entries.
    """

    kind = "max_pool"

    def complete_attrs(self, attrs: Mapping[str, Attr]) -> dict[str, Any]:
        full = super().complete_attrs(attrs)
        kh, kw = full["kernel"]
        if kh * kw > 256:
            raise OpError(f"kernel={full['kernel']} has {kh * kw} entries; at most 256 fit the index's byte")
        return full

    def aux(self, info: OpInfo) -> Mapping[str, Aux]:
        return {"index": Aux(info.output, "u8", ("x0",))}

    def needs_for_input(self, info: OpInfo, slot: int) -> Alternatives:
        return either("index", "x0")

    def forward(self, info: OpInfo, x: Sequence[Array], params: Mapping[str, Array]) -> Array:
        taps = self._taps(info, self._pad(info, x[0], -np.inf))
        y = np.array(next(taps))
        for tap in taps:
            np.maximum(y, tap, out=y)
        return y

    def make_aux(self, info: OpInfo, tag: str, source: str, array: Array) -> Array:
        if tag != "index":
            return super().make_aux(info, tag, source, array)
        taps = self._taps(info, self._pad(info, array, -np.inf))
        best = np.array(next(taps))
        index = np.zeros(best.shape, np.uint8)
        for i, tap in enumerate(taps, 1):
            np.copyto(index, i, where=tap > best)
            np.maximum(best, tap, out=best)
        return index

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
            dy, kept = dy[:, channels[0] : channels[1]], kept[:, channels[0] : channels[1]]
        index = kept if tag == "index" else self.make_aux(info, "index", tag, kept)
        kh, kw = info.attrs["kernel"]
        return self._spread(info, (dy * (index == i) for i in range(kh * kw)), dy)


@register
class AvgPool(_Pool):
    """The mean of each window.

    Attributes: as ``max_pool``, and ``count_include_pad``: whether padding counts as zeros (as in
    PyTorch, where it does by default) or not at all.
    """

    kind = "avg_pool"
    defaults: ClassVar[Mapping[str, Any]] = {**_Pool.defaults, "count_include_pad": True}

    def complete_attrs(self, attrs: Mapping[str, Attr]) -> dict[str, Any]:
        full = super().complete_attrs(attrs)
        return full | {"count_include_pad": boolean("count_include_pad", full["count_include_pad"])}

    def macs(self, info: OpInfo, pass_: str) -> int:
        return info.out_elements

    def _share(self, info: OpInfo, dtype: Any) -> Array:
        """One over the number of entries of each window, ``(oh, ow)``."""
        kh, kw = info.attrs["kernel"]
        if info.attrs["count_include_pad"]:
            return np.asarray(1 / (kh * kw), dtype)
        ones = self._pad(info, np.ones((1, 1, *info.inputs[0][1:])), 0)
        counts: Array = np.sum(list(self._taps(info, ones)), axis=0)[0, 0]
        share: Array = (1 / counts).astype(dtype)
        return share

    def forward(self, info: OpInfo, x: Sequence[Array], params: Mapping[str, Array]) -> Array:
        taps = self._taps(info, self._pad(info, x[0], 0))
        y = np.array(next(taps))
        for tap in taps:
            y += tap
        y *= self._share(info, y.dtype)
        return y

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
        part = dy * self._share(info, dy.dtype)
        kh, kw = info.attrs["kernel"]
        return self._spread(info, (part for _ in range(kh * kw)), dy)


@register
class GlobalAvgPool(OpDef):
    """The mean of each channel: ``(C, H, W)`` to ``(C, 1, 1)``."""

    kind = "global_avg_pool"
    partial_input = True

    def output_shape(self, attrs: Mapping[str, Any], inputs: Sequence[Shape]) -> Shape:
        return image(inputs)[0], 1, 1

    def macs(self, info: OpInfo, pass_: str) -> int:
        return info.out_elements

    def forward(self, info: OpInfo, x: Sequence[Array], params: Mapping[str, Array]) -> Array:
        y: Array = x[0].mean(axis=(2, 3), keepdims=True)
        return y

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
        _, height, width = info.inputs[0]
        return np.array(np.broadcast_to(dy / (height * width), (*dy.shape[:2], height, width)))

    def tile_space(self, info: OpInfo, pass_: str) -> TileSpace | None:
        c, height, width = info.inputs[0]
        whole, mean = (Dim("c", c), Dim("h", height), Dim("w", width)), (Dim("c", c),)
        if pass_ == "forward":
            operands = (Operand("x0", whole), Operand("y", mean, "out"))
        else:
            operands = (Operand("dy", mean), Operand("dx", whole, "out"))
        return TileSpace((("c", c), ("h", height), ("w", width)), operands, self.macs(info, pass_))
