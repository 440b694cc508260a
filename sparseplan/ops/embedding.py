"""What enters a network beside its data: rows looked up by number, and learned tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from sparseplan.errors import OpError
from sparseplan.network import MAX_RANK, Attr
from sparseplan.ops.attrs import integer
from sparseplan.ops.base import (
    NOTHING,
    REQUIRED,
    Alternatives,
    Array,
    Dim,
    OpDef,
    Operand,
    OpInfo,
    Shape,
    TileSpace,
    need,
    register,
)


@register
class Embedding(OpDef):
    """Rows of a table by their numbers: ids of any shape to ``(*shape, dim)``; weight ``(num, dim)``.

    The ids are an input of the network of dtype ``i32``, each at least 0 and below ``num``. No
    gradient flows to them; that of the weight is ``dy`` added to the rows that were looked up.
    """

    kind = "embedding"
    integer_inputs: ClassVar[frozenset[int] | None] = frozenset((0,))
    defaults: ClassVar[Mapping[str, Any]] = {"num": REQUIRED, "dim": REQUIRED}

    def complete_attrs(self, attrs: Mapping[str, Attr]) -> dict[str, Any]:
        full = super().complete_attrs(attrs)
        return full | {name: integer(name, full[name]) for name in self.defaults}

    def output_shape(self, attrs: Mapping[str, Any], inputs: Sequence[Shape]) -> Shape:
        return (*inputs[0], attrs["dim"])

    def param_shapes(self, attrs: Mapping[str, Any], inputs: Sequence[Shape]) -> dict[str, Shape]:
        return {"weight": (attrs["num"], attrs["dim"])}

    def required_params(self, attrs: Mapping[str, Any]) -> frozenset[str]:
        return frozenset(("weight",))

    def init(self, slot: str, shape: Shape, rng: np.random.Generator) -> Array:
        return rng.standard_normal(shape, np.float32)

    def differentiable(self, info: OpInfo, slot: int) -> bool:
        return False

    def obstacle(self, info: OpInfo) -> str:
        return "ids have no gradient; there is nothing before an embedding to update"

    def needs_for_param(self, info: OpInfo, slot: str) -> Alternatives:
        return need("x0")

    def forward(self, info: OpInfo, x: Sequence[Array], params: Mapping[str, Array]) -> Array:
        y: Array = params["weight"][x[0]]
        return y

    def grad_param(
        self, info: OpInfo, slot: str, dy: Array, saved: Mapping[str, Array], keep: int | None = None
    ) -> Array:
        total: Array = np.zeros((info.attrs["num"], info.attrs["dim"]), dy.dtype)
        # one after the other, in the order of the ids: an id may occur more than once
        np.add.at(total, saved["x0"].reshape(-1), dy.reshape(-1, info.attrs["dim"]))
        return total

    def tile_space(self, info: OpInfo, pass_: str) -> TileSpace | None:
        ids, num, dim = math.prod(info.inputs[0]), info.attrs["num"], info.attrs["dim"]
        if pass_ == "x0":
            return None  # never computed
        r, d = Dim("r", ids), Dim("d", dim)
        numbers, axes = Operand("x0", (r,), "in", "i32"), (("r", ids), ("d", dim))
        if pass_ == "forward":  # of the table, the rows that a tile looks up, one an id
            return TileSpace(axes, (numbers, Operand("weight", (r, d)), Operand("y", (r, d), "out")), 0)
        made = Operand("dweight", (Dim(None, num), d), "out")
        return TileSpace(axes, (numbers, Operand("dy", (r, d)), made), 0)


@register
class Parameter(OpDef):
    """A learned tensor of ``shape`` (a class token, positions), the same for every sample; weight of that shape.

    It has no inputs, so ``forward`` makes one sample, ``(1, *shape)``; whoever calls it repeats that
    over the batch. The gradient is ``dy`` summed over the batch.
    """

    kind = "parameter"
    arity = (0, 0)
    defaults: ClassVar[Mapping[str, Any]] = {"shape": REQUIRED}

    def complete_attrs(self, attrs: Mapping[str, Attr]) -> dict[str, Any]:
        full = super().complete_attrs(attrs)
        shape = (full["shape"],) if isinstance(full["shape"], int) else full["shape"]
        if not isinstance(shape, (tuple, list)) or len(shape) > MAX_RANK:
            raise OpError(f"shape={full['shape']!r} must be at most {MAX_RANK} integers of at least 1")
        return full | {"shape": tuple(integer("shape", n) for n in shape)}

    def output_shape(self, attrs: Mapping[str, Any], inputs: Sequence[Shape]) -> Shape:
        shape: Shape = attrs["shape"]
        return shape

    def param_shapes(self, attrs: Mapping[str, Any], inputs: Sequence[Shape]) -> dict[str, Shape]:
        return {"weight": attrs["shape"]}

    def required_params(self, attrs: Mapping[str, Any]) -> frozenset[str]:
        return frozenset(("weight",))

    def init(self, slot: str, shape: Shape, rng: np.random.Generator) -> Array:
        return rng.standard_normal(shape, np.float32) * np.float32(0.02)

    def needs_for_param(self, info: OpInfo, slot: str) -> Alternatives:
        return NOTHING

    def forward(self, info: OpInfo, x: Sequence[Array], params: Mapping[str, Array]) -> Array:
        return params["weight"][None].copy()

    def grad_param(
        self, info: OpInfo, slot: str, dy: Array, saved: Mapping[str, Array], keep: int | None = None
    ) -> Array:
        total: Array = dy.sum(axis=0)
        return total

    def tile_space(self, info: OpInfo, pass_: str) -> TileSpace | None:
        whole = (Dim("n", info.out_elements),)
        if pass_ == "forward":
            operands = (Operand("weight", whole), Operand("y", whole, "out"))
        else:
            operands = (Operand("dy", whole), Operand("dweight", whole, "out"))
        return TileSpace((("n", info.out_elements),), operands, 0)
