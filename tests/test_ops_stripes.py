"""Elementwise ops by rows: stripes of a row, with halos or without, are accepted and compute the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sparseplan.builder import NetworkBuilder
from sparseplan.network import Network
from sparseplan.ops import infos, op_def
from sparseplan.stripes import Stripes, even, lower
from sparseplan.verify.findings import Findings
from sparseplan.verify.stripes import RULES, check_lowered

ATTRS: dict[str, dict[str, Any]] = {
    "clip": {"high": 0.5},
    "power": {"exponent": 2},
    "const_add": {"shape": (3, 1, 4)},
    "const_mul": {"shape": 4},
    "param_add": {"shape": (1, 4)},
    "param_mul": {"shape": (3, 1, 1)},
}
SPREAD = ("add", "sub", "mul", "div", "maximum", "minimum")
POINTWISE = sorted(k for k, rule in RULES.items() if rule is RULES["relu"] and k not in (*SPREAD, "concat"))
HEIGHT = 5


def computed(network: Network, arrays: dict[str, np.ndarray]) -> np.ndarray:
    at, table = dict(arrays), infos(network)
    for op in network.ops:
        params = {slot: arrays[p] for slot, p in op.params.items()}
        at[op.output] = op_def(op.kind).forward(table[op.name], [at[t] for t in op.inputs], params)
    return at[network.outputs[0]]


def check(network: Network, ops: tuple[str, ...], rng: np.random.Generator) -> None:
    lowered = lower(network, [Stripes(ops, even(HEIGHT, HEIGHT))])
    findings = Findings()
    check_lowered(lowered.original, lowered.network, lowered.origin, findings)
    assert findings.all() == ()
    named = (*network.inputs, *network.parameters)
    shapes = {n: network.tensor[n].shape if n in network.parameters else (2, *network.tensor[n].shape) for n in named}
    arrays = {n: rng.random(shape) + 0.1 for n, shape in shapes.items()}
    np.testing.assert_allclose(computed(lowered.network, arrays), computed(network, arrays), rtol=1e-12)


@pytest.mark.parametrize("halo", [1, 3])
@pytest.mark.parametrize("kind", POINTWISE)
def test_an_op_of_one_input(kind: str, halo: int, rng: np.random.Generator) -> None:
    net = NetworkBuilder("net")
    x = net.op(kind, net.input("image", (3, HEIGHT, 4)), "op", **ATTRS.get(kind, {}))
    check(net.build(net.conv(x, 2, halo, 1, halo // 2, name="after")), ("op", "after"), rng)


@pytest.mark.parametrize("halo", [1, 3])
@pytest.mark.parametrize("kind", SPREAD)
@pytest.mark.parametrize("shapes", [((3, HEIGHT, 4), (3, 1, 1)), ((1, 1, 4), (3, HEIGHT, 1)), ((1, HEIGHT, 4),) * 2])
def test_an_op_that_spreads_one_row_over_all(
    kind: str, shapes: tuple[tuple[int, ...], ...], halo: int, rng: np.random.Generator
) -> None:
    net = NetworkBuilder("net")
    x = net.op(kind, [net.input(f"in{i}", shape) for i, shape in enumerate(shapes)], "op")
    check(net.build(net.conv(x, 2, halo, 1, halo // 2, name="after")), ("op", "after"), rng)
