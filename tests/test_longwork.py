"""Long work: same results on any backend, nothing finished is lost to a kill, nothing stored is believed blindly."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest

from sparseplan.builder import NetworkBuilder, init_parameters
from sparseplan.errors import DataError, OutputError, ProblemError
from sparseplan.longwork import Case, Result, Store, Training, TrainJob, digest, run_all
from sparseplan.network import Network
from sparseplan.run import EarlyStopping, TrainSettings
from sparseplan.tasks.base import Split, Task

HERE = Path(__file__).resolve().parent


def tiny() -> Network:
    net = NetworkBuilder("tiny")
    x = net.relu(net.conv(net.input("image", (1, 4, 4)), 3, 3, padding=1, name="a"))
    return net.build(net.conv(x, 1, 1, name="b"))


@dataclass(frozen=True)
class Tiny(Task):
    """Learn the negative picture."""

    better = {"error": "lower"}  # type: ignore[assignment]  # noqa: RUF012
    headline = "error"  # type: ignore[assignment]

    def metrics(self, output: np.ndarray, split: Split) -> dict[str, float]:
        return {"error": float(np.abs(output - split.truth).mean())}

    def baselines(self) -> dict[str, dict[str, float]]:
        return {}

    def augment(self, x: Any, target: Any, rng: np.random.Generator) -> tuple[Any, Any]:
        return (x[..., ::-1], target[..., ::-1]) if rng.random() < 0.5 else (x, target)


def tiny_task(samples: int = 12) -> Tiny:
    def split(seed: int, n: int) -> Split:
        x = np.random.default_rng(seed).random((n, 1, 4, 4), np.float32)
        return Split(x, 1 - x, 1 - x)

    return Tiny("tiny", split(0, samples), split(1, 4), split(2, 5), TrainSettings("mse", lr=0.01, batch=4))


SETS = ({"a.weight": 1.0}, {"b.weight": 1.0, "b.bias": 1.0}, {"a.bias": 1.0})


def tiny_jobs(seeds: int = 2, samples: int = 12, epochs: int = 2) -> list[TrainJob]:
    net, task = tiny(), tiny_task(samples)
    case = Case(net, init_parameters(net), task)
    settings = replace(task.settings, epochs=epochs)
    return [TrainJob(case, Training(u, replace(settings, seed=s))) for u in SETS for s in range(seeds)]


def table(results: dict[str, Result]) -> str:
    return json.dumps(results, indent=1)


@pytest.fixture(scope="module")
def alone() -> dict[str, Result]:
    return run_all(tiny_jobs())


# -- the same whatever runs it ------------------------------------------------------------------------
def test_results_do_not_depend_on_jobs_or_order(alone: dict[str, Result]) -> None:
    jobs = tiny_jobs()
    assert list(alone) == [job.key for job in jobs]
    assert len(set(map(str, alone.values()))) == len(jobs)
    assert table(run_all(jobs, jobs_at_once=2)) == table(alone)
    turned = run_all([*jobs[::-1], jobs[0]], jobs_at_once=2)
    assert turned == alone
    assert list(turned) == [job.key for job in jobs[::-1]]


def test_threads_give_the_same(alone: dict[str, Result]) -> None:
    with joblib.parallel_config(backend="threading"):
        assert table(run_all(tiny_jobs(), jobs_at_once=3)) == table(alone)


@pytest.mark.parametrize("processes", [False, True])
def test_a_dask_cluster_gives_the_same(alone: dict[str, Result], processes: bool, tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed", reason="dask[distributed] is not installed")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=processes, dashboard_address=None,
            local_directory=str(tmp_path),
        ) as cluster,
        distributed.Client(cluster),
        joblib.parallel_config(backend="dask"),
    ):  # fmt: skip
        store = Store(tmp_path / "runs")
        assert table(run_all(tiny_jobs(), jobs_at_once=2, store=store)) == table(alone)
    assert len(list(store.folder.iterdir())) == len(alone)


def test_large_arrays_are_not_pickled_for_each_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes get them as files that joblib maps; Dask is told their size and scatters them once."""
    job = tiny_jobs(1, samples=20000)[0]
    assert sys.getsizeof(job.case) > job.case.task.train.x.nbytes > 1e6
    mapped = joblib.Parallel(n_jobs=2)(joblib.delayed(_kind)(job.shared) for _ in range(2))
    assert mapped == ["memmap", "memmap"]


