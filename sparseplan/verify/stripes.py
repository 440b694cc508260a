"""Whether a network in stripes computes what the network computes: from row arithmetic alone.

Each row of each tensor of the lowered network is traced to a row of a tensor of the original. An op that
stands for a stripe must be the original's in all but vertical padding, and each of its output rows must
read, tap by tap, the very rows that the original's reads; what lies outside the image, and nothing else,
is padding. A tensor that bears an original's name must be all of it, once and in order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from sparseplan.errors import OpError
from sparseplan.network import Network, Op
from sparseplan.ops import OpInfo, infos
from sparseplan.verify.findings import Findings

#: a tensor's rows: (original tensor, row); one without rows is (original tensor, -1)
Held = tuple[tuple[str, int], ...]
#: what an output row reads of an input: (what for, row), rows outside the image left out
Reads = frozenset[tuple[Any, int]]
Rule = Callable[[OpInfo, int, int], Reads]


class Stripe(Protocol):
    """What is claimed of an op: it makes ``rows`` of what the original's op ``op`` makes."""

    @property
    def op(self) -> str: ...
    @property
    def rows(self) -> tuple[int, int]: ...


def check_lowered(original: Network, lowered: Network, origin: Mapping[str, Stripe], findings: Findings) -> None:
    """Note every way in which ``lowered`` is not the original with ops run in stripes.

    Args:
        origin: of each op of ``lowered`` that stands for a stripe.
    """
    _Check(original, lowered, origin, findings).run()


class _Check:
    def __init__(self, original: Network, lowered: Network, origin: Mapping[str, Stripe], findings: Findings) -> None:
        self.original, self.lowered, self.origin, self.findings = original, lowered, origin, findings
        self.held: dict[str, Held | None] = {}

    def add(self, where: str, text: str) -> None:
        self.findings.add("stripe", where, text)

    def all_of(self, t: str) -> Held:
        """A tensor of the original in whole."""
        shape = self.original.tensor[t].shape
        return tuple((t, r) for r in range(shape[1])) if len(shape) == 3 else ((t, -1),)

    def run(self) -> None:
        if (self.lowered.inputs, self.lowered.outputs) != (self.original.inputs, self.original.outputs):
            self.add("network", f"inputs {self.lowered.inputs}, outputs {self.lowered.outputs} should be "
                     f"{self.original.inputs}, {self.original.outputs}")  # fmt: skip
        for tensor in self.lowered.tensors:
            like = self.original.tensor.get(tensor.name)
            if (like is None and tensor.role != "activation") or (like is not None and like != tensor):
                self.add(f"tensor {tensor.name}", "differs from the original's")
        try:
            self.infos, self.whole = infos(self.lowered), infos(self.original)
        except OpError as error:
            self.add("network", str(error))
            return
        for t in self.lowered.inputs:
            self.held[t] = self.all_of(t) if t in self.original.tensor else None
        for op in self.lowered.ops:
            made = self.made(op)
            if made is not None and op.output in self.original.tensor and made != self.all_of(op.output):
                wrong = next((i for i, (a, b) in enumerate(zip(made, self.all_of(op.output), strict=False)) if a != b),
                             min(len(made), len(self.all_of(op.output))))  # fmt: skip
                self.add(f"op {op.name}", f"makes {op.output!r}, of which row {wrong} is missing or another's")
                made = None
            self.held[op.output] = made
        for t in self.lowered.outputs:
            if t not in self.held:
                self.add(f"tensor {t}", "is an output that nothing makes")

    # -- ops ---------------------------------------------------------------------------------------------
    def made(self, op: Op) -> Held | None:
        """What an op makes, row by row; None where it cannot be told (and that was reported)."""
        parts = [self.held.get(t) for t in op.inputs]
        held = [p for p in parts if p is not None]
        if len(held) < len(parts):
            return None  # reported with what makes the input
        if op.name in self.origin:
            return self.stripe(op, held)
        like = self.original.op.get(op.name)
        if like is not None and like == op:
            if held != [self.all_of(t) for t in op.inputs]:
                self.add(f"op {op.name}", "reads other rows than the original's")
                return None
            return self.all_of(op.output)
        if op.kind == "rows":
            return held[0][self.infos[op.name].attrs["lo"] : self.infos[op.name].attrs["hi"]]
        if op.kind == "join_rows":
            return tuple(row for part in held for row in part)
        self.add(f"op {op.name}", f"kind={op.kind} is neither the original's, nor a stripe, nor rows of either")
        return None

    def stripe(self, op: Op, held: list[Held]) -> Held | None:
        where, claim = f"op {op.name}", self.origin[op.name]
        like = self.original.op.get(claim.op)
        if like is None:
            self.add(where, f"stands for {claim.op!r}, which the original does not have")
            return None
        info, whole = self.infos[op.name], self.whole[like.name]
        lo, hi = claim.rows
        ours, theirs = self.lowered.tensor[op.output], self.original.tensor[like.output]
        if (op.kind, dict(op.params), len(op.inputs)) != (like.kind, dict(like.params), len(like.inputs)):
            self.add(where, f"differs from {like.name!r} in kind, parameters or inputs")
            return None
        if _apart(info) != _apart(whole):
            self.add(where, f"attributes {_apart(info)} should be those of {like.name!r}: {_apart(whole)}")
            return None
        shape = (theirs.shape[0], hi - lo, *theirs.shape[2:])
        if (ours.shape, ours.dtype, ours.scale) != (shape, theirs.dtype, theirs.scale) or not 0 <= lo < hi:
            self.add(where, f"makes shape {ours.shape}, which should be {shape}: rows [{lo}, {hi}) of {like.output!r}")
            return None
        if hi > theirs.shape[1] or op.kind not in RULES:
            self.add(where, f"rows [{lo}, {hi}) of {like.output!r} (kind {op.kind}) cannot be made by rows")
            return None
        rule = RULES[op.kind]
        for slot, rows in enumerate(held):
            for r in range(hi - lo):
                expected = frozenset((tag, (like.inputs[slot], row)) for tag, row in rule(whole, slot, lo + r))
                found = frozenset((tag, rows[row]) for tag, row in rule(info, slot, r))
                if found != expected:
                    self.add(where, f"row {lo + r} of {like.output!r} reads {_names(found)} as x{slot}, "
                             f"which should be {_names(expected)}")  # fmt: skip
                    return None
        return tuple((like.output, r) for r in range(lo, hi))


