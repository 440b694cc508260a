"""Fast training agrees with the arena, touches only what is updated, and checks its data."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted import RandomNetwork, any_picks, any_update, plan_of, problem_of

from sparseplan.builder import NetworkBuilder, init_parameters
from sparseplan.dtypes import numpy_dtype
from sparseplan.errors import DataError, ProblemError
from sparseplan.network import Network
from sparseplan.run import Optimizer, Trainer, TrainSettings, gradients, predict, reference, run, train
from sparseplan.run.runner import random_data
from sparseplan.steps import OPTIMIZERS, TrainingOptions
from sparseplan.zoo import upydnet

Arrays = dict[str, np.ndarray]


def small() -> Network:
    net = NetworkBuilder("small")
    top = net.leaky_relu(net.conv(net.input("image", (2, 6, 6)), 8, 3, padding=1, name="a"), 0.125)
    x = net.concat([top, net.conv_transpose(net.conv(top, 4, 2, stride=2, name="b"), 4, 2, stride=2, name="c")])
    return net.build(net.conv(net.relu(x), 1, 1, name="d"))


def problem_data(network: Network, count: int, seed: int = 0) -> tuple[Arrays, np.ndarray]:
    """Images, and what another network of that kind makes of them."""
    x, _ = random_data(network, "l1", count, seed)
    return x, predict(network, init_parameters(network, 99), x)


@given(seed=st.integers(0, 2**32))
def test_fast_training_equals_the_arena(seed: int) -> None:
    """At batch 1 bit for bit, whatever the plan picked; at larger batches up to the order of sums."""
    rng = random.Random(seed)
    network = RandomNetwork(rng, rng.randint(2, 12)).network
    dtype, optimizer = rng.choice(("fp32", "fp16", "bf16")), rng.choice(tuple(OPTIMIZERS))
    batch, loss, steps = rng.choice((1, 1, 1, 3)), rng.choice(("l1", "mse")), 2
    problem = problem_of(network, dtype=dtype, optimizer=optimizer, batch=batch, loss=loss)
    plan = plan_of(problem, any_update(problem, rng, rng.choice((0.3, 1.0))), any_picks(problem, rng))
    params = init_parameters(network, seed)
    x, target = random_data(network, loss, steps * batch, seed)
    slow = run(plan, params, x, target, samples=steps, guard_bytes=0, compare=False)
    trainer = Trainer(network, params, plan.update, TrainSettings(loss, optimizer=optimizer, lr=0.01, dtype=dtype))
    for i in range(steps):
        part = slice(i * batch, (i + 1) * batch)
        found = trainer.step({n: a[part] for n, a in x.items()}, target[part])
        if batch == 1:
            assert found == slow.losses[i]
    fast = trainer.parameters()
    for p in network.parameters:
        if batch == 1:
            assert fast[p].tobytes() == slow.parameters[p].tobytes(), p
        else:
            atol = 1e-5 if dtype == "fp32" else 0.05
            np.testing.assert_allclose(fast[p], slow.parameters[p], atol=atol, err_msg=p)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_gradients_equal_the_reference(dtype: str) -> None:
    network = upydnet()
    params = init_parameters(network, 1)
    params = {p: a.astype(numpy_dtype(dtype)).astype(np.float32) for p, a in params.items()}
    x, target = random_data(network, "l1", 2, 1)
    loss, found = gradients(network, params, x, target, dtype=dtype)
    plain = reference(network, params, x, target, "l1")
    assert loss == pytest.approx(plain.loss, rel=1e-5 if dtype == "fp32" else 0.02)
    assert set(found) == set(network.parameters)
    for p, g in found.items():
        scale = np.abs(plain.gradients[p]).max()
        tolerance = 1e-4 if dtype == "fp32" else 0.2
        np.testing.assert_allclose(g, plain.gradients[p], atol=tolerance * scale, err_msg=p)


def test_pruned_gradients_equal_full_ones() -> None:
    network = upydnet()
    params = init_parameters(network, 1)
    x, target = random_data(network, "mse", 1, 2)
    _, full = gradients(network, params, x, target, "mse")
    _, some = gradients(
        network, params, x, target, "mse", update={"decoder0.conv1.weight": 0.5, "ups0.tconv.bias": 1.0}
    )
    assert set(some) == {"decoder0.conv1.weight", "ups0.tconv.bias"}
    assert some["decoder0.conv1.weight"].shape == (32, 16, 3, 3)
    np.testing.assert_allclose(
        some["decoder0.conv1.weight"], full["decoder0.conv1.weight"][:, :16], rtol=1e-4, atol=1e-8
    )
    np.testing.assert_array_equal(some["ups0.tconv.bias"], full["ups0.tconv.bias"])


def test_predictions_agree_with_pytorch(reference_data: Path) -> None:
    with np.load(reference_data / "upydnet_tartanair.npz") as f:
        params = dict(f)
    with np.load(reference_data / "upydnet_reference.npz") as f:
        expected, index = f["test_output"], f["test_index"]
    with np.load(reference_data / "micro_sec_mde.npz") as f:
        image = np.moveaxis(f["image"][index], -1, 1).astype(np.float32) / 255
    found = predict(upydnet(), params, image, batch=8)
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_predictions_do_not_depend_on_the_batch(batch: int) -> None:
    network = small()
    params = init_parameters(network)
    x, _ = random_data(network, "l1", 5, 0)
    found = predict(network, params, x, batch=batch)
    assert found.shape == (5, 1, 6, 6)
    np.testing.assert_allclose(found, predict(network, params, x["image"], batch=5), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_learns(optimizer: str) -> None:
    network = small()
    x, target = problem_data(network, 32)
    lr = {"sgd": 0.3, "momentum": 0.05, "adam": 0.01}[optimizer]
    settings = TrainSettings("mse", optimizer=optimizer, lr=lr, epochs=15, batch=8)
    result = train(network, init_parameters(network, 1), dict.fromkeys(network.parameters, 1.0), x, target, settings)
    assert len(result.losses) == 15
    assert result.losses[-1] < 0.5 * result.losses[0]


def test_training_changes_what_is_updated_and_nothing_else() -> None:
    network = small()
    params = init_parameters(network, 1)
    before = {p: a.copy() for p, a in params.items()}
    x, target = problem_data(network, 4)
    images, labels = x["image"].copy(), target.copy()
    result = train(network, params, {"b.weight": 0.5, "c.bias": 1.0}, x, target, TrainSettings(epochs=2, batch=3))
    assert all((params[p] == before[p]).all() for p in params)
    assert (x["image"] == images).all()
    assert (target == labels).all()
    changed = {p for p in params if (result.parameters[p] != before[p]).any()}
    assert changed == {"b.weight", "c.bias"}
    assert (result.parameters["b.weight"][:, 4:] == before["b.weight"][:, 4:]).all()
    result.parameters["a.weight"][:] = 0  # copies, not views
    assert all((params[p] == before[p]).all() for p in params)


def test_same_seed_same_training() -> None:
    network = small()
    x, target = problem_data(network, 8)

    def trained(seed: int) -> Arrays:
        settings = TrainSettings(epochs=2, batch=3, seed=seed)
        return dict(train(network, init_parameters(network), {"a.weight": 1.0}, x, target, settings).parameters)

    assert (trained(1)["a.weight"] == trained(1)["a.weight"]).all()
    assert (trained(1)["a.weight"] != trained(2)["a.weight"]).any()


def test_low_precision_parameters_are_representable() -> None:
    network = small()
    x, target = problem_data(network, 4)
    update = dict.fromkeys(network.parameters, 1.0)
    found = train(
        network, init_parameters(network), update, x, target, TrainSettings(dtype="bf16", epochs=2)
    ).parameters
    for p, a in found.items():
        assert (a == a.astype(numpy_dtype("bf16")).astype(np.float32)).all(), p


def test_the_learning_rate_drops() -> None:
    settings = TrainSettings(lr=1.0, epochs=6, lr_drop=((0.5, 0.1), (2 / 3, 0.5)))
    assert [settings.lr_at(e) for e in range(6)] == pytest.approx([1, 1, 1, 0.1, 0.05, 0.05])


def test_augmentation_and_progress_are_called() -> None:
    network = small()
    x, target = problem_data(network, 5)
    seen: list[tuple[int, ...]] = []
    told: list[tuple[int, int]] = []

    def flip(images: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        seen.append(images.shape)
        assert rng.random() < 1
        images *= 1  # a copy: the caller's data stay as they are
        return images[..., ::-1], labels[..., ::-1]

    train(
        network, init_parameters(network), {"a.weight": 1.0}, x["image"], target, TrainSettings(epochs=2, batch=3),
        flip, lambda epoch, epochs, loss: told.append((epoch, epochs)),
    )  # fmt: skip
    assert seen == [(3, 2, 6, 6), (2, 2, 6, 6)] * 2
    assert told == [(1, 2), (2, 2)]


def test_bad_data_is_refused() -> None:
    network = small()
    params, (x, target) = init_parameters(network), problem_data(network, 2)
    update = {"a.weight": 1.0}
    with pytest.raises(DataError, match=r"input 'image' has shape \(2, 6, 6\), expected \(samples, 2, 6, 6\)"):
        predict(network, params, x["image"][0])
    with pytest.raises(DataError, match="input 'image' holds NaN"):
        train(network, params, update, np.full((2, 2, 6, 6), np.nan), target)
    with pytest.raises(DataError, match=r"target has shape \(2, 6, 6\)"):
        train(network, params, update, x, target[:, 0])
    with pytest.raises(DataError, match="numbers of samples differ: x 2, target 1"):
        train(network, params, update, x, target[:1])
    with pytest.raises(DataError, match="target holds infinity"):
        gradients(network, params, x, np.full_like(target, np.inf))
    with pytest.raises(DataError, match=r"'a\.weight' has shape"):
        predict(network, {**params, "a.weight": np.zeros(3)}, x)
    with pytest.raises(DataError, match="input 'img' is unknown"):
        predict(network, params, {"img": x["image"]})
    with pytest.raises(DataError, match="dtype="):
        predict(network, params, np.full((2, 2, 6, 6), "text"))
    with pytest.raises(ProblemError, match=r"parameter 'a\.weigth' is unknown.*did you mean 'a\.weight'"):
        train(network, params, {"a.weigth": 1.0}, x, target)
    with pytest.raises(DataError, match="lower lr"), np.errstate(all="ignore"):
        train(network, params, dict.fromkeys(network.parameters, 1.0), x, target,
              TrainSettings("mse", optimizer="sgd", lr=1e30, epochs=9, batch=2))  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": "adamw"}, "did you mean 'adam'"), ({"lr": -1}, "lr=-1"), ({"lr": float("nan")}, "lr=nan"),
        ({"epochs": 0}, "epochs=0"), ({"batch": True}, "batch=True"), ({"dtype": "int8"}, "cannot be trained in"),
        ({"loss": "l3"}, "loss 'l3' is unknown"), ({"lr_drop": ((2, 0.1),)}, "lr_drop="),
        ({"betas": (0.9, 1)}, r"betas\[1\]"),
    ],
)  # fmt: skip
def test_bad_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises((ProblemError, ValueError), match=message):
        TrainSettings(**settings)  # type: ignore[arg-type]


def test_optimizers_follow_their_formulas() -> None:
    p, g = np.array([1.0, -2.0]), np.array([0.5, 0.25])
    new, states = Optimizer("sgd", weight_decay=0.1).apply(p, g, (), 0.1, 1)
    np.testing.assert_allclose(new, p - 0.1 * (g + 0.1 * p))
    assert states == ()
    new, (m,) = Optimizer("momentum", momentum=0.5).apply(p, g, (np.array([1.0, 1.0]),), 0.1, 7)
    np.testing.assert_allclose(m, 0.5 + g)
    np.testing.assert_allclose(new, p - 0.1 * m)
    zero = np.zeros(2)
    new, (m, v) = Optimizer("adam").apply(p, g, (zero, zero), 0.1, 1)
    np.testing.assert_allclose(m, 0.1 * g)
    np.testing.assert_allclose(v, 0.001 * g * g)
    np.testing.assert_allclose(new, p - 0.1 * np.sign(g), rtol=1e-6)  # the first step is lr long


def test_options_of_a_step_are_those_of_the_settings() -> None:
    options = TrainSettings("huber", {"delta": 2.0}, optimizer="sgd", dtype="fp16").options()
    assert options == TrainingOptions("fp16", 1, "sgd", loss="huber", loss_attrs={"delta": 2.0})
