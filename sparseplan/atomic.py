"""Files written whole or not at all: to a temporary file beside the target, then renamed over it.

A reader thus never sees half a file, and a failure leaves the old file as it was.
"""

from __future__ import annotations

import os
import secrets
import stat
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from sparseplan.errors import DataError, OutputError

PathLike = str | os.PathLike[str]


@contextmanager
def replacing(path: PathLike) -> Iterator[Path]:
    """A temporary path beside ``path``, of the same suffix; renamed over ``path`` on success.

    For writers that want a file name (figures). On any exception the temporary file is removed and
    ``path`` is left as it was. A symbolic link is followed; a device or pipe is not renamed over.

    Raises:
        OutputError: ``path`` cannot be written; names it, the reason, and what to do.
    """
    target = _target(path)
    # beside the target, as a rename cannot cross file systems
    folder = Path(tempfile.gettempdir()) if _special(target) else target.parent
    temporary = folder / f".{target.stem[:80]}.{secrets.token_hex(6)}{target.suffix[:80]}"
    try:
        mode = _create(temporary, target)
    except OSError as error:
        raise _cannot(path, error) from None
    try:
        try:
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            if mode is not None:
                temporary.chmod(mode)
            _move(temporary, target)
        except OSError as error:
            raise _cannot(path, error) from None
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_bytes(path: PathLike, data: bytes) -> None:
    """Write ``data`` whole or not at all.

    Raises:
        OutputError: the file cannot be written.
    """
    _write(path, lambda file: file.write(data))


def write_text(path: PathLike, text: str) -> None:
    """Write ``text`` as UTF-8, whole or not at all, with line ends as given.

    Raises:
        OutputError: the file cannot be written.
    """
    write_bytes(path, text.encode("utf-8"))


def write_npz(path: PathLike, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write arrays as a compressed ``.npz``, whole or not at all; nothing is ever pickled.

    Same arrays, same bytes: no times are stored. ``path`` is taken as it is, no suffix is added.

    Raises:
        OutputError: the file cannot be written.
        DataError: an array's dtype is not one that every reader of npz knows.
    """
    for name, array in arrays.items():
        if array.dtype.kind not in "biufc":
            raise DataError(
                f"array {name!r}: dtype={array.dtype} cannot be stored in an npz; convert it to float32 or an integer"
            )

    def write(file: IO[bytes]) -> None:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, array in arrays.items():
                # a bare ZipInfo is dated 1980, so that the bytes do not depend on the clock
                entry = zipfile.ZipInfo(f"{name}.npy")
                entry.compress_type = zipfile.ZIP_DEFLATED
                with archive.open(entry, "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)

    _write(path, write)


def check_writable(path: PathLike) -> None:
    """Fail now rather than after an hour's work: check that ``path`` could be written.

    Raises:
        OutputError: it could not.
    """
    target = _target(path)
    probe = target.with_name(f".{target.stem[:80]}.{secrets.token_hex(6)}")
    try:
        if not _special(target):
            _create(probe, target)
    except OSError as error:
        raise _cannot(path, error) from None
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)


def _write(path: PathLike, write: Callable[[IO[bytes]], object]) -> None:
    with replacing(path) as temporary, temporary.open("wb") as file:
        write(file)


def _target(path: PathLike) -> Path:
    """Where the bytes are to go, links followed; raises OutputError for what is no file name."""
    text = os.fspath(path)
    try:
        # characters that no file name can hold
        valid = bool(text) and b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        valid = False
    if not valid:
        raise OutputError(f"path={text!r} is not a file name; give one")
    target = Path(os.path.realpath(text))
    if text.endswith(os.sep) or os.path.isdir(target):
        raise OutputError(f"cannot write {text!r}: it is a folder; name a file in it")
    return target


def _special(target: Path) -> bool:
    """Whether the target is a device or pipe, which is written to and not replaced."""
    try:
        return not stat.S_ISREG(target.stat().st_mode)
    except OSError:
        return False


def _create(temporary: Path, target: Path) -> int | None:
    """Make the temporary file; the mode of the target where that exists and may be written."""
    mode: int | None = None
    if target.exists():
        if not os.access(target, os.W_OK):
            raise PermissionError(13, "Permission denied")
        mode = stat.S_IMODE(target.stat().st_mode)
    # created with the mode that the umask gives, unlike tempfile's private one
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    return mode


def _move(temporary: Path, target: Path) -> None:
    if _special(target):
        with target.open("wb") as file:
            file.write(temporary.read_bytes())
    else:
        temporary.replace(target)


def _cannot(path: PathLike, error: OSError) -> OutputError:
    reason = error.strerror or str(error)
    return OutputError(f"cannot write {os.fspath(path)!r}: {reason}; name a file in a folder that exists and is yours")
