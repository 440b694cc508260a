"""What holds of the exact planner's optima: against other planners, other budgets, other names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from sparseplan.network import Network, Op, Tensor
from sparseplan.objective import Loss
from sparseplan.plan import Plan
from sparseplan.problem import Pair, Problem, Saturation, Term
from sparseplan.solve.cpsat import Limits
from sparseplan.steps import MAIN, TrainingOptions
from sparseplan.testing.peers import brute_force, greedy
from sparseplan.testing.theorems import describe, differing, require, solved
from sparseplan.verify import verify


def check_exact_at_least_greedy(problem: Problem, plan: Plan | None = None) -> bool:
    """The exact planner finds at least what greedy finds, and its bound is no less.

    Returns whether greedy found anything.
    """
    plan = plan or solved(problem)
    peer = greedy(problem)
    if peer is None:
        return False
    require(not verify(problem, peer), f"greedy's plan is refused: {verify(problem, peer)[:3]} {describe(problem)}")
    require(plan.status != "INFEASIBLE", f"INFEASIBLE, yet greedy finds value {peer.objective} {describe(problem)}")
    slack = plan.resolution
    require(plan.bound + slack >= peer.objective, f"bound={plan.bound} < greedy={peer.objective} {describe(problem)}")
    require(
        plan.status != "OPTIMAL" or plan.objective + slack >= peer.objective,
        f"OPTIMAL objective={plan.objective} < greedy={peer.objective} {describe(problem)}",
    )
    return True


def check_exact_equals_brute_force(problem: Problem, plan: Plan | None = None, most: int = 2000) -> None:
    """Trying every set of decisions gives the same: whether there is a plan, its value, its tie-breaks.

    Raises:
        ProblemError: there are more than ``most`` sets of decisions.
    """
    best = brute_force(problem, most)
    plan = plan or solved(problem)
    about = describe(problem)
    if plan.status == "INFEASIBLE":
        require(best is None, f"INFEASIBLE, yet {best and best.update} is worth {best and best.worth} {about}")
        return
    if best is None:
        require(not plan.feasible, f"{plan.status} objective={plan.objective}, yet no decisions can be placed {about}")
        return
    slack = plan.resolution
    require(plan.bound + slack >= best.worth, f"bound={plan.bound} < brute force={best.worth} {about}")
    require(plan.objective <= best.worth + slack, f"objective={plan.objective} > brute force={best.worth} {about}")
    if plan.status != "OPTIMAL":
        return
    require(plan.objective + slack >= best.worth, f"OPTIMAL objective={plan.objective} < {best.worth} {about}")
    if slack == 0 and plan.ties.get("macs") == "OPTIMAL":
        macs = sum(plan.macs.values())
        require(macs == best.macs, f"of value {best.worth}, OPTIMAL in MACs: {macs}, brute force: {best.macs} {about}")
        if plan.ties.get("peak") == "OPTIMAL":
            live = max(plan.bytes_at(), default=0)
            require(live == best.peak, f"lowest live peak: {live}, brute force: {best.peak} ({best.update}) {about}")


def check_fewest_bytes(problem: Problem, plan: Plan, most: int = 2000) -> None:
    """Where L2 binds, the fewest bytes that an INFEASIBLE plan names would do; and no fewer, when it says so.

    Raises:
        ProblemError: there are more than ``most`` sets of decisions.
    """
    if plan.reason is None or plan.reason.level != MAIN or plan.reason.fewest_bytes is None:
        return
    fewest, level = plan.reason.fewest_bytes, problem.device.level(MAIN)
    enough = solved(with_budget(problem, fewest))
    require(enough.feasible, f"{fewest} bytes would do, it said, and is {enough.status} {describe(problem)}")
    if "maybe fewer" not in plan.reason.message:
        better = brute_force(with_budget(problem, fewest - 1), most) if fewest > level.reserved else None
        require(better is None, f"{fewest=}, yet {better and better.update} fits in fewer {describe(problem)}")


def with_budget(problem: Problem, l2: int | None) -> Problem:
    """The same problem with other bytes of main memory, reserved ones included; None: unbounded."""
    device = problem.device
    levels = tuple(replace(v, bytes=l2) if v.name == MAIN else v for v in device.levels)
    return replace(problem, device=replace(device, levels=levels))


def check_more_budget(problem: Problem, budgets: Iterable[int], limits: Limits | None = None) -> bool:
    """Of the same problem at several budgets, more bytes never give a proven optimum of less value.

    Returns whether there were two proven answers to compare.
    """
    compared = False
    before: tuple[int, Plan] | None = None
    for l2 in sorted({max(b, problem.device.level(MAIN).reserved) for b in budgets}):
        plan = solved(with_budget(problem, l2), limits)
        if plan.status not in ("OPTIMAL", "INFEASIBLE"):
            continue
        compared = compared or before is not None
        if before is not None and before[1].feasible:
            require(plan.feasible, f"feasible in {before[0]} bytes, {plan.status} in {l2} {describe(problem)}")
            slack = plan.resolution + before[1].resolution
            require(
                plan.objective + slack >= before[1].objective,
                f"value {before[1].objective} in {before[0]} bytes, {plan.objective} in {l2} {describe(problem)}",
            )
        before = (l2, plan)
    return compared


def check_savings(problem: Problem, plan: Plan | None = None, limits: Limits | None = None) -> bool:
    """Being allowed to hold less never gives a proven optimum of less value, nor none where there was a plan.

    Returns whether both were proven.
    """
    plan = plan or solved(problem, limits)
    plain = solved(replace(problem, savings=()), limits)
    about = f"savings={list(problem.savings)} {describe(problem)}"
    require(not (plain.feasible and plan.status == "INFEASIBLE"), f"feasible without, not with {about}")
    if (plain.status, plan.status) != ("OPTIMAL", "OPTIMAL"):
        return plan.status == "OPTIMAL" and plain.status == "INFEASIBLE"
    slack = plan.resolution + plain.resolution
    require(
        plan.objective + slack >= plain.objective, f"value {plain.objective} without, {plan.objective} with {about}"
    )
    return True


def check_must(
    problem: Problem, must: Mapping[str, float], plan: Plan | None = None, limits: Limits | None = None
) -> bool:
    """Obligations added to a problem never give a plan of more value than its proven optimum.

    Returns whether the optimum was proven.
    """
    plan = plan or solved(problem, limits)
    least = {**problem.must}
    for p, r in must.items():
        least[p] = max(r, least.get(p, 0.0))
    bound = solved(replace(problem, must=least), limits)
    if plan.status == "INFEASIBLE":
        require(not bound.feasible, f"infeasible, yet feasible with must={dict(must)} {describe(problem)}")
    if plan.status == "OPTIMAL" and bound.feasible:
        slack = plan.resolution + bound.resolution
        require(
            bound.objective <= plan.objective + slack,
            f"value {plan.objective}, with must={dict(must)} {bound.objective} {describe(problem)}",
        )
    return plan.status in ("OPTIMAL", "INFEASIBLE")


def cut_short(plan: Plan, limits: Limits | None) -> bool:
    """Whether a limit of seconds may have ended the search, so that its answer depends on the clock."""
    return limits is not None and limits.seconds is not None and plan.solve_seconds > 0.4 * limits.seconds


def check_same_seed(problem: Problem, limits: Limits | None = None) -> bool:
    """The same problem and seed give the same plan, the seconds it took aside.

    Returns False where a limit of seconds cut the search short, which says nothing.
    """
    plans = [solved(problem, limits) for _ in range(2)]
    if any(cut_short(plan, limits) for plan in plans):
        return False
    a, b = (replace(plan, solve_seconds=0.0) for plan in plans)
    require(a == b, f"two solves with seed={a.seed} differ in {differing(a, b)} {describe(problem)}")
    return True


def renamed(network: Network, name: Mapping[str, str]) -> Network:
    """The same network under other names of ops and tensors (those absent from ``name`` stay)."""
    return Network(
        network.name,
        tuple(Tensor(name.get(t.name, t.name), t.shape, t.role, t.dtype, t.scale) for t in network.tensors),
        tuple(
            Op(name.get(op.name, op.name), op.kind, tuple(name.get(t, t) for t in op.inputs),
               name.get(op.output, op.output), {slot: name.get(p, p) for slot, p in op.params.items()}, op.attrs)
            for op in network.ops
        ),
        tuple(name.get(t, t) for t in network.outputs),
    )  # fmt: skip


def reversing(network: Network) -> dict[str, str]:
    """New names of all ops and tensors, whose alphabetical order is the reverse of their order."""
    names = dict.fromkeys([t.name for t in network.tensors] + [op.name for op in network.ops])
    return {old: f"z{len(names) - i:06d}" for i, old in enumerate(names)}


def _turned_losses(options: TrainingOptions, name: Mapping[str, str]) -> TrainingOptions:
    losses = (Loss(name.get(x.output, x.output), x.kind, x.weight, x.attrs) for x in options.losses)
    return replace(options, losses=tuple(losses))


def _turned_term(term: Term, turned: Callable[[Mapping[str, Any]], dict[str, Any]]) -> Term:
    if isinstance(term, Pair):
        return Pair(turned(term.a), turned(term.b), term.value)
    return Saturation(turned(term.weights), term.points)


def check_renaming(problem: Problem, name: Mapping[str, str] | None = None, limits: Limits | None = None) -> bool:
    """Other names of ops and tensors change nothing but names.

    Returns False where a limit of seconds cut the search short, which says nothing.
    """
    plan = solved(problem, limits)
    name = reversing(problem.network) if name is None else name

    def turned(table: Mapping[str, Any]) -> dict[str, Any]:
        return {name.get(p, p): v for p, v in table.items()}

    other = solved(
        replace(problem, network=renamed(problem.network, name), options=_turned_losses(problem.options, name),
                choices=turned(problem.choices),
                must=turned(problem.must), values=turned(problem.values),
                terms=tuple(_turned_term(t, turned) for t in problem.terms),
                ties=tuple(tuple(turned(dict.fromkeys(tie))) for tie in problem.ties)),
        limits,
    )  # fmt: skip
    if cut_short(plan, limits) or cut_short(other, limits):
        return False
    about = describe(problem)
    for field in ("status", "objective", "bound", "macs", "peak_bytes", "lower_bound_bytes", "ties"):
        a, b = getattr(plan, field), getattr(other, field)
        require(a == b, f"renaming turns {field}={a} into {b} {about}")
    require(turned(plan.update) == dict(other.update), f"renaming turns {plan.update} into {other.update} {about}")
    a_picks, b_picks = list(plan.picks.values()), list(other.picks.values())
    require(a_picks == b_picks, f"renaming turns picks {a_picks} into {b_picks} {about}")
    shapes = [[(s.kind, s.target if s.kind != "loss" else "", s.keep, s.macs) for s in p.steps] for p in (plan, other)]
    require(shapes[0] == shapes[1], f"renaming changes the steps {about}")
    places = [[(b.lo, b.bytes, b.start, b.stop, b.level, b.offset) for b in p.buffers] for p in (plan, other)]
    require(places[0] == places[1], f"renaming moves buffers {about}")
    return True
