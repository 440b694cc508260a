"""Time and energy: cycles follow from the device's rows alone, and what has no row is named, never guessed."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import sparseplan as sp
from sparseplan.autodiff import trace
from sparseplan.costs import (
    Missing,
    PlanCosts,
    Transfer,
    Work,
    cycle_terms,
    cycles_of,
    cycles_within,
    explain,
    missing_rows,
    pass_name,
    picojoules_of,
    plan_costs,
    price,
    step_costs,
    work_of,
)
from sparseplan.device import Device, DmaRate, Level, MacRate, load_device
from sparseplan.dtypes import bytes_of
from sparseplan.errors import DeviceError, PlanError
from sparseplan.ops import infos, op_def
from sparseplan.plan import PlannedTile
from sparseplan.rates import ByteEnergy, ByteRate, DmaStart, MacEnergy, Power, StartUp
from sparseplan.solve.tile import tile_of
from sparseplan.steps import Arg, Span, Step
from sparseplan.training import holds

PLAIN = Device("plain", "", (Level("L2"), Level("flash")), mac_rates=(MacRate("*", "*", "*", 2.0),))
TILED = Device(
    "tiled",
    "",
    (Level("L1", 4096), Level("L2"), Level("L3"), Level("flash")),
    double_buffer=True,
    clock_hz=1e6,
    mac_rates=(MacRate("*", "*", "*", 4.0),),
    dma_rates=(DmaRate("L2", "L1", 8.0), DmaRate("L1", "L2", 4.0), DmaRate("L2", "L3", 0.5), DmaRate("L3", "L2", 1.0)),
)


def small() -> sp.Network:
    b = sp.NetworkBuilder("small")
    x = b.input("x", (2, 8, 8))
    for k in range(2):
        x = b.op("conv", x, f"conv{k}", params=("weight", "bias"), out_channels=8, kernel=3, padding=1)
        x = b.op("relu", x, f"relu{k}")
    return b.build(x)


# -- the model ------------------------------------------------------------------------------------


def test_cycles_by_hand() -> None:
    assert cycles_of(PLAIN, "conv", "forward", "bf16", 1001) == 501
    started = replace(PLAIN, start_ups=(StartUp("conv", "*", "*", 30.0),))
    assert cycles_of(started, "conv", "forward", "bf16", 1000, calls=3) == 590
    assert cycles_of(started, "linear", "forward", "bf16", 1000, calls=3) == 500
    moved = (Transfer("L2", "L1", 800, 2, both=True),)
    # the slower way counts: 800 bytes at 4 a cycle
    assert cycles_of(TILED, "conv", "forward", "bf16", 400, transfers=moved) == 100 + 200
    assert cycles_of(TILED, "conv", "forward", "bf16", 400, transfers=moved, stages=4) == 75 + 150
    single = replace(TILED, double_buffer=False)
    assert cycles_of(single, "conv", "forward", "bf16", 400, transfers=moved, stages=4) == 300
    slow = replace(TILED, dma_starts=(DmaStart("L2", "L1", 10.0),))
    assert cycles_of(slow, "conv", "forward", "bf16", 400, transfers=moved) == 320
    cost = price(TILED, Work("conv", "x0", "bf16", 4000, transfers=moved, stages=4))
    assert (cost.compute, cost.dma, cost.total) == (1000, 200, 1050)
    assert cost.hidden == 0.75  # three tiles of four
    assert price(TILED, Work("conv", "x0", "bf16", 4000)).hidden is None


def test_the_row_that_names_most_counts() -> None:
    d = replace(PLAIN, byte_rates=(ByteRate("relu", "*", "*", 3.0),))
    assert price(d, Work("relu", "forward", "bf16", 10, 300)).basis == "bytes"
    assert cycles_of(d, "relu", "forward", "bf16", 10, touched=300) == 100
    assert cycles_of(d, "conv", "forward", "bf16", 10, touched=300) == 5
    d = replace(d, mac_rates=(MacRate("relu", "*", "*", 1.0),))  # as much named: MACs
    assert cycles_of(d, "relu", "forward", "bf16", 10, touched=300) == 10
    assert cycles_of(d, "relu", "x0", "bf16", 0, touched=300) == 100


def test_work_without_macs_takes_what_its_bytes_take() -> None:
    work = Work("relu", "x0", "bf16", 0, 64, transfers=(Transfer("L2", "L1", 64, 2, both=True),))
    assert price(TILED, work).total == 16
    assert price(TILED, work).basis == "transfers"
    (row,) = missing_rows(PLAIN, Work("relu", "x0", "bf16", 0, 64))
    assert row == Missing("bytes_per_cycle", ("relu", "x0", "bf16"))
    assert price(PLAIN, Work("flatten", "forward", "bf16")).total == 0


def test_flash_is_staged_through_l2_where_it_has_no_way_of_its_own() -> None:
    moved = (Transfer("L3", "L1", 80),)
    assert cycles_of(TILED, "conv", "forward", "bf16", 0, transfers=moved) == 80 + 10
    direct = replace(TILED, dma_rates=(*TILED.dma_rates, DmaRate("L3", "L1", 2.0)))
    assert cycles_of(direct, "conv", "forward", "bf16", 0, transfers=moved) == 40
    work = Work("conv", "forward", "bf16", 0, transfers=(Transfer("flash", "L1", 80),))
    assert missing_rows(TILED, work) == (Missing("dma_bytes_per_cycle", ("flash", "L1")),)


def test_what_is_missing_is_named_in_one_line() -> None:
    bare = replace(PLAIN, mac_rates=())
    with pytest.raises(DeviceError) as error:
        cycles_of(bare, "conv", "weight", "bf16", 10)
    assert str(error.value) == (
        "time is unknown: device 'plain' has no mac_per_cycle for conv/weight/bf16; measure it and calibrate with "
        "`sparseplan calibrate measurements.csv --device plain --out mine.toml`"
    )
    both = [Missing("clock_hz"), Missing("dma_bytes_per_cycle", ("L2", "L1")), Missing("clock_hz")]
    assert "has no clock_hz; no dma_bytes_per_cycle for L2→L1; measure" in explain(bare, both)


@given(st.integers(1, 40), *[st.integers(1, 50)] * 3)
def test_overlap_against_a_simulation(tiles: int, load: int, compute: int, store: int) -> None:
    """Computing on a tile overlaps the next one's way in and the last one's way out: the formula is never
    below that, and above it by at most one tile's computing."""
    simulated = load + store
    for k in range(tiles):
        simulated += max(compute, (load if k + 1 < tiles else 0) + (store if k else 0))
    device = replace(TILED, dma_rates=(DmaRate("L2", "L1", 1.0),), mac_rates=(MacRate("*", "*", "*", 1.0),))
    moved = (Transfer("L2", "L1", tiles * (load + store), 2 * tiles),)
    said = cycles_of(device, "conv", "forward", "bf16", tiles * compute, transfers=moved, stages=tiles)
    assert simulated <= said <= simulated + compute
    if compute >= load + store or tiles == 1:
        assert said == simulated


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=5), st.integers(1, 9), st.floats(0.1, 9), st.data())
def test_terms_of_a_constraint_add_up(parts: list[int], stages: int, rate: float, data: Any) -> None:
    device = replace(TILED, mac_rates=(MacRate("*", "*", "*", rate),), start_ups=(StartUp("*", "*", "*", 7.0),))
    work = Work("conv", "weight", "bf16", 0, 100, stages, (Transfer("L2", "L1", 4321, stages, both=True),), stages)
    base, terms = cycle_terms(device, work, list(enumerate(parts)))
    for k in range(1, len(parts) + 1):
        whole = price(device, replace(work, macs=sum(parts[:k]))).total
        if sum(parts[:k]):
            assert base + sum(n for _, n in terms[:k]) == whole
    chosen = data.draw(st.sets(st.sampled_from(range(len(parts)))))
    some = sum(parts[i] for i in chosen)
    if some:
        assert base + sum(terms[i][1] for i in chosen) >= price(device, replace(work, macs=some)).total - len(parts)


