"""Running forward ops again, fetching tensors back, and saving in 8 bits: a schedule that holds less.

A *rerun* is a pair (op, step of the base schedule): the op runs again right before that step. A
*fetch* is a pair (tensor, step): the tensor comes back from its copy at a slower level, where a
page-out has put it once it was made. Any set of reruns and fetches gives an executable schedule,
since each reader takes the latest run of a tensor before it: what has to be held follows from that.

Within one step's reruns and fetches, network order holds. A tensor that comes into being again is
a value of its own, with buffers of its own. An auxiliary that a forward step makes is made by the
latest run before its reader. The input of an op is *packed* where it is quantised to 8 bits right
before its last forward reader, and the gradients of the op's parameters are computed from that.

The copies are those of rematerialisation in Checkmate (Jain et al., MLSys 2020) and POET (Patil et
al., ICML 2022).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType

from sparseplan.dtypes import TRAINABLE
from sparseplan.errors import ProblemError, near
from sparseplan.ops import op_def
from sparseplan.steps import MAIN, PACKED_CODES, PACKED_SCALES, PAGE_LEVEL, Arg, Schedule, Span, Step, Value, why_once
from sparseplan.training import MaybeStep
from sparseplan.units import align_up


@dataclass(frozen=True)
class Savings:
    """What is done again or elsewhere so that less has to be held.

    Attributes:
        reruns: (op, name of the base step before which it runs again).
        fetches: (tensor, name of the base step before which it is paged in again).
        packed: ops whose parameters' gradients read the op's input as 8-bit codes with a scale a channel.
        moved: (value, level) of frozen parameters, accumulators and states that kernels stream from a slower level.
    """

    reruns: frozenset[tuple[str, str]] = frozenset()
    fetches: frozenset[tuple[str, str]] = frozenset()
    packed: frozenset[str] = frozenset()
    moved: frozenset[tuple[str, str]] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.reruns or self.fetches or self.packed or self.moved)


NO_SAVINGS = Savings()


def slots(schedule_steps: Iterable[Step]) -> list[int]:
    """Indices of the steps before which something may be made again: all behind the last loss."""
    kinds = [s.kind for s in schedule_steps]
    return list(range(len(kinds) - kinds[::-1].index("loss"), len(kinds)))


def apply(schedule: Schedule, savings: Savings) -> Schedule:
    """The schedule with reruns and fetches inserted; those that nobody reads are left out.

    Raises:
        ProblemError: an unknown op or step, a step that is not behind the loss, a tensor that is
            bound to others by an adjoined concat.
    """
    if not savings:
        return schedule
    return _Again(schedule, savings).run()


@dataclass
class _Run:
    """One step of the new schedule, before it is known which of its writes are read."""

    step: Step
    again: bool = False


class _Again:
    def __init__(self, schedule: Schedule, savings: Savings) -> None:
        self.schedule, self.savings = schedule, savings
        self.forward = {s.op: s for s in schedule.steps if s.kind == "forward"}
        self.bound = {v for group in schedule.composites for v, _ in group}
        names = [schedule.steps[i].name for i in slots(schedule.steps)]
        self._check(names)
        order = {op: i for i, op in enumerate(self.forward)}
        self.before: dict[str, list[tuple[int, str, str]]] = {}  # step -> (position, "rerun" | "fetch", name)
        for op, at in savings.reruns:
            self.before.setdefault(at, []).append((order[op], "rerun", op))
        producer = {s.writes[0].spans[0].value: op for op, s in self.forward.items()}
        for tensor, at in savings.fetches:
            self.before.setdefault(at, []).append((order.get(producer.get(tensor, ""), -1), "fetch", tensor))

    def _check(self, names: list[str]) -> None:
        for op, at in sorted(self.savings.reruns):
            if op not in self.forward:
                raise ProblemError(f"op {op!r} cannot run again: it has no forward step{near(op, self.forward)}")
            made = self.schedule.network.op.get(op)
            if made is not None and not op_def(made.kind).repeatable(made.attrs):
                raise ProblemError(f"op {op!r} cannot run again: {why_once(made)}")
            if any(s.value in self.bound for a in self.forward[op].writes for s in a.spans):
                raise ProblemError(f"op {op!r} cannot run again: its output adjoins others; use concat='split'")
            if at not in names:
                raise ProblemError(f"op {op!r} cannot run again before {at!r}: no such step behind the loss")
        for tensor, at in sorted(self.savings.fetches):
            value = self.schedule.values.get(tensor)
            if value is None or value.role not in ("activation", "input") or tensor in self.bound:
                raise ProblemError(f"tensor {tensor!r} cannot be paged: it is no activation with bytes of its own")
            if at not in names:
                raise ProblemError(f"tensor {tensor!r} cannot be fetched before {at!r}: no such step behind the loss")
        for name, level in sorted(self.savings.moved):
            value = self.schedule.values.get(name)
            if value is not None and not (value.persistent and value.level == MAIN):
                raise ProblemError(f"value {name!r} cannot live at {level}: it is nothing that persists in {MAIN}")
        able = {s.op for s in self.schedule.steps if s.kind == "grad_param" and packable(s, self.schedule.values)}
        for op in sorted(self.savings.packed):
            if op not in able:
                raise ProblemError(f"op {op!r} has no saved input to pack into 8 bits{near(op, able)}")

    # -- the order of things --------------------------------------------------------------------
    def base(self) -> list[Step]:
        """The steps of the schedule, with what is packed packed."""
        before: dict[int, list[str]] = {}
        packing = [packable(s, self.schedule.values) for s in self.schedule.steps if self.packs(s)]
        for t in dict.fromkeys(t for names in packing for t in names):
            before.setdefault(pack_reader(self.schedule.steps, t), []).append(t)
        steps: list[Step] = []
        for i, step in enumerate(self.schedule.steps):
            steps += [self.pack(t) for t in before.get(i, ())]
            steps.append(self.unpacking(step) if self.packs(step) else step)
        return steps

    def packs(self, step: Step) -> bool:
        return step.kind == "grad_param" and step.op in self.savings.packed

    def pack(self, tensor: str) -> Step:
        """The step that quantises a tensor."""
        v = self.schedule.values[tensor]
        read = Arg("x0", v.shape, v.dtype, (Span(tensor, 0, self.extent(tensor)),))
        return Step(f"pack {tensor}", "pack", tensor, "y", (read,), self.packed_args((tensor,)))

    def packed_args(self, tensors: Sequence[str]) -> tuple[Arg, Arg]:
        return packed_args(tensors, self.schedule.values, self.schedule.options.alignment)

    def unpacking(self, step: Step) -> Step:
        """A gradient step that reads codes and scales instead of its input."""
        tensors = packable(step, self.schedule.values)
        reads = [a for a in step.reads if a.tag != "x0" or not tensors]
        return replace(step, reads=(*reads, *(self.packed_args(tensors) if tensors else ())))

    def sequence(self) -> list[_Run]:
        """All steps with their original arguments; reruns, page-outs and fetches among them."""
        paged = {t for t, _ in self.savings.fetches}
        result: list[_Run] = []
        for t in sorted(paged):
            if self.schedule.values[t].role == "input":
                result.append(_Run(self.page(t, out=True)))
        for step in self.base():
            for _, kind, name in sorted(self.before.get(step.name, ())):
                if kind == "rerun":
                    again = replace(self.forward[name], name=f"{self.forward[name].name} again", kind="recompute")
                    result.append(_Run(again, True))
                else:
                    result.append(_Run(self.page(name, out=False), True))
            result.append(_Run(step))
            if step.kind == "forward":
                made = {s.value for s in step.writes[0].spans}
                result += [_Run(self.page(t, out=True)) for t in sorted(made & paged)]
        return result

    def page(self, tensor: str, out: bool) -> Step:
        """The copy of a tensor to the slower level, or back."""
        v = self.schedule.values[tensor]
        size = self.extent(tensor)
        here = Arg("y", v.shape, v.dtype, (Span(tensor, 0, size),))
        there = Arg("y", v.shape, v.dtype, (Span(paged_name(tensor), 0, size),))
        if out:
            return Step(f"page out {tensor}", "page_out", tensor, "y", (replace(here, tag="x0"),), (there,))
        return Step(f"page in {tensor}", "page_in", tensor, "y", (replace(there, tag="x0"),), (here,))

    def extent(self, tensor: str) -> int:
        """Bytes of a value that steps touch: with its padding."""
        return self.extents[tensor]

    @cached_property
    def extents(self) -> Mapping[str, int]:
        found: dict[str, int] = {}
        for span in (s for step in self.schedule.steps for a in (*step.reads, *step.writes) for s in a.spans):
            found[span.value] = max(span.hi, found.get(span.value, 0))
        return found

    # -- copies -----------------------------------------------------------------------------------
    def run(self) -> Schedule:
        runs = self.live_runs(self.sequence())
        values: dict[str, Value] = dict(self.schedule.values)
        for step in self.schedule.steps:
            for t in packable(step, self.schedule.values) if self.packs(step) else ():
                values |= {v.name: v for v in packed_values(values[t])}
        current: dict[str, str] = {}
        steps: list[Step] = []
        for run in runs:
            step = run.step
            reads = tuple(self.renamed(a, current) for a in step.reads)
            old = dict(current)
            if step.kind == "page_out":
                t = step.op
                name = paged_name(t)
                values[name] = replace(values[t], name=name, level=PAGE_LEVEL)
            if run.again:
                for s in (s for a in step.writes for s in a.spans):
                    current[s.value] = self.copy(s.value, values)
            writes = tuple(self.renamed(a, current) for a in step.writes)
            pairs = tuple((current.get(y, y), old.get(x, x)) for y, x in step.inplace)
            steps.append(replace(step, reads=reads, writes=writes, inplace=pairs))
        unique = self.unique(steps)
        used = {s.value for step in unique for a in (*step.reads, *step.writes) for s in a.spans}
        for name, level in self.savings.moved:
            if name in values:
                values[name] = replace(values[name], level=level)
        kept = MappingProxyType({n: v for n, v in values.items() if n in used})
        return replace(self.schedule, values=kept, steps=unique)

    @staticmethod
    def renamed(arg: Arg, current: Mapping[str, str]) -> Arg:
        if not any(s.value in current for s in arg.spans):
            return arg
        return replace(arg, spans=tuple(replace(s, value=current.get(s.value, s.value)) for s in arg.spans))

    def copy(self, name: str, values: dict[str, Value]) -> str:
        """Declare another value of the same tensor."""
        number = 2
        while f"{name} ({number})" in values:
            number += 1
        fresh = f"{name} ({number})"
        values[fresh] = replace(values[name], name=fresh)
        return fresh

    @staticmethod
    def unique(steps: list[Step]) -> tuple[Step, ...]:
        """Steps with names of their own."""
        count: dict[str, int] = {}
        result = []
        for step in steps:
            n = count[step.name] = count.get(step.name, 0) + 1
            result.append(step if n == 1 else replace(step, name=f"{step.name} ({n})"))
        return tuple(result)

    def live_runs(self, runs: list[_Run]) -> list[_Run]:
        """Without reruns, fetches and page-outs whose outputs nobody reads, nor auxiliaries that a later run makes.

        One walk from the end: a value is wanted from its readers back to the latest run that makes it.
        """
        wanted: set[str] = set()
        kept: list[_Run] = []
        for run in reversed(runs):
            step = run.step
            made = [s.value for a in step.writes for s in a.spans]
            if (run.again or step.kind in ("page_out", "pack")) and not any(v in wanted for v in made):
                continue
            if run.again or step.kind == "forward":
                first, *extra = step.writes
                extra = [a for a in extra if any(s.value in wanted for s in a.spans)]
                step = replace(step, writes=(first, *extra))
            wanted.difference_update(made if (run.again or step.kind in ("forward", "page_out", "pack")) else ())
            wanted.update(s.value for a in step.reads for s in a.spans)
            kept.append(_Run(step, run.again))
        kept.reverse()
        return kept


def packable(step: Step | MaybeStep, values: Mapping[str, Value]) -> tuple[str, ...]:
    """The values that hold the input of a parameter's gradient, if they can be packed: whole channels of floats."""
    for a in step.reads:
        if a.tag == "x0" and not getattr(a, "boxes", ()):
            names = tuple(dict.fromkeys(s.value for s in a.spans))
            shapes = [values[n].shape for n in names]
            plain = all(values[n].dtype in TRAINABLE and values[n].layout == "chw" for n in names)
            plain = plain and (len(names) == 1 or len(a.shape) > 2)  # vectors have one scale
            if plain and all(len(s) > 1 and s[2:] == a.shape[2:] and s[0] == a.shape[0] for s in shapes):
                return names
    return ()


