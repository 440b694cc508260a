"""Patterns of nodes that exporters write for one op: taking them as one saves memory in training.

A pattern begins at the node that is asked, and is taken only if nothing outside reads what it makes in
between. Constants must have exactly the values that make both functions the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sparseplan.errors import NetworkError
from sparseplan.importers.draft import Draft, Known, Made, Value, axis_of
from sparseplan.importers.onnxcall import Held
from sparseplan.importers.onnxgraph import Graph, Node

Find = Callable[[str], "Held | None"]


@dataclass(frozen=True, slots=True)
class Found:
    """A pattern's nodes, the last being the one that makes ``output``, and how it is said in a draft."""

    nodes: Sequence[Node]
    output: str
    make: Callable[[Draft], Value]


class _Path:
    """Nodes of a pattern, followed from output to only reader."""

    def __init__(self, graph: Graph, find: Find, start: Node) -> None:
        self.graph, self.find, self.nodes = graph, find, [start]

    def only_reader(self, tensor: str) -> Node | None:
        readers = self.graph.readers.get(tensor, ())
        return readers[0] if len(readers) == 1 and tensor not in self.graph.outputs else None

    def step(self, tensor: str, op: str) -> tuple[str, str] | None:
        """On to the only reader if it is an ``op``: its other input (or "") and its output."""
        node = self.only_reader(tensor)
        if node is None or node.op != op or len(node.outputs) != 1:
            return None
        self.nodes.append(node)
        rest = [i for i in node.inputs if i != tensor]
        return (rest[0] if rest else "", node.outputs[0])

    def number(self, name: str) -> float | None:
        """The one constant number of a name."""
        found = self.find(name) if name else None
        if isinstance(found, Known) and found.array.size == 1 and found.array.dtype.kind == "f":
            return float(found.array.reshape(()))
        return None

    def is_number(self, name: str, value: float) -> bool:
        number = self.number(name)
        return number is not None and math.isclose(number, value, rel_tol=1e-6, abs_tol=1e-12)


def _tensor(find: Find, name: str) -> Made | None:
    found = find(name)
    return found if isinstance(found, Made) else None


def _other(node: Node, name: str) -> str | None:
    rest = [i for i in node.inputs if i != name]
    return rest[0] if len(rest) == 1 and len(node.inputs) == 2 else None


def gelu(node: Node, graph: Graph, find: Find) -> Found | None:
    """``x / sqrt(2)`` or ``x * sqrt(1/2)``, Erf, + 1, * x, * 0.5 in either order of the two products."""
    path = _Path(graph, find, node)
    name = next((i for i in node.inputs if isinstance(find(i), Made)), None)
    if name is None or len(node.inputs) != 2 or (x := _tensor(find, name)) is None:
        return None
    factor = math.sqrt(2) if node.op == "Div" else math.sqrt(0.5)
    if (node.op == "Div" and node.inputs[0] != name) or not path.is_number(_other(node, name) or "", factor):
        return None
    erf = path.step(node.outputs[0], "Erf")
    plus = erf and path.step(erf[1], "Add")
    if not plus or not path.is_number(plus[0], 1.0):
        return None
    first = path.step(plus[1], "Mul")
    if not first:
        return None
    if path.is_number(first[0], 0.5) or first[0] == name:
        second = path.step(first[1], "Mul")
        wanted = name if first[0] != name else None
        if not second or not (second[0] == name if wanted else path.is_number(second[0], 0.5)):
            return None
        out = second[1]
    else:  # (0.5 * x) * (1 + erf)
        half = next((n for n in graph.nodes if n.outputs[:1] == (first[0],)), None)
        if half is None or half.op != "Mul" or path.only_reader(first[0]) is None:
            return None
        if name not in half.inputs or not path.is_number(_other(half, name) or "", 0.5):
            return None
        out = first[1]
    return Found(path.nodes, out, lambda draft: draft.same("gelu", x))


