"""What is held whatever is decided: no larger update set, no other way of backward and no reruns go below it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from planted import problem_of
from test_remat import instances

from sparseplan.autodiff import trace
from sparseplan.builder import NetworkBuilder
from sparseplan.network import Network
from sparseplan.problem import Problem, resolve_choices
from sparseplan.solve.clock import Limits
from sparseplan.solve.floor import chosen_reads, held_anyway, stay
from sparseplan.solve.pipeline import Pipeline
from sparseplan.solve.rematinstance import RematInstance, events_of, instance, least_possible, live_of, peak_of
from sparseplan.solve.rematsqueeze import squeezed
from sparseplan.solve.search import solve
from sparseplan.steps import MAIN, UpdateSet
from sparseplan.testing import check_accepted
from sparseplan.testing.strategies import options, trainable_networks


@given(st.data())
def test_nothing_goes_below(data: st.DataObject) -> None:
    network = data.draw(trainable_networks(max_ops=7))
    choices = resolve_choices(network, fractions=(0.5, 1.0))[0]
    assume(choices)
    graph = trace(network, data.draw(options(network)), choices)
    more = data.draw(st.sets(st.sampled_from(sorted(choices)), min_size=1))
    level = {p: data.draw(st.sampled_from(choices[p])) for p in sorted(more)}
    less = {p: data.draw(st.sampled_from([r for r in choices[p] if r <= level[p]]))
            for p in sorted(data.draw(st.sets(st.sampled_from(sorted(more)), min_size=1)))}  # fmt: skip
    picks = {p.op: data.draw(st.sampled_from(p.options)) for p in graph.picks}
    least, schedule = graph.restrict(UpdateSet(less)), graph.restrict(UpdateSet(level), picks)
    savings = data.draw(st.sampled_from([(), ("recompute",)]))
    held = held_anyway(least, savings, chosen_reads(graph.steps))
    always = sum(stay(least, savings).values())
    inst = instance(schedule)
    pairs = [(o, j) for o in range(len(inst.ops)) for j in inst.slots] if savings else []
    chosen = data.draw(st.lists(st.sampled_from(pairs), max_size=8, unique=True)) if pairs else []
    live = {schedule.steps[i].name: n
            for (i, rerun), n in zip(events_of(inst, chosen), live_of(inst, chosen), strict=True)
            if rerun is None}  # fmt: skip
    for step, there in zip(least.steps, held, strict=True):
        if step.name in live:  # late auxiliaries depend on picks
            assert always + sum(there.values()) <= live[step.name], step.name
        else:
            assert step.kind == "aux"


def wide_then_narrow() -> Network:
    """The image is large, and all gradients and reruns of the first layers have to be beside it."""
    net = NetworkBuilder("narrowing")
    x = net.input("image", (6, 12, 12))
    for i, channels in enumerate((8, 8, 4, 2)):
        x = net.relu(net.conv(x, channels, 3, 2 if i else 1, 1, name=f"c{i}"), name=f"r{i}")
    return net.build(net.conv(x, 2, 1, 1, 0, name="head"))


def narrowing(l2: int | None) -> Problem:
    problem = problem_of(wide_then_narrow(), l2, alignment=4, must=("*",), loss="mse")
    return replace(problem, savings=("recompute",))


def test_an_input_waits_for_its_last_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """A budget between what one step touches and that with the image beside it: refused without the program."""
    problem = narrowing(None)
    graph = trace(problem.network, problem.options, problem.choices)
    schedule = graph.restrict(UpdateSet(problem.least_update()))
    chosen = chosen_reads(graph.steps)
    always = sum(stay(schedule, problem.savings).values())

    def floor(savings: tuple[str, ...]) -> int:
        return always + max(sum(held.values()) for held in held_anyway(schedule, savings, chosen))

    bare, with_image = floor(("recompute", "order")), floor(("recompute",))
    assert bare < with_image <= solve(narrowing(None)).peak_bytes[MAIN]
    monkeypatch.setattr("sparseplan.solve.pipeline.SOON", -1.0)  # it is asked before the program is built
    monkeypatch.setattr(Pipeline, "built", lambda *_: pytest.fail("the program was built"))
    plan = check_accepted(problem := narrowing(with_image - 4), solve(problem, Limits(30.0)))
    assert plan.status == "INFEASIBLE"
    assert plan.reason is not None
    assert plan.reason.needed == with_image


@given(instances(max_ops=4, max_slots=4), st.data())
def test_what_is_squeezed_fits(inst: RematInstance, data: st.DataObject) -> None:
    budget = data.draw(st.integers(least_possible(inst) - 1, peak_of(inst, ()) + 3))
    found = squeezed(inst, budget, lambda: False)
    if found is not None:
        assert least_possible(inst) <= peak_of(inst, found) <= budget


def test_where_making_all_anew_is_too_much_runs_go_earlier() -> None:
    """Each image of a chain is made before the gradient beside which there would be no room for its making."""
    problem = narrowing(None)
    graph = trace(problem.network, problem.options, problem.choices)
    inst = instance(graph.restrict(UpdateSet(problem.least_update())))
    every = [(o, slot) for o in range(len(inst.ops)) for slot in inst.slots]
    naive, least = peak_of(inst, every), least_possible(inst)
    fits = [b for b in range(least, naive + 1, 4) if squeezed(inst, b, lambda: False) is not None]
    assert fits
    assert fits[0] < naive
    assert squeezed(inst, naive, lambda: True) is None or peak_of(inst, squeezed(inst, naive, lambda: True)) <= naive
