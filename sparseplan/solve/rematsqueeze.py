"""Plans of few bytes for many MACs: ops run anew for each reader, and earlier where memory is short.

Right before a step the gradient that it reads is there already, beside what is run again for it. Where that is too
much, the run is put before an earlier step, before that gradient is made, and its result waits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from sparseplan.solve.rematinstance import RematInstance, Rerun, events_of, live_of, macs_of, useful
from sparseplan.solve.rematwindows import each_time

#: reruns at the most of a plan that makes all anew for each reader
MOST_AGAIN = 20_000
#: steps by which runs are put earlier at the most
EARLIER = 12


def squeezed(inst: RematInstance, budget: int, late: Callable[[], bool]) -> tuple[Rerun, ...] | None:
    """A plan within ``budget`` bytes, the fewest MACs first; None where none is found, or it is ``late``."""
    n = len(inst.ops)
    tight: tuple[Rerun, ...] | None = None
    for every in sorted({6, max(2, math.isqrt(n)), n + 1}):
        if late() or every * len(inst.slots) > MOST_AGAIN:
            break
        tight = each_time(inst, [o for o in range(n) if (o + 1) % every])
        if max(live_of(inst, tight)) <= budget:
            break
    else:
        tight = None if tight is None else _earlier(inst, tight, budget, late)
    return None if tight is None or max(live_of(inst, tight)) > budget else thinner(inst, tight, budget, late)


def thinner(inst: RematInstance, reruns: Sequence[Rerun], budget: int, late: Callable[[], bool]) -> tuple[Rerun, ...]:
    """Without reruns of whole ops, or of half their slots, as long as the peak stays within ``budget``.

    First of those ops whose results take least to hold for what they cost.
    """
    current = tuple(reruns)
    size = [sum(inst.tensors[t].size for t in op.writes) for op in inst.ops]
    order = sorted({o for o, _ in current}, key=lambda o: (size[o] / (1 + inst.ops[o].cost), o))
    for o in order:
        slots = sorted(slot for p, slot in current if p == o)
        half = len(slots) // 2
        for gone in (slots, slots[:half], slots[half:]) if half else (slots,):
            if late():
                return current
            trial = useful(inst, [r for r in current if r[0] != o or r[1] not in set(gone)])
            if macs_of(inst, trial) < macs_of(inst, current) and max(live_of(inst, trial)) <= budget:
                current = trial
                break
    return current


def _earlier(
    inst: RematInstance, reruns: Sequence[Rerun], budget: int, late: Callable[[], bool]
) -> tuple[Rerun, ...] | None:
    """The plan with runs before earlier steps, as long as that takes bytes from where there are most."""
    current = tuple(reruns)
    live = live_of(inst, current)
    while (peak := max(live)) > budget:
        step, op = events_of(inst, current)[live.index(peak)]
        where = [s for s in inst.slots if s < step][-EARLIER:]
        moved = [o for o, slot in current if slot == step]
        if op is None and not moved:
            return None  # what is there by then was made before
        rest = [r for r in current if r[1] != step]
        best: tuple[tuple[int, int], tuple[Rerun, ...], list[int]] | None = None
        for slot in reversed(where):
            if late():
                return None
            trial = useful(inst, {*rest, *((o, slot) for o in moved)})
            there = live_of(inst, trial)
            key = max(there), sum(x - budget for x in there if x > budget)
            if best is None or key < best[0]:
                best = key, trial, there
        if best is None or best[0] >= (peak, sum(x - budget for x in live if x > budget)):
            return None
        _, current, live = best
    return current
