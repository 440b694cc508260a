"""A front is exact: its points are the non-dominated (cost, value) pairs of all sets of decisions, each proven.

For every set of decisions that can be placed within some cost there is a point of no more cost and
no less value, and every point is such a set. Where a placement was neither found nor proven
impossible, a window of the front covers what may be missing. Every set of decisions is tried, each
with a graph of its own, so that nothing of the solver's model is used.
"""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sparseplan import sweep
from sparseplan.errors import ProblemError
from sparseplan.ops import infos, op_def
from sparseplan.problem import Problem
from sparseplan.solve.buffers import groups_of
from sparseplan.solve.front import bounded
from sparseplan.solve.place import place_min
from sparseplan.solve.search import solve
from sparseplan.solve.tile import smallest_tile_bytes
from sparseplan.steps import MAIN
from sparseplan.sweep import Front, pareto
from sparseplan.testing import problems
from sparseplan.testing.peers import Option, every_option, plan_of
from sparseplan.verify import verify

MOST = 250


def few(share: float) -> settings:
    """A share of the profile's examples: every one walks whole fronts."""
    return settings(max_examples=max(5, int(settings().max_examples * share)))


@st.composite
def asked(draw: st.DrawFn, tight: bool = True) -> Problem:
    """Problems small enough to try everything."""
    return draw(problems(max_choices=24, tight=tight))


def front_of(problem: Problem, axis: str = "l2", **options: object) -> Front | None:
    """The front, or None where nothing is feasible."""
    try:
        return pareto(problem, axis, **options)  # type: ignore[arg-type]
    except ProblemError as error:
        if "no update set is feasible" not in str(error):
            raise
        return None


def options_of(problem: Problem) -> list[Option]:
    """Every set of decisions; too many are no example."""
    try:
        return every_option(problem, MOST)
    except ProblemError:
        assume(False)
        raise


def covered(front: Front, cost: float, value: float, slack: float) -> bool:
    """Whether a point is as good, or the front says that it may lack one here."""
    points = [p for p in front.points if p.cost <= cost]
    if any(p.value >= value - slack for p in points):
        return True
    if any(w.low <= cost < w.high and value <= w.value + slack for w in front.windows):
        return True
    return any(p.status == "FEASIBLE" and p.bound >= value - slack for p in points)


def slack_of(problem: Problem) -> float:
    """Values closer than this are told apart by no solver of 30 bits."""
    spread = sum(abs(v) for table in problem.values.values() for v in table.values())
    return (spread + sum(t.most() + 1e4 for t in problem.terms)) * 2.0**-20 if problem.values else 0.0


def pairs(front: Front) -> list[tuple[float, float]]:
    return [(p.cost, p.value) for p in front.points]


@given(problem=asked())
@few(0.5)
def test_no_set_of_decisions_beats_the_front(problem: Problem) -> None:
    front = front_of(problem)
    every = options_of(problem)
    capacity = problem.capacity(MAIN)
    reserved = problem.device.level(MAIN).reserved
    slack = slack_of(problem)
    least: dict[int, int] = {}
    for n, option in enumerate(every):
        if front is not None and covered(front, option.peak + reserved, option.worth, slack):
            continue  # even by its live bytes alone
        placement, _ = place_min(groups_of(option.memory), problem.options.alignment, capacity=capacity)
        if placement.status != "PLACED":
            continue
        least[n] = placement.peak + reserved
        assert front is not None, f"nothing is feasible, yet {option.update} takes {least[n]}"
        assert covered(front, least[n], option.worth, slack), (least[n], option.worth, option.update, pairs(front))
    if front is None:
        return
    for point in front.points:
        same = [o for o in every if dict(o.update) == dict(point.update)]
        assert same
        assert point.value == same[0].worth
        assert min(o.peak for o in same) + reserved <= point.cost == point.l2 + reserved
        assert point.macs in {o.macs for o in same}
        assert point.status == "OPTIMAL" or point.bound > point.value


@given(problem=asked(tight=False))
@few(0.5)
def test_of_macs_the_front_equals_brute_force(problem: Problem) -> None:
    """Without a bound on bytes nothing has to be placed tightly, and the two are equal."""
    front = front_of(problem, "macs")
    best: list[Option] = []
    for o in sorted(options_of(problem), key=lambda o: (o.macs, -o.worth)):
        if not best or o.worth > best[-1].worth:
            best.append(o)
    if front is None:
        assert not best
        return
    assert front.proven
    slack = slack_of(problem)
    values = {p.cost: p.value for p in front.points}
    expected = {o.macs: o.worth for o in best}
    if slack_free(problem):
        assert values == expected
    for cost, value in expected.items():
        assert covered(front, cost, value, slack)
    for p in front.points:
        assert p.cost == p.macs
        assert p.value <= max(v for c, v in expected.items() if c <= p.cost)


