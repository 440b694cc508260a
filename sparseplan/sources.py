"""Where a network comes from: the zoo, a JSON spec, an ONNX file, a PyTorch module, or an object."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from sparseplan import importers, zoo
from sparseplan.builder import check_parameters, init_parameters
from sparseplan.errors import DataError, NetworkError, near
from sparseplan.fold import fold_affine
from sparseplan.importers.draft import Imported
from sparseplan.importers.spec import read_spec
from sparseplan.network import Network
from sparseplan.objective import position_of
from sparseplan.origin import Origin, weights_sha256
from sparseplan.plan import Plan
from sparseplan.weights import PRETRAINED, Weights, pretrained, read_weights

Source = Network | Imported | str | os.PathLike[str]


def network(source: Source) -> Network:
    """A network from itself, a name of the zoo, a path to a JSON spec or an ONNX file, or ``package.module:function``.

    Raises:
        NetworkError: unknown name (with near matches), unreadable or malformed file.
    """
    if isinstance(source, Network):
        return source
    if isinstance(source, Imported):
        return source.network
    text = os.fspath(source)
    return imported(text).network if _is_onnx(text) or _is_module(text) else _named(text)


def _named(text: str) -> Network:
    if text not in zoo.NETWORKS and (os.sep in text or text.endswith(".json")):
        return read_spec(text)
    return zoo.get(text)


def imported(
    source: Source,
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    fixed: Mapping[str, Any] | None = None,
    outputs: Sequence[str] | None = None,
) -> Imported:
    """A network with what is known of its parameters: those of the file, or the zoo's pretrained ones, or none.

    Args:
        shapes, fixed: see ``importers.onnx``; for ONNX files alone.
        outputs: names of tensors that are the network's outputs, the loss's first; of files and modules from
            outside see ``importers.onnx`` and ``importers.torch``.

    Raises:
        NetworkError: as ``network``; or options that the source does not take.
    """
    text = source if isinstance(source, str) else os.fspath(source) if isinstance(source, os.PathLike) else ""
    if _is_onnx(text):
        return importers.onnx(text, shapes=shapes, fixed=fixed, outputs=outputs)
    for name, value in {"shapes": shapes, "fixed": fixed}.items():
        if value:
            raise NetworkError(f"{name}={value!r} is for ONNX files; network {text or 'given'!r} is none, drop it")
    if _is_module(text):
        from sparseplan.importers.exported import from_reference

        read = from_reference(text, outputs)
        made = Origin(text, weights_sha256(read.weights), outputs=tuple(outputs or ())) if read.weights else None
        return replace(read, origin=made)
    if outputs is not None:
        return with_outputs(source if isinstance(source, Imported) else imported(source), outputs)
    if isinstance(source, Imported):
        return source
    found = network(source)
    if found.name not in PRETRAINED or text not in zoo.NETWORKS:
        return Imported(found, {})
    known = pretrained(found)
    return Imported(found, known, origin=Origin(text, weights_sha256(known)))


def with_outputs(found: Imported, outputs: Sequence[str]) -> Imported:
    """The part of a network that makes some of its tensors, which are its outputs then, the loss's first.

    Raises:
        NetworkError: none is named, or one that no op makes.
    """
    net = found.network
    tensors = list(dict.fromkeys(_output(name, found) for name in outputs))
    for name in tensors:
        if name not in net.producer:
            raise NetworkError(
                f"output {name!r} is no tensor that an op of {net.name!r} makes{near(name, net.producer)}"
            )
    if not tensors:
        raise NetworkError("outputs=[] name none; give at least one")
    wanted, ops = set(tensors), []
    for op in reversed(net.ops):
        if op.output in wanted:
            ops.append(op)
            wanted.update((*op.inputs, *op.params.values()))
    kept = Network(net.name, tuple(t for t in net.tensors if t.name in wanted), tuple(reversed(ops)), tuple(tensors))
    weights = {p: a for p, a in found.weights.items() if p in wanted}
    layouts = {p: axes for p, axes in found.layouts.items() if p in wanted}
    names = {name: t for name, t in found.outputs.items() if t in tensors}
    fixed, origin = tuple(p for p in found.fixed if p in wanted), found.origin
    if origin is not None:
        origin = replace(origin, outputs=tuple(outputs), sha256=weights_sha256(weights))
    return Imported(kept, weights, layouts, found.notes, fixed, origin, names)


def _output(name: str, found: Imported) -> str:
    """A tensor by what the origin calls it, by its own name, or by its position among the outputs."""
    net = found.network
    if name in found.outputs or name in net.tensor:
        return found.outputs.get(name, name)
    at = position_of(name, len(net.outputs))
    return name if at is None else net.outputs[at]


def folded(found: Imported) -> Imported:
    """The same function with batch-norms and affines folded into the layers before them, as networks are deployed.

    Raises:
        NetworkError: its parameters are not known.
    """
    if not found.weights:
        raise NetworkError(f"network {found.network.name!r} comes without parameters, which folding changes")
    net, weights = fold_affine(found.network, found.weights)
    gone = len(found.network.ops) - len(net.ops)
    notes = (*found.notes, f"{gone} norms are folded into the layers before them")
    layouts = {p: axes for p, axes in found.layouts.items() if p in weights}
    kept = tuple(p for p in found.fixed if p in weights)
    made = {p: a.astype(np.float32) for p, a in weights.items()}
    origin = None if found.origin is None else replace(found.origin, fold=True, sha256=weights_sha256(made))
    return Imported(net, made, layouts, notes, kept, origin, found.outputs)


def plan_weights(plan: Plan, given: str | os.PathLike[str] | None = None, seed: int = 0) -> tuple[Weights, str]:
    """The weights that a plan is for, and where they come from, in words.

    Args:
        given: an npz or ONNX file or ``package.module:function`` to take them from instead; ``"random"`` draws
            them from ``seed``.

    Raises:
        DataError: the plan does not say where they are, they are there no longer or are others by now, or do not
            fit the network. Code that a plan file names is never run for it.
    """
    net, origin = plan.problem.network, plan.problem.origin
    todo = f"give weights=FILE (an npz of the parameters of network {net.name!r}, or what it was imported from)"
    if given is not None and os.fspath(given) == "random":
        return init_parameters(net, seed), f"drawn from seed {seed}, as asked"
    if given is not None:
        text = os.fspath(given)
        if not _is_onnx(text) and not _is_module(text):
            return read_weights(text, net), text
        taken = replace(origin, source=text) if origin is not None else Origin(text, "0" * 64)
        return _fitting(net, _read(taken), text), text
    if origin is None:
        if net.name in PRETRAINED and net == zoo.get(net.name):
            return pretrained(net), "the zoo's"
        raise DataError(f"the plan names no weights; {todo}, or weights=random for drawn ones")
    if not origin.source:
        raise DataError(f"the plan's weights are those of {origin.taken_from or 'a network in memory'}; {todo}")
    what = f"the plan's weights {origin.source!r}"
    if origin.is_module:
        raise DataError(f"{what} are made by code, which is not run because a plan file names it; {todo}, or "
                        f"weights={origin.source} to run it")  # fmt: skip
    if origin.is_file and not os.path.exists(origin.source):
        was = f" (taken from {origin.taken_from})" if origin.taken_from else ""
        raise DataError(f"{what}{was} are not there: moved or deleted? {todo}")
    found = dict(_read(origin) if not origin.source.endswith(".npz") else read_weights(origin.source, net))
    sha256 = weights_sha256(found)
    if sha256 != origin.sha256:
        raise DataError(f"{what} are others than when it was made (sha256 {sha256[:12]}…, then {origin.sha256[:12]}…): "
                        f"plan anew, or {todo}")  # fmt: skip
    return _fitting(net, found, origin.source), "the zoo's" if not origin.is_file else origin.source


def _read(origin: Origin) -> Mapping[str, Any]:
    """The weights of an ONNX file, a module or a network of the zoo, read as they were for the plan."""
    onnx = _is_onnx(origin.source)
    read = imported(origin.source, shapes=origin.shapes if onnx else None, fixed=origin.fixed if onnx else None,
                    outputs=origin.outputs or None)  # fmt: skip
    return (folded(read) if origin.fold else read).weights


def _fitting(net: Network, weights: Mapping[str, Any], what: str) -> Weights:
    try:
        check_parameters(net, weights)
    except DataError as error:
        raise DataError(f"weights {what!r}: {error}; are they of the network that the plan is for?") from None
    return {p: np.ascontiguousarray(weights[p], np.float32) for p in net.parameters}


def _is_onnx(text: str) -> bool:
    return text.endswith(".onnx")


def _is_module(text: str) -> bool:
    """``package.module:function``: dotted names on both sides of one colon."""
    module, colon, function = text.partition(":")
    return bool(colon) and all(part.isidentifier() for part in (*module.split("."), *function.split(".")))
