"""The verifier accepts plans that recompute and page, and finds faults planted in what is made again or paged."""

from __future__ import annotations

from collections.abc import Mapping
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
    small_u,
    swapped,
    without_step,
)
from savings import with_savings

from sparseplan.builder import NetworkBuilder
from sparseplan.network import Network
from sparseplan.plan import Plan
from sparseplan.problem import Problem
from sparseplan.recompute import Savings
from sparseplan.run import run
from sparseplan.testing.peers import plan_of
from sparseplan.verify import verify

BOTH = ("recompute", "page")


def line() -> Network:
    """Two convolutions with a sigmoid between, whose output backward reads twice."""
    net = NetworkBuilder("line")
    t = net.conv(net.input("image", (1, 4, 4)), 2, 1, name="a", bias=False)
    return net.build(net.conv(net.op("sigmoid", (t,), name="s"), 1, 1, name="b", bias=False))


#: what is made again, and what is paged, in the plans of ``planned``
RERUNS = (("a", "s.grad_x0"), ("s", "s.grad_x0"))
FETCHES = (("s.out", "b.grad_weight"), ("image", "s.grad_x0"))


@cache
def planned(gradients: str = "fused") -> tuple[Problem, Plan]:
    problem = with_savings(problem_of(line(), alignment=4, gradients=gradients), BOTH)
    plan = plan_of(problem, dict.fromkeys(problem.choices, 1.0), None, Savings(frozenset(RERUNS), frozenset(FETCHES)))
    return problem, plan


def check(fault: Fault, kind: str, mentions: str) -> None:
    """A fault is found where there was silence before, and named."""
    problem, plan = planned()
    assert verify(problem, plan) == ()
    violations = verify(problem, fault(plan))
    assert any(v.kind == kind and mentions in str(v) for v in violations), [str(v) for v in violations]


def moved(plan: Plan, step: str, to: int) -> Plan:
    """The plan with a step elsewhere, buffers as they are."""
    steps = list(plan.steps)
    steps.insert(to, steps.pop(index_of(plan, step)))
    return replace(plan, steps=tuple(steps))


@pytest.mark.parametrize("gradients", ["fused", "accumulate"])
def test_right_plans_are_accepted_and_run(gradients: str) -> None:
    problem, plan = planned(gradients)
    assert [s.name for s in plan.steps if s.kind in ("recompute", "page_out", "page_in")] == [
        "page out image", "page out s.out", "page in s.out", "page in image", "a.forward again", "s.forward again"
    ]  # fmt: skip
    assert verify(problem, plan) == ()
    done = run(plan)
    assert done.bitwise_equal
    assert done.guard_intact
    assert done.claimed_bytes == done.touched_bytes
    assert set(done.claimed_bytes) == {"L2", "L3"}


# -- recomputed -------------------------------------------------------------------------------------
def test_rerun_whose_input_is_gone() -> None:
    check(lambda p: change_buffer(p, "image (2)", stop=index_of(p, "a.forward again")), "freed", "image (2)")


def test_rerun_whose_input_was_overwritten() -> None:
    def fault(plan: Plan) -> Plan:
        return change_buffer(plan, "image (2)", offset=piece(plan, "grad(s.out)").offset)

    check(fault, "overlap", "image (2)")


def test_rerun_of_the_copy_that_is_gone() -> None:
    """It reads the image of the forward pass, which was paged out since."""

    def fault(plan: Plan) -> Plan:
        spans = plan.steps[index_of(plan, "a.forward")].reads[0].spans
        return change_arg(plan, "a.forward again", "x0", spans=spans)

    check(fault, "freed", "reads 'x0': bytes from 0 of 'image'")


def test_rerun_after_its_parameter_was_updated() -> None:
    def fault(plan: Plan) -> Plan:
        update = plan.steps[index_of(plan, "update a.weight")]
        steps = [s for s in plan.steps if s is not update]
        at = index_of(plan, "a.forward again")
        return replace(plan, steps=(*steps[:at], update, *steps[at:]))

    check(fault, "stale", "holds it in version 1, not 0")


def test_rerun_whose_output_is_read_before_it_is_made() -> None:
    check(lambda p: swapped(p, "s.forward again", "s.grad_x0"), "unwritten", "s.out (3)")


def test_rerun_that_is_missing() -> None:
    check(lambda p: without_step(p, "s.forward again"), "unwritten", "s.out (3)")


def test_rerun_of_another_op() -> None:
    check(lambda p: change_step(p, "a.forward again", op="b"), "step", "a.forward again")


def test_rerun_in_place_over_what_is_read_later() -> None:
    def fault(plan: Plan) -> Plan:
        pairs = (("a.out (2)", "image (2)"),)
        return change_step(plan, "a.forward again", inplace=pairs)

    check(fault, "inplace", "'a.out (2)' may not overwrite 'image (2)'")


def test_copies_that_are_stored_in_another_order() -> None:
    check(lambda p: change_value(p, "a.out (2)", layout="hcw"), "value", "differs from another activation of 'a.out'")


def test_two_copies_in_the_same_bytes() -> None:
    def fault(plan: Plan) -> Plan:
        plan = change_buffer(plan, "image (2)", stop=len(plan.steps))
        return change_buffer(plan, "a.out (2)", offset=piece(plan, "image (2)").offset)

    check(fault, "overlap", "a.out (2)")


