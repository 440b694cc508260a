"""Which stripes to run a network in: each sensible lowering is a problem of its own, and the best answer wins.

A lowering multiplies ops, so the choice among lowerings stays outside the 0/1 program. None is left out
that could still win: the bound of the answer is the largest of all lowerings' bounds. What is exact is
thus the best plan over ``stripegroups.candidates``, with all stripes of a group doing the same.

Lowerings are made one after another, and each is measured without a search: those that are sure to take what has to
be updated come first, then those of fewest MACs. One that can only tie with the best plan is asked for less than that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from sparseplan.costs import plan_costs
from sparseplan.errors import DeviceError, InternalError, ProblemError
from sparseplan.plan import Infeasibility, Plan, Status
from sparseplan.problem import Problem
from sparseplan.solve.clock import Clock, Limits, OutOfTime
from sparseplan.solve.pipeline import Effort, Pipeline
from sparseplan.solve.select import TIES
from sparseplan.solve.ways import Way, caps_of, describe, measured, spent, within
from sparseplan.steps import MAIN
from sparseplan.stripegroups import lowerings
from sparseplan.stripes import Lowered, Stripes, lower
from sparseplan.units import format_bytes

Groups = tuple[Stripes, ...]

#: share of the remaining time for making lowerings before the first is searched on
MEASURING = 0.25
#: the search without stripes comes first as a rule, and all others are to be better: it gets at least such a share
WHOLE_SHARE = 0.7
#: one search gets at most such a share of the remaining time, and so many seconds even when late
SHARE = 0.25
LEAST_SECONDS = 0.2
#: seconds for a plan on a lowering that is sure to have one, where the time ran out before any was found
LAST_SECONDS = 0.5
#: steps of all searches that a front keeps for its next point; the others are begun anew
KEPT_STEPS = 20_000


def solve(problem: Problem, limits: Limits | None = None, progress: Callable[[str], None] | None = None) -> Plan:
    """The best plan for a problem: ``search.solve``, for a problem with stripes or without."""
    from sparseplan.solve import search  # which itself knows this module

    return search.solve(problem, limits, progress)


def solve_striped(
    problem: Problem, choices: Iterable[Groups], limits: Limits, progress: Callable[[str], None] | None = None
) -> Plan:
    """The best plan over lowerings of the network, the one without stripes among them.

    Args:
        choices: sets of groups to consider; those that the network cannot be run in are passed over.
    """
    return Striped(problem, limits, progress, choices=choices).run()


class Striped:
    """The search for one plan over lowerings; asked again, with smaller budgets, for the next point of a front."""

    def __init__(
        self,
        problem: Problem,
        limits: Limits | None = None,
        progress: Callable[[str], None] | None = None,
        order: Sequence[str] = TIES,
        effort: Effort | None = None,
        choices: Iterable[Groups] | None = None,
        front: bool = False,
    ) -> None:
        """``order``: what is lowest among plans of equal value; ``choices``: groups, by default the candidates;
        ``front``: searches are kept, since they will be asked again."""
        self.problem, self.order, self.effort = problem, tuple(order), effort
        self.limits = (limits or Limits()).told(progress)
        self.clock = Clock(self.limits)
        self.choices = None if choices is None else tuple(choices)
        self.ways: list[Way] = []
        self.source: Iterator[Lowered] = self._lowered()
        #: whether all lowerings are made
        self.exhausted = False
        self.front = front
        #: ways whose searches are kept, the latest last
        self.kept: list[Way] = []
        self._begin()

    def _begin(self) -> None:
        self.best: Plan | None = None
        #: the plan that failed and came closest
        self.why: Plan | None = None
        #: ways that have been searched for the problem in hand
        self.settled: set[int] = set()
        #: what is equal in value may take less in stripes that were not searched through
        self.cut = False

    def again(self, problem: Problem, limits: Limits | None = None) -> Plan:
        """The best plan for the same problem under a budget of main memory, or of MACs, that is no larger."""
        self.problem = problem
        self.limits = self.limits if limits is None else limits.told(self.limits.say)
        self.clock = Clock(self.limits)
        self._begin()
        for way in self.ways:
            if within(caps_of(problem), way.caps):
                way.bound = min(way.bound, way.later)
        return self.run()

    def at_its_own_budget(self, plan: Plan, problem: Problem) -> Plan:
        """The plan just found as the answer to the same problem under a smaller budget that it keeps to.

        Decisions that could not be placed, and may take more than that, are no doubt any longer.
        """
        if plan.bound <= plan.objective:
            return replace(plan, problem=problem)
        bound = plan.objective if self.exhausted else problem.most_worth()
        for way in self.ways:
            if way.pipeline is not None and way.plan is not None:
                bound = max(bound, min(way.bound, way.pipeline.at_its_own_budget(way.plan, problem).bound))
            else:
                bound = max(bound, way.bound)
        bound = min(bound, plan.bound)
        optimal = bound <= plan.objective + plan.resolution
        return replace(plan, problem=problem, bound=bound, status="OPTIMAL" if optimal else plan.status)

    def least_in_doubt(self, value: float) -> int | None:
        """The fewest bytes of main memory, with what is reserved, of decisions in doubt that are worth more."""
        if not self.exhausted:
            return None
        reserved, least = self.problem.device.level(MAIN).reserved, []
        for way in self.ways:
            if way.bound > value:
                known = None if way.pipeline is None else way.pipeline.least_in_doubt(value)
                least.append(way.size + reserved if known is None else known)
        return min(least, default=None)

    # -- lowerings ------------------------------------------------------------------------------------
    def _lowered(self) -> Iterator[Lowered]:
        network = self.problem.network
        yield lower(network, ())
        if self.choices is None:
            yield from lowerings(
                network, look=lambda: self.clock.check(), outputs=self.problem.options.loss_outputs(network)
            )
            return
        for groups in self.choices:
            try:
                yield lower(network, groups)
            except ProblemError as error:
                self.limits.say(f"left out: {error}")

    def measure(self, clock: Clock, most: int | None = None) -> None:
        """Make lowerings and measure them, as long as there is time; at ``most`` so many."""
        try:
            while not self.exhausted and (most is None or len(self.ways) < most):
                if self.ways:  # the network without stripes is always there
                    clock.check()
                lowered = next(self.source, None)
                if lowered is None:
                    self.exhausted = True
                    return
                self.limits.say(f"lowering {len(self.ways) + 1}: {describe(lowered.groups)}")
                look = clock.check if self.ways else self.limits.beat
                self.ways.append(measured(self.problem, lowered, len(self.ways), look))
        except OutOfTime:
            # a generator that was left by an exception is at its end: begin it anew behind what is there
            self.source = self._rest(len(self.ways))

    def _rest(self, known: int) -> Iterator[Lowered]:
        return (lowered for i, lowered in enumerate(self._lowered()) if i >= known)

    # -- the search -----------------------------------------------------------------------------------
    def run(self) -> Plan:
        """The best plan, with its proof."""
        for known in self.ways:  # what was found at a larger budget and keeps this one too is the best on its way
            if known.plan is not None and within(spent(known.plan), caps_of(self.problem)):
                self.settled.add(known.number)
                self.consider(known, replace(known.plan, problem=self.problem))
        seconds = self.clock.left().seconds
        if seconds is not None and not self.ways:
            self.begin_whole()
            seconds = self.clock.left().seconds
        self.measure(self.clock.part(None if seconds is None else MEASURING * seconds))
        while True:
            way = self.next()
            if way is None and not self.exhausted and not self.clock.passed():
                self.measure(self.clock)
                continue
            if way is None or (self.settled and self.clock.passed()):
                break
            self.attempt(way)
        self.last_resort()
        return self.answer()

    def begin_whole(self) -> None:
        """Search the network without stripes before others are made, where it is sure to have a plan.

        Stripes among the savings then cost nothing of what is found without them.
        """
        self.measure(self.clock, most=1)
        (whole,) = self.ways
        if whole.sure and self.asked(whole) is not None:
            self.attempt(whole)

    def feasible(self, way: Way) -> bool:
        return way.size <= caps_of(self.problem)[0] and way.macs <= caps_of(self.problem)[1]

    def open(self) -> list[Way]:
        """Ways of which it is not known what they are worth, or that they are worth nothing."""
        return [w for w in self.ways if w.number not in self.settled and self.feasible(w) and w.bound > -math.inf]

    def next(self) -> Way | None:
        """The way to search next; None where no way that is left can be better than the best plan."""
        left = [w for w in self.open() if self.asked(w) is not None]
        fewest = self.order[0] == "macs"
        return min(
            left, key=lambda w: (-w.bound, not w.sure, w.macs if fewest else w.size, w.number), default=None
        )  # fmt: skip

    def asked(self, way: Way) -> Problem | None:
        """What to ask of a way: a better plan than the best; None where it has none."""
        best, problem = self.best, self.problem
        if best is None or way.bound > best.objective + best.resolution:
            return problem
        if way.bound < best.objective:
            return None
        if timed(best):
            return problem
        size, macs = spent(best)
        if self.order[0] == "macs":
            return replace(problem, max_macs=int(macs) - 1) if way.macs < macs else None
        level = problem.device.level(MAIN)
        less = int(size) - max(problem.options.alignment, 1)
        if way.size > less:
            return None
        try:
            return replace(problem, device=problem.device.with_budget(l2=less + level.reserved))
        except DeviceError:  # fewer bytes than a level may have
            return None

    def attempt(self, way: Way) -> None:
        """Search on a way."""
        problem = self.asked(way)
        assert problem is not None
        self.settled.add(way.number)
        left = len(self.open()) + 1
        rest = self.clock.left()
        share = 1.0 if left == 1 and self.exhausted else max(SHARE, 1 / left)
        if self.best is None and not way.lowered.groups:
            share = max(share, WHOLE_SHARE) if len(self.ways) > 1 or self.exhausted else WHOLE_SHARE
        seconds = None if rest.seconds is None else max(share * rest.seconds, LEAST_SECONDS)
        self.limits.say(f"stripes {len(self.settled)} of {len(self.ways)}: {describe(way.lowered.groups)}")
        try:
            plan = self.searched(way, problem, replace(rest, seconds=seconds))
        except OutOfTime:
            self.cut = True
            return
        whole = caps_of(problem) == caps_of(self.problem)
        self.learn(way, plan, caps_of(problem), whole)
        self.consider(way, plan)

    def searched(self, way: Way, problem: Problem, limits: Limits) -> Plan:
        """The best plan on a way."""
        pipeline = way.pipeline
        if pipeline is not None and within(caps_of(problem), way.asked):
            plan = pipeline.again(problem, limits)
        else:
            pipeline = Pipeline(problem, limits, None, self.order, self.effort, way.lowered)
            plan = pipeline.run()
        if self.front:
            self.keep(way, pipeline)
            way.asked = caps_of(problem)
        return plan

    def keep(self, way: Way, pipeline: Pipeline) -> None:
        """Keep a search for the next point, and drop those of long ago that make too many."""
        way.pipeline = pipeline
        self.kept = [*(w for w in self.kept if w is not way), way]
        while len(self.kept) > 1 and sum(len(w.pipeline.graph.steps) for w in self.kept if w.pipeline) > KEPT_STEPS:
            self.kept.pop(0).pipeline = None

    def learn(self, way: Way, plan: Plan, caps: tuple[float, float], whole: bool) -> None:
        """Bounds that an answer within caps proves, now and for smaller budgets."""
        bound = -math.inf if plan.status == "INFEASIBLE" else plan.bound
        way.later, way.caps = min(way.bound, bound), caps
        way.plan = plan if plan.feasible else None
        if whole:
            way.bound = way.later

    def consider(self, way: Way, plan: Plan) -> None:
        """Take a plan where it is the best so far."""
        if not plan.feasible:
            self.cut = self.cut or plan.status == "UNKNOWN"
            if plan.status == "INFEASIBLE" and self.best is None:
                self.why = closer(self.why, replace(plan, stripes=way.lowered.groups))
            return
        self.cut = self.cut or next(iter(plan.ties.values()), "OPTIMAL") != "OPTIMAL"
        if self.best is None or self.rank(plan) > self.rank(self.best):
            self.best = plan

    def rank(self, plan: Plan) -> tuple[float, ...]:
        """Most value, then least time where that came next, else least of what is asked to be low."""
        size, macs = spent(plan)
        if timed(plan):
            cycles = plan_costs(plan).cycles
            return plan.objective, -(macs if cycles is None else cycles), -size
        return (plan.objective, -macs, -size) if self.order[0] == "macs" else (plan.objective, -size, -macs)

    def last_resort(self) -> None:
        """Where time ran out without a plan: one on the smallest lowering that is sure to have one."""
        if self.best is not None:
            return
        # those that were searched until their time was up are among them
        sure = [w for w in self.ways if w.sure and self.feasible(w)]
        way = min(sure, key=lambda w: (len(w.lowered.network.ops), w.number), default=None)
        if way is None:
            return
        try:
            self.consider(way, self.searched(way, self.problem, replace(self.clock.left(), seconds=LAST_SECONDS)))
        except OutOfTime:
            return

    # -- the answer -----------------------------------------------------------------------------------
    def answer(self) -> Plan:
        seconds = self.clock.elapsed()
        bounds = [w.bound for w in self.ways if self.feasible(w)]
        if not self.exhausted:
            bounds.append(self.problem.most_worth())
        best = self.best
        if best is None:
            if max(bounds, default=-math.inf) > -math.inf:
                return Plan(self.problem, "UNKNOWN", -math.inf, max(bounds), seed=self.limits.seed,
                            solve_seconds=seconds)  # fmt: skip
            return self.infeasible()
        bound = max((*bounds, best.objective))
        status: Status = "OPTIMAL" if bound <= best.objective + best.resolution else "FEASIBLE"
        cut = self.cut or not self.exhausted or self.next() is not None
        ties = dict.fromkeys(best.ties, "FEASIBLE") if cut else best.ties
        return replace(best, problem=self.problem, bound=bound, status=status, ties=ties, solve_seconds=seconds)

    def infeasible(self) -> Plan:
        """Why nothing fits in any stripes: the reason of the way that comes closest."""
        tried = set(self.settled)
        smallest = min(self.ways, key=lambda w: (w.size, w.number))
        for way in (self.ways[0], smallest):
            late = self.why is not None and self.clock.passed()
            if way.number in tried or late or (way is smallest and self.fewest() <= way.size):
                continue
            tried.add(way.number)
            rest = self.clock.left()
            half = None if rest.seconds is None else max(0.5 * rest.seconds, LEAST_SECONDS)
            try:
                plan = self.searched(way, self.problem, replace(rest, seconds=half))
            except OutOfTime:
                continue
            if plan.feasible:
                raise InternalError(f"a plan of {spent(plan)} where at least {way.size} bytes and {way.macs} MACs are "
                                    f"needed, in stripes {describe(way.lowered.groups)}")  # fmt: skip
            self.consider(way, plan)
        why = self.why or self.bare_reason(smallest)
        reason = why.reason
        other = any(w.number not in tried and w.size < self.fewest() for w in self.ways)
        if reason is not None and reason.fewest_bytes is not None and other and "maybe fewer" not in reason.message:
            message = reason.message.replace(" would do", " would do (maybe fewer)", 1)
            why = replace(why, reason=replace(reason, message=message))
        return replace(why, problem=self.problem, solve_seconds=self.clock.elapsed())

    def fewest(self) -> float:
        """Bytes, without what is reserved, that the best reason so far says would do."""
        reason = None if self.why is None else self.why.reason
        if reason is None or reason.level != MAIN or reason.fewest_bytes is None:
            return math.inf
        return reason.fewest_bytes - self.problem.device.level(MAIN).reserved

    def bare_reason(self, smallest: Way) -> Plan:
        """That every way takes too much, where there was no time to learn more."""
        capacity, most = caps_of(self.problem)
        if smallest.size > capacity:
            needed, available = smallest.size, int(capacity)
            text = (f"L2: at least {format_bytes(needed)} are live at some step, in whatever stripes, "
                    f"{format_bytes(available)} are available; give more L2")  # fmt: skip
            reason = Infeasibility(MAIN, "", needed, available, (), None, text)
        else:
            least = min(w.macs for w in self.ways if w.size <= capacity)
            text = f"MACs: at least {least:,} are needed, max_macs={int(most):,}; raise the cap"
            reason = Infeasibility("MACs", "", least, int(most), (), None, text)
        return Plan(self.problem, "INFEASIBLE", -math.inf, -math.inf, reason=reason, seed=self.limits.seed)


def timed(plan: Plan) -> bool:
    """Whether time came next to value when a plan was sought."""
    return "time" in plan.ties


def closer(old: Plan | None, plan: Plan) -> Plan:
    """Of two plans that failed, the one that came closer."""
    if old is None or old.reason is None or plan.reason is None:
        return plan if old is None else old
    nearer = plan.reason.level == old.reason.level and plan.reason.needed < old.reason.needed
    return plan if nearer else old


__all__ = ["Striped", "solve", "solve_striped"]
