"""What a call costs and does that no rule says, as far as its shapes and its tags tell."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx

from sparseplan.importers.draft import Known, Made, Shape

#: products of matrices, and the argument that tells the extent that is summed over, which is its last but one
_PRODUCTS = {
    "mm": "mat2", "bmm": "mat2", "matmul": "other", "addmm": "mat2", "baddbmm": "batch2", "addbmm": "batch2",
    "mv": "vec", "addmv": "vec", "dot": "tensor", "vdot": "other",
}  # fmt: skip
_RECURRENT = frozenset(("lstm", "gru", "rnn_tanh", "rnn_relu"))
#: ops that move elements or compare them
_MOVES = frozenset((
    "sort", "topk", "argsort", "gather", "scatter", "index_put", "index_fill", "masked_scatter", "unfold", "im2col",
    "max_pool3d", "max_pool3d_with_indices", "constant_pad_nd", "reflection_pad3d", "replication_pad3d", "rot90",
    "take_along_dim", "take", "index", "index_copy", "one_hot", "searchsorted", "bucketize", "cummax", "cummin",
    "kthvalue", "median", "mode", "argmax", "argmin", "diagonal", "diag_embed",
))  # fmt: skip


def draws(node: fx.Node, args: Mapping[str, Any]) -> bool:
    """Whether a call draws random numbers, so that a second one makes others."""
    tagged = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
    return tagged and args.get("training", True) is not False and args.get("train", True) is not False


def macs_of(node: fx.Node, op: str, args: Mapping[str, Any], shapes: Sequence[Shape]) -> int | None:
    """Multiply-accumulates of a call that stands by its shapes, None where these do not tell."""
    output = math.prod(shapes[0]) if shapes else 0
    weight = args.get("weight")
    if "conv" in op and isinstance(weight, (Known, Made)):
        given = args.get("input", args.get("self"))
        if bool(args.get("transposed", "transpose" in op)):
            return math.prod(given.shape) * math.prod(weight.shape[1:]) if isinstance(given, (Known, Made)) else None
        return output * math.prod(weight.shape[1:])
    if op == "linear" and isinstance(weight, (Known, Made)):
        return output * weight.shape[-1]
    if op in _PRODUCTS:
        other = args.get(_PRODUCTS[op])
        if not isinstance(other, (Known, Made)) or not other.shape:
            return None
        return output * other.shape[-2 if len(other.shape) > 1 else -1]
    if op in _RECURRENT and "data" not in args:
        x, params = args.get("input"), args.get("params")
        if not isinstance(x, (Known, Made)) or not isinstance(params, Sequence):
            return None
        each = sum(math.prod(p.shape) for p in params if isinstance(p, (Known, Made)) and len(p.shape) == 2)
        return math.prod(x.shape[:-1]) * each
    if op in _MOVES:
        return 0
    if torch.Tag.pointwise in getattr(node.target, "tags", ()):
        return output
    return None
