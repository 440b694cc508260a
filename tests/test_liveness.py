"""Lifetimes are what a count byte by byte says: from the first touch until behind the last, overwriting aside."""

from __future__ import annotations

import pytest
from hypothesis import given
from toy_schedules import schedule, step, toy_schedules, value

from sparseplan.liveness import Buffer, Memory, analyse, pieces
from sparseplan.steps import Schedule
from sparseplan.units import align_up


def lives(memory: Memory) -> dict[tuple[str, int], tuple[int, int]]:
    return {(b.value, b.lo): (b.start, b.stop) for b in memory.buffers}


def test_a_line_by_hand() -> None:
    """x -> a -> b, which overwrites a; a bias of 3 bytes persists at alignment 4; what arrives is there at once."""
    values = [value("x", 4, "input"), value("a", 8), value("b", 8), value("w", 3, "parameter", True)]
    steps = [
        step(0, [], []),
        step(1, [("x", 0, 4), ("w", 0, 4)], [("a", 0, 8)]),
        step(2, [("a", 0, 8)], [("b", 0, 8)], (("b", "a"),)),
        step(3, [("b", 0, 8)], []),
    ]
    memory = analyse(schedule(values, steps, alignment=4))
    assert lives(memory) == {("x", 0): (0, 2), ("a", 0): (1, 2), ("b", 0): (2, 4), ("w", 0): (0, 4)}
    assert memory.inplace == ((2, "b", "a"),)
    assert memory.at("L2") == (8, 16, 12, 12)
    assert (memory.peak(), memory.peak_step()) == (16, 1)
    assert [b.bytes for b in memory.buffers if b.value == "w"] == [4]


def test_what_is_read_later_is_not_overwritten() -> None:
    values = [value("a", 4), value("b", 4)]
    steps = [
        step(0, [], [("a", 0, 4)]),
        step(1, [("a", 0, 4)], [("b", 0, 4)], (("b", "a"),)),
        step(2, [("a", 0, 4), ("b", 0, 4)], []),
    ]
    memory = analyse(schedule(values, steps))
    assert memory.inplace == ()
    assert memory.at("L2") == (4, 8, 8)


def test_one_overwrites_one() -> None:
    """Of two that may be overwritten one is; and of two that may overwrite the same one does."""
    values = [value(n, 4) for n in "abyz"]
    steps = [
        step(0, [], [("a", 0, 4), ("b", 0, 4)]),
        step(1, [("a", 0, 4), ("b", 0, 4)], [("y", 0, 4)], (("y", "a"), ("y", "b"))),
    ]
    memory = analyse(schedule(values[:3], steps))
    assert memory.inplace == ((1, "y", "a"),)
    assert memory.at("L2") == (8, 8)
    steps = [
        step(0, [], [("a", 0, 4)]),
        step(1, [("a", 0, 4)], [("y", 0, 4), ("z", 0, 4)], (("y", "a"), ("z", "a"))),
    ]
    memory = analyse(schedule([values[0], *values[2:]], steps))
    assert memory.inplace == ((1, "y", "a"),)
    assert memory.at("L2") == (4, 8)


def test_an_input_arrives_and_its_copy_is_made() -> None:
    values = [value("x", 4, "input"), value("x (2)", 4, "input")]
    steps = [step(0, [], []), step(1, [("x", 0, 4)], [("x (2)", 0, 4)]), step(2, [("x (2)", 0, 4)], [])]
    assert lives(analyse(schedule(values, steps))) == {("x", 0): (0, 2), ("x (2)", 0): (1, 3)}


def test_a_tail_is_freed_before_its_head() -> None:
    values = [value("a", 12)]
    steps = [step(0, [], [("a", 0, 12)]), step(1, [("a", 0, 12)], []), step(2, [("a", 0, 4)], [])]
    assert lives(analyse(schedule(values, steps))) == {("a", 0): (0, 3), ("a", 4): (0, 2)}


def placed(memory: Memory, name: str) -> tuple[int, int]:
    b = next(b for b in memory.buffers if b.value == name)
    return b.group, b.offset - b.lo


