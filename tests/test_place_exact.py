"""Theorems of placing, against exhaustive search on small groups."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st
from placing import faults, fits, group_lists

from sparseplan.solve.cpsat import Clock, Limits
from sparseplan.solve.exactfit import decide
from sparseplan.solve.firstfit import FAR, Rivals, fit, orders
from sparseplan.solve.place import _Task, lower_bound, place, place_min
from sparseplan.solve.rects import Group, Rect


@given(group_lists())
def test_least_peak_is_that_of_exhaustive_search(case: tuple[list[Group], int]) -> None:
    groups, alignment = case
    placement, bound = place_min(groups, alignment)
    assert placement.status == "PLACED"
    assert faults(groups, placement.offsets, placement.peak, alignment) == []
    assert lower_bound(groups, alignment) <= bound == placement.peak
    assert not fits(groups, placement.peak - 1, alignment)


@given(group_lists(), st.integers(0, 24))
def test_decision_is_that_of_exhaustive_search(case: tuple[list[Group], int], capacity: int) -> None:
    groups, alignment = case
    placement = place(groups, capacity, alignment)
    assert placement.status == ("PLACED" if fits(groups, capacity, alignment) else "IMPOSSIBLE")
    if placement.status == "PLACED":
        assert faults(groups, placement.offsets, capacity, alignment) == []
        assert placement.peak <= capacity
        top = max(base + r.offset + r.bytes for g, base in zip(groups, placement.offsets, strict=True) for r in g.rects)
        assert placement.peak == top


@given(group_lists(alignments=(1,)), st.integers(0, 10))
def test_exact_search_alone_is_right(case: tuple[list[Group], int], room: int) -> None:
    # Without first-fit and splitting in front, which decide most small cases.
    groups, _ = case
    task = _Task.of(groups, 1)
    top = task.top(room)
    if top.min() < 0:
        return
    decision = decide(task.block, top, Clock(Limits()))
    assert decision.status == ("PLACED" if fits(groups, room, 1) else "IMPOSSIBLE")


@given(group_lists(most_groups=7, most_steps=9), st.randoms(use_true_random=False))
def test_order_of_groups_and_rectangles_is_nothing(case: tuple[list[Group], int], draw: random.Random) -> None:
    groups, alignment = case
    peak = place_min(groups, alignment, Limits(work=5.0))
    mixed = [Group(g.name, tuple(draw.sample(g.rects, len(g.rects)))) for g in groups]
    draw.shuffle(mixed)
    other = place_min(mixed, alignment, Limits(work=5.0))
    assert (other[0].peak, other[1]) == (peak[0].peak, peak[1])


@given(group_lists(most_groups=7, most_steps=9))
def test_more_room_never_hurts(case: tuple[list[Group], int]) -> None:
    groups, alignment = case
    least = place_min(groups, alignment, Limits(work=5.0))[0].peak
    for capacity in (least, least + 1, least + alignment, 2 * least):
        assert place(groups, capacity, alignment).status == "PLACED"


@given(group_lists(most_groups=7, most_steps=9), st.integers(2, 1000), st.integers(2, 1000))
def test_scaling_bytes_or_steps_scales_the_peak(case: tuple[list[Group], int], bytes_by: int, steps_by: int) -> None:
    groups, alignment = case
    scaled = [
        Group(
            g.name,
            tuple(
                Rect(r.offset * bytes_by, r.bytes * bytes_by, r.start * steps_by, r.stop * steps_by) for r in g.rects
            ),
        )
        for g in groups
    ]
    small, large = place_min(groups, alignment)[0], place_min(scaled, alignment * bytes_by)[0]
    assert large.peak == small.peak * bytes_by


@given(group_lists(most_groups=8, most_steps=9))
def test_every_first_fit_and_best_fit_is_sound(case: tuple[list[Group], int]) -> None:
    groups, alignment = case
    task = _Task.of(groups, alignment)
    rivals = Rivals.of(task.block)
    for order in orders(task.block).values():
        base = fit(rivals, order, task.top(FAR))
        assert base is not None
        offsets = [b * task.unit - low for b, low in zip(base.tolist(), task.lowest, strict=True)]
        assert faults(groups, offsets, task.peak(base), alignment) == []
        tight = fit(rivals, order, task.top(task.peak(base)), "best")
        if tight is not None:
            offsets = [b * task.unit - low for b, low in zip(tight.tolist(), task.lowest, strict=True)]
            assert faults(groups, offsets, task.peak(base), alignment) == []
