"""Measurements of kernels and transfers from a CSV file, checked line by line.

Columns (any order; those not needed may be left out or empty):

==================  ==================================================================================
``op``              kind of op or loss, ``*`` for any; or ``dma`` for a transfer alone
``pass``            ``forward``, ``x0`` …, ``weight`` …, ``update``, ``aux``, ``loss``, or ``*`` for any
``dtype``           fp32, fp16, bf16 …, or ``*`` for any
``cycles``          measured cycles; or
``seconds``         measured seconds (then a clock is needed)
``macs``            multiply-accumulates; or the shape:
``input``           shape of the input without batch, such as ``8x48x48``; of several ``8x4x4;8x4x4``; and
attributes          a column each, as the op names them: ``out_channels``, ``kernel``, ``stride`` …
``bytes``           that a kernel without MACs reads and writes (follows from the shape, if given)
``calls``           of the kernel that the figure covers (default 1)
``dma_bytes``       moved between levels in that time (default 0)
``from``, ``to``    levels that they move between (default L2 and L1, both ways)
``transfers``       that they come in (default: not told)
``tiles``           where transfers overlap computing: tiles of the loop nest (default 1: no overlap)
``joules``          measured energy
``date``, ``note``  when it was measured; anything
==================  ==================================================================================
"""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sparseplan.dtypes import BITS, bytes_of
from sparseplan.errors import DataError, SparseplanError, near
from sparseplan.ops import OpInfo, op_def
from sparseplan.ops.base import LOSSES, OPS
from sparseplan.rates import LEVELS

#: the op of a transfer alone
DMA = "dma"
_PLAIN = (
    "op", "pass", "dtype", "cycles", "seconds", "macs", "input", "bytes", "calls", "dma_bytes", "from", "to",
    "transfers", "tiles", "joules", "date", "note",
)  # fmt: skip
_MOST_BYTES = 2**25
_MOST_ROWS = 100_000

Group = tuple[str, str, str]  # op, pass, dtype
Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Measurement:
    """One line of the file.

    Attributes:
        line: its number, from 1.
        group: (op, pass, dtype); None of a transfer alone.
        work: MACs, or bytes of a kernel without MACs (``by_bytes``).
        pair: levels that bytes move between; ``both`` if both ways.
        transfers: how many, or None where not told.
    """

    line: int
    group: Group | None
    cycles: float
    work: int = 0
    by_bytes: bool = False
    calls: int = 1
    dma_bytes: int = 0
    pair: Pair = ("L2", "L1")
    both: bool = True
    transfers: int | None = None
    tiles: int = 1
    seconds: float | None = None
    joules: float | None = None
    date: str = ""


def read_measurements(path: str | os.PathLike[str], clock_hz: float | None = None) -> tuple[Measurement, ...]:
    """Measurements of a CSV file.

    Args:
        clock_hz: clock at which ``seconds`` were measured.

    Raises:
        DataError: an unreadable file, an unknown column, or a bad value; names file, line and column.
    """
    where = f"measurements {os.fspath(path)!r}"
    try:
        with Path(path).open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{where} cannot be read: {reason}; check the path") from None
    if len(data) > _MOST_BYTES:
        raise DataError(f"{where} is over {_MOST_BYTES:,} B; a few hundred lines would do")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{where} is not UTF-8 text (byte {error.start})") from None
    return parse_measurements(text, where, clock_hz)


def parse_measurements(
    text: str, where: str = "measurements", clock_hz: float | None = None
) -> tuple[Measurement, ...]:
    """Measurements of CSV text; ``where`` begins every error."""
    reader = csv.reader(io.StringIO(text), strict=True)
    found: list[Measurement] = []
    header: list[str] = []
    try:
        for cells in reader:
            if not any(c.strip() for c in cells) or cells[0].lstrip().startswith("#"):
                continue
            if not header:
                header = _header([c.strip() for c in cells], where)
                continue
            if len(cells) != len(header):
                raise DataError(f"{where}: line {reader.line_num} has {len(cells)} cells, the header {len(header)}")
            row = {k: v.strip() for k, v in zip(header, cells, strict=True) if v.strip()}
            found.append(_Line(where, reader.line_num, row).measurement(clock_hz))
            if len(found) > _MOST_ROWS:
                raise DataError(f"{where} has over {_MOST_ROWS:,} rows; fewer would do")
    except csv.Error as error:
        raise DataError(f"{where}: line {reader.line_num} is no CSV: {error}") from None
    if not found:
        raise DataError(f"{where} has no rows; give a header and a line a measurement")
    return tuple(found)


def _header(names: list[str], where: str) -> list[str]:
    attributes = {a for d in OPS.values() for a in d.defaults}
    for i, name in enumerate(names):
        if name not in _PLAIN and name not in attributes:
            raise DataError(f"{where}: column {name!r} is unknown{near(name, {*_PLAIN, *attributes})}")
        if name in names[:i]:
            raise DataError(f"{where}: column {name!r} is given twice; keep one")
    if "op" not in names:
        raise DataError(f"{where}: column 'op' is missing; give op, pass, dtype, macs and cycles")
    if "cycles" not in names and "seconds" not in names:
        raise DataError(f"{where}: columns 'cycles' and 'seconds' are missing; give one of them")
    return names


