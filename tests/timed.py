"""Devices whose tables are complete, for tests of caps on time and energy."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace

from hypothesis import strategies as st

from sparseplan.autodiff import trace
from sparseplan.costs import PlanCosts, step_costs
from sparseplan.device import LEVELS, Device, Level
from sparseplan.ops import infos
from sparseplan.problem import Problem
from sparseplan.rates import ByteEnergy, ByteRate, DmaRate, DmaStart, MacEnergy, MacRate, Power, StartUp
from sparseplan.recompute import Savings, apply
from sparseplan.solve.tiling import Tiling
from sparseplan.steps import Schedule, UpdateSet

PAIRS = (*itertools.permutations(("L1", "L2", "L3", "flash"), 2),)


def complete(device: Device, mac: float = 2.0, byte: float = 4.0, dma: float = 2.0, start: float = 7.0) -> Device:
    """The device with a rate of everything: slower levels are slower, and so are element-wise ops."""
    slower = {"L1": 1.0, "L2": 1.0, "L3": 4.0, "flash": 8.0}
    return replace(
        device, clock_hz=1e6, mac_rates=(MacRate("*", "*", "*", mac),), byte_rates=(ByteRate("*", "*", "*", byte),),
        start_ups=(StartUp("*", "*", "*", start),), power=(Power("active", 0.25),),
        dma_rates=tuple(DmaRate(a, b, dma / max(slower[a], slower[b])) for a, b in PAIRS),
        dma_starts=tuple(DmaStart(a, b, 3.0) for a, b in PAIRS),
    )  # fmt: skip


def by_energy(device: Device, mac: float = 2e-12, byte: float = 3e-12) -> Device:
    """The device with joules a MAC and a byte instead of its power."""
    return replace(device, power=(), mac_energy=(MacEnergy("*", mac),),
                   byte_energy=tuple(ByteEnergy(a, b, byte) for a, b in PAIRS))  # fmt: skip


@st.composite
def complete_devices(draw: st.DrawFn, device: Device) -> Device:
    """Rates of any kind, so that MACs, bytes, starts or transfers are what counts."""
    rate = st.sampled_from([2.0, 0.3, 100.0])
    return complete(device, draw(rate), draw(rate), draw(rate), draw(st.sampled_from([7.0, 0.5, 300.0])))


def with_l3(device: Device) -> Device:
    """The device with an unbounded L3."""
    if device.has("L3"):
        return device
    level = Level("L3", None, 0, device.level("L2").alignment)
    return replace(device, levels=tuple(sorted((*device.levels, level), key=lambda v: LEVELS.index(v.name))))


def costs_of(problem: Problem, schedule: Schedule) -> PlanCosts:
    """What a schedule takes."""
    graph, options = trace(problem.network, problem.options, problem.choices), problem.options
    return step_costs(
        schedule.steps, problem.device, options.dtype, table=infos(problem.network),
        tiles=Tiling(problem.device, graph).tiles(schedule), values=schedule.values.values(), batch=options.batch,
        accumulates=options.gradients == "accumulate",
    )  # fmt: skip


def schedule_of(
    problem: Problem, update: Mapping[str, float], picks: Mapping[str, str] | None = None,
    savings: Savings | None = None,
) -> Schedule:  # fmt: skip
    """The schedule of given decisions."""
    graph = trace(problem.network, problem.options, problem.choices)
    return apply(graph.restrict(UpdateSet(update), picks), savings or Savings())
