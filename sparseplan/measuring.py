"""Values by measuring: train each unit alone, fit how gains combine, hand the planner what it can maximise.

After MCUNetV3 (Lin et al., NeurIPS 2022), whose search takes the sum of single contributions; here
the model is one that saturates (``sparseplan.value.model``), since gains overlap.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence

from sparseplan.api import limits_of
from sparseplan.check import train_sets
from sparseplan.errors import ProblemError
from sparseplan.longwork import Store
from sparseplan.network import Network
from sparseplan.ops.base import Array
from sparseplan.run import TrainSettings
from sparseplan.scalars import plain_arguments
from sparseplan.solve.clock import Clock, OutOfTime
from sparseplan.tasks.base import Task
from sparseplan.value import parameter_count
from sparseplan.value.common import Choices
from sparseplan.value.contribution import BASE, Measured, contribution_sets
from sparseplan.value.costs import Values
from sparseplan.value.model import Model, fit_additive, fit_saturating, observations
from sparseplan.value.pairs import ties_of
from sparseplan.value.units import Unit, set_name
from sparseplan.value.valuefile import ValueTable


@plain_arguments
def measure_units(
    network: Network,
    parameters: Mapping[str, Array],
    task: Task,
    units: Sequence[Unit],
    *,
    base: Mapping[str, float] | None = None,
    pairs: bool = False,
    seeds: int = 1,
    settings: TrainSettings | None = None,
    jobs: int = 1,
    store: str | os.PathLike[str] | Store | None = None,
    time_limit: float | None = None,
    progress: Callable[[str], None] | None = None,
) -> Measured:
    """Score on the validation split of each unit alone (and in pairs), of all together, and of the baseline.

    Args:
        base: update set that every unit is added to; None updates nothing.
        seeds, settings, jobs, store, progress: as of ``check``.
        time_limit: seconds, at which a training under way ends; none is begun that would not end by then, going by
            those before it. The baseline
            and all units together come first, then each alone, then pairs; what was not measured is not there.

    Raises:
        ProblemError: units that overlap, or that the baseline updates already; a limit in which no set was trained.
    """
    sets = contribution_sets(units, base, pairs=pairs, whole=len(units) > 1)
    clock = Clock(limits_of(time_limit, 0))
    rows: dict[str, tuple[Mapping[str, Mapping[str, float]], ...]] = {}
    whole = set_name(tuple(unit.name for unit in units))
    names = sorted(sets, key=lambda name: (name != BASE, name != whole))
    count = len(names) if time_limit is None else max(1, jobs // seeds)
    longest = 0.0
    for start in range(0, len(names), count):
        left = clock.left().seconds
        if start and left is not None and left < longest:
            break
        began = clock.elapsed()
        some = {name: sets[name] for name in names[start : start + count]}
        try:
            rows |= train_sets(
                network, parameters, some, task, seeds=seeds, settings=settings, jobs=jobs, store=store,
                progress=progress, until=None if left is None else time.time() + left,
            )  # fmt: skip
        except OutOfTime:
            break
        longest = max(longest, clock.elapsed() - began)
    if len(sets) > 1 and len(rows) < 2:
        raise ProblemError(f"time_limit={time_limit:g}: no set of units was trained in that time; give more")
    sets = {name: sets[name] for name in sets if name in rows}
    rows = {name: rows[name] for name in sets}
    scores = {name: tuple(task.score(run["val"]) for run in runs) for name, runs in rows.items()}
    if not sets[BASE]:
        scores[BASE] = scores[BASE][:1]  # nothing is trained, so nothing varies
    return Measured(sets, scores)


def fitted(measured: Measured, *, additive: bool = False, pairs: bool = False) -> Model:
    """The saturating model of measured gains, or the plain sum."""
    fit = fit_additive if additive else fit_saturating
    return fit(observations(measured), pairs=pairs)


def measured_values(
    network: Network,
    measured: Measured,
    units: Sequence[Unit],
    choices: Choices,
    *,
    additive: bool = False,
    pairs: bool = False,
    tied: bool = False,
    shares: Values | None = None,
    source: Mapping[str, str | int | float | bool] | None = None,
) -> ValueTable:
    """Values (and pair terms) by which the planner maximises the fitted model.

    Args:
        additive: fit the plain sum instead.
        pairs: whether pairs of units have terms; they need to have been measured.
        tied: whether the parameters of a unit are updated together, as they were measured.
        shares: how a unit's worth divides among its parameters; None by their elements.
        source: facts for the value file.
    """
    model = fitted(measured, additive=additive, pairs=pairs)
    parts = parameter_count(network, {}, None, choices) if shares is None else shares
    table, terms = model.to_terms(network, units, choices, parts)
    facts: dict[str, str | int | float | bool] = {"model": "additive" if additive else "saturating", **(source or {})}
    if model.ceiling is not None:
        facts["ceiling"] = float(model.ceiling)
    return ValueTable("contribution", table, facts, terms, ties_of(units, choices) if tied else ())
