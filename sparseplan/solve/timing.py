"""Cycles (or picojoules) of a run as a row of decisions, from the cost model that the verifier adds up too.

A step costs what ``costs.price`` says of it with the arguments that it has for certain, and more under the
conditions of its MACs, of the way in which its backward gets what it needs, and of where its parameters
live. What else it may lack (parts of a gradient, an auxiliary) is not in the row: a lower bound, so that
nothing is cut off that keeps a cap; ``Pipeline`` adds up what was really chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from sparseplan.costs import Missing, Work, explain, missing_rows, picojoules_of, price, work_of
from sparseplan.device import Device
from sparseplan.errors import DeviceError
from sparseplan.recompute import paged_name
from sparseplan.solve.again import Again
from sparseplan.solve.rows import Literal, Literals, Row
from sparseplan.solve.tiling import Tiling
from sparseplan.steps import MAIN, PAGE_LEVEL, Arg, Span, Step
from sparseplan.training import ALWAYS, NEVER, MaybeStep, TrainingGraph

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
        literals = self.literals
        assert literals is not None
        row = Row(0, {})
        forward: dict[str, MaybeStep] = {}
        for step in self.graph.steps:
            if step.kind == "forward":
                forward[step.op] = step
            certain = self.with_args(step, lambda pick: pick is None)
            here = literals.condition((step.when, step.pick))
            for literal, size in self.terms(certain, here):
                self.add(row, literal, size)
            base = self.cost(certain, 0)
            for pick in dict.fromkeys(a.pick for a in (*step.reads, *step.writes) if a.pick is not None):
                more = self.cost(self.with_args(step, lambda p, pick=pick: p in (None, pick)), 0) - base  # type: ignore[misc]
                self.add(row, literals.all([here, literals.picks[pick[0]][pick[1]]]), more)
            for less, near in self.homes(step):
                self.add(row, literals.all([here, near]), less)
            self.streamed(row, step, here, again)
        for (op, _), run in again.runs.items():
            step = self.with_args(forward[op], lambda pick: pick is None)
            self.add(row, run, self.cost(step, _most(step)))
        for t, literal in again.paged.items():
            self.add(row, literal, self.paging(t, out=True))
        for (t, _), literal in again.fetches.items():
            self.add(row, literal, self.paging(t, out=False))
        return row

    @staticmethod
    def add(row: Row, literal: Literal, size: int) -> None:
        if size:
            row.add(literal, size)

    @staticmethod
    def with_args(step: MaybeStep, keep: Callable[[tuple[int, int] | None], bool]) -> MaybeStep:
        """A step with the arguments whose pick is kept, and of these the spans that it is sure to have."""
        args = []
        for group in (step.reads, step.writes):
            found = []
            for a in group:
                spans = tuple(s for s in a.spans if s.when in (ALWAYS, step.when))
                if keep(a.pick) and spans:
                    found.append(replace(a, spans=spans))
            args.append(tuple(found))
        return replace(step, reads=args[0], writes=args[1])

    def terms(self, step: MaybeStep, here: Literal) -> Iterable[tuple[Literal, int]]:
        """What a step costs if it runs, and more under each condition of its MACs."""
        assert self.literals is not None
        before = self.cost(step, 0)
        yield here, before
        done = 0
        for when, n in step.macs:
            done += n
            now = self.cost(step, done)
            yield self.literals.all([here, self.literals.mask(when)]), now - before
            before = now

    def homes(self, step: MaybeStep) -> Iterable[tuple[int, Literal]]:
        """How much less a step costs where a parameter that it reads is updated, and so lives in main memory."""
        assert self.literals is not None
        for name in dict.fromkeys(s.value for a in step.reads for s in a.spans if s.value in self.frozen):
            when = self.graph.levels[name].atoms[0] if self.graph.levels[name].atoms else NEVER
            if when != NEVER:
                near = {n: v for n, v in self.frozen.items() if n != name}
                saved = self.cost(step, _most(step), near) - self.cost(step, _most(step))
                yield saved, self.literals.mask(when)

    def streamed(self, row: Row, step: MaybeStep, here: Literal, again: Again) -> None:
        """How much more a step costs where what it reads or writes lives at a slower level."""
        assert self.literals is not None
        for name in dict.fromkeys(s.value for a in (*step.reads, *step.writes) for s in a.spans):
            away = again.away(name)
            if away is not None:
                level = next(lv for n, lv in again.moved if n == name)
                more = self.cost(step, _most(step), {**self.frozen, name: level}) - self.cost(step, _most(step))
                self.add(row, self.literals.all([here, away]), more)

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
