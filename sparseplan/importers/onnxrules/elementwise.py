"""Activations, arithmetic, comparisons."""

from __future__ import annotations

import math

import numpy as np

from sparseplan.importers.draft import HUGE, Draft, Known, Made, Value, broadcast
from sparseplan.importers.onnxcall import Call, Held, Rule, Unsupported, is_float


def _plain(kind: str) -> Rule:
    return lambda call: call.draft.same(kind, call.made(0))


def _leaky(call: Call) -> Held:
    return call.draft.same("leaky_relu", call.made(0), slope=call.number("alpha", 0.01))


def _sloped(kind: str, name: str, default: float) -> Rule:
    return lambda call: call.draft.same(kind, call.made(0), **{name: call.number(name, default)})


def _selu(call: Call) -> Held:
    alpha, gamma = call.number("alpha", 1.67326319217681884765625), call.number("gamma", 1.05070102214813232421875)
    if not (
        math.isclose(alpha, 1.6732632423543772, rel_tol=1e-6) and math.isclose(gamma, 1.0507009873554805, rel_tol=1e-6)
    ):
        return _scaled(call, call.draft.same("elu", call.made(0), alpha=alpha), gamma)
    return call.draft.same("selu", call.made(0))


def _scaled(call: Call, x: Made, factor: float) -> Made:
    return x if factor == 1 else call.draft.same("scale_shift", x, scale=factor)


def _hard_sigmoid(call: Call) -> Held:
    return call.draft.same("hard_sigmoid", call.made(0), alpha=call.number("alpha", 0.2), beta=call.number("beta", 0.5))


def _gelu(call: Call) -> Held:
    return call.draft.same("gelu", call.made(0), approximate=call.text("approximate", "none"))


def _fast_gelu(call: Call) -> Held:
    x: Value = call.made(0)
    if call.has(1):
        x = call.draft.add(x, call.value(1))
    return call.draft.same("gelu", call.draft.made(x), approximate="tanh")


def _bias_gelu(call: Call) -> Held:
    return call.draft.same("gelu", call.draft.made(call.draft.add(call.made(0), call.value(1))))


def _quick_gelu(call: Call) -> Held:
    x, draft, alpha = call.made(0), call.draft, call.number("alpha", 1.702)
    if alpha == 1:
        return draft.same("silu", x)
    gate = draft.same("sigmoid", draft.same("scale_shift", x, scale=alpha))
    return draft.mul(x, gate)


def _prelu(call: Call) -> Held:
    x, slope = call.made(0), call.weight(1)
    if math.prod(slope.shape) == 1:
        return call.draft.same("prelu", x, {"weight": slope.reshaped((1,))}, shared=True)
    wide = (1,) * (x.rank - len(slope.shape)) + slope.shape
    if x.rank < 2 or x.shape[0] != 1 or wide != (1, x.shape[1], *(1,) * (x.rank - 2)):
        raise Unsupported(f"slopes of shape {slope.shape} for an input of shape {x.shape}")
    return call.draft.same("prelu", x, {"weight": slope.reshaped((x.shape[1],))})


def _clip(call: Call) -> Held:
    low = call.scalar(1) if call.has(1) else -math.inf
    high = call.scalar(2) if call.has(2) else math.inf
    if "min" in call.node.attrs or "max" in call.node.attrs:
        low, high = call.number("min", -HUGE), call.number("max", HUGE)
    x, draft = call.made(0), call.draft
    if low > high or math.isnan(low) or math.isnan(high):
        raise Unsupported(f"min={low} and max={high}")
    if (low, high) == (0.0, 6.0):
        return draft.same("relu6", x)
    huge = float(np.finfo(np.float32).max)
    low, high = (-math.inf if low <= -huge else low), (math.inf if high >= huge else high)
    if (low, high) == (0.0, math.inf):
        return draft.same("relu", x)
    attrs = {name: v for name, v in (("low", low), ("high", high)) if math.isfinite(v)}
    return draft.same("clip", x, **attrs) if attrs else x


def _floats(call: Call) -> None:
    for dtype in call.dtypes:
        if not is_float(dtype):
            raise Unsupported("it reads integers")


def _pair(call: Call) -> tuple[Value, Value]:
    """Both inputs; of two constants those that depend on parameters are tensors."""
    _floats(call)
    a, b = call.value(0), call.value(1)
    if isinstance(a, Known) and isinstance(b, Known):
        a, b = (call.draft.made(v) if call.draft.parents(v) else v for v in (a, b))
    return a, b


def _add(call: Call) -> Held:
    return call.draft.add(*_pair(call))


def _mul(call: Call) -> Held:
    a, b = _pair(call)
    if isinstance(a, Made) and a == b:
        return call.draft.same("square", a)
    return call.draft.mul(a, b)


def _of_formula(draft: Draft, known: Known) -> bool:
    """Whether a constant is a number of a formula, or was computed: nothing that is learned."""
    if known.name is None:
        return known.source is None and not known.parents
    return known.array.size == 1 and not draft.learned(known.name)


def _sub(call: Call) -> Held:
    a, b = _pair(call)
    draft = call.draft
    if isinstance(b, Known) and _of_formula(draft, b):
        return draft.add(a, Known(-b.array))
    if isinstance(a, Known) and isinstance(b, Made) and _of_formula(draft, a):
        if a.array.size == 1:
            made = draft.reshape(b, broadcast(a.shape, b.shape))
            return draft.same("scale_shift", made, scale=-1.0, shift=float(a.array.reshape(())))
        return draft.add(draft.same("neg", b), a)
    return draft.elementwise("sub", (a, b))


