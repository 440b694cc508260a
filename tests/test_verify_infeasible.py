"""Answers without a plan: honest ones are accepted, and what is plainly false is found; resolutions are bounded."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted import RandomNetwork, any_picks, any_update, plan_of, problem_of, small_u
from savings import AGAIN, with_savings
from test_verify_random_savings import random_plan as random_saving_plan

from sparseplan.plan import Infeasibility, Plan
from sparseplan.problem import Pair, Problem, Saturation
from sparseplan.solve.cpsat import Limits
from sparseplan.solve.striped import solve
from sparseplan.steps import MAIN, OPTIMIZERS
from sparseplan.verify import verify
from sparseplan.verify.plainest import Plainest
from sparseplan.verify.unsolved import _Reason


def random_problem(rng: random.Random, **options: Any) -> Problem:
    problem = problem_of(
        RandomNetwork(rng, rng.randint(1, 9)).network, dtype=rng.choice(("fp32", "bf16")),
        optimizer=rng.choice(tuple(OPTIMIZERS)), gradients=rng.choice(("fused", "accumulate")),
        alignment=rng.choice((1, 4, 8)), frozen=rng.choice(("L2", "flash")), concat=rng.choice(("split", "adjoin")),
        batch=rng.choice((1, 2)), **options,
    )  # fmt: skip
    names = rng.sample(sorted(problem.choices), min(2, len(problem.choices)))
    return replace(problem, must={p: problem.choices[p][0] for p in names})


def with_budget(problem: Problem, size: int) -> Problem:
    return replace(problem, device=problem.device.with_budget(l2=max(size, 1)))


def plain_of(problem: Problem) -> Plainest:
    return Plainest(problem, problem.least_update())


# -- what the verifier counts, against plans and against the solver ------------------------------------------
@given(seed=st.integers(0, 2**32))
def test_no_plan_is_beyond_the_bounds(seed: int) -> None:
    rng = random.Random(seed)
    problem = random_problem(rng)
    update = {**any_update(problem, rng, 0.6), **{p: problem.choices[p][-1] for p in problem.must}}
    plan = plan_of(problem, update, any_picks(problem, rng))
    everything = Plainest(problem, {p: r[-1] for p, r in problem.choices.items()})
    for step, live in zip(plan.steps, plan.bytes_at(MAIN), strict=True):
        most = everything.most(step.name)
        assert most is not None
        assert live <= most, step.name
    assert plain_of(problem).least() <= max(plan.bytes_at(MAIN))
    assert plain_of(problem).macs <= sum(plan.macs.values())


@given(seed=st.integers(0, 2**32))
def test_no_plan_that_saves_is_below_the_least(seed: int) -> None:
    problem, plan = random_saving_plan(random.Random(seed))
    problem = replace(problem, must={p: problem.choices[p][0] for p in plan.update})
    assert plain_of(problem).least() <= max(plan.bytes_at(MAIN))


@given(seed=st.integers(0, 2**32))
def test_what_the_plainest_plan_takes_suffices(seed: int) -> None:
    """The solver finds a plan in its bytes; in fewer than the least there is none, and its reason is accepted."""
    problem = random_problem(random.Random(seed))
    plain = plain_of(problem)
    assert plain.live <= plain.peak
    found = solve(with_budget(problem, plain.peak), Limits(20.0))
    assert found.feasible
    for size in (plain.least() - 1, plain.least() // 2, plain.peak // 3):
        small = with_budget(problem, size)
        answer = solve(small, Limits(20.0))
        assert verify(small, answer) == ()
        assert not answer.feasible or size >= plain.least()


@pytest.mark.parametrize("savings", [(), AGAIN, ("order",), ("stripes",), ("recompute", "stripes")])
def test_honest_reasons_are_accepted(savings: tuple[str, ...]) -> None:
    problem = problem_of(small_u(), must=("stem.weight",), alignment=4, optimizer="momentum")
    problem = with_savings(problem, savings) if savings == AGAIN else replace(problem, savings=savings)
    for size in (200, 600, 1000):
        small = with_budget(problem, size)
        answer = solve(small, Limits(20.0))
        assert verify(small, answer) == (), answer.reason
        if size == 200:
            assert answer.status == "INFEASIBLE"


def test_honest_reasons_of_other_levels_and_caps_are_accepted() -> None:
    problem = problem_of(small_u(), must=("stem.weight",), alignment=4)
    macs = plain_of(problem).macs
    in_flash = problem_of(small_u(), may=("head.*",), frozen="flash")
    levels = tuple(replace(v, bytes=100) if v.name == "flash" else v for v in in_flash.device.levels)
    for small, level in (
        (replace(problem, max_macs=macs - 1), "MACs"),
        (problem_of(small_u(), l1=32, alignment=4), "L1"),
        (replace(in_flash, device=replace(in_flash.device, levels=levels)), "flash"),
    ):
        answer = solve(small, Limits(20.0))
        assert answer.reason is not None
        assert answer.reason.level == level
        assert verify(small, answer) == ()


# -- lies ----------------------------------------------------------------------------------------------------
@cache
def told(cap: str = MAIN) -> Plan:
    """An honest answer that nothing fits."""
    problem = problem_of(small_u(), must=("stem.weight",), alignment=4)
    if cap == "MACs":
        problem = replace(problem, max_macs=plain_of(problem).macs - 1)
    elif cap == "L1":
        problem = problem_of(small_u(), l1=32, alignment=4)
    else:
        problem = with_budget(problem, 600)
    return solve(problem, Limits(20.0))


def lie(**changes: Any) -> Callable[[Plan], Plan]:
    def change(plan: Plan) -> Plan:
        assert plan.reason is not None
        reason = plan.reason
        made = {k: v(reason) if callable(v) else v for k, v in changes.items()}
        return replace(plan, reason=replace(reason, **made))

    return change


LIES: dict[str, tuple[str, Callable[[Plan], Plan], str]] = {
    "needed below available": (MAIN, lie(needed=599), "is not more than available"),
    "needed is what is available": (MAIN, lie(needed=600), "is not more than available"),
    "another availability": (MAIN, lie(available=599), "but the problem gives 600"),
    "fewest below needed": (MAIN, lie(fewest_bytes=lambda r: r.needed - 1), "is less than needed"),
    "a step that does not exist": (MAIN, lie(step="nonexistent"), "is no step"),
    "a pass that does not exist": (MAIN, lie(step="stem.grad_slope"), "is no step"),
    "an update of what is not there": (MAIN, lie(step="update ghost"), "is no step"),
    "a tensor that does not exist": (MAIN, lie(tensors=(("nope", 5),)), "does not exist"),
    "a tensor larger than it is": (MAIN, lie(tensors=(("image", 10**6),)), "takes at most"),
    "a tensor of no bytes": (MAIN, lie(tensors=(("image", 0),)), "takes at most"),
    "tensors beyond what is needed": (MAIN, lie(tensors=lambda r: r.tensors * 9), "more than needed"),
    "a step where less can be live": (MAIN, lie(step="stem.forward"), "can be live"),
    "needed beyond what suffices": (MAIN, lie(needed=10**6, fewest_bytes=10**6, step=""), "bytes suffice"),
    "fewest below the least": (
        MAIN, lie(needed=601, fewest_bytes=601, tensors=()), "but every plan takes at least"),
    "a level that the device lacks": (MAIN, lie(level="L7"), "has no bound"),
    "a level without bound": (MAIN, lie(level="L3"), "has no bound"),
    "a cap that is not asked for": (MAIN, lie(level="MACs"), "has no bound"),
    "time without a cap": (MAIN, lie(level="time"), "has no bound"),
    "MACs beyond what suffices": ("MACs", lie(needed=10**9), "MACs, but"),
    "bytes of MACs": ("MACs", lie(fewest_bytes=10**9), "which is no memory"),
    "a tile beyond the smallest": ("L1", lie(needed=lambda r: r.needed + 1, fewest_bytes=None), "but a tile of"),
    "a pass that has its tile": ("L1", lie(step="join.grad_weight", needed=10**6), "but a tile of"),
    "no pass": ("L1", lie(step=""), "is no step"),
    "an objective": (MAIN, lambda p: replace(p, objective=1.0), "but objective=1.0"),
    "a bound": (MAIN, lambda p: replace(p, bound=1.0), "but bound=1.0"),
    "a proven tie": (MAIN, lambda p: replace(p, ties={"macs": "OPTIMAL"}), "there are 1 ties"),
    "a reason though it is not known": (MAIN, lambda p: replace(p, status="UNKNOWN"), "there is a reason"),
}  # fmt: skip


@pytest.mark.parametrize("name", LIES)
def test_lies_about_why_nothing_fits_are_found(name: str) -> None:
    cap, change, mentions = LIES[name]
    plan = told(cap)
    assert plan.status == "INFEASIBLE"
    assert verify(plan.problem, plan) == ()
    found = verify(plan.problem, change(plan))
    assert any(v.kind == "status" and mentions in str(v) for v in found), found


@given(seed=st.integers(0, 2**32), share=st.floats(1.0, 3.0))
def test_that_nothing_fits_is_refuted_where_the_plainest_plan_does(seed: int, share: float) -> None:
    """However well the numbers agree."""
    problem = random_problem(random.Random(seed))
    size = math.ceil(plain_of(problem).peak * share)
    problem = with_budget(problem, size)
    op = problem.network.ops[0].name
    reason = Infeasibility(MAIN, f"{op}.forward", size + 1, size, (), None, "L2: nothing fits")
    found = verify(problem, Plan(problem, "INFEASIBLE", -math.inf, -math.inf, reason=reason))
    assert any("is false" in str(v) for v in found)


def test_the_smallest_tile_is_the_solvers() -> None:
    plan = told("L1")
    assert plan.reason is not None
    op, _, what = plan.reason.step.rpartition(".")
    judge = _Reason(plan.problem, plan.reason, None)  # type: ignore[arg-type]
    assert judge.least_tile(op, what.removeprefix("grad_")) == plan.reason.needed


# -- resolution ----------------------------------------------------------------------------------------------
@given(seed=st.integers(0, 2**32), scale=st.sampled_from([1e-30, 1e-3, 1.0, 1e9, 1e150]))
def test_honest_resolutions_are_accepted_and_coarse_ones_found(seed: int, scale: float) -> None:
    rng = random.Random(seed)
    problem = problem_of(RandomNetwork(rng, 5).network)
    values = {p: {r: scale * rng.uniform(-1, 3) for r in rs} for p, rs in problem.choices.items()}
    names = sorted(values)
    terms: tuple[Any, ...] = ()
    if len(names) > 1 and rng.random() < 0.5:
        terms = (Pair({names[0]: values_first(problem, names[0])}, {names[1]: values_first(problem, names[1])}, scale),
                 Saturation({p: {r: abs(v) + scale for r, v in values[p].items()} for p in names},
                            ((scale, scale), (3 * scale, 2 * scale))))  # fmt: skip
    problem = replace(problem, values=values, terms=terms)
    plan = solve(problem, Limits(20.0))
    assert verify(problem, plan) == ()
    if not plan.feasible:
        return
    total = math.fsum(abs(v) for t in values.values() for v in t.values()) + 4 * scale * len(terms)
    coarse = replace(plan, status="OPTIMAL", resolution=total * 1e-5, bound=plan.objective + total * 1e-5)
    found = [str(v) for v in verify(problem, coarse)]
    assert any("is coarser than" in text for text in found) or total == 0


def values_first(problem: Problem, p: str) -> float:
    return problem.choices[p][0]


def test_whole_values_need_no_resolution() -> None:
    problem = problem_of(small_u(), alignment=4)
    plan = solve(problem, Limits(20.0))
    assert plan.resolution == 0
    found = verify(problem, replace(plan, resolution=1e-6, bound=plan.objective + 1e-6))
    assert [v.where for v in found] == ["resolution"]
