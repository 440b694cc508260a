"""Cycles (or picojoules) of a run as a row of decisions, from the cost model that the verifier adds up too.

A step of a parameter costs what ``costs.price`` says of it at each fraction, with each way to get what it needs.
Any other costs what it does with the arguments that it has for certain, and more under the conditions of its MACs,
of the way in which its backward gets what it needs, and of where its parameters live. What else it may have (parts of
a gradient, an auxiliary, parameters that a rerun streams) is not in the row: a lower bound, so that nothing is cut
off that keeps a cap; ``Pipeline`` adds up what was really chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from sparseplan.costs import Missing, Work, explain, missing_rows, picojoules_of, price, work_of
from sparseplan.device import Device
from sparseplan.errors import DeviceError
from sparseplan.recompute import packable, packed_args, paged_name
from sparseplan.solve.again import Again
from sparseplan.solve.literals import Literal, Literals, Row
from sparseplan.solve.tiling import Tiling
from sparseplan.steps import MAIN, PAGE_LEVEL, Arg, Span, Step
from sparseplan.training import ALWAYS, NEVER, MaybeStep, TrainingGraph, holds, restrict_args

#: integers that a step's work costs: cycles, or picojoules
Price = Callable[[Device, Work], int]


def cycles(device: Device, work: Work) -> int:
    """Cycles of a step's work."""
    return price(device, work).total


picojoules: Price = picojoules_of


def gaps(device: Device, graph: TrainingGraph, tiling: Tiling, again: Again) -> tuple[Missing, ...]:
    """Rows that the cycles of some step that may run would need, copies and what is streamed among them."""
    rows = _Rows(device, graph, tiling, None, cycles)
    return tuple(sorted({m for work in rows.works(again) for m in missing_rows(device, work)}))


def cost_row(
    device: Device, graph: TrainingGraph, tiling: Tiling, literals: Literals, again: Again, price_of: Price = cycles
) -> Row:
    """What a run costs, as a row.

    Raises:
        DeviceError: naming all rows that the device lacks.
    """
    if price_of is cycles and (missing := gaps(device, graph, tiling, again)):
        raise DeviceError(explain(device, missing))
    return _Rows(device, graph, tiling, literals, price_of).run(again)


def _most(step: MaybeStep) -> int:
    return sum(n for _, n in step.macs)


def certain(step: MaybeStep, pick: tuple[int, int] | None = None) -> MaybeStep:
    """A step with the arguments of no pick, or of that one too, and of these the spans that it is sure to have."""
    args = []
    for group in (step.reads, step.writes):
        found = []
        for a in group:
            spans = tuple(s for s in a.spans if s.when in (ALWAYS, step.when))
            if a.pick in (None, pick) and spans:
                found.append(replace(a, spans=spans))
        args.append(tuple(found))
    return replace(step, reads=args[0], writes=args[1])


def _at(step: MaybeStep, chosen: int, pick: tuple[int, int] | None, keep: int | None) -> Step:
    """A parameter's step at a fraction, with the arguments of no pick, or of that one too."""
    reads, writes = (
        restrict_args(args, chosen, lambda p: p in (None, pick), keep) for args in (step.reads, step.writes)
    )
    return Step(step.name, step.kind, step.op, step.target, reads, writes, (), keep)


def _extremes(step: MaybeStep) -> list[tuple[MaybeStep | Step, int]]:
    """A step with all that it may do and with the least."""
    least = min((n for _, n in step.macs if n), default=0)
    found: list[tuple[MaybeStep | Step, int]] = [(s, n) for s in (certain(step), step) for n in (least, _most(step))]
    return found


