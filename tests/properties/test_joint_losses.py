"""Losses on several outputs: their weighted sum is what is minimised, by every plan and within its bytes.

Gradients equal central differences of the weighted sum; the arena equals the reference bit for bit, loss by loss;
the verifier is silent, and finds every loss step that is left out, doubled, or of another output; the planner is never
worse than trying everything by hand; a plan's losses come back from its file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from savings import some_savings, with_savings

from sparseplan.autodiff import trace
from sparseplan.network import Network
from sparseplan.objective import Loss, labels_of
from sparseplan.ops import infos, loss_def, op_def
from sparseplan.problem import Problem
from sparseplan.run.reference import reference
from sparseplan.run.runner import random_samples
from sparseplan.solve.cpsat import Limits
from sparseplan.solve.striped import solve
from sparseplan.steps import TrainingOptions, UpdateSet
from sparseplan.testing import (
    check_accepted,
    check_exact_at_least_greedy,
    check_exact_equals_brute_force,
    check_fewest_bytes,
    check_json,
    check_renaming,
    check_rows,
    check_runs_within_budget,
    check_savings,
    joint_options,
    joint_problems,
    networks,
    plan_of,
    several_outputs,
)
from sparseplan.testing.gradients import generic_parameters
from sparseplan.testing.peers import trainable
from sparseplan.verify import verify

LIMITS = Limits(20.0)
FEWER = settings(max_examples=max(1, settings().max_examples // 2))
STEP = 1e-6


Arrays = Mapping[str, np.ndarray]


def total(network: Network, params: Arrays, x: Arrays, targets: Arrays, losses: tuple[Loss, ...]) -> float:
    """The weighted sum by the ops' kernels alone."""
    at, table = dict(x), infos(network)
    count = len(next(iter(targets.values())))
    for op in network.ops:
        slots = {slot: params[p] for slot, p in op.params.items()}
        y = op_def(op.kind).forward(table[op.name], [at[t] for t in op.inputs], slots)
        at[op.output] = y if op.inputs else np.repeat(y, count, axis=0)
    return sum(
        x.weight * loss_def(x.kind).value_and_grad(at[x.output], targets[label], {**loss_def(x.kind).defaults})[0]
        for x, label in zip(losses, labels_of(losses), strict=True)
    )


def loose(problem: Problem) -> Problem:
    """The problem without what could forbid an update set."""
    kept = tuple(replace(v, bytes=None) for v in problem.device.levels if v.name != "L1")
    free = replace(problem, must={}, ties=(), max_macs=None)
    return replace(free, device=replace(problem.device, levels=kept))


@st.composite
def smooth(draw: st.DrawFn) -> tuple[Network, TrainingOptions, int]:
    network = draw(several_outputs(draw(networks(max_ops=7).filter(lambda n: bool(n.ops)))))
    setting = draw(joint_options(network, "fp32", 1))
    losses = {(x.output, "mse" if x.kind in ("l1", "huber") else x.kind): x.weight for x in setting.losses}
    setting = replace(setting, losses=tuple(Loss(output, kind, w) for (output, kind), w in losses.items()))
    assume(trainable(network, setting))
    return network, setting, draw(st.integers(0, 1000))


@given(smooth())
def test_gradients_are_those_of_the_weighted_sum(case: tuple[Network, TrainingOptions, int]) -> None:
    network, setting, seed = case
    x32, found = random_samples(network, setting, 2, seed)
    assert isinstance(found, dict)
    targets = {n: a if a.dtype.kind == "i" else a.astype(np.float64) for n, a in found.items()}
    x = {n: a if a.dtype.kind == "i" else a.astype(np.float64) for n, a in x32.items()}
    params = generic_parameters(network, seed)
    there = reference(network, params, x, targets, setting.losses)
    here = total(network, params, x, targets, setting.losses)
    assert there.loss == pytest.approx(here, rel=1e-12, abs=1e-12)
    rng = np.random.default_rng(seed)
    for p in trainable(network, setting):
        direction = rng.standard_normal(params[p].shape)
        direction /= np.linalg.norm(direction)
        ends = [total(network, {**params, p: params[p] + h * direction}, x, targets, setting.losses)
                for h in (STEP, -STEP)]  # fmt: skip
        slopes = (ends[0] - here) / STEP, (here - ends[1]) / STEP
        size = max(float(np.linalg.norm(there.gradients[p])), *map(abs, slopes), abs(here), 1e-3)
        if abs(slopes[0] - slopes[1]) <= 5e-4 * size:  # no kink of an op within the step
            assert float(np.sum(there.gradients[p] * direction)) == pytest.approx(sum(slopes) / 2, abs=1e-5 * size)


