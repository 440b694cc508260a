"""Random plans that recompute, page, pack and stream are accepted; random faults in them are found, unless running the
plan shows that they are none."""

from __future__ import annotations

import random
from dataclasses import replace

from hypothesis import assume, given
from hypothesis import strategies as st
from planted import RandomNetwork, any_picks, any_update, plan_of, problem_of, without_step
from savings import AGAIN, graph_of, possible, with_savings
from test_verify_random import ALWAYS, PERHAPS
from timed import complete

from sparseplan.costs import plan_costs
from sparseplan.plan import Plan
from sparseplan.problem import Problem
from sparseplan.recompute import Savings
from sparseplan.run import run
from sparseplan.steps import OPTIMIZERS, UpdateSet
from sparseplan.verify import verify

#: steps whose absence somebody notices, but for copies that nobody would read
NEEDED = ("pack", "recompute", "page_in", "page_out", "grad_param")


def some(rng: random.Random, items: frozenset[tuple[str, str]] | frozenset[str], most: int) -> list:  # type: ignore[type-arg]
    found = sorted(items)
    return rng.sample(found, min(len(found), rng.randint(0, most)))


def random_plan(rng: random.Random, size: int = 10) -> tuple[Problem, Plan]:
    """A plan with any savings, that just keeps a cap on time."""
    network = RandomNetwork(rng, rng.randint(1, size)).network
    problem = problem_of(
        network, dtype=rng.choice(("fp32", "fp16", "bf16")), optimizer=rng.choice(tuple(OPTIMIZERS)),
        gradients=rng.choice(("fused", "accumulate")), alignment=rng.choice((1, 4, 8)), batch=rng.choice((1, 1, 2)),
    )  # fmt: skip
    problem = with_savings(problem, AGAIN)
    problem = replace(problem, device=complete(problem.device), int8_price=rng.choice((0.0, 0.01, 0.5)))
    update = any_update(problem, rng, rng.choice((0.3, 0.6, 1.0)))
    picks = any_picks(problem, rng)
    schedule = graph_of(problem).restrict(UpdateSet(update), picks)
    may = possible(problem, schedule)
    maker = {s.op: s.writes[0].spans[0].value for s in schedule.steps if s.kind == "forward"}
    reruns = some(rng, may.reruns, 6)
    fetches = some(rng, may.fetches - {(maker[op], at) for op, at in reruns}, 4)
    chosen = Savings(frozenset(reruns), frozenset(fetches), frozenset(some(rng, may.packed, 4)),
                     frozenset(some(rng, may.moved, 4)))  # fmt: skip
    plan = plan_of(problem, update, picks, chosen)
    seconds = plan_costs(plan).seconds
    return replace(problem, max_seconds=seconds or None), plan


@given(seed=st.integers(0, 2**32))
def test_right_plans_with_savings_are_accepted_and_run(seed: int) -> None:
    problem, plan = random_plan(random.Random(seed))
    assert verify(problem, plan) == ()
    report = run(plan, samples=2, seed=seed)
    assert report.guard_intact
    assert report.bitwise_equal


@given(seed=st.integers(0, 2**32))
def test_faults_that_must_be_found(seed: int) -> None:
    rng = random.Random(seed)
    problem, plan = random_plan(rng)
    steps = [s.name for s in plan.steps if s.kind in NEEDED]
    mutant: Plan | None
    if steps and rng.random() < 0.5:
        mutant = without_step(plan, rng.choice(steps))
        again = [s.macs for s in mutant.steps if s.kind == "recompute"]  # its figures are right: it is its absence
        macs = {"forward": plan.macs["forward"], "backward": mutant.macs["backward"]}
        if len(again) < sum(s.kind == "recompute" for s in plan.steps):
            macs["backward"] = plan.macs["backward"]
        mutant = replace(mutant, macs=macs | ({"recompute": sum(again)} if again else {}))
    else:
        mutant = rng.choice(ALWAYS)(plan, rng)
    assume(mutant is not None)
    assert mutant is not None
    assert verify(problem, mutant) != ()


@given(seed=st.integers(0, 2**32))
def test_what_is_accepted_runs_right(seed: int) -> None:
    """The argument that a mutation does no harm: it runs in its bytes and equals the reference bit for bit."""
    rng = random.Random(seed)
    problem, plan = random_plan(rng)
    assume(plan.update)
    mutant = rng.choice(PERHAPS)(plan, rng)
    assume(mutant is not None)
    assert mutant is not None
    if verify(problem, mutant) == ():
        report = run(mutant, samples=2, seed=seed)
        assert report.guard_intact
        assert report.bitwise_equal
