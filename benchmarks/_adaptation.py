"""What the benchmarks of adapting share: sets by the names of parameters, runs that are kept, cells of their tables."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from sparseplan.check import train_sets
from sparseplan.errors import ProblemError, near
from sparseplan.longwork import Job, Result, Store
from sparseplan.network import Network
from sparseplan.run.trainer import TrainSettings
from sparseplan.tasks.base import Task

#: update sets by the prefixes of their parameters; None is every bias
Prefixes = Mapping[str, tuple[str, ...] | None]
Update = Mapping[str, float]


def sets_by_prefix(network: Network, sets: Prefixes) -> dict[str, dict[str, float]]:
    """Parameters of each named set, each in whole."""
    return {
        name: {
            p: 1.0
            for p in network.parameters
            if (p.endswith("bias") if prefixes is None else bool(prefixes) and p.startswith(prefixes))
        }
        for name, prefixes in sets.items()
    }


def picked(sets: Mapping[str, Update], names: Sequence[str]) -> dict[str, Update]:
    """Some of the sets by name; raises ProblemError for a name that is none of theirs."""
    for name in names:
        if name not in sets:
            raise ProblemError(f"set {name!r} is unknown{near(name, sets)}")
    return {name: sets[name] for name in names}


@dataclass(frozen=True)
class Run:
    """Metrics by split after training, and the seconds that training and measuring took (None: it was stored)."""

    metrics: Mapping[str, Mapping[str, float]]
    seconds: float | None


class _Counting(Store):
    """Knows how many runs were added: what was found again says nothing of how long a run takes."""

    added = 0

    def put(self, job: Job, result: Result) -> None:
        super().put(job, result)
        self.added += 1


def run_sets(
    network: Network,
    parameters: Mapping,
    sets: Mapping[str, Update],
    tasks: Iterable[Task],
    settings: Callable[[Task], TrainSettings],
    store: str | None,
    tell: Callable[[int, str, Run], None],
) -> dict[str, list[Run]]:
    """Train every set once for each task in turn, whose number is the seed.

    Args:
        settings: how to train on a task.
        store: folder of finished runs; what is there is not run again.
        tell: called after each run with the seed, the set and the run.

    Returns:
        name -> one run for each task.
    """
    kept = None if store is None else _Counting(store)
    rows: dict[str, list[Run]] = {name: [] for name in sets}
    for seed, task in enumerate(tasks):
        for name, update in sets.items():
            before, began = 0 if kept is None else kept.added, time.perf_counter()
            found = train_sets(network, parameters, {name: update}, task, seeds=[seed], settings=settings(task),
                               store=kept)  # fmt: skip
            seconds = time.perf_counter() - began
            fresh = kept is None or kept.added > before or not update
            run = Run(found[name][0], seconds if fresh else None)
            rows[name].append(run)
            tell(seed, name, run)
    return rows


def took(run: Run) -> str:
    """How long a run took, for a line of progress."""
    return "stored before" if run.seconds is None else f"{run.seconds:.0f} s"


def cell(runs: Sequence[Run], split: str, metric: str) -> str:
    """Mean of a metric over runs, and its standard deviation where they differ."""
    values = [run.metrics[split][metric] for run in runs]
    spread = f" ± {stdev(values):.3f}" if len(set(values)) > 1 else ""
    return f"{fmean(values):.3f}{spread}"


def seconds_cell(runs: Sequence[Run]) -> str:
    """Mean seconds of the runs that were made now."""
    known = [run.seconds for run in runs if run.seconds is not None]
    return f"{fmean(known):.0f}" if known else "-"
