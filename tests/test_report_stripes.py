"""Plans in stripes are told as such: groups, halos, and which steps belong to which stripe."""

from __future__ import annotations

from pathlib import Path

import sparseplan as sp
from sparseplan.builder import NetworkBuilder
from sparseplan.plan import Plan
from sparseplan.report import describe, save_figure
from sparseplan.report.savings import saving_rows, stripe_bands


def striped_plan() -> Plan:
    """A network whose middle is wide: only in stripes does its last layer's update fit."""
    net = NetworkBuilder("wide")
    x = net.input("x", (2, 16, 16))
    for i, channels in enumerate((16, 16, 1)):
        x = net.conv(x, channels, 3, 1, 1, name=f"conv{i}")
    network = net.build(x)
    least = sp.plan(network, l2="1MB", must=["conv2.bias"], may=["conv2.bias"]).lower_bound_bytes["L2"]
    return sp.plan(network, l2=least // 2, must=["conv2.bias"], may=["conv2.bias"], savings=["recompute", "stripes"])


def test_groups_and_halos_are_told(tmp_path: Path) -> None:
    plan = striped_plan()
    assert plan.feasible
    data = saving_rows(plan)
    (row,) = data["striped"]
    assert row["stripes"] == len(plan.stripes[0].rows) > 1
    whole = sp.plan(plan.problem.network, l2="1MB", must=["conv2.bias"], may=["conv2.bias"])
    held = sum(whole.macs.values())
    assert data["halo_macs"] == plan.macs["forward"] + plan.macs["backward"] - held > 0
    assert "MACs of halos" in describe(plan)
    save_figure(plan, tmp_path / "plan.png")


def test_bands_are_the_steps_of_each_stripe_forwards_and_backwards() -> None:
    plan = striped_plan()
    count = len(plan.stripes[0].rows)
    bands = stripe_bands(plan)
    forward = [n for first, _, n in bands if plan.steps[first].kind == "forward"]
    assert forward[:count] == list(range(count))
    for first, last, number in bands:
        names = {plan.network.op[s.op].name.rpartition("@")[2] for s in plan.steps[first:last] if s.kind != "update"}
        assert names == {str(number)}
    assert stripe_bands(sp.plan("dscnn", l2="1MB", loss="cross_entropy")) == []
