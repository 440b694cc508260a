"""What to measure for a plan: a CSV of its kernels and transfers, the cycles left empty."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

from sparseplan.costs import PlanCosts, Transfer, Work, price

COLUMNS = (
    "op",
    "pass",
    "dtype",
    "macs",
    "bytes",
    "calls",
    "dma_bytes",
    "transfers",
    "from",
    "to",
    "tiles",
    "cycles",
    "note",
)


def template(costs: PlanCosts, filled: bool = False) -> str:
    """CSV text for ``calibrate``: a line for each distinct kernel of a plan, and one a pair of levels.

    A kernel's figures are those of one run, with the transfers between L2 and L1 that its tile
    makes; where it also fetches parameters from L3 or flash, measure it with them in L2. ``note``
    names a step that it stands for.

    Args:
        filled: write the cycles that the device's rates say, instead of none.

    Raises:
        DeviceError: filled, and a rate is missing.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    seen = set()
    largest: dict[tuple[str, str, bool], int] = {}
    for step in costs.steps:
        w = step.work
        for t in w.transfers:
            key = (t.source, t.target, t.both)
            largest[key] = max(largest.get(key, 0), t.bytes)
        if not w.macs and not w.touched:
            continue
        moved = next((t for t in w.transfers if t.both and t.bytes), None)
        row = (w.op, w.pass_, w.dtype, w.macs or "", "" if w.macs else w.touched, w.calls,
               *(("", "") if moved is None else (moved.bytes, moved.count)), "", "", w.stages)  # fmt: skip
        if row not in seen:
            seen.add(row)
            near = replace(w, transfers=() if moved is None else (moved,))
            writer.writerow((*row, price(costs.device, near).total if filled else "", step.name))
    for (source, target, both), most in largest.items():
        for size in (most, -(-most // 4)) if most else ():  # two sizes tell the start-up from the rate
            alone = Work("dma", "dma", costs.dtype, calls=0, transfers=(Transfer(source, target, size, 1, both),))
            writer.writerow(
                ("dma", "", "", "", "", "", size, 1, *(("", "") if both else (source, target)), "",
                 price(costs.device, alone).total if filled else "", f"{source} to {target}")
            )  # fmt: skip
    return out.getvalue()
