"""Each op kind by PyTorch's functions: ``(info, inputs, parameters, batch) -> output``, with the batch axis first.

An oracle beside the NumPy kernels, which shares nothing with them but attributes and shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F

from sparseplan.errors import ExportError
from sparseplan.ops import OpInfo

Kernel = Callable[[OpInfo, Sequence[Any], Mapping[str, Any], int], Any]


def _unary(function: Callable[[Any], Any]) -> Kernel:
    return lambda info, x, p, n: function(x[0])


def _padded(x: Any, padding: tuple[int, ...], value: float = 0.0) -> tuple[Any, tuple[int, ...]]:
    """Padding that a layer takes itself, or the image padded before it. ``padding``: all befores, all afters."""
    half = len(padding) // 2
    before, after = padding[:half], padding[half:]
    if before == after:
        return x, before
    amounts = [n for pair in zip(before[::-1], after[::-1], strict=True) for n in pair]
    return F.pad(x, amounts, value=value), (0,) * half


def _conv(info: OpInfo, x: Sequence[Any], p: Mapping[str, Any], n: int) -> Any:
    a = info.attrs
    image, padding = _padded(x[0], a["padding"])
    function = F.conv2d if info.kind == "conv" else F.conv1d
    return function(image, p["weight"], p.get("bias"), a["stride"], padding, a["dilation"], a["groups"])


def _conv_transpose(info: OpInfo, x: Sequence[Any], p: Mapping[str, Any], n: int) -> Any:
    a = info.attrs
    half = len(a["padding"]) // 2
    before, after = a["padding"][:half], a["padding"][half:]
    function = F.conv_transpose2d if info.kind == "conv_transpose" else F.conv_transpose1d
    if before == after:
        return function(
            x[0], p["weight"], p.get("bias"), a["stride"], before, a["output_padding"], a["groups"], a["dilation"]
        )
    y = function(x[0], p["weight"], p.get("bias"), a["stride"], 0, a["output_padding"], a["groups"], a["dilation"])
    for axis, (lo, size) in enumerate(zip(before, info.output[1:], strict=True), start=2):
        y = y.narrow(axis, lo, size)
    return y


def _dynamic(info: OpInfo, x: Sequence[Any], p: Mapping[str, Any], n: int) -> Any:
    """Each sample by its own weight."""
    function, kind = (_conv, "conv") if info.kind == "dynamic_conv" else (_conv_transpose, "conv_transpose")
    fixed = replace(info, kind=kind)
    return torch.cat([
        function(fixed, [image[None]], {"weight": weight, **p}, 1) for image, weight in zip(*x, strict=True)
    ])  # fmt: skip


def _max_pool(info: OpInfo, x: Sequence[Any], p: Mapping[str, Any], n: int) -> Any:
    a = info.attrs
    half = len(a["padding"]) // 2
    kernel = a["kernel"] if half == 2 else (a["kernel"],)
    image, padding = x[0], a["padding"][:half]
    if a["padding"][half:] != padding or any(2 * q > k for q, k in zip(padding, kernel, strict=True)):
        amounts = [m for i in reversed(range(half)) for m in (a["padding"][i], a["padding"][half + i])]
        image, padding = F.pad(image, amounts, value=-torch.inf), (0,) * half
    return (F.max_pool2d if half == 2 else F.max_pool1d)(image, a["kernel"], a["stride"], padding)


def _avg_pool(info: OpInfo, x: Sequence[Any], p: Mapping[str, Any], n: int) -> Any:
    a = info.attrs
    function = F.avg_pool2d if len(a["padding"]) == 4 else F.avg_pool1d
    half = len(a["padding"]) // 2
    kernel = a["kernel"] if half == 2 else (a["kernel"],)
    before = a["padding"][:half]
    if before == a["padding"][half:] and all(2 * q <= k for q, k in zip(before, kernel, strict=True)):
        return function(x[0], a["kernel"], a["stride"], before, count_include_pad=a["count_include_pad"])
    amounts = [m for i in reversed(range(half)) for m in (a["padding"][i], a["padding"][half + i])]
    y = function(F.pad(x[0], amounts), a["kernel"], a["stride"])
    if a["count_include_pad"]:
        return y
    return y / function(F.pad(torch.ones_like(x[0]), amounts), a["kernel"], a["stride"])


def _channels(parameter: Any, rank: int) -> Any:
    """A parameter of one entry a channel, to be laid over ``(batch, channels, …)``."""
    return parameter.reshape(1, -1, *(1,) * (rank - 1))


def _affine(info: OpInfo, x: Sequence[Any], p: Mapping[str, Any], n: int) -> Any:
    rank = len(info.output)
    y = x[0] * _channels(p["weight"], rank)
    return y + _channels(p["bias"], rank) if "bias" in p else y


def _batch_norm(info: OpInfo, x: Sequence[Any], p: Mapping[str, Any], n: int) -> Any:
    return F.batch_norm(x[0], p["mean"], p["var"], p.get("weight"), p.get("bias"), False, 0.0, info.attrs["eps"])


def _layer_norm(info: OpInfo, x: Sequence[Any], p: Mapping[str, Any], n: int) -> Any:
    shape = info.output[len(info.output) - info.attrs["dims"] :]
    return F.layer_norm(x[0], shape, p.get("weight"), p.get("bias"), info.attrs["eps"])


def _group_norm(info: OpInfo, x: Sequence[Any], p: Mapping[str, Any], n: int) -> Any:
    groups = info.attrs["groups"] if info.kind == "group_norm" else info.output[0]
    return F.group_norm(x[0], groups, p.get("weight"), p.get("bias"), info.attrs["eps"])


def _matmul(info: OpInfo, x: Sequence[Any], p: Mapping[str, Any], n: int) -> Any:
    a = x[0].transpose(-1, -2) if info.attrs["transpose_a"] else x[0]
    b = x[1].transpose(-1, -2) if info.attrs["transpose_b"] else x[1]
    return a @ b


def _gather(info: OpInfo, x: Sequence[Any], p: Mapping[str, Any], n: int) -> Any:
    axis = info.attrs["axis"] % len(info.output)
    return x[0].index_select(axis + 1, torch.tensor(info.attrs["indices"]))


def _slice(info: OpInfo, x: Sequence[Any], p: Mapping[str, Any], n: int) -> Any:
    a = info.attrs
    steps = a["steps"] or (1,) * len(a["starts"])
    ranges = [slice(lo, hi, step) for lo, hi, step in zip(a["starts"], a["stops"], steps, strict=True)]
    return x[0][(slice(None), *ranges)]


def _pad(info: OpInfo, x: Sequence[Any], p: Mapping[str, Any], n: int) -> Any:
    a = info.attrs
    if a["mode"] == "constant":
        amounts = [m for pair in zip(a["before"][::-1], a["after"][::-1], strict=True) for m in pair]
        return F.pad(x[0], amounts, value=a["value"])
    y = x[0]
    for axis, (lo, hi) in enumerate(zip(a["before"], a["after"], strict=True), start=1):
        extent = y.shape[axis]
        places = torch.arange(-lo, extent + hi)
        if a["mode"] == "reflect":
            places = places.abs()
            places = extent - 1 - (extent - 1 - places).abs()
        y = y.index_select(axis, places.clamp(0, extent - 1)) if lo or hi else y
    return y


def _upsample(info: OpInfo, x: Sequence[Any], p: Mapping[str, Any], n: int) -> Any:
    a = info.attrs
    corners = {"align_corners": False} if a["mode"] == "bilinear" else {}
    y = F.interpolate(x[0], scale_factor=tuple(map(float, a["scale"])), mode=a["mode"], **corners)
    top, bottom = a["crop"]
    return y[:, :, top : y.shape[2] - bottom]


def _resize(info: OpInfo, x: Sequence[Any], p: Mapping[str, Any], n: int) -> Any:
    a, spatial = info.attrs, len(info.output) - 1
    mode: str | None = {"linear": ("linear", "bilinear")[spatial - 1], "cubic": "bicubic"}.get(a["mode"])
    corners = a["coordinates"] == "align_corners"
    if a["mode"] == "nearest":
        rule = (a["coordinates"], a["rounding"])
        mode = {("asymmetric", "floor"): "nearest", ("half_pixel", "round_prefer_ceil"): "nearest-exact"}.get(rule)
    elif not corners and a["coordinates"] != "half_pixel":
        mode = None
    if mode is None or a["scales"] or (a["mode"] == "cubic" and a["cubic_a"] != -0.75):
        raise ExportError(f"op {info.name!r}: resize with {dict(a)} has no equivalent in PyTorch")
    extra = {} if a["mode"] == "nearest" else {"align_corners": corners}
    return F.interpolate(x[0], size=info.output[1:], mode=mode, **extra)


def _reduction(function: Callable[..., Any]) -> Kernel:
    def run(info: OpInfo, x: Sequence[Any], p: Mapping[str, Any], n: int) -> Any:
        rank = len(info.inputs[0])
        axes = tuple(axis % rank + 1 for axis in info.attrs["axes"])
        return function(x[0], dim=axes, keepdim=info.attrs["keepdims"])

    return run


def _along(function: Callable[..., Any]) -> Kernel:
    return lambda info, x, p, n: function(x[0], dim=info.attrs["axis"] % len(info.output) + 1)


def _clip(info: OpInfo, x: Sequence[Any], p: Mapping[str, Any], n: int) -> Any:
    return x[0].clamp(info.attrs["low"], info.attrs["high"])


KERNELS: dict[str, Kernel] = {
    **{k: _unary(f) for k, f in {
        "relu": F.relu, "relu6": F.relu6, "sigmoid": torch.sigmoid, "tanh": torch.tanh, "hardswish": F.hardswish,
        "silu": F.silu, "mish": F.mish, "selu": F.selu, "softplus": F.softplus, "softsign": F.softsign,
        "exp": torch.exp, "log": torch.log, "sqrt": torch.sqrt, "reciprocal": torch.reciprocal, "neg": torch.neg,
        "abs": torch.abs, "erf": torch.erf, "sin": torch.sin, "cos": torch.cos, "square": torch.square,
        "floor": torch.floor, "ceil": torch.ceil, "round": torch.round, "sign": torch.sign,
        "global_avg_pool": lambda x: F.adaptive_avg_pool2d(x, 1), "flatten": lambda x: x.flatten(1),
    }.items()},
    **dict.fromkeys(("conv", "conv1d"), _conv),
    **dict.fromkeys(("conv_transpose", "conv_transpose1d"), _conv_transpose),
    **dict.fromkeys(("max_pool", "max_pool1d"), _max_pool),
    **dict.fromkeys(("avg_pool", "avg_pool1d"), _avg_pool),
    **dict.fromkeys(("group_norm", "instance_norm"), _group_norm),
    **dict.fromkeys(("parameter", "constant"), lambda info, x, p, n: p["weight"].expand(n, *info.output)),
    **dict.fromkeys(("param_add", "const_add"), lambda info, x, p, n: x[0] + p["weight"]),
    **dict.fromkeys(("param_mul", "const_mul"), lambda info, x, p, n: x[0] * p["weight"]),
    "affine": _affine,
    "batch_norm": _batch_norm,
    "layer_norm": _layer_norm,
    "linear": lambda info, x, p, n: F.linear(x[0], p["weight"], p.get("bias")),
    "matmul": _matmul,
    "detach": lambda info, x, p, n: x[0].detach(),
    "dynamic_conv": _dynamic,
    "dynamic_conv_transpose": _dynamic,
    "lookup": lambda info, x, p, n: torch.stack([table[ids.long()] for ids, table in zip(*x, strict=True)]),
    "embedding": lambda info, x, p, n: F.embedding(x[0].long(), p["weight"]),
    "prelu": lambda info, x, p, n: F.prelu(x[0], p["weight"]),
    "leaky_relu": lambda info, x, p, n: F.leaky_relu(x[0], info.attrs["slope"]),
    "gelu": lambda info, x, p, n: F.gelu(x[0], approximate=info.attrs["approximate"]),
    "elu": lambda info, x, p, n: F.elu(x[0], info.attrs["alpha"]),
    "celu": lambda info, x, p, n: F.celu(x[0], info.attrs["alpha"]),
    "hard_sigmoid": lambda info, x, p, n: (x[0] * info.attrs["alpha"] + info.attrs["beta"]).clamp(0, 1),
    "power": lambda info, x, p, n: x[0].pow(info.attrs["exponent"]),
    "scale_shift": lambda info, x, p, n: x[0] * info.attrs["scale"] + info.attrs["shift"],
    "clip": _clip,
    "add": lambda info, x, p, n: sum(x[1:], x[0]),
    "sub": lambda info, x, p, n: x[0] - x[1],
    "mul": lambda info, x, p, n: x[0] * x[1],
    "div": lambda info, x, p, n: x[0] / x[1],
    "maximum": lambda info, x, p, n: torch.maximum(x[0], x[1]),
    "minimum": lambda info, x, p, n: torch.minimum(x[0], x[1]),
    "mean": _reduction(torch.mean),
    "sum": _reduction(torch.sum),
    "amax": _reduction(torch.amax),
    "amin": _reduction(torch.amin),
    "softmax": _along(torch.softmax),
    "log_softmax": _along(torch.log_softmax),
    "concat": lambda info, x, p, n: torch.cat(list(x), info.attrs["axis"] % len(info.output) + 1),
    "transpose": lambda info, x, p, n: x[0].permute(0, *(i + 1 for i in info.attrs["perm"])),
    "slice": _slice,
    "pad": _pad,
    "gather": _gather,
    "expand": lambda info, x, p, n: x[0].expand(n, *info.output),
    "tile": lambda info, x, p, n: x[0].repeat(1, *info.attrs["repeats"]),
    "upsample": _upsample,
    "resize": _resize,
    "rows": lambda info, x, p, n: x[0][:, :, info.attrs["lo"] : info.attrs["hi"]],
    "join_rows": lambda info, x, p, n: torch.cat(list(x), 2),
    "reshape": lambda info, x, p, n: x[0].reshape(-1, *info.output),
}  # fmt: skip
