"""Which tensors share bytes: views, and concats that are read where their parts lie.

``spans[t]`` gives the root values that hold tensor ``t``: itself, the root behind a reshape, or
the parts of a free concat in order. A concat along the leading axis is free (it costs no step and
no bytes) where kernels take channels from several places (``concat="split"``). Where they need
one contiguous input (``"adjoin"``) its parts must be laid side by side: batch 1, sizes that keep
every part aligned, one place for each part; a concat that cannot be is copied.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

from sparseplan.dtypes import bytes_of
from sparseplan.network import Network, Op
from sparseplan.ops import OpInfo, op_def
from sparseplan.steps import TrainingOptions
from sparseplan.training import ALWAYS, MaybeSpan

Part = tuple[str, int, int]  # root value, 0, bytes


def whole(name: str, size: int) -> tuple[MaybeSpan, ...]:
    """The one span that covers a value."""
    return (MaybeSpan(name, 0, size, ALWAYS),)


class Composites:
    """Roots of all tensors, and the groups of roots that must adjoin."""

    def __init__(self, network: Network, infos: Mapping[str, OpInfo], options: TrainingOptions) -> None:
        self.network, self.infos, self.options = network, infos, options
        self.spans: dict[str, tuple[Part, ...]] = {}
        self._free: set[str] = set()
        self._place: dict[str, tuple[int, int]] = {}  # root -> (group, offset)
        self._groups: dict[int, dict[str, int]] = {}  # group -> root -> offset
        for t in network.inputs:
            self.spans[t] = ((t, 0, self._bytes(t)),)
        for op in network.ops:
            d = op_def(op.kind)
            declared = network.tensor[op.output]
            inner = network.tensor[self.spans[op.inputs[0]][0][0]] if op.inputs else declared
            same = (declared.dtype or options.dtype, declared.scale) == (inner.dtype or options.dtype, inner.scale)
            if d.view and same:
                self._free.add(op.name)
                self.spans[op.output] = self.spans[op.inputs[0]]
            elif d.concat and same and self._join(op):
                self._free.add(op.name)
                self.spans[op.output] = tuple(p for t in op.inputs for p in self.spans[t])
            else:
                self.spans[op.output] = ((op.output, 0, self._bytes(op.output)),)
        self._bound = set(self._place)

    def free(self, op: Op) -> bool:
        """Whether an op costs nothing: a view, or a concat that is read where its parts lie."""
        return op.name in self._free

    def groups(self) -> tuple[tuple[tuple[str, int], ...], ...]:
        """Roots that must adjoin, with offsets relative to the group's base."""
        return tuple(tuple(sorted(g.items(), key=lambda item: item[1])) for g in self._groups.values())

    def may_overwrite(self, y: str, x: str) -> bool:
        """Whether ``y`` may take the place of ``x``: not when both are bound to other groups.

        A value that takes the place of a bound one is itself bound from then on.
        """
        if y in self._bound and x in self._bound:
            return False
        if y in self._bound or x in self._bound:
            self._bound |= {x, y}
        return True

    def _dtype(self, t: str) -> str:
        return self.network.tensor[t].dtype or self.options.dtype

    def _bytes(self, t: str) -> int:
        return bytes_of(self.options.batch * math.prod(self.network.tensor[t].shape), self._dtype(t))

    def _join(self, op: Op) -> bool:
        """Try to place the parts of a concat side by side; change nothing if they cannot be."""
        parts = [p for t in op.inputs for p in self.spans[t]]
        names = [name for name, _, _ in parts]
        axis = self.infos[op.name].attrs.get("axis", 0)
        storage = {(self._dtype(n), self.network.tensor[n].scale) for n in names}
        if axis != 0 or len(set(names)) != len(names) or len(storage) != 1:
            return False
        if self.options.concat == "split":
            return True
        if self.options.batch != 1:
            return False
        if any(size % self.options.alignment for _, _, size in parts[:-1]):
            return False
        offsets, at = {}, 0
        for name, _, size in parts:
            offsets[name] = at
            at += size
        merged = dict(offsets)
        touched: dict[int, int] = {}  # group -> shift into the new coordinates
        for name in names:
            if name in self._place:
                group, offset = self._place[name]
                shift = offsets[name] - offset
                if touched.setdefault(group, shift) != shift:
                    return False
        for group, shift in touched.items():
            for name, offset in self._groups[group].items():
                if merged.setdefault(name, offset + shift) != offset + shift:
                    return False
        ranges = sorted((o, o + self._bytes(n)) for n, o in merged.items())
        if any(a[1] > b[0] for a, b in itertools.pairwise(ranges)):
            return False
        base = ranges[0][0]
        key = min(touched, default=1 + max(self._groups, default=-1))
        for group in touched:
            del self._groups[group]
        self._groups[key] = {n: o - base for n, o in merged.items()}
        for n, o in merged.items():
            self._place[n] = (key, o - base)
        return True
