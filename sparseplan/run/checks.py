"""Checks of arrays from outside: parameters, inputs, targets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from sparseplan.builder import check_parameters
from sparseplan.errors import DataError, OpError, near
from sparseplan.network import Network
from sparseplan.ops import loss_def
from sparseplan.ops.attrs import integer
from sparseplan.ops.base import Array
from sparseplan.run.numerics import rounded
from sparseplan.steps import TrainingOptions

#: an array for a network of one input, or one for each input by name
Inputs = Array | Mapping[str, Array]


def as_float(array: Any, what: str) -> Array:
    """``array`` as float32 (uncopied where it is); raises DataError where it is not numeric."""
    found = np.asarray(array)
    if found.dtype.kind not in "fiub" and found.dtype.name != "bfloat16":
        raise DataError(f"{what} has dtype={found.dtype}; give numbers")
    return found.astype(np.float32, copy=False)


def check_inputs(network: Network, x: Inputs) -> dict[str, Array]:
    """Every input of the network, ``(samples, *shape)``, with one number of samples, at least 1.

    float32, or int32 for inputs of dtype ``i32``.

    Raises:
        DataError: a network without inputs; an input that is missing, unknown, of the wrong shape, not finite,
            or of numbers that the ops which read it do not know.
    """
    if not network.inputs:
        raise DataError(f"network {network.name!r} has no inputs, so nothing tells how many samples to compute")
    if isinstance(x, Mapping):
        given = dict(x)
    elif len(network.inputs) == 1:
        given = {network.inputs[0]: x}
    else:
        raise DataError(f"network {network.name!r} has inputs {list(network.inputs)}; give a mapping by name")
    for name in given:
        if name not in network.inputs:
            raise DataError(f"input {name!r} is unknown to network {network.name!r}{near(str(name), network.inputs)}")
    result = {}
    for name in network.inputs:
        if name not in given:
            raise DataError(f"input {name!r} of network {network.name!r} is missing")
        whole = network.tensor[name].dtype == "i32"
        array = np.asarray(given[name]) if whole else as_float(given[name], f"input {name!r}")
        shape = network.tensor[name].shape
        if array.shape[1:] != shape or array.ndim != len(shape) + 1 or not len(array):
            raise DataError(f"input {name!r} has shape {array.shape}, expected (samples, {str(shape)[1:]}")
        if whole:
            array = _as_ids(network, name, array)
        elif not np.isfinite(array).all():
            raise DataError(f"input {name!r} holds NaN or infinity; every input must be finite")
        result[name] = array
    same_length({f"input {name!r}": a for name, a in result.items()}.items())
    return result


def _as_ids(network: Network, name: str, array: Array) -> Array:
    """``array`` as int32 ids that every op which reads input ``name`` has a row for; raises DataError."""
    if array.dtype.kind not in "iu":
        raise DataError(f"input {name!r} has dtype={array.dtype}; give integers")
    count, op = ids_of(network, name)
    wrong = (array < 0) | (array >= count)
    if wrong.any():
        at = tuple(int(i) for i in np.argwhere(wrong)[0])
        known = f"op {op!r} has rows 0 to {count - 1} (num={count})" if op else "ids have 32 bits and are not negative"
        raise DataError(f"input {name!r} holds id {array[at]} at {at}, but {known}")
    return array.astype(np.int32, copy=False)


def ids_of(network: Network, name: str) -> tuple[int, str]:
    """One more than the largest id that an ``i32`` input may hold, and the op that says so (or nothing)."""
    known = [(integer("num", op.attrs.get("num")), op.name) for op in network.consumers[name] if op.kind == "embedding"]
    known += [(network.tensor[op.inputs[1]].shape[0], op.name) for op in network.consumers[name] if op.kind == "lookup"]
    return min(known, default=(2**31, ""))


def check_target(network: Network, target: Any, loss: str) -> Array:
    """The target of a loss on the network's first output: float32 (NaN: no label) or int32 classes.

    Raises:
        DataError: a wrong shape, infinity, or labels that are no integers.
        OpError: the loss cannot judge such an output.
    """
    output = network.tensor[network.outputs[0]].shape
    try:
        shape, dtype = loss_def(loss).target(output)
    except OpError as error:
        raise OpError(f"network {network.name!r}: output {network.outputs[0]!r}: {error}") from None
    found = np.asarray(target)
    if found.shape[1:] != shape or found.ndim != len(shape) + 1:
        raise DataError(f"target has shape {found.shape}, expected {('samples', *shape)} by loss {loss!r}")
    if dtype == "i32":
        if found.dtype.kind not in "iu":
            raise DataError(f"target has dtype={found.dtype}; loss {loss!r} takes integer classes")
        if found.size and not -(2**31) <= int(found.min()) <= int(found.max()) < 2**31:
            raise DataError(f"target classes from {found.min()} to {found.max()} do not fit 32 bits")
        return found.astype(np.int32, copy=False)
    array = as_float(found, "target")
    if np.isinf(array).any():
        raise DataError("target holds infinity; give finite labels, NaN where there is none")
    return array


def same_length(arrays: Iterable[tuple[str, Array]]) -> int:
    """The one number of samples of named arrays; raises DataError where they differ."""
    lengths = {name: len(a) for name, a in arrays}
    if len(set(lengths.values())) > 1:
        raise DataError(f"numbers of samples differ: {', '.join(f'{n} {k}' for n, k in lengths.items())}")
    return next(iter(lengths.values()))


def stored_parameters(network: Network, params: Mapping[str, Array], options: TrainingOptions) -> dict[str, Array]:
    """Checked parameters as they come back from the types in which they are stored (uncopied in fp32)."""
    check_parameters(network, params)
    result = {}
    for name in network.parameters:
        t = network.tensor[name]
        array = as_float(params[name], f"parameter {name!r}")
        result[name] = rounded(array, t.dtype or options.dtype, t.scale)
    return result
