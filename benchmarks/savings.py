"""What uPyD-Net takes on GAP9 where ops may run again, and where stripes may be too: planned, verified, executed.

Compares with: the bytes (and at most so many more MACs) that were asked for, by an independent sketch of the same
question and, for stripes, by a count by hand. Cases are run one at a time, on one thread.
``python benchmarks/savings.py [WORDS OF A ROW]``.
"""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import ortools

import sparseplan as sp
from sparseplan.autodiff import differentiate
from sparseplan.plan import Plan
from sparseplan.run import run
from sparseplan.steps import UpdateSet
from sparseplan.tables import table
from sparseplan.units import parse_bytes
from sparseplan.verify import verify

BLOCK = ("decoder0.*", "ups0.*")


@dataclass(frozen=True)
class Case:
    """What has to be updated, what may be done, and what was asked for.

    Attributes:
        l2: budget, which is what was asked for.
        share: MACs added at most, as a share of the step's; None: nothing was said of them.
        options: of ``sparseplan.plan``.
    """

    name: str
    savings: tuple[str, ...]
    update: tuple[str, ...]
    l2: str
    share: float | None
    options: Mapping[str, Any] = field(default_factory=dict)

    def asked(self) -> str:
        """Bytes and MACs in a few characters."""
        return self.l2 if self.share is None else f"{self.l2} / {self.share:.0%}"

    def plan(self) -> Plan:
        """The best plan."""
        return sp.plan(
            sp.zoo.upydnet(), "gap9", l2=self.l2, must=self.update, may=self.update, savings=self.savings,
            time_limit=600.0, **self.options,
        )  # fmt: skip


AGAIN, STRIPED = ("recompute",), ("recompute", "stripes")
ACCUMULATED, FLASH = {"gradients": "accumulate"}, {"frozen": "flash"}
CASES = (
    Case("all parameters, fused", AGAIN, ("*",), "0.63MB", 0.15),
    Case("all parameters, accumulated", AGAIN, ("*",), "0.85MB", 0.30, ACCUMULATED),
    Case("decoder 0 and its upsampler, fused", AGAIN, BLOCK, "0.58MB", None),
    Case("decoder 0 and its upsampler, frozen in flash", AGAIN, BLOCK, "0.43MB", None, FLASH),
    Case("all parameters, fused", STRIPED, ("*",), "0.46MB", None),
    Case("all parameters, accumulated", STRIPED, ("*",), "0.68MB", None, ACCUMULATED),
    Case("decoder 0 and its upsampler, fused", STRIPED, BLOCK, "0.40MB", None),
    Case("decoder 0 and its upsampler, frozen in flash", STRIPED, BLOCK, "0.22MB", None, FLASH),
)
COLUMNS = ("bytes", "MACs added", "share", "status", "MACs proven", "sound", "seconds")


def cells(case: Case) -> list[object]:
    """One plan in a few cells; a case that fails is recorded in them."""
    began = time.perf_counter()
    try:
        plan = case.plan()
    except Exception as error:
        return [type(error).__name__, "", "", "", "", "", f"{time.perf_counter() - began:.1f}"]
    seconds = f"{time.perf_counter() - began:.1f}"
    if not plan.feasible:
        return ["none", "", "", plan.status, "", "", seconds]
    base = macs_held(plan)
    added = sum(plan.macs.values()) - base
    within = plan.peak_bytes["L2"] <= parse_bytes(case.l2) and (case.share is None or added <= case.share * base)
    return [plan.peak_bytes["L2"], added, f"{added / base:.1%}", plan.status,
            "yes" if plan.ties.get("macs") == "OPTIMAL" else "no", sound(plan) if within else "NOT AS ASKED",
            seconds]  # fmt: skip


def macs_held(plan: Plan) -> int:
    """MACs of the same update without stripes, where everything is held."""
    problem = plan.problem
    schedule = differentiate(problem.network, UpdateSet(plan.update), problem.options)
    return sum(schedule.macs.values())


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
    print("uPyD-Net on GAP9, bf16, batch 1, SGD; MACs added to those of the step with everything held;")
    print("sound: verified, executed with the reference's bits, bytes claimed = bytes touched\n")
    rows: list[list[object]] = []
    for case in CASES:
        row = [case.name, "+".join(case.savings), case.asked()]
        if all(w in " ".join(row).lower() for w in words):
            rows.append([*row, *cells(case)])
            print(f"done: {row[0]}, {row[1]}", file=sys.stderr, flush=True)
    right = [False, False, True, *(c in ("bytes", "MACs added", "share", "seconds") for c in COLUMNS)]
    print(table(("updated", "savings", "asked", *COLUMNS), rows, right))


if __name__ == "__main__":
    main()
