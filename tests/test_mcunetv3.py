"""MCUNetV3's accounting of update schemes, to the bit as its authors' code reckons them."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from sparseplan import zoo
from sparseplan.builder import NetworkBuilder
from sparseplan.costs.mcunetv3 import Scheme, account, convolutions
from sparseplan.errors import ProblemError
from sparseplan.network import Network

NETWORKS = {"mbv2-w0.35": "mbv2_w035", "mcunet-5fps": "mcunet_5fps", "proxyless-w0.3": "proxyless_w03"}


def scheme_of(row: dict[str, str], count: int) -> Scheme:
    """The scheme of a row: named convolutions with ratios, or the last ones in whole."""
    biases = int(row["n_bias_update"])
    if row["manual_weight_idx"]:
        indices = map(int, row["manual_weight_idx"].split("-"))
        return Scheme(biases, dict(zip(indices, map(float, row["weight_update_ratio"].split("-")), strict=True)))
    return Scheme(biases, dict.fromkeys(range(count - int(row["n_weight_layers"]), count), 1.0))


def test_every_published_row(reference_data: Path) -> None:
    path = reference_data / "mcunetv3_memory.csv"
    if not path.is_file():
        pytest.skip(f"no {path}")
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 328
    networks = {theirs: zoo.get(ours) for theirs, ours in NETWORKS.items()}
    counts = {name: len(convolutions(network)) for name, network in networks.items()}
    for row in rows:
        name = row["network"]
        scheme = scheme_of(row, counts[name])
        found = account(networks[name], scheme)
        ours = (found.weight_bits, found.momentum_bits, found.activation_bits, found.total_bits)
        theirs = tuple(int(row[f"{part}_bits"]) for part in ("weight", "momentum", "activation", "total"))
        assert ours == theirs, (name, row["scheme"])
        assert sum(r > 0 for r in scheme.weights.values()) == int(row["n_weight_layers"])
        assert round(found.total_bytes / 1024, 4) == pytest.approx(float(row["total_kB"]), abs=1e-4)


def small() -> Network:
    net = NetworkBuilder("small")
    x = net.op("relu6", net.conv(net.input("image", (4, 6, 6)), 6, 3, padding=1, name="a"))
    x = net.conv(x, 6, 3, 2, 1, name="b", groups=6, bias=False)
    return net.build(net.linear(net.op("flatten", net.op("global_avg_pool", x)), 3, name="head"))


def test_by_hand() -> None:
    network = small()
    assert account(network, Scheme(0)).total_bits == 6 * 8  # the classifier's input
    one = account(network, Scheme(1))  # b has no bias; 6×3×3 outputs
    assert (one.weight_bits, one.activation_bits) == (0, 48 + 54)
    two = account(network, Scheme(2, {0: 0.4, 1: 0.5}))
    # int(4 × 0.4) = 1 of a's input channels: 6×9 weights and 36 inputs; three of b's: 9 weights and 36 inputs each
    assert two.weight_bits == 8 * 54 + 8 * 27 + 32 * 6
    assert two.activation_bits == 48 + 54 + 216 + 8 * 36 + 8 * 108
    assert two.total_bits == two.weight_bits + two.activation_bits
    assert two.total_bytes == two.total_bits / 8
    assert account(network, Scheme(2, {0: 0.2})) == account(network, Scheme(2)), "a ratio that keeps no channel"


def test_bad_schemes() -> None:
    network = small()
    with pytest.raises(ProblemError, match="biases=-1 must be a whole number"):
        Scheme(-1)
    with pytest.raises(ProblemError, match=r"weights\[0\]=1.5 must be a ratio from 0 to 1"):
        Scheme(0, {0: 1.5})
    with pytest.raises(ProblemError, match="convolution -1 must be a whole number"):
        Scheme(0, {-1: 1.0})
    with pytest.raises(ProblemError, match="biases=3: network 'small' has 2 convolutions"):
        account(network, Scheme(3))
    with pytest.raises(ProblemError, match="has convolutions 0 to 1, not 2"):
        account(network, Scheme(0, {2: 1.0}))
    with pytest.raises(ProblemError, match="ends in relu 'disparity'; the accounting needs a linear"):
        account(zoo.upydnet(), Scheme(0))
