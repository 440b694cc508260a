"""Other planners to compare the exact one with: greedy, and brute force. Plain rather than fast.

They share autodiff, lifetimes and tiles with the exact planner, and nothing of its model: what a set
of decisions takes is found by deriving its schedule and counting its bytes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sparseplan.autodiff import differentiate, trace
from sparseplan.device import Device
from sparseplan.errors import ProblemError
from sparseplan.liveness import Memory, analyse
from sparseplan.network import Network
from sparseplan.ops import infos
from sparseplan.plan import PlacedBuffer, Plan
from sparseplan.problem import Problem
from sparseplan.recompute import NO_SAVINGS, Savings, apply
from sparseplan.solve.buffers import groups_of
from sparseplan.solve.place import place
from sparseplan.solve.tiling import Tiling
from sparseplan.steps import (
    MAIN,
    Schedule,
    TrainingOptions,
    UpdateSet,
    packed_parameters,
    reached_by_gradient,
    updatable,
)
from sparseplan.training import holds
from sparseplan.units import align_up


def trainable(network: Network, options: TrainingOptions | None = None) -> tuple[str, ...]:
    """Parameters that a gradient reaches from the losses of options (default: one on the first output)."""
    outputs = None if options is None else options.loss_outputs(network)
    reached = reached_by_gradient(network, infos(network), outputs)
    return tuple(p for p in network.parameters if updatable(network, reached, p))


def memory_of(network: Network, options: TrainingOptions, update: Mapping[str, float]) -> Memory:
    """Lifetimes of every buffer for one update set, by the first option of every choice."""
    return analyse(differentiate(network, UpdateSet(update), options))


def first_fit(memory: Memory, device: Device) -> tuple[tuple[PlacedBuffer, ...], dict[str, int]]:
    """Every group of buffers at the lowest multiple of its level's alignment where nothing else lives."""
    groups: dict[tuple[str, int], list[Any]] = {}
    for b in memory.buffers:
        groups.setdefault((b.level, b.group), []).append(b)
    placed: list[PlacedBuffer] = []
    for (level, _), members in groups.items():
        base, alignment = 0, device.level(level).alignment
        while True:
            clash = [
                q.end - b.offset
                for b in members
                for q in placed
                if q.level == level and b.start < q.stop and q.start < b.stop
                and base + b.offset < q.end and q.offset < base + b.offset + b.bytes
            ]  # fmt: skip
            if not clash:
                break
            base = align_up(max(base + 1, min(clash)), alignment)
        placed += [PlacedBuffer(b.value, b.lo, b.bytes, b.start, b.stop, level, base + b.offset) for b in members]
    peaks = {MAIN: 0}
    for q in placed:
        peaks[q.level] = max(peaks.get(q.level, 0), q.end)
    return tuple(placed), peaks


def plan_of(
    problem: Problem,
    update: Mapping[str, float],
    picks: Mapping[str, str] | None = None,
    savings: Savings = NO_SAVINGS,
) -> Plan:
    """A plan for given decisions, placed by first fit; its bound is what everything would be worth.

    Budgets are not looked at: ``verify`` tells whether it keeps to them.
    """
    graph = trace(problem.network, problem.options, problem.choices)
    schedule = apply(graph.restrict(UpdateSet(update), picks), savings)
    memory = analyse(schedule)
    buffers, peaks = first_fit(memory, problem.device)
    bounds = {level: memory.peak(level) for level in peaks}
    tiles = Tiling(problem.device, graph).tiles(schedule)
    if tiles:
        peaks["L1"] = bounds["L1"] = max(t.l1_bytes for t in tiles)
    worth = problem.worth(update, packed_parameters(problem.network, schedule.steps))
    most = problem.most_worth()
    return Plan(
        problem, "FEASIBLE", worth, max(worth, most),
        update={p: r for p, (r, _) in schedule.update.items()}, picks=schedule.picks, steps=schedule.steps,
        values=tuple(schedule.values.values()), buffers=buffers, tiles=tiles, peak_bytes=peaks,
        lower_bound_bytes=bounds, macs=schedule.macs, method="first fit",
    )  # fmt: skip


