"""The plainest plan of a problem, and bounds on any plan's bytes, counted without the planner.

The plainest plan updates the least that has to be updated, runs the ops in the network's order, copies what is not
certain to cost nothing, saves the first way of what backward needs, overwrites nothing in place, and holds each value
from its first step to its last. Where it fits, no claim that nothing fits is true. What may be alive at a step, and
what must be, bounds any other plan.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from sparseplan.dtypes import bytes_of
from sparseplan.network import Op
from sparseplan.objective import LossStep
from sparseplan.problem import Problem
from sparseplan.steps import MAIN, OPTIMIZERS
from sparseplan.units import align_up
from sparseplan.verify.facts import Facts

#: savings under which ops run in another order, again, or in parts, so that a step's bytes are not bounded here
MOVING = frozenset(("recompute", "page", "stripes", "order", "int8"))


@dataclass
class _Lives:
    """Bytes, first and last step of values."""

    size: dict[str, int] = field(default_factory=dict)
    first: dict[str, int] = field(default_factory=dict)
    last: dict[str, int] = field(default_factory=dict)

    def use(self, name: str, size: int, step: int) -> None:
        if size:
            self.size[name] = size
            self.first.setdefault(name, step)
            self.last[name] = step


class Plainest:
    """See the module's docstring.

    Attributes:
        macs: MACs of one run.
        live: most bytes of main memory at any step; peak: with every value placed.
        steps: names of its steps.
    """

    def __init__(self, problem: Problem, update: Mapping[str, float]) -> None:
        copied = {
            op.name for op in problem.network.ops
            if (d := Facts.definition(op)).window or d.stack or (d.concat and problem.options.concat != "split")
        }  # fmt: skip
        self.facts = Facts(problem, update, copied)
        self.problem, self.update, self.options = problem, update, problem.options
        self.steps: list[str] = []
        self._lives = _Lives()
        self.macs = 0
        self._forward()
        self._backward()
        self._count()

    # -- the steps ------------------------------------------------------------------------------------
    def _begin(self, name: str, kind: str, op: str, target: str) -> int:
        self.steps.append(name)
        if op:
            self.macs += self.facts.macs(kind, op, target)
        return len(self.steps) - 1

    def _roots(self, tensor: str, step: int) -> None:
        for r in self.facts.roots[tensor]:
            self._lives.use(r, self._padded(self.facts.bytes_of_root(r)), step)

    def _gradient(self, root: str, step: int) -> None:
        size = bytes_of(self.options.batch * self.facts.network.tensor[root].elements, self.options.dtype)
        self._lives.use(f"grad({root})", self._padded(size), step)

    def _aux(self, op: Op, tag: str, step: int) -> None:
        aux = self.facts.defs[op.name].aux(self.facts.infos[op.name])[tag]
        size = bytes_of(self.options.batch * math.prod(aux.shape), aux.dtype)
        self._lives.use(f"{tag}({op.name})", self._padded(size), step)

    def _padded(self, size: int) -> int:
        return align_up(size, self.options.alignment)

    def _needs(self, op: Op) -> list[tuple[str, str, frozenset[str]]]:
        """(kind, target, tags) of the backward passes of an op."""
        facts = self.facts
        d, info = facts.defs[op.name], facts.infos[op.name]
        found: list[tuple[str, str, frozenset[str]]] = []
        if op.output not in facts.needed:
            return found
        for slot, p in op.params.items():
            if p in self.update:
                found.append(("grad_param", slot, d.needs_for_param(info, slot)[0]))
        for i, t in enumerate(op.inputs):
            if d.differentiable(info, i) and any(r in facts.needed for r in facts.roots[t]):
                found.append(("grad_input", f"x{i}", d.needs_for_input(info, i)[0]))
        return found

    def _forward(self) -> None:
        facts = self.facts
        for t in facts.network.inputs:
            if any(t in facts.roots[u] for op in self._ops() for u in op.inputs):
                self._roots(t, 0)
        for op in self._ops():
            step = self._begin(f"{op.name}.forward", "forward", op.name, "y")
            for t in (*op.inputs, op.output):
                self._roots(t, step)
            known = facts.defs[op.name].aux(facts.infos[op.name])
            for tag in {tag for _, _, tags in self._needs(op) for tag in tags if tag in known}:
                self._aux(op, tag, step)
        for judged in facts.losses:
            step = self._begin(judged.name, "loss", "", "")
            self._lives.use(judged.target, self._size_of_target(judged), step)
            self._roots(judged.loss.output, step)
            for r in facts.roots[judged.loss.output]:
                if r in facts.needed:
                    self._gradient(r, step)

    def _ops(self) -> list[Op]:
        return [op for op in self.facts.network.ops if op.name in self.facts.relevant]

    def _backward(self) -> None:
        facts = self.facts
        done: dict[str, int] = {}
        for op in reversed(self._ops()):
            known = facts.defs[op.name].aux(facts.infos[op.name])
            for kind, target, tags in self._needs(op):
                step = self._begin(f"{op.name}.grad_{target}", kind, op.name, target)
                self._gradient(op.output, step)
                for tag in tags:
                    if tag in known:
                        self._aux(op, tag, step)
                    elif tag not in op.params:
                        self._roots(op.output if tag == "y" else op.inputs[int(tag[1:])], step)
                if kind == "grad_param":
                    self._parameter_gradient(op.params[target], step)
                else:
                    for r in facts.roots[op.inputs[int(target[1:])]]:
                        if r in facts.needed:
                            self._gradient(r, step)
            for p in op.params.values() if op.output in facts.needed else ():
                done[p] = done.get(p, 0) + 1
                if p in self.update and done[p] == len(facts.users(p)):
                    self._parameter_gradient(p, self._begin(f"update {p}", "update", "", ""))

    def _parameter_gradient(self, p: str, step: int) -> None:
        if self.options.gradients == "fused":
            size = bytes_of(math.prod(self.facts.cut_shape(p)), self.options.dtype)
            self._lives.use(f"grad({p})", self._padded(size), step)

    # -- bytes ------------------------------------------------------------------------------------------
    def parameters(self, level: str) -> int:
        """Bytes of the parameters that live at a level; of another than main memory, aligned as it asks."""
        total = 0
        for p in {p for op in self._ops() for p in op.params.values()}:
            home = MAIN if p in self.update else self.options.frozen
            if home == level:
                total += self.parameter(p, level)
        return total

    def parameter(self, p: str, level: str = MAIN) -> int:
        """Bytes of a parameter with its padding."""
        size = self._padded(bytes_of(self.facts.network.tensor[p].elements, self.facts.dtype(p)))
        return size if level == MAIN else align_up(size, self.problem.device.level(level).alignment)

    def kept(self) -> int:
        """Bytes of accumulators and optimizer state."""
        copies = len(OPTIMIZERS[self.options.optimizer]) + (self.options.gradients == "accumulate")
        sizes = (bytes_of(math.prod(self.facts.cut_shape(p)), self.options.dtype) for p in self.update)
        return copies * sum(map(self._padded, sizes))

    def _count(self) -> None:
        lives = self._lives
        persistent = self.parameters(MAIN) + self.kept()
        self.live = persistent + max(
            sum(s for n, s in lives.size.items() if lives.first[n] <= i <= lives.last[n])
            for i in range(len(self.steps))
        )  # fmt: skip
        placed: list[tuple[int, int, int, int]] = []  # first, last, offset, end
        for name in sorted(lives.size, key=lambda n: (-lives.size[n], lives.first[n], n)):
            first, last, at = lives.first[name], lives.last[name], 0
            for _, _, lo, hi in sorted((b for b in placed if b[0] <= last and first <= b[1]), key=lambda b: b[2]):
                if lo - at >= lives.size[name]:
                    break
                at = max(at, hi)
            placed.append((first, last, at, at + lives.size[name]))
        self.peak = persistent + max((b[3] for b in placed), default=0)

    # -- bounds on any plan -------------------------------------------------------------------------------
    def least(self) -> int:
        """Bytes of main memory that no plan goes below: what persists, and forward, what forward reads again.

        Without bounds on the order and the extent of ops, only what persists.
        """
        savings = set(self.problem.savings)
        persistent = 0 if savings & {"stream", "page"} else self.parameters(MAIN) + self.kept()
        facts, ops = self.facts, self._ops()
        plain = not any(Facts.definition(op).window or Facts.definition(op).stack for op in facts.network.ops)
        if savings & {"order", "stripes"} or not plain or self.options.concat != "split":
            return persistent
        reads = [{r for t in op.inputs for r in facts.roots[t]} for op in ops]
        reads += [set(facts.roots[judged.loss.output]) for judged in facts.losses]
        made = {op.output: i for i, op in enumerate(ops)}
        size = {r: facts.bytes_of_root(r) for names in reads for r in names}
        most = 0
        for i in range(len(ops)):
            later = set().union(*reads[i + 1 :])
            held = {r for r in later if made.get(r, -1) < i}
            most = max(most, sum(size[r] for r in held | reads[i]))
        return persistent + most

    def most(self, step: str) -> int | None:
        """Bytes that may be alive at a step at most, whatever is decided in the network's order without savings;
        ``update`` is all that may be updated. None where the step does not tell."""
        if set(self.problem.savings) & MOVING:
            return None
        facts = self.facts
        op, _, what = step.rpartition(".")
        everything = sum(self.parameter(p) for p in facts.network.parameters) + self.kept()
        ops = facts.network.ops
        if (
            any(step == judged.name for judged in facts.losses)
            or not op
            or op not in facts.position
            or step.startswith("update ")
        ):
            position = len(ops)
        else:
            position = facts.position[op]
        known = [*facts.network.inputs, *(o.output for o in ops[: position + 1])]
        everything += sum(self._padded(self._bytes(t)) for t in known)
        forward = what == "forward" and op in facts.position
        everything += sum(
            self._padded(bytes_of(self.options.batch * math.prod(a.shape), a.dtype))
            for o in ops[: position + 1]
            for a in facts.defs[o.name].aux(facts.infos[o.name]).values()
        ) * (1 if forward else 2)  # fmt: skip
        if not forward:
            everything += sum(map(self._parameter_bytes, self.update)) + sum(map(self._size_of_target, facts.losses))
            everything += sum(self._padded(self._gradient_bytes(t)) for t in known)
        return everything

    def _parameter_bytes(self, p: str) -> int:
        size = bytes_of(self.facts.network.tensor[p].elements, self.options.dtype)
        return self._padded(size) if self.options.gradients == "fused" else 0

    def _size_of_target(self, judged: LossStep) -> int:
        shape, dtype = self.facts.target(judged)
        return self._padded(bytes_of(math.prod(shape), dtype))

    def _bytes(self, t: str) -> int:
        return bytes_of(self.options.batch * self.facts.network.tensor[t].elements, self.facts.dtype(t))

    def _gradient_bytes(self, t: str) -> int:
        return bytes_of(self.options.batch * self.facts.network.tensor[t].elements, self.options.dtype)


def fits(plain: Plainest, problem: Problem, main: int | None = None) -> bool:
    """Whether the plainest plan keeps every budget (L1 aside) and every cap; those on time are never said to be kept.

    ``main``: bytes of main memory, instead of the problem's.
    """
    if problem.max_seconds is not None or problem.max_joules is not None:
        return False
    if problem.max_macs is not None and plain.macs > problem.max_macs:
        return False
    needed: Iterable[tuple[str, int]] = [(MAIN, plain.peak)]
    if problem.options.frozen != MAIN:
        needed = [*needed, (problem.options.frozen, plain.parameters(problem.options.frozen))]
    capacities = [(main if main is not None and level == MAIN else problem.capacity(level), size)
                  for level, size in needed]  # fmt: skip
    return all(capacity is None or size <= capacity for capacity, size in capacities)
