"""Devices as data: the memory levels of a target and what is known of its speed.

A device is a TOML file (see ``sparseplan/devices/gap9.toml``) or is built from plain budgets.
A figure that no source gives is absent (None, or no row), never guessed.

Levels, from the fastest to the slowest:

* ``L1``: the scratchpad that kernels compute in; absent when the cores address RAM directly.
* ``L2``: the main RAM in which tensors live; always present.
* ``L3``: slower RAM behind it, often off-chip.
* ``flash``: non-volatile memory; frozen parameters may be read from it, nothing is written.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from sparseplan.errors import DeviceError, near
from sparseplan.rates import (
    FIELDS,
    LEVELS,
    TABLES,
    ByteEnergy,
    ByteRate,
    DmaRate,
    DmaStart,
    MacEnergy,
    MacRate,
    Power,
    Rate,
    StartUp,
    best_row,
    check_rate,
    short,
)
from sparseplan.scalars import plain_arguments, plain_fields
from sparseplan.units import parse_bytes

__all__ = [
    "LEVELS", "MAX_BYTES", "Device", "DmaRate", "Level", "MacRate", "custom", "load_device", "parse_device", "presets",
]  # fmt: skip

#: beyond this (1 TiB) a size is taken for a mistake rather than for a microcontroller's memory
MAX_BYTES = 2**40
#: beyond this a device file is not read
MAX_FILE_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Level:
    """One level of memory: a contiguous range of addresses.

    Attributes:
        name: ``L1``, ``L2``, ``L3`` or ``flash``.
        bytes: size, or None when it is not known or not bounded.
        reserved: bytes of it that the planner cannot use (stack, structs, tile tables, caches).
        alignment: every buffer starts at a multiple of this; a power of two.
        source: where the figures come from.

    Raises:
        DeviceError: an unknown name, a size that is negative or absurd, more reserved than there
            is, or an alignment that is no power of two.
    """

    name: str
    bytes: int | None = None
    reserved: int = 0
    alignment: int = 1
    source: str = ""

    def __post_init__(self) -> None:
        plain_fields(self)
        if self.name not in LEVELS:
            raise DeviceError(f"level name={self.name!r} is unknown{near(str(self.name), LEVELS)}")
        _check_size(f"level {self.name}: bytes", self.bytes, optional=True)
        _check_size(f"level {self.name}: reserved", self.reserved)
        _check_size(f"level {self.name}: alignment", self.alignment)
        if self.alignment < 1 or self.alignment & (self.alignment - 1):
            raise DeviceError(
                f"level {self.name}: alignment={self.alignment} is not a power of two; give 1, 2, 4, 8, …"
            )
        if self.bytes is not None and self.reserved > self.bytes:
            raise DeviceError(f"level {self.name}: reserved={self.reserved} exceeds bytes={self.bytes}; lower it")
        if not isinstance(self.source, str):
            raise DeviceError(f"level {self.name}: source={self.source!r} must be a string")

    @property
    def usable(self) -> int | None:
        """Bytes left for the planner: ``bytes - reserved``; None when not bounded."""
        return None if self.bytes is None else self.bytes - self.reserved


@dataclass(frozen=True)
class Device:
    """A target: its levels, and what is known of its speed.

    Attributes:
        name: short name, as ``--device`` takes it.
        title: full name.
        levels: from fast to slow, each at most once, ``L2`` always among them.
        double_buffer: whether transfers into L1 overlap computing, so that tiles need two buffers.
        mac_rates: rows of multiply-accumulates a cycle; empty when unknown.
        dma_rates: rows of bytes a cycle between levels; empty when unknown.
        byte_rates, start_ups, dma_starts, power, mac_energy, byte_energy: what else is known of its
            speed and energy, see ``rates``; empty when unknown.
        clock_hz: greatest documented clock of the computing cores in Hz, or None.
        sources: titles of the documents that the figures were taken from.
        notes: what a user should know before trusting a plan (banks, caches, code in RAM).

    Raises:
        DeviceError: naming what is wrong.
    """

    name: str
    title: str
    levels: tuple[Level, ...]
    double_buffer: bool = False
    mac_rates: tuple[MacRate, ...] = ()
    dma_rates: tuple[DmaRate, ...] = ()
    clock_hz: float | None = None
    sources: tuple[str, ...] = ()
    notes: str = ""
    byte_rates: tuple[ByteRate, ...] = ()
    start_ups: tuple[StartUp, ...] = ()
    dma_starts: tuple[DmaStart, ...] = ()
    power: tuple[Power, ...] = ()
    mac_energy: tuple[MacEnergy, ...] = ()
    byte_energy: tuple[ByteEnergy, ...] = ()

    def __post_init__(self) -> None:
        plain_fields(self)
        if not isinstance(self.name, str) or not self.name or len(self.name) > 128:
            raise DeviceError(f"device name={short(self.name)} must be a string of 1 to 128 characters")
        for key in ("title", "notes"):
            if not isinstance(getattr(self, key), str):
                raise DeviceError(f"device {self.name!r}: {key}={getattr(self, key)!r} must be a string")
        if not isinstance(self.double_buffer, bool):
            raise DeviceError(f"device {self.name!r}: double_buffer={self.double_buffer!r} must be true or false")
        if self.clock_hz is not None:
            check_rate(f"device {self.name!r}: clock_hz", self.clock_hz)
        names = [level.name for level in self.levels]
        for n in names:
            if names.count(n) > 1:
                raise DeviceError(f"device {self.name!r}: level {n} is given twice; keep one")
        if "L2" not in names:
            raise DeviceError(f"device {self.name!r} has no level L2, the RAM in which tensors live; give [levels.L2]")
        if names != [n for n in LEVELS if n in names]:
            raise DeviceError(f"device {self.name!r}: levels={names} are out of order; use {', '.join(LEVELS)}")
        for table in TABLES:
            _check_unique(self.name, table, [row.key for row in self.rows(table)])

    def rows(self, table: str | None = None) -> tuple[Rate, ...]:
        """The rows of a table by its name in TOML files (``mac_per_cycle`` …), or of all."""
        tables = FIELDS if table is None else (table,)
        return tuple(row for t in tables for row in getattr(self, FIELDS[t]))

    def has(self, name: str) -> bool:
        """Whether the device has a level of that name."""
        return any(level.name == name for level in self.levels)

    def level(self, name: str) -> Level:
        """The level of that name; raises DeviceError naming those that the device has."""
        for level in self.levels:
            if level.name == name:
                return level
        have = ", ".join(level.name for level in self.levels)
        raise DeviceError(f"device {self.name!r} has no level {name!r}; it has {have}")

    def mac_per_cycle(self, op: str, pass_: str, dtype: str) -> float | None:
        """Multiply-accumulates a cycle, from the row that names most of (op, pass, dtype), in that
        order of weight; None when no row applies."""
        row = best_row(self.mac_rates, op, pass_, dtype)
        return None if row is None else row.value

    def dma_bytes_per_cycle(self, source: str, target: str) -> float | None:
        """Bytes a cycle from one level to another; None when not known."""
        return _value(self.dma_rates, (source, target))

    def dma_start_cycles(self, source: str, target: str) -> float | None:
        """Cycles before a transfer from one level to another moves; None when not known."""
        return _value(self.dma_starts, (source, target))

    def watts(self, mode: str) -> float | None:
        """Watts drawn in a mode, ``active`` or ``idle``; None when not known."""
        return _value(self.power, (mode,))

    def joules_per_mac(self, dtype: str) -> float | None:
        """Joules of a multiply-accumulate in a dtype; None when not known."""
        exact = _value(self.mac_energy, (dtype,))
        return _value(self.mac_energy, ("*",)) if exact is None else exact

    def joules_per_byte(self, source: str, target: str) -> float | None:
        """Joules of moving a byte from one level to another; None when not known."""
        return _value(self.byte_energy, (source, target))

    @plain_arguments
    def with_budget(
        self, l1: str | int | None = None, l2: str | int | None = None, alignment: int | None = None
    ) -> Device:
        """The same device with other budgets: ``"128KiB"``, ``"1.2MB"`` or bytes.

        A budget replaces the device's own figure, be it less or more, and what is reserved still
        counts within it. ``l1`` given to a device without L1 adds that level. ``alignment`` is set
        on every level.

        Raises:
            DeviceError: a size that cannot be read, is zero, or is less than what is reserved.
        """
        by_name = {level.name: level for level in self.levels}
        for name, budget in (("L1", l1), ("L2", l2)):
            if budget is None:
                continue
            size = _parse_size(name.lower(), budget)
            if size == 0:
                raise DeviceError(f"{name.lower()}={budget!r} leaves no memory; give a size above 0")
            old = by_name.get(name, Level(name, alignment=by_name["L2"].alignment))
            was = "none" if old.bytes is None else f"{old.bytes:,} B"
            by_name[name] = replace(old, bytes=size, source=f"budget given by the user ({self.name}: {was})")
        if alignment is not None:
            by_name = {n: replace(level, alignment=alignment) for n, level in by_name.items()}
        return replace(self, levels=tuple(by_name[n] for n in LEVELS if n in by_name))


def _value(rows: Iterable[DmaRate | DmaStart | Power | MacEnergy | ByteEnergy], key: tuple[str, ...]) -> float | None:
    return next((row.value for row in rows if row.key == key), None)


@plain_arguments
def custom(l1: str | int | None = None, l2: str | int | None = None, alignment: int = 1) -> Device:
    """A nameless device from plain budgets: without ``l1`` there is no scratchpad, without ``l2``
    the RAM is not bounded. Tiles are double-buffered, the safer assumption. Flash is not bounded.

    Raises:
        DeviceError: a size that cannot be read.
    """
    levels = (Level("L2", alignment=alignment), Level("flash", alignment=alignment))
    device = Device("custom", "Budgets given by the user", levels, double_buffer=True)
    return device.with_budget(l1=l1, l2=l2)


@cache
def presets() -> tuple[str, ...]:
    """Names of the devices that come with the package, sorted."""
    folder = resources.files("sparseplan") / "devices"
    return tuple(sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml")))


def load_device(device: str | Path | Device) -> Device:
    """A device from a preset's name (case, ``-`` and ``_`` do not matter), from a path to a
    ``.toml`` file, or as it is.

    Raises:
        DeviceError: an unknown name (with near matches), a file that cannot be read, or a
            malformed one (naming the key).
    """
    if isinstance(device, Device):
        return device
    if not isinstance(device, (str, Path)):
        raise DeviceError(f"device={device!r} must be a preset's name, a path to a .toml file or a Device")
    text = str(device)
    if isinstance(device, Path) or text.endswith(".toml") or "/" in text or "\\" in text:
        return _read(Path(text))
    plain = re.sub(r"[-_ ]", "", text.lower())
    if plain not in presets():
        raise DeviceError(
            f"device={short(text)} is neither a preset nor a path to a .toml file{near(plain[:80], presets())}"
        )
    return _preset(plain)


@cache
def _preset(name: str) -> Device:
    file = resources.files("sparseplan") / "devices" / f"{name}.toml"
    return parse_device(file.read_text(encoding="utf-8"), f"device {name}")


def _read(path: Path) -> Device:
    where = f"device file {str(path)!r}"
    try:
        with path.open("rb") as f:
            data = f.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise DeviceError(f"{where} cannot be read: {reason}") from None
    if len(data) > MAX_FILE_BYTES:
        raise DeviceError(f"{where} is over {MAX_FILE_BYTES:,} B; a device file has a few lines")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DeviceError(f"{where} is not UTF-8 text (byte {error.start})") from None
    return parse_device(text, where)


def parse_device(text: str, where: str = "device") -> Device:
    """A device from TOML text; ``where`` begins every error.

    Raises:
        DeviceError: not TOML, an unknown key (with near matches), a missing one, a wrong type.
    """
    for number, line in enumerate(text.split("\n"), start=1):
        if len(line) > _LONGEST_LINE:  # the parser takes quadratic time and memory on dotted keys
            raise DeviceError(f"{where}: line {number} has {len(line):,} characters; the most is {_LONGEST_LINE:,}")
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: also an integer of too many digits
        raise DeviceError(f"{where} is not valid TOML: {str(error) or 'nested too deeply'}") from None
    try:
        return _device(table)
    except DeviceError as error:
        raise DeviceError(f"{where}: {error}") from None


#: characters of a line of a device file
_LONGEST_LINE = 16_384


def _device(table: Mapping[str, Any]) -> Device:
    known = ("name", "title", "levels", "double_buffer", "clock_hz", "sources", "notes", *TABLES)
    _check_keys("", table, known, required=("name", "levels"))
    levels = table["levels"]
    if not isinstance(levels, dict):
        raise DeviceError(f"levels={short(levels)} must be tables such as [levels.L2]")
    _check_keys("levels", levels, LEVELS, required=("L2",))
    sources = table.get("sources", [])
    if not isinstance(sources, list) or not all(isinstance(s, str) for s in sources):
        raise DeviceError(f"sources={short(sources)} must be a list of strings")
    return Device(
        name=table["name"],
        title=table.get("title", ""),
        levels=tuple(_level(n, levels[n]) for n in LEVELS if n in levels),
        double_buffer=table.get("double_buffer", False),
        clock_hz=table.get("clock_hz"),
        sources=tuple(sources),
        notes=table.get("notes", ""),
        **{field: _rows(table, key, TABLES[key]) for key, field in FIELDS.items()},
    )


def _level(name: str, table: Any) -> Level:
    where = f"levels.{name}"
    if not isinstance(table, dict):
        raise DeviceError(f"{where}={short(table)} must be a table with bytes, reserved, alignment, source")
    _check_keys(where, table, ("bytes", "reserved", "alignment", "source"))
    size = table.get("bytes")
    return Level(
        name=name,
        bytes=None if size is None else _parse_size(f"{where}.bytes", size),
        reserved=_parse_size(f"{where}.reserved", table.get("reserved", 0)),
        alignment=table.get("alignment", 1),
        source=table.get("source", ""),
    )


def _rows(table: Mapping[str, Any], key: str, make: type[Any]) -> tuple[Any, ...]:
    rows = table.get(key, [])
    if not isinstance(rows, list) or not all(isinstance(r, dict) for r in rows):
        raise DeviceError(f"{key}={short(rows)} must be rows, each under [[{key}]]")
    columns = (*make.keys, "value")
    for row in rows:
        _check_keys(key, row, (*columns, "source"), required=columns)
    return tuple(make(*(row[c] for c in columns), row.get("source", "")) for row in rows)


def _check_keys(where: str, table: Mapping[str, Any], known: tuple[str, ...], required: tuple[str, ...] = ()) -> None:
    prefix = f"{where}." if where else ""
    for key in table:
        if key not in known:
            raise DeviceError(f"key {short(prefix + key)} is unknown{near(key[:80], known)}")
    for key in required:
        if key not in table:
            raise DeviceError(f"key {prefix + key!r} is missing; give it")


def _parse_size(name: str, value: object) -> int:
    try:
        size = parse_bytes(value)  # type: ignore[arg-type]  # it names what is no size
    except ValueError as error:  # ProblemError, or digits beyond what int() reads
        raise DeviceError(f"{name}: {error}") from None
    _check_size(name, size)
    return size


def _check_size(name: str, value: object, optional: bool = False) -> None:
    if optional and value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool):
        raise DeviceError(f"{name}={short(value)} must be an integer of bytes")
    if value < 0:
        raise DeviceError(f"{name}={short(value)} is negative; give a number of bytes >= 0")
    if value > MAX_BYTES:
        raise DeviceError(f"{name}={short(value)} is over 2**40 bytes (1 TiB); no such device is meant")


def _check_unique(device: str, key: str, rows: list[tuple[str, ...]]) -> None:
    for row in rows:
        if rows.count(row) > 1:
            raise DeviceError(f"device {device!r}: {key} has two rows for {', '.join(row)}; keep one")
