"""Several ops may use one parameter: its gradient is the sum of theirs, and one update follows the last of them."""

from __future__ import annotations

import numpy as np
import pytest
from planted import problem_of

from sparseplan.autodiff import differentiate
from sparseplan.builder import NetworkBuilder, init_parameters
from sparseplan.errors import OpError, ProblemError
from sparseplan.fold import fold_affine
from sparseplan.liveness import analyse
from sparseplan.network import Network
from sparseplan.run.runner import random_data, run
from sparseplan.run.trainer import gradients
from sparseplan.steps import Step, TrainingOptions, UpdateSet
from sparseplan.testing.gradients import check_full_gradients, check_pruned_gradients
from sparseplan.testing.peers import plan_of
from sparseplan.verify import verify


def twice() -> Network:
    """One convolution applied twice, another once."""
    net = NetworkBuilder("twice")
    shared = {"weight": "shared.weight", "bias": "shared.bias"}
    x = net.op("conv", net.input("image", (4, 5, 5)), "a", shared, kernel=3, padding=1, out_channels=4)
    x = net.op("tanh", x)
    x = net.op("conv", x, "b", shared, kernel=3, padding=1, out_channels=4)
    return net.build(net.conv(x, 2, 1, name="head"))


def named(steps: tuple[Step, ...]) -> list[str]:
    return [s.name for s in steps]


def test_users_are_in_order_and_the_owner_is_the_first() -> None:
    network = twice()
    assert [(op.name, slot) for op, slot in network.users["shared.bias"]] == [("a", "bias"), ("b", "bias")]
    assert network.owner["shared.weight"] == (network.op["a"], "weight")
    assert network.parameters == ("shared.weight", "shared.bias", "head.weight", "head.bias")


def test_gradients_are_finite_differences() -> None:
    assert check_full_gradients(twice()) == 4
    check_pruned_gradients(twice(), {"shared.weight": 0.5, "head.bias": 1.0})


def test_the_gradient_is_the_sum_over_users() -> None:
    network = twice()
    tensors = (*network.tensors, *(type(t)(t.name.replace("shared", "own"), t.shape, t.role) for t in network.tensors
                                   if t.name.startswith("shared")))  # fmt: skip
    ops = tuple(op if op.name != "b" else type(op)(op.name, op.kind, op.inputs, op.output,
                {"weight": "own.weight", "bias": "own.bias"}, op.attrs) for op in network.ops)  # fmt: skip
    apart = Network("apart", tensors, ops, network.outputs)
    parameters = init_parameters(network, 1)
    x, target = random_data(network, "mse", 3, 0)
    _, shared = gradients(network, parameters, x, target, "mse")
    own = {"own.weight": parameters["shared.weight"], "own.bias": parameters["shared.bias"]}
    _, found = gradients(apart, {**parameters, **own}, x, target, "mse")
    for slot in ("weight", "bias"):
        expected = found[f"shared.{slot}"] + found[f"own.{slot}"]
        np.testing.assert_allclose(shared[f"shared.{slot}"], expected, rtol=1e-5, atol=1e-6)


def test_one_update_follows_the_last_reader() -> None:
    steps = differentiate(twice(), UpdateSet({"shared.weight": 1.0, "shared.bias": 1.0})).steps
    names = named(steps)
    assert names.count("update shared.weight") == 1
    assert names.index("update shared.weight") > names.index("a.grad_weight") > names.index("b.grad_weight")
    first, later = (next(s for s in steps if s.name == f"{op}.grad_weight") for op in "ba")
    assert (first.writes[0].add, later.writes[0].add) == (False, True)
    assert [a.tag for a in later.reads if a.spans == later.writes[0].spans] == ["acc"]


def test_the_gradient_lives_from_its_first_term_to_the_update() -> None:
    schedule = differentiate(twice(), UpdateSet({"shared.weight": 1.0}))
    (buffer,) = [b for b in analyse(schedule).buffers if b.value == "grad(shared.weight)"]
    names = named(schedule.steps)
    assert (buffer.start, buffer.stop) == (names.index("b.grad_weight"), names.index("update shared.weight") + 1)


@pytest.mark.parametrize("kind", ["fused", "accumulate"])
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
@pytest.mark.parametrize("update", [{"shared.weight": 1.0}, {"shared.weight": 0.5, "shared.bias": 1.0}])
def test_the_arena_runs_it_bit_for_bit(kind: str, dtype: str, update: dict[str, float]) -> None:
    problem = problem_of(twice(), gradients=kind, dtype=dtype, optimizer="adam")
    plan = plan_of(problem, update)
    assert verify(problem, plan) == ()
    report = run(plan, samples=2)
    assert report.faults == ()
    assert report.bitwise_equal


def test_ops_that_cut_a_parameter_in_different_ways_update_the_whole() -> None:
    net = NetworkBuilder("mixed")
    x = net.op("conv", net.input("image", (4, 5, 5)), "a", {"weight": "w"}, kernel=3, padding=1, out_channels=4)
    x = net.op("conv_transpose", x, "b", {"weight": "w"}, kernel=3, padding=1, out_channels=4)
    network = net.build(net.op("conv", x, "c", {"weight": "v"}, kernel=1, out_channels=4))
    assert differentiate(network, UpdateSet({"w": 1.0})).update == {"w": (1.0, None)}
    with pytest.raises(
        ProblemError, match=r"parameter 'w': ops \['a', 'b'\] use it, and would cut it in different ways"
    ):
        differentiate(network, UpdateSet({"w": 0.5}), TrainingOptions())


def test_a_shared_parameter_has_one_shape() -> None:
    net = NetworkBuilder("odd")
    x = net.op("conv", net.input("image", (4, 5, 5)), "a", {"weight": "w"}, kernel=3, out_channels=4)
    with pytest.raises(OpError, match=r"op 'b': weight 'w' has shape \(4, 4, 3, 3\), expected \(4, 4, 1, 1\)"):
        net.op("conv", x, "b", {"weight": "w"}, kernel=1, out_channels=4)


def test_shared_layers_are_not_folded() -> None:
    net = NetworkBuilder("folded")
    x = net.op("conv", net.input("image", (4, 5, 5)), "a", {"weight": "w"}, kernel=1, out_channels=4)
    x = net.affine(x)
    network = net.build(net.op("conv", x, "b", {"weight": "w"}, kernel=1, out_channels=4))
    assert len(fold_affine(network, init_parameters(network))[0].ops) == 3
