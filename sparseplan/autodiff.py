"""Compile-time autodiff: one walk over a network emits every step that training may need.

The walk is reverse-mode differentiation over op definitions (ops.base). Each backward step
carries the condition under which some updated parameter needs it, so that pruning is a matter
of evaluating conditions: gradients towards frozen branches and saved tensors without a reader
never come into being.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from sparseplan.arguments import Arguments
from sparseplan.errors import ProblemError, near
from sparseplan.layout import whole
from sparseplan.network import Network, Op
from sparseplan.objective import LossStep, target_of
from sparseplan.ops import OpInfo, infos
from sparseplan.ops.base import Alternatives, Fraction
from sparseplan.steps import (
    FRACTIONS,
    OPTIMIZERS,
    Schedule,
    TrainingOptions,
    UpdateSet,
    allowed_levels,
    by_default,
    reached_by_gradient,
    updatable,
    why_not_updatable,
)
from sparseplan.training import (
    ALWAYS,
    NEVER,
    Levels,
    MaybeArg,
    MaybeStep,
    Pick,
    TrainingGraph,
    any_of,
)


def differentiate(
    network: Network,
    update_set: UpdateSet,
    options: TrainingOptions | None = None,
    picks: Mapping[str, str] | None = None,
) -> Schedule:
    """Forward, loss, backward and update steps for one update set, pruned.

    ``picks`` chooses how backward gets what it needs (a one-bit mask, a kept output, …) where
    there is a choice; the first option is taken otherwise.

    Raises:
        ProblemError: unknown parameter or pick, or a fraction that keeps no channel.
    """
    for name in update_set.fractions:
        if name not in network.owner:
            raise ProblemError(f"parameter {name!r} is unknown to network {network.name!r}{near(name, network.owner)}")
    choices = {p: (r,) for p, r in update_set.fractions.items()}
    return trace(network, options or TrainingOptions(), choices).restrict(update_set, picks)


def trace(
    network: Network,
    options: TrainingOptions,
    choices: Mapping[str, Sequence[float]] | None = None,
    look: Callable[[], None] | None = None,
) -> TrainingGraph:
    """The training graph over all update sets that ``choices`` allows.

    Args:
        choices: parameter name to the fractions allowed; a parameter that is absent is frozen.
            None allows every one of ``FRACTIONS`` of every parameter that can be updated, int8 ones aside.
        look: called at every op; what it raises ends the walk, as where time is up.

    Raises:
        ProblemError: a choice that cannot be updated (unknown, no path to the loss).
    """
    if choices is None:
        reached = reached_by_gradient(network, infos(network), options.loss_outputs(network))
        choices = {p: FRACTIONS for p in network.parameters if by_default(network, reached, p)}
    return _Walk(network, options, choices).run(look or (lambda: None))


class _Walk(Arguments):
    """State of one walk; ``run`` is the order of things."""

    def __init__(self, network: Network, options: TrainingOptions, choices: Mapping[str, Sequence[float]]) -> None:
        super().__init__(network, infos(network), options)
        self.steps: list[MaybeStep] = []
        self.forward_index: dict[str, int] = {}
        self.picks: list[Pick] = []
        self.deferred: list[MaybeStep] = []
        self.made_late: set[str] = set()
        self._read_by: dict[int, frozenset[str]] = {}  # by identity; backward steps stay as they are
        self.loss_steps, self.loss_outputs = options.loss_steps(network), options.loss_outputs(network)
        self._reach()
        bit = 1
        for name in choices:
            if name not in network.owner:
                raise ProblemError(
                    f"parameter {name!r} is unknown to network {network.name!r}{near(name, network.owner)}"
                )
        for name in network.parameters:
            fractions: tuple[tuple[float, int | None], ...] = ()
            if name in choices and len(choices[name]):
                op, slot = network.owner[name]
                users = network.users[name]
                if not updatable(network, self.grad_reach, name):
                    why = why_not_updatable(network, self.infos, name, self.loss_outputs)
                    raise ProblemError(f"parameter {name!r} cannot be updated: {why}")
                fractions = allowed_levels(self.infos[op.name], slot, choices[name])
                if not fractions:
                    raise ProblemError(
                        f"parameter {name!r} has no update of fractions {list(choices[name])}: none keeps a channel"
                    )
                cuts = {self.defs[user.name].fraction(self.infos[user.name], s) for user, s in users}
                if len(cuts) > 1 and any(kept is not None for _, kept in fractions):
                    raise ProblemError(
                        f"parameter {name!r}: ops {[user.name for user, _ in users]} use it, and would cut it in "
                        f"different ways; choose the fraction 1 only, not {list(choices[name])}"
                    )
            atoms = tuple(bit << i for i in range(len(fractions)))
            bit <<= len(fractions)
            self.levels[name] = Levels(fractions, atoms)
        self._upstream()
        #: backward steps to come for each parameter; its update follows the last
        self.users_left = {p: sum(op.name in self.grad_reach for op, _ in users) for p, users in network.users.items()}
        self.param_written: set[str] = set()

    # -- what lies where in the graph -------------------------------------------------------
    def _reach(self) -> None:
        """Ops whose output the loss depends on, and those that its gradient can reach."""
        wanted = set(self.loss_outputs)
        self.relevant: list[Op] = []
        for op in reversed(self.network.ops):
            if op.output in wanted:
                self.relevant.append(op)
                wanted.update(op.inputs)
        self.relevant.reverse()
        self.grad_reach = reached_by_gradient(self.network, self.infos, self.loss_outputs)

    def _upstream(self) -> None:
        """``up[root]``: any parameter at or upstream of a root value is updated."""
        for op in self.relevant:
            if self.composites.free(op):
                continue
            masks = [self.levels[p].atoms[0] for p in op.params.values() if self.levels[p].atoms]
            for slot, t in enumerate(op.inputs):
                if self.defs[op.name].differentiable(self.infos[op.name], slot):
                    masks += [self.up.get(v, NEVER) for v, _, _ in self.spans[t]]
            self.up[op.output] = any_of(*masks)

    # -- the walk ---------------------------------------------------------------------------------
    def run(self, look: Callable[[], None]) -> TrainingGraph:
        for op in self.relevant:
            look()
            if not self.composites.free(op):
                self.forward(op)
        for judged in self.loss_steps:
            self.loss(judged)
        for op in reversed(self.relevant):
            look()
            if op.name in self.grad_reach and not self.composites.free(op):
                self.backward(op)
        self.steps += self.deferred
        steps = tuple(s for s in self.steps if s.when != NEVER)
        return TrainingGraph(
            self.network, self.options, MappingProxyType(self.infos), MappingProxyType(self.levels), tuple(self.picks),
            MappingProxyType(self.values), MappingProxyType(self.value_when), steps, self.composites.groups(),
        )  # fmt: skip

    def forward(self, op: Op) -> None:
        info, d = self.infos[op.name], self.defs[op.name]
        reads = [self.arg(f"x{i}", t) for i, t in enumerate(op.inputs)]
        reads += [self.param_arg(slot, p) for slot, p in op.params.items()]
        y = self.arg("y", op.output)
        pairs = []
        for slot in d.inplace(info):
            root = self.sole_root(op.inputs[slot])
            if root is not None and self.same_storage(op.output, root):
                if not self.steps and self.network.tensor[root].role == "input":
                    continue  # it arrives before the first step, so its bytes are taken when that begins
                if self.composites.may_overwrite(op.output, root):
                    pairs.append((op.output, root))
        macs = d.macs(info, "forward") * self.options.batch
        self.forward_index[op.name] = len(self.steps)
        self.steps.append(
            MaybeStep(f"{op.name}.forward", "forward", op.name, "y", ALWAYS, tuple(reads), (y,), tuple(pairs),
                      macs=((ALWAYS, macs),))
        )  # fmt: skip

    def loss(self, judged: LossStep) -> None:
        """One loss; several on what shares bytes add up their gradients, as backward steps do."""
        output, name = judged.loss.output, judged.target
        shape, dtype = target_of(judged.loss, self.network)
        stored = self.options.dtype if dtype == "data" else dtype
        self.value(name, "target", self.batched(shape), stored, name)
        target = MaybeArg("target", self.batched(shape), stored, whole(name, self.padded(name)))
        writes, pairs = self.gradient_writes("dy", output, partial=False, over=None)
        read = self.arg("y", output)
        root = self.sole_root(output)
        if root is not None and self.up.get(root, NEVER) != NEVER and not any(w.add for w in writes):
            grad = self.grad(root)
            if self.same_storage(grad, root):
                pairs = [(grad, root)]
        adds = [w for w in writes if w.add]
        self.steps.append(
            MaybeStep(judged.name, "loss", judged.loss.kind, judged.mark, ALWAYS, (read, target, *adds), tuple(writes),
                      tuple(pairs))
        )  # fmt: skip

    def backward(self, op: Op) -> None:
        """Parameter gradients, then input gradients, then the updates that had to wait."""
        info, d = self.infos[op.name], self.defs[op.name]
        if self.up[op.output] == NEVER:
            return
        read_by_input: set[str] = set()
        for slot in range(len(op.inputs)):
            if d.differentiable(info, slot):
                read_by_input.update(*d.needs_for_input(info, slot))
        waiting: list[MaybeStep] = []
        # those whose update need not wait come first: their gradients are gone before the others exist
        for tag, p in sorted(op.params.items(), key=lambda item: item[0] in read_by_input):
            if not self.levels[p].atoms:
                continue
            self.grad_param(op, info, tag, p)
            self.users_left[p] -= 1
            if self.users_left[p]:
                continue
            update = self.update(op, tag, p)
            if self.options.gradients == "accumulate":
                self.deferred.append(update)
            elif any(slot in read_by_input for slot, q in op.params.items() if q == p):
                waiting.append(update)
            else:
                self.steps.append(update)
        for slot in range(len(op.inputs)):
            if d.differentiable(info, slot):
                self.grad_input(op, info, slot)
        self.steps += waiting

    def grad_param(self, op: Op, info: OpInfo, slot: str, p: str) -> None:
        d, levels = self.defs[op.name], self.levels[p]
        cut = d.fraction(info, slot)
        when = levels.atoms[0]
        reads = self.saved_args(op, info, slot, d.needs_for_param(info, slot), when, (cut, levels))
        stored = self.param_storage(p, "grad" if self.options.gradients == "fused" else "acc", cut)
        accumulate = self.options.gradients == "accumulate"
        add = accumulate or p in self.param_written
        self.param_written.add(p)
        if add:
            reads = [*reads, replace(stored, tag="acc")]
        macs = d.macs(info, slot) * self.options.batch
        parts, done = [], 0
        for (_, keep), atom in zip(levels.fractions, levels.atoms, strict=True):
            share = macs if keep is None or cut is None else macs * keep // cut.units
            parts.append((atom, share - done))
            done = share
        self.steps.append(
            MaybeStep(f"{op.name}.grad_{slot}", "grad_param", op.name, slot, when, (self.dy_arg(op), *reads),
                      (replace(stored, tag="dp", add=add),), param=p, macs=tuple(parts))
        )  # fmt: skip

    def update(self, op: Op, slot: str, p: str) -> MaybeStep:
        cut = self.defs[op.name].fraction(self.infos[op.name], slot)
        states = [self.param_storage(p, s, cut) for s in OPTIMIZERS[self.options.optimizer]]
        source = self.param_storage(p, "grad" if self.options.gradients == "fused" else "acc", cut)
        param = self.param_arg("param", p)
        return MaybeStep(f"update {p}", "update", op.name, slot, self.levels[p].atoms[0],
                         (replace(source, tag="grad"), param, *states), (param, *states), param=p)  # fmt: skip

    def grad_input(self, op: Op, info: OpInfo, slot: int) -> None:
        d, tensor = self.defs[op.name], op.inputs[slot]
        when = any_of(*(self.up.get(root, NEVER) for root, _, _ in self.spans[tensor]))
        if when == NEVER:
            return
        reads = self.saved_args(op, info, f"x{slot}", d.needs_for_input(info, slot), when, None)
        dy = self.dy_arg(op)
        present = len(dy.spans) == 1 and dy.spans[0].hi - dy.spans[0].lo == self.padded(dy.spans[0].value)
        over = dy.spans[0].value if present and d.inplace_grad(info, slot) else None
        ranges = self.channel_ranges(tensor)
        partial = d.partial_input and ranges is not None
        writes, pairs = self.gradient_writes("dx", tensor, partial, over)
        total = d.macs(info, f"x{slot}") * self.options.batch
        macs = [(when, total)]
        if partial and ranges is not None:
            channels = self.network.tensor[tensor].shape[0]
            macs = [(flow, total * (hi - lo) // channels) for (lo, hi), flow in ranges.items() if flow != NEVER]
        adds = [replace(w, tag="dx") for w in writes if w.add]
        self.steps.append(
            MaybeStep(f"{op.name}.grad_x{slot}", "grad_input", op.name, f"x{slot}", when, (dy, *reads, *adds),
                      tuple(writes), tuple(pairs), macs=tuple(macs))
        )  # fmt: skip

    def channel_ranges(self, tensor: str) -> dict[tuple[int, int], int] | None:
        """Channels of a tensor's parts, each with the condition under which their gradient is wanted.

        None for a single part, or where parts are not channels: only of whole channels a kernel can
        compute some and not others.
        """
        shape = self.network.tensor[tensor].shape
        found: dict[tuple[int, int], int] = {}
        patches = self.composites.patches.get(tensor)
        if patches is not None:
            for p in patches:
                found[p.box.channels] = any_of(found.get(p.box.channels, NEVER), self.up.get(p.root, NEVER))
            ends = sorted(found)
            apart = all(a[1] <= b[0] for a, b in itertools.pairwise(ends))
            return found if apart else None
        roots = [root for root, _, _ in self.spans[tensor]]
        row, at = math.prod(shape[1:]), 0
        for root in roots:
            elements = self.network.tensor[root].elements
            if len(roots) == 1 or elements % row:
                return None
            found[at // row, (at + elements) // row] = self.up.get(root, NEVER)
            at += elements
        return found

    # -- what backward reads, and the ways to have it ------------------------------------------
    def saved_args(
        self, op: Op, info: OpInfo, target: str, alternatives: Alternatives, when: int,
        part: tuple[Fraction | None, Levels] | None,
    ) -> list[MaybeArg]:  # fmt: skip
        """Arguments for each alternative of what a backward pass needs, under a pick."""
        aux = self.defs[op.name].aux(info)
        options: list[tuple[str, frozenset[str], str | None, int]] = []
        for tags in alternatives:
            made = [t for t in sorted(tags) if t in aux]
            options.append(("+".join(sorted(tags)) or "nothing", tags, None, -1))
            if len(made) == 1:
                for source in aux[made[0]].sources:
                    anchor = self.last_backward_reader(op, source)
                    if anchor >= 0:
                        options.append((f"late {made[0]} from {source}", tags, source, anchor))
        index = len(self.picks)
        several = len(options) > 1
        if several:
            key = op.name if target == "x0" else f"{op.name}:{target}"
            self.picks.append(Pick(key, tuple(label for label, *_ in options), when))
        args: list[MaybeArg] = []
        for j, (_, tags, origin, anchor) in enumerate(options):
            pick = (index, j) if several else None
            for tag in sorted(tags):
                if tag in aux:
                    arg = self.aux_arg(op, info, tag, origin is not None, when, pick)
                    if origin is None:
                        self.write_in_forward(op, replace(arg, spans=tuple(replace(s, when=when) for s in arg.spans)))
                    else:
                        self.make_late(op, tag, origin, arg, when, pick, anchor)
                    args.append(arg)
                elif tag in op.params:
                    args.append(self.param_arg(tag, op.params[tag], pick))
                elif tag == "x0" and part is not None and part[0] is not None:
                    args.append(self.prefix_arg(tag, op.inputs[0], part[0], part[1], pick))
                else:
                    args.append(self.arg(tag, self.tensor_of(op, tag), pick))
        return args

    def tensor_of(self, op: Op, tag: str) -> str:
        return op.output if tag == "y" else op.inputs[int(tag[1:])]

    def last_backward_reader(self, op: Op, source: str) -> int:
        """Index of the last backward step so far that reads any of a source's bytes, or -1."""
        parts = self.spans[self.tensor_of(op, source)]
        names = {v for v, _, _ in parts}
        for i in range(len(self.steps) - 1, -1, -1):
            step = self.steps[i]
            if step.kind in ("forward", "loss"):
                return -1
            if names.isdisjoint(self.read_by(step)):
                continue
            spans = [s for a in step.reads for s in a.spans]
            if any(s.value == v and s.lo < hi and lo < s.hi for s in spans for v, lo, hi in parts):
                return i
        return -1

    def read_by(self, step: MaybeStep) -> frozenset[str]:
        """Values that a backward step reads; the same step is asked for by many ops."""
        found = self._read_by.get(id(step))
        if found is None:
            found = self._read_by[id(step)] = frozenset(s.value for a in step.reads for s in a.spans)
        return found

    def write_in_forward(self, op: Op, arg: MaybeArg) -> None:
        i = self.forward_index[op.name]
        step = self.steps[i]
        self.steps[i] = replace(step, writes=(*step.writes, arg))

    def make_late(self, op: Op, tag: str, source: str, arg: MaybeArg, when: int, pick: tuple[int, int] | None,
                  anchor: int) -> None:  # fmt: skip
        """A step that makes an auxiliary once its source is about to be freed."""
        reads = (self.arg(source, self.tensor_of(op, source)),)
        name = f"{op.name}.{tag}"
        if name in self.made_late:  # made from another source elsewhere: steps are known by name
            name += f" from {source}"
        self.made_late.add(name)
        step = MaybeStep(name, "aux", op.name, tag, when, reads, (replace(arg, pick=None),), pick=pick)
        self.steps.insert(anchor + 1, step)
