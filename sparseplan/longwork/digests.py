"""Digests of whatever determines a result, and plain data that JSON can hold."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from sparseplan.errors import DataError
from sparseplan.jsonio import MAX_INT


def digest(value: Any) -> str:
    """SHA-256, in hexadecimal, of plain data, arrays, and dataclasses or tasks of such.

    Raises:
        DataError: a value of another kind; such a one may give a ``fingerprint()`` of text.
    """
    text = json.dumps(plain(value), ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def plain(value: Any, where: str = "value") -> Any:
    """``value`` as plain data, with arrays as digests of their bytes, dtype and shape."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return value if abs(value) <= MAX_INT else {"integer": str(value)}
    if isinstance(value, np.generic):
        return plain(value.item(), where)
    if isinstance(value, float):
        return encoded(value)
    if isinstance(value, np.ndarray):
        if value.dtype.hasobject:
            raise DataError(f"{where} is an array of Python objects, which has no digest; give numbers")
        little = np.ascontiguousarray(value.astype(value.dtype.newbyteorder("<"), copy=False))
        data = hashlib.sha256(little.view(np.uint8).reshape(-1).data if little.size else b"").hexdigest()
        return {"dtype": value.dtype.name, "shape": list(value.shape), "sha256": data}
    if isinstance(value, Mapping):
        return {str(k): plain(v, f"{where}[{k!r}]") for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v, f"{where}[{i}]") for i, v in enumerate(value)]
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if callable(getattr(value, "fingerprint", None)):
        return {"type": kind, "fingerprint": str(value.fingerprint())}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: plain(getattr(value, f.name), f"{where}.{f.name}") for f in dataclasses.fields(value)}
        return {"type": kind, **fields}
    raise DataError(f"{where} is a {kind}, which has no digest; make it plain data or give it fingerprint() -> str")


def encoded(value: Any) -> Any:
    """Plain data that JSON can hold: numbers that are not finite become text."""
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(value)}
    if isinstance(value, Mapping):
        return {str(k): encoded(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [encoded(v) for v in value]
    return value


def decoded(value: Any) -> Any:
    if isinstance(value, dict):
        if set(value) == {"float"} and value["float"] in ("nan", "inf", "-inf"):
            return float(value["float"])
        return {k: decoded(v) for k, v in value.items()}
    return [decoded(v) for v in value] if isinstance(value, list) else value
