"""Kernels of ops that compute element by element."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sparseplan.exporters.c.calls import Call
from sparseplan.exporters.c.context import Context, flat, inner, lowers, lowers_aux
from sparseplan.exporters.c.views import View, Views
from sparseplan.ops.base import Shape

Floats = tuple[float, ...]


def _none(attrs: Mapping[str, Any]) -> Floats:
    return ()


def _limits(attrs: Mapping[str, Any]) -> Floats:
    low, high = attrs.get("low"), attrs.get("high")
    return (-math.inf if low is None else low, math.inf if high is None else high)


def _elu(attrs: Mapping[str, Any]) -> Floats:
    return (1.0, attrs["alpha"], 1.0)


def _selu(attrs: Mapping[str, Any]) -> Floats:
    scale, alpha = 1.0507009873554804934193349852946, 1.6732632423543772848170429916717
    return (scale, scale * alpha, 1.0)


def _celu(attrs: Mapping[str, Any]) -> Floats:
    return (1.0, attrs["alpha"], attrs["alpha"])


@dataclass(frozen=True)
class Curve:
    """Kernel functions of a unary op: forward; gradient by the tag that it reads; mask by its source."""

    forward: str
    grads: Mapping[str, str]
    floats: Callable[[Mapping[str, Any]], Floats] = _none
    mask: str = ""


def _of_output(name: str, floats: Callable[[Mapping[str, Any]], Floats] = _none) -> Curve:
    return Curve(f"sp_f_{name}", {"y": f"sp_g_{name}", "x0": f"sp_h_{name}"}, floats)


def _of_input(name: str, floats: Callable[[Mapping[str, Any]], Floats] = _none) -> Curve:
    return Curve(f"sp_f_{name}", {"x0": f"sp_g_{name}"}, floats)


def _either(function: str) -> dict[str, str]:
    return dict.fromkeys(("mask", "y", "x0"), function)


_BETWEEN = {"mask": "sp_g_relu", "y": "sp_g_between", "x0": "sp_g_between"}
CURVES: Mapping[str, Curve] = {
    "relu": Curve("sp_f_relu", _either("sp_g_relu"), mask="sp_f_positive"),
    "leaky_relu": Curve("sp_f_leaky_relu", _either("sp_g_leaky_relu"), lambda a: (a["slope"],), "sp_f_positive"),
    "relu6": Curve("sp_f_clip", _BETWEEN, lambda a: (0.0, 6.0), "sp_f_between"),
    "clip": Curve("sp_f_clip", _BETWEEN, _limits, "sp_f_between"),
    "sigmoid": Curve("sp_f_sigmoid", {"y": "sp_g_sigmoid"}),
    "tanh": Curve("sp_f_tanh", {"y": "sp_g_tanh"}),
    "hardswish": _of_input("hardswish"),
    "exp": _of_output("exp"), "sqrt": _of_output("sqrt"), "reciprocal": _of_output("reciprocal"),
    "softplus": _of_output("softplus"), "softsign": _of_output("softsign"),
    "elu": _of_output("exponential", _elu), "selu": _of_output("exponential", _selu),
    "celu": _of_output("exponential", _celu),
    "log": _of_input("log"), "square": _of_input("square"), "erf": _of_input("erf"), "sin": _of_input("sin"),
    "cos": _of_input("cos"), "silu": _of_input("silu"), "mish": _of_input("mish"),
    "power": _of_input("power", lambda a: (a["exponent"], a["exponent"] - 1)),
    "abs": Curve("sp_f_abs", {"mask": "sp_g_abs_mask", "x0": "sp_g_abs"}, mask="sp_f_not_negative"),
    "hard_sigmoid": Curve("sp_f_hard_sigmoid", {"mask": "sp_g_hard_sigmoid_mask", "x0": "sp_g_hard_sigmoid"},
                          lambda a: (a["alpha"], a["beta"]), "sp_f_hard_sigmoid_mask"),
    "floor": Curve("sp_f_floor", {}), "ceil": Curve("sp_f_ceil", {}), "round": Curve("sp_f_round", {}),
    "sign": Curve("sp_f_sign", {}),
}  # fmt: skip


@lowers("forward", *CURVES)
def _curve(c: Context) -> Call:
    curve = CURVES[c.info.kind]
    return Call(f"sp_map:{curve.forward}", c.inputs(), c.y(), floats=curve.floats(c.attrs))


@lowers("grad_input", *CURVES)
def _curve_grad(c: Context) -> Call:
    curve = CURVES[c.info.kind]
    tag = next(t for t in curve.grads if c.has(t))
    reads = (c.read("dy"), c.read(tag))
    return Call(f"sp_map2:{curve.grads[tag]}", reads, c.dx(), floats=curve.floats(c.attrs))


@lowers_aux(*(kind for kind, curve in CURVES.items() if curve.mask))
def _curve_mask(c: Context, tag: str, x: Views, mask: View) -> Call:
    curve = CURVES[c.info.kind]
    return Call(f"sp_map:{curve.mask}", x, (mask,), floats=curve.floats(c.attrs))


@lowers("forward", "gelu")
def _gelu(c: Context) -> Call:
    name = "gelu" if c.attrs["approximate"] == "none" else "gelu_tanh"
    return Call(f"sp_map:sp_f_{name}", c.inputs(), c.y())


@lowers("grad_input", "gelu")
def _gelu_grad(c: Context) -> Call:
    name = "gelu" if c.attrs["approximate"] == "none" else "gelu_tanh"
    return Call(f"sp_map2:sp_g_{name}", (c.read("dy"), c.read("x0")), c.dx())


def _line(c: Context) -> tuple[float, float]:
    return (-1.0, 0.0) if c.info.kind == "neg" else (c.attrs["scale"], c.attrs["shift"])


@lowers("forward", "neg", "scale_shift")
def _lines(c: Context) -> Call:
    return Call("sp_map:sp_f_line", c.inputs(), c.y(), floats=_line(c))


@lowers("grad_input", "neg", "scale_shift")
def _lines_grad(c: Context) -> Call:
    return Call("sp_map:sp_f_line", (c.read("dy"),), c.dx(), floats=(_line(c)[0], 0.0))


@lowers("forward", "affine")
def _affine(c: Context) -> Call:
    reads = (*c.inputs(), *c.params("weight", "bias"))
    return Call("sp_affine", reads, c.y(), (inner(c.info.output), int(c.has("bias"))))


@lowers("grad_input", "affine")
def _affine_grad(c: Context) -> Call:
    return Call("sp_affine_grad", (c.read("dy"), c.read("weight")), c.dx(), (inner(c.info.output),))


@lowers("grad_param", "affine")
def _affine_param(c: Context) -> Call:
    channels, size = c.info.output[0], inner(c.info.output)
    if c.step.target == "bias":
        return channel_sum(c, 1, channels, size)
    return Call("sp_channel_dot", (c.read("dy"), c.read("x0")), c.dp(), (1, channels, size, c.kept(channels)))


def channel_sum(c: Context, outer: int, channels: int, size: int) -> Call:
    """The gradient of a bias: ``dy`` as (outer, channels, size) summed over all but the channels."""
    return Call("sp_channel_sum", (c.read("dy"),), c.dp(), (outer, channels, size))


# -- several inputs ----------------------------------------------------------------------------------
_BINARY = {"sub": "minus", "div": "over", "mul": "times", "maximum": "larger", "minimum": "smaller"}


@lowers("forward", "add")
def _add(c: Context) -> Call:
    if len(set(c.info.inputs)) == 1 and len(c.info.inputs) == 2:
        return Call("sp_map2:sp_f_plus", c.inputs(), c.y())
    ints = flat(len(c.info.output), c.info.output, *c.info.inputs)
    return Call("sp_add", c.inputs(), c.y(), ints)


@lowers("forward", *_BINARY)
def _binary(c: Context) -> Call:
    function = f"sp_f_{_BINARY[c.info.kind]}"
    if c.info.inputs[0] == c.info.inputs[1]:
        return Call(f"sp_map2:{function}", c.inputs(), c.y())
    return Call(f"sp_binary:{function}", c.inputs(), c.y(), flat(len(c.info.output), c.info.output, *c.info.inputs))


def _spread(c: Context, function: str, tags: tuple[str, ...] = ()) -> Call:
    """The gradient of an input that may have been spread."""
    shapes: dict[str, Shape] = {f"x{i}": s for i, s in enumerate(c.info.inputs)}
    ints = flat(
        0, len(c.info.output), c.info.output, c.info.inputs[c.slot], *(shapes.get(t, c.info.output) for t in tags)
    )
    return Call(f"sp_spread_grad:{function}", (c.read("dy"), *map(c.read, tags)), c.dx(), ints)


def copied(c: Context) -> Call:
    """A gradient that is ``dy`` itself."""
    return Call("sp_map:sp_same", (c.read("dy"),), c.dx())


@lowers("grad_input", "add")
def _add_grad(c: Context) -> Call:
    return copied(c) if c.info.inputs[c.slot] == c.info.output else _spread(c, "sp_g_first")


@lowers("grad_input", "sub")
def _sub_grad(c: Context) -> Call:
    return _spread(c, "sp_g_minus") if c.slot else _add_grad(c)


@lowers("grad_input", "mul")
def _mul_grad(c: Context) -> Call:
    other = f"x{1 - c.slot}"
    if c.info.inputs[0] == c.info.inputs[1]:
        return Call("sp_map2:sp_f_times", (c.read("dy"), c.read(other)), c.dx())
    return _spread(c, "sp_g_times", (other,))


@lowers("grad_input", "div")
def _div_grad(c: Context) -> Call:
    if c.slot == 0:
        return _spread(c, "sp_g_over", ("x1",))
    return _spread(c, "sp_g_divisor", ("x1", "y")) if c.has("y") else _spread(c, "sp_g_divisor_input", ("x1", "x0"))


@lowers_aux("maximum", "minimum")
def _choice_mask(c: Context, tag: str, x: Views, mask: View) -> Call:
    which = "second" if tag == "mask1" else "first"
    ints = flat(len(c.info.output), c.info.output, *c.info.inputs)
    return Call(f"sp_binary:sp_f_{_BINARY[c.info.kind]}_{which}", x, (mask,), ints)


@lowers("grad_input", "maximum", "minimum")
def _choice_grad(c: Context) -> Call:
    if c.has(f"mask{c.slot}"):
        return _spread(c, "sp_g_times", (f"mask{c.slot}",))
    which = "second" if c.slot else "first"
    return _spread(c, f"sp_g_{_BINARY[c.info.kind]}_{which}", ("x0", "y" if c.has("y") else "x1"))


# -- with a parameter --------------------------------------------------------------------------------
def _full(c: Context, shape: Shape) -> Shape:
    return (1,) * (len(c.info.output) - len(shape)) + shape


@lowers("forward", "param_add", "param_mul", "const_add", "const_mul")
def _with_weight(c: Context) -> Call:
    function = "sp_f_plus" if c.info.kind.endswith("_add") else "sp_f_times"
    ints = flat(len(c.info.output), c.info.output, c.info.output, _full(c, c.attrs["shape"]))
    return Call(f"sp_binary:{function}", (*c.inputs(), c.read("weight")), c.y(), ints)


@lowers("grad_input", "param_add", "const_add")
def _param_add_grad(c: Context) -> Call:
    return copied(c)


@lowers("grad_input", "param_mul", "const_mul")
def _param_mul_grad(c: Context) -> Call:
    ints = flat(0, len(c.info.output), c.info.output, c.info.output, _full(c, c.attrs["shape"]))
    return Call("sp_spread_grad:sp_g_times", (c.read("dy"), c.read("weight")), c.dx(), ints)


@lowers("grad_param", "param_add", "param_mul")
def _weight_grad(c: Context) -> Call:
    whole, written = c.info.output, _full(c, c.dp_shape())
    if c.step.keep is not None:
        whole = (c.step.keep, *whole[1:])
    ints = flat(1, len(whole), whole, written)
    if c.info.kind == "param_add":
        return Call("sp_spread_grad:sp_g_first", (c.read("dy"),), c.dp(), ints)
    return Call("sp_spread_grad:sp_g_times", (c.read("dy"), c.read("x0")), c.dp(), flat(ints, whole))


@lowers("forward", "parameter", "constant")
def _parameter(c: Context) -> Call:
    return Call("sp_map:sp_same", (c.read("weight"),), c.y())


@lowers("grad_param", "parameter")
def _parameter_grad(c: Context) -> Call:
    ints = flat(1, len(c.info.output), c.info.output, c.info.output)
    return Call("sp_spread_grad:sp_g_first", (c.read("dy"),), c.dp(), ints)
