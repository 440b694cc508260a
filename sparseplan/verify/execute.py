"""Symbolic execution: walk the steps, and follow what every byte holds.

Each level is a map from bytes to contents. A step's reads must find the very contents that the
mathematics asks for, at the places where the plan put them; its writes replace contents. So a
tensor that was overwritten, freed, never written, not complete yet or already updated is found
where it does harm, whatever the cause.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from sparseplan.plan import PlacedBuffer, Plan
from sparseplan.steps import MAIN, PAGE_LEVEL, Arg, Step, Value
from sparseplan.units import align_up
from sparseplan.verify.boxes import Matched, Piece, Wanted
from sparseplan.verify.contents import Content, Held, LevelBytes
from sparseplan.verify.facts import Facts
from sparseplan.verify.findings import Findings
from sparseplan.verify.places import Places
from sparseplan.verify.wanted import Expectations

#: roles whose bytes are there before the step that first reads them
GIVEN = ("target", "parameter", "accumulator", "state")


class Placed(NamedTuple):
    """An argument's piece at its place."""

    arg: Arg
    wanted: Wanted
    piece: Piece
    value: str
    level: str
    lo: int
    base: int  # where the value's first byte would be

    @property
    def hi(self) -> int:
        """First address behind it."""
        return self.lo + self.piece.bytes


def execute(facts: Facts, plan: Plan, places: Places, findings: Findings) -> None:
    """Check all steps of a plan, and that none is missing."""
    _Execution(facts, plan, places, findings).run()


