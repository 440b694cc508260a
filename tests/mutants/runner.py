"""`make mutants`: plant one fault after the other, run the tests that it names, and say which were not caught.

Each worker has a copy of the package and its tests in a folder of its own; the checkout is never touched. Named tests
are first run without any fault, as what fails anyway catches nothing. Results are stored as they come, under a digest
of the fault, of the package and of the tests, so that an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from faults import PACKAGE, ROOT, Fault, FaultError, every

#: of faults that are not equivalent, at least this share must be caught
LEAST = 0.95
#: a test of seconds that takes longer hangs
TIMEOUT = 300.0
_COPIED = ("sparseplan", "tests", "scripts", "pyproject.toml", "README.md", "docs")


@dataclass(frozen=True, slots=True)
class Job:
    """A run of pytest: with a fault, or without one to see that the tests pass."""

    tests: tuple[str, ...]
    fault: Fault | None = None

    @property
    def name(self) -> str:
        return self.fault.id if self.fault else "no fault: " + " ".join(self.tests)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a job went: ``passed``, ``failed``, ``hung``, or ``broken`` where pytest found no test to run."""

    state: str
    seconds: float
    tail: str = ""


class Store:
    """Outcomes by digest, in a file of JSON that is written whole after each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = threading.Lock()
        self.known = self._read()

    def _read(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        if self.path.exists():
            found = json.loads(self.path.read_text(encoding="utf-8"))
        return found

    def get(self, key: str) -> Outcome | None:
        with self.lock:
            found = self.known.get(key)
        return Outcome(found["state"], found["seconds"], found["tail"]) if found else None

    def put(self, key: str, name: str, outcome: Outcome) -> None:
        with self.lock:
            self.known = {**self._read(), **self.known}  # another run may have written meanwhile
            self.known[key] = {
                "name": name, "state": outcome.state, "seconds": round(outcome.seconds, 2), "tail": outcome.tail,
            }  # fmt: skip
            self.path.parent.mkdir(parents=True, exist_ok=True)
            fresh = self.path.with_suffix(".new")
            fresh.write_text(json.dumps(self.known, indent=1, sort_keys=True), encoding="utf-8")
            os.replace(fresh, self.path)


class Digests:
    """What a result depends on: the fault, the package, the test files named, and what all tests share."""

    def __init__(self) -> None:
        shared = [
            p for p in (ROOT / "tests").rglob("*.py") if not p.name.startswith("test_") and "mutants" not in p.parts
        ]
        self.package = _digest(p for p in PACKAGE.rglob("*") if p.is_file() and p.suffix != ".pyc")
        self.shared = _digest(shared)

    def of(self, job: Job, loose: bool) -> str:
        fault = job.fault
        said = [*job.tests]
        if fault is not None:
            said += [fault.file, fault.old, fault.new, str(fault.index)]
        if loose and fault is not None:
            said.append(_digest([PACKAGE / fault.file]))
        elif not loose:
            said += [self.package, self.shared]
        files = [ROOT / t.split("::")[0] for t in job.tests if t.startswith("tests/")]
        said.append(_digest(p for f in files for p in (sorted(f.rglob("*.py")) if f.is_dir() else [f])))
        return hashlib.sha256("\0".join(said).encode()).hexdigest()[:32]


def _digest(paths: Iterable[Path]) -> str:
    found = hashlib.sha256()
    for path in sorted(paths):
        found.update(str(path.relative_to(ROOT)).encode() + b"\0")
        found.update(hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()


class Worker(threading.Thread):
    """Runs jobs in a copy of the tree, one after the other."""

    def __init__(self, folder: Path, jobs: queue.SimpleQueue[Job], done: Any, timeout: float) -> None:
        super().__init__(daemon=True)
        self.tree, self.jobs, self.done, self.timeout = folder, jobs, done, timeout
        self.child: subprocess.Popen[str] | None = None
        self.stopping = False
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            _copy(self.tree)
            while not self.stopping:
                try:
                    job = self.jobs.get_nowait()
                except queue.Empty:
                    return
                outcome = self.work(job)
                if not self.stopping:
                    self.done(job, outcome)
        except BaseException as error:
            self.failure = error

    def work(self, job: Job) -> Outcome:
        if job.fault is None:
            return self.pytest(job.tests)
        source = self.tree / "sparseplan" / job.fault.file
        text = source.read_text(encoding="utf-8")
        for old in (source.parent / "__pycache__").glob(f"{source.stem}.*.pyc"):
            old.unlink()  # a fault of the same size within the same second would go unseen
        source.write_text(job.fault.mutated(text), encoding="utf-8")
        try:
            return self.pytest(job.tests)
        finally:
            source.write_text(text, encoding="utf-8")

    def pytest(self, tests: Sequence[str]) -> Outcome:
        environment = {
            **os.environ, "PYTHONPATH": str(self.tree), "PYTHONDONTWRITEBYTECODE": "1", "HYPOTHESIS_PROFILE": "ci",
        }  # fmt: skip
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--no-header", *tests]
        began = time.monotonic()
        self.child = subprocess.Popen(
            command, cwd=self.tree, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True,
        )  # fmt: skip
        try:
            output, _ = self.child.communicate(timeout=self.timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            self.child.communicate()
            return Outcome("hung", time.monotonic() - began, f"no end within {self.timeout:g} s")
        seconds = time.monotonic() - began
        lines = [line for line in output.splitlines() if line.strip()]
        said = [line for line in lines if line.startswith(("FAILED", "ERROR"))] or lines[-1:]
        ran = any(word in line for line in lines[-1:] for word in ("passed", "failed", "error"))
        code = self.child.returncode
        state = "passed" if code == 0 and ran else "broken" if code in (0, 4, 5) else "failed"
        return Outcome(state, seconds, said[0][:200] if said else "")

    def kill(self) -> None:
        child = self.child
        if child is not None and child.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)


def _copy(tree: Path) -> None:
    """What tests need of the checkout, compiled once."""
    tree.mkdir(parents=True)
    for name in _COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=shutil.ignore_patterns("__pycache__", ".hypothesis"))
        elif source.exists():
            shutil.copy2(source, tree / name)
    subprocess.run([sys.executable, "-m", "compileall", "-q", "sparseplan", "tests"], cwd=tree, check=True)
    command = [sys.executable, "-c", "import sparseplan; print(sparseplan.__file__)"]
    where = subprocess.run(
        command, cwd=tree, env={**os.environ, "PYTHONPATH": str(tree)}, capture_output=True, text=True, check=True
    )
    if not Path(where.stdout.strip()).is_relative_to(tree):
        raise FaultError(f"tests in {tree} would import {where.stdout.strip()}, which has no fault in it")


def work(jobs: Sequence[Job], workers: int, timeout: float, store: Store, digests: Digests, loose: bool) -> None:
    """Run what is not known yet, with a line for each as it ends."""
    waiting: queue.SimpleQueue[Job] = queue.SimpleQueue()
    missing = [job for job in jobs if store.get(digests.of(job, loose)) is None]
    for job in missing:
        waiting.put(job)
    if len(missing) < len(jobs):
        print(f"{len(jobs) - len(missing)} of {len(jobs)} known from earlier runs ({store.path})", flush=True)
    ended = 0
    lock = threading.Lock()
    # taken before the trees are copied: what changes meanwhile is not what was run
    keys = {job: {digests.of(job, False), digests.of(job, True)} for job in missing}

    def done(job: Job, outcome: Outcome) -> None:
        nonlocal ended
        for key in keys[job]:
            store.put(key, job.name, outcome)
        with lock:
            ended += 1
            word = outcome.state if job.fault is None else _word(job.fault, outcome)
            print(f"[{ended}/{len(missing)}] {word:<10} {outcome.seconds:6.1f} s  {job.name}", flush=True)

    if not missing:
        return
    with tempfile.TemporaryDirectory(prefix="sparseplan-mutants-", ignore_cleanup_errors=True) as folder:
        threads = [
            Worker(Path(folder).resolve() / str(i), waiting, done, timeout) for i in range(min(workers, len(missing)))
        ]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                while thread.is_alive():
                    thread.join(0.2)
        finally:
            for thread in threads:
                thread.stopping = True
                thread.kill()
            for thread in threads:
                thread.join(10)
        for thread in threads:
            if thread.failure is not None:
                raise thread.failure


def _word(fault: Fault, outcome: Outcome) -> str:
    if outcome.state in ("failed", "hung"):
        return "caught"
    if outcome.state == "broken":
        return "BROKEN"
    return "equivalent" if fault.equivalent else "SURVIVED"


def report(faults: Sequence[Fault], outcomes: Sequence[Outcome]) -> bool:
    """Print the list, the rate by area and the survivors; whether the check is passed."""
    words = [_word(f, o) for f, o in zip(faults, outcomes, strict=True)]
    width = max(len(f.id) for f in faults)
    for f, o, word in zip(faults, outcomes, words, strict=True):
        print(f"{word:<10} {f.area:<10} {f.id:<{width}} {f.file}  {o.tail if word == 'caught' else ''}".rstrip())
    print(f"\n{'area':<12}{'faults':>7}{'caught':>8}{'equivalent':>12}{'survived':>10}")
    for area in dict.fromkeys(f.area for f in faults):
        own = [w for f, w in zip(faults, words, strict=True) if f.area == area]
        rest = sum(w in ("SURVIVED", "BROKEN") for w in own)
        print(f"{area:<12}{len(own):>7}{own.count('caught'):>8}{own.count('equivalent'):>12}{rest:>10}")
    caught, equivalent = words.count("caught"), words.count("equivalent")
    told = len(words) - equivalent
    rate = caught / told if told else 1.0
    print(f"{'all':<12}{len(words):>7}{caught:>8}{equivalent:>12}{len(words) - caught - equivalent:>10}")
    print(f"\ncaught: {caught} of {told} that can be told ({rate:.1%}; at least {LEAST:.0%} is asked)")
    for f, word in zip(faults, words, strict=True):
        if word == "equivalent":
            print(f"equivalent: {f.id}: {f.equivalent}")
    wrong = [f for f, w in zip(faults, words, strict=True) if w == "caught" and f.equivalent]
    for f in wrong:
        print(f"WRONG: {f.id} was caught, so it is not equivalent: drop its explanation")
    for f, o, word in zip(faults, outcomes, words, strict=True):
        if word == "SURVIVED":
            print(f"SURVIVED: {f.id}: {f.file}: write a test that fails with it, or explain why none can")
        if word == "BROKEN":
            print(f"BROKEN: {f.id}: no test ran for {' '.join(f.tests)!r}: {o.tail}")
    return rate >= LEAST and caught + equivalent == len(words) and not wrong


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make mutants", description=__doc__.splitlines()[0])
    parser.add_argument("--list", action="store_true", help="print the faults and run nothing")
    parser.add_argument("--only", action="append", default=[], metavar="WORD",
                        help="faults of that area, or whose id or file contains it; may be repeated")  # fmt: skip
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--timeout", type=float, default=TIMEOUT, help="seconds; what takes longer counts as caught")
    parser.add_argument("--anew", action="store_true", help="forget what earlier runs found")
    parser.add_argument("--loose", action="store_true",
                        help="keep results as long as the fault, its file and its tests are unchanged")  # fmt: skip
    parser.add_argument("--store", type=Path, default=ROOT / "out" / "mutants.json")
    given = parser.parse_args(arguments)
    try:
        faults = every()
        if given.only:
            faults = [f for f in faults if any(_means(w, f, {g.area for g in faults}) for w in given.only)]
    except (FaultError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    gone = {f: why for f in faults if (why := _gone(f)) is not None}
    faults = [f for f in faults if f not in gone]
    for why in gone.values():
        print(f"GONE: {why}")
    if not faults:
        print(f"no fault has {given.only} in its id, area or file", file=sys.stderr)
        return 2
    if given.list:
        for f in faults:
            print(f"{f.area:<10} {f.id}: {f.file}: {' '.join(f.tests)}" + (" (equivalent)" if f.equivalent else ""))
        print(f"{len(faults)} faults")
        return 0
    if given.anew:
        given.store.unlink(missing_ok=True)
    store, digests = Store(given.store), Digests()
    sound = [Job(tests) for tests in dict.fromkeys(f.tests for f in faults)]
    planted = [Job(f.tests, f) for f in faults]
    began = time.monotonic()
    try:
        work([*planted, *sound], given.jobs, given.timeout, store, digests, given.loose)
    except KeyboardInterrupt:
        print("\nstopped; the next run goes on from here", file=sys.stderr)
        return 130
    except FaultError as error:
        print(error, file=sys.stderr)
        return 2
    found: list[list[Outcome]] = []
    for jobs in (sound, planted):
        outcomes = [store.get(digests.of(job, given.loose)) for job in jobs]
        found.append([o if o is not None else Outcome("broken", 0.0, "never ran") for o in outcomes])
    print()
    passed = report(faults, found[1])
    for job, outcome in zip(sound, found[0], strict=True):
        if outcome.state != "passed":
            passed = False
            print(f"NO FAULT AND STILL {outcome.state}: {' '.join(job.tests)}: {outcome.tail}")
    for why in gone.values():
        print(f"GONE: {why}")
    print(f"{time.monotonic() - began:.0f} s")
    return 0 if passed and not gone else 1


def _means(word: str, fault: Fault, areas: set[str]) -> bool:
    """Whether a word of ``--only`` names a fault: by its area, else by what its id or file contains."""
    return word == fault.area if word in areas else word in fault.id or word in fault.file


def _gone(fault: Fault) -> str | None:
    """Why a fault no longer applies; None where it does."""
    try:
        fault.mutated((PACKAGE / fault.file).read_text(encoding="utf-8"))
    except (FaultError, OSError) as error:
        return str(error)
    return None


if __name__ == "__main__":
    sys.exit(main())
