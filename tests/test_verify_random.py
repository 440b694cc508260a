"""Random plans are accepted; random faults are found, unless running the plan shows that they are none."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from planted import RandomNetwork, any_picks, any_update, plan_of, problem_of, without_step

from sparseplan import zoo
from sparseplan.device import load_device
from sparseplan.ops.base import Dim, Operand
from sparseplan.plan import PlacedBuffer, Plan
from sparseplan.problem import Problem, resolve_choices, resolve_values
from sparseplan.run import run
from sparseplan.solve.cpsat import Limits
from sparseplan.solve.search import solve
from sparseplan.steps import OPTIMIZERS, TrainingOptions
from sparseplan.verify import verify
from sparseplan.verify.tiles import counted, walked

Mutation = Callable[[Plan, random.Random], Plan | None]


def random_plan(rng: random.Random, size: int = 14) -> tuple[Problem, Plan]:
    network = RandomNetwork(rng, rng.randint(1, size)).network
    problem = problem_of(
        network, l1=rng.choice((None, 512, 1 << 14)), dtype=rng.choice(("fp32", "fp16", "bf16")),
        optimizer=rng.choice(tuple(OPTIMIZERS)), gradients=rng.choice(("fused", "accumulate")),
        frozen=rng.choice(("L2", "flash")), alignment=rng.choice((1, 4, 8)),
        concat=rng.choice(("split", "adjoin")), batch=rng.choice((1, 1, 2)),
    )  # fmt: skip
    update = any_update(problem, rng, rng.choice((0.3, 0.6, 1.0)))
    plan = plan_of(problem, update, any_picks(problem, rng))
    # a network that no tile fits is the planner's business
    if {v.kind for v in verify(problem, plan)} == {"tile"}:
        problem = replace(problem, device=replace(problem.device, levels=problem.device.levels[1:]))
        plan = plan_of(problem, update, plan.picks)
    return problem, plan


@given(seed=st.integers(0, 2**32))
def test_right_plans_of_any_network_are_accepted(seed: int) -> None:
    problem, plan = random_plan(random.Random(seed))
    assert verify(problem, plan) == ()


# -- mutations: each returns another plan, or None where it does not apply ------------------------------
def with_buffers(plan: Plan, change: Callable[[PlacedBuffer], PlacedBuffer | None]) -> Plan:
    """Buffers changed, peaks as they are then."""
    buffers = tuple(b for b in map(change, plan.buffers) if b is not None)
    peaks = {level: max((b.end for b in buffers if b.level == level), default=0) for level in plan.peak_bytes}
    if "L1" in peaks:
        peaks["L1"] = plan.peak_bytes["L1"]
    return replace(plan, buffers=buffers, peak_bytes=peaks)


def move_value(plan: Plan, rng: random.Random) -> Plan | None:
    """A value elsewhere: a little, or right where another one lies."""
    chosen, other = rng.choice(plan.buffers), rng.choice(plan.buffers)
    by = rng.choice((-1, 1, 2, 5)) * plan.problem.options.alignment
    if rng.random() < 0.5:
        by = other.offset - other.lo - chosen.offset + chosen.lo
    if by == 0 or any(b.offset + by < 0 for b in plan.buffers if b.value == chosen.value):
        return None
    return with_buffers(plan, lambda b: replace(b, offset=b.offset + by) if b.value == chosen.value else b)


def swap_values(plan: Plan, rng: random.Random) -> Plan | None:
    """Two values of one size in each other's place."""
    a, b = rng.choice(plan.buffers), rng.choice(plan.buffers)
    if a.value == b.value or a.level != b.level or a.bytes != b.bytes:
        return None
    homes = {a.value: b.offset - b.lo, b.value: a.offset - a.lo}
    if any(homes.get(c.value, 0) + c.lo < 0 for c in plan.buffers):
        return None
    return with_buffers(plan, lambda c: replace(c, offset=homes[c.value] + c.lo) if c.value in homes else c)


