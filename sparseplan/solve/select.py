"""Which parameters to update: an exact 0/1 program over the conditions of the training graph.

Objective, lexicographic: most value, then fewest MACs, then lowest peak of live bytes. Live bytes
are a relaxation of placed bytes: ``pipeline`` places what is selected and asks again with what
could not be placed excluded.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ortools.sat.python import cp_model

from sparseplan.costs import cycles_within
from sparseplan.problem import Pair, Problem, Saturation
from sparseplan.recompute import NO_SAVINGS, Savings
from sparseplan.solve import timing
from sparseplan.solve.again import Again, Alike, candidates, movable, named, packable_steps, used_at_once
from sparseplan.solve.cpsat import Clock, Limits, Outcome, Sense, solve, solve_in_order
from sparseplan.solve.literals import Literal, Literals, Row
from sparseplan.solve.rows import budget_rows, frozen_row, macs_terms, total, traffic_terms, undominated
from sparseplan.solve.tiling import Tiling
from sparseplan.steps import MAIN, PAGE_LEVEL
from sparseplan.training import TrainingGraph
from sparseplan.units import align_up

#: values are scaled to integers whose sum stays below 2**VALUE_BITS: finer than any measured value.
#: With coefficients beyond 2**40 the presolve of CP-SAT 9.15 was seen to call solvable models infeasible.
VALUE_BITS = 30
#: byte budgets are knapsacks: with the linear relaxation of the disjunctions too, bounds are tight
#: and one worker proves in a second what takes minutes without
SEARCH = {"linearization_level": 2}
#: deterministic seconds for the first of the ties, where ops may run again (the others get less): their proofs can
#: take far longer than that of the value; a tie without proof is FEASIBLE
LATER_WORK = 14.0
#: what is lowest among plans of equal value
TIES = ("macs", "peak")


@dataclass(frozen=True)
class Decisions:
    """What the solver decides: fractions, how each backward gets what it needs, and what is made again."""

    update: Mapping[str, float]
    picks: Mapping[str, str]
    savings: Savings = NO_SAVINGS


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


@dataclass(frozen=True)
class Excluded:
    """Decisions that were ruled out since they were not placed.

    Attributes:
        clause: some literal of it must hold.
        value: what the decisions are worth at most.
        least: bytes of main memory that they are proven to take.
    """

    clause: tuple[cp_model.LiteralT, ...]
    value: float
    least: int


class Program:
    """The model of one problem; asked again as placements fail."""

    def __init__(
        self, problem: Problem, graph: TrainingGraph, forbidden: Sequence[tuple[int, str]], alike: Alike | None = None,
        tiling: Tiling | None = None, look: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        """``forbidden``: conditions (with the step's name) of passes that no L1 tile fits; ``tiling``: for time;
        ``look``: called again and again while the program is built, and what it raises ends that."""
        self.look = look
        self.problem, self.graph, self.alike = problem, graph, alike or Alike()
        self.model = cp_model.CpModel()
        self._variables: dict[int, cp_model.IntVar] = {}
        self.literals = Literals(self.model, graph)
        self._tie()
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
        self.again = self._again()
        self.all_rows = budget_rows(graph, self.literals, self.again, look)
        self.rows = undominated(self.all_rows, look)
        self.area = total(self.all_rows)
        self.macs = macs_terms(graph, self.literals, self.again)
        self.traffic = traffic_terms(graph, self.literals, self.again)
        self.frozen = frozen_row(graph, self.literals, problem.device.level(problem.options.frozen).alignment)
        self._costs(tiling)
        self._value()
        self.look = lambda: None
        self.excluded: list[Excluded] = []
        #: a proven upper bound on the value of all decisions not excluded
        self.best_bound = problem.most_worth()

    def _again(self) -> Again:
        """Literals of what may run again or be paged, each before a step that takes place."""
        graph, model = self.graph, self.model
        bound = {v for group in graph.composites for v, _ in group}
        runs, fetches, producers = candidates(graph, self.problem.savings, bound, self.alike)
        decisions = {key: model.new_bool_var(f"{key[0]} before {key[1]}") for key in dict.fromkeys(runs.values())}
        self._picks_alike()
        moved = {key: model.new_bool_var(f"{key[0]} at {key[1]}")
                 for key in movable(graph, self.problem.savings, self.problem.stream_level)}  # fmt: skip
        for (name, _), literal in moved.items():
            levels = graph.levels.get(name)
            if levels is not None and levels.atoms:  # a parameter that is updated lives in main memory
                model.add_implication(self.literals.atoms[levels.atoms[0]], literal.Not())
        packs = packable_steps(graph, self.problem.savings, bound, self.alike)
        paged = {t: model.new_bool_var(f"page {t}") for t in dict.fromkeys(t for t, _ in fetches)}
        again = Again(
            {run: decisions[key] for run, key in runs.items()},
            {(t, i): model.new_bool_var(f"fetch {t} before {i}") for t, i in fetches}, paged, producers,
            {op: model.new_bool_var(f"pack input of {op}") for op in dict.fromkeys(graph.steps[i].op for i in packs)},
            packs, moved,
        )  # fmt: skip
        for (_, i), literal in (*again.runs.items(), *again.fetches.items()):
            self.look()
            takes_place = self.literals.condition((graph.steps[i].when, graph.steps[i].pick))
            if takes_place is not True:
                model.add_implication(literal, takes_place)
        for (t, i), literal in again.fetches.items():
            model.add_implication(literal, paged[t])
            other = again.runs.get((producers.get(t, ""), i))
            if other is not None:
                model.add_bool_or([literal.Not(), other.Not()])
        self.narrow = model.new_bool_var("used at once") if runs or fetches else None
        if self.narrow is not None:
            used_at_once(graph, self.literals, again, self.narrow)
        return again

    def _costs(self, tiling: Tiling | None) -> None:
        """Rows of cycles, where the device's tables have all that it takes, and of caps on time and energy."""
        problem, graph, device = self.problem, self.graph, self.problem.device
        #: cycles of a run, where they are known
        self.time: Row | None = None
        #: rows with their caps
        self.caps: list[tuple[Row, int]] = []
        if tiling is None:
            return
        by_power = problem.max_joules is not None and device.watts("active") is not None
        capped = problem.max_seconds is not None or by_power
        if capped or (device.mac_rates and not timing.gaps(device, graph, tiling, self.again)):
            self.time = timing.cost_row(device, graph, tiling, self.literals, self.again)
        if capped and self.time is not None:
            joules = problem.max_joules if by_power else None
            self.caps.append((self.time, cycles_within(device, problem.max_seconds, joules)))
        if problem.max_joules is not None and not by_power:
            row = timing.cost_row(device, graph, tiling, self.literals, self.again, timing.picojoules)
            self.caps.append((row, math.floor(problem.max_joules * 1e12)))

    def _picks_alike(self) -> None:
        """Stripes have what their backward needs in the same way."""
        first: dict[tuple[str, str, tuple[str, ...]], int] = {}
        for n, pick in enumerate(self.graph.picks):
            op, _, target = pick.op.partition(":")
            if op in self.alike.origin:
                key = (self.alike.op(op), target, pick.options)
                for mine, theirs in zip(
                    self.literals.picks[n], self.literals.picks[first.setdefault(key, n)], strict=True
                ):
                    if mine is not theirs:
                        self.model.add(mine == theirs)

    def _value(self) -> None:
        problem = self.problem
        worth = {name: [problem.values[name][r] for r, _ in levels.fractions]
                 for name, levels in self.graph.levels.items()}  # fmt: skip
        pairs = [t for t in problem.terms if isinstance(t, Pair)]
        bends = [t for t in problem.terms if isinstance(t, Saturation)]
        total = math.fsum(abs(b - a) for v in worth.values() for a, b in itertools.pairwise((0.0, *v)))
        total = math.fsum((total, *(abs(t.value) for t in pairs), *map(self._steepest, bends)))
        shift = VALUE_BITS - (math.frexp(total)[1] if total > 0 else 0)
        self.scale = math.ldexp(1.0, min(shift, 1000))  # beyond it lie values of less than 1e-280
        literals = [*map(self._together, pairs), *map(self._saturated, bends)]
        scaled = [round(t.value * self.scale) for t in pairs] + [1] * len(bends)
        prices = self._prices()
        literals += [literal for literal, _ in prices]
        scaled += [price for _, price in prices]
        self.value = cp_model.LinearExpr.sum([self._sum(worth), cp_model.LinearExpr.weighted_sum(literals, scaled)])
        numbers = [v for table in worth.values() for v in table] + [t.value for t in pairs]
        if prices:
            numbers += [problem.price(name, r) for name, table in problem.values.items() for r in table]
        exact = not bends and all((v * self.scale).is_integer() for v in numbers)
        roundings = len(worth) + len(pairs) + len(prices) + sum(len(t.weights) + 2 for t in bends)
        #: how far apart two sums of values must be to be told apart
        self.resolution = 0.0 if exact else roundings / self.scale

    def _sum(self, worth: Mapping[str, Sequence[float]]) -> cp_model.LinearExprT:
        """Scaled sum of what each parameter's level is worth."""
        atoms: list[cp_model.IntVar] = []
        steps: list[int] = []
        for name, table in worth.items():
            # each level is rounded by itself, so that errors do not add up over the fractions
            whole = [round(v * self.scale) for v in (0.0, *table)]
            atoms += [self.literals.atoms[bit] for bit in self.graph.levels[name].atoms]
            steps += [b - a for a, b in itertools.pairwise(whole)]
        return cp_model.LinearExpr.weighted_sum(atoms, steps)

    def _prices(self) -> list[tuple[cp_model.IntVar, int]]:
        """What gradients from packed inputs cost in worth: literals with scaled prices."""
        found: list[tuple[cp_model.IntVar, int]] = []
        readers: dict[str, list[cp_model.IntVar]] = {}  # several ops may use a parameter, whose price is paid once
        for step in (self.graph.steps[i] for i in self.again.packs):
            if step.param is not None:
                readers.setdefault(step.param, []).append(self.again.packed[step.op])
        for p, literals in readers.items():
            packed: Literal = literals[0]
            for other in literals[1:]:
                packed = self.literals.either(packed, other)
            levels, before = self.graph.levels[p], 0
            for (r, _), bit in zip(levels.fractions, levels.atoms, strict=True):
                price = round(self.problem.price(p, r) * self.scale)
                both = self.literals.all([self.literals.atoms[bit], packed])
                if not isinstance(both, bool):
                    found.append((both, before - price))
                before = price
        return found

    def _together(self, pair: Pair) -> cp_model.IntVar | int:
        """The literal (or constant) of a pair: all that it needs is updated."""
        atoms: list[cp_model.IntVar | bool] = []
        for name, least in pair.needs().items():
            levels = self.graph.levels.get(name)
            found = [] if levels is None else [
                bit for (r, _), bit in zip(levels.fractions, levels.atoms, strict=True) if r >= least
            ]  # fmt: skip
            atoms.append(self.literals.atoms[found[0]] if found else False)
        literal = self.literals.all(atoms)
        return int(literal) if isinstance(literal, bool) else literal

    def _weights(self, term: Saturation) -> dict[str, list[float]]:
        return {name: [term.weights[name][r] for r, _ in self.graph.levels[name].fractions]
                for name in term.weights if self.graph.levels.get(name) is not None
                and self.graph.levels[name].fractions}  # fmt: skip

    def _steepest(self, term: Saturation) -> float:
        """The largest number that the lines of a term can come to, in magnitude."""
        total = math.fsum(max(w, default=0.0) for w in self._weights(term).values())
        return max(abs(slope) * total + abs(intercept) for slope, intercept in term.lines())

    def _saturated(self, term: Saturation) -> cp_model.IntVar:
        """A variable that can rise to the term's worth and no further."""
        weights = self._weights(term)
        most = round(term.most() * self.scale) + len(weights) + 2
        worth = self.model.new_int_var(-len(weights) - 2, most, "saturation")
        lines = []
        for slope, intercept in term.lines():
            line = self._sum({name: [slope * w for w in table] for name, table in weights.items()})
            lines.append(cp_model.LinearExpr.sum([line, round(intercept * self.scale)]))
        # an equality: a variable that is merely bounded from above was seen to creep up one by one
        self.model.add_min_equality(worth, lines)
        return worth

    def _tie(self) -> None:
        """Hold tied parameters to their joint levels."""
        for tie in self.problem.ties:
            levels = self.problem.joint_levels(tie)
            joint = [self.model.new_bool_var(f"tie of {tie[0]} {i}") for i in range(len(levels))]
            for more, less in itertools.pairwise(joint):
                self.model.add_implication(less, more)
            for name in tie:
                table = self.graph.levels[name]
                for (r, _), bit in zip(table.fractions, table.atoms, strict=True):
                    # the first joint level at which the parameter is updated by that fraction or more
                    first = next(i for i, level in enumerate(levels) if level[name] >= r)
                    self.model.add(self.literals.atoms[bit] == joint[first])

    def expression(self, row: Row) -> cp_model.LinearExprT:
        """A row as an expression of the model."""
        variables = [self.variable(i) for i in row.terms]
        return cp_model.LinearExpr.weighted_sum(variables, list(row.terms.values())) + row.constant

    def variable(self, index: int) -> cp_model.IntVar:
        """A variable of the model, by index; made anew it would cost microseconds, and the larger rows have all."""
        found = self._variables.get(index)
        if found is None:
            found = self._variables[index] = self.model.get_int_var_from_proto_index(index)
        return found

    def limit_bytes(self, model: cp_model.CpModel, capacity: int | None) -> None:
        """Hold every step within the main memory's capacity."""
        if capacity is not None:
            for row in self.rows:
                row.limit(model, capacity)

    def limit_others(self, model: cp_model.CpModel) -> None:
        """Caps on MACs and on the frozen level."""
        if self.problem.max_macs is not None:
            self.macs.limit(model, self.problem.max_macs)
        level = self.problem.options.frozen
        for row, cap in self.caps:
            row.limit(model, cap)
        taken = {level: [self.frozen]} if level != MAIN else {}
        for name, row in self.away().items():
            taken.setdefault(name, []).append(row)
        for name, rows in taken.items():
            if (capacity := self.problem.capacity(name)) is not None:
                total(rows).limit(model, capacity)

    def away(self) -> dict[str, Row]:
        """Bytes at slower levels: tensors that are paged out, and what is streamed from there."""
        found: dict[str, Row] = {}
        places = [((t, PAGE_LEVEL), literal) for t, literal in self.again.paged.items()]
        for (name, level), literal in (*places, *self.again.moved.items()):
            alignment = max(self.problem.device.level(level).alignment, self.graph.options.alignment)
            found.setdefault(level, Row(0, {})).add(literal, align_up(self.graph.values[name].bytes, alignment))
        return found

    def peak(self, model: cp_model.CpModel) -> cp_model.IntVar:
        """A variable that is at least every step's bytes."""
        top = max((r.constant + sum(n for n in r.terms.values() if n > 0) for r in self.rows), default=0)
        peak = model.new_int_var(0, top, "peak")
        for row in self.rows:
            row.limit(model, 0, peak)
        return peak

    def ask(self, problem: Problem) -> None:
        """Go on with the same problem under budgets that are no larger; what was ruled out stays so."""
        self.problem = problem

    def doubt(self, capacity: int | None) -> float:
        """The most value among decisions ruled out that are not proven impossible within a capacity."""
        return max((e.value for e in self.excluded if capacity is None or e.least <= capacity), default=-math.inf)

    def exclude(self, decisions: Decisions, value: float, least: int) -> None:
        """Rule one set of decisions out: worth at most ``value``, proven to take ``least`` bytes."""
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
        made = decisions.savings
        for table, taken in ((self.again.runs, made.reruns), (self.again.fetches, made.fetches)):
            for (name, i), literal in table.items():
                literals.append(literal.Not() if (name, self.graph.steps[i].name) in taken else literal)
        literals += [v.Not() if key in made.moved else v for key, v in self.again.moved.items()]
        literals += [v.Not() if op in made.packed else v for op, v in self.again.packed.items()]
        self.excluded.append(Excluded(tuple(literals), value, least))

    def select(
        self, limits: Limits, margin: int = 0, above: float | None = None, order: Sequence[str] = TIES
    ) -> Selection:
        """The best decisions within all budgets.

        Args:
            margin: bytes of main memory to leave free.
            above: only decisions that are worth more than this.
            order: what is lowest among equals, the most important first: ``macs`` and ``peak``.
        """
        clock = Clock(limits)
        model = self.model.clone()
        capacity = self.problem.capacity(MAIN)
        self.limit_bytes(model, None if capacity is None else capacity - margin)
        self.limit_others(model)
        for e in self.excluded:
            model.add_bool_or(e.clause)
        if above is not None:
            model.add(self.value >= math.floor((above + self.resolution) * self.scale) + 1)
        again = self.again
        tables = (again.runs, again.fetches, again.paged, again.packed, again.moved)
        atoms = [*self.literals.atoms.values(), *(v for table in tables for v in table.values())]
        if self.time is not None and tuple(order) == TIES:
            order = ("time", "peak")
        elif self.again.paged or self.again.moved:
            at = order.index("macs") + 1 if "macs" in order else 0
            order = (*order[:at], "traffic", *order[at:])
        lowest: dict[str, cp_model.LinearExprT] = {"macs": self.expression(self.macs), "peak": self.peak(model),
                                                    "area": self.expression(self.area),
                                                    "traffic": self.expression(self.traffic),
                                                    "time": self.expression(self.time or Row(0, {}))}  # fmt: skip
        # and, among equals, no update that is worth nothing
        last = cp_model.LinearExpr.weighted_sum([lowest[order[-1]], *atoms], [len(atoms) + 1] + [1] * len(atoms))
        goals: list[tuple[Sense, cp_model.LinearExprT]] = [
            ("max", self.value), *(("min", lowest[name]) for name in order[:-1]), ("min", last),
        ]  # fmt: skip
        later = LATER_WORK if self.again else None
        outcomes = solve_in_order(model, goals, clock.left(), parameters=SEARCH, narrow=self.narrow, later=later)
        solved = [o for o in outcomes if o.solved]
        work = sum(o.work for o in outcomes)
        if not solved:
            if outcomes[0].status == "INFEASIBLE" and margin == 0 and above is not None:
                self.best_bound = min(self.best_bound, above + self.resolution)
            return Selection(outcomes[0].status, None, math.inf, {}, work)
        first = outcomes[0]
        bound = (first.bound if first.bound is not None else 0) / self.scale
        if margin == 0:
            self.best_bound = min(self.best_bound, max(bound, above if above is not None else -math.inf))
        ties = {n: o.status for n, o in zip(order, outcomes[1:], strict=False)}
        return Selection(first.status, self.decisions(solved[-1]), bound, ties, work)

    def cheapest(self, limits: Limits, remaining: bool = False) -> tuple[str, Decisions | None, int]:
        """The decisions of least peak that satisfy all but the budget of main memory; (status, decisions, bound).

        Those ruled out are among them unless only the ``remaining`` ones are asked for.
        """
        clock = Clock(limits)
        model = self.model.clone()
        self.limit_others(model)
        for e in self.excluded if remaining else ():
            model.add_bool_or(e.clause)
        goals: list[tuple[Sense, cp_model.LinearExprT]] = [("min", self.peak(model))]
        outcome = solve_in_order(model, goals, clock.left(), parameters=SEARCH, narrow=self.narrow)[0]
        if not outcome.solved:
            return outcome.status, None, 0
        return outcome.status, self.decisions(outcome), int(outcome.bound or 0)

    def least_macs(self, limits: Limits) -> int | None:
        """The fewest MACs that any allowed update set takes, byte budgets aside."""
        return self.least(self.macs, limits)

    def least(self, row: Row, limits: Limits) -> int | None:
        """The least that a row can come to, byte budgets aside."""
        model = self.model.clone()
        model.minimize(self.expression(row))
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
        runs = [key for key, literal in self.again.runs.items() if outcome.value(literal)]
        fetches = [key for key, literal in self.again.fetches.items() if outcome.value(literal)]
        packed = [op for op, literal in self.again.packed.items() if outcome.value(literal) and self._packs(op, update)]
        moved = [key for key, literal in self.again.moved.items() if outcome.value(literal)]
        return Decisions(update, picks, named(self.graph, runs, fetches, packed, moved))

    def _packs(self, op: str, update: Mapping[str, float]) -> bool:
        """Whether an op has a gradient that would read its input packed."""
        return any(self.graph.steps[i].op == op and self.graph.steps[i].param in update for i in self.again.packs)

    def worth(self, decisions: Decisions) -> float:
        """Value of decisions, less the price of what is packed."""
        steps = (self.graph.steps[i] for i in self.again.packs)
        packed = {s.param for s in steps if s.op in decisions.savings.packed and s.param is not None}
        return self.problem.worth(decisions.update, packed)
