"""Normalisation, attention and sequences against PyTorch's, forward and backward, in float64."""

from __future__ import annotations

import math
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
from op_cases import Case, cases
from op_cases_sequences import KINDS


def _layer_norm(c: Case, x: list[Any], p: dict[str, Any]) -> Any:
    dims = c.info.attrs["dims"]
    return F.layer_norm(x[0], c.info.output[-dims:], p.get("weight"), p.get("bias"), c.info.attrs["eps"])


def _group_norm(c: Case, x: list[Any], p: dict[str, Any]) -> Any:
    groups, channels = c.info.attrs.get("groups", c.info.output[0]), c.info.output[0]
    if math.prod(c.info.output[1:]) > 1:
        weight = p.get("weight", torch.ones(channels, dtype=x[0].dtype))  # it takes no bias alone
        return F.group_norm(x[0], groups, weight, p.get("bias"), c.info.attrs["eps"])
    # PyTorch's refuses a single pixel a channel
    rows = x[0].reshape(len(x[0]), groups, -1)
    y = F.layer_norm(rows, rows.shape[-1:], eps=c.info.attrs["eps"]).reshape(x[0].shape)
    weight, bias = (
        p[slot].reshape(channels, *[1] * (y.ndim - 2)) if slot in p else None for slot in ("weight", "bias")
    )
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def _batch_norm(c: Case, x: list[Any], p: dict[str, Any]) -> Any:
    mean, var = p["mean"].detach(), p["var"].detach()
    return F.batch_norm(x[0], mean, var, p.get("weight"), p.get("bias"), eps=c.info.attrs["eps"])


def _matmul(c: Case, x: list[Any], p: dict[str, Any]) -> Any:
    a, b = (t.mT if c.info.attrs[flag] else t for t, flag in zip(x, ("transpose_a", "transpose_b"), strict=True))
    return a @ b


def _softmax(c: Case, x: list[Any], p: dict[str, Any]) -> Any:
    axis = c.info.attrs["axis"]
    return getattr(F, c.info.kind)(x[0], axis if axis < 0 else axis + 1)


def _conv(c: Case, x: list[Any], p: dict[str, Any]) -> Any:
    a = c.info.attrs
    padded = F.pad(x[0], a["padding"])
    return F.conv1d(padded, p["weight"], p.get("bias"), a["stride"], 0, a["dilation"], a["groups"])


def _conv_transpose(c: Case, x: list[Any], p: dict[str, Any]) -> Any:
    a = c.info.attrs
    y = F.conv_transpose1d(
        x[0], p["weight"], p.get("bias"), a["stride"], 0, a["output_padding"], a["groups"], a["dilation"]
    )
    before = a["padding"][0]  # padding on two sides cuts the output
    return y[:, :, before : before + c.info.output[1]]


def _max_pool(c: Case, x: list[Any], p: dict[str, Any]) -> Any:
    a = c.info.attrs
    return F.max_pool1d(F.pad(x[0], a["padding"], value=-torch.inf), a["kernel"], a["stride"])


def _avg_pool(c: Case, x: list[Any], p: dict[str, Any]) -> Any:
    a = c.info.attrs
    y = F.avg_pool1d(F.pad(x[0], a["padding"]), a["kernel"], a["stride"])
    if a["count_include_pad"]:
        return y
    return y / F.avg_pool1d(F.pad(torch.ones_like(x[0]), a["padding"]), a["kernel"], a["stride"])


def _dynamic(c: Case, x: list[Any], p: dict[str, Any]) -> Any:
    """All samples at once, each being a group of its own."""
    a, n = c.info.attrs, len(c.dy)
    top, left, bottom, right = a["padding"]
    weight, bias, groups = x[1].flatten(0, 1), p.get("bias"), n * a["groups"]
    bias = None if bias is None else bias.repeat(n)
    if c.info.kind == "dynamic_conv":
        image = F.pad(x[0], (left, right, top, bottom)).flatten(0, 1)[None]
        y = F.conv2d(image, weight, bias, a["stride"], 0, a["dilation"], groups)
    else:
        image, extra = x[0].flatten(0, 1)[None], a["output_padding"]
        y = F.conv_transpose2d(image, weight, bias, a["stride"], 0, extra, groups, a["dilation"])
        y = y[:, :, top:, left:][:, :, : c.info.output[1], : c.info.output[2]]
    return y.reshape(n, *c.info.output)


ORACLES: dict[str, Callable[[Case, list[Any], dict[str, Any]], Any]] = {
    "layer_norm": _layer_norm,
    "group_norm": _group_norm,
    "instance_norm": _group_norm,
    "batch_norm": _batch_norm,
    "softmax": _softmax,
    "log_softmax": _softmax,
    "matmul": _matmul,
    "embedding": lambda c, x, p: F.embedding(x[0], p["weight"]),
    "prelu": lambda c, x, p: F.prelu(x[0], p["weight"]),
    "parameter": lambda c, x, p: p["weight"].expand(len(c.dy), *c.info.output),
    "constant": lambda c, x, p: p["weight"].expand(len(c.dy), *c.info.output),
    "conv1d": _conv,
    "conv_transpose1d": _conv_transpose,
    "max_pool1d": _max_pool,
    "avg_pool1d": _avg_pool,
    "detach": lambda c, x, p: x[0].detach(),
    "dynamic_conv": _dynamic,
    "dynamic_conv_transpose": _dynamic,
    "lookup": lambda c, x, p: torch.stack([F.embedding(ids, table) for ids, table in zip(x[0], x[1], strict=True)]),
}


def test_every_op_has_an_oracle() -> None:
    assert set(ORACLES) == KINDS


@pytest.mark.parametrize("kind", sorted(ORACLES))
@settings(max_examples=40, derandomize=True)
@given(data=st.data())
def test_op(kind: str, data: st.DataObject) -> None:
    c = data.draw(cases(kind))
    x = [torch.tensor(a, requires_grad=a.dtype.kind == "f") for a in c.x]
    p = {slot: torch.tensor(a, requires_grad=True) for slot, a in c.params.items()}
    y = ORACLES[kind](c, x, p)
    close = {"rtol": 1e-10, "atol": 1e-10}
    np.testing.assert_allclose(c.forward(), y.detach().numpy(), **close)
    if not y.requires_grad:
        return  # ids alone, or statistics
    y.backward(torch.tensor(c.dy))
    for slot in c.reached:
        np.testing.assert_allclose(c.grad_input(slot), x[slot].grad.numpy(), **close)
    for tag in c.updatable:
        np.testing.assert_allclose(c.grad_param(tag), p[tag].grad.numpy(), **close)
