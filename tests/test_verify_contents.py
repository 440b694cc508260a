"""What bytes hold is what was written to them last; and checks of the verifier that few plans reach."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted import (
    Fault,
    change_arg,
    change_buffer,
    change_value,
    check,
    index_of,
    piece,
    plan_of,
    planned,
    problem_of,
    without_step,
)
from savings import with_savings

from sparseplan.builder import NetworkBuilder
from sparseplan.plan import Plan
from sparseplan.problem import Problem
from sparseplan.recompute import Savings
from sparseplan.steps import Span, Step
from sparseplan.verify import verify
from sparseplan.verify.contents import Content, LevelBytes

writes = st.lists(st.tuples(st.integers(0, 19), st.integers(1, 8), st.integers(-3, 3)), max_size=12)


@given(writes, st.integers(0, 20), st.integers(1, 20))
def test_bytes_hold_what_was_written_last(rows: list[tuple[int, int, int]], lo: int, size: int) -> None:
    level, held = LevelBytes(), {}
    for n, (start, length, base) in enumerate(rows):
        level.write(start, start + length, Content("activation", f"t{n}"), base)
        held.update({at: (Content("activation", f"t{n}"), base) for at in range(start, start + length)})
    at = lo
    for h in level.read(lo, lo + size):
        assert h.lo == at < h.hi
        for byte in range(h.lo, h.hi):
            assert (h.content, h.base if h.content else 0) == held.get(byte, (None, 0))
        at = h.hi
    assert at == lo + size


def test_nothing_is_held_before_anything_is_written() -> None:
    (gap,) = LevelBytes().read(3, 9)
    assert (gap.lo, gap.hi, gap.content) == (3, 9, None)


# -- checks that few plans reach ---------------------------------------------------------------------------
def with_value(like: str, **changes: Any) -> Fault:
    """Another value, like one that there is."""
    return lambda p: replace(p, values=(*p.values, replace(next(v for v in p.values if v.name == like), **changes)))


def test_a_parameter_is_held_once() -> None:
    check(with_value("head.weight", name="again"), "value", "is a second parameter of 'head.weight'")
    check(with_value("acc(head.weight)", name="again"), "value", "is a second accumulator", gradients="accumulate")


@pytest.mark.parametrize("name", ["head.weight", "(target)", "m(head.weight)"])
def test_only_images_are_stored_by_rows(name: str) -> None:
    check(lambda p: change_value(p, name, layout="hcw"), "value", "layout='hcw' of role")


@pytest.mark.parametrize("by", [-1, 1, 4])
def test_a_value_has_the_bytes_of_its_shape(by: int) -> None:
    def fault(plan: Plan) -> Plan:
        v = next(v for v in plan.values if v.name == "head.weight")
        return change_value(plan, "head.weight", bytes=v.bytes + by)

    check(fault, "value", "should be 8")


@pytest.mark.parametrize(("lo", "hi"), [(2, 8), (0, 12), (0, 6), (4, 12)])
def test_a_span_is_all_of_its_value(lo: int, hi: int) -> None:
    spans = (Span("head.weight", lo, hi),)
    check(
        lambda p: change_arg(p, "head.forward", "weight", spans=spans), "step", f"bytes [{lo}, {hi}) of 'head.weight'"
    )


def at_flash(alignment: int, offset: int) -> tuple[Problem, Plan]:
    """Frozen parameters in a flash of that alignment, the first of them moved."""
    problem, plan = planned(partial=True, frozen="flash", alignment=2, l1=None)
    levels = tuple(replace(v, alignment=alignment) if v.name == "flash" else v for v in problem.device.levels)
    problem = replace(problem, device=replace(problem.device, levels=levels))
    at, moved = 0, {}
    for b in plan.buffers:
        if b.level == "flash":
            moved[b.value] = at + (offset if not moved else 0)
            at += -(-b.bytes // 64) * 64 + 64
    buffers = tuple(replace(b, offset=moved.get(b.value, b.offset)) for b in plan.buffers)
    end = max(b.end for b in buffers if b.level == "flash")
    return problem, replace(plan, buffers=buffers, peak_bytes={**plan.peak_bytes, "flash": end})


def test_a_slower_level_has_an_alignment_of_its_own() -> None:
    assert verify(*at_flash(16, 0)) == ()
    assert verify(*at_flash(4, 4)) == ()
    (found,) = verify(*at_flash(16, 4))
    assert found.kind == "alignment"
    assert "no multiple of 16" in str(found)


def test_an_overlap_in_one_step_alone() -> None:
    """A buffer is put where another ends, at the very step before that."""

    def fault(plan: Plan) -> Plan:
        a = piece(plan, "grad(act.out)")
        b = next(b for b in plan.buffers if b.start == a.stop - 1 and b.value != a.value and b.level == a.level)
        return change_buffer(plan, b.value, b.lo, offset=a.offset)

    check(fault, "overlap", "meets buffer grad(act.out)")


def test_an_argument_of_another_type_or_in_more_spans() -> None:
    check(lambda p: change_arg(p, "head.forward", "weight", dtype="fp32"), "step", "dtype=fp32")
    spans = (Span("head.weight", 0, 8), Span("head.weight", 0, 8))
    check(
        lambda p: change_arg(p, "head.forward", "weight", spans=spans), "step", "in 2 spans, which should be those of"
    )


def test_a_level_that_the_device_lacks() -> None:
    def fault(plan: Plan) -> Plan:
        return change_buffer(change_value(plan, "tap.out", level="L3"), "tap.out", level="L3")

    check(fault, "budget", "has no such level")


def with_step(plan: Plan, i: int, step: Step) -> Plan:
    """The plan with another step before the ``i``-th, everything later one step later."""
    buffers = tuple(replace(b, start=b.start + (b.start >= i), stop=b.stop + (b.stop > i)) for b in plan.buffers)
    return replace(plan, steps=(*plan.steps[:i], step, *plan.steps[i:]), buffers=buffers)


def test_a_gradient_step_that_nothing_needs_and_that_writes_nothing() -> None:
    def fault(plan: Plan) -> Plan:
        i = index_of(plan, "sum.grad_x0")
        like = plan.steps[i]
        reads = tuple(a for a in like.reads if a.tag == "dy")
        return with_step(plan, i, replace(like, name="more", target="x1", reads=reads, writes=(), inplace=(), macs=0))

    check(fault, "step", "is not needed: no updated parameter lies upstream", partial=True)


def test_an_output_takes_the_place_of_all_of_what_it_overwrites() -> None:
    """At another place, or over a part of it, it leaves the input without bytes of its own while that is read."""

    def elsewhere(plan: Plan) -> Plan:
        i = index_of(plan, "act.forward")
        assert plan.steps[i].inplace == (("act.out", "join.out"),)
        assert piece(plan, "join.out").stop == i
        return change_buffer(plan, "act.out", offset=9000)

    def over_a_part(plan: Plan) -> Plan:
        return change_buffer(plan, "act.out", offset=piece(plan, "join.out").offset + 4)

    for fault in (elsewhere, over_a_part):
        check(fault, "freed", "act.forward): reads 'x0': bytes from 0 of 'join.out' live in steps")


def test_two_outputs_in_one_place() -> None:
    def fault(plan: Plan) -> Plan:
        y = piece(plan, "tap.out")
        return change_buffer(plan, "mask(tap)", offset=y.offset)

    check(fault, "inplace", "writes both 'tap.out' and 'mask(tap)' to")


def test_what_an_op_writes_over_without_leave() -> None:
    """A convolution's output in the very bytes of its input, which is as large."""

    def fault(plan: Plan) -> Plan:
        return change_buffer(plan, "mid.out", offset=piece(plan, "pool.out").offset)

    check(fault, "inplace", "over 'pool.out' in")


