"""Fewer recomputed MACs for decisions whose MACs the 0/1 program could not prove least, as on large networks.

With the update set and the ways in which backward gets what it needs held, what is left is recomputation alone,
for which ``rematintervals`` scales to a thousand ops. What it finds is taken where it is better.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from sparseplan.liveness import analyse
from sparseplan.recompute import Savings, apply
from sparseplan.solve.cpsat import Limits
from sparseplan.solve.rematinstance import instance
from sparseplan.solve.rematintervals import solve_intervals
from sparseplan.solve.select import Decisions
from sparseplan.steps import Schedule, UpdateSet
from sparseplan.training import TrainingGraph

#: seconds at most for one search
SECONDS = 20.0


def fewer_macs(graph: TrainingGraph, decisions: Decisions, budget: int, limits: Limits) -> Decisions:
    """Decisions of the same value with fewer MACs in live bytes within ``budget``; the given ones if none are found.

    Looked for with the given picks and with the first option of each. Only where nothing but ops that run again
    saves bytes; else the given ones are returned.
    """
    made = decisions.savings
    if made.fetches or made.packed or made.moved:
        return decisions
    held = _schedule(graph, decisions)
    best, least = decisions, _macs(held)
    if analyse(held).peak() > budget:
        least = 1 << 62  # anything that fits is better
    seconds = SECONDS if limits.seconds is None else min(SECONDS, 0.5 * limits.seconds)
    ways: list[Mapping[str, str]] = [decisions.picks]
    if any(p.options[0] != decisions.picks.get(p.op, p.options[0]) for p in graph.picks):
        ways.append({})
    for picks in ways:
        base = graph.restrict(UpdateSet(decisions.update), picks)
        answer = solve_intervals(instance(base), budget, replace(limits, seconds=seconds), close=0.002)
        if answer.status not in ("OPTIMAL", "FEASIBLE"):
            continue
        reruns = frozenset((base.steps[o].op, base.steps[i].name) for o, i in answer.reruns)
        found = Decisions(decisions.update, base.picks, Savings(reruns))
        if (macs := _macs(_schedule(graph, found))) < least:
            best, least = found, macs
    return best


def _schedule(graph: TrainingGraph, decisions: Decisions) -> Schedule:
    return apply(graph.restrict(UpdateSet(decisions.update), decisions.picks), decisions.savings)


def _macs(schedule: Schedule) -> int:
    return sum(schedule.macs.values())
