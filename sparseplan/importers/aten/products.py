"""Rules for products of matrices, einsum, and attention."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from sparseplan.errors import NetworkError
from sparseplan.importers.aten.base import Call, Result, Unsaid, floats, rule, value
from sparseplan.importers.aten.pointwise import scaled, times
from sparseplan.importers.draft import Draft, Known, Made, Value


@rule("matmul", "mm", "bmm", "mv", "dot", "vdot", "inner", "linalg_vecdot")
def _matmul(c: Call) -> Value:
    first = "input" if "input" in c.args else "self"
    second = next(n for n in ("other", "mat2", "vec", "tensor", "y") if n in c.args)
    if c.op in ("inner", "linalg_vecdot") and len(c.shape) != 0:
        raise Unsaid("it sums over the last axes of tensors")
    return product(c.draft, value(c[first]), value(c[second]))


@rule("addmm", "baddbmm", "addmv", "addbmm")
def _addmm(c: Call) -> Value:
    if c.op == "addbmm":
        raise Unsaid("it sums over a batch of products")
    names = {"addmm": ("mat1", "mat2"), "baddbmm": ("batch1", "batch2"), "addmv": ("mat", "vec")}[c.op]
    a, b, plus = value(c[names[0]]), value(c[names[1]]), value(c["self"])
    beta, alpha = float(c["beta"]), float(c["alpha"])
    constants = isinstance(b, Known) and isinstance(plus, Known) and plus.shape == (b.shape[-1],)
    if alpha == 1 and beta == 1 and c.op == "addmm" and isinstance(a, Made) and constants:
        assert isinstance(b, Known)
        assert isinstance(plus, Known)
        if b.name and plus.name:
            return c.draft.linear(a, b.transposed((1, 0)), plus)
    y = times(c.draft, product(c.draft, a, b), alpha)
    return y if beta == 0 else c.draft.add(times(c.draft, plus, beta), y)


def product(draft: Draft, a: Value, b: Value, transpose_b: bool = False) -> Value:
    """``a @ b``; by a parameter it is a linear layer."""
    if isinstance(a, Made) and isinstance(b, Known) and b.name and len(b.shape) == 2 and a.rank >= 1:
        return draft.linear(a, b if transpose_b else b.transposed((1, 0)))
    return draft.matmul(draft.made(a), draft.made(b), transpose_b=transpose_b)


@rule("scaled_dot_product_attention", "_scaled_dot_product_flash_attention_for_cpu",
      "_scaled_dot_product_attention_math", "_scaled_dot_product_efficient_attention",
      "_scaled_dot_product_flash_attention")  # fmt: skip
def _attention(c: Call) -> Result:
    d = c.draft
    q, k, v = c.made("query"), c.made("key"), c.made("value")
    mask = c.get("attn_mask", c.get("attn_bias"))
    if c.get("dropout_p"):
        d.note("dropout of an attention that is on in eval mode, too, is read as off")
    if c.get("enable_gqa") and q.shape[-3] != k.shape[-3]:
        each = np.repeat(np.arange(k.shape[-3]), q.shape[-3] // k.shape[-3])
        k, v = d.gather(k, -3, each), d.gather(v, -3, each)
    scale = 1 / math.sqrt(q.shape[-1]) if c.get("scale") is None else float(c["scale"])
    scores: Value = scaled(d, d.matmul(q, k, transpose_b=True), scale)
    if c.get("is_causal"):
        keep = np.tril(np.ones((q.shape[-2], k.shape[-2]), bool))
        scores = d.add(scores, floats(np.where(keep, 0, -np.inf)))
    if mask is not None:
        if isinstance(mask, Known) and mask.array.dtype == bool:
            mask = floats(np.where(mask.array, 0, -np.inf))
        scores = d.add(scores, value(mask))
    scores = d.made(scores)
    y = d.matmul(d.along("softmax", scores, -1), v)
    return y if c.op == "scaled_dot_product_attention" else [y]


@rule("einsum")
def _einsum(c: Call) -> Value:
    operands = [value(v) for v in c["tensors"]]
    terms, output = _equation(c["equation"], [len(v.shape) for v in operands])
    label = terms[0]
    made = operands[0]
    for i, (term, operand) in enumerate(zip(terms[1:], operands[1:], strict=True), start=2):
        later = set(output).union(*terms[i:])
        made, label = _pair(c.draft, (made, label), (operand, term), later)
    return _arranged(c.draft, made, label, output)


def _equation(text: str, ranks: Sequence[int]) -> tuple[list[str], str]:
    """Labels of the operands and of the output; the axes of an ellipsis get capitals of their own."""
    left, arrow, output = text.replace(" ", "").partition("->")
    terms = left.split(",")
    free = [x for x in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if x not in text]
    most = max((r - len(t.replace("...", "")) for t, r in zip(terms, ranks, strict=True) if "..." in t), default=0)
    dots = "".join(free[:most])
    found = []
    for term, rank in zip(terms, ranks, strict=True):
        own = rank - len(term.replace("...", ""))
        found.append(term.replace("...", dots[len(dots) - own :] if own else ""))
    if not arrow:
        joined = "".join(found)
        output = dots + "".join(sorted(x for x in set(joined) if joined.count(x) == 1 and x not in dots))
    output = output.replace("...", dots)
    if any(len(set(t)) < len(t) for t in found):
        raise Unsaid(f"einsum {text!r} takes diagonals")
    return found, output


def _pair(draft: Draft, a: tuple[Value, str], b: tuple[Value, str], later: set[str]) -> tuple[Value, str]:
    """Product of two operands, summed over what nothing later names, as one product of matrices."""
    (x, left), (y, right) = a, b
    both = [n for n in left if n in right]
    batch = [n for n in both if n in later]
    summed = [n for n in both if n not in later]
    x, left = _summed(draft, x, left, later | set(both))
    y, right = _summed(draft, y, right, later | set(both))
    rows, columns = [n for n in left if n not in both], [n for n in right if n not in both]
    extent = dict(zip(right, y.shape, strict=True))
    for n, size in zip(left, x.shape, strict=True):
        if extent.get(n, 1) == 1:
            extent[n] = size
    label = "".join((*batch, *rows, *columns))
    if any(dict(zip(t, v.shape, strict=True))[n] != extent[n] for t, v in ((left, x), (right, y)) for n in both):
        raise Unsaid("einsum spreads an extent of 1")
    if isinstance(y, Known) and y.name is not None and not batch and len(summed) == 1 and len(columns) <= 1:
        # a parameter as the weight of a linear layer keeps its name
        turned = draft.made(_arranged(draft, x, left, "".join((*rows, *summed))))
        weight = _ordered(draft, y, right, "".join((*columns, *summed)))
        assert isinstance(weight, Known)
        made: Value = draft.linear(turned, weight.reshaped((math.prod(extent[n] for n in columns), weight.shape[-1])))
        return draft.reshape(draft.made(made), tuple(extent[n] for n in label)), label
    sizes = [math.prod(extent[n] for n in part) for part in (batch, rows, summed, columns)]
    m = draft.made(_arranged(draft, x, left, "".join((*batch, *rows, *summed))))
    k = draft.made(_arranged(draft, y, right, "".join((*batch, *columns, *summed))))
    one = draft.reshape(m, (sizes[0], sizes[1], sizes[2]))
    two = draft.reshape(k, (sizes[0], sizes[3], sizes[2]))
    done = draft.matmul(one, two, transpose_b=True)
    return draft.reshape(done, tuple(extent[n] for n in label)), label


def _ordered(draft: Draft, x: Value, label: str, wanted: str) -> Value:
    perm = [label.index(n) for n in wanted]
    if perm == sorted(perm):
        return x
    return x.transposed(perm) if isinstance(x, Known) else draft.transpose(x, perm)


def _summed(draft: Draft, x: Value, label: str, keep: set[str]) -> tuple[Value, str]:
    axes = [i for i, n in enumerate(label) if n not in keep]
    if not axes:
        return x, label
    return draft.reduce("sum", draft.made(x), axes, False), "".join(n for n in label if n in keep)


def _arranged(draft: Draft, x: Value, label: str, wanted: str) -> Value:
    """``x`` with the axes that are wanted, in their order, summed over the others."""
    if not set(wanted) <= set(label):
        raise NetworkError(f"einsum makes {wanted!r} from {label!r}")
    x, label = _summed(draft, x, label, set(wanted))
    return _ordered(draft, x, label, wanted)
