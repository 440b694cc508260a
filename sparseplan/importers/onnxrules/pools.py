"""Pools: windows of sequences and images, and whole images."""

from __future__ import annotations

from sparseplan.importers.draft import Made
from sparseplan.importers.onnxcall import Call, Held, Malformed, Rule, Unsupported
from sparseplan.importers.onnxrules.windows import sliding
from sparseplan.importers.pooling import beyond, pooled


def _pool(call: Call, kind: str, counted: bool | None = None) -> Made:
    x, kernel = call.made(0), call.ints("kernel_shape")
    spatial = x.rank - 2
    if kernel is None:
        raise Malformed("attribute 'kernel_shape' is missing")
    if spatial not in (1, 2):
        raise Unsupported(f"a pool of {spatial} dimensions; one and two are known")
    window = sliding(call, x.shape[2:], kernel)
    if set(window.dilations) != {1}:
        raise Unsupported(f"dilations={list(window.dilations)}")
    same = call.text("auto_pad", "NOTSET").startswith("SAME")
    if same and any((-(-n // t) - 1) * t + k < n for n, k, t in zip(x.shape[2:], kernel, window.strides, strict=True)):
        raise Unsupported("auto_pad=SAME with strides that pass over entries, which runtimes read differently")
    more = [0] * spatial
    if call.integer("ceil_mode", 0) and not same:
        more = beyond(x.shape[2:], window.kernel, window.strides, window.before, window.after)
    return pooled(call.draft, kind, x, window.kernel, window.strides, window.before, window.after, more, counted)


def _max(call: Call) -> Held:
    call.one_output()
    return _pool(call, "max_pool")


def _average(call: Call) -> Held:
    return _pool(call, "avg_pool", bool(call.integer("count_include_pad", 0)))


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
