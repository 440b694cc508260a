"""The accuracy that a plan buys: fine-tune with its update set, measure before and after."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from multiprocessing import get_context
from statistics import fmean, stdev
from typing import Any

from threadpoolctl import threadpool_limits

from sparseplan.errors import ProblemError
from sparseplan.network import Network
from sparseplan.ops.base import Array
from sparseplan.run import TrainSettings, predict, train
from sparseplan.tables import table
from sparseplan.tasks.base import Task


@dataclass(frozen=True)
class CheckReport:
    """Metrics on a task's test split.

    Attributes:
        before: of the parameters as they were.
        after: update set -> one table of metrics for each seed.
        baselines: of predictions that need no network.
        better: metric -> lower or higher.
    """

    task: str
    before: Mapping[str, float]
    after: Mapping[str, tuple[Mapping[str, float], ...]]
    baselines: Mapping[str, Mapping[str, float]]
    better: Mapping[str, str]

    def mean(self, name: str, metric: str) -> float:
        """Mean over seeds of a metric after training an update set."""
        return fmean(run[metric] for run in self.after[name])

    def spread(self, name: str, metric: str) -> float:
        """Standard deviation over seeds (0 for one seed)."""
        runs = [run[metric] for run in self.after[name]]
        return stdev(runs) if len(runs) > 1 else 0.0

    def to_json(self) -> dict[str, Any]:
        """Everything as plain data."""
        return {
            "task": self.task,
            "better": dict(self.better),
            "before": dict(self.before),
            "after": {
                name: {
                    "mean": {m: self.mean(name, m) for m in self.better},
                    "std": {m: self.spread(name, m) for m in self.better},
                    "seeds": [dict(r) for r in runs],
                }
                for name, runs in self.after.items()
            },
            "baselines": {name: dict(m) for name, m in self.baselines.items()},
        }

    def text(self) -> str:
        """A row each for before, every update set (mean ± spread) and every baseline."""
        names = list(self.better)
        rows: list[list[object]] = [["before", *(f"{self.before[m]:.3f}" for m in names)]]
        for name, runs in self.after.items():
            cells = (f"{self.mean(name, m):.3f} ± {self.spread(name, m):.3f}" for m in names)
            rows.append([f"{name} ({len(runs)} seeds)", *cells])
        rows += [[f"baseline: {n}", *(f"{v[m]:.3f}" for m in names)] for n, v in self.baselines.items()]
        arrows = [f"{m} {'↑' if self.better[m] == 'higher' else '↓'}" for m in names]
        return f"task {self.task}, test split\n" + table(("", *arrows), rows, [False] + [True] * len(names))


@dataclass(frozen=True)
class _Run:
    """One training run, as a worker process needs it."""

    network: Network
    parameters: Mapping[str, Array]
    update: Mapping[str, float]
    task: Task
    settings: TrainSettings

    def metrics(self) -> dict[str, float]:
        """Train, then measure on the test split."""
        task = self.task
        with threadpool_limits(limits=1):  # runs share the cores among themselves
            result = train(
                self.network, self.parameters, self.update, task.train.x, task.train.target, self.settings,
                augment=task.augment,
            )  # fmt: skip
            return task.metrics(predict(self.network, result.parameters, task.test.x), task.test)


def check(
    network: Network,
    parameters: Mapping[str, Array],
    updates: Mapping[str, Mapping[str, float]],
    task: Task,
    *,
    seeds: int = 3,
    epochs: int | None = None,
    jobs: int = 1,
    progress: Callable[[str], None] | None = None,
) -> CheckReport:
    """Fine-tune with each update set, over several seeds, and measure on the test split.

    Args:
        updates: name -> (parameter -> fraction of its channels). Equal sets are trained once.
        seeds: number of training runs of each (seeds 0, 1, …: order of samples, augmentation).
        epochs: passes over the training data; the task's own number without.
        jobs: training runs at a time, each a process of its own; results do not depend on it.
        progress: called with a line of text after each run.

    Raises:
        DataError: parameters that do not fit the network, or a network that does not fit the task.
    """
    for name, value in (("seeds", seeds), ("jobs", jobs)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ProblemError(f"{name}={value!r} must be a whole number, at least 1")
    before = task.metrics(predict(network, parameters, task.test.x), task.test)
    settings = task.settings if epochs is None else replace(task.settings, epochs=epochs)
    keys = {name: tuple(sorted(update.items())) for name, update in updates.items()}
    runs = {
        (key, seed): _Run(network, parameters, dict(key), task, replace(settings, seed=seed))
        for key in dict.fromkeys(keys.values())
        for seed in range(seeds)
        if key
    }
    found: dict[tuple[tuple[tuple[str, float], ...], int], Mapping[str, float]] = {}

    def done(key: tuple[tuple[tuple[str, float], ...], int], metrics: Mapping[str, float]) -> None:
        found[key] = metrics
        if progress is not None:
            progress(f"training: {len(found)} of {len(runs)} runs, {task.headline} {metrics[task.headline]:.3f}")

    if progress is not None and runs:
        progress(f"training: {len(runs)} runs, {min(jobs, len(runs))} at a time")
    if jobs == 1 or len(runs) < 2:
        for key, run in runs.items():
            done(key, run.metrics())
    else:
        # spawn: a forked process would inherit the threads of linear algebra in whatever state they are
        with ProcessPoolExecutor(min(jobs, len(runs)), mp_context=get_context("spawn")) as pool:
            waiting = {pool.submit(_Run.metrics, run): key for key, run in runs.items()}
            try:
                for future in as_completed(waiting):
                    done(waiting[future], future.result())
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    after = {name: tuple(found.get((key, s), before) for s in range(seeds)) for name, key in keys.items()}
    return CheckReport(task.name, before, after, task.baselines(), dict(task.better))
