"""Networks from outside: JSON specs, ONNX files, PyTorch modules.

Each reader gives a network and, where the file has them, its parameters. ``onnx`` and ``torch`` need
their extras, which are imported only when called.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from sparseplan.importers.draft import Imported
from sparseplan.origin import Origin, weights_sha256

if TYPE_CHECKING:
    from torch.nn import Module


def onnx(
    path: str | os.PathLike[str],
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    fixed: Mapping[str, Any] | None = None,
    outputs: Sequence[str] | None = None,
) -> Imported:
    """The network of an ONNX file (opset 11 or later), read for one sample.

    Args:
        path: of the model; external data are read from its folder alone.
        shapes: input name to its shape, batch axis included, for inputs whose extents the file leaves open
            (an open leading axis is the batch, and taken as 1).
        fixed: input name to the number or array that it always is (a sampling rate that switches branches, say);
            it is an input no longer.
        outputs: names of tensors that are the network's outputs, the loss's first (default: the graph's).

    Raises:
        NetworkError: the file cannot be read, is no such model, or holds what no network can say; names the
            node, its kind, and what would do.
        MissingExtraError: the extra ``sparseplan[onnx]`` is not installed.
    """
    from sparseplan.importers.onnxfile import read_onnx

    found = read_onnx(path, shapes=shapes, fixed=fixed, outputs=outputs)
    if not found.weights or not all(np.ndim(v) == 0 for v in (fixed or {}).values()):
        return found  # inputs fixed to whole arrays cannot be written down
    origin = Origin(
        os.fspath(path), weights_sha256(found.weights), {k: tuple(v) for k, v in (shapes or {}).items()},
        {k: float(v) for k, v in (fixed or {}).items()}, tuple(outputs or ()),
    )  # fmt: skip
    return replace(found, origin=origin)


def torch(
    module: Module,
    example_input: Any,
    *,
    name: str | None = None,
    batch_axis: int | None = 0,
    outputs: Sequence[str] | None = None,
) -> Imported:
    """The network of a PyTorch module in eval mode, through ``torch.export``, read for one sample.

    Args:
        module: whose parameters keep their names.
        example_input: a tensor, or a tuple of tensors, with a batch axis; of several samples the first is used.
        batch_axis: where it is (1 for sequences first); None where the example is one sample without such an axis.
        name: of the network (default: the module's class).
        outputs: names of the network's outputs, the loss's first, by key, position or field of what the module
            returns ("logits", "heads.0", "1"), or any tensor of the network (default: all that it returns).

    Raises:
        NetworkError: the module cannot be exported, or does what no network can say; names the node, its kind,
            and what would do.
        MissingExtraError: the extra ``sparseplan[torch]`` is not installed.
    """
    from sparseplan.importers.exported import read_module

    found = read_module(module, example_input, name=name, batch_axis=batch_axis, outputs=outputs)
    if not found.weights:
        return found
    made = Origin("", weights_sha256(found.weights), taken_from=f"the module {found.network.name!r} in memory")
    return replace(found, origin=made)


__all__ = ["Imported", "onnx", "torch"]
