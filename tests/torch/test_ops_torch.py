"""Every op and loss against PyTorch's, forward and backward, in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

# of torch.nn, as this folder could itself pass for a package named torch
pytest.importorskip("torch.nn", reason="PyTorch is not installed")
import op_cases_elementwise
import op_cases_sequences
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from op_cases import Case, case, cases

from sparseplan.ops import OPS, loss_def


def _pad(x: Any, padding: tuple[int, int, int, int], value: float = 0.0) -> Any:
    top, left, bottom, right = padding
    return F.pad(x, (left, right, top, bottom), value=value)


def _conv(c: Case, x: list[Any], p: dict[str, Any]) -> Any:
    a = c.info.attrs
    return F.conv2d(_pad(x[0], a["padding"]), p["weight"], p.get("bias"), a["stride"], 0, a["dilation"], a["groups"])


def _conv_transpose(c: Case, x: list[Any], p: dict[str, Any]) -> Any:
    a = c.info.attrs
    y = F.conv_transpose2d(
        x[0], p["weight"], p.get("bias"), a["stride"], 0, a["output_padding"], a["groups"], a["dilation"]
    )
    top, left, _, _ = a["padding"]
    _, height, width = c.info.output  # padding on four sides cuts the output
    return y[:, :, top : top + height, left : left + width]


def _max_pool(c: Case, x: list[Any], p: dict[str, Any]) -> Any:
    a = c.info.attrs
    return F.max_pool2d(_pad(x[0], a["padding"], -torch.inf), a["kernel"], a["stride"])


def _avg_pool(c: Case, x: list[Any], p: dict[str, Any]) -> Any:
    a = c.info.attrs
    if a["count_include_pad"]:
        return F.avg_pool2d(_pad(x[0], a["padding"]), a["kernel"], a["stride"])
    top, left, bottom, right = a["padding"]
    symmetric = (top, left) == (bottom, right) and 2 * top <= a["kernel"][0] and 2 * left <= a["kernel"][1]
    if symmetric:
        return F.avg_pool2d(x[0], a["kernel"], a["stride"], (top, left), count_include_pad=False)
    held = F.avg_pool2d(_pad(torch.ones_like(x[0]), a["padding"]), a["kernel"], a["stride"])
    return F.avg_pool2d(_pad(x[0], a["padding"]), a["kernel"], a["stride"]) / held


def _upsample(c: Case, x: list[Any], p: dict[str, Any]) -> Any:
    a = c.info.attrs
    corners = {"align_corners": False} if a["mode"] == "bilinear" else {}
    scale = tuple(float(s) for s in a["scale"])
    whole = F.interpolate(x[0], scale_factor=scale, mode=a["mode"], **corners)
    top, bottom = a["crop"]
    return whole[:, :, top : whole.shape[2] - bottom]


def _affine(c: Case, x: list[Any], p: dict[str, Any]) -> Any:
    channels = c.info.output[0]
    nothing, unit = torch.zeros(channels, dtype=torch.float64), torch.ones(channels, dtype=torch.float64)
    return F.batch_norm(x[0], nothing, unit, p["weight"], p.get("bias"), eps=0.0)


ORACLES: dict[str, Callable[[Case, list[Any], dict[str, Any]], Any]] = {
    "conv": _conv,
    "conv_transpose": _conv_transpose,
    "linear": lambda c, x, p: F.linear(x[0], p["weight"], p.get("bias")),
    "relu": lambda c, x, p: F.relu(x[0]),
    "relu6": lambda c, x, p: F.relu6(x[0]),
    "leaky_relu": lambda c, x, p: F.leaky_relu(x[0], c.info.attrs["slope"]),
    "sigmoid": lambda c, x, p: torch.sigmoid(x[0]),
    "tanh": lambda c, x, p: torch.tanh(x[0]),
    "hardswish": lambda c, x, p: F.hardswish(x[0]),
    "add": lambda c, x, p: sum(x[1:], x[0]),
    "mul": lambda c, x, p: x[0] * x[1],
    "concat": lambda c, x, p: torch.cat(x, c.info.attrs["axis"] + 1),
    "flatten": lambda c, x, p: x[0].flatten(1),
    "reshape": lambda c, x, p: x[0].reshape(-1, *c.info.output),
    "max_pool": _max_pool,
    "avg_pool": _avg_pool,
    "global_avg_pool": lambda c, x, p: F.adaptive_avg_pool2d(x[0], 1),
    "upsample": _upsample,
    "rows": lambda c, x, p: x[0][:, :, c.info.attrs["lo"] : c.info.attrs["hi"]],
    "join_rows": lambda c, x, p: torch.cat(x, 2),
    "affine": _affine,
}


def _compare(c: Case) -> None:
    x = [torch.tensor(a, requires_grad=True) for a in c.x]
    p = {slot: torch.tensor(a, requires_grad=True) for slot, a in c.params.items()}
    y = ORACLES[c.info.kind](c, x, p)
    y.backward(torch.tensor(c.dy))
    close = {"rtol": 1e-10, "atol": 1e-10}
    np.testing.assert_allclose(c.forward(), y.detach().numpy(), **close)
    for i, t in enumerate(x):
        np.testing.assert_allclose(c.grad_input(i), t.grad.numpy(), **close)
    for slot, t in p.items():
        np.testing.assert_allclose(c.grad_param(slot), t.grad.numpy(), **close)


def test_every_op_has_an_oracle() -> None:
    elsewhere = op_cases_sequences.KINDS | set(op_cases_elementwise.CASES) | {"opaque"}
    assert not set(OPS) - set(ORACLES) - elsewhere


@pytest.mark.parametrize("kind", sorted(ORACLES))
@settings(max_examples=40, derandomize=True)
@given(data=st.data())
def test_op(kind: str, data: st.DataObject) -> None:
    _compare(data.draw(cases(kind)))


@pytest.mark.parametrize("kind", ["conv", "conv_transpose"])
@pytest.mark.parametrize(("channels", "outs"), [(12, 1), (1, 12), (12, 12)])
@pytest.mark.parametrize("stride", [1, 2])
def test_wide_layers(kind: str, channels: int, outs: int, stride: int) -> None:
    _compare(case(kind, [(channels, 30, 31)], 3, kernel=3, padding=1, stride=stride, out_channels=outs))


def test_ties_of_max_pool_go_to_the_first() -> None:
    c = case("max_pool", [(2, 6, 6)], kernel=3, stride=2, padding=1)
    c.x[0][...] = np.random.default_rng(0).integers(0, 3, c.x[0].shape)
    _compare(c)


@pytest.mark.parametrize(
    ("kind", "oracle"),
    [
        ("l1", F.l1_loss),
        ("mse", F.mse_loss),
        ("huber", lambda y, t: F.huber_loss(y, t, delta=0.7)),
        ("cross_entropy", lambda y, t: F.cross_entropy(y, t[:, 0])),
    ],
)
def test_loss(kind: str, oracle: Callable[[Any, Any], Any], rng: np.random.Generator) -> None:
    output = rng.standard_normal((4, 6))
    target = rng.integers(0, 6, (4, 1)) if kind == "cross_entropy" else rng.standard_normal((4, 6))
    y, t = torch.tensor(output, requires_grad=True), torch.tensor(target)
    loss = oracle(y, t)
    loss.backward()
    value, grad = loss_def(kind).value_and_grad(output, target, {"delta": 0.7} if kind == "huber" else {})
    assert value == pytest.approx(loss.item(), rel=1e-12)
    np.testing.assert_allclose(grad, y.grad.numpy(), rtol=1e-10, atol=1e-12)
