"""Terms of value beyond the sum: what updates are worth together, and where their gains saturate.

Both kinds stay linear for the solver: a pair is one conjunction, a saturation is the minimum of
straight lines that the objective pushes against.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

from sparseplan.errors import ProblemError
from sparseplan.jsonio import Node
from sparseplan.scalars import plain_fields


def _number(v: object) -> bool:
    return not isinstance(v, bool) and isinstance(v, (int, float)) and math.isfinite(v)


@dataclass(frozen=True)
class Pair:
    """Worth ``value`` (which may be negative) where all of ``a`` and all of ``b`` are updated.

    Attributes:
        a, b: parameter to the least fraction of it that counts as updated.
        value: what both together bring beyond the sum of what each brings.
    """

    a: Mapping[str, float]
    b: Mapping[str, float]
    value: float

    def __post_init__(self) -> None:
        plain_fields(self)
        for name in ("a", "b"):
            part = getattr(self, name)
            if not part:
                raise ProblemError(f"pair: {name} names no parameter; name at least one")
            for p, r in part.items():
                if not _number(r) or not 0 < r <= 1:
                    raise ProblemError(f"pair: fraction of {p!r}={r!r} must be in (0, 1]")
            object.__setattr__(self, name, MappingProxyType({p: float(r) for p, r in part.items()}))
        if not _number(self.value):
            raise ProblemError(f"pair: value={self.value!r} must be a finite number")

    def __reduce__(self) -> tuple[Any, ...]:
        return (Pair, (dict(self.a), dict(self.b), self.value))

    def parameters(self) -> tuple[str, ...]:
        """Every parameter named, once each."""
        return tuple(dict.fromkeys((*self.a, *self.b)))

    def needs(self) -> dict[str, float]:
        """Parameter to the least fraction that both parts ask for."""
        return {p: max(self.a.get(p, 0.0), self.b.get(p, 0.0)) for p in self.parameters()}

    def worth(self, update: Mapping[str, float]) -> float:
        """What an update set gets of it."""
        return self.value if all(update.get(p, 0.0) >= r for p, r in self.needs().items()) else 0.0

    def most(self) -> float:
        """The most that any update set can get of it."""
        return max(0.0, self.value)


@dataclass(frozen=True)
class Saturation:
    """A concave, non-decreasing function of the summed weights of an update set.

    Straight between (0, 0) and the ``points``, flat behind the last one: several good updates that
    overlap bring little more than the best of them.

    Attributes:
        weights: parameter to fraction to weight, at least 0.
        points: (summed weight, worth), ascending, from above 0.
    """

    weights: Mapping[str, Mapping[float, float]]
    points: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        plain_fields(self)
        if not self.weights:
            raise ProblemError("saturation: weights name no parameter; name at least one")
        frozen = {}
        for p, table in self.weights.items():
            for r, w in table.items():
                if not _number(r) or not 0 < r <= 1:
                    raise ProblemError(f"saturation: fraction of {p!r}={r!r} must be in (0, 1]")
                if not _number(w) or w < 0:
                    raise ProblemError(
                        f"saturation: weight of {p!r} at fraction {r}={w!r} must be a number, at least 0"
                    )
            frozen[p] = MappingProxyType({float(r): float(w) for r, w in table.items()})
        object.__setattr__(self, "weights", MappingProxyType(frozen))
        points = tuple(
            (float(x), float(y)) if _number(x) and _number(y) else (math.nan, math.nan) for x, y in self.points
        )
        object.__setattr__(self, "points", points)
        if not points:
            raise ProblemError("saturation: points=() must hold at least one (weight, worth)")
        corners = ((0.0, 0.0), *points)
        steps = list(itertools.pairwise(corners))
        if not all(a[0] < b[0] and a[1] <= b[1] and math.isfinite(b[0]) for a, b in steps):
            raise ProblemError(f"saturation: points={points} must ascend from (0, 0) in weight, and not fall in worth")
        slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in steps]
        # corners computed from a curve are concave up to rounding only
        if any(late > early * (1 + 1e-9) for early, late in itertools.pairwise(slopes)):
            raise ProblemError(f"saturation: points={points} must be concave (slopes never rise): {slopes}")

    def __reduce__(self) -> tuple[Any, ...]:
        return (Saturation, ({p: dict(t) for p, t in self.weights.items()}, self.points))

    def parameters(self) -> tuple[str, ...]:
        """Every parameter named."""
        return tuple(self.weights)

    def lines(self) -> tuple[tuple[float, float], ...]:
        """(slope, intercept) of the straight lines whose minimum the function is."""
        corners = ((0.0, 0.0), *self.points)
        found = []
        for (x0, y0), (x1, y1) in itertools.pairwise(corners):
            slope = (y1 - y0) / (x1 - x0)
            found.append((slope, y0 - slope * x0))
        return (*found, (0.0, corners[-1][1]))

    def weight(self, update: Mapping[str, float]) -> float:
        """Summed weight of an update set, correctly rounded."""
        return math.fsum(self.weights[p][r] for p, r in update.items() if p in self.weights)

    def worth(self, update: Mapping[str, float]) -> float:
        """What an update set gets of it."""
        s = self.weight(update)
        return min(slope * s + intercept for slope, intercept in self.lines())

    def most(self) -> float:
        """The most that any update set can get of it."""
        return self.points[-1][1]


Term = Pair | Saturation


#: more entries than any network has parameters, more fractions and points than make sense
_MOST = 1_000_000
_LEVELS = 64
_POINTS = 1000


def fractions_from_node(node: Node) -> dict[float, float]:
    """Fraction to number, from an object whose keys read ``0.5`` or ``1/2``; raises the node's error."""
    table: dict[float, float] = {}
    for text, value in node.members(_LEVELS):
        r = _fraction(text, node)
        if r in table:
            raise node.error(f"{node.source}: {node.path} gives fraction {r} twice; keep one")
        table[r] = value.number()
    return table


