"""What uPyD-Net takes on GAP9 where forward ops may run again: bytes and MACs planned, proven, verified, executed.

Compares with: the bytes (and at most so many more MACs) that were asked for, by an independent sketch of the same
question. A way to plan is a function of a case in ``WAYS``: another one is another group of columns. Cases are run one
at a time, on one thread. ``python benchmarks/savings.py [WORDS OF A CASE]``.
"""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import ortools

import sparseplan as sp
from sparseplan.plan import Plan
from sparseplan.run import run
from sparseplan.tables import table
from sparseplan.units import parse_bytes
from sparseplan.verify import verify

BLOCK = ("decoder0.*", "ups0.*")


@dataclass(frozen=True)
class Case:
    """What has to be updated, and what was asked for.

    Attributes:
        l2: budget, which is what was asked for.
        share: MACs added at most, as a share of the step's; None: nothing was said of them.
        options: of ``sparseplan.plan``.
    """

    name: str
    update: tuple[str, ...]
    l2: str
    share: float | None
    options: Mapping[str, Any] = field(default_factory=dict)

    def asked(self) -> str:
        """Bytes and MACs in a few characters."""
        return self.l2 if self.share is None else f"{self.l2} / {self.share:.0%}"


CASES = (
    Case("all parameters, fused", ("*",), "0.63MB", 0.15),
    Case("all parameters, accumulated", ("*",), "0.85MB", 0.30, {"gradients": "accumulate"}),
    Case("decoder 0 and its upsampler, fused", BLOCK, "0.58MB", None),
    Case("decoder 0 and its upsampler, frozen in flash", BLOCK, "0.43MB", None, {"frozen": "flash"}),
)


def recomputed(case: Case) -> Plan:
    """Forward ops may run again, and nothing else."""
    return sp.plan(
        sp.zoo.upydnet(), "gap9", l2=case.l2, must=case.update, may=case.update, savings="recompute",
        time_limit=600.0, **case.options,
    )  # fmt: skip


#: a group of columns each
WAYS: Mapping[str, Callable[[Case], Plan]] = {"recompute": recomputed}
COLUMNS = ("bytes", "added MACs", "status", "MACs proven", "sound", "seconds")


def cells(case: Case, way: Callable[[Case], Plan]) -> list[object]:
    """One plan in a few cells; a case that fails is recorded in them."""
    began = time.perf_counter()
    try:
        plan = way(case)
    except Exception as error:
        return [type(error).__name__, "", "", "", "", f"{time.perf_counter() - began:.1f}"]
    seconds = f"{time.perf_counter() - began:.1f}"
    if not plan.feasible:
        return ["none", "", plan.status, "", "", seconds]
    share = added_macs(plan) / (plan.macs["forward"] + plan.macs["backward"])
    within = plan.peak_bytes["L2"] <= parse_bytes(case.l2) and (case.share is None or share <= case.share)
    return [plan.peak_bytes["L2"], f"{added_macs(plan):,} ({share:.1%})", plan.status,
            "yes" if plan.ties.get("macs") == "OPTIMAL" else "no", sound(plan) if within else "NOT AS ASKED",
            seconds]  # fmt: skip


def added_macs(plan: Plan) -> int:
    """MACs of what runs again."""
    return plan.macs.get("recompute", 0)


def sound(plan: Plan) -> str:
    """Whether the verifier is silent, and the arena gives the reference's bits in just the bytes that are claimed."""
    if found := verify(plan.problem, plan):
        return f"REFUSED: {found[0].kind}"
    done = run(plan)
    good = done.bitwise_equal and done.guard_intact and done.touched_bytes == done.claimed_bytes
    return "yes" if good else "NOT EXECUTED AS PLANNED"


def main() -> None:
    words = [w.lower() for w in sys.argv[1:]]
    print(f"sparseplan {sp.__version__}, ortools {ortools.__version__}, Python {platform.python_version()}")
    print("uPyD-Net on GAP9, bf16, batch 1, SGD; added MACs as a share of the step's forward and backward MACs;")
    print("sound: verified, executed with the reference's bits, bytes claimed = bytes touched\n")
    header = ["updated", "asked", *(f"{way}: {c}" if i == 0 else c for way in WAYS for i, c in enumerate(COLUMNS))]
    rows: list[list[object]] = []
    for case in CASES:
        if all(w in case.name for w in words):
            rows.append([case.name, case.asked(), *(x for way in WAYS.values() for x in cells(case, way))])
            print(f"done: {case.name}", file=sys.stderr, flush=True)
    right = [False, True, *(c in ("bytes", "added MACs", "seconds") for _ in WAYS for c in COLUMNS)]
    print(table(header, rows, right))


if __name__ == "__main__":
    main()
