"""Recomputation as integers: what is run again, before which steps, and what it costs in bytes and MACs.

A base schedule runs every forward op once. A *rerun* ``(op, slot)`` runs a forward op again right before base step
``slot``; within a slot reruns go in network order. Every read takes the copy that the latest run of its producer made;
a copy lives from its run until its last reader. So any set of reruns can be executed, and costs its ops' MACs.

This module says what that means and nothing else: ``peak_of`` follows the events one by one. The formulations
(``rematmatrix``, ``rematstages``, ``rematintervals``) are held to it by tests.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sparseplan.errors import InternalError
from sparseplan.liveness import analyse, pieces
from sparseplan.ops import op_def
from sparseplan.steps import MAIN, Schedule
from sparseplan.units import align_up, live_bytes

#: a forward op and the base step before which it is run again
Rerun = tuple[int, int]
#: the tensors that one value consists of
Group = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RematTensor:
    """Bytes that a forward op writes, or a network input.

    Attributes:
        op: index of the writing op; -1 for a network input, which is there from the beginning.
        aux: a mask or an index, which a run writes only where some later step reads that copy.
        size: bytes.
    """

    name: str
    op: int
    aux: bool
    size: int


@dataclass(frozen=True, slots=True)
class RematOp:
    """A forward op; op ``i`` is base step ``i``.

    Attributes:
        cost: MACs of a run.
        reads, writes: indices of tensors; ``writes`` holds its auxiliaries too.
        overwrites: values (each its tensors) one of which the output takes the place of: the first that nothing reads
            later.
        fixed: bytes at the base step that no tensor accounts for.
    """

    name: str
    cost: int
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    overwrites: tuple[Group, ...]
    fixed: int


@dataclass(frozen=True, slots=True)
class RematStep:
    """A base step after the forward ops.

    Attributes:
        reads: indices of tensors.
        overwrites: as in ``RematOp``.
        fixed: bytes at the step that no tensor accounts for (parameters, gradients, ...).
        gap: such bytes between the step before and this one; None where nothing may be run again.
    """

    name: str
    reads: tuple[int, ...]
    overwrites: tuple[Group, ...]
    fixed: int
    gap: int | None


@dataclass(frozen=True)
class RematInstance:
    """What may be run again. Base step ``i`` is ``ops[i]`` for ``i < len(ops)``, then ``steps[i - len(ops)]``.

    Attributes:
        macs: of the base schedule.
    """

    tensors: tuple[RematTensor, ...]
    ops: tuple[RematOp, ...]
    steps: tuple[RematStep, ...]
    macs: int

    @property
    def slots(self) -> tuple[int, ...]:
        """Base steps before which ops may be run again."""
        n = len(self.ops)
        return tuple(n + i for i, s in enumerate(self.steps) if s.gap is not None)

    def readers(self) -> list[list[int]]:
        """Of each tensor, the base steps (forward ops among them) that read it, ascending."""
        found: list[list[int]] = [[] for _ in self.tensors]
        everything: tuple[RematOp | RematStep, ...] = (*self.ops, *self.steps)
        for i, step in enumerate(everything):
            for t in step.reads:
                found[t].append(i)
        return found

    def useful_until(self) -> tuple[list[int], list[int]]:
        """Of each tensor and of each op, the last base step that a copy or a rerun can be of use to; -1 for none."""
        n = len(self.ops)
        tensors = [max((i for i in uses if i >= n), default=-1) for uses in self.readers()]
        ops = [-1] * n
        for o in reversed(range(n)):
            ops[o] = max((tensors[t] for t in self.ops[o].writes), default=-1)
            for t in self.ops[o].reads:
                tensors[t] = max(tensors[t], ops[o])
        return tensors, ops


def instance(schedule: Schedule) -> RematInstance:
    """The integers of a schedule: forward ops, then steps from the first loss on.

    Slots are the steps after the last loss that are not updates. Everything that is neither a network input nor written
    by a forward step counts as fixed bytes. A value whose tail is freed before its head becomes several tensors.

    Raises:
        InternalError: a schedule of another form than ``autodiff.restrict`` makes.
    """
    steps, values = schedule.steps, schedule.values
    n = next((i for i, s in enumerate(steps) if s.kind != "forward"), len(steps))
    if any(s.kind == "forward" for s in steps[n:]):
        raise InternalError("a forward step comes after the loss")
    writer: dict[str, int] = {}
    for i, step in enumerate(steps[:n]):
        for arg in step.writes:
            for span in arg.spans:
                if writer.setdefault(span.value, i) != i:
                    raise InternalError(f"value {span.value!r} is written by two forward steps")
    once = {op.name for op in schedule.network.ops if not op_def(op.kind).repeatable(op.attrs)}
    writer = {name: -1 if steps[i].op in once else i for name, i in writer.items()}  # held like inputs
    for name, value in values.items():
        if value.role == "input":
            writer[name] = -1

    accesses: dict[str, list[tuple[int, int, int]]] = {}
    for i, step in enumerate(steps):
        for arg in (*step.reads, *step.writes):
            for span in arg.spans:
                accesses.setdefault(span.value, []).append((i, span.lo, span.hi))
    tensors: list[RematTensor] = []
    where: dict[str, list[tuple[int, int, int]]] = {}  # value -> (lo, hi, tensor)
    for name, uses in accesses.items():
        if name not in writer or values[name].level != MAIN:
            continue
        for lo, hi in pieces(end for _, a, b in uses for end in (a, b)):
            where.setdefault(name, []).append((lo, hi, len(tensors)))
            tensors.append(RematTensor(name, writer[name], values[name].role == "auxiliary", hi - lo))

    def read(i: int) -> tuple[int, ...]:
        spans = [s for arg in steps[i].reads for s in arg.spans if s.value in where]
        return tuple(sorted({t for s in spans for lo, hi, t in where[s.value] if s.lo < hi and lo < s.hi}))

    def overwrites(i: int) -> tuple[Group, ...]:
        pairs = [(y, x) for y, x in steps[i].inplace if x in where]
        if len({y for y, _ in pairs}) > 1 or (pairs and len({y for y, _ in steps[i].inplace}) > 1):
            raise InternalError(f"step {steps[i].name!r} overwrites several values")
        return tuple(dict.fromkeys(tuple(t for _, _, t in where[x]) for _, x in pairs))

    memory = analyse(schedule)
    fixed = live_bytes(((b.start, b.stop, b.bytes) for b in memory.buffers
                        if b.level == MAIN and b.value not in where), len(steps))  # fmt: skip
    always = 0
    gap = [0] * (len(steps) + 1)  # not from buffers: one that is overwritten at i is still there before i
    for name, uses in accesses.items():
        value = values[name]
        if name in where or value.level != MAIN:
            continue
        if value.persistent:
            always += align_up(value.bytes, schedule.options.alignment)
            continue
        for lo, hi in pieces(end for _, a, b in uses for end in (a, b)):
            touched = [i for i, a, b in uses if a < hi and lo < b]
            for i in range(min(touched) + 1, max(touched) + 1):
                gap[i] += hi - lo

    written: list[list[int]] = [[] for _ in range(n)]
    for t, tensor in enumerate(tensors):
        if tensor.op >= 0:
            written[tensor.op].append(t)
    ops = tuple(
        RematOp(s.op, s.macs, read(i), tuple(written[i]), overwrites(i), fixed[i]) for i, s in enumerate(steps[:n])
    )
    rest = tuple(
        RematStep(
            s.name, read(i), overwrites(i), fixed[i], always + gap[i] if s.kind not in ("loss", "update") else None
        )
        for i, s in enumerate(steps[n:], n)
    )
    return RematInstance(tuple(tensors), ops, rest, sum(s.macs for s in steps))


def macs_of(inst: RematInstance, reruns: Iterable[Rerun]) -> int:
    """MACs that reruns add to the base schedule's."""
    return sum(inst.ops[o].cost for o, _ in set(reruns))


