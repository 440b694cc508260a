"""Fine-tuning the published uPyD-Net on real captures with a time-of-flight sensor's labels.

Plans for GAP9 at two budgets from the worth of updates on the training captures alone: the mean size of
gradients (to first order, what a step of Adam lowers the loss by, as it moves every entry alike) and, for
comparison, the squared gradient norm (the same for SGD). Then trains the planned sets, sets by hand and
random ones, each with several seeds, and prints a table of test metrics
(mean ± standard deviation over seeds) beside the baselines. The data are not the project's and not in
its repository: SPARSEPLAN_REFERENCE_DATA names their folder. Every finished run is appended to
``--store``, so a run that was stopped goes on where it was.

    OMP_NUM_THREADS=1 python benchmarks/real_images.py --seeds 3 --store out/real_images.jsonl
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev

import numpy as np

from sparseplan import api
from sparseplan.errors import DataError, SparseplanError
from sparseplan.problem import resolve_choices
from sparseplan.run.trainer import TrainSettings, predict, train
from sparseplan.tasks import load_task
from sparseplan.tasks.real import RealDepthTask
from sparseplan.value import absolute_gradient, squared_gradient_norm
from sparseplan.weights import Weights, read_weights
from sparseplan.zoo import upydnet

ROOT = Path(__file__).resolve().parent.parent
BUDGETS = ("600kB", "1.2MB")
#: captures over which the worth of an update is measured
SAMPLES = 64
#: budget and draws of random sets: the best sets for values drawn at random, so none that wastes bytes
RANDOM_BUDGET, RANDOM_DRAWS = "600kB", 3
DECODER0, DECODER1 = ("decoder0.", "ups0."), ("decoder1.", "ups1.")
#: sets by hand, by the prefixes of their parameters
BY_HAND: dict[str, tuple[str, ...]] = {
    "last layer": ("decoder2.conv2.",),
    "last 3 layers": ("decoder2.",),
    "encoder": ("encoder.",),
    "decoder 0": DECODER0,
    "decoder 1": DECODER1,
    "decoders 0, 1": DECODER0 + DECODER1,
    "decoder 0, encoder": (*DECODER0, "encoder."),
    "decoders 0, 1, encoder": (*DECODER0, *DECODER1, "encoder."),
    "full": ("",),
}
SHOWN = ("abs_rel", "sq_rel", "rmse", "rmse_log", "d1", "d2", "d3", "silog")


def reference_folder() -> Path:
    """The folder of the reference data; raises DataError where it is absent."""
    named = os.environ.get("SPARSEPLAN_REFERENCE_DATA")
    folder = Path(named) if named else ROOT.parent / "shared" / "data"
    if not (folder / "micro_sec_mde.npz").is_file():
        raise DataError(f"no reference data at {folder}; set SPARSEPLAN_REFERENCE_DATA to their folder")
    return folder


def sets_by_hand() -> dict[str, dict[str, float]]:
    """Update sets that people choose without a planner."""
    parameters = upydnet().parameters
    sets = {name: {p: 1.0 for p in parameters if p.startswith(start)} for name, start in BY_HAND.items()}
    return {"none": {}, "all biases": {p: 1.0 for p in parameters if p.endswith("bias")}, **sets}


def planned_sets(task: RealDepthTask, weights: Weights) -> dict[str, dict[str, float]]:
    """The best sets at each budget by gradients on training captures, and by random values."""
    network = upydnet()
    choices, _ = resolve_choices(network)
    worth = absolute_gradient(network, weights, task.samples(SAMPLES), choices)
    squared = squared_gradient_norm(network, weights, task.samples(SAMPLES), choices)
    asked: list[tuple[str, str, Mapping]] = [(f"planned, {b}", b, worth) for b in BUDGETS]
    asked.append((f"planned by squares, {BUDGETS[0]}", BUDGETS[0], squared))
    for draw in range(RANDOM_DRAWS):
        rng = np.random.default_rng(draw)
        drawn = {
            p: float(v) for p, v in zip(network.parameters, rng.uniform(size=len(network.parameters)), strict=True)
        }
        asked.append((f"random {draw + 1}, {RANDOM_BUDGET}", RANDOM_BUDGET, drawn))
    sets = {}
    for name, budget, values in asked:
        answer = api.plan(network, "gap9", l2=budget, loss=task.loss, values=values, time_limit=20.0)
        sets[name] = dict(answer.update)
        shown = ", ".join(p if f == 1 else f"{p} × {f:g}" for p, f in sorted(answer.update.items()))
        print(f"{name}: {answer.status}, {answer.peak_bytes['L2']:,} B: {shown}", file=sys.stderr, flush=True)
    return sets


def fits(update: Mapping[str, float], loss: str) -> str:
    """The smallest of the budgets that holds an update set on GAP9."""
    for budget in BUDGETS if update else ():
        patterns = [f"{p}@{f!r}" if f < 1 else p for p, f in update.items()]
        answer = api.plan(upydnet(), "gap9", l2=budget, loss=loss, time_limit=30.0, may=list(update), must=patterns)
        if answer.feasible:
            return budget
    return "more" if update else ""


def one_run(task: RealDepthTask, weights: Weights, update: Mapping[str, float], settings: TrainSettings) -> dict:
    """Metrics after training, on each split, and the seconds it took."""
    network = upydnet()
    began = time.perf_counter()
    parameters: Mapping = weights
    if update:
        x, target = task.train.x, task.train.target
        parameters = train(network, weights, update, x, target, settings, augment=task.augment).parameters
    seconds = time.perf_counter() - began
    splits = {"train": task.train, "val": task.val, "test": task.test}
    found = {name: task.metrics(predict(network, parameters, split.x), split) for name, split in splits.items()}
    return {**found, "seconds": seconds}


def table(
    rows: Mapping[str, list[dict]], fit: Mapping[str, str], baselines: Mapping[str, Mapping[str, float]], split: str
) -> str:
    """The results on a split in Markdown."""
    lines = [f"| update | fits | {' | '.join(SHOWN)} |", "|---" * (len(SHOWN) + 2) + "|"]
    for name, row in baselines.items():
        lines.append(f"| *{name}* | | " + " | ".join(f"{row[m]:.3f}" for m in SHOWN) + " |")
    for name, runs in rows.items():
        cells = []
        for metric in SHOWN:
            values = [r[split][metric] for r in runs]
            spread = f" ± {stdev(values):.3f}" if len(set(values)) > 1 else ""
            cells.append(f"{fmean(values):.3f}{spread}")
        lines.append(f"| {name} | {fit.get(name, '')} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> int:
    """Plan, run what is not stored yet, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--loss", choices=("l1", "berhu"), default=None, help="default: the task's own")
    parser.add_argument("--labels", choices=("tof-nearest", "tof-bilinear"), default="tof-nearest")
    parser.add_argument("--epochs", type=int, default=None, help="default: the task's own")
    parser.add_argument("--sets", nargs="+", default=None, metavar="SET", help="only these, by name")
    parser.add_argument("--split", choices=("val", "test"), default="test", help="what the table shows")
    parser.add_argument("--store", type=Path, default=None, help="file of finished runs, one JSON object a line")
    args = parser.parse_args()
    try:
        folder = reference_folder()
        task = load_task(folder / "micro_sec_mde.npz", args.labels)
        assert isinstance(task, RealDepthTask)
        weights = read_weights(folder / "upydnet_tartanair.npz", upydnet())
        settings = replace(task.settings, loss=args.loss or task.loss, epochs=args.epochs or task.settings.epochs)
        task = replace(task, settings=settings)
        finished: dict[str, dict] = {}
        if args.store and args.store.exists():
            for line in args.store.read_text().splitlines():
                try:
                    entry = json.loads(line)
                except ValueError:  # the last line of a run that was killed while it wrote
                    continue
                finished[entry["key"]] = entry["metrics"]

        def store(key: str, label: str, found: dict) -> None:
            finished[key] = found
            if args.store:
                args.store.parent.mkdir(parents=True, exist_ok=True)
                with args.store.open("a") as file:
                    if args.store.stat().st_size and not args.store.read_bytes().endswith(b"\n"):
                        file.write("\n")  # after the half line of a run that was killed
                    file.write(json.dumps({"key": key, "label": label, "metrics": found}) + "\n")

        key = f"sets, two measures {settings.loss} {args.labels} {SAMPLES} {BUDGETS} {RANDOM_BUDGET} {RANDOM_DRAWS}"
        if key not in finished:
            store(key, "planned", planned_sets(task, weights))
        sets = {**sets_by_hand(), **finished[key]}
        chosen = args.sets or list(sets)
        if missing := [name for name in chosen if name not in sets]:
            raise DataError(f"set {missing[0]!r} is unknown; there are {', '.join(sets)}")
        rows: dict[str, list[dict]] = {name: [] for name in chosen}
        for seed in range(args.seeds):
            for name in chosen:
                what = json.dumps([sorted(sets[name].items()), seed, settings.loss, args.labels, settings.epochs])
                key = hashlib.sha256(what.encode()).hexdigest()[:24]
                if key not in finished:
                    store(key, f"{name}, seed {seed}", one_run(task, weights, sets[name], replace(settings, seed=seed)))
                rows[name].append(finished[key])
                found, took = finished[key], finished[key]["seconds"]
                print(
                    f"seed {seed}, {name}: {took:.0f} s, val abs_rel {found['val']['abs_rel']:.3f}",
                    file=sys.stderr,
                    flush=True,
                )
        shown = task if args.split == "test" else replace(task, test=task.val)
        print(table(rows, {n: fits(sets[n], settings.loss) for n in chosen}, shown.baselines(), args.split))
    except SparseplanError as error:
        print(f"real_images: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
