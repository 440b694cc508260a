"""How long a search may still go on, and a sign of life while it does.

Whatever may take long looks at its clock: ``Clock.check`` in loops that build or count, ``Clock.passed`` between
stages. A look also lets the pulse beat, so progress is reported by the thread that searches, never by another.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from sparseplan.errors import ProblemError

#: seconds of silence after which the last line of progress is told again
SILENCE = 0.7
#: wall-clock seconds; tests put a clock of their own here
now: Callable[[], float] = time.perf_counter


class OutOfTime(Exception):
    """Raised by ``Clock.check``; caught by whoever set the limit, who goes on with what there is."""


@dataclass
class Pulse:
    """Progress in lines of text; the last one is told again, with the seconds so far, where nothing is new for long."""

    tell: Callable[[str], None]
    text: str = "searching"
    began: float = field(default_factory=lambda: now())
    told: float = field(default_factory=lambda: now())

    def say(self, text: str) -> None:
        """Report a line."""
        self.text, self.told = text, now()
        self.tell(text)

    def beat(self) -> None:
        """Report again if nothing was said for a while."""
        at = now()
        if at - self.told >= SILENCE:
            self.told = at
            self.tell(f"{self.text} ({at - self.began:.0f} s)")


@dataclass(frozen=True, slots=True)
class Limits:
    """When to stop, and which seed to use.

    Attributes:
        seconds: wall-clock seconds over all that one call does; None for no limit.
        seed: any integer in [0, 2**31); same seed and inputs, same answer, unless ``seconds`` cut it short.
        work: the like of ``seconds`` in CP-SAT's deterministic seconds, for answers that must be reproducible
            even when cut short; None for no limit.
        pulse: where to report that the search goes on; None for silence.
    """

    seconds: float | None = None
    seed: int = 0
    work: float | None = None
    pulse: Pulse | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("seconds", "work"):
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
                raise ProblemError(f"{name}={value!r} is not a limit; give a number >= 0, or None for no limit")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed < 2**31:
            raise ProblemError(f"seed={self.seed!r} is not a seed; give an integer in [0, 2147483648)")

    def told(self, progress: Callable[[str], None] | None) -> Limits:
        """The same limits, with progress reported to ``progress``; a pulse that they have stays."""
        if progress is None or self.pulse is not None:
            return self
        return Limits(self.seconds, self.seed, self.work, Pulse(progress))

    def say(self, text: str) -> None:
        """Report a line of progress."""
        if self.pulse is not None:
            self.pulse.say(text)

    def beat(self) -> None:
        """A sign of life, if it is time for one."""
        if self.pulse is not None:
            self.pulse.beat()


@dataclass(slots=True)
class Clock:
    """What is left of some limits, for calls that solve several models under one limit."""

    limits: Limits
    began: float = field(default_factory=lambda: now())
    worked: float = 0.0

    def elapsed(self) -> float:
        """Wall-clock seconds since the clock was made."""
        return now() - self.began

    def left(self, seconds: float | None = None, work: float | None = None) -> Limits:
        """The limits that remain, further cut to ``seconds`` and ``work`` from now."""
        rest = None if self.limits.seconds is None else max(0.0, self.limits.seconds - self.elapsed())
        toil = None if self.limits.work is None else max(0.0, self.limits.work - self.worked)
        return Limits(_least(rest, seconds), self.limits.seed, _least(toil, work), self.limits.pulse)

    def part(self, seconds: float | None = None) -> Clock:
        """A clock for a part of what is left, which starts now."""
        return Clock(self.left(seconds))

    def late(self) -> bool:
        """Whether no seconds are left."""
        self.limits.beat()
        return self.limits.seconds is not None and self.elapsed() >= self.limits.seconds

    def check(self) -> None:
        """A look from within a loop.

        Raises:
            OutOfTime: no seconds are left.
        """
        if self.late():
            raise OutOfTime

    def passed(self) -> bool:
        """Whether no seconds or no work is left."""
        return self.late() or (self.limits.work is not None and self.worked >= self.limits.work)

    def spend(self, work: float) -> None:
        """Count deterministic seconds as used."""
        self.worked += work


@contextmanager
def alive(limits: Limits) -> Iterator[None]:
    """Signs of life from a thread of its own, while this one cannot give any: other processes work, or NumPy does."""
    done = threading.Event()

    def beat() -> None:
        while not done.wait(SILENCE / 2):
            limits.beat()

    if limits.pulse is not None:
        threading.Thread(target=beat, daemon=True, name="signs of life").start()
    try:
        yield
    finally:
        done.set()


def _least(a: float | None, b: float | None) -> float | None:
    return min((x for x in (a, b) if x is not None), default=None)
