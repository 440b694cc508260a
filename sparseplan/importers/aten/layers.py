"""Rules for layers with parameters: convolutions, linear layers, norms, embeddings."""

from __future__ import annotations

import numpy as np

from sparseplan.errors import NetworkError
from sparseplan.importers.aten.base import Call, Ids, Result, Unsaid, rule, value
from sparseplan.importers.aten.shapes import cut
from sparseplan.importers.draft import Attr, Draft, Known, Made, Value


def extents(given: object, spatial: int) -> tuple[int, ...]:
    """One number an axis."""
    numbers = [int(n) for n in given] if isinstance(given, (list, tuple)) else [int(str(given))]
    return tuple(numbers * spatial if len(numbers) == 1 else numbers)


def along(spatial: int, amounts: tuple[int, ...]) -> Attr:
    """Amounts an axis as an attribute: a number for sequences, a pair for images."""
    return amounts[0] if spatial == 1 else amounts


def padded(spatial: int, before: tuple[int, ...], after: tuple[int, ...]) -> tuple[int, ...]:
    """Padding as an attribute: (before, after), or (top, left, bottom, right)."""
    return (*before, *after) if spatial == 2 else (before[0], after[0])


@rule("conv1d", "conv2d", "conv3d", "convolution", "_convolution", "conv_transpose1d", "conv_transpose2d",
      "conv_transpose3d")  # fmt: skip
