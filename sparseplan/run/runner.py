"""Running a plan in its bytes, and comparing what it computes with the reference."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from sparseplan.builder import init_parameters
from sparseplan.errors import DataError, PlanError, ProblemError
from sparseplan.network import Network
from sparseplan.objective import Loss, target_of
from sparseplan.ops.base import Array
from sparseplan.plan import PlacedBuffer, Plan
from sparseplan.run.checks import Inputs, check_inputs, check_targets, ids_of, same_length, stored_parameters
from sparseplan.run.machine import GUARD_BYTES, Machine, claimed_bytes
from sparseplan.run.numerics import rounded
from sparseplan.run.optimizers import Optimizer
from sparseplan.run.oracle import Oracle, Outcome, arithmetic_of, differences, greatest, reference_of
from sparseplan.run.spread import spread
from sparseplan.scalars import plain_arguments
from sparseplan.steps import TrainingOptions, packed_parameters


@dataclass(frozen=True)
class RunReport:
    """What a plan did in its arena.

    Attributes:
        claimed_bytes: arena of each level that holds buffers, by the plan: what was allocated.
        touched_bytes: highest byte written, plus one, of each level.
        written_bytes: number of distinct bytes written, of each level.
        max_abs_gradient_difference, max_abs_parameter_difference: to the reference, over what is
            updated; None where it was not compared.
        differences: in which losses, gradients, parameters and optimizer states the plan differs from the reference
            by any bit, in words; None where it was not compared.
        guard_intact: no byte changed but by a planned write: guard zones, red zones, other buffers.
        faults: where bytes changed that should not have.
        packed_errors: relative error (Euclidean norm) that inputs saved in 8 bits bring to each
            gradient that is computed from one, on the last run's batch with the parameters given; empty
            where it was not compared.
        losses: of each run of the schedule; of several losses their weighted sum.
        output_losses: of each run, every loss by its label (see ``objective.LossStep``), without its weight.
        gradients: of updated parameters, cut where updated in part: of the last run (fused), or
            summed over all runs (accumulated).
        parameters: all of the network's after the last update.
    """

    claimed_bytes: Mapping[str, int]
    touched_bytes: Mapping[str, int]
    written_bytes: Mapping[str, int]
    max_abs_gradient_difference: float | None
    max_abs_parameter_difference: float | None
    differences: tuple[str, ...] | None
    guard_intact: bool
    guard_bytes: int
    faults: tuple[str, ...]
    packed_errors: Mapping[str, float]
    losses: tuple[float, ...]
    output_losses: tuple[Mapping[str, float], ...]
    steps: int
    gradients: Mapping[str, Array] = field(repr=False)
    parameters: Mapping[str, Array] = field(repr=False)

    @property
    def loss(self) -> float:
        """The last loss."""
        return self.losses[-1]

    @property
    def bitwise_equal(self) -> bool | None:
        """Whether losses, gradients, parameters and optimizer states equal the reference's bit for bit."""
        return None if self.differences is None else not self.differences

    @property
    def all_touched(self) -> bool:
        """Whether every level is used up to the very byte that the plan claims."""
        return dict(self.claimed_bytes) == dict(self.touched_bytes)

    @property
    def passed(self) -> bool:
        """Whether everything that was looked at is as promised: results, bytes, guard zones."""
        return self.guard_intact and self.all_touched and not self.differences

    def to_json(self) -> dict[str, Any]:
        """Everything but the arrays, as plain data."""
        return {
            "claimed_bytes": dict(self.claimed_bytes),
            "touched_bytes": dict(self.touched_bytes),
            "written_bytes": dict(self.written_bytes),
            "max_abs_gradient_difference": self.max_abs_gradient_difference,
            "max_abs_parameter_difference": self.max_abs_parameter_difference,
            "passed": self.passed,
            "bitwise_equal": self.bitwise_equal,
            "differences": None if self.differences is None else list(self.differences),
            "all_touched": self.all_touched,
            "guard_intact": self.guard_intact,
            "guard_bytes": self.guard_bytes,
            "faults": list(self.faults),
            "packed_errors": dict(self.packed_errors),
            "losses": list(self.losses),
            "output_losses": [dict(found) for found in self.output_losses],
            "steps": self.steps,
        }


