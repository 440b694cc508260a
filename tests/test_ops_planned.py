"""Elementwise ops, moves and reductions in a training step: planned in few bytes, verified, run bit for bit."""

from __future__ import annotations

from typing import Any

import pytest
from planted import problem_of

from sparseplan.builder import NetworkBuilder
from sparseplan.network import Network
from sparseplan.testing import check_accepted, check_full_gradients, check_json, check_runs_within_budget, check_spec

#: attributes of ops on an image (4, 3, 5); positive: of ops that take positive numbers alone
ALONE: dict[str, dict[str, Any]] = {
    **{kind: {} for kind in ("gelu", "silu", "hard_sigmoid", "elu", "selu", "celu", "softplus", "softsign", "mish",
                             "neg", "abs", "erf", "sin", "cos", "square")},
    "clip": {"low": -0.5, "high": 0.7},
    "scale_shift": {"scale": -0.5, "shift": 0.25},
    "power": {"exponent": 3},
    "param_add": {"shape": (3, 1)},
    "param_mul": {"shape": (4, 1, 5)},
    "mean": {"axes": (1, 2)},
    "sum": {"axes": (0,)},
    "amax": {"axes": (2,)},
    "amin": {"axes": (-1, 1)},
    "transpose": {"perm": (1, 2, 0)},
    "slice": {"starts": (1, 0, 1), "stops": (4, 3, 5), "steps": (2, 1, 1)},
    "pad": {"before": (0, 1, 2), "after": (0, 0, 1), "mode": "reflect"},
    "gather": {"indices": (3, 1, 1)},
    "tile": {"repeats": (2, 1, 3)},
    "resize": {"size": (5, 4), "mode": "cubic"},
}  # fmt: skip
POSITIVE = ("exp", "log", "sqrt", "reciprocal")
SPREAD = ("add", "sub", "mul", "div", "maximum", "minimum")


def alone(kind: str, attrs: dict[str, Any], positive: bool = False) -> Network:
    net = NetworkBuilder(kind)
    x = net.relu(net.conv(net.input("image", (2, 3, 5)), 4, 3, 1, 1, name="before"), name="r")
    x = net.op("scale_shift", net.op("sigmoid", x), shift=0.5) if positive else net.conv(x, 4, 1, name="between")
    return net.build(net.conv(net.op(kind, x, "op", **attrs), 2, 1, name="after"))


def joined(kind: str, spread: bool) -> Network:
    net = NetworkBuilder(kind)
    image = net.input("image", (2, 3, 5))
    a, b = (net.op("sigmoid", net.conv(image, 4, 3, 1, 1, name=name)) for name in ("left", "right"))
    b = net.op("scale_shift", net.op("mean", b, axes=(1,)) if spread else b, shift=0.25)
    return net.build(net.conv(net.op(kind, [a, b], "op"), 2, 1, name="after"))


def check(network: Network) -> None:
    """In the fewest bytes in which everything is updated: the planner takes what saves most of the alternatives."""
    check_spec(network)
    assert check_full_gradients(network) == len(network.parameters)
    for options in ({"dtype": "fp32"}, {"dtype": "bf16", "batch": 2, "gradients": "accumulate"}):
        loose = check_accepted(problem_of(network, **options))
        tight = check_accepted(problem_of(network, l2=loose.peak_bytes["L2"], must=("*",), **options))
        assert tight.feasible
        check_runs_within_budget(tight)
        check_json(tight)


@pytest.mark.parametrize("kind", ALONE)
def test_an_op_of_one_input(kind: str) -> None:
    check(alone(kind, ALONE[kind]))


@pytest.mark.parametrize("kind", POSITIVE)
def test_an_op_of_positive_numbers(kind: str) -> None:
    check(alone(kind, {}, positive=True))


@pytest.mark.parametrize("spread", [False, True])
@pytest.mark.parametrize("kind", SPREAD)
def test_an_op_of_two_inputs(kind: str, spread: bool) -> None:
    check(joined(kind, spread))


def test_expanding_a_mean() -> None:
    net = NetworkBuilder("expand")
    x = net.conv(net.input("image", (2, 3, 5)), 4, 3, 1, 1, name="before")
    x = net.op("expand", net.op("mean", x, axes=(1, 2)), shape=(4, 3, 5))
    check(net.build(net.conv(x, 2, 1, name="after")))


@pytest.mark.parametrize("kind", ["floor", "ceil", "round", "sign"])
def test_nothing_before_a_step_function_is_updated(kind: str) -> None:
    network = alone(kind, {})
    assert set(problem_of(network).choices) == {"after.weight", "after.bias"}
    check_runs_within_budget(check_accepted(problem_of(network)))
