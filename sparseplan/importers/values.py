"""Values of a graph from outside while it is read: constants, and tensors of the network with their full shapes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from sparseplan.builder import FloatArray
from sparseplan.errors import NetworkError
from sparseplan.network import MAX_NAME, Network
from sparseplan.origin import Origin

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
        origin: where the weights come from, where they can be found again; plans remember it.
        outputs: what the origin calls the network's outputs (keys, positions, names of a file), to their tensors.
    """

    network: Network
    weights: Mapping[str, FloatArray]
    layouts: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()
    origin: Origin | None = None
    outputs: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "outputs", MappingProxyType(dict(self.outputs)))
        object.__setattr__(self, "weights", MappingProxyType(dict(self.weights)))
        object.__setattr__(self, "layouts", MappingProxyType(dict(self.layouts)))


#: shape, and the order of the origin's axes of more than one element
Form = tuple[Shape, tuple[int, ...] | None]
#: another shape, or axes permuted
Move = tuple[Literal["reshape", "transpose"], tuple[int, ...]]


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """A constant of the graph.

    Attributes:
        name: of the parameter that it is; None for what was computed.
        layout: permutation of the origin's axes that leads to the order in which the elements are, or None.
        scale: value of one quantum where it is stored in 8 bits (``array`` holds the values), or None.
        source: makes the tensor of the network that was computed from parameters, before ``moves``, so that these
            are learned; it returns None where no ops say it.
        origin: shape of the parameter in the graph, where it was another since; None where it is this one.
        parents: names of the parameters that it was computed from.
        moves: what was done since to the shape and the axes of the parameter, or of what ``source`` makes.
        mixed: whether no ``layout`` says the order of the elements, since axes were cut and then turned.
    """

    array: Array
    name: str | None = None
    layout: tuple[int, ...] | None = None
    scale: float | None = None
    source: Callable[[], Made | None] | None = None
    origin: Shape | None = None
    parents: frozenset[str] = frozenset()
    moves: tuple[Move, ...] = ()
    mixed: bool = False

    @property
    def shape(self) -> Shape:
        """Full shape."""
        return self.array.shape

    @property
    def first(self) -> Shape:
        """Shape before all moves."""
        return self.array.shape if self.origin is None else self.origin

    def reshaped(self, shape: Shape) -> Known:
        """The same elements under another shape."""
        array = self.array.reshape(shape)
        return replace(self, array=array, origin=self.first, moves=(*self.moves, ("reshape", tuple(shape))))

    def transposed(self, perm: Sequence[int]) -> Known:
        """With axes permuted."""
        array, moves = self.array.transpose(tuple(perm)), (*self.moves, ("transpose", tuple(perm)))
        layout = tuple(range(len(self.first))) if self.layout is None else self.layout
        groups = None if self.mixed else _groups(self.array.shape, layout, self.first)
        if groups is None:
            return replace(self, array=array, layout=None, origin=self.first, moves=moves, mixed=True)
        moved = tuple(i for axis in perm for i in groups[axis])
        return replace(self, array=array, layout=moved, origin=self.first, moves=moves)

    def unmoved(self) -> Array:
        """The elements before all moves."""
        shapes = [self.first]
        for kind, numbers in self.moves:
            shapes.append(numbers if kind == "reshape" else tuple(shapes[-1][i] for i in numbers))
        array = self.array
        for (kind, numbers), shape in zip(self.moves[::-1], shapes[-2::-1], strict=True):
            array = array.reshape(shape) if kind == "reshape" else array.transpose(np.argsort(numbers))
        return array

    @property
    def form(self) -> Form:
        """Shape, and the order of the origin's axes of more than one element; None where no such order says it."""
        if self.mixed:
            return self.array.shape, None
        layout = range(len(self.first)) if self.layout is None else self.layout
        return self.array.shape, tuple(i for i in layout if self.first[i] != 1)

    def told(self, axes: int) -> tuple[int, ...] | None:
        """The layout as a parameter of so many axes has it; None where nothing moved. Extents of 1 move nothing."""
        if self.layout is None or self.layout == tuple(range(len(self.layout))):
            return None
        origin = self.first
        long = [i for i in self.layout if origin[i] != 1]
        if long == sorted(long):
            return self.layout if len(self.layout) == axes else None
        if len(self.layout) != axes == len(long):  # the others came or went
            return tuple(sorted(long).index(i) for i in long)
        return self.layout


def _groups(shape: Shape, layout: Sequence[int], origin: Shape) -> list[tuple[int, ...]] | None:
    """For each axis of ``shape`` the axes of the origin that it holds, in order; None where it cuts one."""
    if not shape:
        return []
    rest, groups = list(layout), list[tuple[int, ...]]()
    for extent in shape:
        held, taken = 1, list[int]()
        while held < extent and rest:
            taken.append(rest.pop(0))
            held *= origin[taken[-1]]
        if held != extent:
            return None
        groups.append(tuple(taken))
    if any(origin[i] != 1 for i in rest):
        return None
    # extents of 1 that are left belong anywhere; where an axis of 1 has none, it is one of them
    for axis, (extent, group) in enumerate(zip(shape, groups, strict=True)):
        if extent == 1 and not group and rest:
            groups[axis] = (rest.pop(0),)
    groups[-1] += tuple(rest)
    return groups


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