def layer_norm(node: Node, graph: Graph, find: Find) -> Found | None:
    """ReduceMean, Sub, Pow 2 (or a square by Mul), ReduceMean, Add eps, Sqrt, Div, and Mul and Add if there."""
    x = _tensor(find, node.inputs[0])
    if x is None or len(node.outputs) != 1:
        return None
    dims = _trailing(node, find, x.rank)
    path = _Path(graph, find, node)
    sub = path.only_reader(node.outputs[0])
    if dims is None or sub is None or sub.op != "Sub" or tuple(sub.inputs) != (node.inputs[0], node.outputs[0]):
        return None
    centred = sub.outputs[0]
    readers = graph.readers.get(centred, ())
    if centred in graph.outputs:
        return None
    square = next((n for n in readers if n.op in ("Pow", "Mul") and n.inputs[0] == centred), None)
    div = next((n for n in readers if n.op == "Div" and n.inputs[0] == centred), None)
    if square is None or div is None or len({id(n) for n in readers}) != 2:
        return None
    path.nodes += [sub, square]
    if square.op == "Pow" and not path.is_number(square.inputs[1], 2.0):
        return None
    if square.op == "Mul" and tuple(square.inputs) != (centred, centred):
        return None
    mean = path.step(square.outputs[0], "ReduceMean")
    if not mean or _trailing(path.nodes[-1], find, x.rank) != dims:
        return None
    plus = path.step(mean[1], "Add")
    eps = path.number(plus[0]) if plus else None
    root = path.step(plus[1], "Sqrt") if plus else None
    last = path.step(root[1], "Div") if root else None
    if not last or path.nodes[-1] is not div or eps is None or not 0 < eps < 1:
        return None
    out, params = last[1], {}
    shape = x.shape[x.rank - dims :]
    for op, slot in (("Mul", "weight"), ("Add", "bias")):
        reader = path.only_reader(out)
        value = find(_other(reader, out) or "") if reader is not None and reader.op == op else None
        if reader is None or not isinstance(value, Known) or value.array.dtype.kind != "f":
            continue
        while len(value.shape) > len(shape) and value.shape[0] == 1:
            value = value.reshaped(value.shape[1:])
        if value.shape != shape:
            if slot == "weight":
                break
            continue
        params[slot] = value
        path.nodes.append(reader)
        out = reader.outputs[0]

    def make(draft: Draft) -> Value:
        tensor = draft.full(x) if dims == x.rank else x.tensor
        return draft.wrap(draft.op("layer_norm", [tensor], params, dims=dims, eps=eps), x.shape)

    return Found(path.nodes, out, make)


def _trailing(node: Node, find: Find, rank: int) -> int | None:
    """How many trailing axes a ReduceMean takes the mean over, which it keeps; None if others."""
    keep, attr = node.attrs.get("keepdims"), node.attrs.get("axes")
    axes = list(attr.value) if attr is not None and attr.kind == "ints" else None
    if len(node.inputs) > 1:
        found = find(node.inputs[1])
        axes = [int(a) for a in found.array.reshape(-1)] if isinstance(found, Known) else None
    if (keep is not None and keep.value != 1) or not axes or any(not -rank <= a < rank for a in axes):
        return None
    at = sorted(axis_of(a, rank) for a in axes)
    return len(at) if at == list(range(rank - len(at), rank)) else None


def silu(node: Node, graph: Graph, find: Find) -> Found | None:
    """``x * Sigmoid(x)``."""
    return _gated(node, graph, find, "silu")


def hard_gate(node: Node, graph: Graph, find: Find) -> Found | None:
    """``x * HardSigmoid(x)`` with a slope of 1/6 is a hard swish."""
    alpha, beta = node.attrs.get("alpha"), node.attrs.get("beta")
    if alpha is None or not math.isclose(float(alpha.value), 1 / 6, rel_tol=1e-6):
        return None
    return _gated(node, graph, find, "hardswish") if beta is None or float(beta.value) == 0.5 else None


def _gated(node: Node, graph: Graph, find: Find, kind: str) -> Found | None:
    x = _tensor(find, node.inputs[0])
    path = _Path(graph, find, node)
    product = path.step(node.outputs[0], "Mul")
    if x is None or not product or product[0] != node.inputs[0]:
        return None
    return Found(path.nodes, product[1], lambda draft: draft.same(kind, x))


