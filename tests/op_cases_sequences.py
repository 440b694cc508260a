"""Cases of normalisation, attention and sequences (see op_cases)."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import op_cases
from hypothesis import strategies as st

from sparseplan.ops import op_def

KINDS = frozenset(
    (
        "layer_norm", "group_norm", "instance_norm", "batch_norm", "softmax", "log_softmax", "matmul", "embedding",
        "prelu", "parameter", "constant", "conv1d", "conv_transpose1d", "max_pool1d", "avg_pool1d",
        "dynamic_conv", "dynamic_conv_transpose", "lookup", "detach",
    )
)  # fmt: skip

_few = st.integers(1, 3)
_extent = st.integers(1, 4)
_shapes = st.lists(_extent, min_size=1, max_size=3).map(tuple)


def cases(kind: str) -> st.SearchStrategy[op_cases.Case]:
    """Random cases of one of ``KINDS``."""
    if kind.startswith("conv"):
        return _convs(kind)
    if kind.startswith("dynamic"):
        return op_cases.convs(kind.removeprefix("dynamic_")).map(_dynamic)
    if kind.endswith("pool1d"):
        return _pools(kind)
    return _others(kind)


@st.composite
def _convs(draw: st.DrawFn, kind: str) -> op_cases.Case:
    groups = draw(_few)
    pad = st.integers(0, 3)
    attrs: dict[str, Any] = {
        "kernel": draw(_few),
        "out_channels": groups * draw(_few),
        "stride": draw(_few),
        "dilation": draw(st.integers(1, 2)),
        "padding": draw(st.one_of(pad, st.tuples(pad, pad))),
        "groups": groups,
    }
    definition = op_def(kind)
    if kind == "conv_transpose1d":
        attrs["output_padding"] = draw(st.integers(0, max(attrs["stride"], attrs["dilation"]) - 1))
    full = definition.complete_attrs(attrs)
    shape = (groups * draw(_few), draw(st.integers(1, 8)))
    while min(definition.output_shape(full, [shape])) < 1:
        shape = (shape[0], shape[1] + 1)
    slots = ("weight", "bias") if draw(st.booleans()) else ("weight",)
    return op_cases.case(kind, [shape], draw(_few), draw(st.integers(0, 99)), slots=slots, **attrs)


def _dynamic(fixed: op_cases.Case) -> op_cases.Case:
    """A convolution whose weight is an input, another for each sample."""
    shapes = [*fixed.info.inputs, fixed.info.params["weight"]]
    slots = tuple(slot for slot in fixed.params if slot != "weight")
    kind, batch = f"dynamic_{fixed.info.kind}", len(fixed.dy)
    return op_cases.case(kind, shapes, batch, int(fixed.dy.size), slots=slots, **fixed.info.attrs)


@st.composite
def _pools(draw: st.DrawFn, kind: str) -> op_cases.Case:
    kernel = draw(_extent)
    pad = st.integers(0, kernel - 1)
    attrs: dict[str, Any] = {"kernel": kernel, "padding": draw(pad | st.tuples(pad, pad))}
    if draw(st.booleans()):
        attrs["stride"] = draw(_few)
    if kind == "avg_pool1d":
        attrs["count_include_pad"] = draw(st.booleans())
    shape = (draw(_few), draw(st.integers(kernel, 9)))
    return op_cases.case(kind, [shape], draw(_few), draw(st.integers(0, 99)), **attrs)


@st.composite
def _others(draw: st.DrawFn, kind: str) -> op_cases.Case:
    batch, seed, shape = draw(_few), draw(st.integers(0, 99)), draw(_shapes)
    optional = tuple(slot for slot in ("weight", "bias") if draw(st.booleans()))
    if kind == "layer_norm":
        dims = draw(st.integers(1, len(shape)))
        return op_cases.case(kind, [shape], batch, seed, slots=optional, dims=dims, eps=0.01)
    if kind == "group_norm":
        groups = draw(_few)
        grouped = (groups * draw(_few), *shape[1:])
        return op_cases.case(kind, [grouped], batch, seed, slots=optional, groups=groups, eps=0.01)
    if kind == "instance_norm":
        return op_cases.case(kind, [shape], batch, seed, slots=optional, eps=0.01)
    if kind == "batch_norm":
        c = op_cases.case(kind, [shape], batch, seed, slots=(*optional, "mean", "var"))
        return dataclasses.replace(c, params={**c.params, "var": np.abs(c.params["var"]) + 0.1})
    if kind in ("softmax", "log_softmax"):
        return op_cases.case(kind, [shape], batch, seed, axis=draw(st.integers(-len(shape), len(shape) - 1)))
    if kind == "matmul":
        return _products(draw, batch, seed)
    if kind == "embedding":
        num = draw(_extent)
        c = op_cases.case(kind, [shape], batch, seed, num=num, dim=draw(_extent))
        return dataclasses.replace(c, x=[np.random.default_rng(seed).integers(0, num, (batch, *shape), np.int32)])
    if kind == "lookup":
        num = draw(_extent)
        c = op_cases.case(kind, [shape, (num, draw(_extent))], batch, seed)
        ids = np.random.default_rng(seed).integers(0, num, (batch, *shape), np.int32)
        return dataclasses.replace(c, x=[ids, c.x[1]])
    if kind == "prelu":
        return op_cases.case(kind, [shape], batch, seed, shared=draw(st.booleans()))
    if kind == "detach":
        return op_cases.case(kind, [shape], batch, seed)
    assert kind in ("parameter", "constant")
    return op_cases.case(kind, [], batch, seed, shape=shape)


def _products(draw: st.DrawFn, batch: int, seed: int) -> op_cases.Case:
    m, k, n = draw(st.tuples(_extent, _extent, _extent))
    lead = draw(st.lists(_extent, max_size=2))
    turn_a, turn_b = draw(st.booleans()), draw(st.booleans())
    leads = [tuple(1 if draw(st.booleans()) else extent for extent in lead) for _ in range(2)]
    a, b = (k, m) if turn_a else (m, k), (n, k) if turn_b else (k, n)
    return op_cases.case(
        "matmul", [(*leads[0], *a), (*leads[1], *b)], batch, seed, transpose_a=turn_a, transpose_b=turn_b
    )
