"""A parameter added to or multiplied with a tensor: positions of a transformer, scales of a layer."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from sparseplan.errors import OpError
from sparseplan.network import Attr
from sparseplan.ops.attrs import several
from sparseplan.ops.base import (
    NOTHING,
    REQUIRED,
    Alternatives,
    Array,
    Fraction,
    OpDef,
    Operand,
    OpInfo,
    Shape,
    Stripe,
    TileSpace,
    need,
    register,
)
from sparseplan.ops.spread import spread_axes, spread_dims, spread_nest


class _WithWeight(OpDef):
    """``weight`` of ``shape`` is laid over the input's last axes; its extents of 1 are spread, as in NumPy."""

    partial_input = True
    defaults: ClassVar[Mapping[str, Any]] = {"shape": REQUIRED}

    def complete_attrs(self, attrs: Mapping[str, Attr]) -> dict[str, Any]:
        full = super().complete_attrs(attrs)
        return full | {"shape": several("shape", full["shape"], 1)}

    def output_shape(self, attrs: Mapping[str, Any], inputs: Sequence[Shape]) -> Shape:
        shape, given = attrs["shape"], inputs[0]
        last = given[len(given) - len(shape) :]
        if len(shape) > len(given) or any(m not in (1, n) for m, n in zip(shape, last, strict=True)):
            raise OpError(f"shape={shape} cannot be laid over input shape {given}: its extents must be those of the "
                          "input's last axes, or 1")  # fmt: skip
        return given

    def param_shapes(self, attrs: Mapping[str, Any], inputs: Sequence[Shape]) -> dict[str, Shape]:
        return {"weight": attrs["shape"]}

    def required_params(self, attrs: Mapping[str, Any]) -> frozenset[str]:
        return frozenset(("weight",))

    @staticmethod
    def full_shape(info: OpInfo) -> Shape:
        """The weight's shape with the axes that it lacks, of extent 1."""
        shape: Shape = info.attrs["shape"]
        return (1,) * (len(info.output) - len(shape)) + shape

    def stripe(self, info: OpInfo, lo: int, hi: int) -> Stripe | None:
        # only where the weight is the same for every row
        return Stripe(((lo, hi),), info.attrs) if self.full_shape(info)[1] == 1 else None

    def inplace(self, info: OpInfo) -> tuple[int, ...]:
        return (0,)

    def inplace_grad(self, info: OpInfo, slot: int) -> bool:
        return True

    def grad_param(
        self, info: OpInfo, slot: str, dy: Array, saved: Mapping[str, Array], keep: int | None = None
    ) -> Array:
        shape = self.full_shape(info)
        axes = (0, *(i + 1 for i in spread_axes(shape, info.output)))
        total: Array = self._term(dy[:, :keep] if keep is not None else dy, saved, keep).sum(axis=axes)
        return total.reshape(info.attrs["shape"] if keep is None else (keep, *info.attrs["shape"][1:]))

    @abstractmethod
    def _term(self, dy: Array, saved: Mapping[str, Array], keep: int | None) -> Array:
        """The weight's gradient before what it was spread over is summed."""

    def tile_space(self, info: OpInfo, pass_: str) -> TileSpace | None:
        whole = spread_dims(info.output, info.output)
        weight = spread_dims(self.full_shape(info), info.output)
        if pass_ == "forward":
            operands = [Operand("x0", whole), Operand("weight", weight), Operand("y", whole, "out")]
        else:
            needs = self.needs_for_input(info, 0) if pass_ == "x0" else self.needs_for_param(info, pass_)
            dims = {"x0": whole, "weight": weight}
            operands = [Operand("dy", whole), *(Operand(tag, dims[tag]) for tag in sorted(needs[0]))]
            operands.append(Operand("dx", whole, "out") if pass_ == "x0" else Operand("dweight", weight, "out"))
        return TileSpace(spread_nest(info.output), tuple(operands), self.macs(info, pass_))


@register
class ParamAdd(_WithWeight):
    """``x + weight``; gradients read nothing but ``dy``."""

    kind = "param_add"

    def forward(self, info: OpInfo, x: Sequence[Array], params: Mapping[str, Array]) -> Array:
        return x[0] + params["weight"]

    def grad_input(
        self,
        info: OpInfo,
        slot: int,
        dy: Array,
        saved: Mapping[str, Array],
        channels: tuple[int, int] | None = None,
    ) -> Array:
        return dy.copy() if channels is None else dy[:, channels[0] : channels[1]].copy()

    def _term(self, dy: Array, saved: Mapping[str, Array], keep: int | None) -> Array:
        return dy


@register
class ParamMul(_WithWeight):
    """``x * weight``. A weight of the input's rank that has a value a channel can be updated in part."""

    kind = "param_mul"

    def macs(self, info: OpInfo, pass_: str) -> int:
        return info.out_elements

    def needs_for_input(self, info: OpInfo, slot: int) -> Alternatives:
        return need("weight")

    def needs_for_param(self, info: OpInfo, slot: str) -> Alternatives:
        return need("x0") if slot == "weight" else NOTHING

    def fraction(self, info: OpInfo, slot: str) -> Fraction | None:
        shape, output = info.attrs["shape"], info.output
        if not output or len(shape) < len(output) or shape[0] != output[0]:
            return None
        return Fraction(axis=0, units=output[0], per_unit=1, rows=1)

    def forward(self, info: OpInfo, x: Sequence[Array], params: Mapping[str, Array]) -> Array:
        return x[0] * params["weight"]

    def grad_input(
        self,
        info: OpInfo,
        slot: int,
        dy: Array,
        saved: Mapping[str, Array],
        channels: tuple[int, int] | None = None,
    ) -> Array:
        weight = saved["weight"].reshape(self.full_shape(info))
        if channels is not None:
            dy = dy[:, channels[0] : channels[1]]
            weight = weight[channels[0] : channels[1]] if weight.shape[0] == info.output[0] else weight
        return dy * weight

    def _term(self, dy: Array, saved: Mapping[str, Array], keep: int | None) -> Array:
        return dy * (saved["x0"] if keep is None else saved["x0"][:, :keep])
