"""What a plan's updates must come to: the unconstrained reference run beside an arena, and what differs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from sparseplan.network import Network
from sparseplan.ops import infos, op_def
from sparseplan.ops.base import Array
from sparseplan.plan import Plan
from sparseplan.run.execute import separate_parts
from sparseplan.run.machine import Machine
from sparseplan.run.optimizers import Optimizer
from sparseplan.run.reference import Arithmetic, Reference, reference, store
from sparseplan.steps import OPTIMIZERS, PACKED_CODES, PACKED_SCALES, Step, TrainingOptions


@dataclass
class Outcome:
    """What runs of a schedule and their updates came to.

    Attributes:
        losses: of each run, their weighted sum; output_losses: each by its label, without its weight.
        gradients: of each run, by parameter: cut where updated in part, sums so far where accumulated.
        parameters: after the last update.
        states: optimizer states after it, by (parameter, tag).
    """

    losses: list[float] = field(default_factory=list)
    gradients: list[dict[str, Array]] = field(default_factory=list)
    parameters: dict[str, Array] = field(default_factory=dict)
    states: dict[tuple[str, str], Array] = field(default_factory=dict)
    output_losses: list[dict[str, float]] = field(default_factory=list)

    def take(self, machine: Machine) -> None:
        """Parameters and optimizer state as they lie in a machine's arena."""
        self.parameters, self.states = machine.parameters(), machine.states()


class Oracle:
    """Parameters and optimizer state, changed by the unconstrained reference as a plan's updates would.

    Args:
        parameters: all of the network's, as stored.
    """

    def __init__(self, plan: Plan, optimizer: Optimizer, parameters: Mapping[str, Array]) -> None:
        self.network, self.options, self.optimizer = plan.network, plan.problem.options, optimizer
        self.accumulates = self.options.gradients == "accumulate"
        self.arithmetic = arithmetic_of(self.network, self.options.dtype, plan.steps, self.accumulates)
        self.updated = tuple(plan.update)
        self.parameters, self.lr, self.count = dict(parameters), optimizer.lr, 1
        self.states: dict[tuple[str, str], Array] = {}
        self.sums: dict[str, Array] = {}
        self.losses: dict[str, float] = {}  # of the last run, each by its label, without its weight

    def take(self, machine: Machine) -> None:
        """Go on from the parameters, optimizer state and clock of a machine between two updates."""
        self.parameters |= machine.parameters()
        self.states, self.sums = machine.states(), {}
        self.lr, self.count = machine.clock.lr, machine.clock.count

    def run(
        self, arrays: Mapping[str, Array], target: Array | Mapping[str, Array], weight: float = 1
    ) -> tuple[float, dict[str, Array]]:
        """One run on a batch, as stored (fused: with its updates): its loss, and gradients or the sums of them so far.

        ``target``: as of ``Machine.forward_backward``; ``weight``: of this run among those whose gradients are
        accumulated.
        """
        o = self.options
        found = reference_of(self.network, o, self.parameters, arrays, target, self.arithmetic, weight)
        labels = (judged.label for judged in o.loss_steps(self.network))
        self.losses = dict(zip(labels, found.losses, strict=True))
        if not self.accumulates:
            grads = {p: found.gradients[p] for p in self.updated}
            self._update(grads)
            self.count += 1
            return found.loss, grads
        for p in self.updated:
            for term in found.terms[p]:
                self.sums[p] = store(self.sums.get(p, np.float32(0)) + term, o.dtype)
        return found.loss, dict(self.sums)

    def update(self, samples: float) -> None:
        """The updates of a plan that accumulates, by the mean over so many samples; nothing where they are fused."""
        if self.accumulates:
            self._update({p: g / samples if samples > 1 else g for p, g in self.sums.items()})
            self.sums = {}
            self.count += 1

    def _update(self, grads: Mapping[str, Array]) -> None:
        tags = OPTIMIZERS[self.optimizer.kind]
        for p, g in grads.items():
            t = self.network.tensor[p]
            old = tuple(self.states.get((p, tag), np.zeros_like(g)) for tag in tags)
            part = tuple(slice(0, n) for n in g.shape)  # kept units come first
            new, news = self.optimizer.apply(self.parameters[p][part], g, old, self.lr, self.count)
            self.states |= {(p, tag): store(s, self.options.dtype) for tag, s in zip(tags, news, strict=True)}
            self.parameters[p] = self.parameters[p].copy()
            self.parameters[p][part] = store(new, t.dtype or self.options.dtype, t.scale)


