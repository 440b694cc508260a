"""Training runs as jobs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from sparseplan.errors import ProblemError
from sparseplan.importers.spec import to_dict
from sparseplan.jsonio import Node
from sparseplan.longwork.digests import decoded, digest, plain
from sparseplan.longwork.store import Result
from sparseplan.longwork.underway import Share
from sparseplan.network import Network
from sparseplan.ops.base import Array
from sparseplan.plan import Plan
from sparseplan.planfile import plan_to_dict
from sparseplan.run import TrainSettings, Validation, adapt, predict, train
from sparseplan.tasks.base import Split, Task
from sparseplan.version import __version__

#: splits that a run can be measured on
SPLITS = ("val", "test")
#: most metrics of a stored run
_MOST = 1000


class Case:
    """A network, its parameters and a task: what many training runs share. Digests are computed once.

    Raises:
        DataError: a task that holds what has no digest.
    """

    def __init__(self, network: Network, parameters: Mapping[str, Array], task: Task) -> None:
        self.network, self.parameters, self.task = network, dict(parameters), task

    @cached_property
    def about(self) -> Mapping[str, str]:
        """Names and digests."""
        return {
            "network": self.network.name,
            "network_sha256": digest(to_dict(self.network)),
            "parameters_sha256": digest(self.parameters),
            "task": self.task.name,
            "task_sha256": digest(self.task),
        }

    def __sizeof__(self) -> int:
        """Bytes of the arrays, so that Dask sees that this is worth scattering."""
        splits = (self.task.train, self.task.val, self.task.test)
        arrays = [a for s in splits for a in (s.x, s.target, s.truth)] + list(self.parameters.values())
        return object.__sizeof__(self) + sum(np.asarray(a).nbytes for a in arrays)


@dataclass(frozen=True)
class Training:
    """Fine-tune an update set and measure: fast, or inside the arena of a plan.

    Attributes:
        update: parameter to the fraction of its channels to update; none leaves all as they are.
        settings: how; its seed is the run's. With ``stopping``, the task's validation split judges,
            by the task's headline metric.
        splits: what to measure on, ``val`` and ``test``.
        plan: train inside its arena.
        tell: where to write how far the run is, see ``underway``; makes no difference to the result.
        until: time of day at which the run ends with OutOfTime, if it is not done by then.

    Raises:
        ProblemError: an unknown split.
    """

    update: Mapping[str, float]
    settings: TrainSettings
    splits: tuple[str, ...] = SPLITS
    plan: Plan | None = None
    tell: str | None = field(default=None, compare=False)
    until: float | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        for split in self.splits:
            if split not in SPLITS:
                raise ProblemError(f"split={split!r} must be val or test")

    @property
    def about(self) -> Mapping[str, Any]:
        settings = {f.name: plain(getattr(self.settings, f.name)) for f in dataclasses.fields(self.settings)}
        return {
            "mode": "fast" if self.plan is None else "arena",
            "plan_sha256": None if self.plan is None else digest(_executed(self.plan)),
            "update": {p: float(f) for p, f in sorted(self.update.items())},
            "settings": settings,
            "splits": list(self.splits),
        }

    def run(self, shared: Case) -> Result:
        """``metrics`` by split, and what is told of the ``training``."""
        network, task, settings = shared.network, shared.task, self.settings
        trained: Mapping[str, Array] = shared.parameters
        told: dict[str, Any] = {"losses": [], "val_losses": [], "val_scores": [], "epochs": 0, "best": 0}
        if self.update:
            validation = None
            if settings.stopping is not None:
                val = task.val
                validation = Validation(val.x, val.target, lambda output: task.score(task.metrics(output, val)))
            x, target = task.train.x, task.train.target
            share = Share(self.tell, f"{digest(self.about)[:16]}", self.until)
            if self.plan is not None:
                report = adapt(
                    self.plan,
                    shared.parameters,
                    x,
                    target,
                    settings,
                    augment=task.augment,
                    validation=validation,
                    advance=share,
                )
                trained, told = report.result.parameters, report.to_json()
            else:
                result = train(
                    network,
                    shared.parameters,
                    self.update,
                    x,
                    target,
                    settings,
                    task.augment,
                    validation=validation,
                    advance=share,
                )
                trained = result.parameters
                told = {
                    "losses": list(result.losses), "val_losses": list(result.val_losses),
                    "val_scores": list(result.val_scores), "epochs": result.epochs, "best": result.best,
                }  # fmt: skip
        parts: dict[str, Split] = {"val": task.val, "test": task.test}
        metrics = {
            s: {m: float(v) for m, v in task.metrics(
                predict(network, trained, parts[s].x, dtype=settings.dtype), parts[s]).items()}
            for s in self.splits
        }  # fmt: skip
        return {"metrics": metrics, "training": told}

    def check(self, shared: Case, result: Node) -> None:
        """Fail unless every split has every metric of the task, a number."""
        result.record(("metrics", "training"))
        result["metrics"].record(self.splits)
        for split in self.splits:
            named = result["metrics"][split]
            metrics = dict(named.members(_MOST))
            named.record(shared.task.better, metrics)
            for value in metrics.values():
                if not isinstance(decoded(value.value), float):
                    value.fail("must be a number with a fraction")
        told = dict(result["training"].members(_MOST))
        result["training"].record(("losses", "val_losses", "val_scores", "epochs", "best"), told)


@dataclass(frozen=True)
class TrainJob:
    """One training run: a case that many share, and what is done with it."""

    case: Case
    training: Training

    @property
    def shared(self) -> Case:
        return self.case

    @property
    def recipe(self) -> Training:
        return self.training

    @cached_property
    def about(self) -> Mapping[str, Any]:
        return {"sparseplan": __version__, **self.case.about, **self.training.about}

    @cached_property
    def key(self) -> str:
        return digest(self.about)


def _executed(plan: Plan) -> dict[str, Any]:
    """What of a plan an execution follows: not what it is worth, nor how long it took to find."""
    data = plan_to_dict(plan)
    return {
        "options": plan.problem.options,
        "network": to_dict(plan.problem.network),
        **{k: data[k] for k in ("update", "peak_bytes", "values", "buffers", "steps")},
    }
