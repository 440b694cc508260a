"""The kernel files: functions by name, and those that others call."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import resources

from sparseplan.errors import InternalError

_HEADER = "view.h"
#: in the order in which they are written: what is called stands before its callers
_FILES = (
    "core.c", "pointwise.c", "curves.c", "combine.c", "arrange.c", "reduce.c", "linear.c", "conv.c", "pool.c",
    "norm.c", "loss.c", "update.c", "memory.c",
)  # fmt: skip
_DEFINED = re.compile(r"^(?:static [^;={]*?\b(sp_\w+)\(|#define (SP_\w+)|enum )", re.MULTILINE)
_NAMES = re.compile(r"\b(?:sp|SP)_\w+")


@dataclass(frozen=True)
class Piece:
    """A top-level definition with the comment before it, and the names in it."""

    names: tuple[str, ...]
    text: str
    uses: frozenset[str]


@cache
def _pieces() -> tuple[Piece, ...]:
    found = []
    for name in _FILES:
        text = _read(name)
        # definitions are set off by empty lines; the file's own comment comes first
        for block in re.split(r"\n\n(?=\S)", text.strip())[1:]:
            match = _DEFINED.search(block)
            if match is None:
                raise InternalError(f"kernel file {name}: {block[:60]!r} defines nothing")
            if match.group(0).startswith("enum"):
                body = block[block.index("{") : block.index("}")]
                names = [*re.findall(r"\bSP_\w+", body), *re.findall(r"#define (SP_\w+)", block)]
            else:
                names = [n for pair in _DEFINED.findall(block) for n in pair if n]
            found.append(Piece(tuple(names), block, frozenset(_NAMES.findall(block)) - set(names)))
    return tuple(found)


def _read(name: str) -> str:
    folder = resources.files("sparseplan") / "exporters" / "c" / "kernels"
    return (folder / name).read_text(encoding="utf-8")


def types() -> str:
    """The types of views and calls."""
    return _read(_HEADER).strip() + "\n"


def takes_environment(name: str) -> bool:
    """Whether a kernel is given what comes from the caller."""
    piece = next(p for p in _pieces() if name in p.names)
    return re.search(rf"\b{name}\(const sp_args \*a, sp_env \*e\)", piece.text) is not None


def gather(names: Iterable[str]) -> str:
    """The text of kernels and of all that they call, and no more: what is not used would be warned of."""
    by_name = {n: p for p in _pieces() for n in p.names}
    wanted: set[str] = set()
    todo = list(names)
    for name in todo:
        if name not in by_name:
            raise InternalError(f"no kernel file defines {name!r}")
    while todo:
        piece = by_name.get(todo.pop())
        if piece is None or wanted.issuperset(piece.names):
            continue
        wanted.update(piece.names)
        todo += piece.uses
    return "\n\n".join(p.text for p in _pieces() if wanted.issuperset(p.names)) + "\n"
