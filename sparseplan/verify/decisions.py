"""The plan's decisions and claims: update set, value, bound, picks, MACs, status."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

from sparseplan.costs import plan_costs
from sparseplan.ops import op_def
from sparseplan.plan import Plan
from sparseplan.problem import Pair, Problem, Saturation, Term
from sparseplan.steps import PACKED_CODES, why_once
from sparseplan.verify.facts import Facts
from sparseplan.verify.findings import STATUSES, Findings

#: values are told apart by 2**-29 of what they come to together: finer than that no proof has to be, coarser none may
FINENESS = 2.0**-29
#: and below this, whatever they come to, nothing is told apart
LEAST = 2.0**-1000


def allowed_update(problem: Problem, plan: Plan, findings: Findings) -> dict[str, float]:
    """The part of the update set that the problem allows; the rest is reported."""
    update: dict[str, float] = {}
    for p, r in plan.update.items():
        if r in problem.choices.get(p, ()):
            update[p] = r
        else:
            allowed = list(problem.choices.get(p, ()))
            findings.add("decision", f"parameter {p}", f"fraction={r} is not allowed; allowed: {allowed}")
    for p, least in problem.must.items():
        if not plan.update.get(p, 0.0) >= least:
            findings.add("decision", f"parameter {p}", f"fraction={plan.update.get(p, 0.0)} must be at least {least}")
    for tie in problem.ties:
        check_tie(problem, tie, update, findings)
    return update


def check_tie(problem: Problem, tie: tuple[str, ...], update: dict[str, float], findings: Findings) -> None:
    """Tied parameters share a fraction, as far as each can be cut: some joint fraction explains all of them."""
    if not any(p in update for p in tie):
        return
    for joint in {r for p in tie for r in problem.choices[p]}:
        expected = {p: min((r for r in problem.choices[p] if r >= joint), default=max(problem.choices[p])) for p in tie}
        if all(update.get(p) == r for p, r in expected.items()):
            return
    found = {p: update.get(p, 0.0) for p in tie}
    findings.add("decision", f"tie of {tie[0]}", f"fractions={found} are no joint level of parameters updated together")


def worth_of_term(term: Term, update: dict[str, float]) -> float:
    """What a pair or a saturation adds to the value of an update set, from its definition."""
    if isinstance(term, Pair):
        complete = all(update.get(p, 0.0) >= r for part in (term.a, term.b) for p, r in part.items())
        return term.value if complete else 0.0
    s = math.fsum(term.weights[p][r] for p, r in update.items() if p in term.weights)
    return min(slope * s + intercept for slope, intercept in lines_of(term))


def lines_of(term: Saturation) -> list[tuple[float, float]]:
    """(slope, intercept) of the lines whose minimum a saturation is."""
    x0 = y0 = 0.0
    lines = [(0.0, term.points[-1][1])]
    for x1, y1 in term.points:
        slope = (y1 - y0) / (x1 - x0)
        lines.append((slope, y0 - slope * x0))
        x0, y0 = x1, y1
    return lines


def check_objective(problem: Problem, plan: Plan, update: dict[str, float], findings: Findings) -> None:
    """The value is the sum over the update set and its terms, and the bound proves what the status says."""
    parts = [problem.values[p][r] for p, r in update.items()]
    reads_codes = [s for s in plan.steps if s.kind == "grad_param" and any(a.tag == PACKED_CODES for a in s.reads)]
    packed = {problem.network.op[s.op].params.get(s.target) for s in reads_codes if s.op in problem.network.op}
    parts += [-problem.int8_price * abs(problem.values[p][r]) for p, r in update.items() if p in packed]
    value = math.fsum(parts + [worth_of_term(term, update) for term in problem.terms])
    if plan.reason is not None:
        findings.add("status", "reason", f"status={plan.status}, but there is a reason why nothing fits")
    for name, status in plan.ties.items():
        if status not in STATUSES:
            findings.add("status", f"tie {name}", f"status={status!r} is none of {', '.join(STATUSES)}")
    if plan.objective != value:
        findings.add("objective", "objective", f"objective={plan.objective!r}, but the update set is worth {value!r}")
    if not plan.bound >= plan.objective:
        findings.add("objective", "bound", f"bound={plan.bound!r} is below objective={plan.objective!r}")
    if not (plan.resolution >= 0 and math.isfinite(plan.resolution)):
        findings.add("objective", "resolution", f"resolution={plan.resolution!r} must be finite, at least 0")
    elif plan.resolution > (most := coarsest(problem)):
        findings.add("objective", "resolution", f"resolution={plan.resolution!r} is coarser than {most!r}, which the "
                     "problem's values ask for")  # fmt: skip
    elif plan.status == "OPTIMAL" and not plan.bound <= plan.objective + plan.resolution:
        findings.add("status", "bound", f"OPTIMAL with objective={plan.objective!r}, bound={plan.bound!r}, "
                     f"resolution={plan.resolution!r}")  # fmt: skip


def coarsest(problem: Problem) -> float:
    """How far apart two values may be at most that a proof does not tell apart: a rounding for each number in a sum,
    each by ``FINENESS`` of the largest sum of the numbers' magnitudes."""
    total, roundings = 0.0, len(problem.network.parameters) + len(problem.terms)
    numbers: list[float] = []
    for p, table in problem.values.items():
        worth = [0.0, *(table[r] for r in problem.choices.get(p, ()))]
        total += math.fsum(abs(b - a) for a, b in itertools.pairwise(worth))
        numbers += worth
        if "int8" in problem.savings:
            roundings += len(table)
    for term in problem.terms:
        if isinstance(term, Pair):
            total += abs(term.value)
            numbers.append(term.value)
            continue
        roundings += len(term.weights) + 2
        most = math.fsum(max((max(w.values(), default=0.0), 0.0)) for w in term.weights.values())
        total += max(abs(slope) * most + abs(intercept) for slope, intercept in lines_of(term))
    grid = math.ldexp(1.0, max(math.frexp(total)[1] - 30, -1000))
    plain = "int8" not in problem.savings and all(isinstance(term, Pair) for term in problem.terms)
    if plain and all((number / grid).is_integer() for number in numbers):
        return 0.0  # sums of such numbers are exact
    return roundings * max(FINENESS * total, LEAST) * (1 + 1e-9)


