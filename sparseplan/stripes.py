"""Stripes: a group of ops at high resolution, run in horizontal stripes so that its tensors never exist whole.

``lower`` rewrites a network: each op of a group becomes one op a stripe (``conv0@3``), which makes some
rows of the output from rows of the inputs. Rows of what the group reads are taken from where they lie
(op kind ``rows``), rows of what it makes are joined (``join_rows``); parameters are shared by the stripes.
Rows that several stripes need (halos) are computed by each of them, and count as MACs of each. The lowered
network is a network like any other: differentiated, planned and run, its training step goes through the
stripes forwards and then backwards.

Patch-based inference in MCUNetV2 (Lin et al., NeurIPS 2021) does this forwards; here, backward does it too.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from sparseplan.errors import OpError, ProblemError, near
from sparseplan.network import Network, Op, Tensor
from sparseplan.ops import OpInfo, infos, op_def
from sparseplan.ops.base import Stripe

Range = tuple[int, int]


@dataclass(frozen=True)
class Stripes:
    """A group of ops, and the rows in which it is run.

    Attributes:
        ops: names of the ops that are replaced; what they make is seen outside only where ops outside
            read it, and is then joined.
        rows: half-open ranges that cover all rows of what the last of ``ops`` (in network order) makes,
            in order. Other tensors that are joined are divided in proportion.
        copied: names of ops upstream that each stripe runs for itself, so that what they make need not
            be held from where others read it; these go on as they were.
    """

    ops: tuple[str, ...]
    rows: tuple[Range, ...]
    copied: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "ops", tuple(self.ops))
        object.__setattr__(self, "copied", tuple(self.copied))
        object.__setattr__(self, "rows", tuple((lo, hi) for lo, hi in self.rows))
        if not self.ops or not self.rows:
            raise ProblemError(f"stripes: ops={self.ops}, rows={self.rows}: give at least one of each")
        at = 0
        for lo, hi in self.rows:
            if lo != at or hi <= lo:
                raise ProblemError(f"stripes: rows={self.rows} must be ranges from 0 on that adjoin, none empty")
            at = hi


@dataclass(frozen=True)
class Origin:
    """What an op of a lowered network is: rows of what an op makes, in one stripe of a group."""

    op: str
    group: int
    stripe: int
    rows: Range


@dataclass(frozen=True)
class Lowered:
    """A network in stripes.

    Attributes:
        original: what it was made from.
        origin: of each op that stands for a stripe; other ops are the original's, or rows and joins.
    """

    network: Network
    original: Network
    groups: tuple[Stripes, ...]
    origin: Mapping[str, Origin]


def even(height: int, count: int) -> tuple[Range, ...]:
    """``count`` stripes of nearly equal height. Raises ProblemError where there are fewer rows."""
    if not 1 <= count <= height:
        raise ProblemError(f"count={count} stripes of {height} rows; give 1 to {height}")
    ends = [height * i // count for i in range(count + 1)]
    return tuple(itertools.pairwise(ends))


def of_height(height: int, rows: int) -> tuple[Range, ...]:
    """Stripes of ``rows`` rows; the last takes what is left. Raises ProblemError where ``rows`` is below 1."""
    if rows < 1:
        raise ProblemError(f"rows={rows} of a stripe must be at least 1")
    return tuple((lo, min(lo + rows, height)) for lo in range(0, height, rows))


def lower(network: Network, groups: Sequence[Stripes], look: Callable[[], None] | None = None) -> Lowered:
    """The network with each group run in stripes; parameters, inputs and outputs keep their names.

    Args:
        look: called at every stripe; what it raises ends the work, as where time is up.

    Raises:
        ProblemError: an op that is unknown, in two groups, or cannot work by rows; a group that is not
            convex (what it makes comes back to it through other ops); rows that do not cover what the
            group makes; stripes that see nothing but padding.
    """
    taken: set[str] = set()
    for group in groups:
        _check_names(network, group, taken)
    lowering = _Lowering(network, look or (lambda: None))
    for i, group in enumerate(groups):
        lowering.add(i, group)
    return Lowered(lowering.finish(), network, tuple(groups), MappingProxyType(lowering.origin))


def _check_names(network: Network, group: Stripes, taken: set[str]) -> None:
    for name in (*group.ops, *group.copied):
        if name not in network.op:
            raise ProblemError(f"stripes: op {name!r} is unknown to network {network.name!r}{near(name, network.op)}")
    for name in group.ops:
        if name in taken:
            raise ProblemError(f"stripes: op {name!r} is named twice; it can be in one group once")
        taken.add(name)
    for name in group.copied:
        if name in group.ops:
            raise ProblemError(f"stripes: op {name!r} is both in ops and copied; choose one")


@dataclass
class _Made:
    """An op's part in a stripe: the rows that it makes, and how."""

    rows: Range
    how: Stripe


