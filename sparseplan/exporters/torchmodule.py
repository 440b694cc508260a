"""A PyTorch module that computes a network, with parameters of the same names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from sparseplan.builder import check_parameters
from sparseplan.errors import ExportError
from sparseplan.exporters.torchops import KERNELS
from sparseplan.network import Network
from sparseplan.ops import infos, op_def


class NetworkModule(torch.nn.Module):
    """Runs a network op by op; called with its inputs in their order, each ``(batch, *shape)``.

    Returns the network's output, or a tuple of them. Parameters are in modules by the dots of their names;
    statistics and constants, which are never updated, are buffers.
    """

    def __init__(self, network: Network, weights: Mapping[str, Any]) -> None:
        super().__init__()
        check_parameters(network, weights)
        self._network, self._infos = network, infos(network)
        for op in network.ops:
            if op.kind not in KERNELS:
                raise ExportError(f"op {op.name!r}: {op.kind} cannot be computed by PyTorch here")
        for name in network.parameters:
            array = torch.from_numpy(np.array(weights[name], np.float32))
            fixed = not all(op_def(op.kind).updatable(slot) for op, slot in network.users[name])
            try:
                self._register(name, array, fixed)
            except (KeyError, AttributeError) as error:
                raise ExportError(
                    f"parameter {name!r} cannot be an attribute of a module ({error}); rename it"
                ) from None

    def _register(self, name: str, array: torch.Tensor, fixed: bool) -> None:
        *path, last = name.split(".")
        place: torch.nn.Module = self
        for part in path:
            if not isinstance(getattr(place, part, None), torch.nn.Module):
                place.add_module(part, torch.nn.Module())
            place = getattr(place, part)
        if fixed:
            place.register_buffer(last, array)
        else:
            place.register_parameter(last, torch.nn.Parameter(array))

    def forward(self, *inputs: Any) -> Any:
        """The network's outputs."""
        if len(inputs) != len(self._network.inputs):
            raise ExportError(f"{len(inputs)} inputs given, the network takes {list(self._network.inputs)}")
        own = {**dict(self.named_parameters(remove_duplicate=False)), **dict(self.named_buffers())}
        values = dict(zip(self._network.inputs, inputs, strict=True))
        batch = len(inputs[0]) if inputs else 1
        for op in self._network.ops:
            x = [values[t] for t in op.inputs]
            params = {slot: own[p] for slot, p in op.params.items()}
            values[op.output] = KERNELS[op.kind](self._infos[op.name], x, params, batch)
        found = tuple(values[t] for t in self._network.outputs)
        return found[0] if len(found) == 1 else found
