"""What the solver counts is what liveness counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from sparseplan.autodiff import trace
from sparseplan.liveness import analyse
from sparseplan.problem import Problem
from sparseplan.solve.cpsat import Limits, solve
from sparseplan.solve.rows import Row
from sparseplan.solve.select import Program
from sparseplan.steps import MAIN, UpdateSet
from sparseplan.testing.theorems import describe, require
from sparseplan.training import holds
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
