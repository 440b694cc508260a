"""Cycles of one step's work on a device: a pure function that solver, verifier and reports share.

The model
    * Computing takes ``macs / mac_per_cycle`` cycles, or ``touched / bytes_per_cycle`` for a kernel
      without MACs, plus ``start_cycles`` a call. Of the rows that apply, the one that names most
      of (op, pass, dtype) counts; between a row of MACs and one of bytes that name as much, MACs.
    * A kernel without MACs and without a row of ``bytes_per_cycle`` takes what its transfers take,
      where it has any: element-wise work is bound by moving its bytes. Without transfers either,
      the row is asked for.
    * A transfer takes ``bytes / dma_bytes_per_cycle`` cycles, plus ``dma_start_cycles`` each. Tiles
      go both ways through one DMA, so the slower direction counts for both. What has no way from
      L3 or flash into L1 goes through L2, one leg after the other.
    * Where the device double-buffers, computing on one of ``n`` tiles overlaps the transfers of its
      neighbours; the first tile's way in and the last one's way out overlap nothing:
      ``(C + D) / n + (n - 1) / n * max(C, D)`` for ``C`` cycles of computing and ``D`` of transfers,
      which is the larger of both and one tile of the lesser. Else, and with one tile, ``C + D``.
    * A start-up without a row counts nothing, so the result is then a lower bound
      (``PlanCosts.notes`` says so). Every other figure without a row is asked for, never guessed.

Arithmetic is exact (fractions), rounded up once: same work, same cycles, in solver and verifier.

For a constraint on time: ``cycle_terms`` gives integers to add up under conditions, exact for
fractions of a parameter. Seconds are cycles over ``clock_hz``; see ``energy`` for joules.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal, TypeVar

from sparseplan.device import Device
from sparseplan.errors import DeviceError
from sparseplan.rates import TABLES, best_row

W = TypeVar("W")

#: what the cycles of computing follow from
Basis = Literal["MACs", "bytes", "transfers", "nothing"]


@dataclass(frozen=True, slots=True)
class Transfer:
    """Bytes moved between two levels while a step runs.

    Attributes:
        bytes: in all, both ways where ``both``.
        count: transfers that they come in.
        both: whether they go from ``source`` to ``target`` and back.
    """

    source: str
    target: str
    bytes: int
    count: int = 1
    both: bool = False


@dataclass(frozen=True, slots=True)
class Work:
    """What a step does, as far as time goes.

    Attributes:
        op: kind of the op (or of the loss); ``pass_``: see ``rates``.
        dtype: in which it computes.
        macs: of the whole batch.
        touched: bytes that the kernel reads and writes.
        calls: of the kernel.
        transfers: between levels.
        stages: tiles of one run of the loop nest, whose transfers overlap computing on others.
    """

    op: str
    pass_: str
    dtype: str
    macs: int = 0
    touched: int = 0
    calls: int = 1
    transfers: tuple[Transfer, ...] = ()
    stages: int = 1


@dataclass(frozen=True, slots=True)
class Cycles:
    """Cycles of a step, each rounded: of computing, of transfers, in all, and those that overlap.

    ``basis`` tells what the cycles of computing follow from.
    """

    compute: int
    dma: int
    total: int
    basis: Basis
    overlap: int = 0

    @property
    def hidden(self) -> float | None:
        """Share of the cycles of transfers that pass behind computing; None without transfers."""
        return self.overlap / self.dma if self.dma else None


@dataclass(frozen=True, slots=True, order=True)
class Missing:
    """A row that would be needed: its table (see ``rates``) and what it is of."""

    table: str
    key: tuple[str, ...] = ()

    def __str__(self) -> str:
        joint = "→" if self.table in TABLES and TABLES[self.table].keys == ("from", "to") else "/"
        return joint.join(self.key)


def cycles_of(
    device: Device,
    op: str,
    pass_: str,
    dtype: str,
    macs: int,
    *,
    touched: int = 0,
    calls: int = 1,
    transfers: tuple[Transfer, ...] = (),
    stages: int = 1,
) -> int:
    """Cycles of a step from plain figures (see ``Work``).

    Raises:
        DeviceError: naming the rows that the device lacks.
    """
    return price(device, Work(op, pass_, dtype, macs, touched, calls, transfers, stages)).total


def price(device: Device, work: Work) -> Cycles:
    """Cycles of a step's work; see the module's docstring.

    Raises:
        DeviceError: naming the rows that the device lacks.
    """
    if missing := missing_rows(device, work):
        raise DeviceError(explain(device, missing))
    return _price(device, work, _kernel(device, work))


def missing_rows(device: Device, work: Work) -> tuple[Missing, ...]:
    """The rows without which the cycles of a step's work are unknown."""
    found = [
        Missing("dma_bytes_per_cycle", pair)
        for t in work.transfers
        if t.bytes
        for pair in _unknown_legs(device, t)
    ]  # fmt: skip
    if _kernel(device, work) is None:
        if work.macs:
            found.insert(0, Missing("mac_per_cycle", (work.op, work.pass_, work.dtype)))
        elif work.touched and not any(t.bytes for t in work.transfers):
            found.insert(0, Missing("bytes_per_cycle", (work.op, work.pass_, work.dtype)))
    return tuple(dict.fromkeys(found))


