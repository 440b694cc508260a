"""Time, energy and L1 tiles as text and JSON; calibration on the command line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import sparseplan as sp
from sparseplan.calibrate import calibrate, device_to_toml, parse_measurements, template
from sparseplan.cli import main
from sparseplan.cli.timing import clock_of
from sparseplan.costs import plan_costs
from sparseplan.device import load_device
from sparseplan.errors import DataError, ProblemError
from sparseplan.rates import ByteRate, DmaStart, MacRate, Power
from sparseplan.report import tile_rows, tile_text, time_text
from sparseplan.report.time import duration, energy

GAP9 = replace(
    load_device("gap9"),
    name="mine",
    mac_rates=(MacRate("*", "*", "*", 2.0),),
    dma_starts=(DmaStart("L2", "L1", 100.0),),
    power=(Power("active", 0.05),),
)
BLOCK = ("decoder0.*", "ups0.*")


def call(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    try:
        code = main(argv)
    except SystemExit as stop:  # argparse
        code = int(stop.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture(scope="module")
def plan() -> sp.Plan:
    return sp.plan("upydnet", GAP9, may=BLOCK, must=BLOCK)


def test_tiles_of_upydnet_on_gap9(plan: sp.Plan) -> None:
    rows = tile_rows(plan)
    assert len(rows) == len(plan.tiles)
    assert all(r["l1_bytes"] <= 131_072 for r in rows)
    by_pass = {(r["op"], r["pass"]): r for r in rows}
    conv = by_pass["decoder2.conv0", "forward"]
    assert conv["tiles"] == 8
    assert conv["sizes"]["oh"] == (12, 48)
    # MACs outweigh the traffic, so all of it hides but the first tile's way in and the last one's out
    assert conv["dma_hidden"] == pytest.approx(7 / 8, abs=1e-3)
    assert by_pass["encoder.conv0", "forward"]["dma_hidden"] == 0
    text = tile_text(plan)
    assert "oh 12/48 ow 24/48" in text
    assert "every pass fits" in text
    assert "unknown" not in text
    blind = replace(plan, problem=replace(plan.problem, device=load_device("gap9")))
    assert next(r for r in tile_rows(blind) if r["op"] == "decoder2.conv0")["dma_hidden"] is None
    assert "unknown" in tile_text(blind)


def test_a_pass_that_fits_no_tile_is_named() -> None:
    answer = sp.plan("upydnet", "gap9", l1=40, must=("decoder0.conv0.weight",))
    assert not answer.feasible
    assert tile_rows(answer) == []
    assert answer.reason is not None
    assert tile_text(answer).startswith(f"{answer.reason.step} fits no tile: ")
    assert "has no L1" in tile_text(sp.plan("resnet8", l2="300kB"))


def test_time_as_text(plan: sp.Plan) -> None:
    costs = plan_costs(plan)
    text = time_text(costs, costs.for_training(3000, 2))
    assert text.startswith("time a sample: ")
    assert f"{costs.cycles:,} cycles (forward " in text
    assert "of the transfers hidden" in text
    assert "moved between levels, both ways: L1-L2 5,695,954 B" in text
    assert "(0.05 W while it trains)" in text
    assert "3,000 samples, 2 epochs: " in text
    assert "a lower bound" in text
    blind = replace(plan, problem=replace(plan.problem, device=load_device("gap9")))
    text = time_text(plan_costs(blind))
    assert text.startswith("time is unknown: device 'gap9' has no mac_per_cycle for conv/forward/bf16, ")
    assert "calibrate measurements.csv --device gap9" in text
    assert "energy" not in text
    slow = replace(plan, problem=replace(plan.problem, device=replace(GAP9, power=(), clock_hz=None)))
    text = time_text(plan_costs(slow))
    assert "device 'mine' has no clock_hz" in text
    assert "energy is unknown: device 'mine' has no power_watts for active" in text


def test_units_that_read_well() -> None:
    assert [duration(s) for s in (7300, 1068, 1.5, 0.131, 2e-5)] == ["2.03 h", "17.8 min", "1.5 s", "131 ms", "20 µs"]
    assert [energy(j) for j in (1500, 320.4, 0.00499, 2e-5)] == ["1.5 kJ", "320 J", "4.99 mJ", "20 µJ"]


def plan_json(capsys: pytest.CaptureFixture[str], *more: str) -> Any:
    argv = ("plan", "upydnet", "--may", "decoder0.conv0.*", "--must", "decoder0.conv0.*", "--json", *more)
    code, out, _ = call(capsys, *argv)
    assert code == 0
    return json.loads(out)


def test_plan_on_the_command_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(device_to_toml(GAP9), encoding="utf-8")
    data = plan_json(capsys, "--device", str(path), "--tiles", "--train-samples", "3000", "--epochs", "2")
    assert data["time"]["missing"] == []
    assert data["training"]["runs"] == 6000
    assert data["training"]["cycles"] == 6000 * data["time"]["cycles"]
    assert data["training"]["joules"] == pytest.approx(0.05 * data["training"]["seconds"])
    assert {"op", "pass", "sizes", "tiles", "l1_bytes", "dma_bytes", "dma_hidden"} == set(data["tiles"][0])
    data = plan_json(capsys, "--device", "gap9", "--train-samples", "3000")
    assert data["time"]["cycles"] is None
    assert data["training"] is None
    assert {m["table"] for m in data["time"]["missing"]} == {"mac_per_cycle"}
    assert "tiles" not in data


def test_calibrate_on_the_command_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path, out = tmp_path / "bench.csv", tmp_path / "mine.toml"
    lines = ["op,pass,dtype,macs,cycles,date"]
    lines += [f"*,*,bf16,{n},{n // 4 + 50},2026-05-01" for n in (1000, 2000, 8000)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    argv = ("calibrate", str(path), "--device", "gap9", "--clock", "240 MHz", "--name", "my-gap9")
    code, text, _ = call(capsys, *argv, "--out", str(out))
    assert code == 0
    assert "mean error of all: 0.00%" in text
    device = load_device(out)
    assert (device.name, device.clock_hz) == ("my-gap9", 240e6)
    assert device.mac_rates == (MacRate("*", "*", "bf16", 4.0),)
    assert device.mac_rates[0].source == "bench.csv, measured 2026-05-01"
    assert device.levels == load_device("gap9").levels
    code, text, _ = call(capsys, *argv)
    assert "[[mac_per_cycle]]" in text  # no file asked for: on the screen
    code, text, _ = call(capsys, *argv, "--json")
    data = json.loads(text)
    assert data["residuals"][0]["rate"] == pytest.approx(4.0)
    assert data["residuals"][0]["start"] == pytest.approx(50)
    # with such a table, time is known
    assert plan_json(capsys, "--device", str(out))["time"]["seconds"] > 0
    path.write_text("op,pass,dtype,macs,cycles\nconv,forward,bf16,1,none\n", encoding="utf-8")
    code, _, err = call(capsys, *argv)
    assert code == 2
    assert "line 2, column cycles: cycles='none' is no number" in err
    assert call(capsys, *argv[:4], "--clock", "fast")[0] == 2


def test_what_to_measure_is_enough(plan: sp.Plan, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The kernels of a plan, measured as a device with known rates would, give these rates back: same cycles."""
    known = replace(
        GAP9,
        mac_rates=(*GAP9.mac_rates, MacRate("conv", "weight", "*", 1.25), MacRate("leaky_relu", "*", "*", 0.5)),
        byte_rates=(ByteRate("*", "*", "*", 3.0),),
        dma_starts=(DmaStart("L2", "L1", 100.0), DmaStart("L1", "L2", 100.0)),
    )  # fmt: skip
    costs = plan_costs(replace(plan, problem=replace(plan.problem, device=known)))
    blank = load_device("gap9")
    found = calibrate(parse_measurements(template(costs, filled=True), "own.csv", known.clock_hz), blank, "own.csv")
    assert found.mape < 1e-3
    again = plan_costs(replace(plan, problem=replace(plan.problem, device=found.device)))
    assert again.missing == ()
    assert again.cycles == pytest.approx(costs.cycles, rel=2e-3)
    assert found.device.mac_per_cycle("conv", "weight", "bf16") == pytest.approx(1.25, rel=0.01)
    path = tmp_path / "todo.csv"
    plan_json(capsys, "--device", "gap9", "--measure", str(path))
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("op,pass,dtype,macs,bytes,calls,dma_bytes,transfers")
    assert any(line.startswith("conv,weight,bf16,1327104,,1,36864,3,,,1,,") for line in lines)
    with pytest.raises(DataError, match="line 2, column cycles: cycles='' is empty"):
        parse_measurements(path.read_text(encoding="utf-8"))


def test_clocks() -> None:
    assert [clock_of(t) for t in ("370MHz", "3.7e8", "1.5 GHz", "32000 Hz")] == [370e6, 370e6, 1.5e9, 32e3]
    for bad in ("", "MHz", "0", "-3MHz", "3 parsecs", "1.2.3MHz"):
        with pytest.raises(ProblemError, match="must be a frequency such as 370MHz"):
            clock_of(bad)
