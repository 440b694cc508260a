"""Files written whole or not at all: to a temporary file beside the target, then renamed over it.

A reader thus never sees half a file, and a failure leaves the old file as it was. Files that belong together are
written ``together``: all of them or none. What a process that was killed leaves behind bears its number in its name,
and is removed by the next one that writes in that folder.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import socket
import stat
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from errno import EDQUOT, EFBIG, ENOSPC
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from sparseplan.errors import DataError, OutputError

PathLike = str | os.PathLike[str]
#: what follows the name in that of a temporary file: whose numbers of processes, which of them, and something new
_TEMPORARY = re.compile(r"\..*\.sparseplan-([0-9a-f]{8})-([0-9]{1,10})-[0-9a-f]{12}(\..*)?", re.DOTALL)


class Files:
    """Files that are put in their places together; see ``together``."""

    def __init__(self) -> None:
        #: path as given, where it leads, the temporary file, the mode that it is to have
        self._made: list[tuple[PathLike, Path, Path, int | None]] = []
        self._folders: list[Path] = []

    def folder(self, path: PathLike) -> Path:
        """Make a folder and those above it; what is new of them goes again if anything fails.

        Raises:
            OutputError: it cannot be made.
        """
        text = os.fspath(path)
        if not text:
            raise OutputError("folder='' is empty; name a folder, '.' for the one you are in")
        where = Path(text)
        try:
            missing = [p for p in (where, *where.parents) if not p.exists()]
            for part in reversed(missing):
                part.mkdir(exist_ok=True)
                self._folders.append(part)
            if not where.is_dir():
                raise OutputError(f"cannot make folder {text!r}: it is a file; name a folder")
        except (OSError, ValueError) as error:
            if isinstance(error, OutputError):
                raise
            reason = getattr(error, "strerror", None) or error
            raise OutputError(f"cannot make folder {text!r}: {reason}") from None
        return where

    def temporary(self, path: PathLike) -> Path:
        """An empty file beside ``path``, of the same suffix, to write what ``path`` is to hold.

        Raises:
            OutputError: ``path`` cannot be written; names it, the reason, and what to do.
        """
        target = _target(path)
        try:
            temporary, mode = _create(target)
        except OSError as error:
            raise _cannot(path, error) from None
        self._made.append((path, target, temporary, mode))
        return temporary

    def write(self, path: PathLike, write: Callable[[IO[bytes]], object]) -> None:
        """What ``write`` puts into the file that it is called with, for ``path``.

        Raises:
            OutputError: it cannot be written.
        """
        temporary = self.temporary(path)
        try:
            with temporary.open("wb") as file:
                write(file)
        except OSError as error:
            raise _cannot(path, error) from None

    def text(self, path: PathLike, text: str) -> None:
        """``text`` as UTF-8 for ``path``; raises OutputError."""
        self.write(path, lambda file: file.write(text.encode("utf-8")))

    def npz(self, path: PathLike, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Arrays as of ``write_npz`` for ``path``; raises OutputError or DataError."""
        self.write(path, _npz(arrays))

    def _commit(self) -> None:
        """Rename every file, once all are on the disk; where one cannot be, give the others back."""
        for path, _, temporary, mode in self._made:
            try:
                with temporary.open("rb") as file:
                    os.fsync(file.fileno())
                if mode is not None:
                    temporary.chmod(mode)
            except OSError as error:
                raise _cannot(path, error) from None
        done: list[tuple[Path, Path | None, bool]] = []  # where, what was there, whether anything was
        try:
            for path, target, temporary, _ in self._made:
                old = _kept(target) if len(self._made) > 1 else None
                done.append((target, old, target.exists()))
                try:
                    _move(temporary, target)
                except OSError as error:
                    done.pop()
                    _unlink(old)
                    raise _cannot(path, error) from None
        except BaseException:
            for target, old, was_there in reversed(done):
                with suppress(OSError):
                    if old is not None:
                        old.replace(target)
                    elif not was_there:
                        target.unlink(missing_ok=True)
            raise
        for _, old, _ in done:
            _unlink(old)
        self._folders.clear()

    def _clean(self) -> None:
        for _, _, temporary, _ in self._made:
            _unlink(temporary)
        for folder in reversed(self._folders):
            with suppress(OSError):  # others may have put something there
                folder.rmdir()