def swap_steps(plan: Plan, rng: random.Random) -> Plan | None:
    """Two neighbouring steps in each other's place, and all that starts or stops at them in time for both."""
    if len(plan.steps) < 2:
        return None
    i = rng.randrange(len(plan.steps) - 1)
    steps = list(plan.steps)
    steps[i], steps[i + 1] = steps[i + 1], steps[i]
    changed = replace(plan, steps=tuple(steps))
    if rng.random() < 0.5:
        return changed
    return with_buffers(
        changed,
        lambda b: replace(b, start=i if b.start == i + 1 else b.start, stop=i + 2 if b.stop == i + 1 else b.stop),
    )


def forget_inplace(plan: Plan, rng: random.Random) -> Plan | None:
    i = rng.randrange(len(plan.steps))
    steps = (*plan.steps[:i], replace(plan.steps[i], inplace=()), *plan.steps[i + 1 :])
    return replace(plan, steps=steps) if plan.steps[i].inplace else None


def read_another(plan: Plan, rng: random.Random) -> Plan | None:
    """An argument in another value of that size."""
    i = rng.randrange(len(plan.steps))
    step = plan.steps[i]
    which = rng.choice(("reads", "writes"))
    args = list(getattr(step, which))
    if not args:
        return None
    k = rng.randrange(len(args))
    sizes = {v.name: v.bytes for v in plan.values}
    span = args[k].spans[0]
    same = sorted(n for n, size in sizes.items() if size == sizes[span.value] and n != span.value)
    if not same:
        return None
    args[k] = replace(args[k], spans=(replace(span, value=rng.choice(same)), *args[k].spans[1:]))
    return replace(plan, steps=(*plan.steps[:i], replace(step, **{which: tuple(args)}), *plan.steps[i + 1 :]))


def flip_add(plan: Plan, rng: random.Random) -> Plan | None:
    i = rng.randrange(len(plan.steps))
    step = plan.steps[i]
    if not step.writes:
        return None
    writes = tuple(replace(a, add=not a.add) for a in step.writes)
    reads = tuple(a for a in step.reads if not a.add)
    return replace(plan, steps=(*plan.steps[:i], replace(step, reads=reads, writes=writes), *plan.steps[i + 1 :]))


PERHAPS: tuple[Mutation, ...] = (
    move_value,
    move_value,
    swap_values,
    swap_steps,
    forget_inplace,
    read_another,
    flip_add,
)


def shorten(plan: Plan, rng: random.Random) -> Plan | None:
    """A buffer that dies, or is born, a step off."""
    k = rng.randrange(len(plan.buffers))
    b = plan.buffers[k]
    if b.stop - b.start < 2:
        return None
    b = replace(b, start=b.start + 1) if rng.random() < 0.5 else replace(b, stop=b.stop - 1)
    return replace(plan, buffers=(*plan.buffers[:k], b, *plan.buffers[k + 1 :]))


def drop_buffer(plan: Plan, rng: random.Random) -> Plan | None:
    k = rng.randrange(len(plan.buffers))
    kept = plan.buffers[k]
    return with_buffers(plan, lambda b: None if b is kept else b)


def drop_step(plan: Plan, rng: random.Random) -> Plan | None:
    return without_step(plan, rng.choice(plan.steps).name)