def _kind(case: Case) -> str:
    x = case.task.train.x
    while x is not None and not isinstance(x, np.memmap):
        x = x.base
    return "array" if x is None else "memmap"


# -- keys ------------------------------------------------------------------------------------------------
def test_a_key_is_the_digest_of_all_that_determines_the_result() -> None:
    net, task = tiny(), tiny_task()
    params = init_parameters(net)
    base = TrainJob(Case(net, params, task), Training(SETS[0], task.settings))
    again = TrainJob(Case(tiny(), init_parameters(tiny()), tiny_task()), Training(dict(SETS[0]), task.settings))
    assert base.key == again.key == digest(base.about)
    other = {**params, "a.bias": params["a.bias"] + 1}
    changed = [
        TrainJob(Case(net, other, task), base.training),
        TrainJob(Case(net, params, tiny_task(13)), base.training),
        TrainJob(Case(net, params, replace(task, name="other")), base.training),
        TrainJob(base.case, replace(base.training, update={"a.weight": 0.5})),
        TrainJob(base.case, replace(base.training, splits=("test",))),
        *(TrainJob(base.case, replace(base.training, settings=replace(task.settings, **change))) for change in (
            {"seed": 1}, {"lr": 0.02}, {"epochs": 2}, {"dtype": "bf16"}, {"accumulate": 2},
            {"stopping": EarlyStopping(2)}, {"weight_decay": 0.1}, {"seed": 2**80},
        )),
    ]  # fmt: skip
    assert len({job.key for job in [base, *changed]}) == 1 + len(changed)


def test_digests_tell_arrays_apart() -> None:
    a = np.arange(6, dtype=np.float32)
    different = [a, a.reshape(2, 3), a.astype(np.float64), a[::-1], a[:0], [0.0, 1.0], {"a": a}, (1,), "1", 1, 1.5]
    assert len({digest(v) for v in different}) == len(different)
    assert digest(a[::2]) == digest(a[::2].copy())
    with pytest.raises(DataError, match=r"value\['f'\] is a builtins\.set, which has no digest; make it plain data"):
        digest({"f": {1}})
    with pytest.raises(DataError, match="array of Python objects"):
        digest(np.array([object()]))


