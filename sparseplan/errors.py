"""Errors that a user can act on: each names the culprit, its value, and what to do next."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar

#: comparing against more names, or longer ones, takes longer than a reader would wait
_MOST_NAMES = 1000
_LONGEST_NAME = 64


class SparseplanError(ValueError):
    """Base of every error raised on bad input; commands print it and exit with ``exit_code``."""

    exit_code: ClassVar[int] = 2


class NetworkError(SparseplanError):
    """A network (or its spec) is malformed."""


class OpError(NetworkError):
    """An op's shapes, attributes or parameters do not fit its definition."""


class DeviceError(SparseplanError):
    """A device description is malformed or lacks a figure that was asked for."""


class ProblemError(SparseplanError):
    """A planning problem is malformed: budgets, patterns, values, options."""


class PlanError(SparseplanError):
    """A plan file is malformed, or a plan does not fit its problem."""


class DataError(SparseplanError):
    """Data or weights from outside are malformed or of the wrong shape."""


class OutputError(SparseplanError):
    """A file cannot be written where it was asked for."""


class ExportError(SparseplanError):
    """A plan holds something that an exporter has no equivalent for."""


class MissingExtraError(SparseplanError):
    """An optional dependency is needed and absent."""


class InternalError(RuntimeError):
    """A promise of the planner was broken: a bug in sparseplan, never the user's fault."""


def near(name: str, known: Iterable[str]) -> str:
    """Suffix for 'unknown NAME' messages: the near matches, else the known names."""
    names = sorted(known)
    close: list[str] = []
    if len(names) <= _MOST_NAMES and len(name) <= _LONGEST_NAME:
        short = [n for n in names if len(n) <= _LONGEST_NAME]
        close = difflib.get_close_matches(name, short, n=3, cutoff=0.5)
    if close:
        return "; did you mean " + " or ".join(repr(c) for c in close) + "?"
    if not names:
        return "; none are known"
    shown = ", ".join(n[:_LONGEST_NAME] for n in names[:12]) + (", …" if len(names) > 12 else "")
    return f"; known: {shown}"
