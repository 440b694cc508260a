"""What an update costs by itself, and values relative to it."""

from __future__ import annotations

import math
from collections.abc import Mapping

from sparseplan.dtypes import bytes_of, check_dtype
from sparseplan.errors import ProblemError, near
from sparseplan.network import Network
from sparseplan.ops import infos, op_def
from sparseplan.value.common import Choices, Table, levels_of

Values = Mapping[str, Mapping[float, float]]


def update_bytes(network: Network, choices: Choices, *, dtype: str = "bf16", batch: int = 1) -> Table:
    """Bytes that an update needs of its own: its gradient, and what of its op's input that gradient reads.

    Lifetimes and what updates share are left to the planner; this is one simple count for ranking.
    """
    check_dtype(dtype)
    table = infos(network)
    result: Table = {}
    for p, levels in levels_of(network, choices).items():
        info = table[levels.op]
        inputs = network.op[levels.op].inputs
        stored = (network.tensor[inputs[0]].dtype or dtype) if inputs else dtype
        reads = any("x0" in tags for tags in op_def(info.kind).needs_for_param(info, levels.slot)[:1])
        result[p] = {}
        for r, kept in levels.fractions:
            read = math.prod(info.inputs[0]) if reads else 0
            if kept is not None and levels.cut is not None and levels.cut.rows is not None:
                read = read // info.inputs[0][0] * kept * levels.cut.rows
            gradient = levels.elements if levels.cut is None else round(levels.elements * levels.share(kept))
            result[p][r] = float(bytes_of(gradient, dtype) + bytes_of(batch * read, stored))
    return result


def gradient_macs(network: Network, choices: Choices) -> Table:
    """Multiply-accumulates of the gradient of what is updated, one sample.

    A gradient that takes additions alone (a bias) counts one for each element of the op's output.
    """
    table = infos(network)
    result: Table = {}
    for p, levels in levels_of(network, choices).items():
        info = table[levels.op]
        whole = op_def(info.kind).macs(info, levels.slot) or info.out_elements
        result[p] = {r: whole * levels.share(kept) for r, kept in levels.fractions}
    return result


def per(values: Values, costs: Values) -> Table:
    """Values relative to what the whole parameter costs, in parts of the dearest parameter's cost.

    As TinyTrain (arXiv 2307.09988) divides a layer's Fisher information by its normalised size and
    MACs. The divisor is the cost of the largest fraction given, so that a larger fraction of a
    parameter is still worth no less: otherwise a planner would take crumbs of everything.

    Raises:
        ProblemError: a parameter without a cost, or a cost that is not positive.
    """
    whole: dict[str, float] = {}
    for p in values:
        if p not in costs:
            raise ProblemError(f"parameter {p!r} has no cost{near(p, costs)}")
        whole[p] = max(costs[p].values(), default=0.0)
        if not 0 < whole[p] < math.inf:
            raise ProblemError(f"cost of {p!r}={whole[p]!r} must be a positive number")
    dearest = max(whole.values(), default=1.0)
    return {p: {r: v / (whole[p] / dearest) for r, v in table.items()} for p, table in values.items()}
