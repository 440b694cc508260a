"""A run that differs fails: each part of what an executor does is made wrong by itself, and each fails the run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sparseplan as sp
from sparseplan.cli import main
from sparseplan.plan import Plan
from sparseplan.run import adapt, plan_settings, run
from sparseplan.run.arena import Arena
from sparseplan.run.execute import Executor, Kernel, Storage
from sparseplan.run.machine import Machine
from sparseplan.run.runner import random_data
from sparseplan.steps import Step
from sparseplan.testing import selftest, theorems

#: what a faulty kernel does once the right one has run; returns the loss
Fault = Callable[[Arena, Step, Any], Any]


def small() -> sp.Network:
    b = sp.NetworkBuilder("small")
    x = b.relu(b.conv(b.input("x", (2, 4, 4)), 3, 3, padding=1, name="a"))
    return b.build(b.conv(x, 2, 1, name="b"))


def planned(**options: Any) -> Plan:
    return sp.plan(small(), "gap9", l2="20kB", dtype="fp32", **options)


PLANS = {
    "fused": planned(optimizer="momentum"),
    "accumulated": planned(optimizer="adam", gradients="accumulate"),
}


def plant(monkeypatch: pytest.MonkeyPatch, kind: str, fault: Fault) -> None:
    """Let the kernels of a kind of step do something wrong in the arena; the reference does not use them."""
    right = Executor.compile

    def compile_(self: Executor, step: Step, storage: Storage) -> Kernel:
        kernel = right(self, step, storage)
        if step.kind != kind or not isinstance(storage, Arena):
            return kernel

        def wrong() -> float | None:
            found = kernel()
            return fault(storage, step, found)  # type: ignore[no-any-return]

        return wrong

    monkeypatch.setattr(Executor, "compile", compile_)


def off_by_a_bit(tag: str) -> Fault:
    """One element of what a step wrote under a tag is the next float."""

    def fault(arena: Arena, step: Step, found: Any) -> Any:
        arg = replace(step.write(tag), add=False)
        array = np.array(arena.reader(arg)())
        array.reshape(-1)[0] = np.nextafter(array.reshape(-1)[0], np.float32(np.inf))
        arena.writer(arg)(array)
        return found

    return fault


def other_loss(arena: Arena, step: Step, found: float) -> float:
    return float(np.nextafter(found, np.inf))


def stray(arena: Arena, step: Step, found: Any) -> Any:
    """A byte of something that the step does not write."""
    written = {s.value for a in step.writes for s in a.spans}
    memory = arena.levels["L2"]
    name = next(v.name for v in arena.values.values() if v.role == "parameter" and v.name not in written)
    memory.bytes[arena._base[name][1]] ^= 1
    return found


FAULTS: dict[str, tuple[str, Fault, str]] = {
    "loss": ("loss", other_loss, "loss of run 1"),
    "gradient": ("grad_param", off_by_a_bit("dp"), "gradient of 'b.weight' in run 1"),
    "parameter": ("update", off_by_a_bit("param"), "parameter 'a.weight'"),
    "state": ("update", off_by_a_bit("m"), "state m of 'b.bias'"),
    "stray byte": ("grad_param", stray, "changed without a planned write"),
}


def file_of(plan: Plan, folder: Path) -> str:
    path = folder / "plan.json"
    sp.write_plan(plan, path)
    return str(path)


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
@pytest.mark.parametrize(("kind", "fault", "mentions"), FAULTS.values(), ids=FAULTS)
def test_each_part_of_an_execution_fails_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path,
    plan: Plan, kind: str, fault: Fault, mentions: str,
) -> None:  # fmt: skip
    path = file_of(plan, tmp_path)
    assert main(["run", path]) == 0
    assert "bit for bit" in capsys.readouterr().out
    plant(monkeypatch, kind, fault)
    report = run(plan)
    told = [*(report.differences or ()), *report.faults]
    assert not report.passed
    assert any(mentions in text for text in told), told
    assert main(["run", path]) == 1
    out = capsys.readouterr().out
    assert mentions in out
    if report.differences:
        assert "DIFFERS" in out
        assert "equal the unconstrained reference's bit for bit" not in out
    with pytest.raises(theorems.TheoremError):
        theorems.check_runs_within_budget(plan)


def test_a_difference_in_the_last_bit_is_said_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, "update", off_by_a_bit("param"))
    report = run(PLANS["fused"])
    assert report.max_abs_gradient_difference == 0
    assert 0 < (report.max_abs_parameter_difference or 0) < 1e-6
    assert report.bitwise_equal is False


def test_bytes_that_are_claimed_and_not_touched_fail_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    plan = PLANS["fused"]
    touched = Machine.touched
    monkeypatch.setattr(Machine, "touched", lambda self: {k: n - 1 for k, n in touched(self).items()})
    report = run(plan)
    assert report.bitwise_equal
    assert report.guard_intact
    assert not report.passed
    assert main(["run", file_of(plan, tmp_path)]) == 1
    assert "L2: CLAIMS" in capsys.readouterr().out


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
@pytest.mark.parametrize("name", [n for n in FAULTS if n != "gradient"])
def test_training_in_an_arena_is_held_to_the_reference(monkeypatch: pytest.MonkeyPatch, plan: Plan, name: str) -> None:
    """A wrong gradient shows in parameters and state; nothing else tells of it between updates."""
    x, target = random_data(plan.network, plan.problem.options.loss, 8, 1)
    parameters = sp.init_parameters(plan.network, 1)
    settings = plan_settings(plan, epochs=1)
    assert adapt(plan, parameters, x, target, settings).passed
    kind, fault, mentions = FAULTS[name]
    plant(monkeypatch, kind, fault)
    report = adapt(plan, parameters, x, target, settings)
    assert not report.passed
    if name != "stray byte":
        assert report.differences
    assert any(mentions.replace(" in run 1", "") in text for text in (*report.differences, *report.faults))


def test_a_faulty_executor_fails_the_selftest(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("hypothesis")
    plant(monkeypatch, "update", off_by_a_bit("param"))
    found = selftest(small(), examples=1, seconds=20)
    assert not found.passed
    assert any(r.outcome == "failed" and "differs from the reference: parameter" in r.detail for r in found.rows)


@pytest.mark.parametrize(
    "command",
    [
        ("check", "--arena", "--task", "digits"),
        ("export", "--to", "torch", "-o", "x.py"),
        ("export", "--to", "c", "-o", "x", "--weights", "random"),
        ("run",),
    ],
)
def test_commands_that_follow_a_plan_have_it_verified_first(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = PLANS["fused"]
    step = plan.steps[0]
    wrong = replace(plan, steps=(replace(step, reads=step.reads[::-1]), *plan.steps[1:]))
    path = file_of(wrong, tmp_path)
    assert main([command[0], path, *command[1:]]) == 2
    err = capsys.readouterr().err
    assert "should be in the order ['x0', 'weight', 'bias']" in err
    assert err.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["plan.json"]
