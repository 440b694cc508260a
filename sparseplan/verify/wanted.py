"""Which arguments a step must have: tags, shapes, and the contents of the bytes that it reads."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

from sparseplan.dtypes import bytes_of
from sparseplan.ops.base import Alternatives
from sparseplan.steps import OPTIMIZERS, PACKED_CODES, PACKED_SCALES, Arg, Step
from sparseplan.verify.boxes import Matched, Piece, Wanted, boxed, gradient_parts
from sparseplan.verify.contents import Content
from sparseplan.verify.facts import Facts
from sparseplan.verify.findings import Findings


class Expectations:
    """Matches the arguments of steps with what they must be."""

    def __init__(
        self, facts: Facts, roles: Mapping[str, tuple[str, str]], layouts: Mapping[str, str], findings: Findings
    ) -> None:
        self.facts, self.findings = facts, findings
        self.roles, self.layouts = roles, layouts  # by value name: (role, tensor), and chw or hcw
        self.summed: Counter[str] = Counter()  # gradients of each parameter so far
        self.where = ""
        self.args: dict[str, Arg] = {}  # of the step at hand, by tag

    def of(self, where: str, step: Step) -> tuple[Matched, Matched]:
        """Reads and writes of a step; those that do not fit are reported and left out."""
        facts = self.facts
        self.where, self.args = where, {a.tag: a for a in (*step.reads, *step.writes)}
        if step.kind == "loss":
            return self._loss(where, step)
        if step.kind in ("page_out", "page_in"):
            return self._page(where, step)
        if step.kind == "pack":
            return self._pack(where, step)
        if step.op not in facts.infos:
            self.findings.add("step", where, f"op={step.op!r} is no op of the network")
            return [], []
        if step.kind in ("forward", "recompute"):
            return self._forward(where, step)
        if step.kind == "aux":
            return self._aux(where, step)
        if step.kind == "grad_param":
            return self._grad_param(where, step)
        if step.kind == "grad_input":
            return self._grad_input(where, step)
        if step.kind == "update":
            return self._update(where, step)
        self.findings.add("step", where, f"kind={step.kind!r} is unknown")
        return [], []

    # -- arguments ------------------------------------------------------------------------------
    def _tensor(self, tag: str, tensor: str, rows: int | None = None) -> Wanted:
        """A tensor in whole, or the first ``rows`` of its channels."""
        facts = self.facts
        shape = facts.network.tensor[tensor].shape
        dtype = facts.dtype(facts.roots[tensor][0])
        arg = self.args.get(tag)
        if arg is not None and (arg.boxes or tensor in facts.mosaics):
            return boxed(self, arg, tensor, dtype)
        left = None
        if rows is not None:
            shape = (rows, *shape[1:])
            left = bytes_of(math.prod(shape), dtype)
        pieces: list[Piece] = []
        for root in facts.roots[tensor]:
            size = facts.bytes_of_root(root)
            if left is not None:
                size = min(size, left)
                left -= size
            if size:
                role = facts.network.tensor[root].role
                pieces.append(Piece(role, root, size, Content(role, root)))
        return Wanted(tag, ((facts.batched(shape), None),), dtype, tuple(pieces))

    def _param(self, tag: str, p: str, version: int) -> Wanted:
        t, dtype = self.facts.network.tensor[p], self.facts.dtype(p)
        piece = Piece("parameter", p, bytes_of(t.elements, dtype), Content("parameter", p, version))
        return Wanted(tag, ((t.shape, None),), dtype, (piece,))

    def _cut(self, tag: str, role: str, p: str, holds: Content, add: bool = False) -> Wanted:
        """A parameter's gradient, accumulator or state."""
        shape, dtype = self.facts.cut_shape(p), self.facts.options.dtype
        piece = Piece(role, p, bytes_of(math.prod(shape), dtype), holds)
        return Wanted(tag, ((shape, None),), dtype, (piece,), add)

    def _dy(self, op: str) -> Wanted:
        """The complete gradient of an op's output."""
        facts = self.facts
        root = facts.network.op[op].output
        shape, dtype = facts.batched(facts.network.tensor[root].shape), facts.options.dtype
        arg = self.args.get("dy")
        if arg is not None and arg.boxes:
            return boxed(self, arg, root, dtype, gradient=True)
        terms = frozenset(term for row in facts.contributions.get(root, ()) for term in row)
        piece = Piece("gradient", root, bytes_of(math.prod(shape), dtype), Content("gradient", root, terms))
        return Wanted("dy", ((shape, None),), dtype, (piece,))

    def _auxiliary(self, op: str, tag: str) -> Wanted:
        aux = self.facts.defs[op].aux(self.facts.infos[op])[tag]
        shape = self.facts.batched(aux.shape)
        piece = Piece("auxiliary", op, bytes_of(math.prod(shape), aux.dtype), Content("auxiliary", op, tag))
        return Wanted(tag, ((shape, None),), aux.dtype, (piece,))

    def _match(self, where: str, what: str, args: Sequence[Arg], wanted: Iterable[Wanted]) -> Matched:
        """Pair arguments with what they must be: these tags and no others, in this order."""
        found: Matched = []
        left, wanted = list(args), list(wanted)
        for w in wanted:
            same = [a for a in left if a.tag == w.tag]
            if not same:
                self.findings.add("step", where, f"{what} no {w.tag!r}")
                continue
            left.remove(same[0])
            found.append((same[0], w))
        for a in left:
            self.findings.add("step", where, f"{what} {a.tag!r}, which it must not, or twice")
        given, right = [a.tag for a in args], [w.tag for w in wanted]
        if given != right and sorted(given) == sorted(right):
            self.findings.add("step", where, f"{what} {given}, which should be in the order {right}")
        return found

    def _value_of(self, arg: Arg) -> str:
        return arg.spans[0].value if arg.spans else ""

    def _state(self, arg: Arg | None, role: str, version: int | str) -> Content:
        """Content of an accumulator or state: told apart by the value that holds it."""
        return Content(role, "" if arg is None else self._value_of(arg), version)

    # -- kinds of steps ---------------------------------------------------------------------------
    def _forward(self, where: str, step: Step) -> tuple[Matched, Matched]:
        facts, op = self.facts, self.facts.network.op[step.op]
        if step.target != "y":
            self.findings.add("step", where, f"target={step.target!r} of a forward step must be 'y'")
        if op.name not in facts.relevant:
            self.findings.add("step", where, f"is not needed: the loss does not depend on {op.output!r}")
        reads = [self._tensor(f"x{i}", t) for i, t in enumerate(op.inputs)]
        reads += [self._param(slot, p, 0) for slot, p in op.params.items()]
        known = facts.defs[op.name].aux(facts.infos[op.name])
        made = dict.fromkeys(a.tag for a in step.writes if a.tag in known)
        writes = [self._tensor("y", op.output), *(self._auxiliary(op.name, tag) for tag in made)]
        return self._match(where, "reads", step.reads, reads), self._match(where, "writes", step.writes, writes)

    def _page(self, where: str, step: Step) -> tuple[Matched, Matched]:
        """A copy of an activation or input between main memory and the level that tensors are paged to."""
        tensor = self.facts.network.tensor.get(step.op)
        if tensor is None or tensor.role == "parameter" or self.facts.roots.get(step.op) != (step.op,):
            self.findings.add("step", where, f"op={step.op!r} is no activation with bytes of its own")
            return [], []
        if step.target != "y":
            self.findings.add("step", where, f"target={step.target!r} of a page step must be 'y'")
        reads, writes = [self._tensor("x0", step.op)], [self._tensor("y", step.op)]
        return self._match(where, "reads", step.reads, reads), self._match(where, "writes", step.writes, writes)

    def _pack(self, where: str, step: Step) -> tuple[Matched, Matched]:
        """An activation or input in whole, quantised to codes with a scale a channel."""
        tensor = self.facts.network.tensor.get(step.op)
        if tensor is None or tensor.role == "parameter" or self.facts.roots.get(step.op) != (step.op,):
            self.findings.add("step", where, f"op={step.op!r} is no activation with bytes of its own")
            return [], []
        if step.target != "y":
            self.findings.add("step", where, f"target={step.target!r} of a pack step must be 'y'")
        reads = [self._tensor("x0", step.op)]
        return self._match(where, "reads", step.reads, reads), self._match(
            where, "writes", step.writes, self._packed((step.op,))
        )

    def _packed(self, roots: Sequence[str]) -> list[Wanted]:
        """Codes and scales of whole tensors, one channel after the other."""
        facts = self.facts
        shapes = [facts.batched(facts.network.tensor[r].shape) for r in roots]
        codes = tuple(Piece("packed", r, math.prod(s), Content("packed", r, PACKED_CODES))
                      for r, s in zip(roots, shapes, strict=True))  # fmt: skip
        counts = [facts.scales(r) for r in roots]
        scales = tuple(Piece("packed", r, 4 * n, Content("packed", r, PACKED_SCALES))
                       for r, n in zip(roots, counts, strict=True))  # fmt: skip
        whole = (shapes[0][0], sum(s[1] for s in shapes), *shapes[0][2:])
        return [Wanted(PACKED_CODES, ((whole, None),), "u8", codes),
                Wanted(PACKED_SCALES, (((1, sum(counts)), None),), "fp32", scales)]  # fmt: skip

    def _packed_input(self, where: str, step: Step, keep: int | None) -> list[Wanted]:
        """A saved input in 8 bits: of all its parts, or of the first ones where these hold the channels needed."""
        facts, tensor = self.facts, self.facts.network.op[step.op].inputs[0]
        shape = facts.network.tensor[tensor].shape
        given = next(a for a in step.reads if a.tag == PACKED_CODES)
        roots = facts.roots[tensor][: max(len(given.spans), 1)]
        shapes = [facts.network.tensor[r].shape for r in roots]
        rows = shape[0] if shape else 0
        cut = facts.fraction(facts.network.op[step.op].params[step.target]) if keep is not None else None
        if keep is not None and cut is not None and cut.rows is not None and facts.options.batch == 1:
            rows = keep * cut.rows
        if len(roots) > 1 and len(shape) < 2:
            self.findings.add("saved", where, f"reads {list(roots)} in 8 bits as one vector, but each has a scale of "
                              "its own")  # fmt: skip
        if any(not s or s[1:] != shape[1:] for s in shapes) or sum(s[0] for s in shapes if s) < rows:
            self.findings.add("saved", where, f"reads {list(roots)} in 8 bits, which do not hold the {rows} channels "
                              f"of {tensor!r} that it needs")  # fmt: skip
        return self._packed(roots)

    def _loss(self, where: str, step: Step) -> tuple[Matched, Matched]:
        facts = self.facts
        marks = [(judged.loss.kind, judged.mark) for judged in facts.losses]
        if (step.op, step.target) not in marks:
            known = " or ".join(f"{kind!r}, {mark!r}" for kind, mark in marks)
            self.findings.add("step", where, f"op={step.op!r}, target={step.target!r} is not loss {known}")
            return [], []
        number = marks.index((step.op, step.target))
        judged = facts.losses[number]
        shape, dtype = facts.target(judged)
        size = bytes_of(math.prod(shape), dtype)
        target = Piece("target", judged.target, size, Content("target", judged.target))
        reads = [self._tensor("y", judged.loss.output), Wanted("target", ((shape, None),), dtype, (target,))]
        writes = self._gradients(where, step, "dy", judged.loss.output, "", number)
        return self._match(where, "reads", self._summed(where, step, "dy"), reads), writes

    def _summed(self, where: str, step: Step, tag: str) -> list[Arg]:
        """The reads of a step without the gradients that it adds to, each of which it must read behind all others."""
        rest, sums = [a for a in step.reads if a.tag != tag], [a for a in step.reads if a.tag == tag]
        added = [a for a in step.writes if a.add]
        for a in sums:
            if a not in added:
                self.findings.add("step", where, f"reads a gradient {tag!r} that it does not add to")
        for a in added:
            if a not in sums:
                self.findings.add("step", where, f"adds to {self._names(a.spans)} without reading it")
        if [*rest, *added] != [*step.reads]:
            self.findings.add("step", where, f"reads {[a.tag for a in step.reads]}, which should end in the gradients "
                              "that it adds to, each once, as it writes them")  # fmt: skip
        return rest

    def _aux(self, where: str, step: Step) -> tuple[Matched, Matched]:
        facts, op = self.facts, self.facts.network.op[step.op]
        known = facts.defs[op.name].aux(facts.infos[op.name])
        if step.target not in known:
            self.findings.add("step", where, f"target={step.target!r} is no auxiliary of {op.kind}")
            return [], []
        sources = known[step.target].sources
        tags = [a.tag for a in step.reads]
        if len(tags) != 1 or tags[0] not in sources:
            self.findings.add("step", where, f"reads {tags}; {step.target!r} is made from one of {list(sources)}")
            return [], self._match(where, "writes", step.writes, [self._auxiliary(op.name, step.target)])
        reads = [self._saved(step, tags[0], None)]
        writes = [self._auxiliary(op.name, step.target)]
        return self._match(where, "reads", step.reads, reads), self._match(where, "writes", step.writes, writes)

    def _saved(self, step: Step, tag: str, keep: int | None) -> Wanted:
        """What tag means to a backward step; ``keep`` units of the parameter are updated."""
        facts, op = self.facts, self.facts.network.op[step.op]
        if tag in facts.defs[op.name].aux(facts.infos[op.name]):
            return self._auxiliary(op.name, tag)
        if tag in op.params:
            return self._param(tag, op.params[tag], 0)
        tensor = op.output if tag == "y" else op.inputs[int(tag[1:])]
        if keep is not None and tag == "x0" and facts.options.batch == 1:
            cut = facts.fraction(op.params[step.target])
            given = next((a.shape for a in step.reads if a.tag == tag), None)
            # more than the leading channels that the kept units need does no harm
            if cut is not None and cut.rows is not None and given != facts.batched(facts.network.tensor[tensor].shape):
                return self._tensor(tag, tensor, keep * cut.rows)
        return self._tensor(tag, tensor)

    def _needs(self, where: str, step: Step, alternatives: Alternatives, apart: Collection[str]) -> list[str]:
        """Tags of the alternative that a backward step's reads are; reports what is missing."""
        tags = {a.tag for a in step.reads if a.tag not in apart}
        best = min(alternatives, key=lambda a: (len(a - tags), len(tags - a)))
        for tag in sorted(best - tags):
            ways = " or ".join("+".join(sorted(a)) for a in alternatives)
            self.findings.add("saved", where, f"does not read {tag!r}; {self.facts.infos[step.op].kind} needs {ways}")
        return sorted(best & tags)

    def _grad_param(self, where: str, step: Step) -> tuple[Matched, Matched]:
        facts, op = self.facts, self.facts.network.op[step.op]
        p = op.params.get(step.target)
        if p is None or p not in facts.update:
            self.findings.add("step", where, f"is not needed: target={step.target!r} is no updated parameter")
            return [], []
        keep = facts.keep(p)
        alternatives = facts.defs[op.name].needs_for_param(facts.infos[op.name], step.target)
        apart = ["dy", "acc"]
        packed: list[Wanted] = []
        if any(a.tag == PACKED_CODES for a in step.reads) and any("x0" in a for a in alternatives):
            packed = self._packed_input(where, step, keep)
            apart += [PACKED_CODES, PACKED_SCALES]
            alternatives = tuple(a - {"x0"} for a in alternatives if "x0" in a)
        tags = self._needs(where, step, alternatives, apart)
        reads = [self._dy(op.name), *(self._saved(step, tag, keep) for tag in tags)]
        # several ops may use a parameter: all but the first add to what the others have left, from the loss back
        users = [user.name for user, _ in reversed(facts.users(p))]
        done, count = self.summed[p], len(users)
        self.summed[p] += 1
        if op.name != users[min(done, count - 1)]:
            self.findings.add("step", where, f"adds to the gradient of {p!r} as number {done + 1}, which should be in "
                              f"the order {users}: sums depend on it")  # fmt: skip
        if facts.options.gradients == "fused":
            versions = (None if n == count else f"{n} of {count}" for n in (done, done + 1))
            left = [Content("parameter gradient", p, version) for version in versions]
            if done:
                reads.append(self._cut("acc", "parameter gradient", p, left[0]))
            writes = [self._cut("dp", "parameter gradient", p, left[1], add=done > 0)]
        else:
            acc = next((a for a in step.reads if a.tag == "acc"), None)
            states = [n // count if n % count == 0 else f"{n} of {count}" for n in (done, done + 1)]
            before, after = (self._state(acc, "accumulator", s) for s in states)
            reads.append(self._cut("acc", "accumulator", p, before))
            writes = [self._cut("dp", "accumulator", p, after, add=True)]
        reads += packed
        found = self._match(where, "reads", step.reads, reads), self._match(where, "writes", step.writes, writes)
        by_tag = {a.tag: a.spans for a in (*step.reads, *step.writes)}
        if "acc" in by_tag and by_tag["acc"] != by_tag.get("dp"):
            self.findings.add("step", where, f"adds to {self._names(by_tag['acc'])}, but writes "
                              f"{self._names(by_tag.get('dp', ()))}")  # fmt: skip
        return found

    def _update(self, where: str, step: Step) -> tuple[Matched, Matched]:
        facts, op = self.facts, self.facts.network.op[step.op]
        p = op.params.get(step.target)
        if p is None or p not in facts.update:
            self.findings.add("step", where, f"target={step.target!r} is no updated parameter: what is frozen changes")
            return [], []
        by_tag = {a.tag: a for a in step.reads}
        if facts.options.gradients == "fused":
            source = self._cut("grad", "parameter gradient", p, Content("parameter gradient", p))
        else:
            source = self._cut("grad", "accumulator", p, self._state(by_tag.get("grad"), "accumulator", 1))
        reads, writes = [source, self._param("param", p, 0)], [self._param("param", p, 1)]
        for tag in OPTIMIZERS[facts.options.optimizer]:
            reads.append(self._cut(tag, "state", p, self._state(by_tag.get(tag), "state", 0)))
            writes.append(self._cut(tag, "state", p, self._state(by_tag.get(tag), "state", 1)))
        return self._match(where, "reads", step.reads, reads), self._match(where, "writes", step.writes, writes)

    def _grad_input(self, where: str, step: Step) -> tuple[Matched, Matched]:
        facts, op = self.facts, self.facts.network.op[step.op]
        slot = next((i for i in range(len(op.inputs)) if step.target == f"x{i}"), None)
        d, info = facts.defs[op.name], facts.infos[op.name]
        if slot is None or op.output not in facts.needed or not d.differentiable(info, slot):
            self.findings.add("step", where, f"is not needed: no gradient flows to target={step.target!r}")
            return [], []
        tags = self._needs(where, step, d.needs_for_input(info, slot), ("dy", "dx"))
        reads = [self._dy(op.name), *(self._saved(step, tag, None) for tag in tags)]
        writes = self._gradients(where, step, "dx", op.inputs[slot], op.name, slot)
        found = self._match(where, "reads", self._summed(where, step, "dx"), reads)
        return found, writes

    @staticmethod
    def _names(spans: Iterable[object]) -> str:
        return ", ".join(str(getattr(s, "value", s)) for s in spans)

    def _gradients(self, where: str, step: Step, tag: str, tensor: str, op: str, slot: int) -> Matched:
        """The gradients of a tensor's parts that a step writes, each by an argument of its own."""
        facts = self.facts
        if tensor in facts.mosaics or any(a.boxes for a in step.writes):
            return gradient_parts(self, step, tag, tensor, (op, slot))
        roots = facts.roots[tensor]
        dtype = facts.options.dtype
        shape = facts.network.tensor[tensor].shape
        missing = [r for r in roots if r in facts.needed]
        # kernels that compute the gradient of some channels alone are told which; others, which elements are kept
        whole = all(facts.channel_range(tensor, k)[1] is not None for k in range(len(roots)))
        by_channels = whole and op in facts.defs and facts.defs[op].partial_input
        found: Matched = []
        for arg in step.writes:
            role, root = self.roles.get(self._value_of(arg), ("", ""))
            if arg.tag != tag or role != "gradient" or root not in missing:
                known = arg.tag == tag and role == "gradient" and root in roots
                self.findings.add("step", where, f"writes {arg.tag!r} to {self._value_of(arg)!r}, which "
                                  + ("nothing needs, or twice" if known else "is not its output"))  # fmt: skip
                continue
            missing.remove(root)
            part = roots.index(root)
            flat, rows = facts.channel_range(tensor, part)
            form: tuple[tuple[int, ...], tuple[int, int] | None] = (facts.batched(shape), None)
            if len(roots) > 1:
                form = (facts.batched((flat[1] - flat[0],)), flat)
                if rows is not None and by_channels:
                    form = (facts.batched((rows[1] - rows[0], *shape[1:])), rows)
            size = bytes_of(facts.options.batch * facts.network.tensor[root].elements, dtype)
            piece = Piece("gradient", root, size, None, (op, slot, part))
            found.append((arg, Wanted(tag, (form,), dtype, (piece,), arg.add)))
        for root in missing:
            self.findings.add("step", where, f"does not write the gradient of {root!r}, which is needed")
        return found