def _names(reads: frozenset[tuple[Any, tuple[str, int]]]) -> str:
    rows = sorted({(t, r) for _, (t, r) in reads})
    return ", ".join(f"{t!r}[{r}]" for t, r in rows) or "nothing"


def _apart(info: OpInfo) -> dict[str, Any]:
    """Attributes, without what says where an image ends above and below."""
    found = {k: v for k, v in info.attrs.items() if k != "crop"}
    if "padding" in found:
        found["padding"] = (found["padding"][1], found["padding"][3])
    if "output_padding" in found:
        found["output_padding"] = found["output_padding"][1]
    return found


# -- which rows of input ``slot`` output row ``y`` reads, by kind ------------------------------------------
def _same(info: OpInfo, slot: int, y: int) -> Reads:
    return frozenset({("", y if info.inputs[slot][1] == info.output[1] else 0)})  # one row may be spread over all


def _window(info: OpInfo, slot: int, y: int) -> Reads:
    height, stride = info.inputs[slot][1], info.attrs["stride"][0]
    step = info.attrs.get("dilation", (1, 1))[0]
    taps = ((k, y * stride - info.attrs["padding"][0] + k * step) for k in range(info.attrs["kernel"][0]))
    return frozenset((k, row) for k, row in taps if 0 <= row < height)


def _transposed(info: OpInfo, slot: int, y: int) -> Reads:
    height, stride, step = info.inputs[slot][1], info.attrs["stride"][0], info.attrs["dilation"][0]
    top = info.attrs["padding"][0]
    return frozenset((k, row) for row in range(height) for k in range(info.attrs["kernel"][0])
                     if row * stride - top + k * step == y)  # fmt: skip


def _upsampled(info: OpInfo, slot: int, y: int) -> Reads:
    height, scale = info.inputs[slot][1], info.attrs["scale"][0]
    at = y + info.attrs["crop"][0]
    if info.attrs["mode"] == "nearest":
        return frozenset({("", at // scale)})
    # row y lies at (2 y + 1 - scale) / (2 scale) between two rows, but not above the first
    place = max(0, 2 * at + 1 - scale)
    low, share = divmod(place, 2 * scale)
    if low + 1 >= height:  # the last row goes on below
        return frozenset({(2 * scale, low)})
    return frozenset({(2 * scale - share, low), (share, low + 1)} - {(0, low + 1)})


RULES: Mapping[str, Rule] = {
    **dict.fromkeys(("relu", "leaky_relu", "relu6", "sigmoid", "tanh", "hardswish", "affine"), _same),
    **dict.fromkeys(("gelu", "silu", "hard_sigmoid", "elu", "selu", "celu", "softplus", "softsign", "mish"), _same),
    **dict.fromkeys(("exp", "log", "sqrt", "reciprocal", "neg", "abs", "erf", "sin", "cos", "square"), _same),
    **dict.fromkeys(("clip", "power", "scale_shift", "floor", "ceil", "round", "sign"), _same),
    **dict.fromkeys(("batch_norm", "prelu"), _same),
    **dict.fromkeys(
        (
            "add",
            "mul",
            "concat",
            "sub",
            "div",
            "maximum",
            "minimum",
            "param_add",
            "param_mul",
            "const_add",
            "const_mul",
            "detach",
        ),
        _same,
    ),
    **dict.fromkeys(("conv", "max_pool", "avg_pool"), _window),
    "conv_transpose": _transposed,
    "upsample": _upsampled,
}
