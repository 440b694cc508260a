"""Does adapting help, and does the depth task tell update sets apart?

Trains the pretrained uPyD-Net on the target domain with several update sets and seeds, and
prints a table of test metrics (mean ± standard deviation over seeds) beside the baselines.
A seed sets the order of samples and the augmentation; with ``--redraw`` also the pictures.
Every finished run is kept in ``--store``: a benchmark that was stopped goes on where it was.

    OMP_NUM_THREADS=1 python benchmarks/depth_adaptation.py --seeds 3
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace

from _adaptation import Prefixes, Run, cell, picked, run_sets, seconds_cell, sets_by_prefix, took

from sparseplan.errors import SparseplanError
from sparseplan.run.trainer import TrainSettings
from sparseplan.tasks.base import Task
from sparseplan.tasks.depth import LABELS, depth_task
from sparseplan.weights import pretrained
from sparseplan.zoo import upydnet

DECODER0 = ("decoder0.", "ups0.")
DECODER1 = ("decoder1.", "ups1.")
#: update sets by the prefixes of their parameters; None is every bias
SETS: Prefixes = {
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


def table(rows: Mapping[str, Sequence[Run]], baselines: Mapping[str, Mapping[str, float]]) -> str:
    """The results in Markdown."""
    lines = [f"| update | {' | '.join(SHOWN)} | s a run |", "|---" * (len(SHOWN) + 2) + "|"]
    for name, row in baselines.items():
        lines.append(f"| *{name}* | " + " | ".join(f"{row[m]:.3f}" for m in SHOWN) + " | |")
    for name, runs in rows.items():
        cells = " | ".join(cell(runs, "test", m) for m in SHOWN)
        lines.append(f"| {name} | {cells} | {seconds_cell(runs)} |")
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
    parser.add_argument("--store", default=None, metavar="DIR", help="folder of finished runs")
    args = parser.parse_args()

    def settings(task: Task) -> TrainSettings:
        return replace(task.settings, epochs=args.epochs or task.settings.epochs)

    def tell(seed: int, name: str, run: Run) -> None:
        print(f"seed {seed}, {name}: d1 {run.metrics['test']['d1']:.3f}, {took(run)}", file=sys.stderr, flush=True)

    try:
        network = upydnet()
        sets = picked(sets_by_prefix(network, SETS), args.sets)
        first = depth_task(0, n_train=args.pictures, labels=args.labels)
        tasks = (
            depth_task(seed, n_train=args.pictures, labels=args.labels) if args.redraw and seed else first
            for seed in range(args.seeds)
        )
        rows = run_sets(network, pretrained(network), sets, tasks, settings, args.store, tell)
        print(table(rows, first.baselines()))
    except SparseplanError as error:
        print(f"depth_adaptation: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
