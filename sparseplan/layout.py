"""Which tensors share bytes: views, concats read where their parts lie, rows of what lies elsewhere.

``spans[t]`` gives the root values that hold tensor ``t``: itself, the root behind a reshape, or
the parts of a free concat in order. A concat along the leading axis is free (it costs no step and
no bytes) where kernels take channels from several places (``concat="split"``). Where they need
one contiguous input (``"adjoin"``) its parts must be laid side by side: batch 1, sizes that keep
every part aligned, one place for each part; a concat that cannot be is copied.

Rows of an image, and images one below the other, are free where kernels take rows from several
places (``"split"``, one sample). A tensor that is made up of rows has *patches*: rows of a root, and the
channels and rows of the tensor that they are. A root of which some rows are wanted alone is stored row by
row, as ``(H, C, W)``, so that rows are a range of its bytes with a lifetime of their own.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from sparseplan.dtypes import bytes_of
from sparseplan.errors import ProblemError
from sparseplan.network import Network, Op
from sparseplan.ops import OpInfo, op_def
from sparseplan.steps import Box, TrainingOptions
from sparseplan.training import ALWAYS, MaybeSpan

Part = tuple[str, int, int]  # root value, first byte, last byte + 1


class Patch(NamedTuple):
    """Rows ``rows`` of a root, which are the channels and rows ``box`` of a tensor."""

    root: str
    rows: tuple[int, int]
    box: Box


def whole(name: str, size: int) -> tuple[MaybeSpan, ...]:
    """The one span that covers a value."""
    return (MaybeSpan(name, 0, size, ALWAYS),)


class Composites:
    """Roots of all tensors, and the groups of roots that must adjoin.

    Attributes:
        spans: by tensor, its parts in order.
        patches: by tensor, what its parts are, where they are not simply its consecutive elements.
        by_row: roots that are stored row by row.

    Raises:
        ProblemError: rows with ``batch`` above 1 or without ``concat="split"``.
    """

    def __init__(self, network: Network, infos: Mapping[str, OpInfo], options: TrainingOptions) -> None:
        self.network, self.infos, self.options = network, infos, options
        striped = next((op for op in network.ops if op_def(op.kind).window or op_def(op.kind).stack), None)
        if striped is not None and (options.batch != 1 or options.concat != "split"):
            raise ProblemError(
                f"batch={options.batch}, concat={options.concat!r}: op {striped.name!r} works on rows, which takes "
                "batch=1 and concat='split'"
            )
        self.by_row: set[str] = set()
        while True:  # what is stored row by row is no view any more, which may leave more to be stored so
            before = len(self.by_row)
            self._walk()
            if striped is not None:
                self._spread()
            if len(self.by_row) == before:
                break
        self._bound = set(self._place)

    def _walk(self) -> None:
        self.spans: dict[str, tuple[Part, ...]] = {}
        self.patches: dict[str, tuple[Patch, ...]] = {}
        self._free: set[str] = set()
        self._place: dict[str, tuple[int, int]] = {}  # root -> (group, offset)
        self._groups: dict[int, dict[str, int]] = {}  # group -> root -> offset
        for t in self.network.inputs:
            self._own(t)
        for op in self.network.ops:
            d = op_def(op.kind)
            declared = self.network.tensor[op.output]
            inner = self.network.tensor[self.spans[op.inputs[0]][0][0]] if op.inputs else declared
            same = (declared.dtype or self.options.dtype, declared.scale) == (
                inner.dtype or self.options.dtype,
                inner.scale,
            )
            plain = not any(t in self.patches for t in op.inputs)
            patches: tuple[Patch, ...] | None = None
            if same and (d.window or d.stack or (d.concat and not plain)):
                patches = self._patched(op)
            if patches is not None:
                self._free.add(op.name)
                self._set(op.output, patches)
            elif d.view and same and plain:
                self._free.add(op.name)
                self.spans[op.output] = self.spans[op.inputs[0]]
            elif d.concat and same and plain and self._join(op):
                self._free.add(op.name)
                self.spans[op.output] = tuple(p for t in op.inputs for p in self.spans[t])
            else:
                self._own(op.output)

    def free(self, op: Op) -> bool:
        """Whether an op costs nothing: a view, or parts that are read where they lie."""
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

    def _storage(self, roots: Iterable[str]) -> int:
        """Number of different storage types of roots."""
        return len({(self._dtype(n), self.network.tensor[n].scale) for n in roots})

    # -- rows -----------------------------------------------------------------------------------------
    def row_bytes(self, root: str, dtype: str) -> int:
        """Bytes of one row of a root that is stored row by row as ``dtype``."""
        channels, _, width = self.network.tensor[root].shape
        return bytes_of(channels * width, dtype)

    def _own(self, t: str) -> None:
        """A tensor with bytes of its own."""
        self.spans[t] = ((t, 0, self._bytes(t)),)
        if t in self.by_row:
            self.patches[t] = (self._all(t),)

    def _all(self, t: str) -> Patch:
        channels, height, _ = self.network.tensor[t].shape
        return Patch(t, (0, height), Box((0, channels), (0, height)))

    def _set(self, t: str, patches: tuple[Patch, ...]) -> None:
        """A tensor made up of patches; one of whole roots that are stored as usual is a plain concat."""
        at, plain = 0, True
        height = self.network.tensor[t].shape[1]
        for p in patches:
            everything = p.rows == (0, self.network.tensor[p.root].shape[1]) and p.root not in self.by_row
            plain = plain and everything and p.box.rows == (0, height) and p.box.channels[0] == at
            at = p.box.channels[1]
        if plain:
            self.spans[t] = tuple((p.root, 0, self._bytes(p.root)) for p in patches)
            return
        self.patches[t] = patches
        spans = []
        for p in patches:
            row = self.row_bytes(p.root, self._dtype(p.root))
            spans.append((p.root, p.rows[0] * row, p.rows[1] * row))
        self.spans[t] = tuple(spans)

    def _patches_of(self, t: str) -> tuple[Patch, ...] | None:
        """A tensor's patches, also where it is a plain concat; None where its parts are no channels of it."""
        if t in self.patches:
            return self.patches[t]
        shape = self.network.tensor[t].shape
        at, found = 0, []
        for root, _, _ in self.spans[t]:
            inner = self.network.tensor[root].shape
            if len(inner) != 3 or inner[1:] != shape[1:]:
                return None
            found.append(Patch(root, (0, shape[1]), Box((at, at + inner[0]), (0, shape[1]))))
            at += inner[0]
        return tuple(found)

    def _patched(self, op: Op) -> tuple[Patch, ...] | None:
        """What a window, a stack or a concat is made up of; None where it has to be a copy."""
        info, d = self.infos[op.name], op_def(op.kind)
        if d.concat and info.attrs.get("axis", 0) != 0:
            return None
        found: list[Patch] = []
        channels = rows = 0
        for t, shape in zip(op.inputs, info.inputs, strict=True):
            patches = self._patches_of(t)
            if patches is None:
                return None
            if d.window:
                patches = _cut(patches, info.attrs["lo"], info.attrs["hi"])
            found += [_moved(p, channels, rows) for p in patches]
            channels += shape[0] if d.concat else 0
            rows += shape[1] if d.stack else 0
        merged: list[Patch] = []
        for p in found:
            together = _merged(merged[-1], p) if merged else None
            merged[-1:] = [together] if together else [*merged[-1:], p]
        ranges = sorted((p.root, p.rows) for p in merged)
        if any(a[0] == b[0] and b[1][0] < a[1][1] for a, b in itertools.pairwise(ranges)):
            return None
        cut = [p.root for p in merged if p.rows != (0, self.network.tensor[p.root].shape[1])]
        if self._storage(p.root for p in merged) != 1 or not all(map(self._may_be_cut, cut)):
            return None
        self.by_row.update(cut)
        return tuple(merged)

    def _may_be_cut(self, root: str) -> bool:
        """Whether every row of a root and of its gradient begins at a multiple of the alignment."""
        return not any(
            self.row_bytes(root, dtype) % self.options.alignment for dtype in (self._dtype(root), self.options.dtype)
        )

    def _spread(self) -> None:
        """Store what is overwritten in place like what overwrites it."""
        for op in reversed(self.network.ops):
            if op.name in self._free or op.output not in self.by_row:
                continue
            for slot in op_def(op.kind).inplace(self.infos[op.name]):
                ((root, lo, hi), *more) = self.spans[op.inputs[slot]]
                shape = self.network.tensor[root].shape
                if not more and (lo, hi) == (0, self._bytes(root)) and shape == self.network.tensor[op.output].shape:
                    self.by_row.add(root)

    # -- channels -------------------------------------------------------------------------------------
    def _join(self, op: Op) -> bool:
        """Try to place the parts of a concat side by side; change nothing if they cannot be."""
        parts = [p for t in op.inputs for p in self.spans[t]]
        names = [name for name, _, _ in parts]
        axis = self.infos[op.name].attrs.get("axis", 0)
        if axis != 0 or len(set(names)) != len(names) or self._storage(names) != 1:
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


def _cut(patches: Iterable[Patch], lo: int, hi: int) -> tuple[Patch, ...]:
    """Rows ``[lo, hi)`` of a tensor."""
    found = []
    for p in patches:
        first, last = max(p.box.rows[0], lo), min(p.box.rows[1], hi)
        if first < last:
            start = p.rows[0] + first - p.box.rows[0]
            found.append(Patch(p.root, (start, start + last - first), Box(p.box.channels, (first - lo, last - lo))))
    return tuple(found)


def _moved(p: Patch, channels: int, rows: int) -> Patch:
    """A patch with its box shifted."""
    (c0, c1), (r0, r1) = p.box.channels, p.box.rows
    return p._replace(box=Box((c0 + channels, c1 + channels), (r0 + rows, r1 + rows)))


def _merged(a: Patch, b: Patch) -> Patch | None:
    """Two patches as one, where the second goes on where the first ends."""
    if a.root != b.root or a.rows[1] != b.rows[0] or a.box.channels != b.box.channels:
        return None
    if a.box.rows[1] != b.box.rows[0]:
        return None
    return Patch(a.root, (a.rows[0], b.rows[1]), Box(a.box.channels, (a.box.rows[0], b.box.rows[1])))
