"""Ops whose parameters are computed from others, or stand elsewhere in another form: these become inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from sparseplan.network import Attr

if TYPE_CHECKING:
    from sparseplan.importers.draftops import Ops
    from sparseplan.importers.values import Known, Shape

Params = Mapping[str, "Known"]
#: (draft, kind, input tensors, parameters, attributes) -> the tensor that is made
By = Callable[["Ops", str, Sequence[str], Params, Mapping[str, Attr]], str]


def by_tensors(draft: Ops, kind: str, inputs: Sequence[str], params: Params, attrs: Mapping[str, Attr]) -> str | None:
    """What ``kind`` makes, with parameters as tensors of the network, so that gradients pass to what they were computed
    from. None where no ops say that, or some parameter can be no tensor."""
    rule = _RULES.get(kind)
    if rule is None:
        return None
    turned = [k for slot, k in params.items() if slot in ("weight", "bias") and not draft.direct(k)]
    if not turned or any(draft.tensor(k) is None for k in turned):
        return None
    return rule(draft, kind, inputs, params, attrs)


def _as(draft: Ops, known: Known, shape: Shape) -> str:
    """A parameter as a tensor of exactly this shape."""
    return draft.view(draft.made(known).tensor, shape)


def _spread(draft: Ops, kind: str, x: str, known: Known, shape: Shape) -> str:
    """``x`` and a parameter of ``shape`` in an op of two inputs; extents of 1 are spread, and axes before it."""
    rank = len(draft.net.shape(x))
    return draft.op(kind, [x, _as(draft, known, (1,) * (rank - len(shape)) + shape)])


def _over(draft: Ops, kind: str, x: str, known: Known, shape: Shape) -> str:
    """As ``_spread``, with a parameter that may be one of the op, if its shape is ``shape``."""
    if draft.direct(known) and known.shape == shape:
        return draft.op(f"param_{kind}", [x], {"weight": known}, shape=shape)
    return _spread(draft, kind, x, known, shape)


def _linear(draft: Ops, kind: str, inputs: Sequence[str], params: Params, attrs: Mapping[str, Attr]) -> str:
    (x,), weight, bias = inputs, params["weight"], params.get("bias")
    shape, outs = draft.net.shape(x), weight.shape[0]
    if draft.direct(weight):
        y = draft.op("linear", [x], {"weight": weight}, **attrs)
    else:
        rows = draft.view(x, (math.prod(shape[:-1]), shape[-1]))
        product = draft.op("matmul", [rows, _as(draft, weight, weight.shape)], None, transpose_b=True)
        y = draft.view(product, (*shape[:-1], outs))
    return y if bias is None else _over(draft, "add", y, bias, (outs,))


def _conv(draft: Ops, kind: str, inputs: Sequence[str], params: Params, attrs: Mapping[str, Attr]) -> str:
    """A convolution of one or two dimensions; sequences are images of one row."""
    weight, bias = params["weight"], params.get("bias")
    own = {} if bias is None or not draft.direct(bias) else {"bias": bias}
    if draft.direct(weight):
        y = draft.op(kind, inputs, {"weight": weight, **own}, **attrs)
    else:
        flat = kind.endswith("1d")
        x, told = inputs[0], dict(attrs)
        kernel = weight.shape
        if flat:
            x = draft.view(x, _row(draft.net.shape(x)))
            kernel = _row(kernel)
            before, after = _ints(attrs["padding"], 2)
            told["padding"] = (0, before, 0, after)
            for name, other in (("kernel", 1), ("stride", 1), ("dilation", 1), ("output_padding", 0)):
                if name in told:
                    told[name] = (other, *_ints(attrs[name], 1))
        y = draft.op(f"dynamic_{kind.removesuffix('1d')}", [x, _as(draft, weight, kernel)], own, **told)
        if flat:
            channels, _, length = draft.net.shape(y)
            y = draft.view(y, (channels, length))
    if bias is None or own:
        return y
    return _spread(draft, "add", y, bias, _channels(draft, y))


def _ints(value: Attr, count: int) -> tuple[int, ...]:
    """An attribute of one number, or of one an end."""
    if isinstance(value, tuple):
        return value
    return (int(value),) * count


def _row(shape: Shape) -> Shape:
    return (*shape[:-1], 1, shape[-1])


def _channels(draft: Ops, x: str) -> Shape:
    shape = draft.net.shape(x)
    return (shape[0], *(1,) * (len(shape) - 1))


def _norm(draft: Ops, kind: str, inputs: Sequence[str], params: Params, attrs: Mapping[str, Attr]) -> str:
    """Normalised without weight and bias, which come after."""
    rest = {slot: known for slot, known in params.items() if slot not in ("weight", "bias")}
    y = draft.op(kind, inputs, rest, **attrs)
    for slot, what in (("weight", "mul"), ("bias", "add")):
        if slot in params:
            known = params[slot]
            shape = known.shape if kind == "layer_norm" else _channels(draft, y)
            y = _over(draft, what, y, known, shape)
    return y


def _prelu(draft: Ops, kind: str, inputs: Sequence[str], params: Params, attrs: Mapping[str, Attr]) -> str:
    (x,) = inputs
    low = draft.op("clip", [x], None, high=0.0)
    shape = _channels(draft, x) if not attrs.get("shared") else (1,) * len(draft.net.shape(x))
    return draft.op("add", [draft.op("relu", [x]), _spread(draft, "mul", low, params["weight"], shape)])


def _laid(draft: Ops, kind: str, inputs: Sequence[str], params: Params, attrs: Mapping[str, Attr]) -> str:
    weight = params["weight"]
    return _spread(draft, kind.partition("_")[2], inputs[0], weight, weight.shape)


def _embedding(draft: Ops, kind: str, inputs: Sequence[str], params: Params, attrs: Mapping[str, Attr]) -> str:
    weight = params["weight"]
    return draft.op("lookup", [inputs[0], _as(draft, weight, weight.shape)])


_RULES: dict[str, By] = {
    "linear": _linear,
    **dict.fromkeys(("conv", "conv1d", "conv_transpose", "conv_transpose1d"), _conv),
    **dict.fromkeys(("layer_norm", "group_norm", "instance_norm", "batch_norm"), _norm),
    "prelu": _prelu,
    **dict.fromkeys(("param_add", "param_mul", "const_add", "const_mul"), _laid),
    "embedding": _embedding,
}
