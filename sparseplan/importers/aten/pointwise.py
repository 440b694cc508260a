"""Rules for elementwise ops."""

from __future__ import annotations

import math

import numpy as np

from sparseplan.importers.aten.base import Call, Unsaid, floats, is_fixed, number, rule, value
from sparseplan.importers.draft import Attr, Draft, Known, Made, Value, broadcast

#: ATen op to the op of the network that is the same
_SAME = {
    "relu": "relu", "relu6": "relu6", "sigmoid": "sigmoid", "tanh": "tanh", "hardswish": "hardswish", "silu": "silu",
    "mish": "mish", "selu": "selu", "exp": "exp", "log": "log", "sqrt": "sqrt", "reciprocal": "reciprocal",
    "neg": "neg", "abs": "abs", "erf": "erf", "sin": "sin", "cos": "cos", "floor": "floor", "ceil": "ceil",
    "sign": "sign", "square": "square", "hardsigmoid": "hard_sigmoid", "special_erf": "erf",
}  # fmt: skip


@rule(*_SAME)
def _same(c: Call) -> Value:
    return c.draft.same(_SAME[c.op], c.made())


@rule("round")
def _round(c: Call) -> Value:
    if c.get("decimals"):
        raise Unsaid("it rounds to decimals")
    return c.draft.same("round", c.made())


@rule("gelu")
def _gelu(c: Call) -> Value:
    return c.draft.same("gelu", c.made(), None, approximate=c["approximate"])


@rule("leaky_relu", "rrelu")
def _leaky(c: Call) -> Value:
    if c.get("training"):
        raise Unsaid("it draws its slopes, also in eval mode")
    slope = float(c["negative_slope"]) if c.op == "leaky_relu" else (float(c["lower"]) + float(c["upper"])) / 2
    x = c.made()
    if slope >= 0:
        return c.draft.same("leaky_relu", x, None, slope=slope)
    low = scaled(c.draft, c.draft.same("clip", x, None, high=0.0), slope)
    return c.draft.elementwise("add", [c.draft.same("relu", x), low])


@rule("elu")
def _elu(c: Call) -> Value:
    if float(c["scale"]) != 1 or float(c["input_scale"]) != 1:
        raise Unsaid("it scales its input or output")
    return c.draft.same("elu", c.made(), None, alpha=float(c["alpha"]))


@rule("celu")
def _celu(c: Call) -> Value:
    return c.draft.same("celu", c.made(), None, alpha=float(c["alpha"]))


@rule("softplus")
def _softplus(c: Call) -> Value:
    beta = float(c["beta"])
    return scaled(c.draft, c.draft.same("softplus", scaled(c.draft, c.made(), beta)), 1 / beta)


@rule("log_sigmoid", "log_sigmoid_forward")
def _log_sigmoid(c: Call) -> Value | list[Value]:
    d = c.draft
    y = d.same("neg", d.same("softplus", d.same("neg", c.made())))
    return y if c.op == "log_sigmoid" else [y]


@rule("softsign")
def _softsign(c: Call) -> Value:
    return c.draft.same("softsign", c.made())


@rule("tanhshrink")
def _tanhshrink(c: Call) -> Value:
    return c.draft.elementwise("sub", [c.made(), c.draft.same("tanh", c.made())])


@rule("glu")
def _glu(c: Call) -> Value:
    x = c.made()
    axis = int(c["dim"]) % x.rank
    half = x.shape[axis] // 2
    parts = []
    for lo in (0, half):
        starts, stops = [0] * x.rank, list(x.shape)
        starts[axis], stops[axis] = lo, lo + half
        parts.append(c.draft.slice(x, starts, stops, [1] * x.rank))
    return c.draft.elementwise("mul", [parts[0], c.draft.same("sigmoid", parts[1])])


