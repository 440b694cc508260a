"""Do models of value predict what unseen update sets gain? On the depth task, by training.

Each of uPyD-Net's layers is trained alone, and all together; models fitted to those gains predict the
gains of sets of layers that no model has seen (blocks, last layers, and unions of blocks). Gains are in δ1
on the validation split. Every finished run is kept in ``--store``: a run that was stopped goes on.

    OMP_NUM_THREADS=1 python benchmarks/value_models.py --store runs --jobs 2
"""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Callable

import numpy as np

from sparseplan.check import train_sets
from sparseplan.errors import SparseplanError
from sparseplan.measuring import fitted, measure_units
from sparseplan.tables import table
from sparseplan.tasks import get_task
from sparseplan.value.model import Model, Observation, rank_correlation
from sparseplan.value.units import Unit, units_of
from sparseplan.weights import pretrained
from sparseplan.zoo import upydnet

#: unseen sets by the prefixes of their layers
UNSEEN = {
    "encoder": ("encoder.",),
    "decoder 0": ("decoder0.", "ups0."),
    "decoder 1": ("decoder1.", "ups1."),
    "decoder 2": ("decoder2.",),
    "decoders 0, 1": ("decoder0.", "ups0.", "decoder1.", "ups1."),
    "decoder 0, encoder": ("decoder0.", "ups0.", "encoder."),
    "decoders 0, 1, encoder": ("decoder0.", "ups0.", "decoder1.", "ups1.", "encoder."),
    "decoders 0, 1, 2": ("decoder0.", "ups0.", "decoder1.", "ups1.", "decoder2."),
    "decoder 0, end of encoder": ("decoder0.", "ups0.", "encoder.conv4", "encoder.conv5"),
}


def main() -> int:
    """Train what is not stored yet, fit, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--store", default=None, help="folder of finished runs")
    args = parser.parse_args()

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    try:
        network, task = upydnet(), get_task("depth")
        weights, units = pretrained(network), units_of(network, "layer")
        measured = measure_units(network, weights, task, units, seeds=args.seeds, jobs=args.jobs, store=args.store,
                                 progress=say)  # fmt: skip
        names = {label: [u.name for u in units if u.name.startswith(parts)] for label, parts in UNSEEN.items()}
        found = train_sets(network, weights, {label: _update(units, names[label]) for label in UNSEEN}, task,
                           seeds=args.seeds, jobs=args.jobs, store=args.store, progress=say)  # fmt: skip
    except SparseplanError as error:
        print(f"value_models: {error}", file=sys.stderr)
        return 2
    base = measured.scores["base"][0]
    seen = [
        Observation(
            frozenset(names[label]), float(np.mean([task.score(r["val"]) for r in runs])) - base, 0.0, len(runs)
        )
        for label, runs in found.items()
    ]
    singles = {u.name: measured.mean(u.name) for u in units}
    models: dict[str, Callable[[list[str]], float]] = {
        "sum of single gains": lambda group: sum(singles[n] for n in group),
        "best single gain": lambda group: max(singles[n] for n in group),
        "additive, fitted": _predictor(fitted(measured, additive=True)),
        "saturating": _predictor(fitted(measured)),
    }
    print(f"Python {platform.python_version()}, numpy {np.__version__}; {args.seeds} seeds, gains in {task.headline}")
    rows: list[list[object]] = []
    for label, o in zip(found, seen, strict=True):
        rows.append([label, f"{o.gain:.3f}", *(f"{predict(names[label]):.3f}" for predict in models.values())])
    gains = [o.gain for o in seen]
    predicted = {m: [predict(names[label]) for label in found] for m, predict in models.items()}
    rows.append(
        ["mean absolute error", "", *(f"{np.mean(np.abs(np.subtract(p, gains))):.3f}" for p in predicted.values())]
    )
    rows.append(["rank correlation", "", *(f"{rank_correlation(p, gains):.2f}" for p in predicted.values())])
    print(table(("unseen set", "measured", *models), rows, [False] + [True] * (1 + len(models))))
    return 0


def _update(units: tuple[Unit, ...], names: list[str]) -> dict[str, float]:
    return {p: 1.0 for u in units if u.name in names for p in u.parameters}


def _predictor(model: Model) -> Callable[[list[str]], float]:
    return lambda group: model.predict(frozenset(group))


if __name__ == "__main__":
    sys.exit(main())
