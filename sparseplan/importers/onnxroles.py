"""What constants of an ONNX graph are to it: weights, or numbers of formulas; read by one kind of op, or by several."""

from __future__ import annotations

from collections.abc import Iterator

from sparseplan.importers.onnxgraph import Graph, Model, Node

_RECURRENT = frozenset(("LSTM", "GRU", "RNN"))
#: ops that read weights
_WEIGHED = _RECURRENT | frozenset((
    "Conv", "ConvTranspose", "Gemm", "MatMul", "PRelu", "BatchNormalization", "LayerNormalization",
    "GroupNormalization", "InstanceNormalization", "Einsum",
))  # fmt: skip


def is_learned(name: str, model: Model) -> bool:
    """Whether a scalar of that name was learned: frameworks name parameters by module and attribute
    (``block1.scale``, ``mobile_one_block_0.w_0``), and numbers of formulas by what made them. Parameters of a
    PyTorch module itself have an attribute's name alone (``scale``), and what was folded has ``::`` or a number."""
    if model.kinds:
        return model.kinds.get(name) == "PARAMETER"
    plain = "/" not in name and "const" not in name.lower()
    return plain and ("." in name or (model.producer == "pytorch" and name.isidentifier()))


def constants(graph: Graph) -> Iterator[str]:
    """Names that parameters will have: initialisers, and what Constant nodes make."""
    yield from graph.constants
    for node in graph.nodes:
        if node.op == "Constant":
            yield from node.outputs
        for inner in node.graphs:
            yield from constants(inner)


def formulas(graph: Graph) -> Iterator[str]:
    """Constants that nodes hold and no op reads as weights: what is computed from them is a constant, too."""
    for node in graph.nodes:
        if node.op == "Constant":
            yield from (o for o in node.outputs if not any(r.op in _WEIGHED for r in _readers(graph, o)))
        for inner in node.graphs:
            yield from formulas(inner)


def is_shared(graph: Graph, name: str) -> bool:
    """Whether a constant is read by more than recurrent layers of one kind."""
    kinds = {node.op for node in _readers(graph, name)}
    return len(kinds) > 1 or not kinds <= _RECURRENT


def _readers(graph: Graph, name: str) -> Iterator[Node]:
    """Nodes that read a tensor, also under another name."""
    for node in graph.readers.get(name, ()):
        if node.op == "Identity":
            yield from _readers(graph, node.outputs[0])
        else:
            yield node
