"""A clock that stands still until it is looked at for the n-th time, and is then past every deadline."""

from __future__ import annotations

import pytest

from sparseplan.solve import clock


def jump_at(monkeypatch: pytest.MonkeyPatch, look: int) -> list[int]:
    """Put such a clock in the place of the real one; what is returned counts the looks, in its only item."""
    looks = [0]

    def now() -> float:
        looks[0] += 1
        return 0.0 if looks[0] < look else 1e6

    monkeypatch.setattr(clock, "now", now)
    return looks
