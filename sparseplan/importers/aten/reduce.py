"""Rules for reductions and what is made of them."""

from __future__ import annotations

import math

import numpy as np

from sparseplan.importers.aten.base import Call, Result, Unsaid, floats, rule
from sparseplan.importers.aten.pointwise import scaled
from sparseplan.importers.draft import Draft, Made, Value


@rule("softmax", "_softmax", "_safe_softmax", "log_softmax", "_log_softmax")
def _softmax(c: Call) -> Value:
    x = c.made()
    return c.draft.along("log_softmax" if "log" in c.op else "softmax", x, int(c["dim"])) if x.rank else x


@rule("logsumexp")
def _logsumexp(c: Call) -> Value:
    d, x = c.draft, c.made()
    axes = c.axes("dim", x.rank)
    top = d.reduce("amax", x, axes, True)
    total = d.reduce("sum", d.same("exp", d.elementwise("sub", [x, top])), axes, True)
    return d.reshape(d.elementwise("add", [d.same("log", total), top]), c.shape)


@rule("mean", "sum", "amax", "amin")
def _reduce(c: Call) -> Value:
    x = c.made()
    return c.draft.reduce(c.op, x, c.axes("dim", x.rank), bool(c.get("keepdim", False)))


@rule("max", "min")
def _largest(c: Call) -> Result:
    """The values; numbers of places are known by their shapes alone, and drop out where nothing reads them."""
    x = c.made()
    kind = "a" + c.op
    if c.get("other") is not None:
        return c.draft.elementwise("maximum" if c.op == "max" else "minimum", [x, c.made("other")])
    if "dim" not in c.args:
        return c.draft.reduce(kind, x, range(x.rank), False)
    y = c.draft.reduce(kind, x, c.axes("dim", x.rank), bool(c.get("keepdim", False)))
    return [y, *places(c, x)]


def places(c: Call, x: Made) -> tuple[Made, ...]:
    """Numbers of places, by their shapes alone."""
    return c.draft.opaque(f"aten.{c.op}", [x], c.shapes[1:], 0)


def moments(draft: Draft, x: Made, axes: list[int], correction: float) -> tuple[Made, Made]:
    """Mean and variance over axes, which stay as extents of 1."""
    count = math.prod(x.shape[a] for a in axes)
    if count <= correction:
        raise Unsaid(f"it divides by {count} - {correction:g}")
    mean = draft.reduce("mean", x, axes, True)
    power = draft.reduce("mean", draft.same("square", draft.elementwise("sub", [x, mean])), axes, True)
    return mean, scaled(draft, power, count / (count - correction))


@rule("var", "std", "var_mean", "std_mean")
def _var(c: Call) -> Result:
    x = c.made()
    correction = c.get("correction")
    if correction is None:
        correction = 0 if c.get("unbiased") is False else 1
    mean, var = moments(c.draft, x, c.axes("dim", x.rank), float(correction))
    first = c.draft.same("sqrt", var) if c.op.startswith("std") else var
    y = c.draft.reshape(first, c.shape)
    return [y, c.draft.reshape(mean, c.shapes[1])] if c.op.endswith("mean") else y


@rule("linalg_vector_norm", "norm")
def _norm(c: Call) -> Value:
    d, x = c.draft, c.made()
    order = c.get("ord", c.get("p"))
    order = 2.0 if order is None else float(order)
    axes = c.axes("dim", x.rank)
    if order == math.inf:
        y = d.reduce("amax", d.same("abs", x), axes, True)
    elif order == 1:
        y = d.reduce("sum", d.same("abs", x), axes, True)
    elif order == 2:
        y = d.same("sqrt", d.reduce("sum", d.same("square", x), axes, True))
    elif order > 0:
        powers = d.same("power", d.same("abs", x), None, exponent=order)
        y = d.same("power", d.reduce("sum", powers, axes, True), None, exponent=1 / order)
    else:
        raise Unsaid(f"its order is {order:g}")
    return d.reshape(y, c.shape)


@rule("cumsum")
def _cumsum(c: Call) -> Value:
    """A product with a triangle of ones."""
    d, x = c.draft, c.made()
    if x.rank == 0:
        return x
    axis = int(c["dim"]) % x.rank
    n = x.shape[axis]
    if n > 256:
        raise Unsaid(f"it runs over {n} entries")
    perm = [i for i in range(x.rank) if i != axis] + [axis]
    back = [perm.index(i) for i in range(x.rank)]
    summed = d.matmul(d.transpose(x, perm), d.made(floats(np.triu(np.ones((n, n))))))
    return d.transpose(summed, back)
