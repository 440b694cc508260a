"""The accuracy that a plan buys: fine-tune with its update set, measure before and after."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Any

from sparseplan.errors import ProblemError
from sparseplan.network import Network
from sparseplan.ops.base import Array
from sparseplan.run import predict, train
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


def check(
    network: Network,
    parameters: Mapping[str, Array],
    updates: Mapping[str, Mapping[str, float]],
    task: Task,
    *,
    seeds: int = 3,
    epochs: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> CheckReport:
    """Fine-tune with each update set, over several seeds, and measure on the test split.

    Args:
        updates: name -> (parameter -> fraction of its channels).
        seeds: number of training runs of each (seeds 0, 1, …: order of samples, augmentation).
        epochs: passes over the training data; the task's own number without.
        progress: called with a line of text after each epoch.

    Raises:
        DataError: parameters that do not fit the network, or a network that does not fit the task.
    """
    if seeds < 1:
        raise ProblemError(f"seeds={seeds} must be at least 1")
    before = task.metrics(predict(network, parameters, task.test.x), task.test)
    settings = task.settings if epochs is None else replace(task.settings, epochs=epochs)
    after: dict[str, tuple[Mapping[str, float], ...]] = {}
    for name, update in updates.items():
        runs: list[Mapping[str, float]] = []
        for seed in range(seeds):
            if not update:
                runs.append(before)
                continue

            def tell(epoch: int, total: int, loss: float, label: str = f"{name}, seed {seed}") -> None:
                if progress is not None:
                    progress(f"{label}: epoch {epoch} of {total}, loss {loss:.4f}")

            result = train(
                network, parameters, update, task.train.x, task.train.target,
                replace(settings, seed=seed), augment=task.augment, progress=tell,
            )  # fmt: skip
            runs.append(task.metrics(predict(network, result.parameters, task.test.x), task.test))
        after[name] = tuple(runs)
    return CheckReport(task.name, before, after, task.baselines(), dict(task.better))