def miscount(plan: Plan, rng: random.Random) -> Plan | None:
    """One figure off by one."""
    by = rng.choice((-1, 1))
    what = rng.choice(("peak", "lower", "macs", "step", "value", "tile", "objective"))
    if what == "peak":
        level = rng.choice(sorted(plan.peak_bytes))
        return replace(plan, peak_bytes={**plan.peak_bytes, level: plan.peak_bytes[level] + by})
    if what == "lower":
        if max(plan.bytes_at()) < 1:
            return None
        wrong = max(plan.bytes_at()) - 1 if by < 0 else plan.peak_bytes["L2"] + 1
        return replace(plan, lower_bound_bytes={**plan.lower_bound_bytes, "L2": wrong})
    if what == "macs":
        part = rng.choice(sorted(plan.macs))
        return replace(plan, macs={**plan.macs, part: plan.macs[part] + by})
    if what == "step":
        i = rng.randrange(len(plan.steps))
        step = replace(plan.steps[i], macs=plan.steps[i].macs + by)
        return replace(plan, steps=(*plan.steps[:i], step, *plan.steps[i + 1 :]))
    if what == "value":
        i = rng.randrange(len(plan.values))
        value = replace(plan.values[i], bytes=plan.values[i].bytes + by)
        return replace(plan, values=(*plan.values[:i], value, *plan.values[i + 1 :]))
    if what == "tile":
        if not plan.tiles:
            return None
        i = rng.randrange(len(plan.tiles))
        name = rng.choice(("l1_bytes", "dma_bytes", "tiles"))
        tile = replace(plan.tiles[i], **{name: getattr(plan.tiles[i], name) + by})
        return replace(plan, tiles=(*plan.tiles[:i], tile, *plan.tiles[i + 1 :]))
    return replace(plan, objective=math.nextafter(plan.objective, by * math.inf))


ALWAYS: tuple[Mutation, ...] = (shorten, shorten, drop_buffer, drop_step, miscount)


@given(seed=st.integers(0, 2**32))
def test_faults_that_must_be_found(seed: int) -> None:
    rng = random.Random(seed)
    problem, plan = random_plan(rng, 10)
    assert verify(problem, plan) == ()
    mutant = rng.choice(ALWAYS)(plan, rng)
    assume(mutant is not None)
    assert mutant is not None
    assert verify(problem, mutant) != ()


@given(seed=st.integers(0, 2**32))
def test_what_is_accepted_runs_right(seed: int) -> None:
    """The argument that a mutation does no harm: it runs in its bytes and equals the reference bit for bit."""
    rng = random.Random(seed)
    problem, plan = random_plan(rng, 10)
    assume(plan.update)
    mutant = rng.choice(PERHAPS)(plan, rng)
    assume(mutant is not None)
    assert mutant is not None
    if verify(problem, mutant) == ():
        report = run(mutant, samples=2, seed=seed)
        assert report.faults == ()
        assert report.guard_intact
        assert report.bitwise_equal


@pytest.mark.parametrize("frozen", ["L2", "flash"])
def test_a_solved_plan_is_accepted(frozen: str) -> None:
    """The zoo's network on GAP9, by the whole pipeline."""
    network, device = zoo.get("upydnet"), load_device("gap9").with_budget(l2="1.2MB")
    choices, least = resolve_choices(network, must=("decoder0.*", "ups0.*"), may=("decoder0.*", "ups0.*"))
    options = TrainingOptions(frozen=frozen, alignment=device.level("L2").alignment)
    problem = Problem(network, device, options, choices, least, resolve_values(network, choices))
    plan = solve(problem, Limits(seconds=60))
    assert plan.feasible
    assert verify(problem, plan) == ()
    walks = {t.tiles for t in plan.tiles}
    assert max(walks) > 1


@given(seed=st.integers(0, 2**32))
def test_walking_a_loop_nest_counts_what_the_formula_does(seed: int) -> None:
    rng = random.Random(seed)
    axes = {name: rng.randint(1, 6) for name in "abc"[: rng.randint(1, 3)]}
    dims = []
    for axis, extent in axes.items():
        if rng.random() < 0.7:
            scale, window = rng.randint(1, 3), rng.randint(1, 4)
            reach = (extent - 1) * scale + window
            dims.append(Dim(axis, rng.randint(max(1, reach - (window - 1)), reach), scale, window))
    operand = Operand("x", (*dims, Dim(None, rng.randint(1, 3))))
    order = rng.sample(sorted(axes), len(axes))
    sizes = {axis: rng.randint(1, extent) for axis, extent in axes.items()}
    assert walked(operand, "fp32", order, axes, sizes) == counted(operand, "fp32", order, axes, sizes)
