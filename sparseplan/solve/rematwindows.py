"""Recomputation on a few moments only: a bound from what every plan holds there, and plans from its solutions.

A plan is watched at some base steps, the *moments*. Between two of them, in a *window*, any op may be run again, any
number of times and in any order, as if memory were no limit there. What remains is a 0/1 program of (ops × windows):
``held[t, i]``, a copy of ``t`` that exists at moment ``i`` is read after it; ``again[o, i]``, ``o`` is run again in
window ``i``; a row of bytes a moment. Its optimum is a lower bound on the added MACs of every plan, whatever the
moments; with the loss as the one moment it is the knapsack of what may be held across the loss, closed under "to run
an op again, have its inputs or run those again".

Each solution says which ops to run again in which window. Put as late as their first readers allow, they make a plan
that ``rematinstance`` counts exactly. Where that exceeds the budget, the base step becomes a moment, so the program is
refined only where it was too kind; and the plan is sought at a lower budget until it fits the true one.
"""

from __future__ import annotations

import bisect
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from sparseplan.solve.clock import OutOfTime
from sparseplan.solve.cpsat import Clock, Limits, solve
from sparseplan.solve.linear01 import Program01, Result01, solve_cpsat, solve_highs
from sparseplan.solve.rematinstance import (
    RematInstance,
    RematOp,
    RematStep,
    Rerun,
    events_of,
    live_of,
    macs_of,
    peak_of,
    useful,
)
from sparseplan.solve.rematmatrix import SEARCH, Matrix

#: plans are sought to this relative distance from the program's optimum; the bound is not touched by it
_CLOSE = 0.002


def losses_of(inst: RematInstance) -> int:
    """Number of losses, the first of the base steps: nothing runs again before any of them."""
    first = next((i for i, s in enumerate(inst.steps) if s.gap is not None), 1)
    return max(first, 1)


