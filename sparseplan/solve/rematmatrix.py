"""Recomputation as a matrix of op by slot: which op is run again before which step, exact to the byte.

The model of Checkmate (Jain et al., MLSys 2020) with the counting of ``rematinstance``. A stage is a slot, the reruns
before it, and the base steps up to the next slot. Literals: ``run[o, g]``: op ``o`` is run again in stage ``g``;
``held[t, g]``: a copy of tensor ``t`` made before stage ``g`` is read in or after it. Within a stage a tensor is alive
until the last of its readers there, or throughout if it is held into the next stage; that takes one more literal where
a tensor has several readers. Every event gives a row of bytes. With all slots as stages the optimum is exact: the
oracle for graphs of a few dozen ops. With some slots only, what is found can be executed and is an upper bound.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ortools.sat.python import cp_model

from sparseplan.errors import InternalError
from sparseplan.solve.clock import OutOfTime
from sparseplan.solve.cpsat import Clock, Limits, Outcome, solve
from sparseplan.solve.rematinstance import Group, RematInstance, Rerun, macs_of, peak_of, useful

#: rows of bytes are knapsacks over literals that imply one another: the linear relaxation carries the proof
SEARCH = {"linearization_level": 2}
#: a literal or a constant
Lit = cp_model.IntVar | int


@dataclass(frozen=True, slots=True)
class RematAnswer:
    """Reruns, and what is proven of them.

    Attributes:
        status: OPTIMAL, FEASIBLE, INFEASIBLE, or UNKNOWN when time ran out without a plan.
        reruns: (op, slot) pairs; empty without a plan.
        macs: that they add.
        peak: live bytes, by ``rematinstance.peak_of``.
        bound: proven lower bound on what was minimised (added MACs, or bytes).
        seconds: wall-clock.
    """

    status: str
    reruns: tuple[Rerun, ...]
    macs: int
    peak: int
    bound: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Bytes:
    """Live bytes at an event: a constant and (size, literal) terms. ``at``: (stage, op or base step, is a rerun)."""

    constant: int
    terms: tuple[tuple[int, cp_model.IntVar], ...]
    at: tuple[int, int, bool]


class Matrix:
    """The model over the given slots; without a limit or a goal yet.

    Args:
        slots: before which ops may be run again, ascending; all of the instance's by default.
        allowed: the only reruns there may be, at these slots; None for all.
        look: called again and again while the model is built; what it raises ends that, as where time is up.
    """

    def __init__(
        self, inst: RematInstance, slots: Sequence[int] | None = None, allowed: frozenset[Rerun] | None = None,
        look: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        self.allowed, self.look = allowed, look
        self.inst, self.n = inst, len(inst.ops)
        self.slots = tuple(inst.slots if slots is None else slots)
        self.model = cp_model.CpModel()
        self.until_tensor, self.until_op = inst.useful_until()
        ends = [*self.slots, self.n + len(inst.steps)]
        #: stage -> half-open range of base steps after the forward ops; stage 0 is the forward run with its tail
        self.stages = [(self.n, ends[0]), *((a, b) for a, b in zip(self.slots, ends[1:], strict=True))]
        self.run: dict[tuple[int, int], cp_model.IntVar] = {}
        self.held: dict[tuple[int, int], cp_model.IntVar] = {}
        self._alive: dict[tuple[int, int], list[Lit]] = {}
        self.consumers: list[list[int]] = [[i for i in uses if i < self.n] for uses in inst.readers()]
        #: (stage, tensor) -> the last base step after the forward ops that reads it in that stage
        self.last: dict[tuple[int, int], int] = {}
        for g, (a, b) in enumerate(self.stages):
            for i in range(a, b):
                for t in inst.steps[i - self.n].reads:
                    self.last[g, t] = i
        self._variables()
        self._links()

    def _variables(self) -> None:
        for g in range(1, len(self.stages)):
            slot = self.slots[g - 1]
            for o in range(self.n):
                if self.until_op[o] >= slot and (self.allowed is None or (o, slot) in self.allowed):
                    self.run[o, g] = self.model.new_bool_var(f"run {o} {g}")
            for t in range(len(self.inst.tensors)):
                if self.until_tensor[t] >= slot:
                    self.held[t, g] = self.model.new_bool_var(f"held {t} {g}")

    def h(self, t: int, g: int) -> Lit:
        """``held[t, g]``, 0 outside its window."""
        return self.held.get((t, g), 0)

    def r(self, o: int, g: int) -> Lit:
        """``run[o, g]``: 1 in the forward run, 0 for network inputs and outside the window."""
        if o < 0:
            return 0
        return 1 if g == 0 else self.run.get((o, g), 0)

    def available(self, t: int, g: int) -> cp_model.LinearExprT:
        """A copy can be read in stage ``g``; the copy held and a newer one exclude each other."""
        op = self.inst.tensors[t].op
        if g == 0:
            return 1
        return self.h(t, g) + self.r(op, g)

    def _links(self) -> None:
        inst, model = self.inst, self.model
        for g in range(1, len(self.stages)):
            self.look()
            for t, tensor in enumerate(inst.tensors):
                there = self.available(t, g)
                if (t, g) in self.held and (tensor.op, g) in self.run:
                    model.add_at_most_one([self.held[t, g], self.run[tensor.op, g]])
                if (t, g + 1) in self.held:
                    model.add(there >= self.held[t, g + 1])
                if (g, t) in self.last:
                    model.add(there >= 1)
            for o, op in enumerate(inst.ops):
                if (o, g) not in self.run:
                    continue
                for t in op.reads:
                    model.add(self.available(t, g) >= self.run[o, g])
                # what is run again is read again
                later: list[cp_model.LiteralT] = [self.run[o, g].Not()]
                sure = False
                for t in op.writes:
                    sure = sure or (g, t) in self.last
                    later += [self.held[t, g + 1]] if (t, g + 1) in self.held else []
                    later += [self.run[c, g] for c in self.consumers[t] if (c, g) in self.run]
                if not sure:
                    model.add_bool_or(later)

    def alive(self, t: int, g: int, after: int) -> Lit:
        """Whether a copy of ``t`` is read after op ``after`` in stage ``g``, or held into the next one."""
        if (g, t) in self.last:
            return 1
        consumers = self.consumers[t]
        if g == 0:
            return 1 if any(c > after for c in consumers) else self.h(t, 1)
        if (t, g) not in self._alive:
            chain: list[Lit] = [self.h(t, g + 1)]
            for c in reversed(consumers):
                chain.append(self._or(self.r(c, g), chain[-1]))
            self._alive[t, g] = chain[::-1]
        first = next((i for i, c in enumerate(consumers) if c > after), len(consumers))
        return self._alive[t, g][first]

    def _or(self, a: Lit, b: Lit) -> Lit:
        """A literal that holds at least where ``a`` or ``b`` does."""
        if isinstance(a, int) or isinstance(b, int):
            return b if isinstance(a, int) and a == 0 else a if isinstance(b, int) and b == 0 else 1
        v = self.model.new_bool_var("")
        self.model.add_implication(a, v)
        self.model.add_implication(b, v)
        return v

    def _kept(self, ran: Lit, groups: Sequence[Group], later: dict[int, Lit]) -> dict[int, Lit]:
        """Counts of the tensors of values one of which is overwritten if ``ran``, given who is read ``later``.

        All but the last value count as read at the event; the last one only if all values are read later.
        """
        whole: list[Lit] = []
        for group in groups:
            value: Lit = 0
            for t in group:
                value = self._or(value, later[t])
            whole.append(value)
        every: Lit = whole[0]
        for w in whole[1:]:
            every = self._and(every, w)
        if len(groups) == 1 and len(groups[0]) == 1:
            return {groups[0][0]: every}
        both = self._and(every, ran)
        # where the op does not run, what is held through counts all the same
        return {t: self._or(both, self._and(later[t], self._not(ran))) for t in groups[-1]}

    def _and(self, a: Lit, b: Lit) -> Lit:
        """A literal that holds at least where ``a`` and ``b`` do."""
        if isinstance(a, int) or isinstance(b, int):
            return b if isinstance(a, int) and a == 1 else a if isinstance(b, int) and b == 1 else 0
        if a.index == b.index:
            return a
        v = self.model.new_bool_var("")
        self.model.add_bool_or([a.Not(), b.Not(), v])
        return v

    def _not(self, a: Lit) -> Lit:
        if isinstance(a, int):
            return 1 - a
        v = self.model.new_bool_var("")
        self.model.add(v == 1 - a)
        return v

    def rerun_row(self, g: int, k: int) -> Bytes:
        """Bytes when op ``k`` is run in stage ``g`` (stage 0: in the forward run)."""
        self.look()
        op = self.inst.ops[k]
        count: dict[int, cp_model.LinearExprT] = {}
        for t, tensor in enumerate(self.inst.tensors):
            if tensor.op > k:
                count[t] = self.h(t, g)
            elif tensor.op == k and not tensor.aux:
                count[t] = self.available(t, g)
            elif t in op.reads:
                count[t] = self._or(self.alive(t, g, k), self.r(k, g))
            else:
                count[t] = self.alive(t, g, k)
        if op.overwrites:
            later = {t: self.alive(t, g, k) for group in op.overwrites for t in group}
            count.update(self._kept(self.r(k, g), op.overwrites, later))
        base = op.fixed if g == 0 else self.inst.steps[self.slots[g - 1] - self.n].gap or 0
        return self._row(base, count, (g, k, True))

    def step_row(self, g: int, i: int) -> Bytes:
        """Bytes at base step ``i`` (after the forward ops) of stage ``g``."""
        self.look()
        step = self.inst.steps[i - self.n]
        later: dict[int, Lit] = {}
        count: dict[int, cp_model.LinearExprT] = {}
        for t in range(len(self.inst.tensors)):
            later[t] = 1 if self.last.get((g, t), -1) > i else self.h(t, g + 1)
            count[t] = 1 if t in step.reads else later[t]
        if step.overwrites:
            count.update(self._kept(1, step.overwrites, later))
        return self._row(step.fixed, count, (g, i, False))

    def _row(self, base: int, count: dict[int, cp_model.LinearExprT], at: tuple[int, int, bool]) -> Bytes:
        terms: list[tuple[int, cp_model.IntVar]] = []
        for t, c in count.items():
            size = self.inst.tensors[t].size
            if isinstance(c, int):
                base += c * size
            elif isinstance(c, cp_model.IntVar):
                terms.append((size, c))
            else:  # the sum of two literals, or of one and a constant
                tensor = self.inst.tensors[t]
                for lit in (self.h(t, at[0]), self.r(tensor.op, at[0])):
                    if isinstance(lit, int):
                        base += lit * size
                    else:
                        terms.append((size, lit))
        return Bytes(base, tuple(terms), at)

    def rows(self) -> list[Bytes]:
        """Bytes at every event."""
        found = [self.rerun_row(0, k) for k in range(self.n)]
        for g, (a, b) in enumerate(self.stages):
            if g:
                found += [self.rerun_row(g, k) for k in range(self.n) if (k, g) in self.run]
            found += [self.step_row(g, i) for i in range(a, b)]
        return found

    def macs(self) -> cp_model.LinearExprT:
        """MACs added."""
        return cp_model.LinearExpr.weighted_sum(list(self.run.values()), [self.inst.ops[o].cost for o, _ in self.run])

    def limit(self, rows: Sequence[Bytes], most: cp_model.LinearExprT) -> None:
        """Hold rows to at most ``most`` bytes."""
        for row in rows:
            expression = cp_model.LinearExpr.weighted_sum([v for _, v in row.terms], [s for s, _ in row.terms])
            self.model.add(expression + row.constant <= most)

    def hint(self, reruns: Sequence[Rerun]) -> None:
        """Start from these reruns (those at slots of the model)."""
        chosen = set(reruns)
        stage = {slot: g for g, slot in enumerate(self.slots, 1)}
        self.model.clear_hints()  # type: ignore[no-untyped-call]
        for (o, g), v in self.run.items():
            self.model.add_hint(v, (o, self.slots[g - 1]) in chosen)
        held = set()
        needed: set[int] = set()
        order = sorted({(stage[slot], o) for o, slot in chosen if slot in stage})
        for g in reversed(range(1, len(self.stages))):
            needed |= {t for gg, t in self.last if gg == g}
            for gg, o in reversed(order):
                if gg == g:
                    needed -= set(self.inst.ops[o].writes)
                    needed |= set(self.inst.ops[o].reads)
            held |= {(t, g) for t in needed}
        for key, v in self.held.items():
            self.model.add_hint(v, key in held)

    def reruns(self, outcome: Outcome) -> tuple[Rerun, ...]:
        """What a solution says, less what nothing needs."""
        return useful(self.inst, [(o, self.slots[g - 1]) for (o, g), v in self.run.items() if outcome.value(v)])


def least_macs(
    inst: RematInstance,
    budget: int,
    limits: Limits,
    slots: Sequence[int] | None = None,
    hint: Sequence[Rerun] | None = None,
    bound: int = 0,
) -> RematAnswer:
    """The fewest added MACs within ``budget`` bytes; exact when ``slots`` are all of the instance's (the default).

    With fewer slots the status and the bound speak of plans that use no others.

    Args:
        hint: reruns to start from.
        bound: a lower bound that is known.

    Raises:
        InternalError: the plan takes more bytes than the model says.
    """
    clock = Clock(limits)
    try:
        m = Matrix(inst, slots, look=clock.check)
        m.limit(m.rows(), budget)
    except OutOfTime:
        return RematAnswer("UNKNOWN", (), 0, 0, bound, clock.elapsed())
    m.model.minimize(m.macs())
    if bound:
        m.model.add(m.macs() >= bound)
    if hint is not None:
        m.hint(hint)
    outcome = solve(m.model, clock.left(), parameters=SEARCH)
    answer = _answer(m, outcome)
    if outcome.solved and answer.peak > budget:
        raise InternalError(f"reruns take {answer.peak} B where the model says at most {budget}")
    return answer


def least_peak(
    inst: RematInstance, macs: int | None, limits: Limits, slots: Sequence[int] | None = None
) -> RematAnswer:
    """The lowest peak with at most ``macs`` added MACs (None: any number)."""
    m = Matrix(inst, slots)
    peak = m.model.new_int_var(0, peak_of(inst, ()), "peak")
    m.limit(m.rows(), peak)
    if macs is not None:
        m.model.add(m.macs() <= macs)
    m.model.minimize(peak)
    m.hint(())
    outcome = solve(m.model, limits, parameters=SEARCH)
    answer = _answer(m, outcome)
    if outcome.solved and answer.peak > (outcome.objective or 0):
        raise InternalError(f"reruns take {answer.peak} B where the model says {outcome.objective}")
    return answer


def _answer(m: Matrix, outcome: Outcome) -> RematAnswer:
    if not outcome.solved:
        return RematAnswer(outcome.status, (), 0, 0, 0, outcome.seconds)
    reruns = m.reruns(outcome)
    return RematAnswer(
        outcome.status, reruns, macs_of(m.inst, reruns), peak_of(m.inst, reruns), int(outcome.bound or 0),
        outcome.seconds,
    )  # fmt: skip