def pack_reader(steps: Sequence[Step | MaybeStep], tensor: str) -> int:
    """Index of the last forward step that reads a tensor: it is packed right before that."""
    return max(i for i, s in enumerate(steps) if s.kind == "forward" and any(
        x.value == tensor for a in s.reads for x in a.spans))  # fmt: skip


def packed_values(value: Value) -> tuple[Value, Value]:
    """What holds a packed tensor: codes, one byte an element, and float32 scales, one a channel."""
    codes = replace(value, name=f"{value.name} codes", role="packed", dtype="u8", bytes=math.prod(value.shape),
                    scale=None)  # fmt: skip
    shape = (1, value.shape[1] if len(value.shape) > 2 else 1)
    return codes, replace(codes, name=f"{value.name} scales", shape=shape, dtype="fp32", bytes=4 * shape[1])


def packed_args(tensors: Sequence[str], values: Mapping[str, Value], alignment: int) -> tuple[Arg, Arg]:
    """Codes and scales of tensors, one channel after the other."""
    parts = [packed_values(values[t]) for t in tensors]
    args = []
    for tag, made in zip((PACKED_CODES, PACKED_SCALES), zip(*parts, strict=True), strict=True):
        shape = (made[0].shape[0], sum(v.shape[1] for v in made), *made[0].shape[2:])
        spans = tuple(Span(v.name, 0, align_up(v.bytes, alignment)) for v in made)
        args.append(Arg(tag, shape, made[0].dtype, spans))
    return args[0], args[1]


def paged_name(tensor: str) -> str:
    """Name of a tensor's copy at the slower level."""
    return f"{tensor} @{PAGE_LEVEL}"
