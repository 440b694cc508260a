"""Ops that compute nothing: flatten and reshape rename the bytes of their input, detach ends its gradient."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from sparseplan.errors import OpError
from sparseplan.network import Attr
from sparseplan.ops.base import REQUIRED, Array, Dim, OpDef, Operand, OpInfo, Shape, Stripe, TileSpace, register


class _View(OpDef):
    view = True

    def inplace(self, info: OpInfo) -> tuple[int, ...]:
        return (0,)

    def inplace_grad(self, info: OpInfo, slot: int) -> bool:
        return True

    def forward(self, info: OpInfo, x: Sequence[Array], params: Mapping[str, Array]) -> Array:
        y: Array = x[0].reshape(x[0].shape[0], *info.output).copy()
        return y

    def grad_input(
        self,
        info: OpInfo,
        slot: int,
        dy: Array,
        saved: Mapping[str, Array],
        channels: tuple[int, int] | None = None,
    ) -> Array:
        dx: Array = dy.reshape(dy.shape[0], *info.inputs[0]).copy()
        return dx


@register
class Detach(OpDef):
    """The input, to which no gradient passes: a straight-through estimator is ``x + detach(round(x) - x)``."""

    kind = "detach"

    def output_shape(self, attrs: Mapping[str, Any], inputs: Sequence[Shape]) -> Shape:
        return inputs[0]

    def differentiable(self, info: OpInfo, slot: int) -> bool:
        return False

    def obstacle(self, info: OpInfo) -> str:
        return "it ends the gradient, as the network asks; freeze what comes before, or take it out"

    def inplace(self, info: OpInfo) -> tuple[int, ...]:
        return (0,)

    def stripe(self, info: OpInfo, lo: int, hi: int) -> Stripe | None:
        return Stripe(((lo, hi),), info.attrs)

    def forward(self, info: OpInfo, x: Sequence[Array], params: Mapping[str, Array]) -> Array:
        return x[0].copy()

    def tile_space(self, info: OpInfo, pass_: str) -> TileSpace | None:
        if pass_ != "forward":
            return None  # never computed
        whole = (Dim("n", info.out_elements),)
        return TileSpace((("n", info.out_elements),), (Operand("x0", whole), Operand("y", whole, "out")), 0)


@register
class Flatten(_View):
    """All axes of a sample in one."""

    kind = "flatten"

    def output_shape(self, attrs: Mapping[str, Any], inputs: Sequence[Shape]) -> Shape:
        return (math.prod(inputs[0]),)


@register
class Reshape(_View):
    """A sample's elements under another ``shape``; one extent may be -1, the rest decide it."""

    kind = "reshape"
    defaults: ClassVar[Mapping[str, Any]] = {"shape": REQUIRED}

    def complete_attrs(self, attrs: Mapping[str, Attr]) -> dict[str, Any]:
        full = super().complete_attrs(attrs)
        shape = full["shape"]
        if isinstance(shape, int) and not isinstance(shape, bool):
            shape = (shape,)
        if (
            not isinstance(shape, (tuple, list))
            or any(isinstance(n, bool) or not isinstance(n, int) or (n < 1 and n != -1) for n in shape)
            or sum(n == -1 for n in shape) > 1
        ):
            raise OpError(f"shape={full['shape']!r} must be integers of at least 1, with at most one -1")
        return full | {"shape": tuple(shape)}

    def output_shape(self, attrs: Mapping[str, Any], inputs: Sequence[Shape]) -> Shape:
        shape, total = attrs["shape"], math.prod(inputs[0])
        known = math.prod(n for n in shape if n != -1)
        if total % known or (-1 not in shape and known != total):
            raise OpError(f"shape={shape} does not hold the {total} elements of input shape {inputs[0]}")
        return tuple(total // known if n == -1 else n for n in shape)
