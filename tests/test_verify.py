"""The verifier accepts right plans silently, and finds faults planted in memory, time, contents and steps."""

from __future__ import annotations

from dataclasses import replace

import pytest
from planted import (
    Fault,
    change_arg,
    change_buffer,
    change_step,
    check,
    found,
    index_of,
    piece,
    plan_of,
    planned,
    swapped,
    without_step,
)

from sparseplan.plan import PlacedBuffer, Plan
from sparseplan.steps import Arg, Span, Value
from sparseplan.verify import verify


# -- accepted ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
@pytest.mark.parametrize("gradients", ["fused", "accumulate"])
@pytest.mark.parametrize("frozen", ["L2", "flash"])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("concat", ["split", "adjoin"])
@pytest.mark.parametrize("partial", [False, True])
def test_right_plans_are_accepted(
    optimizer: str, gradients: str, frozen: str, batch: int, concat: str, partial: bool
) -> None:
    problem, plan = planned(
        partial, optimizer=optimizer, gradients=gradients, frozen=frozen, batch=batch, concat=concat
    )
    assert verify(problem, plan) == ()


def test_nothing_updated_is_a_plan_too() -> None:
    problem, _ = planned()
    assert verify(problem, plan_of(problem, {})) == ()


# -- planted faults: memory ---------------------------------------------------------------------------
def shifted(value: str, by: int, lo: int | None = None) -> Fault:
    """All buffers of a value (or one piece) moved."""

    def fault(plan: Plan) -> Plan:
        for b in plan.buffers:
            if b.value == value and lo in (None, b.lo):
                plan = change_buffer(plan, value, b.lo, offset=b.offset + by)
        return plan

    return fault


def test_overlap_in_space_and_time() -> None:
    check(lambda p: change_buffer(p, "mask(tap)", offset=piece(p, "stem.weight").offset), "overlap", "stem.weight")


def test_overlap_by_one_byte_only() -> None:
    problem, plan = planned(alignment=1, optimizer="sgd", l1=None)
    assert verify(problem, plan) == ()
    offset = piece(plan, "stem.bias").offset
    moved = change_buffer(plan, "stem.bias", offset=offset - 1)
    assert "overlap" in found(problem, moved)


def test_the_same_bytes_at_other_times_are_no_overlap() -> None:
    _, plan = planned()
    pairs = [(a, b) for a in plan.buffers for b in plan.buffers if a.value < b.value]
    assert any(a.offset < b.end and b.offset < a.end for a, b in pairs)


@pytest.mark.parametrize("by", [-1, 1])
def test_wrong_peak(by: int) -> None:
    check(lambda p: replace(p, peak_bytes={**p.peak_bytes, "L2": p.peak_bytes["L2"] + by}), "peak", "L2")


def test_missing_peak() -> None:
    check(lambda p: replace(p, peak_bytes={"L1": p.peak_bytes["L1"]}), "peak", "L2")


def test_peak_of_a_level_without_buffers() -> None:
    check(lambda p: replace(p, peak_bytes={**p.peak_bytes, "L3": 4}), "peak", "L3")


def test_lower_bound_below_the_live_bytes() -> None:
    check(
        lambda p: replace(p, lower_bound_bytes={**p.lower_bound_bytes, "L2": max(p.bytes_at()) - 1}),
        "peak", f"{max(planned()[1].bytes_at())} are live",
    )  # fmt: skip


def test_lower_bound_above_the_peak() -> None:
    check(
        lambda p: replace(p, lower_bound_bytes={**p.lower_bound_bytes, "L2": p.peak_bytes["L2"] + 1}),
        "peak", "lower_bound_bytes",
    )  # fmt: skip


def test_a_budget_broken_by_one_byte() -> None:
    problem, plan = planned()
    peak = plan.peak_bytes["L2"]
    level = problem.device.level("L2")
    for size, broken in ((peak, False), (peak - 1, True)):
        device = replace(problem.device, levels=tuple(
            replace(n, bytes=size) if n == level else n for n in problem.device.levels))  # fmt: skip
        assert found(replace(problem, device=device), plan) == ({"budget"} if broken else set())


