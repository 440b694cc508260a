"""Integers of an input that are moved before they are looked up: which of them lies where, reckoned while reading.

No op moves integers. What ``Slice``, ``Gather``, ``Concat`` and the like make of an input's is therefore told by
positions; the rows of a table are looked up for the whole input, and moved after that.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from sparseplan.errors import NetworkError
from sparseplan.importers.draft import Array, Known, Made
from sparseplan.importers.onnxcall import Call, Held, Picked
from sparseplan.importers.onnxfold import FOLDS, NAMED, named
from sparseplan.importers.onnxshapes import MAX_FOLDED

#: ops that are told by positions, and those of them that have a rule of their own for an input as it is
_MOVES = frozenset(
    ("Concat", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Tile", "Transpose",
     "Unsqueeze")
)  # fmt: skip
_OWN = frozenset(("Expand", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"))


def picked(call: Call, integers: Collection[str], ruled: bool = False) -> Sequence[Held] | None:
    """What a node makes of an input of integers that it only moves; None where it does anything else.

    ``ruled``: also of an input as it is, where the node's own rule could say nothing.
    """
    op, values = call.node.op, [v for v in call.values if v is not None]
    if op not in _MOVES or not values:
        return None
    moved = values if op == "Concat" else values[:1]
    sources = [_positions(v, integers) for v in moved]
    ids = _ids(moved[0])
    if ids is None or any(s is None for s in sources) or {_name(v) for v in moved} != {ids.tensor}:
        return None
    if isinstance(moved[0], Made) and op in _OWN and not ruled:
        return None
    if not all(v is None or isinstance(v, Known) for v in call.values[len(moved) :]):
        return None
    known = tuple(Known(s) for s in sources if s is not None)
    inner = replace(call, values=(*known, *call.values[len(moved) :]))
    made = named(inner, known[0]).array if op in NAMED else FOLDS[op](inner)
    return [_held(ids, a) for a in (made if isinstance(made, list) else [made])]


def _ids(held: Held | None) -> Made | None:
    return held.ids if isinstance(held, Picked) else held if isinstance(held, Made) else None


def _name(held: Held) -> str:
    ids = _ids(held)
    return "" if ids is None else ids.tensor


def _positions(held: Held, integers: Collection[str]) -> Array | None:
    if isinstance(held, Picked):
        return held.index
    if isinstance(held, Made) and held.tensor in integers and held.count <= MAX_FOLDED:
        return np.arange(held.count).reshape(held.shape)
    return None


def _held(ids: Made, index: Array) -> Held:
    if not index.size:
        raise NetworkError(f"nothing of the integers of input {ids.tensor!r} is taken")
    if index.size == ids.count and (index.reshape(-1) == np.arange(ids.count)).all():
        return Made(ids.tensor, index.shape)
    return Picked(ids, index)
