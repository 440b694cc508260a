"""The verifier finds planted faults in values, decisions, figures and tiles, and raises for nothing."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
from planted import (
    Fault,
    change_buffer,
    change_step,
    change_value,
    check,
    found,
    index_of,
    plan_of,
    planned,
    problem_of,
    small_u,
)

from sparseplan.builder import NetworkBuilder
from sparseplan.errors import ProblemError
from sparseplan.ops import infos, op_def
from sparseplan.plan import Infeasibility, Plan
from sparseplan.problem import Problem
from sparseplan.steps import Arg, Span, Step
from sparseplan.verify import Violation, verify
from sparseplan.verify.plainest import Plainest
from sparseplan.verify.tiles import counted, walked


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


def test_objective_above_its_worth_by_one_ulp() -> None:
    check(lambda p: replace(p, objective=math.nextafter(p.objective, math.inf)), "objective", "worth")


def test_bound_below_the_objective() -> None:
    check(lambda p: replace(p, bound=math.nextafter(p.objective, 0)), "objective", "bound")


@pytest.mark.parametrize("bound", [math.nan, -math.inf])
def test_bound_that_is_none(bound: float) -> None:
    check(lambda p: replace(p, bound=bound), "objective", "bound")


def test_optimal_without_proof() -> None:
    check(lambda p: replace(p, status="OPTIMAL"), "status", "OPTIMAL")
    problem, plan = planned()
    assert verify(problem, replace(plan, status="OPTIMAL", bound=plan.objective)) == ()
    above = replace(plan, status="OPTIMAL", bound=math.nextafter(plan.objective, math.inf))
    assert found(problem, above) == {"status"}
    near = replace(plan, status="OPTIMAL", bound=plan.objective + 1, resolution=1.0)
    assert found(problem, near) == {"objective"}  # whole values are summed exactly


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
    reason = Infeasibility("L2", "stem.forward", 100, 64, (("image", 90),), 2000, "too small")
    return Plan(problem, "INFEASIBLE", -math.inf, -math.inf, reason=replace(reason, **changes))


def test_infeasible_plans_say_why() -> None:
    problem = problem_of(small_u(), l2=64)
    assert verify(problem, infeasible(problem)) == ()
    assert verify(problem, Plan(problem, "UNKNOWN", -math.inf, math.inf)) == ()
    assert found(problem, infeasible(problem, available=65)) == {"status"}
    assert found(problem, infeasible(problem, level="L3")) == {"status"}
    assert found(problem, infeasible(problem, fewest_bytes=1000)) == {"status"}
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


def test_updates_that_cannot_be_are_named() -> None:
    """Beside what else is wrong with them."""
    net = NetworkBuilder("walled")
    x = net.conv(net.input("x", (2, 4, 4)), 2, 1, name="before")
    x = net.op("batch_norm", net.op("opaque", x, "wall", type="Wall", shape=(2, 4, 4)), "norm")
    problem = problem_of(net.build(net.conv(x, 1, 1, name="behind")))
    plan = plan_of(problem, {"behind.bias": 1.0})
    assert verify(problem, plan) == ()
    for name, text in (
        ("before.weight", "is updated, but no gradient reaches op 'before'"),
        ("norm.mean", "is updated, but as mean of op 'norm' never is"),
    ):
        asked = replace(problem)
        for field, more in (("choices", (1.0,)), ("values", {1.0: 1.0})):  # a problem would refuse it
            object.__setattr__(asked, field, {**getattr(problem, field), name: more})
        said = [v.message for v in verify(asked, replace(plan, problem=asked, update={**plan.update, name: 1.0}))]
        assert text in said, said


def test_fewest_bytes_have_what_is_reserved_on_top() -> None:
    problem = problem_of(small_u(), l2=1000)
    levels = tuple(replace(v, reserved=16) if v.name == "L2" else v for v in problem.device.levels)
    problem = replace(problem, device=replace(problem.device, levels=levels))
    peak = Plainest(problem, problem.least_update()).peak
    for fewest, kinds in ((peak + 16, set()), (peak + 15, {"status"})):
        reason = Infeasibility("L2", "", peak, 984, (), fewest, "too small")
        assert found(problem, Plan(problem, "INFEASIBLE", -math.inf, -math.inf, reason=reason)) == kinds


def test_nests_are_counted_as_they_are_walked() -> None:
    """Every operand, order of loops and some sizes; two loops outside that repeat a third multiply."""
    net = NetworkBuilder("one")
    network = net.build(net.conv(net.input("x", (4, 6, 6)), 3, 3, padding=1, name="c"))
    info, definition = infos(network)["c"], op_def("conv")
    repeated = 0
    for pass_ in ("forward", "grad_weight", "grad_x0"):
        space = definition.tile_space(info, pass_.removeprefix("grad_"))
        if space is None:
            continue
        extents = dict(space.axes)
        for order in itertools.permutations(extents):
            for size in (1, 2, 4):
                sizes = {axis: min(size, n) for axis, n in extents.items()}
                for o in space.operands:
                    width = "fp32" if o.dtype == "data" else o.dtype
                    many = counted(o, width, order, extents, sizes)
                    assert many == walked(o, width, order, extents, sizes), (pass_, order, sizes, o.tag)
                    free = [a for a in extents if a not in {d.axis for d in o.dims} and extents[a] > sizes[a] > 0]
                    repeated += len(free) > 1
    assert repeated


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
    with pytest.raises(ProblemError, match=r"aside\.bias.*nothing of it reaches the loss's output 'main\.out'"):
        replace(problem, choices={**problem.choices, "aside.bias": (1.0,)})
    wide = replace(problem)  # what a problem refuses itself is told by the verifier, too
    object.__setattr__(wide, "choices", {**problem.choices, "aside.bias": (1.0,)})
    object.__setattr__(wide, "values", {**problem.values, "aside.bias": {1.0: 0.0}})
    assert verify(problem, plan) == ()
    assert "decision" in found(wide, replace(plan, update={**plan.update, "aside.bias": 1.0}))