def test_reserved_bytes_count_against_the_budget() -> None:
    problem, plan = planned()
    levels = tuple(
        replace(n, bytes=plan.peak_bytes["L2"] + 9, reserved=10) if n.name == "L2" else n for n in problem.device.levels
    )
    assert found(replace(problem, device=replace(problem.device, levels=levels)), plan) == {"budget"}


def test_offset_off_the_alignment() -> None:
    check(shifted("m(stem.weight)", 2), "alignment", "m(stem.weight)")


def test_size_off_the_alignment() -> None:
    check(lambda p: change_buffer(p, "mask(tap)", bytes=18), "alignment", "mask(tap)")


def test_pieces_that_do_not_adjoin() -> None:
    check(shifted("tap.out", 4000, lo=144), "alignment", "adjoin")


def test_parts_of_a_concat_that_do_not_adjoin() -> None:
    check(shifted("up.out", 8000), "stale", "adjoin", concat="adjoin")


def test_parts_of_a_concat_may_lie_anywhere_where_kernels_take_that() -> None:
    problem, plan = planned()
    moved = shifted("up.out", 8000)(plan)
    assert found(problem, moved) == {"peak"}  # which was not adapted


def test_buffer_removed() -> None:
    check(lambda p: change_buffer(p, "mask(low)", drop=True), "unplaced", "mask(low)")


def test_piece_removed() -> None:
    check(lambda p: change_buffer(p, "tap.out", 144, drop=True), "unplaced", "tap.out")


def test_buffer_of_nothing() -> None:
    check(lambda p: change_buffer(p, "mask(low)", value="ghost"), "value", "ghost")


def test_buffer_larger_than_its_value() -> None:
    check(lambda p: change_buffer(p, "m(stem.weight)", bytes=148), "value", "ends at byte 148")


def test_buffer_at_another_level() -> None:
    check(lambda p: change_buffer(p, "mask(low)", level="flash"), "value", "mask(low)")


# -- planted faults: time -------------------------------------------------------------------------------
def test_read_after_freed() -> None:
    def fault(plan: Plan) -> Plan:
        return change_buffer(plan, "mask(tap)", stop=piece(plan, "mask(tap)").stop - 1)

    check(fault, "freed", "mask(tap)")


def test_tail_read_after_freed() -> None:
    check(lambda p: change_buffer(p, "tap.out", 144, stop=8), "freed", "tap.out")


def test_written_before_it_lives() -> None:
    check(lambda p: change_buffer(p, "mask(tap)", start=2), "lifetime", "mask(tap)")


def test_input_that_arrives_too_late() -> None:
    check(lambda p: change_buffer(p, "image", start=1), "unwritten", "image")


def test_persistent_bytes_given_away() -> None:
    check(lambda p: change_buffer(p, "m(stem.weight)", start=1), "lifetime", "m(stem.weight)")


def test_lives_beyond_the_end() -> None:
    check(lambda p: change_buffer(p, "grad(stem.weight)", stop=len(p.steps) + 1), "lifetime", "grad(stem.weight)")


def test_read_before_written() -> None:
    check(lambda p: swapped(p, "pool.forward", "tap.forward"), "unwritten", "tap.out")


def test_read_before_written_though_it_lives() -> None:
    def fault(plan: Plan) -> Plan:
        at = index_of(plan, "head.grad_weight")
        plan = change_buffer(plan, "grad(head.weight)", start=at - 1)
        plan = change_buffer(plan, "(target)", offset=9000)
        plan = change_buffer(plan, "grad(head.bias)", offset=9004)
        return swapped(plan, "update head.weight", "head.grad_weight")

    check(fault, "unwritten", "grad(head.weight)")


# -- planted faults: contents ---------------------------------------------------------------------------
def test_saved_tensor_that_is_not_read() -> None:
    check(lambda p: change_arg(p, "tap.grad_x0", "mask", drop=True), "saved", "mask")


def test_saved_input_that_is_not_read() -> None:
    check(lambda p: change_arg(p, "mid.grad_weight", "x0", drop=True), "saved", "x0")


def test_saved_tensor_that_is_not_written() -> None:
    check(lambda p: change_arg(p, "tap.forward", "mask", writes=True, drop=True), "unwritten", "mask(tap)")


