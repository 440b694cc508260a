"""Tensors that are part of what a network computes and never learned: masks, fixed positions, scales."""

from __future__ import annotations

from typing import ClassVar

from sparseplan.ops.base import register
from sparseplan.ops.embedding import Parameter
from sparseplan.ops.params import ParamAdd, ParamMul


@register
class Constant(Parameter):
    """As ``parameter``, but never updated."""

    kind = "constant"
    frozen: ClassVar[frozenset[str]] = frozenset(("weight",))


@register
class ConstAdd(ParamAdd):
    """As ``param_add``, but the weight is never updated."""

    kind = "const_add"
    frozen: ClassVar[frozenset[str]] = frozenset(("weight",))


@register
class ConstMul(ParamMul):
    """As ``param_mul``, but the weight is never updated."""

    kind = "const_mul"
    frozen: ClassVar[frozenset[str]] = frozenset(("weight",))