class Caps:
    """All limits of a problem but placing: L1 tiles, MACs, frozen parameters in their level."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.graph = trace(problem.network, problem.options, problem.choices)
        self.forbidden = [when for when, _ in Tiling(problem.device, self.graph).forbidden()]

    def respected(self, update: Mapping[str, float], schedule: Schedule) -> bool:
        """Whether a schedule keeps to them."""
        problem = self.problem
        chosen = self.graph.chosen(UpdateSet(update))
        if any(holds(when, chosen) for when in self.forbidden):
            return False
        if problem.max_macs is not None and sum(schedule.macs.values()) > problem.max_macs:
            return False
        level = problem.options.frozen
        capacity = problem.capacity(level)
        if level == MAIN or capacity is None:
            return True
        frozen = (v for v in schedule.values.values() if v.role == "parameter" and v.tensor not in update)
        alignment = problem.device.level(level).alignment
        return sum(align_up(v.bytes, alignment) for v in frozen) <= capacity


def greedy(problem: Problem) -> Plan | None:
    """What a sensible person would do by hand: from what must be updated, add the update of most value a byte
    of parameter, the largest fraction first, as long as first fit finds room.

    None where not even the least update fits so.
    """
    caps, capacity = Caps(problem), problem.capacity(MAIN)

    def fits(update: Mapping[str, float]) -> Plan | None:
        plan = plan_of(problem, update)
        schedule = caps.graph.restrict(UpdateSet(update))
        within = capacity is None or plan.peak_bytes[MAIN] <= capacity
        return plan if within and caps.respected(update, schedule) else None

    best = fits(problem.least_update())
    if best is None:
        return None
    elements = {p: problem.network.tensor[p].elements for p in problem.choices}
    tied = {p for tie in problem.ties for p in tie}
    units = [*problem.ties, *((p,) for p in problem.choices if p not in tied)]
    moves = [level for unit in units for level in problem.joint_levels(unit)]

    def density(level: Mapping[str, float]) -> float:
        return sum(problem.values[p][r] for p, r in level.items()) / sum(r * elements[p] for p, r in level.items())

    for level in sorted(moves, key=lambda move: (-density(move), -sum(move.values()), *move)):
        update = {**best.update, **level}
        if all(best.update.get(p, 0.0) < r for p, r in level.items()) and problem.worth(update) > best.objective:
            best = fits(update) or best
    return best


@dataclass(frozen=True)
class Option:
    """One set of decisions: its worth, MACs and live bytes."""

    update: Mapping[str, float]
    picks: Mapping[str, str]
    worth: float
    macs: int
    peak: int
    memory: Memory


def count_update_sets(problem: Problem) -> int:
    """How many update sets brute force would try, picks aside."""
    return math.prod(1 + len(r) for r in problem.choices.values())


def _updates(problem: Problem) -> Iterator[dict[str, float]]:
    names = list(problem.choices)
    for chosen in itertools.product(*((0.0, *problem.choices[p]) for p in names)):
        update = {p: r for p, r in zip(names, chosen, strict=True) if r}
        if problem.allowed(UpdateSet(update)):
            yield update


def _schedules(problem: Problem, update: Mapping[str, float], most: int) -> Iterator[Schedule]:
    """Every schedule of an update set, from a graph of its own: nothing in it is conditional."""
    graph = trace(problem.network, problem.options, {p: (r,) for p, r in update.items()})
    if math.prod(len(p.options) for p in graph.picks) > most:
        raise ProblemError(f"more than most={most} ways to keep what the backward pass of {list(update)} needs")
    for options in itertools.product(*(p.options for p in graph.picks)):
        yield graph.restrict(UpdateSet(update), {p.op: o for p, o in zip(graph.picks, options, strict=True)})


def every_option(problem: Problem, most: int) -> list[Option]:
    """Every set of decisions whose live bytes and other costs keep to the problem's limits.

    Raises:
        ProblemError: there are more than ``most``.
    """
    caps, capacity = Caps(problem), problem.capacity(MAIN)
    found: list[Option] = []
    tried = 0
    for update in _updates(problem):
        for schedule in _schedules(problem, update, most - tried):
            tried += 1
            if tried > most:
                raise ProblemError(f"more than most={most} sets of decisions; drop choices, or raise most")
            if not caps.respected(update, schedule):
                continue
            memory = analyse(schedule)
            if capacity is None or memory.peak() <= capacity:
                macs = sum(schedule.macs.values())
                found.append(Option(update, schedule.picks, problem.worth(update), macs, memory.peak(), memory))
    return found


def brute_force(problem: Problem, most: int = 2000) -> Option | None:
    """The best set of decisions by trying all: most value, then fewest MACs, then lowest peak of live bytes,
    among those that can be placed. None where there is none.

    Raises:
        ProblemError: there are more than ``most`` to try.
    """
    capacity = problem.capacity(MAIN)
    for option in sorted(every_option(problem, most), key=lambda o: (-o.worth, o.macs, o.peak)):
        if capacity is None:
            return option
        if place(groups_of(option.memory), capacity, problem.options.alignment).status == "PLACED":
            return option
    return None
