"""What the 0/1 program excludes, bounds and caps: one set of decisions and no other, and figures told by hand."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from planted import problem_of
from savings import with_savings

from sparseplan.autodiff import trace
from sparseplan.builder import NetworkBuilder
from sparseplan.device import Device, Level
from sparseplan.network import Network
from sparseplan.problem import Pair, Problem
from sparseplan.recompute import Savings
from sparseplan.solve.cpsat import Limits, solve
from sparseplan.solve.select import Decisions, Program
from sparseplan.steps import UpdateSet


def chain() -> Network:
    """Convolutions of odd sizes with masks between them, so that there is something to pick, run again and pack."""
    net = NetworkBuilder("chain")
    t = net.input("image", (3, 3, 3))
    for i in range(3):
        t = net.leaky_relu(net.conv(t, 3, 1, bias=i == 1, name=f"c{i}"), 0.125, name=f"r{i}")
    return net.build(net.conv(t, 2, 1, bias=False, name="head"))


def program(savings: tuple[str, ...] = (), network: Network | None = None, **options: Any) -> Program:
    problem = problem_of(network or chain(), optimizer="momentum", gradients="accumulate", **options)
    if savings:
        problem = with_savings(problem, savings)
    return Program(problem, trace(problem.network, problem.options, problem.choices), [])


def fixed(p: Program, decisions: Decisions) -> Any:
    """The model with everything decided."""
    model, graph, again = p.model.clone(), p.graph, p.again
    chosen = graph.chosen(UpdateSet(decisions.update))
    for bit, atom in p.literals.atoms.items():
        model.add(atom == int(bool(bit & chosen)))
    for pick, options in zip(graph.picks, p.literals.picks, strict=True):
        model.add(options[pick.options.index(decisions.picks.get(pick.op, pick.options[0]))] == 1)
    made = decisions.savings
    for table, taken in ((again.runs, made.reruns), (again.fetches, made.fetches)):
        for (name, i), literal in table.items():
            model.add(literal == int((name, graph.steps[i].name) in taken))
    for table, taken in ((again.packed, made.packed), (again.moved, made.moved)):  # type: ignore[assignment]
        for key, literal in table.items():
            model.add(literal == int(key in taken))
    return model


def feasible(p: Program, decisions: Decisions) -> bool:
    model = fixed(p, decisions)
    for e in p.excluded:
        model.add_bool_or(e.clause)
    return solve(model, Limits()).solved


def everything(p: Program) -> Decisions:
    """All updated, with some of all that saves."""
    graph, again = p.graph, p.again
    update = {name: levels.fractions[-1][0] for name, levels in graph.levels.items() if levels.atoms}
    del update["c0.weight"]  # frozen, so that it can be streamed
    picks = {pick.op: pick.options[0] for pick in graph.picks}
    name = [s.name for s in graph.steps]

    def there(table: Any) -> list[tuple[str, str]]:
        chosen = graph.chosen(UpdateSet(update))
        return [(n, name[i]) for n, i in table if chosen & graph.steps[i].when and graph.steps[i].pick is None]

    runs = there(again.runs)[-1:]
    fetches = [f for f in there(again.fetches) if f[0] == "image"][-1:]
    moved = [key for key in again.moved if key[0] == "c0.weight"]
    return Decisions(update, picks, Savings(frozenset(runs), frozenset(fetches), frozenset(list(again.packed)[:1]),
                                            frozenset(moved)))  # fmt: skip


def neighbours(p: Program, d: Decisions) -> Iterator[tuple[str, Decisions]]:
    """Decisions that differ in one thing."""
    for name in list(d.update)[:2]:
        yield f"without {name}", replace(d, update={n: r for n, r in d.update.items() if n != name})
    for pick in p.graph.picks:
        other = next(o for o in pick.options if o != d.picks[pick.op])
        yield f"pick of {pick.op}", replace(d, picks={**d.picks, pick.op: other})
    made = d.savings
    for field in ("reruns", "fetches", "packed", "moved"):
        taken = getattr(made, field)
        for one in taken:
            yield f"{field} without {one}", replace(d, savings=replace(made, **{field: taken - {one}}))
    for op in p.again.packed:
        if op not in made.packed:
            yield f"packs {op}", replace(d, savings=replace(made, packed=made.packed | {op}))


def test_an_exclusion_rules_out_one_set_of_decisions_and_no_other() -> None:
    p = program(("recompute", "page", "stream", "int8"))
    d = everything(p)
    assert all((d.savings.reruns, d.savings.fetches, d.savings.packed, d.savings.moved, d.picks))
    assert feasible(p, d)
    others = {what: other for what, other in neighbours(p, d) if feasible(p, other)}
    assert len(others) > 8
    p.exclude(d, 1.0, 100)
    assert not feasible(p, d)
    assert [what for what, other in others.items() if not feasible(p, other)] == []


def test_doubt_is_the_most_worth_of_what_may_still_fit() -> None:
    p = program()
    assert p.doubt(None) == p.doubt(100) == -math.inf
    nothing = Decisions({}, {})
    p.exclude(nothing, 5.0, 100)
    p.exclude(replace(nothing, update={"head.weight": 1.0}), 7.0, 200)
    assert [p.doubt(c) for c in (None, 200, 199, 100, 99)] == [7.0, 7.0, 5.0, 5.0, -math.inf]


def test_nothing_runs_again_before_a_step_that_does_not_take_place() -> None:
    """Without an update of c0 its gradient's step is none, so nothing can be made again before it."""
    p = program(("recompute",))
    steps = {s.name: i for i, s in enumerate(p.graph.steps)}
    (op, i) = next(key for key in p.again.runs if key[1] == steps["c1.grad_weight"])
    for updated, possible in ((1, True), (0, False)):
        model = p.model.clone()
        model.add(p.again.runs[op, i] == 1)
        for name, levels in p.graph.levels.items():
            if name == "c1.weight":
                model.add(p.literals.atoms[levels.atoms[0]] == updated)
        assert solve(model, Limits()).solved == possible


