"""CP-SAT behind one small door: limits in, outcome out, the same answer for the same seed.

One worker by default, since several race and so differ from run to run. A solve that ends by its ``work``
(deterministic seconds, which count operations) is reproducible too; one that ends by ``seconds`` is not.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

from ortools.sat.python import cp_model

from sparseplan.errors import InternalError
from sparseplan.solve import clock as clocks
from sparseplan.solve.clock import Clock as Clock
from sparseplan.solve.clock import Limits as Limits

Status = Literal["OPTIMAL", "FEASIBLE", "INFEASIBLE", "UNKNOWN"]
Sense = Literal["max", "min"]

_STATUS: dict[Any, Status] = {
    cp_model.OPTIMAL: "OPTIMAL",
    cp_model.FEASIBLE: "FEASIBLE",
    cp_model.INFEASIBLE: "INFEASIBLE",
    cp_model.UNKNOWN: "UNKNOWN",
}


# Seconds for confirming that a model has no solution.
_CONFIRM_SECONDS = 2.0
# Seconds between looks at a search that runs in a thread.
_POLL = 0.2

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a solve came to.

    Attributes:
        status: OPTIMAL also for a satisfied model without objective.
        objective: of the solution found, exact; None without solution or without objective.
        bound: proven bound on the objective (upper when maximising); None where infeasible or
            without objective.
        values: of every variable of the model, by index; empty without solution.
        seconds: wall-clock seconds.
        work: deterministic seconds.
    """

    status: Status
    objective: int | None
    bound: int | None
    values: tuple[int, ...]
    seconds: float
    work: float

    @property
    def solved(self) -> bool:
        """Whether there is a solution."""
        return self.status in ("OPTIMAL", "FEASIBLE")

    def value(self, var: cp_model.IntVar) -> int:
        """Value of ``var`` (a plain variable of the model, not its negation) in the solution."""
        if not self.solved:
            raise InternalError(f"value of {var} asked of a solve that ended {self.status}")
        return self.values[var.index]


def solve(
    model: cp_model.CpModel,
    limits: Limits,
    *,
    workers: int = 1,
    parameters: Mapping[str, Any] | None = None,
) -> Outcome:
    """Solve ``model`` within ``limits``.

    Args:
        model: variables, constraints and perhaps an objective with integer coefficients.
        limits: when to stop, and the seed.
        workers: threads; with more than one the solution may differ from run to run.
        parameters: further fields of CP-SAT's ``SatParameters``, by name.

    Raises:
        InternalError: CP-SAT finds the model malformed.
    """
    solver = cp_model.CpSolver()
    settings = solver.parameters
    settings.num_workers = workers
    settings.random_seed = limits.seed
    if limits.seconds is not None:
        settings.max_time_in_seconds = limits.seconds
    if limits.work is not None:
        settings.max_deterministic_time = limits.work
    for name, value in (parameters or {}).items():
        setattr(settings, name, value)
    began = clocks.now()
    settings.catch_sigint_signal = False  # it would end this search as if in time, and the caller go on
    status = _STATUS.get(_interruptible(solver, model, limits))
    seconds = clocks.now() - began
    if status is None:
        raise InternalError(f"CP-SAT rejects the model: {model.validate()}")
    response = solver.response_proto
    values = tuple(int(v) for v in response.solution) if status in ("OPTIMAL", "FEASIBLE") else ()
    objective = bound = None
    if model.has_objective():
        objective, bound = _objective(model, values, status, int(response.inner_objective_lower_bound))
    return Outcome(status, objective, bound, values, seconds, float(response.deterministic_time))


def _interruptible(solver: cp_model.CpSolver, model: cp_model.CpModel, limits: Limits) -> Any:
    """Solve in a thread, so that Ctrl-C reaches Python at once and the pulse beats meanwhile.

    Presolve heeds its limit of seconds now and then only, so the search is also stopped from here.
    """
    deadline = Clock(limits)
    return interruptible(lambda: solver.solve(model), solver.stop_search, deadline)


def interruptible(work: Callable[[], _T], stop: Callable[[], None] | None, clock: Clock) -> _T:
    """What ``work`` returns, run in a thread; ``stop`` (again and again) once the clock is late, or at Ctrl-C.

    Without ``stop`` the work cannot be ended from outside: at Ctrl-C it is left alone, to end by its own limits.
    """
    result: list[_T] = []
    failure: list[BaseException] = []
    done = threading.Event()  # a join that is interrupted takes the thread for dead (Python 3.11)

    def run() -> None:
        try:
            result.append(work())
        except BaseException as error:
            failure.append(error)
        finally:
            done.set()

    threading.Thread(target=run, daemon=True).start()
    try:
        while not done.wait(_POLL):
            if clock.late() and stop is not None:
                stop()
    except BaseException:  # Ctrl-C, or what the report of progress raises
        while stop is not None and not done.wait(0.02):
            stop()  # in vain until the search has begun
        raise
    if failure:
        raise failure[0]
    return result[0]


def _objective(
    model: cp_model.CpModel, values: tuple[int, ...], status: Status, inner_bound: int
) -> tuple[int | None, int | None]:
    """Objective and bound from integers, since the solver's own floats are inexact beyond 2**53."""
    goal = model.proto.objective
    if abs(goal.scaling_factor or 1) != 1:
        raise InternalError(f"objective scaled by {goal.scaling_factor}: coefficients must be integers")
    sign, offset = (-1 if goal.scaling_factor < 0 else 1), round(goal.offset)
    if not values:
        return None, sign * (inner_bound + offset) if status == "UNKNOWN" else None
    total = sum(c * (values[v] if v >= 0 else -values[-v - 1]) for v, c in zip(goal.vars, goal.coeffs, strict=True))
    objective = sign * (total + offset)
    return objective, objective if status == "OPTIMAL" else sign * (inner_bound + offset)