def test_what_is_bound_has_one_place() -> None:
    """c overwrites b, the second part of a concat (a, b); d is the first part of one whose second is a."""
    values = [value(n, s) for n, s in (("a", 8), ("b", 4), ("c", 4), ("d", 16))]
    steps = [
        step(0, [], [("a", 0, 8), ("b", 0, 4), ("d", 0, 16)]),
        step(1, [("b", 0, 4)], [("c", 0, 4)], (("c", "b"),)),
        step(2, [("a", 0, 8), ("c", 0, 4), ("d", 0, 16)], []),
    ]
    memory = analyse(schedule(values, steps, composites=((("a", 0), ("b", 8)), (("d", 0), ("a", 16)))))
    group, at = placed(memory, "d")
    assert at == 0
    assert [placed(memory, n) for n in "abc"] == [(group, 16), (group, 24), (group, 24)]


def test_the_lowest_of_a_group_is_at_zero() -> None:
    """The first that is seen need not be the lowest."""
    values = [value("b", 4), value("a", 8)]
    steps = [step(0, [], [("b", 0, 4), ("a", 0, 8)]), step(1, [("a", 0, 8), ("b", 0, 4)], [])]
    memory = analyse(schedule(values, steps, composites=((("b", 8), ("a", 0)),)))
    assert (placed(memory, "a")[1], placed(memory, "b")[1]) == (0, 8)


def test_two_places_for_one_are_refused() -> None:
    values = [value("a", 4), value("b", 4)]
    steps = [step(0, [], [("a", 0, 4), ("b", 0, 4)])]
    with pytest.raises(AssertionError, match="'a' and 'b' are bound to two places"):
        analyse(schedule(values, steps, composites=((("a", 0), ("b", 4)), (("a", 0), ("b", 8)))))


def overwriting(s: Schedule) -> tuple[tuple[int, str, str], ...]:
    """(step, written, overwritten): at most one each way a step, of values that nothing touches later."""
    found: list[tuple[int, str, str]] = []
    for i, at in enumerate(s.steps):
        for y, x in at.inplace:
            later = any(
                span.value == x for other in s.steps[i + 1 :] for a in (*other.reads, *other.writes) for span in a.spans
            )
            busy = any((j == i and b == y) or c == x for j, b, c in found)
            if not later and not busy and not s.values[x].persistent:
                found.append((i, y, x))
    return tuple(found)


@given(toy_schedules())
def test_bytes_at_a_step_are_counted_byte_by_byte(s: Schedule) -> None:
    try:
        memory = analyse(s)
    except AssertionError:  # a value bound to itself by way of others: no schedule of ours
        return
    taken = overwriting(s)
    assert memory.inplace == taken
    live: dict[str, list[int]] = {"L2": [0] * len(s.steps), "flash": [0] * len(s.steps)}
    for name, v in s.values.items():
        touches = [(i, span.lo, span.hi) for i, at in enumerate(s.steps) for a in (*at.reads, *at.writes)
                   for span in a.spans if span.value == name]  # fmt: skip
        written = any(span.value == name for at in s.steps for a in at.writes for span in a.spans)
        for byte in range(align_up(v.bytes, 4)):
            at = [i for i, lo, hi in touches if lo <= byte < hi]
            if v.persistent and touches:
                alive = range(len(s.steps))
            elif not at:
                continue
            else:
                first = 0 if v.role == "input" and not written else min(at)
                gone = any(x == name and i == max(at) for i, _, x in taken)
                alive = range(first, max(at) + (not gone))
            for i in alive:
                live[v.level][i] += 1
    for level, counted in live.items():
        assert memory.at(level) == tuple(counted)


def test_pieces_and_what_is_live() -> None:
    assert pieces([8, 0, 4, 8]) == [(0, 4), (4, 8)]
    buffers = (Buffer("a", 0, 4, 0, 2, "L2", 0, 0), Buffer("b", 0, 8, 1, 2, "L2", 1, 0))
    memory = Memory(buffers, (), 3)
    assert [b.value for b in memory.live(1)] == ["b", "a"]
    assert memory.live(2) == ()