@rule("prelu", "_prelu_kernel")
def _prelu(c: Call) -> Value:
    x, weight = c.made(), c.known("weight")
    shared = weight.array.size == 1
    if not shared and (x.rank < 2 or x.shape[0] != 1):
        raise Unsaid(f"its input of shape {x.shape} has no batch axis of extent 1 before the channels")
    return c.draft.same("prelu", x, {"weight": weight.reshaped((weight.array.size,))}, shared=shared)


@rule("hardtanh", "clamp", "clip", "clamp_min", "clamp_max")
def _clamp(c: Call) -> Value:
    low, high = (c.get("min_val"), c.get("max_val")) if c.op == "hardtanh" else (c.get("min"), c.get("max"))
    a, b = number(low), number(high)
    x: Value = c.made()
    if (low is None or a is not None) and (high is None or b is not None):
        return clipped(c.draft, c.draft.made(x), a, b)
    for bound, kind in ((low, "maximum"), (high, "minimum")):
        if bound is not None:
            x = c.draft.elementwise(kind, [x, value(bound)])
    return x


@rule("threshold")
def _threshold(c: Call) -> Value:
    at, otherwise = float(c["threshold"]), float(c["value"])
    if at != otherwise:
        raise Unsaid(f"it jumps from {otherwise} to {at}")
    return clipped(c.draft, c.made(), at, None)


@rule("log1p", "expm1", "exp2", "log2", "log10", "rsqrt", "tan")
def _composed(c: Call) -> Value:
    d, x = c.draft, c.made()
    if c.op == "log1p":
        return d.same("log", d.same("scale_shift", x, None, shift=1.0))
    if c.op == "expm1":
        return d.same("scale_shift", d.same("exp", x), None, shift=-1.0)
    if c.op == "exp2":
        return d.same("exp", scaled(d, x, math.log(2)))
    if c.op == "rsqrt":
        return d.same("reciprocal", d.same("sqrt", x))
    if c.op == "tan":
        return d.elementwise("div", [d.same("sin", x), d.same("cos", x)])
    return scaled(d, d.same("log", x), 1 / math.log(2 if c.op == "log2" else 10))


@rule("pow")
def _pow(c: Call) -> Value:
    base, exponent = c.get("self"), number(c.get("exponent"))
    if exponent is None:
        fixed = number(base)
        if fixed is None or fixed <= 0:
            raise Unsaid("its exponent is a tensor")
        return c.draft.same("exp", scaled(c.draft, c.made("exponent"), math.log(fixed)))
    x = c.made()
    if exponent == 1:
        return x
    if exponent == 0:
        return floats(np.ones(x.shape))
    simple = {2.0: "square", 0.5: "sqrt", -1.0: "reciprocal"}.get(exponent)
    return c.draft.same(simple, x) if simple else c.draft.same("power", x, None, exponent=exponent)


@rule("add")
def _add(c: Call) -> Value:
    return c.draft.add(value(c["self"]), times(c.draft, value(c["other"]), c.get("alpha", 1)))


@rule("sub", "rsub")
def _sub(c: Call) -> Value:
    a, b = value(c["self"]), times(c.draft, value(c["other"]), c.get("alpha", 1))
    if c.op == "rsub":
        a, b = value(c["other"]), times(c.draft, value(c["self"]), c.get("alpha", 1))
    if isinstance(b, Known) and is_fixed(b):
        return c.draft.add(a, floats(-b.array))
    if isinstance(a, Known) and is_fixed(a):
        first = number(a)
        if first is not None and isinstance(b, Made) and broadcast(a.shape, b.shape) == b.shape:
            return c.draft.same("scale_shift", b, None, scale=-1.0, shift=first)
        return c.draft.add(c.draft.same("neg", c.draft.made(b)), a)
    return c.draft.elementwise("sub", [a, b])


@rule("mul")
def _mul(c: Call) -> Value:
    return c.draft.mul(value(c["self"]), value(c["other"]))


