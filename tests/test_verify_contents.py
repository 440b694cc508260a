"""What bytes hold is what was written to them last; and checks of the verifier that few plans reach."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sparseplan.verify.contents import Content, LevelBytes

writes = st.lists(st.tuples(st.integers(0, 19), st.integers(1, 8), st.integers(-3, 3)), max_size=12)


@given(writes, st.integers(0, 20), st.integers(1, 20))
def test_bytes_hold_what_was_written_last(rows: list[tuple[int, int, int]], lo: int, size: int) -> None:
    level, held = LevelBytes(), {}
    for n, (start, length, base) in enumerate(rows):
        level.write(start, start + length, Content("activation", f"t{n}"), base)
        held.update({at: (Content("activation", f"t{n}"), base) for at in range(start, start + length)})
    at = lo
    for piece in level.read(lo, lo + size):
        assert piece.lo == at < piece.hi
        for byte in range(piece.lo, piece.hi):
            assert (piece.content, piece.base if piece.content else 0) == held.get(byte, (None, 0))
        at = piece.hi
    assert at == lo + size


def test_nothing_is_held_before_anything_is_written() -> None:
    (gap,) = LevelBytes().read(3, 9)
    assert (gap.lo, gap.hi, gap.content) == (3, 9, None)
