"""Products of two activations, as attention takes them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from sparseplan.errors import OpError
from sparseplan.network import Attr
from sparseplan.ops.attrs import boolean
from sparseplan.ops.base import Alternatives, Array, Dim, OpDef, Operand, OpInfo, Shape, TileSpace, need, register


def _turned(array: Array, turn: bool) -> Array:
    return array.swapaxes(-1, -2) if turn else array


@register
class MatMul(OpDef):
    """``y = a @ b`` over the last two axes: ``(…, m, k)`` by ``(…, k, n)`` to ``(…, m, n)``.

    Ranks are equal, at least 2; leading extents are equal, or 1 and then spread. ``transpose_a``
    takes ``a`` as ``(…, k, m)``, ``transpose_b`` takes ``b`` as ``(…, n, k)``. The gradient of one
    input needs the other.
    """

    kind = "matmul"
    arity = (2, 2)
    partial_input = True
    defaults: ClassVar[Mapping[str, Any]] = {"transpose_a": False, "transpose_b": False}

    def complete_attrs(self, attrs: Mapping[str, Attr]) -> dict[str, Any]:
        full = super().complete_attrs(attrs)
        return full | {name: boolean(name, full[name]) for name in self.defaults}

    def output_shape(self, attrs: Mapping[str, Any], inputs: Sequence[Shape]) -> Shape:
        a, b = inputs
        if len(a) != len(b) or len(a) < 2:
            raise OpError(f"inputs have shapes {list(inputs)}; matmul takes equal ranks of at least 2")
        if any(m != n and 1 not in (m, n) for m, n in zip(a[:-2], b[:-2], strict=True)):
            raise OpError(f"inputs have shapes {list(inputs)}; leading extents must be equal, or 1 to spread")
        m, k = a[:-3:-1] if attrs["transpose_a"] else a[-2:]
        inner, n = b[:-3:-1] if attrs["transpose_b"] else b[-2:]
        if k != inner:
            flags = f"transpose_a={attrs['transpose_a']}, transpose_b={attrs['transpose_b']}"
            raise OpError(
                f"inputs have shapes {list(inputs)} ({flags}): the extents summed over, {k} and {inner}, differ"
            )
        return (*(max(p, q) for p, q in zip(a[:-2], b[:-2], strict=True)), m, n)

    def _inner(self, info: OpInfo) -> int:
        return info.inputs[0][-2 if info.attrs["transpose_a"] else -1]

    def macs(self, info: OpInfo, pass_: str) -> int:
        return info.out_elements * self._inner(info)

    def needs_for_input(self, info: OpInfo, slot: int) -> Alternatives:
        return need(f"x{1 - slot}")

    def forward(self, info: OpInfo, x: Sequence[Array], params: Mapping[str, Array]) -> Array:
        y: Array = np.matmul(_turned(x[0], info.attrs["transpose_a"]), _turned(x[1], info.attrs["transpose_b"]))
        return y

    def grad_input(
        self,
        info: OpInfo,
        slot: int,
        dy: Array,
        saved: Mapping[str, Array],
        channels: tuple[int, int] | None = None,
    ) -> Array:
        turn_a, turn_b = info.attrs["transpose_a"], info.attrs["transpose_b"]
        other = _turned(saved[f"x{1 - slot}"], turn_b if slot == 0 else turn_a)
        turned = turn_a if slot == 0 else turn_b
        if channels is not None:
            dy, other = self._cut(info, slot, dy, other, turned, slice(*channels))
        if slot == 0:
            dx: Array = np.matmul(dy, other.swapaxes(-1, -2))
        else:
            dx = np.matmul(other.swapaxes(-1, -2), dy)
        spread = tuple(
            i + 1 for i, (m, n) in enumerate(zip(info.inputs[slot][:-2], info.output[:-2], strict=True)) if m != n
        )
        if spread:
            dx = dx.sum(axis=spread, keepdims=True)
        return np.ascontiguousarray(_turned(dx, turned))

    @staticmethod
    def _cut(info: OpInfo, slot: int, dy: Array, other: Array, turned: bool, part: slice) -> tuple[Array, Array]:
        """The gradient and the other input (as ``(m, k)`` or ``(k, n)``) that some entries of axis 0 depend on."""
        if len(info.output) > 2:
            if info.inputs[slot][0] == info.output[0]:
                dy, other = dy[:, part], other if info.inputs[1 - slot][0] != info.output[0] else other[:, part]
        elif slot == 0:  # axis 0 is m, or k where turned
            dy, other = (dy, other[:, part]) if turned else (dy[:, part], other)
        else:  # axis 0 is k, or n where turned
            dy, other = (dy[:, :, part], other) if turned else (dy, other[:, :, part])
        return dy, other

    def tile_space(self, info: OpInfo, pass_: str) -> TileSpace | None:
        leads = [shape[:-2] for shape in info.inputs]
        if leads[0] == leads[1]:  # nothing is spread: products one after the other
            leads = [(math.prod(lead),) for lead in leads]
        lead = tuple(max(p, q) for p, q in zip(*leads, strict=True))
        (m, n), k = info.output[-2:], self._inner(info)
        axes = (*((f"b{i}", extent) for i, extent in enumerate(lead)), ("m", m), ("n", n), ("k", k))

        def dims(shape: Shape, *last: Dim) -> tuple[Dim, ...]:
            batch = (
                Dim(f"b{i}", q) if p == q else Dim(None, 1) for i, (p, q) in enumerate(zip(shape, lead, strict=True))
            )
            return (*batch, *last)

        a = (Dim("k", k), Dim("m", m)) if info.attrs["transpose_a"] else (Dim("m", m), Dim("k", k))
        b = (Dim("n", n), Dim("k", k)) if info.attrs["transpose_b"] else (Dim("k", k), Dim("n", n))
        sides, product = (dims(leads[0], *a), dims(leads[1], *b)), dims(lead, Dim("m", m), Dim("n", n))
        if pass_ == "forward":
            operands = (Operand("x0", sides[0]), Operand("x1", sides[1]), Operand("y", product, "out"))
        else:
            slot = int(pass_[1:])
            operands = (
                Operand("dy", product), Operand(f"x{1 - slot}", sides[1 - slot]), Operand("dx", sides[slot], "out"),
            )  # fmt: skip
        return TileSpace(axes, operands, self.macs(info, pass_))
