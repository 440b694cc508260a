"""The verifier accepts plans that pack inputs and have values at slower levels, and finds faults planted in them."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
from planted import (
    Fault,
    change_arg,
    change_buffer,
    change_step,
    change_value,
    index_of,
    piece,
    problem_of,
    swapped,
    without_step,
)
from savings import possible, with_savings

from sparseplan.autodiff import trace
from sparseplan.builder import NetworkBuilder
from sparseplan.network import Network
from sparseplan.plan import Plan
from sparseplan.problem import Problem
from sparseplan.recompute import Savings
from sparseplan.run import run
from sparseplan.steps import PACKED_CODES, PACKED_SCALES, UpdateSet
from sparseplan.testing.peers import plan_of
from sparseplan.verify import verify


def line() -> Network:
    """Three convolutions in a row, on images of one size."""
    net = NetworkBuilder("line")
    t = net.conv(net.input("image", (2, 4, 4)), 2, 1, name="a", bias=False)
    t = net.conv(t, 2, 1, name="b", bias=True)
    return net.build(net.conv(t, 1, 1, name="c", bias=False))


def found(problem: Problem, plan: Plan, fault: Fault, kind: str, mentions: str) -> None:
    """A fault is found where there was silence before, and named."""
    assert verify(problem, plan) == ()
    violations = verify(problem, fault(plan))
    assert any(v.kind == kind and mentions in str(v) for v in violations), [str(v) for v in violations]


# -- packed inputs ---------------------------------------------------------------------------------------
@cache
def packed() -> tuple[Problem, Plan]:
    """Inputs of all three in 8 bits, at a quarter of the value."""
    problem = replace(with_savings(problem_of(line(), alignment=4), ("int8",)), int8_price=0.25)
    plan = plan_of(problem, dict.fromkeys(problem.choices, 1.0), None, Savings(packed=frozenset("abc")))
    return problem, plan


def check_packed(fault: Fault, kind: str, mentions: str) -> None:
    found(*packed(), fault, kind, mentions)


def test_plans_that_pack_are_accepted_and_run() -> None:
    problem, plan = packed()
    assert [s.name for s in plan.steps if s.kind == "pack"] == ["pack image", "pack a.out", "pack b.out"]
    assert verify(problem, plan) == ()
    assert run(plan).bitwise_equal


def test_codes_read_before_they_are_made() -> None:
    """b's gradient comes before its input is packed."""
    check_packed(lambda p: swapped(p, "pack a.out", "b.grad_weight"), "unwritten", "a.out codes")


def test_codes_that_are_never_made() -> None:
    check_packed(lambda p: without_step(p, "pack a.out"), "unwritten", "'a.out codes'")


def test_codes_of_another_tensor() -> None:
    def fault(plan: Plan) -> Plan:
        spans = plan.steps[index_of(plan, "a.grad_weight")].reads
        codes = next(a for a in spans if a.tag == PACKED_CODES)
        return change_arg(plan, "b.grad_weight", PACKED_CODES, spans=codes.spans)

    check_packed(fault, "step", "reads 'x0.codes' in 'image codes', which is not packed 'a.out'")


def test_scales_of_another_tensor() -> None:
    def fault(plan: Plan) -> Plan:
        scales = next(a for a in plan.steps[index_of(plan, "a.grad_weight")].reads if a.tag == PACKED_SCALES)
        return change_arg(plan, "b.grad_weight", PACKED_SCALES, spans=scales.spans)

    check_packed(fault, "step", "reads 'x0.scales' in 'image scales', which is not packed 'a.out'")


def test_scales_read_as_codes() -> None:
    def fault(plan: Plan) -> Plan:
        scales = next(a for a in plan.steps[index_of(plan, "b.grad_weight")].reads if a.tag == PACKED_SCALES)
        return change_arg(plan, "b.grad_weight", PACKED_CODES, spans=scales.spans)

    check_packed(fault, "step", "reads 'x0.codes' in bytes [0, 8) of 'a.out scales'")


@pytest.mark.parametrize("tag", [PACKED_CODES, PACKED_SCALES])
def test_codes_or_scales_that_are_not_read(tag: str) -> None:
    def fault(plan: Plan) -> Plan:
        step = plan.steps[index_of(plan, "b.grad_weight")]
        return change_step(plan, "b.grad_weight", reads=tuple(a for a in step.reads if a.tag != tag))

    kind, name = ("step", "'x0.scales'") if tag == PACKED_SCALES else ("saved", "'x0'")
    check_packed(fault, kind, name)


