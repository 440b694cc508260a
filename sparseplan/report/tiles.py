"""How the passes of a plan are tiled into L1: sizes, bytes, traffic, and what hides behind computing."""

from __future__ import annotations

from typing import Any

from sparseplan.costs import StepCost, pass_name, plan_costs
from sparseplan.ops import infos, op_def
from sparseplan.plan import Plan
from sparseplan.tables import table
from sparseplan.units import format_bytes


def tile_rows(plan: Plan) -> list[dict[str, Any]]:
    """A row a pass that is tiled, in order of the schedule; empty without L1, or without a plan.

    ``sizes``: axis to (extent of a tile, extent of the axis), outermost loop first. ``l1_bytes``: of
    all buffers. ``dma_bytes``: between L1 and the levels behind it, both ways, of one run of the
    schedule. ``dma_hidden``: share of the cycles of transfers that pass behind computing; None where
    a rate is not known (or nothing is moved).
    """
    if not plan.feasible:
        return []
    network = infos(plan.network)
    costs: dict[tuple[str, str], StepCost] = {}
    for step, cost in zip(plan.steps, plan_costs(plan).steps, strict=True):
        costs.setdefault((step.op, pass_name(step.kind, step.target)), cost)
    rows = []
    for t in plan.tiles:
        taken = costs.get((t.op, t.pass_))
        space = op_def(network[t.op].kind).tile_space(network[t.op], t.pass_) if t.op in network else None
        extents = dict(space.axes) if space is not None else {}
        rows.append(
            {
                "op": t.op,
                "pass": t.pass_,
                "sizes": {axis: (size, extents.get(axis, size)) for axis, size in t.sizes},
                "tiles": t.tiles,
                "l1_bytes": t.l1_bytes,
                "dma_bytes": t.dma_bytes * plan.problem.options.batch,
                "dma_hidden": None if taken is None or taken.cycles is None else taken.cycles.hidden,
            }
        )
    return rows


def tile_text(plan: Plan) -> str:
    """``tile_rows`` as a table with totals; a pass that cannot fit is named."""
    device = plan.problem.device
    if not device.has("L1"):
        return f"device {device.name} has no L1: kernels work in L2, and nothing is tiled"
    usable = device.level("L1").usable
    if plan.reason is not None and plan.reason.level == "L1":
        return f"{plan.reason.step} fits no tile: {plan.reason.message}"
    if not plan.feasible:
        return f"status {plan.status}: no schedule, so no tiles"
    if usable is None:
        return f"device {device.name} has an L1 of unknown size, so nothing is tiled; give --l1, such as 128KiB"
    rows = tile_rows(plan)
    body: list[list[object]] = [
        [r["op"], r["pass"], _sizes(r["sizes"]), r["tiles"], r["l1_bytes"], f"{r['l1_bytes'] / max(usable, 1):.0%}",
         r["dma_bytes"], _share(r["dma_hidden"])] for r in rows
    ]  # fmt: skip
    body.append(["total", "", "", sum(r["tiles"] for r in rows), max((r["l1_bytes"] for r in rows), default=0), "",
                 sum(r["dma_bytes"] for r in rows), _share(plan_costs(plan).hidden)])  # fmt: skip
    header = ("op", "pass", "cut (outermost first)", "tiles", "L1 B", "of L1", "DMA B", "hidden")
    note = (
        f"L1 of {format_bytes(usable)}, {'two buffers' if device.double_buffer else 'one buffer'} of each tile that "
        "changes; tiles per sample, DMA of one run, both ways; every pass fits\n"
        "hidden: share of the transfers' cycles that pass behind computing (none with one tile); total: of all steps, "
        "those that are no pass included"
    )
    return table(header, body, [False] * 3 + [True] * 5) + "\n" + note


def _sizes(sizes: dict[str, tuple[int, int]]) -> str:
    return " ".join(f"{axis} {size}/{extent}" for axis, (size, extent) in sizes.items() if size < extent) or "whole"


def _share(hidden: float | None) -> str:
    return "unknown" if hidden is None else f"{hidden:.0%}"
