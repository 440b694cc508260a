"""MobileNetV2 against the figures that its paper and its best-known implementation give."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sparseplan import api
from sparseplan.builder import init_parameters
from sparseplan.errors import NetworkError
from sparseplan.inspection import inspect_rows
from sparseplan.run import predict
from sparseplan.weights import pretrained
from sparseplan.zoo import get, mobilenetv2, mobilenetv2_digits


def test_the_published_network() -> None:
    """3,504,872 parameters with two a channel in batch-norm (torchvision), 300 million MACs (the paper)."""
    network = mobilenetv2()
    channels = sum(network.tensor[f"{op.name}.bias"].elements for op in network.ops if op.kind == "conv")
    assert channels == 17_056
    rows = inspect_rows(network)
    assert sum(r["parameters"] for r in rows) == 3_504_872 - channels
    assert sum(r["macs_forward"] for r in rows) == pytest.approx(300e6, rel=0.01)
    kinds = [op.kind for op in network.ops]
    assert kinds.count("conv") == 52
    assert kinds.count("add") == 10
    assert kinds.count("relu6") == 35
    assert network.tensor[network.outputs[0]].shape == (1000,)
    assert network.tensor["last.relu6.out"].shape == (1280, 7, 7)


def test_widths() -> None:
    """Channels are multiples of eight, never a tenth too few: 1,677,568 weights and biases at 0.35 (torchvision's
    table 1.68 million with batch-norms), and the last convolution widens only above one."""
    thin, wide = mobilenetv2(width=0.35), mobilenetv2(width=1.4)
    for network in (thin, wide):
        assert all(network.tensor[f"{op.name}.bias"].elements % 8 == 0 for op in network.ops if op.kind == "conv")
    assert thin.tensor["stem.conv.out"].shape == (16, 112, 112)
    assert thin.tensor["last.conv.out"].shape[0] == 1280
    assert wide.tensor["last.conv.out"].shape[0] == 1792
    assert sum(r["parameters"] for r in inspect_rows(thin)) == pytest.approx(1.66e6, rel=0.01)


def test_other_resolutions_and_classes() -> None:
    network = mobilenetv2("small", shape=(1, 96, 96), classes=2, width=0.35)
    assert (network.name, network.tensor["last.conv.out"].shape[1:]) == ("small", (3, 3))


def test_blocks_are_linear_at_their_ends_and_add_where_they_can() -> None:
    network = mobilenetv2_digits()
    assert get("mobilenetv2_digits") == network
    by_name = {op.name: op for op in network.ops}
    assert by_name["block2.add"].inputs == ("block1.project.conv.out", "block2.project.conv.out")
    assert "block1.add" not in by_name, "stride 2"
    assert "block5.add" not in by_name, "other channels"
    assert "block0.expand.conv" not in by_name, "expansion 1"
    assert not any(op.kind == "relu6" and "project" in op.name for op in network.ops)
    assert by_name["block1.depthwise.conv"].attrs["groups"] == 64
    assert sum(a.size for a in pretrained(network).values()) == 43_034


def test_a_bottleneck_by_loops() -> None:
    """Two pixels by hand: expand, ReLU6, 3×3 a channel, ReLU6, project, add."""
    network = mobilenetv2("one", shape=(2, 3, 3), classes=2, stages=[(1, 8, 1, 1), (2, 8, 1, 1)], stem=8, stem_stride=1,
                          last=8)  # fmt: skip
    p = {name: 4 * a for name, a in init_parameters(network, 1).items()}
    x = np.random.default_rng(0).normal(0, 2, (1, 2, 3, 3)).astype(np.float32)

    def clip(a: np.ndarray) -> np.ndarray:
        return np.clip(a, 0, 6)

    def dense(a: np.ndarray, name: str) -> np.ndarray:
        return np.einsum("oi,ihw->ohw", p[f"{name}.weight"][:, :, 0, 0], a) + p[f"{name}.bias"][:, None, None]

    def threes(a: np.ndarray, name: str, depthwise: bool) -> np.ndarray:
        padded, w = np.pad(a, ((0, 0), (1, 1), (1, 1))), p[f"{name}.weight"]
        found = np.zeros((len(w), 3, 3))
        for o in range(len(w)):
            for r in range(3):
                for c in range(3):
                    window = padded[[o] if depthwise else slice(None), r : r + 3, c : c + 3]
                    found[o, r, c] = (w[o] * window).sum() + p[f"{name}.bias"][o]
        return found

    y = clip(threes(x[0], "stem.conv", False))
    y = y + dense(clip(threes(y, "block0.depthwise.conv", True)), "block0.project.conv")
    z = clip(threes(clip(dense(y, "block1.expand.conv")), "block1.depthwise.conv", True))
    y = y + dense(z, "block1.project.conv")
    y = clip(dense(y, "last.conv")).mean(axis=(1, 2))
    wanted = p["classifier.weight"] @ y + p["classifier.bias"]
    np.testing.assert_allclose(predict(network, p, x)[0], wanted, rtol=1e-4)


def test_it_can_be_planned() -> None:
    answer = api.plan("mobilenetv2_digits", "gap9", l2="150kB", loss="cross_entropy", fractions=(1.0,), time_limit=20)
    assert answer.feasible
    assert answer.peak_bytes["L2"] <= 150_000
    assert answer.update


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": 0}, "classes=0 must be a whole number, at least 1"),
        ({"stages": []}, r"stages=\[\] must be \(expansion, channels, blocks, stride\) each, at least one"),
        ({"stages": [(1, 8, 1)]}, "must be .expansion, channels, blocks, stride. each"),
        ({"stages": [(1, 8, 1, 0)]}, r"stages\[0\]\[3\]=0 must be a whole number"),
        ({"width": -1.0}, "width=-1.0 must be a number above 0"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(NetworkError, match=message):
        mobilenetv2(**arguments)
