"""Ops that move elements and compute nothing: transpose, slice, pad, gather.

Gradients are the same moves backwards; they read nothing but ``dy``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from sparseplan.errors import OpError, near
from sparseplan.network import Attr
from sparseplan.ops.attrs import along, integer, number, per_axis, several
from sparseplan.ops.base import REQUIRED, Array, Dim, OpDef, Operand, OpInfo, Shape, TileSpace, register

_PADS = ("constant", "reflect", "edge")


def _cut(dy: Array, axis: int, part: slice) -> Array:
    """``part`` of an axis of the samples."""
    return dy[(slice(None),) * (axis + 1) + (part,)]


@register
class Transpose(OpDef):
    """Axis ``i`` of the output is axis ``perm[i]`` of the input (of a sample: the batch axis stays first)."""

    kind = "transpose"
    partial_input = True
    defaults: ClassVar[Mapping[str, Any]] = {"perm": REQUIRED}

    def complete_attrs(self, attrs: Mapping[str, Attr]) -> dict[str, Any]:
        full = super().complete_attrs(attrs)
        perm = several("perm", full["perm"])
        perm = tuple(p + len(perm) if p < 0 else p for p in perm)
        if sorted(perm) != list(range(len(perm))):
            raise OpError(f"perm={full['perm']} must hold each of the axes 0 to {len(perm) - 1} once")
        return full | {"perm": perm}

    def output_shape(self, attrs: Mapping[str, Any], inputs: Sequence[Shape]) -> Shape:
        return tuple(inputs[0][p] for p in per_axis("perm", attrs["perm"], inputs[0]))

    def forward(self, info: OpInfo, x: Sequence[Array], params: Mapping[str, Array]) -> Array:
        return x[0].transpose(0, *(p + 1 for p in info.attrs["perm"])).copy()

    def grad_input(
        self,
        info: OpInfo,
        slot: int,
        dy: Array,
        saved: Mapping[str, Array],
        channels: tuple[int, int] | None = None,
    ) -> Array:
        perm = info.attrs["perm"]
        if channels is not None:
            dy = _cut(dy, perm.index(0), slice(*channels))
        return dy.transpose(0, *(perm.index(i) + 1 for i in range(len(perm)))).copy()

    def tile_space(self, info: OpInfo, pass_: str) -> TileSpace | None:
        axes = tuple((f"a{i}", n) for i, n in enumerate(info.inputs[0]))
        source = tuple(Dim(axis, n) for axis, n in axes)
        made = tuple(source[p] for p in info.attrs["perm"])
        if pass_ == "forward":
            return TileSpace(axes, (Operand("x0", source), Operand("y", made, "out")), 0)
        return TileSpace(axes, (Operand("dy", made), Operand("dx", source, "out")), 0)


@register
class Slice(OpDef):
    """Entries ``starts[i]``, ``starts[i] + steps[i]`` … below ``stops[i]`` of each axis ``i``.

    Starts and stops below 0 count from the end; a stop beyond the end means the end. Steps are at
    least 1. What is left out gets no gradient.
    """

    kind = "slice"
    partial_input = True
    defaults: ClassVar[Mapping[str, Any]] = {"starts": REQUIRED, "stops": REQUIRED, "steps": ()}

    def complete_attrs(self, attrs: Mapping[str, Attr]) -> dict[str, Any]:
        full = super().complete_attrs(attrs)
        starts, stops = (several(name, full[name]) for name in ("starts", "stops"))
        steps = several("steps", full["steps"] or (1,) * len(starts), 1)
        if not len(starts) == len(stops) == len(steps):
            raise OpError(f"starts={starts}, stops={stops} and steps={steps} must be of one length")
        return full | {"starts": starts, "stops": stops, "steps": steps}

    @staticmethod
    def ranges(attrs: Mapping[str, Any], shape: Shape) -> tuple[range, ...]:
        """Indices taken of each axis."""
        per_axis("starts", attrs["starts"], shape)
        cuts = zip(attrs["starts"], attrs["stops"], attrs["steps"], shape, strict=True)
        return tuple(range(*slice(a, b, s).indices(n)) for a, b, s, n in cuts)

    def output_shape(self, attrs: Mapping[str, Any], inputs: Sequence[Shape]) -> Shape:
        shape = tuple(map(len, self.ranges(attrs, inputs[0])))
        if 0 in shape:
            raise OpError(
                f"starts={attrs['starts']}, stops={attrs['stops']} leave nothing of axis {shape.index(0)} "
                f"of input shape {inputs[0]}"
            )
        return shape

    def forward(self, info: OpInfo, x: Sequence[Array], params: Mapping[str, Array]) -> Array:
        return x[0][self._index(self.ranges(info.attrs, info.inputs[0]))].copy()

    @staticmethod
    def _index(ranges: Sequence[range]) -> tuple[slice, ...]:
        return (slice(None), *(slice(r.start, r.stop, r.step) for r in ranges))

    def grad_input(
        self,
        info: OpInfo,
        slot: int,
        dy: Array,
        saved: Mapping[str, Array],
        channels: tuple[int, int] | None = None,
    ) -> Array:
        ranges, shape = list(self.ranges(info.attrs, info.inputs[0])), info.inputs[0]
        if channels is not None:
            (first, last), taken = channels, ranges[0]
            inside = [k for k, at in enumerate(taken) if first <= at < last]
            dy = dy[:, inside[0] : inside[-1] + 1] if inside else dy[:, :0]
            begin = taken[inside[0]] - first if inside else 0
            ranges[0] = range(begin, begin + len(inside) * taken.step, taken.step)
            shape = (last - first, *shape[1:])
        dx = np.zeros((len(dy), *shape), dy.dtype)
        dx[self._index(ranges)] = dy
        return dx

    def tile_space(self, info: OpInfo, pass_: str) -> TileSpace | None:
        (shape,), out, steps = info.inputs, info.output, info.attrs["steps"]
        names = [f"a{i}" for i in range(len(out))]
        if pass_ == "forward":
            read = tuple(Dim(a, (n - 1) * s + 1, s) for a, n, s in zip(names, out, steps, strict=True))
            made = tuple(map(Dim, names, out))
            operands = (Operand("x0", read), Operand("y", made, "out"))
            return TileSpace(tuple(zip(names, out, strict=True)), operands, 0)
        # of t neighbours no more than t were taken
        operands = (Operand("dy", tuple(map(Dim, names, out))), Operand("dx", tuple(map(Dim, names, shape)), "out"))
        return TileSpace(tuple(zip(names, shape, strict=True)), operands, 0)


def _borders(mode: str, n: int, before: int, after: int) -> Array:
    """The index of an axis of ``n`` that each entry of the padded axis copies."""
    at = np.arange(-before, n + after)
    if mode == "edge":
        return np.clip(at, 0, n - 1)
    reflected: Array = (n - 1) - np.abs((n - 1) - np.abs(at))
    return reflected


@register
class Pad(OpDef):
    """Each axis ``i`` with ``before[i]`` and ``after[i]`` entries more: a constant ``value``, the reflection
    about the border (which is not repeated: fewer than the extent), or the border's entry (``edge``)."""

    kind = "pad"
    partial_input = True
    defaults: ClassVar[Mapping[str, Any]] = {"before": REQUIRED, "after": REQUIRED, "mode": "constant", "value": 0.0}

    def complete_attrs(self, attrs: Mapping[str, Attr]) -> dict[str, Any]:
        full = super().complete_attrs(attrs)
        before, after = (several(name, full[name], low=0) for name in ("before", "after"))
        if len(before) != len(after):
            raise OpError(f"before={before} and after={after} must be of one length")
        if full["mode"] not in _PADS:
            raise OpError(f"mode={full['mode']!r} is unknown{near(str(full['mode']), _PADS)}")
        return full | {"before": before, "after": after, "value": number("value", full["value"])}

    def output_shape(self, attrs: Mapping[str, Any], inputs: Sequence[Shape]) -> Shape:
        shape = inputs[0]
        per_axis("before", attrs["before"], shape)
        for i, (n, *sides) in enumerate(zip(shape, attrs["before"], attrs["after"], strict=True)):
            if attrs["mode"] == "reflect" and max(sides) >= n:
                raise OpError(f"before={attrs['before']}, after={attrs['after']}: axis {i} of extent {n} can be "
                              f"reflected by {n - 1} at most")  # fmt: skip
        return tuple(a + n + b for a, n, b in zip(attrs["before"], shape, attrs["after"], strict=True))

    def forward(self, info: OpInfo, x: Sequence[Array], params: Mapping[str, Array]) -> Array:
        widths = ((0, 0), *zip(info.attrs["before"], info.attrs["after"], strict=True))
        if info.attrs["mode"] == "constant":
            return np.pad(x[0], widths, constant_values=info.attrs["value"])
        return np.pad(x[0], widths, mode=info.attrs["mode"])

    def grad_input(
        self,
        info: OpInfo,
        slot: int,
        dy: Array,
        saved: Mapping[str, Array],
        channels: tuple[int, int] | None = None,
    ) -> Array:
        dx = dy
        for axis, (n, before, after) in enumerate(
            zip(info.inputs[0], info.attrs["before"], info.attrs["after"], strict=True)
        ):
            whole, dx = dx, _cut(dx, axis, slice(before, before + n))
            if info.attrs["mode"] != "constant" and before + after:
                dx = dx.copy()
                copied = _borders(info.attrs["mode"], n, before, after)
                for at in (*range(before), *range(before + n, before + n + after)):
                    target = int(copied[at])
                    _cut(dx, axis, slice(target, target + 1))[...] += _cut(whole, axis, slice(at, at + 1))
            if axis == 0 and channels is not None:
                dx = dx[:, channels[0] : channels[1]]
        return dx.copy()

    def tile_space(self, info: OpInfo, pass_: str) -> TileSpace | None:
        (shape,), out = info.inputs, info.output
        names = [f"a{i}" for i in range(len(out))]
        if pass_ == "forward":
            # t neighbours are copies of no more than t neighbours
            operands = (Operand("x0", tuple(map(Dim, names, shape))), Operand("y", tuple(map(Dim, names, out)), "out"))
            return TileSpace(tuple(zip(names, out, strict=True)), operands, 0)
        if info.attrs["mode"] == "constant":
            axes = [*zip(names, shape, strict=True)]
            read = made = tuple(map(Dim, names, shape))  # the borders are not read
        else:
            # an axis whose borders come back to its middle stays whole
            plain = [m == n for m, n in zip(shape, out, strict=True)]
            axes = [(a, n) for a, n, keep in zip(names, shape, plain, strict=True) if keep]
            read, made = (
                tuple(Dim(a if keep else None, n) for a, n, keep in zip(names, extents, plain, strict=True))
                for extents in (out, shape)
            )
        return TileSpace(tuple(axes), (Operand("dy", read), Operand("dx", made, "out")), 0)


