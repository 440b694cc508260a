"""What may run again or be paged in again, and before which steps: a literal each.

Retention intervals over time (as in Moccasin, Bartan et al., ICML 2023) with a literal for each
start: a tensor's copies follow from where it is made again, and each is held from there to its last
reader, so that nothing but the starts is decided (``rows`` counts the bytes).
"""

from __future__ import annotations

import bisect
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ortools.sat.python import cp_model

from sparseplan.ops import op_def
from sparseplan.recompute import Savings, packable
from sparseplan.steps import MAIN, PAGE_LEVEL
from sparseplan.stripes import Origin
from sparseplan.training import ALWAYS, MaybeStep, TrainingGraph

if TYPE_CHECKING:
    from sparseplan.solve.literals import Literals

#: candidates that are counted one by one
COUNTED = 200_000
#: share of the values that a row of bytes has terms of, as seen on networks of all kinds
ALIVE = 0.45
#: decisions of what may be done to hold less
RECOMPUTE, PAGE, STREAM, INT8 = "recompute", "page", "stream", "int8"


@dataclass(frozen=True)
class Again:
    """Literals of what runs again.

    Attributes:
        runs: (op, index of the step before which it may run again).
        fetches: (tensor, index of the step before which it may be paged in).
        paged: tensor to the literal that it is paged out; a fetch implies it.
        packed: op to the literal that its saved input is packed into 8 bits.
        moved: (value, level) to the literal that it lives there: frozen parameters, accumulators, states.
        packs: index of a gradient step to the values that it would read packed.
    """

    runs: Mapping[tuple[str, int], cp_model.IntVar]
    fetches: Mapping[tuple[str, int], cp_model.IntVar]
    paged: Mapping[str, cp_model.IntVar]
    producers: Mapping[str, str] = field(default_factory=dict)
    packed: Mapping[str, cp_model.IntVar] = field(default_factory=dict)
    packs: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    moved: Mapping[tuple[str, str], cp_model.IntVar] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.runs or self.fetches or self.packed or self.moved)

    def away(self, value: str) -> cp_model.IntVar | None:
        """The literal that a persistent value lives at a slower level."""
        return next((literal for (name, _), literal in self.moved.items() if name == value), None)

    def by_step(self, order: Mapping[str, MaybeStep]) -> dict[int, list[str]]:
        """By step: the ops that may run (or whose outputs may come back) before it, in network order; "" for inputs."""
        found: dict[int, set[str]] = {}
        for op, i in self.runs:
            found.setdefault(i, set()).add(op)
        for tensor, i in self.fetches:
            found.setdefault(i, set()).add(self.producers.get(tensor, ""))
        rank = {op: n for n, op in enumerate(order)}
        return {i: sorted(ops, key=lambda op: rank.get(op, -1)) for i, ops in found.items()}

    def tensors(self, op: str, template: MaybeStep | None) -> tuple[str, ...]:
        """Tensors that may come back at an op's turn: its output, or (for "") the network's inputs."""
        if template is not None:
            return (template.writes[0].spans[0].value,)
        return tuple(sorted(t for t in self.paged if self.producers.get(t, "") == op))


def slots(steps: Sequence[MaybeStep]) -> list[int]:
    """Steps before which something may be made again: those behind the last loss, no updates."""
    loss = max(i for i, s in enumerate(steps) if s.kind == "loss")
    return [i for i in range(loss + 1, len(steps)) if steps[i].kind in ("aux", "grad_param", "grad_input")]


def last_uses(graph: TrainingGraph) -> dict[str, int]:
    """Op to the last step that may want its output again, by itself or for what runs again behind it; -1 for none."""
    made: dict[str, str] = {}
    forward: dict[str, MaybeStep] = {}
    last: dict[str, int] = {}
    behind = False
    for i, step in enumerate(graph.steps):
        if step.kind == "forward":
            forward[step.op] = step
            made.update((s.value, step.op) for a in step.writes for s in a.spans)
        elif behind and step.kind != "loss":
            for s in (s for a in step.reads for s in a.spans):
                if s.value in made:
                    last[made[s.value]] = i
        behind = behind or step.kind == "loss"
    for op, step in reversed(forward.items()):
        for s in (s for a in step.reads for s in a.spans):
            if s.value in made:
                source = made[s.value]
                last[source] = max(last.get(source, -1), last.get(op, -1))
    return {op: last.get(op, -1) for op in forward}


#: what stands for one decision: the same for an op and a step in every stripe
Key = tuple[str, str]


@dataclass(frozen=True)
class Alike:
    """Which decisions are one: all stripes of a group do the same.

    Attributes:
        origin: of the ops of a lowered network that stand for a stripe.
    """

    origin: Mapping[str, Origin] = field(default_factory=dict)

    def op(self, name: str) -> str:
        """What an op is called in every stripe."""
        found = self.origin.get(name)
        return name if found is None else f"{found.op} in group {found.group}"

    def key(self, op: str, step: MaybeStep) -> Key | None:
        """The decision that an op runs again before a step; None where that is not considered.

        What belongs to a stripe is made again within that stripe's backward steps; anything else, before
        the steps outside stripes, or before the first of a group's.
        """
        mine, there = self.origin.get(op), self.origin.get(step.op)
        if mine is None:
            return (op, step.name) if there is None else None
        if there is None or (mine.group, mine.stripe) != (there.group, there.stripe):
            return None
        return self.op(op), f"{step.kind} {self.op(step.op)} {step.target}"


