"""Upsampling by whole factors, nearest or bilinear."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from sparseplan.errors import OpError, near
from sparseplan.network import Attr
from sparseplan.ops.attrs import image, pair
from sparseplan.ops.base import REQUIRED, Array, Dim, OpDef, Operand, OpInfo, Shape, Stripe, TileSpace, register

_MODES = ("nearest", "bilinear")


@lru_cache(maxsize=256)
def _blend(extent: int, scale: int) -> Array:
    """Bilinear weights ``(extent * scale, extent)`` of an axis, as PyTorch's align_corners=False.

    Pixel centres: output ``o`` lies at ``(o + 0.5) / scale - 0.5``, held within the input.
    """
    at = np.clip((np.arange(extent * scale) + 0.5) / scale - 0.5, 0, None)
    low = np.floor(at).astype(np.intp)
    high = np.minimum(low + 1, extent - 1)
    weights = np.zeros((extent * scale, extent))
    rows = np.arange(extent * scale)
    np.add.at(weights, (rows, low), 1 - (at - low))
    np.add.at(weights, (rows, high), at - low)
    weights.flags.writeable = False
    return weights


@register
class Upsample(OpDef):
    """``(C, H, W)`` to ``(C, sh * H, sw * W)``; attributes ``scale`` (int or pair), ``mode``
    (``nearest``, or ``bilinear`` as PyTorch's with ``align_corners=False``) and ``crop`` (rows of
    the result to leave out at the top and at the bottom, none by default)."""

    kind = "upsample"
    partial_input = True
    defaults: ClassVar[Mapping[str, Any]] = {"scale": REQUIRED, "mode": "nearest", "crop": 0}

    def complete_attrs(self, attrs: Mapping[str, Attr]) -> dict[str, Any]:
        full = super().complete_attrs(attrs)
        if full["mode"] not in _MODES:
            raise OpError(f"mode={full['mode']!r} is unknown{near(str(full['mode']), _MODES)}")
        return full | {"scale": pair("scale", full["scale"]), "crop": pair("crop", full["crop"], low=0)}

    def output_shape(self, attrs: Mapping[str, Any], inputs: Sequence[Shape]) -> Shape:
        channels, height, width = image(inputs)
        sh, sw = attrs["scale"]
        return channels, height * sh - sum(attrs["crop"]), width * sw

    def macs(self, info: OpInfo, pass_: str) -> int:
        return 0 if info.attrs["mode"] == "nearest" else 4 * info.out_elements

    def _weights(self, info: OpInfo, dtype: Any) -> tuple[Array, Array]:
        (_, height, width), (sh, sw) = info.inputs[0], info.attrs["scale"]
        return _blend(height, sh).astype(dtype), _blend(width, sw).astype(dtype)

    def stripe(self, info: OpInfo, lo: int, hi: int) -> Stripe | None:
        scale, height, skipped = info.attrs["scale"][0], info.inputs[0][1], info.attrs["crop"][0]
        a, b = lo + skipped, hi + skipped
        first, last = a // scale, -(-b // scale)
        if info.attrs["mode"] == "bilinear":  # row r lies at (r + 0.5) / scale - 0.5 between two rows
            first, last = max(0, (2 * a + 1 - scale) // (2 * scale)), (2 * b - 1 - scale) // (2 * scale) + 2
        first = 0 if lo == 0 else first
        last = height if hi == info.output[1] else min(last, height)
        return Stripe(((first, last),), {**info.attrs, "crop": (a - first * scale, last * scale - b)})

    @staticmethod
    def _kept(info: OpInfo, whole: Array) -> Array:
        """What is left of the rows of a result."""
        top, bottom = info.attrs["crop"]
        return whole[:, :, top : whole.shape[2] - bottom] if top or bottom else whole

    def forward(self, info: OpInfo, x: Sequence[Array], params: Mapping[str, Array]) -> Array:
        sh, sw = info.attrs["scale"]
        if info.attrs["mode"] == "nearest":
            return self._kept(info, x[0].repeat(sh, axis=2)).repeat(sw, axis=3)
        rows, cols = self._weights(info, x[0].dtype)
        y: Array = np.matmul(self._kept(info, rows[None, None])[0, 0], np.matmul(x[0], cols.T))
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
        if any(info.attrs["crop"]):
            dy = np.pad(dy, ((0, 0), (0, 0), info.attrs["crop"], (0, 0)))
        (_, height, width), (sh, sw) = info.inputs[0], info.attrs["scale"]
        dx: Array
        if info.attrs["mode"] == "nearest":
            dx = dy.reshape(*dy.shape[:2], height, sh, width, sw).sum(axis=(3, 5))
        else:
            rows, cols = self._weights(info, dy.dtype)
            dx = np.matmul(np.matmul(rows.T, dy), cols)
        return dx

    def tile_space(self, info: OpInfo, pass_: str) -> TileSpace | None:
        (c, height, width), scale = info.inputs[0], info.attrs["scale"]
        extents = (("ih", height, scale[0], sum(info.attrs["crop"])), ("iw", width, scale[1], 0))
        nearest = info.attrs["mode"] == "nearest"
        # axes count input pixels; a tile of t of them stands for t * scale output pixels. Forward,
        # these blend the pixels themselves and one neighbour on either side.
        if pass_ == "forward":
            # tiles of what is left after a crop need not begin where a pixel does
            apart = [nearest and bool(info.attrs["crop"][0] % scale[0]), False]
            source = [Dim(a, n, 1, 3 if not nearest and s > 1 else 1 + skew)
                      for (a, n, s, _), skew in zip(extents, apart, strict=True)]  # fmt: skip
            made = [Dim(a, n * s - cut, s, s) for a, n, s, cut in extents]
            operands = (Operand("x0", (Dim("c", c), *source)), Operand("y", (Dim("c", c), *made), "out"))
        else:
            # an input pixel is blended into the outputs within one input pixel of it
            read = [Dim(a, n * s - cut, s, s if nearest or s == 1 else 2 * s - s % 2) for a, n, s, cut in extents]
            made = [Dim(a, n) for a, n, *_ in extents]
            operands = (Operand("dy", (Dim("c", c), *read)), Operand("dx", (Dim("c", c), *made), "out"))
        rows = -(-info.output[1] // scale[0]) if pass_ == "forward" else height
        return TileSpace((("c", c), ("ih", rows), ("iw", width)), operands, self.macs(info, pass_))
