"""Every network of the zoo, and drawn ones, beside PyTorch: outputs and all gradients, to float32's accuracy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch.nn", reason="PyTorch is not installed")
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from sparseplan import importers, zoo
from sparseplan.builder import NetworkBuilder, init_parameters
from sparseplan.errors import DataError, ExportError
from sparseplan.exporters import pytorch
from sparseplan.network import Network
from sparseplan.ops import OPS
from sparseplan.run.trainer import gradients, predict
from sparseplan.testing.strategies import trainable_networks

#: largest multiply-accumulates would take minutes here; its blocks are those of the smaller ones
_LARGE = {"mobilenetv2"}


def inputs_of(net: Network, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """One sample of each input."""
    found: dict[str, np.ndarray] = {}
    for name in net.inputs:
        t = net.tensor[name]
        whole = t.dtype == "i32"
        found[name] = (
            rng.integers(0, 2, (1, *t.shape)).astype(np.int32) if whole else rng.random((1, *t.shape), np.float32)
        )
    return found


def compare(net: Network, weights: dict[str, np.ndarray], x: dict[str, np.ndarray], rng: np.random.Generator) -> None:
    """Outputs, and gradients of the mean squared distance from a random target."""
    module = pytorch.module_of(net, weights)
    assert {n for n, _ in module.named_parameters()} | {n for n, _ in module.named_buffers()} == set(net.parameters)
    y = module(*(torch.from_numpy(a) for a in x.values()))
    y = y[0] if isinstance(y, tuple) else y
    np.testing.assert_allclose(predict(net, weights, x), y.detach().numpy(), rtol=1e-4, atol=1e-5)
    target = rng.random(y.shape, np.float32)
    F.mse_loss(y, torch.from_numpy(target)).backward()
    _, grads = gradients(net, weights, x, target, "mse")
    expected = {n: p.grad.numpy() for n, p in module.named_parameters() if p.grad is not None}
    assert set(grads) == set(expected)
    close = 1e-5 * max(float(np.abs(g).max()) for g in expected.values())
    for n, g in expected.items():
        np.testing.assert_allclose(grads[n], g, rtol=1e-3, atol=close, err_msg=n)


@pytest.mark.parametrize("name", sorted(set(zoo.NETWORKS) - _LARGE))
def test_network(name: str, rng: np.random.Generator) -> None:
    net = zoo.get(name)
    compare(net, init_parameters(net, 0), inputs_of(net, rng), rng)


@settings(max_examples=25, derandomize=True)
@given(net=trainable_networks(), seed=st.integers(0, 1000))
def test_drawn_networks(net: Network, seed: int) -> None:
    # PyTorch computes in float32 throughout
    plain = tuple(replace(t, dtype=t.dtype if t.dtype == "i32" else None, scale=None) for t in net.tensors)
    net = replace(net, tensors=plain)
    rng = np.random.default_rng(seed)
    weights = {n: (w + 0.1 * rng.random(w.shape)).astype(np.float32) for n, w in init_parameters(net, seed).items()}
    x = inputs_of(net, rng)
    compare(net, weights, x, rng)
    found = importers.torch(pytorch.module_of(net, weights), tuple(torch.from_numpy(a) for a in x.values()))
    assert not [n for n in found.notes if "shapes alone" in n]
    shapes = found.network.tensor
    given_ = {n: a.reshape(1, *shapes[n].shape) for n, a in zip(found.network.inputs, x.values(), strict=True)}
    np.testing.assert_allclose(
        predict(found.network, found.weights, given_).ravel(), predict(net, weights, x).ravel(), rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("name", ["upydnet", "resnet8", "dscnn", "mobilenetv2_digits", "cct_2_3x2"])
def test_there_and_back(name: str, rng: np.random.Generator) -> None:
    """The module of a network, imported, computes the network."""
    if name not in zoo.NETWORKS:
        pytest.skip(f"no network {name} in the zoo")
    net = zoo.get(name)
    weights, x = init_parameters(net, 0), inputs_of(net, rng)
    found = importers.torch(pytorch.module_of(net, weights), tuple(torch.from_numpy(a) for a in x.values()))
    assert set(found.weights) >= set(net.parameters)
    given = dict(zip(found.network.inputs, x.values(), strict=True))
    given = {n: a.reshape(1, *found.network.tensor[n].shape) for n, a in given.items()}
    np.testing.assert_allclose(
        predict(found.network, found.weights, given).ravel(), predict(net, weights, x).ravel(), rtol=1e-4, atol=1e-5
    )


def test_every_op_but_opaque_has_a_kernel() -> None:
    from sparseplan.exporters.torchops import KERNELS

    assert set(OPS) - set(KERNELS) == {"opaque"}


def test_what_cannot_be_a_module_is_named() -> None:
    build = NetworkBuilder("odd")
    build.op("opaque", build.input("x", (3,)), "box", type="mystery", shape=(3,))
    net = build.build("box.out")
    with pytest.raises(ExportError, match="op 'box': opaque cannot be computed"):
        pytorch.module_of(net, {})
    net = zoo.get("resnet8")
    with pytest.raises(DataError, match="is missing"):
        pytorch.module_of(net, {})
    build = NetworkBuilder("clash")
    x = build.op("linear", build.input("x", (3,)), "a", {"weight": "a"}, out_features=3)
    net = build.build(build.op("linear", x, "b", {"weight": "a.b"}, out_features=3))
    with pytest.raises(ExportError, match=r"parameter 'a\.b' cannot be an attribute"):
        pytorch.module_of(net, init_parameters(net))
