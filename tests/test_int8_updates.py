"""Parameters in int8 are updated: read as codes times scale, changed, rounded to the nearest code and saturated.

The gradient is in the plan's dtype. The arena, the fast trainer and the reference agree bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted import plan_of, problem_of

from sparseplan.autodiff import differentiate, trace
from sparseplan.builder import NetworkBuilder, init_parameters
from sparseplan.errors import NetworkError, ProblemError
from sparseplan.network import Network
from sparseplan.ops.base import Array
from sparseplan.problem import resolve_choices
from sparseplan.quantise import quantised
from sparseplan.run import Optimizer, Samples, Trainer, TrainSettings, adapt, plan_settings, run, train
from sparseplan.run.runner import random_data
from sparseplan.solve.cpsat import Limits
from sparseplan.solve.search import solve
from sparseplan.steps import TrainingOptions, UpdateSet
from sparseplan.testing import check_accepted, check_runs_within_budget, networks, options
from sparseplan.testing.peers import trainable
from sparseplan.value import VALUES, get_value, update_bytes
from sparseplan.value.count import parameter_count
from sparseplan.value.units import units_of
from sparseplan.verify import verify


def one_weight(scale: float = 0.25) -> Network:
    """``out = weight * x``, a weight of one element a channel."""
    net = NetworkBuilder("one")
    x = net.input("x", (4, 1, 1))
    y = net.op("affine", x, "scale", ("weight",))
    return quantised(net.build(y), scale, {"x": "fp32", y: "fp32"})


def stepped(weight: list[float], gradient: list[float], lr: float, scale: float = 0.25, **kind: str) -> Array:
    """``one_weight``'s weight after one step down ``gradient``: half the squared error has this slope at x = 1."""
    network = one_weight(scale)
    plan = plan_of(problem_of(network, must=("*",), loss="mse", dtype="fp32", **kind), {"scale.weight": 1.0})
    w = np.array(weight, np.float32)
    x = np.ones((1, 4, 1, 1), np.float32)
    stored = np.clip(np.rint(w / scale), -128, 127) * scale
    target = x * (stored - 2 * np.array(gradient)).astype(np.float32).reshape(1, 4, 1, 1)  # mse: a mean over four
    report = run(plan, {"scale.weight": w}, x, target, optimizer=Optimizer(plan.problem.options.optimizer, lr=lr))
    assert report.bitwise_equal
    assert report.guard_intact
    return report.parameters["scale.weight"]


def test_an_update_by_hand() -> None:
    """Quanta of 1/4, steps of 1, 1/2, 1/8 and 3/8: the halves go to the even code, an eighth is lost."""
    found = stepped([1.0, 1.0, 1.0, 1.0], [1.0, 0.5, 0.125, 0.375], lr=1.0)
    # codes: 4 - 4; 4 - 2; 4 - 0.5 = 3.5 to 4; 4 - 1.5 = 2.5 to 2
    assert found.tolist() == [0.0, 0.5, 1.0, 0.5]


def test_updates_saturate() -> None:
    assert stepped([31.0, -31.0, 31.75, -32.0], [-9.0, 9.0, -1.0, 1.0], lr=1.0).tolist() == [31.75, -32.0, 31.75, -32.0]


def test_states_gather_what_a_step_loses() -> None:
    """Steps of a fifth of a quantum change nothing, however many; momentum in fp32 gathers three of them."""
    network = one_weight()
    x = np.ones((4, 4, 1, 1), np.float32)
    target = x * 0.9
    moved = {}
    for kind in ("sgd", "momentum"):
        problem = problem_of(network, must=("*",), loss="mse", dtype="fp32", optimizer=kind)
        plan = plan_of(problem, {"scale.weight": 1.0})
        optimizer = Optimizer(kind, lr=1.0, momentum=0.9) if kind == "momentum" else Optimizer(kind, lr=1.0)
        report = run(plan, {"scale.weight": np.ones(4, np.float32)}, x, target, samples=4, optimizer=optimizer)
        assert report.bitwise_equal
        moved[kind] = report.parameters["scale.weight"][0] != 1
    assert moved == {"sgd": False, "momentum": True}


def conv_pair() -> Network:
    net = NetworkBuilder("pair")
    x = net.input("image", (8, 4, 4))
    x = net.relu(net.conv(x, 8, 3, padding=1, name="a"))
    x = net.op("flatten", net.op("global_avg_pool", net.conv(x, 4, 1, name="b"), "pool"), "flat")
    return net.build(net.linear(x, 3, name="head"))


FLOATS = {"*.bias": "fp32", "head.*": "fp32"}


