"""How close do the planner's choices come to the best of the published update sets?

The authors of arXiv 2512.00086 logged uPyD-Net's test metrics for fifteen sets of blocks (encoder;
decoders 0, 1 and 2, each with its upsampler), about five runs each, in two label settings of
micro-kitti. Here a model of value is fitted to a few of those sets. At every budget, from the
smallest that holds any set to the full update's, the planner (GAP9, BF16, one sample; blocks tied)
picks the set it predicts best among those that fit; all fifteen are tried as well, and must agree.
*Regret*: the published mean of the best set that fits, less that of the picked one. A set's bytes
are the planner's own, each proven least.

The score without any update is not published, so every model fits it, with one and the same prior.

    OMP_NUM_THREADS=1 python benchmarks/published_tables.py [--gradients accumulate]
"""

from __future__ import annotations

import argparse
import csv
import itertools
import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean, stdev

import numpy as np

import sparseplan as sp
from sparseplan.errors import SparseplanError
from sparseplan.problem import Problem, resolve_choices
from sparseplan.steps import MAIN, TrainingOptions
from sparseplan.tables import table
from sparseplan.value.model import Model, Observation, fit_additive, fit_saturating, held_out
from sparseplan.value.pairs import ties_of
from sparseplan.value.units import Unit, units_of

BLOCKS = {
    "encoder": ("encoder.*",),
    "decoder0": ("decoder0.*", "ups0.*"),
    "decoder1": ("decoder1.*", "ups1.*"),
    "decoder2": ("decoder2.*",),
}
SHORT = {"encoder": "E", "decoder0": "0", "decoder1": "1", "decoder2": "2"}
Blocks = frozenset[str]
SETS: tuple[Blocks, ...] = tuple(frozenset(s) for k in range(1, 5) for s in itertools.combinations(BLOCKS, k))
SINGLES, PAIRS, FULL = SETS[:4], SETS[4:10], SETS[14:]
#: which sets the models may see
DESIGNS: dict[str, tuple[Blocks, ...]] = {
    "singles": SINGLES,
    "singles, full": SINGLES + FULL,
    "singles, pairs with 0, full": SINGLES + tuple(s for s in PAIRS if "decoder0" in s) + FULL,
    "singles, pairs": SINGLES + PAIRS,
    "singles, pairs, full": SINGLES + PAIRS + FULL,
}
#: where the solver is asked too, and regrets are told for redrawn runs
CHECKED = "singles, pairs, full"
FITS: dict[str, Callable[[Sequence[Observation]], Model]] = {
    "additive": partial(fit_additive, baseline=None),
    "additive + pairs": partial(fit_additive, baseline=None, pairs=True),
    "saturating": partial(fit_saturating, baseline=None),
    "saturating + pairs": partial(fit_saturating, baseline=None, pairs=True),
}
SETTINGS = (("48x48", 10), ("8x8", 20))
#: metric to the sign that makes more better
METRICS = {"d1": 1.0, "abs_rel": -1.0}


@dataclass(frozen=True)
class Scores:
    """Runs of one label setting and metric, signed so that more is better."""

    runs: Mapping[Blocks, tuple[float, ...]]

    def mean(self, blocks: Blocks) -> float:
        return fmean(self.runs[blocks])

    def seen(self, sets: Sequence[Blocks]) -> list[Observation]:
        return [Observation(s, self.mean(s), stdev(self.runs[s]), len(self.runs[s])) for s in sets]

    def spread(self) -> float:
        """Standard deviation of runs of one set, pooled over sets."""
        return math.sqrt(fmean(stdev(runs) ** 2 for runs in self.runs.values()))

    def resampled(self, rng: np.random.Generator) -> Scores:
        return Scores({s: tuple(float(v) for v in rng.choice(runs, len(runs))) for s, runs in self.runs.items()})


def data_file() -> Path:
    """The published table, or a clear way out."""
    named = os.environ.get("SPARSEPLAN_REFERENCE_DATA")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "data"
    path = folder / "published_micro_kitti.csv"
    if not path.is_file():
        sys.exit(f"no published tables at {path}; set SPARSEPLAN_REFERENCE_DATA to the folder that holds them")
    return path


def read(path: Path, resolution: str, percent: int, metric: str) -> Scores:
    """All runs of one label setting."""
    runs: dict[Blocks, list[float]] = {s: [] for s in SETS}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            if (row["label_resolution"], row["train_percent"]) == (resolution, str(percent)):
                blocks = frozenset(b for b in BLOCKS if row[b] == "1")
                runs[blocks].append(METRICS[metric] * float(row[metric]))
    return Scores({s: tuple(r) for s, r in runs.items()})


