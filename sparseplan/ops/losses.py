"""Losses. Invalid entries of a dense target are NaN; values are means over the valid ones."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from sparseplan.errors import DataError, OpError, near
from sparseplan.ops.attrs import number
from sparseplan.ops.base import Array, LossDef, Shape, register_loss


def _complete(loss: LossDef, attrs: Mapping[str, Any]) -> dict[str, Any]:
    for name in attrs:
        if name not in loss.defaults:
            raise OpError(f"attribute {name!r} is unknown to loss {loss.kind}{near(name, loss.defaults)}")
    return {**loss.defaults, **attrs}


class _Masked(LossDef):
    """A mean of a function of ``output - target`` over the entries where the target is no NaN."""

    def target(self, output: Shape) -> tuple[Shape, str]:
        return output, "data"

    def value_and_grad(self, output: Array, target: Array, attrs: Mapping[str, Any]) -> tuple[float, Array]:
        if output.shape != target.shape:
            raise DataError(f"loss {self.kind}: target has shape {target.shape}, output {output.shape}")
        full = _complete(self, attrs)
        residual = output - target.astype(output.dtype, copy=False)
        valid = ~np.isnan(target)
        count = int(np.count_nonzero(valid))
        if not count:
            return 0.0, np.zeros_like(output)
        if count < valid.size:
            residual[~valid] = 0  # each loss is 0 and flat there
        values, slopes = self._pointwise(residual, full)
        slopes /= count
        return float(np.sum(values, dtype=np.float64) / count), slopes

    @abstractmethod
    def _pointwise(self, residual: Array, attrs: Mapping[str, Any]) -> tuple[Array, Array]:
        """Loss and slope of each residual, new arrays; 0 and 0 at residual 0."""


@register_loss
class L1(_Masked):
    """Mean of ``|output - target|``; slope 0 where they are equal."""

    kind = "l1"

    def _pointwise(self, residual: Array, attrs: Mapping[str, Any]) -> tuple[Array, Array]:
        return np.abs(residual), np.sign(residual)


@register_loss
class Mse(_Masked):
    """Mean of ``(output - target)**2``."""

    kind = "mse"

    def _pointwise(self, residual: Array, attrs: Mapping[str, Any]) -> tuple[Array, Array]:
        return residual * residual, 2 * residual


@register_loss
class Huber(_Masked):
    """Mean of ``r**2 / 2`` for ``|r| <= delta``, else ``delta * (|r| - delta / 2)``."""

    kind = "huber"
    defaults: ClassVar[Mapping[str, Any]] = {"delta": 1.0}

    def _pointwise(self, residual: Array, attrs: Mapping[str, Any]) -> tuple[Array, Array]:
        delta = number("delta", attrs["delta"], 0, above=True)
        slope = np.clip(residual, -delta, delta)
        return slope * (residual - slope / 2), slope


@register_loss
class BerHu(_Masked):
    """Reverse Huber: mean of ``|r|`` for ``|r| <= c``, else ``(r**2 + c**2) / (2 c)``.

    ``c`` is ``fraction`` of the batch's largest ``|r|`` and taken as a constant by the gradient
    (Laina et al., "Deeper depth prediction with fully convolutional residual networks", 3DV 2016).
    """

    kind = "berhu"
    defaults: ClassVar[Mapping[str, Any]] = {"fraction": 0.2}

    def _pointwise(self, residual: Array, attrs: Mapping[str, Any]) -> tuple[Array, Array]:
        fraction = number("fraction", attrs["fraction"], 0, above=True)
        size = np.abs(residual)
        bend = float(fraction * size.max())
        if not bend > 0:
            return size, np.zeros_like(residual)
        large = size > bend
        values = np.where(large, (residual * residual + bend * bend) / (2 * bend), size)
        slopes = np.where(large, residual / bend, np.sign(residual))
        return values.astype(residual.dtype, copy=False), slopes.astype(residual.dtype, copy=False)


@register_loss
class CrossEntropy(LossDef):
    """Mean over the batch of ``-log softmax(output)[label]``.

    Output ``(classes,)``, target ``(1,)`` of i32 labels in ``0 … classes - 1``.
    """

    kind = "cross_entropy"

    def target(self, output: Shape) -> tuple[Shape, str]:
        if len(output) != 1:
            raise OpError(f"loss cross_entropy takes an output of shape (classes,), not {output}; flatten it first")
        return (1,), "i32"

    def value_and_grad(self, output: Array, target: Array, attrs: Mapping[str, Any]) -> tuple[float, Array]:
        _complete(self, attrs)
        batch, classes = output.shape
        if target.shape != (batch, 1):
            raise DataError(f"loss cross_entropy: target has shape {target.shape}, expected {(batch, 1)}")
        labels = target[:, 0].astype(np.int64)
        if np.any(labels != target[:, 0]) or labels.min() < 0 or labels.max() >= classes:
            wrong = target[(labels != target[:, 0]) | (labels < 0) | (labels >= classes), 0][0]
            raise DataError(f"loss cross_entropy: label={wrong} is not a class in 0 … {classes - 1}")
        shifted = output - output.max(axis=1, keepdims=True)
        grad = np.exp(shifted)
        total = grad.sum(axis=1, keepdims=True)
        grad /= total
        rows = np.arange(batch)
        values = np.log(total[:, 0]) - shifted[rows, labels]
        grad[rows, labels] -= 1
        grad /= batch
        return float(np.sum(values, dtype=np.float64) / batch), grad
