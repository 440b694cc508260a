"""Every network of the zoo has the published parameters and MACs, once it is said what is counted.

Frameworks count other things than what training updates here: a Keras summary counts the moving mean and
variance of batch-norms, and biases of convolutions that a batch-norm follows (which it makes void);
torchvision counts two parameters a channel of batch-norms that are folded here. The differences are
reckoned from the network, and explain each figure exactly. ``docs/zoo.md`` has the table.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from sparseplan import zoo
from sparseplan.inspection import inspect_rows
from sparseplan.network import Network


@dataclass(frozen=True)
class Published:
    """Figures of a network.

    Attributes:
        ours: parameters that the zoo's network has.
        parameters: as published, or None.
        counted: what the publication counts, as a function here tells.
        macs, digits: as published, to so many decimals of a million, over ``kinds`` of ops; or None.
    """

    ours: int
    source: str
    parameters: int | None = None
    counted: str = "same"
    macs: float | None = None
    digits: int = 3
    kinds: tuple[str, ...] = ("conv", "conv_transpose", "linear")


KERAS = "github.com/mlcommons/tiny, Keras summary of the benchmark's trained model"
TINY_TRAINING = "github.com/mit-han-lab/tiny-training, commit 7bf8e05, convolutions of the model's file"
FIGURES = {
    "upydnet": Published(107_625, "arXiv 2512.00086", 107_625),
    "resnet8": Published(77_946, KERAS, 78_666, "keras", 12.501632, 6),
    "dscnn": Published(23_180, KERAS, 24_908, "keras", 2.656768, 6),
    "mobilenetv1_025": Published(213_586, KERAS, 221_794, "keras", 7.489664, 6),
    "autoencoder": Published(267_928, KERAS, 269_992, "keras", 0.264192, 6),
    "mobilenetv2": Published(3_487_816, "torchvision mobilenet_v2; MACs: Sandler et al. 2018, table 4", 3_504_872,
                             "torchvision", 300, -1),
    # as published: 0.284 M parameters, 0.033 G MACs by a profiler that sees layers, so not the products of attention
    "cct_2_3x2": Published(283_723, "github.com/SHI-Labs/Compact-Transformers, README", 284_000, "thousands", 33, 0),
    "mobilenetv2_digits": Published(43_034, "none: this project's own"),
    "mbv2_w035": Published(357_448, TINY_TRAINING, 238_688 + 5_760, "convolutions", 16.646912, 6, ("conv",)),
    "mcunet_5fps": Published(630_224, TINY_TRAINING, 463_216 + 6_008, "convolutions", 22.453504, 6, ("conv",)),
    "proxyless_w03": Published(423_232, TINY_TRAINING, 320_816 + 5_416, "convolutions", 18.619904, 6, ("conv",)),
}  # fmt: skip


def of_kind(network: Network, *kinds: str) -> int:
    return sum(r["parameters"] for r in inspect_rows(network) if r["kind"] in kinds)


def normalised(network: Network) -> tuple[int, int]:
    """Channels of all batch-norms, and of those after a convolution that has no bias here."""
    norms = [op for op in network.ops if op.kind == "affine"]
    makers = [network.producer[op.inputs[0]] for op in norms]
    channels = [network.tensor[op.params["weight"]].elements for op in norms]
    without = [n for n, maker in zip(channels, makers, strict=True) if "bias" not in maker.params]
    return sum(channels), sum(without)


def as_counted(network: Network, how: str) -> int:
    """Parameters by another's way of counting."""
    ours = sum(r["parameters"] for r in inspect_rows(network))
    if how == "keras":
        channels, without_bias = normalised(network)
        return ours + 2 * channels + without_bias
    if how == "torchvision":  # two of each batch-norm's channels where here a bias is
        return ours + sum(network.tensor[op.params["bias"]].elements for op in network.ops if op.kind == "conv")
    if how == "thousands":
        return round(ours, -3)
    if how == "convolutions":
        return of_kind(network, "conv")
    return ours


def test_every_network_is_in_the_table() -> None:
    assert set(FIGURES) == set(zoo.NETWORKS)


@pytest.mark.parametrize("name", sorted(FIGURES))
def test_parameters(name: str) -> None:
    network, figure = zoo.get(name), FIGURES[name]
    assert sum(r["parameters"] for r in inspect_rows(network)) == figure.ours
    assert figure.ours == sum(network.tensor[p].elements for p in network.parameters)
    if figure.parameters is not None:
        assert as_counted(network, figure.counted) == figure.parameters, figure.source


@pytest.mark.parametrize("name", sorted(n for n, f in FIGURES.items() if f.macs is not None))
def test_macs(name: str) -> None:
    figure = FIGURES[name]
    macs = sum(r["macs_forward"] for r in inspect_rows(zoo.get(name)) if r["kind"] in figure.kinds)
    assert round(macs / 1e6, figure.digits) == figure.macs, figure.source


@pytest.mark.parametrize(
    ("name", "statistics", "biases"),
    [("resnet8", 480, 240), ("dscnn", 1_152, 576), ("mobilenetv1_025", 5_472, 2_736), ("autoencoder", 2_064, 0)],
)
def test_what_keras_counts_more(name: str, statistics: int, biases: int) -> None:
    """Moving means and variances, and void biases."""
    channels, without = normalised(zoo.get(name))
    assert (2 * channels, without) == (statistics, biases)
    published = FIGURES[name].parameters
    assert published is not None
    assert published - FIGURES[name].ours == statistics + biases


def test_the_autoencoder_s_shape() -> None:
    network = zoo.autoencoder()
    widths = [network.tensor[op.output].shape[0] for op in network.ops if op.kind == "linear"]
    assert widths == [128] * 4 + [8] + [128] * 4 + [640]
    kinds = [op.kind for op in network.ops]
    assert kinds == ["linear", "affine", "relu"] * 9 + ["linear"]
    assert network.tensor[network.outputs[0]].shape == network.tensor["features"].shape == (640,)
