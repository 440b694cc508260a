"""Problem -> Plan: tiles, selection, placement, and the proof that ties them together.

Live bytes are a relaxation of placed bytes. So when the selection's optimum can be placed within
the budget it is the true optimum. Where it cannot (or a bounded search does not find how), a plan
is first sought with the budget tightened by what was missing; then the decisions that are worth
more than that plan are tried one after the other at the full budget. Those proven impossible
leave the bound as it is; those merely not placed stay in the bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from sparseplan.autodiff import trace
from sparseplan.costs import step_costs
from sparseplan.errors import InternalError
from sparseplan.liveness import Memory, analyse
from sparseplan.ordering import reordered
from sparseplan.plan import Infeasibility, Plan, PlannedTile
from sparseplan.problem import Problem
from sparseplan.recompute import apply
from sparseplan.solve import whynot
from sparseplan.solve.again import Alike, Size, size_of
from sparseplan.solve.buffers import groups_of, placed_above, placed_buffers
from sparseplan.solve.clock import Clock, Limits, OutOfTime
from sparseplan.solve.early import Early, rank
from sparseplan.solve.fallback import LEAST_SECONDS, fallback, unsearched
from sparseplan.solve.fewer import fewer_macs
from sparseplan.solve.rects import Placement
from sparseplan.solve.select import TIES, Decisions, Program, Selection
from sparseplan.solve.tiling import Tiling
from sparseplan.steps import MAIN, Schedule, UpdateSet
from sparseplan.stripes import Lowered
from sparseplan.training import TrainingGraph, holds
from sparseplan.units import align_up

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Candidate:
    """Decisions carried through to placed buffers."""

    decisions: Decisions
    schedule: Schedule
    memory: Memory
    placement: Placement
    bound: int


@dataclass(frozen=True)
class Found:
    """A placed candidate with the selection that it answers."""

    candidate: Candidate
    selection: Selection
    objective: float


@dataclass(frozen=True)
class Effort:
    """How hard a plan is searched for.

    Attributes:
        attempts: sets of decisions tried before the search gives up with what it has.
        placing: deterministic seconds of the search for one placement; such searches succeed early or hardly ever.
    """

    attempts: int = 200
    placing: float = 2.0


#: literals of reruns beyond which it is first tried without the 0/1 program
MANY = 5000
#: terms of the program's rows beyond which it takes too much memory; without literals of savings they take less
MOST_TERMS, MOST_PLAIN_TERMS = 2_000_000, 6_000_000
#: seconds of building and presolving for each term, and the share of the remaining time that this may take
TERM_SECONDS, BUILDING = 4e-6, 0.5
#: the share that is so little that the program is begun at once
SOON = 0.1
#: shares of the remaining time for what is found before the program, and where none is built
BEFORE, ALONE = 0.3, 0.75
#: share of all time, and at most LEAST_SECONDS, that every stage gets even when late
LEAST_SHARE = 0.2
#: shares of the remaining time
SELECTING = 0.6
PLACING = 0.25
#: placements whose orders are tried first for the next one
REMEMBERED = 12


def solve(problem: Problem, limits: Limits | None = None, progress: Progress | None = None) -> Plan:
    """The best plan for a problem: ``search.solve``, for a problem with stripes or without."""
    from sparseplan.solve import search  # which itself knows this module

    return search.solve(problem, limits, progress)


class Pipeline:
    """The search for one plan on one network; asked again, with smaller budgets, for the next point of a front.

    Go through ``search``, which knows when a problem asks for more than that.
    """

    def __init__(
        self,
        problem: Problem,
        limits: Limits | None = None,
        progress: Progress | None = None,
        order: Sequence[str] = TIES,
        effort: Effort | None = None,
        lowered: Lowered | None = None,
    ) -> None:
        """``order``: what is lowest among plans of equal value, the most important first; ``lowered``: the
        problem's network in stripes, without which a problem that allows stripes is refused."""
        if lowered is None and "stripes" in problem.savings:
            raise InternalError("savings='stripes' is no question of one network: ask solve.search")
        self.problem, self.order = problem, order
        self.limits = (limits or Limits()).told(progress)
        self.progress = self.limits.say
        self.effort = effort or Effort()
        self.clock = Clock(self.limits)
        self.lowered = lowered or Lowered(problem.network, problem.network, (), {})
        look = self.limits.beat
        if self.lowered.groups and self.limits.seconds is not None:  # others have a plan; it need not be begun late
            look = Clock(replace(self.limits, seconds=self.limits.seconds + LEAST_SECONDS)).check
        self.graph: TrainingGraph = trace(self.lowered.network, problem.options, problem.choices, look)
        self.tiling = Tiling(problem.device, self.graph, look)
        self.progress(f"{len(self.graph.steps)} possible steps, {len(self.tiling.missing)} passes without a tile")
        #: what a plan holds before the program is begun, where that may be too large
        self.early: Found | None = None
        self._program: Program | None = None
        #: the fewest cycles of decisions that the rows let through and that broke a cap on time or energy
        self.fastest: int | None = None
        #: the program of the same problem without savings, once it is asked for
        self.plain: Program | None = None
        #: sets found without a search that have been tried
        self.tried: list[Decisions] = []
        #: where groups lay in the last plans, latest first: neighbours on a front are much alike
        self.like: list[dict[str, int]] = []

    @property
    def program(self) -> Program:
        """The 0/1 program, built when it is first asked for, however long that takes."""
        if self._program is None:
            self._program = self.built(self.problem, self.limits.beat)
        return self._program

    def built(self, problem: Problem, look: Callable[[], None]) -> Program:
        """The program of a problem."""
        alike = Alike(self.lowered.origin)
        return Program(problem, self.graph, self.tiling.forbidden(), alike, self.tiling, look)

    def size(self) -> Size:
        """How large the program is."""
        return size_of(self.graph, self.problem.savings, Alike(self.lowered.origin))

    def affordable(self, savings: Collection[str], share: float = BUILDING) -> bool:
        """Whether there are time and memory for the program with these savings, in a share of the time."""
        size = size_of(self.graph, savings, Alike(self.lowered.origin))
        left = self.clock.left().seconds
        if size.terms > (MOST_TERMS if size.decisions else MOST_PLAIN_TERMS):
            return False
        return left is None or TERM_SECONDS * size.terms <= max(share * left, 2 * share * LEAST_SECONDS)

    def ready(self) -> bool:
        """Whether the program is there, or can be built in time."""
        if self._program is None and self.affordable(self.problem.savings):
            self.progress("building the 0/1 program")
            try:
                self._program = self.built(self.problem, self.clock.check if self.early else self.limits.beat)
            except OutOfTime:
                return False
        return self._program is not None

    def again(self, problem: Problem, limits: Limits | None = None) -> Plan:
        """The best plan for the same problem under a budget of main memory, or of MACs, that is no larger.

        ``limits``: new ones; by default those given first, from now on.
        """
        self.limits = self.limits if limits is None else limits.told(self.limits.say)
        self.clock, self.problem = Clock(self.limits), problem
        if self._program is not None:
            self._program.ask(problem)
        return self.run()

    def at_its_own_budget(self, plan: Plan, problem: Problem) -> Plan:
        """The plan just found as the answer to the same problem under a smaller budget that it keeps to.

        Decisions that could not be placed, and may take more than that, are no doubt any longer.
        """
        if self._program is None:
            return replace(plan, problem=problem)
        bound = max(plan.objective, self.program.doubt(problem.capacity(MAIN)), self.program.best_bound)
        if bound >= plan.bound:
            return replace(plan, problem=problem)
        optimal = bound <= plan.objective + plan.resolution
        return replace(plan, problem=problem, bound=bound, status="OPTIMAL" if optimal else plan.status)

    def least_in_doubt(self, value: float) -> int | None:
        """The fewest bytes of main memory, with what is reserved, of decisions in doubt that are worth more."""
        if self._program is None:
            return None
        least = [e.least for e in self.program.excluded if e.value > value]
        return min(least) + self.problem.device.level(MAIN).reserved if least else None

    def run(self) -> Plan:
        """The best plan, with its proof."""
        problem, capacity = self.problem, self.problem.capacity(MAIN)
        self.early = None
        affordable = self._program is not None or self.affordable(problem.savings)
        if not affordable or self.size().decisions > MANY or not self.affordable(problem.savings, SOON):
            if (reason := whynot.no_tile(self) or whynot.certain(self)) is not None:
                return self.infeasible(reason)
            self.early = Early(self, self.clock.part(self.part(BEFORE if affordable else ALONE).seconds)).run()
            complete = self.early is not None and self.early.objective >= problem.most_worth()
            if complete and (problem.must or not affordable):
                return self.answer(self.early, problem.most_worth())
        if not self.ready():
            return self.without_program()
        program = self.program
        best: Found | None = None
        doubt = program.doubt(capacity)  # the most value among decisions neither placed nor proven impossible
        margin = 0
        for _ in range(self.effort.attempts):
            above = None if best is None else best.objective
            selection = program.select(self.part(SELECTING), margin, above, self.order)
            if selection.status in ("FEASIBLE", "UNKNOWN"):
                selection = self.no_worse(selection, margin, above)
            if selection.decisions is None and margin:  # nothing fits the tightened budget: on with the full one
                margin = 0
                continue
            if selection.decisions is None:
                if selection.status == "INFEASIBLE":  # nothing (better) is left
                    if best is None and "order" in problem.savings and (found := fallback(self)) is not None:
                        return self.answer(found, problem.most_worth())  # in another order it fits
                    if best is None and self.early is not None:  # the program knows fewer ways
                        return self.answer(self.early, problem.most_worth())
                    if best is None and doubt == -math.inf:
                        return self.infeasible()
                    return self.answer(best, doubt)
                break
            selection = self.improved(selection, margin)
            if selection.decisions is None:
                break
            objective = program.worth(selection.decisions)
            self.progress(f"value {objective:g} ({selection.status}) in live bytes; placing")
            candidate = self.place(selection.decisions, capacity)
            placed = candidate.placement.status == "PLACED"
            if placed and not self.in_time(candidate):  # the row was a lower bound
                program.exclude(selection.decisions, selection.bound, 1 << 62)
                continue
            if placed and (capacity is None or candidate.placement.peak <= capacity):
                told = selection
                if margin or doubt >= objective:  # equals with fewer MACs may be among what was left out
                    told = replace(told, ties=dict.fromkeys(told.ties, "FEASIBLE"))
                found = Found(candidate, told, objective)
                if margin == 0:  # nothing within the full budget is worth more, save what is in doubt
                    return self.answer(found, max(doubt, selection.bound))
                best, margin = found, 0
                self.progress(f"placed value {objective:g}; looking for better")
                continue
            if margin == 0:
                proven = capacity is not None and candidate.bound > capacity
                self.progress("impossible to place" if proven else "not placed within the search's limits")
                program.exclude(selection.decisions, selection.bound, candidate.bound)
                doubt = program.doubt(capacity)
            if best is None and capacity is not None:
                margin = max(2 * margin, candidate.placement.peak - capacity, capacity >> 9)
            if self.clock.passed():
                break
        # cut short: what the relaxation proves still holds
        return self.answer(best or self.early or fallback(self), max(doubt, program.best_bound))

    def without_program(self) -> Plan:
        """The answer where the program is too large for the time or the memory: of value, but with a distant bound."""
        found = self.early
        if found is None or found.objective < self.problem.most_worth():
            found = self.better(fallback(self))
        return self.answer(found, self.problem.most_worth())

    def no_worse(self, selection: Selection, margin: int, above: float | None) -> Selection:
        """A selection that was cut short, or what takes no search to find where that is worth more."""
        capacity = self.problem.capacity(MAIN)
        if self.early is not None and margin == 0:
            decisions: Decisions | None = self.early.candidate.decisions
        else:
            decisions = unsearched(self, None if capacity is None else capacity - margin)
        if decisions is None:
            return selection
        known = [self.worth(selection.decisions)] if selection.decisions is not None else []
        known += [] if above is None else [above]
        if decisions in self.tried or any(self.worth(decisions) <= worth for worth in known):
            return selection
        self.tried.append(decisions)
        bound = min(selection.bound, self.program.best_bound)
        return replace(selection, status="FEASIBLE", decisions=decisions, bound=bound, ties={})

    def improved(self, selection: Selection, margin: int) -> Selection:
        """The selection, with fewer MACs where these are not proven least and a search for them finds some."""
        problem, capacity = self.problem, self.problem.capacity(MAIN)
        unproven = selection.ties.get("macs") != "OPTIMAL" and "time" not in selection.ties
        if selection.decisions is None or capacity is None or not unproven or self.lowered.groups:
            return selection
        if "recompute" not in problem.savings or problem.max_seconds is not None or problem.max_joules is not None:
            return selection
        self.progress("looking for fewer MACs")
        better = fewer_macs(self.graph, selection.decisions, capacity - margin, self.part(SELECTING))
        return replace(selection, decisions=better)

    def in_time(self, candidate: Candidate) -> bool:
        """Whether a schedule keeps the caps on time and energy."""
        problem = self.problem
        if problem.max_seconds is None and problem.max_joules is None:
            return True
        schedule, options = candidate.schedule, problem.options
        costs = step_costs(
            schedule.steps, problem.device, options.dtype, table=self.graph.infos, tiles=self.tiling.tiles(schedule),
            values=schedule.values.values(), batch=options.batch, accumulates=options.gradients == "accumulate",
        )  # fmt: skip
        seconds, joules = costs.seconds, costs.joules
        late = problem.max_seconds is not None and (seconds is None or seconds > problem.max_seconds)
        hungry = problem.max_joules is not None and (joules is None or joules > problem.max_joules)
        if (late or hungry) and self._program and any(row is self._program.time for row, _ in self._program.caps):
            self.fastest = min(costs.cycles or 0, self.fastest or costs.cycles or 0)
        return not (late or hungry)

    def part(self, share: float, work: float | None = None) -> Limits:
        """Limits that leave some of the time for what comes after."""
        left = self.clock.left(work=work)
        whole = self.limits.seconds
        if left.seconds is None or whole is None:
            return left
        return replace(left, seconds=max(share * left.seconds, min(LEAST_SECONDS, LEAST_SHARE * whole)))

    def worth(self, decisions: Decisions) -> float:
        """Value of decisions, less the price of what is packed."""
        return self.program.worth(decisions) if decisions.savings.packed else self.problem.worth(decisions.update)

    def placed(self, decisions: Decisions) -> Found | int | None:
        """Decisions carried through; the bytes that they are over the budget by; None where another cap is broken."""
        capacity = self.problem.capacity(MAIN)
        candidate = self.place(decisions, capacity)
        placement = candidate.placement
        if placement.status != "PLACED" or (capacity is not None and placement.peak > capacity):
            most = max(candidate.bound, placement.peak)
            return max(most - (capacity or 0), 1)
        _, peaks = placed_buffers(candidate.memory, placement, self.alignments())
        for level, peak in peaks.items():
            there = self.problem.capacity(level)
            if level != MAIN and there is not None and peak > there:
                return None
        if not self.in_time(candidate):
            return None
        selection = Selection("FEASIBLE", decisions, math.inf, {"macs": "FEASIBLE"}, 0.0)
        return Found(candidate, selection, self.worth(decisions))

    def alignments(self) -> dict[str, int]:
        """Of each level."""
        return {v.name: v.alignment for v in self.problem.device.levels}

    def cheapest(self) -> Decisions | None:
        """The decisions of least peak, where the program is there to tell."""
        return None if self._program is None else self._program.cheapest(self.part(1.0), remaining=True)[1]

    def allowed(self, decisions: Decisions, live: int | None = None) -> bool:
        """Whether decisions keep every budget but that of main memory, where live bytes are to be within ``live``."""
        schedule = apply(self.graph.restrict(UpdateSet(decisions.update), decisions.picks), decisions.savings)
        most = self.problem.max_macs
        level = self.problem.options.frozen
        capacity = None if level == MAIN else self.problem.capacity(level)
        frozen = sum(
            align_up(v.bytes, self.problem.device.level(level).alignment)
            for v in schedule.values.values()
            if v.role == "parameter" and v.level == level
        )
        chosen = self.graph.chosen(UpdateSet(decisions.update))
        return (
            (most is None or sum(schedule.macs.values()) <= most)
            and (capacity is None or frozen <= capacity)
            and not any(holds(when, chosen) for when, _ in self.tiling.forbidden())
            and (live is None or analyse(schedule).peak() <= live)
        )

    # -- one set of decisions -------------------------------------------------------------------
    def place(self, decisions: Decisions, capacity: int | None) -> Candidate:
        """Lifetimes and offsets for given decisions."""
        schedule = apply(self.graph.restrict(UpdateSet(decisions.update), decisions.picks), decisions.savings)
        if "order" in self.problem.savings:
            schedule = reordered(schedule, late=Clock(self.part(PLACING)).late)
        memory = analyse(schedule)
        limits = self.part(PLACING, self.effort.placing)
        groups = groups_of(memory)
        placement, bound = placed_above(groups, memory.steps, self.problem.options.alignment, limits, capacity,
                                        self.like)  # fmt: skip
        if placement.status == "PLACED":
            self.like.insert(0, {g.name: at for g, at in zip(groups, placement.offsets, strict=True)})
            del self.like[REMEMBERED:]
        return Candidate(decisions, schedule, memory, placement, bound)

    def better(self, found: Found | None) -> Found | None:
        """What was found, or what was found early where that is worth more (or as much, for fewer MACs)."""
        early = self.early
        if found is None or early is None:
            return found or early
        if early.objective == found.objective and (found.selection.ties.get("macs") == "OPTIMAL" or
                                                   "time" in found.selection.ties):  # fmt: skip
            return found
        return max(found, early, key=rank)

    def answer(self, found: Found | None, bound: float) -> Plan:
        """The plan for what was found; nothing else has more value than ``bound``."""
        seconds = self.clock.elapsed()
        resolution = 0.0 if self._program is None else self._program.resolution
        found = self.better(found)
        if found is None:
            return Plan(self.problem, "UNKNOWN", -math.inf, bound, resolution, seed=self.limits.seed,
                        solve_seconds=seconds)  # fmt: skip
        candidate, selection = found.candidate, found.selection
        buffers, peaks = placed_buffers(candidate.memory, candidate.placement, self.alignments())
        schedule = candidate.schedule
        bounds = {level: candidate.memory.peak(level) for level in peaks}
        bounds[MAIN] = max(bounds[MAIN], candidate.bound)
        tiles = self.tiling.tiles(schedule)
        if tiles:
            peaks["L1"] = bounds["L1"] = max(t.l1_bytes for t in tiles)
        bound = max(bound, found.objective)
        return Plan(
            self.problem, "OPTIMAL" if bound <= found.objective + resolution else "FEASIBLE", found.objective, bound,
            resolution, update={p: r for p, (r, _) in schedule.update.items()}, picks=schedule.picks,
            steps=schedule.steps, values=tuple(schedule.values.values()), buffers=buffers, tiles=tiles,
            peak_bytes=peaks, lower_bound_bytes=bounds, macs=schedule.macs, ties=selection.ties,
            method=candidate.placement.method, seed=self.limits.seed, solve_seconds=seconds,
            stripes=self.lowered.groups,
        )  # fmt: skip

    # -- why not ----------------------------------------------------------------------------------
    def infeasible(self, reason: Infeasibility | None = None) -> Plan:
        """Name the binding level, what does not fit there, and the fewest bytes that would do."""
        reason = reason or whynot.reason(self)
        seconds = self.clock.elapsed()
        return Plan(self.problem, "INFEASIBLE", -math.inf, -math.inf, reason=reason, seed=self.limits.seed,
                    solve_seconds=seconds)  # fmt: skip


__all__ = ["PlannedTile", "solve"]