@contextmanager
def together() -> Iterator[Files]:
    """Files that are written all or none: they appear in their places when the block ends without an exception.

    Raises:
        OutputError: one of them cannot be written; the places of all are as they were then.
    """
    files = Files()
    try:
        yield files
        files._commit()
    finally:
        files._clean()


@contextmanager
def replacing(path: PathLike) -> Iterator[Path]:
    """A temporary path beside ``path``, of the same suffix; renamed over ``path`` on success.

    For writers that want a file name (figures). On any exception the temporary file is removed and
    ``path`` is left as it was. A symbolic link is followed; a device or pipe is not renamed over.

    Raises:
        OutputError: ``path`` cannot be written; names it, the reason, and what to do.
    """
    with together() as files:
        temporary = files.temporary(path)
        try:
            yield temporary
        except OSError as error:
            raise _cannot(path, error) from None


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
    _write(path, _npz(arrays))


def _npz(arrays: Mapping[str, npt.NDArray[Any]]) -> Callable[[IO[bytes]], None]:
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

    return write


def check_writable(path: PathLike) -> None:
    """Fail now rather than after an hour's work: check that ``path`` could be written.

    Raises:
        OutputError: it could not.
    """
    target = _target(path)
    probe: Path | None = None
    try:
        if not _special(target):
            probe, _ = _create(target)
    except OSError as error:
        raise _cannot(path, error) from None
    finally:
        _unlink(probe)


def _write(path: PathLike, write: Callable[[IO[bytes]], object]) -> None:
    with together() as files:
        files.write(path, write)


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


def _create(target: Path) -> tuple[Path, int | None]:
    """Make a temporary file; also the mode of the target where that exists and may be written."""
    mode: int | None = None
    if target.exists():
        if not os.access(target, os.W_OK):
            raise PermissionError(13, "Permission denied")
        mode = stat.S_IMODE(target.stat().st_mode)
    # beside the target, as a rename cannot cross file systems
    folder = Path(tempfile.gettempdir()) if _special(target) else target.parent
    _sweep(folder, os.getpid())
    temporary = _beside(folder / target.name)
    # created with the mode that the umask gives, unlike tempfile's private one
    opened = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        os.close(opened)
    except OSError:
        _unlink(temporary)
        raise
    return temporary, mode


def _beside(target: Path) -> Path:
    mark = f"sparseplan-{_here()}-{os.getpid()}-{secrets.token_hex(6)}"
    return target.with_name(f".{target.stem[:80]}.{mark}{target.suffix[:80]}")


def _kept(target: Path) -> Path | None:
    """Another name of what is at the target, to give it back; None where there is nothing, or no such names."""
    if not target.exists() or _special(target):
        return None
    old = _beside(target)
    try:
        os.link(target, old)
    except OSError:
        return None
    return old


@lru_cache(maxsize=1)
def _here() -> str:
    """Names the machine, and on Linux the name space, whose numbers of processes can be told alive or gone."""
    space = ""
    with suppress(OSError):
        space = os.readlink("/proc/self/ns/pid")
    return hashlib.sha256(f"{socket.gethostname()} {space}".encode("utf-8", "replace")).hexdigest()[:8]


@lru_cache(maxsize=256)
def _sweep(folder: Path, pid: int) -> None:
    """Remove what processes that are gone have left in a folder; once for each of them that this one writes in."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            found = _TEMPORARY.fullmatch(entry.name)
            if found and found[1] == _here() and int(found[2]) != pid and not alive(int(found[2])):
                _unlink(Path(entry.path))


def alive(pid: int) -> bool:
    """Whether a process of this machine is still there."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # of another user, or a number that none has
        return True
    return True


def _unlink(path: Path | None) -> None:
    if path is not None:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _move(temporary: Path, target: Path) -> None:
    if _special(target):
        with target.open("wb") as file:
            file.write(temporary.read_bytes())
    else:
        temporary.replace(target)


def _cannot(path: PathLike, error: OSError) -> OutputError:
    reason = error.strerror or str(error)
    todo = "name a file in a folder that exists and is yours"
    if error.errno in (ENOSPC, EDQUOT, EFBIG):
        todo = "make room, or name a file elsewhere; nothing was changed"
    return OutputError(f"cannot write {os.fspath(path)!r}: {reason}; {todo}")
