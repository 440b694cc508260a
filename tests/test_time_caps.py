"""Caps on the seconds and joules of a run: kept by every plan, and the best plan is the best that keeps them.

The row that the solver holds within a cap never exceeds what the schedule takes, so that nothing is cut off that
keeps it. A cap that nothing keeps, and a device that lacks a rate, are named.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from planted import problem_of, small_u
from savings import AGAIN, graph_of, some_savings, with_savings
from timed import by_energy, complete, complete_devices, costs_of, schedule_of, with_l3

from sparseplan.autodiff import trace
from sparseplan.builder import NetworkBuilder
from sparseplan.costs import PlanCosts, plan_costs
from sparseplan.device import custom
from sparseplan.errors import DeviceError, ProblemError
from sparseplan.liveness import analyse
from sparseplan.problem import Problem
from sparseplan.recompute import Savings, apply
from sparseplan.solve.buffers import groups_of
from sparseplan.solve.cpsat import Limits, solve
from sparseplan.solve.place import place
from sparseplan.solve.search import solve as solve_striped
from sparseplan.solve.select import Program
from sparseplan.solve.tiling import Tiling
from sparseplan.steps import MAIN, UpdateSet
from sparseplan.testing import check_accepted, check_json, check_runs_within_budget, problems
from sparseplan.testing.optima import with_budget
from sparseplan.testing.peers import Caps, plan_of
from sparseplan.testing.rows import kept_savings
from sparseplan.testing.theorems import describe, solved
from sparseplan.verify import verify

LIMITS = Limits(10.0)
FEWER = settings(max_examples=max(1, settings().max_examples // 3))
#: schedules that brute force tries for one problem
MOST = 400


# -- the row that the solver has ------------------------------------------------------------------------
def least_cycles(
    program: Program, update: Mapping[str, float], picks: Mapping[str, str], savings: Savings
) -> float | None:
    """The least that the row of time allows once everything is decided."""
    graph, literals, model = program.graph, program.literals, program.model.clone()
    chosen = graph.chosen(UpdateSet(update))
    for bit, atom in literals.atoms.items():
        model.add(atom == int(bool(bit & chosen)))
    for p, options in zip(graph.picks, literals.picks, strict=True):
        model.add(options[p.options.index(picks.get(p.op, p.options[0]))] == 1)
    again, name = program.again, [s.name for s in graph.steps]
    taken = {*savings.reruns, *savings.fetches, *savings.packed, *savings.moved}
    for table in (again.runs, again.fetches):
        for (what, i), literal in table.items():
            model.add(literal == int((what, name[i]) in taken))
    for known in (again.packed, again.moved):
        for key, literal in known.items():
            model.add(literal == int(key in taken))
    assert program.time is not None
    model.minimize(program.expression(program.time))
    return solve(model, LIMITS).objective


@given(problem=problems(tight=False), data=st.data())
def test_the_row_of_time_never_exceeds_what_the_schedule_takes(problem: Problem, data: st.DataObject) -> None:
    savings = data.draw(st.sampled_from([(), AGAIN, AGAIN[:1], AGAIN[:2], AGAIN[2:], ("stream",), ("int8",)]))
    problem = with_savings(problem, savings)
    problem = replace(problem, must={}, ties=(), device=data.draw(complete_devices(problem.device)))
    update = {}
    for p, fractions in problem.choices.items():
        r = data.draw(st.sampled_from([*fractions, 0.0]), label=p)
        if r:
            update[p] = r
    graph = graph_of(problem)
    picks = {p.op: data.draw(st.sampled_from(p.options), label=p.op) for p in graph.picks}
    base = graph.restrict(UpdateSet(update), picks)
    kept = kept_savings(base, data.draw(some_savings(problem, base)))
    program = Program(problem, graph, [], None, Tiling(problem.device, graph))
    found, takes = least_cycles(program, update, picks, kept), costs_of(problem, apply(base, kept)).cycles
    assert takes is not None
    assert found is not None
    assert found <= takes, f"row={found}, schedule={takes} {kept} {describe(problem)}"


# -- plans -----------------------------------------------------------------------------------------------
@st.composite
def capped_problems(draw: st.DrawFn, max_choices: int | None = 8, savings: bool = False) -> Problem:
    """Problems with a cap somewhere between what updating nothing takes and what updating everything does."""
    problem = draw(problems(max_choices=max_choices, tight=draw(st.booleans())))
    if savings:
        problem = with_savings(problem, draw(st.sampled_from([AGAIN, ("stream",), ("int8",), ("recompute",)])))
    device = draw(complete_devices(problem.device))
    problem = replace(problem, device=device)
    ends = [costs_of(problem, schedule_of(problem, update)) for update in
            (problem.least_update(), {p: r[-1] for p, r in problem.choices.items()})]  # fmt: skip
    share = draw(st.sampled_from([0.5, 0.2, 0.8, 1.0, -0.05]))
    if draw(st.booleans()):
        low, high = (c.seconds or 0 for c in ends)
        return replace(problem, max_seconds=low + share * (high - low) + 1e-6)
    if draw(st.booleans()):
        problem = replace(problem, device=by_energy(device))
        ends = [costs_of(problem, schedule_of(problem, update)) for update in
                (problem.least_update(), {p: r[-1] for p, r in problem.choices.items()})]  # fmt: skip
    low, high = (c.joules or 0 for c in ends)
    return replace(problem, max_joules=low + share * (high - low) + 1e-12)


def kept(problem: Problem, costs: PlanCosts) -> bool:
    """Whether costs keep the caps."""
    seconds, joules = costs.seconds, costs.joules
    late = problem.max_seconds is not None and (seconds is None or seconds > problem.max_seconds)
    return not late and (problem.max_joules is None or (joules is not None and joules <= problem.max_joules))


@FEWER
@given(problem=capped_problems(None), seed=st.integers(0, 99))
def test_plans_keep_their_caps(problem: Problem, seed: int) -> None:
    plan = check_accepted(problem, solved(problem, LIMITS))
    check_json(plan)
    if plan.feasible:
        assert kept(problem, plan_costs(plan))
        check_runs_within_budget(plan, seed)
    elif plan.reason is not None and plan.reason.level in ("time", "energy"):
        name = "max_seconds" if problem.max_seconds is not None else "max_joules"
        assert f"({name}={getattr(problem, name):g}); raise the cap" in plan.reason.message


@FEWER
@given(problem=capped_problems(None, savings=True))
def test_plans_that_save_keep_their_caps(problem: Problem) -> None:
    plan = check_accepted(problem, solved(problem, LIMITS))
    if plan.feasible:
        assert kept(problem, plan_costs(plan))


@given(problem=capped_problems())
def test_the_best_within_a_cap_equals_brute_force(problem: Problem) -> None:
    caps, capacity = Caps(problem), problem.capacity(MAIN)
    graph = trace(problem.network, problem.options, problem.choices)
    names, tried, found = list(problem.choices), 0, []
    for chosen in itertools.product(*((0.0, *problem.choices[p]) for p in names)):
        update = {p: r for p, r in zip(names, chosen, strict=True) if r}
        if not problem.allowed(UpdateSet(update)):
            continue
        there = [p for p in graph.picks if p.when & graph.chosen(UpdateSet(update))]
        for options in itertools.product(*(p.options for p in there)):
            tried += 1
            assume(tried <= MOST)
            schedule = graph.restrict(UpdateSet(update), {p.op: o for p, o in zip(there, options, strict=True)})
            memory = analyse(schedule)
            costs = costs_of(problem, schedule)
            fits = capacity is None or memory.peak() <= capacity
            if fits and caps.respected(update, schedule) and kept(problem, costs):
                found.append((problem.worth(update), costs.cycles or 0, memory))
    found.sort(key=lambda item: (-item[0], item[1]))
    alignment = problem.options.alignment
    placed = (item for item in found
              if capacity is None or place(groups_of(item[2]), capacity, alignment).status == "PLACED")  # fmt: skip
    best, plan = next(placed, None), solved(problem, LIMITS)
    if best is None:
        assert not plan.feasible
        return
    assert plan.status != "INFEASIBLE"
    assert plan.bound + plan.resolution >= best[0] >= plan.objective - plan.resolution
    assert plan.status != "OPTIMAL" or plan.objective + plan.resolution >= best[0]


@FEWER
@given(problem=capped_problems(), share=st.sampled_from([1.1, 2.0]))
def test_a_higher_cap_never_worsens(problem: Problem, share: float) -> None:
    higher = {
        name: cap * share for name in ("max_seconds", "max_joules") if (cap := getattr(problem, name)) is not None
    }
    small, large = solved(problem, LIMITS), solved(replace(problem, **higher), LIMITS)
    if small.feasible:
        assert large.feasible
        slack = small.resolution + large.resolution
        assert large.status != "OPTIMAL" or large.objective + slack >= small.objective


# -- examples --------------------------------------------------------------------------------------------
def asked(**changes: object) -> Problem:
    """Everything in a small network may be updated; all rates are known."""
    problem = problem_of(small_u(), 1 << 20, alignment=4, l1=2048)
    return replace(problem, **{"device": complete(problem.device), **changes})  # type: ignore[arg-type]


def test_a_cap_just_below_a_plan_s_time_gives_another_plan() -> None:
    plan = solved(asked())
    seconds = plan_costs(plan).seconds
    assert seconds is not None
    same = solved(asked(max_seconds=seconds))
    assert same.objective == plan.objective
    less = solved(asked(max_seconds=seconds - 1e-6))
    assert less.status == "OPTIMAL"
    assert less.objective < plan.objective
    assert (plan_costs(less).seconds or 1) < seconds


def test_a_cap_on_energy_by_power_is_one_on_time() -> None:
    by_time, by_joules = solved(asked(max_seconds=0.02)), solved(asked(max_joules=0.005))
    assert by_time.update == by_joules.update
    assert (plan_costs(by_joules).joules or 1) <= 0.005


def test_a_cap_that_nothing_keeps_names_itself() -> None:
    plan = check_accepted(asked(max_seconds=1e-5), solved(asked(max_seconds=1e-5)))
    assert plan.reason is not None
    assert plan.reason.level == "time"
    assert plan.reason.available == 10
    assert plan.reason.message == (
        f"time: at least {plan.reason.needed:,} cycles are needed, 10 are allowed (max_seconds=1e-05); raise the cap"
    )
    plan = check_accepted(asked(max_joules=1e-6), solved(asked(max_joules=1e-6)))
    assert plan.reason is not None
    assert "(max_joules=1e-06); raise the cap" in plan.reason.message
    problem = asked(max_joules=1e-12)
    problem = replace(problem, device=by_energy(problem.device))
    plan = check_accepted(problem, solved(problem))
    assert plan.reason is not None
    assert plan.reason.message.startswith("energy: at least ")
    assert " pJ are needed, 1 are allowed (max_joules=1e-12); raise the cap" in plan.reason.message


def test_a_cap_that_only_the_row_keeps_names_itself() -> None:
    """The row is a lower bound: what it lets through, and the schedule does not, is refused for time, not for bytes."""
    problem = asked(must={"head.weight": 1.0})
    graph = trace(problem.network, problem.options, problem.choices)
    program = Program(problem, graph, [], None, Tiling(problem.device, graph))
    assert program.time is not None
    low = program.least(program.time, LIMITS)
    taken = costs_of(problem, schedule_of(problem, problem.least_update())).cycles
    assert low is not None
    assert taken is not None
    assert low < taken
    for l2 in (1 << 20, None):
        for cycles in sorted({low, (low + taken) // 2, taken - 1}):
            capped = replace(with_budget(problem, l2), max_seconds=cycles / 1e6)
            plan = check_accepted(capped, solved(capped, LIMITS))
            assert plan.reason is None or plan.reason.level == "time", plan.reason.message
            assert plan.reason is None or plan.reason.message.endswith("); raise the cap")


def test_a_cap_on_energy_that_only_the_row_keeps_names_itself() -> None:
    problem = asked(must={"head.weight": 1.0})
    problem = with_budget(replace(problem, device=by_energy(problem.device)), None)
    joules = costs_of(problem, schedule_of(problem, problem.least_update())).joules
    assert joules is not None
    for share in (0.9999, 0.99, 0.9):
        capped = replace(problem, max_joules=joules * share)
        plan = check_accepted(capped, solved(capped, LIMITS))
        assert plan.reason is None or (plan.reason.level == "energy"), plan.reason.message


@pytest.mark.parametrize("cap", [{"max_seconds": 1.0}, {"max_joules": 1.0}])
def test_a_device_without_rates_says_which_it_lacks(cap: dict[str, float]) -> None:
    bare = replace(problem_of(small_u(), 1 << 20), **cap)  # type: ignore[arg-type]
    with pytest.raises(DeviceError) as error:
        solved(bare)
    what = "time" if "max_seconds" in cap else "energy"
    assert str(error.value).startswith(f"{what} is unknown: device 'custom' has no ")
    assert "sparseplan calibrate measurements.csv" in str(error.value)


def test_a_device_without_a_clock_says_so() -> None:
    problem = asked(max_seconds=1.0)
    with pytest.raises(DeviceError, match="time is unknown: device 'custom' has no clock_hz; measure it"):
        solved(replace(problem, device=replace(problem.device, clock_hz=None)))


@pytest.mark.parametrize(("savings", "lacks"), [(("page",), "L2→L3, L3→L2"), (("stream",), "flash→L1")])
def test_rates_that_only_savings_need_are_missed_where_time_is_capped(savings: tuple[str, ...], lacks: str) -> None:
    problem = asked()
    device = with_l3(problem.device)
    near = tuple(r for r in device.dma_rates if {r.source, r.target} <= {"L1", "L2"})
    problem = replace(problem, device=replace(device, dma_rates=near), savings=savings)
    plan = check_accepted(problem, solved(problem, LIMITS))
    assert "time" not in plan.ties
    with pytest.raises(DeviceError, match=f"time is unknown: .* has no dma_bytes_per_cycle for {lacks}; measure it"):
        solved(replace(problem, max_seconds=1.0), LIMITS)


def test_time_is_lowest_among_equals_where_all_rates_are_known() -> None:
    """Of values that are all 0, the best plan updates nothing; a dear op is left alone among equals."""
    plan = solved(asked())
    assert plan.ties["time"] == "OPTIMAL"
    bare = solved(replace(asked(), device=problem_of(small_u(), 1 << 20, alignment=4, l1=2048).device))
    assert bare.ties["macs"] == "OPTIMAL"
    cycles = costs_of(asked(), schedule_of(asked(), bare.update, bare.picks)).cycles
    assert (plan_costs(plan).cycles or 0) <= (cycles or 0)


@pytest.mark.parametrize("bad", [0, -1.0, float("nan"), float("inf"), True, "1 s", 1e15])
@pytest.mark.parametrize("name", ["max_seconds", "max_joules"])
def test_a_cap_that_is_no_number_above_0_is_refused(name: str, bad: object) -> None:
    with pytest.raises(ProblemError) as error:
        asked(**{name: bad})
    assert str(error.value) == f"{name}={bad!r} must be a number above 0"


# -- the verifier ----------------------------------------------------------------------------------------
def test_a_plan_over_its_cap_is_found() -> None:
    problem = asked()
    plan = plan_of(problem, dict.fromkeys(problem.choices, 1.0))
    costs = plan_costs(plan)
    assert costs.seconds is not None
    assert costs.joules is not None
    exact = replace(problem, max_seconds=costs.seconds, max_joules=costs.joules)
    assert verify(exact, plan) == ()
    late = verify(replace(problem, max_seconds=costs.seconds - 1e-6), plan)
    assert [str(v) for v in late] == [f"macs: max_seconds: a run takes {costs.seconds:g}, "
                                      f"max_seconds={costs.seconds - 1e-6:g}"]  # fmt: skip
    hungry = verify(replace(problem, max_joules=costs.joules * 0.999), plan)
    assert [(v.kind, v.where) for v in hungry] == [("macs", "max_joules")]


def test_a_plan_whose_time_is_unknown_is_found() -> None:
    problem = problem_of(small_u(), 1 << 20, alignment=4)
    plan = plan_of(problem, {})
    found = verify(replace(problem, max_seconds=1.0), plan)
    assert [str(v) for v in found] == ["macs: max_seconds: a run takes an unknown time, max_seconds=1"]


def test_a_plan_in_stripes_keeps_its_cap() -> None:
    net = NetworkBuilder("chain")
    x = net.input("image", (2, 16, 8))
    for i in range(3):
        x = net.relu(net.conv(x, 8, 3, 1, 1, name=f"a{i}"), name=f"b{i}")
    network = net.build(net.op("avg_pool", (net.conv(x, 2, 3, 2, 1, name="c"),), kernel=4))
    problem = problem_of(network, 6300, alignment=4, may=("c.*",), must=("c.*",))
    assert problem.device == custom(l2=6300, alignment=4)
    problem = replace(problem, device=complete(problem.device), savings=("recompute", "stripes"), max_seconds=10.0)
    plan = check_accepted(problem, solve_striped(problem, LIMITS))
    assert plan.stripes
    seconds = plan_costs(plan).seconds
    assert seconds is not None
    found = verify(replace(problem, max_seconds=seconds - 1e-6), plan)
    assert [(v.kind, v.where) for v in found] == [("macs", "max_seconds")]
