"""Contributions: which sets are trained, what they gain on validation data, and who gets the gain."""

from __future__ import annotations

import itertools
import math
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

import sparseplan as sp
from sparseplan.builder import NetworkBuilder
from sparseplan.errors import ProblemError
from sparseplan.problem import resolve_choices
from sparseplan.run.trainer import TrainSettings
from sparseplan.value.contribution import (
    BASE,
    Measured,
    contribution_sets,
    contributions,
    distribute,
    measure,
)
from sparseplan.value.model import observations
from sparseplan.value.pairs import pair_gains, pair_terms, ties_of
from sparseplan.value.units import Unit, units_of

NET = sp.zoo.upydnet()
CHOICES, _ = resolve_choices(NET)


@dataclass(frozen=True)
class Part:
    x: np.ndarray
    target: np.ndarray


@dataclass(frozen=True)
class Slope:
    """Fit ``target = 2 x0 - x1 + 1`` with a linear op: what a task must have, and no more."""

    train: Part
    val: Part
    settings: TrainSettings = field(default_factory=lambda: TrainSettings("mse", optimizer="sgd", lr=0.3, epochs=60))

    def augment(self, x: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        return x, target

    def metrics(self, output: np.ndarray, split: Any) -> dict[str, float]:
        return {"mse": float(np.mean((output - split.target) ** 2))}

    def score(self, metrics: Mapping[str, float], metric: str | None = None) -> float:
        return -metrics[metric or "mse"]


def slope_task() -> Slope:
    rng = np.random.default_rng(0)
    parts = []
    for _ in range(2):
        x = rng.uniform(-1, 1, (64, 2)).astype(np.float32)
        parts.append(Part(x, (2 * x[:, :1] - x[:, 1:] + 1).astype(np.float32)))
    return Slope(*parts)


def test_what_a_unit_gains_is_what_it_can_fit() -> None:
    builder = NetworkBuilder("line")
    net = builder.build(builder.linear(builder.input("x", (2,)), 1, name="fc"))
    task = slope_task()
    params = {"fc.weight": np.zeros((1, 2), np.float32), "fc.bias": np.zeros(1, np.float32)}
    units = units_of(net, "parameter")
    sets = contribution_sets(units, pairs=True)
    assert sets == {
        BASE: {},
        "fc.weight": {"fc.weight": 1.0},
        "fc.bias": {"fc.bias": 1.0},
        "fc.weight+fc.bias": {"fc.weight": 1.0, "fc.bias": 1.0},
    }
    seen: list[tuple[str, int]] = []
    found = measure(net, params, task, sets, (0, 1), progress=lambda name, seed, score: seen.append((name, seed)))
    assert seen[0] == (BASE, 0)
    assert len(seen) == 1 + 3 * 2
    y, slopes = task.val.target, 2 * task.val.x[:, :1] - task.val.x[:, 1:]
    assert found.scores[BASE] == pytest.approx([-float(np.mean(y**2))], rel=1e-5)
    # everything is fitted with both; with the weight alone about the constant 1 is left, with the bias the slopes
    assert found.mean("fc.weight+fc.bias") == pytest.approx(float(np.mean(y**2)), rel=1e-3)
    gains = contributions(found, units)
    assert gains["fc.weight"] == pytest.approx(float(np.mean(y**2)) - 1, rel=0.1)
    assert gains["fc.bias"] == pytest.approx(float(np.mean(y**2) - np.mean(slopes**2)), rel=0.1)
    assert {o.n for o in observations(found)} == {2}
    assert found.spread("fc.weight+fc.bias") < 1e-3
    np.testing.assert_array_equal(params["fc.weight"], 0)  # where every training starts stays as it is


MEASURED = Measured(
    {BASE: {}, "a": {"p": 1.0}, "b": {"q": 1.0}, "a+b": {"p": 1.0, "q": 1.0}},
    {BASE: (0.5, 0.6), "a": (0.7, 0.9), "b": (0.6, 0.8), "a+b": (0.7, 0.9)},
)


def test_gains_are_paired_by_seed() -> None:
    assert MEASURED.gains("a") == pytest.approx((0.2, 0.3))
    assert MEASURED.mean("a") == pytest.approx(0.25)
    assert MEASURED.spread("a") == pytest.approx(0.1 / math.sqrt(2))
    assert pickle.loads(pickle.dumps(MEASURED)) == MEASURED


def test_pairs_are_what_both_bring_beyond_the_sum() -> None:
    units = (Unit("a", ("p",)), Unit("b", ("q",)))
    # seed by seed: 0.2-0.2-0.1 and 0.3-0.3-0.2, so -0.15 with a standard error of 0.05
    assert pair_gains(MEASURED, units) == pytest.approx({("a", "b"): -0.15})
    assert pair_gains(MEASURED, units, least=2.9) == pytest.approx({("a", "b"): -0.15})
    assert pair_gains(MEASURED, units, least=3.1) == {}
    choices = {"p": (0.5, 1.0), "q": (0.5,)}
    half, whole = pair_terms({("a", "b"): -0.15}, units, choices, fractions=(0.5, 1.0))
    assert (dict(half.a), dict(half.b), half.value) == ({"p": 0.5}, {"q": 0.5}, pytest.approx(-0.075))
    assert (dict(whole.a), dict(whole.b), whole.value) == ({"p": 1.0}, {"q": 0.5}, pytest.approx(-0.075))
    with pytest.raises(ProblemError, match=r"unit 'c' is unknown; known: a, b"):
        pair_terms({("a", "c"): 1.0}, units, choices)
    with pytest.raises(ProblemError, match=r"fractions=\(1.0, 0.5\) must ascend"):
        pair_terms({("a", "b"): 1.0}, units, choices, fractions=(1.0, 0.5))
    with pytest.raises(ProblemError, match=r"unit 'b' holds nothing that may be updated"):
        pair_terms({("a", "b"): 1.0}, units, {"p": (1.0,)})


def test_units_by_parameter_layer_block_and_name() -> None:
    assert len(units_of(NET, "parameter")) == 34
    assert len(units_of(NET, "layer")) == 17
    assert [u.name for u in units_of(NET, "block")] == ["encoder", "decoder0", "ups0", "decoder1", "ups1", "decoder2"]
    block = units_of(NET, {"first": ["decoder0.*", "ups0.*"], "last": "decoder2.conv2.bias"}, CHOICES)
    assert [len(u.parameters) for u in block] == [8, 1]
    assert ties_of(block, CHOICES) == (block[0].parameters,)
    assert [u.name for u in units_of(NET, "block", {"encoder.conv0.bias": (1.0,)})] == ["encoder"]


def test_a_gain_is_shared_in_whole_and_concave_in_the_fraction() -> None:
    units = units_of(NET, {"a": ["decoder0.*", "ups0.*"], "b": "encoder.*"}, CHOICES)
    found = distribute(NET, {"a": 0.6, "b": -0.2}, units, CHOICES)
    for unit, gain in zip(units, (0.6, -0.2), strict=True):
        assert math.fsum(found[p][1.0] for p in unit.parameters) == pytest.approx(gain)
        for p in unit.parameters:
            table = {0.0: 0.0, **found[p]}
            slopes = [abs(table[b] - table[a]) / (b - a) for a, b in itertools.pairwise(table)]
            assert all(late <= early + 1e-12 for early, late in itertools.pairwise(slopes))
    assert set(found["decoder2.conv0.weight"].values()) == {0.0}
    # by shares: a parameter that carries three quarters of the gradient gets three quarters
    shares = {p: dict.fromkeys(CHOICES[p], 0.0) for p in CHOICES}
    shares["decoder0.conv0.bias"], shares["ups0.tconv.bias"] = {1.0: 3.0}, {1.0: 1.0}
    found = distribute(NET, {"a": 0.6, "b": 0.2}, units, CHOICES, shares)
    assert found["decoder0.conv0.bias"][1.0] == pytest.approx(0.45)
    assert found["decoder0.conv0.weight"][1.0] == 0
    assert math.fsum(found[p][1.0] for p in units[1].parameters) == pytest.approx(0.2)  # no gradient: by elements
    linear = distribute(NET, {"a": 1.0}, units[:1], CHOICES, bend=0.0)["decoder0.conv1.weight"]
    assert linear[0.25] == pytest.approx(linear[1.0] / 4)


def test_what_is_wrong_is_said() -> None:
    units = units_of(NET, "block")
    with pytest.raises(ProblemError, match=r"units by='blok' is unknown; did you mean 'block'"):
        units_of(NET, "blok")
    with pytest.raises(ProblemError, match=r"parameter 'decoder0.conv0.weight' is in unit 'a' and in unit 'b'"):
        units_of(NET, {"a": "decoder0.*", "b": "decoder0.conv0.*"})
    with pytest.raises(ProblemError, match=r"unit 'a'='decodr0.\*' matches no parameter"):
        units_of(NET, {"a": "decodr0.*"})
    with pytest.raises(ProblemError, match=r"unit 'a'=\['encoder.\*'\] holds nothing that may be updated"):
        units_of(NET, {"a": "encoder.*"}, {"decoder0.conv0.bias": (1.0,)})
    with pytest.raises(ProblemError, match=r"unit name='a\+b' must be a printable text without '\+'"):
        Unit("a+b", ("p",))
    with pytest.raises(ProblemError, match=r"unit 'a' holds no parameter"):
        Unit("a", ())
    with pytest.raises(ProblemError, match=r"unit 'ups0' adds nothing to the baseline"):
        contribution_sets(units, {"ups0.tconv.weight": 1.0, "ups0.tconv.bias": 1.0})
    with pytest.raises(ProblemError, match=r"unit 'ups3' is unknown; did you mean"):
        contribution_sets(units, pairs=[("ups0", "ups3")])
    with pytest.raises(ProblemError, match=r"measured sets lack 'base'"):
        Measured({"a": {}}, {"a": (1.0,)})
    with pytest.raises(ProblemError, match=r"score of 'a'=nan must be a finite number"):
        Measured({BASE: {}, "a": {}}, {BASE: (1.0,), "a": (math.nan,)})
    with pytest.raises(ProblemError, match=r"seeds of measured sets differ: \{'base': 1, 'a': 2, 'b': 1\}"):
        Measured({BASE: {}, "a": {}, "b": {}}, {BASE: (1.0,), "a": (1.0, 2.0), "b": (1.0,)})
    with pytest.raises(ProblemError, match=r"set 'c' was not measured"):
        MEASURED.mean("c")
    with pytest.raises(ProblemError, match=r"unit 'encoder' has no gain"):
        distribute(NET, {}, units, CHOICES)
    with pytest.raises(ProblemError, match=r"bend=-1 must be a number from 0 to 50"):
        distribute(NET, {}, units, CHOICES, bend=-1)
    with pytest.raises(ProblemError, match=r"seeds=\(1, 1\) must be distinct"):
        measure(NET, {}, slope_task(), {BASE: {}}, (1, 1))
