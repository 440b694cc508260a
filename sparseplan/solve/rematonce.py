"""Plans that run each op again at most once, as late as its readers allow: one literal an op, plans for large graphs.

Which ops are dropped after the forward run says everything: a dropped op is run again at its first reader in backward,
or at the first rerun that needs it (``rematwindows.dropped``). Rows of bytes are added only at the base steps where
plans were seen to exceed the budget, and lowered there by what remains over. The program is a heuristic: it ignores
what lives only between two reruns of one slot. Its plans are counted exactly, and give no bound.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from sparseplan.solve.clock import Clock, OutOfTime
from sparseplan.solve.linear01 import Program01, solve_highs
from sparseplan.solve.rematinstance import RematInstance, events_of, live_of
from sparseplan.solve.rematwindows import Progress, dropped, fewer


class Once:
    """Literals of dropped ops, and for each watched base step one an op: run again before or at that step."""

    def __init__(self, inst: RematInstance, rooms: dict[int, int], look: Callable[[], None]) -> None:
        """``rooms``: bytes at each watched base step; ``look``: called again and again, to raise where time is up."""
        self.inst, self.n = inst, len(inst.ops)
        self.program = Program01()
        self.until_tensor, self.until_op = inst.useful_until()
        self.readers = inst.readers()
        self.drop = {o: self.program.var() for o in range(self.n) if self.until_op[o] > self.n}
        for o, v in self.drop.items():
            self.program.objective[v] = inst.ops[o].cost
        self.first = [
            min((i for t in op.writes for i in self.readers[t] if i > self.n), default=None) for op in inst.ops
        ]
        for o, v in self.drop.items():
            for t in inst.ops[o].reads:
                p = inst.tensors[t].op
                if p in self.drop and max(self.readers[t]) < self.n:  # nothing but reruns reads it: not worth holding
                    self.program.least([(self.drop[p], 1), (v, -1)], 0)
        for step, room in sorted(rooms.items()):
            look()
            self._row(step, room)

    def _row(self, at: int, room: int) -> None:
        inst, program = self.inst, self.program
        again: dict[int, int | None] = {}  # op -> literal of "dropped and run again by then"; None: surely so
        for o in reversed(range(self.n)):
            if o not in self.drop:
                continue
            first = self.first[o]
            if first is not None and first <= at:
                again[o] = None
                continue
            consumers = [c for t in inst.ops[o].writes for c in self.readers[t] if c in again]
            if not consumers:
                continue
            v = program.var()
            program.continuous.add(v)
            for c in set(consumers):
                # of a consumer that is dropped and run again for sure, its literal is that of being dropped
                other = self.drop[c] if again[c] is None else again[c]
                assert other is not None
                program.least([(v, 1), (other, -1), (self.drop[o], -1)], -1)
            again[o] = v
        step = inst.steps[at - self.n]
        base = step.fixed
        terms: list[tuple[int, int]] = []
        overwritten = {t for g in step.overwrites for t in g}
        for t, tensor in enumerate(inst.tensors):
            later = [i for i in self.readers[t] if i > at]
            if (t in step.reads and t not in overwritten) or (tensor.op < 0 and self.until_tensor[t] > at):
                base += tensor.size
            elif later:
                base += tensor.size
                literal = self.drop.get(tensor.op)
                if literal is None or (tensor.op in again and again[tensor.op] is None):
                    continue
                terms.append((literal, -tensor.size))
                if (back := again.get(tensor.op)) is not None:
                    terms.append((back, tensor.size))
        program.most(terms, room - base)


def search(inst: RematInstance, budget: int, best: Progress, clock: Clock) -> None:
    """Offer plans to ``best`` until one fits the budget, or time is up."""
    with suppress(OutOfTime):
        _search(inst, budget, best, clock)


def _search(inst: RematInstance, budget: int, best: Progress, clock: Clock) -> None:
    n = len(inst.ops)
    rooms = {n: budget, **{inst.slots[k * len(inst.slots) // 16]: budget for k in range(1, 10)}}
    for _ in range(100):
        if clock.passed():
            return
        once = Once(inst, rooms, clock.check)
        left = clock.left().seconds
        part = None if left is None else max(1.0, 0.2 * left)
        result = solve_highs(once.program, clock.left(seconds=part), gap=0.005)
        if not result.values:
            return
        plan = dropped(inst, [o for o, v in once.drop.items() if result.values[v]])
        if best.offer(inst, plan, budget):
            best.offer(inst, fewer(inst, plan, budget, Clock(clock.left(seconds=4.0)).late), budget)
            return
        worst: dict[int, int] = {}
        for (step, _), live in zip(events_of(inst, plan), live_of(inst, plan), strict=True):
            if live > budget:
                worst[max(step, n)] = max(worst.get(max(step, n), 0), live - budget)
        picked: list[int] = []
        for step in sorted(worst, key=lambda i: (-worst[i], i)):  # neighbours say the same
            if len(picked) < 4 and all(abs(step - other) > n // 30 for other in picked):
                picked.append(step)
        for step in picked:
            rooms[step] = rooms[step] - worst[step] if step in rooms else budget
