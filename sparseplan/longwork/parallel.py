"""Running jobs in parallel, through joblib."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing import current_process
from pathlib import Path
from typing import Any

import joblib
from threadpoolctl import threadpool_limits

from sparseplan.atomic import alive
from sparseplan.longwork.digests import decoded, encoded
from sparseplan.longwork.store import Job, Recipe, Result, Store
from sparseplan.run.settings import check_count

#: joblib's own rule: below this many free bytes, shared memory is left alone
_ROOM = 2 * 10**9
#: seconds after which a worker notices that its parent is gone
_WATCH = 0.5


def run_all(
    jobs: Sequence[Job],
    *,
    store: Store | None = None,
    jobs_at_once: int = 1,
    progress: Callable[[int, int, Job, Result], None] | None = None,
) -> dict[str, Result]:
    """Run every job that is not stored yet, several at a time; results by key, in the order of ``jobs``.

    Jobs of equal keys run once. ``jobs_at_once`` is joblib's ``n_jobs``: 1 runs them here, more in
    processes of joblib's own, or on what ``joblib.parallel_config(backend=…)`` names (a Dask cluster
    takes as many as it has workers). BLAS takes one thread in each worker. On an error or Ctrl-C,
    runs under way are dropped and their processes end; what was finished is stored.

    Args:
        store: where finished runs are kept and found again.
        progress: called after each finished run with (finished, all, job, result); stored ones come first.

    Raises:
        DataError: a stored run that is not what it should be.
        Whatever a job raises.
    """
    check_count("jobs", jobs_at_once)
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
        # threads share one limit, which must outlast each of them
        with threadpool_limits(limits=1):
            calls = [(_work, (job.shared, job.recipe, job.key)) for job in missing]
            for key, computed in spread(calls, jobs_at_once):
                result = decoded(encoded(computed))  # as if it had been stored
                if store is not None:
                    store.put(wanted[key], result)
                done(key, result)
    return {key: found[key] for key in wanted}


def spread(calls: Sequence[tuple[Callable[..., Any], tuple[Any, ...]]], jobs_at_once: int) -> Iterator[Any]:
    """What functions return, called in processes of joblib's own, as they finish.

    When the caller ends, however it does, the processes end, and what they shared in memory goes.
    """
    # one call a task: joblib would hold back results that it had grouped
    parallel = joblib.Parallel(
        n_jobs=min(jobs_at_once, len(calls)),
        batch_size=1,
        return_as="generator_unordered",
        temp_folder=_shared_folder() if jobs_at_once > 1 else None,
    )
    results = parallel(joblib.delayed(_called)(os.getpid(), function, values) for function, values in calls)
    try:
        yield from results
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that runs were dropped: that is what was asked for
            results.close()


def _called(parent: int, function: Callable[..., Any], values: tuple[Any, ...]) -> Any:
    _watch(parent)
    return function(*values)


def _work(shared: Any, recipe: Recipe, key: str) -> tuple[str, Result]:
    with threadpool_limits(limits=1):  # runs share the cores among themselves
        return key, recipe.run(shared)


# -- what a kill would leave behind ---------------------------------------------------------------
_watched = threading.Event()


def _watch(parent: int) -> None:
    """In a worker that is a child of ``parent``: end when that is gone.

    loky's workers would wait for work another five minutes. Threads, and workers of a cluster, are
    no children and left alone.
    """
    if _watched.is_set() or parent == os.getpid():
        return
    if os.getppid() != parent:
        if current_process().name.startswith("LokyProcess"):
            os._exit(1)  # a child whose parent ended before this first task began
        return
    _watched.set()

    def wait() -> None:
        while os.getppid() == parent:
            time.sleep(_WATCH)
        os._exit(1)

    threading.Thread(target=wait, daemon=True, name="parent watch").start()


def _shared_folder() -> str | None:
    """Where joblib puts the arrays that its processes share; None leaves that to joblib.

    A folder of our own, as joblib would choose it, so that what a process that was killed left
    there can be told from what others use, and removed.
    """
    if "JOBLIB_TEMP_FOLDER" in os.environ or not hasattr(os, "getuid"):
        return None
    memory = Path("/dev/shm")
    with suppress(OSError):
        room = os.statvfs(memory)
        if room.f_bsize * room.f_bavail < _ROOM or not os.access(memory, os.W_OK):
            memory = Path(tempfile.gettempdir())
    if not memory.is_dir():
        memory = Path(tempfile.gettempdir())
    folder = memory / f"sparseplan-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.is_symlink() or folder.stat().st_uid != os.getuid():
            return None
        for left in folder.glob("joblib_memmapping_folder_*"):
            pid = left.name.split("_")[3]
            if pid.isdigit() and not alive(int(pid)):
                shutil.rmtree(left, ignore_errors=True)
    except OSError:
        return None
    return os.fspath(folder)
