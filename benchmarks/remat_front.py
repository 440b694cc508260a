"""Bytes against extra MACs of uPyD-Net's full update (bf16, one sample, fused): the exact front, and what people do.

    python benchmarks/remat_front.py [--out out] [--seconds 20] [--total 420] [--step 2048] [--csv FILE --png FILE]

The front is walked from keeping everything downwards: fewest MACs within a budget, then the budget is ``--step`` bytes
below that plan's peak (1: no point is missed), until no plan exists. A budget whose optimum was not proven within
``--seconds`` is marked FEASIBLE with its bound. Compared, all counted alike to the byte: keeping everything;
checkpoints of every k-th op (Chen et al., 2016), with k = sqrt(n) marked; the best sets of checkpoints, all 2**16 of
them enumerated (a layer and its activation are one unit, kept or run again once, at its first reader).
"""

from __future__ import annotations

import argparse
import csv
import math
import platform
import time
from importlib.metadata import version
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from _remat_networks import upydnet

import sparseplan as sp
from sparseplan.solve.cpsat import Limits
from sparseplan.solve.rematinstance import RematInstance, keep_all, macs_of, peak_of
from sparseplan.solve.rematintervals import checkpoints, solve_intervals
from sparseplan.solve.rematmatrix import least_peak
from sparseplan.solve.rematwindows import dropped

#: (kind, peak, added MACs, lower bound on them, status, reruns)
Point = tuple[str, int, int, int, str, int]


def walk(inst: RematInstance, seconds: float, total: float, step: int) -> list[Point]:
    """The front from keeping everything to the fewest bytes, or until the time is over."""
    points: list[Point] = [("front", keep_all(inst), 0, 0, "OPTIMAL", 0)]
    floor = least_peak(inst, None, Limits(60.0, work=60.0)).peak
    began = time.perf_counter()
    budget = points[0][1] - 1
    while time.perf_counter() - began < total:
        answer = solve_intervals(inst, budget, Limits(seconds))
        if answer.status not in ("OPTIMAL", "FEASIBLE"):
            print(f"at {budget:,} B: {answer.status}")
            return points
        if answer.macs <= points[-1][2]:  # fewer bytes for the same MACs
            points.pop()
        row = ("front", answer.peak, answer.macs, answer.bound, answer.status, len(answer.reruns))
        points.append(row)
        # the lowest peak that any plan has is found too: near the end every byte is asked for
        budget = answer.peak - (step if answer.peak - step > floor else 1)
    print(f"walk cut after {total:.0f} s at {points[-1][1]:,} B")
    return points


def units(inst: RematInstance) -> list[list[int]]:
    """Ops grouped: a layer with the activation that follows it."""
    found: list[list[int]] = []
    for o, op in enumerate(inst.ops):
        if found and (".act" in op.name or op.name == "disparity"):
            found[-1].append(o)
        else:
            found.append([o])
    return found


def segments(inst: RematInstance) -> list[Point]:
    """The front of all sets of checkpoints; the last unit is never worth running again."""
    choices = units(inst)[:-1]
    costs = [sum(inst.ops[o].cost for o in u) for u in choices]
    best: list[tuple[int, int, int]] = []
    lowest = math.inf
    order = sorted(range(2 ** len(choices)), key=lambda m: (sum(c for i, c in enumerate(costs) if m >> i & 1), m))
    for mask in order:  # by MACs, so a plan is on the front if its peak is a new low
        plan = dropped(inst, [o for i, u in enumerate(choices) if mask >> i & 1 for o in u])
        peak = peak_of(inst, plan)
        if peak < lowest:
            lowest = peak
            best.append((peak, macs_of(inst, plan), len(plan)))
    best = [b for b in best if not any(o[0] <= b[0] and o[1] < b[1] for o in best)]
    return [("segment-wise", p, m, m, "ENUMERATED", n) for p, m, n in best]


def chen(inst: RematInstance) -> list[Point]:
    """Checkpoints of every k-th op."""
    rows: list[Point] = []
    root = math.isqrt(len(inst.ops))
    for k in range(2, len(inst.ops) + 1):
        plan = checkpoints(inst, k)
        kind = "checkpoints sqrt(n)" if k == root else "checkpoints every k-th"
        rows.append((kind, peak_of(inst, plan), macs_of(inst, plan), 0, f"k={k}", len(plan)))
    return rows


