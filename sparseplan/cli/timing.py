"""What a plan takes in time and energy, and rates from measurements."""

from __future__ import annotations

import argparse
import re
from dataclasses import replace
from typing import Any

from sparseplan import report
from sparseplan.atomic import write_text
from sparseplan.calibrate import Calibration, calibrate, device_to_toml, read_measurements, template
from sparseplan.cli.common import show, writable
from sparseplan.costs import plan_costs
from sparseplan.device import load_device
from sparseplan.errors import ProblemError
from sparseplan.plan import Plan
from sparseplan.tables import table

_UNITS = {"": 1.0, "hz": 1.0, "khz": 1e3, "mhz": 1e6, "ghz": 1e9}


def told(args: argparse.Namespace, plan: Plan) -> tuple[dict[str, Any], list[str]]:
    """Time, energy and, if asked for, tiles of a plan: as data, and as paragraphs."""
    data: dict[str, Any] = {}
    text = []
    if plan.feasible:
        costs = plan_costs(plan)
        training = None
        if args.train_samples is not None and costs.cycles is not None:
            training = costs.for_training(args.train_samples, args.epochs, args.accumulate)
        data["time"] = costs.to_json()
        if args.measure:
            write_text(args.measure, template(costs))
        if args.train_samples is not None:
            data["training"] = None if training is None else {
                "samples": training.samples, "epochs": training.epochs, "runs": training.runs,
                "updates": training.updates, "cycles": training.cycles, "seconds": training.seconds,
                "joules": training.joules,
            }  # fmt: skip
        text.append(report.time_text(costs, training, args.verbose))
    if args.tiles:
        data["tiles"] = report.tile_rows(plan)
        text.append(report.tile_text(plan))
    return data, text


def fit(args: argparse.Namespace) -> int:
    """Rates from measurements."""
    writable(args.out)
    device = load_device(args.device)
    if args.name:
        device = replace(device, name=args.name)
    clock = None if args.clock is None else clock_of(args.clock)
    measured = read_measurements(args.measurements, clock or device.clock_hz)
    found = calibrate(measured, device, args.measurements, clock)
    toml = device_to_toml(found.device)
    if args.out:
        write_text(args.out, toml)
    rows = [
        {"key": list(r.key), "rate": r.rate, "by_bytes": r.by_bytes, "start": r.start, "count": r.count, "mape": r.mape,
         "worst": r.worst, "worst_line": r.worst_line} for r in found.residuals
    ]  # fmt: skip
    data = {
        "mape": found.mape, "residuals": rows, "notes": list(found.notes), "device": found.device.name,
        "doubtful": [{"line": n, "error": e} for n, e in found.doubtful], "toml": None if args.out else toml,
    }  # fmt: skip
    show(args, data, _text(found) + ("" if args.out else "\n\n" + toml.rstrip()))
    return 0


def _text(found: Calibration) -> str:
    rows: list[list[object]] = [
        ["→".join(r.key) if len(r.key) == 2 else "/".join(r.key), r.rate,
         "bytes a cycle" if r.by_bytes else "MACs a cycle", r.start, r.count, f"{r.mape:.2%}",
         f"{r.worst:.2%} (line {r.worst_line})"] for r in found.residuals
    ]  # fmt: skip
    header = ("measured", "rate", "of", "start-up cycles", "lines", "mean error", "worst")
    lines = [table(header, rows, [False, True, False, True, True, True, False]), f"mean error of all: {found.mape:.2%}"]
    lines += [f"line {n} lies off by {e:.0%} and counted less" for n, e in found.doubtful[:10]]
    return "\n".join([*lines, *found.notes])


def clock_of(text: str) -> float:
    """``370MHz``, ``3.7e8`` or ``240 MHz`` in Hz."""
    match = re.fullmatch(r"\s*([0-9.]+(?:[eE][0-9]+)?)\s*([a-zA-Z]*)\s*", text)
    try:
        value = float(match[1]) * _UNITS[match[2].lower()] if match else 0.0
    except (ValueError, KeyError):
        value = 0.0
    if not 0 < value < 1e12:
        raise ProblemError(f"clock={text!r} must be a frequency such as 370MHz")
    return value
