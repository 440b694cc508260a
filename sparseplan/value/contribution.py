"""Measured contribution: what updating a unit gains in the task's metric, found by training.

MCUNetV3 (Lin et al., "On-device training under 256KB memory", NeurIPS 2022, arXiv 2206.15472) fine-
tunes with one layer updated on top of a baseline (there: biases and the classifier) and takes the
gain in accuracy as that layer's contribution. Here a unit is any group of parameters, the
baseline any update set (by default none), and the gain a mean over seeds on the *validation* split.

Trainings take long, so the three parts stand apart: ``contribution_sets`` says what to train,
``measure`` trains it one after the other (or something else does, in parallel), ``Measured`` holds
what came of it, and ``distribute`` turns gains of units into values of parameters and fractions.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np

from sparseplan.errors import ProblemError, near
from sparseplan.network import Network
from sparseplan.ops.base import Array
from sparseplan.run.trainer import TrainSettings, predict, train
from sparseplan.scalars import plain_fields
from sparseplan.value.common import Choices, Table, levels_of
from sparseplan.value.costs import Values
from sparseplan.value.units import Unit, check_units, members, set_name

#: name of the baseline among the sets to train
BASE = "base"
#: curvature of a unit's gain in the share of it that is updated; see ``distribute``
BEND = 1.5


class SplitLike(Protocol):
    """Samples with labels: arrays of one length."""

    @property
    def x(self) -> Array: ...
    @property
    def target(self) -> Array: ...


class TaskLike(Protocol):
    """What measuring takes of a task; ``sparseplan.tasks.Task`` fulfils it."""

    @property
    def train(self) -> SplitLike: ...
    @property
    def val(self) -> SplitLike: ...
    @property
    def settings(self) -> TrainSettings: ...
    def augment(self, x: Array, target: Array, rng: np.random.Generator) -> tuple[Array, Array]: ...
    def metrics(self, output: Array, split: Any) -> dict[str, float]: ...
    def score(self, metrics: Mapping[str, float], metric: str | None = None) -> float: ...


@dataclass(frozen=True)
class Measured:
    """Scores of trained update sets, more being better.

    Attributes:
        sets: name to update set; ``"base"`` is the baseline, ``"a+b"`` the baseline with units a and b.
        scores: name to a score for each seed. A baseline that updates nothing may have a single one;
            otherwise every set has the same seeds in the same order, so that differences pair up.

    Raises:
        ProblemError: no baseline, a set without scores, differing numbers of seeds, a score that is
            not finite.
    """

    sets: Mapping[str, Mapping[str, float]]
    scores: Mapping[str, tuple[float, ...]]

    def __post_init__(self) -> None:
        plain_fields(self)
        if BASE not in self.sets:
            raise ProblemError(f"measured sets lack {BASE!r}, the baseline of all gains; measure it too")
        for name in {**self.sets, **self.scores}:
            if name not in self.scores or name not in self.sets:
                lacks = "scores" if name in self.sets else "an update set"
                raise ProblemError(f"measured set {name!r} has no {lacks}; give each set both")
            for score in self.scores[name]:
                if isinstance(score, bool) or not isinstance(score, (int, float)) or not math.isfinite(score):
                    raise ProblemError(f"score of {name!r}={score!r} must be a finite number")
        seeds = {len(scores) for name, scores in self.scores.items() if name != BASE} or {len(self.scores[BASE])}
        if len(seeds) > 1 or 0 in seeds or len(self.scores[BASE]) not in {1, *seeds}:
            counts = {name: len(scores) for name, scores in self.scores.items()}
            raise ProblemError(f"seeds of measured sets differ: {counts}; measure all with the same ones")
        frozen = MappingProxyType
        object.__setattr__(self, "sets", frozen({n: frozen(dict(u)) for n, u in self.sets.items()}))
        object.__setattr__(self, "scores", frozen({n: tuple(map(float, s)) for n, s in self.scores.items()}))

    def __reduce__(self) -> tuple[Any, ...]:
        return (Measured, ({n: dict(u) for n, u in self.sets.items()}, dict(self.scores)))

    def gains(self, name: str) -> tuple[float, ...]:
        """Score of a set less the baseline's, seed by seed; raises ProblemError for an unknown set."""
        if name not in self.scores:
            raise ProblemError(f"set {name!r} was not measured{near(name, self.scores)}")
        base = self.scores[BASE]
        if len(base) == 1:
            base = base * len(self.scores[name])
        return tuple(s - b for s, b in zip(self.scores[name], base, strict=True))

    def mean(self, name: str) -> float:
        """Mean gain of a set over seeds."""
        gains = self.gains(name)
        return math.fsum(gains) / len(gains)

    def spread(self, name: str) -> float:
        """Standard deviation of a set's gain over seeds (n - 1); 0 with a single seed."""
        gains = self.gains(name)
        return float(np.std(gains, ddof=1)) if len(gains) > 1 else 0.0