@dataclass(frozen=True, slots=True)
class _Line:
    """A line that is being read; its errors name file, line and column."""

    where: str
    number: int
    row: Mapping[str, str]

    def fail(self, column: str, why: str) -> DataError:
        value = self.row.get(column, "")
        return DataError(f"{self.where}: line {self.number}, column {column}: {column}={value!r} {why}")

    def count(self, column: str, least: int = 0) -> int | None:
        text = self.row.get(column)
        if text is None:
            return None
        number = self.positive(column, least)
        if number is None or number != int(number):
            raise self.fail(column, f"must be a whole number, at least {least}")
        return int(number)

    def positive(self, column: str, least: float | None = None) -> float | None:
        text = self.row.get(column)
        if text is None:
            return None
        try:
            number = float(text.replace("_", ""))
        except ValueError:
            raise self.fail(column, "is no number") from None
        low = number > 0 if least is None else number >= least
        if not low or not number < 1e18:
            raise self.fail(column, "must be above 0" if least is None else f"must be at least {least:g}")
        return number

    def measurement(self, clock_hz: float | None) -> Measurement:
        op = self.row.get("op", "")
        known = (*OPS, *LOSSES, DMA, "*")
        if op not in known:
            raise self.fail("op", f"is unknown{near(op, known)}")
        seconds, cycles = self.positive("seconds"), self.positive("cycles")
        if cycles is None:
            if seconds is None:
                raise self.fail("cycles", "is empty, as is seconds; give one of them")
            if clock_hz is None:
                raise self.fail("seconds", "needs a clock; give --clock, such as 370MHz, or clock_hz in the device")
            cycles = seconds * clock_hz
        elif seconds is None and clock_hz is not None:
            seconds = cycles / clock_hz
        dma_bytes = self.count("dma_bytes") or 0
        pair, both = self.levels()
        group, work, by_bytes = None, 0, False
        if op != DMA:
            group = (op, self.text("pass"), self.dtype())
            work, by_bytes = self.work(group)
        elif not dma_bytes:
            raise self.fail("dma_bytes", "must be above 0 for a transfer")
        return Measurement(
            self.number, group, cycles, work, by_bytes, self.count("calls", 1) or 1, dma_bytes, pair, both,
            self.count("transfers", 1), self.count("tiles", 1) or 1, seconds, self.positive("joules"),
            self.row.get("date", ""),
        )  # fmt: skip

    def text(self, column: str) -> str:
        if column not in self.row:
            raise self.fail(column, "must be a name, or * for any")
        return self.row[column]

    def dtype(self) -> str:
        dtype = self.text("dtype")
        if dtype not in BITS and dtype != "*":
            raise self.fail("dtype", f"is unknown{near(dtype, BITS)}")
        return dtype

    def levels(self) -> tuple[Pair, bool]:
        if "from" not in self.row and "to" not in self.row:
            return ("L2", "L1"), True
        for column in ("from", "to"):
            if self.row.get(column) not in LEVELS:
                raise self.fail(column, f"is no level{near(self.row.get(column, ''), LEVELS)}")
        if self.row["from"] == self.row["to"]:
            raise self.fail("to", "equals from; name two levels")
        return (self.row["from"], self.row["to"]), False

    def work(self, group: Group) -> tuple[int, bool]:
        """(MACs, False), or (bytes, True) of a kernel without MACs."""
        macs, size = self.count("macs"), self.count("bytes")
        if "input" in self.row and group[0] in OPS:
            info = self.info(group[0])
            if macs is None:
                macs = op_def(info.kind).macs(info, group[1])
            if size is None and group[2] in BITS:
                space = op_def(info.kind).tile_space(info, group[1])
                size = sum(
                    bytes_of(math.prod(d.full for d in o.dims), group[2] if o.dtype == "data" else o.dtype)
                    for o in (space.operands if space else ())
                )
        if macs:
            return macs, False
        if size:
            return size, True
        if macs is None and size is None:
            raise self.fail("macs", "is empty; give macs, or input (such as 8x48x48) and the op's attributes")
        raise self.fail("bytes", "must be above 0 for a kernel without MACs")

    def info(self, kind: str) -> OpInfo:
        d = op_def(kind)
        shapes = tuple(self.extents("input", part) for part in self.row["input"].split(";"))
        given = {a: self.attribute(a) for a in d.defaults if a in self.row}
        try:
            attrs = d.complete_attrs(given)
            return OpInfo(f"line {self.number}", kind, attrs, shapes, d.output_shape(attrs, shapes),
                          d.param_shapes(attrs, shapes))  # fmt: skip
        except SparseplanError as error:
            raise self.fail("input", f"does not fit op {kind!r}: {error}") from None

    def extents(self, column: str, text: str) -> tuple[int, ...]:
        parts = text.lower().replace("×", "x").split("x")
        if not all(p.strip().isdigit() and 0 < int(p[:20]) < 2**31 for p in parts):
            raise self.fail(column, "must be extents such as 8x48x48")
        return tuple(int(p) for p in parts)

    def attribute(self, column: str) -> int | float | str | tuple[int, ...]:
        text = self.row[column]
        if "x" in text.lower() and text[0].isdigit():
            return self.extents(column, text)
        for read in (int, float):
            try:
                return read(text)
            except ValueError:
                continue
        return text