def _conv(c: Call) -> Value:
    x, weight, bias = c.made("input"), c.weight("weight"), c.maybe("bias")
    spatial = len(weight.shape) - 2
    transposed = bool(c.get("transposed", "transpose" in c.op))
    if spatial > 2:
        raise Unsaid("convolutions have at most two spatial axes here")
    kernel = weight.shape[2:]
    stride, dilation = extents(c["stride"], spatial), extents(c["dilation"], spatial)
    if isinstance(c["padding"], str):
        total = [d * (k - 1) if c["padding"] == "same" else 0 for d, k in zip(dilation, kernel, strict=True)]
        before = tuple(n // 2 for n in total)
        after = tuple(n - n // 2 for n in total)
    else:
        before = after = extents(c["padding"], spatial)
    groups = int(c["groups"])
    attrs: dict[str, Attr] = {
        "out_channels": weight.shape[1] * groups if transposed else weight.shape[0],
        "kernel": along(spatial, kernel),
        "stride": along(spatial, stride),
        "padding": padded(spatial, before, after),
        "dilation": along(spatial, dilation),
        "groups": groups,
    }
    if transposed:
        attrs["output_padding"] = along(spatial, extents(c["output_padding"], spatial))
    kind = ("conv_transpose" if transposed else "conv") + ("1d" if spatial == 1 else "")
    params = {"weight": weight} | ({} if bias is None else {"bias": bias})
    return c.draft.spatial(kind, x, spatial, params, **attrs)


@rule("linear")
def _linear(c: Call) -> Value:
    x, weight, bias = c.made("input"), c.weight("weight"), c.get("bias")
    learned = None if bias is None or (isinstance(bias, Made) and id(bias) not in c.frozen) else c.known("bias")
    if len(weight.shape) == 1:
        weight = weight.reshaped((1, *weight.shape))
    y: Value = c.draft.reshape(c.draft.linear(x, weight, learned), c.shape)
    return y if bias is None or learned is not None else c.draft.add(y, value(bias))


@rule("batch_norm", "_native_batch_norm_legit_no_training", "native_batch_norm", "cudnn_batch_norm",
      "_native_batch_norm_legit", "_batch_norm_with_update", "_batch_norm_no_update")  # fmt: skip
def _batch_norm(c: Call) -> Result:
    x, weight, bias = c.made("input"), c.maybe("weight"), c.maybe("bias")
    mean, var = c.maybe("running_mean"), c.maybe("running_var")
    eps = float(c.get("eps", 1e-5))
    many = c.op != "batch_norm"
    if c.get("training") or mean is None or var is None:
        c.draft.note("batch-norm without running statistics is read for batches of one sample")
        y = c.draft.op("instance_norm", [c.draft.image(x, max(1, x.rank - 2))], _affine(weight, bias), eps=eps)
        return [c.draft.wrap(y, x.shape)] if many else c.draft.wrap(y, x.shape)
    stats = {slot: named(c, k) for slot, k in (("mean", mean), ("var", var))}
    params = _affine(weight, bias) | stats
    if x.rank < 2:
        raise NetworkError(f"shape {x.shape} must be (1, channels, …)")
    if x.shape[0] == 1:
        made = c.draft.same("batch_norm", x, params, eps=eps)
    else:
        # the channels come first in the network
        order = (1, 0, *range(2, x.rank))
        turned = c.draft.transpose(x, order)
        tensor = c.draft.op("batch_norm", [c.draft.full(turned)], params, eps=eps)
        made = c.draft.transpose(c.draft.wrap(tensor, turned.shape), order)
    return [made] if many else made


def named(c: Call, known: Known) -> Known:
    """A buffer under its name in the module."""
    name = c.buffers.get(id(known))
    return known if name is None or known.name else Known(known.array, name)


def _affine(weight: Known | None, bias: Known | None) -> dict[str, Known]:
    return {slot: k for slot, k in (("weight", weight), ("bias", bias)) if k is not None}


@rule("instance_norm")
def _instance_norm(c: Call) -> Value:
    x, weight, bias = c.made("input"), c.maybe("weight"), c.maybe("bias")
    eps = float(c["eps"])
    if not c["use_input_stats"]:
        mean, var = c.known("running_mean"), c.known("running_var")
        params = _affine(weight, bias) | {"mean": named(c, mean), "var": named(c, var)}
        return c.draft.wrap(c.draft.op("batch_norm", [c.draft.image(x, x.rank - 2)], params, eps=eps), x.shape)
    return c.draft.wrap(
        c.draft.op("instance_norm", [c.draft.image(x, x.rank - 2)], _affine(weight, bias), eps=eps), x.shape
    )


@rule("group_norm", "native_group_norm")
def _group_norm(c: Call) -> Result:
    x, weight, bias = c.made("input"), c.maybe("weight"), c.maybe("bias")
    if x.rank < 2 or x.shape[0] != 1:
        raise Unsaid(f"its input {x.shape} is not (1, channels, …)")
    groups = int(c["num_groups"] if c.op == "group_norm" else c["group"])
    y = c.draft.same("group_norm", x, _affine(weight, bias), groups=groups, eps=float(c["eps"]))
    return y if c.op == "group_norm" else [y]


@rule("layer_norm", "native_layer_norm")
def _layer_norm(c: Call) -> Result:
    x = c.made("input")
    shape = tuple(int(n) for n in c["normalized_shape"])
    tensor, _ = c.draft.with_axes(x, range(x.rank - len(shape), x.rank))
    params = {slot: k.reshaped(shape) for slot, k in _affine(c.maybe("weight"), c.maybe("bias")).items()}
    y = c.draft.wrap(c.draft.op("layer_norm", [tensor], params, dims=len(shape), eps=float(c["eps"])), x.shape)
    return y if c.op == "layer_norm" else [y]


@rule("rms_norm", "_fused_rms_norm")
def _rms_norm(c: Call) -> Result:
    x = c.made("input")
    eps = c.get("eps")
    dims = len(c["normalized_shape"])
    d = c.draft
    power = d.reduce("mean", d.same("square", x), range(x.rank - dims, x.rank), True)
    power = d.same("scale_shift", power, None, shift=float(np.finfo(np.float32).eps if eps is None else eps))
    y: Value = d.elementwise("mul", [x, d.same("reciprocal", d.same("sqrt", power))])
    if c.get("weight") is not None:
        y = d.mul(y, value(c["weight"]))
    return y if c.op == "rms_norm" else [y]


@rule("_weight_norm", "_weight_norm_interface")
def _weight_norm(c: Call) -> Result:
    d, v, g = c.draft, c.made("v"), value(c["g"])
    axes = [a for a in range(v.rank) if a != int(c["dim"])]
    length = d.same("sqrt", d.reduce("sum", d.same("square", v), axes, True))
    y = d.elementwise("mul", [d.elementwise("div", [v, length]), g])
    return y if c.op == "_weight_norm" else [y]


#: ops that read integers of the network's inputs
READERS = frozenset(("embedding", "_embedding_bag", "_embedding_bag_forward_only"))


@rule("embedding")
def _embedding(c: Call) -> Value:
    return looked_up(c, c["indices"])


def looked_up(c: Call, ids: object) -> Value:
    """Rows of the table ``weight`` that integers name."""
    weight = c.known("weight")
    if isinstance(ids, Known):  # rows at constant places: positions
        return rows_at(c.draft, weight, ids.array.astype(np.int64))
    if not isinstance(ids, Ids):
        raise Unsaid("its indices are computed from the network's input")
    num, dim = weight.shape
    made = c.draft.op("embedding", [ids.source.tensor], {"weight": weight}, num=num, dim=dim)
    # what was done to the numbers is done to their vectors
    rows = c.draft.reshape(c.draft.wrap(made, (*ids.source.shape, dim)), (ids.source.count, dim))
    return c.draft.gather(rows, 0, ids.places)


@rule("_embedding_bag", "_embedding_bag_forward_only")
def _embedding_bag(c: Call) -> list[Value]:
    """Sums, means or maxima of runs of rows."""
    if c.get("per_sample_weights") is not None or int(c["padding_idx"]) >= 0:
        raise Unsaid("its rows have weights, or some are left out")
    d, rows = c.draft, c.draft.made(looked_up(c, c["indices"]))
    starts = [int(n) for n in c.array("offsets")]
    stops = starts[1:] if c["include_last_offset"] else [*starts[1:], rows.shape[0]]
    kind = ("sum", "mean", "amax")[int(c["mode"])]
    bags = [d.reduce(kind, cut(d, rows, 0, lo, hi), (0,), True) for lo, hi in zip(starts, stops, strict=False)]
    return [d.concat(bags, 0)]


def rows_at(draft: Draft, table: Known, index: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> Value:
    """Rows of a table at constant places; the table in whole if these are all of it in order."""
    flat = index.reshape(-1).tolist()
    if flat == list(range(table.shape[0])):
        return table.reshaped((*index.shape, *table.shape[1:]))
    made = draft.made(table)
    if flat == list(range(flat[0], flat[0] + len(flat))):
        part = cut(draft, made, 0, flat[0], flat[0] + len(flat))
        return draft.reshape(part, (*index.shape, *table.shape[1:]))
    return draft.gather(made, 0, index)
