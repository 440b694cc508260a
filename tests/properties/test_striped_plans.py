"""Plans on networks that may be run in stripes: accepted, executed bit for bit, and never worse than without.

The network that a plan runs computes the gradients of the problem's, and stripes are refused where they cannot be.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import problem_of
from striped import networks_by_rows

from sparseplan.api import problem as problem_from_names
from sparseplan.builder import NetworkBuilder, init_parameters
from sparseplan.errors import ProblemError
from sparseplan.network import Network
from sparseplan.plan import Plan
from sparseplan.problem import Problem
from sparseplan.run.runner import random_data
from sparseplan.run.trainer import gradients
from sparseplan.solve.cpsat import Limits
from sparseplan.solve.search import solve
from sparseplan.testing import check_accepted, check_json, check_runs_within_budget
from sparseplan.testing.optima import with_budget
from sparseplan.testing.peers import trainable

LIMITS = Limits(5.0)
FEWER = settings(max_examples=max(1, settings().max_examples // 3))


@st.composite
def tall(draw: st.DrawFn) -> Network:
    """Convolutions over more rows than columns, with a pool or a stride somewhere: stripes hold less of them."""
    net = NetworkBuilder("tall")
    t = net.input("image", (draw(st.sampled_from([1, 2])), draw(st.sampled_from([8, 12, 16])), 2))
    for i in range(draw(st.integers(2, 4))):
        stride = draw(st.sampled_from([1, 1, 2])) if net.shape(t)[1] >= 8 else 1
        bias = draw(st.booleans())
        t = net.conv(t, draw(st.sampled_from([4, 2, 1])), 3, stride, 1, name=f"conv{i}", bias=bias)
        if draw(st.booleans()):
            t = net.op(draw(st.sampled_from(["relu", "sigmoid", "hardswish"])), (t,))
    return net.build(t)


@st.composite
def striped_problems(draw: st.DrawFn) -> Problem:
    """Problems with bytes around what does without stripes, so that they help or have to."""
    network = draw(st.one_of(tall(), tall(), networks_by_rows(5).filter(lambda n: bool(trainable(n)))))
    names = trainable(network)
    must = tuple(draw(st.sets(st.sampled_from(names), min_size=1, max_size=2)))
    setting = {
        "gradients": draw(st.sampled_from(["fused", "accumulate"])), "dtype": draw(st.sampled_from(["bf16", "fp32"])),
        "alignment": draw(st.sampled_from([4, 1])), "optimizer": draw(st.sampled_from(["sgd", "momentum"])),
        "loss": "mse",
    }  # fmt: skip
    problem = problem_of(network, 1, must=must, may=draw(st.sampled_from([must, ()])), **setting)
    problem = replace(problem, savings=draw(st.sampled_from([("recompute", "stripes"), ("stripes",)])))
    plain = solve(replace(problem, savings=()), LIMITS)
    fewest = plain.reason.fewest_bytes if plain.reason is not None else None
    share = draw(st.sampled_from([0.8, 0.6, 0.9, 1.0, 1.2]))
    return with_budget(problem, max(1, int((fewest or 4096) * share)))


def check_computes_the_same(plan: Plan, seed: int) -> None:
    """The network that the steps run has the loss and gradients of the problem's, in float32."""
    network = plan.problem.network
    parameters = init_parameters(network, seed)
    x, target = random_data(network, "mse", 1, seed)
    update = dict(plan.update)
    loss, expected = gradients(network, parameters, x, target, "mse", update=update)
    again, found = gradients(plan.network, parameters, x, target, "mse", update=update)
    assert again == pytest.approx(loss, rel=1e-5)
    for p, gradient in expected.items():
        scale = max(1e-3, float(np.abs(gradient).max()))
        np.testing.assert_allclose(found[p], gradient, rtol=1e-5, atol=1e-5 * scale)


@FEWER
@given(problem=striped_problems(), seed=st.integers(0, 99))
def test_plans_in_stripes_run_within_budget(problem: Problem, seed: int) -> None:
    plan = check_accepted(problem, solve(problem, LIMITS))
    check_json(plan)
    if plan.feasible:
        check_runs_within_budget(plan, seed)
        if plan.update:
            check_computes_the_same(plan, seed)


@FEWER
@given(problem=striped_problems())
def test_never_worse_than_without_stripes(problem: Problem) -> None:
    without = tuple(s for s in problem.savings if s != "stripes")
    plain, plan = solve(replace(problem, savings=without), LIMITS), solve(problem, LIMITS)
    slack = plan.resolution + plain.resolution
    if plain.feasible:
        assert plan.status != "INFEASIBLE"
        assert plan.bound + slack >= plain.objective
        assert plan.status != "OPTIMAL" or plan.objective + slack >= plain.objective


# -- examples --------------------------------------------------------------------------------------------
def chain() -> Network:
    net = NetworkBuilder("chain")
    x = net.input("image", (2, 16, 8))
    for i in range(3):
        x = net.relu(net.conv(x, 8, 3, 1, 1, name=f"a{i}"), name=f"b{i}")
    return net.build(net.op("avg_pool", (net.conv(x, 2, 3, 2, 1, name="c"),), kernel=4))


def asked(l2: int, *savings: str) -> Problem:
    problem = problem_of(chain(), l2, alignment=4, may=("c.*",), must=("c.*",), loss="mse")
    return replace(problem, savings=savings)


def test_stripes_make_a_plan_where_there_is_none() -> None:
    assert solve(asked(6300)).status == "INFEASIBLE"
    assert solve(asked(6300, "recompute")).status == "INFEASIBLE"
    plan = check_accepted(asked(6300, "recompute", "stripes"), solve(asked(6300, "recompute", "stripes")))
    assert plan.status == "OPTIMAL"
    assert plan.stripes
    assert plan.peak_bytes["L2"] <= 6300
    check_json(plan)
    check_runs_within_budget(plan, 1)
    check_computes_the_same(plan, 1)


def test_stripes_are_left_out_where_there_is_room() -> None:
    plan = solve(asked(1 << 20, "stripes"))
    assert plan.stripes == ()
    assert plan.network is plan.problem.network


def test_too_few_bytes_for_stripes_too() -> None:
    plan = check_accepted(asked(2000, "stripes"), solve(asked(2000, "stripes")))
    assert plan.status == "INFEASIBLE"
    assert plan.reason is not None
    assert plan.reason.level == "L2"


@pytest.mark.parametrize(
    ("option", "given", "needed"), [("batch", 2, 1), ("concat", "adjoin", "split")], ids=["batch", "concat"]
)
def test_what_stripes_cannot_be_run_with_is_refused(option: str, given: object, needed: object) -> None:
    with pytest.raises(ProblemError) as error:
        problem_from_names(chain(), l2=4096, savings="stripes", **{option: given})  # type: ignore[arg-type]
    assert str(error.value) == f"savings='stripes' needs {option}={needed!r}, given {option}={given!r}; change one"


def test_savings_that_are_unknown_are_refused() -> None:
    with pytest.raises(ProblemError, match="savings='stripe' is unknown; did you mean 'stripes'"):
        problem_from_names(chain(), l2=4096, savings="stripe")
