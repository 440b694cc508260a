"""The verifier accepts right plans silently, and finds each planted fault."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from planted import (
    change_arg,
    change_buffer,
    change_step,
    change_value,
    index_of,
    plan_of,
    problem_of,
    small_u,
    swapped,
    without_step,
)

from sparseplan.builder import NetworkBuilder
from sparseplan.plan import Infeasibility, PlacedBuffer, Plan
from sparseplan.problem import Problem
from sparseplan.steps import Arg, Span, Step, Value
from sparseplan.verify import Violation, verify

Fault = Callable[[Plan], Plan]


@cache
def planned(partial: bool = False, **options: Any) -> tuple[Problem, Plan]:
    """Everything in ``small_u`` updated, ``join.weight`` by a quarter; ``partial``: decoder alone."""
    settings = {"alignment": 4, "l1": 2048, "optimizer": "momentum", **options}
    problem = problem_of(small_u(), **settings)
    update = {p: 1.0 for p in problem.choices if not partial or p.startswith(("join", "head"))}
    update["join.weight"] = 0.25
    return problem, plan_of(problem, update)


def found(problem: Problem, plan: Plan) -> set[str]:
    return {v.kind for v in verify(problem, plan)}


def piece(plan: Plan, value: str, lo: int = 0) -> PlacedBuffer:
    return next(b for b in plan.buffers if b.value == value and b.lo == lo)


def check(fault: Fault, kind: str, mentions: str, **options: Any) -> None:
    """A fault is found where there was silence before, and named."""
    problem, plan = planned(**options)
    assert verify(problem, plan) == ()
    violations = verify(problem, fault(plan))
    assert any(v.kind == kind and mentions in str(v) for v in violations), [str(v) for v in violations]


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


# -- planted faults: values and figures -----------------------------------------------------------------
@pytest.mark.parametrize(
    "changes",
    [{"bytes": 16}, {"dtype": "u8"}, {"shape": (1, 144)}, {"persistent": True}, {"level": "L1"}, {"tensor": "stem"},
     {"role": "gradient"}],
)  # fmt: skip
def test_value_miscounted(changes: dict[str, Any]) -> None:
    check(lambda p: change_value(p, "mask(tap)", **changes), "value", "mask(tap)")


def test_updated_parameter_in_flash() -> None:
    check(lambda p: change_value(p, "join.weight", level="flash"), "value", "join.weight", frozen="flash")


def test_frozen_parameter_in_the_wrong_level() -> None:
    check(lambda p: change_value(p, "stem.weight", level="L2"), "value", "stem.weight", partial=True, frozen="flash")


def test_value_removed() -> None:
    check(lambda p: replace(p, values=tuple(v for v in p.values if v.name != "mask(tap)")), "step", "mask(tap)")


def test_value_declared_twice() -> None:
    check(lambda p: replace(p, values=(*p.values, p.values[0])), "value", "twice")


def test_objective_miscounted_by_one_ulp() -> None:
    check(lambda p: replace(p, objective=math.nextafter(p.objective, 0)), "objective", "worth")


def test_bound_below_the_objective() -> None:
    check(lambda p: replace(p, bound=math.nextafter(p.objective, 0)), "objective", "bound")


@pytest.mark.parametrize("bound", [math.nan, -math.inf])
def test_bound_that_is_none(bound: float) -> None:
    check(lambda p: replace(p, bound=bound), "objective", "bound")


def test_optimal_without_proof() -> None:
    check(lambda p: replace(p, status="OPTIMAL"), "status", "OPTIMAL")
    problem, plan = planned()
    assert verify(problem, replace(plan, status="OPTIMAL", bound=plan.objective)) == ()
    near = replace(plan, status="OPTIMAL", bound=plan.objective + 1, resolution=1.0)
    assert verify(problem, near) == ()


def test_fraction_that_is_not_allowed() -> None:
    check(lambda p: replace(p, update={**p.update, "join.weight": 0.3}), "decision", "0.3")


def test_unknown_parameter_updated() -> None:
    check(lambda p: replace(p, update={**p.update, "ghost": 1.0}), "decision", "ghost")


def test_update_that_the_schedule_does_not_make() -> None:
    check(lambda p: replace(p, update={**p.update, "stem.weight": 1.0}), "step", "stem", partial=True)


def test_must_not_followed() -> None:
    network = small_u()
    free = problem_of(network)
    plan = plan_of(free, {"head.bias": 1.0})
    assert verify(free, plan) == ()
    assert "decision" in found(problem_of(network, must=("head.*",)), plan)


def test_pick_that_the_schedule_does_not_make() -> None:
    check(lambda p: replace(p, picks={**p.picks, "tap": "y"}), "decision", "pick")


@pytest.mark.parametrize("part", ["forward", "backward"])
@pytest.mark.parametrize("by", [-1, 1])
def test_macs_miscounted(part: str, by: int) -> None:
    check(lambda p: replace(p, macs={**p.macs, part: p.macs[part] + by}), "macs", str(planned()[1].macs[part]))


@pytest.mark.parametrize("name", ["mid.forward", "join.grad_weight", "join.grad_x0"])
def test_macs_of_a_step_miscounted(name: str) -> None:
    def fault(plan: Plan) -> Plan:
        step = plan.steps[index_of(plan, name)]
        part = "forward" if step.kind == "forward" else "backward"
        plan = replace(plan, macs={**plan.macs, part: plan.macs[part] - 1})
        return change_step(plan, name, macs=step.macs - 1)

    check(fault, "macs", name)


def test_macs_cap_broken_by_one() -> None:
    problem, plan = planned()
    total = sum(plan.macs.values())
    assert found(replace(problem, max_macs=total), plan) == set()
    assert found(replace(problem, max_macs=total - 1), plan) == {"macs"}


def test_partial_gradients_count_their_channels() -> None:
    """Of join's input gradient only ``up``'s half flows when nothing but up is updated upstream."""
    problem = problem_of(small_u(), alignment=4)
    plan = plan_of(problem, {"up.bias": 1.0})
    step = plan.steps[index_of(plan, "join.grad_x0")]
    assert [a.channels for a in step.writes] == [(4, 8)]
    assert step.macs * 2 == plan.steps[index_of(plan, "join.forward")].macs
    assert verify(problem, plan) == ()
    assert "macs" in found(problem, change_step(plan, "join.grad_x0", macs=2 * step.macs))


# -- planted faults: tiles ------------------------------------------------------------------------------
def retiled(index: int = 0, **changes: Any) -> Fault:
    def fault(plan: Plan) -> Plan:
        tiles = list(plan.tiles)
        tiles[index] = replace(tiles[index], **changes)
        return replace(plan, tiles=tuple(tiles))

    return fault


@pytest.mark.parametrize("field", ["l1_bytes", "dma_bytes", "tiles"])
@pytest.mark.parametrize("by", [-1, 1])
def test_tile_miscounted(field: str, by: int) -> None:
    value = getattr(planned()[1].tiles[0], field)
    check(retiled(**{field: value + by}), "tile", f"{field}={value + by}")


def test_tile_that_does_not_fit() -> None:
    """As counted, but one byte larger than L1."""
    problem, plan = planned()
    most = max(t.l1_bytes for t in plan.tiles)
    levels = tuple(replace(n, bytes=most - 1) if n.name == "L1" else n for n in problem.device.levels)
    kinds = found(replace(problem, device=replace(problem.device, levels=levels)), plan)
    assert kinds == {"tile", "budget"}


def test_tile_of_another_size() -> None:
    tile = planned()[1].tiles[0]
    (axis, size), *rest = tile.sizes
    check(retiled(sizes=((axis, size + 1), *rest)), "tile", "sizes")


def test_tile_buffers_miscounted() -> None:
    tag, size, count = planned()[1].tiles[0].buffers[0]
    rest = planned()[1].tiles[0].buffers[1:]
    check(retiled(buffers=((tag, size, 3 - count), *rest)), "tile", "buffers")
    check(retiled(buffers=((tag, size - 1, count), *rest)), "tile", "buffers")


def test_tile_missing() -> None:
    check(lambda p: replace(p, tiles=p.tiles[1:]), "tile", "is missing")


def test_tile_twice_or_of_nothing() -> None:
    check(lambda p: replace(p, tiles=(*p.tiles, p.tiles[0])), "tile", "second of its pass")
    check(retiled(op="ghost"), "tile", "ghost")


def test_tiles_without_l1() -> None:
    problem, plan = planned()
    levels = tuple(n for n in problem.device.levels if n.name != "L1")
    assert {"tile", "budget"} <= found(replace(problem, device=replace(problem.device, levels=levels)), plan)


# -- plans without a schedule ---------------------------------------------------------------------------
def infeasible(problem: Problem, **changes: Any) -> Plan:
    reason = Infeasibility("L2", "stem.forward", 100, 64, (("image", 90),), 100, "too small")
    return Plan(problem, "INFEASIBLE", -math.inf, -math.inf, reason=replace(reason, **changes))


def test_infeasible_plans_say_why() -> None:
    problem = problem_of(small_u(), l2=64)
    assert verify(problem, infeasible(problem)) == ()
    assert verify(problem, Plan(problem, "UNKNOWN", -math.inf, math.inf)) == ()
    assert found(problem, infeasible(problem, available=65)) == {"status"}
    assert found(problem, infeasible(problem, level="L3")) == {"status"}
    plan = infeasible(problem)
    object.__setattr__(plan, "reason", None)
    assert found(problem, plan) == {"status"}


def test_plans_without_schedule_claim_nothing() -> None:
    problem, plan = planned()
    for name in ("values", "buffers", "tiles", "peak_bytes"):
        changed = replace(Plan(problem, "UNKNOWN", 0.0, 0.0), **{name: getattr(plan, name)})
        assert found(problem, changed) == {"status"}
    odd = Plan(problem, "UNKNOWN", 0.0, 0.0)
    object.__setattr__(odd, "status", "PERHAPS")
    assert found(problem, odd) == {"status"}


# -- hostile plans ----------------------------------------------------------------------------------------
def test_nothing_is_raised_for_nonsense() -> None:
    problem, plan = planned()
    bare = Arg("x0", (), "bit", ())
    odd = Arg("dy", (-1, 0), "ghost", (Span("image", 5, -3), Span("ghost", 0, 2**70)), (9, -9), True)
    kinds = ("forward", "loss", "aux", "grad_param", "grad_input", "update", "ghost")
    steps = [
        Step("s", kind, op, target, args, args, (("ghost", "image"),), -1, -(2**80))  # type: ignore[arg-type]
        for kind in kinds
        for op in ("ghost", "l1", "tap", "join", "pool")
        for target in ("y", "dy", "x0", "x99", "xy", "weight", "mask", "index", "")
        for args in ((), (bare,), (odd, bare), (odd, odd))
    ]
    huge = [replace(b, offset=2**90 + i, stop=2**80, bytes=2**70 + i) for i, b in enumerate(plan.buffers)]
    values = [replace(v, bytes=-5, shape=(-1,), dtype="ghost") for v in plan.values]
    for changed in (
        replace(plan, steps=tuple(steps)),
        replace(plan, steps=(*plan.steps, *steps)),
        replace(plan, steps=(*steps[:40], *plan.steps), values=tuple(values)),
        replace(plan, buffers=tuple(huge)),
        replace(plan, buffers=(), values=()),
        replace(plan, steps=(), update={}),
        replace(plan, objective=math.nan, bound=math.nan, resolution=math.nan),
        replace(plan, update={"join.weight": math.nan, "head.bias": math.inf}),
        replace(plan, tiles=tuple(replace(t, sizes=(("ghost", 0),)) for t in plan.tiles)),
        replace(plan, tiles=tuple(replace(t, sizes=tuple((a, 0) for a, _ in t.sizes)) for t in plan.tiles)),
    ):
        assert verify(problem, changed) != ()


def test_violations_read_well() -> None:
    problem, plan = planned()
    violations = verify(problem, change_buffer(plan, "mask(tap)", start=2))
    assert all(isinstance(v, Violation) and v.where and v.message for v in violations)
    assert str(violations[0]) == (
        "lifetime: step 1 (tap.forward): writes 'mask': bytes from 0 of 'mask(tap)' live in steps [2, 37)"
    )


def test_a_gradient_cannot_reach_behind_the_loss() -> None:
    net = NetworkBuilder("aside")
    x = net.input("x", (2, 2, 2))
    network = net.build([net.conv(x, 1, 1, name="main"), net.conv(x, 1, 1, name="aside")])
    problem = problem_of(network)
    plan = plan_of(problem, {"main.bias": 1.0})
    wide = replace(
        problem, choices={**problem.choices, "aside.bias": (1.0,)}, values={**problem.values, "aside.bias": {1.0: 0.0}}
    )
    assert verify(problem, plan) == ()
    assert "decision" in found(wide, replace(plan, update={**plan.update, "aside.bias": 1.0}))
