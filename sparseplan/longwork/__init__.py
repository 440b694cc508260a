"""Many training runs in parallel, each stored as soon as it is finished.

A ``Job`` says all that determines its result and carries the SHA-256 of that as its key. ``run_all``
runs jobs through joblib, on whatever backend the caller has chosen (``joblib.parallel_config``:
processes, threads, Dask, Ray), and writes each result to a ``Store`` the moment it arrives. So a
command that is killed goes on where it was; results depend on the key alone, never on the number of
jobs, the backend or the order.
"""

from sparseplan.longwork.digests import digest
from sparseplan.longwork.parallel import run_all
from sparseplan.longwork.store import Job, Recipe, Result, Store
from sparseplan.longwork.training import SPLITS, Case, Training, TrainJob

__all__ = [
    "SPLITS",
    "Case",
    "Job",
    "Recipe",
    "Result",
    "Store",
    "TrainJob",
    "Training",
    "digest",
    "run_all",
]
