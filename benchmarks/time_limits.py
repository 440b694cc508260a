"""Whether time limits hold: chains, residual nets and U-nets of 100, 300 and 1,000 ops, and all networks of the zoo.

    python benchmarks/time_limits.py [--limits 5 30] [--only chain] [--savings recompute all] [--cpu]

Each case is planned in a process of its own: on plain budgets with recompute, on GAP9 (with its L1, L3 and flash)
with all savings. The budget is half-way between the persistent bytes with the largest step and what a full update
takes without savings. ``seconds`` are wall-clock of the call, ``silence`` the longest time without progress,
``MiB`` the peak of the process, ``gap`` of the value from its bound in per cent. A limit of T seconds is to end within
1.1 T + 2 seconds, with a plan, and without a silence of more than two; 300 ops take less than 1 GiB, 1,000 less than 2.
Judge on an idle machine, or with ``--cpu`` by CPU seconds, which are the clock then. Exits with 1 if a rule is broken.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise, product

from _remat_networks import chain, residual, unet

import sparseplan as sp
from sparseplan.autodiff import differentiate
from sparseplan.liveness import analyse
from sparseplan.network import Network
from sparseplan.solve import clock
from sparseplan.steps import UpdateSet
from sparseplan.tables import table
from sparseplan.zoo import NETWORKS, get

FAMILIES: dict[str, Callable[[int], Network]] = {"chain": chain, "residual": residual, "unet": unet}
SIZES = (100, 300, 1000)
CASES = [f"{family} {size}" for family in FAMILIES for size in SIZES] + list(NETWORKS)
SAVINGS = {"recompute": ("recompute",), "all": ("recompute", "page", "stream", "int8", "stripes", "order")}
HEADER = ("network", "ops", "savings", "limit", "seconds", "silence", "MiB", "status", "gap %", "broken")


def network_of(case: str) -> Network:
    family, _, size = case.partition(" ")
    return FAMILIES[family](int(size)) if size else get(case)


def budget_of(network: Network, **options: str) -> int:
    """Half-way between what cannot be saved and what a full update takes."""
    asked = sp.problem(network, **options)  # type: ignore[arg-type]
    full = UpdateSet({p: r[-1] for p, r in asked.choices.items()})
    schedule = differentiate(network, full, asked.options)
    fixed = sum(v.bytes for v in schedule.values.values() if v.persistent)
    args = [[s for a in (*step.reads, *step.writes) for s in a.spans] for step in schedule.steps]
    step = max(sum(s.hi - s.lo for s in spans if not schedule.values[s.value].persistent) for spans in args)
    least, most = fixed + step, analyse(schedule).peak()
    return (least + most) // 2 if least < most else most


def measure(case: str, savings: str, limit: float, cpu: bool) -> dict[str, object]:
    """One case, in this process."""
    now = time.process_time if cpu else time.perf_counter
    clock.now = now
    network = network_of(case)
    vector = len(network.tensor[network.outputs[0]].shape) == 1
    loss = "cross_entropy" if vector else "l1"
    device = "gap9" if savings == "all" else None
    l2 = budget_of(network, loss=loss)
    asked = sp.problem(network, device, l2=l2, loss=loss, savings=SAVINGS[savings])
    told = [now()]
    began = told[0]
    plan = sp.plan(asked, time_limit=limit, progress=lambda _: told.append(now()))
    told.append(now())
    gap = 100 * (plan.bound - plan.objective) / max(abs(plan.bound), 1e-9) if plan.feasible else None
    return {
        "ops": len(network.ops), "seconds": told[-1] - began, "silence": max(b - a for a, b in pairwise(told)),
        "mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "status": plan.status, "gap": gap,
    }  # fmt: skip


def broken(limit: float, found: dict[str, object]) -> str:
    """Which rules a case breaks."""
    ops, most = int(str(found["ops"])), 1.1 * limit + 2
    rules = {
        "time": float(str(found["seconds"])) > most,
        "silent": float(str(found["silence"])) > 2,
        "memory": float(str(found["mib"])) > (1024 if ops < 400 else 2048),
        "no plan": found["status"] not in ("OPTIMAL", "FEASIBLE"),
    }
    return ", ".join(name for name, breaks in rules.items() if breaks)


def child(case: str, savings: str, limit: float, cpu: bool) -> dict[str, object]:
    """One case, in a process of its own, which is ended where it goes on far beyond its limit."""
    command = [sys.executable, __file__, "--case", case, savings, str(limit), *(["--cpu"] if cpu else [])]
    most = (5 * limit + 60) * (10 if cpu else 1)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=most, check=False)
    except subprocess.TimeoutExpired:
        return {"ops": len(network_of(case).ops), "seconds": most, "silence": 0, "mib": 0, "status": "KILLED",
                "gap": None}  # fmt: skip
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        return {"ops": 0, "seconds": 0, "silence": 0, "mib": 0, "status": "ERROR", "gap": None}
    found: dict[str, object] = json.loads(done.stdout)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limits", type=float, nargs="+", default=[5.0, 30.0])
    parser.add_argument("--savings", nargs="+", choices=SAVINGS, default=list(SAVINGS))
    parser.add_argument("--only", nargs="+", default=[""], help="parts of the cases' names")
    parser.add_argument("--cpu", action="store_true", help="judge by CPU seconds")
    parser.add_argument("--case", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        print(json.dumps(measure(args.case[0], args.case[1], float(args.case[2]), args.cpu)))
        return 0
    cases = [c for c in CASES if any(part in c for part in args.only)]
    rows, breaches = [], 0
    for case, savings, limit in product(cases, args.savings, args.limits):
        found = child(case, savings, limit, args.cpu)
        wrong = broken(limit, found)
        breaches += bool(wrong)
        gap = "-" if found["gap"] is None else f"{found['gap']:.2f}"
        row = (case, found["ops"], savings, f"{limit:g}", f"{found['seconds']:.1f}", f"{found['silence']:.1f}",
               f"{found['mib']:.0f}", found["status"], gap, wrong or "-")  # fmt: skip
        rows.append(tuple(map(str, row)))
        print("  ".join(map(str, row)), file=sys.stderr, flush=True)
    print(table(HEADER, rows))
    print(f"{len(rows)} cases, {breaches} break a rule")
    return 1 if breaches else 0


if __name__ == "__main__":
    sys.exit(main())