class Windows:
    """The program over the given moments.

    Args:
        moments: base steps from the first loss on; losses are always among them.
        budget: bytes at each moment, in the forward run too.
        look: called again and again while the program is built; what it raises ends that, as where time is up.
    """

    def __init__(
        self, inst: RematInstance, moments: Sequence[int], budget: int, look: Callable[[], None] = lambda: None
    ) -> None:
        self.inst, self.n, self.budget, self.look = inst, len(inst.ops), budget, look
        self.end = self.n + len(inst.steps)
        losses = {self.n + k for k in range(losses_of(inst))}  # nothing runs again between them
        self.moments = sorted({*losses, *(m for m in moments if self.n <= m < self.end)})
        self.program = Program01()
        self.held: dict[tuple[int, int], int] = {}
        self.again: dict[tuple[int, int], int] = {}
        self.until_tensor, self.until_op = inst.useful_until()
        self.readers = inst.readers()
        self._variables()
        for i in range(len(self.moments)):
            self.look()
            self._window(i)
            self._moment(i)
        self._forward()

    def last(self, i: int) -> int:
        """The last base step of window ``i``; the first one is the step after moment ``i``."""
        return self.moments[i + 1] if i + 1 < len(self.moments) else self.end - 1

    def _variables(self) -> None:
        for i, moment in enumerate(self.moments):
            for t, until in enumerate(self.until_tensor):
                if until > moment:
                    self.held[t, i] = self.program.var()
            if self.last(i) < self.n + losses_of(self.inst):
                continue
            for o, until in enumerate(self.until_op):
                if until > moment:
                    self.again[o, i] = self.program.var()
                    self.program.objective[self.again[o, i]] = self.inst.ops[o].cost

    def _sources(self, t: int, i: int) -> list[tuple[int, int]]:
        """Terms of what makes ``t`` readable in window ``i``."""
        found = [(self.held[t, i], 1)] if (t, i) in self.held else []
        op = self.inst.tensors[t].op
        if (op, i) in self.again:
            found.append((self.again[op, i], 1))
        return found

    def base_readers(self, t: int, i: int) -> list[int]:
        """Base steps in window ``i`` that read ``t``."""
        uses = self.readers[t]
        return uses[bisect.bisect_right(uses, self.moments[i]) : bisect.bisect_right(uses, self.last(i))]

    def _window(self, i: int) -> None:
        for t in range(len(self.inst.tensors)):
            if self.base_readers(t, i):
                self.program.least(self._sources(t, i), 1)
            if (t, i + 1) in self.held:
                self.program.least([*self._sources(t, i), (self.held[t, i + 1], -1)], 0)
        for o, op in enumerate(self.inst.ops):
            if (o, i) in self.again:
                for t in op.reads:
                    self.program.least([*self._sources(t, i), (self.again[o, i], -1)], 0)

    def _moment(self, i: int) -> None:
        step = self.inst.steps[self.moments[i] - self.n]
        self._row(step, {t for t in range(len(self.inst.tensors)) if (t, i) in self.held}, i, set(step.reads))

    def _forward(self) -> None:
        """Rows of the forward run: what is read later in it counts anyway, what is held across losses counts too.

        ``sure`` bytes and ``maybe`` terms go from op to op, since neighbours differ little.
        """
        tensors = self.inst.tensors
        loss = {t for step in self.inst.steps[: losses_of(self.inst)] for t in step.reads}
        last = [bisect.bisect_left(uses, self.n) for uses in self.readers]
        until = [self.n if t in loss else self.readers[t][k - 1] if k else -1 for t, k in enumerate(last)]
        made: dict[int, list[int]] = {}
        gone: dict[int, list[int]] = {}  # by op: tensors that are not sure any longer when it runs
        for t, x in enumerate(tensors):
            made.setdefault(max(x.op, 0), []).append(t)
            gone.setdefault(max(x.op, until[t] + 1, 0), []).append(t)
        kept: list[tuple[dict[int, int], int]] = []
        sure, maybe = 0, dict[int, int]()
        for k, op in enumerate(self.inst.ops):
            self.look()
            sure += sum(tensors[t].size for t in made.get(k, ()))
            for t in gone.get(k, ()):
                sure -= tensors[t].size
                if (t, 0) in self.held:
                    maybe[self.held[t, 0]] = tensors[t].size
            terms, base = dict(maybe), op.fixed + sure
            for t in op.writes:
                if until[t] < k and not tensors[t].aux:  # written, though nothing reads it
                    base += tensors[t].size
                    terms.pop(self.held.get((t, 0), -1), None)
            if len(op.overwrites) > 1 or any(len(g) > 1 for g in op.overwrites):
                # one of several is overwritten, which one is left open: count what is surely there
                base -= max(sum(tensors[t].size for t in g) for g in op.overwrites)
            else:
                for t in (t for g in op.overwrites for t in g if until[t] == k):
                    base -= tensors[t].size
                    if (t, 0) in self.held:
                        terms[self.held[t, 0]] = tensors[t].size
            # a row that a neighbour implies goes; a literal has the same coefficient in all
            while kept and kept[-1][1] <= base and terms.keys() >= kept[-1][0].keys():
                kept.pop()
            if not (kept and base <= kept[-1][1] and kept[-1][0].keys() >= terms.keys()):
                kept.append((terms, base))
        for terms, base in kept:
            self.program.most(list(terms.items()), self.budget - base)

    def _row(self, step: RematStep, made: set[int], i: int, surely: set[int]) -> None:
        over = {t: False for g in step.overwrites for t in g}
        terms, base = self._terms(step, made | surely, i, surely, over)
        self.program.most(list(terms.items()), self.budget - base)

    def _terms(
        self, step: RematOp | RematStep, made: set[int], i: int, surely: set[int], over: dict[int, bool]
    ) -> tuple[dict[int, int], int]:
        """Coefficients and constant of a row: tensors ``made``, of which ``surely`` count; ``over``: read later."""
        free = set(over)
        if len(step.overwrites) > 1 or any(len(g) > 1 for g in step.overwrites):
            # one of several is overwritten, which one is left open: count what is surely there
            sizes = [sum(self.inst.tensors[t].size for t in g) for g in step.overwrites]
            base, free = step.fixed - max(sizes), set()
        else:
            base = step.fixed
        terms: dict[int, int] = {}
        for t in made:
            size = self.inst.tensors[t].size
            if (t in surely and t not in free) or over.get(t, False):
                base += size
            elif (t, i) in self.held:
                terms[self.held[t, i]] = size
        return terms, base

    # -- plans -----------------------------------------------------------------------------------------
    def reruns(self, values: Sequence[int]) -> tuple[Rerun, ...]:
        """The plan of a solution: each op of a window as late as its first readers in the window allow."""
        slots = set(self.inst.slots)
        chosen: list[Rerun] = []
        for i in range(len(self.moments)):
            first = self.moments[i] + 1
            latest = max((s for s in range(first, self.last(i) + 1) if s in slots), default=None)
            if latest is None:
                continue
            at: dict[int, int] = {}
            for o in reversed(range(self.n)):
                if (o, i) not in self.again or not values[self.again[o, i]]:
                    continue
                times = [latest]
                for t in self.inst.ops[o].writes:
                    if (t, i) in self.held and values[self.held[t, i]]:
                        continue
                    times += self.base_readers(t, i)[:1]
                    times += [at[c] for c in self.readers[t] if c in at]
                at[o] = min(times)
                if at[o] not in slots:
                    at[o] = max(s for s in range(first, at[o] + 1) if s in slots)
            chosen += at.items()
        return useful(self.inst, chosen)


