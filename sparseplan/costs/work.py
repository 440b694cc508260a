"""What a step does as far as time goes: MACs, bytes, kernel calls and transfers, from its data and its tile.

Where bytes go
    * With L1, a pass moves what its tile says (``PlannedTile.dma_bytes``, per sample, both ways),
      between L2 and L1. A parameter or an accumulator that lives in L3 or flash goes there instead, as
      often as its tiles change. What a pass adds to (an accumulator, a gradient that several ops
      contribute to) is read once more, which its tile does not say. Steps that are no pass of an op
      (loss, auxiliaries, updates) go through their data once, in as many tiles as L1 asks for.
    * Without L1, kernels work in L2 directly. What lives in L3 or flash is read, and written, once a
      step, and nothing overlaps that.
    * ``page_out`` and ``page_in`` copy a value between L2 and L3, and compute nothing.
    * ``recompute`` does what ``forward`` does. A step of a kind that is not known here is taken
      for an element-wise one: it reads and writes its arguments once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from sparseplan.costs.cycles import Transfer, Work
from sparseplan.device import Device
from sparseplan.dtypes import bytes_of
from sparseplan.ops import OpInfo, op_def
from sparseplan.ops.base import Operand, TileSpace
from sparseplan.plan import PlannedTile
from sparseplan.steps import MAIN

#: where paged values go to and come from
PAGED = "L3"


class AnySpan(Protocol):
    """A span of a step, certain or not."""

    @property
    def value(self) -> str: ...


class AnyArg(Protocol):
    """An argument of a step, certain or not."""

    @property
    def tag(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> str: ...
    @property
    def spans(self) -> Sequence[AnySpan]: ...


class AnyStep(Protocol):
    """A step that runs (``Step``), or one that may (``MaybeStep``)."""

    @property
    def kind(self) -> str: ...
    @property
    def op(self) -> str: ...
    @property
    def target(self) -> str: ...
    @property
    def reads(self) -> Sequence[AnyArg]: ...
    @property
    def writes(self) -> Sequence[AnyArg]: ...


def pass_name(kind: str, target: str) -> str:
    """The pass of a step as tables of rates name it: ``forward``, ``x0``, ``weight``, ``update`` …"""
    if kind in ("forward", "recompute"):
        return "forward"
    return target if kind in ("grad_param", "grad_input") else kind


def work_of(
    step: AnyStep,
    macs: int,
    device: Device,
    dtype: str,
    *,
    info: OpInfo | None = None,
    tile: PlannedTile | None = None,
    batch: int = 1,
    levels: Mapping[str, str] | None = None,
) -> Work:
    """The work of a step.

    Args:
        step: a ``Step``, or a ``MaybeStep`` (then all its arguments count, so that element-wise work
            is an upper bound).
        macs: MACs of the whole batch.
        dtype: in which it computes.
        info: its op resolved; None for a loss.
        tile: how its pass is tiled into L1, if it is.
        batch: samples a run; a tile's figures are per sample.
        levels: level of each value that does not live in L2.
    """
    where = levels or {}
    pass_ = pass_name(step.kind, step.target)
    # without an op, a loss has its own kind, and anything else is called after its step's
    kind = info.kind if info is not None else step.op if step.kind == "loss" else step.kind
    if step.kind in ("page_out", "page_in"):
        return _paging(step, dtype, where)
    space, looked_up = None, {}
    if info is not None and step.kind in ("forward", "recompute", "grad_param", "grad_input"):
        space = op_def(info.kind).tile_space(info, pass_)
        if space is None and not macs:
            return Work(kind, pass_, dtype, calls=0)  # views move nothing
        if space is not None:
            looked_up = _looked_up(info, space)
    read = [(a, _bytes(a, looked_up, batch)) for a in step.reads]
    size = sum(n for _, n in read) + sum(map(_bytes, step.writes))
    if not device.has("L1"):
        moved = [Transfer(v, MAIN, n) for a, n in read if (v := _level(a, where)) != MAIN]
        moved += [Transfer(MAIN, v, _bytes(a)) for a in step.writes if (v := _level(a, where)) != MAIN]
        return Work(kind, pass_, dtype, macs, size, 1, tuple(moved))
    if space is not None and tile is not None:
        transfers = _tiled(step, space, tile, batch, where, looked_up)
        return Work(kind, pass_, dtype, macs, size, tile.tiles * batch, transfers, tile.tiles)
    return _once(device, Work(kind, pass_, dtype, macs, size), step, read, where)


def _paging(step: AnyStep, dtype: str, where: Mapping[str, str]) -> Work:
    source, target = (MAIN, PAGED) if step.kind == "page_out" else (PAGED, MAIN)
    from_, to = {_level(a, where) for a in step.reads}, {_level(a, where) for a in step.writes}
    if len(from_) == len(to) == 1 and from_ != to:  # the values themselves tell
        source, target = *from_, *to
    size = max(sum(map(_bytes, step.reads)), sum(map(_bytes, step.writes)))
    return Work(step.kind, step.kind, dtype, calls=0, transfers=(Transfer(source, target, size),))


def _tiled(
    step: AnyStep, space: TileSpace, tile: PlannedTile, batch: int, where: Mapping[str, str],
    looked_up: Mapping[str, int],
) -> tuple[Transfer, ...]:  # fmt: skip
    extents = dict(space.axes)
    trips = [(axis, -(-extents[axis] // size)) for axis, size in tile.sizes if axis in extents]
    # the operand that a parameter's gradient is, whatever its step calls it
    grad = f"d{step.target}"
    fetched = {a.tag: a for a in step.reads}
    made = {grad if a.tag == "dp" else a.tag: a for a in step.writes}
    main, count, found = tile.dma_bytes, 0, []
    for operand in space.operands:
        repeats, tiles = _sweeps(operand, trips)
        arg = (fetched if operand.role == "in" else made).get(operand.tag)
        level, size = (MAIN, 0) if arg is None else (_level(arg, where), _bytes(arg))
        if arg is not None and operand.tag in looked_up:
            size = bytes_of(looked_up[operand.tag], arg.dtype)
        back = repeats - 1 if operand.role == "out" else 0  # an output that is written again is read before
        if level == MAIN:
            count += (repeats + back) * tiles
            continue
        main -= (repeats + back) * size
        if operand.role == "in":
            found.append(Transfer(level, "L1", repeats * size * batch, repeats * tiles * batch))
        else:
            found.append(Transfer("L1", level, repeats * size * batch, repeats * tiles * batch))
            found.append(Transfer(level, "L1", back * size * batch, back * tiles * batch))
    for arg in step.reads:  # what the pass adds to
        if arg.tag in ("acc", "dx"):
            found.append(Transfer(_level(arg, where), "L1", _bytes(arg), 1))
    return (Transfer(MAIN, "L1", max(main, 0) * batch, count * batch, both=True), *(t for t in found if t.bytes))


def _sweeps(operand: Operand, trips: Sequence[tuple[str, int]]) -> tuple[int, int]:
    """How often an operand is swept over, and in how many tiles, given loops from the outermost."""
    used = {d.axis for d in operand.dims}
    repeats = outside = tiles = 1
    for axis, n in trips:
        if axis in used and n > 1:
            repeats, tiles = outside, tiles * n
        elif axis not in used:
            outside *= n
    return repeats, tiles


def _once(
    device: Device, work: Work, step: AnyStep, read: Sequence[tuple[AnyArg, int]], where: Mapping[str, str]
) -> Work:
    """Work that goes through its data once, in tiles that L1 holds."""
    usable = device.level("L1").usable
    room = None if usable is None else max(usable // (2 if device.double_buffer else 1), 1)
    stages = 1 if room is None else max(math.ceil(work.touched / room), 1)
    moved = [Transfer(v, "L1", n, stages) for a, n in read if (v := _level(a, where)) != MAIN]
    moved += [Transfer("L1", v, _bytes(a), stages) for a in step.writes if (v := _level(a, where)) != MAIN]
    near = work.touched - sum(t.bytes for t in moved)
    count = stages * (len(step.reads) + len(step.writes) - len(moved))
    moved.insert(0, Transfer(MAIN, "L1", near, count, both=True))
    return replace(work, calls=stages, transfers=tuple(moved), stages=stages)


def _looked_up(info: OpInfo, space: TileSpace) -> dict[str, int]:
    """Parameters of which a pass reads some entries by number (an embedding's table), and how many a sample."""
    extents = dict(space.axes)
    found = {}
    for o in space.operands:
        if o.tag in info.params and o.role == "in":
            ends = (
                d.full if d.axis is None else min(d.full, (extents[d.axis] - 1) * d.scale + d.window) for d in o.dims
            )
            if (count := math.prod(ends)) != math.prod(info.params[o.tag]):
                found[o.tag] = count
    return found


def _bytes(arg: AnyArg, looked_up: Mapping[str, int] | None = None, batch: int = 1) -> int:
    """Bytes of an argument that a step reads or writes."""
    whole = math.prod(arg.shape)
    return bytes_of(min(whole, (looked_up or {}).get(arg.tag, whole) * batch), arg.dtype)


def _level(arg: AnyArg, where: Mapping[str, str]) -> str:
    return next((where[s.value] for s in arg.spans if s.value in where), MAIN)


def away_from_main(values: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Levels of the (value, level) pairs that are not in L2."""
    return {name: level for name, level in values if level != MAIN}
