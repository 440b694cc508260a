"""ONNX files as plain data: nodes in an order in which they can be computed, constants, declared shapes."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from sparseplan.errors import NetworkError
from sparseplan.importers.draft import Array, Known
from sparseplan.importers.onnxdata import DTYPES, MAX_AXES, Folder, array_of, text_of

#: beyond these a file is taken for hostile
MAX_NODES = 20_000
MAX_DEPTH = 16
MAX_ENTRIES = 10_000_000

_FLOAT, _INT, _STRING, _TENSOR, _GRAPH, _FLOATS, _INTS, _STRINGS, _TENSORS, _GRAPHS = range(1, 11)
_KINDS = ("undefined", "float", "int", "string", "tensor", "graph", "floats", "ints", "strings", "tensors", "graphs")


@dataclass(frozen=True, slots=True)
class Port:
    """A declared tensor: an extent is an int, the name of an open one, or None."""

    name: str
    dtype: int
    dims: tuple[int | str | None, ...] | None


@dataclass(frozen=True, slots=True)
class Value:
    """An attribute: ``kind`` as ONNX names it, and what it holds."""

    kind: str
    value: Any


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """An op of the file; ``op`` carries its domain where that is not ONNX's own."""

    name: str
    op: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: Mapping[str, Value]
    proto: Any

    @property
    def title(self) -> str:
        """How messages call it."""
        return title(self.name, self.outputs, self.op)

    @property
    def graphs(self) -> Iterator[Graph]:
        """Subgraphs."""
        for attr in self.attrs.values():
            if attr.kind == "graph":
                yield attr.value
            elif attr.kind == "graphs":
                yield from attr.value


def title(name: str, outputs: Sequence[str], op: str) -> str:
    """How messages call a node: by its name, or by what it makes."""
    shown = name or next((f"of {o}" for o in outputs if o), "")
    return f"node {short(shown)} ({op[:80]})"


def short(text: str) -> str:
    """``text`` quoted, cut where it is long."""
    return repr(text if len(text) <= 120 else text[:117] + "…")


@dataclass(frozen=True, eq=False)
class Graph:
    """A graph or subgraph.

    Attributes:
        nodes: in an order in which they can be computed.
        inputs: declared inputs that are no constants.
        constants: initialisers.
        declared: every tensor whose type the file tells.
        readers: tensor to the nodes that read it, also from within their subgraphs; once for each time.
    """

    name: str
    nodes: tuple[Node, ...]
    inputs: tuple[Port, ...]
    outputs: tuple[str, ...]
    constants: Mapping[str, Known]
    declared: Mapping[str, Port]
    readers: Mapping[str, tuple[Node, ...]] = field(default_factory=dict)

    @cached_property
    def makers(self) -> Mapping[str, Node]:
        """Tensor to the node that makes it."""
        return {name: node for node in self.nodes for name in node.outputs if name}


@dataclass(frozen=True, slots=True)
class Model:
    """A file: its graph, the opset of every domain (ONNX's own: ``""``), who wrote it.

    ``kinds`` says of initialisers what they were, where the exporter tells it (``PARAMETER``, ``BUFFER`` …).
    """

    graph: Graph
    opsets: Mapping[str, int]
    ir_version: int
    producer: str = ""
    kinds: Mapping[str, str] = field(default_factory=dict)
    #: opset of the file, where it was another than that of the graph
    converted: int | None = None


