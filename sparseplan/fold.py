"""Folding frozen batch-norms into the layers before them, as deployed networks have it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from sparseplan.builder import FloatArray, check_parameters
from sparseplan.errors import DataError
from sparseplan.network import Network, Op, Tensor
from sparseplan.ops.base import Array, resolve

_FOLDABLE = ("conv", "conv_transpose", "conv1d", "conv_transpose1d", "linear")
_FOLDED = ("affine", "batch_norm")


def batchnorm_affine(
    gamma: npt.ArrayLike, beta: npt.ArrayLike, mean: npt.ArrayLike, var: npt.ArrayLike, eps: float = 1e-5
) -> tuple[FloatArray, FloatArray]:
    """Weight and bias of the affine that a batch-norm is once its statistics are frozen.

    All arrays are ``(channels,)``: ``y = gamma * (x - mean) / sqrt(var + eps) + beta``.

    Raises:
        DataError: shapes differ, or ``var + eps`` is not positive.
    """
    given = {"gamma": gamma, "beta": beta, "mean": mean, "var": var}
    arrays = {name: np.asarray(value, np.float64) for name, value in given.items()}
    for name, array in arrays.items():
        if array.ndim != 1 or array.shape != arrays["gamma"].shape:
            raise DataError(
                f"batch-norm {name} has shape {array.shape}, gamma {arrays['gamma'].shape}; give one a channel"
            )
    spread = arrays["var"] + eps
    if not (spread > 0).all():
        at = int(np.flatnonzero(~(spread > 0))[0])
        raise DataError(f"batch-norm var[{at}]={arrays['var'][at]} with eps={eps} is not positive")
    weight = arrays["gamma"] / np.sqrt(spread)
    bias = arrays["beta"] - arrays["mean"] * weight
    return weight.astype(np.float32), bias.astype(np.float32)


def fold_affine(network: Network, parameters: Mapping[str, Array]) -> tuple[Network, dict[str, Array]]:
    """The same function with fewer ops: affines and batch-norms folded into what comes before.

    An affine (or batch-norm, which is one) goes into the convolution, transposed convolution (of
    images or sequences) or linear layer (of one axis) that makes its input, if nothing else reads
    that, it is no output of the network, and no other op uses a parameter of either. The layer
    keeps its name and its parameters' names, makes the affine's output, and gains a bias where it
    had none and needs one (``<op>.bias``, or the first free name after it). Products are taken in
    float64 and stored in the dtype of the layer's weight.

    Raises:
        DataError: ``parameters`` are not the network's, or a variance is not positive.
    """
    check_parameters(network, parameters)
    arrays = {name: np.asarray(parameters[name]) for name in network.parameters}
    while (found := _next(network)) is not None:
        network, arrays = _fold(network, arrays, *found)
    return network, arrays


def _next(network: Network) -> tuple[Op, Op] | None:
    """The first foldable affine, with the layer that takes it."""
    for affine in network.ops:
        if affine.kind not in _FOLDED:
            continue
        source = affine.inputs[0]
        layer = network.producer.get(source)
        if (
            layer is not None
            and layer.kind in _FOLDABLE
            and source not in network.outputs
            and len(network.consumers[source]) == 1
            # what other ops use as well must stay as it is
            and all(len(network.users[p]) == 1 for p in (*layer.params.values(), *affine.params.values()))
            # a linear layer's features are the affine's channels only where they are axis 0
            and (layer.kind != "linear" or len(network.tensor[source].shape) == 1)
        ):
            return layer, affine
    return None


def _fold(network: Network, arrays: dict[str, Array], layer: Op, affine: Op) -> tuple[Network, dict[str, Array]]:
    info = resolve(network, layer)
    scale, offset = _as_affine(network, affine, arrays)
    weight = arrays[layer.params["weight"]]
    wide = weight.astype(np.float64)
    if layer.kind.startswith("conv_transpose"):
        groups = info.attrs["groups"]
        wide = wide.reshape(groups, -1, *wide.shape[1:]) * scale.reshape(groups, 1, -1, *(1,) * (wide.ndim - 2))
    else:
        wide = wide * scale.reshape(-1, *(1,) * (wide.ndim - 1))
    folded = dict(arrays)
    folded[layer.params["weight"]] = wide.reshape(weight.shape).astype(weight.dtype)
    params = dict(layer.params)
    tensors = {t.name: t for t in network.tensors}
    for name in (*affine.params.values(), layer.output):
        del tensors[name]
    if "bias" in layer.params or offset is not None:
        bias = np.zeros_like(scale)
        if "bias" in layer.params:
            bias += arrays[layer.params["bias"]] * scale
        if offset is not None:
            bias += offset
        if "bias" not in params:
            params["bias"] = _free(f"{layer.name}.bias", tensors)
            tensors[params["bias"]] = Tensor(params["bias"], scale.shape, "parameter")
        folded[params["bias"]] = bias.astype(weight.dtype)
    ops = [
        replace(op, output=affine.output, params=params) if op.name == layer.name else op
        for op in network.ops
        if op.name != affine.name
    ]
    made = replace(network, tensors=tuple(tensors.values()), ops=tuple(ops))
    return made, {name: folded[name] for name in made.parameters}


def _as_affine(network: Network, op: Op, arrays: Mapping[str, Array]) -> tuple[Array, Array | None]:
    """Factor and offset of each channel that an affine or a batch-norm applies, in float64."""
    given = {slot: arrays[p].astype(np.float64) for slot, p in op.params.items()}
    if op.kind == "affine":
        return given["weight"], given.get("bias")
    spread = given["var"] + resolve(network, op).attrs["eps"]
    if not (spread > 0).all():
        at = int(np.flatnonzero(~(spread > 0))[0])
        raise DataError(f"op {op.name!r}: var[{at}]={given['var'][at]} plus eps is not positive")
    scale = given.get("weight", 1.0) / np.sqrt(spread)
    return scale, given.get("bias", 0.0) - given["mean"] * scale


def _free(name: str, taken: Mapping[str, Tensor]) -> str:
    n = 1
    free = name
    while free in taken:
        n += 1
        free = f"{name}{n}"
    return free
