"""What a network costs, op by op, before anything is planned."""

from __future__ import annotations

import math
from typing import Any

from sparseplan.dtypes import bytes_of, check_dtype
from sparseplan.network import Network, Op
from sparseplan.ops import OpInfo, infos, op_def


def uncounted(network: Network) -> list[str]:
    """Ops of unknown cost, each with what it is: their MACs count as none, and they never run again."""
    found = [op for op in network.ops if op.kind == "opaque" and op.attrs.get("macs") is None]
    return [f"{op.name} ({op.attrs['type']})" for op in found]


def inspect_rows(network: Network, dtype: str = "bf16", batch: int = 1) -> list[dict[str, Any]]:
    """A row an op: shapes, parameters, MACs of each pass, bytes of activation, weight, gradient, saved.

    ``saved_bytes``: what the op's backward reads, besides gradients and parameters, when all of it
    is updated; a tensor that several ops need is counted where it is needed first.
    """
    check_dtype(dtype)
    table = infos(network)
    counted: set[str] = set()
    rows = []
    for op in network.ops:
        info, d = table[op.name], op_def(op.kind)
        inputs = [i for i in range(len(op.inputs)) if d.differentiable(info, i)]
        stored = network.tensor[op.output].dtype or dtype
        weights = [network.tensor[p] for p in op.params.values()]
        rows.append(
            {
                "op": op.name,
                "kind": op.kind,
                "input": [list(s) for s in info.inputs],
                "output": list(info.output),
                "parameters": sum(w.elements for w in weights),
                "macs_forward": d.macs(info, "forward") * batch,
                "macs_grad_input": sum(d.macs(info, f"x{i}") for i in inputs) * batch,
                "macs_grad_param": sum(d.macs(info, slot) for slot in op.params) * batch,
                "activation_bytes": bytes_of(batch * info.out_elements, stored),
                "weight_bytes": sum(bytes_of(w.elements, w.dtype or dtype) for w in weights),
                "gradient_bytes": bytes_of(batch * info.out_elements, dtype),
                "saved_bytes": _saved(network, op, info, inputs, dtype, batch, counted),
            }
        )
    return rows


def _saved(network: Network, op: Op, info: OpInfo, inputs: list[int], dtype: str, batch: int, counted: set[str]) -> int:
    d = op_def(op.kind)
    aux = d.aux(info)
    needs = [d.needs_for_param(info, slot)[0] for slot in op.params]
    needs += [d.needs_for_input(info, i)[0] for i in inputs]
    total = 0
    for tag in sorted({tag for tags in needs for tag in tags} - set(op.params)):
        if tag in aux:
            total += bytes_of(batch * math.prod(aux[tag].shape), aux[tag].dtype)
            continue
        name = op.output if tag == "y" else op.inputs[int(tag[1:])]
        if name not in counted:
            counted.add(name)
            total += bytes_of(batch * network.tensor[name].elements, network.tensor[name].dtype or dtype)
    return total
