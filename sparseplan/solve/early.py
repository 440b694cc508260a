"""Something that fits, before the 0/1 program is begun: feasible first, then better.

First what has to be updated, then all that may be, then as much in between as is found. Whether an update set fits is
tried by what costs least to try: as it is; with persistent values at a slower level; with tensors paged out over
their longest gaps; with ops between checkpoints run again; by the windows of ``rematintervals``. What fits here fits
in truth, since every schedule is counted exactly; what is not found to fit may fit all the same.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from sparseplan.liveness import analyse
from sparseplan.problem import Problem
from sparseplan.recompute import Savings, apply
from sparseplan.solve.again import PAGE, RECOMPUTE, movable
from sparseplan.solve.clock import Clock, OutOfTime
from sparseplan.solve.greedy import greedy
from sparseplan.solve.rematinstance import instance, least_possible, peak_of
from sparseplan.solve.rematintervals import checkpoints, solve_intervals
from sparseplan.solve.rematsqueeze import squeezed
from sparseplan.solve.select import Decisions
from sparseplan.steps import MAIN, Schedule, UpdateSet

if TYPE_CHECKING:
    from sparseplan.solve.pipeline import Found, Pipeline

Update = Mapping[str, float]
Key = tuple[tuple[str, float], ...]
#: shares of the time that is left: for what has to be updated, for all that may be, for the windows of one try between
LEAST, MOST, TRY = 0.4, 0.5, 0.08
#: seconds of which these are shares at the most
SECONDS = 40.0
#: attempts at placing one update set, each with more room
PLACINGS = 3
#: how close to the fewest MACs the windows go
CLOSE = 0.002


class Early:
    """The search for something that fits, within a clock of its own; ``best`` is the best so far."""

    def __init__(self, search: Pipeline, clock: Clock) -> None:
        self.search, self.clock = search, clock
        self.problem, self.graph = search.problem, search.graph
        self.capacity = self.problem.capacity(MAIN)
        self.best: Found | None = None

    def run(self) -> Found | None:
        """The best found: looked for until all that may be updated fits, or the clock is late."""
        least, most = self.problem.least_update(), fullest(self.problem)
        try:
            self.search.progress("looking for what fits")
            self.consider(least, LEAST)
            if dict(most) != dict(least):
                self.search.progress("looking whether all that is of value fits")
                self.consider(most, MOST)
            if not self.complete():
                self.search.progress("looking for what fits in between")
                self.between()
        except OutOfTime:
            pass
        return self.best

    def complete(self) -> bool:
        """Whether nothing can be worth more."""
        return self.best is not None and self.best.objective >= self.problem.most_worth()

    def consider(self, update: Update, share: float) -> bool:
        """Place an update set, first as it is found to fit quickest, then with fewer MACs; whether it was placed."""
        clock = self.clock.part(_share(self.clock, share))
        placed = False
        for exact in (False, True):
            if exact and placed and not self.reruns():
                break  # nothing to be made less
            live = self.capacity
            for _ in range(PLACINGS):
                decisions = self.fitted(update, live, clock, exact)
                over = None if decisions is None else self.offer(decisions)
                if over is None:
                    break
                if over <= 0:
                    placed = True
                    break
                assert live is not None
                live -= max(over, live >> 7)
            if clock.late():
                break
        return placed

    def reruns(self) -> bool:
        return self.best is not None and bool(self.best.candidate.decisions.savings.reruns)

    def offer(self, decisions: Decisions) -> int | None:
        """Take decisions if they can be placed and are better; bytes over the budget if not, None for another cause."""
        self.clock.check()
        found = self.search.placed(decisions)
        if isinstance(found, int) or found is None:
            return found
        if self.best is None or rank(found) > rank(self.best):
            self.best = found
            self.search.progress(f"placed value {found.objective:g}; looking for better")
        return 0

    def between(self) -> None:
        """As much as fits, beginning with the best so far, or with the least.

        First without any saving, where a try costs next to nothing, then by quick tries, then by windows.
        """
        for how in ("plain", "quick", "windows"):
            if how == "windows" and RECOMPUTE not in self.problem.savings:
                return
            start = None if self.best is None else self.best.candidate.decisions.update
            known: dict[Key, Decisions] = {}

            def fits(update: Update, how: str = how, known: dict[Key, Decisions] = known) -> bool:
                self.clock.check()
                clock = self.clock.part(_share(self.clock, TRY))
                found = (
                    self.plain(update)
                    if how == "plain"
                    else self.fitted(update, self.capacity, clock, how == "windows")
                )
                if found is not None:
                    known[tuple(sorted(update.items()))] = found
                return found is not None

            more: Update | None = None
            try:
                more = greedy(self.problem, fits, start)
            except OutOfTime:  # the best of those tried
                more = max(map(dict, known), key=self.problem.worth, default=None)
                self.clock = self.search.clock  # what is left for placing
            if more is not None and (self.best is None or self.problem.worth(more) > self.best.objective):
                decisions = known.get(tuple(sorted(more.items())))
                over = None if decisions is None else self.offer(decisions)
                if over is not None and over > 0:
                    self.consider(more, MOST)

    # -- whether an update set fits -------------------------------------------------------------------
    def plain(self, update: Update) -> Decisions | None:
        """Decisions for an update set that fits without savings."""
        if not self.search.allowed(Decisions(update, {}), self.capacity):
            return None
        return Decisions(update, self.graph.restrict(UpdateSet(update)).picks)

    def fitted(self, update: Update, live: int | None, clock: Clock, exact: bool) -> Decisions | None:
        """Decisions for an update set within ``live`` bytes, and within all other budgets; by windows if ``exact``."""
        for decisions in self.ways(update, live, clock, exact):
            if self.search.allowed(decisions, live):
                return decisions
            self.clock.check()
        return None

    def ways(self, update: Update, live: int | None, clock: Clock, exact: bool) -> Iterator[Decisions]:
        base = self.graph.restrict(UpdateSet(update))
        plain = Decisions(update, base.picks)
        peak = analyse(base).peak()
        if live is None or peak <= live:
            yield plain
            return
        away = self.away(base, peak - live)
        moved = apply(base, away)
        if away and analyse(moved).peak() <= live:
            yield replace(plain, savings=away)
        if PAGE in self.problem.savings and not self.search.lowered.groups:
            fetches = evicted(moved, live)
            if fetches:
                yield replace(plain, savings=replace(away, fetches=fetches))
        if RECOMPUTE in self.problem.savings and not self.search.lowered.groups and not base.composites:
            for savings in dict.fromkeys((Savings(), away)):
                yield from self.again(plain, apply(base, savings), savings, live, clock, exact)

    def again(
        self, plain: Decisions, base: Schedule, savings: Savings, live: int, clock: Clock, exact: bool
    ) -> Iterator[Decisions]:
        """Ops run again: between checkpoints, or by windows."""
        inst = instance(base)
        if least_possible(inst) > live:
            return
        name = [s.name for s in base.steps]
        if exact:
            answer = solve_intervals(inst, live, clock.left(), close=CLOSE)
            ways = [answer.reruns] if answer.status in ("OPTIMAL", "FEASIBLE") else []
        else:
            root = max(2, math.isqrt(len(inst.ops)))
            ways = []
            for every in sorted({2, 3, 4, 6, root // 2, root, 2 * root} - {0, 1}):
                self.clock.check()
                reruns = checkpoints(inst, every)
                if peak_of(inst, reruns) <= live:
                    ways.append(reruns)
            if not ways:
                tight = squeezed(inst, live, clock.late)
                ways = [] if tight is None else [tight]
            ways.sort(key=lambda reruns: sum(inst.ops[o].cost for o, _ in reruns))
        for reruns in ways:
            made = frozenset((inst.ops[o].name, name[i]) for o, i in reruns)
            yield replace(plain, savings=replace(savings, reruns=made))

    def away(self, base: Schedule, over: int) -> Savings:
        """Persistent values that live at a slower level, largest first, as many as save the bytes that are over."""
        places = [(base.values[n].bytes, n, level) for n, level in self.movable(base)]
        chosen: list[tuple[str, str]] = []
        for size, name, level in sorted(places, key=lambda p: (-p[0], p[1])):
            if over <= 0:
                break
            chosen.append((name, level))
            over -= size
        return Savings(moved=frozenset(chosen))

    def movable(self, base: Schedule) -> list[tuple[str, str]]:
        problem = self.problem
        found = movable(self.graph, problem.savings, problem.stream_level)
        return [(n, v) for n, v in found if n in base.values and base.values[n].level == MAIN and n not in base.update]


def _share(clock: Clock, share: float) -> float:
    left = clock.left().seconds
    return share * SECONDS if left is None else min(share * left, share * SECONDS)


def rank(found: Found) -> tuple[float, int]:
    """Most value, then fewest MACs."""
    return found.objective, -sum(found.candidate.schedule.macs.values())


def fullest(problem: Problem) -> dict[str, float]:
    """The update set of most value, each parameter by itself or all to the most: the better one with terms and ties."""

    def worth(level: dict[str, float]) -> float:
        return math.fsum(problem.values[p][r] for p, r in level.items())

    must = problem.least_update()
    tied = {p for tie in problem.ties for p in tie}
    chosen: dict[str, float] = {}
    for unit in (*problem.ties, *((p,) for p in problem.choices if p not in tied)):
        least = {p: must.get(p, 0.0) for p in unit}
        levels = [v for v in problem.joint_levels(unit) if all(v[p] >= r for p, r in least.items())]
        options: list[dict[str, float]] = levels if any(least.values()) else [{}, *levels]
        best = max(options, key=worth)
        chosen.update(best)
    everything = {p: r[-1] for p, r in problem.choices.items()}
    return max((chosen, everything), key=problem.worth)


def evicted(schedule: Schedule, budget: int) -> frozenset[tuple[str, str]]:
    """Fetches that bring live bytes within ``budget``: at the peak, the tensor that is idle for longest by its bytes.

    What is counted is a gap between two accesses of a tensor, the later one behind the loss. Counted again exactly,
    with a lower budget where the copies themselves take more; empty where nothing does.
    """
    steps = schedule.steps
    loss = next(i for i, s in enumerate(steps) if s.kind == "loss")
    bound = {v for group in schedule.composites for v, _ in group}
    accesses: dict[str, list[int]] = {}
    for i, step in enumerate(steps):
        for s in (s for a in (*step.reads, *step.writes) for s in a.spans):
            accesses.setdefault(s.value, []).append(i)
    gaps: list[tuple[int, int, int, str]] = []  # bytes, first and last idle step + 1, tensor
    for name, uses in accesses.items():
        value = schedule.values[name]
        if value.role not in ("activation", "input") or name in bound or value.level != MAIN:
            continue
        for a, b in itertools.pairwise(uses):
            if b > loss and b - a > 1 and steps[b].kind in ("aux", "grad_param", "grad_input"):
                gaps.append((value.bytes, a + 1, b, name))
    if not gaps:
        return frozenset()
    size, first, stop = (np.array([g[i] for g in gaps], dtype=np.int64) for i in range(3))
    live = np.array(analyse(schedule).at(MAIN), dtype=np.int64)
    target = budget
    for _ in range(4):
        now, free, chosen = live.copy(), size * (stop - first), list[int]()
        while int(now.max()) > target:
            top = int(now.argmax())
            worth = np.where((first <= top) & (top < stop), free, 0)
            best = int(worth.argmax())
            if not worth[best]:
                return frozenset()
            now[first[best] : stop[best]] -= size[best]
            free[best] = 0
            chosen.append(best)
        fetches = frozenset((gaps[k][3], steps[gaps[k][2]].name) for k in chosen)
        peak = analyse(apply(schedule, Savings(fetches=fetches))).peak()
        if peak <= budget:
            return fetches
        target -= peak - budget
    return frozenset()
