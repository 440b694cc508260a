"""Why nothing fits: the binding level, what does not fit there, and the fewest bytes that would do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparseplan.errors import InternalError
from sparseplan.plan import Infeasibility
from sparseplan.solve.floor import chosen_reads, held_anyway, stay
from sparseplan.solve.select import Decisions
from sparseplan.steps import MAIN, UpdateSet
from sparseplan.units import align_up, format_bytes

if TYPE_CHECKING:
    from sparseplan.solve.pipeline import Pipeline


def reason(search: Pipeline) -> Infeasibility:
    """The first that holds: an op without a tile, too many bytes, another cap."""
    return no_tile(search) or too_many_bytes(search)


def no_tile(search: Pipeline) -> Infeasibility | None:
    """An op that has to run and that no tile fits."""
    chosen = search.graph.chosen(UpdateSet(search.problem.least_update()))
    for need in search.tiling.missing:
        if need.when == -1 or need.when & chosen:
            message = (
                f"L1: no tile of {need.step} fits: the smallest takes {format_bytes(need.fewest)} of "
                f"{format_bytes(need.available)} (" + _tensor_list(need.operands) + "); "
                "give at least that much L1" + ("" if need.when == -1 else f", or freeze what needs {need.step}")
            )
            return Infeasibility("L1", need.step, need.fewest, need.available, need.operands,
                                 search.tiling.fewest_for(chosen), message)  # fmt: skip
    return None


def certain(search: Pipeline) -> Infeasibility | None:
    """That one step takes too much whatever is decided, known without the 0/1 program; None where that is not so.

    What ``floor`` tells, and all that persists, where nothing of that may live elsewhere.
    """
    problem, capacity = search.problem, search.problem.capacity(MAIN)
    if capacity is None:
        return None
    schedule = search.graph.restrict(UpdateSet(problem.least_update()))
    if not any(s.kind == "forward" for s in schedule.steps):
        return None
    live = held_anyway(schedule, problem.savings, chosen_reads(search.graph.steps))
    sizes = stay(schedule, problem.savings)
    at = max(range(len(live)), key=lambda i: sum(live[i].values()))
    needed = sum(sizes.values()) + sum(live[at].values())
    if needed <= capacity:
        return None
    found = sorted((*sizes.items(), *live[at].items()), key=lambda item: (-item[1], item[0]))
    tensors, name = tuple(found[:6]), schedule.steps[at].name
    message = (
        f"L2: at least {format_bytes(needed)} are live at step {at} ({name}) whatever is decided, "
        f"{format_bytes(capacity)} are available: {_tensor_list(tensors)}"
    )
    if sizes:
        message += f"; {format_bytes(sum(sizes.values()))} of that are parameters, which may live elsewhere (frozen)"
    if problem.must:
        message += "; or drop some of what must be updated"
    return Infeasibility(MAIN, name, needed, capacity, tensors, None, message)


def too_many_bytes(search: Pipeline) -> Infeasibility:
    """That even the decisions of least peak take more of main memory than there is; or another cap."""
    problem, capacity = search.problem, search.problem.capacity(MAIN)
    status, decisions, bound = search.program.cheapest(search.clock.left())
    if decisions is None:  # the byte budget of L2 is not to blame
        return other_cap(search, status)
    candidate = search.place(decisions, None)
    if capacity is None or candidate.placement.peak <= capacity:
        return other_cap(search, status)
    memory = candidate.memory
    step = memory.peak_step()
    if status != "OPTIMAL":  # what was found in the time may take more than what takes no search to find
        known = search.place(Decisions(problem.least_update(), {}), None)
        if known.placement.peak < candidate.placement.peak and search.allowed(known.decisions, None):
            candidate, memory = known, known.memory
            step = memory.peak_step()
    live = tuple((b.value, b.bytes) for b in memory.live(step)[:6])
    proven = status == "OPTIMAL" and candidate.placement.peak == bound
    fewest = align_up(candidate.placement.peak, problem.options.alignment)
    fewest += search.problem.device.level(MAIN).reserved
    available, needed = capacity, memory.peak()
    name = candidate.schedule.steps[step].name
    what = f"are live at step {step} ({name})"
    if needed <= available:  # no step asks for too much, but no placing was found
        needed, name, what = max(candidate.bound, available + 1), "", "are needed once everything has its place"
    message = (
        f"L2: at least {format_bytes(needed)} {what}, "
        f"{format_bytes(available)} are available: {_tensor_list(live)}; "
        + (f"{format_bytes(fewest)} would do" if proven else f"{format_bytes(fewest)} would do (maybe fewer)")
    )
    if problem.must:
        message += "; or drop some of what must be updated"
    return Infeasibility(MAIN, name, needed, available, live, fewest, message)


def other_cap(search: Pipeline, status: str) -> Infeasibility:
    """MACs, time, energy, or the level of frozen parameters; ``status`` is that of the search for the least peak."""
    problem = search.problem
    if problem.max_macs is not None:
        least = search.program.least_macs(search.clock.left())
        if least is not None and least > problem.max_macs:
            message = f"MACs: at least {least:,} are needed, max_macs={problem.max_macs:,}; raise the cap"
            return Infeasibility("MACs", "", least, problem.max_macs, (), None, message)
    if search.program.caps and (found := too_slow(search)) is not None:
        return found
    level = problem.options.frozen
    row = search.program.frozen
    available = problem.capacity(level) or 0
    main = problem.capacity(MAIN)
    if status == "UNKNOWN" and main is not None and (level == MAIN or row.constant <= available):
        message = (
            f"L2: nothing fits the {format_bytes(main)} that are available; time ran out before it was known "
            "how many bytes would do; give more time, or more L2"
        )
        return Infeasibility(MAIN, "", main + 1, main, (), None, message)
    message = (
        f"{level}: frozen parameters of up to {format_bytes(row.constant)} do not fit its "
        f"{format_bytes(available)}; place them elsewhere (frozen=L2) or take another device"
    )
    if status not in ("INFEASIBLE", "OPTIMAL", "FEASIBLE", "UNKNOWN"):
        raise InternalError(f"no decisions, yet status {status}")
    return Infeasibility(level, "", max(row.constant, available + 1), available, (), None, message)


def too_slow(search: Pipeline) -> Infeasibility | None:
    """That no update set keeps a cap on time or energy, whatever the bytes."""
    caps = (("max_seconds", search.problem.max_seconds), ("max_joules", search.problem.max_joules))
    asked = ", ".join(f"{name}={cap:g}" for name, cap in caps if cap is not None)
    for row, cap in search.program.caps:
        least = search.program.least(row, search.clock.left())
        if least is not None and least > cap:
            timed = row is search.program.time
            what, unit = ("time", "cycles") if timed else ("energy", "pJ")
            message = f"{what}: at least {least:,} {unit} are needed, {cap:,} are allowed ({asked}); raise the cap"
            return Infeasibility(what, "", least, cap, (), None, message)
    if search.fastest is not None:
        cap = next((cap for row, cap in search.program.caps if row is search.program.time), 0)
        message = f"time: the fastest that could be found takes {search.fastest:,} cycles ({asked}); raise the cap"
        return Infeasibility("time", "", max(search.fastest, cap + 1), cap, (), None, message)
    if search.problem.options.frozen != MAIN:  # what lies there may not fit
        return None
    row, cap = search.program.caps[0]
    what = "time" if row is search.program.time else "energy"
    message = f"{what}: no plan keeps what is asked ({asked}); raise the cap"
    return Infeasibility(what, "", cap + 1, cap, (), None, message)


def _tensor_list(tensors: tuple[tuple[str, int], ...]) -> str:
    return " + ".join(f"{name} {format_bytes(n)}" for name, n in tensors)
