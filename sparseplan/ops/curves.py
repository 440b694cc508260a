"""Smooth unary ops: exponentials, roots, soft rectifiers, trigonometry.

Outside their domain (a logarithm of 0, the root of a negative number) they give what NumPy gives.
Where the output alone gives the derivative it is the default to keep, since the op can then work in place;
the input would do as well.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from sparseplan.errors import OpError, near
from sparseplan.network import Attr
from sparseplan.ops.attrs import number
from sparseplan.ops.base import REQUIRED, Alternatives, Array, OpInfo, either, need, register
from sparseplan.ops.erf import erf
from sparseplan.ops.pointwise import Unary, logistic


class Curve(Unary):
    """A unary op by its value and its derivative."""

    def forward(self, info: OpInfo, x: Sequence[Array], params: Mapping[str, Array]) -> Array:
        return self._value(info.attrs, x[0])

    @abstractmethod
    def _value(self, attrs: Mapping[str, Any], x: Array) -> Array:
        """``f(x)``, a new array."""


class _FromInput(Curve):
    """The derivative is a function of the input."""

    def needs_for_input(self, info: OpInfo, slot: int) -> Alternatives:
        return need("x0")

    def _backward(self, info: OpInfo, dy: Array, kept: Array) -> Array:
        return dy * self._slope(info.attrs, kept)

    @abstractmethod
    def _slope(self, attrs: Mapping[str, Any], x: Array) -> Array:
        """``f'(x)``."""


class _FromOutput(Curve):
    """The derivative is a function of the output alone."""

    def needs_for_input(self, info: OpInfo, slot: int) -> Alternatives:
        return either("y", "x0")

    def grad_input(
        self,
        info: OpInfo,
        slot: int,
        dy: Array,
        saved: Mapping[str, Array],
        channels: tuple[int, int] | None = None,
    ) -> Array:
        ((tag, kept),) = saved.items()
        if channels is not None:
            dy, kept = dy[:, channels[0] : channels[1]], kept[:, channels[0] : channels[1]]
        return self._backward(info, dy, kept if tag == "y" else self._value(info.attrs, kept))

    def _backward(self, info: OpInfo, dy: Array, kept: Array) -> Array:
        return dy * self._slope(info.attrs, kept)

    @abstractmethod
    def _slope(self, attrs: Mapping[str, Any], y: Array) -> Array:
        """``f'(x)`` where ``y = f(x)``."""


def softplus(x: Array) -> Array:
    """``log(1 + exp(x))`` without overflow."""
    y: Array = np.log1p(np.exp(-np.abs(x)))
    y += np.maximum(x, 0)
    return y


# -- of the output ---------------------------------------------------------------------------------
@register
class Exp(_FromOutput):
    """``exp(x)``."""

    kind = "exp"

    def _value(self, attrs: Mapping[str, Any], x: Array) -> Array:
        y: Array = np.exp(x)
        return y

    def _slope(self, attrs: Mapping[str, Any], y: Array) -> Array:
        return y


@register
class Sqrt(_FromOutput):
    """The square root; its gradient at 0 is infinite."""

    kind = "sqrt"

    def _value(self, attrs: Mapping[str, Any], x: Array) -> Array:
        y: Array = np.sqrt(x)
        return y

    def _slope(self, attrs: Mapping[str, Any], y: Array) -> Array:
        return 0.5 / y


@register
class Reciprocal(_FromOutput):
    """``1 / x``."""

    kind = "reciprocal"

    def _value(self, attrs: Mapping[str, Any], x: Array) -> Array:
        return 1 / x

    def _slope(self, attrs: Mapping[str, Any], y: Array) -> Array:
        return -y * y


@register
class Softplus(_FromOutput):
    """``log(1 + exp(x))``, computed without overflow."""

    kind = "softplus"

    def _value(self, attrs: Mapping[str, Any], x: Array) -> Array:
        return softplus(x)

    def _slope(self, attrs: Mapping[str, Any], y: Array) -> Array:
        slope: Array = -np.expm1(-y)
        return slope


