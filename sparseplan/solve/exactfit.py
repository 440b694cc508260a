"""Exact placing of rigid groups below given bases, by CP-SAT, in whole units as in ``firstfit``."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from ortools.sat.python import cp_model

from sparseplan.solve import cpsat
from sparseplan.solve.clock import Clock, OutOfTime
from sparseplan.solve.firstfit import Block, Ints, orders, sections

PlacementStatus = Literal["PLACED", "IMPOSSIBLE", "UNKNOWN"]

# Deterministic seconds (each ten or more of wall clock) of every search in the first round, doubled in each later
# one: the instances that fall at all mostly fall to some order within a fifth of a wall-clock second.
_FIRST_WORK = 0.01
# The same for each span of a no-overlap: CP-SAT counts less than it works where these are many.
_SPAN_WORK = 2e-6

# Spans of all no-overlaps together beyond which no model is made under a limit of seconds: a gigabyte.
_SPANS = 3_000_000

# Searches in turn, with multiples of the round's limit. The first two suit training graphs, whose tightest cases fall
# to packing alone; the others suit the public instances.
_SEARCHES = {"longest-lived": 2, "packing": 8, "overlaps": 1, "area": 1, "stop": 1, "start": 1, "crowded": 1, "size": 1}
# Presolve costs more than it brings here: sections are maximal and distinct already.
_FIXED = {"search_branching": cp_model.FIXED_SEARCH, "linearization_level": 0, "cp_model_presolve": False}
_PACKING = {
    "linearization_level": 0,
    "use_energetic_reasoning_in_no_overlap_2d": True,
    "use_area_energetic_reasoning_in_no_overlap_2d": True,
}


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a block fits: proven if IMPOSSIBLE, open if UNKNOWN; ``base`` of each group, empty unless PLACED."""

    status: PlacementStatus
    method: str
    base: Ints = field(default_factory=lambda: np.zeros(0, dtype=np.int64))


def decide(block: Block, top: Ints, clock: Clock, rounds: range | None = None) -> Decision:
    """Place every group at its highest base or below, or prove that it cannot be done.

    Args:
        block: what to place.
        top: the highest base allowed to each group, >= 0.
        clock: wall-clock and deterministic seconds that may be used.
        rounds: which rounds of search to do (each has twice the limits of the one before); None for all it takes.
    """
    if clock.limits.seconds is not None and int((block.stop - block.start).sum()) > _SPANS:
        return Decision("UNKNOWN", "limits")  # a model that is not made in time
    known = orders(block)
    try:
        base, spans = _stacking(block, top, clock)
    except OutOfTime:
        return Decision("UNKNOWN", "limits")
    models: dict[str, cp_model.CpModel] = {}
    first = _FIRST_WORK + _SPAN_WORK * spans
    for number in rounds or itertools.count():
        for name, times in _SEARCHES.items():
            if clock.passed():
                return Decision("UNKNOWN", "limits")
            if name not in models:
                models[name] = _packing(block, top) if name == "packing" else _ordered(base, known[name])
            left = clock.left(work=first * 2**number * times)
            outcome = cpsat.solve(models[name], left, parameters=_PACKING if name == "packing" else _FIXED)
            clock.spend(outcome.work)
            if outcome.solved:
                return Decision("PLACED", f"CP-SAT, {name}", np.array(outcome.values[: block.count], dtype=np.int64))
            if outcome.status == "INFEASIBLE":
                return Decision("IMPOSSIBLE", f"CP-SAT, {name}")
    return Decision("UNKNOWN", "limits")


def _bases(model: cp_model.CpModel, top: Ints) -> list[cp_model.IntVar]:
    return [model.new_int_var(0, highest, f"base{g}") for g, highest in enumerate(top.tolist())]


def _stacking(block: Block, top: Ints, clock: Clock) -> tuple[cp_model.CpModel, int]:
    """One no-overlap of offsets a section, and how many spans these have in all. The variables are the bases."""
    model = cp_model.CpModel()
    base = _bases(model, top)
    spans: dict[tuple[int, int, int], cp_model.IntervalVar] = {}
    count = 0
    for section in sections(block, clock.check):
        if len({g for g, _, _ in section}) < 2:
            continue
        for span in section:
            if span not in spans:
                g, offset, size = span
                spans[span] = model.new_fixed_size_interval_var(base[g] + offset, size, f"span{g}+{offset}:{size}")
        model.add_no_overlap([spans[span] for span in section])
        count += len(section)
    return model, count


def _ordered(stacking: cp_model.CpModel, order: Sequence[int]) -> cp_model.CpModel:
    """Groups settle lowest first, the earliest in ``order`` breaking ties."""
    model = stacking.clone()
    base = [model.get_int_var_from_proto_index(g) for g in order]
    model.add_decision_strategy(base, cp_model.CHOOSE_LOWEST_MIN, cp_model.SELECT_MIN_VALUE)
    return model


def _packing(block: Block, top: Ints) -> cp_model.CpModel:
    """All rectangles in one no-overlap of steps × offsets: stronger proofs that nothing fits."""
    model = cp_model.CpModel()
    base = _bases(model, top)
    steps, offsets = [], []
    columns = (block.owner, block.offset, block.size, block.start, block.stop)
    for g, offset, size, start, stop in zip(*(c.tolist() for c in columns), strict=True):
        steps.append(model.new_fixed_size_interval_var(start, stop - start, "steps"))
        offsets.append(model.new_fixed_size_interval_var(base[g] + offset, size, "offsets"))
    model.add_no_overlap_2d(steps, offsets)
    return model
