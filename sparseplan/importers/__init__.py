"""Networks from outside: JSON specs, ONNX files, PyTorch modules.

Each reader gives a network and, where the file has them, its parameters. ``onnx`` and ``torch`` need
their extras, which are imported only when called.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sparseplan.importers.draft import Imported

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

    return read_onnx(path, shapes=shapes, fixed=fixed, outputs=outputs)


def torch(module: Module, example_input: Any, *, name: str | None = None, batch_axis: int | None = 0) -> Imported:
    """The network of a PyTorch module in eval mode, through ``torch.export``, read for one sample.

    Args:
        module: whose parameters keep their names.
        example_input: a tensor, or a tuple of tensors, with a batch axis; of several samples the first is used.
        batch_axis: where it is (1 for sequences first); None where the example is one sample without such an axis.
        name: of the network (default: the module's class).

    Raises:
        NetworkError: the module cannot be exported, or does what no network can say; names the node, its kind,
            and what would do.
        MissingExtraError: the extra ``sparseplan[torch]`` is not installed.
    """
    from sparseplan.importers.exported import read_module

    return read_module(module, example_input, name=name, batch_axis=batch_axis)


__all__ = ["Imported", "onnx", "torch"]