@given(joint_problems(), st.data())
def test_any_update_set_runs_as_the_reference_does(problem: Problem, data: st.DataObject) -> None:
    update = {p: data.draw(st.sampled_from(r)) for p, r in problem.choices.items() if data.draw(st.booleans())}
    plan = plan_of(loose(problem), update)
    assert [str(v) for v in verify(plan.problem, plan)] == []
    report = check_runs_within_budget(plan, samples=2)
    for values, whole in zip(report.output_losses, report.losses, strict=True):
        assert list(values) == list(labels_of(problem.options.losses))
        weighted = sum(x.weight * v for x, v in zip(problem.options.losses, values.values(), strict=True))
        assert whole == pytest.approx(weighted, rel=1e-12)
    assert sum(v.role == "target" for v in plan.values) == len(problem.options.losses)
    check_json(plan)


@FEWER
@given(joint_problems(max_ops=6, max_choices=12))
def test_plans_are_optimal_and_run(problem: Problem) -> None:
    plan = check_accepted(problem)
    check_exact_equals_brute_force(problem, plan)
    check_exact_at_least_greedy(problem, plan)
    check_fewest_bytes(problem, plan)
    if plan.feasible:
        check_runs_within_budget(plan)


@given(joint_problems(max_ops=6, tight=False), st.data())
def test_rows_are_the_bytes_of_schedules(problem: Problem, data: st.DataObject) -> None:
    update = {p: data.draw(st.sampled_from(r)) for p, r in problem.choices.items() if data.draw(st.booleans())}
    check_rows(problem, update)


@FEWER
@given(joint_problems(max_ops=6, max_choices=16))
def test_other_names_change_nothing(problem: Problem) -> None:
    check_renaming(problem, limits=LIMITS)


@FEWER
@given(joint_problems(max_ops=6, max_choices=8, batch=1), st.sampled_from(["recompute", "page", "int8", "order"]))
def test_savings_keep_what_is_computed(problem: Problem, saving: str) -> None:
    saving_problem = with_savings(problem, (saving,))
    plan = solve(saving_problem, LIMITS)
    assert [str(v) for v in verify(saving_problem, plan)] == []
    check_savings(saving_problem, plan, LIMITS)
    if plan.feasible:
        check_runs_within_budget(plan)


@FEWER
@given(joint_problems(max_ops=6, max_choices=8, tight=False), st.data())
def test_any_reruns_and_fetches_run(problem: Problem, data: st.DataObject) -> None:
    free = with_savings(loose(problem))
    update = {p: r[-1] for p, r in free.choices.items()}
    schedule = trace(free.network, free.options, free.choices).restrict(UpdateSet(update))
    plan = plan_of(free, update, None, data.draw(some_savings(free, schedule)))
    assert [str(v) for v in verify(free, plan)] == []
    check_runs_within_budget(plan)


@given(joint_problems(max_ops=5, tight=False), st.data())
def test_the_verifier_knows_which_losses_there_are(problem: Problem, data: st.DataObject) -> None:
    free = loose(problem)
    plan = plan_of(free, {p: r[-1] for p, r in free.choices.items()})
    where = [i for i, s in enumerate(plan.steps) if s.kind == "loss"]
    i = data.draw(st.sampled_from(where))
    step = plan.steps[i]
    change = data.draw(st.sampled_from(["drop", "double", "kind", "output"]))
    middle = {
        "drop": (), "double": (step, step), "kind": (replace(step, op="berhu"),),
        "output": (replace(step, target="no output"),),
    }[change]  # fmt: skip
    assert verify(free, replace(plan, steps=(*plan.steps[:i], *middle, *plan.steps[i + 1 :])))


@given(joint_problems(max_ops=5, tight=False), st.data())
def test_the_verifier_knows_whose_target_is_whose(problem: Problem, data: st.DataObject) -> None:
    """Two losses of one kind on outputs of one shape differ in their names alone."""
    free = loose(problem)
    plan = plan_of(free, {p: r[-1] for p, r in free.choices.items()})
    where = [i for i, s in enumerate(plan.steps) if s.kind == "loss"]
    assume(len(where) > 1)
    i, j = data.draw(st.permutations(where))[:2]
    steps = list(plan.steps)
    (a, one, *more), (b, other, *rest) = steps[i].reads, steps[j].reads
    steps[i], steps[j] = replace(steps[i], reads=(a, other, *more)), replace(steps[j], reads=(b, one, *rest))
    assert verify(free, replace(plan, steps=tuple(steps)))