def test_recomputed_macs_that_are_not_counted() -> None:
    def fault(plan: Plan) -> Plan:
        return replace(plan, macs={k: n for k, n in plan.macs.items() if k != "recompute"})

    check(fault, "macs", "'recompute': ")


def test_recomputed_macs_counted_as_forward() -> None:
    def fault(plan: Plan) -> Plan:
        macs: Mapping[str, int] = plan.macs
        return replace(plan, macs={"forward": macs["forward"] + macs["recompute"], "backward": macs["backward"]})

    check(fault, "macs", "'recompute': ")


def test_macs_of_a_rerun_that_are_not_told() -> None:
    check(lambda p: change_step(p, "a.forward again", macs=0), "macs", "macs=0 should be 32")


def test_recomputed_macs_beyond_the_cap() -> None:
    problem, plan = planned()
    assert verify(replace(problem, max_macs=sum(plan.macs.values())), plan) == ()
    tight = replace(problem, max_macs=sum(plan.macs.values()) - 1)
    assert [v.kind for v in verify(tight, plan)] == ["macs"]


def test_an_op_that_runs_forward_twice() -> None:
    """A rerun by another name, where nothing may be recomputed."""

    def fault(plan: Plan) -> Plan:
        return change_step(plan, "a.forward again", kind="forward")

    check(fault, "step", "is repeated")


def test_a_mask_made_again_that_nobody_reads() -> None:
    problem = with_savings(problem_of(small_u(), alignment=4), ("recompute",))
    pairs = frozenset({("stem", "join.grad_weight"), ("tap", "join.grad_weight")})
    plan = plan_of(problem, dict.fromkeys(problem.choices, 1.0), None, Savings(pairs))
    assert verify(problem, plan) == ()
    again, first = plan.steps[index_of(plan, "tap.forward again")], plan.steps[index_of(plan, "tap.forward")]
    assert [a.tag for a in again.writes] == ["y", "mask"]
    late = change_step(plan, "tap.forward", writes=(*first.writes, again.writes[1]))
    assert any(v.kind in ("lifetime", "step") for v in verify(problem, late))


# -- paged --------------------------------------------------------------------------------------------
def test_page_in_of_what_was_never_written() -> None:
    check(lambda p: without_step(p, "page out s.out"), "unwritten", "s.out @L3")


def test_page_in_before_the_page_went_out() -> None:
    check(lambda p: moved(p, "page out s.out", index_of(p, "page in s.out")), "freed", "s.out")


def test_page_in_from_another_page() -> None:
    def fault(plan: Plan) -> Plan:
        return change_arg(plan, "page in s.out", "x0", spans=plan.steps[index_of(plan, "page in image")].reads[0].spans)

    check(fault, "step", "which is not activation 's.out'")


def test_page_in_from_the_wrong_place() -> None:
    """The page lies over another one."""

    def fault(plan: Plan) -> Plan:
        return change_buffer(plan, "s.out @L3", offset=piece(plan, "image @L3").offset)

    check(fault, "overlap", "s.out @L3")


def test_page_in_from_main_memory() -> None:
    def fault(plan: Plan) -> Plan:
        return change_arg(
            plan, "page in s.out", "x0", spans=plan.steps[index_of(plan, "page out s.out")].reads[0].spans
        )

    check(fault, "step", "reads 'x0' of 's.out' in L2, which should be L3")


def test_kernel_that_reads_the_slow_level() -> None:
    def fault(plan: Plan) -> Plan:
        return change_arg(plan, "b.grad_weight", "x0", spans=plan.steps[index_of(plan, "page in s.out")].reads[0].spans)

    check(fault, "step", "reads 'x0' of 's.out @L3' in L3, which should be L2")


def test_kernel_that_writes_the_slow_level() -> None:
    def fault(plan: Plan) -> Plan:
        spans = plan.steps[index_of(plan, "page out s.out")].writes[0].spans
        return change_arg(plan, "s.forward", "y", writes=True, spans=spans)

    check(fault, "step", "writes 'y' of 's.out @L3' in L3, which should be L2")


def test_page_copy_that_claims_to_be_elsewhere() -> None:
    check(lambda p: change_value(p, "s.out @L3", level="flash"), "value", "level=flash")


def test_page_of_a_parameter() -> None:
    check(lambda p: change_step(p, "page out s.out", op="a.weight"), "step", "no activation with bytes of its own")


def test_pages_beyond_their_level() -> None:
    problem, plan = planned()
    peak = plan.peak_bytes["L3"]

    def room(bytes_: int) -> Problem:
        levels = tuple(replace(v, bytes=bytes_) if v.name == "L3" else v for v in problem.device.levels)
        return replace(problem, device=replace(problem.device, levels=levels))

    assert verify(room(peak), plan) == ()
    assert {v.kind for v in verify(room(peak - 1), plan)} == {"budget"}


# -- what the problem allows ---------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("allowed", "refused"), [(("recompute",), {"page_out", "page_in"}), (("page",), {"recompute"}), ((), {"recompute"})]
)
def test_steps_that_the_problem_does_not_allow(allowed: tuple[str, ...], refused: set[str]) -> None:
    problem, plan = planned()
    violations = [v for v in verify(replace(problem, savings=allowed), plan) if v.kind == "decision"]
    told = {v.message.split("=")[1].split(",")[0] for v in violations}
    assert refused <= told
    assert all(f"but the problem's savings are {list(allowed)}" in v.message for v in violations)
