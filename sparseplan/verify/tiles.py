"""L1 tiles: what their operands take and move, by walking the loop nest.

A tile takes ``t`` of each axis, the last one of an axis what is left. An operand's tile has
``min(full, (t - 1) * scale + window)`` elements along each dimension. It stays in L1 while the nest
does not leave it, and is moved when it changes; what is written again is read back first. Two
buffers are held of a tile that changes where transfers overlap computing.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

from sparseplan.dtypes import bytes_of
from sparseplan.ops.base import Dim, Operand, TileSpace
from sparseplan.plan import Plan, PlannedTile
from sparseplan.problem import Problem
from sparseplan.units import align_up
from sparseplan.verify.facts import Facts
from sparseplan.verify.findings import Findings

#: nests of at most so many tiles are walked one tile after the other; longer ones are counted by formula
WALKED = 5_000


def check_tiles(problem: Problem, facts: Facts, plan: Plan, findings: Findings) -> None:
    """Every pass that moves data has one tile, which fits, and whose figures are right."""
    passes: dict[tuple[str, str], TileSpace] = {}
    capacity = problem.capacity("L1")
    if capacity is not None:
        for step in plan.steps:
            pass_ = "forward" if step.kind == "forward" else step.target
            known = step.kind == "forward" or pass_ in _passes(facts, step.op)
            if step.kind in ("forward", "grad_param", "grad_input") and step.op in facts.infos and known:
                space = facts.tile_space(step.op, pass_)
                if space is not None:
                    passes[step.op, pass_] = space
    for t in plan.tiles:
        where = f"tile of {t.op}, {t.pass_}"
        tiled = passes.pop((t.op, t.pass_), None)
        if tiled is None:
            findings.add("tile", where, "is of no pass that needs one, or the second of its pass")
        else:
            _check_tile(problem, tiled, t, where, findings)
        if capacity is not None and t.l1_bytes > capacity:
            findings.add("tile", where, f"l1_bytes={t.l1_bytes} do not fit {capacity}")
    for op, pass_ in passes:
        findings.add("tile", f"tile of {op}, {pass_}", "is missing")


def _passes(facts: Facts, op: str) -> set[str]:
    """Names of an op's backward passes."""
    if op not in facts.infos:
        return set()
    net_op = facts.network.op[op]
    return {*net_op.params, *(f"x{i}" for i in range(len(net_op.inputs)))}