# -- the store ---------------------------------------------------------------------------------------------
def test_finished_runs_are_found_again(alone: dict[str, Result], tmp_path: Path) -> None:
    store = Store(tmp_path / "new" / "runs")
    jobs = tiny_jobs()
    seen: list[tuple[int, int]] = []
    first = run_all(jobs[:4], store=store, progress=lambda k, n, job, result: seen.append((k, n)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert sorted(p.name for p in store.folder.iterdir()) == sorted(f"{k}.json" for k in first)
    text = store.path(jobs[0].key).read_text()
    for part in ('"network": "tiny"', '"task": "tiny"', '"seed": 0', '"a.weight": 1.0', '"mode": "fast"', '"error":'):
        assert part in text
    before = store.path(jobs[0].key).stat().st_mtime_ns
    assert table(run_all(jobs, store=store, jobs_at_once=2)) == table(alone)
    assert store.path(jobs[0].key).stat().st_mtime_ns == before
    (store.folder / f".{jobs[0].key}.0123456789ab.json").write_text("left over by a kill")
    (store.folder / "notes.txt").write_text("the user's")
    assert run_all(jobs, store=Store(store.folder)) == alone


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda text: text[: len(text) // 2], "is not JSON"),
        (lambda text: "", "is not JSON"),
        (lambda text: "[]", "must be an object"),
        (lambda text: "\x80\x04K\x01.", "is not JSON"),
        (lambda text: text.replace('"seed": 0', '"seed": 1'), "is not the digest of what the file is about"),
        (lambda text: text.replace('"best": 2', '"best": 1'), "changed by hand or is damaged"),
        (lambda text: text.replace('"sparseplan_run": 1', '"sparseplan_run": 2'), "sparseplan_run=2"),
        (lambda text: text.replace('"key"', '"kee"'), "key 'kee' is unknown; did you mean 'key'"),
        (lambda text: text.replace('"best": 2', '"best": NaN'), "NaN is not JSON"),
        (lambda text: text.replace('"best": 2', '"best": ' + "[" * 600 + "]" * 600), "is nested too deeply"),
        (lambda text: text.replace('"best": 2', '"best": ' + "[" * 99999 + "]" * 99999), "is nested too deeply"),
    ],
)
def test_damaged_runs_are_refused_by_name(spoil: Any, message: str, tmp_path: Path) -> None:
    store, job = Store(tmp_path), tiny_jobs(1)[0]
    run_all([job], store=store)
    path = store.path(job.key)
    spoilt = spoil(path.read_text())
    assert spoilt != path.read_text()
    path.write_text(spoilt)
    with pytest.raises(DataError, match=f"stored run .*{job.key}.*{message}.*; delete the file") as caught:
        run_all([job], store=store)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ({}, "key 'metrics' is missing"), ([], "must be an object"),
        ({"metrics": {}, "training": {}}, "'val' is missing"),
        ({"metrics": {"val": {}, "test": {}}, "training": {}}, "key 'error' is missing"),
        ({"metrics": {"val": {"error": "0"}, "test": {}}, "training": {}}, "must be a number"),
        ({"metrics": {"val": {"error": 0.5}, "test": {"error": 0.5}}, "training": {}}, "key 'losses' is missing"),
    ],
)  # fmt: skip
def test_forged_results_are_refused(result: Any, message: str, tmp_path: Path) -> None:
    """With a digest that is right, but not what training finds."""
    store, job = Store(tmp_path), tiny_jobs(1)[0]
    store.put(job, result)
    with pytest.raises(DataError, match=f"stored run .*{message}.*; delete the file"):
        run_all([job], store=store)


def test_a_run_of_another_job_is_refused(tmp_path: Path) -> None:
    store, jobs = Store(tmp_path), tiny_jobs(2)
    run_all(jobs[:1], store=store)
    store.path(jobs[0].key).rename(store.path(jobs[1].key))
    with pytest.raises(DataError, match=r"key=.* is not the digest of what the file is about; delete"):
        run_all(jobs, store=store)


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"store='.*file' is a file; name a folder"):
        Store(tmp_path / "file")
    with pytest.raises(OutputError, match=r"cannot be made: Not a directory; name a folder"):
        Store(tmp_path / "file" / "runs")
    if os.geteuid():
        (tmp_path / "locked").mkdir(mode=0o500)
        with pytest.raises(OutputError, match="cannot be written to; name a folder that is yours"):
            Store(tmp_path / "locked")
    with pytest.raises(OutputError, match=r"cannot be made"):
        Store("a\0b")


def test_figures_that_are_not_finite_come_back(tmp_path: Path) -> None:
    class Odd(Tiny):
        def metrics(self, output: np.ndarray, split: Split) -> dict[str, float]:
            return {"error": float("nan"), "most": float("inf")}

    net, task = tiny(), tiny_task()
    odd = Odd(task.name, task.train, task.val, task.test, task.settings)
    job = TrainJob(Case(net, init_parameters(net), odd), Training(SETS[0], task.settings))
    for _ in range(2):
        found = run_all([job], store=Store(tmp_path))[job.key]["metrics"]["test"]
        assert np.isnan(found["error"])
        assert found["most"] == float("inf")