@given(st.integers(1, 10**6), st.integers(0, 10**6), st.integers(0, 10**5), st.floats(0.1, 10))
def test_more_work_never_takes_less(macs: int, more: int, moved: int, rate: float) -> None:
    device = replace(TILED, mac_rates=(MacRate("*", "*", "*", rate),))
    way = (Transfer("L2", "L1", moved, both=True),)
    here = cycles_of(device, "conv", "forward", "bf16", macs, transfers=way, stages=3)
    assert here <= cycles_of(device, "conv", "forward", "bf16", macs + more, transfers=way, stages=3)
    assert here >= macs / Fraction(rate)


# -- from steps and tiles ---------------------------------------------------------------------------


def test_transfers_are_counted_as_the_loops_move_tiles() -> None:
    net, device = sp.zoo.upydnet(), load_device("gap9")
    plan = sp.plan(net, "gap9", l1="24KiB", must=("*",))
    table = infos(net)
    cut = 0
    for t in plan.tiles:
        space = op_def(table[t.op].kind).tile_space(table[t.op], t.pass_)
        assert space is not None
        whole = tile_of(space, "bf16", dict(t.sizes), tuple(a for a, _ in t.sizes), True, 4)
        first = [o for o in whole.operands if o.role == "in"]
        kind = "forward" if t.pass_ == "forward" else "grad_input"
        step = Step("s", kind, t.op, t.pass_, (), ())  # type: ignore[arg-type]
        work = work_of(step, space.macs, device, "bf16", info=table[t.op], tile=t)
        (moved,) = work.transfers
        assert moved.bytes == t.dma_bytes
        out = [o for o in whole.operands if o.role == "out"]
        assert moved.count >= sum(o.moves for o in first) + sum(o.moves for o in out)
        assert moved.count <= sum(o.moves for o in first) + sum(2 * o.moves for o in out)
        cut += t.tiles > 1
    assert cut > 20