@register
class Gather(OpDef):
    """Entries ``indices`` of ``axis``, in that order, any of them several times or not at all.

    The gradient of an entry is the sum over the places where it was taken to.
    """

    kind = "gather"
    defaults: ClassVar[Mapping[str, Any]] = {"axis": 0, "indices": REQUIRED}

    def complete_attrs(self, attrs: Mapping[str, Attr]) -> dict[str, Any]:
        full = super().complete_attrs(attrs)
        indices = several("indices", full["indices"], low=0)
        if not indices:
            raise OpError("indices=() take nothing; give at least one")
        return full | {"axis": integer("axis", full["axis"], low=-8), "indices": indices}

    def output_shape(self, attrs: Mapping[str, Any], inputs: Sequence[Shape]) -> Shape:
        shape, axis = inputs[0], along("axis", attrs["axis"], inputs[0])
        if max(attrs["indices"]) >= shape[axis]:
            raise OpError(
                f"indices={attrs['indices']} reach beyond the {shape[axis]} entries of axis {axis} of input {shape}"
            )
        return (*shape[:axis], len(attrs["indices"]), *shape[axis + 1 :])

    def forward(self, info: OpInfo, x: Sequence[Array], params: Mapping[str, Array]) -> Array:
        axis = along("axis", info.attrs["axis"], info.inputs[0])
        return np.ascontiguousarray(np.take(x[0], np.array(info.attrs["indices"], np.intp), axis=axis + 1))

    def grad_input(
        self,
        info: OpInfo,
        slot: int,
        dy: Array,
        saved: Mapping[str, Array],
        channels: tuple[int, int] | None = None,
    ) -> Array:
        axis = along("axis", info.attrs["axis"], info.inputs[0])
        dx = np.zeros((len(dy), *info.inputs[0]), dy.dtype)
        into = np.moveaxis(dx, axis + 1, 0)
        np.add.at(into, np.array(info.attrs["indices"], np.intp), np.moveaxis(dy, axis + 1, 0))
        return dx

    def tile_space(self, info: OpInfo, pass_: str) -> TileSpace | None:
        (shape,), out = info.inputs, info.output
        axis = along("axis", info.attrs["axis"], shape)
        names: list[str | None] = [f"a{i}" for i in range(len(out))]
        if pass_ == "forward":
            # every entry made is one entry read
            read = tuple(Dim(a, min(m, n)) for a, m, n in zip(names, shape, out, strict=True))
            operands = (Operand("x0", read), Operand("y", tuple(map(Dim, names, out)), "out"))
        else:
            names[axis] = None  # an entry's gradient may come from anywhere along the axis
            operands = (Operand("dy", tuple(map(Dim, names, out))), Operand("dx", tuple(map(Dim, names, shape)), "out"))
        axes = tuple((a, n) for a, n in zip(names, out, strict=True) if a is not None)
        return TileSpace(axes, operands, 0)
