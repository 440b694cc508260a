"""Which parameters to update: an exact 0/1 program over the conditions of the training graph.

Objective, lexicographic: most value, then fewest MACs, then lowest peak of live bytes. Live bytes
are a relaxation of placed bytes: ``pipeline`` places what is selected and asks again with what
could not be placed excluded.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ortools.sat.python import cp_model

from sparseplan.problem import Problem
from sparseplan.solve.cpsat import Limits, Outcome, solve, solve_in_order
from sparseplan.solve.rows import Literals, Row, budget_rows, frozen_row, macs_terms, undominated
from sparseplan.steps import MAIN
from sparseplan.training import TrainingGraph

#: values are scaled to integers whose sum stays below 2**VALUE_BITS: finer than any measured value.
#: With coefficients beyond 2**40 the presolve of CP-SAT 9.15 was seen to call solvable models infeasible.
VALUE_BITS = 30
#: byte budgets are knapsacks: with the linear relaxation of the disjunctions too, bounds are tight
#: and one worker proves in a second what takes minutes without
SEARCH = {"linearization_level": 2}


@dataclass(frozen=True)
class Decisions:
    """What the solver decides: fractions, and how each backward gets what it needs."""

    update: Mapping[str, float]
    picks: Mapping[str, str]


@dataclass(frozen=True)
class Selection:
    """An answer of the program.

    Attributes:
        status: of the value, the first goal.
        bound: proven upper bound on the value.
        ties: statuses of the later goals.
    """

    status: str
    decisions: Decisions | None
    bound: float
    ties: Mapping[str, str]
    work: float


class Program:
    """The model of one problem; asked again as placements fail."""

    def __init__(self, problem: Problem, graph: TrainingGraph, forbidden: Sequence[tuple[int, str]]) -> None:
        """``forbidden``: conditions (with the step's name) of passes that no L1 tile fits."""
        self.problem, self.graph = problem, graph
        self.model = cp_model.CpModel()
        self.literals = Literals(self.model, graph)
        for name, least in problem.must.items():
            levels = graph.levels[name]
            index = next(i for i, (r, _) in enumerate(levels.fractions) if r >= least)
            self.model.add(self.literals.atoms[levels.atoms[index]] == 1)
        for when, _ in forbidden:
            literal = self.literals.mask(when)
            if literal is True:
                self.model.add_bool_or([])  # a forward pass that no tile fits
            elif literal is not False:
                self.model.add(literal == 0)
        self.all_rows = budget_rows(graph, self.literals)
        self.rows = undominated(self.all_rows)
        self.macs = macs_terms(graph, self.literals)
        self.frozen = frozen_row(graph, self.literals)
        self._value()
        #: sets of decisions that were ruled out, each as a clause
        self.excluded: list[list[cp_model.LiteralT]] = []
        #: a proven upper bound on the value of all decisions not excluded
        self.best_bound = math.fsum(max(0.0, *t.values()) for t in problem.values.values())

    def _value(self) -> None:
        worth = {name: [self.problem.values[name][r] for r, _ in levels.fractions]
                 for name, levels in self.graph.levels.items()}  # fmt: skip
        total = math.fsum(abs(b - a) for v in worth.values() for a, b in itertools.pairwise((0.0, *v)))
        shift = VALUE_BITS - (math.frexp(total)[1] if total > 0 else 0)
        self.scale = math.ldexp(1.0, min(shift, 1000))  # beyond it lie values of less than 1e-280
        self.value: cp_model.LinearExprT = 0
        for name, levels in self.graph.levels.items():
            # each level is rounded by itself, so that errors do not add up over the fractions
            whole = [round(v * self.scale) for v in (0.0, *worth[name])]
            self.value += sum((b - a) * self.literals.atoms[bit]
                              for bit, (a, b) in zip(levels.atoms, itertools.pairwise(whole), strict=True))  # fmt: skip
        exact = all((v * self.scale).is_integer() for table in worth.values() for v in table)
        #: how far apart two sums of values must be to be told apart
        self.resolution = 0.0 if exact else len(worth) / self.scale

    def expression(self, row: Row) -> cp_model.LinearExprT:
        """A row as an expression of the model."""
        variables = [self.model.get_int_var_from_proto_index(i) for i in row.terms]
        return cp_model.LinearExpr.weighted_sum(variables, list(row.terms.values())) + row.constant

    def limit_bytes(self, model: cp_model.CpModel, capacity: int | None) -> None:
        """Hold every step within the main memory's capacity."""
        if capacity is not None:
            for row in self.rows:
                model.add(self.expression(row) <= capacity)

    def limit_others(self, model: cp_model.CpModel) -> None:
        """Caps on MACs and on the frozen level."""
        if self.problem.max_macs is not None:
            model.add(self.expression(self.macs) <= self.problem.max_macs)
        level = self.problem.options.frozen
        if level != MAIN and (capacity := self.problem.capacity(level)) is not None:
            model.add(self.expression(self.frozen) <= capacity)

    def peak(self, model: cp_model.CpModel) -> cp_model.IntVar:
        """A variable that is at least every step's bytes."""
        top = max((r.constant + sum(n for n in r.terms.values() if n > 0) for r in self.rows), default=0)
        peak = model.new_int_var(0, top, "peak")
        for row in self.rows:
            model.add(self.expression(row) <= peak)
        return peak

    def exclude(self, decisions: Decisions) -> None:
        """Rule one set of decisions out."""
        update = self.graph
        literals: list[cp_model.LiteralT] = []
        for name, levels in update.levels.items():
            chosen = decisions.update.get(name, 0.0)
            for (r, _), bit in zip(levels.fractions, levels.atoms, strict=True):
                atom = self.literals.atoms[bit]
                literals.append(atom.Not() if r <= chosen else atom)
        for p, options in zip(self.graph.picks, self.literals.picks, strict=True):
            if p.op in decisions.picks:
                literals.append(options[p.options.index(decisions.picks[p.op])].Not())
        self.excluded.append(literals)

    def select(self, limits: Limits, margin: int = 0, above: float | None = None) -> Selection:
        """The best decisions within all budgets.

        Args:
            margin: bytes of main memory to leave free.
            above: only decisions that are worth more than this.
        """
        model = self.model.clone()
        capacity = self.problem.capacity(MAIN)
        self.limit_bytes(model, None if capacity is None else capacity - margin)
        self.limit_others(model)
        for clause in self.excluded:
            model.add_bool_or(clause)
        if above is not None:
            model.add(self.value >= math.floor((above + self.resolution) * self.scale) + 1)
        atoms = list(self.literals.atoms.values())
        goals: list[tuple[str, cp_model.LinearExprT]] = [
            ("max", self.value),
            ("min", self.expression(self.macs)),
            # and, among equals, no update that is worth nothing
            ("min", self.peak(model) * (len(atoms) + 1) + cp_model.LinearExpr.sum(atoms)),
        ]  # fmt: skip
        outcomes = solve_in_order(model, goals, limits, parameters=SEARCH)  # type: ignore[arg-type]
        solved = [o for o in outcomes if o.solved]
        work = sum(o.work for o in outcomes)
        if not solved:
            return Selection(outcomes[0].status, None, math.inf, {}, work)
        first = outcomes[0]
        bound = (first.bound if first.bound is not None else 0) / self.scale
        if margin == 0:
            self.best_bound = min(self.best_bound, max(bound, above if above is not None else -math.inf))
        names = ("macs", "peak")
        ties = {n: o.status for n, o in zip(names, outcomes[1:], strict=False)}
        return Selection(first.status, self.decisions(solved[-1]), bound, ties, work)

    def cheapest(self, limits: Limits, remaining: bool = False) -> tuple[str, Decisions | None, int]:
        """The decisions of least peak that satisfy all but the budget of main memory; (status, decisions, bound).

        Those ruled out are among them unless only the ``remaining`` ones are asked for.
        """
        model = self.model.clone()
        self.limit_others(model)
        for clause in self.excluded if remaining else ():
            model.add_bool_or(clause)
        model.minimize(self.peak(model))
        outcome = solve(model, limits, parameters=SEARCH)
        if not outcome.solved:
            return outcome.status, None, 0
        return outcome.status, self.decisions(outcome), int(outcome.bound or 0)

    def least_macs(self, limits: Limits) -> int | None:
        """The fewest MACs that any allowed update set takes, byte budgets aside."""
        model = self.model.clone()
        model.minimize(self.expression(self.macs))
        outcome = solve(model, limits, parameters=SEARCH)
        return outcome.bound

    def decisions(self, outcome: Outcome) -> Decisions:
        """What a solution says."""
        update: dict[str, float] = {}
        for name, levels in self.graph.levels.items():
            for (r, _), bit in zip(levels.fractions, levels.atoms, strict=True):
                if outcome.value(self.literals.atoms[bit]):
                    update[name] = r
        chosen = 0
        for name, r in update.items():
            levels = self.graph.levels[name]
            for (fraction, _), bit in zip(levels.fractions, levels.atoms, strict=True):
                chosen |= bit if fraction <= r else 0
        picks = {}
        for p, options in zip(self.graph.picks, self.literals.picks, strict=True):
            if p.when & chosen:
                picks[p.op] = p.options[next(i for i, v in enumerate(options) if outcome.value(v))]
        return Decisions(update, picks)
