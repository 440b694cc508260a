"""Strict JSON: read what may be hostile, check it field by field, write it the same way each time.

``load`` refuses what JSON parsers usually let through (duplicate keys, NaN, integers without
bound, nesting without bound). ``Node`` walks the result and names the path of whatever is wrong,
say ``ops[3].attrs.stride=-1``.
"""

from __future__ import annotations

import json
import math
import os
import reprlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from sparseplan.errors import SparseplanError, near

#: bytes of a file; networks and plans of microcontrollers stay far below
MAX_BYTES = 16 * 2**20
#: beyond what a double holds exactly, integers differ between JSON readers
MAX_INT = 2**53
#: characters of a string
MAX_TEXT = 4096


class _Refused(Exception):
    """Why a text is refused, from within a parser's hook."""


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _Refused(f"key {show(key)} appears twice in one object; keep one")
            seen.add(key)
    return table


def _integer(text: str) -> int:
    # int() takes quadratic time, so look at the length first
    if len(text) > 20 or abs(int(text)) > MAX_INT:
        raise _Refused(f"number {text[:24]}… is out of range; integers go to 2**53")
    return int(text)


def _float(text: str) -> float:
    value = float(text) if len(text) <= 400 else math.inf
    if not math.isfinite(value):
        raise _Refused(f"number {text[:24]}… is out of range; numbers must be finite")
    return value


def _constant(text: str) -> NoReturn:
    raise _Refused(f"{text} is not JSON; numbers must be finite")


def parse(data: bytes, what: str, error: type[SparseplanError]) -> Any:
    """The JSON value in ``data`` (UTF-8); ``what`` names the source in messages.

    Raises:
        error: not UTF-8, not JSON, over 16 MiB, a duplicate key, a number that is not finite or an
            integer beyond 2**53, nesting too deep.
    """
    if len(data) > MAX_BYTES:
        raise error(f"{what} is longer than {MAX_BYTES:,} bytes; such a file is not what it claims to be")
    try:
        return json.loads(
            data.decode("utf-8-sig"),
            object_pairs_hook=_no_duplicates,
            parse_int=_integer,
            parse_float=_float,
            parse_constant=_constant,
        )
    except _Refused as refused:
        raise error(f"{what}: {refused}") from None
    except UnicodeDecodeError as bad:
        raise error(f"{what} is not UTF-8 text (byte {bad.start}); save it as UTF-8") from None
    except json.JSONDecodeError as bad:
        raise error(f"{what} is not JSON: {bad.msg} at line {bad.lineno}, column {bad.colno}") from None
    except RecursionError:
        raise error(f"{what} is nested too deeply; such a file is not what it claims to be") from None


def load(path: str | os.PathLike[str], what: str, error: type[SparseplanError]) -> Any:
    """The JSON value in a file; ``what`` says what the file should be (``network spec``).

    Raises:
        error: the file cannot be read, or see ``parse``.
    """
    where = f"{what} {os.fspath(path)!r}"
    try:
        with Path(path).open("rb") as file:
            # one byte more than allowed tells "too long" without reading an endless device
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as bad:
        raise error(f"{where} cannot be read: {getattr(bad, 'strerror', None) or bad}; check the path") from None
    return parse(data, where, error)


def dump(value: Any) -> str:
    """JSON text of plain data, keys in the order given, a line end at the end.

    Lists of plain values stay on one line, so that files read well and diff well.
    """
    return _dump(value, "") + "\n"


def _dump(value: Any, indent: str) -> str:
    deeper = indent + "  "
    if isinstance(value, dict) and value:
        rows = (f"{deeper}{json.dumps(str(k), ensure_ascii=False)}: {_dump(v, deeper)}" for k, v in value.items())
        return "{\n" + ",\n".join(rows) + f"\n{indent}}}"
    if isinstance(value, (list, tuple)) and any(isinstance(v, (dict, list, tuple)) for v in value):
        return "[\n" + ",\n".join(deeper + _dump(v, deeper) for v in value) + f"\n{indent}]"
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def show(value: object) -> str:
    """``value`` as messages echo it: short whatever its size, on one line."""
    return _SHORT.repr(value)


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80
_SHORT.maxlevel = 3


