"""Pools against windows taken one by one: every kernel, stride and padding, with padding that counts or not."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparseplan.errors import OpError
from sparseplan.ops import op_def
from sparseplan.ops.base import OpInfo


def info(kind: str, shape: tuple[int, int, int], **attrs: object) -> OpInfo:
    d = op_def(kind)
    full = d.complete_attrs(attrs)  # type: ignore[arg-type]
    return OpInfo("pool", kind, full, (shape,), d.output_shape(full, (shape,)), {})


def windows(i: OpInfo) -> list[tuple[int, int, list[tuple[int, int, int]], int]]:
    """(output row, column, (row, column, number in the window) of what lies in the image, entries of the window)."""
    (kh, kw), (sh, sw), (top, left, _, _) = i.attrs["kernel"], i.attrs["stride"], i.attrs["padding"]
    _, height, width = i.inputs[0]
    found = []
    for oy in range(i.output[1]):
        for ox in range(i.output[2]):
            taps = [(oy * sh - top + y, ox * sw - left + x, y * kw + x) for y in range(kh) for x in range(kw)]
            found.append((oy, ox, [t for t in taps if 0 <= t[0] < height and 0 <= t[1] < width], kh * kw))
    return found


@st.composite
def pools(draw: st.DrawFn) -> tuple[tuple[int, int, int], dict[str, object]]:
    kernel = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    padding = tuple(draw(st.integers(0, kernel[i % 2] - 1)) for i in range(4))
    shape = (2, draw(st.integers(kernel[0], 6)), draw(st.integers(kernel[1], 6)))
    return shape, {
        "kernel": kernel,
        "stride": draw(st.tuples(st.integers(1, 3), st.integers(1, 3))),
        "padding": padding,
    }


@given(pools(), st.booleans(), st.integers(0, 99))
def test_means_of_windows(case: tuple[tuple[int, int, int], dict[str, object]], counts: bool, seed: int) -> None:
    i = info("avg_pool", case[0], **case[1], count_include_pad=counts)
    rng = np.random.default_rng(seed)
    x, dy = rng.standard_normal((1, *i.inputs[0])), rng.standard_normal((1, *i.output))
    y, dx = np.zeros_like(dy), np.zeros_like(x)
    for oy, ox, taps, size in windows(i):
        share = 1 / (size if counts else len(taps))
        for r, c, _ in taps:
            y[:, :, oy, ox] += x[:, :, r, c] * share
            dx[:, :, r, c] += dy[:, :, oy, ox] * share
    d = op_def("avg_pool")
    np.testing.assert_allclose(d.forward(i, [x], {}), y, atol=1e-12)
    np.testing.assert_allclose(d.grad_input(i, 0, dy, {}), dx, atol=1e-12)


@given(pools(), st.integers(0, 99))
def test_the_largest_of_windows_and_the_first_of_equals(
    case: tuple[tuple[int, int, int], dict[str, object]], seed: int
) -> None:
    i = info("max_pool", case[0], **case[1])
    rng = np.random.default_rng(seed)
    x = rng.integers(-3, 0, (1, *i.inputs[0])).astype(float)  # negative, with many equals
    dy = rng.standard_normal((1, *i.output))
    y, dx, index = np.zeros_like(dy), np.zeros_like(x), np.zeros(dy.shape, np.uint8)
    for oy, ox, taps, _ in windows(i):
        for ch in range(x.shape[1]):
            r, c, n = max(taps, key=lambda t: x[0, ch, t[0], t[1]])  # the first of equals
            y[0, ch, oy, ox], index[0, ch, oy, ox] = x[0, ch, r, c], n
            dx[0, ch, r, c] += dy[0, ch, oy, ox]
    d = op_def("max_pool")
    np.testing.assert_array_equal(d.forward(i, [x], {}), y)
    np.testing.assert_array_equal(d.make_aux(i, "index", "x0", x), index)
    np.testing.assert_allclose(d.grad_input(i, 0, dy, {"index": index}), dx, atol=1e-12)
    np.testing.assert_allclose(d.grad_input(i, 0, dy, {"x0": x}), dx, atol=1e-12)


def test_padding_counts_unless_one_says_otherwise() -> None:
    x = np.ones((1, 1, 2, 2))
    for kernel in (2, (2, 3)):  # square or not
        counted = info("avg_pool", (1, 2, 2), kernel=kernel, stride=1, padding=1)
        assert op_def("avg_pool").forward(counted, [x], {})[0, 0, 0, 0] == 1 / math.prod(counted.attrs["kernel"]) * (
            1 if kernel == 2 else 2
        )
        not_counted = info("avg_pool", (1, 2, 2), kernel=kernel, stride=1, padding=1, count_include_pad=False)
        assert np.allclose(op_def("avg_pool").forward(not_counted, [x], {}), 1)


def test_an_index_has_a_byte() -> None:
    assert info("max_pool", (1, 16, 16), kernel=16).output == (1, 1, 1)
    with pytest.raises(OpError, match="has 257 entries; at most 256 fit the index's byte"):
        info("max_pool", (1, 257, 1), kernel=(257, 1))
