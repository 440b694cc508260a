"""What is measured as one: single parameters, layers, blocks, or groups that the user names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sparseplan.errors import ProblemError, near
from sparseplan.network import Network
from sparseplan.problem import match
from sparseplan.steps import UpdateSet
from sparseplan.value.common import Choices

#: how ``units_of`` can cut a network by itself
BY = ("parameter", "layer", "block")
#: joins the names of units to the name of a set of them
JOIN = "+"


@dataclass(frozen=True)
class Unit:
    """Parameters whose update is measured as one.

    Attributes:
        name: shown in tables; without ``+``, which joins names of units.
        parameters: at least one, each once.
    """

    name: str
    parameters: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "parameters", tuple(self.parameters))
        if not self.name or JOIN in self.name or not self.name.isprintable():
            raise ProblemError(f"unit name={self.name!r} must be a printable text without {JOIN!r}")
        if not self.parameters:
            raise ProblemError(f"unit {self.name!r} holds no parameter; give at least one")
        twice = [p for i, p in enumerate(self.parameters) if p in self.parameters[:i]]
        if twice:
            raise ProblemError(f"unit {self.name!r} holds parameter {twice[0]!r} twice; name it once")


def units_of(
    network: Network,
    by: str | Mapping[str, str | Sequence[str]] = "layer",
    choices: Choices | None = None,
) -> tuple[Unit, ...]:
    """The units of a network, in its order.

    Args:
        by: ``parameter``; ``layer`` (the parameters of one op); ``block`` (ops whose names share what
            stands before the first dot); or a mapping from a unit's name to its shell-style patterns.
        choices: parameters that may be updated; others are left out. None: all that can be updated,
            int8 ones aside.

    Raises:
        ProblemError: an unknown ``by``, a pattern that matches nothing, a parameter in two units, a
            unit of which nothing may be updated.
    """
    allowed = list(UpdateSet.all(network).fractions)
    if choices is not None:
        for p in choices:
            if p not in network.owner:
                raise ProblemError(f"parameter {p!r} is unknown to network {network.name!r}{near(p, network.owner)}")
        allowed = [p for p in network.parameters if p in choices]
    if isinstance(by, Mapping):
        return _named(network, by, allowed)
    if by not in BY:
        raise ProblemError(f"units by={by!r} is unknown{near(str(by), BY)}; or map names to patterns")
    groups: dict[str, list[str]] = {}
    for p in allowed:
        op = network.owner[p][0].name
        groups.setdefault({"parameter": p, "layer": op, "block": op.partition(".")[0]}[by], []).append(p)
    return tuple(Unit(name, tuple(names)) for name, names in groups.items())


def _named(network: Network, by: Mapping[str, Any], allowed: Sequence[str]) -> tuple[Unit, ...]:
    if not by:
        raise ProblemError("units={} name nothing; map at least one name to patterns")
    owner: dict[str, str] = {}
    units = []
    for name, patterns in by.items():
        texts = (patterns,) if isinstance(patterns, str) else tuple(patterns)
        found = dict.fromkeys(p for text in texts for p in match(network, text, f"unit {name!r}"))
        names = [p for p in network.parameters if p in found and p in allowed]
        if not names:
            raise ProblemError(f"unit {name!r}={list(texts)} holds nothing that may be updated; choose other patterns")
        for p in names:
            if p in owner:
                raise ProblemError(f"parameter {p!r} is in unit {owner[p]!r} and in unit {name!r}; name it in one")
            owner[p] = name
        units.append(Unit(name, tuple(names)))
    return tuple(units)


def check_units(units: Iterable[Unit]) -> tuple[Unit, ...]:
    """Units with distinct names that share no parameter; raises ProblemError where they do not."""
    found = tuple(units)
    owner: dict[str, str] = {}
    names: set[str] = set()
    for unit in found:
        if unit.name in names:
            raise ProblemError(f"two units have the name {unit.name!r}; give each its own")
        names.add(unit.name)
        for p in unit.parameters:
            if p in owner:
                raise ProblemError(f"parameter {p!r} is in unit {owner[p]!r} and in unit {unit.name!r}; name it in one")
            owner[p] = unit.name
    return found


def set_name(units: Iterable[str]) -> str:
    """The name of a set of units: their names joined by ``+``."""
    return JOIN.join(units)


def members(name: str) -> tuple[str, ...]:
    """The units that a set's name joins; none for the empty name."""
    return tuple(name.split(JOIN)) if name else ()
