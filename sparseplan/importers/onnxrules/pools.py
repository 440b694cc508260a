"""Pools: windows of sequences and images, and whole images."""

from __future__ import annotations

from sparseplan.importers.draft import Made
from sparseplan.importers.onnxcall import Call, Held, Malformed, Rule, Unsupported
from sparseplan.importers.onnxrules.windows import sliding
from sparseplan.network import Attr


def _pool(call: Call, kind: str, **more: Attr) -> Made:
    x, kernel = call.made(0), call.ints("kernel_shape")
    spatial = x.rank - 2
    if kernel is None:
        raise Malformed("attribute 'kernel_shape' is missing")
    if spatial not in (1, 2):
        raise Unsupported(f"a pool of {spatial} dimensions; one and two are known")
    window = sliding(call, x.shape[2:], kernel)
    if set(window.dilations) != {1}:
        raise Unsupported(f"dilations={list(window.dilations)}")
    before, after = window.before, list(window.after)
    if call.integer("ceil_mode", 0) and call.text("auto_pad", "NOTSET") == "NOTSET":
        for i, (n, k, s) in enumerate(zip(x.shape[2:], window.kernel, window.strides, strict=True)):
            count = -(-(n + before[i] + after[i] - k) // s) + 1
            if (count - 1) * s >= n + before[i]:
                count -= 1  # no window begins in the padding behind
            missing = (count - 1) * s + k - (n + before[i] + after[i])
            if missing > 0:
                if more.get("count_include_pad"):
                    raise Unsupported("ceil_mode with count_include_pad, whose last windows hold fewer entries")
                after[i] += missing
    attrs: dict[str, Attr]
    if spatial == 1:
        attrs = {"kernel": window.kernel[0], "stride": window.strides[0], "padding": (before[0], after[0])}
    else:
        attrs = {"kernel": window.kernel, "stride": window.strides, "padding": (*before, *after)}
    return call.draft.spatial(kind + ("1d" if spatial == 1 else ""), x, spatial, None, **attrs, **more)


def _max(call: Call) -> Held:
    call.one_output()
    return _pool(call, "max_pool")


def _average(call: Call) -> Held:
    return _pool(call, "avg_pool", count_include_pad=bool(call.integer("count_include_pad", 0)))


def _global(kind: str) -> Rule:
    def rule(call: Call) -> Held:
        x = call.made(0)
        if x.rank < 3:
            raise Malformed(f"shape {x.shape} has no spatial axes")
        if kind == "mean" and x.rank == 4 and x.shape[0] == 1:
            tensor = call.draft.op("global_avg_pool", [call.draft.image(x, 2)])
            return call.draft.wrap(tensor, (1, x.shape[1], 1, 1))
        return call.draft.reduce(kind, x, range(2, x.rank), True)

    return rule


RULES: dict[str, Rule] = {
    "AveragePool": _average,
    "GlobalAveragePool": _global("mean"),
    "GlobalMaxPool": _global("amax"),
    "MaxPool": _max,
}
