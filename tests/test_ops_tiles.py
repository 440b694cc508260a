"""Tile spaces: what a tile is said to read is what the kernels do read, found by probing them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from op_cases import Case, cases, resolved

from sparseplan.ops import OPS, op_def
from sparseplan.ops.base import Dim, TileSpace

#: ops whose outputs read windows (max_pool's nest is avg_pool's)
WINDOWED = ["conv", "conv_transpose", "avg_pool", "upsample", "resize", "slice", "pad"]


def _reads(c: Case) -> tuple[np.ndarray, np.ndarray]:
    """Whether output row o depends on input row i (``[o, i]``), and the same for columns."""
    _, height, width = c.info.inputs[0]
    ones = {slot: np.ones(shape) for slot, shape in c.info.params.items() if slot == "weight"}
    channels = c.info.inputs[0][0]
    rows, cols = np.zeros((c.info.output[1], height), bool), np.zeros((c.info.output[2], width), bool)
    base = c.definition.forward(c.info, [np.zeros((1, *c.info.inputs[0]))], ones)
    for i in range(height):
        for j in range(width):
            x = np.zeros((1, channels, height, width))
            x[:, :, i, j] = 1
            seen = (c.definition.forward(c.info, [x], ones) != base).any(axis=(0, 1))
            rows[:, i] |= seen.any(axis=1)
            cols[:, j] |= seen.any(axis=0)
    return rows, cols


def _extent(dim: Dim, t: int) -> int:
    return dim.full if dim.axis is None else min(dim.full, (t - 1) * dim.scale + dim.window)


def _check_axis(space: TileSpace, made: Dim, read: Dim, depends: np.ndarray) -> None:
    """For every tile size, tiles at its multiples read no more rows than the dim says.

    ``depends[m, r]``: whether made row m depends on read row r. The axis may count blocks of made rows.
    """
    if made.axis is None:  # not tiled: all is read for all
        assert (made.full, read.full) == (depends.shape[0], depends.shape[1])
        return
    extent = dict(space.axes)[made.axis]
    block = made.scale
    assert (extent - 1) * block < depends.shape[0] <= extent * block
    for t in range(1, extent + 1):
        assert _extent(made, t) == min(depends.shape[0], t * block)
        for start in range(0, extent, t):
            seen = np.flatnonzero(depends[start * block : (start + t) * block].any(axis=0))
            if seen.size:
                assert seen[-1] - seen[0] + 1 <= _extent(read, t), (t, start)


def _operand(space: TileSpace, tag: str) -> tuple[Dim, ...]:
    (found,) = [o for o in space.operands if o.tag == tag]
    return found.dims


@pytest.mark.parametrize("kind", WINDOWED)
@settings(max_examples=40, derandomize=True)
@given(data=st.data())
def test_windows_suffice(kind: str, data: st.DataObject) -> None:
    c = data.draw(cases(kind).filter(lambda c: len(c.info.output) == 3))
    depends = _reads(c)
    forward, backward = (c.definition.tile_space(c.info, p) for p in ("forward", "x0"))
    assert forward is not None
    assert backward is not None
    for axis in (-2, -1):
        _check_axis(forward, _operand(forward, "y")[axis], _operand(forward, "x0")[axis], depends[axis])
        _check_axis(backward, _operand(backward, "dx")[axis], _operand(backward, "dy")[axis], depends[axis].T)


@pytest.mark.parametrize("kind", ["conv", "conv_transpose"])
@settings(max_examples=40, derandomize=True)
@given(data=st.data())
def test_weight_gradients_pair_the_same_windows(kind: str, data: st.DataObject) -> None:
    c = data.draw(cases(kind))
    space = c.definition.tile_space(c.info, "weight")
    assert space is not None
    made, read = ("dy", "x0") if kind == "conv" else ("x0", "dy")
    for axis, depends in zip((-2, -1), _reads(c), strict=True):
        depends = depends if kind == "conv" else depends.T
        _check_axis(space, _operand(space, made)[axis], _operand(space, read)[axis], depends)


def test_windows_are_exact_within_the_image() -> None:
    # 3x3 stride 2 padding 1, as encoders downsample: t output rows read 2 t + 1 input rows, and
    # 2 t input-gradient rows read t + 1 rows of dy
    info = resolved("conv", [(4, 64, 64)], kernel=3, stride=2, padding=1, out_channels=8)
    forward, backward = (op_def("conv").tile_space(info, p) for p in ("forward", "x0"))
    assert forward is not None
    assert backward is not None
    for t in range(1, 20):
        assert _extent(_operand(forward, "x0")[-1], t) == 2 * t + 1
        assert _extent(_operand(backward, "dx")[-1], t) == 2 * t
        assert _extent(_operand(backward, "dy")[-1], t) == t + 1
    # a 2x2 transposed convolution of stride 2 has no halo at all
    info = resolved("conv_transpose", [(4, 8, 8)], kernel=2, stride=2, out_channels=8)
    for pass_, made, read in (("forward", "y", "x0"), ("x0", "dx", "dy")):
        space = op_def("conv_transpose").tile_space(info, pass_)
        assert space is not None
        wide, deep = (made, read) if pass_ == "forward" else (read, made)
        assert [_extent(_operand(space, wide)[-1], t) for t in (1, 3)] == [2, 6]
        assert [_extent(_operand(space, deep)[-1], t) for t in (1, 3)] == [1, 3]


@pytest.mark.parametrize("kind", sorted(set(OPS) - {"opaque"}))
@settings(max_examples=20, derandomize=True)
@given(data=st.data())
def test_whole_tiles_hold_whole_tensors(kind: str, data: st.DataObject) -> None:
    c = data.draw(cases(kind))
    passes = ["forward", *(f"x{i}" for i in c.reached), *c.updatable]
    for pass_ in passes:
        space = c.definition.tile_space(c.info, pass_)
        if c.definition.view or c.definition.concat or c.definition.window or c.definition.stack:
            assert space is None
            continue
        assert space is not None
        axes = dict(space.axes)
        assert len(axes) == len(space.axes)
        assert space.macs == c.definition.macs(c.info, pass_)
        sizes = {
            "y": c.info.output,
            "dy": c.info.output,
            **{f"x{i}": s for i, s in enumerate(c.info.inputs)},
            **c.info.params,
            **{f"d{slot}": s for slot, s in c.info.params.items()},
            **{tag: aux.shape for tag, aux in c.definition.aux(c.info).items()},
        }
        if kind == "embedding":  # of the table, the rows that are looked up
            sizes["weight"] = c.info.output
        if kind == "lookup":
            sizes["x1"] = c.info.output
        if pass_.startswith("x"):
            sizes["dx"] = c.info.inputs[int(pass_[1:])]
        for operand in space.operands:
            for dim in operand.dims:
                assert dim.axis is None or dim.axis in axes
            whole = math.prod(_extent(d, axes[d.axis] if d.axis else 1) for d in operand.dims)
            # windows may skip trailing pixels of their input
            assert whole <= math.prod(sizes[operand.tag])
            if operand.role == "out" or operand.tag in ("weight", "bias"):
                assert whole == math.prod(sizes[operand.tag])
        outs = [o.tag for o in space.operands if o.role == "out"]
        expected = {"forward": "y"}.get(pass_, "dx" if pass_.startswith("x") else f"d{pass_}")
        assert outs[0] == expected
        assert set(outs[1:]) <= set(c.definition.aux(c.info))


@pytest.mark.parametrize("kind", ["conv", "conv_transpose", "linear"])
@settings(max_examples=20, derandomize=True)
@given(data=st.data())
def test_macs_of_all_passes_are_equal(kind: str, data: st.DataObject) -> None:
    c = data.draw(cases(kind))
    macs = {c.definition.macs(c.info, p) for p in ("forward", "x0", "weight")}
    assert len(macs) == 1
    assert c.definition.macs(c.info, "bias") == 0
    weight = math.prod(c.info.params["weight"])
    pixels = math.prod((c.info.inputs[0] if kind == "conv_transpose" else c.info.output)[1:])
    if kind.startswith("conv"):
        assert macs == {weight * pixels}
