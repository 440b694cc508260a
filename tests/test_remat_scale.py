"""Recomputation at scale: intervals and windows agree with the exact matrix model, and bounds are bounds."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_remat import instances

import sparseplan as sp
from sparseplan.autodiff import differentiate
from sparseplan.solve.cpsat import Clock, Limits
from sparseplan.solve.linear01 import from_cpsat, solve_highs
from sparseplan.solve.rematinstance import RematInstance, instance, keep_all, least_possible, macs_of, peak_of
from sparseplan.solve.rematintervals import by_intervals, checkpoints, solve_bytes, solve_intervals
from sparseplan.solve.rematmatrix import Matrix, least_macs, least_peak
from sparseplan.solve.rematonce import search
from sparseplan.solve.rematwindows import Progress, dropped, refine
from sparseplan.steps import TrainingOptions, UpdateSet


def _budget(data: st.DataObject, inst: RematInstance) -> int:
    return data.draw(st.integers(min(least_possible(inst), keep_all(inst)) - 1, keep_all(inst)))


@given(instances(max_ops=4, max_slots=5), st.data())
def test_intervals_are_the_matrix_model_where_copies_suffice(inst: RematInstance, data: st.DataObject) -> None:
    budget = _budget(data, inst)
    exact = least_macs(inst, budget, Limits())
    for copies in (2, 3):
        found = by_intervals(inst, budget, copies, Limits())
        assert found.status in ("OPTIMAL", "INFEASIBLE")
        if found.status == "OPTIMAL":
            assert exact.status == "OPTIMAL"
            assert peak_of(inst, found.reruns) <= budget
            assert found.macs >= exact.macs
        runs = max((sum(o == k for k, _ in exact.reruns) for o, _ in exact.reruns), default=0)
        if exact.status == "OPTIMAL" and runs < copies:
            assert (found.status, found.macs) == ("OPTIMAL", exact.macs)


@given(instances(max_ops=4, max_slots=5), st.data())
def test_windows_never_exceed_the_optimum_nor_plans_the_budget(inst: RematInstance, data: st.DataObject) -> None:
    budget = _budget(data, inst)
    exact = least_macs(inst, budget, Limits())
    found = refine(inst, budget, Limits(20.0))
    if found.infeasible:
        assert exact.status == "INFEASIBLE"
    if found.reruns is not None:
        assert exact.status == "OPTIMAL"
        assert peak_of(inst, found.reruns) <= budget
        assert found.bound <= exact.macs <= found.macs == macs_of(inst, found.reruns)
    elif exact.status == "OPTIMAL":
        assert found.bound <= exact.macs


@given(instances(max_ops=4, max_slots=5), st.data())
def test_the_solver_proves_small_instances(inst: RematInstance, data: st.DataObject) -> None:
    budget = _budget(data, inst)
    exact = least_macs(inst, budget, Limits())
    found = solve_intervals(inst, budget, Limits())
    assert (found.status, found.macs) == (exact.status, exact.macs)
    assert found.peak == peak_of(inst, found.reruns) or found.status == "INFEASIBLE"


@settings(max_examples=15)
@given(instances(max_ops=4, max_slots=4), st.integers(0, 30))
def test_the_lowest_peak_within_a_cap(inst: RematInstance, macs: int) -> None:
    exact, found = least_peak(inst, macs, Limits()), solve_bytes(inst, macs, Limits())
    assert (found.status, found.peak, found.bound) == (exact.status, exact.peak, exact.peak)
    assert found.macs <= macs


@given(instances(max_ops=4, max_slots=5), st.data())
def test_plans_of_one_rerun_an_op_are_plans(inst: RematInstance, data: st.DataObject) -> None:
    budget = _budget(data, inst)
    best = Progress(None, 0, 0)
    search(inst, budget, best, Clock(Limits(3.0)))
    if best.reruns is not None:
        assert peak_of(inst, best.reruns) <= budget
        assert best.macs >= least_macs(inst, budget, Limits()).macs


@settings(max_examples=15)
@given(instances(max_ops=4, max_slots=5), st.data())
def test_highs_finds_what_cpsat_finds(inst: RematInstance, data: st.DataObject) -> None:
    budget = _budget(data, inst)
    m = Matrix(inst)
    m.limit(m.rows(), budget)
    m.model.minimize(m.macs())
    exact = least_macs(inst, budget, Limits())
    other = solve_highs(from_cpsat(m.model), Limits(60.0))
    assert other.status == exact.status
    if other.objective is not None:
        assert other.objective == exact.macs


@pytest.mark.parametrize(
    ("gradients", "budget", "macs"),
    [("fused", 620_754, 27_979_776), ("fused", 900_000, 2_377_728), ("accumulate", 836_004, 25_316_352)],
)
def test_upydnet(gradients: str, budget: int, macs: int) -> None:
    """Proven by the matrix model; the windows bound them from below, plans from above."""
    net = sp.zoo.upydnet()
    inst = instance(differentiate(net, UpdateSet.all(net), TrainingOptions(gradients=gradients)))
    found = refine(inst, budget, Limits(5.0))
    assert found.bound <= macs
    assert found.reruns is None or found.macs >= macs


def test_checkpoints_lower_the_peak_of_a_chain() -> None:
    net = sp.NetworkBuilder("chain")
    x = net.input("image", (2, 8, 8))
    for _ in range(16):
        x = net.conv(x, 2, 3, 1, 1)
    built = net.build([x])
    inst = instance(differentiate(built, UpdateSet.all(built)))
    plan = checkpoints(inst, 4)
    assert peak_of(inst, plan) < keep_all(inst)
    assert len({o for o, _ in plan}) == len(plan) <= 12
    assert dropped(inst, []) == ()
