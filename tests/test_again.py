"""What may run again, and until when: as long as something that is still to come may want its output."""

from __future__ import annotations

from planted import problem_of
from savings import with_savings

from sparseplan.autodiff import trace
from sparseplan.builder import NetworkBuilder
from sparseplan.network import Network
from sparseplan.recompute import Savings
from sparseplan.solve.again import candidates, last_uses, slots
from sparseplan.steps import TrainingOptions
from sparseplan.testing.rows import check_rows_with_savings
from sparseplan.training import TrainingGraph


def forked() -> Network:
    """a is read by b, which is wanted early in the backward phase, and by c, which is wanted late; and by itself."""
    net = NetworkBuilder("forked")
    a = net.op("sigmoid", net.conv(net.input("image", (2, 4, 4)), 2, 1, name="in"), name="a")
    late = net.op("tanh", net.conv(a, 2, 1, name="c"), name="tc")
    early = net.op("tanh", net.conv(a, 2, 1, name="b"), name="tb")
    late = net.op("tanh", net.conv(late, 2, 1, name="c2"), name="tc2")
    return net.build(net.add([early, late], name="sum"))


def wanted_until(graph: TrainingGraph) -> dict[str, int]:
    """By following every path: the last step behind the loss that reads an op's output or what is made from it."""
    forward = {s.op: s for s in graph.steps if s.kind == "forward"}
    made = {x.value: op for op, s in forward.items() for a in s.writes for x in a.spans}
    loss = next(i for i, s in enumerate(graph.steps) if s.kind == "loss")
    reads = {op: {made[x.value] for a in s.reads for x in a.spans if x.value in made} for op, s in forward.items()}

    def until(op: str) -> int:
        own = [i for i, s in enumerate(graph.steps) if i > loss and any(
            made.get(x.value) == op for a in s.reads for x in a.spans)]  # fmt: skip
        return max([-1, *own, *(until(other) for other, sources in reads.items() if op in sources)])

    return {op: until(op) for op in forward}


def test_the_last_use_of_what_is_read_twice() -> None:
    graph = trace(forked(), TrainingOptions())
    assert last_uses(graph) == wanted_until(graph)
    steps = {s.name: i for i, s in enumerate(graph.steps)}
    assert last_uses(graph)["a"] == steps["a.grad_x0"]
    assert last_uses(graph)["in"] == steps["a.grad_x0"]  # a is made from it


def test_candidates_are_the_runs_that_something_may_want() -> None:
    graph = trace(forked(), TrainingOptions())
    runs, fetches, producers = candidates(graph, ("recompute", "page"), set())
    until = wanted_until(graph)
    where = slots(graph.steps)
    assert set(runs) == {(op, i) for op in until for i in where if i <= until[op]}
    assert {t for t, _ in fetches} <= {*producers, "image"}
    assert ("image", max(i for i in where if graph.steps[i].name == "in.grad_weight")) in fetches
    assert candidates(graph, (), set())[:2] == ({}, {})


def test_of_a_value_that_is_kept_in_part_no_more_counts_where_a_run_is_left_out() -> None:
    """Backward needs an eighth of a.out and all of s.out, so that s may run again over a.out before the first step
    behind the loss. It does not: there the eighth counts and no more."""
    net = NetworkBuilder("kept")
    a = net.conv(net.input("image", (1, 4, 4)), 32, 1, bias=False, name="a")
    s = net.op("sigmoid", a, "s")
    ends = [net.conv(s, 1, 1, bias=False, name="b"), net.conv(a, 1, 1, bias=False, name="c")]
    network = net.build(net.op("upsample", net.add(ends, name="sum"), "up", scale=2))
    problem = with_savings(problem_of(network), ("recompute",))
    picks = {p.op: p.options[0] for p in trace(network, problem.options, problem.choices).picks}
    for fraction in (0.125, 0.25, 1.0):
        check_rows_with_savings(problem, {"b.weight": 1.0, "c.weight": fraction}, picks, Savings())
