"""Kernels of convolutions, linear layers, pools and upsampling; sequences are images of one row."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from sparseplan.exporters.c.calls import Call
from sparseplan.exporters.c.context import Context, lowers, lowers_aux
from sparseplan.exporters.c.pointwise import channel_sum
from sparseplan.exporters.c.views import Image, View, Views
from sparseplan.ops.base import Shape


def _image(shape: Shape) -> tuple[int, int, int]:
    """A sequence or an image as (channels, rows, columns)."""
    return (shape[0], 1, shape[1]) if len(shape) == 2 else (shape[0], shape[1], shape[2])


@dataclass(frozen=True)
class _Window:
    """An op's window as one over images, and the images on both sides of it."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    x: tuple[int, int, int]
    y: tuple[int, int, int]

    @property
    def in_rows(self) -> Image:
        return self.x[1:]

    @property
    def out_rows(self) -> Image:
        return self.y[1:]


def _window(c: Context) -> _Window:
    attrs = c.attrs
    x, y = _image(c.info.inputs[0]), _image(c.info.output)

    def pair(name: str) -> tuple[int, int]:
        value: Any = attrs.get(name, 1)
        return (1, value) if isinstance(value, int) else (value[0], value[1])

    pad = attrs["padding"]
    top, left = (0, pad[0]) if len(pad) == 2 else (pad[0], pad[1])
    return _Window(pair("kernel"), pair("stride"), (top, left), pair("dilation"), x, y)


# -- convolutions --------------------------------------------------------------------------------------
_CONV, _TRANSPOSED = ("conv", "conv1d"), ("conv_transpose", "conv_transpose1d", "dynamic_conv_transpose")
_DYNAMIC = ("dynamic_conv", "dynamic_conv_transpose")  # the weight is input 1


def _conv_ints(c: Context, w: _Window) -> tuple[int, ...]:
    wide, deep = (w.y, w.x) if c.info.kind in _TRANSPOSED else (w.x, w.y)
    return (*w.kernel, *w.stride, *w.padding, *w.dilation, c.attrs["groups"], *wide, *deep)


@lowers("forward", *_CONV, *_TRANSPOSED, *_DYNAMIC)
def _conv(c: Context) -> Call:
    w = _window(c)
    name = "sp_conv_transpose" if c.info.kind in _TRANSPOSED else "sp_conv"
    x, *weight = c.step.reads[: len(c.info.inputs)]
    reads = (c.places.read(x, w.in_rows), *map(c.places.read, weight), *c.params("weight", "bias"))
    return Call(name, reads, c.y(w.out_rows), _conv_ints(c, w))


@lowers("grad_input", *_CONV, *_TRANSPOSED, *_DYNAMIC)
def _conv_grad(c: Context) -> Call:
    w = _window(c)
    name = "sp_conv_transpose_grad" if c.info.kind in _TRANSPOSED else "sp_conv_grad"
    if c.slot == 1:
        return _weight_grad(c, w, c.info.inputs[1], c.dx())
    weight = c.read("x1" if c.info.kind in _DYNAMIC else "weight")
    return Call(name, (c.read("dy", w.out_rows), weight), c.dx(w.in_rows), _conv_ints(c, w))


@lowers("grad_param", *_CONV, *_TRANSPOSED, *_DYNAMIC)
def _conv_param(c: Context) -> Call:
    w = _window(c)
    if c.step.target == "bias":
        return channel_sum(c, 1, w.y[0], math.prod(w.y[1:]))
    return _weight_grad(c, w, c.dp_shape(), c.dp())


def _weight_grad(c: Context, w: _Window, shape: Shape, made: Views) -> Call:
    name = "sp_conv_transpose_grad_weight" if c.info.kind in _TRANSPOSED else "sp_conv_grad_weight"
    reads = (c.read("dy", w.out_rows), c.read("x0", w.in_rows))
    return Call(name, reads, made, (*_conv_ints(c, w), shape[0], shape[1]))


# -- linear layers ---------------------------------------------------------------------------------------
def _linear_ints(c: Context) -> tuple[int, ...]:
    shape = c.info.inputs[0]
    return math.prod(shape[:-1]), shape[-1], c.info.output[-1]


@lowers("forward", "linear")
def _linear(c: Context) -> Call:
    return Call("sp_linear", (*c.inputs(), *c.params("weight", "bias")), c.y(), _linear_ints(c))


@lowers("grad_input", "linear")
def _linear_grad(c: Context) -> Call:
    return Call("sp_linear_grad", (c.read("dy"), c.read("weight")), c.dx(), _linear_ints(c))


@lowers("grad_param", "linear")
def _linear_param(c: Context) -> Call:
    rows, _, outs = _linear_ints(c)
    if c.step.target == "bias":
        return channel_sum(c, rows, outs, 1)
    x = c.read("x0")
    return Call("sp_linear_grad_weight", (c.read("dy"), x), c.dp(),
                (*_linear_ints(c), c.dp_shape()[1], x.count // rows))  # fmt: skip


# -- pools -------------------------------------------------------------------------------------------------
_MAX, _AVG = ("max_pool", "max_pool1d"), ("avg_pool", "avg_pool1d")


def _pool_ints(c: Context, w: _Window) -> tuple[int, ...]:
    return (*w.kernel, *w.stride, *w.padding, *w.x, *w.out_rows, int(c.attrs.get("count_include_pad", True)))


@lowers("forward", *_MAX, *_AVG)
def _pool(c: Context) -> Call:
    w = _window(c)
    name = "sp_max_pool" if c.info.kind in _MAX else "sp_avg_pool"
    return Call(name, c.inputs(), c.y(), _pool_ints(c, w))


@lowers_aux(*_MAX)
def _pool_index(c: Context, tag: str, x: Views, index: View) -> Call:
    w = _window(c)
    return Call("sp_max_pool_index", x, (index,), _pool_ints(c, w))


@lowers("grad_input", *_MAX, *_AVG)
def _pool_grad(c: Context) -> Call:
    w = _window(c)
    if c.info.kind in _AVG:
        return Call("sp_avg_pool_grad", (c.read("dy"),), c.dx(), _pool_ints(c, w))
    if c.has("index"):
        return Call("sp_max_pool_grad_index", (c.read("dy"), c.read("index")), c.dx(), _pool_ints(c, w))
    return Call("sp_max_pool_grad_input", (c.read("dy"), c.read("x0")), c.dx(), _pool_ints(c, w))


@lowers("forward", "global_avg_pool")
def _mean_of_channels(c: Context) -> Call:
    shape = c.info.inputs[0]
    return Call("sp_global_avg_pool", c.inputs(), c.y(), (shape[0], math.prod(shape[1:])))


@lowers("grad_input", "global_avg_pool")
def _mean_of_channels_grad(c: Context) -> Call:
    shape = c.info.inputs[0]
    return Call("sp_global_avg_pool_grad", (c.read("dy"),), c.dx(), (shape[0], math.prod(shape[1:])))


# -- upsampling --------------------------------------------------------------------------------------------
def _upsample_ints(c: Context) -> tuple[int, ...]:
    return (*c.attrs["scale"], c.attrs["crop"][0], *c.info.inputs[0][1:], *c.info.output[1:])


@lowers("forward", "upsample")
def _upsample(c: Context) -> Call:
    return Call(f"sp_{c.attrs['mode']}", c.inputs(), c.y(), _upsample_ints(c))


@lowers("grad_input", "upsample")
def _upsample_grad(c: Context) -> Call:
    return Call(f"sp_{c.attrs['mode']}_grad", (c.read("dy"),), c.dx(), _upsample_ints(c))
