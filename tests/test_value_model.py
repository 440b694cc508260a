"""Models of value find what was planted, saturate where gains do, and say what they cannot do."""

from __future__ import annotations

import itertools
import math
from functools import partial

import numpy as np
import pytest

import sparseplan as sp
from sparseplan.errors import ProblemError
from sparseplan.problem import Problem, resolve_choices
from sparseplan.steps import TrainingOptions
from sparseplan.terms import Saturation
from sparseplan.value.leastsquares import bounded_least_squares
from sparseplan.value.model import (
    Model,
    Observation,
    compare,
    fit_additive,
    fit_saturating,
    held_out,
    leave_one_out,
    rank_correlation,
)
from sparseplan.value.pairs import ties_of
from sparseplan.value.units import units_of

UNITS = ("a", "b", "c", "d")
SETS = [frozenset(s) for k in range(1, 5) for s in itertools.combinations(UNITS, k)]


def planted(gain: dict[str, float], ceiling: float, sets: list[frozenset[str]] = SETS) -> list[Observation]:
    """Gains when each unit takes its share of what the others left."""
    return [Observation(s, ceiling * (1 - math.prod(1 - gain[u] / ceiling for u in s))) for s in sets]


def test_the_saturating_model_recovers_what_was_planted() -> None:
    alone = {"a": 0.15, "b": 0.12, "c": 0.05, "d": 0.01}
    seen = planted(alone, 0.2, [s for s in SETS if len(s) in (1, 4)])
    found = fit_saturating(seen)
    for s in SETS:
        truth = planted(alone, 0.2, [s])[0].gain
        assert found.predict(s) == pytest.approx(truth, abs=0.002)
    assert found.weights["a"] == pytest.approx(-math.log(1 - 0.15 / 0.2), rel=0.1)
    assert found.offset == 0


def test_the_additive_model_recovers_a_sum_negative_gains_included() -> None:
    gain = {"a": 0.1, "b": -0.02, "c": 0.05, "d": 0.0}
    seen = [Observation(s, sum(gain[u] for u in s)) for s in SETS if len(s) != 2]
    assert dict(fit_additive(seen).weights) == pytest.approx(gain)
    errors = held_out(fit_additive, seen, [Observation(s, sum(gain[u] for u in s)) for s in SETS if len(s) == 2])
    assert errors.mae < 1e-9
    assert errors.rank == pytest.approx(1)


def test_a_planted_pair_is_found_and_a_whole_sum_stays_one() -> None:
    alone = {"a": 0.1, "b": 0.1, "c": 0.1, "d": 0.1}
    seen = [Observation(s, sum(alone[u] for u in s) + 0.2 * ({"a", "b"} <= s)) for s in SETS]
    found = fit_additive(seen, pairs=True)
    assert found.pairs["a", "b"] == pytest.approx(0.2, rel=0.01)
    assert all(abs(q) < 0.005 for ab, q in found.pairs.items() if ab != ("a", "b"))


def test_a_baseline_that_was_not_measured_is_fitted_below_all_scores() -> None:
    alone = {"a": 0.15, "b": 0.12, "c": 0.05, "d": 0.03}
    seen = [Observation(o.units, o.gain + 0.5, 0.002, 5) for o in planted(alone, 0.2)]
    found = fit_saturating(seen, baseline=None)
    assert found.offset == pytest.approx(0.5, abs=0.01)
    assert found.predict({"a", "b"}) == pytest.approx(planted(alone, 0.2, [frozenset("ab")])[0].gain + 0.5, abs=0.002)


def test_all_models_are_compared_on_what_they_have_not_seen() -> None:
    seen = planted({"a": 0.15, "b": 0.12, "c": 0.05, "d": 0.01}, 0.2)
    found = compare({"additive": fit_additive, "saturating": fit_saturating}, seen)
    assert found["saturating"].mae < 0.001 < 0.01 < found["additive"].mae
    assert len(found["additive"].pairs) == 11
    assert leave_one_out(fit_saturating, seen) == found["saturating"]


def test_nonnegative_least_squares_meet_the_optimality_conditions(rng: np.random.Generator) -> None:
    for _ in range(50):
        a, b = rng.standard_normal((8, 5)), rng.standard_normal(8)
        free = int(rng.integers(0, 3))
        v = bounded_least_squares(a, b, free)
        assert bounded_least_squares(a, b, free, rng.standard_normal(5)) == pytest.approx(v)
        slope = a.T @ (a @ v - b)
        bound = 5 - free
        assert (v[:bound] >= 0).all()
        assert (slope[:bound] >= -1e-8).all()
        assert np.abs(slope[:bound] * v[:bound]).max(initial=0) < 1e-8
        assert np.abs(slope[bound:]).max(initial=0) < 1e-8


