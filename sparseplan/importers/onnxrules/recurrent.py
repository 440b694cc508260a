"""LSTM, GRU and RNN, unrolled over short sequences into ops that share parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sparseplan.importers.draft import Draft, Known, Made, Value
from sparseplan.importers.onnxcall import Call, Held, Malformed, Rule, Unsupported

#: longer sequences are read as opaque
MAX_STEPS = 64

_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_PLAIN = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}
_KINDS = {"Sigmoid": "sigmoid", "Tanh": "tanh", "Relu": "relu"}


@dataclass(frozen=True, slots=True)
class _Cell:
    """A direction: parameters, and the state before the first step (None: zeros)."""

    hidden: int
    inner: Known
    inner_bias: Known | None
    outer: Known
    outer_bias: Known | None
    h: Made | None
    c: Made | None


def _recurrent(call: Call) -> list[Held]:
    op, draft = call.node.op, call.draft
    gates = _GATES[op]
    x, hidden = call.made(0), call.integer("hidden_size")
    if x.rank != 3 or hidden < 1:
        raise Malformed(f"shape {x.shape}, hidden_size={hidden}; expected (steps, batch, features) and at least 1")
    if call.integer("layout", 0):
        x = draft.transpose(x, (1, 0, 2))
    steps, batch, features = x.shape
    if batch != 1:
        raise Unsupported(f"a batch of {batch} sequences in one sample")
    if steps > MAX_STEPS:
        raise Unsupported(f"{steps} steps; up to {MAX_STEPS} are unrolled")
    directions = {"forward": ["forward"], "reverse": ["reverse"], "bidirectional": ["forward", "reverse"]}
    named = directions.get(call.text("direction", "forward"))
    if named is None:
        raise Malformed(f"direction={call.text('direction', '')!r} must be forward, reverse or bidirectional")
    kinds = _activations(call, len(named))
    shapes: dict[int, tuple[int, ...]] = {
        1: (len(named), gates * hidden, features),
        2: (len(named), gates * hidden, hidden),
    }
    if call.has(3):
        shapes[3] = (len(named), 2 * gates * hidden)
    for i, shape in shapes.items():
        if call.weight(i).shape != shape:
            raise Malformed(f"input {i} has shape {call.weight(i).shape}, expected {shape}")
    if call.has(4) and (call.array(4) != steps).any():
        raise Unsupported(f"sequence_lens that are not all {steps}")
    if op == "LSTM" and call.has(7) and call.array(7).any():
        raise Unsupported("peepholes")
    draft.note(f"{call.node.title} is unrolled over {steps} steps")
    rows = draft.reshape(x, (steps, features))
    run: Callable[[Call, Made, _Cell, list[str], bool], tuple[list[Made], Made]] = {
        "LSTM": _lstm, "GRU": _gru, "RNN": _rnn}[op]  # fmt: skip
    made = []
    for i, direction in enumerate(named):
        cell = _cell(call, i, direction if len(named) > 1 else "", hidden, gates)
        states, c = run(call, rows, cell, kinds[i], direction == "reverse")
        made.append((states, c))
    back = call.integer("layout", 0)
    outputs: list[Held] = []
    for i, name in enumerate(call.node.outputs):
        if not name:
            outputs.append(x)
            continue
        if i == 0:
            sides = []
            for (states, _), direction in zip(made, named, strict=True):
                ordered = states[::-1] if direction == "reverse" else states
                sides.append(draft.concat([draft.reshape(h, (1, 1, 1, hidden)) for h in ordered], 0))
            whole = draft.concat(sides, 1)
            outputs.append(draft.transpose(whole, (2, 0, 1, 3)) if back else whole)
            continue
        last = [states[-1] if i == 1 else c for states, c in made]
        whole = draft.concat([draft.reshape(h, (1, 1, hidden)) for h in last], 0)
        outputs.append(draft.transpose(whole, (1, 0, 2)) if back else whole)
    return outputs


def _activations(call: Call, directions: int) -> list[list[str]]:
    call.refuse("clip", "input_forget")
    plain = _PLAIN[call.node.op]
    given = list(call.attr("activations", "strings", ())) or plain * directions
    if len(given) != len(plain) * directions or any(name not in _KINDS for name in given):
        raise Unsupported(f"activations={given[:8]}")
    kinds = [_KINDS[name] for name in given]
    return [kinds[i * len(plain) : (i + 1) * len(plain)] for i in range(directions)]


def _cell(call: Call, i: int, direction: str, hidden: int, gates: int) -> _Cell:
    stem = call.node.name or call.node.outputs[0] or call.node.op

    def part(slot: int, what: str, rows: slice, suffix: str = "") -> Known:
        known = call.weight(slot)
        base = ".".join(filter(None, (known.name or f"{stem}.{what}", direction, suffix)))
        return _part(call.draft, known.reshaped(known.shape), i, rows, base)

    everything, half = slice(None), gates * hidden
    has = call.has(3)
    states: list[Made | None] = []
    for slot in (5, 6):
        held = call.value(slot) if call.has(slot) else None
        if held is None or (isinstance(held, Known) and not held.array.any()):
            states.append(None)
            continue
        state = call.draft.made(held)
        if call.integer("layout", 0):
            state = call.draft.transpose(state, (1, 0, 2))
        if state.rank != 3 or state.shape[1:] != (1, hidden) or i >= state.shape[0]:
            raise Malformed(f"the initial state has shape {held.shape}; expected (directions, 1, {hidden})")
        state = call.draft.slice(state, [i, 0, 0], [i + 1, 1, hidden], [1, 1, 1])
        states.append(call.draft.reshape(state, (1, hidden)))
    return _Cell(
        hidden,
        part(1, "weight_ih", everything),
        part(3, "bias", slice(0, half), "ih") if has else None,
        part(2, "weight_hh", everything),
        part(3, "bias", slice(half, 2 * half), "hh") if has else None,
        states[0],
        states[1],
    )


def _part(draft: Draft, known: Known, i: int | None, rows: slice, name: str) -> Known:
    """Some rows, of entry ``i`` of axis 0 if there is one: a parameter by itself, unless the whole is one."""
    lo, hi, _ = rows.indices(known.shape[0 if i is None else 1])
    array = np.ascontiguousarray(known.array[lo:hi] if i is None else known.array[i, lo:hi])
    parents = draft.parents(known)
    if known.name is not None and not (parents and draft.shared(known.name)):
        return Known(array, name)
    if known.name is None and not parents and known.source is None:
        return Known(array)

    def source() -> Made:
        whole = draft.made(known)
        starts, stops = [0] * whole.rank, list(whole.shape)
        if i is not None:
            starts[0], stops[0] = i, i + 1
        axis = 0 if i is None else 1
        starts[axis], stops[axis] = lo, hi
        return draft.reshape(draft.slice(whole, starts, stops, [1] * whole.rank), array.shape)

    return Known(array, source=source, parents=parents)


def _row(draft: Draft, rows: Made, t: int) -> Made:
    return draft.slice(rows, (t, 0), (t + 1, rows.shape[1]), (1, 1))


def _gate(draft: Draft, x: Made, i: int, hidden: int, count: int = 1) -> Made:
    return draft.slice(x, (0, i * hidden), (1, (i + count) * hidden), (1, 1))


def _back(draft: Draft, cell: _Cell, h: Made | None) -> Value | None:
    """What the state adds to all gates; None where it is nothing."""
    if h is not None:
        return draft.linear(h, cell.outer, cell.outer_bias)
    return None if cell.outer_bias is None else cell.outer_bias.reshaped((1, cell.outer_bias.array.size))


def _plus(draft: Draft, a: Made, b: Value | None) -> Made:
    return a if b is None else draft.made(draft.add(a, b))


def _order(rows: Made, backwards: bool) -> list[int]:
    return list(range(rows.shape[0]))[:: -1 if backwards else 1]


def _lstm(call: Call, rows: Made, cell: _Cell, kinds: list[str], backwards: bool) -> tuple[list[Made], Made]:
    draft, (f, g, k), n = call.draft, kinds, cell.hidden
    whole = draft.linear(rows, cell.inner, cell.inner_bias)
    h, c, states = cell.h, cell.c, []
    for t in _order(rows, backwards):
        gates = _plus(draft, _row(draft, whole, t), _back(draft, cell, h))
        i, o, forget = (draft.same(f, _gate(draft, gates, j, n)) for j in range(3))  # ONNX's order: i, o, f, c
        new = draft.made(draft.mul(i, draft.same(g, _gate(draft, gates, 3, n))))
        c = new if c is None else draft.made(draft.add(draft.mul(forget, c), new))
        h = draft.made(draft.mul(o, draft.same(k, c)))
        states.append(h)
    if c is None:
        raise Malformed("a sequence of no steps")
    return states, c


def _gru(call: Call, rows: Made, cell: _Cell, kinds: list[str], backwards: bool) -> tuple[list[Made], Made]:
    draft, (f, g), n = call.draft, kinds, cell.hidden
    after = bool(call.integer("linear_before_reset", 0))
    whole = draft.linear(rows, cell.inner, cell.inner_bias)

    def cut(known: Known | None, lo: int, hi: int, name: str) -> Known | None:
        return None if known is None else _part(draft, known, None, slice(lo * n, hi * n), f"{known.name}.{name}")

    zr, zr_bias = cut(cell.outer, 0, 2, "zr"), cut(cell.outer_bias, 0, 2, "zr")
    hh, hh_bias = cut(cell.outer, 2, 3, "h"), cut(cell.outer_bias, 2, 3, "h")
    assert zr is not None
    assert hh is not None
    h, states = cell.h, list[Made]()
    for t in _order(rows, backwards):
        row = _row(draft, whole, t)
        first, inner = _gate(draft, row, 0, n, 2), _gate(draft, row, 2, n)
        if h is not None:
            first = _plus(draft, first, draft.linear(h, zr, zr_bias))
        elif zr_bias is not None:
            first = _plus(draft, first, zr_bias.reshaped((1, 2 * n)))
        z, r = (draft.same(f, _gate(draft, first, j, n)) for j in range(2))
        back: Value | None = None if hh_bias is None else hh_bias.reshaped((1, n))
        if after:
            if h is not None:
                back = draft.linear(h, hh, hh_bias)
            back = None if back is None else draft.mul(r, back)
        elif h is not None:
            back = draft.linear(draft.made(draft.mul(r, h)), hh, hh_bias)
        new = draft.same(g, _plus(draft, inner, back))
        # (1 - z) * new + z * h
        rest = draft.same("neg", new) if h is None else draft.elementwise("sub", (h, new))
        h = draft.made(draft.add(new, draft.mul(z, rest)))
        states.append(h)
    if h is None:
        raise Malformed("a sequence of no steps")
    return states, h


def _rnn(call: Call, rows: Made, cell: _Cell, kinds: list[str], backwards: bool) -> tuple[list[Made], Made]:
    draft = call.draft
    whole = draft.linear(rows, cell.inner, cell.inner_bias)
    h, states = cell.h, list[Made]()
    for t in _order(rows, backwards):
        h = draft.same(kinds[0], _plus(draft, _row(draft, whole, t), _back(draft, cell, h)))
        states.append(h)
    if h is None:
        raise Malformed("a sequence of no steps")
    return states, h


RULES: dict[str, Rule] = {"GRU": _recurrent, "LSTM": _recurrent, "RNN": _recurrent}
