"""Steps in another order: within their dependencies, never at a higher peak, with the same results bit for bit."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given

import sparseplan as sp
from sparseplan.autodiff import differentiate
from sparseplan.builder import NetworkBuilder
from sparseplan.liveness import analyse
from sparseplan.network import Network
from sparseplan.ordering import reordered
from sparseplan.problem import resolve_choices
from sparseplan.run import run
from sparseplan.steps import TrainingOptions, UpdateSet
from sparseplan.testing import networks
from sparseplan.verify import verify


def branches() -> Network:
    """Three branches that are wide inside and narrow at their ends, the widest last."""
    net = NetworkBuilder("branches")
    x = net.input("x", (4, 16, 16))
    ends = []
    for i, width in enumerate((32, 8, 64)):
        y = net.conv(x, width, 3, 1, 1, name=f"b{i}.wide")
        ends.append(net.conv(y, 2, 3, 1, 1, name=f"b{i}.narrow"))
    return net.build(net.add([net.add(ends[:2], name="first"), ends[2]], name="second"))


def test_branches_take_less_in_another_order() -> None:
    net = branches()
    schedule = differentiate(net, UpdateSet.all(net), TrainingOptions(alignment=4))
    other = reordered(schedule)
    assert analyse(other).peak() < analyse(schedule).peak()
    assert Counter(s.name for s in other.steps) == Counter(s.name for s in schedule.steps)


@given(networks())
def test_no_order_takes_more(net: Network) -> None:
    choices, _ = resolve_choices(net)
    schedule = differentiate(net, UpdateSet(dict.fromkeys(choices, 1.0)), TrainingOptions())
    assert analyse(reordered(schedule, most_moves=60)).peak() <= analyse(schedule).peak()


@pytest.mark.parametrize("gradients", ["fused", "accumulate"])
def test_a_plan_in_another_order_runs_and_computes_the_same(gradients: str) -> None:
    net = branches()
    plain = sp.plan(net, l2="1MB", gradients=gradients, fractions=(1.0,))
    least = plain.lower_bound_bytes["L2"]
    tight = sp.plan(net, l2=least - 4, gradients=gradients, fractions=(1.0,), must=["*"])
    moved = sp.plan(net, l2=least - 4, gradients=gradients, fractions=(1.0,), must=["*"], savings="order")
    assert tight.status == "INFEASIBLE"
    assert moved.status == "OPTIMAL"  # everything is updated, so nothing can be worth more
    assert moved.peak_bytes["L2"] < least
    assert not verify(moved.problem, moved)
    report = run(moved)
    assert report.bitwise_equal
    assert report.guard_intact
    assert report.touched_bytes == report.claimed_bytes