def _div(call: Call) -> Held:
    a, b = _pair(call)
    draft = call.draft
    if isinstance(b, Known) and _of_formula(draft, b) and b.array.all():
        inverse = (1 / b.array.astype(np.float64)).astype(np.float32)
        if np.isfinite(inverse).all():
            return draft.mul(a, Known(inverse))
    if isinstance(b, Made) and _number(draft, a) == 1:
        return draft.same("reciprocal", draft.reshape(b, broadcast(a.shape, b.shape)))
    return draft.elementwise("div", (a, b))


def _pow(call: Call) -> Held:
    base, exponent = call.value(0), call.value(1)
    if not is_float(call.dtypes[0]):
        raise Unsupported("it reads integers")
    if not isinstance(exponent, Known) or exponent.array.size != 1:
        raise Unsupported("an exponent that is no constant number")
    base = call.made(0)
    x = call.draft.reshape(base, broadcast(base.shape, exponent.shape))
    number = call.scalar(1)
    kind = {2.0: "square", 0.5: "sqrt", -1.0: "reciprocal"}.get(number)
    if number == 1:
        return x
    return call.draft.same(kind, x) if kind else call.draft.same("power", x, exponent=number)


def _number(draft: Draft, value: Value) -> float | None:
    """A constant number; None: it is none, or learned."""
    if not isinstance(value, Known) or value.array.size != 1 or draft.parents(value):
        return None
    return float(value.array.reshape(()))


def _extreme(kind: str) -> Rule:
    def rule(call: Call) -> Held:
        _floats(call)
        result = call.value(0)
        draft = call.draft
        for i in range(1, len(call.values)):
            other = call.value(i)
            if isinstance(result, Known) and isinstance(other, Known):
                result, other = (draft.made(v) if draft.parents(v) else v for v in (result, other))
            if isinstance(result, Known) and isinstance(other, Known):
                function = np.maximum if kind == "maximum" else np.minimum
                broadcast(result.shape, other.shape)
                result = Known(function(result.array, other.array))
                continue
            if isinstance(result, Known):
                result, other = other, result
            number = _number(draft, other)
            if (
                number is not None
                and not math.isnan(number)
                and number == (-math.inf if kind == "maximum" else math.inf)
            ):
                result = draft.reshape(draft.made(result), broadcast(result.shape, other.shape))
            elif number is not None and math.isfinite(number):
                x = draft.reshape(draft.made(result), broadcast(result.shape, other.shape))
                if kind == "maximum":
                    result = draft.same("relu", x) if number == 0 else draft.same("clip", x, low=number)
                else:
                    result = draft.same("clip", x, high=number)
            else:
                result = draft.elementwise(kind, (result, other))
        return result

    return rule


def _sum(call: Call) -> Value:
    _floats(call)
    result = call.value(0)
    for i in range(1, len(call.values)):
        result = call.draft.add(result, call.value(i))
    return result


def _mean(call: Call) -> Held:
    return call.draft.mul(_sum(call), Known(np.array(1 / len(call.values), np.float32)))


def _where(call: Call) -> Held:
    """A choice by constants is a product with ones and zeros."""
    choice = call.array(0).astype(bool)
    a, b = call.value(1), call.value(2)
    shape = broadcast(choice.shape, a.shape, b.shape)
    draft = call.draft
    if choice.all() or not choice.any():
        return draft.expand(draft.made(a if choice.all() else b), shape)
    parts = list[Value]()
    for value, mask in ((a, choice), (b, ~choice)):
        if isinstance(value, Known) and not draft.parents(value):
            finite = np.clip(value.array.astype(np.float32), -HUGE, HUGE)
            parts.append(Known(np.where(mask, finite, np.float32(0))))
        else:
            parts.append(draft.mul(value, Known(mask.astype(np.float32))))
    made = draft.made(draft.add(*parts))
    return draft.expand(made, shape)


_PLAIN: dict[str, str] = {
    "Abs": "abs", "Ceil": "ceil", "Cos": "cos", "Erf": "erf", "Exp": "exp", "Floor": "floor", "HardSwish": "hardswish",
    "Log": "log", "Mish": "mish", "Neg": "neg", "Reciprocal": "reciprocal", "Relu": "relu", "Round": "round",
    "Sigmoid": "sigmoid", "Sign": "sign", "Sin": "sin", "Softplus": "softplus", "Softsign": "softsign",
    "Sqrt": "sqrt", "Tanh": "tanh",
}  # fmt: skip

RULES: dict[str, Rule] = {
    **{op: _plain(kind) for op, kind in _PLAIN.items()},
    "Add": _add,
    "Celu": _sloped("celu", "alpha", 1.0),
    "Clip": _clip,
    "Div": _div,
    "Elu": _sloped("elu", "alpha", 1.0),
    "Gelu": _gelu,
    "HardSigmoid": _hard_sigmoid,
    "LeakyRelu": _leaky,
    "Max": _extreme("maximum"),
    "Mean": _mean,
    "Min": _extreme("minimum"),
    "Mul": _mul,
    "PRelu": _prelu,
    "Pow": _pow,
    "Selu": _selu,
    "Sub": _sub,
    "Sum": _sum,
    "Where": _where,
    "com.microsoft.BiasGelu": _bias_gelu,
    "com.microsoft.FastGelu": _fast_gelu,
    "com.microsoft.Gelu": lambda call: call.draft.same("gelu", call.made(0)),
    "com.microsoft.QuickGelu": _quick_gelu,
}