def events_of(inst: RematInstance, reruns: Iterable[Rerun]) -> list[tuple[int, int | None]]:
    """What happens, in order: ``(base step, None)``, or ``(slot, op)`` for a rerun.

    Raises:
        InternalError: a rerun at a step that is no slot, or of an op that does not exist.
    """
    chosen = sorted({(slot, o) for o, slot in reruns})
    allowed = set(inst.slots)
    for slot, o in chosen:
        if slot not in allowed or not 0 <= o < len(inst.ops):
            raise InternalError(f"rerun of op {o} at step {slot}: there is no such op or slot")
    before: dict[int, list[int]] = {}
    for slot, o in chosen:
        before.setdefault(slot, []).append(o)
    events: list[tuple[int, int | None]] = []
    for i in range(len(inst.ops) + len(inst.steps)):
        events += [(i, o) for o in before.get(i, [])]
        events.append((i, None))
    return events


def live_of(inst: RematInstance, reruns: Iterable[Rerun]) -> list[int]:
    """Live bytes at each event of ``events_of``."""
    n = len(inst.ops)
    events = events_of(inst, reruns)
    copies: list[list[int]] = []  # [tensor, event of the run, last reader]
    latest = [-1] * len(inst.tensors)  # copy that a read takes
    ran: list[RematOp | None] = []
    took: list[dict[int, int]] = []  # at each event: tensor read -> copy
    live = []
    for t, tensor in enumerate(inst.tensors):
        if tensor.op < 0:
            latest[t] = len(copies)
            copies.append([t, 0, -1])
    for e, (step, rerun) in enumerate(events):
        op = inst.ops[rerun] if rerun is not None else inst.ops[step] if step < n else None
        reads = op.reads if op is not None else inst.steps[step - n].reads
        took.append({t: latest[t] for t in reads})
        for c in took[-1].values():
            copies[c][2] = e
        for t in op.writes if op is not None else ():
            latest[t] = len(copies)
            copies.append([t, e, -1 if inst.tensors[t].aux else e])
        ran.append(op)
        if rerun is not None:
            live.append(inst.steps[step - n].gap or 0)
        else:
            live.append(op.fixed if op is not None else inst.steps[step - n].fixed)
    delta = [0] * (len(events) + 1)
    for t, start, stop in copies:
        if stop >= start:
            delta[start] += inst.tensors[t].size
            delta[stop + 1] -= inst.tensors[t].size
    running = 0
    for e, (step, _) in enumerate(events):
        running += delta[e]
        live[e] += running
        op = ran[e]
        for group in op.overwrites if op is not None else inst.steps[step - n].overwrites:
            if all(copies[took[e][t]][2] == e for t in group):
                live[e] -= sum(inst.tensors[t].size for t in group)
                break
    return live


