"""The accuracy that a plan buys: fine-tune with its update set, measure before and after."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, stdev
from typing import Any

from threadpoolctl import threadpool_limits

from sparseplan.errors import PlanError, ProblemError
from sparseplan.importers.spec import to_dict
from sparseplan.longwork import Case, Job, Result, Store, Training, TrainJob, digest, run_all
from sparseplan.longwork.underway import watched
from sparseplan.network import Network
from sparseplan.ops.base import Array
from sparseplan.plan import Plan
from sparseplan.run import TrainSettings, plan_settings, predict
from sparseplan.run.adapt import LEARNING_RATES
from sparseplan.run.settings import check_count
from sparseplan.scalars import plain, plain_arguments
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
        training: update set -> for each seed what training told: losses, val_losses, val_scores,
            epochs run, the best of them; in an arena also claimed, touched bytes and faults.
    """

    task: str
    before: Mapping[str, float]
    after: Mapping[str, tuple[Mapping[str, float], ...]]
    baselines: Mapping[str, Mapping[str, float]]
    better: Mapping[str, str]
    training: Mapping[str, tuple[Mapping[str, Any], ...]] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether whatever was trained in an arena gave what the reference gives, in the bytes claimed."""
        return all(t.get("passed", True) for runs in self.training.values() for t in runs)

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
            "passed": self.passed,
            "baselines": {name: dict(m) for name, m in self.baselines.items()},
            "training": {name: [dict(t) for t in runs] for name, runs in self.training.items()},
        }

    def text(self) -> str:
        """A row each for before, every update set (mean ± spread) and every baseline."""
        names = list(self.better)
        rows: list[list[object]] = [["before", *(_short(self.before[m]) for m in names)]]
        for name, runs in self.after.items():
            cells = (f"{_short(self.mean(name, m))} ± {_short(self.spread(name, m))}" for m in names)
            rows.append([f"{name} ({len(runs)} seeds)", *cells])
        rows += [[f"baseline: {n}", *(_short(v[m]) for m in names)] for n, v in self.baselines.items()]
        arrows = [f"{m} {'↑' if self.better[m] == 'higher' else '↓'}" for m in names]
        text = f"task {self.task}, test split\n" + table(("", *arrows), rows, [False] + [True] * len(names))
        return text + "".join(f"\n{line}" for name in self.training for line in self._arena(name))

    def _arena(self, name: str) -> list[str]:
        """What there is to tell of a set that was trained in its arena."""
        runs = [t for t in self.training[name] if "claimed_bytes" in t]
        if not runs:
            return []
        first = runs[0]
        same = all(t["touched_bytes"] == t["claimed_bytes"] for t in runs)
        unlike = [text for t in runs for text in t.get("differences", ())]
        claimed = ", ".join(f"{level} {size:,} B" for level, size in first["claimed_bytes"].items())
        intact = "intact" if all(t["guard_intact"] for t in runs) else "BROKEN"
        return [
            f"{name}: trained in its arena of {claimed}, {'all' if same else 'NOT all'} of it touched; guard zones "
            f"{intact}; {first['checked_updates']:,} of {first['updates']:,} updates under all checks, "
            + (f"DIFFERS from the reference in {len(unlike)} results, first {unlike[0]}" if unlike else
               "equal to the reference bit for bit"),
            *(fault for t in runs for fault in t["faults"][:1]),
        ]  # fmt: skip


@plain_arguments
def train_sets(
    network: Network,
    parameters: Mapping[str, Array],
    updates: Mapping[str, Mapping[str, float]],
    task: Task,
    *,
    seeds: int | Sequence[int] = 3,
    settings: TrainSettings | None = None,
    jobs: int = 1,
    store: str | os.PathLike[str] | Store | None = None,
    plans: Mapping[str, Plan] | None = None,
    progress: Callable[[str], None] | None = None,
    until: float | None = None,
) -> dict[str, tuple[Mapping[str, Mapping[str, float]], ...]]:
    """Metrics on the validation and the test split after training each update set with each seed.

    Args:
        updates, seeds, settings, jobs, store, plans, progress: as of ``check``.
        until: a time of day, as of ``time.time``.

    Returns:
        name -> for each seed: split (``val``, ``test``) -> metric -> value.

    Raises:
        OutOfTime: a run was not done by then; finished ones are in the store.
    """
    found = _train(network, parameters, updates, task, seeds, settings, jobs, store, plans, progress, until=until)
    return {name: tuple(run["metrics"] for run in runs) for name, runs in found.items()}


@plain_arguments
def check(
    network: Network,
    parameters: Mapping[str, Array],
    updates: Mapping[str, Mapping[str, float]],
    task: Task,
    *,
    seeds: int | Sequence[int] = 3,
    epochs: int | None = None,
    jobs: int = 1,
    progress: Callable[[str], None] | None = None,
    settings: TrainSettings | None = None,
    store: str | os.PathLike[str] | Store | None = None,
    plans: Mapping[str, Plan] | None = None,
) -> CheckReport:
    """Fine-tune with each update set, over several seeds, and measure on the test split.

    The validation split serves early stopping alone (``settings.stopping``), which goes by the
    task's headline metric on it.

    Args:
        updates: name -> (parameter -> fraction of its channels). Equal sets are trained once.
        seeds: number of training runs of each (seeds 0, 1, …: order of samples, augmentation), or
            the seeds themselves.
        epochs: passes over the training data; those of the settings without.
        jobs: training runs at a time; see ``longwork.run_all``. Results do not depend on it.
        progress: called with a line of text after each run.
        settings: how to train; the task's own without. The seed in it is not used.
        store: folder where each finished run is kept, and found again by the next call.
        plans: name -> plan, trained with its own update set inside its arena, following the plan's
            optimizer, dtype, batch, loss and gradients. The learning rate is that of ``settings``
            where these are given and of the plan's optimizer, else ``run.adapt.LEARNING_RATES``.

    Raises:
        DataError: parameters that do not fit the network, a network that does not fit the task, a
            loss that became infinite, or a stored run that is damaged.
        ProblemError: an update that is not possible, a plan of another network, or a name given twice.
        OutputError: a store that cannot be written to.
    """
    dtype = (settings or task.settings).dtype
    with threadpool_limits(limits=1):  # as in every run: the last bits depend on the number of threads
        before = task.metrics(predict(network, parameters, task.test.x, dtype=dtype), task.test)
    found = _train(network, parameters, updates, task, seeds, settings, jobs, store, plans, progress, epochs)
    after = {name: tuple(run["metrics"]["test"] for run in runs) for name, runs in found.items()}
    told = {name: tuple(run["training"] for run in runs) for name, runs in found.items()}
    return CheckReport(task.name, before, after, task.baselines(), dict(task.better), told)


def _train(
    network: Network,
    parameters: Mapping[str, Array],
    updates: Mapping[str, Mapping[str, float]],
    task: Task,
    seeds: int | Sequence[int],
    settings: TrainSettings | None,
    jobs: int,
    store: str | os.PathLike[str] | Store | None,
    plans: Mapping[str, Plan] | None,
    progress: Callable[[str], None] | None,
    epochs: int | None = None,
    until: float | None = None,
) -> dict[str, tuple[Result, ...]]:
    """Results (see ``Training.run``) by name, one for each seed."""
    check_count("jobs", jobs)
    chosen = _seeds(seeds)
    plans = plans or {}
    for name in plans:
        if name in updates:
            raise ProblemError(f"name={name!r} is an update set and a plan; give each a name of its own")
    case = Case(network, parameters, task)
    wanted: dict[str, Training] = {}
    for name, update in updates.items():
        wanted[name] = Training(dict(update), settings or task.settings)
    for name, plan in plans.items():
        wanted[name] = Training(dict(plan.update), _arena_settings(name, plan, case, settings), plan=plan)
    if epochs is not None:
        wanted = {n: replace(t, settings=replace(t.settings, epochs=epochs)) for n, t in wanted.items()}
    count = len(chosen) * sum(bool(t.update) for t in wanted.values())
    with watched(count, progress) as place:
        wanted = {n: replace(t, tell=place, until=until) for n, t in wanted.items()}
        return _run_all(case, wanted, chosen, jobs, store, progress)


def _run_all(
    case: Case,
    wanted: Mapping[str, Training],
    chosen: Sequence[int],
    jobs: int,
    store: str | os.PathLike[str] | Store | None,
    progress: Callable[[str], None] | None,
) -> dict[str, tuple[Result, ...]]:
    runs = {
        name: [TrainJob(case, replace(training, settings=replace(training.settings, seed=seed))) for seed in chosen]
        for name, training in wanted.items()
        if training.update
    }
    every = [job for by_seed in runs.values() for job in by_seed]
    keys = {job.key for job in every}
    kept = store if store is None or isinstance(store, Store) else Store(store)
    if progress is not None and keys:
        before = 0 if kept is None else sum(kept.path(key).exists() for key in keys)
        known = f", {before} of them stored before" if before else ""
        progress(f"training: {len(keys)} runs, {min(jobs, len(keys))} at a time{known}")

    def done(finished: int, of: int, job: Job, result: Result) -> None:
        if progress is not None:
            headline = case.task.headline
            progress(f"training: {finished} of {of} runs, {headline} {result['metrics']['test'][headline]:.3f}")

    found = run_all(every, store=kept, jobs_at_once=jobs, progress=done)
    # what trains nothing needs no seed
    with threadpool_limits(limits=1):
        still = {name: training.run(case) for name, training in wanted.items() if not training.update}
    return {
        name: tuple(found[job.key] for job in runs[name]) if name in runs else (still[name],) * len(chosen)
        for name in wanted
    }


def _short(value: float) -> str:
    """Three decimals, or three digits of what is small."""
    return f"{value:.3f}" if abs(value) >= 0.01 or value == 0 else f"{value:.3g}"


def _seeds(seeds: int | Sequence[int]) -> list[int]:
    if isinstance(seeds, (int, bool, float)):
        check_count("seeds", seeds)
        return list(range(int(seeds)))
    chosen: list[int] = plain(list(seeds))
    for seed in chosen:
        check_count("seed", seed, 0)
    if not chosen or len(set(chosen)) < len(chosen):
        raise ProblemError(f"seeds={chosen!r} must be different whole numbers, at least one")
    return chosen


def _arena_settings(name: str, plan: Plan, case: Case, settings: TrainSettings | None) -> TrainSettings:
    if not plan.feasible:
        raise PlanError(f"plan {name!r} with status={plan.status} has nothing to train")
    if digest(to_dict(plan.problem.network)) != case.about["network_sha256"]:
        raise ProblemError(
            f"plan {name!r} is of network {plan.problem.network.name!r}, which is not the one given "
            f"({case.network.name!r}); give that of the plan"
        )
    if settings is not None:
        return plan_settings(plan, settings)
    return plan_settings(plan, case.task.settings, lr=LEARNING_RATES[plan.problem.options.optimizer])