def check_macs(problem: Problem, facts: Facts, plan: Plan, findings: Findings) -> None:
    """MACs are the sums over the steps, and within the cap."""
    known = {(kind, op, target) for kind, op, target in facts.required()}
    macs = {"forward": 0, "backward": 0}
    for s in plan.steps:
        if s.kind == "recompute" and ("forward", s.op, s.target) in known:
            macs["recompute"] = macs.get("recompute", 0) + facts.macs("forward", s.op, s.target)
        elif (s.kind, s.op, s.target) in known:
            macs["forward" if s.kind == "forward" else "backward"] += facts.macs(s.kind, s.op, s.target)
    if dict(plan.macs) != macs:
        findings.add("macs", "macs", f"macs={dict(plan.macs)} should be {macs}")
    if problem.max_macs is not None and sum(macs.values()) > problem.max_macs:
        findings.add("macs", "macs", f"{sum(macs.values())} MACs exceed max_macs={problem.max_macs}")


def check_time(problem: Problem, plan: Plan, findings: Findings) -> None:
    """Time and energy of a run, by the device's tables, are within their caps."""
    if problem.max_seconds is None and problem.max_joules is None:
        return
    costs = plan_costs(replace(plan, problem=problem), problem.network)
    for name, cap, taken in (("max_seconds", problem.max_seconds, costs.seconds),
                             ("max_joules", problem.max_joules, costs.joules)):  # fmt: skip
        if cap is not None and (taken is None or taken > cap):
            findings.add("macs", name, f"a run takes {'an unknown time' if taken is None else f'{taken:g}'}, "
                         f"{name}={cap:g}")  # fmt: skip


def check_savings(problem: Problem, plan: Plan, findings: Findings) -> None:
    """Nothing is recomputed, paged or packed unless the problem lets it."""
    kinds = {"recompute": "recompute", "page_out": "page", "page_in": "page", "pack": "int8"}
    for i, step in enumerate(plan.steps):
        op = problem.network.op.get(step.op) if step.kind == "recompute" else None
        if op is not None and not op_def(op.kind).repeatable(op.attrs):
            findings.add("decision", f"step {i} ({step.name})", f"op {op.name!r} runs again, but {why_once(op)}")
        saving = kinds.get(step.kind)
        if saving is not None and saving not in problem.savings:
            findings.add("decision", f"step {i} ({step.name})", f"kind={step.kind}, but the problem's savings are "
                         f"{list(problem.savings)}")  # fmt: skip


def check_picks(facts: Facts, plan: Plan, findings: Findings) -> None:
    """Each pick names the way by which its backward step gets what it needs."""
    late = {(s.op, s.target): s.reads[0].tag for s in plan.steps if s.kind == "aux" and s.reads}
    ways: dict[str, str] = {}
    for s in plan.steps:
        if s.kind not in ("grad_param", "grad_input"):
            continue
        tags = sorted(a.tag for a in s.reads if a.tag not in ("dy", "dx", "acc"))
        way = "+".join(tags) or "nothing"
        made = [tag for tag in tags if (s.op, tag) in late]
        if len(made) == 1:
            way = f"late {made[0]} from {late[s.op, made[0]]}"
        ways[s.op if s.target == "x0" else f"{s.op}:{s.target}"] = way
    for key, pick in plan.picks.items():
        if ways.get(key) != pick:
            findings.add("decision", f"pick of {key}", f"pick={pick!r}, but the schedule has {ways.get(key)!r}")


def check_reach(facts: Facts, findings: Findings) -> None:
    """What is updated has a gradient."""
    for p in facts.update:
        op, _ = facts.users(p)[0]
        if op.name not in facts.relevant or op.output not in facts.reached:
            findings.add("decision", f"parameter {p}", f"is updated, but no gradient reaches op {op.name!r}")
        for user, slot in facts.network.users.get(p, ()):
            if not facts.defs[user.name].updatable(slot):
                findings.add("decision", f"parameter {p}", f"is updated, but as {slot} of op {user.name!r} never is")
