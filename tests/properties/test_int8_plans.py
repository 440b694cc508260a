"""Plans that save inputs in 8 bits: accepted, executed bit for bit with the codes, and the best by value less price.

Never worse than without, free where the price is 0, worth nothing where it is 1, and equal to trying every update
set with every set of packed inputs.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from planted import problem_of
from savings import AGAIN, graph_of, hourglasses, possible, with_savings

from sparseplan.autodiff import trace
from sparseplan.builder import NetworkBuilder
from sparseplan.liveness import Memory, analyse
from sparseplan.network import Network
from sparseplan.plan import Plan
from sparseplan.problem import Problem
from sparseplan.recompute import Savings, apply
from sparseplan.run import run
from sparseplan.solve.buffers import groups_of
from sparseplan.solve.cpsat import Limits, solve
from sparseplan.solve.place import place
from sparseplan.solve.select import Program
from sparseplan.steps import MAIN, PACKED_CODES, UpdateSet
from sparseplan.testing import check_accepted, check_json, check_runs_within_budget, problems
from sparseplan.testing.optima import with_budget
from sparseplan.testing.peers import Caps, plan_of
from sparseplan.testing.strategies import trainable_networks
from sparseplan.testing.theorems import solved

LIMITS = Limits(10.0)
#: schedules that brute force tries for one problem
MOST = 1500
#: of the dearer properties
FEWER = settings(max_examples=max(1, settings().max_examples // 3))


def packed_of(plan: Plan) -> dict[str, float]:
    """Updated parameters whose gradients read codes, with their fractions."""
    found = [s for s in plan.steps if s.kind == "grad_param" and any(a.tag == PACKED_CODES for a in s.reads)]
    names = {plan.network.op[s.op].params[s.target] for s in found}
    return {p: plan.update[p] for p in names}


def least_peak(problem: Problem) -> int:
    """The fewest live bytes that any allowed decisions take, for drawing budgets."""
    program = Program(problem, graph_of(problem), [])
    _, decisions, bound = program.cheapest(LIMITS)
    return bound if decisions is not None else 0


@st.composite
def packing_problems(
    draw: st.DrawFn, savings: tuple[str, ...] = ("int8",), max_ops: int = 7, max_choices: int | None = None
) -> Problem:
    """Problems with bytes from the fewest that do with savings to those that do without; any price."""
    free = trainable_networks("any" if max_ops < 5 else draw(st.sampled_from(["any", "ushape"])), max_ops)
    problem = draw(problems(st.one_of(hourglasses(max_ops), free), max_choices=max_choices, tight=False))
    if draw(st.integers(0, 2)):
        problem = replace(problem, must={p: r[0] for p, r in problem.choices.items()})
    problem = replace(problem, int8_price=draw(st.sampled_from([0.01, 0.0, 1.0, 0.25, 0.3])))
    saving = with_savings(problem, savings)
    low, high = least_peak(saving), least_peak(problem)
    room = max(1, low + int(draw(st.sampled_from([0.0, 0.3, 0.6, 0.95, 1.1])) * (high - low)))
    return with_budget(saving, room + problem.device.level(MAIN).reserved)


def check_worth(plan: Plan) -> None:
    """The objective is what the update set is worth, less a share of the value of each packed parameter."""
    problem = plan.problem
    prices = [problem.int8_price * abs(problem.values[p][r]) for p, r in packed_of(plan).items()]
    plain = problem.worth(plan.update)
    assert plan.objective == pytest.approx(plain - sum(prices), rel=1e-12, abs=1e-9 * (1 + abs(plain)))


@given(problem=packing_problems(), seed=st.integers(0, 99))
def test_plans_with_packed_inputs_run_within_budget(problem: Problem, seed: int) -> None:
    plan = check_accepted(problem, solved(problem, LIMITS))
    check_json(plan)
    if plan.feasible:
        check_worth(plan)
        report = check_runs_within_budget(plan, seed, samples=1 + seed % 2)
        assert set(report.packed_errors) == set(packed_of(plan))


@FEWER
@given(problem=packing_problems(AGAIN, max_ops=6), seed=st.integers(0, 99))
def test_plans_with_all_savings_run_within_budget(problem: Problem, seed: int) -> None:
    plan = check_accepted(problem, solved(problem, LIMITS))
    check_json(plan)
    if plan.feasible:
        check_worth(plan)
        check_runs_within_budget(plan, seed)


@FEWER
@given(problem=packing_problems())
def test_never_worse_than_without(problem: Problem) -> None:
    plain, plan = solved(with_savings(problem, ()), LIMITS), solved(problem, LIMITS)
    slack = plan.resolution + plain.resolution
    if plain.feasible:
        assert plan.status != "INFEASIBLE"
        assert plan.bound + slack >= plain.objective
        assert plan.status != "OPTIMAL" or plan.objective + slack >= plain.objective


@FEWER
@given(problem=packing_problems(), low=st.sampled_from([0.0, 0.01, 0.3]))
def test_a_lower_price_never_worsens(problem: Problem, low: float) -> None:
    assume(low < problem.int8_price)
    dear, cheap = solved(problem, LIMITS), solved(replace(problem, int8_price=low), LIMITS)
    assert dear.feasible == cheap.feasible
    if dear.status == cheap.status == "OPTIMAL":
        assert cheap.objective + cheap.resolution + dear.resolution >= dear.objective


# -- examples ------------------------------------------------------------------------------------------
def bottle(bias: bool = False) -> Network:
    """Its largest tensor is kept from forward for one parameter alone."""
    net = NetworkBuilder("bottle")
    t = net.conv(net.input("image", (1, 8, 8)), 8, 1, name="a", bias=bias)
    return net.build(net.conv(t, 1, 1, name="b", bias=bias))


def asked(price: float, must: bool, l2: int) -> Problem:
    names = ("a.weight", "b.weight")
    problem = problem_of(bottle(), l2, must=names if must else (), dtype="fp32", gradients="fused")
    return replace(problem, savings=("int8",), int8_price=price)


def fewest(price: float, savings: tuple[str, ...]) -> int:
    """Bytes with everything updated."""
    plan = solved(replace(asked(price, True, 1), savings=savings), LIMITS)
    assert plan.reason is not None
    assert plan.reason.fewest_bytes is not None
    return plan.reason.fewest_bytes


def test_packing_takes_a_quarter_of_the_bytes_of_what_is_held() -> None:
    """At the peak, b's gradient, the hidden tensor lies in codes beside that gradient instead of in fp32."""
    assert fewest(0.1, ("int8",)) < fewest(0.1, ())


