"""Training in the arena of exactly a plan's bytes is the plain reference's training, bit for bit."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted import RandomNetwork, any_picks, any_update, plan_of, problem_of
from test_trainer import small

from sparseplan.builder import init_parameters
from sparseplan.errors import DataError, PlanError, ProblemError
from sparseplan.network import Network
from sparseplan.plan import Plan
from sparseplan.run import (
    EarlyStopping,
    LrSchedule,
    TrainSettings,
    Validation,
    adapt,
    plan_settings,
    reference,
    train,
)
from sparseplan.run.checks import stored_parameters
from sparseplan.run.reference import store
from sparseplan.run.runner import arithmetic_of, random_data
from sparseplan.steps import OPTIMIZERS

Arrays = dict[str, np.ndarray]


def some_plan(seed: int, **options: object) -> tuple[Network, Plan]:
    rng = random.Random(seed)
    network = RandomNetwork(rng, rng.randint(2, 8)).network
    problem = problem_of(network, **options)
    return network, plan_of(problem, any_update(problem, rng, 0.7), any_picks(problem, rng))


def by_reference(plan: Plan, params: Arrays, x: Arrays, target: np.ndarray, how: TrainSettings) -> tuple[Arrays, list]:
    """The same training, written out over the reference: no schedule, no arena, no trainer."""
    network, options = plan.problem.network, plan.problem.options
    accumulates = options.gradients == "accumulate"
    arithmetic = arithmetic_of(network, options.dtype, plan.steps, accumulates)
    params = stored_parameters(network, params, options)
    types = {v.name: v.dtype for v in plan.values}
    rng, rule = np.random.default_rng(how.seed), how.rule()
    states: dict[str, tuple[np.ndarray, ...]] = {}
    losses, count = [], 0
    for epoch in range(how.epochs):
        order = rng.permutation(len(target))
        order = order[: len(order) // how.batch * how.batch]
        picks = [order[i : i + how.batch] for i in range(0, len(order), how.batch)]
        total = 0.0
        groups = [picks[i : i + how.accumulate] for i in range(0, len(picks), how.accumulate)]
        for number, group in enumerate(groups):
            sums: Arrays = {}
            for picked in group:
                arrays = {n: store(a[picked], types.get(n, "fp32")) for n, a in x.items()}
                labels = store(target[picked], types.get("(target)", "fp32"))
                found = reference(network, params, arrays, labels, how.loss, how.loss_attrs, arithmetic)
                total += found.loss * len(picked)
                for p in plan.update:
                    g = found.gradients[p]
                    sums[p] = store(sums.get(p, np.float32(0)) + g, options.dtype) if accumulates else g
            count += 1
            for p, g in sums.items():
                if len(group) > 1:
                    g = g / len(group)
                part = tuple(slice(0, n) for n in g.shape)
                old = states.get(p) or tuple(np.zeros_like(g) for _ in OPTIMIZERS[how.optimizer])
                lr = how.lr_at(epoch, number, len(groups))
                new, news = rule.apply(params[p][part], g, old, lr, count)
                states[p] = tuple(store(s, options.dtype) for s in news)
                t = network.tensor[p]
                params[p] = params[p].copy()
                params[p][part] = store(new, t.dtype or options.dtype, t.scale)
        losses.append(total / len(order))
    return params, losses


@given(seed=st.integers(0, 2**32))
def test_training_in_the_arena_is_the_references_bit_for_bit(seed: int) -> None:
    """Any network, dtype, optimizer, batch, fused or accumulated, with and without checks between."""
    rng = random.Random(seed)
    optimizer, gradients = rng.choice(tuple(OPTIMIZERS)), rng.choice(("fused", "accumulate"))
    batch = rng.choice((1, 1, 2))
    network, plan = some_plan(
        seed, dtype=rng.choice(("fp32", "fp16", "bf16")), optimizer=optimizer, batch=batch, loss="mse",
        gradients=gradients, frozen=rng.choice(("L2", "flash")),
    )  # fmt: skip
    params = init_parameters(network, seed)
    x, target = random_data(network, "mse", 13, seed)
    target = np.nan_to_num(target)  # as many labels in each sample: all weigh the same
    how = plan_settings(plan, epochs=2, lr=0.01, seed=seed, schedule=LrSchedule("cosine", warmup=0.2),
                        accumulate=1 if gradients == "fused" else rng.choice((1, 4)))  # fmt: skip
    found = adapt(plan, params, x, target, how, check_every=rng.choice((1, 5)))
    assert found.faults == ()
    assert found.guard_intact
    assert dict(found.touched_bytes) == dict(found.claimed_bytes)
    expected, losses = by_reference(plan, params, x, target, how)
    for p in network.parameters:
        assert found.result.parameters[p].tobytes() == expected[p].tobytes(), p
    assert list(found.result.losses) == losses
    if batch == 1:
        fast = train(network, params, plan.update, x, target, how)
        assert all(fast.parameters[p].tobytes() == expected[p].tobytes() for p in network.parameters)
        assert list(fast.losses) == losses


@pytest.mark.parametrize("gradients", ["fused", "accumulate"])
def test_a_few_dozen_samples_with_missing_labels_equal_fast_training(gradients: str) -> None:
    """Weighted by labels when accumulated, as fast training does."""
    network, plan = some_plan(3, dtype="bf16", loss="l1", gradients=gradients)
    x, target = random_data(network, "l1", 48, 3)
    target[np.random.default_rng(0).random(target.shape) < 0.4] = np.nan
    target[7] = np.nan
    how = plan_settings(plan, epochs=2, seed=1)
    assert how.accumulate == (16 if gradients == "accumulate" else 1)
    params = init_parameters(network, 1)
    lines: list[tuple[int, int]] = []
    held = Validation({n: a[:5] for n, a in x.items()}, target[:5])
    found = adapt(plan, params, x, target, how, validation=held, progress=lambda e, n, loss: lines.append((e, n)))
    fast = train(network, params, plan.update, x, target, how, validation=held)
    assert lines == [(1, 2), (2, 2)]
    assert fast.losses == found.result.losses
    assert fast.val_losses == found.result.val_losses
    for p in network.parameters:
        assert fast.parameters[p].tobytes() == found.result.parameters[p].tobytes(), p
        assert (
            p in plan.update
            or fast.parameters[p].tobytes() == stored_parameters(network, params, plan.problem.options)[p].tobytes()
        )
    assert found.updates == (96 if gradients == "fused" else 6)
    assert found.checked_updates == (6 if gradients == "fused" else 3)  # 0, 1, 25, 50, 75 and 95; 0, 1 and 5
    assert found.to_json()["guard_intact"]


def test_early_stopping_in_the_arena() -> None:
    network, plan = some_plan(5, dtype="fp32", loss="mse")
    x, target = random_data(network, "mse", 6, 0)
    scores = iter([0.0, 2.0, 1.0, 1.0, 3.0])
    how = plan_settings(plan, epochs=5, stopping=EarlyStopping(2))
    params = init_parameters(network)
    held = Validation(x, target, lambda y: next(scores))
    found = adapt(plan, params, x, target, how, validation=held).result
    assert (found.epochs, found.best) == (3, 1)
    one = adapt(plan, params, x, target, replace(how, epochs=1, stopping=None)).result
    assert all((one.parameters[p] == found.parameters[p]).all() for p in network.parameters)


def test_a_stray_write_between_checks_is_found() -> None:
    """A red zone and a frozen parameter that change in an unchecked update are told at the next check."""
    plans = (some_plan(seed, dtype="fp32", loss="mse", frozen="L2") for seed in range(99))
    network, plan, frozen = next(
        (n, p, v.name) for n, p in plans for v in p.values if v.role == "parameter" and v.name not in p.update
    )
    x, target = random_data(network, "mse", 8, 0)
    from sparseplan.run.machine import Machine

    plain = Machine._run
    calls = []

    def spoil(self: Machine, which: range, arrivals: object) -> float:
        loss = plain(self, which, arrivals)  # type: ignore[arg-type]
        calls.append(self)
        if not self.arena.strict:
            memory = self.arena.levels["L2"]
            memory._raw[5] = 7
            memory.bytes[self.arena._base[frozen][1]] = 7
        return loss

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Machine, "_run", spoil)
        found = adapt(plan, init_parameters(network), x, target, plan_settings(plan), guard_bytes=0)
    assert calls
    assert not found.guard_intact
    assert "unchecked steps: L2 bytes" in found.faults[0]
    assert any("[-" in fault for fault in found.faults)


def test_samples_that_do_not_fill_a_batch_are_left_out() -> None:
    network, plan = some_plan(1, dtype="fp32", loss="mse", batch=4)
    x, target = random_data(network, "mse", 11, 0)
    assert adapt(plan, init_parameters(network), x, target, plan_settings(plan, epochs=3)).updates == 6
    few = {n: a[:3] for n, a in x.items()}
    with pytest.raises(DataError, match="3 samples do not fill one batch=4; give more samples"):
        adapt(plan, init_parameters(network), few, target[:3], plan_settings(plan))


def test_settings_follow_the_plan() -> None:
    _, plan = some_plan(1, dtype="bf16", loss="mse", optimizer="momentum", batch=2, gradients="accumulate")
    found = plan_settings(plan)
    assert (found.optimizer, found.dtype, found.batch, found.loss, found.accumulate) == (
        "momentum", "bf16", 2, "mse", 8
    )  # fmt: skip
    task = TrainSettings("l1", optimizer="adam", lr=1e-3, epochs=9, batch=16, schedule=LrSchedule("linear"))
    mixed = plan_settings(plan, task, seed=4)
    assert (mixed.epochs, mixed.seed, mixed.lr, mixed.schedule.kind) == (9, 4, found.lr, "linear")
    assert plan_settings(plan, replace(task, optimizer="momentum", lr=0.5)).lr == 0.5
    assert plan_settings(plan, task, lr=0.25, accumulate=3).accumulate == 3


def test_bad_input() -> None:
    network, plan = some_plan(3, dtype="fp32", loss="mse")
    params = init_parameters(network)
    x, target = random_data(network, "mse", 4, 0)
    with pytest.raises(ProblemError, match=r"optimizer='adam' differs from the plan's 'sgd'; plan_settings\(plan\)"):
        adapt(plan, params, x, target, TrainSettings("mse"))
    with pytest.raises(ProblemError, match="batch=2 differs from the plan's 1"):
        plan_settings(plan, batch=2)
    with pytest.raises(ProblemError, match="accumulate=4, but the plan fuses its updates"):
        plan_settings(plan, accumulate=4)
    with pytest.raises(ProblemError, match="check_every=0 must be a whole number"):
        adapt(plan, params, x, target, check_every=0)
    with pytest.raises(ProblemError, match="needs validation data"):
        adapt(plan, params, x, target, plan_settings(plan, stopping=EarlyStopping()))
    with pytest.raises(PlanError, match="status=UNKNOWN has nothing to run"):
        adapt(Plan(plan.problem, "UNKNOWN", 0.0, 0.0), params, x, target)
    with pytest.raises(DataError, match="holds NaN or infinity"):
        adapt(plan, params, {n: np.full_like(a, np.nan) for n, a in x.items()}, target)
    net = small()
    x, target = random_data(net, "mse", 4, 0)
    plan = plan_of(problem_of(net, dtype="fp32", loss="mse"), dict.fromkeys(net.parameters, 1.0), {})
    with pytest.raises(DataError, match="lower lr="), np.errstate(all="ignore"):
        adapt(plan, init_parameters(net), x, target, plan_settings(plan, lr=1e30, epochs=4))
