"""All theorems on one network: ``sparseplan selftest NET``."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from sparseplan.autodiff import trace
from sparseplan.device import Device, custom, load_device
from sparseplan.errors import ProblemError
from sparseplan.liveness import analyse
from sparseplan.network import Network
from sparseplan.ops.opaque import Opaque
from sparseplan.plan import Plan
from sparseplan.problem import Problem, resolve_choices, resolve_values
from sparseplan.scalars import plain_arguments
from sparseplan.solve.clock import Clock, Limits, alive
from sparseplan.steps import MAIN, PAGE_LEVEL, TrainingOptions, UpdateSet
from sparseplan.tables import table
from sparseplan.testing import optima, theorems
from sparseplan.testing.gradients import check_full_gradients, check_pruned_gradients
from sparseplan.testing.peers import trainable
from sparseplan.testing.rows import check_rows

#: share of the time that one plan may take, and seconds that each gets
SHARE = 0.05
LEAST_SECONDS = 0.2
#: sets of decisions that brute force may try on one case
MOST_DECISIONS = 400


@dataclass(frozen=True)
class SelftestRow:
    """What became of one theorem.

    Attributes:
        cases: how many were checked.
        outcome: ``passed``, ``failed`` or ``skipped``.
        detail: the counterexample, or why it was skipped or cut short.
    """

    theorem: str
    cases: int
    outcome: str
    detail: str


@dataclass(frozen=True)
class SelftestReport:
    """What became of all theorems on one network."""

    network: str
    seed: int
    seconds: float
    rows: tuple[SelftestRow, ...]

    @property
    def passed(self) -> bool:
        """Whether no theorem failed."""
        return all(row.outcome != "failed" for row in self.rows)

    def text(self) -> str:
        """A table, and one line that sums it up."""
        rows = [(r.theorem, r.cases, r.outcome, r.detail) for r in self.rows]
        counts = {o: sum(r.outcome == o for r in self.rows) for o in ("passed", "failed", "skipped")}
        summary = ", ".join(f"{n} {o}" for o, n in counts.items() if n)
        return table(("theorem", "cases", "outcome", "detail"), rows) + (
            f"\n\n{self.network}: {summary} (seed {self.seed}, {self.seconds:.1f} s)"
        )


class _Skip(Exception):
    """This case says nothing; why."""


class _Cases:
    """Draws problems on a network, the plainest first."""

    def __init__(self, network: Network, device: Device, rng: random.Random, clock: Clock) -> None:
        self.network, self.device, self.rng, self.clock = network, device, rng, clock
        self.reachable = trainable(network)
        self._solved: dict[int, tuple[Problem, Plan]] = {}

    @property
    def limits(self) -> Limits:
        """Of one plan: a small share of all the time, and no more than is left but for a moment."""
        seconds = self.clock.limits.seconds or 0.0
        left = self.clock.left().seconds or 0.0
        return Limits(max(min(max(1.0, SHARE * seconds), left), LEAST_SECONDS), self.clock.limits.seed)

    def options(self, i: int, dtype: str | None = None) -> TrainingOptions:
        rng, alignment = self.rng, self.device.level(MAIN).alignment
        vector = len(self.network.tensor[self.network.outputs[0]].shape) == 1
        loss = "cross_entropy" if vector else "l1"
        if i == 0:
            return TrainingOptions(dtype=dtype or "fp32", alignment=alignment, loss=loss)
        frozen = rng.choice(["L2", "flash"]) if self.device.has("flash") else "L2"
        return TrainingOptions(
            dtype=dtype or rng.choice(["fp32", "bf16", "fp16"]), optimizer=rng.choice(["sgd", "momentum", "adam"]),
            gradients=rng.choice(["fused", "accumulate"]), frozen=frozen, alignment=alignment, loss=loss,
            concat=rng.choice(["split", "adjoin"]),
        )  # fmt: skip

    def problem(self, i: int, parameters: int | None = None) -> Problem:
        """The ``i``-th problem: any choices, values and budget; at most so many parameters open."""
        if not self.reachable:
            raise _Skip("no parameter gets a gradient from the loss")
        rng, options = self.rng, self.options(i)
        fractions = rng.choice([(1.0,), (0.5, 1.0), (0.125, 0.25, 0.5, 1.0)]) if parameters is None else (1.0,)
        names = [p for p in self.reachable if i == 0 or rng.random() < 0.8] or list(self.reachable)
        if parameters is not None:  # those near the loss leave the fewest ways to keep what backward needs
            names = names[-parameters:]
        choices, _ = resolve_choices(self.network, names, fractions=fractions)
        worth = {p: float(rng.choice([rng.randint(0, 9), rng.random()])) for p in choices}
        problem = Problem(self.network, self.device, options, choices, {}, resolve_values(self.network, choices, worth))
        return replace(problem, device=self.budget(problem, rng.choice([0.2, 0.5, 0.8, 1.0])))

    def budget(self, problem: Problem, share: float) -> Device:
        """The device with main memory at some point between updating nothing and everything that may be."""
        graph = trace(problem.network, problem.options, problem.choices)
        ends = [{}, {p: r[-1] for p, r in problem.choices.items()}]
        least, most = (analyse(graph.restrict(UpdateSet(update))).peak() for update in ends)
        size = min(least, most) + math.ceil(share * abs(most - least)) + self.device.level(MAIN).reserved
        return self.device.with_budget(l2=max(size, 1))

    def update(self, problem: Problem) -> dict[str, float]:
        """Any allowed update set, never empty."""
        rng = self.rng
        update = {p: rng.choice(r) for p, r in problem.choices.items() if rng.random() < 0.5}
        p = rng.choice(list(problem.choices))
        return update or {p: rng.choice(problem.choices[p])}

    def savings(self) -> tuple[str, ...]:
        """Some of what may be done to hold less, as far as the device has the levels; not stripes, which take long."""
        slow = self.device.has("flash") or self.device.has(PAGE_LEVEL)
        known = ["recompute", "int8", *(["page"] if self.device.has(PAGE_LEVEL) else []), *(["stream"] if slow else [])]
        return tuple(s for s in known if self.rng.random() < 0.5)

    def solved(self, i: int) -> tuple[Problem, Plan]:
        """The ``i``-th problem of those that several theorems share, with its plan; but for the first it may save."""
        if i not in self._solved:
            problem = self.problem(i)
            if i:
                problem = replace(problem, savings=self.savings())
            self._solved[i] = problem, theorems.solved(problem, self.limits)
        return self._solved[i]


def _theorems(cases: _Cases) -> dict[str, Callable[[int], None]]:
    """Each theorem as a check of its ``i``-th case."""
    rng = cases.rng

    def feasible(i: int) -> Plan:
        plan = cases.solved(i)[1]
        if not plan.feasible:
            raise _Skip(f"no plan to run: {plan.status}")
        return plan

    def brute(i: int) -> None:
        problem = cases.problem(i, parameters=4)
        try:
            plan = theorems.solved(problem, cases.limits)
            optima.check_exact_equals_brute_force(problem, plan, MOST_DECISIONS)
        except ProblemError as error:
            raise _Skip(str(error)) from error

    def rows(i: int) -> None:
        problem = cases.problem(i)
        graph = trace(problem.network, problem.options, problem.choices)
        check_rows(problem, cases.update(problem), {p.op: rng.choice(p.options) for p in graph.picks})

    def budget(i: int) -> None:
        problem = cases.problem(i)
        sizes = [cases.budget(problem, share).level(MAIN).bytes or 1 for share in (0.1, 0.5, 1.0)]
        tell(optima.check_more_budget(problem, sizes, cases.limits), "no two budgets were solved to the proof in time")

    def must(i: int) -> None:
        problem, plan = cases.solved(i)
        name = rng.choice(list(problem.choices))
        said = optima.check_must(problem, {name: problem.choices[name][0]}, plan, cases.limits)
        tell(said, "not solved to the proof in time")

    def savings(i: int) -> None:
        problem = cases.problem(i)
        problem = replace(problem, savings=cases.savings() or ("recompute",))
        tell(optima.check_savings(problem, None, cases.limits), "not solved to the proof in time")

    def computed() -> None:
        for op in cases.network.ops:
            if op.kind == Opaque.kind:
                raise _Skip(f"op {op.name!r} ({op.attrs['type']}) is known by its shapes alone and cannot be run")

    def differences(i: int) -> None:
        computed()
        tell(check_full_gradients(cases.network, seed=i) > 0, "the loss has kinks wherever it was tried")

    def pruned(i: int) -> None:
        computed()
        check_pruned_gradients(cases.network, cases.update(cases.problem(i)), seed=i)

    def tell(said: bool, why_not: str) -> None:
        if not said:
            raise _Skip(why_not)

    def run(i: int) -> None:
        computed()
        theorems.check_runs_within_budget(feasible(i), seed=i)

    def json(i: int) -> None:
        theorems.check_spec(cases.network)
        theorems.check_json(cases.solved(i)[1])

    def accepted(i: int) -> None:
        theorems.check_accepted(*cases.solved(i))

    def greedy(i: int) -> None:
        tell(optima.check_exact_at_least_greedy(*cases.solved(i)), "greedy finds no plan")

    def same(i: int) -> None:
        tell(optima.check_same_seed(cases.problem(i), cases.limits), "the time limit cut the search short")

    def renaming(i: int) -> None:
        tell(optima.check_renaming(cases.problem(i), None, cases.limits), "the time limit cut the search short")

    return {
        "JSON round-trips": json,
        "the verifier accepts what is planned": accepted,
        "plans run in their bytes, as the reference": run,
        "full gradients are finite differences": differences,
        "pruned gradients are full gradients": pruned,
        "solver and liveness count the same bytes": rows,
        "exact is no worse than greedy": greedy,
        "exact equals brute force": brute,
        "more budget never worsens": budget,
        "more obligations never improve": must,
        "savings never worsen": savings,
        "same seed, same plan": same,
        "renaming changes nothing": renaming,
    }


@plain_arguments
def selftest(
    network: Network,
    *,
    device: Device | str | None = None,
    examples: int = 5,
    seed: int = 0,
    seconds: float = 60.0,
    progress: Callable[[str], None] | None = None,
) -> SelftestReport:
    """Check sparseplan's theorems on a network of yours, over drawn options, budgets, values and choices.

    Args:
        device: what to plan for, its main memory aside, which is drawn; by default a bare one.
        examples: cases of each theorem.
        seed: of what is drawn; same seed, same cases, save those that the time does not allow.
        seconds: for all theorems together; those that are not begun in time are skipped.
        progress: called with a line of text before each theorem, and now and then.

    Raises:
        ProblemError: examples or seconds that are no positive number.
    """
    if isinstance(examples, bool) or not isinstance(examples, int) or examples < 1:
        raise ProblemError(f"examples={examples!r} must be a whole number, at least 1")
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds < math.inf:
        raise ProblemError(f"seconds={seconds!r} must be a positive number")
    clock = Clock(Limits(float(seconds), seed).told(progress))
    target = custom() if device is None else load_device(device)
    cases = _Cases(network, target, random.Random(seed), clock)
    found: list[SelftestRow] = []
    checks = _theorems(cases)
    with alive(clock.limits):
        for k, (name, check) in enumerate(checks.items()):
            clock.limits.say(f"{k + 1}/{len(checks)} {name}")
            cases.rng.seed(f"{seed} {name}")  # what one theorem had time for does not move the cases of the next
            left = clock.left().seconds or 0.0
            found.append(_check(name, check, examples, clock.part(left / (len(checks) - k)), clock))
    return SelftestReport(network.name, seed, clock.elapsed(), tuple(found))


def _check(name: str, check: Callable[[int], None], examples: int, part: Clock, whole: Clock) -> SelftestRow:
    done, skipped = 0, ""
    for i in range(examples):
        if (part if i else whole).late():
            skipped = skipped or f"out of time before case {i + 1} of {examples}"
            break
        try:
            check(i)
            done += 1
        except _Skip as reason:
            skipped = str(reason)
        except Exception as error:  # whatever is raised here is a finding, and the other theorems go on
            kind = "" if isinstance(error, theorems.TheoremError) else f"{type(error).__name__}: "
            return SelftestRow(name, done + 1, "failed", f"case {i + 1}: {kind}{error}")
    return SelftestRow(name, done, "passed" if done else "skipped", skipped)


__all__: list[str] = ["SelftestReport", "SelftestRow", "selftest"]
