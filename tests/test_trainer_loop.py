"""Accumulated batches update as one; schedules and early stopping do what they say, and never change the rest."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_trainer import problem_data, small

from sparseplan.builder import NetworkBuilder, init_parameters
from sparseplan.errors import DataError, ProblemError
from sparseplan.run import EarlyStopping, LrSchedule, Trainer, TrainSettings, Validation, predict, train
from sparseplan.steps import OPTIMIZERS

NET = small()
UPDATE = {"a.weight": 1.0, "b.weight": 0.5, "b.bias": 1.0, "d.bias": 1.0}


# -- accumulation ---------------------------------------------------------------------------------
@given(
    seed=st.integers(0, 999), runs=st.integers(2, 4), loss=st.sampled_from(["l1", "mse", "huber"]),
    optimizer=st.sampled_from(sorted(OPTIMIZERS)),
)  # fmt: skip
def test_accumulated_batches_update_as_the_one_large_batch(seed: int, runs: int, loss: str, optimizer: str) -> None:
    """For losses that are means over labels, however many labels each batch has; over several updates."""
    rng = np.random.default_rng(seed)
    x = rng.random((12, 2, 6, 6), np.float32)
    target = rng.standard_normal((12, 1, 6, 6)).astype(np.float32)
    target[rng.random(target.shape) < rng.random((12, 1, 1, 1))] = np.nan
    target[int(rng.integers(12))] = np.nan  # one sample without any label
    # Adam divides by a gradient's size: with a large eps, rounding is not blown up where that is all but 0
    large = TrainSettings(loss, optimizer=optimizer, lr=0.05, batch=3 * runs, epochs=2, eps=0.01)
    pieces = replace(large, batch=3, accumulate=runs)
    one = train(NET, init_parameters(NET), UPDATE, x, target, large)
    many = train(NET, init_parameters(NET), UPDATE, x, target, pieces)
    assert one.updates == many.updates == 2 * -(-12 // (3 * runs))
    for p in UPDATE:
        np.testing.assert_allclose(one.parameters[p], many.parameters[p], rtol=1e-4, atol=2e-5, err_msg=p)


def test_accumulated_classes_update_as_the_one_large_batch() -> None:
    net = NetworkBuilder("classes")
    network = net.build(net.linear(net.input("x", (18,)), 4, name="f"))
    x = np.random.default_rng(0).random((10, 18), np.float32)
    y = np.random.default_rng(1).integers(0, 4, (10, 1), np.int32)
    large = TrainSettings("cross_entropy", optimizer="sgd", lr=0.5, batch=10)
    one = train(network, init_parameters(network), {"f.weight": 1.0}, x, y, large)
    many = train(network, init_parameters(network), {"f.weight": 1.0}, x, y, replace(large, batch=3, accumulate=4))
    np.testing.assert_allclose(one.parameters["f.weight"], many.parameters["f.weight"], atol=1e-6)


def test_batches_without_labels_change_nothing() -> None:
    params = init_parameters(NET)
    settings = TrainSettings(optimizer="sgd", batch=2, accumulate=2)
    x, nothing = np.ones((4, 2, 6, 6), np.float32), np.full((4, 1, 6, 6), np.nan, np.float32)
    found = train(NET, params, UPDATE, x, nothing, settings)
    assert all((found.parameters[p] == params[p]).all() for p in params)
    assert found.losses == (0.0,)


def test_one_batch_of_an_accumulating_trainer_is_a_plain_step() -> None:
    x, target = problem_data(NET, 3)
    plain = Trainer(NET, init_parameters(NET), UPDATE, TrainSettings())
    summing = Trainer(NET, init_parameters(NET), UPDATE, TrainSettings(accumulate=4))
    for _ in range(3):
        assert plain.step(x, target) == summing.step(x, target)
    found = summing.parameters()
    assert all((a == found[p]).all() for p, a in plain.parameters().items())
    with pytest.raises(ProblemError, match="gradients takes one batch; give settings with accumulate=1"):
        summing.gradients(x, target)


# -- schedules ------------------------------------------------------------------------------------
def rates(epochs: int, per_epoch: int, **fields: object) -> list[float]:
    schedule = LrSchedule(**fields)  # type: ignore[arg-type]
    return [schedule.factor(u, per_epoch, epochs) for u in range(epochs * per_epoch)]


def test_schedules_follow_their_formulas() -> None:
    assert rates(2, 2) == [1, 1, 1, 1]
    assert rates(2, 2, kind="linear") == [1, 0.75, 0.5, 0.25]
    assert rates(2, 2, kind="linear", last=0.2) == pytest.approx([1, 0.8, 0.6, 0.4])
    assert rates(1, 4, kind="cosine") == pytest.approx([(1 + math.cos(math.pi * k / 4)) / 2 for k in range(4)])
    assert rates(4, 2, kind="step") == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01])
    assert rates(3, 2, kind="step", drops=((0.4, 0.5),)) == [1, 1, 1, 1, 0.5, 0.5]  # from an epoch's beginning
    assert rates(2, 4, warmup=0.5) == [0.25, 0.5, 0.75, 1, 1, 1, 1, 1]
    assert rates(2, 4, kind="linear", warmup=0.5) == [0.25, 0.5, 0.75, 1, 1, 0.75, 0.5, 0.25]
    assert rates(2, 2, kind="step", warmup=0.25) == pytest.approx([1, 1, 0.1, 0.1])


@given(
    kind=st.sampled_from(["constant", "step", "cosine", "linear"]), warmup=st.floats(0, 0.9),
    last=st.floats(0, 1), epochs=st.integers(1, 9), per_epoch=st.integers(1, 9),
)  # fmt: skip
def test_factors_rise_then_fall_within_0_and_1(
    kind: str, warmup: float, last: float, epochs: int, per_epoch: int
) -> None:
    found = rates(epochs, per_epoch, kind=kind, warmup=warmup, last=last)
    assert all(0 < f <= 1 for f in found)
    rising = math.ceil(warmup * epochs * per_epoch)
    if kind != "step":
        assert found[:rising] == sorted(found[:rising])
    assert found[rising:] == sorted(found[rising:], reverse=True)


def test_the_step_schedule_is_lr_drop() -> None:
    x, target = problem_data(NET, 8)
    drops = ((0.5, 0.1), (0.75, 0.5))
    first = TrainSettings(epochs=4, batch=3, lr_drop=drops)
    second = TrainSettings(epochs=4, batch=3, schedule=LrSchedule("step", drops=drops))
    found = [train(NET, init_parameters(NET), UPDATE, x, target, s).parameters["a.weight"] for s in (first, second)]
    assert (found[0] == found[1]).all()


def test_the_rate_changes_with_each_update() -> None:
    x, target = problem_data(NET, 8)
    sgd = TrainSettings("mse", optimizer="sgd", lr=0.1, epochs=2, batch=4)
    seen: list[float] = []

    class Spy(Trainer):
        def update(self, batches, lr):  # type: ignore[no-untyped-def]
            seen.append(lr)
            return super().update(batches, lr)

    from sparseplan.run.fitting import check_data, fit

    settings = replace(sgd, schedule=LrSchedule("linear"))
    fit(Spy(NET, init_parameters(NET), UPDATE, settings), NET, check_data(NET, x, target, "mse"), settings)
    assert seen == pytest.approx([0.1, 0.075, 0.05, 0.025])


# -- validation and early stopping ------------------------------------------------------------------
def test_validation_is_told_and_changes_nothing() -> None:
    x, target = problem_data(NET, 8)
    held, labels = problem_data(NET, 5, seed=1)
    settings = TrainSettings("mse", epochs=3, batch=4, lr=0.01)
    plain = train(NET, init_parameters(NET), UPDATE, x, target, settings)
    told = train(NET, init_parameters(NET), UPDATE, x, target, settings, validation=Validation(held, labels))
    assert plain.val_losses == plain.val_scores == ()
    assert plain.losses == told.losses
    assert all((plain.parameters[p] == told.parameters[p]).all() for p in plain.parameters)
    assert (told.epochs, told.best, len(told.val_losses)) == (3, 3, 4)
    for params, loss in ((init_parameters(NET), told.val_losses[0]), (told.parameters, told.val_losses[-1])):
        expected = float(((predict(NET, params, held) - labels) ** 2).mean())
        assert loss == pytest.approx(expected, rel=1e-5)
    assert told.val_scores == tuple(-loss for loss in told.val_losses)


def test_early_stopping_restores_the_best() -> None:
    """Judged by a score that is made to peak after the second epoch."""
    x, target = problem_data(NET, 8)
    scores = iter([0.0, 1.0, 2.0, 1.9, 2.05, 1.0, 0.0, 9.0])
    settings = TrainSettings("mse", epochs=7, batch=4, lr=0.01, stopping=EarlyStopping(3, 0.1))
    held = Validation(x, target, lambda output: next(scores))
    found = train(NET, init_parameters(NET), UPDATE, x, target, settings, validation=held)
    assert (found.epochs, found.best) == (5, 2)  # 2.05 is no improvement by min_delta
    assert found.val_scores == (0.0, 1.0, 2.0, 1.9, 2.05, 1.0)
    assert found.updates == 10
    two = train(NET, init_parameters(NET), UPDATE, x, target, replace(settings, epochs=2, stopping=None))
    assert all((found.parameters[p] == two.parameters[p]).all() for p in two.parameters)


def test_early_stopping_never_ends_worse_than_it_began() -> None:
    x, target = problem_data(NET, 8)
    settings = TrainSettings("mse", optimizer="sgd", epochs=9, batch=4, lr=0.1, stopping=EarlyStopping(2))
    params = init_parameters(NET)
    apart = Validation(x, -target + 100)  # the better on the one, the worse on the other
    found = train(NET, params, {"d.bias": 1.0}, x, target - 100, settings, validation=apart)
    assert (found.epochs, found.best) == (2, 0)
    assert all((found.parameters[p] == params[p]).all() for p in params)


def test_early_stopping_by_the_loss() -> None:
    x, target = problem_data(NET, 16)
    held, labels = problem_data(NET, 8, seed=1)
    settings = TrainSettings("mse", epochs=20, batch=4, lr=0.01, stopping=EarlyStopping(2))
    found = train(NET, init_parameters(NET, 1), UPDATE, x, target, settings, validation=Validation(held, labels))
    assert found.val_losses[found.best] == min(found.val_losses)
    assert predict(NET, found.parameters, held) is not None
    loss = float(((predict(NET, found.parameters, held) - labels) ** 2).mean())
    assert loss == pytest.approx(min(found.val_losses), rel=1e-5)


# -- bad input ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LrSchedule("cosin"), "schedule='cosin' is unknown; did you mean 'cosine'"),
        (lambda: LrSchedule(warmup=1.0), r"warmup=1\.0 must be a share of the updates"),
        (lambda: LrSchedule(last=-1), "last=-1 must be a factor from 0 to 1"),
        (lambda: LrSchedule("step", drops=((2, 0.1),)), "drops=.* must be"),
        (lambda: EarlyStopping(0), "patience=0 must be a whole number, at least 1"),
        (lambda: EarlyStopping(1, math.inf), "min_delta=inf must be a finite number"),
        (lambda: TrainSettings(accumulate=0), "accumulate=0 must be a whole number"),
        (lambda: TrainSettings(schedule="cosine"), "schedule='cosine' must be an LrSchedule"),  # type: ignore[arg-type]
        (lambda: TrainSettings(lr_drop=((0.5, 0.1),), schedule=LrSchedule("cosine")), r"give one; lr_drop=\(\)"),
    ],
)  # fmt: skip
def test_bad_settings_are_refused(make, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ProblemError, match=message):
        make()


def test_bad_validation_is_refused() -> None:
    params, (x, target) = init_parameters(NET), problem_data(NET, 2)
    stop = TrainSettings(stopping=EarlyStopping())
    with pytest.raises(ProblemError, match="needs validation data; give validation, or stopping=None"):
        train(NET, params, UPDATE, x, target, stop)
    with pytest.raises(DataError, match="validation target has shape"):
        train(NET, params, UPDATE, x, target, stop, validation=Validation(x, target[:, 0]))
    with pytest.raises(DataError, match="validation numbers of samples differ: x 2, target 1"):
        train(NET, params, UPDATE, x, target, stop, validation=Validation(x, target[:1]))
    with pytest.raises(DataError, match="validation score became NaN in epoch 0"):
        train(NET, params, UPDATE, x, target, stop, validation=Validation(x, target, lambda y: math.nan))
    wild = replace(stop, optimizer="sgd", lr=1e30, loss="mse")
    with pytest.raises(DataError, match=r"lower lr=1e\+30"), np.errstate(all="ignore"):
        train(NET, params, UPDATE, x, target, wild, validation=Validation(x, target))