def test_saved_tensor_that_nothing_reads() -> None:
    problem, plan = planned(partial=True)
    assert verify(problem, plan) == ()
    shape = (1, 4, 6, 6)
    wrote = Arg("mask", shape, "bit", (Span("mask(tap)", 0, 20),))
    step = plan.steps[index_of(plan, "tap.forward")]
    changed = change_step(plan, "tap.forward", writes=(*step.writes, wrote))
    changed = replace(
        changed,
        values=(*plan.values, Value("mask(tap)", "auxiliary", shape, "bit", 18, "tap")),
        buffers=(*plan.buffers, PlacedBuffer("mask(tap)", 0, 20, 1, 2, "L2", plan.peak_bytes["L2"])),
    )
    assert any(v.kind == "step" and "no step reads" in v.message for v in verify(problem, changed))


def test_saved_tensor_overwritten_before_it_is_read() -> None:
    """In the bytes of something else for a while, with lifetimes that hide it from the overlap check."""
    problem, plan = planned()
    mask, other = piece(plan, "mask(tap)"), piece(plan, "grad(up.weight)")
    broken = replace(plan, buffers=(
        *(b for b in plan.buffers if b.value != "mask(tap)"),
        replace(mask, offset=other.offset, stop=other.start), replace(mask, offset=other.offset, start=other.stop),
    ))  # fmt: skip
    assert verify(problem, plan) == ()
    assert any(v.kind == "freed" and "mask(tap)" in v.message for v in verify(problem, broken))


def test_an_early_tail_is_not_read_as_saved() -> None:
    """A quarter of the channels was kept; the step claims to read half."""

    def fault(plan: Plan) -> Plan:
        return change_arg(plan, "join.grad_weight", "x0", shape=(1, 4, 6, 6), spans=(Span("tap.out", 0, 288),))

    check(fault, "step", "join.grad_weight")


def test_fewer_channels_than_are_updated() -> None:
    def fault(plan: Plan) -> Plan:
        return change_arg(plan, "join.grad_weight", "x0", spans=(Span("tap.out", 0, 72),))

    check(fault, "step", "[0, 72)")


def test_parameter_updated_before_the_input_gradient_reads_it() -> None:
    check(lambda p: swapped(p, "head.grad_x0", "update head.weight"), "stale", "version 1, not 0")


def test_gradient_read_before_it_is_complete() -> None:
    check(lambda p: swapped(p, "pool.grad_x0", "tap.grad_x0"), "stale", "without pool.x0")


def test_gradient_term_missing() -> None:
    check(lambda p: without_step(p, "pool.grad_x0"), "stale", "without pool.x0")


def test_gradient_overwritten_instead_of_added_to() -> None:
    def fault(plan: Plan) -> Plan:
        plan = change_arg(plan, "pool.grad_x0", "dx", drop=True)
        return change_arg(plan, "pool.grad_x0", "dx", writes=True, add=False)

    check(fault, "stale", "1 of 3 terms")


def test_gradient_added_to_nothing() -> None:
    def fault(plan: Plan) -> Plan:
        plan = change_step(plan, "sum.grad_x1", inplace=())
        plan = change_buffer(plan, "grad(sum.out)", stop=index_of(plan, "sum.grad_x1") + 1)
        plan = change_buffer(plan, "grad(tap.out)", offset=9000)
        return change_arg(plan, "sum.grad_x1", "dx", writes=True, add=True)

    check(fault, "unwritten", "grad(tap.out)")


def test_gradient_added_twice() -> None:
    def fault(plan: Plan) -> Plan:
        i = index_of(plan, "pool.grad_x0")
        steps = (*plan.steps[: i + 1], plan.steps[i], *plan.steps[i + 1 :])
        buffers = tuple(replace(b, start=b.start + (b.start > i), stop=b.stop + (b.stop > i)) for b in plan.buffers)
        return replace(plan, steps=steps, buffers=buffers)

    check(fault, "stale", "what was added before")


def test_two_tensors_mixed_up() -> None:
    """Equal in shape and size, wrong in content."""

    def fault(plan: Plan) -> Plan:
        spans = plan.steps[index_of(plan, "sum.forward")].reads[0].spans
        return change_arg(plan, "sum.forward", "x1", spans=spans)

    check(fault, "step", "which is not activation 'tap.out'")


# -- planted faults: in place ---------------------------------------------------------------------------
def test_in_place_where_the_op_does_not_allow_it() -> None:
    """A convolution over its own input."""

    def fault(plan: Plan) -> Plan:
        i = index_of(plan, "stem.forward")
        plan = change_buffer(plan, "image", stop=i + 1, offset=9000)
        return change_buffer(plan, "stem.out", offset=9000)

    check(fault, "inplace", "image")


