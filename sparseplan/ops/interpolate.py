"""Resizing to any size: nearest, linear and cubic, as ONNX's Resize and PyTorch's interpolate.

Every spatial axis is resized by itself, by a matrix that blends a few neighbours (``taps``); the gradient
goes through the transposed matrices and needs nothing saved. Positions are reckoned in fractions, so that
rounding is exact.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from sparseplan.errors import OpError, near
from sparseplan.network import Attr
from sparseplan.ops.attrs import number, several
from sparseplan.ops.base import REQUIRED, Array, Dim, OpDef, Operand, OpInfo, Shape, TileSpace, register

_CHOICES = {
    "mode": ("nearest", "linear", "cubic"),
    "coordinates": ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"),
    "rounding": ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil"),
}
_HALF = Fraction(1, 2)
#: the matrices of larger axes would not be small
MAX_SIZE = 2**14


def _rounded(at: Fraction, rounding: str) -> int:
    if rounding == "floor":
        return math.floor(at)
    if rounding == "ceil":
        return math.ceil(at)
    return math.ceil(at - _HALF) if rounding == "round_prefer_floor" else math.floor(at + _HALF)


def _cubic(share: float, a: float) -> tuple[float, ...]:
    """Weights of the four neighbours of a point ``share`` beyond the second (Keys 1981)."""

    def inner(d: float) -> float:
        return ((a + 2) * d - (a + 3)) * d * d + 1

    def outer(d: float) -> float:
        return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a

    return outer(1 + share), inner(share), inner(1 - share), outer(2 - share)


@dataclass(frozen=True)
class Axis:
    """How one axis is resized.

    Attributes:
        taps: for each output, the inputs that it blends, ``(size, taps)``; beyond the borders the border's.
        weights: of these, alike.
        extent: of the input.
    """

    taps: Array
    weights: Array
    extent: int

    @property
    def changes(self) -> bool:
        """Whether the output is anything else than the input."""
        return self.taps.shape != (self.extent, 1) or bool((self.taps[:, 0] != np.arange(self.extent)).any())

    def matrix(self, dtype: Any) -> Array:
        """``(size, extent)``."""
        full = np.zeros((len(self.taps), self.extent))
        np.add.at(full, (np.arange(len(self.taps))[:, None], self.taps), self.weights)
        return full.astype(dtype)

    def reads(self) -> tuple[Array, Array]:
        """For each output the first and the last input that it reads."""
        return self.taps.min(axis=1), self.taps.max(axis=1)

    def read_by(self) -> tuple[Array, Array]:
        """For each input the first and the last output that reads it; where none does, the last is below the first."""
        first, last = self.reads()
        inputs = np.arange(self.extent)
        return np.searchsorted(last, inputs, "left"), np.searchsorted(first, inputs, "right") - 1


@lru_cache(maxsize=256)
def resized(extent: int, size: int, scale: float | None, mode: str, coordinates: str, rounding: str, a: float) -> Axis:
    """The axis for an extent to be resized to ``size``; ``scale`` is their ratio where it is given."""
    ratio = Fraction(size, extent) if scale is None else Fraction(scale)
    if extent == size and ratio == 1:
        return Axis(np.arange(extent)[:, None], np.ones((extent, 1)), extent)
    if coordinates == "align_corners":
        at = [Fraction(o * (extent - 1), max(size - 1, 1)) for o in range(size)]
    elif coordinates == "asymmetric":
        at = [o / ratio for o in range(size)]
    elif coordinates == "pytorch_half_pixel" and size == 1:
        at = [Fraction(0)]
    else:
        at = [(o + _HALF) / ratio - _HALF for o in range(size)]
    if mode == "nearest":
        taps = np.array([[_rounded(p, rounding)] for p in at])
        return Axis(np.clip(taps, 0, extent - 1), np.ones((size, 1)), extent)
    low = [math.floor(p) for p in at]
    shares = [float(p - below) for p, below in zip(at, low, strict=True)]
    if mode == "linear":
        around, weights = np.arange(2), np.array([(1 - s, s) for s in shares])
    else:
        around, weights = np.arange(-1, 3), np.array([_cubic(s, a) for s in shares])
    return Axis(np.clip(np.array(low)[:, None] + around, 0, extent - 1), weights, extent)


def _window(first: Array, last: Array) -> tuple[int, int]:
    """``(scale, window)`` such that any t neighbours read no more than ``(t - 1) * scale + window`` in a row."""
    some = np.flatnonzero(first <= last)
    first, last = first[some], last[some]
    scale = 1 if len(some) < 2 else max(1, math.ceil((last[-1] - first[0]) / (some[-1] - some[0])))
    # the widest for any earlier and any later place: the least of the one so far beside each of the other
    reach = np.maximum.accumulate(some * scale - first)
    return scale, int((last - some * scale + reach).max()) + 1


@register
class Resize(OpDef):
    """``(C, *spatial)`` to ``(C, *size)``.

    Attributes:
        size: extents of the spatial axes; an axis whose extent stays is left alone.
        mode: ``nearest``, ``linear`` (bilinear, trilinear …) or ``cubic``.
        coordinates: where an output lies in the input: ``half_pixel`` (centres of pixels), ``pytorch_half_pixel``
            (alike, but 0 for a single output), ``align_corners`` or ``asymmetric`` (corners of pixels).
        scales: the ratios to reckon with instead of ``size`` over extent, which rounding may have changed: whole
            numbers, or a string such as ``"1.5,0.7"`` (attributes hold no tuples of floats).
        rounding: of ``nearest``: ``round_prefer_floor``, ``round_prefer_ceil``, ``floor`` or ``ceil``.
        cubic_a: the coefficient of ``cubic``.

    PyTorch's ``nearest`` is ``asymmetric`` with ``floor``, its ``nearest-exact`` ``half_pixel`` with
    ``round_prefer_ceil``.
    """

    kind = "resize"
    partial_input = True
    defaults: ClassVar[Mapping[str, Any]] = {
        "size": REQUIRED,
        "mode": "nearest",
        "coordinates": "half_pixel",
        "scales": "",
        "rounding": "round_prefer_floor",
        "cubic_a": -0.75,
    }

    def complete_attrs(self, attrs: Mapping[str, Attr]) -> dict[str, Any]:
        full = super().complete_attrs(attrs)
        for name, known in _CHOICES.items():
            if full[name] not in known:
                raise OpError(f"{name}={full[name]!r} is unknown{near(str(full[name]), known)}; give one of {known}")
        size = several("size", full["size"], 1)
        if max(size, default=1) > MAX_SIZE:
            raise OpError(f"size={size} has an extent over {MAX_SIZE}; use fewer")
        scales = full["scales"]
        if not isinstance(scales, str):
            scales = ",".join(map(str, several("scales", scales, 1)))
        if scales and len(self.ratios(scales)) != len(size):
            raise OpError(f"scales={full['scales']!r} must be as many as size={size}")
        return full | {"size": size, "scales": scales, "cubic_a": number("cubic_a", full["cubic_a"])}

    @staticmethod
    def ratios(scales: str) -> tuple[float, ...]:
        """The numbers in ``scales``; raises OpError where they are none, or not positive."""
        try:
            found = [float(part) for part in scales.split(",")]
        except ValueError:
            raise OpError(f"scales={scales!r} must be numbers with commas between") from None
        return tuple(number("scales", ratio, 0, above=True) for ratio in found)

    def output_shape(self, attrs: Mapping[str, Any], inputs: Sequence[Shape]) -> Shape:
        channels, *spatial = inputs[0] or (0,)
        if len(spatial) != len(attrs["size"]):
            raise OpError(f"input has shape {inputs[0]}, expected (channels, …) with {len(attrs['size'])} spatial "
                          f"axes, as size={attrs['size']} has")  # fmt: skip
        for n, size, ratio in zip(spatial, attrs["size"], self._scales(attrs), strict=True):
            if ratio is not None and abs(n * ratio - size) > 1:
                raise OpError(f"size={attrs['size']} is not input shape {inputs[0]} times scales={attrs['scales']!r}")
        return (channels, *attrs["size"])

    @classmethod
    def _scales(cls, attrs: Mapping[str, Any]) -> tuple[float | None, ...]:
        return cls.ratios(attrs["scales"]) if attrs["scales"] else (None,) * len(attrs["size"])

    @classmethod
    def axes(cls, info: OpInfo) -> tuple[Axis, ...]:
        """How each spatial axis is resized."""
        a = info.attrs
        return tuple(
            resized(n, size, scale, a["mode"], a["coordinates"], a["rounding"], a["cubic_a"])
            for n, size, scale in zip(info.inputs[0][1:], a["size"], cls._scales(a), strict=True)
        )

    def macs(self, info: OpInfo, pass_: str) -> int:
        taps = math.prod(axis.taps.shape[1] for axis in self.axes(info))
        return 0 if taps == 1 else taps * info.out_elements

    def forward(self, info: OpInfo, x: Sequence[Array], params: Mapping[str, Array]) -> Array:
        y = x[0]
        for i, axis in enumerate(self.axes(info), 2):
            if axis.taps.shape[1] == 1:
                y = y.take(axis.taps[:, 0], axis=i) if axis.changes else y
            else:
                y = np.moveaxis(np.matmul(np.moveaxis(y, i, -1), axis.matrix(y.dtype).T), -1, i)
        return y.copy()

    def grad_input(
        self,
        info: OpInfo,
        slot: int,
        dy: Array,
        saved: Mapping[str, Array],
        channels: tuple[int, int] | None = None,
    ) -> Array:
        dx = dy if channels is None else dy[:, channels[0] : channels[1]]
        for i, axis in enumerate(self.axes(info), 2):
            moved = np.moveaxis(dx, i, 0)
            if axis.taps.shape[1] > 1:
                dx = np.moveaxis(np.matmul(np.moveaxis(dx, i, -1), axis.matrix(dx.dtype)), -1, i)
            elif axis.changes:
                into = np.zeros((axis.extent, *moved.shape[1:]), dx.dtype)
                np.add.at(into, axis.taps[:, 0], moved)
                dx = np.moveaxis(into, 0, i)
        return dx.copy()

    def tile_space(self, info: OpInfo, pass_: str) -> TileSpace | None:
        made_shape, read_shape = (info.output, info.inputs[0]) if pass_ == "forward" else (info.inputs[0], info.output)
        channel = Dim("c", info.output[0])
        read, made = [channel], [channel]
        for i, axis in enumerate(self.axes(info), 1):
            scale, window = _window(*(axis.reads() if pass_ == "forward" else axis.read_by()))
            read.append(Dim(f"a{i}", read_shape[i], scale, window))
            made.append(Dim(f"a{i}", made_shape[i]))
        axes = (("c", info.output[0]), *((f"a{i}", n) for i, n in enumerate(made_shape[1:], 1)))
        tags = ("x0", "y") if pass_ == "forward" else ("dy", "dx")
        operands = (Operand(tags[0], tuple(read)), Operand(tags[1], tuple(made), "out"))
        return TileSpace(axes, operands, self.macs(info, pass_))
