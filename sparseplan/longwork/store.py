"""Jobs, and the folder that keeps what they found."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from sparseplan.atomic import check_writable, write_text
from sparseplan.errors import DataError, OutputError
from sparseplan.jsonio import Node, dump, load
from sparseplan.longwork.digests import decoded, digest, encoded, plain

#: version of a stored run's format
FORMAT = 1

Result = Mapping[str, Any]


class Recipe(Protocol):
    """The small part of a job: what to do with the large part, which many jobs share."""

    @property
    def about(self) -> Mapping[str, Any]:
        """All that determines the result, besides the shared part; plain data."""
        ...

    def run(self, shared: Any) -> Result:
        """The result, plain data; the same wherever and whenever it is computed."""
        ...

    def check(self, shared: Any, result: Node) -> None:
        """Fail (as ``Node`` does) unless a stored result is one that this could have found."""
        ...


class Job(Protocol):
    """One unit of work."""

    @property
    def key(self) -> str:
        """SHA-256, in hexadecimal, of all that determines the result."""
        ...

    @property
    def about(self) -> Mapping[str, Any]:
        """All that determines the result, as plain data that people can read; the key is its digest."""
        ...

    @property
    def shared(self) -> Any:
        """The large part of the input, one object for many jobs: shipped once to each worker."""
        ...

    @property
    def recipe(self) -> Recipe:
        """The small part."""
        ...


class Store:
    """A folder with one JSON file for each finished run, named by the run's key.

    Files are written whole or not at all, so that nothing half-written is ever read; temporary
    files that a kill leaves behind are not read. Nothing is pickled, and nothing that is read is
    believed: a file must be named by the digest of what it says it is, and carry that of its result.

    Raises:
        OutputError: a path that is no folder, or cannot be written to.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        text = os.fspath(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise OutputError(f"store={text!r} is a file; name a folder for finished runs") from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise OutputError(f"store={text!r} cannot be made: {reason}; name a folder that is yours") from None
        try:
            check_writable(self.folder / "run.json")
        except OutputError:
            raise OutputError(f"store={text!r} cannot be written to; name a folder that is yours") from None

    def path(self, key: str) -> Path:
        """Where the run of a key is, or will be."""
        return self.folder / f"{key}.json"

    def get(self, job: Job) -> Result | None:
        """The stored result of a job, or None.

        Raises:
            DataError: the file is not what this class writes for that job.
        """
        path = self.path(job.key)
        if not path.exists():
            return None
        try:
            root = Node(load(path, "stored run", DataError), f"stored run {os.fspath(path)!r}", DataError)
            root.record(("sparseplan_run", "key", "about", "result", "result_sha256"))
            root["sparseplan_run"].integer(FORMAT, FORMAT)
            if root["key"].text() != job.key or digest(root["about"].value) != job.key:
                root["key"].fail("is not the digest of what the file is about")
            if root["result_sha256"].text() != digest(root["result"].value):
                root["result_sha256"].fail("is not the digest of the result: it was changed by hand or is damaged")
            job.recipe.check(job.shared, root["result"])
        except RecursionError:
            raise DataError(
                f"stored run {os.fspath(path)!r} is nested too deeply; delete the file to have that run computed again"
            ) from None
        except DataError as error:
            raise DataError(f"{error}; delete the file to have that run computed again") from None
        result: Result = decoded(root["result"].value)
        return result

    def put(self, job: Job, result: Result) -> None:
        """Store a result, at once and whole."""
        coded = encoded(result)
        write_text(
            self.path(job.key),
            dump({
                "sparseplan_run": FORMAT, "key": job.key, "about": plain(job.about),
                "result": coded, "result_sha256": digest(coded),
            }),
        )  # fmt: skip
