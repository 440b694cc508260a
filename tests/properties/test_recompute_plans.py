"""Plans that recompute and page: accepted, executed bit for bit in their bytes, and the best there are.

Never worse than without, never worse with more bytes, and equal to trying every update set with every set of reruns
and fetches: in value, and in MACs among the best.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

from hypothesis import assume, given
from hypothesis import strategies as st
from savings import AGAIN, hourglasses, possible, with_savings

from sparseplan.autodiff import trace
from sparseplan.liveness import Memory, analyse
from sparseplan.problem import Problem
from sparseplan.recompute import Savings, apply
from sparseplan.solve.buffers import groups_of
from sparseplan.solve.cpsat import Limits
from sparseplan.solve.place import place
from sparseplan.solve.select import Program
from sparseplan.steps import MAIN, Schedule, UpdateSet, packed_parameters
from sparseplan.testing import (
    check_accepted,
    check_json,
    check_more_budget,
    check_renaming,
    check_runs_within_budget,
    check_same_seed,
    problems,
)
from sparseplan.testing.optima import with_budget
from sparseplan.testing.peers import Caps
from sparseplan.testing.strategies import trainable_networks
from sparseplan.testing.theorems import solved
from sparseplan.units import align_up

LIMITS = Limits(20.0)
#: schedules that brute force tries for one problem
MOST = 3000


def least_peak(problem: Problem) -> int:
    """The fewest live bytes that any allowed decisions take, for drawing budgets."""
    program = Program(problem, trace(problem.network, problem.options, problem.choices), [])
    _, decisions, bound = program.cheapest(LIMITS)
    return bound if decisions is not None else 0


@st.composite
def saving_problems(draw: st.DrawFn, max_ops: int = 7, max_choices: int | None = None) -> Problem:
    """Problems on networks of any kind, with bytes from the fewest that do with savings to those that do without.

    Where all that may be updated has to be, holding less is all that helps.
    """
    free = trainable_networks("any" if max_ops < 5 else draw(st.sampled_from(["any", "ushape"])), max_ops)
    networks = st.one_of(hourglasses(max_ops), hourglasses(max_ops), free)
    problem = draw(problems(networks, max_choices=max_choices, tight=False))
    if draw(st.integers(0, 3)):
        problem = replace(problem, must={p: r[0] for p, r in problem.choices.items()})
    chosen = st.sampled_from([AGAIN[:1], AGAIN[:1], AGAIN[:2], AGAIN, AGAIN[2:]])
    saving = with_savings(problem, draw(chosen), draw(st.sampled_from([None, None, 64, 256])))
    low, high = least_peak(saving), least_peak(problem)
    room = max(1, low + int(draw(st.sampled_from([0.0, 0.3, 0.6, 0.95, 1.1])) * (high - low)))
    return with_budget(saving, room + problem.device.level(MAIN).reserved)


@given(problem=saving_problems(), seed=st.integers(0, 99))
def test_plans_that_save_run_within_budget(problem: Problem, seed: int) -> None:
    plan = check_accepted(problem, solved(problem, LIMITS))
    check_json(plan)
    if plan.feasible:
        check_runs_within_budget(plan, seed, samples=1 + seed % 2)


@given(problem=saving_problems())
def test_savings_never_worsen(problem: Problem) -> None:
    plain = solved(with_savings(problem, ()), LIMITS)
    plan = solved(problem, LIMITS)
    slack = plan.resolution + plain.resolution
    if plain.status in ("OPTIMAL", "FEASIBLE"):
        assert plan.status != "INFEASIBLE"
        assert plan.bound + slack >= plain.objective
        assert plan.status != "OPTIMAL" or plan.objective + slack >= plain.objective
        if (plan.status, plain.status) == ("OPTIMAL", "OPTIMAL") and plan.objective == plain.objective:
            proven = slack == 0 and plan.ties.get("macs") == "OPTIMAL"
            assert not proven or sum(plan.macs.values()) <= sum(plain.macs.values())


@given(problem=saving_problems(), shares=st.lists(st.sampled_from([0.5, 0.7, 0.85, 1.15]), min_size=1, max_size=2))
def test_more_budget_never_worsens(problem: Problem, shares: list[float]) -> None:
    level = problem.device.level(MAIN)
    capacity = problem.capacity(MAIN) or 0
    check_more_budget(problem, [level.reserved + int(s * capacity) for s in (1.0, *shares)], LIMITS)


@given(problem=saving_problems(), share=st.sampled_from([0.5, 0.8, 0.95]))
def test_what_would_do_does(problem: Problem, share: float) -> None:
    level = problem.device.level(MAIN)
    problem = with_budget(problem, level.reserved + int(share * (problem.capacity(MAIN) or 0)))
    plan = solved(problem, LIMITS)
    if plan.reason is not None and plan.reason.level == MAIN and plan.reason.fewest_bytes is not None:
        enough = solved(with_budget(problem, plan.reason.fewest_bytes), LIMITS)
        assert enough.feasible, plan.reason.message
        check_accepted(enough.problem, enough)


@given(problem=saving_problems())
def test_same_seed_and_other_names(problem: Problem) -> None:
    check_same_seed(problem, LIMITS)
    check_renaming(problem, limits=LIMITS)


# -- brute force ------------------------------------------------------------------------------------
def subsets(items: list[Any]) -> Iterator[frozenset[Any]]:
    for k in range(len(items) + 1):
        yield from map(frozenset, itertools.combinations(items, k))


def every_schedule(problem: Problem) -> Iterator[tuple[float, dict[str, float], Schedule]]:
    """(worth, update set, schedule) of every set of decisions."""
    names = list(problem.choices)
    tried = 0
    for chosen in itertools.product(*((0.0, *problem.choices[p]) for p in names)):
        update = {p: r for p, r in zip(names, chosen, strict=True) if r}
        if not problem.allowed(UpdateSet(update)):
            continue
        graph = trace(problem.network, problem.options, problem.choices)
        there = [p for p in graph.picks if p.when & graph.chosen(UpdateSet(update))]
        for options in itertools.product(*(p.options for p in there)):
            picks = {p.op: o for p, o in zip(there, options, strict=True)}
            base = graph.restrict(UpdateSet(update), picks)
            may = possible(problem, base)
            parts = [sorted(getattr(may, f.name)) for f in fields(may)]
            tried += 2 ** sum(map(len, parts))
            assume(tried <= MOST)
            for some in itertools.product(*map(subsets, parts)):
                schedule = apply(base, Savings(*some))
                packed = packed_parameters(problem.network, schedule.steps)
                yield problem.worth(update, packed), update, schedule


def best_of_all(problem: Problem) -> tuple[float, int] | None:
    """Value and MACs of the best decisions that can be placed."""
    caps, capacity = Caps(problem), problem.capacity(MAIN)
    assert capacity is not None
    found: list[tuple[float, int, Memory]] = []
    for worth, update, schedule in every_schedule(problem):
        memory = analyse(schedule)
        if memory.peak() <= capacity and caps.respected(update, schedule) and away_fits(problem, schedule):
            found.append((worth, sum(schedule.macs.values()), memory))
    for worth, macs, memory in sorted(found, key=lambda x: (-x[0], x[1])):
        if place(groups_of(memory), capacity, problem.options.alignment).status == "PLACED":
            return worth, macs
    return None


def away_fits(problem: Problem, schedule: Schedule) -> bool:
    """Whether what lives at slower levels has room there."""
    for level in {v.level for v in schedule.values.values()} - {MAIN}:
        at = max(problem.device.level(level).alignment, problem.options.alignment)
        taken = sum(align_up(v.bytes, at) for v in schedule.values.values() if v.level == level)
        if taken > (problem.capacity(level) or taken):
            return False
    return True


@given(problem=saving_problems(max_ops=3, max_choices=4))
def test_exact_equals_brute_force(problem: Problem) -> None:
    best = best_of_all(problem)
    plan = solved(problem, LIMITS)
    if best is None:
        assert not plan.feasible
        return
    worth, macs = best
    assert plan.status != "INFEASIBLE"
    assert plan.bound + plan.resolution >= worth >= plan.objective - plan.resolution
    if plan.status == "OPTIMAL":
        assert plan.objective + plan.resolution >= worth
        if plan.resolution == 0 and plan.ties.get("macs") == "OPTIMAL":
            assert sum(plan.macs.values()) == macs
