"""Elementwise ops, moves, reductions and resizing against PyTorch's, forward and backward, in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

# of torch.nn, as this folder could itself pass for a package named torch
pytest.importorskip("torch.nn", reason="PyTorch is not installed")
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from op_cases import Case, case, cases
from op_cases_elementwise import CASES

Oracle = Callable[[Case, list[Any], dict[str, Any]], Any]


def _unary(function: Callable[[Any], Any]) -> Oracle:
    return lambda c, x, p: function(x[0])


def _clip(c: Case, x: list[Any], p: dict[str, Any]) -> Any:
    return torch.clamp(x[0], c.info.attrs.get("low"), c.info.attrs.get("high"))


def _hard_sigmoid(c: Case, x: list[Any], p: dict[str, Any]) -> Any:
    alpha, beta = c.info.attrs["alpha"], c.info.attrs["beta"]
    return F.hardsigmoid(6 * (alpha * x[0] + beta - 0.5))


def _slice(c: Case, x: list[Any], p: dict[str, Any]) -> Any:
    y = x[0]
    for axis, (start, stop, step) in enumerate(
        zip(*(c.info.attrs[k] for k in ("starts", "stops", "steps")), strict=True), 1
    ):
        n = y.shape[axis]
        y = y.index_select(axis, torch.arange(n)[slice(start, stop, step)])
    return y


def _pad(c: Case, x: list[Any], p: dict[str, Any]) -> Any:
    a, y = c.info.attrs, x[0]
    sides = list(zip(a["before"], a["after"], strict=True))
    if a["mode"] == "constant":
        return F.pad(y, [n for pair in reversed(sides) for n in pair], value=a["value"])
    # PyTorch's other modes pad the last axis of three: one axis after the other
    for axis, pair in enumerate(sides, 1):
        if any(pair):
            last = y.movedim(axis, -1)
            flat = last.reshape(1, -1, last.shape[-1])
            mode = {"edge": "replicate"}.get(a["mode"], a["mode"])
            y = F.pad(flat, pair, mode=mode).reshape(*last.shape[:-1], -1).movedim(-1, axis)
    return y


def _gather(c: Case, x: list[Any], p: dict[str, Any]) -> Any:
    axis = c.info.attrs["axis"] % len(c.info.inputs[0])
    return x[0].index_select(axis + 1, torch.tensor(c.info.attrs["indices"]))


def _reduction(function: Callable[..., Any]) -> Oracle:
    def oracle(c: Case, x: list[Any], p: dict[str, Any]) -> Any:
        axes = [a % len(c.info.inputs[0]) + 1 for a in c.info.attrs["axes"]]
        return function(x[0], dim=axes, keepdim=c.info.attrs["keepdims"])

    return oracle


def _resize(c: Case, x: list[Any], p: dict[str, Any]) -> Any:
    a = c.info.attrs
    mode = {"linear": {2: "linear", 3: "bilinear"}[len(c.info.output)], "cubic": "bicubic", "nearest": "nearest"}
    name, corners = mode[a["mode"]], None
    if a["mode"] != "nearest":
        corners = a["coordinates"] == "align_corners"
    elif a["coordinates"] == "half_pixel":
        name = "nearest-exact"
    given = {"scale_factor": tuple(map(float, a["scales"].split(",")))} if a["scales"] else {"size": a["size"]}
    return F.interpolate(x[0], mode=name, align_corners=corners, **given)


ORACLES: dict[str, Oracle] = {
    "gelu": lambda c, x, p: F.gelu(x[0], approximate=c.info.attrs["approximate"]),
    "silu": _unary(F.silu),
    "hard_sigmoid": _hard_sigmoid,
    "elu": lambda c, x, p: F.elu(x[0], c.info.attrs["alpha"]),
    "selu": _unary(F.selu),
    "celu": lambda c, x, p: F.celu(x[0], c.info.attrs["alpha"]),
    "softplus": _unary(F.softplus),
    "softsign": _unary(F.softsign),
    "mish": _unary(F.mish),
    **{name: _unary(getattr(torch, name))
       for name in ("exp", "log", "sqrt", "reciprocal", "neg", "abs", "erf", "sin", "cos", "square", "floor", "ceil",
                    "round", "sign")},
    "clip": _clip,
    "power": lambda c, x, p: x[0].pow(c.info.attrs["exponent"]),
    "scale_shift": lambda c, x, p: c.info.attrs["scale"] * x[0] + c.info.attrs["shift"],
    "add": lambda c, x, p: sum(x[1:], x[0]),
    "sub": lambda c, x, p: x[0] - x[1],
    "mul": lambda c, x, p: x[0] * x[1],
    "div": lambda c, x, p: x[0] / x[1],
    "maximum": lambda c, x, p: torch.maximum(x[0], x[1]),
    "minimum": lambda c, x, p: torch.minimum(x[0], x[1]),
    **dict.fromkeys(("param_add", "const_add"), lambda c, x, p: x[0] + p["weight"]),
    **dict.fromkeys(("param_mul", "const_mul"), lambda c, x, p: x[0] * p["weight"]),
    "mean": _reduction(torch.mean),
    "sum": _reduction(torch.sum),
    "amax": _reduction(torch.amax),
    "amin": _reduction(torch.amin),
    "transpose": lambda c, x, p: x[0].permute(0, *(i + 1 for i in c.info.attrs["perm"])),
    "slice": _slice,
    "pad": _pad,
    "gather": _gather,
    "expand": lambda c, x, p: x[0].expand(-1, *c.info.output),
    "tile": lambda c, x, p: x[0].repeat(1, *c.info.attrs["repeats"]),
}  # fmt: skip


def _compare(c: Case, oracle: Oracle, close: float = 1e-10) -> None:
    x = [torch.tensor(a, requires_grad=True) for a in c.x]
    p = {slot: torch.tensor(a, requires_grad=True) for slot, a in c.params.items()}
    y = oracle(c, x, p)
    np.testing.assert_allclose(c.forward(), y.detach().numpy(), rtol=close, atol=close)
    if not c.definition.differentiable(c.info, 0):
        return
    y.backward(torch.tensor(c.dy))
    for i, t in enumerate(x):
        for choice in range(len(c.definition.needs_for_input(c.info, i))):
            np.testing.assert_allclose(c.grad_input(i, choice=choice), t.grad.numpy(), rtol=close, atol=close)
    for slot in c.updatable:
        np.testing.assert_allclose(c.grad_param(slot), p[slot].grad.numpy(), rtol=close, atol=close)


def test_every_op_has_an_oracle() -> None:
    assert {*ORACLES, "resize"} == CASES


@pytest.mark.parametrize("kind", sorted(ORACLES))
@settings(max_examples=40, derandomize=True)
@given(data=st.data())
def test_op(kind: str, data: st.DataObject) -> None:
    # PyTorch's softplus is a line beyond 20, and its hardsigmoid divides by 6 in float32
    _compare(data.draw(cases(kind)), ORACLES[kind], 1e-7 if kind in ("softplus", "hard_sigmoid") else 1e-10)


@pytest.mark.parametrize(
    ("mode", "coordinates", "rounding"),
    [
        ("linear", "half_pixel", "floor"),
        ("linear", "align_corners", "floor"),
        ("cubic", "half_pixel", "floor"),
        ("cubic", "align_corners", "floor"),
        ("nearest", "asymmetric", "floor"),
        ("nearest", "half_pixel", "round_prefer_ceil"),
    ],
)
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 4), (7, 9), (14, 18), (11, 30), (8, 5)])
def test_resize(mode: str, coordinates: str, rounding: str, size: tuple[int, int]) -> None:
    c = case("resize", [(3, 7, 9)], size=size, mode=mode, coordinates=coordinates, rounding=rounding)
    _compare(c, _resize)


@pytest.mark.parametrize(("mode", "coordinates"), [("linear", "half_pixel"), ("cubic", "half_pixel")])
@pytest.mark.parametrize("ratio", [0.4, 0.7, 1.0, 1.5, 2.3])
def test_resize_by_ratios_that_do_not_divide(mode: str, coordinates: str, ratio: float) -> None:
    size = tuple(int(n * ratio) for n in (7, 9))
    _compare(case("resize", [(2, 7, 9)], size=size, mode=mode, coordinates=coordinates, scales=f"{ratio},{ratio}"),
             _resize)  # fmt: skip


@pytest.mark.parametrize(("mode", "rounding"), [("linear", "floor"), ("nearest", "floor")])
def test_resize_of_sequences(mode: str, rounding: str) -> None:
    coordinates = "asymmetric" if mode == "nearest" else "half_pixel"
    for length in (3, 8, 13):
        _compare(case("resize", [(2, 8)], size=length, mode=mode, rounding=rounding, coordinates=coordinates), _resize)


@pytest.mark.parametrize("kind", ["amax", "amin"])
def test_ties_of_extremes_share_the_gradient(kind: str) -> None:
    c = case(kind, [(4, 5, 6)], axes=(0, 2))
    c.x[0][...] = np.random.default_rng(0).integers(0, 3, c.x[0].shape)
    _compare(c, ORACLES[kind])


def test_the_error_function_everywhere() -> None:
    from sparseplan.ops.erf import erf

    x = np.concatenate([np.linspace(-7, 7, 20001), np.geomspace(1e-300, 1e2, 2001), [0.0, -0.0, np.inf, -np.inf]])
    np.testing.assert_allclose(erf(x), torch.erf(torch.tensor(x)).numpy(), rtol=1e-14, atol=0)
