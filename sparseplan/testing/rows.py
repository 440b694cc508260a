"""What the solver counts is what liveness counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sparseplan.autodiff import trace
from sparseplan.liveness import analyse
from sparseplan.problem import Problem
from sparseplan.recompute import Savings, apply
from sparseplan.solve.cpsat import Limits, solve
from sparseplan.solve.literals import Row
from sparseplan.solve.select import Program
from sparseplan.steps import MAIN, Schedule, Step, UpdateSet
from sparseplan.testing.theorems import describe, require
from sparseplan.training import MaybeStep, holds
from sparseplan.units import align_up


def check_rows(problem: Problem, update: Mapping[str, float], picks: Mapping[str, str] | None = None) -> None:
    """The solver's linear rows, evaluated at given decisions, are the bytes that liveness counts.

    At every step that exists; at steps that do not, a row may not exceed the peak. The rows that the
    solver leaves out as dominated never hide the peak. MACs and the frozen level likewise.
    """
    program = Program(replace(problem, must={}, ties=()), trace(problem.network, problem.options, problem.choices), [])
    graph, literals = program.graph, program.literals
    chosen = graph.chosen(UpdateSet(update))
    taken = [p.options.index((picks or {}).get(p.op, p.options[0])) for p in graph.picks]
    model = program.model.clone()
    for bit, atom in literals.atoms.items():
        model.add(atom == int(bool(bit & chosen)))
    for options, i in zip(literals.picks, taken, strict=True):
        model.add(options[i] == 1)
    outcome = solve(model, Limits())
    about = f"at update={dict(update)}, picks={picks} {describe(problem)}"
    require(outcome.solved, f"the model refuses decisions {about}")

    def read(row: Row) -> int:
        return int(row.constant + sum(n * outcome.values[i] for i, n in row.terms.items()))

    schedule = graph.restrict(UpdateSet(update), picks)
    memory = analyse(schedule)
    live, peak = iter(memory.at(MAIN)), memory.peak()
    for step, row in zip(graph.steps, program.all_rows, strict=True):
        bytes_ = read(row)
        if holds(step.when, chosen) and (step.pick is None or taken[step.pick[0]] == step.pick[1]):
            counted = next(live)
            require(bytes_ == counted, f"step {step.name!r}: row={bytes_}, liveness={counted} {about}")
        else:
            require(bytes_ <= peak, f"absent step {step.name!r}: row={bytes_} > {peak=} {about}")
    require(next(live, None) is None, f"liveness has steps that the solver has not {about}")
    kept = max(map(read, program.rows), default=0)
    require(kept == peak, f"peak of the rows kept={kept}, of liveness={peak} {about}")
    macs, counted = read(program.macs), sum(schedule.macs.values())
    require(macs == counted, f"MACs: row={macs}, schedule={counted} {about}")
    stay = [v for v in schedule.values.values() if v.role == "parameter" and v.tensor not in update]
    alignment = problem.device.level(problem.options.frozen).alignment
    frozen, counted = read(program.frozen), sum(align_up(v.bytes, alignment) for v in stay)
    require(frozen == counted, f"frozen parameters: row={frozen}, schedule={counted} {about}")


def kept_savings(base: Schedule, savings: Savings) -> Savings:
    """Those reruns and fetches that some step depends on: what ``apply`` leaves of them, by its own account."""
    named = {s.name for s in base.steps}
    reruns: set[tuple[str, str]] = set()
    fetches: set[tuple[str, str]] = set()
    waiting: list[Step] = []
    for step in apply(base, savings).steps:
        if step.name in named:
            for w in waiting:
                (reruns if w.kind == "recompute" else fetches).add((w.op, step.name))
            waiting = []
        elif step.kind in ("recompute", "page_in"):
            waiting.append(step)
    return replace(savings, reruns=frozenset(reruns), fetches=frozenset(fetches))


def check_rows_with_savings(
    problem: Problem, update: Mapping[str, float], picks: Mapping[str, str], savings: Savings
) -> None:
    """With everything decided, the lowest peak that the solver's rows allow is the one that liveness counts.

    So it is with the reruns and fetches of which something is read. What nobody reads is never made, but may cost
    bytes in the rows: with it the rows allow no less. MACs likewise.
    """
    program = Program(replace(problem, must={}, ties=()), trace(problem.network, problem.options, problem.choices), [])
    base = program.graph.restrict(UpdateSet(update), picks)
    kept = kept_savings(base, savings)
    schedule = apply(base, kept)
    peak, macs = analyse(schedule).peak(), sum(schedule.macs.values())
    about = f"at update={dict(update)}, picks={dict(picks)}, {kept} {describe(problem)}"
    require(schedule == apply(base, savings), f"reruns that nobody reads change the schedule {about}")
    counted, row = _least_peak(program, update, picks, kept)
    require(counted == peak, f"least peak of the rows={counted}, of liveness={peak} {about}")
    require(row == macs, f"MACs: row={row}, schedule={macs} {about}")
    if savings != kept:
        counted, row = _least_peak(program, update, picks, savings)
        require(counted >= peak, f"with what nobody reads, rows={counted} < liveness={peak} {about}")
        require(row >= macs, f"with what nobody reads, MACs: row={row} < schedule={macs} {about}")


def _least_peak(
    program: Program, update: Mapping[str, float], picks: Mapping[str, str], savings: Savings
) -> tuple[int, int]:
    """Least peak and MACs of the model once everything is decided."""
    graph, literals, model = program.graph, program.literals, program.model.clone()
    chosen = graph.chosen(UpdateSet(update))
    for bit, atom in literals.atoms.items():
        model.add(atom == int(bool(bit & chosen)))
    for p, options in zip(graph.picks, literals.picks, strict=True):
        model.add(options[p.options.index(picks.get(p.op, p.options[0]))] == 1)
    name, again = [s.name for s in graph.steps], program.again

    def there(s: MaybeStep) -> bool:  # several steps may have one name, of which one takes place
        stays = s.pick is None or picks.get(graph.picks[s.pick[0]].op) == graph.picks[s.pick[0]].options[s.pick[1]]
        return holds(s.when, chosen) and stays

    known: dict[Any, Any] = {}
    for table in (again.runs, again.fetches):
        known |= {(what, name[i]): literal for (what, i), literal in table.items() if there(graph.steps[i])}
    known.update(again.packed)
    known.update(again.moved)
    taken = {*savings.reruns, *savings.fetches, *savings.packed, *savings.moved}
    require(taken <= known.keys(), f"the model knows nothing of {taken - known.keys()}")
    for what, literal in known.items():
        model.add(literal == int(what in taken))
    peak = program.peak(model)
    model.minimize(peak)
    outcome = solve(model, Limits())
    require(outcome.solved, f"the model refuses {savings} at update={dict(update)} {describe(program.problem)}")
    macs = program.macs.constant + sum(n * outcome.values[i] for i, n in program.macs.terms.items())
    return int(outcome.objective or 0), int(macs)