def draw(inst: RematInstance, rows: list[Point], path: Path) -> None:
    """Staircases of fronts, marks of the others."""
    figure, ax = plt.subplots(figsize=(8.4, 5.0), layout="constrained")

    def of(kind: str) -> tuple[list[float], list[float]]:
        chosen = sorted((p, m) for k, p, m, *_ in rows if k == kind)
        return [p / 1e3 for p, _ in chosen], [100 * m / inst.macs for _, m in chosen]

    x, y = of("front")
    ax.step(x, y, where="post", color="#0072B2", lw=2.2, label="front, proven optimal", zorder=4)
    unproven = [
        (p / 1e3, 100 * m / inst.macs) for k, p, m, _, status, _ in rows if k == "front" and status != "OPTIMAL"
    ]
    if unproven:
        x, y = [p for p, _ in unproven], [m for _, m in unproven]
        ax.plot(x, y, "o", mfc="white", color="#0072B2", ms=5, label="not proven in time", zorder=4)
    x, y = of("segment-wise")
    ax.step(x, y, where="post", color="#E69F00", lw=1.8, label="best sets of checkpoints (all enumerated)", zorder=3)
    x, y = of("checkpoints every k-th")
    ax.plot(x, y, "^", color="#999999", ms=6, label="every k-th op a checkpoint", zorder=2)
    x, y = of("checkpoints sqrt(n)")
    ax.plot(x, y, "D", color="#D55E00", ms=8, label="checkpoints, k = √n (Chen et al., 2016)", zorder=5)
    everything = keep_all(inst) / 1e3
    ax.plot([everything], [0], "o", color="black", ms=8, clip_on=False, zorder=6, label="keep everything")
    ax.annotate(f"{keep_all(inst):,} B", (everything, 0), (0, 10), textcoords="offset points", ha="right")
    lowest = min((p, m) for k, p, m, *_ in rows if k == "front")
    where = (lowest[0] / 1e3, 100 * lowest[1] / inst.macs)
    ax.annotate(f"{lowest[0]:,} B\n+{where[1]:.1f} %", where, (6, 6), textcoords="offset points")
    ax.set_xlabel("peak of main memory (kB)")
    ax.set_ylabel("extra MACs (% of a training step)")
    ax.set_title("uPyD-Net, all parameters updated, fused, bf16: recomputation")
    ax.set_ylim(0, 50)
    ax.grid(alpha=0.25)
    ax.legend(loc="upper left", framealpha=0.9)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Walk, compare, write CSV and PNG."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder of the files")
    parser.add_argument("--csv", type=Path, default=None)
    parser.add_argument("--png", type=Path, default=None)
    parser.add_argument("--seconds", type=float, default=20.0, help="limit of each budget")
    parser.add_argument("--step", type=int, default=2048, help="bytes by which the budget falls; 1 finds every point")
    parser.add_argument("--total", type=float, default=420.0, help="limit of the walk")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    print(f"sparseplan {sp.__version__}, ortools {version('ortools')}, Python {platform.python_version()}, one thread")
    inst = upydnet()
    began = time.perf_counter()
    front = walk(inst, args.seconds, args.total, args.step)
    proven = sum(p[4] == "OPTIMAL" for p in front)
    print(f"front: {len(front)} points, {proven} proven optimal, {time.perf_counter() - began:.0f} s")
    began = time.perf_counter()
    best = segments(inst)
    print(f"segment-wise: {len(best)} points, {time.perf_counter() - began:.0f} s")
    rows = [*front, *best, *chen(inst)]
    path = args.csv or args.out / "remat_front.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["kind", "peak_bytes", "added_macs", "bound_macs", "status", "reruns", "added_percent"])
        writer.writerows([*r, f"{100 * r[2] / inst.macs:.4f}"] for r in rows)
    for kind in ("front", "segment-wise", "checkpoints sqrt(n)"):
        chosen = [r for r in rows if r[0] == kind]
        shown = chosen if len(chosen) < 13 else [chosen[i * (len(chosen) - 1) // 11] for i in range(12)]
        for r in shown:
            print(f"{r[0]:20} {r[1]:>11,} B  +{100 * r[2] / inst.macs:6.2f} %  {r[4]:10} {r[5]:3} reruns")
    draw(inst, rows, args.png or args.out / "remat_front.png")


if __name__ == "__main__":
    main()