def test_what_persists_is_in_its_new_version_at_the_end() -> None:
    check(lambda p: without_step(p, "update head.weight"), "stale", "'head.weight' after 0 updates, not 1")


def test_packed_parts_hold_the_channels_that_are_needed() -> None:
    """A convolution's input is a concat of 2 and 1 channels in 8 bits; the first part alone serves for two thirds."""
    net = NetworkBuilder("parts")
    image = net.input("image", (2, 4, 4))
    parts = [net.conv(image, c, 1, bias=False, name=n) for n, c in (("a", 2), ("b", 1))]
    network = net.build(net.conv(net.concat(parts, name="cat"), 2, 1, bias=False, name="head"))
    problem = with_savings(problem_of(network, may=("head.weight",)), ("int8",))
    problem = replace(problem, choices={"head.weight": (0.67, 1.0)}, values={"head.weight": {0.67: 2.0, 1.0: 3.0}})

    def first_alone(plan: Plan) -> Plan:
        for tag, shape in (("x0.codes", (1, 2, 4, 4)), ("x0.scales", (1, 2))):
            arg = next(a for a in plan.steps[index_of(plan, "head.grad_weight")].reads if a.tag == tag)
            plan = change_arg(plan, "head.grad_weight", tag, spans=arg.spans[:1], shape=shape)
        return plan

    for fraction, enough in ((0.67, True), (1.0, False)):
        plan = plan_of(problem, {"head.weight": fraction}, None, Savings(packed=frozenset({"head"})))
        assert verify(problem, plan) == ()
        found = [v for v in verify(problem, first_alone(plan)) if v.kind == "saved"]
        assert bool(found) != enough, found
        assert all("do not hold the 3 channels of 'cat.out' that it needs" in str(v) for v in found)
