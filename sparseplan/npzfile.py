"""Arrays from files of others: sizes are believed only after the header was read, pickles never are.

What a file declares is compared with a cap and with the bytes that are there before any of it is
allocated; so a file of a few bytes cannot ask for all of the memory.
"""

from __future__ import annotations

import lzma
import math
import os
import struct
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from sparseplan.errors import DataError

Array = NDArray[Any]

#: bytes that all arrays of one file may have together
MAX_BYTES = 2**30
#: arrays that an npz may have
MAX_ARRAYS = 256
#: numbers, truth values and text
_KINDS = "fiubU"

_UNREADABLE = (
    OSError, ValueError, EOFError, KeyError, IndexError, NotImplementedError, RuntimeError, OverflowError, TypeError,
    SyntaxError, MemoryError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error,
)  # fmt: skip


def read_npy(path: str | os.PathLike[str], what: str, limit: int = MAX_BYTES) -> Array:
    """The array of an npy file.

    Args:
        what: names the file in messages.

    Raises:
        DataError: no such file, not an npy, truncated, pickled, not of numbers, or larger than ``limit`` bytes.
    """
    try:
        size = Path(path).stat().st_size
        with Path(path).open("rb") as file:
            return _read(file, size, what, limit)
    except DataError:
        raise
    except _UNREADABLE as error:
        raise DataError(f"{what} cannot be read as an npy array: {_reason(error)}") from None


def read_npz(
    path: str | os.PathLike[str], limit: int = MAX_BYTES, what: str = "data", most: int = MAX_ARRAYS
) -> dict[str, Array]:
    """All arrays of an npz file, by name.

    Args:
        what: what the file is, for messages.

    Raises:
        DataError: no such file, not an npz, truncated, pickled, not of numbers or text, more than
            ``most`` arrays, or together more than ``limit`` bytes.
    """
    where = f"{what} {os.fspath(path)!r}"
    arrays: dict[str, Array] = {}
    try:
        with zipfile.ZipFile(Path(path)) as archive:
            entries = archive.infolist()
            if len(entries) > most:
                raise DataError(f"{where} holds {len(entries)} arrays; at most {most} are read")
            total = sum(entry.file_size for entry in entries)
            if total > limit:
                raise DataError(f"{where} unpacks to {total:,} bytes; at most {limit:,} are read")
            for entry in entries:
                name = entry.filename.removesuffix(".npy")
                if name in arrays:
                    raise DataError(f"{where}: array {name!r} is there twice")
                with archive.open(entry) as file:
                    arrays[name] = _read(file, entry.file_size, f"{where}: array {name!r}", limit)
    except DataError:
        raise
    except _UNREADABLE as error:
        raise DataError(f"{where} cannot be read as an npz of plain arrays: {_reason(error)}") from None
    return arrays


def _read(file: IO[bytes], size: int, what: str, limit: int) -> Array:
    """The array at the start of ``file``, which has ``size`` bytes."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    elif version == (2, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(file)
    else:
        raise DataError(f"{what} is of npy version {version[0]}.{version[1]}; save it as 1.0 or 2.0")
    if dtype.hasobject:
        raise DataError(f"{what} holds Python objects, which are never unpickled; save it as plain numbers")
    if dtype.kind not in _KINDS or dtype.fields or dtype.itemsize == 0:
        raise DataError(f"{what} has dtype={dtype}; give numbers")
    if any(n < 0 for n in shape):
        raise DataError(f"{what} declares shape={shape}; lengths cannot be negative")
    wanted = math.prod(shape) * dtype.itemsize
    if wanted > limit:
        raise DataError(f"{what} declares shape={shape}, {wanted:,} bytes; at most {limit:,} are read")
    if wanted > size:
        raise DataError(f"{what} declares shape={shape}, {wanted:,} bytes, but has {size:,}; is it truncated?")
    data = bytearray()
    while len(data) < wanted and (part := file.read(wanted - len(data))):
        data += part
    if len(data) < wanted:
        raise DataError(f"{what} ends after {len(data):,} of {wanted:,} bytes; is it truncated?")
    if file.read(1):  # for an npz, reading to the end also compares the checksum
        raise DataError(f"{what} goes on after its {wanted:,} bytes; is it damaged?")
    flat: Array = np.frombuffer(data, dtype)
    return flat.reshape(shape, order="F" if fortran else "C")


def _reason(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())[:200]
