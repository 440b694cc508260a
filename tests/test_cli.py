"""The command line: what it prints, what it writes, and how it says no."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sparseplan as sp
from sparseplan.builder import init_parameters
from sparseplan.cli import main


def call(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    try:
        code = main(argv)
    except SystemExit as stop:  # argparse
        code = int(stop.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture(scope="module")
def plan_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plans") / "plan.json"
    sp.write_plan(sp.plan("resnet8", l2="300kB"), path)
    return path


def test_networks_and_devices(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "networks", "--json")
    rows = {r["network"]: r for r in json.loads(out)}
    assert code == 0
    assert rows["upydnet"]["parameters"] == 107_625
    code, out, _ = call(capsys, "devices", "--json")
    devices = {r["device"]: r for r in json.loads(out)}
    assert {"gap8", "gap9", "stm32f746", "stm32h743", "stm32l4r9", "nrf52840", "esp32s3", "rp2040", "rp2350",
            "max78000"} <= set(devices)  # fmt: skip
    assert devices["gap9"]["levels"]["L1"] == 131_072
    assert all(d["sources"] for d in devices.values())
    assert "gap9" in call(capsys, "devices")[1]


def test_inspect(capsys: pytest.CaptureFixture[str]) -> None:
    rows = json.loads(call(capsys, "inspect", "upydnet", "--json")[1])
    assert sum(r["parameters"] for r in rows) == 107_625
    first = rows[0]
    assert first["output"] == [8, 48, 48]
    assert first["macs_forward"] == 8 * 48 * 48 * 27
    assert (first["activation_bytes"], first["saved_bytes"]) == (2 * 8 * 48 * 48, 2 * 3 * 48 * 48)
    text = call(capsys, "inspect", "upydnet")[1]
    assert "107,625" in text.splitlines()[-1]


def test_plan_run_and_verify(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out, figure = tmp_path / "plan.json", tmp_path / "plan.png"
    code, text, _ = call(
        capsys, "plan", "resnet8", "--device", "stm32f746", "--l2", "300kB", "--never", "*.bias", "-o", str(out),
        "--figure", str(figure), "--json",
    )  # fmt: skip
    answer = json.loads(text)
    assert code == 0
    assert answer["status"] == "OPTIMAL"
    wanted = {"status", "objective", "bound", "gap", "update", "budget_bytes", "peak_bytes", "lower_bound_bytes"}
    wanted |= {"macs", "solve_seconds"}
    assert wanted <= set(answer)
    assert answer["peak_bytes"]["L2"] <= answer["budget_bytes"]["L2"] == 300_000
    assert set(answer["macs"]) == {"forward", "backward"}
    assert not any(p.endswith(".bias") for p in answer["update"])
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert json.loads(call(capsys, "verify", str(out), "--json")[1]) == {"accepted": True, "violations": []}
    code, text, _ = call(capsys, "run", str(out), "--json")
    done = json.loads(text)
    assert code == 0
    assert done["claimed_bytes"] == done["touched_bytes"] == {"L2": answer["peak_bytes"]["L2"]}
    assert done["max_abs_gradient_difference"] == 0
    assert done["guard_intact"] is True


def test_text_says_why_the_budget_binds(capsys: pytest.CaptureFixture[str]) -> None:
    code, text, _ = call(capsys, "plan", "upydnet", "--device", "gap9", "--l2", "600kB")
    assert code == 0
    for part in ("OPTIMAL", "proven", "peak:", "decoder2.conv0.forward", "left out for lack of room"):
        assert part in text


def test_infeasible_names_level_step_tensors_and_remedy(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "none.json"
    code, text, _ = call(
        capsys, "plan", "upydnet", "--device", "gap9", "--l2", "400kB", "--json", "-o", str(out)
    )  # fmt: skip
    reason = json.loads(text)["reason"]
    assert code == 1
    assert not out.exists()
    assert reason["level"] == "L2"
    assert reason["step"] == "decoder2.conv0.forward"
    assert reason["tensors"][0] == ["decoder2.conv0.out", 147_456]
    fewest = reason["fewest_bytes"]
    assert call(capsys, "plan", "upydnet", "--device", "gap9", "--l2", str(fewest))[0] == 0
    assert call(capsys, "plan", "upydnet", "--device", "gap9", "--l2", str(fewest - 4))[0] == 1


def test_a_scratchpad_too_small_names_the_pass(capsys: pytest.CaptureFixture[str]) -> None:
    code, text, _ = call(capsys, "plan", "upydnet", "--device", "gap9", "--l1", "64", "--json")
    reason = json.loads(text)["reason"]
    assert code == 1
    assert reason["level"] == "L1"
    assert reason["needed"] > reason["available"] == 64
    assert call(capsys, "plan", "upydnet", "--device", "gap9", "--l1", str(reason["fewest_bytes"]))[0] == 0


def test_macs_cap(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ("plan", "upydnet", "--device", "gap9", "--json", "--max-macs")
    answer = json.loads(call(capsys, *argv, "150000000")[1])
    assert sum(answer["macs"].values()) <= 150_000_000
    code, text, _ = call(capsys, *argv, "1000")
    assert code == 1
    assert json.loads(text)["reason"]["level"] == "MACs"


BAD: list[tuple[tuple[str, ...], str]] = [
    (("plan", "upydnett", "--device", "gap9"), "did you mean 'upydnet'"),
    (("plan", "upydnet", "--device", "gap99"), "gap9"),
    (("plan", "upydnet", "--l2", "12 parsecs"), "12 parsecs"),
    (("plan", "upydnet", "--l2=-5kB"), "-5kB"),
    (("plan", "upydnet", "--l2", "0"), "--l2 0 leaves no memory"),
    (("plan", "upydnet"), "--device"),
    (("plan", "upydnet", "--device", "gap9", "--dtype", "fp64"), "fp64"),
    (("plan", "upydnet", "--device", "gap9", "--optimizer", "adamw"), "adam"),
    (("plan", "upydnet", "--device", "gap9", "--gradients", "none"), "fused or accumulate"),
    (("plan", "upydnet", "--device", "gap9", "--frozen", "tape"), "flash"),
    (("plan", "upydnet", "--l2", "1MB", "--frozen", "l3"), "L3"),
    (("plan", "upydnet", "--device", "gap9", "--must", "decodr0.*"), "decodr0.*"),
    (("plan", "upydnet", "--device", "gap9", "--must", "*", "--never", "ups0.*"), "never"),
    (("plan", "upydnet", "--device", "gap9", "--may", "*@2"), "(0, 1]"),
    (("plan", "upydnet", "--device", "gap9", "--fractions", "1/0"), "1/0"),
    (("plan", "upydnet", "--device", "gap9", "--fractions", "2"), "(0, 1]"),
    (("plan", "upydnet", "--device", "gap9", "--batch", "0"), "'0'"),
    (("plan", "upydnet", "--device", "gap9", "--seed", "-1"), "-1"),
    (("plan", "upydnet", "--device", "gap9", "--time-limit", "nan"), "nan"),
    (("plan", "upydnet", "--device", "gap9", "--alignment", "3"), "power of two"),
    (("plan", "upydnet", "--device", "gap9", "--loss", "l3"), "l1"),
    (("plan", "upydnet", "--device", "gap9", "--loss", "cross_entropy"), "cross_entropy"),
    (("plan", "upydnet", "--device", "gap9", "--value", "elemets"), "elements"),
    (("plan", "upydnet", "--device", "gap9", "-o", "no/such/folder/plan.json"), "no/such/folder"),
    (("plan", "upydnet", "--device", "gap9", "--figure", "plan.docx"), "docx"),
    (("inspect", "missing.json"), "missing.json"),
    (("inspect", "upydnet", "--dtype", "bf61"), "bf16"),
    (("run", "missing.json"), "missing.json"),
    (("verify", "missing.json"), "missing.json"),
    (("check", "missing.json"), "missing.json"),
    (("plam", "upydnet"), "plan"),
]


@pytest.mark.parametrize(("argv", "hint"), BAD, ids=lambda x: " ".join(x)[:60] if isinstance(x, tuple) else None)
def test_bad_input_is_one_clear_message(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    argv: tuple[str, ...],
    hint: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = call(capsys, *argv)
    assert code == 2
    assert out == ""
    assert hint in err
    assert len(err.strip().splitlines()) == 1
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


VALUES: list[tuple[str, str, str]] = [
    ("v.json", '{"decoder0.conv0.weigth": 1}', "decoder0.conv0.weigth"),
    ("v.json", '{"decoder0.conv0.weight": 1}', "has no value"),
    ("v.json", '{"*": NaN}', "NaN"),
    ("v.json", '{"*": "many"}', "many"),
    ("v.json", '{"*": {"0.5": 1}}', "no value for fraction"),
    ("v.json", "[1, 2", "not JSON"),
    ("v.csv", "parameter,value\n*,nan\n", "finite"),
    ("v.csv", "parameter,value\n*,lots\n", "lots"),
    ("v.csv", "name,worth\n*,1\n", "parameter"),
    ("v.csv", "parameter,value\n*,1\n*,2\n", "twice"),
]


@pytest.mark.parametrize(("name", "text", "hint"), VALUES)
def test_bad_values(capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str, text: str, hint: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    code, _, err = call(capsys, "plan", "upydnet", "--device", "gap9", "--value", str(path))
    assert code == 2
    assert hint in err


@pytest.mark.parametrize("suffix", ["json", "csv"])
def test_values_from_files(capsys: pytest.CaptureFixture[str], tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"v.{suffix}"
    if suffix == "json":
        path.write_text('{"*": 0, "fc.weight": {"1/8": 1, "0.25": 2, "0.5": 3, "1": 4}}')
    else:
        rows = "".join(f"fc.weight,{r},{v}\n" for r, v in (("1/8", 1), ("0.25", 2), ("0.5", 3), ("1", 4)))
        path.write_text("parameter,fraction,value\n*,,0\n" + rows)
    net = sp.zoo.resnet8()
    name = net.parameters[-2]
    path.write_text(path.read_text().replace("fc.weight", name))
    answer = json.loads(call(capsys, "plan", "resnet8", "--l2", "1MB", "--value", str(path), "--json")[1])
    assert answer["objective"] == 4
    assert answer["update"][name] == 1.0


def damage(plan: dict[str, Any]) -> None:
    plan["peak_bytes"]["L2"] -= 1


def test_run_refuses_what_the_verifier_rejects(
    capsys: pytest.CaptureFixture[str], plan_file: Path, tmp_path: Path
) -> None:
    data = json.loads(plan_file.read_text())
    damage(data)
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(data))
    code, out, _ = call(capsys, "verify", str(path), "--json")
    assert code == 1
    assert json.loads(out)["accepted"] is False
    code, _, err = call(capsys, "run", str(path))
    assert code == 2
    assert "verifier" in err


def test_weights_are_checked(capsys: pytest.CaptureFixture[str], plan_file: Path, tmp_path: Path) -> None:
    net = sp.zoo.resnet8()
    arrays = init_parameters(net, 0)
    good = tmp_path / "good.npz"
    np.savez(good, **arrays)
    assert call(capsys, "run", str(plan_file), "--weights", str(good))[0] == 0
    name = net.parameters[0]
    cases: dict[str, dict[str, Any]] = {
        "shape": {**arrays, name: arrays[name][:1]},
        "NaN": {**arrays, name: arrays[name] * np.nan},
        "missing": {p: a for p, a in arrays.items() if p != name},
        "unknown": {**arrays, "extra": np.zeros(1)},
        "dtype": {**arrays, name: np.full(arrays[name].shape, "a")},
    }
    for case, damaged in cases.items():
        path = tmp_path / f"{case}.npz"
        np.savez(path, **damaged)
        code, _, err = call(capsys, "run", str(plan_file), "--weights", str(path))
        assert (case, code) == (case, 2)
        assert (name in err) or ("extra" in err)
    pickled = tmp_path / "pickled.npz"
    np.savez(pickled, **{**arrays, name: np.array([{"a": 1}], dtype=object)}, allow_pickle=True)
    truncated = tmp_path / "truncated.npz"
    truncated.write_bytes(good.read_bytes()[:1000])
    for path in (pickled, truncated, plan_file, tmp_path):
        code, _, err = call(capsys, "run", str(plan_file), "--weights", str(path))
        assert code == 2
        assert "Traceback" not in err


def test_as_a_program() -> None:
    command = [sys.executable, "-m", "sparseplan.cli"]
    done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"sparseplan {sp.__version__}"
    bad = subprocess.run([*command, "plan", "nothing"], capture_output=True, text=True, check=False)
    assert bad.returncode == 2
    assert "Traceback" not in bad.stderr


def test_interrupting_a_solve_ends_it_and_writes_nothing(tmp_path: Path) -> None:
    """At this budget contiguous concats keep the search busy for minutes."""
    out = tmp_path / "plan.json"
    command = [sys.executable, "-m", "sparseplan.cli", "plan", "upydnet", "--device", "gap9", "--l2", "600kB"]
    process = subprocess.Popen(
        [*command, "--concat", "adjoin", "--time-limit", "600", "-o", str(out)], stderr=subprocess.PIPE, text=True
    )
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=8)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "interrupted" in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []
