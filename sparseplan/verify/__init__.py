"""Check a plan against its problem, from integers alone and without any part of the solver.

The verifier derives for itself what a training step must contain (``facts``), matches every
argument of every step with it (``wanted``), executes the steps symbolically over the planned bytes
(``execute``), and recounts all figures (``places``, ``tiles``, ``decisions``). It is written to be
obvious rather than fast, and shares no code with autodiff, layout, liveness or ``solve``. Of a plan
in stripes it lowers the network, and then checks row by row that this computes the same (``stripes``).
"""

from __future__ import annotations

from dataclasses import replace

from sparseplan.errors import SparseplanError
from sparseplan.plan import Plan
from sparseplan.problem import Problem
from sparseplan.stripes import lower
from sparseplan.verify.decisions import (
    allowed_update,
    check_macs,
    check_objective,
    check_picks,
    check_reach,
    check_savings,
    check_time,
)
from sparseplan.verify.execute import execute
from sparseplan.verify.facts import Facts
from sparseplan.verify.findings import Findings, Kind, Violation
from sparseplan.verify.places import Places, check_buffers, check_levels, check_overlaps, check_values
from sparseplan.verify.stripes import check_lowered
from sparseplan.verify.tiles import check_tiles
from sparseplan.verify.unsolved import check_unsolved

__all__ = ["Kind", "Violation", "check_lowered", "verify"]


def verify(problem: Problem, plan: Plan) -> tuple[Violation, ...]:
    """All ways in which a plan breaks its problem's rules; empty when it is accepted.

    The plan may be anything that its types allow: nothing is raised for one that makes no sense.
    What is checked is the answer to ``problem``, whatever ``plan.problem`` says. That a bound holds is not
    proven anew. An INFEASIBLE answer must agree with itself and the problem, and is refuted where the plainest
    plan (see ``plainest``) fits; that no other plan fits is not proven anew.
    """
    findings = Findings()
    if plan.status not in ("OPTIMAL", "FEASIBLE"):
        check_unsolved(problem, plan, findings)
        in_stripes(problem, plan, findings)  # those that came closest, if any
        return findings.all()
    striped = in_stripes(problem, plan, findings)
    if striped is None:
        return findings.all()
    problem = striped
    update = allowed_update(problem, plan, findings)
    check_objective(problem, plan, update, findings)
    facts = Facts(problem, update, {s.op for s in plan.steps if s.kind == "forward"})
    check_reach(facts, findings)
    check_picks(facts, plan, findings)
    check_savings(problem, plan, findings)
    check_macs(problem, facts, plan, findings)
    check_values(facts, plan, findings)
    places = Places(plan)
    check_buffers(problem, plan, places, findings)
    check_overlaps(plan, findings)
    check_levels(problem, plan, findings)
    execute(facts, plan, places, findings)
    check_tiles(problem, facts, plan, findings)
    if not findings.all():  # steps that make no sense take no time that could be told
        check_time(problem, plan, findings)
    return findings.all()


def in_stripes(problem: Problem, plan: Plan, findings: Findings) -> Problem | None:
    """The problem on the network that a plan's steps run, checked against its own; None where there is no such."""
    if not plan.stripes:
        return problem
    if "stripes" not in problem.savings:
        findings.add("decision", "stripes", f"{len(plan.stripes)} groups are in stripes, but the problem's savings are "
                     f"{list(problem.savings)}")  # fmt: skip
    try:
        lowered = lower(problem.network, plan.stripes)
        problem = replace(problem, network=lowered.network)
    except SparseplanError as error:
        findings.add("stripe", "stripes", str(error))
        return None
    check_lowered(lowered.original, lowered.network, lowered.origin, findings)
    return problem
