"""What inputs saved in 8 bits do: to each gradient, and to what training in the planned bytes buys.

Plans uPyD-Net's full update (fused, one sample a run) in a budget that it does not fit without, with ``int8``; prints
the relative error that codes bring to each parameter's gradient, on pictures of the depth task; then trains the
pretrained network in the arena of that plan and in that of the same update set without ``int8`` (in as many bytes as
it asks for), with equal seeds, which set the order of samples and the augmentation.

    OMP_NUM_THREADS=1 python benchmarks/int8_inputs.py --store runs
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from statistics import fmean, stdev

import sparseplan as sp
from sparseplan.check import check
from sparseplan.errors import SparseplanError
from sparseplan.plan import Plan
from sparseplan.problem import INT8_PRICE
from sparseplan.run import run
from sparseplan.tasks.depth import depth_task
from sparseplan.units import format_bytes
from sparseplan.weights import pretrained

SHOWN = ("abs_rel", "rmse", "silog", "d1", "d2")


def plans(network: str, budget: str, optimizer: str) -> dict[str, Plan]:
    """The full update with and without packed inputs; without, in whatever it takes."""
    common = {"must": ("*",), "optimizer": optimizer, "gradients": "fused"}
    found = {"as they are": sp.plan(network, **common), "8 bits": sp.plan(network, l2=budget, savings="int8", **common)}
    for name, plan in found.items():
        if not plan.feasible:
            raise SystemExit(f"{name}: {plan.reason.message if plan.reason else plan.status}")
    return found


def errors(plan: Plan, parameters: dict, x: dict, target: object, pictures: int) -> dict[str, list[float]]:
    """Relative error of each gradient that is computed from codes, on the first pictures."""
    found: dict[str, list[float]] = {}
    for i in range(pictures):
        one = {name: array[i : i + 1] for name, array in x.items()}
        report = run(plan, parameters, one, target[i : i + 1], guard_bytes=0)  # type: ignore[index]
        if not report.bitwise_equal:
            raise SystemExit(f"picture {i}: the arena differs from the reference")
        for p, error in report.packed_errors.items():
            found.setdefault(p, []).append(error)
    return found


def cell(values: Sequence[float]) -> str:
    """Mean and standard deviation."""
    return f"{fmean(values):.4f}" + (f" ± {stdev(values):.4f}" if len(values) > 1 else "")


def main() -> int:
    """Print both tables in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", default="800kB")
    parser.add_argument("--optimizer", default="sgd")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--pictures", type=int, default=256, help="to adapt with")
    parser.add_argument("--probed", type=int, default=16, help="pictures on which gradients are compared")
    parser.add_argument("--store", default=None, metavar="DIR", help="folder of finished runs")
    args = parser.parse_args()
    try:
        found = plans("upydnet", args.budget, args.optimizer)
        packed = found["8 bits"]
        network = packed.problem.network
        parameters = pretrained(network)
        task = depth_task(0, n_train=args.pictures)
        x = task.train.x if isinstance(task.train.x, dict) else {network.inputs[0]: task.train.x}
        codes = [s for s in packed.steps if s.kind == "pack"]
        print(f"int8_price={INT8_PRICE}: {len(codes)} tensors packed in {format_bytes(packed.peak_bytes['L2'])}; "
              f"as they are: {format_bytes(found['as they are'].peak_bytes['L2'])}\n")  # fmt: skip
        print(f"| gradient of | error, mean of {args.probed} pictures | largest |\n|---|---|---|")
        for p, values in errors(packed, parameters, x, task.train.target, args.probed).items():
            print(f"| {p} | {fmean(values):.4f} | {max(values):.4f} |")
        began = time.perf_counter()
        report = check(
            network, parameters, {}, task, seeds=args.seeds, epochs=args.epochs, plans=found, store=args.store,
            progress=lambda line: print(line, file=sys.stderr, flush=True),
        )  # fmt: skip
        print(f"\n| inputs saved | {' | '.join(SHOWN)} |\n" + "|---" * (len(SHOWN) + 1) + "|")
        print(f"| *before* | {' | '.join(f'{report.before[m]:.4f}' for m in SHOWN)} |")
        for name, runs in report.after.items():
            print(f"| {name} | {' | '.join(cell([r[m] for r in runs]) for m in SHOWN)} |")
        pairs = zip(*report.after.values(), strict=True)
        gaps = [{m: b[m] - a[m] for m in SHOWN} for a, b in pairs]
        print(f"| *8 bits, less as they are* | {' | '.join(cell([g[m] for g in gaps]) for m in SHOWN)} |")
        print(f"\n{args.seeds} seeds, {args.epochs} epochs of {args.pictures} pictures, {args.optimizer}, "
              f"{time.perf_counter() - began:.0f} s", file=sys.stderr)  # fmt: skip
    except SparseplanError as error:
        print(f"int8_inputs: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
