"""The task's loss is the plan's, or the command says that they differ; savings are those that a device can do."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import sparseplan as sp
from sparseplan.builder import NetworkBuilder
from sparseplan.cli import main
from sparseplan.importers.spec import write_spec
from sparseplan.problem import SAVINGS


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A classifier of 3 classes and data for it in the current folder."""
    monkeypatch.chdir(tmp_path)
    net = NetworkBuilder("small")
    write_spec(net.build(net.linear(net.input("x", (5,)), 3, name="fc")), "net.json")
    rng = np.random.default_rng(0)
    data = {f"{part}_{what}": rng.normal(size=(9, 5)) if what == "x" else rng.integers(0, 3, 9)
            for part in ("train", "val", "test") for what in ("x", "target")}  # fmt: skip
    np.savez("own.npz", kind="classify", **data)
    return tmp_path


def _call(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = main(argv)
    out, err = capsys.readouterr()
    return code, out, err


PLAN = ("plan", "net.json", "--l2", "10kB", "-o", "p.json")
FAST = ("--task", "own.npz", "--weights", "random", "--seeds", "1", "--epochs", "1", "--jobs", "1")


def test_a_plan_that_looks_at_a_task_has_its_loss(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez("w.npz", **sp.builder.init_parameters(sp.network("net.json"), 0))
    for more in (("--value", "gradient", "--weights", "w.npz"), ()):
        assert _call(capsys, *PLAN, "--task", "own.npz", *more)[0] == 0
        assert json.loads(Path("p.json").read_text())["problem"]["options"]["loss"] == "cross_entropy"
        assert _call(capsys, "check", "p.json", *FAST)[0] == 0
        assert _call(capsys, "check", "p.json", *FAST, "--arena")[0] == 0
    code, _, err = _call(capsys, *PLAN, "--task", "own.npz", "--loss", "l1")
    assert code == 2
    assert "--loss l1 differs from the loss of task 'own', cross_entropy" in err
    assert _call(capsys, *PLAN, "--task", "own.npz", "--loss", "cross_entropy")[0] == 0


def test_check_says_where_plan_and_task_differ(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _call(capsys, *PLAN)[0] == 0
    for arena in ((), ("--arena",)):
        code, _, err = _call(capsys, "check", "p.json", *FAST, *arena)
        assert code == 2
        assert "the plan's loss, l1, differs from that of task 'own', cross_entropy" in err
        assert err.count("\n") == 1
    assert _call(capsys, "check", "p.json", *FAST, "--loss", "cross_entropy")[0] == 0
    code, _, err = _call(capsys, "check", "p.json", *FAST, "--arena", "--loss", "cross_entropy")
    assert code == 2
    assert "the plan is for l1, and the arena follows the plan" in err


def test_attributes_of_the_loss_count(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from sparseplan.cli.losses import trained_loss
    from sparseplan.tasks import get_task

    task = get_task("own.npz")
    other = replace(task, settings=replace(task.settings, loss="huber", loss_attrs={"delta": 2.0}))
    plan = sp.plan("net.json", l2="10kB", loss="huber", loss_attrs={"delta": 1.0})
    with pytest.raises(sp.SparseplanError, match=r"huber delta=1, differs from that of task 'own', huber delta=2"):
        trained_loss(None, plan, other)
    assert trained_loss("huber", plan, other).loss_attrs == {"delta": 1.0}
    same = sp.plan("net.json", l2="10kB", loss="huber", loss_attrs={"delta": 2})
    assert trained_loss(None, same, other).loss_attrs == {"delta": 2.0}


@pytest.mark.parametrize("device", ["rp2040", "gap9", "nrf52840", "max78000", None])
def test_all_savings_are_all_that_a_device_can_do(
    here: Path, capsys: pytest.CaptureFixture[str], device: str | None
) -> None:
    argv = [*PLAN, "--savings", "all", *(["--device", device] if device else [])]
    code, _, err = _call(capsys, *argv)
    assert code == 0
    chosen = json.loads(Path("p.json").read_text())["problem"]["savings"]
    for name in SAVINGS:
        alone = [*PLAN, "--savings", name, *(["--device", device] if device else [])]
        assert _call(capsys, *alone)[0] == (0 if name in chosen else 2)
        assert (f"{name} needs " in err) == (name not in chosen)
    assert list(sp.problem("net.json", device, l2="10kB", savings="all").savings) == chosen


def test_stripes_are_left_out_of_all_for_batches(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = _call(capsys, *PLAN, "--savings", "all", "--batch", "2", "--device", "gap9")
    assert code == 0
    assert "--savings all is without stripes: stripes needs batch=1, given batch=2" in err