@pytest.mark.parametrize("price", [0.0, 0.01, 0.25, 1.0])
def test_a_price_is_paid_for_what_is_packed_and_for_nothing_else(price: float) -> None:
    room = fewest(price, ())
    roomy, tight = (solved(asked(price, True, l2), LIMITS) for l2 in (room, room - 4))
    values = roomy.problem.values
    assert roomy.status == tight.status == "OPTIMAL"
    if price:
        assert not packed_of(roomy)
        assert roomy.objective == sum(v[1.0] for v in values.values())
    assert packed_of(tight)
    check_worth(tight)


def test_at_price_one_an_update_is_packed_only_where_it_must_be_made() -> None:
    room = fewest(1.0, ())
    forced, free = (solved(asked(1.0, must, room - 4), LIMITS) for must in (True, False))
    assert set(forced.update) == {"a.weight", "b.weight"}
    assert packed_of(forced)
    assert free.status == "OPTIMAL"
    assert free.objective > forced.objective
    assert not packed_of(free)
    # half of b's input in fp32
    assert free.update == {"a.weight": 1.0, "b.weight": 0.5}


def test_at_price_zero_packing_loses_no_value() -> None:
    room = fewest(0.0, ("int8",))
    plan = solved(asked(0.0, False, room), LIMITS)
    assert plan.objective == plan.problem.most_worth()
    assert packed_of(plan)
    assert run(plan).bitwise_equal


