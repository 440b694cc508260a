"""MCUNetV3's backbones op for op as the networks that its authors published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sparseplan import zoo
from sparseplan.inspection import inspect_rows
from sparseplan.network import Network, Op
from sparseplan.ops import OpInfo, infos

#: ours, the reference's file, convolutions, weights, biases, MACs of convolutions
NETWORKS = [
    ("mbv2_w035", "mbv2-w0.35", 51, 238_688, 5_760, 16_646_912),
    ("mcunet_5fps", "mcunet-5fps", 42, 463_216, 6_008, 22_453_504),
    ("proxyless_w03", "proxyless-w0.3", 60, 320_816, 5_416, 18_619_904),
]
#: our names of a block's convolutions
PARTS = {"pw1": "expand", "dw": "depthwise", "pw2": "project"}


def our_name(theirs: str) -> str:
    """``block3.pw1`` -> ``block3.expand.conv``."""
    if theirs == "stem":
        return "stem.conv"
    block, _, part = theirs.partition(".")
    return f"{block}.{PARTS[part]}.conv" if part in PARTS else theirs


def behind(network: Network, op: Op) -> list[str]:
    """The convolution, sum or input that makes each of an op's inputs, once activations are passed over."""
    found = []
    for t in op.inputs:
        while t in network.producer and network.producer[t].kind in ("relu6", "flatten"):
            (t,) = network.producer[t].inputs
        found.append(network.producer[t].name if t in network.producer else "input")
    return found


@pytest.mark.parametrize(("name", "file", "convs", "weights", "biases", "macs"), NETWORKS)
def test_totals(name: str, file: str, convs: int, weights: int, biases: int, macs: int) -> None:
    network = zoo.get(name)
    rows = [r for r in inspect_rows(network) if r["kind"] == "conv"]
    assert len(rows) == convs
    assert sum(r["parameters"] for r in rows) == weights + biases
    assert sum(network.tensor[f"{r['op']}.bias"].elements for r in rows) == biases
    assert sum(r["macs_forward"] for r in rows) == macs


@pytest.mark.parametrize(("name", "file"), [row[:2] for row in NETWORKS])
def test_op_for_op(name: str, file: str, reference_data: Path) -> None:
    path = reference_data / "networks" / f"{file}.json"
    if not path.is_file():
        pytest.skip(f"no {path}")
    wanted = json.loads(path.read_text(encoding="utf-8"))
    network = zoo.get(name)
    table = infos(network)
    assert list(network.tensor["image"].shape) == wanted["input_shape"]
    ours = [op for op in network.ops if op.kind in ("conv", "add")]
    nodes = [n for n in wanted["nodes"] if n["op"] in ("conv2d", "depthwise_conv2d", "add")]
    assert len(nodes) == wanted["n_conv"] + wanted["n_add"]
    assert [op.name for op in ours] == [our_name(n["name"]) for n in nodes]
    for op, node in zip(ours, nodes, strict=True):
        assert behind(network, op) == [our_name(t) if t != "input" else t for t in node["inputs"]]
        assert list(network.tensor[op.output].shape) == node["out_shape"]
        if op.kind == "conv":
            check_conv(network, op, table[op.name], node["params"])
    rows = {r["op"]: r for r in inspect_rows(network)}
    convs = [op for op in ours if op.kind == "conv"]
    weights = sum(network.tensor[op.params["weight"]].elements for op in convs)
    biases = sum(network.tensor[op.params["bias"]].elements for op in convs)
    macs = sum(rows[op.name]["macs_forward"] for op in convs)
    assert {"conv_weights": weights, "conv_biases": biases, "conv_macs": macs} == wanted["totals"]
    head = wanted["nodes"][-1]["params"]
    assert network.tensor["classifier.weight"].shape == (head["out_features"], head["in_features"])


def check_conv(network: Network, op: Op, info: OpInfo, wanted: dict[str, Any]) -> None:
    shape = network.tensor[op.params["weight"]].shape
    assert shape == (wanted["out_channels"], wanted["in_channels"] // wanted["groups"], *wanted["kernel"])
    assert network.tensor[op.params["weight"]].elements == wanted["n_weights"]
    assert network.tensor[op.params["bias"]].elements == wanted["n_biases"]
    assert list(info.attrs["stride"]) == wanted["stride"]
    assert list(info.attrs["padding"]) == wanted["padding"] * 2  # before and after
    assert list(info.attrs["dilation"]) == wanted["dilation"]
    assert info.attrs["groups"] == wanted["groups"]
    followers = [user.kind for user in network.consumers[op.output]]
    # where its int8 range shows a ReLU6, there is one; a range that ends below six does not show it
    assert not wanted["fused_relu6_by_quant_range"] or followers == ["relu6"]
    assert (followers == ["relu6"]) == (wanted["role"] != "project_1x1"), wanted["role"]


def test_classes() -> None:
    """The head that is trained for a task of a hundred classes or so."""
    for build in (zoo.mbv2_w035, zoo.mcunet_5fps, zoo.proxyless_w03):
        network = build(classes=102)
        assert network.tensor[network.outputs[0]].shape == (102,)