def contribution_sets(
    units: Iterable[Unit],
    base: Mapping[str, float] | None = None,
    *,
    pairs: Iterable[tuple[str, str]] | bool = False,
    whole: bool = False,
) -> dict[str, dict[str, float]]:
    """Update sets to train, by name: the baseline, and the baseline with each unit (in whole).

    Args:
        base: the baseline's update set; None updates nothing.
        pairs: pairs of units to measure as well, or True for all of them.
        whole: measure all units together as well; it tells where gains end, and models need it most.

    Raises:
        ProblemError: units that overlap or are unknown, or that the baseline updates already.
    """
    found = {unit.name: unit for unit in check_units(units)}
    if BASE in found:
        raise ProblemError(f"unit {BASE!r} has the name of the baseline; name it otherwise")
    start = dict(base or {})
    for unit in found.values():
        if all(start.get(p, 0.0) >= 1.0 for p in unit.parameters):
            raise ProblemError(
                f"unit {unit.name!r} adds nothing to the baseline, which updates all of it; leave it out"
            )
    groups: list[tuple[str, ...]] = [(name,) for name in found]
    wanted = list(itertools.combinations(found, 2)) if pairs is True else [] if pairs is False else list(pairs)
    for pair in wanted:
        for name in pair:
            if name not in found:
                raise ProblemError(f"unit {name!r} is unknown{near(str(name), found)}")
        if len(set(pair)) != 2:
            raise ProblemError(f"pair={tuple(pair)!r} must name two different units")
        groups.append(tuple(name for name in found if name in pair))
    if whole:
        groups.append(tuple(found))
    sets = {BASE: start}
    for group in groups:
        sets[set_name(group)] = start | {p: 1.0 for name in group for p in found[name].parameters}
    return sets


def measure(
    network: Network,
    parameters: Mapping[str, Array],
    task: TaskLike,
    updates: Mapping[str, Mapping[str, float]],
    seeds: Sequence[int] = (0,),
    *,
    metric: str | None = None,
    settings: TrainSettings | None = None,
    progress: Callable[[str, int, float], None] | None = None,
) -> Measured:
    """Train each update set once a seed, one after the other, and score it on the validation split.

    Args:
        parameters: where every training starts; untouched.
        updates: as ``contribution_sets`` gives them.
        seeds: of shuffling and augmentation.
        metric: of the task; None: its headline.
        settings: of training; None: the task's.
        progress: called after each training with (set, seed, score).

    Raises:
        ProblemError: no seeds, no baseline, an update that is not possible.
        DataError: data that do not fit, or a loss that became infinite.
    """
    if not seeds or len(set(seeds)) != len(seeds):
        raise ProblemError(f"seeds={tuple(seeds)} must be distinct, at least one")
    how = settings or task.settings
    scores: dict[str, tuple[float, ...]] = {}
    for name, update in updates.items():
        found = []
        for seed in seeds:
            arrays = parameters
            if update:
                run = train(
                    network, parameters, update, task.train.x, task.train.target, replace(how, seed=seed), task.augment
                )
                arrays = run.parameters
            output = predict(network, arrays, task.val.x, dtype=how.dtype)
            found.append(task.score(task.metrics(output, task.val), metric))
            if progress is not None:
                progress(name, seed, found[-1])
            if not update:
                break  # nothing is trained, so every seed gives the same
        scores[name] = tuple(found * (len(seeds) if name != BASE else 1) if not update else found)
    return Measured(updates, scores)


