"""Values on disk: JSON with the measure, where it comes from, values, terms and ties.

``{"sparseplan": "values", "version": 1, "measure": "…", "source": {…}, "values": {parameter:
{fraction: value}}, "terms": […], "ties": […]}``. A term is ``{"pair": {"a": {parameter: fraction},
"b": …, "value": v}}`` or ``{"saturation": {"weights": {parameter: {fraction: weight}}, "points":
[[weight, worth], …]}}``.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from sparseplan.atomic import write_text
from sparseplan.errors import ProblemError, near
from sparseplan.jsonio import MAX_INT, Node, dump, load
from sparseplan.network import Network
from sparseplan.problem import MOST_VALUE
from sparseplan.scalars import plain_fields
from sparseplan.terms import Term, fractions_from_node, fractions_to_dict, term_from_node, term_to_dict
from sparseplan.value.common import Choices
from sparseplan.value.costs import Values

VERSION = 1
_MOST = 1_000_000
Fact = str | int | float | bool


@dataclass(frozen=True)
class ValueTable:
    """What updates are worth, and where that is known from.

    Attributes:
        measure: name of the measure or model, say ``fisher``.
        values: parameter to fraction to value, finite.
        source: further facts by name, such as task, seed, samples, weights.
        terms: worth beyond the sum.
        ties: parameters that are updated together.

    Raises:
        ProblemError: a value that is not finite or too large, a fraction outside (0, 1], a fact that
            is neither text nor a number.
    """

    measure: str
    values: Values
    source: Mapping[str, Fact] = field(default_factory=dict)
    terms: tuple[Term, ...] = ()
    ties: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        plain_fields(self)
        if not self.measure or not self.measure.isprintable():
            raise ProblemError(f"measure={self.measure!r} must be a name")
        table = {}
        for p, by in self.values.items():
            if not by:
                raise ProblemError(f"parameter {p!r} has no value for any fraction; give one or leave it out")
            for r, v in by.items():
                if not _number(r) or not 0 < r <= 1:
                    raise ProblemError(f"fraction of {p!r}={r!r} must be in (0, 1]")
                if not _number(v) or abs(v) > MOST_VALUE:
                    raise ProblemError(f"value of {p!r} at fraction {r}={v!r} must be a finite number")
            table[p] = MappingProxyType({float(r): float(v) for r, v in sorted(by.items())})
        for key, fact in self.source.items():
            if not isinstance(fact, (str, bool)) and not _number(fact):
                raise ProblemError(f"source {key!r}={fact!r} must be text, a finite number, true or false")
            if isinstance(fact, int) and abs(fact) > MAX_INT:
                raise ProblemError(f"source {key!r} must be within 2**53")
        object.__setattr__(self, "values", MappingProxyType(table))
        object.__setattr__(self, "source", MappingProxyType(dict(self.source)))
        object.__setattr__(self, "terms", tuple(self.terms))
        object.__setattr__(self, "ties", tuple(tuple(tie) for tie in self.ties))

    def __reduce__(self) -> tuple[Any, ...]:
        values = {p: dict(t) for p, t in self.values.items()}
        return (ValueTable, (self.measure, values, dict(self.source), self.terms, self.ties))

    def check(self, network: Network, choices: Choices | None = None) -> None:
        """Raise ProblemError for a parameter that the network lacks, or one of ``choices`` without value."""
        named = [*self.values, *(p for t in self.terms for p in t.parameters()), *(p for tie in self.ties for p in tie)]
        for p in named:
            if p not in network.owner:
                raise ProblemError(f"values {self.measure!r}: parameter {p!r} is unknown{near(p, network.owner)}")
        for p, fractions in (choices or {}).items():
            if p not in self.values:
                raise ProblemError(
                    f"values {self.measure!r}: parameter {p!r} has no value; give one (0 if it is worthless)"
                )
            for r in fractions:
                if r not in self.values[p]:
                    given = list(self.values[p])
                    raise ProblemError(
                        f"values {self.measure!r}: parameter {p!r} has no value for fraction {r}; given: {given}"
                    )


def is_value_file(root: Any) -> bool:
    """Whether a JSON value calls itself a value file."""
    return isinstance(root, Mapping) and "sparseplan" in root


def write_values(table: ValueTable, path: str | os.PathLike[str]) -> None:
    """Write a value file, whole or not at all; raises OutputError where that cannot be."""
    write_text(path, dump(to_dict(table)))


def read_values(
    path: str | os.PathLike[str], network: Network | None = None, choices: Choices | None = None
) -> ValueTable:
    """Read a value file, and check it against a network and what may be updated where these are given.

    Raises:
        ProblemError: unreadable, malformed, of another kind or version, or with unknown or missing parameters.
    """
    table = from_json(load(path, "values", ProblemError), f"values {os.fspath(path)!r}")
    if network is not None:
        try:
            table.check(network, choices)
        except ProblemError as error:
            raise ProblemError(f"values {os.fspath(path)!r}: {str(error).partition(': ')[2]}") from None
    return table


def to_dict(table: ValueTable) -> dict[str, Any]:
    """Plain data, as written."""
    return {
        "sparseplan": "values",
        "version": VERSION,
        "measure": table.measure,
        "source": dict(table.source),
        "values": {p: fractions_to_dict(by) for p, by in table.values.items()},
        "terms": [term_to_dict(term) for term in table.terms],
        "ties": [list(tie) for tie in table.ties],
    }


def from_json(root: Any, where: str) -> ValueTable:
    """A table from parsed JSON; ``where`` begins the messages. Raises ProblemError."""
    node = Node(root, where, ProblemError).record(
        ("sparseplan", "version", "values"), ("measure", "source", "terms", "ties")
    )
    node["sparseplan"].choice(("values",))
    if node["version"].integer() != VERSION:
        node["version"].fail(f"is not known; this version reads {VERSION}")
    measure, source, terms, ties = (node.get(key) for key in ("measure", "source", "terms", "ties"))
    try:
        return ValueTable(
            "file" if measure is None else measure.text(),
            {p: fractions_from_node(by) for p, by in node["values"].members(_MOST)},
            {} if source is None else {key: _fact(fact) for key, fact in source.members(1000)},
            () if terms is None else tuple(term_from_node(term) for term in terms.entries(_MOST)),
            () if ties is None else tuple(tuple(p.text() for p in tie.entries(_MOST)) for tie in ties.entries(_MOST)),
        )
    except ProblemError as error:
        raise error if str(error).startswith(where) else ProblemError(f"{where}: {error}") from None


def _fact(node: Node) -> Fact:
    if isinstance(node.value, str):
        return node.text()
    if isinstance(node.value, bool):
        return node.boolean()
    return node.integer(-MAX_INT) if isinstance(node.value, int) else node.number()


def _number(v: object) -> bool:
    return not isinstance(v, bool) and isinstance(v, (int, float)) and math.isfinite(v)
