"""Arrays as the bytes that memory holds, little-endian: what a plan's execution stores."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from sparseplan.dtypes import numpy_dtype
from sparseplan.errors import ExportError


def encoded(array: npt.NDArray[Any], dtype: str, scale: float | None, what: str) -> bytes:
    """Elements in order, floats rounded to nearest even, int8 as ``clip(round(array / scale), -128, 127)``.

    Raises:
        ExportError: ``int8`` without a scale.
    """
    stored: npt.NDArray[Any] = np.ascontiguousarray(array, np.float32).reshape(-1)
    if dtype == "int8":
        if scale is None:
            raise ExportError(f"{what} is stored in int8 without a scale; give its tensor one")
        stored = np.clip(np.rint(stored / np.float32(scale)), -128, 127)
    with np.errstate(over="ignore"):  # beyond the range of fp16 lies infinity
        stored = stored.astype(numpy_dtype(dtype))
    # every dtype has the width of a little-endian integer
    return stored.view(f"u{stored.itemsize}").astype(f"<u{stored.itemsize}").tobytes()
