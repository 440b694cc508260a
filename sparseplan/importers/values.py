"""Values of a graph from outside while it is read: constants, and tensors of the network with their full shapes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from sparseplan.builder import FloatArray
from sparseplan.errors import NetworkError
from sparseplan.network import MAX_NAME, Network

Array = npt.NDArray[Any]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Imported:
    """A network from outside, with its parameters.

    Attributes:
        weights: every parameter of the network, float32.
        layouts: parameter to the permutation that leads from the origin's axes to the network's
            (``weight = origin.transpose(layout)``), where there is one.
        notes: what a user should know: what was read as frozen, guessed, or left out.
        fixed: parameters that the origin does not train: its constants where an op could update them. A
            plan for what was imported never updates them; for the bare network, give them as ``never``.
    """

    network: Network
    weights: Mapping[str, FloatArray]
    layouts: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights", MappingProxyType(dict(self.weights)))
        object.__setattr__(self, "layouts", MappingProxyType(dict(self.layouts)))


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """A constant of the graph.

    Attributes:
        name: of the parameter that it is; None for what was computed, which is never updated.
        layout: permutation of axes since the origin, or None.
        scale: value of one quantum where it is stored in 8 bits (``array`` holds the values), or None.
    """

    array: Array
    name: str | None = None
    layout: tuple[int, ...] | None = None
    scale: float | None = None

    @property
    def shape(self) -> Shape:
        """Full shape."""
        return self.array.shape

    def reshaped(self, shape: Shape) -> Known:
        """The same elements under another shape."""
        return Known(self.array.reshape(shape), self.name, self.layout, self.scale)

    def transposed(self, perm: Sequence[int]) -> Known:
        """With axes permuted; a permutation of a permutation keeps its name only if it can be told."""
        array = self.array.transpose(tuple(perm))
        if self.layout is not None:
            return Known(array, self.name, tuple(self.layout[i] for i in perm), self.scale)
        return Known(array, self.name, tuple(perm), self.scale)


@dataclass(frozen=True, slots=True)
class Made:
    """A tensor of the network, in canonical form.

    Attributes:
        tensor: its name.
        shape: full shape.
    """

    tensor: str
    shape: Shape

    @property
    def rank(self) -> int:
        """Number of axes of the full shape."""
        return len(self.shape)

    @property
    def count(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


Value = Known | Made


def sample(shape: Shape) -> Shape:
    """The shape in the network of a value of a full ``shape``."""
    return shape[1:] if shape[:1] == (1,) else shape


def broadcast(*shapes: Shape) -> Shape:
    """Shape that all spread to. Raises NetworkError."""
    try:
        return tuple(int(n) for n in np.broadcast_shapes(*shapes))
    except ValueError:
        raise NetworkError(f"shapes {list(shapes)} do not broadcast") from None


def axis_of(axis: int, rank: int) -> int:
    """``axis`` counted from the front. Raises NetworkError."""
    if not -rank <= axis < rank:
        raise NetworkError(f"axis={axis} is beyond rank {rank}")
    return axis % rank


def windows(extent: int, kernel: int, stride: int, pads: tuple[int, int], dilation: int = 1) -> int:
    """Number of windows along an axis."""
    return (extent + sum(pads) - dilation * (kernel - 1) - 1) // stride + 1


def clean(name: str) -> str:
    """``name`` fit for a tensor or an op: printable, not too long."""
    text = "".join(c if c.isprintable() else "_" for c in name)[: MAX_NAME - 16]
    return text or "_"