@dataclass(frozen=True, slots=True)
class Node:
    """A JSON value and where it stands; every check names ``path=value`` on failure.

    Attributes:
        value: plain data, as ``load`` gives it.
        path: ``""`` at the root, then ``ops[3].attrs.stride``.
        source: what the messages begin with.
        error: the class of what is raised.
    """

    value: Any
    source: str
    error: type[SparseplanError]
    path: str = ""

    def fail(self, why: str) -> NoReturn:
        """Raise: this value is wrong, and why (and what to do)."""
        culprit = f"{self.path}={show(self.value)}" if self.path else show(self.value)
        raise self.error(f"{self.source}: {culprit} {why}")

    def __getitem__(self, key: str | int) -> Node:
        """A member that is known to exist."""
        step = f"[{key}]" if isinstance(key, int) else f".{key}" if self.path else key
        return Node(self.value[key], self.source, self.error, self.path + step)

    def get(self, key: str) -> Node | None:
        """A member of an object, or None where it is absent or null."""
        return None if self.value.get(key) is None else self[key]

    def record(self, required: Collection[str] = (), optional: Collection[str] = ()) -> Node:
        """Itself, if it is an object with all ``required`` keys and none that is unknown."""
        if not isinstance(self.value, Mapping):
            self.fail("must be an object")
        known = [*required, *optional]
        for key in self.value:
            if key not in known:
                prefix = f"{self.path}: " if self.path else ""
                raise self.error(f"{self.source}: {prefix}key {show(key)} is unknown{near(str(key), known)}")
        for key in required:
            if key not in self.value:
                prefix = f"{self.path}: " if self.path else ""
                raise self.error(f"{self.source}: {prefix}key {key!r} is missing; give it")
        return self

    def members(self, most: int) -> Iterator[tuple[str, Node]]:
        """Members of an object of any keys, at most ``most``."""
        if not isinstance(self.value, Mapping):
            self.fail("must be an object")
        self._limit(most)
        for key in self.value:
            yield key, Node(self.value[key], self.source, self.error, f"{self.path}[{show(key)}]")

    def entries(self, most: int) -> list[Node]:
        """Members of a list, at most ``most``."""
        if not isinstance(self.value, (list, tuple)):
            self.fail("must be a list")
        self._limit(most)
        return [self[i] for i in range(len(self.value))]

    def pair(self) -> list[Node]:
        """Members of a list of two."""
        entries = self.entries(2)
        if len(entries) != 2:
            self.fail("must be a list of two")
        return entries

    def _limit(self, most: int) -> None:
        if len(self.value) > most:
            self.fail(f"has {len(self.value):,} entries; at most {most:,} are taken")

    def text(self) -> str:
        """A string of printable characters."""
        if not isinstance(self.value, str):
            self.fail("must be a string")
        if len(self.value) > MAX_TEXT:
            self.fail(f"is longer than {MAX_TEXT} characters")
        if not self.value.isprintable():
            self.fail("holds characters that do not print; remove them")
        return self.value

    def choice(self, allowed: Collection[str]) -> str:
        """One of some strings."""
        text = self.text()
        if text not in allowed:
            self.fail(f"is unknown{near(text, allowed)}")
        return text

    def integer(self, low: int = 0, high: int = MAX_INT) -> int:
        """An integer in ``[low, high]``; a number with a fraction, or true, is none."""
        if not isinstance(self.value, int) or isinstance(self.value, bool):
            self.fail("must be an integer")
        if not low <= self.value <= high:
            self.fail(f"must be {low:,} or more" if self.value < low else f"must be {high:,} or less")
        return self.value

    def number(self) -> float:
        """A finite number."""
        if not isinstance(self.value, (int, float)) or isinstance(self.value, bool) or not math.isfinite(self.value):
            self.fail("must be a finite number")
        return float(self.value)

    def boolean(self) -> bool:
        """True or false."""
        if not isinstance(self.value, bool):
            self.fail("must be true or false")
        return self.value
