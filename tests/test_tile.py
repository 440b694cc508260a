"""L1 tiles: the closed form against a literal loop nest, and optimality over all sizes and orders."""

from __future__ import annotations

import dataclasses
import math
import time
from itertools import permutations, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparseplan.dtypes import BITS
from sparseplan.errors import OpError, ProblemError
from sparseplan.ops.base import Dim, Operand, TileSpace
from sparseplan.solve.tile import Tile, best_tile, smallest_tile_bytes, tile_of


def conv(ci: int, co: int, h: int, w: int, k: int = 3, s: int = 1) -> TileSpace:
    """A padded convolution's forward pass."""
    oh, ow = -(-h // s), -(-w // s)
    return TileSpace(
        (("oc", co), ("ic", ci), ("y", oh), ("x", ow)),
        (
            Operand("x0", (Dim("ic", ci), Dim("y", h, s, k), Dim("x", w, s, k))),
            Operand("weight", (Dim("oc", co), Dim("ic", ci), Dim(None, k), Dim(None, k))),
            Operand("y", (Dim("oc", co), Dim("y", oh), Dim("x", ow)), role="out"),
        ),
        ci * co * k * k * oh * ow,
    )


def depthwise(c: int, h: int, w: int, k: int = 3) -> TileSpace:
    return TileSpace(
        (("c", c), ("y", h), ("x", w)),
        (
            Operand("x0", (Dim("c", c), Dim("y", h, 1, k), Dim("x", w, 1, k))),
            Operand("weight", (Dim("c", c), Dim(None, k), Dim(None, k))),
            Operand("y", (Dim("c", c), Dim("y", h), Dim("x", w)), role="out"),
        ),
        c * k * k * h * w,
    )


def gemm(m: int, k: int, n: int) -> TileSpace:
    return TileSpace(
        (("m", m), ("k", k), ("n", n)),
        (
            Operand("x0", (Dim("m", m), Dim("k", k))),
            Operand("weight", (Dim("k", k), Dim("n", n))),
            Operand("y", (Dim("m", m), Dim("n", n)), role="out"),
        ),
        m * k * n,
    )


@st.composite
def spaces(draw: st.DrawFn, axes: int = 3, extent: int = 5) -> TileSpace:
    """Small loop nests: halos, gaps, clipping by padding, reductions, bit masks."""
    names = "abcd"[: draw(st.integers(1, axes))]
    extents = {a: draw(st.integers(1, extent)) for a in names}
    operands = []
    for j in range(draw(st.integers(1, 3))):
        role = "out" if j == 0 else "in"
        dtype = draw(st.sampled_from(["data", "data", "bit", "u8"]))
        used = draw(st.lists(st.sampled_from(names), unique=True))
        dims = []
        for a in used:
            scale, window = (1, 1) if dtype == "bit" else (draw(st.integers(1, 3)), draw(st.integers(1, 4)))
            full = (extents[a] - 1) * scale + window
            # padding may cut an input's halo; the last of adjoining blocks may be short
            most = min(2, full - 1) if role == "in" and window > scale else window - 1 if window == scale else 0
            dims.append(Dim(a, full - draw(st.integers(0, most)), scale, window))
        if draw(st.booleans()):
            dims.append(Dim(None, draw(st.integers(1, 3))))
        operands.append(Operand(f"t{j}", tuple(dims), role, dtype))
    return TileSpace(tuple(extents.items()), tuple(operands), draw(st.integers(0, 100)))


def cuts(space: TileSpace, axis: str) -> list[int]:
    """Sizes that an axis may be cut to."""
    extent = dict(space.axes)[axis]
    packed = any(o.dtype == "bit" and axis in [d.axis for d in o.dims] for o in space.operands)
    return [*range(8, extent, 8), extent] if packed else list(range(1, extent + 1))


def simulate(space: TileSpace, dtype: str, sizes: dict[str, int], order: tuple[str, ...]) -> tuple[int, int]:
    """(DMA bytes, iterations) of the loop nest, run tile by tile with one resident tile an operand."""
    extents = dict(space.axes)
    bits = {o.tag: BITS[dtype if o.dtype == "data" else o.dtype] for o in space.operands}
    moved = 0
    resident: dict[str, tuple[int, ...]] = {}
    touched: dict[str, set[tuple[int, ...]]] = {o.tag: set() for o in space.operands}
    iterations = 0
    for step in product(*(range(0, extents[a], sizes[a]) for a in order)):
        at = dict(zip(order, step, strict=True))
        iterations += 1
        for o in space.operands:
            here = tuple(at[d.axis] for d in o.dims if d.axis is not None)
            if resident.get(o.tag) == here:
                continue
            resident[o.tag] = here
            ranges = []
            for d in o.dims:
                if d.axis is None:
                    ranges.append(range(d.full))
                else:
                    t = min(sizes[d.axis], extents[d.axis] - at[d.axis])
                    start = at[d.axis] * d.scale
                    length = min(d.full, (t - 1) * d.scale + d.window)
                    if d.window <= d.scale:
                        length = min(length, d.full - start)
                    ranges.append(range(start, start + length))
            if o.role == "in":
                moved += -(-math.prod(map(len, ranges)) * bits[o.tag] // 8)
            else:
                cells = set(product(*ranges))
                moved += -(-len(cells) * bits[o.tag] // 8) + -(-len(cells & touched[o.tag]) * bits[o.tag] // 8)
                touched[o.tag] |= cells
    return moved, iterations


def all_tiles(space: TileSpace, dtype: str, double_buffer: bool, alignment: int) -> list[Tile]:
    names = [a for a, _ in space.axes]
    return [
        tile_of(space, dtype, dict(zip(names, sizes, strict=True)), order, double_buffer, alignment)
        for sizes in product(*(cuts(space, a) for a in names))
        for order in permutations(names)
    ]


@settings(max_examples=200, deadline=None)
@given(spaces() | spaces(axes=2, extent=20), st.data())
def test_closed_form_equals_the_loop_nest(space: TileSpace, data: st.DataObject) -> None:
    names = [a for a, _ in space.axes]
    sizes = {a: data.draw(st.sampled_from(cuts(space, a))) for a in names}
    order = tuple(data.draw(st.permutations(names)))
    dtype = data.draw(st.sampled_from(["fp32", "bf16"]))
    tile = tile_of(space, dtype, sizes, order, double_buffer=True)
    assert (tile.dma_bytes, tile.tiles) == simulate(space, dtype, sizes, order)


@settings(max_examples=60, deadline=None)
@given(spaces() | spaces(axes=1, extent=40), st.booleans(), st.sampled_from([1, 4, 16]), st.integers(0, 120))
def test_optimal_over_all_sizes_and_orders(space: TileSpace, double_buffer: bool, alignment: int, slack: int) -> None:
    everything = all_tiles(space, "bf16", double_buffer, alignment)
    least = min(t.l1_bytes for t in everything)
    assert smallest_tile_bytes(space, "bf16", double_buffer, alignment) == least
    assert best_tile(space, "bf16", least - 1, double_buffer, alignment) is None
    budget = least + slack
    best = best_tile(space, "bf16", budget, double_buffer, alignment)
    assert best is not None
    assert best.l1_bytes <= budget

    def key(t: Tile) -> tuple[int, int, int]:
        return t.dma_bytes, t.tiles, t.l1_bytes

    assert key(best) == min(key(t) for t in everything if t.l1_bytes <= budget)


@settings(max_examples=40, deadline=None)
@given(spaces(axes=4, extent=12), st.integers(0, 400), st.integers(0, 400))
def test_more_budget_never_moves_more(space: TileSpace, one: int, more: int) -> None:
    small = best_tile(space, "fp32", one, True)
    large = best_tile(space, "fp32", one + more, True)
    if small is not None:
        assert large is not None
        assert (large.dma_bytes, large.tiles) <= (small.dma_bytes, small.tiles)


def test_a_larger_size_may_win_where_padding_clips() -> None:
    # rows 4, window 3, padding 1: tiles (3, 1) fetch 4 + 3 rows, tiles (2, 2) fetch 4 + 4
    space = TileSpace((("y", 4),), (Operand("x0", (Dim("y", 4, 1, 3),)), Operand("y", (Dim("y", 4),), "out")), 12)
    tile = best_tile(space, "int8", 7, double_buffer=False)
    assert tile is not None
    assert (tile.sizes, tile.dma_bytes) == ((("y", 3),), 11)


@pytest.mark.parametrize(
    ("space", "budget", "dma"),
    [
        # everything fits: each tensor is moved once
        (conv(8, 8, 8, 8), 10**6, 2 * (512 + 576 + 512)),
        (depthwise(16, 10, 12), 10**6, 2 * (1920 + 144 + 1920)),
        (gemm(20, 30, 40), 10**6, 2 * (600 + 1200 + 800)),
        # cut along channels alone, a depthwise convolution still moves each tensor once
        (depthwise(16, 10, 12), 2 * 2 * (120 + 9 + 120), 2 * (1920 + 144 + 1920)),
    ],
)
def test_known_traffic(space: TileSpace, budget: int, dma: int) -> None:
    tile = best_tile(space, "bf16", budget, double_buffer=True)
    assert tile is not None
    assert tile.dma_bytes == dma
    assert tile.macs == space.macs


def test_reduction_outside_reads_partial_sums_again() -> None:
    space = gemm(4, 6, 4)
    sizes = {"m": 4, "k": 2, "n": 2}
    inner = tile_of(space, "int8", sizes, ("m", "n", "k"), double_buffer=False)
    outer = tile_of(space, "int8", sizes, ("k", "m", "n"), double_buffer=False)
    by_tag = [{o.tag: o.dma_bytes for o in t.operands} for t in (inner, outer)]
    assert by_tag[0]["y"] == 16  # written once
    assert by_tag[1]["y"] == 3 * 16 + 2 * 16  # written three times, read twice
    assert by_tag[0]["x0"] == 2 * 24  # fetched again for each n
    assert by_tag[1]["x0"] == 24


def test_buffers_are_doubled_only_where_the_tile_changes() -> None:
    tile = tile_of(depthwise(4, 4, 4), "bf16", {"c": 4, "y": 2, "x": 4}, ("c", "y", "x"), True, alignment=16)
    assert {o.tag: o.buffers for o in tile.operands} == {"x0": 2, "weight": 1, "y": 2}
    assert tile.l1_bytes == 2 * 128 + 80 + 2 * 64


def test_cycles_only_where_both_rates_are_known() -> None:
    space = gemm(8, 8, 8)
    assert best_tile(space, "fp32", 10**5, True, mac_per_cycle=2.0).cycles is None  # type: ignore[union-attr]
    overlapped = best_tile(space, "fp32", 10**5, True, mac_per_cycle=2.0, dma_bytes_per_cycle=8.0)
    serial = best_tile(space, "fp32", 10**5, False, mac_per_cycle=2.0, dma_bytes_per_cycle=8.0)
    assert overlapped is not None
    assert serial is not None
    assert (overlapped.cycles, serial.cycles) == (256, 256 + 96)


def test_fast_and_the_same_every_time() -> None:
    start = time.process_time()
    layers = [conv(3, 16, 48, 48), conv(32, 32, 48, 48), conv(512, 512, 14, 14), gemm(1, 4096, 4096)]
    tiles = [best_tile(s, "bf16", 131072, True, 4) for s in layers]
    assert time.process_time() - start < 10
    best_tile.__globals__["_search"].cache_clear()
    assert tiles == [best_tile(s, "bf16", 131072, True, 4) for s in layers]


def test_bad_input() -> None:
    space = gemm(2, 2, 2)
    with pytest.raises(ProblemError, match="dtype='fp64' is unknown"):
        best_tile(space, "fp64", 100, True)
    with pytest.raises(ProblemError, match="budget_bytes=-1"):
        best_tile(space, "fp32", -1, True)
    with pytest.raises(ProblemError, match="alignment=3"):
        best_tile(space, "fp32", 100, True, 3)
    with pytest.raises(OpError, match="axes are"):
        best_tile(dataclasses.replace(space, axes=(("m", 2), ("n", 2))), "fp32", 100, True)
    with pytest.raises(OpError, match="distinct names"):
        best_tile(dataclasses.replace(space, axes=(("m", 2), ("m", 2))), "fp32", 100, True)
    with pytest.raises(OpError, match="role='inout'"):
        best_tile(TileSpace((), (Operand("a", (), "inout"),), 0), "fp32", 100, True)
    with pytest.raises(OpError, match="an axis twice"):
        best_tile(TileSpace((("a", 2),), (Operand("y", (Dim("a", 2), Dim("a", 2)), "out"),), 0), "fp32", 9, True)
    huge = TileSpace(tuple((a, 2**13) for a in "abcd"), (Operand("x", tuple(Dim(a, 2**13) for a in "abcd")),), 1)
    with pytest.raises(ProblemError, match="fewer or shorter axes"):
        best_tile(huge, "fp32", 100, True)


@pytest.mark.parametrize("size", [0, 3, 17])
def test_masks_are_cut_at_whole_bytes(size: int) -> None:
    flat = (Dim("n", 16),)
    space = TileSpace((("n", 16),), (Operand("mask", flat, "in", "bit"), Operand("dx", flat, "out")), 16)
    assert tile_of(space, "fp32", {"n": 8}, ("n",), double_buffer=False).dma_bytes == 2 + 64
    with pytest.raises(ProblemError, match=f"n={size} must be 1 to 16, and a multiple of 8"):
        tile_of(space, "fp32", {"n": size}, ("n",), double_buffer=False)


def test_space_without_axes() -> None:
    space = TileSpace((), (Operand("x0", (Dim(None, 5),)), Operand("y", (Dim(None, 1),), "out")), 5)
    tile = best_tile(space, "fp32", 24, True)
    assert tile is not None
    assert (tile.l1_bytes, tile.dma_bytes, tile.tiles, tile.order) == (24, 24, 1, ())
    assert best_tile(space, "fp32", 23, True) is None