def test_a_plan_adds_up() -> None:
    plan = sp.plan(small(), TILED, must=("*",))
    costs = plan_costs(plan)
    assert costs.unknown is None
    assert costs.require() is costs
    assert len(costs.steps) == len(plan.steps)
    known = [s.cycles for s in costs.steps if s.cycles is not None]
    assert costs.cycles == sum(c.total for c in known) == sum(n or 0 for n in costs.phases.values())
    assert set(costs.phases) == {"forward", "backward", "update"}
    assert costs.seconds == (costs.cycles or 0) / 1e6
    tiled = sum(t.dma_bytes for t in plan.tiles)
    rest = [a for s in plan.steps if s.kind in ("loss", "aux", "update") for a in (*s.reads, *s.writes)]
    assert costs.traffic == {("L1", "L2"): tiled + sum(bytes_of(math.prod(a.shape), a.dtype) for a in rest)}
    assert 0 <= (costs.hidden or 0) < 1
    assert any("start_cycles: unknown for" in n and "lower bound" in n for n in costs.notes)
    assert any("dma_start_cycles: unknown for L2→L1" in n for n in costs.notes)
    assert any("element-wise steps take what moving their bytes takes" in n for n in costs.notes)
    assert json.loads(json.dumps(costs.to_json()))["cycles"] == costs.cycles


def test_batches_run_tiles_once_a_sample() -> None:
    one, four = (plan_costs(sp.plan(small(), TILED, must=("*",), batch=n)) for n in (1, 4))
    conv = [next(s for s in c.steps if s.name.startswith("conv1") and s.kind == "forward") for c in (one, four)]
    assert conv[1].work.macs == 4 * conv[0].work.macs
    assert conv[1].work.transfers[0].bytes == 4 * conv[0].work.transfers[0].bytes
    assert conv[0].cycles is not None
    assert conv[1].cycles is not None
    assert abs(conv[1].cycles.total - 4 * conv[0].cycles.total) <= 4


