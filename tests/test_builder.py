"""The builder, parameters drawn and checked, the zoo, and uPyD-Net against its reference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from network_runs import run_backward, run_forward

from sparseplan import zoo
from sparseplan.builder import NetworkBuilder, check_parameters, init_parameters
from sparseplan.errors import DataError, NetworkError, OpError
from sparseplan.network import Network
from sparseplan.ops import infos, loss_def, op_def


def _tiny() -> Network:
    net = NetworkBuilder("tiny")
    x = net.input("image", (3, 8, 8))
    x = net.leaky_relu(net.conv(x, 4, 3, padding=1, name="first"), 0.125)
    y = net.affine(net.conv(x, 4, 1, bias=False))
    x = net.concat([net.add([x, y]), net.relu(net.conv_transpose(net.conv(x, 2, 2, 2), 5, 2, 2))])
    return net.build(net.linear(net.op("flatten", x), 7))


def test_shapes_names_and_parameters_are_inferred() -> None:
    network = _tiny()
    assert network.tensor["concat0.out"].shape == (9, 8, 8)
    assert network.tensor[network.outputs[0]].shape == (7,)
    assert network.tensor["first.weight"].shape == (4, 3, 3, 3)
    assert "conv1.bias" not in network.tensor
    assert [op.name for op in network.ops] == [
        "first", "leaky_relu0", "conv1", "affine0", "add0", "conv2", "conv_transpose0", "relu0", "concat0",
        "flatten0", "linear0",
    ]  # fmt: skip


def test_free_names_step_over_taken_ones() -> None:
    net = NetworkBuilder("n")
    x = net.relu(net.input("x", (4,)), name="relu1")
    assert net.relu(x) == "relu2.out"
    assert net.shape("relu2.out") == (4,)


def test_parameters_can_have_names_of_their_own() -> None:
    net = NetworkBuilder("n")
    x = net.op("linear", net.input("x", (4,)), "fc", {"weight": "W"}, out_features=2)
    assert net.build(x).parameters == ("W",)


def test_errors_name_the_culprit() -> None:
    net = NetworkBuilder("n")
    net.input("image", (3, 8, 8))
    with pytest.raises(NetworkError, match="tensor name 'image' is taken"):
        net.input("image", (3, 8, 8))
    with pytest.raises(
        NetworkError, match="op 'relu0' reads tensor 'imge', which does not exist; did you mean 'image'"
    ):
        net.relu("imge")
    with pytest.raises(OpError, match=r"network 'n': op 'conv0' \(conv\): inputs \[\(3, 8, 8\)\] are too small"):
        net.conv("image", 4, 9)
    net.relu("image", name="a")
    with pytest.raises(NetworkError, match="op 'a': the name is taken"):
        net.relu("image", name="a")
    with pytest.raises(NetworkError, match=r"tensor 'b.out' does not exist; did you mean 'a.out'"):
        net.shape("b.out")
    # nothing of the failed ops is left behind
    assert [op.name for op in net.build("a.out").ops] == ["a"]


def test_initial_parameters_are_seeded_and_of_the_right_scale() -> None:
    network = zoo.get("resnet8")
    first, again, other = (init_parameters(network, seed) for seed in (1, 1, 2))
    check_parameters(network, first)
    for name in network.parameters:
        assert first[name].dtype == np.float32
        np.testing.assert_array_equal(first[name], again[name])
    weight = first["stack2.b.conv.weight"]
    assert not np.array_equal(weight, other["stack2.b.conv.weight"])
    bound = 1 / np.sqrt(64 * 9)
    assert 0.95 * bound < np.abs(weight).max() <= bound
    assert abs(weight.std() - bound / np.sqrt(3)) < 0.01 * bound
    assert set(first["stem.norm.weight"]) == {1}
    assert set(first["stem.norm.bias"]) == {0}
    assert np.abs(first["classifier.bias"]).max() <= 1 / 8


def test_parameters_are_checked() -> None:
    network = _tiny()
    good = init_parameters(network)
    check_parameters(network, good)
    where = "parameters of network 'tiny': "
    short = {k: v for k, v in good.items() if k != "first.bias"}
    with pytest.raises(DataError, match=where + r"'first.bias' of shape \(4,\) is missing"):
        check_parameters(network, short)
    with pytest.raises(DataError, match=where + r"'first.bais' is unknown; did you mean 'first.bias'"):
        check_parameters(network, short | {"first.bais": good["first.bias"]})
    with pytest.raises(DataError, match=where + r"'first.bias' has shape \(4, 1\), expected \(4,\)"):
        check_parameters(network, good | {"first.bias": np.zeros((4, 1))})
    with pytest.raises(DataError, match=where + r"'first.bias' holds nan at \(2,\)"):
        check_parameters(network, good | {"first.bias": np.array([0, 1, np.nan, 2])})
    with pytest.raises(DataError, match=where + r"'first.bias' has dtype <U1, expected numbers"):
        check_parameters(network, good | {"first.bias": np.array(list("abcd"))})


@pytest.mark.parametrize("name", sorted(zoo.NETWORKS))
def test_zoo_networks_run_both_ways(name: str, rng: np.random.Generator) -> None:
    network = zoo.get(name)
    assert network.name == name
    parameters = init_parameters(network)
    x = rng.random((2, *network.tensor[network.inputs[0]].shape), np.float32)
    at = run_forward(network, parameters, x)
    y = at[network.outputs[0]]
    assert y.shape == (2, *network.tensor[network.outputs[0]].shape)
    gradients = run_backward(network, parameters, at, np.ones_like(y))
    check_parameters(network, gradients)


@pytest.mark.parametrize(
    ("name", "parameters", "macs"),
    [
        ("upydnet", 107_625, 79_755_264),
        ("resnet8", 77_946, 12_501_632),
        ("dscnn", 23_180, 2_656_768),
        ("mobilenetv1_025", 213_586, 7_489_664),
    ],
)
def test_zoo_sizes(name: str, parameters: int, macs: int) -> None:
    """Parameters, and multiply-accumulates of convolutions and linear layers, as published.

    The benchmark's networks also count biases before batch-norms and statistics: 78,666 for
    resnet8, 24,908 for dscnn, 221,794 for mobilenetv1_025.
    """
    network = zoo.get(name)
    assert sum(network.tensor[p].elements for p in network.parameters) == parameters
    layers = [info for info in infos(network).values() if info.kind in ("conv", "conv_transpose", "linear")]
    assert sum(op_def(info.kind).macs(info, "forward") for info in layers) == macs


def test_zoo_names_near_matches() -> None:
    with pytest.raises(NetworkError, match="network 'upidnet' is not in the zoo; did you mean 'upydnet'"):
        zoo.get("upidnet")


def test_upydnet_reproduces_the_reference(reference_data: Path) -> None:
    """Outputs and gradients that PyTorch computed in float32 from the same parameters and images."""
    network = zoo.upydnet()
    parameters = dict(np.load(reference_data / "upydnet_tartanair.npz"))
    check_parameters(network, parameters)
    captures, expected = (
        np.load(reference_data / "micro_sec_mde.npz"),
        np.load(reference_data / "upydnet_reference.npz"),
    )
    images = captures["image"].transpose(0, 3, 1, 2).astype(np.float32) / 255

    output = run_forward(network, parameters, images[expected["test_index"]])[network.outputs[0]]
    np.testing.assert_allclose(output[:, 0], expected["test_output"], atol=1e-4)

    chosen = expected["grad_index"]
    depth = captures["depth"][chosen]
    zones = np.where((depth > 0) & (depth < 4), captures["disp"][chosen], np.nan).astype(np.float32)
    target = zones.repeat(6, axis=1).repeat(6, axis=2)[:, None]
    at = run_forward(network, parameters, images[chosen])
    loss, dy = loss_def("l1").value_and_grad(at[network.outputs[0]], target, {})
    assert loss == pytest.approx(float(expected["loss"]), rel=1e-6)
    gradients = run_backward(network, parameters, at, dy)
    for name in network.parameters:
        wanted = expected[f"grad/{name}"]
        np.testing.assert_allclose(gradients[name], wanted, atol=1e-4 * np.abs(wanted).max(), err_msg=name)
