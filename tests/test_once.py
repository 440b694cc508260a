"""An op that draws random numbers, holds state, or costs what nobody knows runs once: planner, schedule and verifier
each see to it."""

from __future__ import annotations

from dataclasses import replace

import pytest

import sparseplan as sp
from sparseplan.autodiff import trace
from sparseplan.builder import NetworkBuilder
from sparseplan.errors import ProblemError
from sparseplan.network import Network
from sparseplan.plan import Plan
from sparseplan.recompute import Savings, apply
from sparseplan.report.plans import describe, summary
from sparseplan.solve.cpsat import Limits
from sparseplan.solve.rematinstance import instance, keep_all
from sparseplan.solve.rematintervals import solve_intervals
from sparseplan.steps import Schedule, TrainingOptions, UpdateSet
from sparseplan.verify import verify

MUST = ("w2.weight", "w4.weight")


def kept(**attrs: bool | int) -> Network:
    """What an opaque op makes is read twice, far apart, and large: worth making again if that is allowed."""
    net = NetworkBuilder("kept")
    r = net.relu(net.conv(net.input("x", (1, 16, 16)), 4, 3, 1, 1, name="w1"))
    d = net.op("opaque", r, "noise", type="Noise", shape=(4, 16, 16), **attrs)
    c = net.add([net.conv(d, 2, 3, 4, name="w2"), net.conv(r, 2, 3, 4, name="w4")])
    wide = net.conv(net.op("sigmoid", net.conv(c, 8, 1, name="w5")), 8, 1, name="w6")
    return net.build(net.conv(net.op("upsample", wide, scale=(4, 4)), 1, 1, name="w3"))


def planned(network: Network, **more: object) -> Plan:
    """With less than is needed without running anything again."""
    asked = {"dtype": "fp32", "loss": "mse", "must": MUST, "may": MUST, "time_limit": 20.0, **more}
    whole = sp.plan(network, l2="1MB", **asked)  # type: ignore[arg-type]
    return sp.plan(network, l2=whole.peak_bytes["L2"] - 1024, savings="recompute", **asked)  # type: ignore[arg-type]


def again(plan: Plan) -> set[str]:
    return {s.op for s in plan.steps if s.kind == "recompute"}


def schedule(network: Network) -> Schedule:
    graph = trace(network, TrainingOptions(dtype="fp32", loss="mse"), dict.fromkeys(MUST, (1.0,)))
    return graph.restrict(UpdateSet(dict.fromkeys(MUST, 1.0)))


ONCE = [{}, {"once": True}, {"macs": 0, "once": True}]


def test_an_op_of_known_cost_that_computes_alone_may_run_again() -> None:
    plan = planned(kept(macs=0))
    assert "noise" in again(plan)
    assert not verify(plan.problem, plan)


@pytest.mark.parametrize("attrs", ONCE)
def test_other_ops_run_once(attrs: dict[str, bool | int]) -> None:
    plan = planned(kept(**attrs))
    assert "noise" not in again(plan)
    assert not plan.feasible or not verify(plan.problem, plan)


@pytest.mark.parametrize("attrs", ONCE)
def test_the_verifier_knows_it(attrs: dict[str, bool | int]) -> None:
    plan = planned(kept(macs=0))
    problem = replace(plan.problem, network=kept(**attrs))
    found = verify(problem, replace(plan, problem=problem))
    assert any(v.kind == "decision" and "op 'noise' runs again, but" in v.message for v in found)


@pytest.mark.parametrize("attrs", ONCE)
def test_no_schedule_runs_it_again(attrs: dict[str, bool | int]) -> None:
    base = schedule(kept(**attrs))
    at = next(s.name for s in base.steps if s.kind == "grad_param")
    with pytest.raises(ProblemError, match=r"op 'noise' cannot run again: .*(has to run once|are not known)"):
        apply(base, Savings(frozenset((("noise", at),))))


def test_recomputation_by_itself_holds_what_it_made() -> None:
    budget = None
    for attrs, may in (({"macs": 0}, True), ({"once": True}, False)):
        base = schedule(kept(**attrs))  # type: ignore[arg-type]
        inst = instance(base)
        if budget is None:
            budget = solve_least(base)
        answer = solve_intervals(inst, budget, Limits(seconds=20.0))
        ran = {inst.ops[o].name for o, _ in answer.reruns}
        assert ("noise" in ran) == (may and answer.status in ("OPTIMAL", "FEASIBLE"))


def solve_least(base: Schedule) -> int:
    """The least budget, of some below the peak, that recomputation can keep."""
    inst = instance(base)
    peak = keep_all(inst)
    kept = [peak - n for n in (256, 1024, 2048, 3072, 4096)
            if solve_intervals(inst, peak - n, Limits(seconds=20.0)).status in ("OPTIMAL", "FEASIBLE")]  # fmt: skip
    return min(kept)


def test_the_report_names_ops_of_unknown_cost() -> None:
    plan = planned(kept())
    assert "MACs not known, so not counted: noise (Noise). Such ops never run again." in describe(plan)
    assert summary(plan)["macs_unknown"] == ["noise (Noise)"]
    known = planned(kept(macs=7))
    assert "not known" not in describe(known)
    assert known.macs["forward"] == plan.macs["forward"] + 7
    capped = sp.plan(kept(), l2="1MB", dtype="fp32", loss="mse", must=MUST, max_macs=10**9, time_limit=20.0)
    assert "max_macs=1,000,000,000 does not hold them" in describe(capped)


def test_a_known_cost_counts_against_the_cap() -> None:
    with_it = sp.plan(kept(macs=10**6), l2="1MB", dtype="fp32", loss="mse", must=MUST, max_macs=10**6, time_limit=20.0)
    assert with_it.status == "INFEASIBLE"
