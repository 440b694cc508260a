"""A network as data: tensors, ops in execution order, structural checks, a networkx view.

Shapes are per sample: activations have an implicit leading batch axis, so an image is
``(channels, height, width)``. Parameters have no batch axis. Layouts are PyTorch's.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any, Literal

import networkx as nx

from sparseplan.errors import NetworkError, near
from sparseplan.scalars import plain_fields

Role = Literal["input", "activation", "parameter"]
Attr = int | float | str | bool | tuple[int, ...]

#: beyond these a spec is taken for hostile rather than for a microcontroller's network
MAX_ELEMENTS = 2**40
MAX_RANK = 8
MAX_NAME = 512

#: storage types that a tensor of a network may be given; i32: an input of integers
TENSOR_DTYPES = ("fp32", "fp16", "bf16", "int8", "i32")


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def check_name(name: object, what: str) -> str:
    """``name`` itself if it can name a tensor, an op or a network.

    Raises:
        NetworkError: not a string, empty, over 512 characters, or with characters that do not
            print (which would garble tables and messages).
    """
    if not isinstance(name, str) or not 1 <= len(name) <= MAX_NAME or not name.isprintable():
        shown = repr(name)
        shown = shown if len(shown) <= 80 else shown[:80] + "…"
        raise NetworkError(f"{what} name={shown} must be a string of 1 to {MAX_NAME} printable characters")
    return name


@dataclass(frozen=True)
class Tensor:
    """A named array.

    Attributes:
        shape: per sample, without the batch axis; every extent is at least 1.
        role: ``input`` of the network, ``activation`` (an op's output) or ``parameter``.
        dtype: storage type, or None for the plan's own; ``i32`` for inputs that hold integers.
        scale: value of one quantum; given with ``int8`` and only then.

    Raises:
        NetworkError: a field of the wrong type, or a value that no tensor can have.
    """

    name: str
    shape: tuple[int, ...]
    role: Role = "activation"
    dtype: str | None = None
    scale: float | None = None

    def __post_init__(self) -> None:
        plain_fields(self)
        where = f"tensor {check_name(self.name, 'tensor')!r}"
        if not isinstance(self.shape, tuple) or len(self.shape) > MAX_RANK or not all(map(_is_int, self.shape)):
            raise NetworkError(
                f"{where}: shape={reprlib.repr(self.shape)} must be a tuple of at most {MAX_RANK} integers"
            )
        if any(n < 1 for n in self.shape):
            raise NetworkError(f"{where}: shape={self.shape} has an extent below 1; every extent must be at least 1")
        if math.prod(self.shape) > MAX_ELEMENTS:
            raise NetworkError(f"{where}: shape={reprlib.repr(self.shape)} has over 2**40 elements; use fewer")
        if self.role not in ("input", "activation", "parameter"):
            raise NetworkError(f"{where}: role={self.role!r} is not input, activation or parameter")
        if self.dtype is not None and self.dtype not in TENSOR_DTYPES:
            raise NetworkError(f"{where}: dtype={self.dtype!r} is unknown{near(str(self.dtype), TENSOR_DTYPES)}")
        if self.dtype == "i32" and self.role != "input":
            raise NetworkError(f"{where}: dtype=i32 with role={self.role!r}; only inputs of a network hold integers")
        if (self.dtype == "int8") != (self.scale is not None):
            raise NetworkError(f"{where}: scale={self.scale} with dtype={self.dtype}; int8 needs a scale, others none")
        if self.scale is not None:
            number = isinstance(self.scale, (int, float)) and not isinstance(self.scale, bool)
            if not (number and math.isfinite(self.scale) and self.scale > 0):
                raise NetworkError(f"{where}: scale={self.scale!r} must be finite and positive")

    @property
    def elements(self) -> int:
        """Number of elements of one sample."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Op:
    """One operation: ``output = kind(*inputs; **params, **attrs)``.

    Attributes:
        inputs: names of activations or network inputs, in slot order.
        output: name of the one tensor it makes.
        params: parameter slot (``weight``, ``bias``) to tensor name.
        attrs: hyper-parameters (stride, slope, …) as the op's definition names them.

    Raises:
        NetworkError: a field of the wrong type, an attribute that is not finite.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    output: str
    params: Mapping[str, str] = field(default_factory=dict)
    attrs: Mapping[str, Attr] = field(default_factory=dict)

    def __post_init__(self) -> None:
        plain_fields(self)
        where = f"op {check_name(self.name, 'op')!r}"
        check_name(self.kind, f"{where}: kind")
        if isinstance(self.inputs, str) or not isinstance(self.inputs, Sequence):
            raise NetworkError(f"{where}: inputs={reprlib.repr(self.inputs)} must be a tuple of tensor names")
        object.__setattr__(self, "inputs", tuple(self.inputs))
        for t in (*self.inputs, self.output):
            check_name(t, f"{where}: tensor")
        for slot, p in self.params.items():
            check_name(slot, f"{where}: parameter slot")
            check_name(p, f"{where}: {slot}")
        for key, value in self.attrs.items():
            check_name(key, f"{where}: attribute")
            if not _is_attr(value):
                raise NetworkError(
                    f"{where}: {key}={reprlib.repr(value)} must be a finite number, a string, "
                    "true or false, or a tuple of integers"
                )
        object.__setattr__(self, "params", MappingProxyType(dict(self.params)))
        object.__setattr__(self, "attrs", MappingProxyType(dict(self.attrs)))

    def __reduce__(self) -> tuple[Any, ...]:
        # mapping proxies do not copy; rebuild from plain dicts (deepcopy, multiprocessing)
        return (Op, (self.name, self.kind, self.inputs, self.output, dict(self.params), dict(self.attrs)))

    def __hash__(self) -> int:
        return hash((self.name, self.kind, self.inputs, self.output))


def _is_attr(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, tuple):
        return all(map(_is_int, value))
    return isinstance(value, (int, str))


def check_order(where: str, ops: Sequence[Op], ready: Iterable[str]) -> None:
    """Check that every op reads what ``ready`` holds or an earlier op made.

    Raises:
        NetworkError: naming the cycle, or the two ops that are out of order, or the tensor that
            nobody makes.
    """
    known = set(ready)
    maker = {op.output: op.name for op in ops}
    for op in ops:
        for t in op.inputs:
            if t in known:
                continue
            if t not in maker:
                raise NetworkError(
                    f"{where}: op {op.name!r} reads tensor {t!r}, which no op makes and which is no input"
                    + near(t, known | maker.keys())
                )
            cycle = _cycle(ops)
            if cycle:
                raise NetworkError(
                    f"{where}: ops form a cycle: {' -> '.join(map(repr, cycle))}; a network must be acyclic, unroll it"
                )
            raise NetworkError(
                f"{where}: ops are out of order: {op.name!r} reads tensor {t!r}, which {maker[t]!r} makes later; "
                f"list {maker[t]!r} before {op.name!r}"
            )
        known.add(op.output)


def _cycle(ops: Sequence[Op]) -> list[str]:
    """Names of ops around one cycle, the first repeated at the end (cut in the middle when long)."""
    maker = {op.output: op.name for op in ops}
    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_edges_from((maker[t], op.name) for op in ops for t in op.inputs if t in maker)
    # nx.find_cycle takes quadratic time on long chains; components are linear, and inside one
    # of two or more nodes every walk comes back to where it has been
    loops = {name for name in graph if graph.has_edge(name, name)}
    rounds = [part for part in nx.strongly_connected_components(graph) if len(part) > 1 or part & loops]
    if not rounds:
        return []
    at = next(op.name for op in ops if op.name in rounds[0])
    walk: dict[str, int] = {}
    while at not in walk:
        walk[at] = len(walk)
        at = next(name for name in graph.successors(at) if name in rounds[0])
    names = list(walk)[walk[at] :]
    if len(names) > 12:
        names = [*names[:6], "…", *names[-5:]]
    return [*names, names[0]]


@dataclass(frozen=True)
class Network:
    """Ops in execution order over named tensors.

    Raises:
        NetworkError: duplicate or dangling names, ops out of order (or a cycle), a tensor
            written twice, an output that no op makes, a tensor that nothing makes or nothing
            reads.
    """

    name: str
    tensors: tuple[Tensor, ...]
    ops: tuple[Op, ...]
    outputs: tuple[str, ...]

    def __post_init__(self) -> None:
        check_name(self.name, "network")
        for field_name in ("tensors", "ops", "outputs"):
            object.__setattr__(self, field_name, tuple(getattr(self, field_name)))
        where = f"network {self.name!r}"
        if not self.ops:
            raise NetworkError(f"{where} has no ops; give at least one")
        _check_unique(where, "tensor name", [t.name for t in self.tensors])
        _check_unique(where, "op name", [op.name for op in self.ops])
        for t in self.outputs:
            check_name(t, f"{where}: output")
        _check_unique(where, "output", self.outputs)
        roles = {t.name: t.role for t in self.tensors}
        activations = {n for n, role in roles.items() if role == "activation"}
        parameters = {n for n, role in roles.items() if role == "parameter"}
        for op in self.ops:
            self._check_names(f"{where}: op {op.name!r}", op, roles, parameters)
        _check_unique(where, "op output", [op.output for op in self.ops])
        check_order(where, self.ops, roles.keys() - activations - parameters)
        self._check_loose_ends(where, roles, activations)

    @staticmethod
    def _check_names(where: str, op: Op, roles: Mapping[str, Role], parameters: Collection[str]) -> None:
        """Every name that the op uses exists, in a role that fits."""
        for t in op.inputs:
            if t not in roles:
                raise NetworkError(f"{where} reads tensor {t!r}, which does not exist{near(t, roles)}")
            if roles[t] == "parameter":
                raise NetworkError(f"{where} reads parameter {t!r} as an input; give it in params")
        for slot, p in op.params.items():
            if p not in parameters:
                raise NetworkError(f"{where}: {slot}={p!r} is not a parameter{near(p, parameters)}")
        if roles.get(op.output) != "activation":
            raise NetworkError(
                f"{where} writes {op.output!r}, which is not an activation of the network{near(op.output, roles)}"
            )

    def _check_loose_ends(self, where: str, roles: Mapping[str, Role], activations: Collection[str]) -> None:
        """Every tensor is made by something and read by something, and the outputs are made."""
        if not self.outputs:
            raise NetworkError(f"{where} has no outputs; name at least one activation")
        for t in self.outputs:
            if t not in activations:
                raise NetworkError(f"{where}: output {t!r} is not an activation{near(str(t), activations)}")
        made = {op.output for op in self.ops}
        read = {t for op in self.ops for t in (*op.inputs, *op.params.values())} | set(self.outputs)
        for t, role in roles.items():
            if role == "activation" and t not in made:
                raise NetworkError(f"{where}: no op makes tensor {t!r}; drop it or give the op")
            if t not in read:
                use = "list it in outputs or drop what makes it" if role == "activation" else "drop it"
                raise NetworkError(f"{where}: no op uses {role} {t!r}; {use}")

    def __reduce__(self) -> tuple[Any, ...]:
        # cached views are mapping proxies, which do not copy; rebuild without them
        return (Network, (self.name, self.tensors, self.ops, self.outputs))

    @cached_property
    def tensor(self) -> Mapping[str, Tensor]:
        """Tensors by name."""
        return MappingProxyType({t.name: t for t in self.tensors})

    @cached_property
    def op(self) -> Mapping[str, Op]:
        """Ops by name."""
        return MappingProxyType({op.name: op for op in self.ops})

    @cached_property
    def producer(self) -> Mapping[str, Op]:
        """The op that makes each activation."""
        return MappingProxyType({op.output: op for op in self.ops})

    @cached_property
    def consumers(self) -> Mapping[str, tuple[Op, ...]]:
        """The ops that read each tensor as an input, in execution order."""
        table: dict[str, list[Op]] = {t.name: [] for t in self.tensors}
        for op in self.ops:
            for t in dict.fromkeys(op.inputs):
                table[t].append(op)
        return MappingProxyType({t: tuple(ops) for t, ops in table.items()})

    @cached_property
    def owner(self) -> Mapping[str, tuple[Op, str]]:
        """Parameter name to (the first op that uses it, the slot)."""
        return MappingProxyType({p: users[0] for p, users in self.users.items()})

    @cached_property
    def users(self) -> Mapping[str, tuple[tuple[Op, str], ...]]:
        """Parameter name to every (op that uses it, slot), in execution order: its gradient is their sum."""
        table: dict[str, list[tuple[Op, str]]] = {}
        for op in self.ops:
            for slot, p in op.params.items():
                table.setdefault(p, []).append((op, slot))
        return MappingProxyType({p: tuple(users) for p, users in table.items()})

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """Names of the network's inputs."""
        return tuple(t.name for t in self.tensors if t.role == "input")

    @cached_property
    def parameters(self) -> tuple[str, ...]:
        """Parameter names in the order in which ops first use them."""
        return tuple(self.owner)

    def to_networkx(self) -> nx.DiGraph[str]:
        """A graph whose nodes are ops (attribute ``op``) and edges tensors (attribute ``tensor``)."""
        graph: nx.DiGraph[str] = nx.DiGraph(name=self.name)
        for op in self.ops:
            graph.add_node(op.name, op=op)
        for op in self.ops:
            for t in op.inputs:
                if t in self.producer:
                    graph.add_edge(self.producer[t].name, op.name, tensor=self.tensor[t])
        return graph


def _check_unique(where: str, what: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise NetworkError(f"{where}: {what} {name!r} is used twice; names must differ")
        seen.add(name)
