"""Bytes at each step as linear expressions of decisions: liveness, over conditions.

For every piece of every value the graph tells which steps may access it, and under which
condition. A piece is alive at a step when it was born and some later access takes place, so its
bytes count by a literal that is the disjunction of the conditions of the accesses to come. The
count is the one of ``liveness.analyse``, in-place overwriting included; a property test holds
both to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from sparseplan.liveness import pieces
from sparseplan.recompute import pack_reader, packed_values
from sparseplan.solve.again import Again
from sparseplan.solve.literals import Condition, Literal, Literals, Row
from sparseplan.steps import MAIN
from sparseplan.training import ALWAYS, MaybeStep, TrainingGraph
from sparseplan.units import align_up

Access = tuple[int, int, int, Condition]  # step, lo, hi, condition


def accesses(graph: TrainingGraph) -> dict[str, list[Access]]:
    """Every possible access to each value, in order of steps."""
    found: dict[str, list[Access]] = {}
    for i, step in enumerate(graph.steps):
        for arg in (*step.reads, *step.writes):
            for span in arg.spans:
                when = step.when if span.when == ALWAYS else span.when
                pick = arg.pick if arg.pick is not None else step.pick
                found.setdefault(span.value, []).append((i, span.lo, span.hi, (when, pick)))
    return found


def budget_rows(
    graph: TrainingGraph, literals: Literals, again: Again | None = None, look: Callable[[], None] | None = None
) -> list[Row]:
    """Live bytes of main memory at each step, those that may run again among them.

    ``look`` is called again and again; what it raises ends the work, as where time is up.
    """
    return _Rows(graph, literals, again, look or (lambda: None)).run()


class _Rows:
    """Positions are the steps, and before some of them the ops that may run again there."""

    def __init__(self, graph: TrainingGraph, literals: Literals, again: Again | None, look: Callable[[], None]) -> None:
        self.graph, self.literals, self.again, self.look = graph, literals, again or Again({}, {}, {}), look
        self.forward = {s.op: s for s in graph.steps if s.kind == "forward"}
        self.at: list[int] = []  # position of each base step
        self.extra: list[tuple[int, str]] = []  # position, op of what may run again
        by_step = self.again.by_step(self.forward)
        count = 0
        for i in range(len(graph.steps)):
            for op in by_step.get(i, ()):
                self.extra.append((count, op))
                count += 1
            self.at.append(count)
            count += 1
        self.slot_of = {p: i for i in by_step for p in range(self.at[i] - len(by_step[i]), self.at[i])}
        self.positions = count
        #: what begins (bytes under a literal; -1: always) or ends to count at each position
        self.changes: list[list[tuple[int, int]]] = [[] for _ in range(count + 1)]
        self.table = accesses(graph)
        #: (position, auxiliary) -> the pick under which a step of its own makes it there
        self.late = {
            (self.at[i], x.value): s.pick
            for i, s in enumerate(graph.steps) if s.kind == "aux" for a in s.writes for x in a.spans
        }  # fmt: skip
        #: value -> (position, literal) of each step that would read it again; makes it again
        self.reads: dict[str, list[tuple[int, int, int, Literal]]] = {}
        self.makes: dict[str, dict[int, Literal]] = {}
        #: values that a step makes only where somebody reads them, unlike an op's output
        self.optional = {name for name, v in graph.values.items() if v.role == "auxiliary"}
        for p, op in self.extra:
            self._run_again(p, op)
        #: (position, value) -> literal by which a value that may be overwritten counts there
        self.after: dict[tuple[int, str], Literal] = {}

    def _run_again(self, p: int, op: str) -> None:
        i, template = self.slot_of[p], self.forward.get(op)
        run = self.again.runs.get((op, i), False)
        if template is not None and run is not False:
            for arg in template.reads:
                for s in arg.spans:
                    self.reads.setdefault(s.value, []).append((p, s.lo, s.hi, run))
            for arg in template.writes:
                for s in arg.spans:
                    self.makes.setdefault(s.value, {})[p] = run
        for tensor in self.again.tensors(op, template):
            fetch = self.again.fetches.get((tensor, i), False)
            if fetch is not False:
                makes = self.makes.setdefault(tensor, {})
                makes[p] = self.literals.either(makes.get(p, False), fetch)

    # -- literals ---------------------------------------------------------------------------------
    def at_least(self, a: Literal, b: Literal) -> Literal:
        """A literal that holds where either does; it may hold elsewhere too, which costs bytes."""
        if a is False or b is True:
            return b
        if b is False or a is True:
            return a
        return self.literals.above((a, b))

    def run(self) -> list[Row]:
        pending = []
        parts: dict[str, int] = {}
        wanted = self.overwritable()
        for name, uses in self.table.items():
            self.look()
            value = self.graph.values[name]
            if value.persistent:
                self.persistent(name, uses)
                continue
            ends = (end for _, a, b, _ in uses for end in (a, b))
            found = pieces(ends)
            parts[name] = len(found)
            for lo, hi in found:
                segments, after = self.piece(name, lo, hi, uses, {p for p, x in wanted if x == name})
                pending.append((name, hi - lo, segments))
                for p, literal in after.items():
                    self.after[p, name] = self.at_least(self.after.get((p, name), False), literal)
        pending += self.packed_pieces()
        special = self.specials(wanted, {name for name, n in parts.items() if n > 1})
        held: dict[str, list[tuple[int, Literal]]] = {}
        for (p, name), literal in special.items():
            held.setdefault(name, []).append((p, literal))
        for name, size, segments in pending:
            for start, stop, literal in segments:
                for p, other in held.get(name, ()):
                    if start <= p < stop:
                        self.count(p, p + 1, other, size)
                        self.count(p, p + 1, literal, -size)
                self.count(start, stop, literal, size)
        return self.swept()

    def count(self, start: int, stop: int, literal: Literal, size: int) -> None:
        """Count bytes under a literal over a range of positions."""
        if literal is not False:
            index = -1 if literal is True else literal.index
            self.changes[start].append((index, size))
            self.changes[stop].append((index, -size))

    def swept(self) -> list[Row]:
        """The rows, each from its neighbour by what changes between them: far less than what each counts."""
        rows: list[Row] = []
        now = Row(0, {})
        for changes in self.changes[:-1]:
            self.look()
            for index, size in changes:
                if index < 0:
                    now.constant += size
                elif left := now.terms.get(index, 0) + size:
                    now.terms[index] = left
                else:
                    now.terms.pop(index, None)
            rows.append(Row(now.constant, dict(now.terms)))
        return rows

    def persistent(self, name: str, uses: list[Access]) -> None:
        value = self.graph.values[name]
        if value.role == "parameter":
            size = align_up(value.bytes, self.graph.options.alignment)
            always = self.graph.options.frozen == MAIN
            found = [(True if always else self.literals.mask(self.graph.value_when[name]), size)]
        else:
            ends = (end for _, a, b, _ in uses for end in (a, b))
            found = [(self.literals.any(c for _, a, b, c in uses if a < hi and lo < b), hi - lo)
                     for lo, hi in pieces(ends)]  # fmt: skip
        away = self.again.away(name)
        for literal, size in found:
            here = literal if away is None else self.unless(literal, away)
            self.count(0, self.positions, here, size)

    def piece(
        self, name: str, lo: int, hi: int, uses: list[Access], overwrites: set[int]
    ) -> tuple[list[tuple[int, int, Literal]], dict[int, Literal]]:
        """Position ranges with the literal by which a piece is alive there; and what holds behind some positions.

        From its end: a piece is alive where a reader is still to come that no later run of its op serves.
        """
        base: dict[int, list[Condition]] = {}
        reads: dict[int, Literal] = {p: run for p, a, b, run in self.reads.get(name, ()) if a < hi and lo < b}
        for i, a, b, c in uses:
            if a < hi and lo < b:
                if name in self.again.packs.get(i, ()):  # read unless it is packed
                    exact = self.literals.negation(self.again.packed[self.graph.steps[i].op])
                    reads[self.at[i]] = self.literals.all([self.literals.condition(c), exact])
                else:
                    base.setdefault(self.at[i], []).append(c)
        makes = self.makes.get(name, {})
        events = sorted({*base, *reads, *makes}, reverse=True)
        born = 0 if self.graph.values[name].role == "input" else min(base)
        born_here = born if makes and name in self.optional else -1
        segments: list[tuple[int, int, Literal]] = []
        after: dict[int, Literal] = {}
        low: Literal = False  # what is known from behind the latest run, and of reruns that read
        conditions: list[Condition] = []
        last = None
        for p in events:
            alive = self.at_least(low, self.literals.any(conditions))
            if last is not None and p + 1 < last:
                segments.append((p + 1, last, alive))
            if p in overwrites:
                after[p] = alive
            if p == born_here:  # an auxiliary is made where somebody reads it
                here = alive
            elif p in base:
                conditions += base[p]
                here = self.at_least(low, self.literals.any(conditions))
                maker = self.late.get((p, name))
                if maker is not None:  # under that pick it comes into being here, and is not there before
                    conditions = [c for c in conditions if c[1] != maker]
            elif p in makes:
                here = alive if name in self.optional else self.at_least(alive, makes[p])
                low, conditions = self.unless(alive, makes[p]), []
            else:
                here = low = self.at_least(alive, reads[p])
                conditions = []
            segments.append((p, p + 1, here))
            last = p
        if last is not None and born < last:
            segments.append((born, last, self.at_least(low, self.literals.any(conditions))))
        return [s for s in segments if s[2] is not False], after

    def packed_pieces(self) -> list[tuple[str, int, list[tuple[int, int, Literal]]]]:
        """Codes and scales of what may be packed: from the last forward reader to the last reader of them."""
        readers: dict[str, list[tuple[int, Literal]]] = {}
        for i, names in self.again.packs.items():
            step = self.graph.steps[i]
            for name in names:
                taken = [c for j, _, _, c in self.table[name] if j == i]
                literal = self.literals.all([self.again.packed[step.op], self.literals.any(taken)])
                readers.setdefault(name, []).append((self.at[i], literal))
        pending = []
        for name, found in readers.items():
            parts = packed_values(self.graph.values[name])
            size = sum(align_up(v.bytes, self.graph.options.alignment) for v in parts)
            alive: Literal = False
            segments: list[tuple[int, int, Literal]] = []
            ends = sorted(found, key=lambda item: -item[0])
            starts = [p + 1 for p, _ in ends[1:]] + [self.at[pack_reader(self.graph.steps, name)]]
            for (p, literal), start in zip(ends, starts, strict=True):
                alive = self.at_least(alive, literal)
                segments.append((start, p + 1, alive))
            pending.append((packed_values(self.graph.values[name])[0].name, size, segments))
        return pending

    def unless(self, alive: Literal, made: Literal) -> Literal:
        """At least ``alive and not made``."""
        if alive is False or made is True:
            return False
        if made is False:
            return alive
        return self.literals.negation(made) if alive is True else self.literals.above_unless(alive, made)

    # -- overwriting in place -----------------------------------------------------------------------
    def overwritable(self) -> set[tuple[int, str]]:
        """(position, value) where a value may be overwritten."""
        found = {(self.at[i], x) for i, step in enumerate(self.graph.steps) for _, x in step.inplace}
        found |= {(p, x) for p, op in self.extra if op in self.forward for _, x in self.forward[op].inplace}
        return {(p, x) for p, x in found if not self.graph.values[x].persistent}

    def specials(self, wanted: set[tuple[int, str]], split: set[str]) -> dict[tuple[int, str], Literal]:
        """By (position, value): the literal by which a value that may be overwritten counts there.

        With several candidates of one size, one of them is overwritten unless all are needed later:
        all but the last count, and the last counts when all are. Of a value with several pieces
        (``split``) all count where one is needed later, though only if the op does run there: what
        is held past a run that is left out, the steps around it count.
        """
        result: dict[tuple[int, str], Literal] = {}
        steps = [(p, step, False) for p, step in zip(self.at, self.graph.steps, strict=True)]
        steps += [(p, self.forward[op], True) for p, op in self.extra if op in self.forward]
        for p, step, repeated in steps:
            by_output: dict[str, list[str]] = {}
            for y, x in step.inplace:
                if (p, x) in wanted:
                    by_output.setdefault(y, []).append(x)
            for y, sources in by_output.items():
                literal = self.literals.all([self.after.get((p, x), False) for x in sources])
                written = _written(step, y)
                if not repeated and written != step.when:  # the step may run without writing y
                    literal = self.literals.either(literal, self.literals.negation(self.literals.mask(written)))
                if repeated and sources[-1] in split:
                    run = self.again.runs.get((step.op, self.slot_of[p]), False)
                    literal = self.literals.all([run, literal])
                result[p, sources[-1]] = literal
        return result


def _written(step: MaybeStep, y: str) -> int:
    span = next(s for a in step.writes for s in a.spans if s.value == y)
    return step.when if span.when == ALWAYS else span.when


def undominated(rows: Sequence[Row], look: Callable[[], None] = lambda: None) -> list[Row]:
    """Rows that some other row does not already imply (all pairs up to a few hundred rows)."""
    kept: list[Row] = []
    for row in rows:  # neighbours differ little, so most fall here
        look()
        if kept and row.within(kept[-1]):
            continue
        while kept and kept[-1].within(row):
            kept.pop()
        kept.append(row)
    if len(kept) > 400:
        return kept
    return [r for i, r in enumerate(kept) if not any(r.within(o) and (j < i or not o.within(r))
                                                     for j, o in enumerate(kept) if j != i)]  # fmt: skip


def macs_terms(graph: TrainingGraph, literals: Literals, again: Again | None = None) -> Row:
    """MACs of one run of the schedule as a row."""
    row = Row(0, {})
    cost = {s.op: sum(n for _, n in s.macs) for s in graph.steps if s.kind == "forward"}
    for (op, _), run in (again.runs if again else {}).items():
        row.add(run, cost[op])
    for step in graph.steps:
        for when, n in step.macs:
            row.add(literals.mask(when), n)
    return row


def traffic_terms(graph: TrainingGraph, literals: Literals, again: Again) -> Row:
    """Bytes that paging and streaming move: each page once out and as often in as it comes back; what is
    streamed, once for each step that reads it and once more for each that writes it."""
    row = Row(0, {})
    size = {name: v.bytes for name, v in graph.values.items()}
    for t, literal in again.paged.items():
        row.add(literal, size[t])
    for (t, _), literal in again.fetches.items():
        row.add(literal, size[t])
    forward = {s.op: s for s in graph.steps if s.kind == "forward"}
    for (name, _), away in again.moved.items():
        users = [s for s in graph.steps for a in (*s.reads, *s.writes) for x in a.spans if x.value == name]
        for condition in ((s.when, s.pick) for s in users):
            row.add(literals.all([away, literals.condition(condition)]), size[name])
        for (op, _), run in again.runs.items():
            if any(x.value == name for a in forward[op].reads for x in a.spans):
                row.add(literals.all([away, run]), size[name])
    return row


def frozen_row(graph: TrainingGraph, literals: Literals, alignment: int) -> Row:
    """Bytes of parameters that stay at the frozen level, each at its alignment."""
    row = Row(0, {})
    for name, value in graph.values.items():
        if value.role == "parameter":
            size = align_up(value.bytes, alignment)
            row.add(True, size)
            if graph.levels[name].atoms:
                row.add(literals.mask(graph.levels[name].atoms[0]), -size)
    return row


def total(rows: Iterable[Row]) -> Row:
    """The sum of rows: of all steps' bytes, their area."""
    found = Row(0, {})
    for row in rows:
        found.constant += row.constant
        for i, n in row.terms.items():
            found.terms[i] = found.terms.get(i, 0) + n
    return found