def dropped(inst: RematInstance, ops: Sequence[int]) -> tuple[Rerun, ...]:
    """The plan that frees the outputs of ``ops`` after the forward run and runs each of them once more, when needed.

    With ops between checkpoints this is checkpointing (Chen et al., 2016): a segment is run again as a whole, its
    outputs stay until backward has read them.
    """
    gone = {t for o in ops for t in inst.ops[o].writes}
    chosen: list[Rerun] = []
    for slot in inst.slots:
        wanted = [t for t in inst.steps[slot - len(inst.ops)].reads if t in gone]
        while wanted:
            t = wanted.pop()
            if t not in gone:
                continue
            o = inst.tensors[t].op
            gone.difference_update(inst.ops[o].writes)
            chosen.append((o, slot))
            wanted += [x for x in inst.ops[o].reads if x in gone]
    return useful(inst, chosen)


def each_time(inst: RematInstance, ops: Sequence[int]) -> tuple[Rerun, ...]:
    """The plan that frees the outputs of ``ops`` after the forward run and makes them anew for each reader of them.

    Next to nothing is held, for many MACs: where this does not fit, hardly anything does.
    """
    gone = {t for o in ops for t in inst.ops[o].writes}
    chosen: list[Rerun] = []
    for slot in inst.slots:
        wanted = [t for t in inst.steps[slot - len(inst.ops)].reads if t in gone]
        made: set[int] = set()
        while wanted:
            o = inst.tensors[wanted.pop()].op
            if o not in made:
                made.add(o)
                wanted += [x for x in inst.ops[o].reads if x in gone]
        chosen += [(o, slot) for o in made]
    return useful(inst, chosen)


def fewer(inst: RematInstance, reruns: Sequence[Rerun], budget: int, late: Callable[[], bool]) -> tuple[Rerun, ...]:
    """Leave out reruns, dearest first, as long as the peak stays within ``budget``."""
    current = useful(inst, reruns)
    for r in sorted(current, key=lambda r: (-inst.ops[r[0]].cost, r)):
        if late():
            break
        if r in current:
            trial = useful(inst, [x for x in current if x != r])
            if macs_of(inst, trial) < macs_of(inst, current) and peak_of(inst, trial) <= budget:
                current = trial
    return current


@dataclass
class Progress:
    """The best plan within the budget so far (None without one) and the best bound on added MACs."""

    reruns: tuple[Rerun, ...] | None
    macs: int
    bound: int
    infeasible: bool = False
    rounds: int = 0
    variables: int = 0
    rows: int = 0

    def offer(self, inst: RematInstance, reruns: Sequence[Rerun], budget: int) -> bool:
        """Take a plan if it fits and is better; whether it fits."""
        if peak_of(inst, reruns) > budget:
            return False
        if self.reruns is None or macs_of(inst, reruns) < self.macs:
            self.reruns, self.macs = tuple(reruns), macs_of(inst, reruns)
        return True


def refine(
    inst: RematInstance, budget: int, limits: Limits, close: float = 0.0, start: Sequence[Rerun] | None = None
) -> Progress:
    """Bound and plan by windows that are refined where plans exceed the budget.

    Args:
        close: stop when the plan's MACs (of the whole training step) are within this fraction of the bound's.
        start: a plan to begin with, if it fits.
    """
    clock = Clock(limits)
    best = Progress(None, 0, 0)
    best.offer(inst, (), budget)
    best.offer(inst, start or (), budget)
    with suppress(OutOfTime):
        _refined(inst, budget, clock, close, best)
    return best


def _refined(inst: RematInstance, budget: int, clock: Clock, close: float, best: Progress) -> None:
    moments = {len(inst.ops)}
    while not clock.passed() and not done(inst, best, close):
        best.rounds += 1
        windows = Windows(inst, sorted(moments), budget, clock.check)
        best.variables, best.rows = len(windows.program.bounds), len(windows.program.rows)
        result = _solve(windows, clock, 0.25)
        if result.status == "INFEASIBLE":
            best.infeasible = True
            return
        best.bound = max(best.bound, result.bound)
        if not result.values:
            return
        found = windows.reruns(result.values)
        worst = _excess(inst, found, budget, most=3)
        best.offer(inst, found, budget)
        if done(inst, best, close) or not worst:
            return
        more = _tighten(inst, budget, moments, peak_of(inst, found), best, clock)
        worst += more[:2] if best.reruns is None else []
        before = len(moments)
        moments.update(worst)
        if len(moments) == before:
            return


