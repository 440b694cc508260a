"""Tensors of ONNX files as arrays: dims, bytes and places are checked before anything is allocated."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from sparseplan.errors import NetworkError
from sparseplan.importers.draft import Array

#: element types by ONNX's number; two elements of those in ``_PACKED`` share a byte
DTYPES: dict[int, np.dtype[Any]] = {
    1: np.dtype(np.float32),
    2: np.dtype(np.uint8),
    3: np.dtype(np.int8),
    4: np.dtype(np.uint16),
    5: np.dtype(np.int16),
    6: np.dtype(np.int32),
    7: np.dtype(np.int64),
    9: np.dtype(np.bool_),
    10: np.dtype(np.float16),
    11: np.dtype(np.float64),
    12: np.dtype(np.uint32),
    13: np.dtype(np.uint64),
    16: np.dtype(ml_dtypes.bfloat16),
    21: np.dtype(np.uint8),
    22: np.dtype(np.int8),
}
_PACKED = {21: 0x0F, 22: 0x0F}

#: the field in which a type's elements are listed where they are not given as raw bytes
_FIELDS = {1: "float_data", 11: "double_data", 7: "int64_data", 12: "uint64_data", 13: "uint64_data"}

_LISTED: dict[str, Any] = {"float_data": np.float32, "double_data": np.float64, "uint64_data": np.uint64}

#: more axes than these are taken for hostile
MAX_AXES = 32
MAX_ELEMENTS = 2**40


#: external data of one model are at most these bytes, however often they are named
MAX_EXTERNAL = 2**30


@dataclass(slots=True)
class Folder:
    """Where a model's external data may lie: in its own folder, and nowhere else.

    Attributes:
        left: bytes that may still be read.
    """

    root: Path
    left: int = MAX_EXTERNAL

    def place(self, location: str) -> Path:
        """The regular file of a location. Raises NetworkError where it leads elsewhere."""
        say = f"external data at location={location[:200]!r}"
        parts = location.replace("\\", "/").split("/")
        if not location or "\0" in location or not location.isprintable():
            raise NetworkError(f"{say}: give the name of a file in the model's folder")
        if os.path.isabs(location) or location[:1] in "/\\" or ".." in parts or ":" in parts[0]:
            raise NetworkError(f"{say} lie outside the model's folder; put them beside the model")
        root = self.root.resolve()
        try:
            path = (root / location).resolve(strict=True)
        except (OSError, RuntimeError) as error:
            raise NetworkError(f"{say} cannot be read: {_reason(error)}") from None
        if not path.is_relative_to(root):
            raise NetworkError(f"{say} lead out of the model's folder by a link; put them beside the model")
        if not path.is_file():
            raise NetworkError(f"{say} are no regular file")
        return path


def _reason(error: Exception) -> str:
    return error.strerror or "unreadable" if isinstance(error, OSError) else "links in a circle"


def text_of(raw: str | bytes) -> str:
    """A string of the file; protobuf gives bytes where it is no UTF-8."""
    return raw if isinstance(raw, str) else raw.decode("utf-8", "replace")


def dtype_of(number: int, where: str) -> np.dtype[Any]:
    """NumPy's type of an ONNX element type. Raises NetworkError."""
    if number not in DTYPES:
        raise NetworkError(f"{where}: element type {number}{_TYPE_NAMES.get(number, '')} cannot be read; use numbers")
    return DTYPES[number]


_TYPE_NAMES = {0: " (undefined)", 8: " (strings)", 14: " (complex64)", 15: " (complex128)"}


def dims_of(dims: Any, where: str) -> tuple[int, ...]:
    """Extents of a tensor, checked. Raises NetworkError."""
    if len(dims) > MAX_AXES:
        raise NetworkError(f"{where}: {len(dims)} axes; at most {MAX_AXES} are read")
    shape = tuple(int(n) for n in dims)
    if any(n < 0 for n in shape):
        raise NetworkError(f"{where}: dims={list(shape)} has a negative extent")
    if math.prod(shape) > MAX_ELEMENTS:
        raise NetworkError(f"{where}: dims={list(shape)} has over 2**40 elements")
    return shape


