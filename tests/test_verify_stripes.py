"""A network in stripes is checked against the network by row arithmetic; plans of one, row by row. Faults are found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from planted import change_arg, index_of, problem_of, without_step
from striped import lowered_networks

from sparseplan.builder import NetworkBuilder
from sparseplan.network import Network, Op, Tensor
from sparseplan.plan import Plan
from sparseplan.problem import Problem
from sparseplan.run.runner import run
from sparseplan.steps import Box, Span
from sparseplan.stripes import Lowered, Origin, Stripes, even, lower
from sparseplan.testing.peers import plan_of
from sparseplan.verify import verify
from sparseplan.verify.findings import Findings, Violation
from sparseplan.verify.stripes import check_lowered

SLOW = settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large])


def findings_of(lowered: Lowered, network: Network | None = None,
                origin: Mapping[str, Origin] | None = None) -> tuple[Violation, ...]:  # fmt: skip
    findings = Findings()
    check_lowered(lowered.original, network or lowered.network, origin or lowered.origin, findings)
    return findings.all()


def small() -> Lowered:
    """A stem, and a group with halos that reads its rows; two stripes of four rows."""
    net = NetworkBuilder("small")
    x = net.conv(net.input("image", (2, 8, 4)), 2, 1, name="stem")
    x = net.relu(net.conv(x, 4, 3, 1, 1, name="a"), name="b")
    network = net.build(net.conv(x, 1, 3, 1, 1, name="c"))
    return lower(network, [Stripes(("a", "b", "c"), even(8, 2))])


def with_op(network: Network, name: str, **changes: object) -> Network:
    assert name in network.op
    ops = tuple(replace(op, **changes) if op.name == name else op for op in network.ops)  # type: ignore[arg-type]
    read = {t for op in ops for t in (*op.inputs, op.output, *op.params.values())}
    return Network(network.name, tuple(t for t in network.tensors if t.name in read), ops, network.outputs)


def with_tensor(network: Network, name: str, **changes: object) -> Network:
    tensors = tuple(replace(t, **changes) if t.name == name else t for t in network.tensors)  # type: ignore[arg-type]
    return Network(network.name, tensors, network.ops, network.outputs)


@SLOW
@given(lowered_networks())
def test_what_is_lowered_is_accepted(lowered: Lowered) -> None:
    assert findings_of(lowered) == ()


def attrs(lowered: Lowered, op: str, **changes: object) -> dict[str, object]:
    return {**lowered.network.op[op].attrs, **changes}


FAULTS: dict[str, tuple[Callable[[Lowered], tuple[Network, Mapping[str, Origin]]], str]] = {
    "a window one row off": (
        lambda w: (with_op(w.network, "stem.out[2:8]", attrs={"lo": 1, "hi": 7}), w.origin),
        "row 3 of 'a.out' reads 'stem.out'[1], 'stem.out'[2], 'stem.out'[3] as x0, which should be 'stem.out'[2], ",
    ),
    "padding within the image": (
        lambda w: (with_op(w.network, "a@0", attrs=attrs(w, "a@0", padding=(0, 1, 1, 1))), w.origin),
        "row 0 of 'a.out' reads 'stem.out'[0], 'stem.out'[1], 'stem.out'[2] as x0, which should be 'stem.out'[0], ",
    ),
    "another stride": (
        lambda w: (with_op(w.network, "a@0", attrs=attrs(w, "a@0", dilation=(1, 2), padding=(1, 2, 0, 2))), w.origin),
        "should be those of 'a'",
    ),
    "stripes in the wrong order": (
        lambda w: (with_op(w.network, "c@join", inputs=("c.out@1", "c.out@0")), w.origin),
        "makes 'c.out', of which row 0 is missing or another's",
    ),
    "a stripe twice": (
        lambda w: (with_op(w.network, "c@join", inputs=("c.out@0", "c.out@1", "c.out@0")), w.origin),
        "join_rows makes (1, 12, 4)",
    ),
    "other weights": (
        lambda w: (with_op(w.network, "c@1", params={"weight": "c.weight"}), w.origin),
        "differs from 'c' in kind, parameters or inputs",
    ),
    "a false claim": (
        lambda w: (w.network, {**w.origin, "b@0": Origin("b", 0, 0, (1, 6))}),
        "row 1 of 'b.out' reads 'a.out'[0] as x0, which should be 'a.out'[1]",
    ),
    "a claim of too few rows": (
        lambda w: (w.network, {**w.origin, "b@0": Origin("b", 0, 0, (0, 4))}),
        "makes shape (4, 5, 4), which should be (4, 4, 4)",
    ),
    "no claim": (
        lambda w: (w.network, {n: o for n, o in w.origin.items() if n != "b@1"}),
        "kind=relu is neither the original's, nor a stripe",
    ),
    "a tensor of another type": (
        lambda w: (with_tensor(w.network, "c.out", dtype="int8", scale=0.5), w.origin),
        "tensor c.out: differs from the original's",
    ),
    "an op of its own": (
        lambda w: (with_op(w.network, "b@1", kind="sigmoid"), w.origin),
        "differs from 'b' in kind",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_of_lowering_are_found(fault: str) -> None:
    plant, message = FAULTS[fault]
    found = findings_of(small(), *plant(small()))
    assert any(message in str(v) for v in found), found


def test_an_op_of_the_original_reads_the_whole() -> None:
    lowered = small()
    net = lowered.network
    half = Op("half", "rows", ("stem.out",), "half", {}, {"lo": 0, "hi": 4})
    ops = (net.op["stem"], half, Op("b", "relu", ("half",), "b.out"))
    tensors = (*(t for t in net.tensors if t.name in ("image", "stem.out", "stem.weight", "stem.bias")),
               Tensor("half", (2, 4, 4)), Tensor("b.out", (2, 4, 4)))  # fmt: skip
    other = Network("small", tensors, ops, ("b.out",))
    assert any(
        "neither the original's" in str(v) for v in findings_of(lowered, other, {"x": Origin("b", 0, 0, (0, 1))})
    )


# -- plans ------------------------------------------------------------------------------------------------
def planned() -> tuple[Problem, Plan]:
    """Everything is updated, so gradients of the stem's rows come from both stripes."""
    problem = problem_of(small().network, loss="mse")
    return problem, plan_of(problem, dict.fromkeys(problem.choices, 1.0))


