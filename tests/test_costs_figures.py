"""Figures of time and energy by hand, at rates at which one more or one less shows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from planted import problem_of
from savings import graph_of
from test_time_caps import least_cycles
from timed import complete, costs_of, schedule_of, with_l3

import sparseplan as sp
from sparseplan.builder import NetworkBuilder
from sparseplan.costs import Transfer, Work, picojoules_of, plan_costs, price, step_costs, work_of
from sparseplan.device import Device, DmaRate, Level, MacRate
from sparseplan.network import Network
from sparseplan.ops import infos
from sparseplan.plan import PlannedTile
from sparseplan.rates import ByteEnergy, DmaStart, MacEnergy, StartUp
from sparseplan.recompute import Savings
from sparseplan.solve.select import Program
from sparseplan.solve.tiling import Tiling
from sparseplan.steps import Arg, Span, Step

DEVICE = Device(
    "tiled", "", (Level("L1", 4096), Level("L2"), Level("L3"), Level("flash")), double_buffer=True, clock_hz=1e6,
    mac_rates=(MacRate("*", "*", "*", 4.0),),
    dma_rates=(DmaRate("L2", "L1", 8.0), DmaRate("L1", "L2", 4.0), DmaRate("L2", "L3", 0.5), DmaRate("L3", "L2", 1.0)),
)  # fmt: skip


def moving(*transfers: Transfer, device: Device = DEVICE, **work: Any) -> int:
    return price(device, Work("conv", "forward", "bf16", transfers=transfers, **work)).dma


def test_both_ways_take_the_slower_rate_and_the_longer_start() -> None:
    starts = (DmaStart("L2", "L1", 10.0), DmaStart("L1", "L2", 30.0))
    device = replace(DEVICE, dma_starts=starts)
    assert moving(Transfer("L2", "L1", 80, 3, both=True), device=device) == 80 // 4 + 3 * 30
    assert moving(Transfer("L2", "L1", 80, 3), device=device) == 80 // 8 + 3 * 10
    assert moving(Transfer("L1", "L2", 80, 3), device=device) == 80 // 4 + 3 * 30
    turned = replace(DEVICE, dma_starts=starts[:1])
    assert moving(Transfer("L2", "L1", 80, 3, both=True), device=turned) == 80 // 4 + 3 * 10


def test_each_call_of_a_kernel_starts() -> None:
    """A tile is a call, in each sample of a batch."""
    net = NetworkBuilder("one")
    network = net.build(net.conv(net.input("x", (2, 8, 8)), 2, 1, bias=False, name="c"))
    info = infos(network)["c"]
    tile = PlannedTile("c", "forward", (("g", 1), ("co", 2), ("ci", 2), ("oh", 2), ("ow", 8)), (), 0, 0, 4)
    step = Step("c.forward", "forward", "c", "y", (), ())
    for batch in (1, 3):
        work = work_of(step, 256 * batch, DEVICE, "bf16", info=info, tile=tile, batch=batch)
        assert (work.calls, work.stages) == (4 * batch, 4)
        started = replace(DEVICE, start_ups=(StartUp("*", "*", "*", 30.0),))
        touched = replace(work, touched=1, transfers=())
        assert price(started, touched).compute == 256 * batch // 4 + 4 * batch * 30


def test_cycles_are_whole_and_never_too_few() -> None:
    cost = price(DEVICE, Work("conv", "forward", "bf16", 5, transfers=(Transfer("L2", "L1", 9),)))
    assert (cost.compute, cost.dma, cost.total) == (2, 2, 3)  # 1.25 and 1.125


def test_joules_are_rounded_up() -> None:
    device = replace(DEVICE, mac_energy=(MacEnergy("*", 0.3e-12),), byte_energy=(ByteEnergy("L2", "L1", 0.3e-12),))
    assert picojoules_of(device, Work("conv", "forward", "bf16", 1)) == 1
    assert picojoules_of(device, Work("conv", "forward", "bf16", 4)) == 2
    assert picojoules_of(device, Work("conv", "forward", "bf16", 1, transfers=(Transfer("L2", "L1", 3),))) == 2


def test_the_last_samples_run_too() -> None:
    """Ten samples in runs of four are three runs, and with sums over two runs two updates an epoch."""
    b = NetworkBuilder("small")
    net = b.build(b.conv(b.input("x", (2, 4, 4)), 2, 1, name="c"))
    for samples, runs in ((8, 2), (9, 3), (12, 3), (1, 1)):
        fused = plan_costs(sp.plan(net, DEVICE, must=("*",), batch=4)).for_training(samples, 2)
        assert (fused.runs, fused.updates) == (2 * runs, 2 * runs)
    summed = plan_costs(sp.plan(net, DEVICE, must=("*",), batch=4, gradients="accumulate"))
    training = summed.for_training(10, 3, accumulate=2)
    assert (training.runs, training.updates) == (9, 6)


def test_a_page_is_as_large_as_its_larger_side() -> None:
    def arg(value: str, n: int) -> Arg:
        return Arg("x0", (1, n), "fp32", (Span(value, 0, 4 * n),))

    step = Step("page out t", "page_out", "t", "y", (arg("t", 8),), (arg("t @L3", 8),))
    work = work_of(step, 0, DEVICE, "fp32", levels={"t @L3": "L3"})
    assert work.transfers == (Transfer("L2", "L3", 32),)
    assert step_costs((step,), DEVICE, "fp32", table={}, values=(), tiles=()).traffic == {("L2", "L3"): 32}


def branches() -> Network:
    """Six convolutions side by side, read by one whose input gradient is taken in parts."""
    net = NetworkBuilder("branches")
    image = net.input("image", (1, 1, 1))
    ends = [net.conv(image, 1, 1, bias=False, name=f"b{i}") for i in range(6)]
    return net.build(net.conv(net.concat(ends, name="cat"), 2, 1, bias=False, name="head"))


@pytest.mark.parametrize(("rate", "start"), [(11.0, 0.85), (7.0, 0.75), (5.0, 0.7), (3.0, 0.5), (0.7, 0.9)])
def test_the_row_is_a_lower_bound_however_cycles_are_rounded(rate: float, start: float) -> None:
    problem = problem_of(branches(), dtype="fp32")
    device = replace(complete(problem.device, mac=rate), start_ups=(StartUp("*", "*", "*", start),))
    problem = replace(problem, device=device)
    graph = graph_of(problem)
    program = Program(problem, graph, [], None, Tiling(device, graph))
    for count in range(7):
        update = {f"b{i}.weight": 1.0 for i in range(count)}
        row, takes = (
            least_cycles(program, update, {}, Savings()),
            costs_of(problem, schedule_of(problem, update)).cycles,
        )
        assert row is not None
        assert takes is not None
        assert row <= takes


def test_the_row_counts_copies_both_ways() -> None:
    """To within the cycle that each rounding may take."""
    net = NetworkBuilder("line")
    t = net.op("tanh", net.conv(net.input("image", (2, 8, 8)), 2, 1, bias=False, name="a"), name="s")
    problem = problem_of(net.build(net.conv(t, 2, 1, bias=False, name="b")), dtype="fp32")
    problem = replace(problem, device=complete(with_l3(problem.device)), savings=("page",))
    graph = graph_of(problem)
    program = Program(problem, graph, [], None, Tiling(problem.device, graph))
    update = dict.fromkeys(problem.choices, 1.0)
    picks = {p.op: p.options[0] for p in graph.picks}
    found = []
    for fetches in ((), (("image", "a.grad_weight"),)):
        savings = Savings(fetches=frozenset(fetches))
        takes = costs_of(problem, schedule_of(problem, update, picks, savings)).cycles
        found.append((least_cycles(program, update, picks, savings) or 0, takes or 0))
    (plain, plain_takes), (paged, paged_takes) = found
    assert paged_takes - plain_takes > 2 * 512 / 4  # out and back at a quarter of a byte a cycle, and more
    assert abs((paged - plain) - (paged_takes - plain_takes)) <= 2
