"""The faults of the mutation check: one TOML table each, in the file of its area beside this module."""

from __future__ import annotations

import shlex
import tomllib
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PACKAGE = ROOT / "sparseplan"

_FIELDS = {"file", "old", "new", "tests", "index", "equivalent"}


class FaultError(ValueError):
    """A fault that says nothing, or does not apply to the sources as they are."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One snippet of one source, exchanged.

    Attributes:
        id: known by it in tables and results.
        area: the TOML file that lists it.
        file: path within the package, with ``/``.
        old: text that occurs exactly once there, or of whose occurrences ``index`` (from 0) is meant.
        new: what takes its place.
        tests: arguments of pytest: files or node ids, and perhaps ``-k``; the cheapest that ought to catch it.
        equivalent: why no test can tell the fault from what is right; None where one has to.
    """

    id: str
    area: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    index: int | None = None
    equivalent: str | None = None

    def __post_init__(self) -> None:
        if not self.tests or self.old == self.new or not self.old or self.equivalent == "":
            raise FaultError(f"fault {self.id!r}: give tests, and an old and a new text that differ")
        if not any(t.startswith("tests/") for t in self.tests):
            raise FaultError(f"fault {self.id!r}: tests={' '.join(self.tests)!r} names no file under tests/")

    @property
    def test_files(self) -> tuple[str, ...]:
        """Files of the tests that are named."""
        return tuple(t.split("::")[0] for t in self.tests if t.startswith("tests/"))

    def mutated(self, text: str) -> str:
        """The source with the fault in it.

        Raises:
            FaultError: the snippet does not occur as often as the fault says.
        """
        found = text.count(self.old)
        if self.index is None and found != 1:
            raise FaultError(f"fault {self.id!r}: its snippet occurs {found} times in sparseplan/{self.file}, not once")
        if self.index is not None and not 0 <= self.index < found:
            raise FaultError(f"fault {self.id!r}: index={self.index}, but {found} occurrences in {self.file}")
        at = -1
        for _ in range((self.index or 0) + 1):
            at = text.index(self.old, at + 1)
        return text[:at] + self.new + text[at + len(self.old) :]


def read(path: Path) -> list[Fault]:
    """The faults of one area."""
    found = []
    for name, table in tomllib.loads(path.read_text(encoding="utf-8")).items():
        unknown = sorted(set(table) - _FIELDS)
        if unknown or not {"file", "old", "new", "tests"} <= set(table):
            raise FaultError(f"fault {name!r} of {path.name}: unknown {unknown} or without file, old, new, tests")
        fields = {**table, "tests": tuple(shlex.split(table["tests"]))}
        found.append(Fault(name, path.stem, **fields))
    return found


def every() -> list[Fault]:
    """All faults, by area and then as listed.

    Raises:
        FaultError: two of one id.
    """
    found = [fault for path in sorted(HERE.glob("*.toml")) for fault in read(path)]
    seen: set[str] = set()
    for fault in found:
        if fault.id in seen:
            raise FaultError(f"fault {fault.id!r} is listed twice")
        seen.add(fault.id)
    return found
