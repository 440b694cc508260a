"""Resize and Upsample."""

from __future__ import annotations

import math

from sparseplan.importers.draft import Shape
from sparseplan.importers.onnxcall import Call, Held, Malformed, Rule, Unsupported
from sparseplan.network import Attr

_MODES = {"nearest": "nearest", "linear": "linear", "bilinear": "linear", "cubic": "cubic"}
_COORDINATES = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric")


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
        return tuple(math.floor(n * s) for n, s in zip(shape, scales, strict=True)), scales
    if not call.has(3):
        raise Malformed("neither scales nor sizes are given")
    if call.text("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise Unsupported("keep_aspect_ratio_policy")
    sizes = list(shape)
    for axis, size in zip(at, _numbers(call, 3, len(at)), strict=True):
        sizes[axis] = int(size)
    return tuple(sizes), None


def _resize(call: Call) -> Held:
    x = call.made(0)
    shape, scales = _target(call, x.shape)
    if any(n < 1 for n in shape):
        raise Malformed(f"shape {x.shape} would become {shape}")
    mode = _MODES.get(call.text("mode", "nearest"))
    if mode is None:
        raise Malformed(f"mode={call.text('mode', '')!r} must be nearest, linear or cubic")
    old = call.node.op == "Upsample" or call.opset < 11
    coordinates = "asymmetric" if old else call.text("coordinate_transformation_mode", "half_pixel")
    rounding = "floor" if old else call.text("nearest_mode", "round_prefer_floor")
    if shape == x.shape and (scales is None or set(scales) == {1.0}) and coordinates != "tf_crop_and_resize":
        return x
    if coordinates not in _COORDINATES:
        raise Unsupported(f"coordinate_transformation_mode={coordinates!r}")
    if mode == "cubic":
        call.refuse("exclude_outside")
    if mode != "nearest" and any(a < b for a, b in zip(shape, x.shape, strict=True)):
        call.refuse("antialias")
    if x.rank < 3 or x.shape[0] != 1 or shape[:2] != x.shape[:2] or (scales and scales[:2] != [1.0, 1.0]):
        raise Unsupported(
            f"resizing {x.shape} to {shape}; (1, channels, extents …) with one batch and channels kept is known"
        )
    size, spatial = shape[2:], x.rank - 2
    factors = tuple(a // b for a, b in zip(size, x.shape[2:], strict=True))
    plain = size == tuple(n * f for n, f in zip(x.shape[2:], factors, strict=True))
    plain = plain and (scales is None or tuple(scales[2:]) == factors)
    centred = coordinates == "half_pixel" or (coordinates == "pytorch_half_pixel" and 1 not in size)
    repeats = (centred and rounding.startswith("round")) or (coordinates == "asymmetric" and rounding == "floor")
    if plain and spatial == 2 and ((mode == "nearest" and repeats) or (mode == "linear" and centred)):
        made = "nearest" if mode == "nearest" else "bilinear"
        return call.draft.spatial("upsample", x, 2, None, scale=factors, mode=made)
    attrs: dict[str, Attr] = {"size": size, "mode": mode, "coordinates": coordinates}
    if scales is not None:
        attrs["scales"] = ",".join(map(repr, scales[2:]))
    if mode == "nearest":
        attrs["rounding"] = rounding
    if mode == "cubic":
        attrs["cubic_a"] = call.number("cubic_coeff_a", -0.75)
    return call.draft.spatial("resize", x, spatial, None, **attrs)


RULES: dict[str, Rule] = {"Resize": _resize, "Upsample": _resize}