def _fraction(text: str, node: Node) -> float:
    top, slash, bottom = text.partition("/")
    try:
        r = float(top) / float(bottom) if slash else float(text)
    except (ValueError, ZeroDivisionError):
        r = math.nan
    if not 0 < r <= 1:
        raise node.error(f"{node.source}: {node.path}: fraction {text[:40]!r} must be in (0, 1], such as 0.25 or 1/4")
    return r


def term_from_node(node: Node) -> Term:
    """A term of value, from what ``term_to_dict`` gives; raises the node's error naming what is wrong."""
    node.record((), ("pair", "saturation"))
    pair, saturation = node.get("pair"), node.get("saturation")
    read: Callable[[], Term]
    if pair is not None and saturation is None:
        pair.record(("a", "b", "value"))
        a, b = ({p: r.number() for p, r in pair[key].members(_MOST)} for key in ("a", "b"))
        read = partial(Pair, a, b, pair["value"].number())
    elif saturation is not None and pair is None:
        saturation.record(("weights", "points"))
        points = []
        for point in saturation["points"].entries(_POINTS):
            if len(point.entries(_POINTS)) != 2:
                point.fail("must be [weight, worth]")
            points.append((point[0].number(), point[1].number()))
        weights = {p: fractions_from_node(by) for p, by in saturation["weights"].members(_MOST)}
        read = partial(Saturation, weights, tuple(points))
    else:
        node.fail("must hold one of pair and saturation")
    try:
        return read()
    except ProblemError as error:
        raise node.error(f"{node.source}: {node.path}: {error}") from None


def term_to_dict(term: Term) -> dict[str, Any]:
    """A term of value as plain data, as value files and plan files hold it (see ``docs/values.md``)."""
    if isinstance(term, Pair):
        return {"pair": {"a": dict(term.a), "b": dict(term.b), "value": term.value}}
    weights = {p: fractions_to_dict(by) for p, by in term.weights.items()}
    return {"saturation": {"weights": weights, "points": [list(point) for point in term.points]}}


def fractions_to_dict(by: Mapping[float, float]) -> dict[str, float]:
    """Numbers by fraction, as ``fractions_from_node`` reads them."""
    return {repr(float(r)): v for r, v in by.items()}