def test_scales_that_are_not_written() -> None:
    def fault(plan: Plan) -> Plan:
        step = plan.steps[index_of(plan, "pack a.out")]
        return change_step(plan, "pack a.out", writes=step.writes[:1])

    check_packed(fault, "step", "writes no 'x0.scales'")


def test_codes_freed_before_their_reader() -> None:
    check_packed(lambda p: change_buffer(p, "a.out codes", stop=index_of(p, "b.grad_weight")), "freed", "a.out codes")


def test_codes_over_other_codes() -> None:
    check_packed(
        lambda p: change_buffer(p, "a.out codes", offset=piece(p, "image codes").offset), "overlap", "a.out codes"
    )


def test_packing_what_was_freed() -> None:
    check_packed(lambda p: change_buffer(p, "a.out", stop=index_of(p, "pack a.out")), "freed", "a.out")


def test_packing_into_other_codes() -> None:
    def fault(plan: Plan) -> Plan:
        return change_arg(
            plan, "pack a.out", PACKED_CODES, writes=True,
            spans=plan.steps[index_of(plan, "pack image")].writes[0].spans,
        )  # fmt: skip

    check_packed(fault, "step", "writes 'x0.codes' in 'image codes', which is not packed 'a.out'")


@pytest.mark.parametrize("op", ["a.weight", "nothing"])
def test_packing_of_what_is_no_activation(op: str) -> None:
    check_packed(lambda p: change_step(p, "pack a.out", op=op), "step", "is no activation with bytes of its own")


def test_codes_of_another_type_or_size() -> None:
    check_packed(lambda p: change_value(p, "a.out codes", dtype="int8"), "value", "dtype=int8")
    check_packed(lambda p: change_value(p, "a.out codes", bytes=16), "value", "bytes=16 should be 32")
    check_packed(lambda p: change_value(p, "a.out scales", shape=(1, 1), bytes=4), "value", "shape=(1, 1)")
    check_packed(lambda p: change_value(p, "a.out codes", level="L3"), "value", "level=L3")


def test_both_the_input_and_its_codes() -> None:
    def fault(plan: Plan) -> Plan:
        step = plan.steps[index_of(plan, "b.grad_weight")]
        whole = plan.steps[index_of(plan, "pack a.out")].reads[0]
        return change_step(plan, "b.grad_weight", reads=(*step.reads, whole))

    check_packed(fault, "step", "reads 'x0', which it must not")


def test_codes_where_the_problem_does_not_allow_them() -> None:
    problem, plan = packed()
    violations = verify(replace(problem, savings=("recompute",)), plan)
    told = [str(v) for v in violations if v.kind == "decision"]
    assert told[0].endswith("kind=pack, but the problem's savings are ['recompute']")
    assert len(told) == 3
    # the values that hold them are nothing that this problem has
    assert any(v.kind == "value" and "a.out codes" in v.where for v in violations)


def test_a_price_that_is_not_paid() -> None:
    problem, plan = packed()
    whole = sum(v[1.0] for v in problem.values.values())
    weights = sum(v[1.0] for p, v in problem.values.items() if p.endswith("weight"))
    assert plan.objective == whole - 0.25 * weights
    said = f"objective={whole!r}, but the update set is worth {whole - 0.25 * weights!r}"
    check_packed(lambda p: replace(p, objective=whole, bound=whole), "objective", said)


def test_a_price_that_is_paid_for_nothing() -> None:
    problem, plan = packed()
    plain = plan_of(problem, dict.fromkeys(problem.choices, 1.0))
    cheap = replace(plain, objective=plan.objective)
    assert verify(problem, plain) == ()
    assert [v.kind for v in verify(problem, cheap)] == ["objective"]


def test_the_price_is_the_problem_s() -> None:
    problem, plan = packed()
    assert [v.kind for v in verify(replace(problem, int8_price=0.5), plan)] == ["objective"]


# -- slower levels ---------------------------------------------------------------------------------------
@cache
def away() -> tuple[Problem, Plan]:
    """Accumulators and states at L3; the frozen kernel of ``a`` in flash."""
    problem = with_savings(problem_of(line(), alignment=4, optimizer="momentum", gradients="accumulate"),
                           ("page", "stream"))  # fmt: skip
    update = {p: 1.0 for p in problem.choices if p != "a.weight"}
    graph = trace(problem.network, problem.options, problem.choices)
    plan = plan_of(problem, update, None, Savings(moved=possible(problem, graph.restrict(UpdateSet(update))).moved))
    return problem, plan


