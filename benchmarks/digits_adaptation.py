"""Does adapting help, and does the digits task tell update sets apart?

Trains the pretrained small MobileNetV2 on the target domain with several update sets and seeds, and
prints a table of test metrics (mean ± standard deviation over seeds) beside the baselines. A seed sets
the order of samples and the augmentation; with ``--redraw`` also the images of each split and how they
look. Every finished run is appended to ``--store``, so a run that was stopped goes on where it was.

    OMP_NUM_THREADS=1 python benchmarks/digits_adaptation.py --seeds 5
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
from sparseplan.tasks.digits import DigitsTask, digits_task
from sparseplan.weights import pretrained
from sparseplan.zoo.mobilenetv2 import mobilenetv2_digits

#: update sets by the prefixes of their parameters; None is every bias
SETS: dict[str, tuple[str, ...] | None] = {
    "none": (),
    "last layer": ("classifier.",),
    "last 3 layers": ("classifier.", "last.", "block5.project."),
    "all biases": None,
    "stem, blocks 0, 1": ("stem.", "block0.", "block1."),
    "blocks 2, 3": ("block2.", "block3."),
    "blocks 4, 5": ("block4.", "block5."),
    "blocks 4, 5, last, classifier": ("block4.", "block5.", "last.", "classifier."),
    "depthwise": ("block0.depthwise.", "block1.depthwise.", "block2.depthwise.", "block3.depthwise.",
                  "block4.depthwise.", "block5.depthwise."),
    "full": ("",),
}  # fmt: skip
SHOWN = ("accuracy", "macro_f1", "cross_entropy")


def update_set(name: str) -> dict[str, float]:
    """Parameters of a named set, each in whole."""
    prefixes = SETS[name]
    return {
        p: 1.0
        for p in mobilenetv2_digits().parameters
        if (p.endswith("bias") if prefixes is None else bool(prefixes) and p.startswith(prefixes))
    }


def one_run(task: DigitsTask, name: str, seed: int, epochs: int) -> dict[str, float]:
    """Test metrics after training ``name`` on ``task``, and the seconds it took."""
    network = mobilenetv2_digits()
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
    sizes = {p: mobilenetv2_digits().tensor[p].elements for p in mobilenetv2_digits().parameters}
    lines = [f"| update | parameters | {' | '.join(SHOWN)} | s a run |", "|---" * (len(SHOWN) + 3) + "|"]
    for name, row in baselines.items():
        lines.append(f"| *{name}* | | " + " | ".join(f"{row[m]:.3f}" for m in SHOWN) + " | |")
    for name, runs in rows.items():
        cells = []
        for metric in SHOWN:
            values = [r[metric] for r in runs]
            spread = f" ± {stdev(values):.3f}" if len(values) > 1 and len(set(values)) > 1 else ""
            cells.append(f"{fmean(values):.3f}{spread}")
        count = sum(sizes[p] for p in update_set(name))
        seconds = fmean(r["seconds"] for r in runs)
        lines.append(f"| {name} | {count:,} | " + " | ".join(cells) + f" | {seconds:.0f} |")
    return "\n".join(lines)


def main() -> int:
    """Run what is not stored yet, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sets", nargs="+", default=list(SETS), metavar="SET", help=f"of: {', '.join(SETS)}")
    parser.add_argument("--epochs", type=int, default=None, help="default: the task's own")
    parser.add_argument("--pictures", type=int, default=384, help="to adapt with")
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
        rows: dict[str, list[dict[str, float]]] = {name: [] for name in args.sets}
        baselines = digits_task(0, n_train=args.pictures).baselines()
        for seed in range(args.seeds):
            task = digits_task(seed if args.redraw else 0, n_train=args.pictures)
            epochs = args.epochs or task.settings.epochs
            for name in args.sets:
                key = json.dumps([name, seed, args.redraw, epochs, args.pictures])
                if key not in finished:
                    finished[key] = one_run(task, name, seed, epochs)
                    if args.store:
                        with args.store.open("a") as file:
                            file.write(json.dumps({"key": key, "metrics": finished[key]}) + "\n")
                rows[name].append(finished[key])
                right, took = finished[key]["accuracy"], finished[key]["seconds"]
                print(f"seed {seed}, {name}: accuracy {right:.3f}, {took:.0f} s", file=sys.stderr, flush=True)
        print(table(rows, baselines))
    except SparseplanError as error:
        print(f"digits_adaptation: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
