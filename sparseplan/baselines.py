"""Update sets that people choose by hand today, and random ones, with the bytes that each needs."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from sparseplan.api import limits_of
from sparseplan.errors import ProblemError
from sparseplan.network import Network
from sparseplan.plan import Plan
from sparseplan.problem import Problem
from sparseplan.solve.clock import Clock, Limits
from sparseplan.solve.front import AXES, EFFORT, bounded, cost_of, share
from sparseplan.solve.search import solve


@dataclass(frozen=True)
class Baseline:
    """An update set that was not planned.

    Attributes:
        kind: none, last layers, biases, blocks, random or full.
        name: which of its kind.
        cost: what it needs of the axis, its memory planned as well as any other's.
    """

    kind: str
    name: str
    update: Mapping[str, float]
    cost: int


def plan_for(problem: Problem, update: Mapping[str, float], limits: Limits | None = None) -> Plan:
    """The plan of least bytes for exactly this update set, within the problem's own budgets.

    Args:
        limits: of the search, which without goes on until proven; cut short, the plan may not be of least bytes.

    Raises:
        ProblemError: the problem does not allow this set, or its budgets do not hold it, or time was up.
    """
    exact = replace(
        problem, choices={p: (r,) for p, r in update.items()}, must=dict(update), terms=(), ties=(),
        values={p: {r: problem.values[p][r]} for p, r in update.items()},
    )  # fmt: skip
    plan = solve(exact, limits, order=("peak", "area"), effort=EFFORT)
    if not plan.feasible:
        text = plan.reason.message if plan.reason is not None else plan.status
        raise ProblemError(f"update set of {len(update)} parameters: {text}")
    return plan


def last_layers(network: Network, choices: Mapping[str, Sequence[float]], k: int) -> dict[str, float]:
    """All parameters of the last ``k`` ops that have any."""
    ops = [op for op in network.ops if any(p in choices for p in op.params.values())]
    return {p: choices[p][-1] for op in ops[-k:] for p in op.params.values() if p in choices}


def biases(network: Network, choices: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """All biases (as TinyTL, Cai et al., NeurIPS 2020, without its side branches)."""
    return {p: r[-1] for p, r in choices.items() if network.owner[p][1] == "bias"}


def by_hand(
    problem: Problem, blocks: Iterable[tuple[str, Sequence[str]]] = (), most_layers: int | None = None
) -> list[tuple[str, str, dict[str, float]]]:
    """(kind, name, update set) of what people use: nothing, the last k layers, biases, blocks, everything.

    Args:
        blocks: name and parameters of each block.
        most_layers: of the last layers; None goes through 1, 2, 3, 5, 8, … up to half of them.
    """
    network, choices = problem.network, problem.choices
    count = sum(any(p in choices for p in op.params.values()) for op in network.ops)
    top = count // 2 if most_layers is None else most_layers
    steps, k, after = [], 1, 2
    while k <= top:
        steps.append(k)
        k, after = after, k + after
    found: list[tuple[str, str, dict[str, float]]] = [("none", "no update", {})]
    found += [("last layers", f"last {k}", last_layers(network, choices, k)) for k in steps]
    if bias := biases(network, choices):
        found.append(("biases", "biases", bias))
    for name, parameters in blocks:
        if update := {p: choices[p][-1] for p in parameters if p in choices}:
            found.append(("blocks", name, update))
    found.append(("full", "all parameters", {p: r[-1] for p, r in choices.items()}))
    return found


def random_set(
    problem: Problem, axis: str, budget: int, seed: int, limits: Limits | None = None
) -> dict[str, float]:  # fmt: skip
    """A random update set that leaves no room: the best one for random values of parameters, at a budget.

    The worth of a parameter is drawn from [0, 1) and grows with the root of the fraction, so that
    cutting happens too.
    """
    rng = random.Random(f"{budget} {seed}")
    drawn = {p: rng.random() for p in problem.choices}
    values = {p: {r: drawn[p] * r**0.5 for r in fractions} for p, fractions in problem.choices.items()}
    asked = bounded(replace(problem, values=values, terms=()), axis, budget)
    plan = solve(asked, replace(limits or Limits(), seed=seed), effort=EFFORT)
    return dict(plan.update)


def baselines(
    problem: Problem,
    axis: str = "l2",
    *,
    blocks: Iterable[tuple[str, Sequence[str]]] = (),
    random_budgets: Sequence[int] = (),
    random_sets: int = 2,
    time_limit: float | None = None,
    progress: Callable[[str], None] | None = None,
) -> tuple[Baseline, ...]:
    """What people choose by hand, and random sets at each of some budgets, with what each needs.

    Sets that the problem's caps (bytes of each memory, MACs) forbid are left out.

    Args:
        time_limit: seconds for planning all of them; those for which none are left are left out. None searches until
            each is proven.
        progress: called with a line of text now and then.

    Raises:
        ProblemError: an unknown axis.
    """
    if axis not in AXES:
        raise ProblemError(f"axis={axis!r} must be one of {', '.join(AXES)}")
    clock = Clock(limits_of(time_limit, 0).told(progress))
    named = by_hand(problem, blocks)
    drawn = [(budget, i) for budget in random_budgets for i in range(random_sets)]
    left = len(named) + 2 * len(drawn)
    for n, (budget, i) in enumerate(drawn):
        update = random_set(problem, axis, budget, i, share(clock, 1 / (left - n)))
        named.append(("random", f"random {i + 1} at {budget:,}", update))
    found = []
    for n, (kind, name, update) in enumerate(named):
        if n and clock.late():
            break
        clock.limits.say(f"baselines: {name}")
        try:
            plan = plan_for(problem, update, share(clock, 1 / (len(named) - n)))
        except ProblemError:
            continue
        found.append(Baseline(kind, name, update, cost_of(plan, axis)))
    return tuple(found)