def test_the_plan_is_right() -> None:
    problem, plan = planned()
    assert verify(problem, plan) == ()
    grad = [(a.add, a.rows) for a in plan.steps[index_of(plan, "a@0.grad_x0")].writes]
    assert grad == [(False, (0, 2)), (True, (2, 6))]  # a@1 has given rows 2 to 8 before


def drop_rows(plan: Plan) -> Plan:
    step = plan.steps[index_of(plan, "a@0.grad_x0")]
    steps = list(plan.steps)
    steps[index_of(plan, "a@0.grad_x0")] = replace(step, writes=step.writes[1:])
    return replace(plan, steps=tuple(steps))


def shift_box(plan: Plan) -> Plan:
    arg = plan.steps[index_of(plan, "a@1.forward")].reads[0]
    (span,) = arg.spans
    row = (span.hi - span.lo) // arg.shape[2]
    moved = replace(span, lo=span.lo - row, hi=span.hi - row)
    return change_arg(plan, "a@1.forward", "x0", spans=(moved,))


def set_instead_of_add(plan: Plan) -> Plan:
    step = plan.steps[index_of(plan, "a@0.grad_x0")]
    steps = list(plan.steps)
    steps[index_of(plan, "a@0.grad_x0")] = replace(
        step,
        reads=tuple(a for a in step.reads if a.tag != "dx"),
        writes=tuple(replace(a, add=False) for a in step.writes),
    )
    return replace(plan, steps=tuple(steps))


def update_early(plan: Plan) -> Plan:
    """The update of a weight between the terms of its gradient."""
    update = plan.steps[index_of(plan, "update c.weight")]
    steps = [s for s in plan.steps if s is not update]
    steps.insert(1 + [s.name for s in steps].index("c@1.grad_weight"), update)
    return replace(plan, steps=tuple(steps))


