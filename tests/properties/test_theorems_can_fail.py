"""Every theorem raises ``TheoremError`` with the numbers where its promise is broken."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

import sparseplan.testing.gradients
import sparseplan.testing.optima
import sparseplan.testing.rows
from sparseplan import testing
from sparseplan.builder import NetworkBuilder
from sparseplan.device import custom
from sparseplan.network import Network
from sparseplan.plan import Infeasibility, Plan
from sparseplan.problem import Problem, resolve_choices, resolve_values
from sparseplan.steps import TrainingOptions
from sparseplan.testing import TheoremError
from sparseplan.testing.theorems import solved


def network() -> Network:
    net = NetworkBuilder("small")
    x = net.leaky_relu(net.conv(net.input("image", (2, 4, 4)), 4, 3, padding=1, name="a"), 0.1)
    return net.build(net.conv(x, 1, 1, name="b"))


def problem(l2: int | None = 900) -> Problem:
    net = network()
    choices, _ = resolve_choices(net)
    return Problem(net, custom(l2=l2), TrainingOptions("fp32"), choices, {}, resolve_values(net, choices))


def planned(**changes: Any) -> Plan:
    return replace(solved(problem()), **changes)


def less(plan: Plan) -> Plan:
    """Claims that less is the best."""
    return replace(plan, objective=plan.objective - 1, bound=plan.objective - 1)


def saving() -> Problem:
    return replace(problem(), savings=("int8",))


NONE = Infeasibility("L2", "", 1, 0, (), None, "planted")


def refused(asked: Problem) -> Plan:
    return Plan(asked, "INFEASIBLE", -float("inf"), -float("inf"), reason=NONE)


def test_what_is_sound_passes() -> None:
    assert planned().status == "OPTIMAL"
    testing.check_exact_equals_brute_force(problem(), planned())
    testing.check_runs_within_budget(planned())


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (lambda: testing.check_accepted(problem(), planned(objective=1.5)), "verify finds objective"),
        (lambda: testing.check_runs_within_budget(planned(peak_bytes={"L2": 901})), "claimed=901 > capacity=900"),
        (lambda: testing.check_exact_at_least_greedy(problem(), refused(problem())), "INFEASIBLE, yet greedy finds"),
        (lambda: testing.check_exact_at_least_greedy(problem(None), less(solved(problem(None)))), "< greedy=81.0"),
        (lambda: testing.check_exact_equals_brute_force(problem(), less(planned())), "< brute force="),
        (lambda: testing.check_exact_equals_brute_force(problem(), refused(problem())), "INFEASIBLE, yet"),
        (lambda: testing.check_exact_equals_brute_force(problem(1), planned()), "no decisions can be placed"),
        (
            lambda: testing.check_exact_equals_brute_force(problem(), planned(macs={"forward": 0, "backward": 1})),
            "OPTIMAL in MACs: 1, brute force: ",
        ),
        (
            lambda: testing.check_fewest_bytes(problem(), replace(refused(problem()), reason=_fewest(9))),
            "9 bytes would do, it said, and is INFEASIBLE",
        ),
        (
            lambda: testing.check_fewest_bytes(problem(), replace(refused(problem()), reason=_fewest(900))),
            "fewest=900, yet",
        ),
        (lambda: testing.check_must(problem(), {"b.bias": 1.0}, refused(problem())), "infeasible, yet feasible with"),
        (lambda: testing.check_savings(saving(), refused(saving())), "feasible without, not with savings=['int8']"),
        (lambda: testing.check_savings(saving(), less(solved(saving()))), "value 45.0 without, 44.0 with savings="),
    ],
)
def test_a_false_plan_is_told(check: Any, message: str) -> None:
    with pytest.raises(TheoremError) as caught:
        check()
    assert message in str(caught.value)
    assert "[small: 3 ops, fp32, batch=1, sgd" in str(caught.value)


def _fewest(n: int) -> Infeasibility:
    return replace(NONE, fewest_bytes=n)


def test_a_false_solver_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter(range(100))

    def wavering(asked: Problem, limits: object = None) -> Plan:
        plan = solved(asked)
        return replace(plan, objective=plan.objective - next(answers))

    monkeypatch.setattr(sparseplan.testing.optima, "solved", wavering)
    for check, message in [
        (lambda: testing.check_more_budget(problem(), [900, 901]), "in 900 bytes"),
        (lambda: testing.check_same_seed(problem()), "differ in ['objective']"),
        (lambda: testing.check_renaming(problem()), "renaming turns objective="),
    ]:
        with pytest.raises(TheoremError, match=message.replace("[", r"\[")):
            check()


def test_a_false_count_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    count = sparseplan.testing.rows.analyse

    def longer(schedule: Any) -> Any:
        memory = count(schedule)
        one = max(memory.buffers, key=lambda b: (b.start, b.value))
        return replace(memory, buffers=(*memory.buffers, one))

    monkeypatch.setattr(sparseplan.testing.rows, "analyse", longer)
    with pytest.raises(TheoremError, match=r"row=\d+, liveness=\d+ at update="):
        testing.check_rows(problem(), {"b.bias": 1.0})


def test_false_gradients_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    right = sparseplan.testing.gradients.reference

    def wrong(*args: Any, **kwargs: Any) -> Any:
        found = right(*args, **kwargs)
        return replace(found, gradients={p: g * 1.001 for p, g in found.gradients.items()})

    monkeypatch.setattr(sparseplan.testing.gradients, "reference", wrong)
    with pytest.raises(TheoremError, match=r"along a direction: .*, by differences"):
        testing.check_full_gradients(network())
    with pytest.raises(TheoremError, match=r"gradients of '[ab]\.weight' differ by"):
        testing.check_pruned_gradients(network(), {"a.weight": 1.0, "b.weight": 0.5})


def test_without_hypothesis_the_extra_is_named() -> None:
    code = (
        "import sys; sys.modules['hypothesis'] = None\n"
        "from sparseplan.errors import MissingExtraError\n"
        "try:\n    import sparseplan.testing\n"
        "except MissingExtraError as error:\n    print(error)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out == ("sparseplan.testing needs hypothesis, which is not installed: pip install 'sparseplan[testing]'\n")
