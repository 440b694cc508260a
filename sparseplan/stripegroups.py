"""Which groups of a network are worth running in stripes: regions of large tensors, for a planner to choose from."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

from sparseplan.errors import OpError, ProblemError
from sparseplan.network import Network, Op
from sparseplan.ops import OpInfo, infos, op_def
from sparseplan.ops.base import Stripe
from sparseplan.stripes import Lowered, Stripes, lower, of_height

#: rows of a stripe that are tried
HEIGHTS = (1, 2, 3, 4, 6, 8, 12, 16, 24)


def candidates(
    network: Network,
    heights: Sequence[int] = HEIGHTS,
    regions: int = 4,
    most_copied: int = 6,
    outputs: Sequence[str] | None = None,
) -> tuple[Stripes, ...]:
    """Groups that ``lower`` takes, each in stripes of several heights; the largest tensors first.

    For each of the ``regions`` largest sizes of a tensor: the ops that read or make a tensor of that size
    or larger, and element-wise ops that go on from these, as connected convex groups. Each is given as it
    is, and with copies of what makes an input of it where that takes at most ``most_copied`` ops, all of
    which can work by rows: the tensor then need not be held until the group runs.

    Args:
        heights: rows of a stripe, of the tensor that the group makes last; those that leave one stripe are dropped.
        outputs: that losses are on (default: the first); ops that none depends on are in no group.
    """
    outputs = network.outputs[:1] if outputs is None else outputs
    found = {lowered.groups[0] for lowered in lowerings(network, heights, regions, most_copied, None, outputs)}
    return tuple(g for g in _groups(network, heights, regions, most_copied, outputs) if g in found)


def lowerings(
    network: Network, heights: Sequence[int] = HEIGHTS, regions: int = 4, most_copied: int = 6,
    look: Callable[[], None] | None = None, outputs: Sequence[str] | None = None,
) -> Iterator[Lowered]:  # fmt: skip
    """The network run in each of the candidates, one after another: first a middle height of each region, then others.

    Args:
        look: called again and again; what it raises ends the work, as where time is up.
        outputs: that losses are on (default: the first).
    """
    outputs = network.outputs[:1] if outputs is None else outputs
    shapes: dict[tuple[tuple[str, ...], tuple[str, ...]], list[Stripes]] = {}
    for group in _groups(network, heights, regions, most_copied, outputs):
        shapes.setdefault((group.ops, group.copied), []).append(group)
    for some in itertools.zip_longest(*(_middle_first(groups) for groups in shapes.values())):
        for group in some:
            if group is None:
                continue
            try:
                yield lower(network, [group], look)
            except ProblemError:
                continue


def _groups(
    network: Network, heights: Sequence[int], regions: int, most_copied: int, outputs: Sequence[str]
) -> tuple[Stripes, ...]:
    """Groups that a network might be run in, none twice; ``lower`` tells whether it can."""
    search = _Search(network, outputs)
    found: dict[Stripes, None] = {}
    for ops in search.regions(regions):
        height = network.tensor[network.op[ops[-1]].output].shape[1]
        for copied in search.copies(ops, most_copied):
            for rows in sorted({h for h in heights if h < height}, reverse=True):
                found[Stripes(ops, of_height(height, rows), copied)] = None
    return tuple(found)


def _middle_first(items: Sequence[Stripes]) -> list[Stripes]:
    """The middle, then the middles of what lies before and behind it, and so on."""
    found, parts = [], [items]
    while parts:
        part = parts.pop(0)
        if part:
            at = len(part) // 2
            found.append(part[at])
            parts += [part[:at], part[at + 1 :]]
    return found


class _Search:
    def __init__(self, network: Network, outputs: Sequence[str]) -> None:
        self.network = network
        self.infos: dict[str, OpInfo] = infos(network)
        wanted = set(outputs)
        self.ops: list[Op] = []
        for op in reversed(network.ops):
            if op.output in wanted:
                wanted.update(op.inputs)
                self.ops.append(op)
        self.ops.reverse()
        self.able = {op.name for op in self.ops if self.stripe(op) is not None}

    def stripe(self, op: Op) -> Stripe | None:
        """How an op makes the first row of an image; None where it does not work by rows."""
        shape = self.infos[op.name].output
        try:
            return op_def(op.kind).stripe(self.infos[op.name], 0, 1) if len(shape) == 3 else None
        except OpError:
            return None

    # -- regions ----------------------------------------------------------------------------------------
    def regions(self, count: int) -> list[tuple[str, ...]]:
        """Names of the ops of each group, in network order; none twice."""
        sizes = {self.network.tensor[op.output].elements for op in self.ops if op.name in self.able}
        found: dict[tuple[str, ...], None] = {}
        for size in sorted(sizes, reverse=True)[:count]:
            touching = {op.name for op in self.ops if op.name in self.able and self.touches(op, size)}
            for part in self.parts(touching):
                grown = self.grown(part)
                if self.saves(grown):
                    found[tuple(op.name for op in self.ops if op.name in grown)] = None
        return list(found)

    def touches(self, op: Op, size: int) -> bool:
        tensors = (self.network.tensor[t] for t in (*op.inputs, op.output))
        return any(t.role == "activation" and t.elements >= size for t in tensors)

    def parts(self, names: set[str]) -> list[set[str]]:
        """Connected convex parts: a path that leaves the set and comes back begins another part."""
        # times that a path to an op, or to what it makes, has left the set
        level: dict[str, int] = {}
        for op in self.ops:
            makers = [self.network.producer[t].name for t in op.inputs if t in self.network.producer]
            inside = op.name in names
            level[op.name] = max((level[m] + (m in names and not inside) for m in makers), default=0)
        rest = [op for op in self.ops if op.name in names]
        home: dict[str, set[str]] = {}
        for op in rest:
            home[op.name] = {op.name}
            for t in op.inputs:
                maker = self.network.producer.get(t)
                if maker is not None and maker.name in home and level[maker.name] == level[op.name]:
                    merged = home[maker.name] | home[op.name]
                    home.update(dict.fromkeys(merged, merged))
        found: list[set[str]] = []
        for op in rest:
            if home[op.name] not in found:
                found.append(home[op.name])
        return found

    def grown(self, names: set[str]) -> set[str]:
        """With element-wise ops that read nothing but what the group makes."""
        grown = set(names)
        for op in self.ops:
            stripe = self.stripe(op)
            makers = [self.network.producer.get(t) for t in op.inputs]
            if (
                stripe is not None
                and all(rows == (0, 1) for rows in stripe.inputs)
                and len(self.network.tensor[op.inputs[0]].shape) == 3
                and self.network.tensor[op.inputs[0]].shape[1] == self.infos[op.name].output[1]
                and op_def(op.kind).inplace(self.infos[op.name])
                and all(m is not None and m.name in grown for m in makers)
            ):
                grown.add(op.name)
        return grown

    def saves(self, names: Iterable[str]) -> bool:
        """Whether a tensor with bytes of its own stays inside a group."""
        group = set(names)
        return any(
            op.name in group
            and op.output not in self.network.outputs
            and not (op_def(op.kind).view or op_def(op.kind).concat)
            and all(reader.name in group for reader in self.network.consumers[op.output])
            for op in self.ops
        )

    # -- copies -----------------------------------------------------------------------------------------
    def copies(self, ops: Sequence[str], most: int) -> list[tuple[str, ...]]:
        """What to copy into a group: nothing; what makes inputs of it that take few ops to make."""
        group = set(ops)
        copied: set[str] = set()
        for name in ops:
            for t in self.network.op[name].inputs:
                makers = self.makers(t)
                if makers and not makers & group and makers <= self.able and len(makers) <= most:
                    copied |= makers
        return [(), tuple(op.name for op in self.ops if op.name in copied)] if copied else [()]

    def makers(self, tensor: str) -> set[str]:
        """All ops that a tensor depends on."""
        wanted, found = {tensor}, set()
        for op in reversed(self.ops):
            if op.output in wanted:
                wanted.update(op.inputs)
                found.add(op.name)
        return found
