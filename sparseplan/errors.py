"""Errors that a user can act on: each names the culprit, its value, and what to do next."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SparseplanError(ValueError):
    """Base of every error raised on bad input; commands print it and exit with 2."""


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


class MissingExtraError(SparseplanError):
    """An optional dependency is needed and absent."""


class InternalError(RuntimeError):
    """A promise of the planner was broken: a bug in sparseplan, never the user's fault."""


def near(name: str, known: Iterable[str]) -> str:
    """Suffix for 'unknown NAME' messages: the near matches, else the known names."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if close:
        return "; did you mean " + " or ".join(repr(c) for c in close) + "?"
    if not names:
        return "; none are known"
    shown = ", ".join(names[:12]) + (", …" if len(names) > 12 else "")
    return f"; known: {shown}"
