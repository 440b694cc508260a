"""Does adapting help, and does the depth task tell update sets apart?

Trains the pretrained uPyD-Net on the target domain with several update sets and seeds, and
prints a table of test metrics (mean ± standard deviation over seeds) beside the baselines.
A seed sets the order of samples and the augmentation; with ``--redraw`` also the pictures.
Every finished run is appended to ``--store``, so a run that was stopped goes on where it was.

    OMP_NUM_THREADS=1 python benchmarks/depth_adaptation.py --seeds 3
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev

from sparseplan.errors import ProblemError, SparseplanError, near
from sparseplan.run.trainer import predict, train
from sparseplan.tasks.depth import LABELS, DepthTask, depth_task
from sparseplan.weights import pretrained
from sparseplan.zoo import upydnet

DECODER0 = ("decoder0.", "ups0.")
DECODER1 = ("decoder1.", "ups1.")
#: update sets by the prefixes of their parameters; None is every bias
SETS: dict[str, tuple[str, ...] | None] = {
    "none": (),
    "last layer": ("decoder2.conv2.",),
    "last 3 layers": ("decoder2.",),
    "all biases": None,
    "encoder": ("encoder.",),
    "decoder 0": DECODER0,
    "decoder 0 + 1": DECODER0 + DECODER1,
    "decoder 0, end of encoder": (*DECODER0, "encoder.conv4.", "encoder.conv5."),
    "decoder 0 + 1, encoder": (*DECODER0, *DECODER1, "encoder."),
    "full": ("",),
}
SHOWN = ("abs_rel", "rmse", "rmse_log", "silog", "d1", "d2")


def update_set(name: str) -> dict[str, float]:
    """Parameters of a named set, each in whole."""
    prefixes = SETS[name]
    return {
        p: 1.0
        for p in upydnet().parameters
        if (p.endswith("bias") if prefixes is None else bool(prefixes) and p.startswith(prefixes))
    }


def one_run(task: DepthTask, name: str, seed: int, epochs: int) -> dict[str, float]:
    """Test metrics after training ``name`` on ``task``, and the seconds it took."""
    network = upydnet()
    parameters: Mapping = pretrained(network)
    began = time.perf_counter()
    if update := update_set(name):
        settings = replace(task.settings, seed=seed, epochs=epochs)
        result = train(network, parameters, update, task.train.x, task.train.target, settings, augment=task.augment)
        parameters = result.parameters
    seconds = time.perf_counter() - began
    return {**task.metrics(predict(network, parameters, task.test.x), task.test), "seconds": seconds}


def table(rows: Mapping[str, list[dict[str, float]]], baselines: Mapping[str, Mapping[str, float]]) -> str:
    """The results in Markdown."""
    lines = [f"| update | {' | '.join(SHOWN)} | s a run |", "|---" * (len(SHOWN) + 2) + "|"]
    for name, row in baselines.items():
        lines.append(f"| *{name}* | " + " | ".join(f"{row[m]:.3f}" for m in SHOWN) + " | |")
    for name, runs in rows.items():
        cells = []
        for metric in SHOWN:
            values = [r[metric] for r in runs]
            spread = f" ± {stdev(values):.3f}" if len(values) > 1 and len(set(values)) > 1 else ""
            cells.append(f"{fmean(values):.3f}{spread}")
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {fmean(r['seconds'] for r in runs):.0f} |")
    return "\n".join(lines)


def main() -> int:
    """Run what is not stored yet, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sets", nargs="+", default=list(SETS), metavar="SET", help=f"of: {', '.join(SETS)}")
    parser.add_argument("--labels", choices=LABELS, default="tof-nearest")
    parser.add_argument("--epochs", type=int, default=None, help="default: the task's own")
    parser.add_argument("--pictures", type=int, default=512, help="to adapt with")
    parser.add_argument("--redraw", action="store_true", help="other pictures for each seed")
    parser.add_argument("--store", type=Path, default=None, help="file of finished runs, one JSON object a line")
    args = parser.parse_args()
    try:
        for name in args.sets:
            if name not in SETS:
                raise ProblemError(f"set {name!r} is unknown{near(name, SETS)}")
        finished: dict[str, dict[str, float]] = {}
        if args.store and args.store.exists():
            finished = {(entry := json.loads(line))["key"]: entry["metrics"] for line in args.store.open()}
        tasks: dict[int, DepthTask] = {}
        rows: dict[str, list[dict[str, float]]] = {name: [] for name in args.sets}
        for seed in range(args.seeds):
            drawn = seed if args.redraw else 0
            if drawn not in tasks:
                tasks = {drawn: depth_task(drawn, n_train=args.pictures, labels=args.labels)}
                if drawn == 0:
                    baselines = tasks[0].baselines()
            epochs = args.epochs or tasks[drawn].settings.epochs
            for name in args.sets:
                key = json.dumps([name, seed, drawn, args.labels, epochs, args.pictures])
                if key not in finished:
                    finished[key] = one_run(tasks[drawn], name, seed, epochs)
                    if args.store:
                        with args.store.open("a") as file:
                            file.write(json.dumps({"key": key, "metrics": finished[key]}) + "\n")
                rows[name].append(finished[key])
                d1, took = finished[key]["d1"], finished[key]["seconds"]
                print(f"seed {seed}, {name}: d1 {d1:.3f}, {took:.0f} s", file=sys.stderr, flush=True)
        print(table(rows, baselines))
    except SparseplanError as error:
        print(f"depth_adaptation: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
