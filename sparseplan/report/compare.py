"""Plans side by side: status, value, bytes, MACs, time, and what was done to hold less."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sparseplan.costs import plan_costs
from sparseplan.plan import Plan
from sparseplan.report.savings import saving_rows
from sparseplan.report.time import duration
from sparseplan.tables import table

#: MACs by phase
_PHASES = ("forward", "backward", "recompute")


def compare_rows(plans: Mapping[str, Plan]) -> list[dict[str, Any]]:
    """A row a plan, by name, as plain data.

    ``bytes``: of the arena of each level. ``macs``: of each phase of one run of the schedule. ``seconds``: of one run
    by the device's tables; None where they do not tell, or there is no plan. ``recomputes``, ``pages``: ops run again
    and tensors paged out; ``traffic_bytes``: that pages and streamed values move.
    """
    return [_row(name, plan) for name, plan in plans.items()]


def _row(name: str, plan: Plan) -> dict[str, Any]:
    there = plan.feasible
    saved = saving_rows(plan)
    return {
        "plan": name,
        "network": plan.problem.network.name,
        "device": plan.problem.device.name,
        "status": plan.status,
        "value": plan.objective if there else None,
        "updated": len(plan.update) if there else None,
        "bytes": dict(plan.peak_bytes),
        "budget_bytes": {v.name: plan.problem.capacity(v.name) for v in plan.problem.device.levels},
        "macs": {phase: plan.macs.get(phase, 0) for phase in _PHASES} if there else {},
        "seconds": plan_costs(plan).seconds if there else None,
        "recomputes": len(saved["recomputed"]),
        "pages": len(saved["paged"]),
        "packed": len(saved["packed"]),
        "traffic_bytes": saved["traffic_bytes"],
    }


def compare_text(plans: Mapping[str, Plan]) -> str:
    """``compare_rows`` as a table with a column a plan; what is the same for no plan of them is left out."""
    rows = compare_rows(plans)
    lines: list[list[object]] = []

    def line(name: str, cells: list[object], always: bool = True) -> None:
        if always or any(c not in (0, "", "-") for c in cells):
            lines.append([name, *(f"{c:,}" if isinstance(c, int) else c for c in cells)])

    line("network", [r["network"] for r in rows])
    line("device", [r["device"] for r in rows])
    line("status", [r["status"] for r in rows])
    line("value", ["-" if r["value"] is None else f"{r['value']:,.6g}" for r in rows])
    line("tensors updated", ["-" if r["updated"] is None else r["updated"] for r in rows])
    for level in ("L1", "L2", "L3", "flash"):
        line(f"{level} B", [r["bytes"].get(level, "-") for r in rows], always=level == "L2")
        budgets = [r["budget_bytes"].get(level) for r in rows]
        line(f"{level} budget B", ["-" if b is None else b for b in budgets], always=level == "L2")
    for phase, name in zip(_PHASES, ("forward", "backward", "recomputed"), strict=True):
        line(f"MACs {name}", [r["macs"].get(phase, "-") for r in rows], always=phase != "recompute")
    line("time a run", [_time(r) for r in rows])
    line("ops run again", [r["recomputes"] for r in rows], always=False)
    line("tensors paged", [r["pages"] for r in rows], always=False)
    line("tensors in 8 bits", [r["packed"] for r in rows], always=False)
    line("paged and streamed B", [r["traffic_bytes"] for r in rows], always=False)
    return table(("", *plans), lines, [False, *(True for _ in plans)])


def _time(row: Mapping[str, Any]) -> str:
    if row["value"] is None:
        return "-"
    return "unknown" if row["seconds"] is None else duration(row["seconds"])