class GraphReader:
    """Reads the graphs of one file."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self._nodes = 0

    def graph(self, proto: Any, depth: int = 0, outer: frozenset[str] = frozenset()) -> Graph:
        """A graph and its subgraphs. Raises NetworkError."""
        if depth > MAX_DEPTH:
            raise NetworkError(f"subgraphs are nested more than {MAX_DEPTH} deep")
        self._nodes += len(proto.node)
        if self._nodes > MAX_NODES:
            raise NetworkError(f"over {MAX_NODES} nodes; no microcontroller's network has so many")
        if len(proto.sparse_initializer):
            raise NetworkError("sparse initialisers cannot be read; store them densely")
        constants: dict[str, Known] = {}
        for tensor in proto.initializer:
            name = text_of(tensor.name)
            where = f"initialiser {short(name)}"
            if not name or name in constants:
                raise NetworkError(f"{where}: {'used twice' if name else 'nameless'}; names must differ")
            constants[name] = Known(array_of(tensor, self.folder, where), name)
        ports = [_port(p, "input") for p in proto.input]
        inputs = tuple(p for p in ports if p.name not in constants)
        _distinct("input", [p.name for p in ports])
        declared = {p.name: p for p in (_port(v, "value") for v in proto.value_info)}
        outs = [_port(v, "output") for v in proto.output]
        declared |= {p.name: p for p in (*outs, *ports)}
        known = outer | constants.keys() | {p.name for p in ports}
        made = {text_of(o) for node in proto.node for o in node.output if o}
        seen = known | made
        nodes = [self._node(n, depth, seen) for n in proto.node]
        nodes = _sorted(nodes, known, {p.name for p in ports} | constants.keys())
        outputs = tuple(p.name for p in outs)
        for name in outputs:
            if name not in known and name not in made:
                raise NetworkError(f"output {short(name)} is made by no node")
        return Graph(text_of(proto.name), tuple(nodes), inputs, outputs, constants, declared, _readers(nodes))

    def _node(self, proto: Any, depth: int, outer: frozenset[str]) -> Node:
        domain, kind, name = text_of(proto.domain), text_of(proto.op_type), text_of(proto.name)
        domain = "" if domain == "ai.onnx" else domain
        op = f"{domain}.{kind}" if domain else kind
        inputs, outputs = (tuple(map(text_of, names)) for names in (proto.input, proto.output))
        said = title(name, outputs, op)
        try:
            if not proto.op_type:
                raise NetworkError("it has no op_type")
            attrs: dict[str, Value] = {}
            for attr in proto.attribute:
                key = text_of(attr.name)
                if key in attrs:
                    raise NetworkError(f"attribute {short(key)} is given twice")
                attrs[key] = self._attr(attr, depth, outer)
        except NetworkError as error:
            raise NetworkError(f"{said}: {error}") from None
        return Node(name, op, domain, inputs, outputs, attrs, proto)

    def _attr(self, attr: Any, depth: int, outer: frozenset[str]) -> Value:
        where, kind = f"attribute {short(text_of(attr.name))}", attr.type
        if attr.ref_attr_name:
            raise NetworkError(f"{where} refers to a function's attribute, outside of a function")
        if not 1 <= kind < len(_KINDS):
            raise NetworkError(f"{where} is of type {kind}, which cannot be read")
        value: Any
        if kind == _FLOAT:
            value = float(attr.f)
        elif kind == _INT:
            value = int(attr.i)
        elif kind == _STRING:
            value = text_of(attr.s)
        elif kind == _TENSOR:
            value = array_of(attr.t, self.folder, where)
        elif kind == _GRAPH:
            value = self.graph(attr.g, depth + 1, outer)
        elif kind in (_FLOATS, _INTS, _STRINGS):
            items = {_FLOATS: attr.floats, _INTS: attr.ints, _STRINGS: attr.strings}[kind]
            if len(items) > MAX_ENTRIES:
                raise NetworkError(f"{where} holds {len(items)} entries; at most {MAX_ENTRIES} are read")
            value = tuple(text_of(i) if kind == _STRINGS else i for i in items)
        elif kind == _TENSORS:
            value = tuple(array_of(t, self.folder, where) for t in attr.tensors)
        else:
            value = tuple(self.graph(g, depth + 1, outer) for g in attr.graphs)
        return Value(_KINDS[kind], value)


def _port(proto: Any, what: str) -> Port:
    name = text_of(proto.name)
    if not name:
        raise NetworkError(f"an {what} has no name" if what[0] in "io" else f"a {what} has no name")
    kind = proto.type.WhichOneof("value")
    if kind is None and what != "input":
        return Port(name, 0, None)
    if kind != "tensor_type":
        if what != "input":
            return Port(name, 0, None)
        raise NetworkError(f"input {short(name)} is no tensor ({kind or 'of no type'}); only tensors can be read")
    tensor = proto.type.tensor_type
    if what == "input" and tensor.elem_type not in DTYPES:
        raise NetworkError(
            f"input {short(name)} has element type {tensor.elem_type}, which cannot be read; use numbers"
        )
    if not tensor.HasField("shape"):
        return Port(name, tensor.elem_type, None)
    if len(tensor.shape.dim) > MAX_AXES:
        raise NetworkError(f"{what} {short(name)} has {len(tensor.shape.dim)} axes; at most {MAX_AXES} are read")
    return Port(name, tensor.elem_type, tuple(map(_extent, tensor.shape.dim)))


def _extent(dim: Any) -> int | str | None:
    if dim.HasField("dim_value") and dim.dim_value > 0:
        return int(dim.dim_value)
    name = text_of(dim.dim_param)
    return name if name and name != "?" else None


def _distinct(what: str, names: Sequence[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise NetworkError(f"{what} {short(name)} is there twice; names must differ")
        seen.add(name)


def captured(node: Node) -> Iterator[str]:
    """What a node reads: its inputs, and what its subgraphs take from outside."""
    yield from (i for i in node.inputs if i)
    for graph in node.graphs:
        yield from outside(graph)


def outside(graph: Graph) -> Iterator[str]:
    """What a graph takes from outside."""
    inside = graph.constants.keys() | {p.name for p in graph.inputs}
    for node in graph.nodes:
        yield from (name for name in captured(node) if name not in inside)
        inside |= set(node.outputs)
    yield from (name for name in graph.outputs if name not in inside)


def trimmed(graph: Graph, wanted: Collection[str]) -> Graph:
    """A graph without what nothing reads: nodes that lead to none of ``wanted``, and the names of outputs that have
    no reader, which exporters give to every optional output. ``wanted`` may lie in subgraphs, too."""
    read, kept = set(wanted), list[Node]()
    for node in reversed(graph.nodes):
        attrs = {name: _trimmed_value(value, wanted) for name, value in node.attrs.items()}
        outputs = tuple(name if name in read else "" for name in node.outputs)
        inner = Node(node.name, node.op, node.domain, node.inputs, outputs, attrs, node.proto)
        if any(outputs) or any(not read.isdisjoint(_names(g)) for g in inner.graphs):
            kept.append(inner)
            read.update(captured(inner))
    kept.reverse()
    return replace(graph, nodes=tuple(kept), readers=_readers(kept))


def _trimmed_value(value: Value, wanted: Collection[str]) -> Value:
    if value.kind == "graph":
        return Value(value.kind, trimmed(value.value, {*wanted, *value.value.outputs}))
    if value.kind == "graphs":
        return Value(value.kind, tuple(trimmed(g, {*wanted, *g.outputs}) for g in value.value))
    return value


def _names(graph: Graph) -> Iterator[str]:
    """What the nodes of a graph and of its subgraphs make."""
    for node in graph.nodes:
        yield from filter(None, node.outputs)
        for inner in node.graphs:
            yield from _names(inner)


def known_names(graph: Graph) -> frozenset[str]:
    """All tensors that a graph and its subgraphs know."""
    names = {*_names(graph), *graph.constants, *(p.name for p in graph.inputs)}
    for node in graph.nodes:
        for inner in node.graphs:
            names |= known_names(inner)
    return frozenset(names)


def _readers(nodes: Sequence[Node]) -> dict[str, tuple[Node, ...]]:
    table: dict[str, list[Node]] = {}
    for node in nodes:
        for name in captured(node):
            table.setdefault(name, []).append(node)
    return {name: tuple(found) for name, found in table.items()}


def _sorted(nodes: list[Node], known: frozenset[str], own: frozenset[str] | set[str]) -> list[Node]:
    """Nodes in an order in which they can be computed, as near to the file's as can be. Raises NetworkError."""
    maker: dict[str, int] = {}
    for i, node in enumerate(nodes):
        if not any(node.outputs) and not node.outputs:
            raise NetworkError(f"{node.title}: it has no outputs")
        for name in filter(None, node.outputs):
            if name in maker:
                raise NetworkError(f"{node.title}: {nodes[maker[name]].title} makes {short(name)} already")
            if name in own:
                raise NetworkError(f"{node.title}: makes {short(name)}, which is an input or an initialiser")
            maker[name] = i
    waits, after = [0] * len(nodes), [list[int]() for _ in nodes]
    for i, node in enumerate(nodes):
        for name in set(captured(node)):
            if name in maker:
                waits[i] += 1
                after[maker[name]].append(i)
            elif name not in known:
                raise NetworkError(f"{node.title}: reads {short(name)}, which no node makes and which is no input")
    ready = [i for i, n in enumerate(waits) if not n]
    order = []
    while ready:
        i = heapq.heappop(ready)
        order.append(nodes[i])
        for j in after[i]:
            waits[j] -= 1
            if not waits[j]:
                heapq.heappush(ready, j)
    if len(order) < len(nodes):
        i = next(j for j, n in enumerate(waits) if n)
        path: dict[int, int] = {}
        while i not in path:
            path[i] = len(path)
            i = next(maker[name] for name in captured(nodes[i]) if name in maker and waits[maker[name]])
        loop = [nodes[j].title for j in (*list(path)[path[i] :][:5], i)]
        raise NetworkError(f"nodes form a cycle: {' reads '.join(loop)}; a network must be acyclic")
    return order


def as_array(value: Any, dtype: np.dtype[Any]) -> Array:
    """A number or array from outside as one of ``dtype``. Raises NetworkError."""
    try:
        array = np.asarray(value)
        if array.dtype.kind not in "biuf":
            raise NetworkError(f"{value!r} is neither a number nor an array of numbers")
        return array.astype(dtype)
    except (TypeError, ValueError):
        raise NetworkError(f"{value!r} is neither a number nor an array of numbers") from None