def _tighten(inst: RematInstance, budget: int, moments: set[int], peak: int, best: Progress, clock: Clock) -> list[int]:
    """Plans of lower budgets, which leave room within windows: bisect for the largest that fits; where others do not.

    ``peak``: of the plan at the budget itself.
    """
    floor = _floor(inst)
    high, low, margin = budget, floor, peak - budget
    worst: list[int] = []
    for _ in range(7):
        if clock.passed() or high - low <= max(1, (budget - floor) // 200):
            break
        at = max(low + 1, high - margin) if margin else (low + high) // 2
        tight = Windows(inst, sorted(moments), at, clock.check)
        result = _solve(tight, clock, 0.12, 5 * _CLOSE)
        if not result.values:
            low, margin = at, 0
            continue
        found = tight.reruns(result.values)
        if best.offer(inst, found, budget):
            low, margin = at, 0
            best.offer(inst, fewer(inst, found, budget, Clock(clock.left(seconds=5.0)).late), budget)
        else:
            worst += _excess(inst, found, budget, most=2)
            # each time a longer stride, since a plan of less room is another plan
            high, margin = at, 2 * margin if margin else 0
        if low == floor and margin > (high - low) // 2:
            margin = 0
    return worst


def _floor(inst: RematInstance) -> int:
    """Bytes that nothing held could lower: the most that a base step has fixed."""
    return max((s.fixed for s in inst.steps), default=0)


def improve(inst: RematInstance, best: Progress, budget: int, clock: Clock, close: float, rounds: int = 1000) -> None:
    """Better plans near the best one: the exact matrix model of its reruns and of any at some other slots.

    The reruns of the plan stay possible, so no round is in vain; which slots are free besides is drawn from the seed.
    """
    draw = random.Random(clock.limits.seed)
    n, size = len(inst.ops), 1500
    for k in range(rounds):
        if best.reruns is None or clock.passed() or done(inst, best, close):
            return
        used = sorted({slot for _, slot in best.reruns})
        free = max(2, size // n)
        if k % 2 == 0:  # a stretch of slots, or slots spread over all
            at = draw.randrange(len(inst.slots))
            some = inst.slots[at : at + free]
        else:
            some = tuple(sorted(draw.sample(inst.slots, min(free, len(inst.slots)))))
        some += tuple(draw.sample(used, min(len(used), 3)))
        allowed = frozenset(best.reruns) | {(o, slot) for slot in some for o in range(n)}
        try:
            m = Matrix(inst, sorted({*used, *some}), allowed, clock.check)
            m.limit(m.rows(), budget)
        except OutOfTime:
            return
        m.model.add(m.macs() <= best.macs)  # one less would leave no plan to start from
        m.model.add(m.macs() >= best.bound)
        m.model.minimize(m.macs())
        m.hint(best.reruns)
        outcome = solve(m.model, clock.left(seconds=8.0), parameters=SEARCH)
        if outcome.solved:
            best.offer(inst, m.reruns(outcome), budget)
        size = min(size * 5 // 4, 20000) if outcome.status == "OPTIMAL" else max(size * 2 // 3, 4 * n)


def done(inst: RematInstance, best: Progress, close: float) -> bool:
    """Whether the plan is proven, or close enough to the bound in MACs of the whole step."""
    return best.reruns is not None and best.macs - best.bound <= close * (inst.macs + best.bound)


def _solve(windows: Windows, clock: Clock, share: float, close: float = _CLOSE) -> Result01:
    """HiGHS within a share of the time that is left; what floats say against any plan at all is asked of CP-SAT."""
    left = clock.left()
    part = None if left.seconds is None else max(2.0, share * left.seconds)
    clock.check()
    result = solve_highs(windows.program, clock.left(seconds=part), gap=close)
    if result.status in ("ERROR", "INFEASIBLE"):
        return solve_cpsat(windows.program, clock.left(seconds=part))
    return result


def _excess(inst: RematInstance, reruns: Sequence[Rerun], budget: int, most: int = 6) -> list[int]:
    """Base steps where a plan exceeds the budget: of each run of such events the worst, the worst of all first."""
    events, live = events_of(inst, reruns), live_of(inst, reruns)
    peaks: list[tuple[int, int]] = []
    run: tuple[int, int] | None = None
    for (step, _), n in zip(events, live, strict=True):
        if n > budget:
            run = max(run or (0, 0), (n, step))
        elif run is not None:
            peaks.append(run)
            run = None
    if run is not None:
        peaks.append(run)
    return [step for _, step in sorted(peaks, reverse=True)[:most] if step >= len(inst.ops)]


def gap(inst: RematInstance, macs: int, bound: int) -> float:
    """Distance of a plan from the bound, as a fraction of the whole step's MACs."""
    return max(0, macs - bound) / (inst.macs + bound)
