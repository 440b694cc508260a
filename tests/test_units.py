"""Bytes are exact: parsing, printing, aligning; intervals are half-open; dtypes have their widths."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparseplan.dtypes import BITS, bytes_of, check_dtype, numpy_dtype
from sparseplan.errors import ProblemError, SparseplanError, near
from sparseplan.units import Interval, align_up, format_bytes, live_bytes, parse_bytes

SCALES = {"": 1, "B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1.2MB", 1_200_000),
        ("128KiB", 131_072),
        ("128 KiB", 131_072),
        (" 0.5kib ", 512),
        ("598866", 598_866),
        (598_866, 598_866),
        (".5kB", 500),
        ("3.kB", 3000),
        ("0", 0),
        (0, 0),
    ],
)
def test_sizes_parse(text: str | int, expected: int) -> None:
    assert parse_bytes(text) == expected


@pytest.mark.parametrize(
    "text",
    ["12 parsecs", "", " ", "-1", "1e6", "nan", "inf", "1,000", "0x10", "1.5", "0.3B", "KiB", "1 2", "٣kB", "9" * 5000],
)
def test_what_is_no_size_is_refused_by_name(text: str) -> None:
    with pytest.raises(ProblemError, match=r"^size=") as caught:
        parse_bytes(text)
    assert len(str(caught.value)) < 250
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [-1, True, None, 1.5, [1], float("nan")])
def test_values_that_are_no_sizes_are_refused(value: object) -> None:
    with pytest.raises(ProblemError, match=r"^size="):
        parse_bytes(value)  # type: ignore[arg-type]


def test_the_message_says_what_to_write() -> None:
    with pytest.raises(ProblemError, match=r"size='12 parsecs' is not a number of bytes; write 128KiB, 1\.2MB"):
        parse_bytes("12 parsecs")


@given(st.integers(0, 10**9), st.integers(0, 10**6 - 1), st.sampled_from(sorted(SCALES)), st.sampled_from(["", " "]))
def test_decimals_are_exact_or_refused(whole: int, micros: int, unit: str, space: str) -> None:
    text = f"{whole}.{micros:06d}{space}{unit}"
    exact = (whole + Fraction(micros, 10**6)) * SCALES[unit]
    if exact.denominator == 1:
        assert parse_bytes(text) == exact
    else:
        with pytest.raises(ProblemError, match="not a whole number of bytes"):
            parse_bytes(text)


@given(st.text(max_size=100))
def test_any_text_is_a_size_or_one_clear_error(text: str) -> None:
    try:
        size, message = parse_bytes(text), ""
    except SparseplanError as error:
        size, message = 0, str(error)
    assert size >= 0
    assert not message or message.startswith("size=")


@given(st.integers(0, 10**15))
def test_printed_sizes_are_exact(n: int) -> None:
    assert int(format_bytes(n).removesuffix(" B").replace(",", "")) == n
    assert parse_bytes(n) == parse_bytes(f"{n} B") == n


@given(st.integers(0, 10**12), st.sampled_from([1, 2, 4, 8, 16, 64, 3]))
def test_align_up_is_the_least_multiple(n: int, alignment: int) -> None:
    up = align_up(n, alignment)
    assert up % alignment == 0
    assert n <= up < n + alignment


intervals = st.tuples(st.integers(0, 12), st.integers(0, 12)).map(lambda p: Interval(min(p), max(p)))


@given(intervals, intervals)
def test_intervals_are_half_open_sets(a: Interval, b: Interval) -> None:
    points_a = {i for i in range(-1, 14) if i in a}
    points_b = {i for i in range(-1, 14) if i in b}
    assert len(points_a) == len(a)
    if points_a and points_b:
        assert a.overlaps(b) == b.overlaps(a) == bool(points_a & points_b)


@pytest.mark.parametrize(("start", "stop"), [(3, 2), (-1, 2)])
def test_impossible_intervals_are_refused(start: int, stop: int) -> None:
    with pytest.raises(ProblemError, match=rf"\[{start}, {stop}\) is negative or ends before it starts"):
        Interval(start, stop)


@pytest.mark.parametrize("name", sorted(BITS))
def test_packed_bytes_agree_with_numpy(name: str) -> None:
    assert check_dtype(name) == name
    assert bytes_of(0, name) == 0
    assert bytes_of(9, name) == (2 if name == "bit" else 9 * numpy_dtype(name).itemsize)
    assert np.zeros(3, numpy_dtype(name)).dtype == numpy_dtype(name)


def test_unknown_dtypes_are_refused_with_near_matches() -> None:
    with pytest.raises(ProblemError, match=r"dtype='bf17' is unknown; did you mean 'bf16'"):
        check_dtype("bf17")


def test_near_matches() -> None:
    assert near("decoder0.conv1.wieght", ["decoder0.conv1.weight", "x"]) == "; did you mean 'decoder0.conv1.weight'?"
    assert near("zzz", ["alpha", "beta"]) == "; known: alpha, beta"
    assert near("zzz", []) == "; none are known"
    assert near("zzz", map(str, range(20))).endswith("…")


def test_near_matches_stay_quick_and_short_for_hostile_names() -> None:
    # difflib alone would take minutes over this
    hint = near("x" * 5000, ["y" * 5000 + str(i) for i in range(50_000)])
    assert len(hint) < 2000


def test_live_bytes_by_hand() -> None:
    """Intervals are half-open: what stops at a step takes no bytes there."""
    assert live_bytes([(0, 2, 5), (1, 3, 7), (2, 4, 1)], 4) == (5, 12, 8, 1)
    assert live_bytes([(0, 3, 5)], 3) == (5, 5, 5)
    assert live_bytes([], 2) == (0, 0)
