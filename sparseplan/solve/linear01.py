"""0/1 programs as plain data, solved by CP-SAT or by HiGHS (through MathOpt) alike.

CP-SAT reasons in integers and its bounds are proofs. HiGHS works with floats: its solutions are checked here against
the integer rows, its bounds are rounded in the safe direction by a millionth, and both are the better the smaller the
coefficients are, so every row is divided by its greatest common divisor.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ortools.math_opt import model_pb2  # type: ignore[import-untyped]
from ortools.math_opt.python import mathopt  # type: ignore[import-untyped]
from ortools.sat.python import cp_model

from sparseplan.errors import InternalError
from sparseplan.solve import clock as clocks
from sparseplan.solve.cpsat import Clock, Limits, interruptible, solve

#: (variable, coefficient) pairs
Terms = Sequence[tuple[int, int]]
#: relative rounding of what a solver with floats claims
_SAFETY = 1e-6


@dataclass
class Program01:
    """Minimise ``objective`` over variables within bounds (0 and 1, mostly), subject to rows ``terms >= least``."""

    bounds: list[tuple[int, int]] = field(default_factory=list)
    rows: list[tuple[tuple[tuple[int, int], ...], int]] = field(default_factory=list)
    objective: dict[int, int] = field(default_factory=dict)
    #: variables that need not be whole, for HiGHS (CP-SAT keeps them whole, which must not matter)
    continuous: set[int] = field(default_factory=set)

    def var(self, lo: int = 0, hi: int = 1) -> int:
        """A new variable."""
        self.bounds.append((lo, hi))
        return len(self.bounds) - 1

    def least(self, terms: Terms, least: int) -> None:
        """``terms >= least``; repeated variables add up."""
        merged: dict[int, int] = {}
        for v, c in terms:
            merged[v] = merged.get(v, 0) + c
        kept = tuple((v, c) for v, c in merged.items() if c)
        if not kept and least <= 0:
            return
        common = math.gcd(*(c for _, c in kept)) or 1
        self.rows.append((tuple((v, c // common) for v, c in kept), -(-least // common)))

    def most(self, terms: Terms, most: int) -> None:
        """``terms <= most``."""
        self.least([(v, -c) for v, c in terms], -most)

    def feasible(self, values: Sequence[int]) -> bool:
        """Whether whole values satisfy every row, in integers."""
        within = all(lo <= v <= hi for v, (lo, hi) in zip(values, self.bounds, strict=True))
        return within and all(sum(c * values[v] for v, c in terms) >= least for terms, least in self.rows)

    def worth(self, values: Sequence[int]) -> int:
        """Objective of values."""
        return sum(c * values[v] for v, c in self.objective.items())


def from_cpsat(model: cp_model.CpModel) -> Program01:
    """The same program, of a model with clauses, implications, at-most-ones and linear rows only.

    Variables keep their indices.

    Raises:
        InternalError: another kind of constraint, or a domain with holes.
    """
    program, proto = Program01(), model.proto
    for v in proto.variables:
        if len(v.domain) != 2:
            raise InternalError("a domain with holes in a 0/1 program")
        program.var(v.domain[0], v.domain[1])

    def literals(refs: Sequence[int]) -> tuple[list[tuple[int, int]], int]:
        return [(r, 1) if r >= 0 else (-r - 1, -1) for r in refs], sum(r < 0 for r in refs)

    for c in proto.constraints:
        guards, guarded = literals([-r - 1 for r in c.enforcement_literal])
        if c.has_bool_or() or c.has_bool_and():
            parts = [list(c.bool_or.literals)] if c.has_bool_or() else [[r] for r in c.bool_and.literals]
            for part in parts:
                terms, negated = literals(part)
                program.least([*guards, *terms], 1 - negated - guarded)
        elif c.has_at_most_one() and not guards:
            terms, negated = literals(list(c.at_most_one.literals))
            program.most(terms, 1 - negated)
        elif c.has_linear() and not guards and len(c.linear.domain) == 2:
            terms = list(zip(c.linear.vars, c.linear.coeffs, strict=True))
            lo, hi = c.linear.domain
            if lo > -(2**62):
                program.least(terms, lo)
            if hi < 2**62:
                program.most(terms, hi)
        else:
            raise InternalError("a constraint that is no row of a 0/1 program")
    for v, coefficient in zip(proto.objective.vars, proto.objective.coeffs, strict=True):
        program.objective[v] = coefficient
    return program


@dataclass(frozen=True, slots=True)
class Result01:
    """Values (empty without a solution), objective, proven lower bound, and what the solve took.

    ``status``: OPTIMAL, FEASIBLE, INFEASIBLE, UNKNOWN; ERROR when a solver fails or its solution breaks a row.
    """

    status: str
    values: tuple[int, ...]
    objective: int | None
    bound: int
    seconds: float


def solve_cpsat(program: Program01, limits: Limits, hint: Mapping[int, int] | None = None) -> Result01:
    """By CP-SAT, one worker."""
    model = cp_model.CpModel()
    x = [model.new_int_var(lo, hi, "") for lo, hi in program.bounds]
    for terms, least in program.rows:
        unit = all(abs(c) == 1 and program.bounds[v] == (0, 1) for v, c in terms)
        if unit and least == 1 - sum(c < 0 for _, c in terms):
            model.add_bool_or([x[v] if c > 0 else x[v].Not() for v, c in terms])
            continue
        model.add(cp_model.LinearExpr.weighted_sum([x[v] for v, _ in terms], [c for _, c in terms]) >= least)
    model.minimize(cp_model.LinearExpr.weighted_sum([x[v] for v in program.objective], [*program.objective.values()]))
    for v, value in (hint or {}).items():
        model.add_hint(x[v], value)
    outcome = solve(model, limits, parameters={"linearization_level": 2})
    return Result01(
        outcome.status, outcome.values[: len(x)], outcome.objective, int(outcome.bound or 0), outcome.seconds
    )


def _proto(program: Program01, scale: int, relaxed: bool) -> model_pb2.ModelProto:
    """A program as MathOpt's protocol buffer, which takes a tenth of the time of expressions."""
    proto, count = model_pb2.ModelProto(), len(program.bounds)
    proto.variables.ids.extend(range(count))
    proto.variables.lower_bounds.extend(lo for lo, _ in program.bounds)
    proto.variables.upper_bounds.extend(hi for _, hi in program.bounds)
    proto.variables.integers.extend(not relaxed and v not in program.continuous for v in range(count))
    proto.linear_constraints.ids.extend(range(len(program.rows)))
    proto.linear_constraints.lower_bounds.extend(least for _, least in program.rows)
    proto.linear_constraints.upper_bounds.extend([math.inf] * len(program.rows))
    matrix = proto.linear_constraint_matrix
    for i, (terms, _) in enumerate(program.rows):
        ordered = sorted(terms)
        matrix.row_ids.extend([i] * len(ordered))
        matrix.column_ids.extend([v for v, _ in ordered])
        matrix.coefficients.extend([c for _, c in ordered])
    goal = sorted((v, c // scale) for v, c in program.objective.items() if c // scale)
    proto.objective.linear_coefficients.ids.extend(v for v, _ in goal)
    proto.objective.linear_coefficients.values.extend(c for _, c in goal)
    return proto


def solve_highs(
    program: Program01, limits: Limits, gap: float = 0.0, hint: Mapping[int, int] | None = None,
    relaxed: bool = False,
) -> Result01:  # fmt: skip
    """By HiGHS.

    Args:
        gap: relative distance from the optimum at which to stop.
        relaxed: only the linear relaxation, for its bound.
    """
    scale = math.gcd(*program.objective.values()) or 1
    model = mathopt.Model.from_model_proto(_proto(program, scale, relaxed))
    x = [model.get_variable(v) for v in range(len(program.bounds))]
    parameters = mathopt.SolveParameters(
        time_limit=None if limits.seconds is None else datetime.timedelta(seconds=limits.seconds),
        relative_gap_tolerance=gap,
        absolute_gap_tolerance=0.5,
        random_seed=limits.seed,
    )
    hints = [mathopt.SolutionHint({x[v]: float(n) for v, n in hint.items()})] if hint and not relaxed else []
    began = clocks.now()
    try:
        result = interruptible(
            lambda: mathopt.solve(
                model, mathopt.SolverType.HIGHS, params=parameters,
                model_params=mathopt.ModelSolveParameters(solution_hints=hints),
            ), None, Clock(limits),
        )  # fmt: skip
    except (RuntimeError, ValueError, AttributeError):
        return Result01("ERROR", (), None, 0, clocks.now() - began)
    seconds = clocks.now() - began
    reason = result.termination.reason
    if reason in (mathopt.TerminationReason.INFEASIBLE, mathopt.TerminationReason.INFEASIBLE_OR_UNBOUNDED):
        return Result01("INFEASIBLE", (), None, 0, seconds)
    dual = result.termination.objective_bounds.dual_bound
    bound = 0
    if math.isfinite(dual):
        bound = max(0, math.ceil(dual - abs(dual) * _SAFETY - _SAFETY)) * scale
    if relaxed or not result.solutions or result.solutions[0].primal_solution is None:
        return Result01("UNKNOWN", (), None, bound, seconds)
    found = result.solutions[0].primal_solution.variable_values
    values = tuple(math.floor(found[v] + 0.5) for v in x)
    if not program.continuous and not program.feasible(values):
        return Result01("ERROR", (), None, bound, seconds)
    objective = program.worth(values)
    optimal = reason == mathopt.TerminationReason.OPTIMAL and gap == 0
    return Result01("OPTIMAL" if optimal else "FEASIBLE", values, objective, min(bound, objective), seconds)
