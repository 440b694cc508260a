"""What holds of every plan, as functions: each returns quietly, or raises ``TheoremError`` with the numbers.

They take any network, problem or plan, of yours as well as drawn ones. Those that compare plans
solve the problem first; give ``plan`` where it is already solved.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from sparseplan.autodiff import trace
from sparseplan.errors import NetworkError, PlanError
from sparseplan.importers.spec import from_dict, to_dict
from sparseplan.jsonio import dump, parse
from sparseplan.liveness import analyse
from sparseplan.network import Network, Op, Tensor
from sparseplan.plan import Plan
from sparseplan.planfile import plan_from_dict, plan_to_dict
from sparseplan.problem import Problem
from sparseplan.run import RunReport, run
from sparseplan.solve.cpsat import Limits
from sparseplan.solve.cpsat import solve as solve_model
from sparseplan.solve.pipeline import solve
from sparseplan.solve.select import Program
from sparseplan.steps import MAIN, UpdateSet
from sparseplan.testing.peers import brute_force, every_option, greedy
from sparseplan.training import holds
from sparseplan.units import align_up
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


def solved(problem: Problem, seed: int = 0, seconds: float | None = None) -> Plan:
    """The exact planner's answer, not verified."""
    return solve(problem, Limits(seconds, seed))


# -- of one plan ------------------------------------------------------------------------------------


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
    require(
        bool(report.bitwise_equal),
        f"the arena differs from the reference: gradients by {report.max_abs_gradient_difference}, parameters by "
        f"{report.max_abs_parameter_difference} {describe(problem)}",
    )
    return report


def check_json(plan: Plan) -> None:
    """A plan survives its JSON: read back it is equal, and written again it is the same text."""
    text = dump(plan_to_dict(plan))
    try:
        again = plan_from_dict(parse(text.encode(), "plan", PlanError))
    except ValueError as error:
        raise TheoremError(f"a written plan is not read back: {error} {describe(plan.problem)}") from error
    require(again == plan, f"a plan read back differs in {_differing(plan, again)} {describe(plan.problem)}")
    require(dump(plan_to_dict(again)) == text, "a plan written twice differs")


def check_spec(network: Network) -> None:
    """A network survives its JSON spec."""
    text = dump(to_dict(network))
    again = from_dict(parse(text.encode(), "spec", NetworkError))
    require(
        again == network, f"network {network.name!r} read back from its spec differs in {_differing(network, again)}"
    )
    require(dump(to_dict(again)) == text, f"network {network.name!r} written twice differs")


def _differing(a: Any, b: Any) -> list[str]:
    return [name for name in a.__dataclass_fields__ if getattr(a, name) != getattr(b, name)]


# -- of a problem and its optimum ---------------------------------------------------------------------


def check_exact_at_least_greedy(problem: Problem, plan: Plan | None = None) -> None:
    """The exact planner finds at least what greedy finds, and its bound is no less."""
    plan = plan or solved(problem)
    peer = greedy(problem)
    if peer is None:
        return
    require(not verify(problem, peer), f"greedy's plan is refused: {verify(problem, peer)[:3]} {describe(problem)}")
    require(plan.status != "INFEASIBLE", f"INFEASIBLE, yet greedy finds value {peer.objective} {describe(problem)}")
    slack = plan.resolution
    require(plan.bound + slack >= peer.objective, f"bound={plan.bound} < greedy={peer.objective} {describe(problem)}")
    require(
        plan.status != "OPTIMAL" or plan.objective + slack >= peer.objective,
        f"OPTIMAL objective={plan.objective} < greedy={peer.objective} {describe(problem)}",
    )


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
        less = fewest - level.reserved - 1
        options = [o for o in every_option(with_budget(problem, None), most) if o.peak <= less]
        require(not options, f"fewest={fewest}, yet {options and options[0].update} has fewer live {describe(problem)}")


def with_budget(problem: Problem, l2: int | None) -> Problem:
    """The same problem with other bytes of main memory, reserved ones included; None: unbounded."""
    device = problem.device
    levels = tuple(replace(v, bytes=l2) if v.name == MAIN else v for v in device.levels)
    return replace(problem, device=replace(device, levels=levels))


def check_more_budget(problem: Problem, budgets: Iterable[int]) -> None:
    """Of the same problem at several budgets, more bytes never give a proven optimum of less value."""
    before: tuple[int, Plan] | None = None
    for l2 in sorted({max(b, problem.device.level(MAIN).reserved) for b in budgets}):
        plan = solved(with_budget(problem, l2))
        if plan.status not in ("OPTIMAL", "INFEASIBLE"):
            continue
        if before is not None and before[1].feasible:
            require(plan.feasible, f"feasible in {before[0]} bytes, {plan.status} in {l2} {describe(problem)}")
            slack = plan.resolution + before[1].resolution
            require(
                plan.objective + slack >= before[1].objective,
                f"value {before[1].objective} in {before[0]} bytes, {plan.objective} in {l2} {describe(problem)}",
            )
        before = (l2, plan)


