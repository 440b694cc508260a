"""Every measure gives each allowed update a value of its stated meaning, by independent computation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sparseplan.builder import NetworkBuilder, init_parameters
from sparseplan.errors import DataError, ProblemError
from sparseplan.network import Network
from sparseplan.problem import resolve_choices
from sparseplan.run.reference import reference
from sparseplan.run.samples import Samples
from sparseplan.value import (
    VALUES,
    fisher_information,
    get_value,
    gradient_macs,
    parameter_count,
    per,
    squared_gradient_norm,
    update_bytes,
    weight_magnitude,
)


def linear() -> Network:
    net = NetworkBuilder("one linear op")
    return net.build(net.linear(net.input("x", (4,)), 3, name="fc"))


def convolutions() -> Network:
    net = NetworkBuilder("two convolutions")
    x = net.conv(net.input("x", (3, 6, 6)), 4, 3, 1, 1, name="a")
    x = net.leaky_relu(x, 0.125, name="act")
    return net.build(net.conv(x, 2, 3, 1, 1, name="b"))


@pytest.fixture
def data(rng: np.random.Generator) -> Samples:
    return Samples(
        rng.standard_normal((5, 4)).astype(np.float32), rng.standard_normal((5, 3)).astype(np.float32), "mse"
    )


def test_fisher_of_a_linear_op_has_a_closed_form(data: Samples, rng: np.random.Generator) -> None:
    net = linear()
    w, b = rng.standard_normal((3, 4)).astype(np.float32), rng.standard_normal(3).astype(np.float32)
    values = fisher_information(net, {"fc.weight": w, "fc.bias": b}, data, {"fc.weight": (0.5, 1.0), "fc.bias": (1.0,)})
    error = data.x @ w.T + b - data.target
    delta = 2 * error / 3  # the loss is a mean over three outputs
    # channel c of the input: activation times gradient, through this op
    channels = np.stack([data.x[:, c] * (delta @ w[:, c]) for c in range(4)])
    score = (channels**2).mean(axis=1) / 2
    assert values["fc.weight"] == pytest.approx({0.5: score[:2].sum(), 1.0: score.sum()}, rel=1e-4)
    assert values["fc.bias"] == pytest.approx({1.0: ((b * delta) ** 2).mean(axis=0).sum() / 2}, rel=1e-4)


def test_squared_gradient_norm_of_a_linear_op_has_a_closed_form(data: Samples, rng: np.random.Generator) -> None:
    net = linear()
    w, b = rng.standard_normal((3, 4)).astype(np.float32), np.zeros(3, np.float32)
    values = squared_gradient_norm(net, {"fc.weight": w, "fc.bias": b}, data, {"fc.weight": (0.25, 1.0)})
    delta = 2 * (data.x @ w.T - data.target) / 3
    each = [np.outer(delta[n], data.x[n]) ** 2 for n in range(5)]
    whole = np.mean(each, axis=0)
    assert values["fc.weight"] == pytest.approx({0.25: whole[:, :1].sum(), 1.0: whole.sum()}, rel=1e-4)


def test_fisher_of_a_convolution_is_activation_times_gradient(rng: np.random.Generator) -> None:
    net = convolutions()
    params = init_parameters(net, 3)
    x, target = rng.standard_normal((4, 3, 6, 6)), rng.standard_normal((4, 2, 6, 6))
    samples = Samples(x.astype(np.float32), target.astype(np.float32), "mse")
    value = fisher_information(net, params, samples, {"b.weight": (0.25, 0.5, 1.0)})["b.weight"]
    # "b" alone reads the output of "act", so the whole gradient of that passes through "b"
    name = next(op.inputs[0] for op in net.ops if op.name == "b")
    score = np.zeros(4)
    for n in range(4):
        found = reference(net, params, {"x": samples.x[n : n + 1]}, samples.target[n : n + 1], "mse")
        product = found.tensors[name] * found.tensor_gradients[name]
        score += product.sum(axis=(0, 2, 3), dtype=np.float64) ** 2 / 2 / 4
    assert value == pytest.approx({0.25: score[0], 0.5: score[:2].sum(), 1.0: score.sum()}, rel=1e-3)


def test_count_and_magnitude_look_at_what_is_updated(rng: np.random.Generator) -> None:
    net = convolutions()
    choices = {"a.weight": (1 / 3, 1.0), "a.bias": (1.0,)}
    a = rng.standard_normal((4, 3, 3, 3))
    params = {"a.weight": a, "a.bias": np.array([1.0, -2.0, 0.0, 0.5])}
    assert parameter_count(net, None, None, choices) == {"a.weight": {1 / 3: 36, 1.0: 108}, "a.bias": {1.0: 4}}
    found = weight_magnitude(net, params, None, choices)
    assert found["a.weight"] == pytest.approx({1 / 3: abs(a[:, 0]).sum(), 1.0: abs(a).sum()})
    assert found["a.bias"] == pytest.approx({1.0: 3.5})


def test_costs_of_an_update() -> None:
    net = convolutions()
    choices = {"a.weight": (1 / 3, 1.0), "b.bias": (1.0,)}
    # gradient 4*3*9 and saved input 3*36 elements of two bytes; a third of both
    assert update_bytes(net, choices) == {"a.weight": {1 / 3: 144.0, 1.0: 432.0}, "b.bias": {1.0: 4.0}}
    assert update_bytes(net, choices, dtype="fp32", batch=2)["a.weight"][1.0] == 4 * 108 + 2 * 4 * 108
    # a bias: one addition for each of 2*36 outputs
    assert gradient_macs(net, choices) == {"a.weight": {1 / 3: 1296.0, 1.0: 3888.0}, "b.bias": {1.0: 72.0}}


def test_per_divides_by_the_cost_of_the_whole_in_parts_of_the_dearest() -> None:
    found = per({"a": {0.5: 3.0, 1.0: 4.0}, "b": {1.0: 4.0}}, {"a": {0.5: 1.0, 1.0: 2.0}, "b": {1.0: 8.0}})
    assert found == {"a": {0.5: 12.0, 1.0: 16.0}, "b": {1.0: 4.0}}
    with pytest.raises(ProblemError, match=r"parameter 'a' has no cost; known: b"):
        per({"a": {1.0: 1.0}}, {"b": {1.0: 1.0}})
    with pytest.raises(ProblemError, match=r"cost of 'a'=0.0 must be a positive number"):
        per({"a": {1.0: 1.0}}, {"a": {1.0: 0.0}})


@pytest.mark.parametrize("name", VALUES)
def test_all_have_one_signature_and_are_deterministic(name: str, rng: np.random.Generator) -> None:
    net = convolutions()
    choices, _ = resolve_choices(net)
    samples = Samples(rng.standard_normal((2, 3, 6, 6)), rng.standard_normal((2, 2, 6, 6)))
    first, second = (get_value(name)(net, init_parameters(net), samples, choices) for _ in range(2))
    assert first == second
    assert {p: tuple(t) for p, t in first.items()} == choices
    assert all(math.isfinite(v) for t in first.values() for v in t.values())


def test_what_is_wrong_is_said() -> None:
    net = linear()
    params = init_parameters(net)
    with pytest.raises(ProblemError, match=r"value 'fischer' is unknown; did you mean 'fisher'"):
        get_value("fischer")
    with pytest.raises(ProblemError, match=r"parameter 'fc.wait' is unknown to network 'one linear op'; did you mean"):
        parameter_count(net, None, None, {"fc.wait": (1.0,)})
    with pytest.raises(ProblemError, match=r"fraction of 'fc.weight'=0.1 cannot be updated"):
        weight_magnitude(net, params, None, {"fc.weight": (0.1,)})
    with pytest.raises(DataError, match=r"data=None, but this measure differentiates a loss"):
        fisher_information(net, params, None, {"fc.weight": (1.0,)})
    with pytest.raises(DataError, match=r"parameter 'fc.weight' of shape \(3, 4\) must hold 12 finite numbers"):
        weight_magnitude(net, params | {"fc.weight": np.full((3, 4), np.nan)}, None, {"fc.weight": (1.0,)})
    with pytest.raises(DataError, match=r"parameter 'fc.weight' has no array; did you mean 'fc.bias'"):
        weight_magnitude(net, {"fc.bias": np.zeros(3)}, None, {"fc.weight": (1.0,)})
    with pytest.raises(DataError, match=r"input 'x' holds NaN or infinity"):
        squared_gradient_norm(net, params, Samples(np.full((1, 4), np.nan), np.zeros((1, 3))), {"fc.weight": (1.0,)})
