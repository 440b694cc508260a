"""Plans that take next to no search: no worse than these is a search that was cut short.

Greedy choices, the best decisions without savings, what has to be updated and nothing else, and the decisions of
least peak. They prove nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from sparseplan.solve.again import INT8, PAGE, RECOMPUTE, STREAM
from sparseplan.solve.clock import OutOfTime
from sparseplan.solve.fewer import fewer_macs
from sparseplan.solve.greedy import greedy
from sparseplan.solve.select import Decisions
from sparseplan.steps import MAIN, UpdateSet

if TYPE_CHECKING:
    from sparseplan.solve.pipeline import Found, Pipeline

#: savings that make the 0/1 program larger
PROGRAMMED = frozenset((RECOMPUTE, PAGE, STREAM, INT8))
#: share of the remaining time for one of them, and seconds that each gets even when late
SHARE, LEAST_SECONDS = 0.25, 1.0
#: parts of the budget that are left free for placing where a search has failed
ROOM = (64, 8)


def unsearched(search: Pipeline, live: int | None) -> Decisions | None:
    """Good decisions that take next to no search, of live bytes within ``live``; None where the least take more."""
    seconds = search.limits.seconds
    clock = search.clock.part(None if seconds is None else max(SHARE * seconds, LEAST_SECONDS))

    def fits(update: Mapping[str, float]) -> bool:
        return not clock.late() and search.allowed(Decisions(update, {}), live)

    update = greedy(search.problem, fits)
    quick = None if update is None else Decisions(update, search.graph.restrict(UpdateSet(update)).picks)
    known = [d for d in (quick, without_savings(search, live)) if d is not None]
    return max(known, key=search.worth, default=None)


def without_savings(search: Pipeline, live: int | None) -> Decisions | None:
    """The best decisions that save nothing: a far smaller program, whose answers are answers to this one."""
    if not set(search.problem.savings) & PROGRAMMED:
        return None
    if search.plain is None:
        if not search.affordable(()):
            return None
        try:
            search.plain = search.built(replace(search.problem, savings=()), search.clock.check)
        except OutOfTime:
            return None
    search.plain.ask(replace(search.problem, savings=()))
    capacity = search.problem.capacity(MAIN)
    margin = 0 if capacity is None or live is None else capacity - live
    return search.plain.select(search.part(SHARE), margin, None, ("macs",)).decisions


def obliged(search: Pipeline) -> Found | None:
    """What has to be updated and nothing else, with ops run again where that is needed to fit."""
    capacity = search.problem.capacity(MAIN)
    decisions = Decisions(search.problem.least_update(), {})
    if capacity is None or RECOMPUTE not in search.problem.savings or search.lowered.groups:
        return None
    search.progress("looking for what fits with ops run again")
    decisions = fewer_macs(search.graph, decisions, capacity, search.part(SHARE))
    found = search.placed(decisions) if search.allowed(decisions) else None
    return None if isinstance(found, int) else found


def fallback(search: Pipeline) -> Found | None:
    """Some plan, where the search for the best ones found none that can be placed.

    First what takes no search, with some room for placing; then what has to be updated and nothing else; then
    the decisions of least peak.
    """
    capacity = search.problem.capacity(MAIN)
    least = Decisions(search.problem.least_update(), {})
    for way in (*ROOM, "obliged", "least", "cheapest"):
        if search.early is not None and search.clock.late():
            return search.early
        decisions: Decisions | None = None
        if isinstance(way, int):
            decisions = None if capacity is None else unsearched(search, capacity - capacity // way)
        elif way == "obliged":
            if (found := obliged(search)) is not None:
                return found
        elif way == "least":
            decisions = least if search.allowed(least) else None
        else:
            decisions = search.cheapest()
        placed = None if decisions is None else search.placed(decisions)
        if placed is not None and not isinstance(placed, int):
            return replace(placed, selection=replace(placed.selection, ties={}))
    return None
