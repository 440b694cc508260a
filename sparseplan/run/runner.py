"""Running a plan in its bytes, and comparing what it computes with the reference."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from sparseplan.builder import init_parameters
from sparseplan.errors import DataError, PlanError, ProblemError
from sparseplan.network import Network
from sparseplan.ops import infos, loss_def, op_def
from sparseplan.ops.base import Array
from sparseplan.plan import PlacedBuffer, Plan
from sparseplan.run.checks import Inputs, check_inputs, check_target, ids_of, same_length, stored_parameters
from sparseplan.run.execute import separate_parts
from sparseplan.run.machine import GUARD_BYTES, Machine, claimed_bytes
from sparseplan.run.numerics import rounded
from sparseplan.run.optimizers import Optimizer
from sparseplan.run.reference import Arithmetic, reference, store
from sparseplan.run.spread import spread
from sparseplan.steps import OPTIMIZERS, PACKED_CODES, PACKED_SCALES, TARGET, Step, packed_parameters


@dataclass(frozen=True)
class RunReport:
    """What a plan did in its arena.

    Attributes:
        claimed_bytes: arena of each level that holds buffers, by the plan: what was allocated.
        touched_bytes: highest byte written, plus one, of each level.
        written_bytes: number of distinct bytes written, of each level.
        max_abs_gradient_difference, max_abs_parameter_difference: to the reference, over what is
            updated; None where it was not compared.
        bitwise_equal: whether all gradients, parameters and losses equal the reference's bit for bit.
        guard_intact: no byte changed but by a planned write: guard zones, red zones, other buffers.
        faults: where bytes changed that should not have.
        packed_errors: relative error (Euclidean norm) that inputs saved in 8 bits bring to each
            gradient that is computed from one, on the last run's batch with the parameters given; empty
            where it was not compared.
        losses: of each run of the schedule.
        gradients: of updated parameters, cut where updated in part: of the last run (fused), or
            summed over all runs (accumulated).
        parameters: all of the network's after the last update.
    """

    claimed_bytes: Mapping[str, int]
    touched_bytes: Mapping[str, int]
    written_bytes: Mapping[str, int]
    max_abs_gradient_difference: float | None
    max_abs_parameter_difference: float | None
    bitwise_equal: bool | None
    guard_intact: bool
    guard_bytes: int
    faults: tuple[str, ...]
    packed_errors: Mapping[str, float]
    losses: tuple[float, ...]
    steps: int
    gradients: Mapping[str, Array] = field(repr=False)
    parameters: Mapping[str, Array] = field(repr=False)

    @property
    def loss(self) -> float:
        """The last loss."""
        return self.losses[-1]

    def to_json(self) -> dict[str, Any]:
        """Everything but the arrays, as plain data."""
        return {
            "claimed_bytes": dict(self.claimed_bytes),
            "touched_bytes": dict(self.touched_bytes),
            "written_bytes": dict(self.written_bytes),
            "max_abs_gradient_difference": self.max_abs_gradient_difference,
            "max_abs_parameter_difference": self.max_abs_parameter_difference,
            "bitwise_equal": self.bitwise_equal,
            "guard_intact": self.guard_intact,
            "guard_bytes": self.guard_bytes,
            "faults": list(self.faults),
            "packed_errors": dict(self.packed_errors),
            "losses": list(self.losses),
            "steps": self.steps,
        }


def run(
    plan: Plan,
    parameters: Mapping[str, Array] | None = None,
    x: Inputs | None = None,
    target: Array | None = None,
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
        x, target: ``(samples * batch, *shape)``; drawn from ``seed`` without. Give both or none.
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
        x, target = random_data(network, options.loss, samples * options.batch, seed)
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
        if not faults and (_difference(result.outcome, again.outcome) != (0.0, 0.0, True)):
            faults.append("with guard zones the plan computes something else")
    gradient_difference: float | None = None
    parameter_difference: float | None = None
    equal: bool | None = None
    if compare:
        gradient_difference, parameter_difference, equal = _difference(result.outcome, task.reference())
    return RunReport(
        claimed_bytes=claimed,
        touched_bytes=machine.touched(),
        written_bytes={level: int(m.touched.sum()) for level, m in machine.arena.levels.items()},
        max_abs_gradient_difference=gradient_difference,
        max_abs_parameter_difference=parameter_difference,
        bitwise_equal=equal,
        guard_intact=not faults,
        guard_bytes=guard_bytes,
        faults=tuple(faults),
        packed_errors=task.packed_errors() if compare else {},
        losses=tuple(result.outcome.losses),
        steps=len(plan.steps),
        gradients=result.outcome.gradients[-1],
        parameters={**task.parameters, **result.outcome.parameters},
    )


def random_data(network: Network, loss: str, count: int, seed: int) -> tuple[dict[str, Array], Array]:
    """Inputs in [0, 1), or ids that exist, and a target that the loss takes: normal, a tenth of it NaN, or classes."""
    rng = np.random.default_rng([seed, 1])
    x: dict[str, Array] = {}
    for n in network.inputs:
        shape = (count, *network.tensor[n].shape)
        ids = network.tensor[n].dtype == "i32"
        x[n] = rng.integers(0, ids_of(network, n)[0], shape, np.int32) if ids else rng.random(shape, np.float32)
    output = network.tensor[network.outputs[0]].shape
    shape, dtype = loss_def(loss).target(output)
    if dtype == "i32":
        return x, rng.integers(0, output[0], (count, *shape), np.int32)
    target = rng.standard_normal((count, *shape), np.float32)
    target[rng.random(target.shape) < 0.1] = np.nan
    return x, target


@dataclass
class _Outcome:
    """Of each run: the loss and the gradients; at the end the updated parameters."""

    losses: list[float]
    gradients: list[dict[str, Array]]
    parameters: dict[str, Array]


@dataclass
class _Execution:
    machine: Machine
    outcome: _Outcome


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
        labels = check_target(self.network, target, self.options.loss)
        count = same_length([*data.items(), ("target", labels)])
        if count != samples * self.options.batch:
            raise DataError(
                f"x and target hold {count} samples; samples={samples} runs of batch={self.options.batch} take "
                f"{samples * self.options.batch}"
            )
        self.batches = []
        for i in range(samples):
            part = slice(i * self.options.batch, (i + 1) * self.options.batch)
            arrays = {n: self._stored(n, a[part]) for n, a in data.items()}
            self.batches.append((arrays, self._stored(TARGET, labels[part])))

    def _stored(self, name: str, array: Array) -> Array:
        value = self.values.get(name)
        return array if value is None else rounded(array, value.dtype, value.scale)

    # -- in the arena ---------------------------------------------------------------------------
    def execute(self, buffers: Iterable[PlacedBuffer], sizes: Mapping[str, int]) -> _Execution:
        outcome = _Outcome([], [], {})
        machine = Machine(self.plan, self.optimizer, self.parameters, buffers, sizes,
                          lambda name, gradient: outcome.gradients[-1].update({name: gradient}))  # fmt: skip
        if self.accumulate:
            machine.clock.samples = self.samples
        for arrays, target in self.batches:
            outcome.gradients.append({})
            outcome.losses.append(machine.forward_backward(arrays, target))
        machine.update()
        outcome.parameters = machine.parameters()
        return _Execution(machine, outcome)

    # -- without it -------------------------------------------------------------------------------
    def reference(self) -> _Outcome:
        """The same runs by the unconstrained reference."""
        arithmetic = arithmetic_of(self.network, self.options.dtype, self.plan.steps, self.accumulate)
        parameters = dict(self.parameters)
        states: dict[str, tuple[Array, ...]] = {}
        outcome = _Outcome([], [], {})
        sums: dict[str, Array] = {}
        for i, (arrays, target) in enumerate(self.batches):
            found = reference(
                self.network, parameters, arrays, target, self.options.loss, self.options.loss_attrs, arithmetic
            )
            outcome.losses.append(found.loss)
            grads = {p: found.gradients[p] for p in self.plan.update}
            if self.accumulate:
                for p in grads:
                    for term in found.terms[p]:
                        sums[p] = store(sums.get(p, np.float32(0)) + term, self.options.dtype)
                outcome.gradients.append(dict(sums))
            else:
                outcome.gradients.append(grads)
                self._update(parameters, grads, states, i + 1)
        if self.accumulate:
            means = {p: g / self.samples if self.samples > 1 else g for p, g in sums.items()}
            self._update(parameters, means, states, 1)
        outcome.parameters = parameters
        return outcome

    def packed_errors(self) -> dict[str, float]:
        """How far gradients from inputs in 8 bits are from those of the inputs as they were, on the last batch."""
        packed = packed_parameters(self.network, self.plan.steps)
        if not packed:
            return {}
        arithmetic = arithmetic_of(self.network, self.options.dtype, self.plan.steps, True)
        arrays, target = self.batches[-1]
        found, exact = (
            reference(self.network, self.parameters, arrays, target, self.options.loss, self.options.loss_attrs, a)
            for a in (arithmetic, replace(arithmetic, packed=frozenset()))
        )
        norm, least = np.linalg.norm, np.finfo(float).tiny
        pairs = {p: (found.gradients[p], exact.gradients[p]) for p in sorted(packed)}
        return {p: float(norm(a - b) / max(norm(b), least)) for p, (a, b) in pairs.items()}

    def _update(
        self, parameters: dict[str, Array], grads: Mapping[str, Array], states: dict[str, tuple[Array, ...]], count: int
    ) -> None:
        for p, g in grads.items():
            t = self.network.tensor[p]
            old = states.get(p) or tuple(np.zeros_like(g) for _ in OPTIMIZERS[self.optimizer.kind])
            part = tuple(slice(0, n) for n in g.shape)  # kept units come first
            new, news = self.optimizer.apply(parameters[p][part], g, old, self.optimizer.lr, count)
            states[p] = tuple(store(s, self.options.dtype) for s in news)
            parameters[p] = parameters[p].copy()
            parameters[p][part] = store(new, t.dtype or self.options.dtype, t.scale)


def arithmetic_of(network: Network, dtype: str, steps: Iterable[Step], exact: bool) -> Arithmetic:
    """Where an execution of ``steps`` rounds and how it calls kernels, for the reference to do the same."""
    table = infos(network)
    ran = set()
    parts: dict[tuple[str, int], list[tuple[int, int]]] = {}
    saved: dict[tuple[str, str], frozenset[str]] = {}
    keep: dict[str, int] = {}
    packed: set[str] = set()
    for s in steps:
        if s.kind == "forward":
            ran.add(s.op)
        elif s.kind in ("grad_input", "grad_param"):
            tags = frozenset(a.tag for a in s.reads) - {"dy", "dx", "acc"}
            if PACKED_CODES in tags:
                packed.add(s.op)
                tags = tags - {PACKED_CODES, PACKED_SCALES} | {"x0"}
            saved[s.op, s.target] = tags
        if s.kind == "grad_param" and s.keep is not None:
            keep[network.op[s.op].params[s.target]] = s.keep
        if s.kind == "grad_input":
            ranges = separate_parts(s, table[s.op], op_def(table[s.op].kind))
            if ranges:
                parts[s.op, int(s.target[1:])] = ranges
    free = frozenset(op.name for op in network.ops if op.name not in ran and _is_free(op.kind))
    return Arithmetic(dtype, free, parts, saved, keep, exact, frozenset(packed))


def _is_free(kind: str) -> bool:
    d = op_def(kind)
    return d.view or d.concat or d.window or d.stack


def _difference(a: _Outcome, b: _Outcome) -> tuple[float, float, bool]:
    """Greatest differences of gradients and of parameters, and whether all bits agree."""
    gradients = [(g[p], h[p]) for g, h in zip(a.gradients, b.gradients, strict=True) for p in g]
    parameters = [(a.parameters[p], b.parameters[p]) for p in a.parameters]
    same = all(u.tobytes() == v.tobytes() for u, v in (*gradients, *parameters))
    return _greatest(gradients), _greatest(parameters), same and a.losses == b.losses


def _greatest(pairs: list[tuple[Array, Array]]) -> float:
    worst = 0.0
    for u, v in pairs:
        with np.errstate(invalid="ignore"):
            gap = np.abs(u.astype(np.float64) - v.astype(np.float64))
        gap[(u == v) | (np.isnan(u) & np.isnan(v))] = 0
        worst = max(worst, float(np.nan_to_num(gap, nan=np.inf).max(initial=0.0)))
    return worst