def array_of(tensor: Any, folder: Folder, where: str) -> Array:
    """A TensorProto as an array that may be read-only. Raises NetworkError."""
    dtype, shape = dtype_of(tensor.data_type, where), dims_of(tensor.dims, where)
    count = math.prod(shape)
    packed = tensor.data_type in _PACKED
    size = (count + 1) // 2 if packed else count * dtype.itemsize
    if tensor.HasField("segment"):
        raise NetworkError(f"{where}: is stored in segments, which are not read; save the model anew")
    if tensor.data_location == 1:
        raw = _external(tensor, folder, size, where)
    elif tensor.HasField("raw_data"):
        if len(tensor.raw_data) != size:
            raise NetworkError(
                f"{where}: dims={list(shape)} of {dtype} take {size} bytes, but {len(tensor.raw_data)} are there"
            )
        raw = tensor.raw_data
    else:
        return _listed(tensor, dtype, shape, where)
    if packed:
        return _unpacked(np.frombuffer(raw, np.uint8), count, tensor.data_type == 22).reshape(shape)
    return (
        np.frombuffer(raw, dtype.newbyteorder("<") if dtype.kind in "iuf" else dtype)
        .astype(dtype, copy=False)
        .reshape(shape)
    )


def _unpacked(raw: Array, count: int, signed: bool) -> Array:
    halves = np.stack([raw & 0x0F, raw >> 4], axis=-1).reshape(-1)[:count]
    if not signed:
        return halves
    return (halves.astype(np.int8) ^ 8) - 8


def _listed(tensor: Any, dtype: np.dtype[Any], shape: tuple[int, ...], where: str) -> Array:
    field = getattr(tensor, _FIELDS.get(tensor.data_type, "int32_data"))
    count = math.prod(shape)
    packed = tensor.data_type in _PACKED
    wanted = (count + 1) // 2 if packed else count
    if len(field) != wanted:
        raise NetworkError(f"{where}: dims={list(shape)} hold {count} elements, but {len(field)} are listed")
    numbers = np.array(field, _LISTED.get(_FIELDS.get(tensor.data_type, ""), np.int64))
    if packed:
        return _unpacked((numbers & 0xFF).astype(np.uint8), count, tensor.data_type == 22).reshape(shape)
    if tensor.data_type in (10, 16):  # bit patterns of 16 bits
        return (numbers & 0xFFFF).astype(np.uint16).view(dtype).reshape(shape)
    return numbers.astype(dtype).reshape(shape)


def _external(tensor: Any, folder: Folder, size: int, where: str) -> bytes:
    entries: dict[str, str] = {}
    for entry in tensor.external_data:
        key = text_of(entry.key)
        if key in entries:
            raise NetworkError(f"{where}: external data give {key[:40]!r} twice")
        entries[key] = text_of(entry.value)
    if "location" not in entries:
        raise NetworkError(f"{where}: external data without a location")
    try:
        path = folder.place(entries["location"])
    except NetworkError as error:
        raise NetworkError(f"{where}: {error}") from None
    offset, length = _whole(entries, "offset", 0, where), _whole(entries, "length", size, where)
    if length != size:
        raise NetworkError(f"{where}: external data of length={length}, but its dims take {size} bytes")
    try:
        with path.open("rb") as file:
            there = os.fstat(file.fileno()).st_size
            if offset + size > there:
                raise NetworkError(
                    f"{where}: external data at offset={offset} of length={size} reach beyond "
                    f"the {there} bytes of {path.name!r}"
                )
            if size > folder.left:
                raise NetworkError(f"{where}: external data of over {MAX_EXTERNAL} bytes; no such network is small")
            folder.left -= size
            file.seek(offset)
            raw = file.read(size)
    except OSError as error:
        raise NetworkError(f"{where}: external data in {path.name!r} cannot be read: {_reason(error)}") from None
    if len(raw) != size:
        raise NetworkError(f"{where}: external data in {path.name!r} end early")
    return raw


def _whole(entries: dict[str, str], key: str, default: int, where: str) -> int:
    text = entries.get(key)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise NetworkError(f"{where}: external data {key}={text[:40]!r} must be a whole number")
    return int(text)
