"""Placing ends when time is up, with what first-fit gives or better; many buffers are placed as few are."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from jumping import jump_at
from placing import faults, group_lists

from sparseplan.solve import firstfit
from sparseplan.solve.clock import Limits
from sparseplan.solve.firstfit import FAR, Rivals, fit, orders, pairs
from sparseplan.solve.manyfit import Crowd
from sparseplan.solve.place import _Task, place, place_min
from sparseplan.solve.rects import Group, Rect


def crowd(count: int, seed: int) -> list[Group]:
    """Buffers of all sizes and lifetimes."""
    draw = random.Random(seed)
    groups = []
    for i in range(count):
        start = draw.randrange(2 * count)
        groups.append(Group(str(i), (Rect(0, draw.randint(1, 999), start, start + draw.choice([2, 9, count])),)))
    return groups


@given(case=group_lists(most_groups=10, most_steps=9))
def test_rivals_sought_anew_give_the_same_placements(case: tuple[list[Group], int]) -> None:
    groups, alignment = case
    block = _Task.of(groups, alignment).block
    listed = Rivals.of(block)
    anew = Crowd(block.owner, block.offset, block.size, block.start, block.stop, block.count)
    assert isinstance(listed, Rivals)
    for order in orders(block).values():
        for how in ("first", "best"):
            top = np.full(block.count, FAR // 2)
            one, other = fit(listed, order, top, how), fit(anew, order, top, how)  # type: ignore[arg-type]
            assert one is not None
            assert other is not None
            assert one.tolist() == other.tolist()


@given(case=group_lists(most_groups=10, most_steps=9))
def test_pairs_are_counted(case: tuple[list[Group], int]) -> None:
    groups, _ = case
    block = _Task.of(groups, 1).block
    rows = list(zip(block.start.tolist(), block.stop.tolist(), strict=True))
    met = sum(a < d and c < b for i, (a, b) in enumerate(rows) for c, d in rows[:i])
    assert pairs(block) == met


def test_too_many_pairs_are_not_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = crowd(60, 1)
    few = place_min(groups, 4, Limits(work=0.5))
    monkeypatch.setattr(firstfit, "PAIRS", 10)
    assert isinstance(Rivals.of(_Task.of(groups, 4).block), Crowd)
    assert place_min(groups, 4, Limits(work=0.5))[0].offsets == few[0].offsets


def first_fit(groups: list[Group], alignment: int) -> int:
    """The peak of first-fit in the order that comes first."""
    task = _Task.of(groups, alignment)
    base = fit(Rivals.of(task.block), next(iter(orders(task.block).values())), task.top(FAR))
    assert base is not None
    return task.peak(base)


@pytest.mark.parametrize("look", [1, 2, 3, 5, 8, 13, 21, 40, 80, 160, 320, 640, 1280])
def test_whenever_time_is_up_a_placement_is_there(monkeypatch: pytest.MonkeyPatch, look: int) -> None:
    groups = crowd(70, 3)
    worst = first_fit(groups, 4)
    jump_at(monkeypatch, look)
    placement, bound = place_min(groups, 4, Limits(seconds=5.0))
    assert placement.status == "PLACED"
    assert bound <= placement.peak <= worst
    assert faults(groups, placement.offsets, placement.peak, 4) == []
    jump_at(monkeypatch, look)
    assert place(groups, worst, 4, Limits(seconds=5.0)).status == "PLACED"
    jump_at(monkeypatch, look)
    tight = place(groups, bound, 4, Limits(seconds=5.0))
    assert tight.status != "IMPOSSIBLE" or place_min(groups, 4)[1] > bound
    assert faults(groups, tight.offsets, bound, 4) == [] or tight.status != "PLACED"


def test_looks_are_many_while_many_are_placed(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many buffers there are: no stretch of more than some dozen is placed without a look."""
    groups = crowd(2500, 5)
    looks = jump_at(monkeypatch, 30)
    placement = place(groups, 10**9, 4, Limits(seconds=5.0))
    assert placement.status == "PLACED"
    assert looks[0] > 2500 // 64
    assert faults(groups[:200], placement.offsets[:200], placement.peak, 4) == []
