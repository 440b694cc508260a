"""The best L1 tile of a pass, by exact enumeration.

A pass (an op's forward, or one of its gradients) is a loop nest over axes that touches operands
(``ops.base.TileSpace``). Its tensors lie in L2, so its best tile depends on no other layer and can
be found on its own, for certain.

The model
    * A tile takes ``t`` of each axis; an axis of extent ``N`` has ``n = ceil(N / t)`` tiles, the
      last one clipped. An operand's tile follows from its ``Dim``s, halos included.
    * Loops run in some order, outermost first. An operand stays in L1 while its tile is the same,
      and is moved whenever it changes: so its tiles are fetched ``R`` times over, where ``R`` is the
      product of the trip counts of those loops that it does not depend on and that run outside its
      innermost dependent loop. (Loops of one trip never count.)
    * An ``out`` operand is written whenever its tile changes; what it holds is read first where it
      was written before: partial sums of a reduction outside of it, and overlaps of its tiles. So
      it reads all elements that it writes, less the first touch of each.
    * Traffic is summed over all tiles, the clipped ones at their own size. One-bit masks pack eight
      elements a byte, so an axis of a mask is cut in multiples of 8 or not at all: then all tiles
      but the last are whole bytes, and a sweep over all tiles is rounded up to bytes once.
    * L1 holds one buffer of an operand's tile, or two where transfers overlap computing and the
      tile ever changes; each aligned.

The objective is lexicographic: least DMA bytes, then fewest tiles, then least L1 bytes; ties go to
the smallest sizes and the earliest order, so that the answer is the same every time.

Sizes not worth trying. Take two sizes ``t' < t`` of an axis that give the same number of tiles and
no operand moves more with ``t'``: then ``t'`` needs no more L1, no more trips and no more traffic
whatever the other axes do, and ``t`` is left out. Where no ``Dim`` of the axis is clipped by its
``full`` this leaves the distinct quotients ``ceil(N / n)``, about ``2 sqrt(N)`` of them, since
traffic then depends on ``n`` alone. Only where padding clips a halo may a larger size with the same
``n`` move less, and it is kept. Nothing else is dropped: the result is optimal over all sizes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import permutations, product
from typing import Any

import numpy as np
import numpy.typing as npt

from sparseplan.dtypes import BITS, bytes_of, check_dtype
from sparseplan.errors import InternalError, OpError, ProblemError
from sparseplan.ops.base import OpInfo, TileSpace, op_def
from sparseplan.solve.tile_count import (
    Ints,
    ceil_div,
    dtype_of,
    extent_of,
    extents_of,
    grain,
    repeating,
    sum_over_tiles,
)  # fmt: skip
from sparseplan.units import align_up

#: size combinations that are judged at once (memory), and beyond which a search is refused (time)
CHUNK = 1 << 20
MAX_COMBINATIONS = 1 << 27


@dataclass(frozen=True, slots=True)
class OperandTile:
    """What a tile means for one operand.

    Attributes:
        tag: which tensor; role: ``in`` or ``out``.
        shape: extents of a full tile.
        bytes: of one buffer, before alignment.
        buffers: 1, or 2 if double-buffered.
        moves: how many tiles of it are fetched (``in``) or written (``out``) over the pass.
        dma_bytes: moved between L2 and L1, both ways.
    """

    tag: str
    role: str
    shape: tuple[int, ...]
    bytes: int
    buffers: int
    moves: int
    dma_bytes: int


@dataclass(frozen=True, slots=True)
class Tile:
    """How a pass is cut to fit L1.

    Attributes:
        sizes: (axis, size of a full tile), in the order of the space's axes.
        order: axes, outermost loop first.
        operands: what it means for each operand, in the space's order.
        l1_bytes: of all buffers, aligned.
        dma_bytes: moved between L2 and L1, both ways.
        tiles: iterations of the loop nest.
        macs: multiply-accumulates of the pass, whatever the tile.
        cycles: least cycles by the device's rates, or None where a rate is not known.
    """

    sizes: tuple[tuple[str, int], ...]
    order: tuple[str, ...]
    operands: tuple[OperandTile, ...]
    l1_bytes: int
    dma_bytes: int
    tiles: int
    macs: int
    cycles: int | None = None

    def __post_init__(self) -> None:
        if sorted(self.order) != sorted(axis for axis, _ in self.sizes):
            raise ProblemError(f"tile order={self.order} does not name each axis of sizes={self.sizes} once")
        if any(size < 1 for _, size in self.sizes):
            raise ProblemError(f"tile sizes={self.sizes} must be at least 1")
        if self.dma_bytes != sum(o.dma_bytes for o in self.operands):
            raise ProblemError(f"tile dma_bytes={self.dma_bytes} is not the sum over its operands")


def best_tile(
    space: TileSpace,
    dtype: str,
    budget_bytes: int,
    double_buffer: bool,
    alignment: int = 1,
    mac_per_cycle: float | None = None,
    dma_bytes_per_cycle: float | None = None,
    look: Callable[[], None] | None = None,
) -> Tile | None:
    """The optimal tile of a pass, or None when no tile fits.

    Args:
        space: the loop nest; per sample.
        dtype: storage type of its ``data`` operands.
        budget_bytes: of L1 that buffers may take.
        double_buffer: whether transfers overlap computing.
        alignment: of every buffer, a power of two.
        mac_per_cycle, dma_bytes_per_cycle: rates of the device, if known; they add ``cycles`` to the
            result and do not change the choice.
        look: called again and again during the search; what it raises ends it, as where time is up.

    Raises:
        ProblemError: a dtype, budget or alignment that makes no sense, or a space too large to
            enumerate.
        OpError: a malformed space.
    """
    _check(space, dtype, alignment)
    if not isinstance(budget_bytes, int) or isinstance(budget_bytes, bool) or budget_bytes < 0:
        raise ProblemError(f"L1 budget_bytes={budget_bytes!r} must be an integer >= 0")
    found = _search(space, BITS[dtype], budget_bytes, bool(double_buffer), alignment, _Look(look))
    if found is None:
        return None
    sizes, order, key = found
    tile = tile_of(space, dtype, sizes, order, double_buffer, alignment, mac_per_cycle, dma_bytes_per_cycle)
    if (tile.dma_bytes, tile.tiles, tile.l1_bytes) != key:
        raise InternalError(f"tile search found {key}, its own tile has {tile}")
    return tile


def smallest_tile_bytes(space: TileSpace, dtype: str, double_buffer: bool, alignment: int = 1) -> int:
    """The least L1 bytes with which some tile fits.

    Buffers grow with tile sizes, save that a whole axis may spare the second buffer: so each axis
    is either cut as finely as it can be or left whole.
    """
    return _smallest(space, dtype, bool(double_buffer), alignment)


@lru_cache(maxsize=4096)
def _smallest(space: TileSpace, dtype: str, double_buffer: bool, alignment: int) -> int:
    _check(space, dtype, alignment)
    order = tuple(axis for axis, _ in space.axes)
    choices = product(*({min(grain(space, axis), extent), extent} for axis, extent in space.axes))
    sizes = (dict(zip(order, choice, strict=True)) for choice in choices)
    return min(tile_of(space, dtype, s, order, double_buffer, alignment).l1_bytes for s in sizes)


def tiles_for(
    passes: Iterable[tuple[OpInfo, str]],
    dtype: str,
    budget_bytes: int,
    double_buffer: bool,
    alignment: int = 1,
) -> dict[tuple[str, str], Tile | None]:
    """Best tiles of many passes, by (op name, pass): None where no tile fits. Passes that move no
    data (views) are left out. Passes with equal spaces are searched once."""
    result: dict[tuple[str, str], Tile | None] = {}
    for info, pass_ in passes:
        space = op_def(info.kind).tile_space(info, pass_)
        if space is not None:
            result[info.name, pass_] = best_tile(space, dtype, budget_bytes, double_buffer, alignment)
    return result


def tile_of(
    space: TileSpace,
    dtype: str,
    sizes: Mapping[str, int],
    order: tuple[str, ...],
    double_buffer: bool,
    alignment: int = 1,
    mac_per_cycle: float | None = None,
    dma_bytes_per_cycle: float | None = None,
) -> Tile:
    """The figures of a given tile: ``sizes`` by axis, ``order`` from the outermost loop.

    Raises:
        ProblemError: an axis without a size, or a size that the axis cannot be cut to.
    """
    _check(space, dtype, alignment)
    for axis, extent in space.axes:
        size, step = sizes.get(axis, 0), grain(space, axis)
        if not 1 <= size <= extent or (size % step and size < extent):
            raise ProblemError(f"tile size {axis}={size} must be 1 to {extent}, and a multiple of {step} if it cuts")
    trips = {axis: -(-extent // sizes[axis]) for axis, extent in space.axes}
    operands = []
    for o in space.operands:
        depends = {d.axis for d in o.dims if d.axis is not None and trips[d.axis] > 1}
        repeats = math.prod(trips[a] for a in repeating(order, depends))
        all_tiles = first_touch = 1
        for axis, extent in space.axes:
            one = sum_over_tiles(o, axis, extent, np.array([sizes[axis]], np.int64))
            all_tiles *= int(one[0])
            first_touch *= min(int(one[0]), extent_of(o, axis, extent))
        fixed = extent_of(o, None, 1)
        shape = tuple(
            d.full if d.axis is None else min(d.full, (sizes[d.axis] - 1) * d.scale + d.window) for d in o.dims
        )
        width = dtype_of(o, dtype)
        moved = repeats * bytes_of(all_tiles * fixed, width)
        if o.role == "out":
            moved = 2 * moved - bytes_of(first_touch * fixed, width)
        operands.append(
            OperandTile(
                tag=o.tag,
                role=o.role,
                shape=shape,
                bytes=bytes_of(math.prod(shape), width),
                buffers=2 if double_buffer and depends else 1,
                moves=repeats * math.prod(trips[a] for a in depends),
                dma_bytes=moved,
            )
        )
    dma_bytes = sum(o.dma_bytes for o in operands)
    return Tile(
        sizes=tuple((axis, sizes[axis]) for axis, _ in space.axes),
        order=order,
        operands=tuple(operands),
        l1_bytes=sum(align_up(o.bytes, alignment) * o.buffers for o in operands),
        dma_bytes=dma_bytes,
        tiles=math.prod(trips.values()),
        macs=space.macs,
        cycles=_cycles(space.macs, dma_bytes, double_buffer, mac_per_cycle, dma_bytes_per_cycle),
    )


def _cycles(macs: int, dma: int, overlap: bool, mac_rate: float | None, dma_rate: float | None) -> int | None:
    if mac_rate is None or dma_rate is None:
        return None
    compute, move = macs / mac_rate, dma / dma_rate
    return math.ceil(max(compute, move) if overlap else compute + move)


def _check(space: TileSpace, dtype: str, alignment: int) -> None:
    check_dtype(dtype)
    if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
        raise ProblemError(f"alignment={alignment!r} is not a power of two; give 1, 2, 4, 8, …")
    names = [axis for axis, _ in space.axes]
    if len(set(names)) != len(names) or any(extent < 1 for _, extent in space.axes):
        raise OpError(f"tile space axes={space.axes} must have distinct names and extents of at least 1")
    for o in space.operands:
        if o.role not in ("in", "out") or o.dtype not in ("data", "bit", "u8", "i32"):
            raise OpError(f"tile space: operand {o.tag!r} has role={o.role!r}, dtype={o.dtype!r}")
        along = [d.axis for d in o.dims if d.axis is not None]
        if o.role == "out" and len(set(along)) != len(along):
            raise OpError(f"tile space: output {o.tag!r} uses an axis twice: {along}; what it rereads is not defined")
        for d in o.dims:
            if (d.axis is not None and d.axis not in names) or min(d.full, d.scale, d.window) < 1:
                raise OpError(f"tile space: operand {o.tag!r} has a malformed {d}; axes are {names}")


def _candidates(space: TileSpace, axis: str, extent: int) -> Ints:
    """Sizes of an axis that no smaller one beats (see the module's docstring), ascending."""
    step = grain(space, axis)
    t = np.append(np.arange(step, extent, step, dtype=np.int64), extent)
    n = ceil_div(extent, t)
    first = np.flatnonzero(np.diff(n, prepend=n[0] + 1))  # the least size of each count of tiles
    sums = [sum_over_tiles(o, axis, extent, t) for o in space.operands if any(d.axis == axis for d in o.dims)]
    group = np.repeat(first, np.diff(first, append=len(t)))
    # only sizes that move less than the least one of their count can be undominated
    worth = np.flatnonzero(np.any([s < s[group] for s in sums], axis=0)) if sums else first[:0]
    kept: list[int] = first.tolist()
    by_count: dict[int, list[int]] = {int(n[k]): [k] for k in kept}
    for k in worth.tolist():
        rivals = by_count[int(n[k])]
        if not any(all(s[r] <= s[k] for s in sums) for r in rivals):
            rivals.append(k)
            kept.append(k)
    kept.sort()
    return np.asarray(t[kept], np.int64)


def _orders(space: TileSpace, tiled: tuple[str, ...]) -> list[tuple[tuple[str, ...], list[tuple[str, ...]]]]:
    """Loop orders worth trying when ``tiled`` axes have several trips: (order, repeating loops of each
    operand). Of orders with the same repeats the first stays; of those that repeat more, none."""
    depends = [{d.axis for d in o.dims if d.axis in tiled} for o in space.operands]
    seen: dict[tuple[frozenset[str], ...], tuple[str, ...]] = {}
    for order in permutations(tiled):
        seen.setdefault(tuple(frozenset(repeating(order, {a for a in d if a})) for d in depends), order)
    whole = tuple(axis for axis, _ in space.axes if axis not in tiled)  # one trip each: anywhere
    best = [
        key
        for key in seen
        if not any(other != key and all(a <= b for a, b in zip(other, key, strict=True)) for other in seen)
    ]
    return [(seen[key] + whole, [tuple(sorted(repeats)) for repeats in key]) for key in best]


@dataclass(frozen=True, slots=True)
class _Look:
    """A look at the clock. To the cache of results all are the same; a search that one ends leaves no result."""

    call: Callable[[], None] | None = field(default=None, compare=False)

    def __call__(self) -> None:
        if self.call is not None:
            self.call()


@lru_cache(maxsize=4096)
def _search(
    space: TileSpace, bits: int, budget: int, double_buffer: bool, alignment: int, look: _Look
) -> tuple[dict[str, int], tuple[str, ...], tuple[int, int, int]] | None:
    """(sizes, order, (dma bytes, tiles, l1 bytes)) of the best tile, or None."""
    axes = space.axes
    sizes = [_candidates(space, axis, extent) for axis, extent in axes]
    combinations = math.prod(len(s) for s in sizes)
    # the most that int64 must hold: every axis cut to 1, every loop repeating
    most = max(
        (math.prod(e for _, e in axes) * math.prod(d.full * d.window for d in o.dims) for o in space.operands),
        default=0,
    )
    if combinations > MAX_COMBINATIONS or most > 2**56:
        raise ProblemError(
            f"tile space axes={axes} has {combinations} combinations of tile sizes; the search takes up to "
            f"{MAX_COMBINATIONS}: give the op fewer or shorter axes"
        )
    best: tuple[tuple[int, ...], tuple[str, ...]] | None = None
    step = max(1, CHUNK // max(1, combinations // len(sizes[0]))) if axes else 1
    for start in range(0, len(sizes[0]) if axes else 1, step):
        part = [sizes[0][start : start + step], *sizes[1:]] if axes else []
        found = _search_part(space, part, bits, budget, double_buffer, alignment, look)
        if found is not None and (best is None or found[0] < best[0]):
            best = found
    if best is None:
        return None
    key, order = best
    chosen = {axis: size for (axis, _), size in zip(axes, key[3:], strict=True)}
    return chosen, order, (key[0], key[1], key[2])


def _search_part(
    space: TileSpace, sizes: list[Ints], bits: int, budget: int, double_buffer: bool, alignment: int, look: _Look
) -> tuple[tuple[int, ...], tuple[str, ...]] | None:
    """The best of a grid of sizes: ((dma, tiles, l1, *sizes), order)."""
    axes = space.axes
    rank = len(axes)

    def along(k: int, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return values.reshape((1,) * k + (-1,) + (1,) * (rank - k - 1))

    widths = [bits if o.dtype == "data" else BITS[o.dtype] for o in space.operands]
    l1: Ints = np.zeros([len(s) for s in sizes], np.int64)
    for o, width in zip(space.operands, widths, strict=True):
        elements: Ints = np.full((1,) * rank, extent_of(o, None, 1), np.int64)
        cut = np.zeros((1,) * rank, bool)
        for k, (axis, extent) in enumerate(axes):
            if any(d.axis == axis for d in o.dims):
                elements = elements * along(k, extents_of(o, axis, sizes[k]))
                cut = cut | along(k, sizes[k] < extent)
        one = ceil_div(ceil_div(elements * width, 8), alignment) * alignment
        l1 = l1 + (one * (1 + cut) if double_buffer else one)
    fits = np.nonzero(l1 <= budget) if rank else ()
    if (rank and not len(fits[0])) or (not rank and int(l1) > budget):
        return None
    need = l1[fits] if rank else l1.reshape(1)
    size = [s[i] for s, i in zip(sizes, fits, strict=True)]
    trips = {axis: ceil_div(extent, s) for (axis, extent), s in zip(axes, size, strict=True)}
    tiles = np.ones_like(need)
    pattern = np.zeros_like(need)
    for k, (axis, _) in enumerate(axes):
        tiles = tiles * trips[axis]
        pattern |= (trips[axis] > 1).astype(np.int64) << k
    moved, first = _sweeps(space, sizes, fits, len(need), widths)
    best: tuple[tuple[int, ...], tuple[str, ...]] | None = None
    for code in np.unique(pattern).tolist():
        here = np.flatnonzero(pattern == code)
        tiled = tuple(axis for k, (axis, _) in enumerate(axes) if code >> k & 1)
        for order, repeats in _orders(space, tiled):
            look()
            dma = np.zeros(len(here), np.int64)
            for j, o in enumerate(space.operands):
                times = moved[j][here]
                for axis in repeats[j]:
                    times = times * trips[axis][here]
                if o.role == "out":
                    times = 2 * times - first[j][here]
                dma += times
            least = np.flatnonzero(dma == dma.min())
            key = [int(dma[least[0]])]
            for values in (tiles, need, *size):  # the least of each in turn, among what is left
                some = values[here[least]]
                key.append(int(some.min()))
                least = least[some == key[-1]]
            found = (tuple(key), order)
            if best is None or found[0] < best[0]:
                best = found
    return best


def _sweeps(
    space: TileSpace, sizes: list[Ints], fits: tuple[Ints, ...], count: int, widths: list[int]
) -> tuple[list[Ints], list[Ints]]:
    """For each operand and each fitting combination: bytes of all its tiles, and of its distinct
    elements (the first touch of each)."""
    moved, first = [], []
    for o, width in zip(space.operands, widths, strict=True):
        m = np.full(count, extent_of(o, None, 1), np.int64)
        f = m
        for k, (axis, extent) in enumerate(space.axes):
            if any(d.axis == axis for d in o.dims):
                s = sum_over_tiles(o, axis, extent, sizes[k])
                m = m * s[fits[k]]
                f = f * np.minimum(s, extent_of(o, axis, extent))[fits[k]]
        moved.append(ceil_div(m * width, 8))
        first.append(ceil_div(f * width, 8))
    return moved, first
