"""Checks of arrays from outside: parameters, inputs, targets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from sparseplan.builder import check_parameters
from sparseplan.errors import DataError, ProblemError, near
from sparseplan.network import Network
from sparseplan.objective import Loss, target_of
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
    return _judged(network, target, Loss(network.outputs[0], loss), "target")


def check_targets(network: Network, target: Any, options: TrainingOptions) -> dict[str, Array]:
    """The targets of all losses, by the names of the values that hold them: of one loss, or a mapping by labels.

    Labels are outputs, or ``output=kind`` where an output has several losses.

    Raises:
        DataError, OpError: as ``check_target``; names the loss.
    """
    steps = options.loss_steps(network)
    if not options.losses:
        if isinstance(target, Mapping):
            raise DataError(f"target is a mapping of {list(target)[:8]}, but the plan has one loss: give its array")
        return {steps[0].target: check_target(network, target, options.loss)}
    labels = [s.label for s in steps]
    if not isinstance(target, Mapping):
        if len(steps) > 1:
            raise DataError(f"the plan has losses on {labels}; give target as a mapping from these to arrays")
        target = {labels[0]: target}
    for name in target:
        if name not in labels:
            raise DataError(f"target {name!r} is of no loss of the plan{near(str(name), labels)}; it has {labels}")
    for name in labels:
        if name not in target:
            raise DataError(f"target {name!r} is missing; the plan has losses on {labels}")
    found = {s.target: _judged(network, target[s.label], s.loss, f"target {s.label!r}") for s in steps}
    same_length({f"target {s.label!r}": found[s.target] for s in steps}.items())
    return found


def check_one_loss(options: TrainingOptions, what: str) -> None:
    """Raise ProblemError where losses are given by outputs: ``what`` knows one target, of the first output."""
    if options.losses:
        given = ", ".join(map(str, options.losses))
        raise ProblemError(
            f"loss={given}: {what} takes one target, for a loss on the first output; plan with --output NAME "
            "(outputs=) and a plain --loss KIND"
        )


def _judged(network: Network, target: Any, loss: Loss, what: str) -> Array:
    shape, dtype = target_of(loss, network)
    found = np.asarray(target)
    if found.shape[1:] != shape or found.ndim != len(shape) + 1:
        raise DataError(f"{what} has shape {found.shape}, expected {('samples', *shape)} by loss {loss.kind!r}")
    if dtype == "i32":
        if found.dtype.kind not in "iu":
            raise DataError(f"{what} has dtype={found.dtype}; loss {loss.kind!r} takes integer classes")
        if found.size and not -(2**31) <= int(found.min()) <= int(found.max()) < 2**31:
            raise DataError(f"{what} classes from {found.min()} to {found.max()} do not fit 32 bits")
        return found.astype(np.int32, copy=False)
    array = as_float(found, what)
    if np.isinf(array).any():
        raise DataError(f"{what} holds infinity; give finite labels, NaN where there is none")
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