def test_in_place_that_is_claimed_where_the_op_does_not_allow_it() -> None:
    check(lambda p: change_step(p, "mid.forward", inplace=(("mid.out", "pool.out"),)), "inplace", "mid.out")


def test_in_place_that_is_not_claimed() -> None:
    check(lambda p: change_step(p, "tap.forward", inplace=()), "freed", "stem.out")


def test_in_place_over_what_is_read_later() -> None:
    def fault(plan: Plan) -> Plan:
        i = index_of(plan, "sum.forward")
        plan = change_buffer(plan, "tap.out", 144, stop=i)
        plan = change_buffer(plan, "tap.out", 0, stop=i)
        plan = change_buffer(plan, "act.out", stop=i + 1)
        return change_buffer(plan, "sum.out", offset=piece(plan, "tap.out").offset)

    check(fault, "freed", "tap.out")


def test_in_place_at_a_shift() -> None:
    def fault(plan: Plan) -> Plan:
        plan = change_buffer(plan, "stem.out", offset=9000)
        plan = change_buffer(plan, "tap.out", 0, offset=9004)
        return change_buffer(plan, "tap.out", 144, offset=9148)

    check(fault, "freed", "stem.out")


def test_input_gradient_over_a_saved_mask() -> None:
    def fault(plan: Plan) -> Plan:
        return change_step(plan, "tap.grad_x0", inplace=(("grad(stem.out)", "mask(tap)"),))

    check(fault, "inplace", "mask(tap)")


# -- planted faults: steps --------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "name",
    ["tap.forward", "up.forward", "loss", "join.grad_bias", "join.grad_weight", "update join.weight",
     "update join.bias", "head.grad_x0", "sum.grad_x1", "tap.grad_x0"],
)  # fmt: skip
def test_missing_step(name: str) -> None:
    check(lambda p: without_step(p, name), "step", "is missing")


@pytest.mark.parametrize("name", ["loss", "join.grad_weight", "update join.weight"])
def test_repeated_step(name: str) -> None:
    def fault(plan: Plan) -> Plan:
        return replace(plan, steps=(*plan.steps, plan.steps[index_of(plan, name)]))

    check(fault, "step", "is repeated")


def test_frozen_parameter_updated() -> None:
    whole = planned()[1]

    def fault(plan: Plan) -> Plan:
        return replace(plan, steps=(*plan.steps, whole.steps[index_of(whole, "update stem.bias")]))

    check(fault, "step", "what is frozen changes", partial=True)


def test_gradient_towards_a_frozen_branch() -> None:
    whole = planned()[1]

    def fault(plan: Plan) -> Plan:
        return replace(plan, steps=(*plan.steps, whole.steps[index_of(whole, "up.grad_x0")]))

    check(fault, "step", "not needed", partial=True)


def test_unknown_op() -> None:
    check(lambda p: change_step(p, "mid.forward", op="ghost"), "step", "ghost")


def test_step_of_another_op() -> None:
    check(lambda p: change_step(p, "mid.forward", op="up"), "step", "mid")


def test_wrong_kept_units() -> None:
    check(lambda p: change_step(p, "join.grad_weight", keep=3), "step", "keep=3")


def test_updates_of_accumulated_gradients_before_the_end() -> None:
    def fault(plan: Plan) -> Plan:
        i = index_of(plan, "update head.bias")
        j = index_of(plan, "stem.grad_weight")
        steps = list(plan.steps)
        steps.insert(j, steps.pop(i))
        return replace(plan, steps=tuple(steps))

    check(fault, "step", "accumulated", gradients="accumulate")


def test_argument_of_another_shape() -> None:
    check(lambda p: change_arg(p, "mid.forward", "x0", shape=(1, 4, 9)), "step", "(1, 4, 9)")


def test_wrong_channels() -> None:
    problem, plan = planned()
    step = plan.steps[index_of(plan, "join.grad_x0")]
    first, second = step.writes
    writes = (replace(first, channels=second.channels), replace(second, channels=first.channels))
    assert "step" in found(problem, change_step(plan, "join.grad_x0", writes=writes))
