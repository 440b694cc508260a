"""The planner's answer: decisions, schedule, offsets, tiles, claimed figures, status and bound."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any, Literal

from sparseplan.errors import PlanError
from sparseplan.network import Network
from sparseplan.problem import Problem
from sparseplan.steps import Step, Value
from sparseplan.stripes import Stripes, lower
from sparseplan.units import live_bytes

Status = Literal["OPTIMAL", "FEASIBLE", "INFEASIBLE", "UNKNOWN"]


@dataclass(frozen=True, slots=True)
class PlacedBuffer:
    """Bytes ``[lo, lo + bytes)`` of a value at ``[offset, offset + bytes)`` of a level, during
    steps ``[start, stop)``."""

    value: str
    lo: int
    bytes: int
    start: int
    stop: int
    level: str
    offset: int

    def __post_init__(self) -> None:
        if self.bytes <= 0 or self.lo < 0 or self.offset < 0 or not 0 <= self.start < self.stop:
            raise PlanError(
                f"buffer of {self.value!r}: lo={self.lo}, bytes={self.bytes}, offset={self.offset}, "
                f"steps=[{self.start}, {self.stop}) is empty or negative"
            )

    @property
    def end(self) -> int:
        """First byte behind the buffer."""
        return self.offset + self.bytes


@dataclass(frozen=True, slots=True)
class PlannedTile:
    """How one pass of an op is tiled into L1.

    Attributes:
        sizes: (axis, extent of a tile) in the order of the loops, outermost first.
        buffers: (operand tag, bytes of one tile, number of tiles held).
        l1_bytes: what the tiles take of L1.
        dma_bytes: traffic between L1 and the next level for one run of the pass, both ways.
        tiles: number of tiles.
    """

    op: str
    pass_: str
    sizes: tuple[tuple[str, int], ...]
    buffers: tuple[tuple[str, int, int], ...]
    l1_bytes: int
    dma_bytes: int
    tiles: int


@dataclass(frozen=True, slots=True)
class Infeasibility:
    """Why there is no plan.

    Attributes:
        level: the binding level (or ``MACs``).
        step: the step, or op and pass, that does not fit.
        needed, available: bytes (or MACs).
        tensors: largest (name, bytes) there.
        fewest_bytes: the fewest bytes of that level that would do, all else equal, or None
            where that was not established.
    """

    level: str
    step: str
    needed: int
    available: int
    tensors: tuple[tuple[str, int], ...]
    fewest_bytes: int | None
    message: str


@dataclass(frozen=True)
class Plan:
    """An answer to a problem; ``verify`` checks it, ``run`` executes it.

    Attributes:
        status: OPTIMAL (proven), FEASIBLE (with a gap), INFEASIBLE (with a reason), UNKNOWN (the
            limits came first).
        objective, bound: summed value of what is updated, and a proven upper bound on it.
        resolution: how far apart two values must be for the proof to tell them apart.
        ties: status of the tie-breaks, "macs" and "peak": OPTIMAL where proven.
        update: parameter to the fraction of its channels that is updated.
        picks: op to the way its backward gets what it needs.
        peak_bytes: arena of each level, placed; lower_bound_bytes: proven to be unavoidable for
            this schedule.
        method: how the placement was found.
        stripes: groups of ops that are run in horizontal stripes; steps are those of ``network`` then.
    """

    problem: Problem
    status: Status
    objective: float
    bound: float
    resolution: float = 0.0
    update: Mapping[str, float] = field(default_factory=dict)
    picks: Mapping[str, str] = field(default_factory=dict)
    steps: tuple[Step, ...] = ()
    values: tuple[Value, ...] = ()
    buffers: tuple[PlacedBuffer, ...] = ()
    tiles: tuple[PlannedTile, ...] = ()
    peak_bytes: Mapping[str, int] = field(default_factory=dict)
    lower_bound_bytes: Mapping[str, int] = field(default_factory=dict)
    macs: Mapping[str, int] = field(default_factory=dict)
    ties: Mapping[str, str] = field(default_factory=dict)
    method: str = ""
    seed: int = 0
    solve_seconds: float = 0.0
    reason: Infeasibility | None = None
    stripes: tuple[Stripes, ...] = ()

    def __post_init__(self) -> None:
        for name in ("update", "picks", "peak_bytes", "lower_bound_bytes", "macs", "ties"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))
        if self.status == "INFEASIBLE" and self.reason is None:
            raise PlanError("status=INFEASIBLE without a reason")
        if not self.feasible and (self.steps or self.update):
            raise PlanError(f"status={self.status} with a schedule")

    def __reduce__(self) -> tuple[Any, ...]:
        fields = [getattr(self, f) for f in self.__dataclass_fields__]
        return (Plan, tuple(dict(f) if isinstance(f, MappingProxyType) else f for f in fields))

    @cached_property
    def network(self) -> Network:
        """The network whose ops the steps run: the problem's, or that in stripes.

        Raises:
            ProblemError: stripes that the problem's network cannot be run in.
        """
        return lower(self.problem.network, self.stripes).network if self.stripes else self.problem.network

    @property
    def feasible(self) -> bool:
        """Whether there is something to execute."""
        return self.status in ("OPTIMAL", "FEASIBLE")

    @property
    def gap(self) -> float:
        """How much value may be missing: bound minus objective (0 when OPTIMAL)."""
        return 0.0 if self.status == "OPTIMAL" else max(self.bound - self.objective, 0.0)

    @property
    def relative_gap(self) -> float:
        """Gap over the bound's magnitude."""
        return self.gap / max(abs(self.bound), math.ulp(1.0)) if math.isfinite(self.gap) else math.inf

    def live(self, step: int, level: str = "L2") -> tuple[PlacedBuffer, ...]:
        """Buffers of a level alive at a step, largest first."""
        found = [b for b in self.buffers if b.level == level and b.start <= step < b.stop]
        return tuple(sorted(found, key=lambda b: (-b.bytes, b.value, b.lo)))

    def bytes_at(self, level: str = "L2") -> tuple[int, ...]:
        """Live bytes of a level at each step."""
        return live_bytes(((b.start, b.stop, b.bytes) for b in self.buffers if b.level == level), len(self.steps))
