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
#: by kind: attributes of windows of every sort
WINDOWS: dict[str, list[dict[str, Any]]] = {
    kind: [
        {"kernel": (k, 1), "stride": (s, 1), "padding": (top, 0, bottom, 0)} | more
        for k in (1, 2, 3, 4) for s in (1, 2, 3) for top in (0, 1) for bottom in (0, 1)
        for more in ([{"dilation": (1, 1)}, {"dilation": (2, 1)}] if kind == "conv" else [{}])
        if s <= (k - 1) * more.get("dilation", (1, 1))[0] + 1 and max(top, bottom) < k
    ]
    for kind in ("conv", "conv_transpose", "max_pool", "avg_pool")
}  # fmt: skip
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


@pytest.mark.parametrize("kind", WINDOWS)
def test_a_stripe_reads_the_rows_that_it_needs_and_no_other(kind: str) -> None:
    """Of windows without gaps, and apart from the image's own ends, which take all that there is."""
    for attrs in WINDOWS[kind]:
        more = {"out_channels": 1} if kind.startswith("conv") else {}
        net = NetworkBuilder("net")
        network = net.build(net.op(kind, net.input("image", (1, 9, 1)), "op", **attrs, **more))
        info = infos(network)["op"]
        height = info.output[1]
        for lo in range(height):
            for hi in range(lo + 1, height + 1):
                stripe = op_def(kind).stripe(info, lo, hi)
                assert stripe is not None
                read = stripe.inputs[0]
                assert read is not None
                rows = {row for y in range(lo, hi) for _, row in RULES[kind](info, 0, y)}
                assert read[0] == (min(rows) if lo > 0 else 0), (attrs, lo, hi)
                assert read[1] == (max(rows) + 1 if hi < height else 9), (attrs, lo, hi)
