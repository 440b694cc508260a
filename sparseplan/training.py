"""A training step as data: values, steps, and the conditions under which they exist.

``TrainingGraph`` holds every step that any allowed update set could need, each with the
condition for its existence; ``restrict`` keeps what one set of decisions needs and gives a
``Schedule``. The solver reads the conditions, the liveness analysis and the trainer read the
schedule: both come from the one walk in ``autodiff``, so they cannot drift apart.

Conditions are bit masks over *atoms*. Atom ``(parameter, level)`` is true when the parameter is
updated by at least its ``level``-th allowed fraction. A condition holds when any of its atoms is
true; ``ALWAYS`` holds for every update set, ``NEVER`` for none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from sparseplan.errors import ProblemError, near
from sparseplan.network import Network
from sparseplan.ops import OpInfo, op_def
from sparseplan.steps import MAIN, Arg, Box, Schedule, Span, Step, StepKind, TrainingOptions, UpdateSet, Value

ALWAYS = -1
NEVER = 0


def holds(when: int, chosen: int) -> bool:
    """Whether condition ``when`` holds where ``chosen`` is the mask of true atoms."""
    return when == ALWAYS or bool(when & chosen)


def any_of(*conditions: int) -> int:
    """The condition that holds when any of ``conditions`` does."""
    result = NEVER
    for c in conditions:
        if c == ALWAYS:
            return ALWAYS
        result |= c
    return result


# -- the same, with conditions ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MaybeSpan:
    """A span that is accessed when a condition holds."""

    value: str
    lo: int
    hi: int
    when: int


@dataclass(frozen=True, slots=True)
class MaybeArg:
    """An argument that exists when a condition holds and a pick has an option.

    Attributes:
        cut: the leading extent depends on the fraction (``shape[axis]`` is scaled by kept units);
            ``(axis, per_unit)``, or None.
        rows, boxes: as in Arg, with a box for each span.
    """

    tag: str
    shape: tuple[int, ...]
    dtype: str
    spans: tuple[MaybeSpan, ...]
    pick: tuple[int, int] | None = None
    channels: tuple[int, int] | None = None
    add: bool = False
    cut: tuple[int, int] | None = None
    rows: tuple[int, int] | None = None
    boxes: tuple[Box, ...] = ()


@dataclass(frozen=True, slots=True)
class MaybeStep:
    """A step that exists when a condition holds and a pick has an option."""

    name: str
    kind: StepKind
    op: str
    target: str
    when: int
    reads: tuple[MaybeArg, ...]
    writes: tuple[MaybeArg, ...]
    inplace: tuple[tuple[str, str], ...] = ()
    param: str | None = None
    pick: tuple[int, int] | None = None
    macs: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Pick:
    """Ways by which an op's backward can get what it needs; one of them is taken."""

    op: str
    options: tuple[str, ...]
    when: int


@dataclass(frozen=True, slots=True)
class Levels:
    """The allowed fractions of a parameter, ascending.

    Attributes:
        fractions: each with the units kept; None keeps the whole.
        atoms: the atom's bit for each fraction.
    """

    fractions: tuple[tuple[float, int | None], ...]
    atoms: tuple[int, ...]


