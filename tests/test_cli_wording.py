"""Messages on the command line name the options that were typed; Ctrl-C ends with one line and nothing alive."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sparseplan.cli import interrupt, main
from sparseplan.cli.wording import worded

ARGS = argparse.Namespace(
    l2="0", lr=-1.0, batch=4, train_batch=3, optimizer="sgd", train_optimizer="adamw", must=["a.*", "b.*"],
    dtype="bf16", fractions="1/8,2", savings="page,stream", max_macs=7, weights=None, early_stopping=None,
    shape=[], json=False,
)  # fmt: skip


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("l2='0' leaves no memory", "--l2 0 leaves no memory"),
        ("lr=-1.0 must be a number", "--lr -1.0 must be a number"),
        ("batch=3 must be even", "--train-batch 3 must be even"),
        ("batch=4 must be even", "--batch 4 must be even"),
        ("optimizer='adamw' is unknown", "--train-optimizer adamw is unknown"),
        ("must='b.*' matches no parameter", "--must b.* matches no parameter"),
        ("fraction=2.0 must be in (0, 1]", "--fractions 2.0 must be in (0, 1]"),
        ("fraction=0.125 is", "--fractions 0.125 is"),
        ("savings='page' needs L3", "--savings page needs L3"),
        ("raise max_macs, or give weights=FILE", "raise --max-macs, or give --weights FILE"),
        # what was not typed is data, not an option
        ("train_x has dtype=float64; give floats", "train_x has dtype=float64; give floats"),
        ("plan 'p.json': problem.options.batch=4 is", "plan 'p.json': problem.options.batch=4 is"),
        ("op 'a': kernel=0", "op 'a': kernel=0"),
        ("parameter 'max_macs' is unknown", "parameter 'max_macs' is unknown"),
        ("give shapes={'x': (1, N)}, or --shape x=1,N on the command line", "give --shape x=1,N"),
    ],
)
def test_names_of_arguments_become_options(message: str, said: str) -> None:
    assert worded(message, ARGS) == said


def test_time_that_is_unknown_is_one_short_line(capsys: pytest.CaptureFixture[str]) -> None:
    for device, verbose, short in ((["--device", "gap9"], "no mac_per_cycle for", "--verbose names them"),
                                   (["--l2", "1MB"], "no clock_hz", "without a device")):  # fmt: skip
        for more in ([], ["--verbose"]):
            assert main(["plan", "resnet8", *device, "--may", "classifier.*", *more]) == 0
            (line,) = (x for x in capsys.readouterr().out.splitlines() if "time is unknown" in x)
            assert (verbose in line) == bool(more)
            assert more or (short in line and len(line) < 180)


def test_a_command_that_does_not_end_is_left_and_its_children_are_killed() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    interrupt.kill_children(os.getpid()) if Path(f"/proc/{os.getpid()}/task").exists() else child.kill()
    assert child.wait(10) == -signal.SIGKILL


@pytest.fixture
def heard() -> Iterator[None]:
    """SIGINT is heard, also where the tests run in the background of a script, which has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heard")
def test_ctrl_c_is_heard_while_the_command_is_in_the_middle_of_something(capsys: pytest.CaptureFixture[str]) -> None:
    cleaned = []

    def work() -> int:
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        try:
            while True:
                time.sleep(0.01)
        finally:
            cleaned.append(True)

    assert interrupt.interruptible(work, program=False) == 130
    assert cleaned == [True]
    assert capsys.readouterr().err == "sparseplan: interrupted; nothing was half written, finished runs are stored\n"


@pytest.mark.parametrize("group", [False, True])
@pytest.mark.parametrize("when", [0.7, 6.0])
def test_ctrl_c_ends_a_command_and_all_that_it_started(tmp_path: Path, when: float, group: bool) -> None:
    """At the start, and while other processes work; to this process alone, or to all as a terminal does."""
    mark = f"SPARSEPLAN_TEST_MARK={tmp_path}{when}{group}"
    name, _, text = mark.partition("=")
    process = subprocess.Popen(
        [sys.executable, "-m", "sparseplan", "value", "mobilenetv2_digits", "--task", "digits", "--jobs", "2",
         "--epochs", "200", "-o", str(tmp_path / "v.json")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True, env={**os.environ, name: text},
    )  # fmt: skip
    time.sleep(when)
    (os.killpg if group else os.kill)(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert err == "sparseplan: interrupted; nothing was half written, finished runs are stored\n"
    for _ in range(100):
        if not (left := _alive(mark)):
            break
        time.sleep(0.1)
    assert not left
    assert not list(tmp_path.iterdir())


def _alive(mark: str) -> list[str]:
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (place / "environ").read_bytes():
                found.append(place.name)
        except OSError:
            continue
    return found