class Planner:
    """Plans over whole blocks, for any values of them."""

    def __init__(self, gradients: str) -> None:
        self.network = sp.zoo.upydnet()
        alignment = sp.load_device("gap9").level(MAIN).alignment
        self.options = TrainingOptions(gradients=gradients, alignment=alignment)
        self.choices, _ = resolve_choices(self.network, fractions=(1.0,))
        self.units: tuple[Unit, ...] = units_of(self.network, BLOCKS, self.choices)
        self.block = {p: u.name for u in self.units for p in u.parameters}
        self.sizes = {s: self._bytes(s) for s in SETS}

    def _bytes(self, blocks: Blocks) -> int:
        wanted = [p for b in blocks for p in BLOCKS[b]]
        other = [p for b in BLOCKS if b not in blocks for p in BLOCKS[b]]
        gradients = self.options.gradients
        plan = sp.plan(self.network, "gap9", l2="3MB", must=wanted, never=other, fractions=(1.0,), gradients=gradients)
        if plan.status != "OPTIMAL":
            sys.exit(f"bytes of {sorted(blocks)} are {plan.status}, not proven")
        return int(plan.peak_bytes["L2"])

    def pick(self, model: Model, budget: int) -> Blocks:
        """The blocks of the plan of largest predicted gain within a budget, proven."""
        values, terms = model.to_terms(self.network, self.units, self.choices)
        device = sp.load_device("gap9").with_budget(l2=budget)
        ties = ties_of(self.units, self.choices)
        plan = sp.plan(Problem(self.network, device, self.options, self.choices, {}, values, None, terms, ties))
        if plan.status != "OPTIMAL":
            sys.exit(f"the plan at {budget} bytes is {plan.status}, not proven")
        return frozenset(self.block[p] for p in plan.update)


def regrets(sizes: Mapping[Blocks, int], scores: Scores, worth: Mapping[Blocks, float], budgets: range) -> list[float]:
    """Regret at each budget of picking the set of most worth that fits (the smaller one where equal)."""
    found = []
    for budget in budgets:
        fits = [s for s in SETS if sizes[s] <= budget]
        picked = max(fits, key=lambda s: (round(worth[s], 9), -sizes[s]))
        found.append(max(scores.mean(s) for s in fits) - scores.mean(picked))
    return found


def disagreements(planner: Planner, model: Model) -> int:
    """At how many budgets, one a set, brute force over all sets beats the solver's choice, or that does not fit."""
    wrong = 0
    for budget in sorted(planner.sizes.values()):
        picked = planner.pick(model, budget)
        best = max(model.latent(s) for s in SETS if planner.sizes[s] <= budget)
        wrong += abs(model.latent(picked) - best) > 1e-6 * max(1.0, abs(best)) or planner.sizes[picked] > budget
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gradients", choices=("fused", "accumulate"), default="fused")
    parser.add_argument("--step", type=int, default=1000, help="bytes between budgets (default: 1000)")
    parser.add_argument("--resamples", type=int, default=0, help="redraw the runs so often, for the spread of regrets")
    given = parser.parse_args()
    path, began = data_file(), time.perf_counter()
    planner = Planner(given.gradients)
    low, high = min(planner.sizes.values()), max(planner.sizes.values())
    budgets = range(low, high + given.step, given.step)
    rows = [["".join(SHORT[b] for b in BLOCKS if b in s), f"{planner.sizes[s]:,}"] for s in SETS]
    print(f"{len(budgets)} budgets from {low:,} to {high:,} bytes, gradients {given.gradients}")
    print(table(("blocks", "bytes"), rows, [False, True]), "\n")
    failed = 0
    for (resolution, percent), metric in itertools.product(SETTINGS, METRICS):
        scores = read(path, resolution, percent, metric)
        rows = []
        for (design, sets), (name, fit) in itertools.product(DESIGNS.items(), FITS.items()):
            if "pairs" in name and "pairs" not in design:
                continue
            model = fit(scores.seen(sets))
            found = regrets(planner.sizes, scores, {s: model.latent(s) for s in SETS}, budgets)
            errors = held_out(fit, scores.seen(sets), scores.seen([s for s in SETS if s not in sets]))
            row = [design, name, f"{errors.mae:.4f}", f"{errors.rank:+.2f}", f"{fmean(found):.4f}", f"{max(found):.4f}"]
            if design == CHECKED and name in ("additive", "saturating + pairs"):
                wrong = disagreements(planner, model)
                failed += wrong > 0
                row.append("no better" if not wrong else f"BETTER at {wrong}")
            else:
                row.append("")
            if given.resamples and design != CHECKED:
                row.append("")
            elif given.resamples:
                rng, drawn = np.random.default_rng(0), []
                for _ in range(given.resamples):
                    again = scores.resampled(rng)
                    refit = fit(again.seen(sets))
                    drawn.append(fmean(regrets(planner.sizes, scores, {s: refit.latent(s) for s in SETS}, budgets)))
                row.append(f"{np.quantile(drawn, 0.05):.4f} to {np.quantile(drawn, 0.95):.4f}")
            rows.append(row)
        print(f"{metric}, labels {resolution}, {percent} % of the images; spread of runs {scores.spread():.4f} "
              f"(of a mean of five {scores.spread() / math.sqrt(5):.4f})")  # fmt: skip
        header = ["seen", "values", "unseen MAE", "rank", "mean regret", "worst", "brute force"]
        header += ["regret, runs redrawn"] * bool(given.resamples)
        print(table(header, rows, [False, False, *[True] * (len(header) - 2)]), "\n")
    print(f"{time.perf_counter() - began:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SparseplanError as error:
        sys.exit(f"error: {error}")