def _confirmed(
    model: cp_model.CpModel, clock: Clock, outcome: Outcome, known: bool, parameters: Mapping[str, Any] | None
) -> Outcome:
    """``outcome`` INFEASIBLE, unless a search without presolve finds a solution after all.

    Presolve was seen to lose solutions where coefficients are large; a solution, once found, is beyond doubt.
    ``known``: an earlier goal had a solution, so there must be one.
    """
    limits = clock.left(seconds=_CONFIRM_SECONDS + 2 * outcome.seconds)
    again = solve(model, limits, parameters={**(parameters or {}), "cp_model_presolve": False})
    clock.spend(again.work)
    if again.solved:
        return again
    if known and again.status == "INFEASIBLE":
        raise InternalError("CP-SAT finds no solution where it has just found one")
    return again if known else outcome


#: deterministic seconds for the first way to prove that nothing is better than what was found in a part
FIRST_PROOF = 6.0
#: the second way: several searches in turn, deterministic whatever the number of threads
IN_TURN = {"num_workers": 2, "interleave_search": True}


def solve_in_order(
    model: cp_model.CpModel,
    goals: Sequence[tuple[Sense, cp_model.LinearExprT]],
    limits: Limits,
    *,
    workers: int = 1,
    parameters: Mapping[str, Any] | None = None,
    narrow: cp_model.IntVar | None = None,
    later: float | None = None,
) -> tuple[Outcome, ...]:
    """Optimise several goals lexicographically, the first one first.

    Each goal is solved with every earlier one held to at least what was reached, starting from the last solution.
    ``model`` itself is left as it is. ``limits`` are for all goals together.

    Args:
        narrow: a literal that holds in a small part of the solutions, where good ones are likely; each goal
            is solved there first, and then shown to be no better elsewhere.
        later: deterministic seconds for the second goal, and a quarter for each one behind it.

    Returns:
        An outcome a goal, in order, cut short after the first goal without a solution. Only a goal whose
        predecessors are all OPTIMAL has a bound that speaks of the lexicographic optimum.
    """
    clock = Clock(limits)
    stage = model.clone()
    outcomes: list[Outcome] = []
    for sense, expression in goals:
        if sense == "max":
            stage.maximize(expression)
        else:
            stage.minimize(expression)
        limits = clock.left(work=later / 4 ** (len(outcomes) - 1) if outcomes and later is not None else None)
        if narrow is None:
            outcome = solve(stage, limits, workers=workers, parameters=parameters)
        else:
            outcome = _narrow_first(stage, (sense, expression), narrow, limits, workers, parameters)
        clock.spend(outcome.work)
        if outcome.status == "INFEASIBLE":
            outcome = _confirmed(stage, clock, outcome, known=bool(outcomes), parameters=parameters)
        outcomes.append(outcome)
        if not outcome.solved or outcome.objective is None:
            break
        if sense == "max":
            stage.add(expression >= outcome.objective)
        else:
            stage.add(expression <= outcome.objective)
        _hint(stage, outcome)
    return tuple(outcomes)


def _hint(model: cp_model.CpModel, outcome: Outcome) -> None:
    """Start the next search from a solution."""
    model.clear_hints()  # type: ignore[no-untyped-call]
    for index, value in enumerate(outcome.values):
        model.add_hint(model.get_int_var_from_proto_index(index), value)


def _narrow_first(
    model: cp_model.CpModel,
    goal: tuple[Sense, cp_model.LinearExprT],
    narrow: cp_model.IntVar,
    limits: Limits,
    workers: int,
    parameters: Mapping[str, Any] | None,
) -> Outcome:
    """Solve where ``narrow`` holds; then look for anything better among all solutions."""
    clock = Clock(limits)
    part = model.clone()
    part.add(narrow == 1)
    half = None if limits.seconds is None else 0.5 * limits.seconds
    first = solve(part, clock.left(half, None if limits.work is None else 0.5 * limits.work), workers=workers,
                  parameters=parameters)  # fmt: skip
    clock.spend(first.work)
    if not first.solved or first.objective is None:
        rest = solve(model, clock.left(), workers=workers, parameters=parameters)
        return replace(rest, seconds=clock.elapsed(), work=first.work + rest.work)
    sense, expression = goal
    whole = model.clone()
    step = 1 if first.status == "OPTIMAL" else 0  # a part that was not searched through may hold better ones
    whole.add(expression >= first.objective + step if sense == "max" else expression <= first.objective - step)
    _hint(whole, first)
    if step:
        whole.clear_hints()  # type: ignore[no-untyped-call]
    second = solve(whole, clock.left(work=FIRST_PROOF), workers=workers, parameters=parameters)
    clock.spend(second.work)
    if second.status == "UNKNOWN" and not clock.passed():  # some proofs come easily to one search, some to many in turn
        second = solve(whole, clock.left(), workers=workers, parameters={**(parameters or {}), **IN_TURN})
        clock.spend(second.work)
    work = clock.worked
    if second.solved:
        return replace(second, seconds=clock.elapsed(), work=work)
    if second.status == "INFEASIBLE" and step:
        return replace(first, status="OPTIMAL", bound=first.objective, seconds=clock.elapsed(), work=work)
    bound = second.bound if second.bound is not None else first.bound
    if bound is not None:  # beyond the best known nothing is claimed
        bound = max(bound, first.objective) if sense == "max" else min(bound, first.objective)
    return replace(first, status="FEASIBLE", bound=bound, seconds=clock.elapsed(), work=work)