def test_int8_parameters_are_frozen_unless_named() -> None:
    network = quantised(conv_pair(), 1 / 16, FLOATS)
    floats = {"a.bias", "b.bias", "head.weight", "head.bias"}
    assert set(resolve_choices(network)[0]) == floats
    assert {p for p, v in trace(network, TrainingOptions()).levels.items() if v.atoms} == floats
    assert {p for unit in units_of(network) for p in unit.parameters} == floats
    assert set(resolve_choices(network, must=("a.weight@1/4",))[0]) == floats | {"a.weight"}
    assert set(resolve_choices(network, may=("b.*",))[0]) == {"b.weight", "b.bias"}
    assert set(resolve_choices(network, may=("*",))[0]) == set(network.parameters)
    plan = solve(problem_of(network, loss="cross_entropy"), Limits(seed=0))
    assert set(plan.update) == floats


def test_storage_of_an_updated_int8_parameter() -> None:
    """One byte an element of it, two of its bf16 gradient and state; a part takes its part."""
    network = quantised(conv_pair(), 1 / 16, FLOATS)
    setting = TrainingOptions("bf16", optimizer="momentum", loss="cross_entropy")
    schedule = differentiate(network, UpdateSet({"a.weight": 0.25}), setting)
    values = {v.name: (v.dtype, v.bytes, v.scale) for v in schedule.values.values() if v.tensor == "a.weight"}
    assert values == {
        "a.weight": ("int8", 8 * 8 * 9, 1 / 16),
        "grad(a.weight)": ("bf16", 2 * 8 * 2 * 9, None),
        "m(a.weight)": ("bf16", 2 * 8 * 2 * 9, None),
    }
    worth = parameter_count(network, None, None, {"a.weight": (0.25, 1.0)})
    assert worth == {"a.weight": {0.25: 8 * 2 * 9, 1.0: 8 * 8 * 9}}


def test_the_part_that_is_not_updated_stays() -> None:
    network = quantised(conv_pair(), 1 / 64, FLOATS)
    plan = plan_of(problem_of(network, must=("a.weight@1/4",), loss="cross_entropy"), {"a.weight": 0.25})
    weights = init_parameters(network, 3)
    report = run(plan, weights, seed=3, optimizer=Optimizer("sgd", lr=10.0))
    assert report.bitwise_equal
    before = np.rint(weights["a.weight"] * 64)
    after = report.parameters["a.weight"] * 64
    assert np.array_equal(before[:, 2:], after[:, 2:])
    assert not np.array_equal(before[:, :2], after[:, :2])


def in_int8(network: Network, names: Mapping[str, float]) -> Network:
    tensors = (replace(t, dtype="int8", scale=names[t.name]) if t.name in names else t for t in network.tensors)
    return Network(network.name, tuple(tensors), network.ops, network.outputs)


@st.composite
def int8_networks(draw: st.DrawFn) -> Network:
    """Any network with some parameters and activations in int8, at least one of what can be updated."""
    network = draw(networks(max_ops=6).filter(lambda n: bool(trainable(n))))
    names = [t.name for t in network.tensors if t.dtype != "i32"]  # indices stay integers
    scales = st.sampled_from([1 / 64, 0.01, 0.5])
    chosen = draw(st.dictionaries(st.sampled_from(names), scales, max_size=len(names)))
    chosen[draw(st.sampled_from(trainable(network)))] = draw(scales)
    plain = tuple(t if t.dtype == "i32" else replace(t, dtype=None, scale=None) for t in network.tensors)
    return in_int8(Network(network.name, plain, network.ops, network.outputs), chosen)


@given(network=int8_networks(), setting=st.data(), seed=st.integers(0, 99))
def test_any_network_with_int8_updates_runs_as_the_reference(
    network: Network, setting: st.DataObject, seed: int
) -> None:
    """Every updatable int8 parameter is updated: accepted, run in its bytes, equal bit for bit."""
    names = [p for p in trainable(network) if network.tensor[p].dtype == "int8"]
    fraction = setting.draw(st.sampled_from(["", "", "@1/2"]))
    chosen = setting.draw(options(network))
    choices, must = resolve_choices(network, must=[p for p in names if not fraction] or [names[0]])
    problem = problem_of(network, must=tuple(must), may=tuple(f"{p}{fraction}" for p in choices) or ())
    problem = replace(problem, options=chosen, device=problem.device.with_budget(alignment=chosen.alignment))
    plan = check_accepted(problem)
    assert plan.feasible
    assert set(must) <= set(plan.update)
    check_runs_within_budget(plan, seed, samples=1 + seed % 3)


@given(network=int8_networks(), seed=st.integers(0, 99), kind=st.sampled_from(["sgd", "momentum", "adam"]))
def test_the_fast_trainer_computes_the_same(network: Network, seed: int, kind: str) -> None:
    update = dict.fromkeys(trainable(network), 1.0)
    plan = plan_of(problem_of(network, must=tuple(update), loss="mse", dtype="fp32", optimizer=kind), update)
    parameters = init_parameters(network, seed)
    x, target = random_data(network, "mse", 2, seed)
    settings = TrainSettings(optimizer=kind, lr=0.01, loss="mse", batch=1, dtype="fp32")
    report = run(plan, parameters, x, target, samples=2, optimizer=settings.rule())
    trainer = Trainer(network, parameters, update, settings)
    for i in range(2):
        trainer.step({n: a[i : i + 1] for n, a in x.items()}, target[i : i + 1])
    found = trainer.parameters()
    for p in update:
        np.testing.assert_allclose(found[p], report.parameters[p], rtol=1e-5, atol=_quantum(network, p))


