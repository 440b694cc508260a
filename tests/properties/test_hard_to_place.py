"""The proof survives placements that take more than the live bytes.

Small networks are placed in their live bytes nearly always. So here placing is made to need some
bytes more, by a rule that only the layout decides, both for the planner and for brute force: what
the planner then proves must still be what brute force finds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import sparseplan.solve.buffers
import sparseplan.testing.peers
from sparseplan.errors import ProblemError
from sparseplan.problem import Problem
from sparseplan.solve.cpsat import Limits
from sparseplan.solve.place import place_min
from sparseplan.solve.rects import Group, Placement
from sparseplan.testing import check_exact_equals_brute_force, check_fewest_bytes, problems
from sparseplan.testing.theorems import solved

MOST = 400


def lost(groups: Sequence[Group], alignment: int, worst: int) -> int:
    """Bytes that cannot be used: any number that the groups alone decide."""
    rects = [r for g in groups for r in g.rects]
    return sum(r.bytes * (r.stop - r.start) for r in rects) // alignment % worst * alignment


@contextmanager
def fragmented(worst: int, proven: bool) -> Iterator[None]:
    """Placing loses up to ``worst - 1`` units; unless ``proven``, the planner is not told so."""

    def fake_min(
        groups: Sequence[Group], alignment: int = 1, limits: Limits | None = None, capacity: int | None = None,
        like: object = (),
    ) -> tuple[Placement, int]:  # fmt: skip
        placement, bound = place_min(groups, alignment, limits)
        extra = lost(groups, alignment, worst)
        placement = replace(placement, peak=placement.peak + extra)
        bound += extra if proven else 0
        if capacity is not None and placement.peak > capacity:
            status = "IMPOSSIBLE" if bound > capacity else "UNKNOWN"
            return Placement(status, (), 0, "fake", 0.0), bound
        return placement, bound

    def fake_place(
        groups: Sequence[Group], capacity: int, alignment: int = 1, limits: Limits | None = None
    ) -> Placement:
        placement, _ = fake_min(groups, alignment, limits)
        return placement if placement.peak <= capacity else replace(placement, status="IMPOSSIBLE")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sparseplan.solve.buffers, "place_min", fake_min)
        patch.setattr(sparseplan.testing.peers, "place", fake_place)
        yield


@given(problem=problems(max_choices=30), worst=st.integers(2, 40), proven=st.booleans())
def test_exact_equals_brute_force(problem: Problem, worst: int, proven: bool) -> None:
    with fragmented(worst, proven):
        plan = solved(problem)
        try:
            check_exact_equals_brute_force(problem, plan, MOST)
            check_fewest_bytes(problem, plan, MOST)
        except ProblemError:  # too many ways to keep what backward needs
            assume(False)
