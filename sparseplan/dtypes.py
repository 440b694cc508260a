"""Storage types of tensors: their width in bits and their NumPy view."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from sparseplan.errors import ProblemError, near

#: width in bits; ``bit`` is a one-bit mask (eight elements a byte), ``u8`` a pool index,
#: ``i32`` a class label.
BITS: dict[str, int] = {"fp32": 32, "fp16": 16, "bf16": 16, "int8": 8, "u8": 8, "i32": 32, "bit": 1}

#: types that parameters, activations and gradients may be planned and trained in
TRAINABLE = ("fp32", "fp16", "bf16")

_NUMPY: dict[str, np.dtype[Any]] = {
    "fp32": np.dtype(np.float32),
    "fp16": np.dtype(np.float16),
    "bf16": np.dtype(ml_dtypes.bfloat16),
    "int8": np.dtype(np.int8),
    "u8": np.dtype(np.uint8),
    "i32": np.dtype(np.int32),
    "bit": np.dtype(np.uint8),
}


def check_dtype(name: str) -> str:
    """``name`` itself if it is a known storage type; raises ProblemError otherwise."""
    if not isinstance(name, str) or name not in BITS:
        raise ProblemError(f"dtype={name!r} is unknown{near(str(name), BITS)}")
    return name


def bytes_of(elements: int, dtype: str) -> int:
    """Bytes of ``elements`` packed elements."""
    return -(-elements * BITS[dtype] // 8)


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The NumPy dtype whose view of the bytes is the tensor (``bit``: packed uint8)."""
    return _NUMPY[name]
