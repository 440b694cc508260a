"""Steps in another order: within their dependencies, never at a higher peak, with the same results bit for bit."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from toy_schedules import schedule, step, toy_schedules, value

import sparseplan as sp
from sparseplan.autodiff import differentiate
from sparseplan.builder import NetworkBuilder
from sparseplan.liveness import analyse
from sparseplan.network import Network
from sparseplan.ordering import _dependencies, _moves, reordered
from sparseplan.problem import resolve_choices
from sparseplan.run import run
from sparseplan.steps import Schedule, Step, TrainingOptions, UpdateSet
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


def before(steps: Sequence[Step]) -> list[tuple[int, int]]:
    """Pairs of steps whose order matters: one writes what the other reads or writes, or overwrites what it reads."""
    reads = [{x.value for a in s.reads for x in a.spans} for s in steps]
    writes = [{x.value for a in s.writes for x in a.spans} for s in steps]
    over = [{x for _, x in s.inplace} for s in steps]
    return [
        (i, j) for i, j in itertools.combinations(range(len(steps)), 2)
        if writes[i] & (reads[j] | writes[j]) or (reads[i] & writes[j]) or (reads[i] & over[j])
    ]  # fmt: skip


@given(toy_schedules())
def test_every_move_keeps_what_depends_in_order(s: Schedule) -> None:
    depends, pairs = _dependencies(s.steps), before(s.steps)
    for top in range(len(s.steps)):
        for order in _moves(s, depends, top):
            assert sorted(order) == list(range(len(s.steps)))
            at = {i: n for n, i in enumerate(order)}
            assert all(at[i] < at[j] for i, j in pairs)


def test_a_value_is_read_before_it_is_written_again() -> None:
    """Reading x early costs bytes at the peak, but then x is written anew."""
    values = [value("x", 4), value("y", 4), value("z", 64)]
    steps = [
        step(0, [], [("x", 0, 4)]), step(1, [("x", 0, 4)], [("y", 0, 4)]), step(2, [], [("x", 0, 4)]),
        step(3, [], [("z", 0, 64)]), step(4, [("x", 0, 4), ("y", 0, 4), ("z", 0, 64)], []),
    ]  # fmt: skip
    found = [s.name for s in reordered(schedule(values, steps)).steps]
    assert found.index("s0") < found.index("s1") < found.index("s2")


def test_updates_of_sums_stay_at_the_end() -> None:
    """The update would free a byte before the peak, were it moved; what it changes is read in no other step."""
    values = [value("g", 8), value("x", 4), value("z", 64)]
    steps = [step(0, [], [("g", 0, 8)]), step(1, [("g", 0, 8)], [("z", 0, 64)]), step(2, [("z", 0, 64)], [("x", 0, 4)])]
    update = replace(step(3, [("g", 0, 8)], []), kind="update")
    given = schedule(values, [*steps, update])
    assert reordered(given).steps[-1].name == "s3"
    assert _dependencies(given.steps)[3] == {0, 1, 2}
    moved = reordered(schedule(values, [*steps, replace(update, kind="grad_param")]))
    assert moved.steps[-1].name != "s3"  # any other step would have been moved


def test_what_is_overwritten_has_been_read_by_all_others() -> None:
    values = [value(n, 4) for n in "aby"]
    steps = [
        step(0, [], [("a", 0, 4)]), step(1, [("a", 0, 4)], [("b", 0, 4)]),
        step(2, [("a", 0, 4)], [("y", 0, 4)], (("y", "a"),)), step(3, [("b", 0, 4), ("y", 0, 4)], []),
    ]  # fmt: skip
    assert _dependencies(schedule(values, steps).steps) == [set(), {0}, {0, 1}, {1, 2}]