def _quantum(network: Network, p: str) -> float:
    """The trainer may sum in another order, and so round to the next code."""
    return 1.001 * (network.tensor[p].scale or 1e-5)


def test_bytes_of_an_update_by_itself() -> None:
    """A bf16 gradient and the saved int8 input, of the channels that are kept."""
    found = update_bytes(quantised(conv_pair(), 1 / 16, FLOATS), {"a.weight": (0.25, 1.0)})
    assert found == {"a.weight": {0.25: 2 * 8 * 2 * 9 + 2 * 16, 1.0: 2 * 8 * 8 * 9 + 8 * 16}}


def few_samples(count: int = 8) -> tuple[Array, Array]:
    rng = np.random.default_rng(7)
    return rng.random((count, 8, 4, 4), np.float32), rng.integers(0, 3, (count, 1), np.int32)


def test_training_in_an_arena_with_accumulated_gradients() -> None:
    """Many updates: every byte as planned, and int8 parameters stay codes times scale."""
    network = quantised(conv_pair(), 1 / 32, FLOATS)
    setting = {"loss": "cross_entropy", "optimizer": "momentum", "gradients": "accumulate", "dtype": "fp32"}
    plan = plan_of(problem_of(network, must=("*",), **setting), dict.fromkeys(network.parameters, 1.0))
    x, labels = few_samples()
    weights = init_parameters(network, 1)
    settings = replace(plan_settings(plan), epochs=3, lr=0.5, accumulate=4)
    report = adapt(plan, weights, x, labels, settings, check_every=1)
    assert not report.faults
    found = report.result.parameters
    for p in ("a.weight", "b.weight"):
        codes = found[p] * 32
        assert np.array_equal(codes, np.rint(codes))
        assert not np.array_equal(found[p], np.rint(weights[p] * 32) / 32), "it moved"
    fast = train(network, weights, dict.fromkeys(network.parameters, 1.0), x, labels, settings).parameters
    for p in network.parameters:
        np.testing.assert_allclose(found[p], fast[p], rtol=1e-4, atol=_quantum(network, p))


@pytest.mark.parametrize("name", sorted(set(VALUES) - {"count"}))
def test_measures_of_value_know_int8_parameters(name: str) -> None:
    network = quantised(conv_pair(), 1 / 32, FLOATS)
    x, labels = few_samples()
    found = get_value(name)(network, init_parameters(network, 1), Samples(x, labels, "cross_entropy"),
                            {"a.weight": (0.5, 1.0), "head.weight": (1.0,)})  # fmt: skip
    assert set(found) == {"a.weight", "head.weight"}
    assert set(found["a.weight"]) == {0.5, 1.0}
    assert all(v >= 0 for v in found["a.weight"].values())
    assert found["a.weight"][1.0] > 0


def test_planted_faults_are_found() -> None:
    network = quantised(conv_pair(), 1 / 64, FLOATS)
    problem = problem_of(network, must=("a.weight",), loss="cross_entropy", optimizer="momentum")
    plan = plan_of(problem, {"a.weight": 1.0})
    assert not verify(problem, plan)
    faults = {
        "grad(a.weight)": {"dtype": "int8", "bytes": 576, "scale": 1 / 64},
        "m(a.weight)": {"dtype": "int8", "bytes": 576, "scale": 1 / 64},
        "a.weight": {"scale": 1 / 32},
    }
    for name, change in faults.items():
        values = tuple(replace(v, **change) if v.name == name else v for v in plan.values)
        found = verify(problem, replace(plan, values=values))
        assert any("value" in str(f) and name in str(f) for f in found), name


def test_what_no_gradient_reaches_cannot_be_updated_in_int8_either() -> None:
    net = NetworkBuilder("two")
    x = net.input("x", (2, 4, 4))
    used = net.conv(x, 2, 1, name="used")
    side = net.conv(x, 2, 1, name="side")
    network = quantised(net.build([used, side]))
    assert set(resolve_choices(network, may=("*",))[0]) == {"used.weight", "used.bias"}
    with pytest.raises(ProblemError, match=r"'side.weight' cannot be updated"):
        resolve_choices(network, must=("side.weight",))


@pytest.mark.parametrize(
    ("floats", "scale", "message"),
    [
        ({"nothing*": "fp32"}, 0.1, r"floats: 'nothing\*' names no tensor"),
        ({"a.bias": "int8"}, 0.1, r"floats\['a.bias'\]='int8' must be fp32, fp16 or bf16"),
        ({}, 0.0, "must be finite and positive"),
    ],
)
def test_bad_arguments_of_quantised(floats: dict[str, str], scale: float, message: str) -> None:
    with pytest.raises(NetworkError, match=message):
        quantised(conv_pair(), scale, floats)
