"""Running whole networks by their ops' kernels alone: the plainest forward and backward."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sparseplan.network import Network
from sparseplan.ops import infos, op_def


def run_forward(network: Network, parameters: Mapping[str, np.ndarray], *inputs: np.ndarray) -> dict[str, np.ndarray]:
    """Every activation by name."""
    at = dict(zip(network.inputs, inputs, strict=True))
    resolved = infos(network)
    for op in network.ops:
        params = {slot: parameters[p] for slot, p in op.params.items()}
        y = op_def(op.kind).forward(resolved[op.name], [at[t] for t in op.inputs], params)
        at[op.output] = y if op.inputs else np.repeat(y, len(inputs[0]), axis=0)
    return at


def run_backward(
    network: Network, parameters: Mapping[str, np.ndarray], at: Mapping[str, np.ndarray], dy: np.ndarray
) -> dict[str, np.ndarray]:
    """The gradient of every parameter, from that of the one output."""
    resolved = infos(network)
    flowing, gradients = {network.outputs[0]: dy}, {}
    for op in reversed(network.ops):
        definition, info = op_def(op.kind), resolved[op.name]
        dy = flowing.pop(op.output)
        tags = {"y": at[op.output], **{f"x{i}": at[t] for i, t in enumerate(op.inputs)}}
        tags |= {slot: parameters[p] for slot, p in op.params.items()}
        for tag, aux in definition.aux(info).items():
            tags[tag] = definition.make_aux(info, tag, aux.sources[0], tags[aux.sources[0]])
        for slot, p in op.params.items():
            if not definition.updatable(slot):
                continue
            saved = {tag: tags[tag] for tag in definition.needs_for_param(info, slot)[0]}
            gradients[p] = definition.grad_param(info, slot, dy, saved)
        for i, t in enumerate(op.inputs):
            if t in network.inputs or not definition.differentiable(info, i):
                continue
            saved = {tag: tags[tag] for tag in definition.needs_for_input(info, i)[0]}
            dx = definition.grad_input(info, i, dy, saved)
            flowing[t] = flowing[t] + dx if t in flowing else dx
    return gradients
