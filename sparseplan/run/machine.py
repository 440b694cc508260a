"""A plan's schedule, compiled over an arena that holds its parameters: run it as often as wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np

from sparseplan.errors import PlanError
from sparseplan.objective import TARGET, weighted_sum
from sparseplan.ops import infos
from sparseplan.ops.base import Array
from sparseplan.plan import PlacedBuffer, Plan
from sparseplan.run.arena import Arena
from sparseplan.run.execute import Clock, Executor
from sparseplan.run.numerics import rounded
from sparseplan.run.optimizers import Optimizer

#: the largest arena that is allocated: far beyond a microcontroller, far below a workstation
MOST_BYTES = 2**32
#: guard zones when none are asked for, bytes
GUARD_BYTES = 16


def claimed_bytes(plan: Plan) -> dict[str, int]:
    """Bytes of each level that holds buffers, as claimed; not believed before anything is allocated.

    Raises:
        PlanError: a claim that differs from where the buffers end, or is beyond ``MOST_BYTES``.
    """
    ends: dict[str, int] = {}
    for b in plan.buffers:
        ends[b.level] = max(ends.get(b.level, 0), b.end)
    for level, end in ends.items():
        if plan.peak_bytes.get(level) != end:
            raise PlanError(f"peak_bytes[{level!r}]={plan.peak_bytes.get(level)}, but its buffers end at byte {end}")
        if end > MOST_BYTES:
            raise PlanError(f"peak_bytes[{level!r}]={end} is more than the {MOST_BYTES:,} bytes that are simulated")
    return ends


class Machine:
    """One arena with a plan's kernels over it. Parameters and optimizer state persist between runs.

    Args:
        parameters: all of the network's, as stored.
        buffers, sizes: of the plan, or of a layout that is spread.
        on_gradient: called with the name and a copy of each parameter's gradient as it is computed.

    Attributes:
        losses: of the last run, each by its label, without its weight.
    """

    def __init__(
        self,
        plan: Plan,
        optimizer: Optimizer,
        parameters: Mapping[str, Array],
        buffers: Iterable[PlacedBuffer],
        sizes: Mapping[str, int],
        on_gradient: Callable[[str, Array], None] | None = None,
    ) -> None:
        options = plan.problem.options
        self.steps, self.values = plan.steps, {v.name: v for v in plan.values}
        self.accumulates = options.gradients == "accumulate"
        self.clock = Clock(optimizer.lr)
        self.arena = Arena(self.values, buffers, sizes, plan.steps, split=options.concat == "split")
        for v in plan.values:
            if v.role == "parameter":
                self.arena.load(v.name, parameters[v.name])
            elif v.role in ("accumulator", "state"):
                self.arena.load(v.name, np.zeros(v.shape, np.float32))
        executor = Executor(infos(plan.network), options, optimizer, self.clock)
        self._kernels = [executor.compile(s, self.arena) for s in plan.steps]
        self._first_update = len(self.steps)
        if self.accumulates:
            self._first_update = next((i for i, s in enumerate(self.steps) if s.kind == "update"), len(self.steps))
        self._on_gradient = on_gradient
        self._judged = options.loss_steps(plan.network)
        self.losses: dict[str, float] = {}

    def stored(self, name: str, array: Array) -> Array:
        """Data from outside as they come back from the type that the plan stores them in."""
        value = self.values.get(name)
        return array if value is None else rounded(array, value.dtype, value.scale)

    def forward_backward(self, arrays: Mapping[str, Array], target: Array | Mapping[str, Array]) -> float:
        """Run the schedule on one batch (fused: with its updates); returns the loss before them.

        ``target``: of the one loss, or of each by the name of its value (see ``objective.LossStep``).
        """
        self.arena.restart()
        targets = dict(target) if isinstance(target, Mapping) else {TARGET: target}
        arrivals = {n: a for n, a in {**arrays, **targets}.items() if n in self.values}
        loss = self._run(range(self._first_update), arrivals)
        if not self.accumulates:
            self.clock.count += 1
        return loss

    def update(self) -> None:
        """The updates of a plan that accumulates; nothing where they are fused."""
        self._run(range(self._first_update, len(self.steps)), {})

    def clear(self) -> None:
        """Set accumulators to zero, for the next update."""
        for v in self.values.values():
            if v.role == "accumulator":
                self.arena.load(v.name, np.zeros(v.shape, np.float32))
        if self.accumulates:
            self.clock.count += 1

    def _run(self, which: range, arrivals: Mapping[str, Array]) -> float:
        found: dict[tuple[str, str], float] = {}
        for i in which:
            step = self.steps[i]
            self.arena.enter(i, arrivals)
            loss = self._kernels[i]()
            if step.kind == "loss":
                found[step.op, step.target] = loss or 0.0
            if step.kind == "grad_param" and self._on_gradient is not None:
                written = step.write("dp").spans[0].value
                self._on_gradient(self.values[written].tensor, self.arena.peek(written))
            self.arena.leave()
        if not found:
            return 0.0
        values = [found.get((judged.loss.kind, judged.mark), 0.0) for judged in self._judged]
        self.losses = {judged.label: v for judged, v in zip(self._judged, values, strict=True)}
        return weighted_sum([judged.loss for judged in self._judged], values)

    def parameters(self) -> dict[str, Array]:
        """Copies of the parameters that lie in the arena."""
        return {v.name: self.arena.peek(v.name) for v in self.values.values() if v.role == "parameter"}

    def states(self) -> dict[tuple[str, str], Array]:
        """Copies of the optimizer states, by parameter and tag."""
        found = {}
        for step in self.steps:
            for arg in step.writes if step.kind == "update" else ():
                name = arg.spans[0].value
                if self.values[name].role == "state":
                    found[self.values[name].tensor, arg.tag] = self.arena.peek(name)
        return found

    def copy_state(self, other: Machine) -> None:
        """Take over parameters, accumulators, optimizer state and clock of another machine."""
        for v in self.values.values():
            if v.persistent:
                self.arena.load(v.name, other.arena.peek(v.name))
        self.clock.count, self.clock.lr = other.clock.count, other.clock.lr

    def faults(self) -> list[str]:
        """Where bytes changed that should not have."""
        return [
            f"{where}: {level} bytes [{lo}, {hi}) changed without a planned write"
            for where, level, lo, hi in self.arena.strays
        ]

    def touched(self) -> dict[str, int]:
        """Highest byte written, plus one, of each level."""
        levels = self.arena.levels.items()
        return {n: int(m.touched.nonzero()[0][-1]) + 1 if m.touched.any() else 0 for n, m in levels}
