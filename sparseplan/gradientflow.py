"""Where the gradient of the loss stops, and which parameters lie behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sparseplan.network import Network
from sparseplan.ops import OpInfo, infos, op_def
from sparseplan.steps import leading_to, reached_by_gradient, updatable


@dataclass(frozen=True, slots=True)
class Stop:
    """An op that lets no gradient pass.

    Attributes:
        op, kind: its name and kind (of an op known by its shapes alone, the kind of its node).
        reason: why, and what would be needed.
        parameters: those that cannot be updated and whose effect on the loss goes through it, in the network's order.
    """

    op: str
    kind: str
    reason: str
    parameters: tuple[str, ...]


def stops(network: Network, outputs: Sequence[str] | None = None) -> tuple[Stop, ...]:
    """Every op that lets no gradient pass to parameters which then cannot be updated, the nearest to the loss first.

    A parameter is behind each such op on a way from it to the loss's output. Ops that matter not to that output,
    and parameters that have another way, are left out. ``outputs``: that losses are on (default: the first).
    """
    table = infos(network)
    reached = reached_by_gradient(network, table, outputs)
    before = _upstream(network)
    lost = {p for p in network.parameters if not updatable(network, reached, p)}
    found: list[Stop] = []
    if not lost:
        return ()
    for op in leading_to(network, outputs):
        d = op_def(op.kind)
        shut = [t for i, t in enumerate(op.inputs) if not d.differentiable(table[op.name], i)]
        behind = 0
        for t in shut:
            behind |= before[t]
        named = tuple(p for i, p in enumerate(network.parameters) if behind >> i & 1 and p in lost)
        if named:
            found.append(Stop(op.name, kind_of(table[op.name]), d.obstacle(table[op.name]), named))
    return tuple(found)


def without_gradient(network: Network) -> Mapping[str, str]:
    """Parameters that no op which reads them has a gradient for (running statistics, say), each with such an op."""
    found = {}
    for p in network.parameters:
        for op, slot in network.users[p]:
            if not op_def(op.kind).updatable(slot):
                found[p] = op.name
                break
    return found


def without_way(network: Network, outputs: Sequence[str] | None = None) -> tuple[str, ...]:
    """Parameters that the loss's output (``outputs``: the losses') does not depend on at all."""
    names = {op.name for op in leading_to(network, outputs)}
    return tuple(p for p in network.parameters if not any(op.name in names for op, _ in network.users[p]))


def kind_of(info: OpInfo) -> str:
    """What an op is called: its kind, or that of the node which it is known by the shapes of."""
    return str(info.attrs["type"]) if info.kind == "opaque" else info.kind


def _upstream(network: Network) -> dict[str, int]:
    """For each tensor, the parameters that it was computed from, as bits in the network's order."""
    bit = {p: 1 << i for i, p in enumerate(network.parameters)}
    found = dict.fromkeys(network.tensor, 0)
    for op in network.ops:
        for part in (*(bit[p] for p in op.params.values()), *(found[t] for t in op.inputs)):
            found[op.output] |= part
    return found
