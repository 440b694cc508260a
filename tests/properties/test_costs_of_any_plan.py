"""Any plan on a device of whole tables has a time: it moves what its tiles say, and faster is never slower."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

from hypothesis import assume, given
from hypothesis import strategies as st

from sparseplan.calibrate import device_to_toml, parse_measurements, template
from sparseplan.costs import pass_name, plan_costs
from sparseplan.device import Device, DmaRate, MacRate, parse_device
from sparseplan.dtypes import bytes_of
from sparseplan.plan import Plan
from sparseplan.problem import Problem
from sparseplan.rates import ByteRate, DmaStart, Power, StartUp
from sparseplan.testing import problems
from sparseplan.testing.theorems import solved

PAIRS = [("L2", "L1"), ("L1", "L2"), ("flash", "L1"), ("flash", "L2")]


def whole(device: Device, mac: float, byte: float, dma: float, start: float) -> Device:
    return replace(
        device, clock_hz=1e6, mac_rates=(MacRate("*", "*", "*", mac),), byte_rates=(ByteRate("*", "*", "*", byte),),
        dma_rates=tuple(DmaRate(a, b, dma) for a, b in PAIRS), start_ups=(StartUp("*", "*", "*", start),),
        dma_starts=tuple(DmaStart(a, b, start) for a, b in PAIRS), power=(Power("active", 0.1),),
    )  # fmt: skip


def on(plan: Plan, device: Device) -> Plan:
    return replace(plan, problem=replace(plan.problem, device=device))


@given(problems(), *[st.floats(0.1, 20.0)] * 3, st.floats(1.0, 500.0))
def test_any_plan_has_a_time(problem: Problem, mac: float, byte: float, dma: float, start: float) -> None:
    plan = solved(problem)
    assume(plan.feasible)
    device = whole(problem.device, mac, byte, dma, start)
    costs = plan_costs(on(plan, device)).require()
    assert not costs.notes
    assert costs.joules is not None
    batch = problem.options.batch
    times = Counter((s.op, pass_name(s.kind, s.target)) for s in plan.steps)
    tiles = {(t.op, t.pass_): t for t in plan.tiles}
    for s, step in zip(costs.steps, plan.steps, strict=True):
        assert s.cycles is not None
        assert max(s.cycles.compute, s.cycles.dma) <= s.cycles.total <= s.cycles.compute + s.cycles.dma
        assert (s.cycles.hidden or 0.0) == 0.0 or (device.double_buffer and s.work.stages > 1)
        if (tile := tiles.get((step.op, pass_name(step.kind, step.target)))) is not None:
            # what comes from flash does not come from L2: together they are what the tile moves, and what it adds to
            added = sum(bytes_of(math.prod(a.shape), a.dtype) for a in step.reads if a.tag in ("acc", "dx"))
            assert sum(t.bytes for t in s.work.transfers) == tile.dma_bytes * batch + added
            assert s.work.stages == tile.tiles
    if plan.tiles:
        tiled = sum(t.dma_bytes * batch * times[t.op, t.pass_] for t in plan.tiles)
        assert sum(n for pair, n in costs.traffic.items() if "L1" in pair) >= tiled
    for faster in (
        whole(problem.device, 2 * mac, byte, dma, start), whole(problem.device, mac, 2 * byte, dma, start),
        whole(problem.device, mac, byte, 2 * dma, start), whole(problem.device, mac, byte, dma, start / 2),
    ):  # fmt: skip
        assert (plan_costs(on(plan, faster)).cycles or 0) <= (costs.cycles or 0)
    assert parse_device(device_to_toml(device)) == device
    # every line of what to measure can be read again
    parse_measurements(template(costs, filled=True))
    blind = plan_costs(plan)
    assert blind.cycles is None or all(not s.work.macs and not s.work.touched for s in blind.steps)
    assert blind.cycles is not None or blind.unknown is not None
