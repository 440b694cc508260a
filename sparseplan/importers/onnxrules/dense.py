"""Products of matrices."""

from __future__ import annotations

import math

import numpy as np

from sparseplan.importers.draft import Draft, Known, Made, Shape, Value
from sparseplan.importers.onnxcall import Call, Held, Malformed, OneHot, Rule, Unsupported
from sparseplan.importers.onnxrules.convs import activated
from sparseplan.importers.onnxrules.moves import embed


def product(draft: Draft, a: Value, b: Value) -> Made:
    """``a @ b``, a constant matrix on the right being a linear layer's weight."""
    if isinstance(b, Known) and isinstance(a, Made) and len(b.shape) == 2:
        return draft.linear(a, b.transposed((1, 0)))
    if isinstance(b, Known) and isinstance(a, Made) and len(b.shape) == 1:
        made = draft.linear(a, b.reshaped((1, *b.shape)))
        return draft.reshape(made, made.shape[:-1])
    return draft.matmul(draft.made(a), draft.made(b))


def _matmul(call: Call) -> Held:
    hot = call.values[0]
    if isinstance(hot, OneHot):
        table = call.weight(1)
        if len(table.shape) != 2 or table.shape[0] != hot.shape[-1]:
            raise Unsupported("a one-hot of integers times no matrix of its depth")
        return embed(call.draft, hot.ids, hot.shape[:-1], table)
    return product(call.draft, call.value(0), call.value(1))


def _times(value: Value, factor: float, draft: Draft) -> Value:
    if factor == 1:
        return value
    if isinstance(value, Known):
        return draft.mul(value, Known(np.asarray(factor, np.float32)))
    return draft.same("scale_shift", value, scale=factor)


def _turned(draft: Draft, value: Value) -> Value:
    perm = [*range(len(value.shape) - 2), len(value.shape) - 1, len(value.shape) - 2]
    return value.transposed(perm) if isinstance(value, Known) else draft.transpose(value, perm)


def gemm(call: Call) -> Made:
    """``alpha * a' @ b' + beta * c``."""
    draft = call.draft
    a, b = call.value(0), call.value(1)
    if len(a.shape) != 2 or len(b.shape) != 2:
        raise Malformed(f"shapes {a.shape} and {b.shape} are no matrices")
    if call.integer("transA", 0):
        a = _turned(draft, a)
    weight = b if call.integer("transB", 0) else _turned(draft, b)  # (out, in)
    alpha, beta = call.number("alpha", 1.0), call.number("beta", 1.0)
    extra = _times(call.value(2), beta, draft) if call.has(2) and beta else None
    if isinstance(a, Known) and isinstance(weight, Known):
        a = draft.made(a)  # so that the weight is the same parameter as elsewhere
    if isinstance(a, Made) and isinstance(weight, Known):
        outs = weight.shape[0]
        if alpha == 1 and isinstance(extra, Known) and extra.shape in ((outs,), (1, outs)):
            return draft.linear(a, weight, extra)
        made: Value = draft.linear(a, weight)
    else:
        made = product(draft, a, _turned(draft, weight))
    made = _times(made, alpha, draft)
    if extra is not None:
        shape = made.shape
        made = draft.add(made, extra)
        if made.shape != shape:
            raise Malformed(f"c of shape {extra.shape} does not spread to {shape}")
    return draft.made(made)


def _fused_gemm(call: Call) -> Held:
    numbers = tuple(
        call.number(f"activation_{name}", 0.0)
        for name in ("alpha", "beta", "gamma")
        if f"activation_{name}" in call.node.attrs
    )
    return activated(call.draft, gemm(call), call.text("activation", ""), numbers)


def _fused_matmul(call: Call) -> Held:
    """com.microsoft.FusedMatMul: products of matrices given transposed, times alpha."""
    call.refuse("transBatchA", "transBatchB")
    draft, a, b = call.draft, call.value(0), call.value(1)
    if call.integer("transA", 0) and len(a.shape) > 1:
        a = _turned(draft, a)
    if call.integer("transB", 0) and len(b.shape) > 1:
        b = _turned(draft, b)
    return _times(product(draft, a, b), call.number("alpha", 1.0), draft)


def _einsum(call: Call) -> Held:
    """Two operands whose axes are each shared and kept, summed over, or of one operand alone."""
    text = call.text("equation", "").replace(" ", "")
    left, arrow, out = text.partition("->")
    names = left.split(",")
    if not arrow or len(names) != 2 or not all(part.isalpha() or not part for part in (*names, out)):
        raise Unsupported(f"equation={text[:60]!r}; two operands of plain axes are known")
    a, b = names
    if any(len(set(part)) != len(part) for part in (a, b, out)):
        raise Unsupported(f"equation={text[:60]!r} repeats an axis")
    values = (call.value(0), call.value(1))
    extents: dict[str, int] = {}
    for part, value in zip(names, values, strict=True):
        if len(part) != len(value.shape):
            raise Malformed(f"equation={text[:60]!r} does not fit shapes {[v.shape for v in values]}")
        for axis, n in zip(part, value.shape, strict=True):
            if extents.setdefault(axis, n) != n:
                raise Malformed(f"axis {axis!r} of equation={text[:60]!r} is {extents[axis]} and {n} long")
    if set(out) - set(extents):
        raise Malformed(f"equation={text[:60]!r} makes axes that it does not read")
    batch = [i for i in out if i in a and i in b]
    summed = [i for i in a if i in b and i not in out]
    rows, columns = [i for i in a if i not in b], [i for i in b if i not in a]
    if any(i not in out for i in (*rows, *columns)):
        raise Unsupported(f"equation={text[:60]!r} sums over an axis of one operand")
    draft = call.draft

    def over(axes: list[str]) -> int:
        return math.prod(extents[i] for i in axes)

    def laid(value: Value, part: str, order: list[str], shape: Shape) -> Value:
        perm = [part.index(i) for i in order]
        if isinstance(value, Known):
            return value.transposed(perm).reshaped(shape)
        return draft.reshape(draft.transpose(value, perm), shape)

    lead = (over(batch),) if batch else ()
    first = laid(values[0], a, [*batch, *rows, *summed], (*lead, over(rows), over(summed)))
    second = laid(values[1], b, [*batch, *summed, *columns], (*lead, over(summed), over(columns)))
    constant = values[1]
    if isinstance(constant, Known) and isinstance(first, Made) and not batch:  # a linear layer's weight, axes merged
        turned = constant.transposed([b.index(i) for i in (*columns, *summed)])
        made = draft.linear(first, turned.reshaped((over(columns), over(summed))))
    else:
        made = product(draft, first, second)
    order = [*batch, *rows, *columns]
    whole = draft.reshape(made, tuple(extents[i] for i in order))
    return draft.transpose(whole, [order.index(i) for i in out])


RULES: dict[str, Rule] = {
    "Einsum": _einsum,
    "Gemm": gemm,
    "MatMul": _matmul,
    "com.microsoft.FusedGemm": _fused_gemm,
    "com.microsoft.FusedMatMul": _fused_matmul,
}
