"""Convolutions and transposed convolutions of one and two dimensions."""

from __future__ import annotations

import math

from sparseplan.importers.draft import Draft, Known, Made
from sparseplan.importers.onnxcall import Call, Held, Malformed, Rule, Unsupported
from sparseplan.importers.onnxrules.windows import Sliding, sliding
from sparseplan.network import Attr


def _parts(call: Call) -> tuple[Made, Known, dict[str, Known], int]:
    x, weight = call.made(0), call.weight(1)
    spatial = len(weight.shape) - 2
    if spatial not in (1, 2):
        raise Unsupported(f"a convolution of {spatial} dimensions; one and two are known")
    if x.rank != spatial + 2:
        raise Malformed(f"shape {x.shape} does not fit a weight of shape {weight.shape}")
    params = {"weight": weight}
    if call.has(2):
        outs = (
            weight.shape[0] if call.node.op != "ConvTranspose" else weight.shape[1] * max(1, call.integer("group", 1))
        )
        if math.prod(call.weight(2).shape) != outs:
            raise Malformed(f"bias of shape {call.weight(2).shape} for {outs} channels")
        params["bias"] = call.weight(2).reshaped((outs,))
    return x, weight, params, spatial


def _attrs(window: Sliding, spatial: int, **more: Attr) -> dict[str, Attr]:
    """Attributes of conv or conv1d: numbers along a sequence, tuples over an image."""
    if spatial == 1:
        return {
            "kernel": window.kernel[0], "stride": window.strides[0], "dilation": window.dilations[0],
            "padding": (window.before[0], window.after[0]), **more,
        }  # fmt: skip
    return {
        "kernel": window.kernel, "stride": window.strides, "dilation": window.dilations,
        "padding": (*window.before, *window.after), **more,
    }  # fmt: skip


def conv(call: Call) -> Made:
    """Conv."""
    x, weight, params, spatial = _parts(call)
    groups = call.integer("group", 1)
    if groups < 1 or x.shape[1] != weight.shape[1] * groups or weight.shape[0] % groups:
        raise Malformed(f"channels of {x.shape} do not fit a weight of shape {weight.shape} in group={groups}")
    window = sliding(call, x.shape[2:], weight.shape[2:])
    if window.kernel != weight.shape[2:]:
        raise Malformed(f"kernel_shape={list(window.kernel)} does not fit a weight of shape {weight.shape}")
    attrs = _attrs(window, spatial, out_channels=weight.shape[0], groups=groups)
    return call.draft.spatial("conv1d" if spatial == 1 else "conv", x, spatial, params, **attrs)


def conv_transpose(call: Call) -> Held:
    """ConvTranspose; ``output_shape`` decides the pads where it is given."""
    x, weight, params, spatial = _parts(call)
    groups = call.integer("group", 1)
    if groups < 1 or x.shape[1] != weight.shape[0] or x.shape[1] % groups:
        raise Malformed(f"channels of {x.shape} do not fit a weight of shape {weight.shape} in group={groups}")
    mode = call.text("auto_pad", "NOTSET")
    plain = sliding(call, x.shape[2:], weight.shape[2:])
    if plain.kernel != weight.shape[2:]:
        raise Malformed(f"kernel_shape={list(plain.kernel)} does not fit a weight of shape {weight.shape}")
    extra = call.ints("output_padding") or [0] * spatial
    if len(extra) != spatial or any(n < 0 for n in extra):
        raise Malformed(f"output_padding={extra} must be {spatial} numbers of at least 0")
    wanted = call.ints("output_shape")
    if wanted is not None and len(wanted) == spatial + 2:
        wanted = wanted[2:]
    before, after = plain.before, plain.after
    same = wanted is None and mode.startswith("SAME")
    if same:
        wanted = [n * s for n, s in zip(x.shape[2:], plain.strides, strict=True)]
    reach = [(n - 1) * s + e for n, s, e in zip(x.shape[2:], plain.strides, plain.extents, strict=True)]
    if wanted is not None:
        if len(wanted) != spatial or min(wanted) < 1:
            raise Malformed(f"output_shape={wanted} must be {spatial} numbers of at least 1")
        # as ONNX Runtime: what is too much is cut before and behind; what is missing of output_shape is added behind
        total = [max(0, a + b - c) for a, b, c in zip(reach, extra, wanted, strict=True)]
        small, large = tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
        before, after = (small, large) if mode == "SAME_UPPER" else (large, small)
        if not same:
            extra = [c - a + t for a, c, t in zip(reach, wanted, total, strict=True)]
        if any(e >= max(s, d) for e, s, d in zip(extra, plain.strides, plain.dilations, strict=True)):
            raise Unsupported(f"output_shape={wanted} is larger than what the windows reach")
    window = Sliding(plain.kernel, plain.strides, before, after, plain.dilations)
    output: Attr = extra[0] if spatial == 1 else tuple(extra)
    more = {"out_channels": weight.shape[1] * groups, "groups": groups, "output_padding": output}
    kind = "conv_transpose1d" if spatial == 1 else "conv_transpose"
    return call.draft.spatial(kind, x, spatial, params, **_attrs(window, spatial, **more))


def _fused(call: Call) -> Held:
    """com.microsoft.FusedConv: a convolution, a sum with a fourth input, an activation."""
    made = conv(call)
    if call.has(3):
        made = call.draft.made(call.draft.add(made, call.value(3)))
    return activated(call.draft, made, call.text("activation", ""), call.attr("activation_params", "floats", ()))


def activated(draft: Draft, x: Made, name: str, numbers: tuple[float, ...]) -> Made:
    """An activation that is fused into another op."""
    plain = {"Relu": "relu", "Sigmoid": "sigmoid", "Tanh": "tanh"}
    if not name:
        return x
    if name in plain:
        return draft.same(plain[name], x)
    if name == "LeakyRelu" and len(numbers) <= 1:
        return draft.same("leaky_relu", x, slope=float(numbers[0]) if numbers else 0.01)
    if name == "HardSigmoid" and len(numbers) in (0, 2):
        alpha, beta = numbers or (0.2, 0.5)
        return draft.same("hard_sigmoid", x, alpha=float(alpha), beta=float(beta))
    if name == "Clip" and len(numbers) == 2:
        return draft.same("clip", x, low=float(numbers[0]), high=float(numbers[1]))
    raise Unsupported(f"activation={name!r} with parameters {list(numbers)}")


RULES: dict[str, Rule] = {"Conv": conv, "ConvTranspose": conv_transpose, "com.microsoft.FusedConv": _fused}