def reference_of(
    network: Network,
    options: TrainingOptions,
    parameters: Mapping[str, Array],
    arrays: Mapping[str, Array],
    target: Array | Mapping[str, Array],
    arithmetic: Arithmetic,
    weight: float = 1,
) -> Reference:
    """The reference of the losses of options; ``target``: of the one loss, or of each by the name of its value."""
    steps = options.loss_steps(network)
    given = dict(target) if isinstance(target, Mapping) else {steps[0].target: target}
    targets = {judged.label: given[judged.target] for judged in steps}
    losses = [judged.loss for judged in steps]
    return reference(network, parameters, arrays, targets, losses, None, arithmetic, weight)


def differences(here: Outcome, there: Outcome, updated: Iterable[str]) -> list[str]:
    """In which losses, gradients, parameters and optimizer states two outcomes differ by any bit, in words.

    Those of everything ``updated`` must be there; parameters that lie in the arena must be, too.
    """
    found = [f"loss of run {i + 1}: {u!r} and {v!r}" for i, (u, v) in enumerate(zip(here.losses, there.losses,
             strict=False)) if np.float64(u).tobytes() != np.float64(v).tobytes()]  # fmt: skip
    if len(here.losses) != len(there.losses):
        found.append(f"{len(here.losses)} losses and {len(there.losses)}")
    for i, (one, other) in enumerate(zip(here.output_losses, there.output_losses, strict=False)):
        for label in one if len(one) > 1 else ():
            ours, theirs = one[label], other.get(label, np.nan)
            if np.float64(ours).tobytes() != np.float64(theirs).tobytes():
                found.append(f"loss on {label!r} of run {i + 1}: {ours!r} and {theirs!r}")
    for what, u, v in _pairs(here, there, updated):
        if u is None or v is None:
            found.append(f"{what}: {'none' if u is None else 'there'} and {'none' if v is None else 'there'}")
        elif u.shape != v.shape:
            found.append(f"{what}: shapes {u.shape} and {v.shape}")
        elif u.tobytes() != v.tobytes():
            count = int((u.view(np.uint32) != v.view(np.uint32)).sum()) if u.dtype == np.float32 else u.size
            found.append(f"{what}: by up to {greatest([(u, v)]):g}, in {count} of {u.size} elements")
    return found


def _pairs(here: Outcome, there: Outcome, updated: Iterable[str]) -> Iterator[tuple[str, Array | None, Array | None]]:
    updated = list(updated)
    for i, (g, h) in enumerate(zip(here.gradients, there.gradients, strict=True)):
        for p in dict.fromkeys((*updated, *g)):
            yield f"gradient of {p!r} in run {i + 1}", g.get(p), h.get(p)
    for p in dict.fromkeys((*updated, *here.parameters)):
        yield f"parameter {p!r}", here.parameters.get(p), there.parameters.get(p)
    for p, tag in dict.fromkeys((*here.states, *(k for k in there.states if k[0] in updated))):
        yield f"state {tag} of {p!r}", here.states.get((p, tag)), there.states.get((p, tag))


def greatest(pairs: Iterable[tuple[Array, Array]]) -> float:
    """The greatest difference of any element; infinite where one alone is NaN."""
    worst = 0.0
    for u, v in pairs:
        with np.errstate(invalid="ignore"):
            gap = np.abs(u.astype(np.float64) - v.astype(np.float64))
        gap[(u == v) | (np.isnan(u) & np.isnan(v))] = 0
        worst = max(worst, float(np.nan_to_num(gap, nan=np.inf).max(initial=0.0)))
    return worst


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
