"""Does adapting help, and does the digits task tell update sets apart?

Trains the pretrained small MobileNetV2 on the target domain with several update sets and seeds, and
prints a table of test metrics (mean ± standard deviation over seeds) beside the baselines. A seed sets
the order of samples and the augmentation; with ``--redraw`` also the images of each split and how they
look. Every finished run is kept in ``--store``: a benchmark that was stopped goes on where it was.

    OMP_NUM_THREADS=1 python benchmarks/digits_adaptation.py --seeds 5
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
from sparseplan.tasks.digits import digits_task
from sparseplan.weights import pretrained
from sparseplan.zoo.mobilenetv2 import mobilenetv2_digits

#: update sets by the prefixes of their parameters; None is every bias
SETS: Prefixes = {
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


def table(
    rows: Mapping[str, Sequence[Run]], counts: Mapping[str, int], baselines: Mapping[str, Mapping[str, float]]
) -> str:
    """The results in Markdown."""
    lines = [f"| update | parameters | {' | '.join(SHOWN)} | s a run |", "|---" * (len(SHOWN) + 3) + "|"]
    for name, row in baselines.items():
        lines.append(f"| *{name}* | | " + " | ".join(f"{row[m]:.3f}" for m in SHOWN) + " | |")
    for name, runs in rows.items():
        cells = " | ".join(cell(runs, "test", m) for m in SHOWN)
        lines.append(f"| {name} | {counts[name]:,} | {cells} | {seconds_cell(runs)} |")
    return "\n".join(lines)


def main() -> int:
    """Run what is not stored yet, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sets", nargs="+", default=list(SETS), metavar="SET", help=f"of: {', '.join(SETS)}")
    parser.add_argument("--epochs", type=int, default=None, help="default: the task's own")
    parser.add_argument("--pictures", type=int, default=384, help="to adapt with")
    parser.add_argument("--redraw", action="store_true", help="other pictures for each seed")
    parser.add_argument("--store", default=None, metavar="DIR", help="folder of finished runs")
    args = parser.parse_args()

    def settings(task: Task) -> TrainSettings:
        return replace(task.settings, epochs=args.epochs or task.settings.epochs)

    def tell(seed: int, name: str, run: Run) -> None:
        right = run.metrics["test"]["accuracy"]
        print(f"seed {seed}, {name}: accuracy {right:.3f}, {took(run)}", file=sys.stderr, flush=True)

    try:
        network = mobilenetv2_digits()
        sets = picked(sets_by_prefix(network, SETS), args.sets)
        first = digits_task(0, n_train=args.pictures)
        tasks = (
            digits_task(seed, n_train=args.pictures) if args.redraw and seed else first for seed in range(args.seeds)
        )
        rows = run_sets(network, pretrained(network), sets, tasks, settings, args.store, tell)
        counts = {name: sum(network.tensor[p].elements for p in update) for name, update in sets.items()}
        print(table(rows, counts, first.baselines()))
    except SparseplanError as error:
        print(f"digits_adaptation: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
