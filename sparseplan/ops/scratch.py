"""Work arrays of kernels, kept from call to call.

A kernel's columns and partial sums take a few megabytes for less than a millisecond. Memory fresh
from the system costs more than that in page faults, and the C library gives such blocks back at
once. So each thread keeps its own, by name.
"""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np

from sparseplan.ops.base import Array

#: larger arrays are not kept
KEPT_BYTES = 1 << 22

_kept = threading.local()


def scratch(name: str, shape: tuple[int, ...], dtype: Any) -> Array:
    """An uninitialised array, the caller's own until this thread asks for ``name`` again.

    It must not outlive the kernel: results are always new arrays.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size > KEPT_BYTES:
        return np.empty(shape, dtype)
    buffer = getattr(_kept, name, None)
    if buffer is None or buffer.size < size:
        # doubles align float64 views; whole pages' worth at least, so that growth is rare
        buffer = np.empty(max(512, -(-size // 8)), np.float64).view(np.uint8)
        setattr(_kept, name, buffer)
    found: Array = buffer[:size].view(dtype).reshape(shape)
    return found


def zeros(name: str, shape: tuple[int, ...], dtype: Any) -> Array:
    """As ``scratch``, of zeros."""
    found = scratch(name, shape, dtype)
    found.fill(0)
    return found
