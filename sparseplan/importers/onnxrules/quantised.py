"""Weights stored in 8 bits: what DequantizeLinear makes of a constant is the parameter, in its storage."""

from __future__ import annotations

import numpy as np

from sparseplan.importers.onnxcall import Call, Held, Malformed, Rule, Unsupported
from sparseplan.importers.values import Array, Known, Shape, axis_of


def _along(values: Array, axis: int, shape: Shape) -> Array:
    """One value a channel, shaped to spread over ``shape``."""
    if values.size == 1:
        return values.reshape(())
    if values.shape != (shape[axis],):
        raise Unsupported(f"scales of shape {values.shape} for a constant of shape {shape}")
    return values.reshape(tuple(-1 if i == axis else 1 for i in range(len(shape))))


def _dequantize(call: Call) -> Held:
    x = call.known(0)
    if x.array.dtype.kind not in "iu" or call.known(1).array.dtype.kind != "f":
        raise Malformed(f"a constant of type {x.array.dtype} with scales of type {call.known(1).array.dtype}")
    call.refuse("block_size")
    scale = call.known(1).array
    zero = call.known(2).array if call.has(2) else np.zeros(1, x.array.dtype)
    axis = axis_of(call.integer("axis", 1), len(x.shape)) if scale.size > 1 or zero.size > 1 else 0
    steps, centre = (_along(v.astype(np.float32), axis, x.shape) for v in (scale, zero))
    values = (x.array.astype(np.float32) - centre) * steps
    plain = x.array.dtype == np.int8 and scale.size == 1 and not zero.any() and float(scale.reshape(())) > 0
    if not plain and x.array.dtype.itemsize == 1:
        call.draft.note(
            "weights in 8 bits with scales by channel, or with zero points, are planned as floats, not as 8 bits"
        )
    return Known(values, x.name, x.layout, float(scale.reshape(())) if plain else None)


def _quantize(call: Call) -> Held:
    """Of a constant, as files that were not folded have it: its codes, which a DequantizeLinear reads."""
    if not isinstance(call.values[0], Known):
        raise Unsupported("it makes codes of activations")
    x = call.known(0)
    scale = call.known(1).array.astype(np.float32)
    zero = call.known(2).array if call.has(2) else np.zeros(1, np.uint8)
    if zero.dtype.kind not in "iu" or zero.dtype.itemsize != 1 or not (scale > 0).all():
        raise Unsupported(f"codes of type {zero.dtype} with scales of at least {scale.min():g}")
    call.refuse("block_size")
    axis = axis_of(call.integer("axis", 1), len(x.shape)) if scale.size > 1 or zero.size > 1 else 0
    steps, centre = (_along(v.astype(np.float32), axis, x.shape) for v in (scale, zero))
    limits = np.iinfo(zero.dtype)
    codes = np.clip(np.rint(x.array.astype(np.float32) / steps) + centre, limits.min, limits.max)
    return Known(codes.astype(zero.dtype), x.name, x.layout)


RULES: dict[str, Rule] = {
    "QuantizeLinear": _quantize,
    "com.microsoft.QuantizeLinear": _quantize,
    "DequantizeLinear": _dequantize,
    "com.microsoft.DequantizeLinear": _dequantize,
}
