"""Folding affines: the same function, fewer ops."""

from __future__ import annotations

import numpy as np
import pytest
from network_runs import run_forward

from sparseplan import zoo
from sparseplan.builder import NetworkBuilder, check_parameters, init_parameters
from sparseplan.errors import DataError
from sparseplan.fold import batchnorm_affine, fold_affine
from sparseplan.network import Network


def _random(network: Network, rng: np.random.Generator) -> dict[str, np.ndarray]:
    drawn = {p: rng.standard_normal(network.tensor[p].shape) for p in network.parameters}
    return {p: np.abs(a) + 0.1 if p.endswith(".var") else a for p, a in drawn.items()}


def _check_same(network: Network, parameters: dict[str, np.ndarray], rng: np.random.Generator) -> Network:
    folded, arrays = fold_affine(network, parameters)
    check_parameters(folded, arrays)
    x = rng.standard_normal((2, *network.tensor[network.inputs[0]].shape))
    before, after = run_forward(network, parameters, x), run_forward(folded, arrays, x)
    for name in network.outputs:
        np.testing.assert_allclose(after[name], before[name], rtol=1e-9, atol=1e-9)
    return folded


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("offset", [True, False])
def test_every_layer_takes_an_affine(bias: bool, offset: bool, rng: np.random.Generator) -> None:
    slots = ("weight", "bias") if offset else ("weight",)
    net = NetworkBuilder("n")
    x = net.input("x", (4, 6, 6))
    x = net.op("affine", net.conv(x, 6, 3, bias=bias, groups=2), "a", slots)
    x = net.op("affine", net.conv_transpose(x, 4, 2, 2, bias=bias, groups=2), "b", slots)
    x = net.op("affine", net.linear(net.op("flatten", x), 5, bias=bias), "c", slots)
    folded = _check_same(*(lambda n: (n, _random(n, rng)))(net.build(x)), rng)
    assert [op.kind for op in folded.ops] == ["conv", "conv_transpose", "flatten", "linear"]
    assert folded.outputs == ("c.out",)
    assert ("conv0.bias" in folded.tensor) == (bias or offset)


@pytest.mark.parametrize("slots", [("weight", "bias", "mean", "var"), ("bias", "mean", "var"), ("mean", "var")])
def test_every_layer_takes_a_batch_norm(slots: tuple[str, ...], rng: np.random.Generator) -> None:
    net = NetworkBuilder("n")
    x = net.conv(net.input("x", (4, 1, 6)), 6, (1, 3), groups=2)
    x = net.op("reshape", net.op("batch_norm", x, "a", slots), shape=(6, 4))
    x = net.op("batch_norm", net.op("conv1d", x, kernel=2, out_channels=4, groups=2), "b", slots, eps=0.1)
    x = net.op("conv_transpose1d", x, None, ("weight",), kernel=3, out_channels=6, stride=2, groups=2)
    x = net.op("batch_norm", net.linear(net.op("flatten", net.op("batch_norm", x, "c", slots)), 5), "d", slots)
    network = net.build(x)
    folded = _check_same(network, _random(network, rng), rng)
    assert [op.kind for op in folded.ops] == ["conv", "reshape", "conv1d", "conv_transpose1d", "flatten", "linear"]
    with pytest.raises(DataError, match=r"op 'a': var\[0\]=-1\.0 plus eps is not positive"):
        fold_affine(network, {p: -np.ones(network.tensor[p].shape) for p in network.parameters})


def test_chains_fold_whole_and_new_names_are_free(rng: np.random.Generator) -> None:
    net = NetworkBuilder("n")
    x = net.affine(net.affine(net.conv(net.input("conv0.bias", (2, 4, 4)), 3, 1, bias=False)))
    network = net.build(net.relu(x))
    folded = _check_same(network, _random(network, rng), rng)
    assert [op.kind for op in folded.ops] == ["conv", "relu"]
    assert folded.parameters == ("conv0.weight", "conv0.bias2")


def test_what_others_read_is_left_alone(rng: np.random.Generator) -> None:
    net = NetworkBuilder("n")
    x = net.input("x", (2, 4, 4))
    read_twice = net.conv(x, 3, 1)
    y = net.add([net.affine(read_twice), read_twice])
    also_output = net.conv(y, 3, 1)
    z = net.affine(net.relu(net.affine(also_output)))
    rows = net.affine(net.linear(x, 3))  # the affine's channels are not the features
    network = net.build([z, also_output, rows])
    folded = _check_same(network, _random(network, rng), rng)
    assert folded == network


@pytest.mark.parametrize("name", ["resnet8", "dscnn", "mobilenetv1_025"])
def test_zoo_networks_fold_clean(name: str, rng: np.random.Generator) -> None:
    network = zoo.get(name)
    parameters = {p: a + 0.1 * rng.standard_normal(a.shape) for p, a in init_parameters(network, 3).items()}
    folded = _check_same(network, parameters, rng)
    assert not any(op.kind == "affine" for op in folded.ops)


def test_dtype_of_the_weights_is_kept() -> None:
    network = zoo.get("dscnn")
    _, arrays = fold_affine(network, init_parameters(network))
    assert {a.dtype for a in arrays.values()} == {np.dtype(np.float32)}


def test_parameters_must_fit() -> None:
    with pytest.raises(DataError, match=r"'stem.conv.weight' of shape \(16, 3, 3, 3\) is missing"):
        fold_affine(zoo.get("resnet8"), {})


def test_batchnorm(rng: np.random.Generator) -> None:
    x = rng.standard_normal((50, 3)) * [1, 2, 3] + [4, 5, 6]
    gamma, beta = rng.standard_normal((2, 3))
    weight, bias = batchnorm_affine(gamma, beta, x.mean(axis=0), x.var(axis=0), eps=0.0)
    y = x * weight + bias
    np.testing.assert_allclose(y.mean(axis=0), beta, atol=1e-6)
    np.testing.assert_allclose(y.std(axis=0), np.abs(gamma), rtol=1e-6)
    assert weight.dtype == bias.dtype == np.float32


def test_batchnorm_rejects_what_is_none() -> None:
    ones = np.ones(3)
    with pytest.raises(DataError, match=r"batch-norm mean has shape \(2,\), gamma \(3,\)"):
        batchnorm_affine(ones, ones, np.ones(2), ones)
    with pytest.raises(DataError, match=r"batch-norm var\[1\]=-1.0 with eps=1e-05 is not positive"):
        batchnorm_affine(ones, ones, ones, np.array([1, -1, 1]))