def test_parameters_in_flash_are_streamed() -> None:
    device = replace(TILED, dma_rates=(*TILED.dma_rates, DmaRate("flash", "L2", 0.25)))
    near = plan_costs(sp.plan(small(), device, must=("conv1.bias",), may=("conv1.bias",)))
    far = plan_costs(sp.plan(small(), device, must=("conv1.bias",), may=("conv1.bias",), frozen="flash"))
    weights = 2 * (8 * 2 * 9 + 8 + 8 * 8 * 9)  # conv0 and the weight of conv1, each swept once
    assert far.traffic[("L2", "flash")] >= weights
    assert ("L2", "flash") not in near.traffic
    assert (far.cycles or 0) > (near.cycles or 0)
    blind = plan_costs(sp.plan(small(), TILED, must=("conv1.bias",), may=("conv1.bias",), frozen="flash"))
    assert blind.cycles is blind.seconds is blind.hidden is None
    assert blind.missing == (Missing("dma_bytes_per_cycle", ("flash", "L1")),)
    cores = replace(PLAIN, byte_rates=(ByteRate("*", "*", "*", 1.0),))
    direct = plan_costs(sp.plan(small(), cores, must=("conv1.bias",), may=("conv1.bias",), frozen="flash"))
    assert direct.missing == (Missing("dma_bytes_per_cycle", ("flash", "L2")),)


def test_accumulators_in_l3_go_there_and_back() -> None:
    table = infos(small())
    space = op_def("conv").tile_space(table["conv1"], "weight")
    assert space is not None
    size = 2 * 8 * 8 * 9
    trips = tuple(space.axes)  # whole: one tile
    tile = PlannedTile("conv1", "weight", trips, (), 0, 5000, 1)

    def arg(tag: str, name: str, shape: tuple[int, ...]) -> Arg:
        return Arg(tag, shape, "bf16", (Span(name, 0, 1),))

    weight = (8, 8, 3, 3)
    reads = (arg("dy", "d", (1, 8, 8, 8)), arg("x0", "x", (1, 8, 8, 8)), arg("acc", "acc", weight))
    made = Step("s", "grad_param", "conv1", "weight", reads, (arg("dp", "acc", weight),))
    near = work_of(made, space.macs, TILED, "bf16", info=table["conv1"], tile=tile)
    assert near.transfers == (Transfer("L2", "L1", 5000, 3, both=True), Transfer("L2", "L1", size))
    far = work_of(made, space.macs, TILED, "bf16", info=table["conv1"], tile=tile, levels={"acc": "L3"})
    there, back = Transfer("L1", "L3", size), Transfer("L3", "L1", size)
    assert far.transfers == (Transfer("L2", "L1", 5000 - size, 2, both=True), there, back)
    bare = work_of(made, space.macs, PLAIN, "bf16", info=table["conv1"], levels={"acc": "L3"})
    assert bare.transfers == (Transfer("L3", "L2", size), Transfer("L2", "L3", size))
    update = Step("u", "update", "conv1", "weight", (reads[2], arg("param", "w", weight)), (arg("param", "w", weight),))
    moved = work_of(update, 0, TILED, "bf16", info=table["conv1"], levels={"acc": "L3"}).transfers
    assert moved == (Transfer("L2", "L1", 2 * size, 4, both=True), Transfer("L3", "L1", size, 2))


def step(kind: str, value: str, other: str) -> Step:
    def arg(tag: str, name: str) -> Arg:
        return Arg(tag, (1, 8, 4, 4), "bf16", (Span(name, 0, 256),))

    return Step(f"{kind} {value}", kind, "conv0", "y", (arg("x", value),), (arg("y", other),), macs=0)  # type: ignore[arg-type]