def term_twice(plan: Plan) -> Plan:
    """A stripe's gradient of the stem's rows added once more, in place of setting it."""
    step = plan.steps[index_of(plan, "a@1.grad_x0")]
    added = tuple(replace(a, add=True) for a in step.writes)
    again = replace(step, reads=(*step.reads, *(replace(a, tag="dx") for a in added)), writes=added)
    i = index_of(plan, "a@1.grad_x0") + 1
    return replace(plan, steps=(*plan.steps[:i], again, *plan.steps[i:]))


PLANTED: dict[str, tuple[Callable[[Plan], Plan], str]] = {
    "rows of another stripe": (shift_box, "should be"),
    "rows that nobody writes": (drop_rows, "writes channel 0, row 0 of the gradient of 'stem.out[0:6]' 0 times"),
    "a term lost": (set_instead_of_add, "incomplete: 1 of 2 terms, without a@1.x0"),
    "a term twice": (term_twice, "adds to 'grad(stem.out)' what was added before"),
    "no gradient from a stripe": (
        lambda p: without_step(p, "c@1.grad_weight"),
        "grad_param step of 'weight' is missing",
    ),
    "an update before the last term": (update_early, "holds it in version 1 of 2, not None"),
    "a value stored otherwise": (
        lambda p: replace(p, values=tuple(replace(v, layout="chw") if v.name == "stem.out" else v for v in p.values)),
        "takes rows [0, 6) of 'stem.out', which is not stored by rows",
    ),
    "boxes that leave a row out": (
        lambda p: change_arg(p, "a@0.forward", "x0", boxes=(Box((0, 2), (0, 5)),)),
        "holds channel 0, row 5 of 'stem.out[0:6]' 0 times, which should be 1",
    ),
    "boxes that hold a row twice": (
        lambda p: change_arg(p, "stem.forward", "x0", boxes=(Box((0, 2), (0, 8)), Box((0, 2), (3, 4))),
                             spans=(*p.steps[index_of(p, "stem.forward")].reads[0].spans, Span("image", 0, 4))),
        "holds channel 0, row 3 of 'image' 2 times, which should be 1",
    ),
    "too many boxes": (
        lambda p: change_arg(p, "stem.forward", "x0", boxes=(Box((0, 2), (0, 8)),) * 2),
        "has 2 boxes for 1 spans of 'image'",
    ),
    "boxes where there are none": (
        lambda p: change_arg(p, "stem.forward", "weight", boxes=(Box((0, 2), (0, 2)),)),
        "reads 'weight' in boxes, which it must not",
    ),
    "an added gradient that is not read": (
        lambda p: change_arg(p, "c@0.grad_weight", "acc", drop=True),
        "reads no 'acc'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", PLANTED)
def test_faults_of_plans_in_stripes_are_found(fault: str) -> None:
    plant, message = PLANTED[fault]
    problem, plan = planned()
    found = verify(problem, plant(plan))
    assert found
    assert any(message in str(v) for v in found), found


# -- plans that say in which stripes they are --------------------------------------------------------------
def in_stripes() -> tuple[Problem, Plan]:
    lowered = small()
    plain = problem_of(lowered.original, loss="mse")
    problem = replace(plain, savings=("stripes",))
    plan = plan_of(replace(problem, network=lowered.network), dict.fromkeys(problem.choices, 1.0))
    return problem, replace(plan, problem=problem, stripes=lowered.groups)


def test_a_plan_in_stripes_is_checked_against_the_network() -> None:
    problem, plan = in_stripes()
    assert verify(problem, plan) == ()
    assert run(plan).bitwise_equal


def test_stripes_must_be_allowed() -> None:
    problem, plan = in_stripes()
    found = verify(replace(problem, savings=()), plan)
    assert [v.kind for v in found] == ["decision"]
    assert "1 groups are in stripes, but the problem's savings are []" in str(found[0])


def test_stripes_that_cannot_be_are_found() -> None:
    problem, plan = in_stripes()
    (found,) = verify(problem, replace(plan, stripes=(Stripes(("a", "c"), even(8, 2)),)))
    assert "which depends on what the group makes" in str(found)


def test_steps_in_other_stripes_are_found() -> None:
    problem, plan = in_stripes()
    assert verify(problem, replace(plan, stripes=(Stripes(("a", "b", "c"), even(8, 4)),)))
    assert verify(problem, replace(plan, stripes=()))