def candidates(
    graph: TrainingGraph, allowed: Collection[str], bound: Collection[str], alike: Alike | None = None
) -> tuple[dict[tuple[str, int], Key], dict[tuple[str, int], Key], dict[str, str]]:
    """(op, step) that may run again and (tensor, step) that may be fetched, each with the decision that it
    follows; and the op that makes each tensor.

    ``bound``: values that adjoin others, which cannot come into being twice.
    """
    alike = alike or Alike()
    forward = {s.op: s for s in graph.steps if s.kind == "forward"}
    producers = {s.writes[0].spans[0].value: op for op, s in forward.items()}
    free = {op for op, s in forward.items() if not any(x.value in bound for a in s.writes for x in a.spans)}
    once = {op.name for op in graph.network.ops if not op_def(op.kind).repeatable(op.attrs)}
    last, where = last_uses(graph), slots(graph.steps)
    runs: dict[tuple[str, int], Key] = {}
    for op in forward if RECOMPUTE in allowed else ():
        for i in where if op in free and op not in once else ():
            key = alike.key(op, graph.steps[i])
            if i <= last[op] and key is not None:
                runs[op, i] = key
    fetches: dict[tuple[str, int], Key] = {}
    if PAGE in allowed:
        ends = {t: last[op] for t, op in producers.items() if op in free and op not in alike.origin}
        for name, value in graph.values.items():
            if value.role == "input" and name not in bound:
                users = [op for op, s in forward.items() if any(x.value == name for a in s.reads for x in a.spans)]
                direct = [i for i in where if any(x.value == name for a in graph.steps[i].reads for x in a.spans)]
                ends[name] = max([*direct, *(last[op] for op in users)], default=-1)
        for t, end in ends.items():
            for i in where:
                if i <= end and graph.steps[i].op not in alike.origin:
                    fetches[t, i] = (t, graph.steps[i].name)
    return runs, fetches, producers


@dataclass(frozen=True)
class Size:
    """How large the 0/1 program would be: decisions of what is made again, terms of all its rows of bytes (about)."""

    decisions: int
    terms: int


def size_of(graph: TrainingGraph, allowed: Collection[str], alike: Alike) -> Size:
    """The size of the program, without building any of it."""
    last, where = last_uses(graph), slots(graph.steps)
    reach = {op: bisect.bisect_right(where, end) for op, end in last.items()}
    runs = sum(reach.values())
    decisions = positions = 0
    if {RECOMPUTE, PAGE} & set(allowed):
        if alike.origin and runs <= COUNTED:
            found = candidates(graph, allowed, (), alike)
            decisions, positions = sum(map(len, found[:2])), len({*found[0], *found[1]})
        else:
            decisions = runs * ((RECOMPUTE in allowed) + (PAGE in allowed))
            positions = runs
    return Size(decisions, round(ALIVE * (len(graph.steps) + positions) * len(graph.values)))


def packable_steps(
    graph: TrainingGraph, allowed: Collection[str], bound: Collection[str], alike: Alike | None = None
) -> dict[int, tuple[str, ...]]:
    """Gradient steps whose input may be packed, with the values that hold it."""
    if INT8 not in allowed:
        return {}
    steps = [(i, s) for i, s in enumerate(graph.steps) if s.kind == "grad_param"]
    found = {i: packable(s, graph.values) for i, s in steps if alike is None or s.op not in alike.origin}
    return {i: names for i, names in found.items() if names and not any(n in bound for n in names)}


def movable(graph: TrainingGraph, allowed: Collection[str], stream_level: str | None) -> list[tuple[str, str]]:
    """(value, level): frozen parameters that may be streamed, accumulators and states that may live at L3."""
    found = []
    for name, value in graph.values.items():
        if STREAM in allowed and value.role == "parameter" and graph.options.frozen == MAIN and stream_level:
            found.append((name, stream_level))
        elif PAGE in allowed and value.role in ("accumulator", "state"):
            found.append((name, PAGE_LEVEL))
    return found


def named(
    graph: TrainingGraph, runs: Collection[tuple[str, int]], fetches: Collection[tuple[str, int]],
    packed: Collection[str], moved: Collection[tuple[str, str]],
) -> Savings:  # fmt: skip
    """The chosen ones by names of steps."""
    name = [s.name for s in graph.steps]
    made = frozenset((op, name[i]) for op, i in runs), frozenset((t, name[i]) for t, i in fetches)
    return Savings(*made, frozenset(packed), frozenset(moved))


def used_at_once(graph: TrainingGraph, literals: Literals, again: Again, narrow: cp_model.IntVar) -> None:
    """Under ``narrow``: what is made again is read by that very step, or by what is made again with it.

    Good plans are nearly always of this kind (recompute as late as possible), though not all: an op whose
    inputs are larger than its output may better run early.
    """
    forward = {s.op: s for s in graph.steps if s.kind == "forward"}
    outputs = {op: {x.value for a in s.writes for x in a.spans} for op, s in forward.items()}
    makers = {v: op for op, values in outputs.items() for v in values}
    consumers: dict[str, set[str]] = {}
    for op, s in forward.items():
        for x in (x for a in s.reads for x in a.spans):
            consumers.setdefault(makers.get(x.value, x.value), set()).add(op)
    starts = [(key, op, outputs[op], literal) for key in again.runs for op, literal in [(key[0], again.runs[key])]]
    for key, literal in again.fetches.items():
        starts.append((key, again.producers.get(key[0], key[0]), {key[0]}, literal))
    for (_, i), op, values, literal in starts:
        step = graph.steps[i]
        direct = literals.any(
            (step.when if s.when == ALWAYS else s.when, a.pick if a.pick is not None else step.pick)
            for a in step.reads for s in a.spans if s.value in values
        )  # fmt: skip
        readers = [again.runs[c, i] for c in sorted(consumers.get(op, ())) if (c, i) in again.runs]
        if direct is not True:
            clause = [literal.Not(), *readers, *([] if direct is False else [direct])]
            literals.model.add_bool_or(clause).only_enforce_if(narrow)