def test_a_must_is_a_floor() -> None:
    problem = problem_of(chain(), may=("c1.weight@0.34", "c1.weight@0.67", "c1.weight"), must=("c1.weight@0.67",))
    values = {n: {r: -r for r in t} for n, t in problem.values.items()}
    problem = replace(problem, values=values)
    p = Program(problem, trace(problem.network, problem.options, problem.choices), [])
    found = p.select(Limits()).decisions
    assert found is not None
    assert found.update == {"c1.weight": 0.67}


def valued(values: dict[str, float]) -> Problem:
    """c1.weight, c2.weight and head.weight may be updated, in whole."""
    problem = problem_of(chain(), may=tuple(values), optimizer="momentum")
    choices = dict.fromkeys(values, (1.0,))
    return replace(problem, choices=choices, values={n: {1.0: v} for n, v in values.items()})


def test_above_a_worth_means_more() -> None:
    """Worths of all sets: 0 1 2 3 4 5 6 7 eighths."""
    problem = valued({"c1.weight": 0.125, "c2.weight": 0.25, "head.weight": 0.5})
    p = Program(problem, trace(problem.network, problem.options, problem.choices), [])
    assert p.resolution == 0.0
    for eighth in range(7):
        found = p.select(Limits(), above=eighth / 8)
        assert found.decisions is not None
        assert p.worth(found.decisions) == 7 / 8
        model = p.model.clone()
        model.add(p.value >= math.floor((eighth / 8) * p.scale) + 1)
        model.minimize(p.value)
        assert solve(model, Limits()).objective == round((eighth + 1) / 8 * p.scale)
    nothing = p.select(Limits(), above=7 / 8)
    assert (nothing.status, nothing.decisions) == ("INFEASIBLE", None)
    assert p.best_bound == 7 / 8


def test_rounded_worths_have_a_resolution() -> None:
    problem = valued({"c1.weight": 1 / 3, "head.weight": 0.1})
    p = Program(problem, trace(problem.network, problem.options, problem.choices), [])
    assert 2 * 0.5 / p.scale <= p.resolution < 1e-6


def test_a_tightened_budget_bounds_nothing() -> None:
    problem = valued({"c1.weight": 0.125, "c2.weight": 0.25, "head.weight": 0.5})
    graph = trace(problem.network, problem.options, problem.choices)
    least, most = Program(problem, graph, []).cheapest(Limits())[2], 100_000
    problem = replace(problem, device=problem.device.with_budget(l2=most))
    p = Program(problem, graph, [])
    tight = p.select(Limits(), margin=most - least)
    assert tight.decisions is not None
    assert p.worth(tight.decisions) < 7 / 8
    assert p.best_bound == 7 / 8 == problem.most_worth()
    nothing = p.select(Limits(), margin=most - least, above=0.75)
    assert nothing.decisions is None
    assert p.best_bound == 7 / 8
    assert p.select(Limits(), above=0.75).decisions is not None


