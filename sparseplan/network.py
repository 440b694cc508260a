"""A network as data: tensors, ops in execution order, structural checks, a networkx view.

Shapes are per sample: activations have an implicit leading batch axis, so an image is
``(channels, height, width)``. Parameters have no batch axis. Layouts are PyTorch's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any, Literal

import networkx as nx

from sparseplan.dtypes import BITS
from sparseplan.errors import NetworkError, near

Role = Literal["input", "activation", "parameter"]
Attr = int | float | str | bool | tuple[int, ...]

#: beyond this a spec is taken for hostile rather than for a microcontroller's network
MAX_ELEMENTS = 2**40


@dataclass(frozen=True)
class Tensor:
    """A named array.

    Attributes:
        shape: per sample, without the batch axis; every extent is at least 1.
        role: ``input`` of the network, ``activation`` (an op's output) or ``parameter``.
        dtype: storage type, or None for the plan's own.
        scale: value of one quantum; given with ``int8`` and only then.
    """

    name: str
    shape: tuple[int, ...]
    role: Role = "activation"
    dtype: str | None = None
    scale: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name or len(self.name) > 512:
            raise NetworkError(f"tensor name={self.name!r} must be a string of 1 to 512 characters")
        if not isinstance(self.shape, tuple) or not all(
            isinstance(n, int) and not isinstance(n, bool) for n in self.shape
        ):
            raise NetworkError(f"tensor {self.name!r}: shape={self.shape!r} must be a tuple of integers")
        if any(n < 1 for n in self.shape):
            raise NetworkError(f"tensor {self.name!r}: shape={self.shape} has an extent below 1")
        if math.prod(self.shape) > MAX_ELEMENTS:
            raise NetworkError(f"tensor {self.name!r}: shape={self.shape} has over 2**40 elements")
        if self.role not in ("input", "activation", "parameter"):
            raise NetworkError(
                f"tensor {self.name!r}: role={self.role!r} is not input, activation or parameter"
            )
        if self.dtype is not None and self.dtype not in ("fp32", "fp16", "bf16", "int8"):
            raise NetworkError(f"tensor {self.name!r}: dtype={self.dtype!r} is unknown{near(self.dtype, BITS)}")
        if (self.dtype == "int8") != (self.scale is not None):
            raise NetworkError(
                f"tensor {self.name!r}: scale={self.scale} with dtype={self.dtype}; int8 needs a scale, others none"
            )
        if self.scale is not None and not (math.isfinite(self.scale) and self.scale > 0):
            raise NetworkError(f"tensor {self.name!r}: scale={self.scale} must be finite and positive")

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
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    output: str
    params: Mapping[str, str] = field(default_factory=dict)
    attrs: Mapping[str, Attr] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "params", MappingProxyType(dict(self.params)))
        object.__setattr__(self, "attrs", MappingProxyType(dict(self.attrs)))

    def __reduce__(self) -> tuple[Any, ...]:
        # mapping proxies do not copy; rebuild from plain dicts (deepcopy, multiprocessing)
        return (Op, (self.name, self.kind, self.inputs, self.output, dict(self.params), dict(self.attrs)))

    def __hash__(self) -> int:
        return hash((self.name, self.kind, self.inputs, self.output))


@dataclass(frozen=True)
class Network:
    """Ops in execution order over named tensors.

    Raises:
        NetworkError: duplicate or dangling names, ops out of order (or a cycle), a tensor
            written twice, a parameter used by two ops, an output that no op makes.
    """

    name: str
    tensors: tuple[Tensor, ...]
    ops: tuple[Op, ...]
    outputs: tuple[str, ...]

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for t in self.tensors:
            if t.name in seen:
                raise NetworkError(f"network {self.name!r}: tensor name {t.name!r} is used twice")
            seen.add(t.name)
        roles = {t.name: t.role for t in self.tensors}
        ready = {n for n, r in roles.items() if r == "input"}
        names: set[str] = set()
        owner: dict[str, str] = {}
        made_later = {op.output for op in self.ops}
        for op in self.ops:
            where = f"network {self.name!r}: op {op.name!r}"
            if op.name in names:
                raise NetworkError(f"{where}: the name is used by two ops")
            names.add(op.name)
            for t in op.inputs:
                if t not in roles:
                    raise NetworkError(f"{where} reads tensor {t!r}, which does not exist{near(t, roles)}")
                if roles[t] == "parameter":
                    raise NetworkError(f"{where} reads parameter {t!r} as an input; give it in params")
                if t not in ready:
                    why = "before it is made: a cycle, or ops out of order" if t in made_later else "and no op makes it"
                    raise NetworkError(f"{where} reads tensor {t!r} {why}")
            for slot, p in op.params.items():
                if roles.get(p) != "parameter":
                    raise NetworkError(
                        f"{where}: {slot}={p!r} is not a parameter"
                        + near(p, [n for n, r in roles.items() if r == "parameter"])
                    )
                if p in owner:
                    raise NetworkError(
                        f"{where}: parameter {p!r} already belongs to op {owner[p]!r}; tied weights are not supported"
                    )
                owner[p] = op.name
            if roles.get(op.output) != "activation":
                raise NetworkError(f"{where} writes {op.output!r}, which is not an activation of the network")
            if op.output in ready:
                raise NetworkError(f"{where} writes tensor {op.output!r}, which another op makes")
            ready.add(op.output)
        for t in self.tensors:
            if t.role == "activation" and t.name not in ready:
                raise NetworkError(f"network {self.name!r}: no op makes tensor {t.name!r}")
            if t.role == "parameter" and t.name not in owner:
                raise NetworkError(f"network {self.name!r}: no op uses parameter {t.name!r}")
        if not self.ops:
            raise NetworkError(f"network {self.name!r} has no ops")
        if not self.outputs:
            raise NetworkError(f"network {self.name!r} has no outputs")
        for t in self.outputs:
            if roles.get(t) != "activation":
                raise NetworkError(f"network {self.name!r}: output {t!r} is not an activation{near(t, ready)}")

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
        """Parameter name to (the op that uses it, the slot)."""
        return MappingProxyType({p: (op, slot) for op in self.ops for slot, p in op.params.items()})

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """Names of the network's inputs."""
        return tuple(t.name for t in self.tensors if t.role == "input")

    @cached_property
    def parameters(self) -> tuple[str, ...]:
        """Parameter names in the order in which ops use them."""
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
