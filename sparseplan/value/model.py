"""Models of value: from the measured gains of some sets of units to the gain of any set.

All are increasing functions of a sum over units and pairs of units, so the set of largest
predicted gain is found, with a proof, by maximising that sum. ``compare`` tells which of them
predicts sets best that it has not seen.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np

from sparseplan.errors import ProblemError, near
from sparseplan.network import Network
from sparseplan.ops.base import Array
from sparseplan.scalars import plain_fields
from sparseplan.terms import Pair, Saturation
from sparseplan.value.common import Choices, Table
from sparseplan.value.contribution import BEND, Measured, distribute, groups_measured
from sparseplan.value.costs import Values
from sparseplan.value.leastsquares import bounded_least_squares
from sparseplan.value.pairs import pair_terms
from sparseplan.value.units import Unit

PairName = tuple[str, str]
#: spread (standard deviation) of a model's own error, in parts of the range of what was measured
MODEL_ERROR = 0.01
#: prior spread of a pair's term, in parts of the range (times the ceiling where there is one)
PAIR_SPREAD = 0.5
#: priors, log-normal, in parts of the range: how far the ceiling lies above the best that was
#: measured, and a baseline that was not measured below the worst; (median, spread of the log)
HEADROOM = (0.1, 1.5)
BELOW = (0.25, 1.0)


@dataclass(frozen=True)
class Observation:
    """The measured gain of updating some units together.

    Attributes:
        units: names, each once.
        gain: mean over ``n`` runs; relative to the baseline, or a plain score where that is unknown.
        spread: standard deviation over the runs.
    """

    units: frozenset[str]
    gain: float
    spread: float = 0.0
    n: int = 1

    def __post_init__(self) -> None:
        plain_fields(self)
        if isinstance(self.units, str):
            raise ProblemError(f"units={self.units!r} must be a collection of names")
        object.__setattr__(self, "units", frozenset(self.units))
        for name, value in (("gain", self.gain), ("spread", self.spread)):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise ProblemError(f"{name} of {sorted(self.units)}={value!r} must be a finite number")
        if self.spread < 0:
            raise ProblemError(f"spread of {sorted(self.units)}={self.spread!r} must be at least 0")
        if isinstance(self.n, bool) or not isinstance(self.n, int) or self.n < 1:
            raise ProblemError(f"n of {sorted(self.units)}={self.n!r} must be a whole number, at least 1")


class ValueModel(Protocol):
    """What predicts the gain of a set of units."""

    def predict(self, units: Collection[str]) -> float: ...


Fit = Callable[[Sequence[Observation]], ValueModel]


@dataclass(frozen=True)
class Model:
    """Gain of a set S of units: ``offset + link(Σ weights[u] + Σ pairs[u, v])`` over the units and pairs in S.

    ``link`` is the identity (``ceiling`` None; the sum is in units of the metric), or
    ``ceiling · (1 - exp(-sum))``: each unit takes a part of what the others left, so gains saturate.

    Attributes:
        weights: unit to weight, at least 0 where there is a ceiling.
        pairs: two units to what both add to the sum; 0 where absent.
        ceiling: the most that can be gained.
        offset: predicted score of the baseline; 0 for gains.
    """

    weights: Mapping[str, float]
    pairs: Mapping[PairName, float] = field(default_factory=dict)
    ceiling: float | None = None
    offset: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights", MappingProxyType(dict(self.weights)))
        object.__setattr__(self, "pairs", MappingProxyType(dict(self.pairs)))

    def __reduce__(self) -> tuple[Any, ...]:
        return (Model, (dict(self.weights), dict(self.pairs), self.ceiling, self.offset))

    def latent(self, units: Collection[str]) -> float:
        """The sum that the planner maximises; raises ProblemError for an unknown unit."""
        for u in units:
            if u not in self.weights:
                raise ProblemError(f"unit {u!r} is unknown to the model{near(u, self.weights)}")
        inside = frozenset(units)
        own = (w for u, w in self.weights.items() if u in inside)
        return math.fsum((*own, *(q for (a, b), q in self.pairs.items() if a in inside and b in inside)))

    def gain(self, latent: float) -> float:
        """Predicted gain at a sum, also one of fractions of units."""
        if self.ceiling is None:
            return self.offset + latent
        return self.offset - self.ceiling * math.expm1(-latent)

    def predict(self, units: Collection[str]) -> float:
        """Predicted gain of updating these units together; raises ProblemError for an unknown one."""
        return self.gain(self.latent(units))

    def to_terms(
        self,
        network: Network,
        units: Iterable[Unit],
        choices: Choices,
        shares: Values | None = None,
        *,
        bend: float = BEND,
        corners: int = 0,
        fractions: Sequence[float] = (1.0,),
    ) -> tuple[Table, tuple[Pair | Saturation, ...]]:
        """Values and terms by which the planner maximises this model.

        Args:
            units, choices, shares, bend: as ``distribute``, which divides weights among parameters.
            corners: 0 gives the sum itself, whose optimum is the model's exactly. Otherwise values
                are 0 and one ``Saturation`` follows the link in so many straight pieces: the
                objective is then a gain (less the offset), good where other terms are to be added.
            fractions: see ``pair_terms``.

        Raises:
            ProblemError: a unit that the model lacks, or corners for a model without ceiling or with pairs.
        """
        units = tuple(units)
        for unit in units:
            if unit.name not in self.weights:
                raise ProblemError(f"unit {unit.name!r} is unknown to the model{near(unit.name, self.weights)}")
        table = distribute(network, self.weights, units, choices, shares, bend=bend)
        if not corners:
            present = {u.name for u in units}
            pairs = {ab: q for ab, q in self.pairs.items() if q and present.issuperset(ab)}
            return table, pair_terms(pairs, units, choices, fractions=fractions)
        if isinstance(corners, bool) or not isinstance(corners, int) or corners < 1:
            raise ProblemError(f"corners={corners!r} must be a whole number, at least 0")
        if self.ceiling is None or any(self.pairs.values()):
            raise ProblemError(f"corners={corners} asks for a saturating model without pairs; use corners=0")
        most = math.fsum(max(t.values()) for t in table.values())
        if most <= 0:
            return table, ()
        # equal steps in gain: the curve is steep where sums are small
        top = -math.expm1(-most)
        points = []
        for i in range(1, corners + 1):
            x = most if i == corners else -math.log1p(-top * i / corners)
            points.append((x, -self.ceiling * math.expm1(-x)))
        zeros = {p: dict.fromkeys(t, 0.0) for p, t in table.items()}
        return zeros, (Saturation({p: t for p, t in table.items() if any(t.values())}, tuple(points)),)


def observations(measured: Measured) -> tuple[Observation, ...]:
    """Gains of all measured sets but the baseline."""
    return tuple(
        Observation(frozenset(units), measured.mean(name), measured.spread(name), len(measured.scores[name]))
        for name, units in groups_measured(measured).items()
    )


def fit_additive(seen: Sequence[Observation], *, baseline: float | None = 0.0, pairs: bool = False) -> Model:
    """The sum of the units' gains, by weighted least squares; what most planners assume.

    Args:
        baseline: score without any of the units; None where it was not measured: it is then fitted
            under a weak prior (``BELOW``), and no unit may lose.
        pairs: whether pairs of units that were measured alone have terms, under a prior (``PAIR_SPREAD``).

    Raises:
        ProblemError: nothing observed, or a set observed twice.
    """
    data = _Data(seen, pairs)
    best = _search(data, baseline, None)
    return data.model(best)


def fit_saturating(seen: Sequence[Observation], *, baseline: float | None = 0.0, pairs: bool = False) -> Model:
    """The saturating model, by maximum a posteriori: least squares of gains, with weak stated priors.

    Spread is pooled over the observations, as a few runs tell it badly. The ceiling is best told by
    the gain of all units together. A unit that loses gets weight 0. Arguments and raises as ``fit_additive``.
    """
    data = _Data(seen, pairs)
    best = _search(data, baseline, HEADROOM)
    return data.model(best)


@dataclass(frozen=True)
class _Point:
    cost: float
    offset: float
    ceiling: float | None
    unknowns: Array


class _Data:
    """Observations as arrays: one row each; columns are units, then pairs."""

    def __init__(self, seen: Sequence[Observation], pairs: bool) -> None:
        if not seen:
            raise ProblemError("observations=() tell nothing; measure at least one set")
        sets = [o.units for o in seen]
        for i, units in enumerate(sets):
            if units in sets[:i]:
                raise ProblemError(f"units {sorted(units)} are observed twice; give one observation with n runs")
            if not units:
                raise ProblemError("an observation names no unit; that is the baseline: give its score as baseline=")
        self.units = sorted(frozenset[str]().union(*sets))
        self.pairs = [ab for ab in itertools.combinations(self.units, 2) if frozenset(ab) in sets] if pairs else []
        self.rows = np.array(
            [[*(u in s for u in self.units), *(a in s and b in s for a, b in self.pairs)] for s in sets], float
        )
        self.y = np.array([o.gain for o in seen])
        self.low, self.high = float(self.y.min()), float(self.y.max())
        # a few runs tell a spread badly, so all sets share one
        runs = sum(o.n - 1 for o in seen)
        pooled = math.fsum(o.spread**2 * (o.n - 1) for o in seen) / runs if runs else 0.0
        self.error = np.array([pooled / o.n for o in seen])

    def scale(self, baseline: float | None) -> float:
        """The range of what was measured, the baseline included where it is known."""
        low = self.low if baseline is None else min(self.low, baseline)
        return (self.high - low) or abs(self.high) or 1.0

    def solve(self, offset: float, ceiling: float | None, scale: float, signed: bool) -> _Point:
        """The best unknowns for a baseline and a ceiling; ``signed``: without ceiling, weights may be negative."""
        sigma = np.sqrt(self.error + (MODEL_ERROR * scale) ** 2)
        gain = self.y - offset
        factor = (1.0 if ceiling is None else ceiling) / (PAIR_SPREAD * scale)
        prior = np.hstack([np.zeros((len(self.pairs), len(self.units))), factor * np.eye(len(self.pairs))])
        nothing = np.zeros(len(self.pairs))
        if ceiling is None:
            stacked = np.vstack([self.rows / sigma[:, None], prior])
            free = self.rows.shape[1] if signed else len(self.pairs)
            v = bounded_least_squares(stacked, np.concatenate([gain / sigma, nothing]), free)
            miss = (self.rows @ v - gain) / sigma
            return _Point(float(miss @ miss + (prior @ v) @ (prior @ v)), offset, None, v)

        def cost(v: Array) -> float:
            miss = (-ceiling * np.expm1(-self.rows @ v) - gain) / sigma
            return float(miss @ miss + (prior @ v) @ (prior @ v))

        # start from the logarithm of what is left, then Gauss-Newton on gains
        left = np.maximum(1 - gain / ceiling, 1e-3)
        weight = ceiling * left / sigma
        stacked = np.vstack([self.rows * weight[:, None], prior])
        v = bounded_least_squares(
            stacked, np.concatenate([-np.log(left) * weight, nothing]), len(self.pairs), np.ones(self.rows.shape[1])
        )
        now = cost(v)
        for _ in range(30):
            rest = ceiling * np.exp(-self.rows @ v)
            slope = rest / sigma
            target = self.rows @ v * slope - (ceiling - rest - gain) / sigma
            stacked = np.vstack([self.rows * slope[:, None], prior])
            step = bounded_least_squares(stacked, np.concatenate([target, nothing]), len(self.pairs), v) - v
            size = 1.0
            while size > 1e-3 and cost(v + size * step) > now:
                size /= 2
            after = cost(v + size * step)
            if after > now * (1 - 1e-10):
                break
            v, now = v + size * step, after
        return _Point(now, offset, ceiling, v)

    def model(self, best: _Point) -> Model:
        found = [float(v) for v in best.unknowns]
        weights = dict(zip(self.units, found, strict=False))
        pairs = dict(zip(self.pairs, found[len(self.units) :], strict=True))
        return Model(weights, pairs, best.ceiling, best.offset)


def _search(data: _Data, baseline: float | None, headroom: tuple[float, float] | None) -> _Point:
    """The best (headroom, depth of the baseline), both logarithms: a grid, then a shrinking cross."""
    if baseline is not None and not math.isfinite(baseline):
        raise ProblemError(f"baseline={baseline!r} must be a finite number, or None where it was not measured")
    scale = data.scale(baseline)
    axes = [prior for prior in (headroom, BELOW if baseline is None else None) if prior is not None]

    def at(point: tuple[float, ...]) -> _Point:
        rest = list(point)
        top = math.exp(rest.pop(0)) * scale if headroom is not None else None
        offset = data.low - math.exp(rest.pop(0)) * scale if baseline is None else baseline
        ceiling = None if top is None else max(data.high, offset) + top - offset
        found = data.solve(offset, ceiling, scale, baseline is not None)
        prior = sum(((x - math.log(m)) / s) ** 2 for x, (m, s) in zip(point, axes, strict=True))
        return _Point(found.cost + prior, found.offset, found.ceiling, found.unknowns)

    grid = [[math.log(m) + s * k for k in np.linspace(-2, 2, 9)] for m, s in axes]
    place = min(itertools.product(*grid), key=lambda p: (at(p).cost, p))
    best, step = at(place), 0.5
    while axes and step > 1e-4:
        near_by = [(*place[:i], place[i] + d, *place[i + 1 :]) for i in range(len(axes)) for d in (-step, step)]
        points = [(at(p), p) for p in near_by]
        found, there = min(points, key=lambda item: (item[0].cost, item[1]))
        if found.cost < best.cost:
            best, place = found, there
        else:
            step /= 2
    return best


@dataclass(frozen=True)
class Errors:
    """How far predictions of sets that a model has not seen are off.

    Attributes:
        mae: mean absolute error, in units of the metric.
        rank: Spearman's rank correlation with what was measured; NaN where either is constant.
        pairs: (set, measured, predicted).
    """

    mae: float
    rank: float
    pairs: tuple[tuple[frozenset[str], float, float], ...]


def held_out(fit: Fit, seen: Sequence[Observation], unseen: Sequence[Observation]) -> Errors:
    """Errors on ``unseen`` of a model fitted to ``seen``; raises ProblemError where nothing is unseen."""
    model = fit(seen)
    return _errors([(o, model.predict(o.units)) for o in unseen])


def leave_one_out(fit: Fit, seen: Sequence[Observation]) -> Errors:
    """Errors on each set of several units when the model is fitted to all the others.

    Sets of one unit are always kept: without them a unit may not have been seen at all.
    """
    predicted = []
    for o in seen:
        rest = [other for other in seen if other is not o]
        if len(o.units) > 1 and o.units <= frozenset[str]().union(*(other.units for other in rest)):
            predicted.append((o, fit(rest).predict(o.units)))
    return _errors(predicted)


def compare(fits: Mapping[str, Fit], seen: Sequence[Observation]) -> dict[str, Errors]:
    """``leave_one_out`` of several models, by name."""
    return {name: leave_one_out(fit, seen) for name, fit in fits.items()}


def _errors(predicted: Sequence[tuple[Observation, float]]) -> Errors:
    if not predicted:
        raise ProblemError("no set of several units is left to predict; measure pairs, or all units together")
    rows = tuple((o.units, o.gain, p) for o, p in predicted)
    mae = math.fsum(abs(m - p) for _, m, p in rows) / len(rows)
    return Errors(mae, rank_correlation([m for _, m, _ in rows], [p for _, _, p in rows]), rows)


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's rank correlation, ties sharing their mean rank; NaN where one side is constant."""
    ra, rb = _ranks(a), _ranks(b)
    ra, rb = ra - ra.mean(), rb - rb.mean()
    size = math.sqrt(float(ra @ ra) * float(rb @ rb))
    return float(ra @ rb) / size if size else math.nan


def _ranks(values: Sequence[float]) -> Array:
    array = np.asarray(values, float)
    below = (array[None, :] < array[:, None]).sum(axis=1)
    same = (array[None, :] == array[:, None]).sum(axis=1)
    ranks: Array = below + (same - 1) / 2
    return ranks