def test_errors_of_a_run_keep_what_was_finished(tmp_path: Path) -> None:
    jobs = tiny_jobs(1)
    settings = replace(jobs[0].training.settings, optimizer="sgd", lr=1e30, epochs=9)
    wild = TrainJob(jobs[0].case, replace(jobs[0].training, settings=settings))
    store = Store(tmp_path)
    with pytest.raises(DataError, match=r"lower lr=1e\+30"), np.errstate(all="ignore"):
        run_all([*jobs, wild], store=store)
    assert all(store.get(job) is not None for job in jobs)
    with pytest.raises(DataError, match=r"lower lr=1e\+30"):
        run_all([wild, *jobs], jobs_at_once=2)
    with pytest.raises(ProblemError, match="jobs=0 must be a whole number"):
        run_all(jobs, jobs_at_once=0)
    with pytest.raises(ProblemError, match="split='train' must be val or test"):
        Training({}, TrainSettings(), ("train",))


# -- kills ---------------------------------------------------------------------------------------------------
WORK = """
import json, sys
sys.path.insert(0, {here!r})
import test_longwork as t
from sparseplan.longwork import Store, run_all
jobs = t.tiny_jobs(seeds=4, samples=60, epochs=int(sys.argv[3]))
def told(k, n, job, result):
    print(k, n, flush=True)
found = run_all(jobs, store=Store(sys.argv[1]), jobs_at_once=2, progress=told)
open(sys.argv[2], "w").write(t.table(found))
"""


def start(folder: Path, out: Path, epochs: int = 3) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WORK.format(here=str(HERE)), str(folder), str(out), str(epochs)],
        stdout=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(HERE.parent)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # background scripts have it ignored
    )  # fmt: skip


def test_killed_work_goes_on_and_ends_with_the_same_table(tmp_path: Path) -> None:
    """SIGKILL to the whole group at random moments: after a random number of finished runs and a random pause."""
    rng = np.random.default_rng(7)
    whole = run_all(tiny_jobs(seeds=4, samples=60, epochs=3))
    store, out = tmp_path / "runs", tmp_path / "table.json"
    kept: dict[str, bytes] = {}
    kills = 0
    for _ in range(3):
        process = start(store, out)
        assert process.stdout is not None
        wanted = len(kept) + int(rng.integers(1, 4))
        for line in process.stdout:  # the k-th of n is told when it is stored
            if int(line.split()[0]) >= wanted:
                break
        time.sleep(float(rng.random()) * 0.01)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        kills += not out.exists()
        now = {p.name: p.read_bytes() for p in store.iterdir() if not p.name.startswith(".")}
        assert len(now) >= wanted  # what was told to be finished is there
        assert kept.items() <= now.items()  # and what was there before, unchanged
        kept = now
    assert kills >= 2
    process = start(store, out)
    assert process.wait(60) == 0
    assert out.read_text() == table(whole)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_a_kill_of_the_parent_alone_takes_its_workers_along(tmp_path: Path) -> None:
    process = start(tmp_path / "runs", tmp_path / "table.json", epochs=300)  # long enough that work is waiting
    assert process.stdout is not None
    process.stdout.readline()
    process.kill()
    process.wait()
    deadline = time.monotonic() + 30
    while members(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert members(process.pid) == []


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_ctrl_c_leaves_no_process_behind(tmp_path: Path) -> None:
    process = start(tmp_path / "runs", tmp_path / "table.json")
    assert process.stdout is not None
    process.stdout.readline()
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    assert process.wait(60) != 0
    deadline = time.monotonic() + 20
    while members(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert members(process.pid) == []


def members(session: int) -> list[int]:
    """Living processes of a session."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                state, _, _, own = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            except OSError:
                continue
            if int(own) == session and state != "Z":
                found.append(int(folder.name))
    return found
