"""Between the float32 that kernels compute in and the types that values are stored in."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np

from sparseplan.dtypes import numpy_dtype
from sparseplan.errors import PlanError
from sparseplan.ops.base import Array

_BF16 = np.dtype(ml_dtypes.bfloat16)


def encode(array: Array, dtype: str, scale: float | None = None) -> Array:
    """``array`` as the flat elements that memory holds.

    Floats are rounded to nearest even; ``int8`` is ``clip(round(array / scale), -128, 127)``, and 0 for NaN;
    ``bit`` packs eight booleans a byte, the first in the highest bit.

    Raises:
        PlanError: ``int8`` without a scale.
    """
    flat = np.ascontiguousarray(array).reshape(-1)
    if dtype == "bit":
        return np.packbits(flat.astype(bool, copy=False))
    if dtype == "int8":
        if scale is None:
            raise PlanError("an int8 value has no scale; give its tensor one")
        with np.errstate(over="ignore"):
            quanta = np.clip(np.rint(flat / np.float32(scale)), -128, 127)
        return np.where(np.isnan(quanta), 0, quanta).astype(np.int8)
    with np.errstate(over="ignore"):  # beyond the range of fp16 lies infinity
        return flat.astype(numpy_dtype(dtype), copy=False)


def decode(stored: Array, dtype: str, shape: tuple[int, ...], scale: float | None = None) -> Array:
    """What kernels see of stored elements: float32, bool masks, or the integers themselves.

    float32, ``u8`` and ``i32`` come back as views of ``stored``.
    """
    if dtype == "bit":
        return np.unpackbits(stored, count=math.prod(shape)).astype(bool).reshape(shape)
    if dtype == "int8":
        return (stored.astype(np.float32) * np.float32(scale)).reshape(shape)
    if dtype in ("bf16", "fp16"):
        return stored.astype(np.float32).reshape(shape)
    return stored.reshape(shape)


def rounded(array: Array, dtype: str, scale: float | None = None) -> Array:
    """``array`` as it comes back after it was stored as ``dtype``; fp32 is passed through."""
    if dtype in ("fp32", "u8", "i32", "bit"):
        return array
    if dtype == "bf16":
        return array.astype(_BF16).astype(np.float32)
    return decode(encode(array, dtype, scale), dtype, array.shape, scale)
