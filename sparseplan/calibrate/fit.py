"""Rates of a device by robust least squares over measurements.

``cycles = work * a + calls * s + dma_bytes * b + transfers * t``: ``a`` and ``s`` for each (op, pass,
dtype), ``b`` and ``t`` for each pair of levels, all at once, as a kernel's figure may cover its
transfers. Where transfers overlap computing (``tiles``), the lesser of both counts for one tile
only, as in ``costs.cycles``; which one is the lesser follows from the rates, so fit and judgement
alternate until they agree.

Residuals count relative to what was measured, so that small layers weigh as much as large ones,
and those beyond Huber's limit (1.345 of their robust spread) count less. A start-up that cannot be
told from the rest (one measurement, or all of one size), or that would be negative, gets no row.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from sparseplan.calibrate.measurements import Group, Measurement, Pair
from sparseplan.device import Device
from sparseplan.errors import DataError
from sparseplan.rates import FIELDS, ByteRate, DmaRate, DmaStart, MacRate, Power, StartUp

Floats = npt.NDArray[np.float64]
#: what a column of the least squares stands for: its kind, and the group or pair
Unknown = tuple[str, tuple[str, ...]]

_HUBER = 1.345
_ROUNDS = 40
#: digits of a rate that are worth writing down
_DIGITS = 6


@dataclass(frozen=True, slots=True)
class Residual:
    """How far a group's measurements lie from the fit.

    Attributes:
        key: (op, pass, dtype), or (from, to) of transfers alone.
        rate: MACs (or bytes, of a kernel without MACs, or of a transfer) a cycle; start: cycles, or None.
        count: measurements.
        mape: mean absolute error, relative to what was measured.
        worst: the largest such error, on line ``worst_line``.
    """

    key: tuple[str, ...]
    rate: float
    start: float | None
    by_bytes: bool
    count: int
    mape: float
    worst: float
    worst_line: int


@dataclass(frozen=True)
class Calibration:
    """A device with rows from measurements, and how well they fit.

    Attributes:
        mape: mean absolute relative error over all measurements.
        doubtful: lines that lie so far off that they counted less than half, with their errors.
        notes: what could not be told from the measurements.
    """

    device: Device
    residuals: tuple[Residual, ...]
    mape: float
    doubtful: tuple[tuple[int, float], ...] = ()
    notes: tuple[str, ...] = ()


def calibrate(
    measurements: Sequence[Measurement], device: Device, name: str = "measurements", clock_hz: float | None = None
) -> Calibration:
    """The device with rows that follow from measurements; rows of other keys stay.

    Args:
        name: of where the measurements come from (a file's name), for the rows' ``source``.
        clock_hz: the clock to write into the device; None keeps its own.

    Raises:
        DataError: measurements that do not tell what they should; names lines.
    """
    if not measurements:
        raise DataError(f"{name} has no rows; give a header and a line a measurement")
    _check_bases(measurements, name)
    fit = _Fit(measurements, name)
    fit.solve()
    error = np.abs(fit.predict() - fit.cycles) / fit.cycles
    residuals = tuple(_residual(fit, key, rows, error) for key, rows in fit.groups().items())
    mape = float(error.mean())
    days = sorted({m.date for m in measurements if m.date})
    when = f", measured {days[0]}" + (f" to {days[-1]}" if len(days) > 1 else "") if days else ""
    source = f"{os.path.basename(name)}{when}"
    made = device if clock_hz is None else replace(device, clock_hz=clock_hz)
    made = _with_rows(made, fit.rows(source))
    made = _with_rows(made, _power(measurements, source))
    count = f"{len(measurements)} measurement{'s' if len(measurements) > 1 else ''}"
    made = replace(made, sources=(*made.sources, f"{source}: {count}, mean error {mape:.1%}"))
    doubtful = [(m.line, float(e)) for m, e, w in zip(measurements, error, fit.robust, strict=True) if w < 0.5]
    return Calibration(made, residuals, mape, tuple(doubtful), fit.notes())


def _check_bases(measurements: Iterable[Measurement], name: str) -> None:
    first: dict[Group, Measurement] = {}
    for m in measurements:
        if m.group is not None and first.setdefault(m.group, m).by_bytes != m.by_bytes:
            raise DataError(
                f"{name}: lines {first[m.group].line} and {m.line} of {'/'.join(m.group)}: one has MACs and the other "
                "has none; measure one kind of kernel under one op, pass and dtype"
            )


class _Fit:
    """One least squares over all measurements."""

    def __init__(self, measurements: Sequence[Measurement], name: str) -> None:
        self.measurements, self.name = measurements, name
        self.cycles: Floats = np.array([m.cycles for m in measurements], np.float64)
        self.robust: Floats = np.ones(len(measurements))
        rates: dict[Unknown, None] = {}
        starts: dict[Unknown, None] = {}
        for m in measurements:
            if m.group is not None:
                rates["work", m.group] = None
                starts["call", m.group] = None
            if m.dma_bytes:
                rates["byte", m.pair] = None
                if m.transfers is not None:
                    starts["transfer", m.pair] = None
        self.needed = tuple(rates)
        self.unknowns: tuple[Unknown, ...] = (*rates, *starts)
        #: shares of computing and of transfers that count, see the module's docstring
        self.shares: Floats = np.ones((len(measurements), 2))
        self.values: dict[Unknown, float] = {}

    def column(self, unknown: Unknown) -> Floats:
        kind, key = unknown
        out = np.zeros(len(self.measurements))
        for i, m in enumerate(self.measurements):
            if kind in ("work", "call") and m.group == key:
                out[i] = (m.work if kind == "work" else m.calls) * self.shares[i, 0]
            elif kind in ("byte", "transfer") and m.dma_bytes and m.pair == key:
                out[i] = (m.dma_bytes if kind == "byte" else m.transfers or 0) * self.shares[i, 1]
        return out

    def solve(self) -> None:
        self._choose()
        for _ in range(_ROUNDS):
            before = (self.shares.copy(), dict(self.values))
            self._overlap()
            self._least_squares()
            self._robust()
            if np.array_equal(before[0], self.shares) and before[1] == self.values:
                return

    def _choose(self) -> None:
        """Keep the start-ups that the measurements can tell apart from the rest."""
        kept = list(self.needed)
        rank = self._rank(kept)
        if rank < len(kept):
            alone = next(u for k, u in enumerate(kept) if self._rank(kept[: k + 1]) < k + 1)
            lines = ", ".join(str(m.line) for m in self.measurements if alone[1] in (m.group, m.pair))
            raise DataError(
                f"{self.name}: {_label(alone[1])} cannot be told from the rest (lines {lines}); add measurements with "
                "other macs and dma_bytes, or of each alone"
            )
        for unknown in self.unknowns[len(self.needed) :]:
            if self._rank([*kept, unknown]) > len(kept):
                kept.append(unknown)
        self.unknowns = tuple(kept)
        self._least_squares()

    def _rank(self, unknowns: Sequence[Unknown]) -> int:
        table = np.stack([self.column(u) for u in unknowns], axis=1) / self.cycles[:, None]
        scale = np.linalg.norm(table, axis=0)
        return int(np.linalg.matrix_rank(table / np.where(scale > 0, scale, 1), tol=1e-9))

    def _least_squares(self) -> None:
        while True:
            table = np.stack([self.column(u) for u in self.unknowns], axis=1)
            weight = np.sqrt(self.robust) / self.cycles  # relative errors
            scale = np.linalg.norm(table * weight[:, None], axis=0)
            scale[scale == 0] = 1
            found = np.linalg.lstsq(table * weight[:, None] / scale, self.cycles * weight, rcond=None)[0] / scale
            self.values = {u: float(v) for u, v in zip(self.unknowns, found, strict=True)}
            # rounding leaves a start-up of nothing a little above or below it
            floor = 1e-7 * float(np.min(self.cycles))
            below = [u for u in self.unknowns if u not in self.needed and self.values[u] <= floor]
            if not below:
                break
            worst = min(below, key=lambda u: self.values[u])
            self.unknowns = tuple(u for u in self.unknowns if u != worst)
        for unknown in self.needed:
            if self.values[unknown] <= 0:
                lines = ", ".join(str(m.line) for m in self.measurements if unknown[1] in (m.group, m.pair))
                what = "macs" if unknown[0] == "work" else "dma_bytes"
                raise DataError(
                    f"{self.name}: cycles of {_label(unknown[1])} do not grow with {what} (lines {lines}); check them"
                )

    def _robust(self) -> None:
        """Huber's weights, to convergence."""
        for _ in range(_ROUNDS):
            off = (self.predict() - self.cycles) / self.cycles
            spread = 1.4826 * float(np.median(np.abs(off)))
            limit = max(_HUBER * spread, 1e-9)
            weights = np.minimum(1.0, limit / np.maximum(np.abs(off), 1e-300))
            if np.allclose(weights, self.robust, rtol=0, atol=1e-6):
                return
            self.robust = weights
            self._least_squares()

    def _overlap(self) -> None:
        """Judge anew which of computing and transfers is the lesser where they overlap."""
        compute, dma = self._parts()
        for i, m in enumerate(self.measurements):
            if m.tiles > 1:
                lesser = 1 / m.tiles
                self.shares[i] = (1.0, lesser) if compute[i] >= dma[i] else (lesser, 1.0)

    def _parts(self) -> tuple[Floats, Floats]:
        """Cycles of computing and of transfers, each alone."""
        shares, self.shares = self.shares, np.ones_like(self.shares)
        parts = [np.zeros(len(self.measurements)), np.zeros(len(self.measurements))]
        for unknown, value in self.values.items():
            parts[unknown[0] in ("byte", "transfer")] += self.column(unknown) * value
        self.shares = shares
        return parts[0], parts[1]

    def predict(self) -> Floats:
        compute, dma = self._parts()
        shares = np.array([(1.0, 1.0)] * len(self.measurements))
        for i, m in enumerate(self.measurements):
            if m.tiles > 1:
                shares[i] = (1.0, 1 / m.tiles) if compute[i] >= dma[i] else (1 / m.tiles, 1.0)
        return np.asarray(compute * shares[:, 0] + dma * shares[:, 1], np.float64)

    # -- what comes of it -------------------------------------------------------------------------
    def groups(self) -> dict[tuple[str, ...], list[int]]:
        """Lines of each group, and of transfers alone by their levels."""
        found: dict[tuple[str, ...], list[int]] = {}
        for i, m in enumerate(self.measurements):
            found.setdefault(m.pair if m.group is None else m.group, []).append(i)
        return found

    def rows(self, source: str) -> list[Any]:
        made: list[Any] = []
        one_way = {m.pair for m in self.measurements if m.dma_bytes and not m.both}
        by_bytes = {m.group for m in self.measurements if m.by_bytes}
        for (kind, key), value in self.values.items():
            if len(key) == 3:
                op, pass_, dtype = key
                if kind == "call":
                    made.append(StartUp(op, pass_, dtype, _rounded(value), source))
                else:
                    make = ByteRate if key in by_bytes else MacRate
                    made.append(make(op, pass_, dtype, _rounded(1 / value), source))
            else:
                a, b = key
                for pair in [(a, b)] if (a, b) in one_way else [(a, b), (b, a)]:
                    if kind == "byte":
                        made.append(DmaRate(*pair, _rounded(1 / value), source))
                    else:
                        made.append(DmaStart(*pair, _rounded(value), source))
        return made

    def notes(self) -> tuple[str, ...]:
        told = {key for kind, key in self.unknowns if kind in ("call", "transfer")}
        bare = [_label(key) for kind, key in self.needed if key not in told]
        if not bare:
            return ()
        return (
            f"no start-up for {', '.join(bare)}: none shows, or it cannot be told from the rest; measure each at "
            "several sizes",
        )


def _residual(fit: _Fit, key: tuple[str, ...], rows: list[int], error: Floats) -> Residual:
    alone = len(key) == 2
    rate = 1 / fit.values["byte" if alone else "work", key]
    worst = max(rows, key=lambda i: error[i])
    return Residual(
        key, rate, fit.values.get(("transfer" if alone else "call", key)),
        alone or fit.measurements[rows[0]].by_bytes, len(rows), float(error[rows].mean()), float(error[worst]),
        fit.measurements[worst].line,
    )  # fmt: skip


def _power(measurements: Sequence[Measurement], source: str) -> list[Any]:
    timed = [(m.joules, m.seconds) for m in measurements if m.joules is not None and m.seconds is not None]
    if not timed:
        return []
    watts = sum(j for j, _ in timed) / sum(s for _, s in timed)
    return [Power("active", _rounded(watts), source)]


def _with_rows(device: Device, rows: Iterable[Any]) -> Device:
    """The device with rows added, or put in the place of those of the same key."""
    changes: dict[str, Any] = {}
    for row in rows:
        held = changes.get(FIELDS[row.table], getattr(device, FIELDS[row.table]))
        changes[FIELDS[row.table]] = (*(r for r in held if r.key != row.key), row)
    return replace(device, **changes)


def _label(key: tuple[str, ...]) -> str:
    return "/".join(key) if len(key) == 3 else "→".join(key)


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


__all__ = ["Calibration", "Pair", "Residual", "calibrate"]
