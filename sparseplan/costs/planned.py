"""Cycles, seconds, joules and traffic of a plan: a row a step, totals, and a whole training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sparseplan.costs.cycles import Cycles, Missing, Work, explain, legs, missing_rows, price
from sparseplan.costs.energy import basis_of, energy_gaps, joules_of
from sparseplan.costs.work import away_from_main, pass_name, work_of
from sparseplan.device import Device
from sparseplan.errors import DeviceError, PlanError
from sparseplan.network import Network
from sparseplan.ops import OpInfo, infos
from sparseplan.plan import Plan, PlannedTile
from sparseplan.rates import best_row
from sparseplan.scalars import plain_arguments
from sparseplan.steps import Step, Value

#: phases of a training step, by kind of step; kinds not listed are part of backward
PHASES = {"forward": "forward", "recompute": "recompute", "update": "update", "page_out": "paging", "page_in": "paging"}


@dataclass(frozen=True, slots=True)
class StepCost:
    """What one step takes.

    Attributes:
        cycles: None where a row is missing; then ``missing`` says which.
    """

    name: str
    kind: str
    op: str
    work: Work
    cycles: Cycles | None
    missing: tuple[Missing, ...] = ()

    def __post_init__(self) -> None:
        if (self.cycles is None) != bool(self.missing):
            raise PlanError(f"cost of step {self.name!r}: cycles={self.cycles} with missing={self.missing}")

    @property
    def phase(self) -> str:
        """forward, backward, recompute, update or paging."""
        return PHASES.get(self.kind, "backward")


@dataclass(frozen=True, slots=True)
class Training:
    """What a whole training takes: runs of the schedule, updates, cycles, seconds, joules (None: unknown)."""

    samples: int
    epochs: int
    runs: int
    updates: int
    cycles: int
    seconds: float | None
    joules: float | None


@dataclass(frozen=True)
class PlanCosts:
    """What one run of a plan's schedule takes (``batch`` samples, forward, backward and updates).

    Totals are None where a row is missing: ``missing`` says which, ``require`` raises.

    Attributes:
        batch: samples a run.
        accumulates: updates run once after several runs, not in each.
        notes: what the figures leave out.
    """

    device: Device
    dtype: str
    batch: int
    steps: tuple[StepCost, ...]
    accumulates: bool = False
    notes: tuple[str, ...] = ()

    @property
    def missing(self) -> tuple[Missing, ...]:
        """Rows that cycles would need, sorted."""
        return tuple(sorted({m for s in self.steps for m in s.missing}))

    @property
    def cycles(self) -> int | None:
        """Cycles of one run."""
        return _total(self.steps)

    @property
    def phases(self) -> dict[str, int | None]:
        """Cycles of each phase that has steps: forward, backward, recompute, update, paging."""
        found = dict.fromkeys(s.phase for s in self.steps)
        return {p: _total([s for s in self.steps if s.phase == p]) for p in found}

    @property
    def hidden(self) -> float | None:
        """Share of the cycles of transfers that pass behind computing; None if unknown, or without any."""
        known = [s.cycles for s in self.steps if s.cycles is not None]
        dma = sum(c.dma for c in known)
        if self.missing or not dma:
            return None
        return sum(c.overlap for c in known) / dma

    @property
    def traffic(self) -> dict[tuple[str, str], int]:
        """Bytes moved in one run, by pair of levels, both ways together; faster level first."""
        found: dict[tuple[str, str], int] = {}
        order = [v.name for v in self.device.levels]
        for transfer in (t for s in self.steps for t in s.work.transfers):
            for pair in legs(self.device, transfer):
                a, b = sorted(pair, key=lambda n: order.index(n) if n in order else len(order))
                found[a, b] = found.get((a, b), 0) + transfer.bytes
        return {pair: n for pair, n in sorted(found.items()) if n}

    @property
    def seconds(self) -> float | None:
        """Seconds of one run at the device's clock."""
        return self._seconds(self.cycles)

    @property
    def joules(self) -> float | None:
        """Joules of one run, see ``energy_basis``."""
        return self._joules(self.cycles, self.steps)

    @property
    def energy_basis(self) -> str:
        """What joules follow from: power, MACs and bytes, or nothing known."""
        return basis_of(self.device, self._works)

    @property
    def unknown(self) -> str | None:
        """One line on what is missing for time, or None."""
        missing = [*self.missing] + ([Missing("clock_hz")] if self.device.clock_hz is None else [])
        return explain(self.device, missing) if missing else None

    @property
    def energy_unknown(self) -> str | None:
        """One line on what is missing for energy, or None."""
        gaps = [*energy_gaps(self.device, self._works)]
        if self.device.power:
            gaps += [*self.missing] + ([Missing("clock_hz")] if self.device.clock_hz is None else [])
        return explain(self.device, gaps, "energy") if gaps else None

    def require(self) -> PlanCosts:
        """Itself, where time is known.

        Raises:
            DeviceError: naming each row that is missing, and how to come by it.
        """
        if self.unknown is not None:
            raise DeviceError(self.unknown)
        return self

    @plain_arguments
    def for_training(self, samples: int, epochs: int = 1, accumulate: int = 1) -> Training:
        """A whole training: every sample once an epoch, ``batch`` of them a run.

        ``accumulate`` runs share one update, where gradients are accumulated. Loading samples and
        labels takes what it takes: nothing is counted for it.

        Raises:
            DeviceError: cycles are unknown.
            PlanError: a count below 1.
        """
        for name, n in (("samples", samples), ("epochs", epochs), ("accumulate", accumulate)):
            if isinstance(n, bool) or not isinstance(n, int) or n < 1:
                raise PlanError(f"{name}={n!r} must be a whole number, at least 1")
        if self.missing:
            raise DeviceError(explain(self.device, self.missing))
        runs = -(-samples // self.batch) * epochs
        updates = -(-(runs // epochs) // accumulate) * epochs if self.accumulates else runs
        often = [(s, updates if s.kind == "update" else runs) for s in self.steps]
        cycles = sum(n * s.cycles.total for s, n in often if s.cycles is not None)
        once, repeated = [s for s, n in often if n == runs], [s for s, n in often if n != runs]
        parts = [self._joules(_total(group), group) for group in (once, repeated)]
        joules = None if None in parts else (parts[0] or 0.0) * runs + (parts[1] or 0.0) * updates
        return Training(samples, epochs, runs, updates, cycles, self._seconds(cycles), joules)

    def to_json(self) -> dict[str, Any]:
        """Totals as plain data; None where unknown."""
        return {
            "cycles": self.cycles,
            "seconds": self.seconds,
            "joules": self.joules,
            "energy_basis": self.energy_basis or None,
            "cycles_by_phase": self.phases,
            "dma_bytes": {f"{a}-{b}": n for (a, b), n in self.traffic.items()},
            "dma_hidden": self.hidden,
            "missing": [{"table": m.table, "key": list(m.key)} for m in self.missing],
            "unknown": self.unknown,
            "notes": list(self.notes),
        }

    def _seconds(self, cycles: int | None) -> float | None:
        return None if cycles is None or self.device.clock_hz is None else cycles / self.device.clock_hz

    def _joules(self, cycles: int | None, steps: Sequence[StepCost]) -> float | None:
        return joules_of(self.device, (s.work for s in steps), cycles)

    @property
    def _works(self) -> list[Work]:
        return [s.work for s in self.steps]


def plan_costs(plan: Plan, network: Network | None = None) -> PlanCosts:
    """What a run of a plan takes on its device. What is unknown is None and named, see ``PlanCosts``.

    Args:
        network: whose ops the steps name, if that is not the plan's own.

    Raises:
        PlanError: the plan has no schedule.
    """
    if not plan.feasible:
        raise PlanError(f"status={plan.status}: a plan without a schedule takes no time to tell")
    options, device = plan.problem.options, plan.problem.device
    return step_costs(
        plan.steps, device, options.dtype, table=infos(network or plan.network), tiles=plan.tiles,
        values=plan.values, batch=options.batch, accumulates=options.gradients == "accumulate",
    )  # fmt: skip


def step_costs(
    steps: Iterable[Step],
    device: Device,
    dtype: str,
    *,
    table: Mapping[str, OpInfo],
    tiles: Iterable[PlannedTile] = (),
    values: Iterable[Value] = (),
    batch: int = 1,
    accumulates: bool = False,
) -> PlanCosts:
    """Costs of steps in order; ``table`` has the ops that they name, ``values`` tells what lies outside L2."""
    by_pass = {(t.op, t.pass_): t for t in tiles}
    levels = away_from_main((v.name, v.level) for v in values)
    rows = []
    for step in steps:
        work = work_of(
            step, step.macs, device, dtype, info=table.get(step.op), batch=batch, levels=levels,
            tile=by_pass.get((step.op, pass_name(step.kind, step.target))),
        )  # fmt: skip
        missing = missing_rows(device, work)
        cycles = None if missing else price(device, work)
        rows.append(StepCost(step.name, step.kind, step.op, work, cycles, missing))
    return PlanCosts(device, dtype, batch, tuple(rows), accumulates, _notes(device, rows))


def _total(steps: Sequence[StepCost]) -> int | None:
    known = [s.cycles.total for s in steps if s.cycles is not None]
    return sum(known) if len(known) == len(steps) else None


def _notes(device: Device, rows: Sequence[StepCost]) -> tuple[str, ...]:
    notes = []
    kernels = [r.work for r in rows if r.work.calls and (r.work.macs or r.work.touched)]
    bare = sum(best_row(device.start_ups, w.op, w.pass_, w.dtype) is None for w in kernels)
    if bare:
        notes.append(f"start_cycles: unknown for {bare} of {len(kernels)} kernels and counted as none: a lower bound")
    pairs = dict.fromkeys(p for r in rows for t in r.work.transfers if t.bytes for p in legs(device, t))
    slow = [f"{a}→{b}" for a, b in pairs if device.dma_start_cycles(a, b) is None]
    if slow:
        notes.append(f"dma_start_cycles: unknown for {', '.join(slow)} and counted as none: a lower bound")
    moved = sum(1 for r in rows if r.cycles is not None and r.cycles.basis == "transfers" and r.work.touched)
    if moved:
        notes.append(f"{moved} element-wise steps take what moving their bytes takes (no bytes_per_cycle)")
    if device.has("L1") and device.level("L1").usable is None:
        notes.append("L1: size unknown, so nothing is tiled and every step moves its data once: a lower bound")
    return tuple(notes)