def check_must(problem: Problem, must: Mapping[str, float], plan: Plan | None = None) -> None:
    """Obligations added to a problem never give a proven optimum of more value."""
    plan = plan or solved(problem)
    least = {**problem.must}
    for p, r in must.items():
        least[p] = max(r, least.get(p, 0.0))
    bound = solved(replace(problem, must=least))
    if plan.status == "INFEASIBLE":
        require(not bound.feasible, f"infeasible, yet feasible with must={dict(must)} {describe(problem)}")
    if plan.status == "OPTIMAL" and bound.feasible:
        slack = plan.resolution + bound.resolution
        require(
            bound.objective <= plan.objective + slack,
            f"value {plan.objective}, with must={dict(must)} {bound.objective} {describe(problem)}",
        )


def check_same_seed(problem: Problem, seed: int = 0) -> None:
    """The same problem and seed give the same plan, the seconds it took aside."""
    a, b = (replace(solved(problem, seed), solve_seconds=0.0) for _ in range(2))
    require(a == b, f"two solves with seed={seed} differ in {_differing(a, b)} {describe(problem)}")


# -- renaming -----------------------------------------------------------------------------------------


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


def check_renaming(problem: Problem, name: Mapping[str, str] | None = None, plan: Plan | None = None) -> None:
    """Other names of ops and tensors change nothing but names."""
    plan = plan or solved(problem)
    name = reversing(problem.network) if name is None else name

    def turned(table: Mapping[str, Any]) -> dict[str, Any]:
        return {name.get(p, p): v for p, v in table.items()}

    other = solved(
        replace(problem, network=renamed(problem.network, name), choices=turned(problem.choices),
                must=turned(problem.must), values=turned(problem.values)),
        plan.seed,
    )  # fmt: skip
    about = describe(problem)
    for field in ("status", "objective", "bound", "macs", "peak_bytes", "lower_bound_bytes", "ties"):
        a, b = getattr(plan, field), getattr(other, field)
        require(a == b, f"renaming turns {field}={a} into {b} {about}")
    require(turned(plan.update) == dict(other.update), f"renaming turns {plan.update} into {other.update} {about}")
    a_picks, b_picks = list(plan.picks.values()), list(other.picks.values())
    require(a_picks == b_picks, f"renaming turns picks {a_picks} into {b_picks} {about}")
    shapes = [[(s.kind, s.target, s.keep, s.macs) for s in p.steps] for p in (plan, other)]
    require(shapes[0] == shapes[1], f"renaming changes the steps {about}")
    places = [[(b.lo, b.bytes, b.start, b.stop, b.level, b.offset) for b in p.buffers] for p in (plan, other)]
    require(places[0] == places[1], f"renaming moves buffers {about}")


# -- the solver's count --------------------------------------------------------------------------------


def check_rows(problem: Problem, update: Mapping[str, float], picks: Mapping[str, str] | None = None) -> None:
    """The solver's linear rows, evaluated at given decisions, are the bytes that liveness counts.

    At every step that exists; at steps that do not, a row may not exceed the peak. The rows that the
    solver leaves out as dominated never hide the peak. MACs and the frozen level likewise.
    """
    program = Program(replace(problem, must={}), trace(problem.network, problem.options, problem.choices), [])
    graph, literals = program.graph, program.literals
    chosen = graph.chosen(UpdateSet(update))
    taken = [p.options.index((picks or {}).get(p.op, p.options[0])) for p in graph.picks]
    model = program.model.clone()
    for bit, atom in literals.atoms.items():
        model.add(atom == int(bool(bit & chosen)))
    for options, i in zip(literals.picks, taken, strict=True):
        model.add(options[i] == 1)
    outcome = solve_model(model, Limits())
    about = f"at update={dict(update)}, picks={picks} {describe(problem)}"
    require(outcome.solved, f"the model refuses decisions {about}")

    def read(row: Any) -> int:
        return int(row.constant + sum(n * outcome.values[i] for i, n in row.terms.items()))

    schedule = graph.restrict(UpdateSet(update), picks)
    memory = analyse(schedule)
    live, peak = iter(memory.at(MAIN)), memory.peak()
    for step, row in zip(graph.steps, program.all_rows, strict=True):
        bytes_ = read(row)
        if holds(step.when, chosen) and (step.pick is None or taken[step.pick[0]] == step.pick[1]):
            counted = next(live)
            require(bytes_ == counted, f"step {step.name!r}: row={bytes_}, liveness={counted} {about}")
        else:
            require(bytes_ <= peak, f"absent step {step.name!r}: row={bytes_} > {peak=} {about}")
    require(next(live, None) is None, f"liveness has steps that the solver has not {about}")
    kept = max(map(read, program.rows), default=0)
    require(kept == peak, f"peak of the rows kept={kept}, of liveness={peak} {about}")
    macs, counted = read(program.macs), sum(schedule.macs.values())
    require(macs == counted, f"MACs: row={macs}, schedule={counted} {about}")
    stay = [v for v in schedule.values.values() if v.role == "parameter" and v.tensor not in update]
    frozen, counted = read(program.frozen), sum(align_up(v.bytes, problem.options.alignment) for v in stay)
    require(frozen == counted, f"frozen parameters: row={frozen}, schedule={counted} {about}")
