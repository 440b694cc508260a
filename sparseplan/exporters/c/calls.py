"""Calls of kernels, and the tables that they are written to."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import TypeVar

from sparseplan.errors import ExportError
from sparseplan.exporters.c.views import Part, View, Views

T = TypeVar("T", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Call:
    """One kernel call.

    Attributes:
        kernel: name of a function of the kernel files, or ``driver:function`` where a driver takes one.
        ints, floats: what describes the op; each kernel says what it takes.
    """

    kernel: str
    reads: Views
    writes: Views
    ints: tuple[int, ...] = ()
    floats: tuple[float, ...] = ()


@dataclass
class Tables:
    """Views, their parts and numbers, each once."""

    parts: list[tuple[Part, ...]] = field(default_factory=list)
    views: list[View] = field(default_factory=list)
    indices: list[tuple[int, ...]] = field(default_factory=list)
    ints: list[tuple[int, ...]] = field(default_factory=list)
    floats: list[tuple[float, ...]] = field(default_factory=list)
    _at: dict[tuple[str, Hashable], int] = field(default_factory=dict)
    _size: dict[str, int] = field(default_factory=dict)

    def view(self, view: View) -> int:
        """Number of a view."""
        if view.scales is not None:
            self.view(view.scales)
        self.start("parts", self.parts, view.parts)
        key = ("view", view)
        if key not in self._at:
            self._at[key] = len(self.views)
            self.views.append(view)
        if self._at[key] >= 2**16:
            raise ExportError("the plan has more than 65,536 different arguments, which C tables do not number")
        return self._at[key]

    def start(self, name: str, table: list[tuple[T, ...]], entries: tuple[T, ...]) -> int:
        """Index of the first of ``entries`` in a table that is written one after the other."""
        if not entries:
            return 0
        key = (name, entries)
        if key not in self._at:
            self._at[key] = self._size.get(name, 0)
            self._size[name] = self._at[key] + len(entries)
            table.append(entries)
        return self._at[key]

    def call(self, call: Call) -> tuple[int, int, int]:
        """Where a call's views, ints and floats begin."""
        for n in call.ints:
            if not -(2**31) <= n < 2**31:
                raise ExportError(f"kernel {call.kernel!r} would take {n}, which is beyond 32 bits")
        views = tuple(self.view(v) for v in (*call.reads, *call.writes))
        return (
            self.start("indices", self.indices, views),
            self.start("ints", self.ints, call.ints),
            self.start("floats", self.floats, call.floats),
        )