class _Execution:
    def __init__(self, facts: Facts, plan: Plan, places: Places, findings: Findings) -> None:
        self.facts, self.plan, self.places, self.findings = facts, plan, places, findings
        roles = {name: (v.role, v.tensor) for name, v in places.values.items()}
        layouts = {name: v.layout for name, v in places.values.items()}
        self.expectations = Expectations(facts, roles, layouts, findings)
        self.levels: dict[str, LevelBytes] = {}
        self.unread: dict[str, str] = {}  # auxiliary value -> the step that wrote it
        #: of each value, first byte -> the last step to write there, while none has read it
        self.wrote: dict[str, dict[int, int]] = {}
        self.useful: set[int] = set()  # steps of which something is read, or persists
        self.now = 0
        count = len(plan.steps)
        self.starts: list[list[PlacedBuffer]] = [[] for _ in range(count)]
        self.stops: list[list[PlacedBuffer]] = [[] for _ in range(count)]
        for b in plan.buffers:
            if b.value in places.values:
                if b.start < count:
                    self.starts[b.start].append(b)
                if b.stop < count:
                    self.stops[b.stop].append(b)

    def run(self) -> None:
        self.check_steps()
        for name, value in self.places.values.items():
            if value.role in ("parameter", "accumulator", "state") or self.arrives(value):
                self.load(name, 0)
        for i, step in enumerate(self.plan.steps):
            self.step(i, step)
        self.check_end()

    @staticmethod
    def arrives(value: Value) -> bool:
        """Whether a value is a network input as it comes from outside; copies of one are written by steps."""
        return value.role == "input" and value.name == value.tensor and value.level == MAIN

    def step(self, i: int, step: Step) -> None:
        where = f"step {i} ({step.name})"
        self.now = i
        overwritten = {x for _, x in step.inplace}
        for b in self.stops[i]:
            if b.value not in overwritten:
                self.write(b.level, b.offset, b.end, Content("freed", b.value), b.offset - b.lo)
        if step.kind == "loss":
            for name, value in self.places.values.items():
                if value.role == "target":
                    self.load(name, i)
        reads, writes = self.expectations.of(where, step)
        read = self.locate(where, i, reads, step)
        written = self.locate(where, i, writes, None)
        for p in read:
            self.check_read(where, p)
            self.unread.pop(p.value, None)
            self.useful.update(self.wrote.pop(p.value, {}).values())
        self.check_inplace(where, step, read, written)
        for b in self.stops[i]:
            if b.value in overwritten:  # held until it was read
                self.write(b.level, b.offset, b.end, Content("freed", b.value), b.offset - b.lo)
        for b in self.starts[i]:
            value = self.places.values[b.value]
            if value.role not in GIVEN and not self.arrives(value):
                self.write(b.level, b.offset, b.end, Content("blank", b.value), b.offset - b.lo)
        for p in written:
            if p.piece.holds is not None:
                self.write(p.level, p.lo, p.hi, p.piece.holds, p.base)
            else:
                self.add(where, p)
            if p.piece.role == "auxiliary":
                self.unread[p.value] = where
            if self.places.values[p.value].persistent:
                self.useful.add(i)
            if p.arg.add:
                self.useful.update(self.wrote.pop(p.value, {}).values())
            self.wrote.setdefault(p.value, {})[p.lo] = i

    # -- which steps there are ----------------------------------------------------------------
    def check_steps(self) -> None:
        """All that are required, those that change something exactly once; figures of each."""
        facts = self.facts
        count: dict[tuple[str, str, str], int] = {}
        last = len(self.plan.steps)
        for i in range(len(self.plan.steps) - 1, -1, -1):
            if self.plan.steps[i].kind != "update":
                break
            last = i
        required = facts.required()
        for i, step in enumerate(self.plan.steps):
            where, key = f"step {i} ({step.name})", (step.kind, step.op, step.target)
            count[key] = count.get(key, 0) + 1
            if count[key] > 1 and step.kind in ("forward", "loss", "grad_param", "update"):
                self.findings.add("step", where, "is repeated")
            if key in required:
                keep = None
                if step.kind in ("grad_param", "update"):
                    keep = facts.keep(facts.network.op[step.op].params[step.target])
                if step.keep != keep:
                    self.findings.add("step", where, f"keep={step.keep} should be {keep}")
            elif step.kind == "grad_input":
                self.findings.add("step", where, "is not needed: no updated parameter lies upstream")
            elif step.kind in ("forward", "grad_param"):
                continue  # reported with its arguments
            kind: str = "forward" if step.kind == "recompute" else step.kind
            macs = facts.macs(kind, step.op, step.target) if (kind, step.op, step.target) in required else 0
            if step.macs != macs:
                self.findings.add("macs", where, f"macs={step.macs} should be {macs}")
            if step.kind == "update" and facts.options.gradients == "accumulate" and i < last:
                self.findings.add("step", where, "updates before the end of the step, but gradients are accumulated")
        for (kind, op, target), reason in required.items():
            if (kind, op, target) not in count:
                self.findings.add("step", f"{op}", f"{kind} step of {target!r} is missing: {reason}")

    # -- bytes ------------------------------------------------------------------------------------
    def level(self, name: str) -> LevelBytes:
        return self.levels.setdefault(name, LevelBytes())

    def write(self, level: str, lo: int, hi: int, content: Content, base: int) -> None:
        self.level(level).write(lo, hi, content, base)

    def load(self, name: str, step: int) -> None:
        """Let a value's buffers that live at a step hold what they are given."""
        value = self.places.values[name]
        held = name if value.role in ("accumulator", "state") else value.tensor
        version = 0 if value.persistent else None
        for b in self.places.buffers.get(name, ()):
            end = min(b.end, b.offset - b.lo + value.bytes)
            if b.start <= step < b.stop and b.offset < end:
                self.write(b.level, b.offset, end, Content(value.role, held, version), b.offset - b.lo)

    def locate(self, where: str, i: int, args: Matched, step: Step | None) -> list[Placed]:
        """The arguments' bytes, as far as they have any; ``step``: of reads, which may be of what it overwrites."""
        result: list[Placed] = []
        for arg, wanted in args:
            what = f"{'writes' if step is None else 'reads'} {arg.tag!r}"
            if (arg.shape, arg.channels) not in wanted.shapes or arg.dtype != wanted.dtype:
                shape, channels = wanted.shapes[0]
                given = f"shape={arg.shape}, channels={arg.channels}, dtype={arg.dtype}"
                right = f"shape={shape}, channels={channels}, dtype={wanted.dtype}"
                self.findings.add("step", where, f"{what} of {given}, which should be {right}")
            if arg.add != wanted.add:
                self.findings.add("step", where, f"{what} with add={arg.add}, which should be {wanted.add}")
            if wanted.boxed:
                self.check_spans(where, what, arg, wanted)
            elif arg.boxes or arg.rows is not None:
                self.findings.add("step", where, f"{what} in boxes, which it must not")
            if not wanted.boxed and len(arg.spans) != len(wanted.pieces):
                self.findings.add("step", where, f"{what} in {len(arg.spans)} spans, which should be those of "
                                  f"{[p.tensor for p in wanted.pieces]}")  # fmt: skip
                continue
            before: Placed | None = None
            for k, piece in enumerate(wanted.pieces):
                span = arg.spans[k if piece.span is None else piece.span]
                value = self.places.values.get(span.value)
                if value is None or (value.role, value.tensor) != (piece.role, piece.tensor):
                    self.findings.add(
                        "step", where, f"{what} in {span.value!r}, which is not {piece.role} {piece.tensor!r}"
                    )
                    continue
                size = self.places.padded(span.value, self.facts.options.alignment)
                paged = self.plan.steps[i].kind in ("page_out", "page_in")
                if value.layout != "chw" and not wanted.boxed and not paged:
                    self.findings.add("step", where, f"{what} of {span.value!r}, stored by rows, without boxes")
                stop = align_up(piece.bytes, self.facts.options.alignment)
                if not wanted.boxed and (span.lo, span.hi) != (0, stop):
                    given = f"bytes [{span.lo}, {span.hi}) of {span.value!r}"
                    self.findings.add("step", where, f"{what} in {given}: should be [0, {stop}), padding included")
                self.check_level(where, what, value, step if step is not None else self.plan.steps[i], step is None)
                end = piece.lo + piece.bytes
                if not wanted.boxed or end == value.bytes:
                    end = max(end, min(span.hi, size))
                lo = self.live(where, i, what, span.value, piece.lo, end, step)
                if lo is None:
                    continue
                placed = Placed(arg, wanted, piece, span.value, value.level, lo + piece.lo, lo)
                contiguous = self.facts.options.concat == "adjoin"
                if contiguous and before is not None and (before.hi, before.level) != (placed.lo, placed.level):
                    self.findings.add("stale", where, f"{what}: {before.value!r} ends at {before.hi}, {span.value!r} "
                                      f"begins at {lo}: they do not adjoin")  # fmt: skip
                before = placed
                result.append(placed)
        return result

    def check_spans(self, where: str, what: str, arg: Arg, wanted: Wanted) -> None:
        """Spans of boxes are the bytes of their rows, with the value's padding behind its last row."""
        for k, span in enumerate(arg.spans):
            pieces = [p for p in wanted.pieces if p.span == k]
            value = self.places.values.get(span.value)
            if not pieces or value is None:
                continue  # reported before, or in a moment
            lo, hi = pieces[0].lo, pieces[-1].lo + pieces[-1].bytes
            most = self.places.padded(span.value, self.facts.options.alignment) if hi == value.bytes else hi
            if (span.lo, span.hi) != (lo, most):
                given = f"bytes [{span.lo}, {span.hi}) of {span.value!r}"
                self.findings.add("step", where, f"{what} in {given}: should be [{lo}, {most}), padding included")

    def check_level(self, where: str, what: str, value: Value, step: Step, written: bool) -> None:
        """Kernels work in main memory, save for parameters that are read elsewhere; page steps cross levels."""
        wanted = MAIN
        if step.kind in ("page_out", "page_in"):
            wanted = PAGE_LEVEL if written == (step.kind == "page_out") else MAIN
        elif value.role in ("accumulator", "state") or (value.role == "parameter" and not written):
            return  # streamed from where it lies, which is checked with its value
        if value.level != wanted:
            self.findings.add("step", where, f"{what} of {value.name!r} in {value.level}, which should be {wanted}")

    def live(self, where: str, i: int, what: str, name: str, at: int, size: int, step: Step | None) -> int | None:
        """Address of a value, once its bytes from ``at`` to ``size`` have live buffers."""
        buffers = self.places.buffers.get(name)
        if not buffers:
            self.findings.add("unplaced", where, f"{what}: {name!r} has no buffer")
            return None
        for b in buffers:
            if b.lo > at or at >= size:
                break
            alive = b.start <= i < b.stop
            if not alive and step is not None and b.stop == i:
                alive = any(x == name and self.takes_over(i, y, b) for y, x in step.inplace
                            if self.places.base.get(y) == self.places.base[name])  # fmt: skip
            if alive:
                at = max(at, b.lo + b.bytes)
        if at >= size:
            return self.places.base[name]
        behind = [b for b in buffers if b.lo <= at < b.lo + b.bytes]
        lives = ", ".join(f"[{b.start}, {b.stop})" for b in behind)
        text = f"{what}: bytes from {at} of {name!r} live in steps {lives}"
        if not behind:
            self.findings.add("unplaced", where, f"{what}: bytes from {at} of {name!r} have no buffer")
        elif step is None:
            self.findings.add("lifetime", where, text)
        elif all(b.stop <= i for b in behind):
            self.findings.add("freed", where, text)
        else:
            self.findings.add("unwritten", where, text)
        return None

    def takes_over(self, i: int, y: str, x: PlacedBuffer) -> bool:
        """Whether value ``y`` owns all bytes of buffer ``x`` from step ``i`` on."""
        at = x.offset
        for b in self.places.buffers.get(y, ()):
            if b.start == i and b.level == x.level and b.offset <= at:
                at = max(at, b.end)
        return at >= x.end

    # -- reads -------------------------------------------------------------------------------------
    def check_read(self, where: str, p: Placed) -> None:
        """Whether the bytes hold what they must."""
        held = self.level(p.level).read(p.lo, p.hi)
        wrong = next((h for h in held if h.content != p.piece.holds or h.base != p.base), None)
        if wrong is not None:
            self.report(where, p, wrong)

    def report(self, where: str, p: Placed, h: Held) -> None:
        """Say what is found instead."""
        what = f"reads {p.arg.tag!r} of {p.value!r}: byte {h.lo} of {p.level}"
        wanted, found = p.piece.holds, h.content
        new = any(b.start == self.now and b.offset <= h.lo < b.end for b in self.places.buffers[p.value])
        if found is None or found.kind == "blank" or (new and p.piece.role not in (*GIVEN, "input")):
            self.findings.add("unwritten", where, f"{what} has not been written")
        elif found.kind == "freed":
            self.findings.add("freed", where, f"{what} was freed with {found.name!r}")
        elif wanted is not None and found[:2] == wanted[:2] and found.state != wanted.state:
            self.findings.add("stale", where, f"{what} holds it " + _state(found, wanted))
        elif found == wanted:
            self.findings.add("stale", where, f"{what} holds another part of it")
        else:
            self.findings.add("stale", where, f"{what} was overwritten by {found.kind} {found.name!r}")

    def add(self, where: str, p: Placed) -> None:
        """A gradient gets a term; with ``add`` on top of those that are there, row by row."""
        term = p.piece.adds
        alone = Content("gradient", p.piece.tensor, frozenset((term,)))
        if not p.arg.add:
            self.write(p.level, p.lo, p.hi, alone, p.base)
            return
        for h in self.level(p.level).read(p.lo, p.hi):
            content = h.content
            if content is None or content[:2] != ("gradient", p.piece.tensor) or h.base != p.base:
                self.report(where, p, h)
                self.write(p.level, h.lo, h.hi, alone, p.base)
                continue
            assert isinstance(content.state, frozenset)
            if term in content.state:
                self.findings.add("stale", where, f"adds to {p.value!r} what was added before")
            elif term is not None and max(map(self.facts.rank, content.state)) > self.facts.rank(term):
                self.findings.add("step", where, f"adds to {p.value!r} too late: terms are added from the loss back, "
                                  "and sums depend on it")  # fmt: skip
            self.write(p.level, h.lo, h.hi, Content("gradient", p.piece.tensor, content.state | {term}), p.base)

    # -- in place -----------------------------------------------------------------------------------
    def check_inplace(self, where: str, step: Step, read: list[Placed], written: list[Placed]) -> None:
        """Nothing that the step reads is overwritten by it, save where op and plan say so."""
        read, written = _together(read), _together(written)
        for k, w in enumerate(written):
            for other in written[:k]:
                if w.level == other.level and w.lo < other.hi and other.lo < w.hi:
                    self.findings.add("inplace", where, f"writes both {other.value!r} and {w.value!r} to "
                                      f"[{max(w.lo, other.lo)}, {min(w.hi, other.hi)})")  # fmt: skip
            for r in read:
                if w.level != r.level or w.hi <= r.lo or r.hi <= w.lo:
                    continue
                same = (w.lo, w.hi, w.arg.dtype) == (r.lo, r.hi, r.arg.dtype)
                updates = w.value == r.value and same and (w.piece.role != "gradient")
                whole = all(len(p.wanted.pieces) == 1 or p.wanted.boxed for p in (w, r)) and w.arg.channels is None
                allowed = (w.value, r.value) in step.inplace and whole and self.permits(step, w.arg, r.arg)
                if not (updates or (same and allowed)):
                    self.findings.add("inplace", where, f"writes {w.value!r} to [{w.lo}, {w.hi}) over {r.value!r} in "
                                      f"[{r.lo}, {r.hi}), which it reads as {r.arg.tag!r}")  # fmt: skip
        for y, x in step.inplace:
            made = [a for a in step.writes if any(s.value == y for s in a.spans)]
            used = [a for a in step.reads if any(s.value == x for s in a.spans)]
            if not any(self.permits(step, w, r) for w in made for r in used):
                self.findings.add("inplace", where, f"{y!r} may not overwrite {x!r}")

    def permits(self, step: Step, w: Arg, r: Arg) -> bool:
        """Whether the kernel may overwrite what it reads under one tag by what it writes under another."""
        if step.kind == "loss":
            return (w.tag, r.tag, w.add) == ("dy", "y", False)
        if step.op not in self.facts.infos:
            return False
        d, info = self.facts.defs[step.op], self.facts.infos[step.op]
        if step.kind in ("forward", "recompute"):
            return w.tag == "y" and r.tag in {f"x{i}" for i in d.inplace(info)}
        if step.kind == "grad_input":
            slot = next((i for i in range(len(info.inputs)) if step.target == f"x{i}"), None)
            fits = (w.tag, r.tag, w.add) == ("dx", "dy", False)
            return fits and slot is not None and d.inplace_grad(info, slot)
        return False

    # -- the end ----------------------------------------------------------------------------------
    def check_end(self) -> None:
        """What persists is whole, in its new version, for the next run."""
        for name, where in self.unread.items():
            self.findings.add("step", where, f"writes {name!r}, which no step reads")
        for i, step in enumerate(self.plan.steps):
            if i not in self.useful and step.kind != "loss":
                self.findings.add("step", f"step {i} ({step.name})", "writes nothing that a step reads")
        for name, value in self.places.values.items():
            if not value.persistent:
                continue
            changed = value.tensor in self.facts.update
            held = value.tensor if value.role == "parameter" else name
            wanted = Content(value.role, held, int(changed))
            for b in self.places.buffers.get(name, ()):
                end = min(b.end, b.offset - b.lo + value.bytes)
                for h in self.level(b.level).read(b.offset, max(end, b.offset)):
                    if h.content != wanted or h.base != b.offset - b.lo:
                        found = "nothing" if h.content is None else f"{h.content.kind} {h.content.name!r}"
                        if h.content is not None and h.content[:2] == wanted[:2]:
                            found += f" after {h.content.state} updates, not {wanted.state}"
                        self.findings.add(
                            "stale", f"end of step, value {name}", f"byte {h.lo} of {b.level} holds {found}"
                        )
                        break


def _together(placed: list[Placed]) -> list[Placed]:
    """Pieces of one argument that adjoin in one value as one: what a kernel reads or writes at once."""
    found: list[Placed] = []
    for p in placed:
        last = found[-1] if found else None
        if last is not None and last.arg is p.arg and last.value == p.value and last.hi == p.lo and p.wanted.boxed:
            merged = replace(last.piece, bytes=last.piece.bytes + p.piece.bytes)
            found[-1] = last._replace(piece=merged)
        else:
            found.append(p)
    return found


def _state(found: Content, wanted: Content) -> str:
    """How a content differs from what is wanted."""
    if isinstance(found.state, frozenset) and isinstance(wanted.state, frozenset):
        lacking = sorted(
            f"{op}.x{slot}" if op else f"loss number {slot + 1}" for op, slot, _ in wanted.state - found.state
        )
        return f"incomplete: {len(found.state)} of {len(wanted.state)} terms, without {', '.join(lacking)}"
    return f"in version {found.state}, not {wanted.state}"
