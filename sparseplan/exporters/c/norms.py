"""Kernels of norms, softmax, prelu and embedding."""

from __future__ import annotations

import math

from sparseplan.errors import ExportError
from sparseplan.exporters.c.calls import Call
from sparseplan.exporters.c.context import Context, inner, lowers, lowers_aux
from sparseplan.exporters.c.pointwise import channel_sum
from sparseplan.exporters.c.views import View, Views

_ROWS = ("layer_norm", "group_norm", "instance_norm")
#: numbers above are not told apart in float32
_MOST_IDS = 2**24


def _row_ints(c: Context) -> tuple[int, int, int]:
    """Rows, elements of a row, elements of a channel (0 where parameters have an entry an element of a row)."""
    shape = c.info.output
    if c.info.kind == "layer_norm":
        dims = c.attrs["dims"]
        return math.prod(shape[:-dims]), math.prod(shape[-dims:]), 0
    groups = c.attrs["groups"] if c.info.kind == "group_norm" else shape[0]
    return groups, math.prod(shape) // groups, inner(shape)


@lowers("forward", *_ROWS)
def _norm(c: Context) -> Call:
    ints = (*_row_ints(c), int(c.has("weight")), int(c.has("bias")))
    return Call("sp_row_norm", (*c.inputs(), *c.params("weight", "bias")), c.y(), ints, (c.attrs["eps"],))


@lowers("grad_input", *_ROWS)
def _norm_grad(c: Context) -> Call:
    reads = (c.read("dy"), c.read("x0"), *c.params("weight"))
    return Call("sp_row_norm_grad", reads, c.dx(), (*_row_ints(c), int(c.has("weight"))), (c.attrs["eps"],))


@lowers("grad_param", *_ROWS)
def _norm_param(c: Context) -> Call:
    rows, length, size = _row_ints(c)
    if c.step.target == "bias":
        return channel_sum(c, 1, c.info.output[0], size) if size else channel_sum(c, rows, length, 1)
    count = c.info.output[0] if size else length
    return Call("sp_row_norm_grad_weight", (c.read("dy"), c.read("x0")), c.dp(), (rows, length, size, 0, 0, count),
                (c.attrs["eps"],))  # fmt: skip


@lowers("forward", "batch_norm")
def _batch_norm(c: Context) -> Call:
    reads = (*c.inputs(), *c.params("mean", "var", "weight", "bias"))
    ints = (inner(c.info.output), int(c.has("weight")), int(c.has("bias")))
    return Call("sp_batch_norm", reads, c.y(), ints, (c.attrs["eps"],))


@lowers("grad_input", "batch_norm")
def _batch_norm_grad(c: Context) -> Call:
    reads = (c.read("dy"), *c.params("var", "weight"))
    return Call("sp_batch_norm_grad", reads, c.dx(), (inner(c.info.output), int(c.has("weight"))), (c.attrs["eps"],))


@lowers("grad_param", "batch_norm")
def _batch_norm_param(c: Context) -> Call:
    channels, size = c.info.output[0], inner(c.info.output)
    if c.step.target == "bias":
        return channel_sum(c, 1, channels, size)
    reads = (c.read("dy"), c.read("x0"), *c.params("mean", "var"))
    return Call("sp_batch_norm_grad_weight", reads, c.dp(), (size, c.kept(channels)), (c.attrs["eps"],))


def _slope_size(c: Context) -> int:
    """Elements that share a slope."""
    return math.prod(c.info.output) if c.attrs["shared"] else inner(c.info.output)


@lowers("forward", "prelu")
def _prelu(c: Context) -> Call:
    return Call("sp_prelu", (*c.inputs(), c.read("weight")), c.y(), (_slope_size(c),))


@lowers_aux("prelu")
def _prelu_mask(c: Context, tag: str, x: Views, mask: View) -> Call:
    return Call("sp_map:sp_f_positive", x, (mask,))


@lowers("grad_input", "prelu")
def _prelu_grad(c: Context) -> Call:
    reads = (c.read("dy"), c.read("mask" if c.has("mask") else "x0"), c.read("weight"))
    return Call("sp_prelu_grad", reads, c.dx(), (_slope_size(c),))


@lowers("grad_param", "prelu")
def _prelu_param(c: Context) -> Call:
    slopes = c.dp_shape()[0]
    return Call("sp_prelu_grad_weight", (c.read("dy"), c.read("x0")), c.dp(), (_slope_size(c), slopes))


def _run_ints(c: Context) -> tuple[int, ...]:
    shape = c.info.output
    axis = c.attrs["axis"] % len(shape)
    return math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :]), int(c.info.kind == "log_softmax")


@lowers("forward", "softmax", "log_softmax")
def _softmax(c: Context) -> Call:
    return Call("sp_softmax", c.inputs(), c.y(), _run_ints(c))


@lowers("grad_input", "softmax", "log_softmax")
def _softmax_grad(c: Context) -> Call:
    return Call("sp_softmax_grad", (c.read("dy"), c.read("y")), c.dx(), _run_ints(c))


def _table_ints(c: Context) -> tuple[int, int, int]:
    num, dim = c.info.inputs[1] if c.info.kind == "lookup" else (c.attrs["num"], c.attrs["dim"])
    if num > _MOST_IDS:
        raise ExportError(f"op {c.info.name!r} ({c.info.kind}) has num={num}; C kernels tell {_MOST_IDS} ids apart")
    return math.prod(c.info.inputs[0]), num, dim


@lowers("forward", "embedding", "lookup")
def _embedding(c: Context) -> Call:
    return Call("sp_embedding", (*c.inputs(), *c.params("weight")), c.y(), _table_ints(c))


@lowers("grad_param", "embedding")
def _embedding_param(c: Context) -> Call:
    return Call("sp_embedding_grad_weight", (c.read("dy"), c.read("x0")), c.dp(), _table_ints(c))


@lowers("grad_input", "lookup")
def _lookup_grad(c: Context) -> Call:
    return Call("sp_embedding_grad_weight", (c.read("dy"), c.read("x0")), c.dx(), _table_ints(c))
