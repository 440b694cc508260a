"""Learning-rate schedules: which share of the learning rate an update takes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sparseplan.errors import ProblemError, near
from sparseplan.scalars import plain_fields

#: kinds of schedules
SCHEDULES = ("constant", "step", "cosine", "linear")
#: of ``step`` where none are given: a tenth after half of the epochs, a hundredth after three quarters
DROPS = ((0.5, 0.1), (0.75, 0.1))


def check_drops(name: str, drops: tuple[tuple[float, float], ...]) -> None:
    """Raise ProblemError unless these are (fraction of the epochs, factor) pairs."""
    for pair in drops:
        if len(pair) != 2 or not 0 <= pair[0] <= 1 or not 0 <= pair[1] < math.inf:
            raise ProblemError(f"{name}={drops!r} must be (epoch fraction up to 1, factor) pairs")


@dataclass(frozen=True, slots=True)
class LrSchedule:
    """A factor on the learning rate, evaluated anew for every update.

    Attributes:
        kind: ``constant``; ``step`` (falls at the beginning of an epoch by the factors of ``drops``);
            ``cosine`` or ``linear`` (falls from 1 towards ``last``, a little with each update).
        warmup: share of all updates, in [0, 1), through which the factor first rises linearly to 1;
            ``cosine`` and ``linear`` fall over what remains.
        drops: of ``step``: (fraction of the epochs after which, factor) pairs; factors multiply.
        last: where ``cosine`` and ``linear`` would arrive one update after the last, in [0, 1].

    Raises:
        ProblemError: an unknown kind, or a number outside its range.
    """

    kind: str = "constant"
    warmup: float = 0.0
    drops: tuple[tuple[float, float], ...] = DROPS
    last: float = 0.0

    def __post_init__(self) -> None:
        plain_fields(self)
        if self.kind not in SCHEDULES:
            raise ProblemError(f"schedule={self.kind!r} is unknown{near(str(self.kind), SCHEDULES)}")
        if isinstance(self.warmup, bool) or not isinstance(self.warmup, (int, float)) or not 0 <= self.warmup < 1:
            raise ProblemError(f"warmup={self.warmup!r} must be a share of the updates, at least 0 and below 1")
        if isinstance(self.last, bool) or not isinstance(self.last, (int, float)) or not 0 <= self.last <= 1:
            raise ProblemError(f"last={self.last!r} must be a factor from 0 to 1")
        check_drops("drops", self.drops)

    def factor(self, update: int, per_epoch: int, epochs: int) -> float:
        """The factor of an update (from 0), of ``per_epoch`` in each of ``epochs`` epochs."""
        total = per_epoch * epochs
        rising = math.ceil(self.warmup * total)
        ramp = min(1.0, (update + 1) / rising) if rising else 1.0
        if self.kind == "constant":
            return ramp
        if self.kind == "step":
            return ramp * dropped(self.drops, update // per_epoch, epochs)
        if update < rising:
            return ramp
        done = (update - rising) / (total - rising)
        left = 1 - done if self.kind == "linear" else (1 + math.cos(math.pi * done)) / 2
        return self.last + (1 - self.last) * left


def dropped(drops: tuple[tuple[float, float], ...], epoch: int, epochs: int) -> float:
    """Product of the factors of ``drops`` that an epoch (from 0) has reached."""
    return math.prod(factor for at, factor in drops if epoch >= at * epochs)