def test_rank_correlation_by_hand() -> None:
    assert rank_correlation([1, 2, 3], [10, 30, 20]) == pytest.approx(0.5)
    assert rank_correlation([1, 2, 2, 3], [1, 2, 2, 3]) == pytest.approx(1)
    assert math.isnan(rank_correlation([1, 1], [1, 2]))


NET = sp.zoo.upydnet()
BLOCKS = {"encoder": "encoder.*", "decoder0": ["decoder0.*", "ups0.*"], "decoder1": ["decoder1.*", "ups1.*"]}


@pytest.mark.parametrize("corners", [0, 6])
def test_terms_tell_the_planner_what_the_model_predicts(corners: int) -> None:
    choices, _ = resolve_choices(NET, may=("encoder.*", "decoder0.*", "ups0.*", "decoder1.*", "ups1.*"))
    units = units_of(NET, BLOCKS, choices)
    pairs = {} if corners else {("encoder", "decoder0"): -0.7}
    model = Model({"encoder": 1.2, "decoder0": 0.9, "decoder1": 0.4}, pairs, 0.3, 0.1)
    values, terms = model.to_terms(NET, units, choices, corners=corners)
    for k in range(4):
        for names in itertools.combinations(BLOCKS, k):
            update = {p: 1.0 for u in units if u.name in names for p in u.parameters}
            worth = math.fsum([*(values[p][r] for p, r in update.items()), *(t.worth(update) for t in terms)])
            if corners:
                # chords lie below the curve, by no more than the square of their share
                assert model.predict(names) - 0.1 == pytest.approx(worth, abs=0.3 / 6**2 * 3)
                assert worth <= model.predict(names) - 0.1 + 1e-9
            else:
                assert model.gain(worth) == pytest.approx(model.predict(names))


def test_the_planner_maximises_the_model() -> None:
    choices, _ = resolve_choices(NET, may=("encoder.*", "decoder0.*", "ups0.*"), fractions=(1.0,))
    units = units_of(NET, {k: v for k, v in BLOCKS.items() if k != "decoder1"}, choices)
    # both fit alone; together they bring less than one of them
    model = Model({"encoder": 1.0, "decoder0": 0.9}, {("decoder0", "encoder"): -0.95}, 0.3)
    values, terms = model.to_terms(NET, units, choices)
    options = TrainingOptions(alignment=4)
    problem = Problem(NET, sp.load_device("gap9"), options, choices, {}, values, None, terms, ties_of(units, choices))
    found = sp.plan(problem)
    assert found.status == "OPTIMAL"
    assert set(found.update) == set(units[0].parameters)


def test_what_is_wrong_is_said() -> None:
    one = Observation(frozenset("a"), 0.1)
    with pytest.raises(ProblemError, match=r"observations=\(\) tell nothing"):
        fit_additive([])
    with pytest.raises(ProblemError, match=r"units \['a'\] are observed twice"):
        fit_saturating([one, one])
    with pytest.raises(ProblemError, match=r"an observation names no unit; that is the baseline"):
        fit_additive([Observation(frozenset(), 0.1)])
    with pytest.raises(ProblemError, match=r"gain of \['a'\]=nan must be a finite number"):
        Observation(frozenset("a"), math.nan)
    with pytest.raises(ProblemError, match=r"units='encoder' must be a collection of names"):
        Observation("encoder", 0.1)  # type: ignore[arg-type]
    with pytest.raises(ProblemError, match=r"baseline=nan must be a finite number, or None"):
        fit_additive([one], baseline=math.nan)
    with pytest.raises(ProblemError, match=r"unit 'b' is unknown to the model; known: a"):
        fit_additive([one]).predict({"b"})
    with pytest.raises(ProblemError, match=r"no set of several units is left to predict"):
        leave_one_out(partial(fit_additive), [one])
    units = units_of(NET, {"a": "encoder.*"})
    choices, _ = resolve_choices(NET)
    with pytest.raises(ProblemError, match=r"corners=4 asks for a saturating model without pairs"):
        Model({"a": 1.0}).to_terms(NET, units, choices, corners=4)
    assert isinstance(Model({"a": 1.0}, ceiling=1.0).to_terms(NET, units, choices, corners=1)[1][0], Saturation)