# -- one parameter, several users ------------------------------------------------------------------------
def shared(price: float) -> Problem:
    """A kernel that two convolutions use."""
    net = NetworkBuilder("shared")
    slots = {"weight": "k"}
    t = net.op("conv", net.input("image", (2, 4, 4)), "a", slots, kernel=3, padding=1, out_channels=2)
    t = net.op("conv", net.op("tanh", t), "b", slots, kernel=3, padding=1, out_channels=2)
    problem = problem_of(net.build(t), alignment=4, must=("k",))
    return replace(problem, savings=("int8",), int8_price=price)


@pytest.mark.parametrize("ops", [("a",), ("b",), ("a", "b")])
def test_a_shared_parameter_pays_once_whichever_of_its_users_reads_codes(ops: tuple[str, ...]) -> None:
    problem = shared(0.25)
    plan = plan_of(problem, {"k": 1.0}, None, Savings(packed=frozenset(ops)))
    assert plan.objective == 0.75 * problem.values["k"][1.0]
    check_accepted(problem, plan)
    assert run(plan).bitwise_equal
    program = Program(problem, graph_of(problem), [])
    model = program.model.clone()
    for op, literal in program.again.packed.items():
        model.add(literal == (op in ops))
    model.add(program.literals.atoms[program.graph.levels["k"].atoms[-1]] == 1)
    model.maximize(program.value)
    assert (solve(model, LIMITS).objective or 0) / program.scale == plan.objective


# -- brute force ----------------------------------------------------------------------------------------
def best_of_all(problem: Problem) -> tuple[float, int] | None:
    """Value less prices, and MACs, of the best decisions that can be placed; the price reckoned here."""
    caps, capacity, names = Caps(problem), problem.capacity(MAIN), list(problem.choices)
    assert capacity is not None
    graph = trace(problem.network, problem.options, problem.choices)
    found: list[tuple[float, int, Memory]] = []
    tried = 0
    for chosen in itertools.product(*((0.0, *problem.choices[p]) for p in names)):
        update = {p: r for p, r in zip(names, chosen, strict=True) if r}
        if not problem.allowed(UpdateSet(update)):
            continue
        there = [p for p in graph.picks if p.when & graph.chosen(UpdateSet(update))]
        for options in itertools.product(*(p.options for p in there)):
            base = graph.restrict(UpdateSet(update), {p.op: o for p, o in zip(there, options, strict=True)})
            may = sorted(possible(problem, base).packed)
            tried += 2 ** len(may)
            assume(tried <= MOST)
            for k in range(len(may) + 1):
                for ops in itertools.combinations(may, k):
                    schedule = apply(base, Savings(packed=frozenset(ops)))
                    memory = analyse(schedule)
                    if memory.peak() > capacity or not caps.respected(update, schedule):
                        continue
                    lost = {problem.network.op[s.op].params[s.target] for s in schedule.steps if s.kind == "grad_param"
                            and any(a.tag == PACKED_CODES for a in s.reads)}  # fmt: skip
                    worth = problem.worth(update)
                    worth -= sum(problem.int8_price * abs(problem.values[p][update[p]]) for p in sorted(lost))
                    found.append((worth, sum(schedule.macs.values()), memory))
    for worth, macs, memory in sorted(found, key=lambda x: (-x[0], x[1])):
        if place(groups_of(memory), capacity, problem.options.alignment).status == "PLACED":
            return worth, macs
    return None


@given(problem=packing_problems(max_ops=4, max_choices=6))
def test_exact_equals_brute_force(problem: Problem) -> None:
    best = best_of_all(problem)
    plan = solved(problem, LIMITS)
    if best is None:
        assert not plan.feasible
        return
    worth, _ = best
    slack = plan.resolution + 1e-9 * (1 + abs(worth))
    assert plan.status != "INFEASIBLE"
    assert plan.bound + slack >= worth >= plan.objective - slack
    assert plan.status != "OPTIMAL" or plan.objective + slack >= worth