def test_kinds_of_steps_that_are_no_pass() -> None:
    table = infos(small())
    rows = step_costs(
        [step("page_out", "v", "v"), step("page_in", "v", "v"), step("shuffle", "v", "w")], TILED, "bf16", table=table
    ).steps  # fmt: skip
    assert [s.phase for s in rows] == ["paging", "paging", "backward"]
    assert rows[0].work.transfers == (Transfer("L2", "L3", 256),)
    assert rows[1].work.transfers == (Transfer("L3", "L2", 256),)
    assert [s.cycles.total for s in rows if s.cycles] == [512, 256, 128]
    assert rows[2].work.transfers == (Transfer("L2", "L1", 512, 2, both=True),)
    done, again = (
        step_costs([Step("s", k, "conv0", "y", (), (), macs=100)], TILED, "bf16", table=table).steps[0]  # type: ignore[arg-type]
        for k in ("forward", "recompute")
    )
    assert done.work == again.work
    assert again.phase == "recompute"


# -- totals -----------------------------------------------------------------------------------------


def costs_of(**changes: Any) -> PlanCosts:
    return plan_costs(sp.plan(small(), replace(TILED, **changes), must=("*",)))


def test_energy() -> None:
    assert costs_of().joules is None
    said = costs_of().energy_unknown or ""
    assert said.startswith("energy is unknown: device 'tiled' has no power_watts for active; measure")
    watts = costs_of(power=(Power("active", 0.5),))
    assert watts.joules == 0.5 * (watts.seconds or 0)
    assert watts.energy_basis == "0.5 W while it trains"
    some = costs_of(mac_energy=(MacEnergy("bf16", 1e-9),))
    assert "no joules_per_byte for L2→L1; no power_watts for active" in (some.energy_unknown or "")
    moving = (ByteEnergy("L2", "L1", 1e-8), ByteEnergy("L1", "L2", 3e-8))
    parts = costs_of(mac_energy=(MacEnergy("*", 1e-9),), byte_energy=moving)
    macs = sum(s.work.macs for s in parts.steps)
    assert parts.joules == pytest.approx(1e-9 * macs + 3e-8 * parts.traffic[("L1", "L2")])
    idle = costs_of(mac_energy=(MacEnergy("*", 1e-9),), byte_energy=moving, power=(Power("idle", 0.1),))
    assert idle.joules == pytest.approx((parts.joules or 0) + 0.1 * (idle.seconds or 0))
    assert idle.energy_basis == "joules a MAC and a byte, and 0.1 W throughout"


def test_integers_for_a_constraint() -> None:
    device = replace(TILED, power=(Power("active", 0.5),))
    assert cycles_within(device, seconds=0.002) == 2000
    assert cycles_within(device, joules=0.002) == 4000
    assert cycles_within(device, seconds=0.003, joules=0.002) == 3000
    work = Work("conv", "forward", "bf16", 400)
    assert picojoules_of(device, work) == 0.5 * 100 / 1e6 * 1e12
    parts = replace(TILED, mac_energy=(MacEnergy("*", 2e-12),), clock_hz=None)
    assert picojoules_of(parts, work) == 800
    for call, words in (
        (lambda: cycles_within(device), "give one of them"),
        (lambda: cycles_within(device, seconds=0), "seconds=0 must be a number above 0"),
        (lambda: cycles_within(TILED, joules=1), "energy is unknown: device 'tiled' has no power_watts for active"),
        (lambda: cycles_within(parts, seconds=1), "time is unknown: device 'tiled' has no clock_hz"),
        (lambda: picojoules_of(TILED, work), "has no power_watts for active"),
        (lambda: picojoules_of(replace(device, mac_rates=()), work), "has no mac_per_cycle for conv/forward/bf16"),
    ):
        with pytest.raises(DeviceError) as error:
            call()
        assert words in str(error.value)


