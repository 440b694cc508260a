"""Bytes at each step as linear expressions of decisions: liveness, over conditions.

For every piece of every value the graph tells which steps may access it, and under which
condition. A piece is alive at a step when it was born and some later access takes place, so its
bytes count by a literal that is the disjunction of the conditions of the accesses to come. The
count is the one of ``liveness.analyse``, in-place overwriting included; a property test holds
both to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ortools.sat.python import cp_model

from sparseplan.liveness import pieces
from sparseplan.steps import MAIN
from sparseplan.training import ALWAYS, NEVER, MaybeStep, TrainingGraph
from sparseplan.units import align_up

#: a mask of atoms and, perhaps, an option of a pick: both must hold
Condition = tuple[int, tuple[int, int] | None]
#: a literal, or a constant
Literal = cp_model.IntVar | bool


class Literals:
    """Literals of conditions in a model, made once each."""

    def __init__(self, model: cp_model.CpModel, graph: TrainingGraph) -> None:
        self.model = model
        self.atoms: dict[int, cp_model.IntVar] = {}
        for name, levels in graph.levels.items():
            before = None
            for i, bit in enumerate(levels.atoms):
                self.atoms[bit] = model.new_bool_var(f"{name}>={i}")
                if before is not None:  # a larger fraction includes the smaller ones
                    model.add_implication(self.atoms[bit], before)
                before = self.atoms[bit]
        self.picks: list[list[cp_model.IntVar]] = []
        for p in graph.picks:
            options = [model.new_bool_var(f"{p.op}:{o}") for o in p.options]
            model.add_exactly_one(options)
            self.picks.append(options)
        self._cache: dict[tuple[str, tuple[int, ...]], cp_model.IntVar] = {}
        self._masks: dict[int, Literal] = {NEVER: False, ALWAYS: True}

    def mask(self, when: int) -> Literal:
        """Any of the atoms of a mask."""
        if when not in self._masks:
            bits = [1 << i for i in range(when.bit_length()) if when >> i & 1]
            self._masks[when] = self._or([self.atoms[b] for b in bits])
        return self._masks[when]

    def condition(self, c: Condition) -> Literal:
        """A mask and a pick."""
        when = self.mask(c[0])
        return when if c[1] is None else self.all([when, self.picks[c[1][0]][c[1][1]]])

    def any(self, conditions: Iterable[Condition]) -> Literal:
        """Disjunction of conditions; masks under one pick are merged first."""
        merged: dict[tuple[int, int] | None, int] = {}
        for when, pick in conditions:
            old = merged.get(pick, NEVER)
            merged[pick] = ALWAYS if ALWAYS in (old, when) else old | when
        plain = merged.pop(None, NEVER)
        if plain == ALWAYS:
            return True
        terms = [self.mask(plain)]
        for pick, when in merged.items():
            if when == NEVER or (plain and when != ALWAYS and when & plain == when):
                continue  # implied by what holds without the pick
            terms.append(self.condition((when, pick)))
        return self._or(terms)

    def all(self, literals: Sequence[Literal]) -> Literal:
        """Conjunction."""
        if any(x is False for x in literals):
            return False
        found = {x.index: x for x in literals if not isinstance(x, bool)}
        if len(found) < 2:
            return next(iter(found.values()), True)
        key = ("and", tuple(sorted(found)))
        if key not in self._cache:
            v = self.model.new_bool_var("")
            for x in found.values():
                self.model.add_implication(v, x)
            self.model.add_bool_or([v, *(x.Not() for x in found.values())])
            self._cache[key] = v
        return self._cache[key]

    def _or(self, literals: Sequence[Literal]) -> Literal:
        if any(x is True for x in literals):
            return True
        found = {x.index: x for x in literals if not isinstance(x, bool)}
        if len(found) < 2:
            return next(iter(found.values()), False)
        key = ("or", tuple(sorted(found)))
        if key not in self._cache:
            v = self.model.new_bool_var("")
            for x in found.values():
                self.model.add_implication(x, v)
            self.model.add_bool_or([v.Not(), *found.values()])
            self._cache[key] = v
        return self._cache[key]

    def either(self, a: Literal, b: Literal) -> Literal:
        """Disjunction of two literals."""
        return self._or([a, b])

    def negation(self, a: Literal) -> Literal:
        """Negation, as a literal with an index of its own."""
        if isinstance(a, bool):
            return not a
        key = ("not", (a.index,))
        if key not in self._cache:
            v = self.model.new_bool_var("")
            self.model.add_bool_xor([v, a])
            self._cache[key] = v
        return self._cache[key]


@dataclass
class Row:
    """Bytes at one step: ``constant`` plus ``terms`` (coefficient by literal index)."""

    constant: int
    terms: dict[int, int]

    def add(self, literal: Literal, size: int) -> None:
        """Count ``size`` bytes where the literal holds."""
        if literal is True:
            self.constant += size
        elif literal is not False:
            self.terms[literal.index] = self.terms.get(literal.index, 0) + size

    def within(self, other: Row) -> bool:
        """Whether this row can never exceed ``other``."""
        return self.constant <= other.constant and all(n <= other.terms.get(i, 0) for i, n in self.terms.items())


Access = tuple[int, int, int, Condition]  # step, lo, hi, condition


def accesses(graph: TrainingGraph) -> dict[str, list[Access]]:
    """Every possible access to each value, in order of steps."""
    found: dict[str, list[Access]] = {}
    for i, step in enumerate(graph.steps):
        for arg in (*step.reads, *step.writes):
            for span in arg.spans:
                when = step.when if span.when == ALWAYS else span.when
                pick = arg.pick if arg.pick is not None else step.pick
                found.setdefault(span.value, []).append((i, span.lo, span.hi, (when, pick)))
    return found


def budget_rows(graph: TrainingGraph, literals: Literals) -> list[Row]:
    """Live bytes of main memory at each step."""
    count = len(graph.steps)
    rows = [Row(0, {}) for _ in range(count)]
    table = accesses(graph)
    overwritten = _overwritten(graph, table, literals)
    for name, uses in table.items():
        value = graph.values[name]
        if value.persistent:
            if value.role == "parameter":
                size = align_up(value.bytes, graph.options.alignment)
                always = graph.options.frozen == MAIN
                literal = True if always else literals.mask(graph.value_when[name])
                for row in rows:
                    row.add(literal, size)
                continue
            for lo, hi in pieces(end for _, a, b, _ in uses for end in (a, b)):
                literal = literals.any(c for _, a, b, c in uses if a < hi and lo < b)
                for row in rows:
                    row.add(literal, hi - lo)
            continue
        for lo, hi in pieces(end for _, a, b, _ in uses for end in (a, b)):
            touching = [(i, c) for i, a, b, c in uses if a < hi and lo < b]
            steps = sorted({i for i, _ in touching})
            start = 0 if value.role == "input" else steps[0]
            for i in steps:
                literal = literals.any(c for j, c in touching if j >= i)
                for s in range(start, i + 1):
                    special = overwritten.get((s, name)) if s == i else None
                    rows[s].add(literal if special is None else special, hi - lo)
                start = i + 1
    return rows


def _overwritten(
    graph: TrainingGraph, table: dict[str, list[Access]], literals: Literals
) -> dict[tuple[int, str], Literal]:
    """By (step, value): the literal by which a value that may be overwritten counts at that step.

    With several candidates of one size, one of them is overwritten unless all are needed later:
    all but the last count, and the last counts when all are.
    """
    result: dict[tuple[int, str], Literal] = {}
    for i, step in enumerate(graph.steps):
        by_output: dict[str, list[str]] = {}
        for y, x in step.inplace:
            if not graph.values[x].persistent:
                by_output.setdefault(y, []).append(x)
        for y, sources in by_output.items():
            held = [literals.any(c for j, _, _, c in table[x] if j > i) for x in sources]
            literal = literals.all(held)
            written = _written(step, y)
            if written != step.when:  # the step may run without writing y
                literal = literals.either(literal, literals.negation(literals.mask(written)))
            result[(i, sources[-1])] = literal
    return result


def _written(step: MaybeStep, y: str) -> int:
    span = next(s for a in step.writes for s in a.spans if s.value == y)
    return step.when if span.when == ALWAYS else span.when


def undominated(rows: Sequence[Row]) -> list[Row]:
    """Rows that some other row does not already imply (all pairs up to a few hundred rows)."""
    kept: list[Row] = []
    for row in rows:  # neighbours differ little, so most fall here
        if kept and row.within(kept[-1]):
            continue
        while kept and kept[-1].within(row):
            kept.pop()
        kept.append(row)
    if len(kept) > 400:
        return kept
    return [r for i, r in enumerate(kept) if not any(r.within(o) and (j < i or not o.within(r))
                                                     for j, o in enumerate(kept) if j != i)]  # fmt: skip


def macs_terms(graph: TrainingGraph, literals: Literals) -> Row:
    """MACs of one run of the schedule as a row."""
    row = Row(0, {})
    for step in graph.steps:
        for when, n in step.macs:
            row.add(literals.mask(when), n)
    return row


def frozen_row(graph: TrainingGraph, literals: Literals, alignment: int) -> Row:
    """Bytes of parameters that stay at the frozen level, each at its alignment."""
    row = Row(0, {})
    for name, value in graph.values.items():
        if value.role == "parameter":
            size = align_up(value.bytes, alignment)
            row.add(True, size)
            if graph.levels[name].atoms:
                row.add(literals.mask(graph.levels[name].atoms[0]), -size)
    return row


def total(rows: Iterable[Row]) -> Row:
    """The sum of rows: of all steps' bytes, their area."""
    found = Row(0, {})
    for row in rows:
        found.constant += row.constant
        for i, n in row.terms.items():
            found.terms[i] = found.terms.get(i, 0) + n
    return found
