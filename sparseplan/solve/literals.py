"""Literals of conditions, and linear rows over them: what the rows of bytes, MACs and time are written in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ortools.sat.python import cp_model

from sparseplan.training import ALWAYS, NEVER, TrainingGraph

#: a mask of atoms and, perhaps, an option of a pick: both must hold
Condition = tuple[int, tuple[int, int] | None]
#: no lower limit, as CP-SAT writes it
_LEAST = -(2**63)
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

    def above(self, literals: tuple[Literal, Literal]) -> Literal:
        """A literal that holds where either does, and is free elsewhere: enough where holding costs bytes."""
        key = ("above", tuple(sorted(x.index for x in literals if not isinstance(x, bool))))
        if len(set(key[1])) < 2:
            return literals[0]
        if key not in self._cache:
            v = self._cache[key] = self.model.new_bool_var("")
            for x in literals:
                self.model.add_implication(x, v)
        return self._cache[key]

    def above_unless(self, a: Literal, b: Literal) -> Literal:
        """A literal that holds where ``a`` does and ``b`` does not, and is free elsewhere."""
        assert not isinstance(a, bool)
        assert not isinstance(b, bool)
        key = ("above unless", (a.index, b.index))
        if key not in self._cache:
            v = self._cache[key] = self.model.new_bool_var("")
            self.model.add_bool_or([a.Not(), b, v])
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

    def limit(self, model: cp_model.CpModel, most: int, top: cp_model.IntVar | None = None) -> None:
        """Hold the row to ``most`` at most, or to ``most`` above a variable.

        Written into the model's protocol buffer, which takes a fiftieth of the time of expressions.
        """
        linear = model.proto.constraints.add().linear
        indices = sorted(self.terms)
        linear.vars.extend(indices)
        linear.coeffs.extend([self.terms[i] for i in indices])
        if top is not None:
            linear.vars.append(top.index)
            linear.coeffs.append(-1)
        linear.domain.extend((_LEAST, most - self.constant))

    def within(self, other: Row) -> bool:
        """Whether this row can never exceed ``other``."""
        return self.constant <= other.constant and all(n <= other.terms.get(i, 0) for i, n in self.terms.items())
