"""Where a network comes from: the zoo, a JSON spec, an ONNX file, a PyTorch module, or an object."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sparseplan import importers, zoo
from sparseplan.errors import NetworkError
from sparseplan.fold import fold_affine
from sparseplan.importers.draft import Imported
from sparseplan.importers.spec import read_spec
from sparseplan.network import Network
from sparseplan.weights import PRETRAINED, pretrained

Source = Network | Imported | str | os.PathLike[str]


def network(source: Source) -> Network:
    """A network from itself, a name of the zoo, a path to a JSON spec or an ONNX file, or ``package.module:function``.

    Raises:
        NetworkError: unknown name (with near matches), unreadable or malformed file.
    """
    return network_and_fixed(source)[0]


def network_and_fixed(source: Source) -> tuple[Network, tuple[str, ...]]:
    """A network as ``network`` finds it, and its parameters that are constants of its origin, never updated."""
    if isinstance(source, Network):
        return source, ()
    if isinstance(source, Imported):
        return source.network, source.fixed
    text = os.fspath(source)
    if _is_onnx(text) or _is_module(text):
        found = imported(text)
        return found.network, found.fixed
    return _named(text), ()


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
        shapes, fixed, outputs: see ``importers.onnx``; for ONNX files alone.

    Raises:
        NetworkError: as ``network``; or options that the source does not take.
    """
    text = source if isinstance(source, str) else os.fspath(source) if isinstance(source, os.PathLike) else ""
    if _is_onnx(text):
        return importers.onnx(text, shapes=shapes, fixed=fixed, outputs=outputs)
    given = {"shapes": shapes, "fixed": fixed, "outputs": outputs}
    for name, value in given.items():
        if value:
            raise NetworkError(f"{name}={value!r} is for ONNX files; network {text or 'given'!r} is none, drop it")
    if isinstance(source, Imported):
        return source
    if _is_module(text):
        from sparseplan.importers.exported import from_reference

        return from_reference(text)
    found = network(source)
    known = pretrained(found) if found.name in PRETRAINED and text in zoo.NETWORKS else {}
    return Imported(found, known)


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
    return Imported(net, {p: a.astype(np.float32) for p, a in weights.items()}, layouts, notes, kept)


def _is_onnx(text: str) -> bool:
    return text.endswith(".onnx")


def _is_module(text: str) -> bool:
    """``package.module:function``: dotted names on both sides of one colon."""
    module, colon, function = text.partition(":")
    return bool(colon) and all(part.isidentifier() for part in (*module.split("."), *function.split(".")))
