"""What the verifier reports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "status",
    "decision",
    "objective",
    "macs",
    "value",
    "step",
    "saved",
    "unplaced",
    "lifetime",
    "unwritten",
    "freed",
    "stale",
    "inplace",
    "overlap",
    "alignment",
    "peak",
    "budget",
    "tile",
    "stripe",
]


#: what a plan or a tie-break may be
STATUSES = ("OPTIMAL", "FEASIBLE", "INFEASIBLE", "UNKNOWN")


@dataclass(frozen=True, slots=True)
class Violation:
    """One way in which a plan breaks a rule.

    Attributes:
        kind: ``status`` a plan without schedule that has one, or a proof that is none;
            ``decision`` an update or a pick that the problem does not allow, or the schedule does
            not follow; ``objective`` a value or bound miscounted; ``macs`` MACs miscounted or above
            their cap; ``value`` wrong shape, dtype, size or level of what a buffer holds; ``step`` a
            step or an argument that is missing, unneeded, repeated or malformed; ``saved`` a
            backward step without what it needs; ``unplaced`` bytes without a buffer; ``lifetime`` a
            buffer that lives at the wrong steps; ``unwritten`` read before written; ``freed`` read
            after freed; ``stale`` bytes that hold something else (overwritten, an incomplete
            gradient, a parameter after its update); ``inplace`` a false in-place; ``overlap`` two
            buffers in the same bytes at the same time; ``alignment`` an offset or size; ``peak`` a
            peak or lower bound miscounted; ``budget`` a level that does not suffice; ``tile`` a
            tile miscounted, missing, or too large; ``stripe`` an op in stripes that is not the original's.
        where: step, buffer, level or op.
        message: what is wrong, with the numbers.
    """

    kind: Kind
    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.where}: {self.message}"


class Findings:
    """Violations in the order in which they were found, each once."""

    def __init__(self) -> None:
        self._found: dict[Violation, None] = {}

    def add(self, kind: Kind, where: str, message: str) -> None:
        """Note a violation."""
        self._found[Violation(kind, where, message)] = None

    def all(self) -> tuple[Violation, ...]:
        """Everything noted so far."""
        return tuple(self._found)
