"""Many training runs in parallel, each stored as soon as it is finished.

A ``Job`` says all that determines its result and carries the SHA-256 of that as its key. ``run_all``
runs jobs through joblib, on whatever backend the caller has chosen (``joblib.parallel_config``:
processes, threads, Dask, Ray), and writes each result to a ``Store`` the moment it arrives. So a
command that is killed goes on where it was; results depend on the key alone, never on the number of
jobs, the backend or the order.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import joblib
import numpy as np
from threadpoolctl import threadpool_limits

from sparseplan.atomic import check_writable, write_text
from sparseplan.errors import DataError, OutputError, ProblemError
from sparseplan.importers.spec import to_dict
from sparseplan.jsonio import MAX_INT, Node, dump, load
from sparseplan.network import Network
from sparseplan.ops.base import Array
from sparseplan.plan import Plan
from sparseplan.planfile import plan_to_dict
from sparseplan.run import TrainSettings, Validation, adapt, predict, train
from sparseplan.tasks.base import Split, Task
from sparseplan.version import __version__

#: version of a stored run's format
FORMAT = 1
#: splits that a run can be measured on
SPLITS = ("val", "test")

Result = Mapping[str, Any]


class Recipe(Protocol):
    """The small part of a job: what to do with the large part, which many jobs share."""

    @property
    def about(self) -> Mapping[str, Any]:
        """All that determines the result, besides the shared part; plain data."""
        ...

    def run(self, shared: Any) -> Result:
        """The result, plain data; the same wherever and whenever it is computed."""
        ...


class Job(Protocol):
    """One unit of work."""

    @property
    def key(self) -> str:
        """SHA-256, in hexadecimal, of all that determines the result."""
        ...

    @property
    def about(self) -> Mapping[str, Any]:
        """All that determines the result, as plain data that people can read; the key is its digest."""
        ...

    @property
    def shared(self) -> Any:
        """The large part of the input, one object for many jobs: shipped once to each worker."""
        ...

    @property
    def recipe(self) -> Recipe:
        """The small part."""
        ...


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

    Raises:
        ProblemError: an unknown split.
    """

    update: Mapping[str, float]
    settings: TrainSettings
    splits: tuple[str, ...] = SPLITS
    plan: Plan | None = None

    def __post_init__(self) -> None:
        for split in self.splits:
            if split not in SPLITS:
                raise ProblemError(f"split={split!r} must be val or test")

    @property
    def about(self) -> Mapping[str, Any]:
        settings = {f.name: _plain(getattr(self.settings, f.name)) for f in dataclasses.fields(self.settings)}
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
            if self.plan is not None:
                report = adapt(
                    self.plan, shared.parameters, x, target, settings, augment=task.augment, validation=validation
                )
                trained, told = report.result.parameters, report.to_json()
            else:
                result = train(
                    network, shared.parameters, self.update, x, target, settings, task.augment, validation=validation
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


class Store:
    """A folder with one JSON file for each finished run, named by the run's key.

    Files are written whole or not at all, so that nothing half-written is ever read; temporary
    files that a kill leaves behind are not read. Nothing is pickled, and nothing that is read is
    believed: a file must be named by the digest of what it says it is, and carry that of its result.

    Raises:
        OutputError: a path that is no folder, or cannot be written to.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        text = os.fspath(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise OutputError(f"store={text!r} is a file; name a folder for finished runs") from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise OutputError(f"store={text!r} cannot be made: {reason}; name a folder that is yours") from None
        try:
            check_writable(self.folder / "run.json")
        except OutputError:
            raise OutputError(f"store={text!r} cannot be written to; name a folder that is yours") from None

    def path(self, key: str) -> Path:
        """Where the run of a key is, or will be."""
        return self.folder / f"{key}.json"

    def get(self, job: Job) -> Result | None:
        """The stored result of a job, or None.

        Raises:
            DataError: the file is not what this class writes for that job.
        """
        path = self.path(job.key)
        if not path.exists():
            return None
        try:
            root = Node(load(path, "stored run", DataError), f"stored run {os.fspath(path)!r}", DataError)
            root.record(("sparseplan_run", "key", "about", "result", "result_sha256"))
            root["sparseplan_run"].integer(FORMAT, FORMAT)
            if root["key"].text() != job.key or digest(root["about"].value) != job.key:
                root["key"].fail("is not the digest of what the file is about")
            if root["result_sha256"].text() != digest(root["result"].value):
                root["result_sha256"].fail("is not the digest of the result: it was changed by hand or is damaged")
            root["result"].record(optional=root["result"].value)  # an object
        except DataError as error:
            raise DataError(f"{error}; delete the file to have that run computed again") from None
        result: Result = _decoded(root["result"].value)
        return result

    def put(self, job: Job, result: Result) -> None:
        """Store a result, at once and whole."""
        coded = _encoded(result)
        write_text(
            self.path(job.key),
            dump({
                "sparseplan_run": FORMAT, "key": job.key, "about": _plain(job.about),
                "result": coded, "result_sha256": digest(coded),
            }),
        )  # fmt: skip


def run_all(
    jobs: Sequence[Job],
    *,
    store: Store | None = None,
    jobs_at_once: int = 1,
    progress: Callable[[int, int, Job, Result], None] | None = None,
) -> dict[str, Result]:
    """Run every job that is not stored yet, several at a time; results by key, in the order of ``jobs``.

    Jobs of equal keys run once. ``jobs_at_once`` is joblib's ``n_jobs``: 1 runs them here, more in
    processes of joblib's own, or on what ``joblib.parallel_config(backend=…)`` names. BLAS takes one
    thread in each worker. On an error or Ctrl-C, runs under way are dropped and their processes end;
    what was finished is stored.

    Args:
        store: where finished runs are kept and found again.
        progress: called after each finished run with (finished, all, job, result); stored ones come first.

    Raises:
        DataError: a stored run that is not what it should be.
        Whatever a job raises.
    """
    if isinstance(jobs_at_once, bool) or not isinstance(jobs_at_once, int) or jobs_at_once < 1:
        raise ProblemError(f"jobs={jobs_at_once!r} must be a whole number, at least 1")
    wanted = {job.key: job for job in jobs}
    found: dict[str, Result] = {}

    def done(key: str, result: Result) -> None:
        found[key] = result
        if progress is not None:
            progress(len(found), len(wanted), wanted[key], result)

    for key, job in wanted.items() if store is not None else ():
        stored = store.get(job) if store is not None else None
        if stored is not None:
            done(key, stored)
    missing = [job for key, job in wanted.items() if key not in found]
    if missing:
        # one job a task: joblib would hold back results that it had grouped
        parallel = joblib.Parallel(
            n_jobs=min(jobs_at_once, len(missing)), batch_size=1, return_as="generator_unordered"
        )
        # threads share one limit, which must outlast each of them
        with threadpool_limits(limits=1):
            results = parallel(joblib.delayed(_work)(job.shared, job.recipe, job.key) for job in missing)
            try:
                for key, computed in results:
                    result = _decoded(_encoded(computed))  # as if it had been stored
                    if store is not None:
                        store.put(wanted[key], result)
                    done(key, result)
            finally:
                results.close()
    return {key: found[key] for key in wanted}


def _work(shared: Any, recipe: Recipe, key: str) -> tuple[str, Result]:
    with threadpool_limits(limits=1):  # runs share the cores among themselves
        return key, recipe.run(shared)


# -- digests ------------------------------------------------------------------------------------
def digest(value: Any) -> str:
    """SHA-256, in hexadecimal, of plain data, arrays, and dataclasses or tasks of such.

    Raises:
        DataError: a value of another kind; such a one may give a ``fingerprint()`` of text.
    """
    text = json.dumps(_plain(value), ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _plain(value: Any, where: str = "value") -> Any:
    """``value`` as plain data, with arrays as digests of their bytes, dtype and shape."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return value if abs(value) <= MAX_INT else {"integer": str(value)}
    if isinstance(value, np.generic):
        return _plain(value.item(), where)
    if isinstance(value, float):
        return _encoded(value)
    if isinstance(value, np.ndarray):
        if value.dtype.hasobject:
            raise DataError(f"{where} is an array of Python objects, which has no digest; give numbers")
        little = np.ascontiguousarray(value.astype(value.dtype.newbyteorder("<"), copy=False))
        data = hashlib.sha256(little.view(np.uint8).reshape(-1).data if little.size else b"").hexdigest()
        return {"dtype": value.dtype.name, "shape": list(value.shape), "sha256": data}
    if isinstance(value, Mapping):
        return {str(k): _plain(v, f"{where}[{k!r}]") for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v, f"{where}[{i}]") for i, v in enumerate(value)]
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if callable(getattr(value, "fingerprint", None)):
        return {"type": kind, "fingerprint": str(value.fingerprint())}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: _plain(getattr(value, f.name), f"{where}.{f.name}") for f in dataclasses.fields(value)}
        return {"type": kind, **fields}
    raise DataError(f"{where} is a {kind}, which has no digest; make it plain data or give it fingerprint() -> str")


def _executed(plan: Plan) -> dict[str, Any]:
    """What of a plan an execution follows: not what it is worth, nor how long it took to find."""
    data = plan_to_dict(plan)
    return {
        "options": plan.problem.options,
        "network": to_dict(plan.problem.network),
        **{k: data[k] for k in ("update", "peak_bytes", "values", "buffers", "steps")},
    }


def _encoded(value: Any) -> Any:
    """Plain data that JSON can hold: numbers that are not finite become text."""
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(value)}
    if isinstance(value, Mapping):
        return {str(k): _encoded(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_encoded(v) for v in value]
    return value


def _decoded(value: Any) -> Any:
    if isinstance(value, dict):
        if set(value) == {"float"} and value["float"] in ("nan", "inf", "-inf"):
            return float(value["float"])
        return {k: _decoded(v) for k, v in value.items()}
    return [_decoded(v) for v in value] if isinstance(value, list) else value