def _check_tile(problem: Problem, space: TileSpace, t: PlannedTile, where: str, findings: Findings) -> None:
    extents, sizes = dict(space.axes), dict(t.sizes)
    if sorted(a for a, _ in t.sizes) != sorted(extents) or any(not 1 <= n <= extents[a] for a, n in sizes.items()):
        findings.add("tile", where, f"sizes={t.sizes} are not one size for each axis of {space.axes}")
        return
    trips = {axis: -(-extents[axis] // size) for axis, size in sizes.items()}
    order = [axis for axis, _ in t.sizes]
    tiles = math.prod(trips.values())
    if t.tiles != tiles:
        findings.add("tile", where, f"tiles={t.tiles} should be {tiles}")
    l1 = dma = 0
    alignment = problem.device.level("L1").alignment
    buffers = []
    for o in space.operands:
        width = problem.options.dtype if o.dtype == "data" else o.dtype
        cut = {d.axis for d in o.dims if d.axis is not None and trips[d.axis] > 1}
        if o.dtype == "bit" and any(sizes[axis] % 8 for axis in cut):
            findings.add("tile", where, f"sizes={t.sizes} cut the bits of {o.tag!r} within a byte")
        one = bytes_of(_full(o, sizes), width)
        held = 2 if cut and problem.device.double_buffer else 1
        buffers.append((o.tag, one, held))
        l1 += align_up(one, alignment) * held
        count = walked if tiles <= WALKED else counted
        moved = count(o, width, order, extents, sizes)
        if o.role == "out":  # what is written again is read before
            moved += moved - bytes_of(_touched(o, extents, sizes), width)
        dma += moved
    if list(t.buffers) != buffers:
        findings.add("tile", where, f"buffers={t.buffers} should be {tuple(buffers)}")
    if t.l1_bytes != l1:
        findings.add("tile", where, f"l1_bytes={t.l1_bytes} should be {l1}")
    if t.dma_bytes != dma:
        findings.add("tile", where, f"dma_bytes={t.dma_bytes} should be {dma}")


def _extent(d: Dim, size: int, start: int | None = None) -> int:
    """Elements along a dimension for a tile of ``size``; if it begins at ``start`` of its axis."""
    extent = (size - 1) * d.scale + d.window
    if start is not None and d.window <= d.scale:  # without a halo it is known where the tile lies
        return min(extent, d.full - start * d.scale)
    return min(extent, d.full)


def _full(o: Operand, sizes: Mapping[str, int]) -> int:
    """Elements of an operand's full tile."""
    return math.prod(d.full if d.axis is None else _extent(d, sizes[d.axis]) for d in o.dims)


def _cuts(extent: int, size: int) -> list[tuple[int, int]]:
    """(start, size) of an axis's tiles, in order."""
    return [(at, min(size, extent - at)) for at in range(0, extent, size)]


def _located(o: Operand) -> dict[str | None, bool]:
    """Axes along which an operand has one dimension, so that it can be told where its tiles lie."""
    axes = [d.axis for d in o.dims]
    return {axis: axes.count(axis) == 1 for axis in axes}


def walked(o: Operand, width: str, order: Sequence[str], extents: Mapping[str, int], sizes: Mapping[str, int]) -> int:
    """Bytes moved when the nest is walked and the operand's tile is moved whenever it changes."""
    one, used = _located(o), {d.axis for d in o.dims}
    total, held = 0, None
    for starts in itertools.product(*(_cuts(extents[a], sizes[a]) for a in order)):
        tile = dict(zip(order, starts, strict=True))
        this = tuple(start for axis, (start, _) in tile.items() if axis in used)
        if this != held:
            held = this
            elements = 1
            for d in o.dims:
                if d.axis is None:
                    elements *= d.full
                else:
                    start, size = tile[d.axis]
                    elements *= _extent(d, size, start if one[d.axis] else None)
            total += bytes_of(elements, width)
    return total


def counted(o: Operand, width: str, order: Sequence[str], extents: Mapping[str, int], sizes: Mapping[str, int]) -> int:
    """The same as ``walked`` by formula, for nests of any length; bits are cut at whole bytes."""
    elements, repeats = _once(o, extents, sizes), 1
    inner = False  # whether a loop inside of this one changes the tile
    for axis in reversed(order):
        trips = -(-extents[axis] // sizes[axis])
        if any(d.axis == axis for d in o.dims):
            inner = inner or trips > 1
        elif inner:
            repeats *= trips
    return repeats * bytes_of(elements, width)


def _along(o: Operand, axis: str, extent: int, size: int) -> int:
    """Elements along an axis, summed over its tiles."""
    dims, one = [d for d in o.dims if d.axis == axis], _located(o)[axis]
    n = -(-extent // size)
    full = math.prod(_extent(d, size) for d in dims)
    start = (n - 1) * size
    return (n - 1) * full + math.prod(_extent(d, extent - start, start if one else None) for d in dims)


def _once(o: Operand, extents: Mapping[str, int], sizes: Mapping[str, int]) -> int:
    """Elements of an operand's tiles, each taken once."""
    fixed = math.prod(d.full for d in o.dims if d.axis is None)
    axes = {d.axis for d in o.dims if d.axis is not None}
    return fixed * math.prod(_along(o, axis, extents[axis], sizes[axis]) for axis in axes)


def _touched(o: Operand, extents: Mapping[str, int], sizes: Mapping[str, int]) -> int:
    """Distinct elements that an operand's tiles touch."""
    total = math.prod(d.full for d in o.dims if d.axis is None)
    for axis in {d.axis for d in o.dims if d.axis is not None}:
        whole = math.prod(_extent(d, extents[axis]) for d in o.dims if d.axis == axis)
        total *= min(_along(o, axis, extents[axis], sizes[axis]), whole)
    return total
