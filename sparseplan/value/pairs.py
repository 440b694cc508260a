"""Pair terms: what two units bring together beyond the sum of what each brings alone."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence

from sparseplan.errors import ProblemError, near
from sparseplan.terms import Pair
from sparseplan.value.common import Choices
from sparseplan.value.contribution import Measured
from sparseplan.value.units import Unit, check_units, set_name

Gains = Mapping[tuple[str, str], float]


def pair_gains(measured: Measured, units: Iterable[Unit], *, least: float = 0.0) -> dict[tuple[str, str], float]:
    """Of each measured pair of units, its gain less the gains of both: negative where they overlap.

    Args:
        least: pairs are dropped whose figure lies within so many of its standard errors (over seeds)
            of nothing. The error is that of the seed by seed differences.

    Raises:
        ProblemError: a pair was measured, but not both of its units.
    """
    if not 0 <= least < math.inf:
        raise ProblemError(f"least={least!r} must be a number, at least 0")
    found = {}
    for a, b in itertools.combinations([unit.name for unit in check_units(units)], 2):
        name = next((n for n in (set_name((a, b)), set_name((b, a))) if n in measured.sets), None)
        if name is None:
            continue
        both, one, other = measured.gains(name), measured.gains(a), measured.gains(b)
        beyond = [x - y - z for x, y, z in zip(both, one, other, strict=True)]
        mean = math.fsum(beyond) / len(beyond)
        if abs(mean) >= least * _error(beyond, mean):
            found[a, b] = mean
    return found


def pair_terms(
    gains: Gains, units: Iterable[Unit], choices: Choices, *, fractions: Sequence[float] = (1.0,)
) -> tuple[Pair, ...]:
    """Terms of the planner's objective from gains of pairs.

    Args:
        gains: (unit, unit) to what both bring beyond their sum.
        choices: what may be updated; other parameters of a unit ask for nothing.
        fractions: at which fractions of both units the term is paid, ascending; each pays the share by
            which it exceeds the last one (with (0.5, 1): half at one half of both, the rest at the whole).

    Raises:
        ProblemError: an unknown unit, a unit of which nothing may be updated, or fractions that do not ascend.
    """
    steps = list(itertools.pairwise((0.0, *fractions)))
    if not steps or not all(a < b <= 1 for a, b in steps):
        raise ProblemError(f"fractions={tuple(fractions)} must ascend within (0, 1]")
    by_name = {unit.name: unit for unit in check_units(units)}
    terms = []
    for (a, b), gain in gains.items():
        for low, high in steps:
            value = gain * (high - low) / fractions[-1]
            terms.append(Pair(_needs(by_name, a, choices, high), _needs(by_name, b, choices, high), value))
    return tuple(terms)


def ties_of(units: Iterable[Unit], choices: Choices) -> tuple[tuple[str, ...], ...]:
    """The parameters of each unit that may be updated, as ties: updated together or not at all."""
    ties = (tuple(p for p in unit.parameters if p in choices) for unit in check_units(units))
    return tuple(tie for tie in ties if len(tie) > 1)


def _needs(units: Mapping[str, Unit], name: str, choices: Choices, fraction: float) -> dict[str, float]:
    if name not in units:
        raise ProblemError(f"unit {name!r} is unknown{near(name, units)}")
    needs = {}
    for p in units[name].parameters:
        if p in choices:
            needs[p] = min(fraction, max(choices[p]))
    if not needs:
        raise ProblemError(f"unit {name!r} holds nothing that may be updated; leave it out of pairs")
    return needs


def _error(values: Sequence[float], mean: float) -> float:
    if len(values) < 2:
        return 0.0
    return math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values))
