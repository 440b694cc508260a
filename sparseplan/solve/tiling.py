"""Tiles of all passes of a training graph, and the passes that no tile fits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sparseplan.device import Device
from sparseplan.ops import OpInfo, infos, op_def
from sparseplan.plan import Plan, PlannedTile
from sparseplan.solve.tile import Tile, best_tile, smallest_tile_bytes
from sparseplan.steps import Schedule, Step
from sparseplan.training import MaybeStep, TrainingGraph, any_of, holds

Pass = tuple[str, str]  # op name, pass


def pass_of(step: MaybeStep | Step) -> Pass | None:
    """The (op, pass) that a step runs; None where a step is no pass of an op.

    Loss, auxiliaries and updates go through their data once, element by element, in tiles of any
    size: they fit whatever fits the passes around them.
    """
    if step.kind == "forward":
        return step.op, "forward"
    if step.kind in ("grad_param", "grad_input"):
        return step.op, step.target
    return None


@dataclass(frozen=True)
class Unfit:
    """A pass that no tile fits: the condition under which it would run, and what it would take."""

    step: str
    when: int
    fewest: int
    available: int
    operands: tuple[tuple[str, int], ...]


class Tiling:
    """The best tile of every pass that may run, found once for each distinct shape.

    A parameter or an input that is updated in part is tiled as the whole: an upper bound on the
    traffic of that pass.
    """

    def __init__(self, device: Device, graph: TrainingGraph, look: Callable[[], None] | None = None) -> None:
        """``look``: called again and again; what it raises ends the work, as where time is up."""
        self._tiles: dict[Pass, PlannedTile] = {}
        self.missing: list[Unfit] = []
        self._fewest: list[tuple[int, int]] = []
        if not device.has("L1") or device.level("L1").usable is None:
            return
        level = device.level("L1")
        capacity = level.usable or 0
        known: dict[object, Tile | None] = {}
        conditions: dict[Pass, int] = {}
        names: dict[Pass, str] = {}
        for step in graph.steps:
            key = pass_of(step)
            if key is not None:
                conditions[key] = any_of(conditions.get(key, 0), step.when)
                names.setdefault(key, step.name)
        for (op, pass_), when in conditions.items():
            if look is not None:
                look()
            info: OpInfo = graph.infos[op]
            space = op_def(info.kind).tile_space(info, pass_)
            if space is None:
                continue
            if space not in known:
                known[space] = best_tile(space, graph.options.dtype, capacity, device.double_buffer, level.alignment,
                                         look=look)  # fmt: skip
            tile = known[space]
            if tile is not None:
                self._tiles[op, pass_] = _planned(op, pass_, tile)
                continue
            fewest = smallest_tile_bytes(space, graph.options.dtype, device.double_buffer, level.alignment)
            self._fewest.append((when, fewest + level.reserved))
            tags = tuple((o.tag, 0) for o in space.operands)
            least = best_tile(space, graph.options.dtype, fewest, device.double_buffer, level.alignment,
                              look=look)  # fmt: skip
            if least is not None:
                tags = tuple((o.tag, o.bytes * o.buffers) for o in least.operands)
            self.missing.append(Unfit(names[op, pass_], when, fewest, capacity, tags))

    def tile(self, op: str, pass_: str) -> PlannedTile | None:
        """How a pass is tiled; None where it is not."""
        return self._tiles.get((op, pass_))

    def forbidden(self) -> list[tuple[int, str]]:
        """Conditions that must not come true, with the step that forbids them."""
        return [(u.when, u.step) for u in self.missing]

    def fewest_for(self, chosen: int) -> int | None:
        """The L1 with which every pass that has to run finds a tile."""
        return max((n for when, n in self._fewest if holds(when, chosen)), default=None)

    def tiles(self, schedule: Schedule) -> tuple[PlannedTile, ...]:
        """Tiles of the passes of a schedule, each once, in order."""
        found: Mapping[Pass, PlannedTile | None] = {
            key: self._tiles.get(key) for step in schedule.steps if (key := pass_of(step)) is not None
        }
        return tuple(t for t in found.values() if t is not None)


def _planned(op: str, pass_: str, tile: Tile) -> PlannedTile:
    sizes = dict(tile.sizes)
    return PlannedTile(
        op, pass_, tuple((axis, sizes[axis]) for axis in tile.order),
        tuple((o.tag, o.bytes, o.buffers) for o in tile.operands),
        tile.l1_bytes, tile.dma_bytes, tile.tiles,
    )  # fmt: skip


def least_l1(plan: Plan) -> int:
    """Bytes of L1, with what is reserved, in which every pass of a plan finds some tile; 0 without L1."""
    device, options = plan.problem.device, plan.problem.options
    if not device.has("L1"):
        return 0
    level, table = device.level("L1"), infos(plan.network)
    least = 0
    for op, pass_ in dict.fromkeys(key for step in plan.steps if (key := pass_of(step)) is not None):
        space = op_def(table[op].kind).tile_space(table[op], pass_)
        if space is not None:
            least = max(least, smallest_tile_bytes(space, options.dtype, device.double_buffer, level.alignment))
    return least + level.reserved