class _Lowering:
    def __init__(self, network: Network, look: Callable[[], None]) -> None:
        self.original, self.look = network, look
        self.infos: dict[str, OpInfo] = infos(network)
        self.ops: list[Op] = list(network.ops)
        self.tensors: dict[str, Tensor] = dict(network.tensor)
        self.origin: dict[str, Origin] = {}
        self.count: Counter[str] = Counter()  # stripes made of each op so far
        self.made: set[str] = set()  # what the ops of the group in hand make

    # -- one group ------------------------------------------------------------------------------------
    def add(self, index: int, group: Stripes) -> None:
        members = [op for op in self.original.ops if op.name in set(group.ops)]
        inside = [op for op in self.original.ops if op.name in {*group.ops, *group.copied}]
        made = {op.output for op in inside}
        for op in inside:
            for t in op.inputs:
                if t not in made and t not in self.tensors:
                    raise ProblemError(f"stripes: op {op.name!r} reads {t!r}, which another group makes in stripes "
                                       "only; copy what makes it, or put both in one group")  # fmt: skip
        before, after = self._around(members)
        outputs = self._outputs(members)
        height = self._height(outputs[-1])
        if group.rows[-1][1] != height:
            raise ProblemError(f"stripes: rows={group.rows} must end at {height}, the rows of {outputs[-1].output!r}")
        joined: dict[str, list[tuple[str, Range, Range]]] = {op.output: [] for op in outputs}
        body: list[Op] = []
        self.made = set()
        for k in range(len(group.rows)):
            self.look()
            wanted = {op.output: self._share(op, group, k) for op in outputs}
            plan = self._needs(inside, wanted)
            names = self._emit(index, k, inside, plan, body)
            for t, rows in wanted.items():
                if rows[0] < rows[1]:
                    joined[t].append((names[t], plan[t].rows, rows))
        for op in outputs:
            parts = [self._window(body, t, made_rows, rows) for t, made_rows, rows in joined[op.output]]
            body.append(Op(f"{op.name}@join", "join_rows", tuple(parts), op.output))
        self.ops = [*before, *body, *after]
        kept = {t for op in self.ops for t in (op.output, *op.params.values())} | set(self.original.inputs)
        self.tensors = {n: t for n, t in self.tensors.items() if n in kept}

    def _around(self, members: list[Op]) -> tuple[list[Op], list[Op]]:
        """Ops that come before a group and those that come behind it, in order."""
        names = {op.name for op in members}
        behind: set[str] = {op.output for op in members}
        before: list[Op] = []
        after: list[Op] = []
        last = max(i for i, op in enumerate(self.ops) if op.name in names)
        for i, op in enumerate(self.ops):
            if op.name in names:
                continue
            if any(t in behind for t in op.inputs):
                behind.add(op.output)
                after.append(op)
            else:
                (before if i < last else after).append(op)
        for op in members:
            for t in op.inputs:
                maker = self.original.producer.get(t)
                if t in behind and maker is not None and maker.name not in names:
                    raise ProblemError(f"stripes: op {op.name!r} reads {t!r}, which depends on what the group makes, "
                                       f"but {maker.name!r} is not in it; add what lies between")  # fmt: skip
        return before, after

    def _outputs(self, members: list[Op]) -> list[Op]:
        """Members of a group whose output is seen outside; the last one is always among them."""
        names = {op.name for op in members}
        # copies in an earlier group may read what only members read in the original
        others = [op for op in (*self.original.ops, *self.ops) if op.name not in names]
        read = {t for op in others for t in op.inputs} | set(self.original.outputs)
        return [op for op in members if op.output in read]

    def _height(self, op: Op) -> int:
        shape = self.infos[op.name].output
        if len(shape) != 3:
            raise ProblemError(f"stripes: op {op.name!r} makes shape {shape}, which has no rows; leave it out")
        return shape[1]

    def _share(self, op: Op, group: Stripes, k: int) -> Range:
        """The rows of a tensor that a stripe contributes, in proportion to those of the last."""
        total, height = group.rows[-1][1], self._height(op)
        lo, hi = group.rows[k]
        return lo * height // total, hi * height // total

    # -- what a stripe needs -----------------------------------------------------------------------------
    def _needs(self, inside: list[Op], wanted: Mapping[str, Range]) -> dict[str, _Made]:
        """By tensor, what a stripe makes of it: the hull of what its readers in the group need."""
        needs: dict[str, list[Range]] = {t: [rows] for t, rows in wanted.items() if rows[0] < rows[1]}
        outputs = {op.output for op in inside}
        plan: dict[str, _Made] = {}
        for op in reversed(inside):
            asked = sorted(needs.get(op.output, []))
            if not asked:
                continue
            at = asked[0][1]
            for lo, hi in asked:
                if lo > at:
                    raise ProblemError(f"stripes: rows [{at}, {lo}) of {op.output!r} lie between what its readers need "
                                       "in one stripe; use fewer stripes, or leave one of them out")  # fmt: skip
                at = max(at, hi)
            rows = (asked[0][0], at)
            self._height(op)
            how = self._how(op, rows)
            plan[op.output] = _Made(rows, how)
            for t, read in zip(op.inputs, how.inputs, strict=True):
                if t in outputs:
                    shape = self.original.tensor[t].shape
                    needs.setdefault(t, []).append(read or (0, shape[1] if len(shape) == 3 else 1))
        return plan

    def _how(self, op: Op, rows: Range) -> Stripe:
        try:
            how = op_def(op.kind).stripe(self.infos[op.name], *rows)
        except OpError as error:
            raise ProblemError(f"stripes: op {op.name!r} ({op.kind}): {error}") from None
        if how is None:
            raise ProblemError(f"stripes: op {op.name!r} ({op.kind}) cannot work by rows; leave it out of the group")
        return how

    # -- the ops of a stripe -------------------------------------------------------------------------------
    def _emit(self, index: int, k: int, inside: list[Op], plan: Mapping[str, _Made], body: list[Op]) -> dict[str, str]:
        """Append a stripe's ops; returns the names of what they make."""
        names: dict[str, str] = {}
        for op in inside:
            made = plan.get(op.output)
            if made is None:
                continue
            inputs = []
            for t, read in zip(op.inputs, made.how.inputs, strict=True):
                if t in names:
                    inputs.append(self._window(body, names[t], plan[t].rows, read or plan[t].rows))
                elif read is None:
                    inputs.append(t)
                else:
                    inputs.append(self._window(body, t, (0, self.original.tensor[t].shape[1]), read))
            number = self.count[op.name]
            self.count[op.name] += 1
            like = self.original.tensor[op.output]
            output = f"{op.output}@{number}"
            lo, hi = made.rows
            shape = (like.shape[0], hi - lo, like.shape[2])
            self.tensors[output] = Tensor(output, shape, "activation", like.dtype, like.scale)
            name = f"{op.name}@{number}"
            body.append(Op(name, op.kind, tuple(inputs), output, op.params, made.how.attrs))
            self.made.add(output)
            self.origin[name] = Origin(op.name, index, k, made.rows)
            names[op.output] = output
        return names

    def _window(self, body: list[Op], tensor: str, there: Range, wanted: Range) -> str:
        """Rows of a tensor that holds the rows ``there``: itself, or a window that is made where it is new."""
        if wanted == there:
            return tensor
        lo, hi = wanted[0] - there[0], wanted[1] - there[0]
        name = f"{tensor}[{lo}:{hi}]"
        if name not in self.made:
            number, base = 2, name
            while name in self.tensors:  # of another group, and perhaps made later
                name, number = f"{base} ({number})", number + 1
                if name in self.made:
                    return name
            like = self.tensors[tensor]
            self.tensors[name] = Tensor(name, (like.shape[0], hi - lo, like.shape[2]), "activation", like.dtype,
                                        like.scale)  # fmt: skip
            body.append(Op(name, "rows", (tensor,), name, {}, {"lo": lo, "hi": hi}))
            self.made.add(name)
        return name

    # -- all of them -------------------------------------------------------------------------------------
    def finish(self) -> Network:
        """The network, without ops that nobody reads any more."""
        ops = _read_ops(self.ops, self.original.outputs)
        used = {t for op in ops for t in (*op.inputs, op.output, *op.params.values())}
        tensors = tuple(t for n, t in self.tensors.items() if n in used)
        network = Network(self.original.name, tensors, tuple(ops), self.original.outputs)
        names = {op.name for op in ops}
        self.origin = {n: o for n, o in self.origin.items() if n in names}
        infos(network)
        return network


def _read_ops(ops: Sequence[Op], outputs: Iterable[str]) -> list[Op]:
    read = set(outputs)
    kept: list[Op] = []
    for op in reversed(ops):
        if op.output in read:
            read.update(op.inputs)
            kept.append(op)
    kept.reverse()
    return kept