def hard_swish(node: Node, graph: Graph, find: Find) -> Found | None:
    """``x * clip(x + 3, 0, 6) / 6``."""
    path = _Path(graph, find, node)
    name = next((i for i in node.inputs if isinstance(find(i), Made)), None)
    if name is None or len(node.inputs) != 2 or not path.is_number(_other(node, name) or "", 3.0):
        return None
    x, clip = _tensor(find, name), path.only_reader(node.outputs[0])
    if x is None or clip is None or clip.op != "Clip" or len(clip.inputs) != 3:
        return None
    low, high = path.number(clip.inputs[1]), path.number(clip.inputs[2])
    if (low, high) != (0.0, 6.0):
        return None
    path.nodes.append(clip)
    product = path.step(clip.outputs[0], "Mul")
    if not product or product[0] != name:
        return None
    last = path.only_reader(product[1])
    if last is None or last.op not in ("Div", "Mul") or len(last.outputs) != 1:
        return None
    other = _other(last, product[1]) or ""
    if not path.is_number(other, 6.0 if last.op == "Div" else 1 / 6) or (
        last.op == "Div" and last.inputs[0] != product[1]
    ):
        return None
    path.nodes.append(last)
    return Found(path.nodes, last.outputs[0], lambda draft: draft.same("hardswish", x))


def product_and_bias(node: Node, graph: Graph, find: Find) -> Found | None:
    """MatMul with a constant matrix, then Add of a constant vector: one linear layer."""
    if len(node.inputs) != 2:
        return None
    x, weight = _tensor(find, node.inputs[0]), find(node.inputs[1])
    path = _Path(graph, find, node)
    plus = path.step(node.outputs[0], "Add")
    bias = find(plus[0]) if plus else None
    if x is None or not plus or not isinstance(weight, Known) or not isinstance(bias, Known):
        return None
    if len(weight.shape) != 2 or bias.array.size != weight.shape[1] or bias.shape[-1:] != weight.shape[1:]:
        return None
    if len(bias.shape) > x.rank or not np.issubdtype(bias.array.dtype, np.floating):
        return None
    return Found(path.nodes, plus[1], lambda draft: draft.linear(x, weight.transposed((1, 0)), bias))


def scale_and_shift(node: Node, graph: Graph, find: Find) -> Found | None:
    """A product with one number, then a sum with one number."""
    path = _Path(graph, find, node)
    name = next((i for i in node.inputs if isinstance(find(i), Made)), None)
    x = _tensor(find, name) if name is not None else None
    if name is None or x is None or len(node.inputs) != 2 or (node.op == "Div" and node.inputs[0] != name):
        return None
    other = _other(node, name) or ""
    scale = path.number(other)
    plus = path.step(node.outputs[0], "Add") if scale else None
    shift = path.number(plus[0]) if plus else None
    if not scale or plus is None or shift is None:
        return None
    factor = scale if node.op == "Mul" else 1 / scale
    constants = [c for c in (find(other), find(plus[0])) if c is not None]
    if not (math.isfinite(factor) and math.isfinite(shift)) or any(len(c.shape) > x.rank for c in constants):
        return None

    def make(draft: Draft) -> Value:
        if any(c.name and draft.learned(c.name) for c in constants if isinstance(c, Known)):
            raise NetworkError("one of the numbers was learned")
        return draft.same("scale_shift", x, scale=factor, shift=shift)

    return Found(path.nodes, plus[1], make)


def softplus(node: Node, graph: Graph, find: Find) -> Found | None:
    """``x`` where it is greater than 20 or so, else Softplus of it: in fp32 the same. Begins at Greater."""
    path = _Path(graph, find, node)
    choice = path.only_reader(node.outputs[0])
    if choice is None or choice.op != "Where" or len(choice.inputs) != 3 or choice.inputs[0] != node.outputs[0]:
        return None
    x, soft = _tensor(find, choice.inputs[1]), _tensor(find, choice.inputs[2])
    if x is None or soft is None or find(node.inputs[0]) != x or (path.number(node.inputs[1]) or 0.0) < 17:
        return None

    def make(draft: Draft) -> Value:
        op = next((op for op in reversed(draft.net.parts()[2]) if op.output == soft.tensor), None)
        if op is None or (op.kind, op.inputs) != ("softplus", (x.tensor,)):
            raise NetworkError("no softplus of the same")
        return soft

    return Found([node, choice], choice.outputs[0], make)


Pattern = Callable[[Node, Graph, Find], "Found | None"]

#: op that a pattern begins with to the patterns
FUSIONS: dict[str, tuple[Pattern, ...]] = {
    "Div": (gelu, scale_and_shift),
    "Mul": (gelu, scale_and_shift),
    "ReduceMean": (layer_norm,),
    "Greater": (softplus,),
    "Sigmoid": (silu,),
    "HardSigmoid": (hard_gate,),
    "Add": (hard_swish,),
    "MatMul": (product_and_bias,),
}
