"""Which stripes to run a network in: each sensible lowering is a problem of its own, and the best answer wins.

A lowering multiplies ops, so the choice among lowerings stays outside the 0/1 program. None is left out
that could still win: the bound of the answer is the largest of all lowerings' bounds. What is exact is
thus the best plan over ``stripegroups.candidates``, with all stripes of a group doing the same.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from sparseplan.autodiff import trace
from sparseplan.costs import plan_costs
from sparseplan.errors import ProblemError
from sparseplan.liveness import analyse
from sparseplan.plan import Plan, Status
from sparseplan.problem import Problem
from sparseplan.solve.cpsat import Clock, Limits
from sparseplan.solve.pipeline import Pipeline
from sparseplan.steps import MAIN, UpdateSet
from sparseplan.stripegroups import candidates
from sparseplan.stripes import Lowered, Stripes, lower
from sparseplan.units import live_bytes

Groups = tuple[Stripes, ...]


def solve(problem: Problem, limits: Limits | None = None, progress: Callable[[str], None] | None = None) -> Plan:
    """The best plan for a problem, in stripes where it allows them, with its proof.

    Args:
        limits: seconds and seed; without a limit of seconds the search goes on until proven.
        progress: called with a line of text at each stage.
    """
    if "stripes" not in problem.savings:
        return Pipeline(problem, limits, progress).run()
    choices = [(group,) for group in candidates(problem.network)]
    return solve_striped(problem, choices, limits or Limits(), progress)


def solve_striped(
    problem: Problem, choices: Sequence[Groups], limits: Limits, progress: Callable[[str], None] | None = None
) -> Plan:
    """The best plan over lowerings of the network, the one without stripes among them.

    Args:
        choices: sets of groups to consider; those that the network cannot be run in are passed over.
    """
    return _Search(problem, choices, limits, progress or (lambda _: None)).run()


class _Search:
    def __init__(
        self, problem: Problem, choices: Sequence[Groups], limits: Limits, progress: Callable[[str], None]
    ) -> None:
        self.problem, self.limits, self.progress = problem, limits, progress
        self.clock, self.began = Clock(limits), time.perf_counter()
        self.best: Plan | None = None
        self.bound = -math.inf
        self.cut = False
        self.why: Plan | None = None
        found = [(*self.least(lowered), i, lowered) for i, lowered in enumerate(self.lowered(choices))]
        capacity = problem.capacity(MAIN)
        #: (fewest MACs, number, lowering), those that take more bytes than there are left out; the first stays for
        #: the reason that it gives
        self.ways = sorted(
            (macs, i, way) for macs, size, i, way in found if i == 0 or capacity is None or size <= capacity
        )
        self.progress(f"{len(found)} lowerings, {len(self.ways)} to look at")

    def lowered(self, choices: Sequence[Groups]) -> list[Lowered]:
        found = [lower(self.problem.network, ())]
        for groups in choices:
            try:
                found.append(lower(self.problem.network, groups))
            except ProblemError as error:
                self.progress(f"left out: {error}")
        return found

    def least(self, lowered: Lowered) -> tuple[int, int]:
        """MACs and bytes of main memory that no plan in these stripes goes below, for what has to be updated.

        A step holds at least what it reads and writes whatever is decided, and forward, in the network's order,
        what forward reads again.
        """
        least = self.problem.least_update()
        graph = trace(lowered.network, self.problem.options, {p: (r,) for p, r in least.items()})
        schedule = graph.restrict(UpdateSet(least))
        savings = set(self.problem.savings)
        away = {n for n, v in schedule.values.items() if v.persistent}
        here = set() if {"stream", "page"} & savings else {n for n in away if schedule.values[n].level == MAIN}
        size = sum(schedule.values[n].bytes for n in here)
        chosen = {a.tag for s in graph.steps for a in s.reads if a.pick is not None}  # one of several ways
        most = 0
        for step in schedule.steps:
            free = away | {x for _, x in step.inplace}
            args = [*(a for a in step.reads if a.tag not in chosen), *step.writes[:1]]
            if "int8" in savings and step.kind == "grad_param":
                args = [a for a in args if a.tag != "x0"]  # it may be read packed
            spans = {s for a in args for s in a.spans if s.value not in free}
            most = max(most, sum(s.hi - s.lo for s in spans))
        if "order" not in savings:
            loss = next(i for i, s in enumerate(schedule.steps) if s.kind == "loss")
            forward = analyse(
                replace(schedule, steps=tuple(replace(s, writes=s.writes[:1]) for s in schedule.steps[:loss]))
            )
            live = live_bytes(((b.start, b.stop, b.bytes) for b in forward.buffers if b.value not in away), loss)
            most = max(most, *live)
        return sum(schedule.macs.values()), size + most

    def run(self) -> Plan:
        for n, (macs, _, lowered) in enumerate(self.ways):
            if self.hopeless(macs):
                continue
            if self.clock.passed() and self.best is not None:
                self.bound, self.cut = max(self.bound, self.problem.most_worth()), True
                break
            self.progress(f"stripes {n + 1} of {len(self.ways)}: {describe(lowered.groups)}")
            self.consider(self.attempt(lowered, len(self.ways) - n))
        seconds = time.perf_counter() - self.began
        best = self.best
        if best is None:
            assert self.why is not None  # the way without stripes was tried
            return replace(self.why, solve_seconds=seconds)
        bound = max(self.bound, best.objective)
        status: Status = "OPTIMAL" if bound <= best.objective + best.resolution else "FEASIBLE"
        if self.cut:  # what is equal in value may take less in stripes that were not searched through
            best = replace(best, ties=dict.fromkeys(best.ties, "FEASIBLE"))
        return replace(best, problem=self.problem, bound=bound, status=status, solve_seconds=seconds)

    def complete(self) -> bool:
        """Whether nothing can be worth more than the best."""
        return self.best is not None and self.best.objective + self.best.resolution >= self.problem.most_worth()

    def hopeless(self, macs: int) -> bool:
        """Whether plans of at least so many MACs cannot be better than the best."""
        if self.best is None or not self.complete() or timed(self.best):
            return False
        return macs >= sum(self.best.macs.values())

    def attempt(self, lowered: Lowered, left: int) -> Plan:
        """The best plan in these stripes; where only fewer MACs would help, with fewer MACs."""
        problem = self.problem
        if self.complete() and self.best is not None and not timed(self.best):
            problem = replace(problem, max_macs=sum(self.best.macs.values()) - 1)
        rest = self.clock.left()
        seconds = None if rest.seconds is None else max(rest.seconds / min(left, 4), 1.0)
        return Pipeline(problem, replace(rest, seconds=seconds), self.progress, lowered=lowered).run()

    def consider(self, plan: Plan) -> None:
        first = next(iter(plan.ties.values()), "OPTIMAL")
        self.cut = self.cut or plan.status == "UNKNOWN" or (plan.feasible and first != "OPTIMAL")
        if not plan.feasible:
            if not self.complete():
                self.bound = max(self.bound, plan.bound)
                self.why = self.better_reason(plan)
            return
        self.bound = max(self.bound, plan.bound)
        if self.best is None or self.rank(plan) > self.rank(self.best):
            self.best = plan

    @staticmethod
    def rank(plan: Plan) -> tuple[float, int, int]:
        """Most value, then least time (fewest MACs where that is not known), then least memory."""
        taken = plan_costs(plan).cycles if timed(plan) else None
        return plan.objective, -(sum(plan.macs.values()) if taken is None else taken), -plan.peak_bytes.get(MAIN, 0)

    def better_reason(self, plan: Plan) -> Plan:
        """Of two plans that failed, the one that came closer."""
        old = self.why
        if old is None or old.reason is None or plan.reason is None:
            return plan if old is None or plan.status == "UNKNOWN" else old
        closer = plan.reason.level == old.reason.level and plan.reason.needed < old.reason.needed
        return plan if closer else old


def timed(plan: Plan) -> bool:
    """Whether time came next to value when a plan was sought."""
    return "time" in plan.ties


def describe(groups: Groups) -> str:
    """Stripes in a few words."""
    if not groups:
        return "none"
    return "; ".join(
        f"{g.ops[0]} to {g.ops[-1]} in {len(g.rows)} stripes" + (f", {len(g.copied)} ops copied" if g.copied else "")
        for g in groups
    )


__all__ = ["describe", "solve", "solve_striped"]
