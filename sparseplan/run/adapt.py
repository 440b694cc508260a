"""Training to the end inside the arena of exactly a plan's bytes.

Parameters, optimizer state and accumulators stay in the arena from the first update to the last.
What a device would do once for each sample is done here: the schedule runs on the plan's batch,
updates are fused or follow the plan's accumulators, values are rounded to the plan's dtype.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sparseplan.errors import PlanError, ProblemError
from sparseplan.objective import TARGET
from sparseplan.ops.base import Array
from sparseplan.plan import Plan
from sparseplan.run.checks import Inputs, check_one_loss, stored_parameters
from sparseplan.run.fitting import (
    Advance,
    Augment,
    Batch,
    Progress,
    TrainResult,
    Validation,
    by_array,
    check_data,
    fit,
    weights_of,
)
from sparseplan.run.machine import GUARD_BYTES, Machine, claimed_bytes
from sparseplan.run.oracle import Oracle, Outcome, differences
from sparseplan.run.settings import TrainSettings, check_count
from sparseplan.run.spread import spread
from sparseplan.scalars import plain_arguments

#: learning rates where none is given, for batches of one in bf16. A task's own are for Adam on
#: larger batches. On the depth task (decoder blocks, two epochs of 400 samples) ten times less
#: learnt less, and ten times more of plain SGD did too.
LEARNING_RATES: Mapping[str, float] = {"sgd": 0.01, "momentum": 0.003, "adam": 0.001}
#: samples whose gradients make one update of a plan that accumulates, where no number is given
SAMPLES = 16


@dataclass(frozen=True)
class AdaptReport:
    """What training in an arena gave.

    Attributes:
        result: trained parameters, losses, validation.
        claimed_bytes: arena of each level that holds buffers, by the plan: what was allocated.
        touched_bytes: highest byte written in checked updates, plus one, of each level.
        updates, checked_updates: number of updates, and of those that ran under all checks.
        faults: where bytes changed that should not have, or where guard zones changed a result.
        differences: in which losses, parameters and optimizer states checked updates differ by any bit from what
            the unconstrained reference makes of the same state, in words.
    """

    result: TrainResult
    claimed_bytes: Mapping[str, int]
    touched_bytes: Mapping[str, int]
    updates: int
    checked_updates: int
    faults: tuple[str, ...]
    differences: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether results, bytes and guard zones were as promised, wherever that was checked."""
        return self.guard_intact and not self.differences and dict(self.claimed_bytes) == dict(self.touched_bytes)

    @property
    def guard_intact(self) -> bool:
        """No byte changed but by a planned write, wherever that was checked."""
        return not self.faults

    def to_json(self) -> dict[str, Any]:
        """Everything but the parameters, as plain data."""
        found = self.result
        return {
            "claimed_bytes": dict(self.claimed_bytes),
            "touched_bytes": dict(self.touched_bytes),
            "updates": self.updates,
            "checked_updates": self.checked_updates,
            "guard_intact": self.guard_intact,
            "faults": list(self.faults),
            "differences": list(self.differences),
            "passed": self.passed,
            "losses": list(found.losses),
            "val_losses": list(found.val_losses),
            "val_scores": list(found.val_scores),
            "epochs": found.epochs,
            "best": found.best,
        }


