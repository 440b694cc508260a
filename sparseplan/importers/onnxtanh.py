"""GELU by its approximation with tanh, which exporters write as eight or nine nodes in many an order.

It is looked for from its last product backwards: as an expression in one tensor ``x`` whose factors are ``x``, a
half, and ``1 + tanh(p)`` with ``p`` a polynomial in ``x``. What was said of the nodes before is read by nobody then,
and left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

from sparseplan.importers.draft import Draft
from sparseplan.importers.onnxfusions import Find, Found
from sparseplan.importers.onnxgraph import Graph, Node
from sparseplan.importers.values import Known, Made

_ROOT = math.sqrt(2 / math.pi)
#: how many products and sums lie one within the other
_DEPTH = 6

Polynomial = dict[int, float]


class _Expression:
    """Nodes that make a value, read as factors and polynomials."""

    def __init__(self, makers: Mapping[str, Node], find: Find, x: str) -> None:
        self.makers, self.find, self.x = makers, find, x

    def number(self, name: str) -> float | None:
        found = self.find(name)
        if isinstance(found, Known) and found.array.size == 1 and found.array.dtype.kind == "f":
            return float(found.array.reshape(()))
        return None

    def polynomial(self, name: str, depth: int = 0) -> Polynomial | None:
        """Powers of ``x`` to their coefficients; None where a name is none in ``x``."""
        if name == self.x:
            return {1: 1.0}
        number = self.number(name)
        if number is not None:
            return {0: number}
        node = self.makers.get(name)
        if node is None or depth > _DEPTH or len(node.inputs) != 2:
            return None
        if node.op == "Pow":
            base, power = self.polynomial(node.inputs[0], depth + 1), self.number(node.inputs[1])
            return {3: base[1] ** 3} if base is not None and list(base) == [1] and power == 3 else None
        a, b = (self.polynomial(i, depth + 1) for i in node.inputs)
        if a is None or b is None or node.op not in ("Add", "Mul"):
            return None
        if node.op == "Add":
            return {n: a.get(n, 0.0) + b.get(n, 0.0) for n in a.keys() | b.keys()}
        made: Polynomial = {}
        for i, left in a.items():
            for j, right in b.items():
                made[i + j] = made.get(i + j, 0.0) + left * right
        return made if max(made, default=0) <= 3 else None

    def factors(self, name: str, depth: int = 0) -> list[str] | None:
        """What is multiplied with one another; None where it is too much."""
        node = self.makers.get(name)
        if name == self.x or node is None or node.op != "Mul" or len(node.inputs) != 2:
            return [name]
        if depth > _DEPTH:
            return None
        a, b = (self.factors(i, depth + 1) for i in node.inputs)
        return None if a is None or b is None else a + b

    def gate(self, name: str) -> Polynomial | None:
        """``p`` of ``1 + tanh(p)``."""
        node = self.makers.get(name)
        if node is None or node.op != "Add" or len(node.inputs) != 2:
            return None
        for one, curve in (node.inputs, node.inputs[::-1]):
            tanh = self.makers.get(curve)
            if tanh is not None and tanh.op == "Tanh" and len(tanh.inputs) == 1 and self.number(one) == 1:
                return self.polynomial(tanh.inputs[0])
        return None

    def is_gelu(self, name: str) -> bool:
        """Whether a name is the approximation of GELU of ``x``."""
        factors = self.factors(name)
        if factors is None or len(factors) > 4 or factors.count(self.x) != 1:
            return False
        numbers = [n for f in factors if (n := self.number(f)) is not None]
        gates = [p for f in factors if f != self.x and (p := self.gate(f)) is not None]
        if len(numbers) + len(gates) + 1 != len(factors) or len(gates) != 1 or math.prod(numbers) != 0.5:
            return False
        wanted = {1: _ROOT, 3: _ROOT * 0.044715}
        p = {n: c for n, c in gates[0].items() if c}
        return p.keys() == wanted.keys() and all(math.isclose(p[n], c, rel_tol=1e-6) for n, c in wanted.items())


def tanh_gelu(node: Node, graph: Graph, find: Find) -> Found | None:
    """A product that is the approximation of GELU of some tensor."""
    makers = graph.makers
    if len(node.inputs) != 2 or not any(_near_tanh(i, makers) for i in node.inputs):
        return None
    candidates = dict.fromkeys(node.inputs)
    for name in node.inputs:
        inner = makers.get(name)
        if inner is not None and inner.op == "Mul":
            candidates |= dict.fromkeys(inner.inputs)
    for name in candidates:
        x = find(name)
        if isinstance(x, Made) and _Expression(makers, find, name).is_gelu(node.outputs[0]):
            return Found([node], node.outputs[0], partial(_gelu, x))
    return None


def _gelu(x: Made, draft: Draft) -> Made:
    return draft.same("gelu", x, approximate="tanh")


def _near_tanh(name: str, makers: Mapping[str, Node], depth: int = 0) -> bool:
    """Whether ``1 + tanh`` stands within a few products, so that looking closer is worth it."""
    node = makers.get(name)
    if node is None or depth > 2:
        return False
    if node.op == "Add":
        return any((inner := makers.get(i)) is not None and inner.op == "Tanh" for i in node.inputs)
    return node.op == "Mul" and any(_near_tanh(i, makers, depth + 1) for i in node.inputs)
