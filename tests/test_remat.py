"""Recomputation: events count as liveness does, the matrix model is brute force, intervals are the matrix model."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import sparseplan as sp
from sparseplan.autodiff import differentiate
from sparseplan.errors import InternalError
from sparseplan.liveness import analyse
from sparseplan.problem import resolve_choices
from sparseplan.solve.cpsat import Limits
from sparseplan.solve.rematinstance import (
    RematInstance,
    RematOp,
    RematStep,
    RematTensor,
    Rerun,
    events_of,
    instance,
    keep_all,
    least_possible,
    live_of,
    macs_of,
    peak_of,
    useful,
)
from sparseplan.solve.rematmatrix import least_macs, least_peak
from sparseplan.steps import Arg, Schedule, Span, Step, TrainingOptions, UpdateSet
from sparseplan.testing.strategies import options, trainable_networks


@st.composite
def schedules(draw: st.DrawFn, max_ops: int = 8) -> Schedule:
    """Training steps of small networks: update sets, fractions, picks, options of every sort."""
    network = draw(trainable_networks(max_ops=max_ops))
    choices = resolve_choices(network, fractions=(0.5, 1.0))[0]
    assume(choices)  # int8 parameters are frozen unless they are named
    names = draw(st.sets(st.sampled_from(sorted(choices)), min_size=1))
    update = UpdateSet({p: draw(st.sampled_from(choices[p])) for p in sorted(names)})
    return differentiate(network, update, draw(options(network)))


@st.composite
def instances(draw: st.DrawFn, max_ops: int = 3, max_slots: int = 3) -> RematInstance:
    """Made-up instances that no network needs to have: several outputs, inputs, readers, in place, gaps."""
    sizes = st.integers(1, 9)
    tensors = [RematTensor("input", -1, False, draw(sizes))]
    ops: list[RematOp] = []
    for i in range(draw(st.integers(1, max_ops))):
        readable = [t for t, x in enumerate(tensors) if not x.aux]
        reads = draw(st.lists(st.sampled_from(readable), min_size=1, max_size=2, unique=True))
        writes = [len(tensors)]
        tensors.append(RematTensor(f"y{i}", i, False, draw(sizes)))
        if draw(st.booleans()):
            writes.append(len(tensors))
            tensors.append(RematTensor(f"tail{i}", i, draw(st.booleans()), draw(sizes)))
        whole = sum(tensors[t].size for t in writes if not tensors[t].aux)
        groups = tuple((t,) for t in reads if tensors[t].size == whole and draw(st.booleans()))
        ops.append(RematOp(f"op{i}", draw(st.integers(0, 9)), tuple(sorted(reads)), tuple(writes), groups,
                           draw(st.integers(0, 9))))  # fmt: skip
    steps = [RematStep("loss", (1,), (), draw(st.integers(0, 9)), None)]
    for i in range(draw(st.integers(1, max_slots))):
        reads = draw(st.lists(st.integers(0, len(tensors) - 1), max_size=2, unique=True))
        fixed = draw(st.integers(0, 20))
        steps.append(RematStep(f"step{i}", tuple(sorted(reads)), (), fixed, draw(st.integers(0, fixed))))
        if draw(st.integers(0, 3)) == 3:
            steps.append(RematStep(f"update{i}", (), (), draw(st.integers(0, 20)), None))
    return RematInstance(tuple(tensors), tuple(ops), tuple(steps), sum(o.cost for o in ops))


def brute_force(inst: RematInstance) -> list[tuple[int, int]]:
    """(added MACs, peak) of every set of reruns."""
    pairs = [(o, j) for o in range(len(inst.ops)) for j in inst.slots]
    sets = itertools.chain.from_iterable(itertools.combinations(pairs, k) for k in range(len(pairs) + 1))
    return [(macs_of(inst, x), peak_of(inst, x)) for x in sets]


@pytest.mark.parametrize("name", sorted(sp.zoo.NETWORKS))
@pytest.mark.parametrize("gradients", ["fused", "accumulate"])
def test_without_reruns_the_peak_is_the_one_of_liveness(name: str, gradients: str) -> None:
    net = sp.zoo.get(name)
    loss = "cross_entropy" if len(net.tensor[net.outputs[0]].shape) == 1 else "l1"
    schedule = differentiate(net, UpdateSet.all(net), TrainingOptions(loss=loss, gradients=gradients, alignment=4))
    memory, inst = analyse(schedule), instance(schedule)
    assert tuple(live_of(inst, ())) == memory.at("L2")
    assert least_possible(inst) <= keep_all(inst) == memory.peak()


@given(schedules())
def test_without_reruns_every_step_counts_as_in_liveness(schedule: Schedule) -> None:
    assert tuple(live_of(instance(schedule), ())) == analyse(schedule).at("L2")


def unrolled(schedule: Schedule, reruns: Sequence[Rerun]) -> Schedule:
    """The schedule with every rerun a step and every copy a value of its own, for ``liveness.analyse``."""
    inst, n = instance(schedule), sum(s.kind == "forward" for s in schedule.steps)
    ours = {t.name for t in inst.tensors if t.op >= 0}
    events = events_of(inst, reruns)
    names = dict.fromkeys(schedule.values, "")
    values = {k: v for k, v in schedule.values.items() if k not in ours}
    plain: list[tuple[Step, dict[str, str], dict[str, str]]] = []
    for e, (step, op) in enumerate(events):
        source = schedule.steps[step if op is None else op]
        before = dict(names)
        if op is not None or step < n:
            names.update({s.value: f" {e}" for arg in source.writes for s in arg.spans})
        plain.append((source, before, dict(names)))

    def renamed(arg: Arg, copy: dict[str, str]) -> Arg:
        return replace(arg, spans=tuple(Span(s.value + copy[s.value], s.lo, s.hi) for s in arg.spans))

    read = {s.value + copy[s.value] for source, copy, _ in plain for a in source.reads for s in a.spans}
    steps = []
    for source, before, after in plain:
        reads = tuple(renamed(a, before) for a in source.reads)
        writes = tuple(renamed(a, after) for a in source.writes)
        writes = tuple(
            a for a, old in zip(writes, source.writes, strict=True)
            if schedule.values[old.spans[0].value].role != "auxiliary" or a.spans[0].value in read
        )  # fmt: skip
        pairs = tuple((y + after[y], x + before[x]) for y, x in source.inplace)
        steps.append(replace(source, reads=reads, writes=writes, inplace=pairs))
    for step in steps:
        for a in (*step.reads, *step.writes):
            for span in a.spans:
                if span.value not in values:
                    old = schedule.values[span.value.split(" ")[0] if " " in span.value else span.value]
                    values[span.value] = replace(old, name=span.value)
    return replace(schedule, steps=tuple(steps), values=values, composites=())


@given(schedules(), st.data())
def test_reruns_count_as_in_liveness_of_the_unrolled_schedule(schedule: Schedule, data: st.DataObject) -> None:
    inst = instance(schedule)
    pairs = [(o, j) for o in range(len(inst.ops)) for j in inst.slots]
    assume(pairs)
    chosen: list[Rerun] = data.draw(st.lists(st.sampled_from(pairs), max_size=12, unique=True))
    assert tuple(live_of(inst, chosen)) == analyse(unrolled(schedule, chosen)).at("L2")


@given(instances(), st.data())
def test_useless_reruns_cost(inst: RematInstance, data: st.DataObject) -> None:
    pairs = [(o, j) for o in range(len(inst.ops)) for j in inst.slots]
    chosen: list[Rerun] = data.draw(st.lists(st.sampled_from(pairs), unique=True))
    kept = useful(inst, chosen)
    assert set(kept) <= set(chosen)
    assert peak_of(inst, kept) <= peak_of(inst, chosen)
    assert least_possible(inst) <= peak_of(inst, kept)


@given(instances(), st.data())
def test_the_matrix_model_is_brute_force(inst: RematInstance, data: st.DataObject) -> None:
    points = brute_force(inst)
    budget = data.draw(st.sampled_from(sorted({p for _, p in points})))
    found = least_macs(inst, budget, Limits())
    assert (found.status, found.macs) == ("OPTIMAL", min(m for m, p in points if p <= budget))
    assert found.bound == found.macs == macs_of(inst, found.reruns)
    assert found.peak == peak_of(inst, found.reruns) <= budget
    cap = data.draw(st.sampled_from(sorted({m for m, _ in points})))
    lowest = least_peak(inst, cap, Limits())
    assert (lowest.status, lowest.peak) == ("OPTIMAL", min(p for m, p in points if m <= cap))
    assert least_macs(inst, min(p for _, p in points) - 1, Limits()).status == "INFEASIBLE"


@given(schedules(max_ops=3), st.data())
def test_the_matrix_model_is_brute_force_on_networks(schedule: Schedule, data: st.DataObject) -> None:
    inst = instance(schedule)
    assume(len(inst.ops) * len(inst.slots) <= 10)
    points = brute_force(inst)
    budget = data.draw(st.sampled_from(sorted({p for _, p in points})))
    found = least_macs(inst, budget, Limits())
    assert (found.status, found.macs) == ("OPTIMAL", min(m for m, p in points if p <= budget))


def test_a_rerun_that_cannot_be() -> None:
    inst = instance(differentiate(net := sp.zoo.upydnet(), UpdateSet.all(net)))
    with pytest.raises(InternalError, match="rerun of op 0 at step 30"):
        peak_of(inst, [(0, 30)])
