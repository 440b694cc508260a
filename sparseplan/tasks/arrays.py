"""Single numbers and texts from arrays of files."""

from __future__ import annotations

import math

from sparseplan.errors import DataError
from sparseplan.npzfile import Array


def number(array: Array, what: str) -> float:
    """The one finite number that an array holds.

    Raises:
        DataError: text, several numbers, NaN or infinity.
    """
    if array.dtype.kind not in "fiu" or array.size != 1:
        shown = repr(array.item()) if array.size == 1 else f"{array.dtype} of shape {array.shape}"
        raise DataError(f"{what}={shown[:80]} must be one number")
    value = float(array.reshape(()))
    if not math.isfinite(value):
        raise DataError(f"{what}={value} must be finite")
    return value


def text(array: Array, what: str) -> str:
    """The one text that an array holds; raises DataError."""
    if array.dtype.kind != "U" or array.size != 1:
        raise DataError(f"{what} of dtype={array.dtype} and shape {array.shape} must be one text")
    return str(array.reshape(()))
