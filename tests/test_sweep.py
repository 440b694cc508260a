"""Fronts as data: frames, plans on disk, sampled and thinned, and what cannot be asked."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
from planted import problem_of, small_u

import sparseplan as sp
from sparseplan import sweep
from sparseplan.device import MacRate
from sparseplan.errors import ProblemError
from sparseplan.problem import Problem, resolve_ties
from sparseplan.solve.pipeline import Pipeline
from sparseplan.sweep import Front, pareto
from sparseplan.verify import verify

COLUMNS = ["axis", "cost", "l2_bytes", "l1_bytes", "macs", "value", "bound", "status", "tensors", "elements", "update"]
BLOCKS = (
    ("encoder.*",), ("decoder0.*", "ups0.*"), ("decoder1.*", "ups1.*"), ("decoder2.*",),
)  # fmt: skip


@pytest.fixture(scope="module")
def small() -> Problem:
    problem = problem_of(small_u(), l1=2048, alignment=4)
    choices = dict.fromkeys(problem.choices, (1.0,))
    return replace(problem, choices=choices)


@pytest.fixture(scope="module")
def front(small: Problem) -> Front:
    return pareto(small)


def test_the_frame_is_tidy(front: Front) -> None:
    frame = front.frame()
    assert list(frame.columns) == COLUMNS
    assert len(frame) == len(front.points) > 3
    kinds = {name: frame[name].dtype.kind for name in COLUMNS}
    assert {kinds[n] for n in ("cost", "l2_bytes", "l1_bytes", "macs", "tensors", "elements")} == {"i"}
    assert {kinds[n] for n in ("value", "bound")} == {"f"}
    assert (frame["axis"] == "l2").all()
    assert frame["cost"].is_monotonic_increasing
    assert frame["value"].is_monotonic_increasing
    last = frame.iloc[-1]
    assert set(json.loads(last["update"])) == set(front.problem.choices)
    assert last["elements"] == sum(front.problem.network.tensor[p].elements for p in front.problem.choices)


def test_two_jobs_give_the_same_front(small: Problem, front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "LEVELS_A_STRETCH", 2)
    one, two = pareto(small, jobs=1), pareto(small, jobs=2)
    assert one == two
    assert [(p.cost, p.value) for p in one.points] == [(p.cost, p.value) for p in front.points]


def test_plans_on_disk_are_those_of_the_points(
    small: Problem, front: Front, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "LEVELS_A_STRETCH", 2)
    (tmp_path / "plan-1.json").write_text("of an earlier front")
    (tmp_path / "notes.json").write_text("not ours")
    kept = pareto(small, plans=tmp_path)
    names = {f"plan-{p.cost}.json" for p in kept.points}
    assert {f.name for f in tmp_path.iterdir()} == names | {"notes.json"}
    for p in kept.points:
        plan = sp.read_plan(tmp_path / f"plan-{p.cost}.json")
        assert verify(plan.problem, plan) == ()
        assert (plan.objective, dict(plan.update), plan.status) == (p.value, dict(p.update), p.status)
        assert plan.problem.device.level("L2").bytes == p.cost
    thin = pareto(small, plans=tmp_path, points=3)
    assert {f.name for f in tmp_path.glob("plan-*")} == {f"plan-{p.cost}.json" for p in thin.points}


def test_an_obligation_of_a_part_loses_no_cheaper_point(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the front begins is guessed from the least that must be updated, not from the most of it."""
    problem = replace(problem_of(small_u(), alignment=4), must={"up.weight": 0.25})
    monkeypatch.setattr(sweep, "LEVELS_A_STRETCH", 1000)
    whole = pareto(problem, effort=sweep.Effort())
    monkeypatch.setattr(sweep, "LEVELS_A_STRETCH", 1)
    cut = pareto(problem, effort=sweep.Effort())
    assert [(p.cost, p.value) for p in cut.points] == [(p.cost, p.value) for p in whole.points]
    assert all(p.update["up.weight"] >= 0.25 for p in cut.points)


def test_seconds_are_macs_over_the_rate(small: Problem) -> None:
    device = replace(small.device, mac_rates=(MacRate("*", "*", "*", 4.0),), clock_hz=1000.0)
    timed, counted = replace(small, device=device), replace(small, device=device)
    seconds, macs = pareto(timed, "time"), pareto(counted, "macs")
    assert [p.cost for p in seconds.points] == pytest.approx([p.cost / 4000 for p in macs.points])
    assert [p.value for p in seconds.points] == [p.value for p in macs.points]
    assert seconds.axis == "time"


def test_what_cannot_be_asked(small: Problem, tmp_path: Path) -> None:
    with pytest.raises(ProblemError, match="axis='l3' must be one of l2, l1, macs, time"):
        pareto(small, "l3")
    with pytest.raises(ProblemError, match="axis='l1': device 'custom' has no L1 of known size; give l1, or another"):
        pareto(problem_of(small_u()), "l1")
    with pytest.raises(ProblemError, match="axis='time': device 'custom' gives no MAC rates and a clock for"):
        pareto(small, "time")
    with pytest.raises(ProblemError, match="jobs=0 must be a whole number, at least 1"):
        pareto(small, jobs=0)
    with pytest.raises(ProblemError, match="budget=-5 must be above 0"):
        pareto(small, budgets=[-5])
    with pytest.raises(ProblemError, match=r"budgets=\[64\]: none is feasible"):
        pareto(small, budgets=[64])
    with pytest.raises(ProblemError, match="no update set is feasible, not even the smallest: L2: at least"):
        pareto(replace(small, device=small.device.with_budget(l2=64)))


def test_thinning_asks_for_two(front: Front) -> None:
    with pytest.raises(ProblemError, match="points=1 must be a whole number, at least 2"):
        front.thin(1)
    assert front.thin(1000) == front
    assert not front.thin(2).exhaustive


def test_upydnet_by_blocks() -> None:
    problem = sp.problem("upydnet", "gap9", fractions=(1.0,))
    problem = replace(problem, ties=resolve_ties(problem.network, problem.choices, BLOCKS))
    front = pareto(problem)
    assert front.proven
    expected: list[tuple[float, float]] = []
    for n in range(5):
        for chosen in itertools.combinations(problem.ties, n):
            names = [p for tie in chosen for p in tie]
            fixed = replace(problem, choices=dict.fromkeys(names, (1.0,)), must=dict.fromkeys(names, 1.0), ties=())
            plan = Pipeline(fixed, order=("peak", "area")).run()
            expected.append((plan.peak_bytes["L2"], plan.objective))
    best = [(c, v) for c, v in expected if not any(d <= c and w >= v and (d, w) != (c, v) for d, w in expected)]
    assert [(p.cost, p.value) for p in front.points] == sorted(best)


def test_a_few_points_are_those_that_thinning_the_whole_front_leaves(small: Problem, front: Front) -> None:
    few = pareto(small, points=5)
    thin = front.thin(5)
    assert [(p.cost, p.value) for p in few.points] == [(p.cost, p.value) for p in thin.points]
    assert not few.exhaustive