def contributions(measured: Measured, units: Iterable[Unit]) -> dict[str, float]:
    """Mean gain of each unit alone; raises ProblemError for one that was not measured."""
    return {unit.name: measured.mean(unit.name) for unit in check_units(units)}


def groups_measured(measured: Measured) -> dict[str, tuple[str, ...]]:
    """The units of every measured set but the baseline, by the set's name."""
    return {name: members(name) for name in measured.sets if name != BASE}


def distribute(
    network: Network,
    gains: Mapping[str, float],
    units: Iterable[Unit],
    choices: Choices,
    shares: Values | None = None,
    *,
    bend: float = BEND,
) -> Table:
    """Values of parameters and fractions from gains of units.

    A unit's gain is divided among its parameters by their whole worth in ``shares``. Of a parameter's
    part, a fraction that makes up share s of its worth in ``shares`` gets ``(1 - exp(-bend·s)) /
    (1 - exp(-bend))``: all of it for the whole, and concave, as half of a layer brings more than half
    of its gain. Bend 1.5 gives 0.22, 0.40, 0.68 for an eighth, a quarter, a half; MCUNetV3's figure
    of mcunet-5fps on Cars shows 0.21, 0.44, 0.64 (medians of the 14 layers worth over 2 points).
    With ``bend=0`` it is s.

    Args:
        gains: unit to gain, negative ones included.
        choices: parameter to fractions; those outside all units get 0.
        shares: another value table over ``choices``, say squared gradient norms; None counts elements.
            Where it gives a unit or a parameter nothing, elements are counted.

    Raises:
        ProblemError: a unit without gain, a share that is missing or negative, a bad ``bend``.
    """
    if isinstance(bend, bool) or not isinstance(bend, (int, float)) or not 0 <= bend <= 50:
        raise ProblemError(f"bend={bend!r} must be a number from 0 to 50")
    levels = levels_of(network, choices)
    counted = {p: {r: v.elements * v.share(k) for r, k in v.fractions} for p, v in levels.items()}
    result: Table = {p: dict.fromkeys((r for r, _ in v.fractions), 0.0) for p, v in levels.items()}
    for unit in check_units(units):
        if unit.name not in gains:
            raise ProblemError(f"unit {unit.name!r} has no gain{near(unit.name, gains)}")
        if not math.isfinite(gains[unit.name]):
            raise ProblemError(f"gain of unit {unit.name!r}={gains[unit.name]!r} must be a finite number")
        inside = [p for p in unit.parameters if p in levels]
        table = {p: _shares(shares, counted, p) for p in inside}
        if math.fsum(max(t.values()) for t in table.values()) <= 0:
            table = {p: counted[p] for p in inside}
        total = math.fsum(max(t.values()) for t in table.values())
        for p in inside:
            whole = max(table[p].values())
            inner = table[p] if whole > 0 else counted[p]
            most = max(inner.values())
            for r in result[p]:
                result[p][r] = gains[unit.name] * whole / total * _bent(inner[r] / most, float(bend))
    return result


def _bent(share: float, bend: float) -> float:
    return share if bend < 1e-9 else math.expm1(-bend * share) / math.expm1(-bend)


def _shares(shares: Values | None, counted: Table, p: str) -> Mapping[float, float]:
    if shares is None:
        return counted[p]
    if p not in shares:
        raise ProblemError(f"parameter {p!r} has no share{near(p, shares)}")
    for r in counted[p]:
        v = shares[p].get(r, math.nan)
        if not 0 <= v < math.inf:
            raise ProblemError(f"share of {p!r} at fraction {r}={v!r} must be a number, at least 0")
    return {r: shares[p][r] for r in counted[p]}