@pytest.mark.parametrize("batch", [1, 3])
def test_a_graph_of_steps_that_may_run_prices_as_the_schedule(batch: int) -> None:
    """What a solver adds up under conditions is what a verifier adds up over the steps that run."""
    plan = sp.plan(small(), TILED, must=("conv1.weight@1/2", "conv0.bias"), may=("conv1.weight@1/2", "conv0.bias"),
                   batch=batch)  # fmt: skip
    options = plan.problem.options
    graph = trace(small(), options, plan.problem.choices)
    chosen = graph.chosen(sp.UpdateSet(dict(plan.update)))
    tiles = {(t.op, t.pass_): t for t in plan.tiles}
    total = 0
    for s in graph.steps:
        if not holds(s.when, chosen) or (s.pick is not None and graph.picks[s.pick[0]].op not in plan.picks):
            continue
        if s.pick is not None and graph.picks[s.pick[0]].options[s.pick[1]] != plan.picks[graph.picks[s.pick[0]].op]:
            continue
        work = work_of(s, 0, TILED, "bf16", info=graph.infos.get(s.op), batch=batch,
                       tile=tiles.get((s.op, pass_name(s.kind, s.target))))  # fmt: skip
        base, terms = cycle_terms(TILED, work, s.macs)
        total += base + sum(n for when, n in terms if holds(when, chosen))
    costs = plan_costs(plan)
    assert costs.cycles is not None
    # a step that may run counts all its arguments: updates in part then count as the whole
    assert costs.cycles <= total <= costs.cycles * 1.05


@pytest.mark.parametrize(("saving", "phase"), [("recompute", "recompute"), ("page", "paging")])
def test_what_is_run_again_or_paged_has_its_price(saving: str, phase: str) -> None:
    device = replace(load_device("gap9"), mac_rates=TILED.mac_rates, dma_rates=TILED.dma_rates)
    roomy = sp.plan("upydnet", device, must=("decoder0.*", "ups0.*"), may=("decoder0.*", "ups0.*"), concat="split")
    least = roomy.lower_bound_bytes["L2"]
    tight = sp.plan("upydnet", device, l2=least - 4000, must=("decoder0.*", "ups0.*"), may=("decoder0.*", "ups0.*"),
                    savings=(saving,))  # fmt: skip
    assert tight.feasible
    costs = plan_costs(tight)
    kinds = {s.kind for s in tight.steps}
    assert kinds & {"recompute", "page_out", "page_in"}
    assert (costs.phases[phase] or 0) > 0
    assert (costs.cycles or 0) > (plan_costs(roomy).cycles or 0)
    if saving == "page":
        paged = sum(2 * math.prod(a.shape) for s in tight.steps if s.kind in ("page_out", "page_in") for a in s.reads)
        assert costs.traffic[("L2", "L3")] == paged


def test_without_a_clock_there_are_cycles_and_no_seconds() -> None:
    costs = costs_of(clock_hz=None)
    assert costs.cycles is not None
    assert costs.seconds is None
    with pytest.raises(DeviceError, match="device 'tiled' has no clock_hz"):
        costs.require()


def test_a_training_repeats_runs() -> None:
    costs = costs_of(power=(Power("active", 0.5),))
    whole = costs.for_training(10, 3)
    assert (whole.runs, whole.updates) == (30, 30)
    assert whole.cycles == 30 * (costs.cycles or 0)
    assert whole.joules == pytest.approx(0.5 * (whole.seconds or 0))
    plan = sp.plan(small(), TILED, must=("*",), gradients="accumulate", batch=2)
    gathered = plan_costs(plan)
    often, seldom = gathered.for_training(10, 2), gathered.for_training(10, 2, accumulate=4)
    assert (often.runs, often.updates, seldom.updates) == (10, 10, 4)
    assert often.cycles - seldom.cycles == 6 * (gathered.phases["update"] or 0)
    with pytest.raises(PlanError, match="samples=0 must be a whole number, at least 1"):
        costs.for_training(0)
    with pytest.raises(DeviceError, match="mac_per_cycle"):
        costs_of(mac_rates=()).for_training(1)


def test_no_plan_no_time() -> None:
    plan = sp.plan(small(), l2=100, must=("*",))
    with pytest.raises(PlanError, match="status=INFEASIBLE"):
        plan_costs(plan)


def test_presets_say_what_they_lack() -> None:
    costs = plan_costs(sp.plan(small(), "gap9", must=("*",)))
    assert {m.table for m in costs.missing} == {"mac_per_cycle"}
    assert Missing("mac_per_cycle", ("conv", "weight", "bf16")) in costs.missing
    assert "--device gap9" in (costs.unknown or "")