def check_away(fault: Fault, kind: str, mentions: str) -> None:
    found(*away(), fault, kind, mentions)


def at(plan: Plan, name: str, level: str) -> Plan:
    """The plan with a value and its buffers at another level, where nothing else lies."""
    end = max((b.offset + b.bytes for b in plan.buffers if b.level == level), default=0)
    own = sorted((b for b in plan.buffers if b.value == name), key=lambda b: b.lo)
    end += -end % 64
    plan = change_value(plan, name, level=level)
    buffers = tuple(replace(b, level=level, offset=end + b.lo) if b in own else b for b in plan.buffers)
    ends = {v: max(b.offset + b.bytes for b in buffers if b.level == v) for v in {b.level for b in buffers}}
    return replace(plan, buffers=buffers, peak_bytes=ends, lower_bound_bytes={**plan.lower_bound_bytes, **ends})


def test_what_lives_away_is_accepted_and_run() -> None:
    problem, plan = away()
    homes = {v.name: v.level for v in plan.values if v.persistent}
    assert homes["a.weight"] == "flash"
    assert homes["b.weight"] == "L2"
    assert {level for name, level in homes.items() if name.startswith("acc")} == {"L3"}
    assert verify(problem, plan) == ()
    report = run(plan, samples=2)
    assert report.bitwise_equal
    assert report.claimed_bytes == report.touched_bytes


@pytest.mark.parametrize("name", ["acc(b.weight)", "acc(c.weight)"])
def test_accumulators_that_lie_in_flash(name: str) -> None:
    check_away(lambda p: at(p, name, "flash"), "value", "level=flash")


def test_optimizer_state_that_lies_in_flash() -> None:
    state = next(v.name for v in away()[1].values if v.role == "state")
    check_away(lambda p: at(p, state, "flash"), "value", "level=flash")


@pytest.mark.parametrize("level", ["flash", "L3"])
def test_updated_parameters_that_lie_elsewhere(level: str) -> None:
    check_away(lambda p: at(p, "b.weight", level), "value", f"level={level}")


def test_activations_and_gradients_that_lie_elsewhere() -> None:
    check_away(lambda p: at(p, "a.out", "L3"), "step", "'a.out' in L3, which should be L2")
    check_away(lambda p: at(p, "grad(b.out)", "L3"), "value", "level=L3")


def test_frozen_parameters_at_l3_where_they_stream_from_flash() -> None:
    """The device has a flash, so L3 is no place to stream from."""
    check_away(lambda p: at(p, "a.weight", "L3"), "value", "level=L3")


@pytest.mark.parametrize(
    ("savings", "refused"),
    [((), {"a.weight", "acc(b.weight)"}), (("page",), {"a.weight"}), (("stream",), {"acc(b.weight)"})],
)  # fmt: skip
def test_what_lives_away_where_the_problem_does_not_allow_it(savings: tuple[str, ...], refused: set[str]) -> None:
    problem, plan = away()
    told = {
        v.where.removeprefix("value ") for v in verify(replace(problem, savings=savings), plan) if v.kind == "value"
    }
    assert refused <= told
    assert ("a.weight" in told) == ("stream" not in savings)
    assert ("acc(b.weight)" in told) == ("page" not in savings)


@pytest.mark.parametrize("level", ["flash", "L3"])
def test_levels_that_hold_more_than_they_have(level: str) -> None:
    problem, plan = away()
    peak = plan.peak_bytes[level]

    def room(size: int) -> Problem:
        levels = tuple(replace(v, bytes=size) if v.name == level else v for v in problem.device.levels)
        return replace(problem, device=replace(problem.device, levels=levels))

    assert verify(room(peak), plan) == ()
    assert [str(v) for v in verify(room(peak - 1), plan)] == [
        f"budget: level {level}: takes {peak} of {peak - 1} bytes"
    ]


def test_two_values_in_the_same_bytes_of_a_slower_level() -> None:
    check_away(
        lambda p: change_buffer(p, "acc(c.weight)", offset=piece(p, "acc(b.weight)").offset), "overlap", "acc(c.weight)"
    )


def test_accumulators_that_do_not_live_throughout() -> None:
    check_away(lambda p: change_buffer(p, "acc(b.weight)", stop=3), "lifetime", "persistent")
