"""How recomputation scales: chains, residual networks and U-nets of 100, 300 and 1,000 ops, full update.

    python benchmarks/remat_growth.py [--quick] [--seconds 45] [--fractions 0.7 0.5]

The budget is the bytes that the forward run has fixed (parameters), plus a fraction of what keeping everything takes
beyond. ``added`` and ``bound`` are MACs as per cent of the training step's, ``gap`` the distance of the plan from the
bound in per cent of the step's, ``of added`` the same in per cent of what is added. ``to 1 %``: seconds until the gap
was below 1 % of the step (the first limit of a doubling series that sufficed; the solve is begun anew for each).
Compared with checkpoints (Chen et al., 2016) of every k-th op, the best k that fits; ``none`` where no k does.
``model``: variables and rows of the last program of windows. Seconds are wall-clock on one thread of this machine.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable
from importlib.metadata import version

from _remat_networks import chain, full_update, residual, unet

import sparseplan as sp
from sparseplan.network import Network
from sparseplan.solve.cpsat import Limits
from sparseplan.solve.rematinstance import RematInstance, keep_all, macs_of, peak_of
from sparseplan.solve.rematintervals import checkpoints, solve_intervals
from sparseplan.solve.rematmatrix import RematAnswer
from sparseplan.solve.rematwindows import Windows, gap
from sparseplan.tables import table

FAMILIES: dict[str, Callable[[int], Network]] = {"chain": chain, "residual": residual, "U-net": unet}
HEADER = ("network", "ops", "slots", "budget", "status", "added %", "bound %", "gap %", "of added %", "seconds",
          "to 1 %", "checkpoints %", "model")  # fmt: skip


def budget_at(inst: RematInstance, fraction: float) -> int:
    """Bytes between what the forward run has fixed and what keeping everything takes."""
    base = min(o.fixed for o in inst.ops)
    return int(base + fraction * (keep_all(inst) - base))


def by_checkpoints(inst: RematInstance, budget: int) -> int | None:
    """Fewest added MACs of checkpoints of every k-th op."""
    plans = [checkpoints(inst, k) for k in range(2, 41)]
    return min((macs_of(inst, x) for x in plans if peak_of(inst, x) <= budget), default=None)


def measure(name: str, inst: RematInstance, fraction: float, seconds: float) -> list[object]:
    """One row; the limits double until the gap is below 1 %, and the last answer is shown."""
    budget = budget_at(inst, fraction)
    limit, reached = min(6.0, seconds), "-"
    answer: RematAnswer
    while True:
        began = time.perf_counter()
        answer = solve_intervals(inst, budget, Limits(limit), close=0.005)
        spent = time.perf_counter() - began
        near = answer.status in ("OPTIMAL", "FEASIBLE") and gap(inst, answer.macs, answer.bound) < 0.01
        if near:
            reached = f"{spent:.1f}"
        if near or limit >= seconds or answer.status == "INFEASIBLE":
            break
        limit = min(3 * limit, seconds)
    peer = by_checkpoints(inst, budget)
    w = Windows(inst, [], budget)
    found = answer.status in ("OPTIMAL", "FEASIBLE")
    share = 100 / inst.macs
    return [
        name, len(inst.ops), len(inst.slots), f"{fraction:g}", answer.status,
        f"{answer.macs * share:.2f}" if found else "-", f"{answer.bound * share:.2f}",
        f"{100 * gap(inst, answer.macs, answer.bound):.2f}" if found else "-",
        f"{100 * (answer.macs - answer.bound) / max(answer.macs, 1):.1f}" if found else "-",
        f"{spent:.1f}", reached, f"{peer * share:.2f}" if peer is not None else "none",
        f"{len(w.program.bounds)}+{len(w.program.rows)}",
    ]  # fmt: skip


def main() -> None:
    """Print versions, then a row a case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="100 ops only, 10 seconds")
    parser.add_argument("--seconds", type=float, default=45.0, help="the last limit of a solve")
    parser.add_argument("--fractions", type=float, nargs="+", default=[0.7, 0.5])
    args = parser.parse_args()
    seconds = min(args.seconds, 10.0) if args.quick else args.seconds
    print(f"sparseplan {sp.__version__}, ortools {version('ortools')}, Python {platform.python_version()}, one thread")
    rows = []
    for ops in (100,) if args.quick else (100, 300, 1000):
        for name, make in FAMILIES.items():
            inst = full_update(make(ops))
            for fraction in args.fractions:
                rows.append(measure(name, inst, fraction, seconds))
                print("  ".join(map(str, rows[-1])), flush=True)
    print(table(HEADER, rows, [False, *[True] * 3, False, *[True] * 8]))


if __name__ == "__main__":
    main()
