"""Ops that are known by their shapes alone: planned as frozen, never computed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from sparseplan.errors import OpError
from sparseplan.network import Attr
from sparseplan.ops.attrs import boolean, integer
from sparseplan.ops.base import REQUIRED, Array, OpDef, OpInfo, Shape, register


@register
class Opaque(OpDef):
    """An op of another library, which has one output of ``shape``.

    Attributes ``type`` (its name there), ``shape`` (of the output), ``macs`` (of its forward pass; absent where not
    known), ``once`` (whether it has to run once: it draws random numbers or holds state, so that a second run makes
    others, or is a further output of an op whose first is counted), and ``p0``, ``p1`` … (shapes of its parameters, in
    slots of the same names). Any number of inputs. Its output and parameters take their bytes, and its inputs live
    until it has run; no gradient passes it, its parameters are never updated, and it cannot be run here. It runs again
    only where its MACs are known, and not ``once``.
    """

    kind = "opaque"
    arity = (0, None)
    integer_inputs: ClassVar[frozenset[int] | None] = None
    defaults: ClassVar[Mapping[str, Any]] = {"type": REQUIRED, "shape": REQUIRED, "macs": None, "once": False}

    def complete_attrs(self, attrs: Mapping[str, Attr]) -> dict[str, Any]:
        slots = {name: value for name, value in attrs.items() if _is_slot(name)}
        full = super().complete_attrs({name: value for name, value in attrs.items() if name not in slots})
        if not isinstance(full["type"], str) or not full["type"]:
            raise OpError(f"type={full['type']!r} must be the name of an op")
        full["macs"] = None if full["macs"] is None else integer("macs", full["macs"], 0)
        full["once"] = boolean("once", full["once"])
        return {**full, **{name: _extents(name, value) for name, value in {"shape": full["shape"], **slots}.items()}}

    def output_shape(self, attrs: Mapping[str, Any], inputs: Sequence[Shape]) -> Shape:
        shape: Shape = attrs["shape"]
        return shape

    def param_shapes(self, attrs: Mapping[str, Any], inputs: Sequence[Shape]) -> dict[str, Shape]:
        return {name: shape for name, shape in attrs.items() if _is_slot(name)}

    def required_params(self, attrs: Mapping[str, Any]) -> frozenset[str]:
        return frozenset(filter(_is_slot, attrs))

    def macs(self, info: OpInfo, pass_: str) -> int:
        macs: int = info.attrs["macs"] or 0
        return macs if pass_ == "forward" else 0

    def repeatable(self, attrs: Mapping[str, Any]) -> bool:
        return attrs.get("macs") is not None and not attrs.get("once")

    def differentiable(self, info: OpInfo, slot: int) -> bool:
        return False

    def updatable(self, slot: str) -> bool:
        return False

    def obstacle(self, info: OpInfo) -> str:
        return (
            f"{info.attrs['type']} is known by its shapes alone, so no gradient passes it; freeze what comes before, "
            f"choose an output before it, or give {info.attrs['type']} a definition with a gradient in sparseplan/ops"
        )

    def forward(self, info: OpInfo, x: Sequence[Array], params: Mapping[str, Array]) -> Array:
        raise OpError(
            f"op {info.name!r}: {info.attrs['type']} is known by its shapes alone and cannot be run; it can be planned"
        )


def _is_slot(name: str) -> bool:
    return name[:1] == "p" and name[1:].isascii() and name[1:].isdigit()


def _extents(name: str, value: Any) -> Shape:
    if isinstance(value, bool) or not isinstance(value, (int, tuple, list)):
        raise OpError(f"{name}={value!r} must be a tuple of extents")
    shape = (value,) if isinstance(value, int) else tuple(value)
    if math.prod(integer(name, n) for n in shape) < 1:
        raise OpError(f"{name}={value!r} must be extents of at least 1")
    return shape
