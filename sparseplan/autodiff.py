"""Compile-time autodiff: one walk over a network emits every step that training may need.

The walk is reverse-mode differentiation over op definitions (ops.base). Each backward step
carries the condition under which some updated parameter needs it, so that pruning is a matter
of evaluating conditions: gradients towards frozen branches and saved tensors without a reader
never come into being.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from sparseplan.dtypes import bytes_of
from sparseplan.errors import NetworkError, ProblemError, near
from sparseplan.layout import Composites, whole
from sparseplan.network import Network, Op
from sparseplan.ops import OpDef, OpInfo, infos, loss_def, op_def
from sparseplan.ops.base import Alternatives, Fraction
from sparseplan.steps import (
    FRACTIONS,
    MAIN,
    OPTIMIZERS,
    TARGET,
    Schedule,
    TrainingOptions,
    UpdateSet,
    Value,
    ValueRole,
    allowed_levels,
    reached_by_gradient,
)
from sparseplan.training import (
    ALWAYS,
    NEVER,
    Levels,
    MaybeArg,
    MaybeSpan,
    MaybeStep,
    Pick,
    TrainingGraph,
    any_of,
)
from sparseplan.units import align_up


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
    network: Network, options: TrainingOptions, choices: Mapping[str, Sequence[float]] | None = None
) -> TrainingGraph:
    """The training graph over all update sets that ``choices`` allows.

    Args:
        choices: parameter name to the fractions allowed; a parameter that is absent is frozen.
            None allows every one of ``FRACTIONS`` of every parameter that can be updated at all.

    Raises:
        ProblemError: a choice that cannot be updated (unknown, int8, no path to the loss).
    """
    if choices is None:
        reached = reached_by_gradient(network, infos(network))
        able = (p for p in network.parameters if network.tensor[p].dtype != "int8")
        choices = {p: FRACTIONS for p in able if network.owner[p][0].name in reached}
    return _Walk(network, options, choices).run()


class _Walk:
    """State of one walk; ``run`` is the order of things."""

    def __init__(self, network: Network, options: TrainingOptions, choices: Mapping[str, Sequence[float]]) -> None:
        self.network, self.options = network, options
        self.infos = infos(network)
        self.defs: dict[str, OpDef] = {op.name: op_def(op.kind) for op in network.ops}
        self.values: dict[str, Value] = {}
        self.value_when: dict[str, int] = {}
        self.steps: list[MaybeStep] = []
        self.forward_index: dict[str, int] = {}
        self.picks: list[Pick] = []
        self.deferred: list[MaybeStep] = []
        self.loss_output = network.outputs[0]
        self.composites = Composites(network, self.infos, options)
        self.spans = self.composites.spans
        self._reach()
        self.levels: dict[str, Levels] = {}
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
                if network.tensor[name].dtype == "int8":
                    raise ProblemError(f"parameter {name!r} is int8 and cannot be updated; freeze it")
                if op.name not in self.grad_reach:
                    raise ProblemError(
                        f"parameter {name!r} cannot be updated: no gradient reaches op {op.name!r} from the loss"
                    )
                fractions = allowed_levels(self.infos[op.name], slot, choices[name])
                if not fractions:
                    raise ProblemError(
                        f"parameter {name!r} has no update of fractions {list(choices[name])}: none keeps a channel"
                    )
            atoms = tuple(bit << i for i in range(len(fractions)))
            bit <<= len(fractions)
            self.levels[name] = Levels(fractions, atoms)
        self._upstream()
        self.grad_written: set[str] = set()

    # -- what lies where in the graph -------------------------------------------------------
    def _reach(self) -> None:
        """Ops whose output the loss depends on, and those that its gradient can reach."""
        wanted = {self.loss_output}
        self.relevant: list[Op] = []
        for op in reversed(self.network.ops):
            if op.output in wanted:
                self.relevant.append(op)
                wanted.update(op.inputs)
        self.relevant.reverse()
        self.grad_reach = reached_by_gradient(self.network, self.infos)

    def _upstream(self) -> None:
        """``up[root]``: any parameter at or upstream of a root value is updated."""
        self.up: dict[str, int] = {}
        for op in self.relevant:
            if self.composites.free(op):
                continue
            masks = [self.levels[p].atoms[0] for p in op.params.values() if self.levels[p].atoms]
            for slot, t in enumerate(op.inputs):
                if self.defs[op.name].differentiable(self.infos[op.name], slot):
                    masks += [self.up.get(v, NEVER) for v, _, _ in self.spans[t]]
            self.up[op.output] = any_of(*masks)

    # -- values and arguments -----------------------------------------------------------------
    def value(self, name: str, role: ValueRole, shape: tuple[int, ...], dtype: str, tensor: str,
              when: int = ALWAYS, persistent: bool = False, scale: float | None = None) -> str:  # fmt: skip
        """Declare a value (once) and return its name."""
        if name not in self.values:
            size = bytes_of(math.prod(shape), dtype)
            self.values[name] = Value(name, role, shape, dtype, size, tensor, persistent, MAIN, scale)
            self.value_when[name] = when
        elif self.values[name].role != role:
            raise NetworkError(f"tensor name {name!r} is reserved by the training step; rename the tensor")
        return name

    def padded(self, name: str) -> int:
        return align_up(self.values[name].bytes, self.options.alignment)

    def batched(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (self.options.batch, *shape)

    def tensor_dtype(self, name: str) -> str:
        return self.network.tensor[name].dtype or self.options.dtype

    def arg(self, tag: str, tensor: str, pick: tuple[int, int] | None = None) -> MaybeArg:
        """An activation or input in whole."""
        for root, _, _ in self.spans[tensor]:
            t = self.network.tensor[root]
            role: ValueRole = "input" if t.role == "input" else "activation"
            self.value(root, role, self.batched(t.shape), self.tensor_dtype(root), root, scale=t.scale)
        spans = tuple(MaybeSpan(v, 0, self.padded(v), ALWAYS) for v, _, _ in self.spans[tensor])
        shape = self.batched(self.network.tensor[tensor].shape)
        return MaybeArg(tag, shape, self.tensor_dtype(self.spans[tensor][0][0]), spans, pick)

    def param_arg(self, tag: str, name: str, pick: tuple[int, int] | None = None) -> MaybeArg:
        t = self.network.tensor[name]
        dtype = self.tensor_dtype(name)
        when = ALWAYS
        if self.options.frozen != MAIN:  # only updated parameters take main memory
            when = self.levels[name].atoms[0] if self.levels[name].atoms else NEVER
        self.value(name, "parameter", t.shape, dtype, name, when, persistent=True, scale=t.scale)
        return MaybeArg(tag, t.shape, dtype, whole(name, self.padded(name)), pick)

    def prefix_arg(
        self, tag: str, tensor: str, cut: Fraction, levels: Levels, pick: tuple[int, int] | None
    ) -> MaybeArg:
        """The leading rows of an input that the kept units of a parameter need."""
        arg = self.arg(tag, tensor, pick)
        if cut.rows is None or self.options.batch > 1:
            return arg  # rows of several samples do not adjoin, so the whole is held
        shape = self.network.tensor[tensor].shape
        row = bytes_of(math.prod(shape[1:]), arg.dtype)
        spans: list[MaybeSpan] = []
        done = 0
        for (_, keep), atom in zip(levels.fractions, levels.atoms, strict=True):
            stop = row * (shape[0] if keep is None else keep * cut.rows)
            base = 0
            for root, _, size in self.spans[tensor]:
                lo, hi = max(done - base, 0), min(stop - base, size)
                lo = min(align_up(lo, self.options.alignment), self.padded(root))
                hi = min(align_up(max(hi, 0), self.options.alignment), self.padded(root))
                if hi > lo:
                    spans.append(MaybeSpan(root, lo, hi, atom))
                base += size
            done = stop
        return replace(arg, spans=tuple(spans), cut=(1, cut.rows))

    def grad(self, root: str) -> str:
        """The gradient value of an activation."""
        shape = self.batched(self.network.tensor[root].shape)
        return self.value(f"grad({root})", "gradient", shape, self.options.dtype, root, self.up[root])

    def dy_arg(self, op: Op) -> MaybeArg:
        name = self.grad(op.output)
        return MaybeArg("dy", self.values[name].shape, self.options.dtype, whole(name, self.padded(name)))

    def aux_arg(self, op: Op, info: OpInfo, tag: str, late: bool, when: int, pick: tuple[int, int] | None) -> MaybeArg:
        aux = self.defs[op.name].aux(info)[tag]
        name = ("late " if late else "") + f"{tag}({op.name})"
        self.value(name, "auxiliary", self.batched(aux.shape), aux.dtype, op.name, when)
        return MaybeArg(tag, self.batched(aux.shape), aux.dtype, whole(name, self.padded(name)), pick)

    # -- the walk ---------------------------------------------------------------------------------
    def run(self) -> TrainingGraph:
        for op in self.relevant:
            if not self.composites.free(op):
                self.forward(op)
        self.loss()
        for op in reversed(self.relevant):
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
            spans = self.spans[op.inputs[slot]]
            if len(spans) == 1 and self.same_storage(op.output, spans[0][0]):
                root = spans[0][0]
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

    def same_storage(self, a: str, b: str) -> bool:
        return self.padded(a) == self.padded(b) and self.values[a].dtype == self.values[b].dtype

    def loss(self) -> None:
        shape, dtype = loss_def(self.options.loss).target(self.network.tensor[self.loss_output].shape)
        stored = self.options.dtype if dtype == "data" else dtype
        self.value(TARGET, "target", self.batched(shape), stored, TARGET)
        target = MaybeArg("target", self.batched(shape), stored, whole(TARGET, self.padded(TARGET)))
        writes, pairs = self.gradient_writes("dy", self.loss_output, partial=False, over=None)
        output = self.arg("y", self.loss_output)
        roots = self.spans[self.loss_output]
        if len(roots) == 1 and self.up.get(roots[0][0], NEVER) != NEVER:
            name = self.grad(roots[0][0])
            if self.same_storage(name, roots[0][0]):
                pairs = [(name, roots[0][0])]
        self.steps.append(
            MaybeStep("loss", "loss", self.options.loss, "dy", ALWAYS, (output, target), tuple(writes), tuple(pairs))
        )

    def gradient_writes(
        self, tag: str, tensor: str, partial: bool, over: str | None
    ) -> tuple[list[MaybeArg], list[tuple[str, str]]]:
        """Arguments that write (or add to) the gradients of a tensor's parts."""
        shape = self.network.tensor[tensor].shape
        row = math.prod(shape[1:])
        writes: list[MaybeArg] = []
        pairs: list[tuple[str, str]] = []
        start = 0
        roots = self.spans[tensor]
        for root, _, _ in roots:
            elements = self.network.tensor[root].elements
            flow = self.up.get(root, NEVER)
            if flow != NEVER:
                name = self.grad(root)
                add = root in self.grad_written
                self.grad_written.add(root)
                span = (MaybeSpan(name, 0, self.padded(name), flow),)
                if len(roots) == 1:
                    writes.append(MaybeArg(tag, self.batched(shape), self.options.dtype, span, add=add))
                    if over is not None and not add and self.same_storage(name, over):
                        pairs.append((name, over))
                elif partial:
                    part = (start // row, (start + elements) // row)
                    writes.append(MaybeArg(tag, self.batched((part[1] - part[0], *shape[1:])), self.options.dtype, span,
                                           channels=part, add=add))  # fmt: skip
                else:
                    writes.append(MaybeArg(tag, self.batched((elements,)), self.options.dtype, span,
                                           channels=(start, start + elements), add=add))  # fmt: skip
            start += elements
        return writes, pairs

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
            update = self.update(op, tag, p)
            if self.options.gradients == "accumulate":
                self.deferred.append(update)
            elif tag in read_by_input:
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
        if accumulate:
            reads = [*reads, stored]
        macs = d.macs(info, slot) * self.options.batch
        parts, done = [], 0
        for (_, keep), atom in zip(levels.fractions, levels.atoms, strict=True):
            share = macs if keep is None or cut is None else macs * keep // cut.units
            parts.append((atom, share - done))
            done = share
        self.steps.append(
            MaybeStep(f"{op.name}.grad_{slot}", "grad_param", op.name, slot, when, (self.dy_arg(op), *reads),
                      (replace(stored, tag="dp", add=accumulate),), param=p, macs=tuple(parts))
        )  # fmt: skip

    def param_storage(self, p: str, kind: str, cut: Fraction | None) -> MaybeArg:
        """Gradient, accumulator or optimizer state of a parameter, sized by its fraction."""
        levels = self.levels[p]
        shape = self.network.tensor[p].shape
        roles: dict[str, ValueRole] = {"grad": "parameter gradient", "acc": "accumulator"}
        role = roles.get(kind, "state")
        name = self.value(f"{kind}({p})", role, shape, self.options.dtype, p, levels.atoms[0], kind != "grad")
        spans, done = [], 0
        for (_, keep), atom in zip(levels.fractions, levels.atoms, strict=True):
            size = self.values[name].bytes
            if keep is not None and cut is not None:
                size = size * keep // cut.units
            size = align_up(size, self.options.alignment)
            if size > done:
                spans.append(MaybeSpan(name, done, size, atom))
            done = size
        where = (cut.axis, cut.per_unit) if cut is not None else None
        return MaybeArg(kind, shape, self.options.dtype, tuple(spans), cut=where)

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
        over = dy.spans[0].value if d.inplace_grad(info, slot) else None
        shape = self.network.tensor[tensor].shape
        sizes = [self.network.tensor[root].elements for root, _, _ in self.spans[tensor]]
        # only where every part is whole channels can a kernel compute one part and not another
        partial = d.partial_input and len(sizes) > 1 and all(n % math.prod(shape[1:]) == 0 for n in sizes)
        writes, pairs = self.gradient_writes("dx", tensor, partial, over)
        total = d.macs(info, f"x{slot}") * self.options.batch
        macs = [(when, total)]
        if partial:
            ranges = [(w.spans[0].when, w.channels) for w in writes if w.channels is not None]
            macs = [(flow, total * (hi - lo) // shape[0]) for flow, (lo, hi) in ranges]
        adds = [replace(w, tag="dx") for w in writes if w.add]
        self.steps.append(
            MaybeStep(f"{op.name}.grad_x{slot}", "grad_input", op.name, f"x{slot}", when, (dy, *reads, *adds),
                      tuple(writes), tuple(pairs), macs=tuple(macs))
        )  # fmt: skip

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
        """Index of the last backward step so far that reads all of a source's bytes, or -1."""
        roots = {v for v, _, _ in self.spans[self.tensor_of(op, source)]}
        for i in range(len(self.steps) - 1, -1, -1):
            step = self.steps[i]
            if step.kind in ("forward", "loss"):
                return -1
            if any(s.value in roots for a in step.reads for s in a.spans):
                return i
        return -1

    def write_in_forward(self, op: Op, arg: MaybeArg) -> None:
        i = self.forward_index[op.name]
        step = self.steps[i]
        self.steps[i] = replace(step, writes=(*step.writes, arg))

    def make_late(self, op: Op, tag: str, source: str, arg: MaybeArg, when: int, pick: tuple[int, int] | None,
                  anchor: int) -> None:  # fmt: skip
        """A step that makes an auxiliary once its source is about to be freed."""
        reads = (self.arg(source, self.tensor_of(op, source)),)
        step = MaybeStep(f"{op.name}.{tag}", "aux", op.name, tag, when, reads, (replace(arg, pick=None),), pick=pick)
        self.steps.insert(anchor + 1, step)
