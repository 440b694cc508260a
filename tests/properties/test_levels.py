"""What lives at slower levels: frozen parameters in flash or L3, accumulators and optimizer state in L3.

Plans run with the same bits as the reference and touch exactly what they claim at each level, no level holds more
than it has, and the best plan is that of trying every set of what may live elsewhere.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from planted import problem_of, small_u
from savings import possible

from sparseplan.autodiff import trace
from sparseplan.builder import NetworkBuilder, init_parameters
from sparseplan.device import LEVELS, Device, Level
from sparseplan.errors import ProblemError
from sparseplan.liveness import Memory, analyse
from sparseplan.network import Network
from sparseplan.plan import Plan
from sparseplan.problem import Problem
from sparseplan.recompute import Savings, apply
from sparseplan.run import run
from sparseplan.run.reference import reference, store
from sparseplan.run.runner import arithmetic_of, random_data
from sparseplan.solve.buffers import groups_of
from sparseplan.solve.cpsat import Limits
from sparseplan.solve.place import place
from sparseplan.solve.select import Program
from sparseplan.steps import MAIN, OPTIMIZERS, Schedule, UpdateSet
from sparseplan.testing import check_accepted, check_json, check_runs_within_budget, problems
from sparseplan.testing.optima import with_budget
from sparseplan.testing.peers import Caps, plan_of
from sparseplan.testing.strategies import options, trainable_networks
from sparseplan.testing.theorems import solved

LIMITS = Limits(10.0)
FEWER = settings(max_examples=max(1, settings().max_examples // 2))
#: schedules that brute force tries for one problem
MOST = 1500


def with_levels(device: Device, **bytes_of: int | None) -> Device:
    """The device with levels of those bytes, None being unbounded, beside or instead of its own; 0 is none."""
    kept = [v for v in device.levels if v.name not in bytes_of]
    at = device.level(MAIN).alignment
    made = [Level(name, size, 0, at) for name, size in bytes_of.items() if size != 0]
    return replace(device, levels=tuple(sorted((*kept, *made), key=lambda v: LEVELS.index(v.name))))


def least_peak(problem: Problem) -> int:
    """The fewest live bytes that any allowed decisions take, for drawing budgets."""
    program = Program(problem, trace(problem.network, problem.options, problem.choices), [])
    _, decisions, bound = program.cheapest(LIMITS)
    return bound if decisions is not None else 0


@st.composite
def problems_elsewhere(draw: st.DrawFn, max_ops: int = 6, max_choices: int | None = None) -> Problem:
    """Problems where parameters may be streamed or pages be made, with slower levels of any size."""
    network = draw(trainable_networks(max_ops=max_ops))
    setting = draw(options(network))
    setting = replace(
        setting, optimizer=draw(st.sampled_from(["adam", "momentum", "sgd"])),
        gradients=draw(st.sampled_from(["accumulate", "accumulate", "fused"])),
        frozen=draw(st.sampled_from(["L2", "L2", "flash"])),
    )  # fmt: skip
    problem = draw(problems(network, setting, max_choices=max_choices, tight=False))
    size = st.sampled_from([None, None, 16, 64, 200, 1000])
    savings = draw(st.sampled_from([("stream",), ("page",), ("page", "stream")]))
    flash = draw(size) if draw(st.booleans()) or problem.options.frozen == "flash" else 0
    levels = {"L3": draw(size) if "page" in savings or not flash else 0, "flash": flash}
    saving = replace(problem, device=with_levels(problem.device, **levels), savings=savings)
    low, high = least_peak(saving), least_peak(problem)
    room = max(1, low + int(draw(st.sampled_from([0.0, 0.4, 0.8, 1.1])) * (high - low)))
    return with_budget(saving, room + problem.device.level(MAIN).reserved)


def check_homes(plan: Plan) -> None:
    """Values are where the savings let them be, and no level holds more than it has."""
    problem = plan.problem
    for v in plan.values:
        homes = {MAIN}
        if v.role == "parameter":
            homes = {MAIN} if v.tensor in plan.update else {problem.options.frozen}
            if "stream" in problem.savings and v.tensor not in plan.update:
                homes.add("flash" if problem.device.has("flash") else "L3")
        elif "page" in problem.savings and v.role in ("accumulator", "state", "activation", "input"):
            homes.add("L3")
        assert v.level in homes, v
    for level in {b.level for b in plan.buffers}:
        ends = [b.offset + b.bytes for b in plan.buffers if b.level == level]
        size = problem.device.level(level).bytes
        assert plan.peak_bytes[level] == max(ends)
        assert size is None or max(ends) <= size


@given(problem=problems_elsewhere(), seed=st.integers(0, 99))
def test_what_lives_elsewhere_is_touched_there_and_nowhere_else(problem: Problem, seed: int) -> None:
    plan = check_accepted(problem, solved(problem, LIMITS))
    check_json(plan)
    if plan.feasible:
        check_homes(plan)
        report = check_runs_within_budget(plan, seed, samples=1 + seed % 3)
        assert set(report.touched_bytes) == {b.level for b in plan.buffers}


@FEWER
@given(problem=problems_elsewhere())
def test_never_worse_than_without(problem: Problem) -> None:
    plain, plan = solved(replace(problem, savings=()), LIMITS), solved(problem, LIMITS)
    slack = plan.resolution + plain.resolution
    if plain.feasible:
        assert plan.status != "INFEASIBLE"
        assert plan.bound + slack >= plain.objective
        assert plan.status != "OPTIMAL" or plan.objective + slack >= plain.objective


@FEWER
@given(problem=problems_elsewhere(), level=st.sampled_from(["L3", "flash"]))
def test_a_larger_slow_level_never_worsens(problem: Problem, level: str) -> None:
    assume(problem.device.has(level) and problem.device.level(level).bytes is not None)
    roomy = replace(problem, device=with_levels(problem.device, **{level: None}))
    small, large = solved(problem, LIMITS), solved(roomy, LIMITS)
    if small.feasible:
        assert large.feasible
        slack = small.resolution + large.resolution
        assert large.status != "OPTIMAL" or large.objective + slack >= small.objective


# -- brute force ----------------------------------------------------------------------------------------
def best_of_all(problem: Problem) -> float | None:
    """Value of the best decisions that can be placed, over every set of what may live elsewhere and no page made."""
    caps, names = Caps(problem), list(problem.choices)
    graph = trace(problem.network, problem.options, problem.choices)
    found: list[tuple[float, Memory]] = []
    tried = 0
    for chosen in itertools.product(*((0.0, *problem.choices[p]) for p in names)):
        update = {p: r for p, r in zip(names, chosen, strict=True) if r}
        if not problem.allowed(UpdateSet(update)):
            continue
        there = [p for p in graph.picks if p.when & graph.chosen(UpdateSet(update))]
        for picked in itertools.product(*(p.options for p in there)):
            base = graph.restrict(UpdateSet(update), {p.op: o for p, o in zip(there, picked, strict=True)})
            may = sorted(possible(problem, base).moved)
            tried += 2 ** len(may)
            assume(tried <= MOST)
            for k in range(len(may) + 1):
                for moved in itertools.combinations(may, k):
                    schedule = apply(base, Savings(moved=frozenset(moved)))
                    memory = analyse(schedule)
                    if not caps.respected(update, schedule) or any(
                        (size := problem.capacity(level)) is not None and taken(problem, schedule, level) > size
                        for level in ("L3", "flash")
                    ):
                        continue
                    if memory.peak() <= (problem.capacity(MAIN) or 0):
                        found.append((problem.worth(update), memory))
    for worth, memory in sorted(found, key=lambda x: -x[0]):
        if place(groups_of(memory), problem.capacity(MAIN), problem.options.alignment).status == "PLACED":
            return worth
    return None


def taken(problem: Problem, schedule: Schedule, level: str) -> int:
    """Bytes of what lives at a level, one after the other at its alignment."""
    at = max(problem.device.level(level).alignment, problem.options.alignment) if problem.device.has(level) else 1
    return sum(-(-v.bytes // at) * at for v in schedule.values.values() if v.level == level)


@given(problem=problems_elsewhere(max_ops=3, max_choices=4))
def test_streaming_equals_brute_force(problem: Problem) -> None:
    assume("page" not in problem.savings)
    best, plan = best_of_all(problem), solved(problem, LIMITS)
    if best is None:
        assert not plan.feasible
        return
    assert plan.status != "INFEASIBLE"
    assert plan.bound + plan.resolution >= best >= plan.objective - plan.resolution
    assert plan.status != "OPTIMAL" or plan.objective + plan.resolution >= best


# -- examples --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
@pytest.mark.parametrize("gradients", ["fused", "accumulate"])
def test_accumulators_and_states_at_l3_give_the_reference_s_parameters(optimizer: str, gradients: str) -> None:
    problem = problem_of(small_u(), alignment=4, optimizer=optimizer, gradients=gradients)
    problem = replace(problem, device=with_levels(problem.device, L3=None), savings=("page",))
    graph = trace(problem.network, problem.options, problem.choices)
    may = possible(problem, graph.restrict(UpdateSet(dict.fromkeys(problem.choices, 1.0)))).moved
    count = (gradients == "accumulate") + len(OPTIMIZERS[optimizer])
    assert len(may) == count * len(problem.choices)
    here = plan_of(problem, dict.fromkeys(problem.choices, 1.0))
    there = plan_of(problem, dict.fromkeys(problem.choices, 1.0), None, Savings(moved=may))
    check_accepted(problem, there)
    check_homes(there)
    reports = [check_runs_within_budget(plan, 3, samples=3) for plan in (here, there)]
    for p, expected in reports[0].parameters.items():
        assert reports[1].parameters[p].tobytes() == expected.tobytes()
    assert there.peak_bytes[MAIN] < here.peak_bytes[MAIN] or not may


def test_frozen_parameters_in_flash_are_read_from_there() -> None:
    problem = problem_of(small_u(), alignment=4)
    problem = replace(problem, device=with_levels(problem.device, flash=None), savings=("stream",))
    frozen = [p for p in problem.choices if not p.startswith("head")]
    update = {p: 1.0 for p in problem.choices if p not in frozen}
    plan = plan_of(problem, update, None, Savings(moved=frozenset((p, "flash") for p in frozen)))
    check_accepted(problem, plan)
    check_homes(plan)
    report = run(plan, seed=1)
    size = sum(-(-v.bytes // 4) * 4 for v in plan.values if v.tensor in frozen)
    assert report.touched_bytes["flash"] == report.claimed_bytes["flash"] == size
    # its gradients are those of a plain walk over the network
    network, o = problem.network, problem.options
    arithmetic = arithmetic_of(network, o.dtype, plan.steps, exact=False)
    parameters = {p: store(a, o.dtype) for p, a in init_parameters(network, 1).items()}
    x, target = random_data(network, o.loss, 1, 1)
    data = {n: store(a, o.dtype) for n, a in x.items()}
    found = reference(network, parameters, data, store(target, o.dtype), o.loss, o.loss_attrs, arithmetic)
    for p in update:
        assert report.gradients[p].tobytes() == found.gradients[p].tobytes()


def wide() -> Network:
    net = NetworkBuilder("wide")
    t = net.conv(net.input("image", (8, 2, 2)), 8, 3, padding=1, name="a", bias=False)
    return net.build(net.conv(t, 1, 1, name="b", bias=False))


def asked(savings: tuple[str, ...], frozen: str = "L2", l2: int | None = None, **levels: int | None) -> Problem:
    """``a.weight`` of 576 elements (1152 bytes) frozen, ``b.weight`` of 16 bytes updated."""
    problem = problem_of(wide(), alignment=4, may=("b.*",), must=("b.*",), dtype="bf16")
    device = with_levels(problem.device, **levels)
    problem = replace(problem, device=device, savings=savings, options=replace(problem.options, frozen=frozen))
    return with_budget(problem, l2)


def test_flash_that_is_too_small_for_frozen_parameters_is_the_reason() -> None:
    assert solved(asked((), "flash", 4096, flash=1152), LIMITS).feasible
    plan = check_accepted(asked((), "flash", 4096, flash=1151), solved(asked((), "flash", 4096, flash=1151), LIMITS))
    assert plan.reason is not None
    assert plan.reason.level == "flash"
    assert plan.reason.message.startswith("flash: frozen parameters of up to 1,168 B do not fit its 1,151 B")


@pytest.mark.parametrize("level", ["flash", "L3"])
def test_a_slow_level_that_is_too_small_to_stream_from_leaves_main_memory_the_reason(level: str) -> None:
    other = {"flash": 0, "L3": 0}
    roomy = asked(("stream",), l2=600, **{**other, level: 1152})
    plan = check_accepted(roomy, solved(roomy, LIMITS))
    assert plan.status == "OPTIMAL"
    assert plan.peak_bytes[level] == 1152
    small = asked(("stream",), l2=600, **{**other, level: 1151})
    plan = check_accepted(small, solved(small, LIMITS))
    assert plan.status == "INFEASIBLE"
    assert plan.reason is not None
    assert plan.reason.level == MAIN
    assert plan.reason.message.startswith("L2: at least ")


def test_streaming_prefers_flash_and_needs_a_level() -> None:
    plan = solved(asked(("stream",), l2=600, flash=None, L3=None), LIMITS)
    assert {v.level for v in plan.values if v.role == "parameter"} == {MAIN, "flash"}
    with pytest.raises(ProblemError, match="savings='stream' needs flash or L3, which device 'custom' lacks; drop it"):
        asked(("stream",), flash=0)
    with pytest.raises(ProblemError, match="savings='page' needs L3, which device 'custom' lacks; drop it"):
        asked(("page",), L3=0)


def test_nothing_moves_where_there_is_room() -> None:
    plan = solved(asked(("page", "stream"), l2=100_000, flash=None, L3=None), LIMITS)
    assert {b.level for b in plan.buffers} == {MAIN}
