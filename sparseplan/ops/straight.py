"""Unary ops made of straight pieces: clip, abs, hard_sigmoid, scale and shift, rounding."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from sparseplan.errors import OpError
from sparseplan.network import Attr
from sparseplan.ops.attrs import number
from sparseplan.ops.base import NOTHING, Alternatives, Array, Aux, OpInfo, either, register
from sparseplan.ops.pointwise import Unary


class _Sided(Unary):
    """One bit an element tells on which piece of the curve the input lies."""

    def aux(self, info: OpInfo) -> Mapping[str, Aux]:
        return {"mask": Aux(info.output, "bit", ("x0",))}

    def needs_for_input(self, info: OpInfo, slot: int) -> Alternatives:
        return either("mask", "x0")

    def make_aux(self, info: OpInfo, tag: str, source: str, array: Array) -> Array:
        if tag != "mask":
            return super().make_aux(info, tag, source, array)
        return self._mask(info.attrs, array)

    def _mask(self, attrs: Mapping[str, Any], x: Array) -> Array:
        raise NotImplementedError

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
        return self._backward(info, dy, kept if tag == "mask" else self._mask(info.attrs, kept))


def _survives(limit: float) -> bool:
    """Whether a limit is the same number in every dtype that the output may be stored in."""
    try:
        half: float = struct.unpack("<e", struct.pack("<e", limit))[0]
    except OverflowError:
        return False
    single = struct.pack("<f", limit)
    return half == limit == struct.unpack("<f", single)[0] and single[:2] == b"\0\0"  # bfloat16 is its upper half


@register
class Clip(_Sided):
    """``min(max(x, low), high)``; one of the limits may be absent. The gradient is 0 at the limits and beyond.

    Limits that no dtype rounds let the output stand for the mask.
    """

    kind = "clip"
    defaults: ClassVar[Mapping[str, Any]] = {"low": None, "high": None}

    def complete_attrs(self, attrs: Mapping[str, Attr]) -> dict[str, Any]:
        full = super().complete_attrs(attrs)
        limits = {name: number(name, value) for name, value in full.items() if value is not None}
        if not limits:
            raise OpError("low and high are both missing; give one at least")
        if len(limits) == 2 and limits["low"] >= limits["high"]:
            raise OpError(f"low={limits['low']} must be below high={limits['high']}")
        return limits

    def macs(self, info: OpInfo, pass_: str) -> int:
        return 0

    def _told_by_output(self, info: OpInfo) -> bool:
        return all(map(_survives, info.attrs.values()))

    def aux(self, info: OpInfo) -> Mapping[str, Aux]:
        return {"mask": Aux(info.output, "bit", ("y", "x0") if self._told_by_output(info) else ("x0",))}

    def needs_for_input(self, info: OpInfo, slot: int) -> Alternatives:
        return either("mask", "y" if self._told_by_output(info) else "x0")

    def forward(self, info: OpInfo, x: Sequence[Array], params: Mapping[str, Array]) -> Array:
        y: Array = np.clip(x[0], info.attrs.get("low"), info.attrs.get("high"))
        return y

    def _mask(self, attrs: Mapping[str, Any], x: Array) -> Array:
        low, high = attrs.get("low"), attrs.get("high")
        if low is None:
            mask: Array = x < high
            return mask
        mask = x > low
        return mask if high is None else mask & (x < high)

    def _backward(self, info: OpInfo, dy: Array, kept: Array) -> Array:
        return dy * kept


@register
class Abs(_Sided):
    """``|x|``; the gradient at 0 is 1 (one bit an element cannot tell 0 apart)."""

    kind = "abs"

    def macs(self, info: OpInfo, pass_: str) -> int:
        return 0

    def forward(self, info: OpInfo, x: Sequence[Array], params: Mapping[str, Array]) -> Array:
        y: Array = np.abs(x[0])
        return y

    def _mask(self, attrs: Mapping[str, Any], x: Array) -> Array:
        mask: Array = x >= 0
        return mask

    def _backward(self, info: OpInfo, dy: Array, kept: Array) -> Array:
        return np.where(kept, dy, -dy)


@register
class HardSigmoid(_Sided):
    """``min(max(alpha * x + beta, 0), 1)`` with ``alpha > 0``; the gradient is 0 at the limits and beyond."""

    kind = "hard_sigmoid"
    defaults: ClassVar[Mapping[str, Any]] = {"alpha": 1 / 6, "beta": 0.5}

    def complete_attrs(self, attrs: Mapping[str, Attr]) -> dict[str, Any]:
        full = super().complete_attrs(attrs)
        return full | {"alpha": number("alpha", full["alpha"], 0, above=True), "beta": number("beta", full["beta"])}

    def forward(self, info: OpInfo, x: Sequence[Array], params: Mapping[str, Array]) -> Array:
        y: Array = np.clip(x[0] * info.attrs["alpha"] + info.attrs["beta"], 0, 1)
        return y

    def _mask(self, attrs: Mapping[str, Any], x: Array) -> Array:
        line = x * attrs["alpha"] + attrs["beta"]
        mask: Array = (line > 0) & (line < 1)
        return mask

    def _backward(self, info: OpInfo, dy: Array, kept: Array) -> Array:
        dx: Array = dy * kept
        dx *= info.attrs["alpha"]
        return dx


class _Line(Unary):
    """A straight line: the gradient needs nothing."""

    def needs_for_input(self, info: OpInfo, slot: int) -> Alternatives:
        return NOTHING

    def grad_input(
        self,
        info: OpInfo,
        slot: int,
        dy: Array,
        saved: Mapping[str, Array],
        channels: tuple[int, int] | None = None,
    ) -> Array:
        dy = dy if channels is None else dy[:, channels[0] : channels[1]]
        return self._backward(info, dy, dy)


@register
class Neg(_Line):
    """``-x``."""

    kind = "neg"

    def macs(self, info: OpInfo, pass_: str) -> int:
        return 0

    def forward(self, info: OpInfo, x: Sequence[Array], params: Mapping[str, Array]) -> Array:
        y: Array = -x[0]
        return y

    def _backward(self, info: OpInfo, dy: Array, kept: Array) -> Array:
        dx: Array = -dy
        return dx


@register
class ScaleShift(_Line):
    """``scale * x + shift`` by constants."""

    kind = "scale_shift"
    defaults: ClassVar[Mapping[str, Any]] = {"scale": 1.0, "shift": 0.0}

    def complete_attrs(self, attrs: Mapping[str, Attr]) -> dict[str, Any]:
        full = super().complete_attrs(attrs)
        return full | {name: number(name, full[name]) for name in ("scale", "shift")}

    def macs(self, info: OpInfo, pass_: str) -> int:
        return 0 if info.attrs["scale"] == 1 else info.out_elements

    def forward(self, info: OpInfo, x: Sequence[Array], params: Mapping[str, Array]) -> Array:
        y: Array = x[0] * info.attrs["scale"]
        y += info.attrs["shift"]
        return y

    def _backward(self, info: OpInfo, dy: Array, kept: Array) -> Array:
        dx: Array = dy * info.attrs["scale"]
        return dx


class _Steps(Unary):
    """Constant between jumps: no gradient is of any use."""

    _function: ClassVar[np.ufunc]

    def macs(self, info: OpInfo, pass_: str) -> int:
        return 0

    def differentiable(self, info: OpInfo, slot: int) -> bool:
        return False

    def obstacle(self, info: OpInfo) -> str:
        return f"{self.kind} is constant between its jumps, so no gradient passes it; choose an output before it"

    def forward(self, info: OpInfo, x: Sequence[Array], params: Mapping[str, Array]) -> Array:
        y: Array = self._function(x[0])
        return y

    def _backward(self, info: OpInfo, dy: Array, kept: Array) -> Array:
        raise NotImplementedError(f"{self.kind} has no gradient")


@register
class Floor(_Steps):
    """The largest whole number that is not above ``x``."""

    kind = "floor"
    _function = np.floor


@register
class Ceil(_Steps):
    """The least whole number that is not below ``x``."""

    kind = "ceil"
    _function = np.ceil


@register
class Round(_Steps):
    """The nearest whole number, of two the even one."""

    kind = "round"
    _function = np.rint


@register
class Sign(_Steps):
    """-1, 0 or 1."""

    kind = "sign"
    _function = np.sign
