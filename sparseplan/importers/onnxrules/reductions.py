"""Reductions, and the composed ones by their parts."""

from __future__ import annotations

from sparseplan.importers.draft import Made
from sparseplan.importers.onnxcall import Call, Held, Rule


def _axes(call: Call, x: Made) -> list[int] | None:
    """The axes to reduce; None: the op does nothing but its elementwise part."""
    axes = call.axes(x.rank)
    if not axes:
        return None if call.integer("noop_with_empty_axes", 0) else list(range(x.rank))
    return axes


def _reduce(kind: str, before: str | None = None, after: str | None = None) -> Rule:
    def rule(call: Call) -> Held:
        draft, x = call.draft, call.made(0)
        axes = _axes(call, x)
        if before:
            x = draft.same(before, x)
        if axes is not None:
            x = draft.reduce(kind, x, axes, bool(call.integer("keepdims", 1)))
        return draft.same(after, x) if after else x

    return rule


def _log_sum_exp(call: Call) -> Held:
    """With the largest entry taken out first, so that nothing overflows."""
    draft, x = call.draft, call.made(0)
    axes = _axes(call, x)
    if axes is None:
        return x
    top = draft.reduce("amax", x, axes, True)
    powers = draft.same("exp", draft.elementwise("sub", (x, top)))
    total = draft.same("log", draft.reduce("sum", powers, axes, True))
    made = draft.elementwise("add", (total, top))
    return draft.reduce("sum", made, axes, bool(call.integer("keepdims", 1)))


RULES: dict[str, Rule] = {
    "ReduceL1": _reduce("sum", before="abs"),
    "ReduceL2": _reduce("sum", before="square", after="sqrt"),
    "ReduceLogSum": _reduce("sum", after="log"),
    "ReduceLogSumExp": _log_sum_exp,
    "ReduceMax": _reduce("amax"),
    "ReduceMean": _reduce("mean"),
    "ReduceMin": _reduce("amin"),
    "ReduceSum": _reduce("sum"),
    "ReduceSumSquare": _reduce("sum", before="square"),
}
