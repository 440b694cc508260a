"""Recomputation as retention intervals (Moccasin: Bartan et al., ICML 2023), and the solver that puts all together.

Every op has its forward copy and up to ``copies - 1`` further ones, each with an integer start over the few events at
which that op may be run again, and for each tensor an end. Every read takes exactly one copy, the latest; ends lie
behind reads; one cumulative constraint holds the bytes. So there are O(ops × copies) intervals, where the matrix
model has ops × slots literals. It is exact where no op needs more than ``copies`` runs, and never better than exact.

What the intervals lack is a strong linear relaxation: of uPyD-Net (30 ops) at 620,754 bytes three copies came to no
proof in 20 seconds, and to a plan of a sixth more added MACs than the least. ``solve_intervals`` therefore takes its
bound and its first plans from ``rematwindows``, further plans of large graphs from ``rematonce``, and proves the rest,
on small ones, by the matrix model; there are no intervals in it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ortools.sat.python import cp_model

from sparseplan.errors import InternalError
from sparseplan.solve.cpsat import Clock, Limits, Outcome, solve
from sparseplan.solve.rematinstance import RematInstance, Rerun, keep_all, least_possible, macs_of, peak_of, useful
from sparseplan.solve.rematmatrix import RematAnswer, least_macs
from sparseplan.solve.rematonce import search
from sparseplan.solve.rematsqueeze import squeezed
from sparseplan.solve.rematwindows import Progress, done, dropped, improve, refine

#: graphs of so many (op, slot) pairs or fewer are proven by the matrix model
MATRIX_PAIRS = 4000
#: a run of an op: (op, copy); copy 0 is the forward run
Run = tuple[int, int]


class Intervals:
    """The model with at most ``copies`` runs of each op, the forward run included; without a limit or a goal."""

    def __init__(self, inst: RematInstance, copies: int, budget: int) -> None:
        self.inst, self.n, self.copies = inst, len(inst.ops), copies
        self.width = self.n + 1  # positions a base step: its reruns in network order, then itself
        self.model = cp_model.CpModel()
        self.horizon = (self.n + len(inst.steps)) * self.width
        self.until_tensor, self.until_op = inst.useful_until()
        self.active: dict[Run, cp_model.IntVar] = {}
        self.start: dict[Run, cp_model.IntVar | int] = {}
        self.uses: dict[tuple[int, int], list[cp_model.IntVar]] = {}  # (tensor, copy) -> literals of reads
        self.end: dict[tuple[int, int], cp_model.IntVar] = {}
        self.taken: dict[tuple[int, int, Run], cp_model.IntVar] = {}  # (tensor, copy, reader)
        self.shorter: dict[tuple[int, int], list[cp_model.IntVar]] = {}
        self._runs()
        self._ends()
        self._reads()
        self._overwriting()
        self._bytes(budget)

    def position(self, step: int) -> int:
        """Of a base step."""
        return step * self.width + self.n

    def _runs(self) -> None:
        for o in range(self.n):
            self.start[o, 0] = self.position(o)
            times = [j * self.width + o for j in self.inst.slots if j <= self.until_op[o]]
            for c in range(1, self.copies if times else 1):
                self.active[o, c] = self.model.new_bool_var(f"active {o} {c}")
                self.start[o, c] = self.model.new_int_var_from_domain(
                    cp_model.Domain.from_values([*times, self.horizon + c]), f"start {o} {c}"
                )
                # one that is not run starts after everything, so that "the latest copy" needs no cases
                self.model.add(self.start[o, c] < self.horizon).only_enforce_if(self.active[o, c])
                self.model.add(self.start[o, c] >= self.horizon).only_enforce_if(self.active[o, c].Not())
                self.model.add(self.start[o, c - 1] < self.start[o, c])

    def runs(self, o: int) -> list[Run]:
        """The runs that an op may have."""
        return [(o, c) for c in range(self.copies) if (o, c) in self.start]

    def _ends(self) -> None:
        for t, tensor in enumerate(self.inst.tensors):
            for c in range(1 if tensor.op < 0 else len(self.runs(tensor.op))):
                self.end[t, c] = self.model.new_int_var(0, self.horizon + self.copies, f"end {t} {c}")
                self.uses[t, c] = []
                if not tensor.aux:
                    self.model.add(self.end[t, c] >= self.start.get((tensor.op, c), 0))

    def _reads(self) -> None:
        for i, step in enumerate(self.inst.steps, self.n):
            for t in step.reads:
                self._read(t, self.position(i), None, (-1 - i, 0))
        for o, op in enumerate(self.inst.ops):
            for t in op.reads:
                self.model.add(self.end[t, 0] >= self.position(o))
                for run in self.runs(o)[1:]:
                    self._read(t, self.start[run], self.active[run], run)

    def _read(self, t: int, at: cp_model.IntVar | int, when: cp_model.IntVar | None, reader: Run) -> None:
        """One read, at a position, that takes place always or when a run is active."""
        op = self.inst.tensors[t].op
        choices = []
        for tt, c in [k for k in self.end if k[0] == t]:
            if c and isinstance(at, int) and self.inst.slots[0] * self.width > at:
                continue  # the loss reads what the forward run made
            take = self.model.new_bool_var("")
            choices.append(take)
            self.taken[t, c, reader] = take
            self.uses[tt, c].append(take)
            self.model.add(self.end[t, c] >= at).only_enforce_if(take)
            if op >= 0:
                self.model.add(self.start[op, c] <= at).only_enforce_if(take)
                if (op, c + 1) in self.start:
                    self.model.add(self.start[op, c + 1] > at).only_enforce_if(take)
                if c:
                    self.model.add_implication(take, self.active[op, c])
        if when is None:
            self.model.add_exactly_one(choices)
        else:
            self.model.add(sum(choices) == when)

    def _overwriting(self) -> None:
        """A run may take the place of one value whose copy ends there."""
        readers: list[tuple[Run, cp_model.IntVar | int, tuple[tuple[int, ...], ...]]] = []
        for o, op in enumerate(self.inst.ops):
            readers += [(run, self.start[run], op.overwrites) for run in self.runs(o)]
        for i, step in enumerate(self.inst.steps, self.n):
            readers.append(((-1 - i, 0), self.position(i), step.overwrites))
        for reader, at, groups in readers:
            over = []
            for group in groups:
                writer = self.inst.tensors[group[0]].op
                copies = [c for c in range(self.copies) if (group[0], c) in self.end]
                if reader[0] >= 0 and reader[1] == 0:
                    copies = [0]  # the forward run reads forward copies
                for c in copies:
                    lit = self.model.new_bool_var("")
                    over.append(lit)
                    for t in group:
                        take = self.taken.get((t, c, reader))
                        if take is not None:
                            self.model.add_implication(lit, take)
                        elif not (reader[0] >= 0 and reader[1] == 0):
                            self.model.add(lit == 0)
                        self.model.add(self.end[t, c] <= at).only_enforce_if(lit)
                        self.shorter.setdefault((t, c), []).append(lit)
                    if writer >= 0:
                        # without a reader the copy would be gone before
                        self.model.add(self.start[writer, c] <= at).only_enforce_if(lit)
            if len(over) > 1:
                self.model.add_at_most_one(over)

    def _bytes(self, budget: int) -> None:
        inst, model = self.inst, self.model
        intervals: list[cp_model.IntervalVar] = []
        demands: list[int] = []
        for (t, c), end in self.end.items():
            tensor = inst.tensors[t]
            start = self.start.get((tensor.op, c), 0)
            stop = model.new_int_var(0, self.horizon + self.copies + 1, "")
            model.add(stop == end + 1 - sum(self.shorter.get((t, c), [])))
            here: cp_model.LiteralT = self.active[tensor.op, c] if c else True
            if tensor.aux:  # written where it is read only
                here = model.new_bool_var("")
                for use in self.uses[t, c]:
                    model.add_implication(use, here)
            length = model.new_int_var(0, self.horizon + self.copies + 1, "")
            intervals.append(model.new_optional_interval_var(start, length, stop, here, f"copy {t} {c}"))
            if c:
                model.add(end <= self.horizon).only_enforce_if(self.active[tensor.op, c])
            demands.append(tensor.size)
        for i, op in enumerate(inst.ops):
            intervals.append(model.new_fixed_size_interval_var(self.position(i), 1, ""))
            demands.append(op.fixed)
        for i, step in enumerate(inst.steps, self.n):
            intervals.append(model.new_fixed_size_interval_var(self.position(i), 1, ""))
            demands.append(step.fixed)
            if step.gap is not None:
                intervals.append(model.new_fixed_size_interval_var(i * self.width, self.n, ""))
                demands.append(step.gap)
        model.add_cumulative(intervals, demands, budget)

    def macs(self) -> cp_model.LinearExprT:
        """MACs added."""
        return cp_model.LinearExpr.weighted_sum(
            list(self.active.values()), [self.inst.ops[o].cost for o, _ in self.active]
        )

    def hint(self, reruns: Sequence[Rerun]) -> None:
        """Start from these reruns, as far as there are copies."""
        for o in range(self.n):
            times = sorted(slot * self.width + o for oo, slot in reruns if oo == o)
            for _, c in self.runs(o)[1:]:
                there = c <= len(times)
                self.model.add_hint(self.active[o, c], there)
                start = self.start[o, c]
                assert not isinstance(start, int)  # only the forward run's start is given
                self.model.add_hint(start, times[c - 1] if there else self.horizon + c)

    def reruns(self, outcome: Outcome) -> tuple[Rerun, ...]:
        """What a solution says, less what nothing needs."""
        found = []
        for (o, c), v in self.active.items():
            if outcome.value(v):
                start = self.start[o, c]
                assert not isinstance(start, int)  # only the forward run's start is given
                found.append((o, outcome.value(start) // self.width))
        return useful(self.inst, found)


def by_intervals(
    inst: RematInstance, budget: int, copies: int, limits: Limits, hint: Sequence[Rerun] = (), bound: int = 0
) -> RematAnswer:
    """The fewest added MACs within ``budget`` bytes with at most ``copies`` runs of each op.

    Args:
        hint: reruns to start from.
        bound: a lower bound that is known.

    Raises:
        InternalError: the plan takes more bytes than the model says.
    """
    m = Intervals(inst, copies, budget)
    m.model.minimize(m.macs())
    m.model.add(m.macs() >= bound)
    m.hint(hint)
    outcome = solve(m.model, limits, parameters={"linearization_level": 2})
    if not outcome.solved:
        return RematAnswer(outcome.status, (), 0, 0, bound, outcome.seconds)
    reruns = m.reruns(outcome)
    peak = peak_of(inst, reruns)
    if peak > budget:
        raise InternalError(f"reruns take {peak} B where the intervals say at most {budget}")
    return RematAnswer(
        outcome.status, reruns, macs_of(inst, reruns), peak, max(bound, outcome.bound or 0), outcome.seconds
    )


def checkpoints(inst: RematInstance, every: int) -> tuple[Rerun, ...]:
    """Chen et al. (2016): of the ops in network order each ``every``-th keeps its output, the others are run again."""
    return dropped(inst, [o for o in range(len(inst.ops)) if (o + 1) % every])


def solve_intervals(inst: RematInstance, budget: int, limits: Limits, close: float = 0.0) -> RematAnswer:
    """The fewest added MACs within ``budget`` bytes: windows, then an exact model where the graph is small.

    Args:
        close: stop when MACs of the step are within this fraction of the bound's.

    Returns:
        Status OPTIMAL is proven over all plans (any number of runs of each op). INFEASIBLE is proven too.
    """
    clock = Clock(limits)
    if least_possible(inst) > budget:
        return RematAnswer("INFEASIBLE", (), 0, 0, 0, clock.elapsed())
    if keep_all(inst) <= budget:
        return RematAnswer("OPTIMAL", (), 0, keep_all(inst), 0, clock.elapsed())
    root = max(2, math.isqrt(len(inst.ops)))
    starts = [checkpoints(inst, k) for k in sorted({2, 3, root, 2 * root})]
    fitting = [x for x in starts if peak_of(inst, x) <= budget]
    start = min(fitting, key=lambda x: macs_of(inst, x), default=None)
    if start is None:
        start = squeezed(inst, budget, clock.part(None if limits.seconds is None else 0.2 * limits.seconds).late)
    small = len(inst.ops) * len(inst.slots) <= MATRIX_PAIRS
    share = 20.0 if limits.seconds is None else 0.35 * limits.seconds
    best = refine(inst, budget, clock.left(seconds=min(share, 10.0) if small else share), close, start)
    if best.infeasible:
        return RematAnswer("INFEASIBLE", (), 0, 0, 0, clock.elapsed())
    if small and not done(inst, best, close):
        if best.reruns is None:
            search(inst, budget, best, Clock(clock.left(seconds=2.0)))
        exact = least_macs(inst, budget, clock.left(), hint=best.reruns, bound=best.bound)
        if exact.status == "INFEASIBLE":
            return RematAnswer("INFEASIBLE", (), 0, 0, 0, clock.elapsed())
        best.bound = max(best.bound, exact.bound)
        if exact.status in ("OPTIMAL", "FEASIBLE"):
            best.offer(inst, exact.reruns, budget)
    elif not done(inst, best, close):
        search(inst, budget, best, Clock(clock.left(seconds=None if limits.seconds is None else 0.45 * limits.seconds)))
        improve(inst, best, budget, clock, close)
    return _answer(inst, best, clock)


def solve_bytes(inst: RematInstance, macs: int, limits: Limits) -> RematAnswer:
    """The lowest peak with at most ``macs`` added MACs, by bisecting budgets of ``solve_intervals``.

    Returns:
        The bound is one byte above the largest budget that is proven to need more MACs; OPTIMAL when that is the peak.
    """
    clock = Clock(limits)
    high = keep_all(inst)
    plan: tuple[Rerun, ...] = ()
    proven = low = least_possible(inst) - 1
    while high - low > 1 and not clock.passed():
        middle = (low + high) // 2
        left = clock.left().seconds
        part = None if left is None else max(0.5, 0.15 * left)
        found = solve_intervals(inst, middle, clock.left(seconds=part))
        fits = found.status in ("OPTIMAL", "FEASIBLE") and found.macs <= macs
        if fits:
            high, plan = found.peak, found.reruns
            continue
        low = middle
        if found.status == "INFEASIBLE" or found.bound > macs:
            proven = max(proven, middle)
    status = "OPTIMAL" if proven == high - 1 else "FEASIBLE"
    return RematAnswer(status, plan, macs_of(inst, plan), high, proven + 1, clock.elapsed())


def _answer(inst: RematInstance, best: Progress, clock: Clock) -> RematAnswer:
    if best.reruns is None:
        return RematAnswer("UNKNOWN", (), 0, 0, best.bound, clock.elapsed())
    status = "OPTIMAL" if best.macs <= best.bound else "FEASIBLE"
    return RematAnswer(
        status, best.reruns, best.macs, peak_of(inst, best.reruns), min(best.bound, best.macs), clock.elapsed()
    )
