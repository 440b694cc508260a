"""What is known of a device's speed and energy: rows of tables, each with its source.

A row holds one figure that somebody measured or documented. What no source gives has no row; then
``costs`` says which one is missing, and ``calibrate`` makes rows from measurements. The op, pass
and dtype of a row may be ``*``; the row that names most of (op, pass, dtype), in that order of
weight, is the one that counts.

A pass is named as in ``ops.base`` (``forward``, ``x0`` …, ``weight`` …), or after the kind of a step
that is no pass of an op: ``loss``, ``aux``, ``update``.

========================  ============================================================
table in TOML             one figure
========================  ============================================================
``mac_per_cycle``         multiply-accumulates a cycle of the whole device
``bytes_per_cycle``       bytes that a kernel without MACs reads and writes a cycle
``start_cycles``          cycles that a kernel call takes before it computes
``dma_bytes_per_cycle``   bytes a cycle that are moved from one level to another
``dma_start_cycles``      cycles that a transfer takes before it moves
``power_watts``           watts drawn in a mode: ``active`` or ``idle``
``joules_per_mac``        joules of one multiply-accumulate, by dtype
``joules_per_byte``       joules of moving a byte from one level to another
========================  ============================================================

Two rows of the same figure are equal whatever their sources.

Cycles are cycles of the computing cores (``clock_hz``), for transfers too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from sparseplan.dtypes import BITS
from sparseplan.errors import DeviceError, near
from sparseplan.jsonio import Node
from sparseplan.scalars import plain_fields

LEVELS = ("L1", "L2", "L3", "flash")
MODES = ("active", "idle")


@dataclass(frozen=True, slots=True)
class _Row:
    """A figure of a kernel: by op, pass and dtype."""

    #: name of the table in TOML files
    table: ClassVar[str] = ""
    keys: ClassVar[tuple[str, ...]] = ("op", "pass", "dtype")

    op: str
    pass_: str
    dtype: str
    value: float
    source: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        plain_fields(self)
        for key, text in (("op", self.op), ("pass", self.pass_), ("dtype", self.dtype)):
            if not isinstance(text, str) or not text:
                raise DeviceError(f"{self.table}: {key}={text!r} must be a name or '*'")
        if self.dtype != "*" and self.dtype not in BITS:
            raise DeviceError(f"{self.table}: dtype={self.dtype!r} is unknown{near(self.dtype, BITS)}")
        check_rate(f"{self.table}: value", self.value)
        _check_source(self.table, self.source)

    @property
    def key(self) -> tuple[str, ...]:
        """What tells this row from the others of its table."""
        return (self.op, self.pass_, self.dtype)


class MacRate(_Row):
    """Multiply-accumulates a cycle of the whole device; positive."""

    __slots__ = ()
    table = "mac_per_cycle"


class ByteRate(_Row):
    """Bytes a cycle that a kernel without MACs reads and writes; positive."""

    __slots__ = ()
    table = "bytes_per_cycle"


class StartUp(_Row):
    """Cycles that a kernel call takes before it computes; positive."""

    __slots__ = ()
    table = "start_cycles"


@dataclass(frozen=True, slots=True)
class _PairRow:
    """A figure of moving bytes from level ``source`` to level ``target``; ``origin`` is where it comes from."""

    table: ClassVar[str] = ""
    keys: ClassVar[tuple[str, ...]] = ("from", "to")

    source: str
    target: str
    value: float
    origin: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        plain_fields(self)
        for key, name in (("from", self.source), ("to", self.target)):
            if name not in LEVELS:
                raise DeviceError(f"{self.table}: {key}={name!r} is no level{near(str(name), LEVELS)}")
        if self.source == self.target:
            raise DeviceError(f"{self.table}: from={self.source!r} equals to; name two levels")
        check_rate(f"{self.table}: value", self.value)
        _check_source(self.table, self.origin)

    @property
    def key(self) -> tuple[str, ...]:
        """What tells this row from the others of its table."""
        return (self.source, self.target)


class DmaRate(_PairRow):
    """Bytes a cycle that are moved from level ``source`` to level ``target``."""

    __slots__ = ()
    table = "dma_bytes_per_cycle"


class DmaStart(_PairRow):
    """Cycles that a transfer from ``source`` to ``target`` takes before it moves."""

    __slots__ = ()
    table = "dma_start_cycles"


class ByteEnergy(_PairRow):
    """Joules of moving a byte from ``source`` to ``target``."""

    __slots__ = ()
    table = "joules_per_byte"


@dataclass(frozen=True, slots=True)
class Power:
    """Watts that the device draws: ``active`` while it trains, ``idle`` beside what MACs and bytes take."""

    table: ClassVar[str] = "power_watts"
    keys: ClassVar[tuple[str, ...]] = ("mode",)

    mode: str
    value: float
    source: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        plain_fields(self)
        if self.mode not in MODES:
            raise DeviceError(f"{self.table}: mode={self.mode!r} is unknown{near(str(self.mode), MODES)}")
        check_rate(f"{self.table}: value", self.value)
        _check_source(self.table, self.source)

    @property
    def key(self) -> tuple[str, ...]:
        """What tells this row from the others of its table."""
        return (self.mode,)


@dataclass(frozen=True, slots=True)
class MacEnergy:
    """Joules of one multiply-accumulate in a dtype (``*``: any)."""

    table: ClassVar[str] = "joules_per_mac"
    keys: ClassVar[tuple[str, ...]] = ("dtype",)

    dtype: str
    value: float
    source: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        plain_fields(self)
        if self.dtype != "*" and self.dtype not in BITS:
            raise DeviceError(f"{self.table}: dtype={self.dtype!r} is unknown{near(str(self.dtype), BITS)}")
        check_rate(f"{self.table}: value", self.value)
        _check_source(self.table, self.source)

    @property
    def key(self) -> tuple[str, ...]:
        """What tells this row from the others of its table."""
        return (self.dtype,)


Rate = MacRate | ByteRate | StartUp | DmaRate | DmaStart | ByteEnergy | Power | MacEnergy
#: every table by its name in TOML files
TABLES: dict[str, type[Any]] = {
    c.table: c for c in (MacRate, ByteRate, StartUp, DmaRate, DmaStart, Power, MacEnergy, ByteEnergy)
}

#: field of a ``Device`` that holds the rows of each table
FIELDS = {
    "mac_per_cycle": "mac_rates",
    "bytes_per_cycle": "byte_rates",
    "start_cycles": "start_ups",
    "dma_bytes_per_cycle": "dma_rates",
    "dma_start_cycles": "dma_starts",
    "power_watts": "power",
    "joules_per_mac": "mac_energy",
    "joules_per_byte": "byte_energy",
}

K = TypeVar("K", MacRate, ByteRate, StartUp)


def best_row(rows: Iterable[K], op: str, pass_: str, dtype: str) -> K | None:
    """The row that names most of (op, pass, dtype), in that order of weight; None when none applies."""
    best: tuple[tuple[bool, bool, bool], K] | None = None
    for row in rows:
        if row.op in (op, "*") and row.pass_ in (pass_, "*") and row.dtype in (dtype, "*"):
            rank = (row.op != "*", row.pass_ != "*", row.dtype != "*")
            if best is None or rank > best[0]:
                best = (rank, row)
    return None if best is None else best[1]


def fields_of(row: Rate) -> dict[str, str | float]:
    """A row as plain data: the keys of its table, ``value``, and ``source`` where it has one."""
    source = row.origin if isinstance(row, _PairRow) else row.source
    data: dict[str, str | float] = {**dict(zip(row.keys, row.key, strict=True)), "value": row.value}
    return {**data, "source": source} if source else data


def tables_to_data(rows: Iterable[Rate]) -> dict[str, list[dict[str, str | float]]]:
    """Rows as plain data by table; what ``tables_from_node`` reads. Tables without rows are left out."""
    found: dict[str, list[dict[str, str | float]]] = {}
    for row in rows:
        found.setdefault(row.table, []).append(fields_of(row))
    return found


def tables_from_node(node: Node) -> dict[str, tuple[Any, ...]]:
    """Rows from plain data, by the field of ``Device`` that holds them.

    Raises:
        SparseplanError: an unknown table, a row that lacks a key, or a figure that makes no sense.
    """
    node.record((), TABLES)
    found = {}
    for table, make in TABLES.items():
        entries = [] if (rows := node.get(table)) is None else rows.entries(10_000)
        found[FIELDS[table]] = tuple(
            make(*(n[key].text() for key in make.keys), n["value"].number(), "" if (s := n.get("source")) is None
                 else s.text())
            for n in (e.record((*make.keys, "value"), ("source",)) for e in entries)
        )  # fmt: skip
    return found


def check_rate(name: str, value: object) -> None:
    """Raise DeviceError unless ``value`` is a positive, finite number."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise DeviceError(f"{name}={short(value)} must be a number")
    if not 0 < value < 1e15 or not math.isfinite(value):
        raise DeviceError(f"{name}={short(value)} must be positive and finite")


def _check_source(table: str, source: object) -> None:
    if not isinstance(source, str):
        raise DeviceError(f"{table}: source={short(source)} must be a string")


def short(value: object) -> str:
    """``repr`` of a value, at most 80 characters."""
    try:
        text = repr(value)
    except ValueError:  # an integer of too many digits to print
        return "a huge integer"
    return text if len(text) <= 80 else text[:77] + "…"
