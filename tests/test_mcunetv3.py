"""MCUNetV3's accounting of update schemes, to the bit as its authors' code reckons them."""

from __future__ import annotations

import csv
import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparseplan import zoo
from sparseplan.builder import NetworkBuilder
from sparseplan.costs.mcunetv3 import Scheme, account, best_scheme, convolutions
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


def deeper() -> Network:
    net = NetworkBuilder("deeper")
    x = net.input("image", (4, 6, 6))
    for i, (channels, groups) in enumerate([(8, 1), (8, 8), (4, 1)]):
        x = net.op("relu6", net.conv(x, channels, 3, padding=1, name=f"c{i}", groups=groups))
    return net.build(net.linear(net.op("flatten", net.op("global_avg_pool", x)), 3, name="head"))


GAINS = st.dictionaries(st.sampled_from([0.25, 0.5, 1.0]), st.integers(-3, 20).map(float), max_size=3)


@given(
    gains=st.fixed_dictionaries(dict.fromkeys(range(3), GAINS)),
    biases=st.dictionaries(st.integers(0, 2), st.integers(-4, 9).map(float)),
    budget=st.integers(0, 12_000),
    least=st.integers(0, 3),
)
def test_the_best_scheme_is_that_of_brute_force(
    gains: dict[int, dict[float, float]], biases: dict[int, float], budget: int, least: int
) -> None:
    network = deeper()
    worth: list[float] = []
    for k in range(least, 4):
        last = range(3 - k, 3)
        for ratios in itertools.product(*([None, *gains[i]] for i in last)):
            chosen = {i: r for i, r in zip(last, ratios, strict=True) if r is not None}
            if account(network, Scheme(k, chosen)).total_bits <= budget:
                worth.append(sum(gains[i][r] for i, r in chosen.items()) + sum(biases.get(i, 0.0) for i in last))
    found = best_scheme(network, budget, gains, biases, least)
    if found is None:
        assert not worth
        return
    scheme, value = found
    assert account(network, scheme).total_bits <= budget
    assert all(i >= 3 - scheme.biases for i in scheme.weights)
    assert scheme.biases >= least
    gain = sum(gains[i][r] for i, r in scheme.weights.items())
    assert value == gain + sum(biases.get(i, 0.0) for i in range(3 - scheme.biases, 3)) == max(worth)


def test_bad_gains() -> None:
    with pytest.raises(ProblemError, match="has convolutions 0 to 2, not 7"):
        best_scheme(deeper(), 10_000, {7: {1.0: 1.0}})
    with pytest.raises(ProblemError, match=r"weights\[1\]=2.0 must be a ratio"):
        best_scheme(deeper(), 10_000, {1: {2.0: 1.0}})
    with pytest.raises(ProblemError, match="biases=4: network 'deeper' has 3 convolutions"):
        best_scheme(deeper(), 10_000, {}, least_biases=4)