def test_packed_readers_of_one_parameter_pay_its_price_once() -> None:
    net = NetworkBuilder("twice")
    t = net.conv(net.input("image", (3, 3, 3)), 3, 1, bias=False, name="c0")
    for name in ("a", "b"):
        t = net.op("tanh", net.op("conv", t, name, {"weight": "w"}, kernel=1, out_channels=3), name=f"t{name}")
    problem = replace(with_savings(problem_of(net.build(t)), ("int8",)), int8_price=0.25)
    p = Program(problem, trace(problem.network, problem.options, problem.choices), [])
    assert set(p.again.packed) == {"c0", "a", "b"}
    whole = {n: levels.fractions[-1][0] for n, levels in p.graph.levels.items()}
    picks = {pick.op: pick.options[0] for pick in p.graph.picks}
    for ops in itertools.chain.from_iterable(itertools.combinations(("c0", "a", "b"), n) for n in range(4)):
        d = Decisions(whole, picks, Savings(packed=frozenset(ops)))
        model = fixed(p, d)
        model.maximize(p.value)
        found = (solve(model, Limits()).objective or 0) / p.scale
        paid = sum(0.25 * problem.values[n][1.0] for n, users in (("c0.weight", {"c0"}), ("w", {"a", "b"}))
                   if users & set(ops))  # fmt: skip
        assert found == pytest.approx(problem.worth(whole) - paid, abs=1e-6)


def slow_levels(problem: Problem, l3: int | None, alignment: int) -> Problem:
    levels = (Level("L2", None, 0, 2), Level("L3", l3, 0, alignment), Level("flash", None, 0, 1))
    options = replace(problem.options, frozen="L3")
    return replace(problem, device=Device("slow", "", levels), options=options, savings=("page",))


def test_what_lies_at_a_slower_level_takes_its_alignment_and_all_counts() -> None:
    """Frozen weights (18 or 12 bytes, biases 6) and a page of the image (54) at L3, aligned to 16."""

    def made(l3: int | None) -> Program:
        problem = slow_levels(problem_of(chain(), optimizer="sgd", alignment=2), l3, 16)
        return Program(problem, trace(problem.network, problem.options, problem.choices), [])

    frozen, page = 3 * 32 + 16 + 16, 64
    p = made(None)
    assert p.frozen.constant == frozen
    row = p.away()["L3"]
    assert row.terms[p.again.paged["image"].index] == page
    for l3, possible in ((frozen + page, True), (frozen + page - 1, False)):
        p = made(l3)
        model = p.model.clone()
        p.limit_others(model)
        for atom in p.literals.atoms.values():
            model.add(atom == 0)
        model.add(p.again.paged["image"] == 1)
        assert solve(model, Limits()).solved == possible


def test_pages_come_back_from_where_they_went_and_count_both_ways() -> None:
    """The image has 54 bytes in bf16: once out, and as often in as it is fetched."""
    p = program(("page",), l2=None)
    (t, i) = next(key for key in p.again.fetches if key[0] == "image")
    fetch, page = p.again.fetches[t, i], p.again.paged[t]
    assert p.traffic.terms[fetch.index] == p.traffic.terms[page.index] == 54
    for out, possible in ((1, True), (0, False)):
        model = p.model.clone()
        model.add(fetch == 1)
        model.add(page == out)
        assert solve(model, Limits()).solved == possible


def test_the_program_is_worth_what_the_problem_is_with_pairs_of_fractions() -> None:
    """A pair counts from its own fractions on, at any of the parameters' levels."""
    fractions = (0.34, 0.67, 1.0)
    problem = problem_of(chain(), may=("c1.weight", "c2.weight"))
    problem = replace(problem, choices=dict.fromkeys(problem.choices, fractions),
                      values={n: {r: 10 * r for r in fractions} for n in problem.choices},
                      terms=(Pair({"c1.weight": 0.67}, {"c2.weight": 1.0}, 100.0),))  # fmt: skip
    p = Program(problem, trace(problem.network, problem.options, problem.choices), [])
    picks = {pick.op: pick.options[0] for pick in p.graph.picks}
    for one, two in itertools.product((0.0, 0.34, 0.67, 1.0), repeat=2):
        update = {n: r for n, r in (("c1.weight", one), ("c2.weight", two)) if r}
        model = fixed(p, Decisions(update, picks))
        model.maximize(p.value)
        assert (solve(model, Limits()).objective or 0) / p.scale == pytest.approx(problem.worth(update), abs=1e-5)
