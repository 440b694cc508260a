"""Rules by op type: how a node of ONNX is said by ops of a network. One file a family."""

from __future__ import annotations

from sparseplan.importers.onnxcall import Rule, table
from sparseplan.importers.onnxrules import (
    convs,
    dense,
    elementwise,
    moves,
    norms,
    pools,
    quantised,
    recurrent,
    reductions,
    resizing,
)

RULES: dict[str, Rule] = table(
    convs.RULES,
    dense.RULES,
    elementwise.RULES,
    moves.RULES,
    norms.RULES,
    pools.RULES,
    quantised.RULES,
    recurrent.RULES,
    reductions.RULES,
    resizing.RULES,
)

#: ops that take an input of integers, and ops that move elements of any type
IDS, INTEGERS = moves.IDS, moves.INTEGERS

__all__ = ["IDS", "INTEGERS", "RULES"]