class _Rows:
    def __init__(
        self, device: Device, graph: TrainingGraph, tiling: Tiling, literals: Literals | None, price_of: Price
    ) -> None:
        self.device, self.graph, self.tiling, self.price_of = device, graph, tiling, price_of
        self.literals = literals
        options = graph.options
        self.frozen = {} if options.frozen == MAIN else {
            n: options.frozen for n, v in graph.values.items() if v.role == "parameter"
        }  # fmt: skip

    def work(self, step: MaybeStep | Step, macs: int, levels: Mapping[str, str] | None = None) -> Work:
        options, info = self.graph.options, self.graph.infos.get(step.op)
        pass_ = "forward" if step.kind in ("forward", "recompute") else step.target
        tile = self.tiling.tile(step.op, pass_)
        own = getattr(step, "param", None)  # what a step computes an update of is not frozen
        where = {n: level for n, level in (self.frozen if levels is None else levels).items() if n != own}
        return work_of(step, macs, self.device, options.dtype, info=info, tile=tile, batch=options.batch,
                       levels=where)  # fmt: skip

    def cost(self, step: MaybeStep | Step, macs: int, levels: Mapping[str, str] | None = None) -> int:
        return self.price_of(self.device, self.work(step, macs, levels))

    def run(self, again: Again) -> Row:
        assert self.literals is not None
        row = Row(0, {})
        forward: dict[str, MaybeStep] = {}
        for i, step in enumerate(self.graph.steps):
            if step.kind == "forward":
                forward[step.op] = step
            here = self.literals.condition((step.when, step.pick))
            if step.param is not None:
                self.by_level(row, step, here, again, again.packed[step.op] if i in again.packs else False)
            else:
                self.by_condition(row, step, here)
                self.streamed(row, step, here, again)
            self.homes(row, step, here)
        # what an update brings near is priced as if it were
        far = {n: level for n, level in self.frozen.items() if not self.graph.levels[n].atoms}
        once = {op: self.cost(certain(forward[op]), _most(forward[op]), far) for op in {op for op, _ in again.runs}}
        for (op, _), run in again.runs.items():
            self.add(row, run, once[op])
        for t, literal in again.paged.items():
            self.add(row, literal, self.paging(t, out=True))
        for (t, _), literal in again.fetches.items():
            self.add(row, literal, self.paging(t, out=False))
        self.packing(row, again)
        return row

    @staticmethod
    def add(row: Row, literal: Literal, size: int) -> None:
        if size:
            row.add(literal, size)

    def about(self, row: Row, literals: list[Literal], size: int) -> None:
        """Count what is right to within the rounding of a cycle, so that the row stays a lower bound."""
        assert self.literals is not None
        literal = self.literals.all(literals)
        if size and literal is not False:
            self.add(row, literal, size)
            row.constant -= 1

    # -- one step -----------------------------------------------------------------------------------
    def by_level(self, row: Row, step: MaybeStep, here: Literal, again: Again, packed: Literal) -> None:
        """A step of a parameter's gradient or update: what it costs at each fraction, in all ways to get what it
        needs, its input as it is or packed."""
        assert self.literals is not None
        assert step.param is not None
        levels, chosen = self.graph.levels[step.param], NEVER
        near = {n: level for n, level in self.frozen.items() if n != step.param}  # what is updated is not frozen
        picks = dict.fromkeys((None, *(a.pick for a in (*step.reads, *step.writes))))
        before: dict[object, int] = {}  # what each literal adds, so far

        def more(literals: list[Literal], key: object, size: int) -> None:
            self.add(row, self.literals.all(literals), size - before.get(key, 0))  # type: ignore[union-attr]
            before[key] = size

        for (_, keep), bit in zip(levels.fractions, levels.atoms, strict=True):
            chosen |= bit
            macs = sum(n for when, n in step.macs if holds(when, chosen))
            without = _at(step, chosen, None, keep)
            plain = self.cost(without, macs, near)
            for name, level in again.moved:
                if any(s.value == name for a in (*without.reads, *without.writes) for s in a.spans):
                    far = self.cost(without, macs, {**near, name: level}) - plain
                    more([here, self.literals.mask(bit), again.moved[name, level]], name, far)
                    row.constant -= 1
            for pick in picks:
                args = _at(step, chosen, pick, keep)
                now = self.cost(args, macs, near)
                under = [here, self.literals.mask(bit)]
                if pick is not None:
                    under.append(self.literals.picks[pick[0]][pick[1]])
                more(under, (False, pick), now if pick is None else now - plain)
                tensors = packable(args, self.graph.values) if packed is not False else ()
                if tensors and any(a.tag == "x0" and a.pick == pick for a in step.reads):
                    codes = self.cost(self.reading_codes(args, tensors), macs, near)
                    more([*under, packed], (True, pick), codes - now)

    def by_condition(self, row: Row, step: MaybeStep, here: Literal) -> None:
        """Any other step, with the arguments that it is sure to have, and more under the conditions of its MACs and
        of the way in which it gets what it needs."""
        assert self.literals is not None
        sure, most = certain(step), _most(step)
        if len(step.macs) < 2:
            base = self.cost(sure, most)
            self.add(row, here, base)
        else:  # costs are convex in MACs: those of each condition by itself add up to no more
            base = self.cost(sure, 1)
            self.add(row, here, base)
            for when, n in step.macs:
                if n:
                    self.about(row, [here, self.literals.mask(when)], self.cost(sure, n) - base)
        for pick in dict.fromkeys(a.pick for a in (*step.reads, *step.writes) if a.pick is not None):
            more = self.cost(certain(step, pick), most) - self.cost(sure, most)
            self.about(row, [here, self.literals.picks[pick[0]][pick[1]]], more)

    def reading_codes(self, step: Step, tensors: tuple[str, ...]) -> Step:
        """A gradient step that reads codes and scales instead of its input."""
        reads = tuple(a for a in step.reads if a.tag != "x0")
        return replace(step, reads=(*reads, *packed_args(tensors, self.graph.values, self.graph.options.alignment)))

    def packing(self, row: Row, again: Again) -> None:
        """What quantising costs: each tensor once, whoever reads its codes."""
        assert self.literals is not None
        readers: dict[str, list[Literal]] = {}
        for i, names in again.packs.items():
            step = self.graph.steps[i]
            for a in (a for a in step.reads if a.tag == "x0"):
                pick = a.pick if a.pick is not None else step.pick
                for s in (s for s in a.spans if s.value in names):
                    read = self.literals.condition((step.when if s.when == ALWAYS else s.when, pick))
                    readers.setdefault(s.value, []).append(self.literals.all([read, again.packed[step.op]]))
        for t, found in readers.items():
            literal: Literal = False
            for other in found:
                literal = self.literals.either(literal, other)
            v, alignment = self.graph.values[t], self.graph.options.alignment
            read_ = Arg("x0", v.shape, v.dtype, (Span(t, 0, v.bytes),))
            step_ = Step("pack", "pack", t, "y", (read_,), packed_args((t,), self.graph.values, alignment))
            self.add(row, literal, self.cost(step_, 0))

    def homes(self, row: Row, step: MaybeStep, here: Literal) -> None:
        """How much less a step costs where a parameter that it reads is updated, and so lives in main memory."""
        assert self.literals is not None
        for name in dict.fromkeys(s.value for a in step.reads for s in a.spans if s.value in self.frozen):
            when = self.graph.levels[name].atoms[0] if self.graph.levels[name].atoms else NEVER
            if when != NEVER and name != step.param:
                near = {n: v for n, v in self.frozen.items() if n != name}
                saved = min(self.cost(s, n, near) - self.cost(s, n) for s, n in _extremes(step))
                self.about(row, [here, self.literals.mask(when)], saved)

    def streamed(self, row: Row, step: MaybeStep, here: Literal, again: Again) -> None:
        """How much more a step costs where what it reads or writes lives at a slower level."""
        for name, level in again.moved:
            if any(s.value == name for a in (*step.reads, *step.writes) for s in a.spans):
                far, away = {**self.frozen, name: level}, again.moved[name, level]
                more = min(self.cost(s, n, far) - self.cost(s, n) for s, n in _extremes(step))
                self.about(row, [here, away], more)

    def paging(self, tensor: str, out: bool) -> int:
        """What a copy between main memory and L3 costs."""
        return self.cost(self.page(tensor, out), 0, {paged_name(tensor): PAGE_LEVEL})

    def page(self, tensor: str, out: bool) -> Step:
        """The copy of a tensor to L3, or back."""
        v = self.graph.values[tensor]
        near = Arg("y", v.shape, v.dtype, (Span(tensor, 0, v.bytes),))
        far = Arg("y", v.shape, v.dtype, (Span(paged_name(tensor), 0, v.bytes),))
        reads, writes = (near, far) if out else (far, near)
        return Step("page", "page_out" if out else "page_in", tensor, "y", (reads,), (writes,))

    def works(self, again: Again) -> Iterable[Work]:
        """The work of every step that may run, with each value at every level where it may live."""
        for step in self.graph.steps:
            yield self.work(step, _most(step))
            names = {s.value for a in (*step.reads, *step.writes) for s in a.spans}
            for name, level in again.moved:
                if name in names:
                    yield self.work(step, _most(step), {**self.frozen, name: level})
        for tensor in again.paged:
            yield from (self.work(self.page(tensor, out), 0, {paged_name(tensor): PAGE_LEVEL}) for out in (True, False))
