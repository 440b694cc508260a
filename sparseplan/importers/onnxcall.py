"""What a rule for an ONNX op is given: the node, its values, its attributes with their types checked."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparseplan.errors import NetworkError
from sparseplan.importers.draft import Array, Draft, Known, Made, Shape, Value, axis_of
from sparseplan.importers.onnxgraph import Graph, Node, short


class Malformed(NetworkError):
    """A node that means nothing; it is not read as opaque either."""


class Unsupported(Exception):
    """A rule cannot say a node by the network's ops; it may be read as opaque."""


class FirstOnly(Unsupported):
    """A rule can say a node's first output, but not the others, which are wanted, too."""


class Unknown(Exception):
    """A node cannot be read at all without more being known: an input that is fixed, say."""


@dataclass(frozen=True, slots=True)
class OneHot:
    """Ones where integers equal their place: ``(…, depth)`` of an input of integers, which no op computes.

    Attributes:
        ids: the input.
        shape: full shape, the last axis ``depth`` long.
    """

    ids: Made
    shape: Shape


@dataclass(frozen=True, slots=True)
class Picked:
    """Integers of an input, moved: those at ``index``, counted over the input's elements, which no op computes.

    Attributes:
        ids: the input.
        index: where each entry is taken from; its shape is the full one.
    """

    ids: Made
    index: Array

    @property
    def shape(self) -> Shape:
        """Full shape."""
        return self.index.shape


Held = Value | OneHot | Picked


@dataclass(frozen=True, slots=True)
class Call:
    """A node with the values of its inputs (None: not given)."""

    node: Node
    values: tuple[Held | None, ...]
    draft: Draft
    opset: int
    #: element type of each input, None where it is not known
    dtypes: tuple[np.dtype[Any] | None, ...]
    #: whether arrays are computed that ops of the network may stand for later
    folding: bool = False

    # -- inputs -------------------------------------------------------------------------------
    def has(self, i: int) -> bool:
        """Whether input ``i`` is given."""
        return i < len(self.values) and self.values[i] is not None

    def value(self, i: int) -> Value:
        """Input ``i``. Raises NetworkError where it is missing, Unsupported where it is no array."""
        found = self.values[i] if i < len(self.values) else None
        if found is None:
            raise Malformed(f"input {i} is missing")
        if isinstance(found, OneHot):
            raise Unsupported("a one-hot of integers is read by more than a product with a constant")
        if isinstance(found, Picked):
            raise Unsupported("integers of an input are read by more than what looks them up")
        return found

    def made(self, i: int) -> Made:
        """Input ``i`` as a tensor of the network."""
        return self.draft.made(self.value(i))

    def known(self, i: int) -> Known:
        """Input ``i``, which has to be constant."""
        found = self.value(i)
        if not isinstance(found, Known):
            raise Unsupported(f"input {i} ({short(self.node.inputs[i])}) has to be constant")
        return found

    def weight(self, i: int) -> Known:
        """Input ``i`` as an op's parameter; one that is computed by ops of the network is told by these alone."""
        found = self.value(i)
        if isinstance(found, Known):
            return found
        return Known(np.broadcast_to(np.float32(0), found.shape), source=lambda: found)

    def array(self, i: int) -> Array:
        """Input ``i`` as an array, which has to be constant; parameters that it depends on stay as they are."""
        known = self.known(i)
        if not self.folding:
            self.draft.settle(known, f"input {i} of ", surely=False)
        return known.array

    def numbers(self, i: int) -> list[int]:
        """Input ``i``, constant integers."""
        array = self.array(i)
        if array.dtype.kind not in "iu" or array.ndim > 1:
            raise Malformed(f"input {i} has to be a list of integers, not {array.dtype} of shape {array.shape}")
        if array.size > 2**20:
            raise Malformed(f"input {i} holds {array.size} integers; at most 2**20 are read")
        return [int(n) for n in array.reshape(-1)]

    def scalar(self, i: int) -> float:
        """Input ``i``, one constant number."""
        array = self.array(i)
        if array.size != 1:
            raise Malformed(f"input {i} has to be one number, not of shape {array.shape}")
        return float(array.reshape(()))

    @property
    def constant(self) -> bool:
        """Whether all inputs are constants."""
        return all(v is None or isinstance(v, Known) for v in self.values)

    @property
    def outputs(self) -> int:
        """Number of outputs that are wanted, counted to the last."""
        return max((i + 1 for i, name in enumerate(self.node.outputs) if name), default=0)

    # -- attributes ---------------------------------------------------------------------------
    def attr(self, name: str, kind: str, default: Any = None) -> Any:
        """An attribute of a kind. Raises NetworkError where it is of another."""
        found = self.node.attrs.get(name)
        if found is None:
            return default
        if found.kind != kind:
            raise Malformed(f"attribute {name!r} is of kind {found.kind}; it has to be {kind}")
        return found.value

    def integer(self, name: str, default: int | None = None) -> int:
        """An integer; raises NetworkError where it is missing and has no default."""
        found = self.attr(name, "int", default)
        if found is None:
            raise Malformed(f"attribute {name!r} is missing")
        return int(found)

    def number(self, name: str, default: float) -> float:
        """A finite number."""
        found = float(self.attr(name, "float", default))
        if not math.isfinite(found):
            raise Malformed(f"attribute {name!r}={found} must be finite")
        return found

    def text(self, name: str, default: str) -> str:
        """A string."""
        return str(self.attr(name, "string", default))

    def ints(self, name: str) -> list[int] | None:
        """Integers, or None where they are not given."""
        found = self.attr(name, "ints")
        return None if found is None else list(found)

    def graph(self, name: str) -> Graph:
        """A subgraph."""
        found = self.attr(name, "graph")
        if found is None:
            raise Malformed(f"attribute {name!r} is missing")
        graph: Graph = found
        return graph

    # -- what several rules share -------------------------------------------------------------
    def axes(self, rank: int, i: int = 1, name: str = "axes") -> list[int] | None:
        """Axes given as an attribute (older opsets) or as input ``i``; None where they are not given."""
        found = self.numbers(i) if self.has(i) else self.ints(name)
        return None if found is None else [axis_of(a, rank) for a in found]

    def refuse(self, *names: str) -> None:
        """Raise Unsupported if any of these attributes is given with a value that does something."""
        for name in names:
            found = self.node.attrs.get(name)
            if found is not None and found.value not in (0, 0.0, ""):
                raise Unsupported(f"attribute {name}={str(found.value)[:60]} is not read")

    def one_output(self) -> None:
        """Raise FirstOnly if more outputs than the first are wanted."""
        if self.outputs > 1:
            raise FirstOnly("only its first output can be computed")


Rule = Callable[[Call], "Held | Sequence[Held]"]
Fold = Callable[[Call], "Array | list[Array]"]


def is_float(dtype: np.dtype[Any] | None) -> bool:
    """Whether a type is one of floating numbers, or not known."""
    return dtype is None or dtype.kind == "f" or dtype.name == "bfloat16"


def table(*tables: Mapping[str, Rule]) -> dict[str, Rule]:
    """Tables of rules as one, in which no op is there twice."""
    result: dict[str, Rule] = {}
    for rules in tables:
        twice = result.keys() & rules.keys()
        if twice:
            raise RuntimeError(f"ops {sorted(twice)} have two rules")
        result.update(rules)
    return result