@plain_arguments
def run(
    plan: Plan,
    parameters: Mapping[str, Array] | None = None,
    x: Inputs | None = None,
    target: Array | Mapping[str, Array] | None = None,
    *,
    seed: int = 0,
    samples: int = 1,
    optimizer: Optimizer | None = None,
    guard_bytes: int = GUARD_BYTES,
    compare: bool = True,
) -> RunReport:
    """Execute a plan's schedule in one byte array a level, of exactly the planned bytes.

    The schedule runs ``samples`` times on ``batch`` samples each. With accumulated gradients the
    updates follow once, by their mean; fused, every run updates.

    Args:
        parameters: all of the network's; drawn from ``seed`` without.
        x, target: ``(samples * batch, *shape)``; drawn from ``seed`` without. Give both or none. Several losses
            take a mapping: from the output, or ``output=kind`` where an output has several, to its target.
        optimizer: hyper-parameters, of the plan's kind; PyTorch's defaults and lr 0.01 without.
        guard_bytes: least width of the guard zones in a second execution, whose layout is spread
            so that zones lie between all buffers that coexist; 0 leaves it out.
        compare: also compute the unconstrained reference.

    Raises:
        PlanError: a plan without a schedule, or one that cannot be executed as it stands.
        DataError: arrays that do not fit the network.
    """
    if not plan.feasible:
        raise PlanError(f"plan with status={plan.status} has nothing to run")
    for name, value, least in (("samples", samples, 1), ("guard_bytes", guard_bytes, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ProblemError(f"{name}={value!r} must be a whole number, at least {least}")
    options, network = plan.problem.options, plan.network
    optimizer = optimizer or Optimizer(options.optimizer, lr=0.01)
    if optimizer.kind != options.optimizer:
        raise ProblemError(f"optimizer={optimizer.kind!r} differs from the plan's {options.optimizer!r}")
    parameters = init_parameters(network, seed) if parameters is None else parameters
    if (x is None) != (target is None):
        raise DataError("give both x and target, or neither")
    if x is None or target is None:
        x, target = random_samples(network, options, samples * options.batch, seed)
    task = _Task(plan, optimizer, stored_parameters(network, parameters, options), x, target, samples)
    claimed = claimed_bytes(plan)
    result = task.execute(plan.buffers, claimed)
    machine, faults = result.machine, list(result.machine.faults())
    if guard_bytes:
        buffers, sizes = spread(
            plan.buffers, plan.steps, guard_bytes, options.alignment, split=options.concat == "split"
        )
        again = task.execute(buffers, sizes)
        faults += [f"with guard zones: {f}" for f in again.machine.faults()]
        moved = differences(result.outcome, again.outcome, plan.update)
        if not faults and moved:
            faults.append(f"with guard zones the plan computes something else: {moved[0]}")
    gradient_difference: float | None = None
    parameter_difference: float | None = None
    unlike: list[str] | None = None
    if compare:
        here, there = result.outcome, task.reference()
        unlike = differences(here, there, plan.update)
        pairs = zip(here.gradients, there.gradients, strict=True)
        gradient_difference = greatest((g[p], h[p]) for g, h in pairs for p in g if p in h)
        both = here.parameters.keys() & there.parameters.keys()
        parameter_difference = greatest((here.parameters[p], there.parameters[p]) for p in sorted(both))
    return RunReport(
        claimed_bytes=claimed,
        touched_bytes=machine.touched(),
        written_bytes={level: int(m.touched.sum()) for level, m in machine.arena.levels.items()},
        max_abs_gradient_difference=gradient_difference,
        max_abs_parameter_difference=parameter_difference,
        differences=None if unlike is None else tuple(unlike),
        guard_intact=not faults,
        guard_bytes=guard_bytes,
        faults=tuple(faults),
        packed_errors=task.packed_errors() if compare else {},
        losses=tuple(result.outcome.losses),
        output_losses=tuple(result.outcome.output_losses),
        steps=len(plan.steps),
        gradients=result.outcome.gradients[-1],
        parameters={**task.parameters, **result.outcome.parameters},
    )


def random_data(network: Network, loss: str, count: int, seed: int) -> tuple[dict[str, Array], Array]:
    """Inputs in [0, 1), or ids that exist, and a target that the loss takes: normal, a tenth of it NaN, or classes."""
    rng = np.random.default_rng([seed, 1])
    return _random_inputs(network, count, rng), _random_target(network, Loss(network.outputs[0], loss), count, rng)


def random_samples(
    network: Network, options: TrainingOptions, count: int, seed: int
) -> tuple[dict[str, Array], Array | dict[str, Array]]:
    """As ``random_data``, for the losses of options: several have their targets in a mapping by labels."""
    if not options.losses:
        return random_data(network, options.loss, count, seed)
    rng = np.random.default_rng([seed, 1])
    x = _random_inputs(network, count, rng)
    return x, {s.label: _random_target(network, s.loss, count, rng) for s in options.loss_steps(network)}


def _random_inputs(network: Network, count: int, rng: np.random.Generator) -> dict[str, Array]:
    x: dict[str, Array] = {}
    for n in network.inputs:
        shape = (count, *network.tensor[n].shape)
        ids = network.tensor[n].dtype == "i32"
        x[n] = rng.integers(0, ids_of(network, n)[0], shape, np.int32) if ids else rng.random(shape, np.float32)
    return x


def _random_target(network: Network, loss: Loss, count: int, rng: np.random.Generator) -> Array:
    shape, dtype = target_of(loss, network)
    if dtype == "i32":
        return rng.integers(0, network.tensor[loss.output].shape[0], (count, *shape), np.int32)
    target = rng.standard_normal((count, *shape), np.float32)
    target[rng.random(target.shape) < 0.1] = np.nan
    return target


@dataclass
class _Execution:
    machine: Machine
    outcome: Outcome


class _Task:
    """A plan with the data it runs on."""

    def __init__(
        self, plan: Plan, optimizer: Optimizer, parameters: Mapping[str, Array], x: Inputs, target: Any, samples: int
    ) -> None:
        self.plan, self.optimizer, self.parameters, self.samples = plan, optimizer, parameters, samples
        self.options, self.network = plan.problem.options, plan.network
        self.values = {v.name: v for v in plan.values}
        self.accumulate = self.options.gradients == "accumulate"
        data = check_inputs(self.network, x)
        labels = check_targets(self.network, target, self.options)
        count = same_length([*data.items(), *(("target", a) for a in labels.values())])
        if count != samples * self.options.batch:
            raise DataError(
                f"x and target hold {count} samples; samples={samples} runs of batch={self.options.batch} take "
                f"{samples * self.options.batch}"
            )
        self.batches = []
        for i in range(samples):
            part = slice(i * self.options.batch, (i + 1) * self.options.batch)
            arrays = {n: self._stored(n, a[part]) for n, a in data.items()}
            self.batches.append((arrays, {n: self._stored(n, a[part]) for n, a in labels.items()}))

    def _stored(self, name: str, array: Array) -> Array:
        value = self.values.get(name)
        return array if value is None else rounded(array, value.dtype, value.scale)

    # -- in the arena ---------------------------------------------------------------------------
    def execute(self, buffers: Iterable[PlacedBuffer], sizes: Mapping[str, int]) -> _Execution:
        outcome = Outcome()
        machine = Machine(self.plan, self.optimizer, self.parameters, buffers, sizes,
                          lambda name, gradient: outcome.gradients[-1].update({name: gradient}))  # fmt: skip
        if self.accumulate:
            machine.clock.samples = self.samples
        for arrays, target in self.batches:
            outcome.gradients.append({})
            outcome.losses.append(machine.forward_backward(arrays, target))
            outcome.output_losses.append(dict(machine.losses))
        machine.update()
        outcome.take(machine)
        return _Execution(machine, outcome)

    # -- without it -------------------------------------------------------------------------------
    def reference(self) -> Outcome:
        """The same runs by the unconstrained reference."""
        oracle = Oracle(self.plan, self.optimizer, self.parameters)
        outcome = Outcome()
        for arrays, target in self.batches:
            loss, gradients = oracle.run(arrays, target)
            outcome.losses.append(loss)
            outcome.output_losses.append(oracle.losses)
            outcome.gradients.append(gradients)
        oracle.update(self.samples)
        outcome.parameters, outcome.states = oracle.parameters, oracle.states
        return outcome

    def packed_errors(self) -> dict[str, float]:
        """How far gradients from inputs in 8 bits are from those of the inputs as they were, on the last batch."""
        packed = packed_parameters(self.network, self.plan.steps)
        if not packed:
            return {}
        arithmetic = arithmetic_of(self.network, self.options.dtype, self.plan.steps, True)
        arrays, target = self.batches[-1]
        found, exact = (
            reference_of(self.network, self.options, self.parameters, arrays, target, a)
            for a in (arithmetic, replace(arithmetic, packed=frozenset()))
        )
        norm, least = np.linalg.norm, np.finfo(float).tiny
        pairs = {p: (found.gradients[p], exact.gradients[p]) for p in sorted(packed)}
        return {p: float(norm(a - b) / max(norm(b), least)) for p, (a, b) in pairs.items()}