def explain(device: Device, missing: Iterable[Missing], what: str = "time") -> str:
    """One line that names rows a device lacks, and what to do."""
    by_table: dict[str, list[str]] = {}
    for m in sorted(set(missing)):
        by_table.setdefault(m.table, []).append(str(m))
    parts = [f"{table} for {', '.join(keys)}" if any(keys) else table for table, keys in by_table.items()]
    gaps, name = "; no ".join(parts), "NAME" if device.name == "custom" else device.name
    return (
        f"{what} is unknown: device {device.name!r} has no {gaps}; measure it and calibrate with "
        f"`sparseplan calibrate measurements.csv --device {name} --out mine.toml`"
    )


def cycle_terms(
    device: Device, work: Work, macs: Sequence[tuple[W, int]]
) -> tuple[int, tuple[tuple[W, int], ...]]:  # fmt: skip
    """Integers for a constraint: cycles that a step takes without any MACs, and more under each condition.

    ``macs`` are (condition, MACs) as of a step that may run; ``work.macs`` is not looked at. The
    integers add up to ``price`` of the MACs of any leading part of ``macs``, which is what the
    fractions of a parameter are. Of other subsets they add up to at least as much, to within the
    rounding of one cycle a term, as cycles are convex in MACs.

    Raises:
        DeviceError: naming the rows that the device lacks.
    """
    whole = replace(work, macs=sum(n for _, n in macs))
    if missing := missing_rows(device, whole):
        raise DeviceError(explain(device, missing))
    kernel = _kernel(device, whole)  # held fixed: without MACs another row might count

    def total(done: int) -> int:
        return _price(device, replace(work, macs=done), kernel).total

    base = before = total(0)
    terms, done = [], 0
    for when, n in macs:
        done += n
        here = total(done)
        terms.append((when, here - before))
        before = here
    return base, tuple(terms)


def legs(device: Device, transfer: Transfer) -> tuple[tuple[str, str], ...]:
    """The (source, target) pairs that bytes of a transfer pass: one, or two through L2."""
    direct = (transfer.source, transfer.target)
    staged = ((transfer.source, "L2"), ("L2", transfer.target))
    if (
        "L2" not in direct
        and device.dma_bytes_per_cycle(*direct) is None
        and device.dma_bytes_per_cycle(*staged[0]) is not None
    ):
        return staged
    return (direct,)


def _unknown_legs(device: Device, transfer: Transfer) -> list[tuple[str, str]]:
    pairs = [*legs(device, transfer)]
    if transfer.both:
        pairs += [(b, a) for a, b in pairs]
    return [pair for pair in pairs if device.dma_bytes_per_cycle(*pair) is None]


def _moving(device: Device, t: Transfer) -> Fraction:
    cycles = Fraction(0)
    for source, target in legs(device, t) if t.bytes else ():
        ways = [(source, target), (target, source)] if t.both else [(source, target)]
        rate = min(r for way in ways if (r := device.dma_bytes_per_cycle(*way)) is not None)
        start = max((s for way in ways if (s := device.dma_start_cycles(*way)) is not None), default=0)
        cycles += t.bytes / Fraction(rate) + t.count * Fraction(start)
    return cycles


def _kernel(device: Device, work: Work) -> tuple[float, Basis] | None:
    """The rate that computing follows from, of MACs or of bytes; None where no row applies."""
    key = (work.op, work.pass_, work.dtype)
    mac = best_row(device.mac_rates, *key) if work.macs else None
    byte = best_row(device.byte_rates, *key) if work.touched else None
    if mac is not None and (byte is None or _rank(mac.key) >= _rank(byte.key)):
        return mac.value, "MACs"
    return None if byte is None else (byte.value, "bytes")


def _rank(key: Sequence[str]) -> tuple[bool, ...]:
    return tuple(part != "*" for part in key)


def _price(device: Device, work: Work, kernel: tuple[float, Basis] | None) -> Cycles:
    compute, basis = _compute(device, work, kernel)
    dma = sum((_moving(device, t) for t in work.transfers), Fraction(0))
    total = compute + dma
    if device.double_buffer and work.stages > 1:
        n = work.stages
        total = (compute + dma) / n + max(compute, dma) * Fraction(n - 1, n)
    overlap = math.floor(compute + dma - total)
    return Cycles(math.ceil(compute), math.ceil(dma), math.ceil(total), basis, overlap)


def _compute(device: Device, work: Work, kernel: tuple[float, Basis] | None) -> tuple[Fraction, Basis]:
    moves: Basis = "transfers" if any(t.bytes for t in work.transfers) else "nothing"
    if kernel is None and not work.touched:
        return Fraction(0), moves
    start = best_row(device.start_ups, work.op, work.pass_, work.dtype)
    starting = work.calls * Fraction(0 if start is None else start.value)
    if kernel is None:
        return starting, moves
    rate, basis = kernel
    return starting + (work.macs if basis == "MACs" else work.touched) / Fraction(rate), basis
