"""Tensors saved in 8 bits: codes 1 to 255 around 128, symmetric about zero, with a scale a channel."""

from __future__ import annotations

import numpy as np

from sparseplan.ops.base import Array

#: the code of zero, and the largest distance from it
ZERO, MOST = 128, 127
#: the largest scale of which ``MOST`` are finite: the largest float32 over ``MOST`` is rounded up
_LARGEST = np.nextafter(np.finfo(np.float32).max / np.float32(MOST), np.float32(0))


def pack(x: Array) -> tuple[Array, Array]:
    """Codes (uint8, the shape of ``x``) and scales (float32, ``(1, channels)``) of ``(batch, channels, …)``.

    Vectors have one scale for all their elements: ``(1, 1)``.
    The largest magnitude of a channel is the code 255 or 1; a channel of zeros has scale 1. What is not
    finite is taken for zero (NaN) or the largest finite magnitude.
    """
    x = np.asarray(x, np.float32)
    grouped = x.reshape(*x.shape[:2], -1) if x.ndim > 2 else x.reshape(1, 1, -1)
    finite = np.where(np.isfinite(grouped), grouped, 0)
    most = np.abs(finite).max(axis=(0, 2), initial=0)
    scales = np.where(most > 0, np.minimum(most / np.float32(MOST), _LARGEST), 1).astype(np.float32)
    scales[scales == 0] = 1  # of subnormal channels
    with np.errstate(invalid="ignore", over="ignore"):
        steps = np.clip(np.rint(grouped / scales[:, None]), -MOST, MOST)
    codes = (np.nan_to_num(steps, nan=0.0) + ZERO).astype(np.uint8)
    return codes.reshape(x.shape), scales.reshape(1, -1)


def unpack(codes: Array, scales: Array) -> Array:
    """What codes and scales stand for: float32, of the shape of ``codes``."""
    grouped = codes.reshape(*codes.shape[:2], -1) if codes.ndim > 2 else codes.reshape(1, 1, -1)
    values = (grouped.astype(np.float32) - ZERO) * scales.reshape(-1)[:, None]
    return values.astype(np.float32).reshape(codes.shape)