def slack_free(problem: Problem) -> bool:
    """Whether values are small whole numbers, which no scaling rounds."""
    numbers = [v for table in problem.values.values() for v in table.values()]
    return not problem.terms and all(float(v).is_integer() and abs(v) < 1e4 for v in numbers)


@given(problem=asked())
@few(0.25)
def test_of_l1_the_front_equals_brute_force(problem: Problem) -> None:
    device = problem.device
    assume(device.has("L1"))
    level = device.level("L1")
    table = infos(problem.network)

    def l1_of(option: Option) -> int:
        least = 0
        for step in plan_of(problem, option.update, option.picks).steps:
            if step.kind in ("forward", "grad_param", "grad_input"):
                pass_ = "forward" if step.kind == "forward" else step.target
                space = op_def(table[step.op].kind).tile_space(table[step.op], pass_)
                if space is not None:
                    asked = smallest_tile_bytes(space, problem.options.dtype, device.double_buffer, level.alignment)
                    least = max(least, asked)
        return least + level.reserved

    front = front_of(problem, "l1")
    slack = slack_of(problem)
    for option in options_of(problem):
        cost = l1_of(option)
        if front is not None and covered(front, cost, option.worth, slack):
            continue
        groups = groups_of(option.memory)
        placement, _ = place_min(groups, problem.options.alignment, capacity=problem.capacity(MAIN))
        assert placement.status != "PLACED", (cost, option.worth, option.update, front and pairs(front))
    for point in front.points if front is not None else ():
        assert point.l1 is not None
        assert point.l1 + level.reserved <= point.cost
        assert point.cost in {l1_of(o) for o in options_of(problem) if dict(o.update) == dict(point.update)}


@given(problem=asked(), axis=st.sampled_from(["l2", "macs"]))
@few(0.25)
def test_each_point_is_the_optimum_at_its_own_budget(problem: Problem, axis: str) -> None:
    front = front_of(problem, axis)
    assume(front is not None)
    assert front is not None
    costs, values = [p.cost for p in front.points], [p.value for p in front.points]
    assert costs == sorted(set(costs))
    assert values == sorted(set(values))
    step = problem.options.alignment if axis == "l2" else 1
    for p in front.points:
        if p.status != "OPTIMAL":
            continue
        plan = solve(bounded(problem, axis, int(p.cost)))
        assert verify(plan.problem, plan) == ()
        assert plan.objective == pytest.approx(p.value, abs=plan.resolution)
        fewer = int(p.cost) - step
        if front.proven and fewer > (problem.device.level(MAIN).reserved if axis == "l2" else 0):
            below = solve(bounded(problem, axis, fewer))
            assert below.objective < p.value


@given(problem=asked(), axis=st.sampled_from(["l2", "macs"]))
@few(0.25)
def test_stretches_do_not_change_the_front(problem: Problem, axis: str) -> None:
    fronts = []
    for stretches, levels in ((1, 8), (12, 1), (3, 1)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sweep, "STRETCHES", stretches)
            patch.setattr(sweep, "LEVELS_A_STRETCH", levels)
            fronts.append(front_of(problem, axis))
    assume(all(f is None or f.proven for f in fronts))
    assert len({f is None for f in fronts}) == 1
    whole = fronts[0]
    for front in fronts[1:]:
        if whole is not None and front is not None:
            assert [p.cost for p in front.points] == [p.cost for p in whole.points]
            assert [p.value for p in front.points] == pytest.approx(
                [p.value for p in whole.points], abs=slack_of(problem)
            )


@given(problem=asked(), count=st.integers(2, 6), data=st.data())
@few(0.25)
def test_thinned_and_sampled_fronts_are_parts_of_the_whole(problem: Problem, count: int, data: st.DataObject) -> None:
    front = front_of(problem)
    assume(front is not None)
    assert front is not None
    thin = front.thin(count)
    assert set(pairs(thin)) <= set(pairs(front))
    assert len(thin.points) <= max(count, 1)
    assert (thin.points[0], thin.points[-1]) == (front.points[0], front.points[-1])
    assert front.exhaustive
    first, last = int(front.points[0].cost), int(front.points[-1].cost)
    room = problem.device.level(MAIN).bytes  # beyond it the front ends, and sampled budgets go on
    most = last + 9 if room is None else max(first, min(last + 9, room))
    budgets = data.draw(st.lists(st.integers(first, most), min_size=1, max_size=3, unique=True))
    sampled = pareto(problem, budgets=budgets)
    assert not sampled.exhaustive
    assert [p.cost for p in sampled.points] == sorted(budgets)
    for p in sampled.points:
        assert p.l2 + problem.device.level(MAIN).reserved <= p.cost
        assert p.value == pytest.approx(solve(bounded(problem, "l2", int(p.cost))).objective, abs=slack_of(problem))
        if front.proven and p.status == "OPTIMAL":
            best = max(q.value for q in front.points if q.cost <= p.cost)
            assert p.value == pytest.approx(best, abs=slack_of(problem))
