"""Normalisation and softmax."""

from __future__ import annotations

import math

import numpy as np

from sparseplan.importers.draft import Draft, Known, Made, Shape, axis_of
from sparseplan.importers.onnxcall import Call, Held, Malformed, Rule, Unsupported


def _vector(call: Call, i: int, size: int) -> Known:
    known = call.weight(i)
    if known.shape != (size,):
        raise Malformed(f"input {i} has shape {known.shape}, expected ({size},)")
    return known


def _batch_norm(call: Call) -> Held:
    if call.integer("training_mode", 0):
        raise Unsupported("training_mode=1; export the network for inference")
    if call.opset < 14 and len(call.node.proto.output) > 1:  # read or not, they say so
        raise Unsupported("its outputs of statistics mean training mode; export the network for inference")
    call.one_output()
    x, eps = call.made(0), call.number("epsilon", 1e-5)
    if x.rank < 2 or eps < 0:
        raise Malformed(f"shape {x.shape} with epsilon={eps}; expected (1, channels, …) and at least 0")
    names = ("weight", "bias", "mean", "var")
    params = {name: _vector(call, i + 1, x.shape[1]) for i, name in enumerate(names)}
    if x.shape[0] == 1:
        return Made(call.draft.op("batch_norm", [x.tensor], params, eps=eps), x.shape)
    weight, bias, mean, var = (call.array(i) for i in range(1, 5))
    scale = weight / np.sqrt(var + np.float32(eps))
    wide = (-1, *(1,) * (x.rank - 2))
    y = call.draft.mul(x, Known(scale.reshape(wide)))
    return call.draft.add(y, Known((bias - mean * scale).reshape(wide)))


def _positive(call: Call, default: float) -> float:
    eps = call.number("epsilon", default)
    if eps <= 0:
        raise Unsupported(f"epsilon={eps}; norms are defined with one above 0")
    return eps


def _layer(call: Call) -> Held:
    call.one_output()
    return layer(call, call.made(0), 1, 2, call.integer("axis", -1))


def layer(call: Call, x: Made, weight: int, bias: int, axis: int) -> Made:
    """Layer norm over the axes from ``axis`` on, with parameters in these inputs."""
    dims = x.rank - axis_of(axis, x.rank)
    shape = x.shape[x.rank - dims :]
    params: dict[str, Known] = {}
    for i, slot in ((weight, "weight"), (bias, "bias")):
        if not call.has(i):
            continue
        known = call.weight(i)
        while len(known.shape) > dims and known.shape[0] == 1:
            known = known.reshaped(known.shape[1:])
        if known.shape != shape:
            if len(known.shape) > dims or any(
                n not in (1, m) for n, m in zip(known.shape[::-1], shape[::-1], strict=False)
            ):
                raise Malformed(f"{slot} of shape {known.shape} does not fit trailing axes {shape}")
            known = _wide(call.draft, known, shape)
        params[slot] = known
    tensor = call.draft.full(x) if dims == x.rank else x.tensor
    made = call.draft.op("layer_norm", [tensor], params, dims=dims, eps=_positive(call, 1e-5))
    return call.draft.wrap(made, x.shape)


def _wide(draft: Draft, known: Known, shape: Shape) -> Known:
    """A parameter spread to ``shape``."""
    array = np.broadcast_to(known.array, shape)
    if not draft.parents(known) and known.source is None:
        return Known(array)
    return Known(array, source=lambda: draft.expand(draft.made(known), shape), parents=draft.parents(known))


def _skip_layer(call: Call) -> Held:
    """com.microsoft.SkipLayerNormalization: the norm of a sum."""
    call.one_output()
    total = call.draft.add(call.made(0), call.value(1))
    if call.has(4):
        total = call.draft.add(total, call.value(4))
    return layer(call, call.draft.made(total), 2, 3, -1)


def _rms(call: Call) -> Held:
    """``x / sqrt(mean(x²) + eps) * weight`` over the axes from ``axis`` on."""
    x, draft = call.made(0), call.draft
    axes = list(range(axis_of(call.integer("axis", -1), x.rank), x.rank))
    mean = draft.reduce("mean", draft.same("square", x), axes, True)
    root = draft.same("sqrt", draft.same("scale_shift", mean, shift=call.number("epsilon", 1e-5)))
    return draft.mul(draft.elementwise("div", (x, root)), call.value(1))


def _channels(call: Call) -> Made:
    x = call.made(0)
    if x.rank < 3 or x.shape[0] != 1:
        raise Unsupported(f"an input of shape {x.shape}; (1, channels, extents …) is known")
    return x


def _group(call: Call) -> Held:
    x, groups = _channels(call), call.integer("num_groups")
    channels = x.shape[1]
    if groups < 1 or channels % groups:
        raise Malformed(f"num_groups={groups} does not divide {channels} channels")
    params = {}
    for i, slot in ((1, "weight"), (2, "bias")):
        known = call.weight(i)
        if known.shape == (groups,) and groups != channels and call.opset < 21:
            known = _wide(call.draft, known.reshaped((groups, 1)), (groups, channels // groups)).reshaped((channels,))
        if known.shape != (channels,):
            raise Malformed(f"input {i} has shape {known.shape}, expected ({channels},)")
        params[slot] = known
    eps = _positive(call, 1e-5)
    return Made(call.draft.op("group_norm", [x.tensor], params, groups=groups, eps=eps), x.shape)


def _instance(call: Call) -> Held:
    x = _channels(call)
    params = {"weight": _vector(call, 1, x.shape[1]), "bias": _vector(call, 2, x.shape[1])}
    return Made(call.draft.op("instance_norm", [x.tensor], params, eps=_positive(call, 1e-5)), x.shape)


def _lp(call: Call) -> Held:
    """Entries over their norm along an axis; 0 over 0 is 0."""
    x, p, draft = call.made(0), call.integer("p", 2), call.draft
    if p not in (1, 2):
        raise Malformed(f"p={p} must be 1 or 2")
    axis = [axis_of(call.integer("axis", -1), x.rank)]
    total = draft.reduce("sum", draft.same("square" if p == 2 else "abs", x), axis, True)
    norm = draft.same("clip", total, low=1e-30)
    return draft.elementwise("div", (x, draft.same("sqrt", norm) if p == 2 else norm))


def _softmax(kind: str) -> Rule:
    def rule(call: Call) -> Held:
        x = call.made(0)
        axis = axis_of(call.integer("axis", -1 if call.opset >= 13 else 1), x.rank)
        if call.opset >= 13 or axis == x.rank - 1:
            return call.draft.along(kind, x, axis)
        # until opset 12 all axes from there on are one
        rows = (math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))
        return call.draft.reshape(call.draft.along(kind, call.draft.reshape(x, rows), 1), x.shape)

    return rule


RULES: dict[str, Rule] = {
    "BatchNormalization": _batch_norm,
    "GroupNormalization": _group,
    "InstanceNormalization": _instance,
    "LayerNormalization": _layer,
    "LogSoftmax": _softmax("log_softmax"),
    "LpNormalization": _lp,
    "RMSNormalization": _rms,
    "SimplifiedLayerNormalization": _rms,
    "Softmax": _softmax("softmax"),
    "com.microsoft.LayerNormalization": _layer,
    "com.microsoft.SkipLayerNormalization": _skip_layer,
}
