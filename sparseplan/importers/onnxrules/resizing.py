"""Resize and Upsample."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from sparseplan.importers.draft import Draft, Made, Shape
from sparseplan.importers.onnxcall import Call, Held, Malformed, Rule, Unsupported
from sparseplan.importers.resampling import COORDINATES, ROUNDINGS, blended, bounded, taken
from sparseplan.network import Attr

_MODES = {"nearest": "nearest", "linear": "linear", "bilinear": "linear", "cubic": "cubic"}
_F = np.float32


def _numbers(call: Call, i: int, count: int) -> list[float]:
    array = call.array(i)
    if array.shape != (count,) or array.dtype.kind not in "fiu":
        raise Malformed(f"input {i} has shape {array.shape}; expected {count} numbers")
    found = [float(n) for n in array]
    if any(not math.isfinite(n) or n <= 0 for n in found):
        raise Malformed(f"input {i} holds {found[:8]}; expected numbers above 0")
    return found


def _target(call: Call, shape: Shape) -> tuple[Shape, list[float] | None]:
    """The shape to make, and the scales where these are given."""
    axes = call.ints("axes")
    at = list(range(len(shape))) if axes is None else [a % len(shape) for a in axes if -len(shape) <= a < len(shape)]
    if len(set(at)) != len(axes or at):
        raise Malformed(f"axes={axes} do not fit shape {shape}")
    old = call.node.op == "Upsample" or call.opset < 11
    if old and "scales" in call.node.attrs:
        raise Unsupported("scales as an attribute, of opset 7")
    place = 1 if old else 2
    if call.has(place) and call.array(place).size:
        scales = [1.0] * len(shape)
        for axis, scale in zip(at, _numbers(call, place, len(at)), strict=True):
            scales[axis] = scale
        # as ONNX Runtime: a product in single precision
        return tuple(math.floor(_F(n) * _F(s)) for n, s in zip(shape, scales, strict=True)), scales
    if not call.has(3):
        raise Malformed("neither scales nor sizes are given")
    if call.text("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise Unsupported("keep_aspect_ratio_policy")
    sizes = list(shape)
    for axis, size in zip(at, _numbers(call, 3, len(at)), strict=True):
        sizes[axis] = int(size)
    return tuple(sizes), None


def nearest(extent: int, size: int, scale: float, coordinates: str, rounding: str) -> list[int]:
    """Which input every output of an axis takes, in the single precision in which ONNX Runtime reckons."""
    at, ratio, half = np.arange(size, dtype=_F), _F(scale), _F(0.5)
    if coordinates == "asymmetric":
        at = at / ratio
    elif coordinates == "align_corners":
        at = at * _F(extent - 1) / _F(size - 1) if size > 1 else np.zeros(1, _F)
    elif coordinates == "tf_half_pixel_for_nn":
        at = (at + half) / ratio
    elif coordinates == "pytorch_half_pixel" and size == 1:
        at = np.zeros(1, _F)
    elif coordinates == "half_pixel_symmetric":
        centre, adjusted = _F(extent) / _F(2), _F(size) / (ratio * _F(extent))
        at = centre * (_F(1) - adjusted) + ((at + half) / ratio - half)
    else:
        at = (at + half) / ratio - half
    if rounding == "simple":  # of opsets before 11
        rounding = "ceil" if scale < 1 else "floor"
    whole = np.trunc(at)
    if rounding == "floor":
        index = np.floor(at)
    elif rounding == "ceil":
        index = np.ceil(at)
    else:  # halves are rounded away from 0
        index = np.trunc(at + np.copysign(half, at))
        index = np.where(at == whole + half, whole, index) if rounding == "round_prefer_floor" else index
    return [int(i) for i in np.clip(index, 0, extent - 1)]


def _resize(call: Call) -> Held:
    x = call.made(0)
    size, scales = _target(call, x.shape)
    if any(n < 1 for n in size):
        raise Malformed(f"shape {x.shape} would become {size}")
    mode = _MODES.get(call.text("mode", "nearest"))
    if mode is None:
        raise Malformed(f"mode={call.text('mode', '')!r} must be nearest, linear or cubic")
    old = call.node.op == "Upsample" or call.opset < 11
    coordinates = "asymmetric" if old else call.text("coordinate_transformation_mode", "half_pixel")
    rounding = "simple" if old else call.text("nearest_mode", "round_prefer_floor")
    if coordinates == "tf_crop_and_resize":
        raise Unsupported(f"coordinate_transformation_mode={coordinates!r}")
    if size == x.shape:  # ONNX Runtime copies, whatever the scales
        return x
    work = [i for i, n in enumerate(x.shape) if n != size[i] or (scales is not None and scales[i] != 1)]
    if mode == "nearest":
        return _nearest(call.draft, x, size, scales, work, coordinates, rounding)
    ratios = scales or [a / b for a, b in zip(size, x.shape, strict=True)]
    if coordinates == "half_pixel_symmetric" and all(ratios[i] * x.shape[i] == size[i] for i in work):
        coordinates = "half_pixel"  # nothing was rounded, so that the centres agree
    if coordinates not in COORDINATES:
        raise Unsupported(f"coordinate_transformation_mode={coordinates!r}")
    if mode == "cubic":
        call.refuse("exclude_outside")
    if any(a < b for a, b in zip(size, x.shape, strict=True)):
        call.refuse("antialias")
    attrs: dict[str, Attr] = {"mode": mode, "coordinates": coordinates}
    if mode == "cubic":
        attrs["cubic_a"] = call.number("cubic_coeff_a", -0.75)
    return blended(call.draft, x, size, scales, work, attrs)


def _nearest(
    draft: Draft, x: Made, size: Shape, scales: list[float] | None, work: Sequence[int], coordinates: str, rounding: str
) -> Made:
    if coordinates not in (*COORDINATES, "half_pixel_symmetric", "tf_half_pixel_for_nn"):
        raise Unsupported(f"coordinate_transformation_mode={coordinates!r}")
    if rounding not in (*ROUNDINGS, "simple"):
        raise Malformed(f"nearest_mode={rounding!r} must be one of {', '.join(ROUNDINGS)}")
    bounded([size[i] for i in work])
    ratios = [float(_F(b) / _F(a)) for a, b in zip(x.shape, size, strict=True)] if scales is None else scales
    rows = {i: nearest(x.shape[i], size[i], ratios[i], coordinates, rounding) for i in work}
    return taken(draft, x, rows, scales)


RULES: dict[str, Rule] = {"Resize": _resize, "Upsample": _resize}