@plain_arguments
def plan_settings(plan: Plan, settings: TrainSettings | None = None, **changes: Any) -> TrainSettings:
    """Settings that train as the plan does: its optimizer, dtype, batch, loss and gradients.

    The same settings given to ``train`` compute the same fast, without an arena.

    Args:
        settings: what the plan says nothing of (epochs, seed, schedule, …); its lr only where its
            optimizer is the plan's, else it is by ``LEARNING_RATES``. By default lr by those and one epoch.
        changes: fields to set, as ``lr=0.01`` or ``accumulate=8``.

    Raises:
        ProblemError: a change that contradicts the plan.
    """
    options = plan.problem.options
    check_one_loss(options, "training on a task's data")
    base = settings or TrainSettings()
    lr = base.lr if settings is not None and base.optimizer == options.optimizer else LEARNING_RATES[options.optimizer]
    runs = 1 if options.gradients == "fused" else max(1, SAMPLES // options.batch)
    if options.gradients == "accumulate" and base.accumulate > 1:
        runs = base.accumulate
    fixed = {
        "optimizer": options.optimizer, "dtype": options.dtype, "batch": options.batch,
        "loss": options.loss, "loss_attrs": dict(options.loss_attrs),
    }  # fmt: skip
    made = replace(base, **{**fixed, "lr": lr, "accumulate": runs, **changes})
    _check(plan, made)
    return made


def _check(plan: Plan, settings: TrainSettings) -> None:
    options = plan.problem.options
    check_one_loss(options, "training on a task's data")
    for name in ("optimizer", "dtype", "batch", "loss"):
        if getattr(settings, name) != getattr(options, name):
            raise ProblemError(
                f"{name}={getattr(settings, name)!r} differs from the plan's {getattr(options, name)!r}; "
                "plan_settings(plan) gives the plan's own"
            )
    if dict(settings.loss_attrs) != dict(options.loss_attrs):
        raise ProblemError(
            f"loss_attrs={dict(settings.loss_attrs)!r} differ from the plan's {dict(options.loss_attrs)!r}"
        )
    if settings.accumulate > 1 and options.gradients == "fused":
        raise ProblemError(
            f"accumulate={settings.accumulate}, but the plan fuses its updates and has no accumulators; "
            "plan with gradients='accumulate'"
        )


@plain_arguments
def adapt(
    plan: Plan,
    parameters: Mapping[str, Array],
    x: Inputs,
    target: Array,
    settings: TrainSettings | None = None,
    *,
    augment: Augment | None = None,
    progress: Progress | None = None,
    validation: Validation | None = None,
    check_every: int = 25,
    guard_bytes: int = GUARD_BYTES,
    advance: Advance | None = None,
) -> AdaptReport:
    """Train with a plan's update set inside one byte array a level, of exactly the planned bytes.

    The order of samples, augmentation, weights of accumulated gradients and learning rates are
    those of ``train`` with the same settings, save that samples of an epoch that do not fill a
    batch of the plan are left out: its schedule is for whole batches.

    The first two updates, the last planned one and every ``check_every``-th run under all checks:
    every read finds what the plan says, freed bytes are poisoned, no byte changes but by a planned
    write, a second arena, spread so that guard zones lie between all buffers, computes the same bits
    from the same state, and so does the unconstrained reference. Between them the same kernels run on
    the same bytes without those checks; the red zones and frozen parameters that they must have left
    alone are compared at the next checked update. Validation is outside the arena, as a device would not
    do it.

    Args:
        parameters: all of the network's.
        x, target: ``(samples, *shape)``, as of ``train``.
        settings: of the plan's kind; see ``plan_settings``, which is what is used without.
        check_every: 1 checks every update.
        advance: called after each update with (updates made, of all).
        guard_bytes: least width of the guard zones in the second arena; 0 leaves it out.

    Raises:
        PlanError: a plan without a schedule, or one that cannot be executed as it stands.
        ProblemError: settings that contradict the plan, or early stopping without validation.
        DataError: arrays that do not fit the network or are not finite, or a loss that became so.
    """
    if not plan.feasible:
        raise PlanError(f"plan with status={plan.status} has nothing to run")
    check_count("check_every", check_every)
    check_count("guard_bytes", guard_bytes, 0)
    settings = settings or plan_settings(plan)
    _check(plan, settings)
    network = plan.network
    data = check_data(network, x, target, plan.problem.options.loss)
    stepper = _ArenaStepper(plan, parameters, settings, len(data[1]), check_every, guard_bytes)
    result = fit(
        stepper, network, data, settings, augment if isinstance(x, Mapping) else by_array(network, augment), progress,
        validation, whole=True, advance=advance,
    )  # fmt: skip
    return stepper.report(result)


class _ArenaStepper:
    """A ``Stepper`` whose updates happen in an arena."""

    def __init__(
        self, plan: Plan, parameters: Mapping[str, Array], settings: TrainSettings, samples: int, check_every: int,
        guard_bytes: int,
    ) -> None:  # fmt: skip
        options = plan.problem.options
        self._frozen = stored_parameters(plan.network, parameters, options)
        self._claimed = claimed_bytes(plan)
        rule = settings.rule()
        self._machine = Machine(plan, rule, self._frozen, plan.buffers, self._claimed)
        self._guarded: Machine | None = None
        if guard_bytes:
            buffers, sizes = spread(
                plan.buffers, plan.steps, guard_bytes, options.alignment, split=options.concat == "split"
            )
            self._guarded = Machine(plan, rule, self._frozen, buffers, sizes)
        runs = samples // settings.batch
        self._last = -(-runs // settings.accumulate) * settings.epochs - 1
        self._every = check_every
        self._count = self._checked = 0
        self._faults: list[str] = []
        self._oracle = Oracle(plan, rule, self._frozen)
        self._update_set = tuple(plan.update)
        self._differences: list[str] = []

    def update(self, batches: Sequence[Batch], lr: float) -> list[float]:
        machine, number = self._machine, self._count
        self._count += 1
        if not (number < 2 or number == self._last or number % self._every == 0):
            if machine.arena.strict:
                machine.arena.trust()
            return _update(machine, batches, lr)
        self._checked += 1
        if not machine.arena.strict:
            machine.arena.distrust()
        guarded, oracle = self._guarded, self._oracle
        if guarded is not None:
            guarded.copy_state(machine)
        oracle.take(machine)
        here, there, expected = Outcome(), Outcome(), Outcome()
        here.losses = _update(machine, batches, lr)
        here.take(machine)
        if guarded is not None:
            there.losses = _update(guarded, batches, lr)
            there.take(guarded)
            for text in differences(here, there, self._update_set)[:1]:
                self._faults.append(f"update {number + 1}: with guard zones the plan computes something else: {text}")
        oracle.lr = lr
        weights = _weights(machine, batches)
        for (arrays, target), weight in zip(batches, weights, strict=True):
            rounded = {n: machine.stored(n, a) for n, a in arrays.items()}
            expected.losses.append(oracle.run(rounded, machine.stored(TARGET, target), weight)[0])
        oracle.update(sum(weights))
        expected.parameters, expected.states = oracle.parameters, oracle.states
        unlike = differences(here, expected, self._update_set)
        self._differences += [f"update {number + 1}: {text}" for text in unlike]
        return here.losses

    def parameters(self) -> dict[str, Array]:
        return {**{p: a.copy() for p, a in self._frozen.items()}, **self._machine.parameters()}

    def report(self, result: TrainResult) -> AdaptReport:
        if not self._machine.arena.strict:
            self._machine.arena.distrust()
        faults = self._machine.faults() + self._faults
        if self._guarded is not None:
            faults += [f"with guard zones: {f}" for f in self._guarded.faults()]
        return AdaptReport(result, self._claimed, self._machine.touched(), self._count, self._checked, tuple(faults),
                           tuple(self._differences))  # fmt: skip


def _weights(machine: Machine, batches: Sequence[Batch]) -> list[float]:
    return weights_of([target for _, target in batches]) if machine.accumulates else [1.0]


def _update(machine: Machine, batches: Sequence[Batch], lr: float) -> list[float]:
    clock = machine.clock
    clock.lr = lr
    weights = _weights(machine, batches)
    losses = []
    for (arrays, target), clock.weight in zip(batches, weights, strict=True):
        rounded = {n: machine.stored(n, a) for n, a in arrays.items()}
        losses.append(machine.forward_backward(rounded, target))
    clock.samples = sum(weights)
    machine.update()
    machine.clear()
    return losses