@register
class Softsign(_FromOutput):
    """``x / (1 + |x|)``."""

    kind = "softsign"

    def _value(self, attrs: Mapping[str, Any], x: Array) -> Array:
        y: Array = x / (1 + np.abs(x))
        return y

    def _slope(self, attrs: Mapping[str, Any], y: Array) -> Array:
        slope: Array = np.square(1 - np.abs(y))
        return slope


class _Exponential(_FromOutput):
    """``scale * x`` above 0, ``scale * a * (exp(x / b) - 1)`` below; the gradient at 0 is that from below."""

    @abstractmethod
    def _shape(self, attrs: Mapping[str, Any]) -> tuple[float, float, float]:
        """``scale``, ``a``, ``b``."""

    def _value(self, attrs: Mapping[str, Any], x: Array) -> Array:
        scale, a, b = self._shape(attrs)
        below = np.expm1(np.minimum(x, 0) / b) * (scale * a)
        return np.where(x > 0, x * scale, below)

    def _slope(self, attrs: Mapping[str, Any], y: Array) -> Array:
        scale, a, b = self._shape(attrs)
        return np.where(y > 0, y.dtype.type(scale), (y + scale * a) / b)


@register
class Elu(_Exponential):
    """``x`` above 0, ``alpha * (exp(x) - 1)`` below, with ``alpha >= 0`` (so that y tells x's sign)."""

    kind = "elu"
    defaults: ClassVar[Mapping[str, Any]] = {"alpha": 1.0}

    def complete_attrs(self, attrs: Mapping[str, Attr]) -> dict[str, Any]:
        full = super().complete_attrs(attrs)
        return full | {"alpha": number("alpha", full["alpha"], 0)}

    def _shape(self, attrs: Mapping[str, Any]) -> tuple[float, float, float]:
        return 1.0, attrs["alpha"], 1.0


@register
class Selu(_Exponential):
    """The scaled elu that keeps mean 0 and variance 1 (Klambauer et al. 2017)."""

    kind = "selu"

    def _shape(self, attrs: Mapping[str, Any]) -> tuple[float, float, float]:
        return 1.0507009873554804934193349852946, 1.6732632423543772848170429916717, 1.0


@register
class Celu(_Exponential):
    """``x`` above 0, ``alpha * (exp(x / alpha) - 1)`` below, with ``alpha > 0``."""

    kind = "celu"
    defaults: ClassVar[Mapping[str, Any]] = {"alpha": 1.0}

    def complete_attrs(self, attrs: Mapping[str, Attr]) -> dict[str, Any]:
        full = super().complete_attrs(attrs)
        return full | {"alpha": number("alpha", full["alpha"], 0, above=True)}

    def _shape(self, attrs: Mapping[str, Any]) -> tuple[float, float, float]:
        return 1.0, attrs["alpha"], attrs["alpha"]


# -- of the input ----------------------------------------------------------------------------------
@register
class Log(_FromInput):
    """The natural logarithm."""

    kind = "log"

    def _value(self, attrs: Mapping[str, Any], x: Array) -> Array:
        y: Array = np.log(x)
        return y

    def _slope(self, attrs: Mapping[str, Any], x: Array) -> Array:
        return 1 / x


@register
class Square(_FromInput):
    """``x * x``."""

    kind = "square"

    def _value(self, attrs: Mapping[str, Any], x: Array) -> Array:
        return x * x

    def _slope(self, attrs: Mapping[str, Any], x: Array) -> Array:
        return x + x


@register
class Power(_FromInput):
    """``x`` to the power of ``exponent``, a constant."""

    kind = "power"
    defaults: ClassVar[Mapping[str, Any]] = {"exponent": REQUIRED}

    def complete_attrs(self, attrs: Mapping[str, Attr]) -> dict[str, Any]:
        full = super().complete_attrs(attrs)
        return full | {"exponent": number("exponent", full["exponent"])}

    def _value(self, attrs: Mapping[str, Any], x: Array) -> Array:
        y: Array = np.power(x, attrs["exponent"])
        return y

    def _slope(self, attrs: Mapping[str, Any], x: Array) -> Array:
        e = attrs["exponent"]
        if e == 0:  # also at 0
            return np.zeros_like(x)
        slope: Array = e * np.power(x, e - 1)
        return slope


