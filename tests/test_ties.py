"""Parameters that are tied are updated together, and the verifier knows; it knows all terms of value too."""

from __future__ import annotations

from dataclasses import replace

import pytest
from planted import found, problem_of, small_u

from sparseplan.builder import NetworkBuilder
from sparseplan.errors import ProblemError
from sparseplan.problem import Pair, Problem, Saturation, resolve_choices, resolve_ties
from sparseplan.solve.search import solve
from sparseplan.testing.peers import plan_of
from sparseplan.verify import verify

TIE = ("stem.weight", "join.weight", "join.bias")


def tied(*ties: tuple[str, ...]) -> Problem:
    return replace(problem_of(small_u(), alignment=4), ties=ties or (TIE,))


def test_a_joint_level_is_the_least_fraction_that_is_at_least_as_large() -> None:
    problem = tied()
    levels = problem.joint_levels(TIE)
    joint = sorted({r for p in TIE for r in problem.choices[p]})
    for level in levels:
        assert level["join.bias"] == 1.0
    for r in joint:
        asked = {p: min((q for q in problem.choices[p] if q >= r), default=max(problem.choices[p])) for p in TIE}
        assert asked in levels
    assert len(levels) <= len(joint)
    assert levels[-1] == dict.fromkeys(TIE, 1.0)


def test_a_parameter_that_may_not_be_updated_is_not_tied() -> None:
    with pytest.raises(ProblemError, match=r"ties\[0\]: parameter 'image' may not be updated; leave it out of the tie"):
        tied(("image", "join.bias"))


def test_a_parameter_is_tied_once() -> None:
    with pytest.raises(ProblemError, match=r"parameter 'join.bias' is in ties\[0\] and in ties\[1\]; tie it once"):
        tied(TIE, ("join.bias", "head.bias"))


def test_ties_from_patterns() -> None:
    problem = problem_of(small_u())
    ties = resolve_ties(problem.network, problem.choices, [["join.*"], ["head.bias"]])
    assert [set(t) for t in ties] == [{"join.weight", "join.bias"}]
    with pytest.raises(ProblemError, match=r"tie='nothing.\*' matches no parameter"):
        resolve_ties(problem.network, problem.choices, [["nothing.*"]])


def test_an_exact_name_is_no_pattern() -> None:
    net = NetworkBuilder("brackets")
    x = net.input("image", (1, 4, 4))
    for name in ("conv[1]", "conv1", "head"):
        x = net.conv(x, 1, 1, name=name)
    problem = problem_of(net.build(x))
    ties = resolve_ties(problem.network, problem.choices, [["conv[1].weight", "head.weight"], ["conv[0-9].*"]])
    assert ties == (("conv[1].weight", "head.weight"), ("conv1.weight", "conv1.bias"))
    assert set(resolve_choices(problem.network, may=["conv[1].bias"])[0]) == {"conv[1].bias"}


def test_the_planner_keeps_ties_at_every_budget() -> None:
    problem = tied()
    least, most = (plan_of(problem, u).peak_bytes["L2"] for u in ({}, dict.fromkeys(problem.choices, 1.0)))
    for l2 in range(least, most + 1, (most - least) // 6):
        plan = solve(replace(problem, device=problem.device.with_budget(l2=l2)))
        assert plan.status == "OPTIMAL"
        chosen = {p: r for p, r in plan.update.items() if p in TIE}
        assert not chosen or chosen in problem.joint_levels(TIE)
        assert verify(plan.problem, plan) == ()


def test_the_verifier_finds_a_tie_broken_by_one_fraction() -> None:
    problem = tied()
    level = problem.joint_levels(TIE)[0]
    assert verify(problem, plan_of(problem, level)) == ()
    more = next(r for r in problem.choices["stem.weight"] if r > level["stem.weight"])
    broken = plan_of(problem, {**level, "stem.weight": more})
    violations = verify(problem, broken)
    assert any(v.kind == "decision" and "no joint level" in str(v) for v in violations)
    dropped = plan_of(problem, {p: r for p, r in level.items() if p != "join.bias"})
    assert "decision" in found(problem, dropped)


EIGHTHS = {r / 8: r / 8 for r in range(1, 9)}


@pytest.mark.parametrize(
    "term",
    [
        Pair({"join.weight": 0.5}, {"head.bias": 1.0}, 7.0),
        Saturation({"join.weight": EIGHTHS, "head.bias": {1.0: 1.0}}, ((1.0, 3.0), (3.0, 4.0))),
    ],
    ids=["pair", "saturation"],
)
def test_the_verifier_finds_a_forgotten_term(term: Pair | Saturation) -> None:
    problem = problem_of(small_u(), alignment=4)
    update = {"join.weight": 1.0, "head.bias": 1.0}
    without = plan_of(problem, update)
    problem = replace(problem, terms=(term,))
    plan = plan_of(problem, update)
    assert verify(problem, plan) == ()
    assert plan.objective > without.objective
    assert "objective" in found(problem, replace(plan, objective=without.objective))
