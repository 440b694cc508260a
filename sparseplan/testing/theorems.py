"""What holds of every plan and network: functions that return quietly or raise ``TheoremError`` with the numbers.

They take any network, problem or plan, of yours as well as drawn ones. A plan that is not given is
sought without limits.
"""

from __future__ import annotations

from typing import Any

from sparseplan.errors import NetworkError, PlanError
from sparseplan.importers.spec import from_dict, to_dict
from sparseplan.jsonio import dump, parse
from sparseplan.network import Network
from sparseplan.plan import Plan
from sparseplan.planfile import plan_from_dict, plan_to_dict
from sparseplan.problem import Problem
from sparseplan.run import RunReport, run
from sparseplan.solve.cpsat import Limits
from sparseplan.solve.search import solve
from sparseplan.steps import MAIN
from sparseplan.verify import verify


class TheoremError(AssertionError):
    """A counterexample: a promise of sparseplan that a network, problem or plan breaks."""


def require(holds: bool, message: str) -> None:
    """Raise ``TheoremError`` with ``message`` unless ``holds``."""
    if not holds:
        raise TheoremError(message)


def describe(problem: Problem) -> str:
    """A problem in one line, for messages."""
    o = problem.options
    capacity = problem.capacity(MAIN)
    return (
        f"[{problem.network.name}: {len(problem.network.ops)} ops, {o.dtype}, batch={o.batch}, {o.optimizer}, "
        f"{o.gradients}, frozen={o.frozen}, alignment={o.alignment}, concat={o.concat}, L2={capacity}, "
        f"max_macs={problem.max_macs}, choices={dict(problem.choices)}, must={dict(problem.must)}]"
    )


def solved(problem: Problem, limits: Limits | None = None) -> Plan:
    """The exact planner's answer, not verified; without limits it goes on until proven."""
    return solve(problem, limits or Limits())


def check_accepted(problem: Problem, plan: Plan | None = None) -> Plan:
    """The verifier, which shares nothing with the planner, accepts the plan."""
    plan = plan or solved(problem)
    found = verify(problem, plan)
    require(not found, f"verify finds {'; '.join(map(str, found[:3]))} {describe(problem)}")
    return plan


def check_runs_within_budget(plan: Plan, seed: int = 0, samples: int = 1) -> RunReport:
    """An accepted plan runs in the bytes that it claims, and these are within the budget.

    Claimed bytes = touched bytes in every level, no guard zone or other buffer is changed, and
    gradients and parameters equal the unconstrained reference's bit for bit.
    """
    problem = plan.problem
    for level, claimed in plan.peak_bytes.items():
        capacity = problem.capacity(level)
        require(
            capacity is None or claimed <= capacity, f"{level}: claimed={claimed} > {capacity=} {describe(problem)}"
        )
    report = run(plan, seed=seed, samples=samples)
    require(report.guard_intact, f"stray bytes: {'; '.join(report.faults[:3])} {describe(problem)}")
    claimed_bytes, touched = dict(report.claimed_bytes), dict(report.touched_bytes)
    require(claimed_bytes == touched, f"claimed={claimed_bytes}, touched={touched} {describe(problem)}")
    unlike = report.differences or ()
    require(not unlike, f"the arena differs from the reference: {'; '.join(unlike[:3])} {describe(problem)}")
    require(report.passed, f"the run did not pass: {report.to_json()} {describe(problem)}")
    return report


def check_json(plan: Plan) -> None:
    """A plan survives its JSON: read back it is equal, and written again it is the same text."""
    text = dump(plan_to_dict(plan))
    try:
        again = plan_from_dict(parse(text.encode(), "plan", PlanError))
    except ValueError as error:
        raise TheoremError(f"a written plan is not read back: {error} {describe(plan.problem)}") from error
    require(again == plan, f"a plan read back differs in {differing(plan, again)} {describe(plan.problem)}")
    require(dump(plan_to_dict(again)) == text, "a plan written twice differs")


def check_spec(network: Network) -> None:
    """A network survives its JSON spec."""
    text = dump(to_dict(network))
    again = from_dict(parse(text.encode(), "spec", NetworkError))
    require(
        again == network, f"network {network.name!r} read back from its spec differs in {differing(network, again)}"
    )
    require(dump(to_dict(again)) == text, f"network {network.name!r} written twice differs")


def differing(a: Any, b: Any) -> list[str]:
    """Names of the fields in which two instances of a dataclass differ."""
    return [name for name in a.__dataclass_fields__ if getattr(a, name) != getattr(b, name)]
