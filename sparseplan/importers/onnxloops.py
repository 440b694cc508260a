"""Loops whose number of turns is known while reading: their bodies, turn after turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sparseplan.errors import NetworkError
from sparseplan.importers.draft import Draft, Known, Made, axis_of
from sparseplan.importers.onnxcall import Call, Held, Unsupported
from sparseplan.importers.onnxgraph import Graph, short

#: loops of more turns are not unrolled
MAX_TURNS = 64

#: what a body makes of the values of its inputs, with their element types
Run = Callable[[Graph, Sequence[Held]], Sequence[Held]]


def unrolled(call: Call, run: Run) -> list[Held]:
    """The outputs of a Loop: the state after the last turn, and what every turn gave, stacked.

    Raises:
        Unsupported: the number of turns is not known, or too large, or nothing tells a stack's shape.
        NetworkError: the body means nothing.
    """
    body = call.graph("body")
    state: list[Held] = []
    for value in call.values[2:]:
        if value is None:
            raise NetworkError("one of its states is not given")
        state.append(value)
    if len(body.inputs) != len(state) + 2 or len(body.outputs) < len(state) + 1:
        raise NetworkError(
            f"its body has {len(body.inputs)} inputs and {len(body.outputs)} outputs; with {len(state)} states, "
            f"{len(state) + 2} and at least {len(state) + 1} are expected"
        )
    most = _number(call, 0, "its trip count")
    going = _number(call, 1, "whether it begins")
    stacks: list[list[Held]] = [[] for _ in body.outputs[1 + len(state) :]]
    turn = 0
    while going != 0 and (most is None or turn < most):
        if turn == MAX_TURNS:
            raise Unsupported(f"it takes more than {MAX_TURNS} turns")
        made = run(body, [Known(np.array(turn, np.int64)), Known(np.array(True)), *state])
        goes_on, state = made[0], list(made[1 : 1 + len(state)])
        for stack, value in zip(stacks, made[1 + len(state) :], strict=True):
            stack.append(value)
        turn += 1
        if most is None or turn < most:
            if not isinstance(goes_on, Known) or goes_on.array.size != 1:
                what = "it has no trip count, and " if most is None else ""
                raise Unsupported(f"{what}whether it goes on is computed from data")
            going = int(bool(goes_on.array.reshape(())))
    return [*state, *(_stacked(call.draft, stack) for stack in stacks)]


def _number(call: Call, i: int, what: str) -> int | None:
    if not call.has(i):
        return None
    value = call.values[i]
    if not isinstance(value, Known):
        raise Unsupported(f"{what} ({short(call.node.inputs[i])}) is computed from data")
    if value.array.size != 1:
        raise NetworkError(f"{what} has shape {value.shape}; it must be one number")
    return max(0, int(value.array.reshape(())))


def _stacked(draft: Draft, values: Sequence[Held]) -> Held:
    """Values of all turns along a new first axis."""
    if not values:
        raise Unsupported("it takes no turn, and stacks what its turns give")
    rows: list[Any] = []
    for value in values:
        if not isinstance(value, (Known, Made)):
            raise Unsupported("its turns give integers that no op computes")
        shape = (1, *value.shape)
        rows.append(value.reshaped(shape) if isinstance(value, Known) else draft.reshape(value, shape))
    if all(isinstance(row, Known) for row in rows):
        return Known(np.concatenate([row.array for row in rows]))
    return draft.concat(rows, axis_of(0, len(rows[0].shape)))