@register
class Erf(_FromInput):
    """The error function."""

    kind = "erf"

    def _value(self, attrs: Mapping[str, Any], x: Array) -> Array:
        return erf(x)

    def _slope(self, attrs: Mapping[str, Any], x: Array) -> Array:
        near_zero = np.clip(x, -14, 14)  # exp underflows long before
        slope: Array = np.exp(-near_zero * near_zero) * (2 / math.sqrt(math.pi))
        return slope


@register
class Sin(_FromInput):
    """The sine of radians."""

    kind = "sin"

    def _value(self, attrs: Mapping[str, Any], x: Array) -> Array:
        y: Array = np.sin(x)
        return y

    def _slope(self, attrs: Mapping[str, Any], x: Array) -> Array:
        slope: Array = np.cos(x)
        return slope


@register
class Cos(_FromInput):
    """The cosine of radians."""

    kind = "cos"

    def _value(self, attrs: Mapping[str, Any], x: Array) -> Array:
        y: Array = np.cos(x)
        return y

    def _slope(self, attrs: Mapping[str, Any], x: Array) -> Array:
        slope: Array = -np.sin(x)
        return slope


@register
class Gelu(_FromInput):
    """``x`` times the normal distribution at ``x``; ``approximate`` is ``none`` (by erf) or ``tanh``.

    Not monotone, so the gradient needs the input.
    """

    kind = "gelu"
    defaults: ClassVar[Mapping[str, Any]] = {"approximate": "none"}
    _MODES = ("none", "tanh")
    _SCALE, _CUBIC = math.sqrt(2 / math.pi), 0.044715

    def complete_attrs(self, attrs: Mapping[str, Attr]) -> dict[str, Any]:
        full = super().complete_attrs(attrs)
        if full["approximate"] not in self._MODES:
            given = full["approximate"]
            raise OpError(f"approximate={given!r} is unknown{near(str(given), self._MODES)}; give none or tanh")
        return full

    def _share(self, attrs: Mapping[str, Any], x: Array, z: Array) -> Array:
        """The distribution at ``x``, or what approximates it; ``z`` is ``x`` held where it matters."""
        if attrs["approximate"] == "none":
            share: Array = 0.5 * (1 + erf(x * math.sqrt(0.5)))
        else:
            share = 0.5 * (1 + np.tanh(self._SCALE * z * (1 + self._CUBIC * z * z)))
        return share

    def _value(self, attrs: Mapping[str, Any], x: Array) -> Array:
        return x * self._share(attrs, x, np.clip(x, -40, 40))

    def _slope(self, attrs: Mapping[str, Any], x: Array) -> Array:
        z = np.clip(x, -40, 40)
        share = self._share(attrs, x, z)
        if attrs["approximate"] == "none":
            slope: Array = share + z * np.exp(-0.5 * z * z) * (1 / math.sqrt(2 * math.pi))
        else:
            slope = share + z * (2 * share * (1 - share)) * (self._SCALE * (1 + 3 * self._CUBIC * z * z))
        return slope


@register
class Silu(_FromInput):
    """``x * sigmoid(x)``; not monotone, so the gradient needs the input."""

    kind = "silu"

    def _value(self, attrs: Mapping[str, Any], x: Array) -> Array:
        return x * logistic(x)

    def _slope(self, attrs: Mapping[str, Any], x: Array) -> Array:
        share = logistic(x)
        slope: Array = share + x * (share * (1 - share))
        return slope


@register
class Mish(_FromInput):
    """``x * tanh(softplus(x))``; not monotone, so the gradient needs the input."""

    kind = "mish"

    def _value(self, attrs: Mapping[str, Any], x: Array) -> Array:
        y: Array = x * np.tanh(softplus(x))
        return y

    def _slope(self, attrs: Mapping[str, Any], x: Array) -> Array:
        share = np.tanh(softplus(x))
        slope: Array = share + x * ((1 - share * share) * logistic(x))
        return slope
