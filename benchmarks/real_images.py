"""Fine-tuning the published uPyD-Net on real captures with a time-of-flight sensor's labels.

Plans for GAP9 at two budgets from the worth of updates on the training captures alone: the mean size of
gradients (to first order, what a step of Adam lowers the loss by, as it moves every entry alike) and, for
comparison, the squared gradient norm (the same for SGD). Then trains the planned sets, sets by hand and
random ones, each with several seeds, and prints a table of test metrics
(mean ± standard deviation over seeds) beside the baselines. The data are not the project's and not in
its repository: SPARSEPLAN_REFERENCE_DATA names their folder. Every finished run is kept in ``--store``:
a benchmark that was stopped goes on where it was.

    OMP_NUM_THREADS=1 python benchmarks/real_images.py --seeds 3 --store out/real_images
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from _adaptation import Prefixes, Run, cell, picked, run_sets, sets_by_prefix, took

from sparseplan import api
from sparseplan.errors import DataError, SparseplanError
from sparseplan.jsonio import Node
from sparseplan.longwork import Case, Store, digest, run_all
from sparseplan.problem import resolve_choices
from sparseplan.tasks import load_task
from sparseplan.tasks.real import RealDepthTask
from sparseplan.value import absolute_gradient, squared_gradient_norm
from sparseplan.version import __version__
from sparseplan.weights import read_weights
from sparseplan.zoo import upydnet

ROOT = Path(__file__).resolve().parent.parent
BUDGETS = ("600kB", "1.2MB")
#: captures over which the worth of an update is measured
SAMPLES = 64
#: budget and draws of random sets: the best sets for values drawn at random, so none that wastes bytes
RANDOM_BUDGET, RANDOM_DRAWS = "600kB", 3
DECODER0, DECODER1 = ("decoder0.", "ups0."), ("decoder1.", "ups1.")
#: sets by hand, by the prefixes of their parameters
BY_HAND: Prefixes = {
    "none": (),
    "all biases": None,
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


def planned_sets(task: RealDepthTask, weights: Mapping) -> dict[str, dict[str, float]]:
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


@dataclass(frozen=True)
class Planning:
    """The planned sets as a job: searches end by the clock, so a benchmark that goes on takes those it began with."""

    case: Case

    @property
    def shared(self) -> Case:
        return self.case

    @property
    def recipe(self) -> Planning:
        return self

    @property
    def about(self) -> Mapping[str, Any]:
        asked = {"samples": SAMPLES, "budgets": BUDGETS, "random_budget": RANDOM_BUDGET, "random_draws": RANDOM_DRAWS}
        return {"sparseplan": __version__, "mode": "planned sets", **self.case.about, **asked}

    @cached_property
    def key(self) -> str:
        return digest(self.about)

    def run(self, shared: Case) -> Mapping[str, Any]:
        assert isinstance(shared.task, RealDepthTask)
        return {"sets": planned_sets(shared.task, shared.parameters)}

    def check(self, shared: Case, result: Node) -> None:
        """Fail unless every set is a part of the network."""
        result.record(("sets",))
        for _, update in result["sets"].members(100):
            update.record((), shared.network.parameters)
            for _, fraction in update.members(len(shared.network.parameters)):
                fraction.number()


def table(
    rows: Mapping[str, Sequence[Run]],
    fit: Mapping[str, str],
    baselines: Mapping[str, Mapping[str, float]],
    split: str,
) -> str:
    """The results on a split in Markdown."""
    lines = [f"| update | fits | {' | '.join(SHOWN)} |", "|---" * (len(SHOWN) + 2) + "|"]
    for name, row in baselines.items():
        lines.append(f"| *{name}* | | " + " | ".join(f"{row[m]:.3f}" for m in SHOWN) + " |")
    for name, runs in rows.items():
        lines.append(f"| {name} | {fit.get(name, '')} | {' | '.join(cell(runs, split, m) for m in SHOWN)} |")
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
    parser.add_argument("--store", default=None, metavar="DIR", help="folder of finished runs")
    args = parser.parse_args()

    def tell(seed: int, name: str, run: Run) -> None:
        shown = f"seed {seed}, {name}: {took(run)}, val abs_rel {run.metrics['val']['abs_rel']:.3f}"
        print(shown, file=sys.stderr, flush=True)

    try:
        folder, network = reference_folder(), upydnet()
        task = load_task(folder / "micro_sec_mde.npz", args.labels)
        assert isinstance(task, RealDepthTask)
        weights = read_weights(folder / "upydnet_tartanair.npz", network)
        task = replace(task, settings=replace(task.settings, loss=args.loss or task.loss))
        job = Planning(Case(network, weights, task))
        kept = None if args.store is None else Store(args.store)
        sets = {**sets_by_prefix(network, BY_HAND), **run_all([job], store=kept)[job.key]["sets"]}
        sets = picked(sets, args.sets or list(sets))
        settings = replace(task.settings, epochs=args.epochs or task.settings.epochs)
        rows = run_sets(network, weights, sets, [task] * args.seeds, lambda _: settings, args.store, tell)
        shown = task if args.split == "test" else replace(task, test=task.val)
        print(table(rows, {n: fits(u, settings.loss) for n, u in sets.items()}, shown.baselines(), args.split))
    except SparseplanError as error:
        print(f"real_images: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