def peak_of(inst: RematInstance, reruns: Iterable[Rerun]) -> int:
    """The most live bytes at any event."""
    return max(live_of(inst, reruns), default=0)


def useful(inst: RematInstance, reruns: Iterable[Rerun]) -> tuple[Rerun, ...]:
    """Reruns that some later base step depends on, sorted; dropping the others never costs bytes or MACs."""
    n = len(inst.ops)
    needed: set[int] = set()  # tensors read later than where the walk is
    kept: list[Rerun] = []
    for step, rerun in reversed(events_of(inst, reruns)):
        if rerun is None:
            if step < n:
                break
            needed.update(inst.steps[step - n].reads)
        elif not needed.isdisjoint(inst.ops[rerun].writes):
            kept.append((rerun, step))
            needed.difference_update(inst.ops[rerun].writes)
            needed.update(inst.ops[rerun].reads)
    return tuple(sorted(kept, key=lambda r: (r[1], r[0])))


def keep_all(inst: RematInstance) -> int:
    """The peak without reruns, bytes."""
    return peak_of(inst, ())


def least_possible(inst: RematInstance) -> int:
    """A lower bound on every plan's peak, bytes: what each base step and forward op touches by itself, and what no op
    makes, up to its last reader."""
    least = 0
    everything: tuple[RematOp | RematStep, ...] = (*inst.ops, *inst.steps)
    readers = inst.readers()
    given = [(t, readers[t][-1]) for t, x in enumerate(inst.tensors) if x.op < 0 and readers[t]]
    for i, step in enumerate(everything):
        later = {t for t, last in given if last > i}
        touched = later.union(step.reads)
        held = sum(inst.tensors[t].size for t in touched)
        if isinstance(step, RematOp):
            held += sum(inst.tensors[t].size for t in step.writes if not inst.tensors[t].aux)
        free = (g for g in step.overwrites if later.isdisjoint(g))
        saved = max((sum(inst.tensors[t].size for t in g) for g in free), default=0)
        least = max(least, held + step.fixed - saved)
    return least
