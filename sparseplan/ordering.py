"""Steps in another order, within data dependencies, where that lowers the peak of live bytes.

A schedule comes with its parameter gradients before input gradients, updates as soon as they may run and
what is recomputed right before its reader; forward order is the network's. Branches, and steps that only
free or only take bytes, can often be moved further: ``reordered`` moves steps that need not run at the
peak behind it, and steps that free bytes before it, as long as that helps. Sums keep their order, so
that results stay the same bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from sparseplan.liveness import Memory, analyse
from sparseplan.steps import Schedule, Step

#: schedules of more steps stay as they are: each move takes a count of all bytes
MOST_STEPS = 600
#: moves that are tried at most
MOST_MOVES = 4000


def reordered(schedule: Schedule, most_moves: int = MOST_MOVES, late: Callable[[], bool] = lambda: False) -> Schedule:
    """The schedule with steps moved so that its peak is lower; itself where no move helps, or it is too ``late``.

    A descent: of all single moves at a peak, the first that lowers the peak or the number of steps at it is
    taken. Not exact.
    """
    if len(schedule.steps) > MOST_STEPS:
        return schedule
    best, memory = schedule, analyse(schedule)
    rank, tried = _rank(memory), 0
    improved = True
    while improved and tried < most_moves and not late():
        improved = False
        live = memory.at("L2")
        if not live:
            break
        top = live.index(max(live))
        depends = _dependencies(best.steps)
        for order in _moves(best, depends, top):
            tried += 1
            steps = tuple(best.steps[i] for i in order)
            candidate = replace(best, steps=steps)
            found = analyse(candidate)
            if _rank(found) < rank:
                best, memory, rank, improved = candidate, found, _rank(found), True
                break
            if tried >= most_moves or late():
                break
    return best


def _rank(memory: Memory) -> tuple[int, int]:
    live = memory.at("L2")
    peak = max(live, default=0)
    return peak, live.count(peak)


def _dependencies(steps: tuple[Step, ...]) -> list[set[int]]:
    """For each step, earlier ones that must stay before it: where one of both writes what the other uses."""
    found: list[set[int]] = []
    readers: dict[str, set[int]] = {}
    writers: dict[str, set[int]] = {}
    last = next((i for i in range(len(steps) - 1, -1, -1) if steps[i].kind != "update"), len(steps) - 1) + 1
    for i, step in enumerate(steps):
        reads = {s.value for a in step.reads for s in a.spans}
        writes = {s.value for a in step.writes for s in a.spans}
        before: set[int] = set()
        for v in reads | writes:
            before |= writers.get(v, set())
        for v in writes:
            before |= readers.get(v, set())
        if i >= last:  # updates of accumulated gradients stay at the end
            before |= set(range(last))
        for x in (x for _, x in step.inplace):  # what is overwritten has been read by all others
            before |= {j for j in readers.get(x, set()) if j != i}
        found.append(before)
        for v in reads:
            readers.setdefault(v, set()).add(i)
        for v in writes:
            writers.setdefault(v, set()).add(i)
    return found


def _moves(schedule: Schedule, depends: list[set[int]], top: int) -> list[list[int]]:
    """Orders that differ by one step, with what depends on it or what it depends on, moved over the peak step."""
    count = len(schedule.steps)
    orders: list[list[int]] = []
    for i in range(top, -1, -1):  # later: the step, with all before the peak that depend on it, behind the peak
        moved = {i}
        for j in range(i + 1, top + 1):
            if depends[j] & moved:
                moved.add(j)
        if top not in moved or i == top:
            rest = [j for j in range(top + 1) if j not in moved]
            if i != top:
                orders.append([*rest, *sorted(moved), *range(top + 1, count)])
    for i in range(top + 1, count):  # earlier: the step, with all behind the peak that it depends on
        moved = {i}
        for j in range(i - 1, top - 1, -1):
            if any(j in depends[k] for k in moved):
                moved.add(j)
        if top not in moved:
            rest = [j for j in range(top, count) if j not in moved]
            orders.append([*range(top), *sorted(moved), *rest])
    return orders
