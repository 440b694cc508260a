"""What the plans of a front really buy: each trained, beside the update sets that people use today."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from sparseplan.baselines import Baseline
from sparseplan.check import train_sets
from sparseplan.longwork import Store
from sparseplan.ops.base import Array
from sparseplan.run import TrainSettings
from sparseplan.sweep import Front
from sparseplan.tasks.base import Task


@dataclass(frozen=True)
class TrainedFront:
    """Measured accuracy of a front's plans and of baselines.

    Attributes:
        rows: tidy, one row for each (set, seed, split): kind, name, cost, value, seed, split, and every metric.
        headline: the metric that sums the task up; ``higher`` tells whether more of it is better.
        constants: baselines that need no network, name -> metrics on the test split.
    """

    front: Front
    task: str
    rows: pd.DataFrame
    headline: str
    higher: bool
    constants: Mapping[str, Mapping[str, float]]

    def summary(self, split: str = "test") -> pd.DataFrame:
        """One row a set: kind, name, cost, value, seeds, mean and std of the headline, cheapest first."""
        rows = self.rows[self.rows["split"] == split]
        grouped = rows.groupby(["kind", "name", "cost"], sort=False, dropna=False)
        found = grouped.agg(
            value=("value", "first"), seeds=("seed", "count"), mean=(self.headline, "mean"), std=(self.headline, "std")
        ).reset_index()
        found["std"] = found["std"].fillna(0.0)
        return found.sort_values(["cost", "kind", "name"], ignore_index=True)


def train_front(
    front: Front,
    parameters: Mapping[str, Array],
    task: Task,
    *,
    against: Sequence[Baseline] = (),
    seeds: int = 3,
    settings: TrainSettings | None = None,
    jobs: int = 1,
    store: str | os.PathLike[str] | Store | None = None,
    progress: Callable[[str], None] | None = None,
) -> TrainedFront:
    """Fine-tune with the update set of every point and every baseline, over several seeds.

    Args:
        parameters: to start from, all of the network's.
        against: update sets to train as well. Equal sets are trained once.
        seeds, settings, jobs, store, progress: as of ``check``.

    Raises:
        DataError: parameters or a network that do not fit the task.
    """
    network = front.problem.network
    about: dict[str, tuple[str, str, float, float | None]] = {}
    updates: dict[str, Mapping[str, float]] = {}
    for p in front.points:
        key = f"planned {p.cost:,.6g}" if front.axis == "time" else f"planned {p.cost:,}"
        about[key], updates[key] = ("planned", key, p.cost, p.value), p.update
    for b in against:
        key = f"{b.kind}: {b.name}"
        about[key], updates[key] = (b.kind, b.name, b.cost, front.problem.worth(b.update)), b.update
    found = train_sets(
        network, parameters, updates, task, seeds=seeds, settings=settings, jobs=jobs, store=store, progress=progress
    )
    rows = []
    for key, runs in found.items():
        kind, name, cost, value = about[key]
        for seed, splits in enumerate(runs):
            for split, metrics in splits.items():
                rows.append({"kind": kind, "name": name, "cost": cost, "value": value, "seed": seed, "split": split,
                             **metrics})  # fmt: skip
    higher = task.better[task.headline] == "higher"
    return TrainedFront(front, task.name, pd.DataFrame(rows), task.headline, higher, task.baselines())