@rule("div", "true_divide")
def _div(c: Call) -> Value:
    a, b = value(c["self"]), value(c["other"])
    y: Value
    if isinstance(b, Known) and is_fixed(b):
        y = c.draft.mul(a, floats(1 / np.asarray(b.array, np.float64)))
    elif is_fixed(a):
        y = c.draft.mul(c.draft.same("reciprocal", c.draft.made(b)), a)
    else:
        y = c.draft.elementwise("div", [a, b])
    mode = c.get("rounding_mode")
    if mode is None:
        return y
    if mode != "floor":
        raise Unsaid(f"rounding_mode={mode!r}")
    return c.draft.same("floor", c.draft.made(y))


@rule("addcmul", "addcdiv")
def _addc(c: Call) -> Value:
    d, a, b = c.draft, value(c["tensor1"]), value(c["tensor2"])
    if c.op == "addcdiv":
        b = floats(1 / b.array) if isinstance(b, Known) and is_fixed(b) else d.same("reciprocal", d.made(b))
    return d.add(value(c["self"]), times(d, d.mul(a, b), c["value"]))


@rule("lerp")
def _lerp(c: Call) -> Value:
    d, start, weight = c.draft, value(c["self"]), value(c["weight"])
    rest = d.elementwise("sub", [value(c["end"]), start])
    return d.add(start, d.mul(rest, weight))


@rule("maximum", "minimum", "fmax", "fmin")
def _extreme(c: Call) -> Value:
    a, b = value(c["self"]), value(c["other"])
    low = c.op in ("maximum", "fmax")
    for one, other in ((a, b), (b, a)):
        bound = number(one)
        if bound is not None and isinstance(other, Made) and broadcast(one.shape, other.shape) == other.shape:
            return clipped(c.draft, other, bound if low else None, None if low else bound)
    return c.draft.elementwise("maximum" if low else "minimum", [a, b])


@rule("where")
def _where(c: Call) -> Value:
    mask = c.array("condition").astype(bool)
    return chosen(c.draft, mask, value(c["self"]), value(c["other"]))


@rule("masked_fill")
def _masked_fill(c: Call) -> Value:
    return chosen(c.draft, c.array("mask").astype(bool), value(c["value"]), c.made())


def chosen(draft: Draft, mask: np.ndarray[tuple[int, ...], np.dtype[np.bool_]], a: Value, b: Value) -> Value:
    """``a`` where ``mask`` holds, else ``b``; infinities may stand among the constants."""
    parts: list[Value] = []
    shape = broadcast(mask.shape, a.shape, b.shape)
    for part, there in ((a, mask), (b, ~mask)):
        if isinstance(part, Known) and is_fixed(part):
            parts.append(floats(np.where(there, part.array, 0)))
        else:
            parts.append(draft.mul(part, floats(there)))
    total = draft.add(parts[0], parts[1])
    if total.shape == shape:
        return total
    return draft.expand(draft.made(total), shape)


def times(draft: Draft, x: Value, factor: float) -> Value:
    """``x * factor``; a factor of 1 changes nothing, not even a name."""
    return x if float(factor) == 1 else draft.mul(x, floats(np.asarray(factor)))


def scaled(draft: Draft, x: Made, factor: float) -> Made:
    """``x * factor`` of a tensor of the network."""
    return x if factor == 1 else draft.same("scale_shift", x, None, scale=float(factor))


def clipped(draft: Draft, x: Made, low: float | None, high: float | None) -> Made:
    """``x`` within bounds, by the op that says so most cheaply."""
    low = None if low is None or low == -math.inf else low
    high = None if high is None or high == math.inf else high
    if low == 0 and high is None:
        return draft.same("relu", x)
    if low == 0 and high == 6:
        return draft.same("relu6", x)
    attrs: dict[str, Attr] = {k: float(v) for k, v in (("low", low), ("high", high)) if v is not None}
    return draft.same("clip", x, None, **attrs) if attrs else x
