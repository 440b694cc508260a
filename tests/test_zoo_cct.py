"""The compact convolutional transformer computes what its authors' formulas say, and can be planned and run."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from sparseplan import api
from sparseplan.builder import init_parameters
from sparseplan.errors import NetworkError
from sparseplan.ops.base import Array
from sparseplan.run import predict, run
from sparseplan.verify import verify
from sparseplan.zoo import cct_2_3x2, get
from sparseplan.zoo.cct import cct


def norm(x: Array, p: dict[str, Array], name: str) -> Array:
    mean, var = x.mean(axis=1, keepdims=True), x.var(axis=1, keepdims=True)
    return (x - mean) / np.sqrt(var + 1e-5) * p[f"{name}.weight"] + p[f"{name}.bias"]


def softmax(x: Array, axis: int) -> Array:
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def tokenised(x: Array, weight: Array) -> Array:
    """Convolution of padding 1, ReLU, pooling of 3 by 3 with stride 2 and padding 1; by windows."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
    h, w = x.shape[1:]
    y = np.array([[np.einsum("oikl,ikl->o", weight, padded[:, r : r + 3, c : c + 3]) for c in range(w)]
                  for r in range(h)]).transpose(2, 0, 1)  # fmt: skip
    padded = np.pad(np.maximum(y, 0), ((0, 0), (1, 1), (1, 1)))
    return np.array([[padded[:, r : r + 3, c : c + 3].max(axis=(1, 2)) for c in range(0, w, 2)]
                     for r in range(0, h, 2)]).transpose(2, 0, 1)  # fmt: skip


def by_formula(image: Array, p: dict[str, Array], layers: int, heads: int) -> Array:
    """The source's forward pass: one weight for query, key and value, cut into heads."""
    x = image
    for i in range(2):
        x = tokenised(x, p[f"tokeniser{i}.conv.weight"])
    x = x.reshape(len(x), -1).T + p["position.weight"]
    size = x.shape[1] // heads
    for i in range(layers):
        name = f"encoder{i}"
        stacked = np.concatenate([p[f"{name}.attention.{q}.weight"] for q in ("query", "key", "value")])
        q, k, v = (norm(x, p, f"{name}.norm0") @ stacked.T).reshape(len(x), 3, heads, size).transpose(1, 2, 0, 3)
        shares = softmax(q @ k.transpose(0, 2, 1) * size**-0.5, -1)
        joined = (shares @ v).transpose(1, 0, 2).reshape(x.shape)
        x = x + joined @ p[f"{name}.attention.project.weight"].T + p[f"{name}.attention.project.bias"]
        x = norm(x, p, f"{name}.norm1")
        y = x @ p[f"{name}.linear0.weight"].T + p[f"{name}.linear0.bias"]
        y = y * 0.5 * (1 + np.vectorize(math.erf)(y / math.sqrt(2)))
        x = x + y @ p[f"{name}.linear1.weight"].T + p[f"{name}.linear1.bias"]
    x = norm(x, p, "norm")
    shares = softmax(x @ p["pool.score.weight"].T + p["pool.score.bias"], 0)
    return p["classifier.weight"] @ (shares.T @ x)[0] + p["classifier.bias"]


def test_a_small_one_by_formula() -> None:
    network = cct("small", shape=(2, 8, 8), classes=3, layers=2, heads=2, width=8, hidden=12, tokeniser=(4,))
    rng = np.random.default_rng(5)
    p = {n: a + rng.normal(0, 0.3, a.shape).astype(np.float32) for n, a in init_parameters(network, 2).items()}
    images = rng.normal(0, 1, (3, 2, 8, 8)).astype(np.float32)
    wanted = [by_formula(image.astype(np.float64), p, 2, 2) for image in images]
    np.testing.assert_allclose(predict(network, p, images), wanted, rtol=2e-4, atol=2e-5)


def test_the_published_shape() -> None:
    network = cct_2_3x2()
    assert get("cct_2_3x2") == network
    assert network.tensor["tokeniser1.pool.out"].shape == (128, 8, 8)
    assert network.tensor["position.weight"].shape == (64, 128)
    assert network.tensor["encoder1.attention.scores.out"].shape == (2, 64, 64)
    assert network.op["encoder0.attention.scale"].attrs["scale"] == 1 / 8
    layer = sum(network.tensor[p].elements for p in network.parameters if p.startswith("encoder0."))
    assert layer == 3 * 128 * 128 + 3 * (128 * 128 + 128) + 2 * 256


def test_it_can_be_planned_and_run() -> None:
    network = cct("small", shape=(2, 8, 8), classes=3, layers=1, heads=2, width=8, hidden=8, tokeniser=(4,))
    plan = api.plan(network, l2="1MB", dtype="fp32", loss="cross_entropy", must=("*",), fractions=(1.0,), time_limit=20)
    assert set(plan.update) == set(network.parameters)
    assert not verify(plan.problem, plan)
    report = run(plan)
    assert report.bitwise_equal
    assert report.guard_intact


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"heads": 3}, "width=128 must be a multiple of heads=3"),
        ({"layers": 0}, "layers=0 must be a whole number, at least 1"),
        ({"hidden": True}, "hidden=True must be a whole number"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(NetworkError, match=message):
        cct("bad", **arguments)