@dataclass(frozen=True)
class TrainingGraph:
    """Every step that the allowed update sets may need, with conditions."""

    network: Network
    options: TrainingOptions
    infos: Mapping[str, OpInfo]
    levels: Mapping[str, Levels]
    picks: tuple[Pick, ...]
    values: Mapping[str, Value]
    value_when: Mapping[str, int]
    steps: tuple[MaybeStep, ...]
    composites: tuple[tuple[tuple[str, int], ...], ...]

    def chosen(self, update: UpdateSet) -> int:
        """The mask of atoms that an update set makes true.

        Raises:
            ProblemError: an unknown parameter, or a fraction that is not allowed.
        """
        mask = 0
        for name, fraction in update.fractions.items():
            if name not in self.levels:
                raise ProblemError(f"parameter {name!r} is unknown{near(name, self.levels)}")
            allowed = self.levels[name]
            index = next((i for i, (r, _) in enumerate(allowed.fractions) if r == fraction), None)
            if index is None:
                raise ProblemError(
                    f"fraction of {name!r}={fraction} is not allowed; allowed: {[r for r, _ in allowed.fractions]}"
                )
            for bit in allowed.atoms[: index + 1]:
                mask |= bit
        return mask

    def restrict(self, update: UpdateSet, picks: Mapping[str, str] | None = None) -> Schedule:
        """The schedule for one update set; picks not given take their first option."""
        chosen = self.chosen(update)
        taken: list[int] = []
        for p in self.picks:
            option = (picks or {}).get(p.op, p.options[0])
            if option not in p.options:
                raise ProblemError(f"pick of op {p.op!r}={option!r} is unknown; options: {list(p.options)}")
            taken.append(p.options.index(option))
        kept = {name: dict(self.levels[name].fractions)[r] for name, r in update.fractions.items()}

        def stays(pick: tuple[int, int] | None) -> bool:
            return pick is None or taken[pick[0]] == pick[1]

        steps: list[Step] = []
        used: dict[str, int] = {}
        for m in self.steps:
            if not holds(m.when, chosen) or not stays(m.pick):
                continue
            keep = kept.get(m.param) if m.param is not None else None
            reads = restrict_args(m.reads, chosen, stays, keep)
            writes = restrict_args(m.writes, chosen, stays, keep)
            for arg in (*reads, *writes):
                for span in arg.spans:
                    used[span.value] = max(used.get(span.value, 0), span.hi)
            written = {s.value for a in writes for s in a.spans}
            pairs = tuple(p for p in m.inplace if p[0] in written)
            macs = sum(n for when, n in m.macs if holds(when, chosen))
            steps.append(Step(m.name, m.kind, m.op, m.target, reads, writes, pairs, keep, macs))

        values = {}
        for name, value in self.values.items():
            if name not in used:
                continue
            level = MAIN
            if value.role == "parameter" and value.tensor not in update.fractions:
                level = self.options.frozen
            values[name] = _resized(value, kept, level, self)
        composites = tuple(
            c for c in (tuple((v, o) for v, o in group if v in used) for group in self.composites) if len(c) > 1
        )
        chosen_picks = {p.op: p.options[taken[i]] for i, p in enumerate(self.picks) if holds(p.when, chosen)}
        full = {n: (float(r), kept[n]) for n, r in update.fractions.items()}
        return Schedule(
            self.network, self.options, MappingProxyType(full), MappingProxyType(chosen_picks),
            MappingProxyType(values), tuple(steps), composites,
        )  # fmt: skip


def restrict_args(args: tuple[MaybeArg, ...], chosen: int, stays: Any, keep: int | None) -> tuple[Arg, ...]:
    """Arguments under conditions and picks that hold, cut to the units that are kept."""
    result = []
    for a in args:
        if not stays(a.pick):
            continue
        spans = [s for s in a.spans if holds(s.when, chosen)]
        if not spans:
            continue
        if a.boxes:  # ranges that adjoin in memory need not do so in the array
            pairs = [(s, box) for s, box in zip(a.spans, a.boxes, strict=True) if holds(s.when, chosen)]
            held = tuple(Span(s.value, s.lo, s.hi) for s, _ in pairs)
            result.append(Arg(a.tag, a.shape, a.dtype, held, a.channels, a.add, a.rows, tuple(b for _, b in pairs)))
            continue
        merged: list[Span] = []
        for s in spans:
            if merged and merged[-1].value == s.value and merged[-1].hi == s.lo:
                merged[-1] = Span(s.value, merged[-1].lo, s.hi)
            else:
                merged.append(Span(s.value, s.lo, s.hi))
        shape = a.shape
        if a.cut is not None and keep is not None:
            axis, per_unit = a.cut
            shape = (*shape[:axis], keep * per_unit, *shape[axis + 1 :])
        result.append(Arg(a.tag, shape, a.dtype, tuple(merged), a.channels, a.add, a.rows))
    return tuple(result)


def _resized(value: Value, kept: Mapping[str, int | None], level: str, graph: TrainingGraph) -> Value:
    """``value`` with the shape it has when its parameter is updated in part."""
    shape, size = value.shape, value.bytes
    keep = kept.get(value.tensor)
    if keep is not None and value.role in ("parameter gradient", "accumulator", "state"):
        op, slot = graph.network.owner[value.tensor]
        info = graph.infos[op.name]
        fraction = op_def(info.kind).fraction(info, slot)
        assert fraction is not None  # only such parameters have kept units
        full = math.prod(shape)
        shape = (*shape[: fraction.axis], keep * fraction.per_unit, *shape[fraction.axis + 1 :])
        size = size * math.prod(shape) // full
    return replace(value, shape=shape, bytes=size, level=level)
