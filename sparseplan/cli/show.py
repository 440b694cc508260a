"""Commands that show what there is: networks, devices, costs of ops."""

from __future__ import annotations

import argparse

from sparseplan import report, zoo
from sparseplan.cli.common import origin_of, show
from sparseplan.device import load_device, presets
from sparseplan.inspection import inspect_rows
from sparseplan.rates import tables_to_data
from sparseplan.tables import table


def networks(args: argparse.Namespace) -> int:
    """The networks of the zoo."""
    rows = []
    for name in sorted(zoo.NETWORKS):
        net = zoo.get(name)
        costs = inspect_rows(net)
        rows.append(
            {"network": name, "ops": len(net.ops), "parameters": sum(r["parameters"] for r in costs),
             "macs_forward": sum(r["macs_forward"] for r in costs),
             "input": [list(net.tensor[t].shape) for t in net.inputs]}
        )  # fmt: skip
    body = [[r["network"], r["ops"], r["parameters"], r["macs_forward"],
             " ".join("×".join(map(str, s)) for s in r["input"])] for r in rows]  # fmt: skip
    show(args, rows, table(("network", "ops", "parameters", "MACs forward", "input"), body))
    return 0


def devices(args: argparse.Namespace) -> int:
    """The device presets."""
    rows, body = [], []
    for name in presets():
        device = load_device(name)
        levels = {v.name: v.bytes for v in device.levels}
        rows.append({"device": name, "title": device.title, "levels": levels,
                     "reserved": {v.name: v.reserved for v in device.levels},
                     "alignment": device.level("L2").alignment, "sources": list(device.sources),
                     "rates": tables_to_data(device.rows()), "notes": device.notes})  # fmt: skip
        body.append([name, device.title, *(_size(levels, v) for v in ("L1", "L2", "L3", "flash"))])
    note = "Bytes; '?' is not known, '-' is not there. `sparseplan devices --json` adds sources, rates and notes."
    show(
        args, rows, table(("device", "title", "L1", "L2", "L3", "flash"), body, [False] * 2 + [True] * 4) + "\n" + note
    )
    return 0


def _size(levels: dict[str, int | None], name: str) -> str:
    if name not in levels:
        return "-"
    size = levels[name]
    return "?" if size is None else f"{size:,}"


def inspect(args: argparse.Namespace) -> int:
    """Costs of a network's ops."""
    net = origin_of(args).network
    show(args, inspect_rows(net, args.dtype, args.batch) if args.json else None,
           "" if args.json else report.inspect_text(net, args.dtype, args.batch))  # fmt: skip
    return 0
