"""Rules for recurrent layers, unrolled over time with shared parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from sparseplan.importers.aten.base import Call, Unsaid, floats, rule, value
from sparseplan.importers.aten.shapes import cut
from sparseplan.importers.draft import Draft, Known, Made, Value

#: longer sequences are not unrolled
MOST_STEPS = 64

#: gates of the input and of the state, and the states, to the new states
Cell = Callable[[Draft, Made, Value, "States"], "States"]
States = tuple[Value, ...]


def _gate(draft: Draft, x: Value, i: int, n: int, kind: str | None) -> Made:
    made = draft.made(x)
    size = made.shape[-1] // n
    part = cut(draft, made, made.rank - 1, i * size, (i + 1) * size)
    return draft.same(kind, part) if kind else part


def _lstm(d: Draft, x: Made, h: Value, states: States) -> States:
    gates = d.made(d.add(x, h))
    i, f, g, o = (_gate(d, gates, n, 4, kind) for n, kind in enumerate(("sigmoid", "sigmoid", "tanh", "sigmoid")))
    new = d.made(d.mul(i, g))
    cell = new if _is_zero(states[1]) else d.made(d.add(d.mul(f, states[1]), new))
    return d.mul(o, d.same("tanh", cell)), cell


def _gru(d: Draft, x: Made, h: Value, states: States) -> States:
    r, z = (d.same("sigmoid", d.made(d.add(_gate(d, x, n, 3, None), _gate(d, h, n, 3, None)))) for n in range(2))
    n = d.same("tanh", d.made(d.add(_gate(d, x, 2, 3, None), d.mul(r, _gate(d, h, 2, 3, None)))))
    # n + z (h - n)
    rest: Value = d.same("neg", n) if _is_zero(states[0]) else d.elementwise("sub", [states[0], n])
    return (d.add(n, d.mul(z, rest)),)


def _tanh(d: Draft, x: Made, h: Value, states: States) -> States:
    return (d.same("tanh", d.made(d.add(x, h))),)


def _relu(d: Draft, x: Made, h: Value, states: States) -> States:
    return (d.same("relu", d.made(d.add(x, h))),)


_CELLS: dict[str, tuple[Cell, int]] = {"lstm": (_lstm, 2), "gru": (_gru, 1), "rnn_tanh": (_tanh, 1),
                                       "rnn_relu": (_relu, 1)}  # fmt: skip


def _is_zero(x: Value) -> bool:
    return isinstance(x, Known) and not x.array.any()


def _by(draft: Draft, x: Value, weight: Known, bias: Known | None) -> Value:
    """Gates of a state; one that is zero leaves the bias."""
    if isinstance(x, Known) and _is_zero(x):
        if bias is None:
            return floats(np.zeros((*x.shape[:-1], weight.shape[0])))
        return bias.reshaped((*(1,) * (len(x.shape) - 1), weight.shape[0]))
    return draft.linear(draft.made(x), weight, bias)


@rule("lstm", "gru", "rnn_tanh", "rnn_relu")
def _layers(c: Call) -> list[Value]:
    cell, states = _CELLS[c.op]
    if "data" in c.args:
        raise Unsaid("its sequences are packed")
    x = c.made("input")
    ways = 2 if c["bidirectional"] else 1
    params = [c.constant(p, f"params[{i}]") for i, p in enumerate(c["params"])]
    each = 4 if c["has_biases"] else 2
    if len(params) != each * int(c["num_layers"]) * ways:
        raise Unsaid("it projects its state")
    axis = 1 if c["batch_first"] and x.rank == 3 else 0
    if x.shape[axis] > MOST_STEPS:
        raise Unsaid(f"its sequence has {x.shape[axis]} steps; up to {MOST_STEPS} are unrolled")
    begin = [value(h) for h in (c["hx"] if isinstance(c["hx"], (list, tuple)) else [c["hx"]])]
    ends: list[list[Value]] = [[] for _ in range(states)]
    for layer in range(int(c["num_layers"])):
        outs = []
        for way in range(ways):
            n = layer * ways + way
            w_ih, w_hh, *biases = params[n * each : (n + 1) * each]
            b_ih, b_hh = biases or (None, None)
            assert w_ih is not None
            assert w_hh is not None
            first = tuple(_at(c.draft, h, n) for h in begin)
            made, last = _run(c.draft, cell, x, axis, (w_ih, w_hh, b_ih, b_hh), first, reverse=way == 1)
            outs.append(made)
            for end, h in zip(ends, last, strict=True):
                end.append(h)
        x = c.draft.made(c.draft.concat(outs, -1)) if ways == 2 else outs[0]
    finals: list[Value] = []
    for end, shape in zip(ends, c.shapes[1:], strict=True):
        rows = [c.draft.reshape(c.draft.made(h), (1, *shape[1:])) for h in end]
        finals.append(c.draft.concat(rows, 0))
    return [x, *finals]


def _at(draft: Draft, h: Value, n: int) -> Value:
    """Entry ``n`` of the first axis: the first state of one layer and direction."""
    if isinstance(h, Known):
        return Known(h.array[n])
    return draft.reshape(cut(draft, h, 0, n, n + 1), h.shape[1:])


Weights = tuple[Known, Known, Known | None, Known | None]


def _run(
    draft: Draft, cell: Cell, x: Made, axis: int, weights: Weights, states: States, reverse: bool
) -> tuple[Made, States]:
    """One layer in one direction; gates of the inputs of all steps at once."""
    w_ih, w_hh, b_ih, b_hh = weights
    gates = draft.linear(x, w_ih, b_ih)
    steps = range(x.shape[axis])
    outs: list[Value] = []
    for t in reversed(steps) if reverse else steps:
        now = cut(draft, gates, axis, t, t + 1)
        now = draft.reshape(now, (*now.shape[:axis], *now.shape[axis + 1 :]))
        states = cell(draft, now, _by(draft, states[0], w_hh, b_hh), states)
        h = draft.made(states[0])
        outs.append(draft.reshape(h, (*h.shape[:axis], 1, *h.shape[axis:])))
    return draft.made(draft.concat(outs[::-1] if reverse else outs, axis)), states


@rule("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell")
def _cells(c: Call) -> Value | Sequence[Value]:
    cell, _ = _CELLS[c.op.removesuffix("_cell")]
    given = c["hx"] if isinstance(c["hx"], (list, tuple)) else [c["hx"]]
    states = tuple(value(h) for h in given)
    gates = c.draft.linear(c.made("input"), c.known("w_ih"), c.maybe("b_ih"))
    found = cell(c.draft, gates, _by(c.draft, states[0], c.known("w_hh"), c.maybe("b_hh")), states)
    return list(found) if c.op == "lstm_cell" else found[0]
