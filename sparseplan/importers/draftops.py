"""The ops of a network while it is imported: names, views, and parameters that stay what they are however read.

A parameter is a parameter of the ops that read it in one form (shape and order of axes); where ops read it in another,
or read what is computed from it, it is a tensor of the network, too, and these read what is made of that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from sparseplan.builder import FloatArray, NetworkBuilder
from sparseplan.errors import NetworkError
from sparseplan.importers.computed import by_tensors
from sparseplan.importers.values import Known, Made, Move, Shape, Value, clean, sample
from sparseplan.network import Attr
from sparseplan.ops import op_def

#: stands for infinity in constants that are added before a softmax
HUGE = 1e30


class Ops:
    """Collects the ops of a network that is imported, and its parameters."""

    def __init__(self, name: str) -> None:
        self.net = NetworkBuilder(name)
        self.weights: dict[str, FloatArray] = {}
        self.layouts: dict[str, tuple[int, ...]] = {}
        self.notes: list[str] = []
        self.fixed: list[str] = []
        #: parameters that an op reads as a constant, so that they are never updated, each with the note of it
        self.settled: dict[str, str] = {}
        self._names: set[str] = set()
        self._numbers: dict[str, int] = {}
        self._reserved: set[str] = set()
        self._views: dict[str, str] = {}
        self._seen: dict[tuple[str, Shape], str] = {}
        self._storage: dict[str, tuple[str, float | None]] = {}
        #: tensor to the inputs of the network that it depends on
        self.roots: dict[str, frozenset[str]] = {}
        self._direct: dict[str, Known] = {}
        self._learned: dict[str, str] = {}
        #: names for the ops to come, most wanted first; set by the importer before each node
        self.wanted: tuple[str, ...] = ()
        #: where the ops to come belong (a module's path); begins the names of those whose wanted names are taken
        self.scope = ""
        #: what messages call the node that is being read
        self.reader = "the network"
        #: whether a name is a learned number's, rather than that of a number in a formula
        self.learned: Callable[[str], bool] = bool
        #: constants that are numbers of formulas, though of several elements
        self.formulas: frozenset[str] = frozenset()
        #: whether a parameter is read by several ops of different kinds, so that its parts are none by themselves
        self.shared: Callable[[str], bool] = lambda name: False
        #: whether a name is a parameter's, rather than a buffer's, which no training updates
        self.trained: Callable[[str], bool] = bool

    # -- names --------------------------------------------------------------------------------
    def note(self, text: str) -> None:
        """Say something to the user, once."""
        if text not in self.notes:
            self.notes.append(text)

    @property
    def size(self) -> int:
        """Number of inputs, ops and parameters so far."""
        return len(self._names)

    def reserve(self, names: Iterable[str]) -> None:
        """Keep names for parameters: no op, and no tensor that an op makes, is called so."""
        self._reserved.update(map(clean, names))

    def _taken(self, name: str) -> bool:
        return name in self._names or not self._reserved.isdisjoint((name, f"{name}.out"))

    def free_name(self, *wanted: str) -> str:
        """The first of ``wanted`` that is free, or the last with a number."""
        for name in (clean(w) for w in wanted if w):
            if not self._taken(name):
                self._names.add(name)
                return name
        base = clean(next((w for w in reversed(wanted) if w), "op"))
        n = self._numbers.get(base, 2)
        while self._taken(f"{base}.{n}"):
            n += 1
        self._numbers[base] = n  # counted on from here: an unrolled sequence has thousands of one name
        self._names.add(f"{base}.{n}")
        return f"{base}.{n}"

    # -- ops ----------------------------------------------------------------------------------
    def input(self, name: str, shape: Shape, dtype: str | None = None) -> Made:
        """An input of the network."""
        name = self.free_name(name)
        self.net.input(name, sample(shape))
        self.roots[name] = frozenset((name,))
        if dtype is not None:
            self.store(name, dtype)
        return Made(name, shape)

    def store(self, tensor: str, dtype: str, scale: float | None = None) -> None:
        """Say how a tensor is stored."""
        self._storage[tensor] = (dtype, scale)

    def stored(self, tensor: str) -> str | None:
        """Storage type that was said of a tensor, or None."""
        return self._storage.get(tensor, (None, None))[0]

    def op(self, kind: str, inputs: Sequence[str], params: Mapping[str, Known] | None = None, /, **attrs: Attr) -> str:
        """Append an op over tensors of the network; returns the tensor that it makes."""
        given = params or {}
        if not all(map(self.direct, given.values())):
            made = by_tensors(self, kind, inputs, given, attrs)
            if made is not None:
                return made
        # the tensor that a parameter is does not take the name of its layer
        named = given.values() if kind != "parameter" else ()
        stems = [k.name.rpartition(".")[0] for k in named if k.name and "." in k.name]
        # a view that another op needs does not take that op's name
        wanted = [f"{w}.view" for w in self.wanted if w] if kind == "reshape" else [*stems[:1], *self.wanted]
        name = self.free_name(*wanted, f"{self.scope}.{kind}" if self.scope else kind)
        for slot, known in given.items():
            if known.source is not None and not known.parents:
                raise NetworkError(f"the {slot} of {kind} depends on the network's input")
            if known.parents or (known.name and not self.direct(known)):
                self.settle(known, f"{slot} of ")
        slots = {slot: self._parameter(k, f"{name}.{slot}") for slot, k in given.items()}
        for slot, known in given.items():
            if (known.name is None or not self.trained(known.name)) and op_def(kind).updatable(slot):
                self.fixed.append(slots[slot])
        made = self.net.op(kind, tuple(inputs), name, slots, **attrs)
        self.roots[made] = frozenset().union(*(self.roots[t] for t in inputs))
        for slot, parameter in slots.items():
            if self.weights[parameter].shape != self.net.shape(parameter):
                raise NetworkError(
                    f"{slot} {parameter!r} has shape {self.weights[parameter].shape}, "
                    f"expected {self.net.shape(parameter)}"
                )
        return made

    def _parameter(self, known: Known, otherwise: str) -> str:
        """Register a constant as a parameter; the same one again is shared."""
        array = np.asarray(known.array, np.float32, order="C")
        if np.isnan(array).any():
            raise NetworkError(f"constant {known.name or otherwise!r} holds NaN; all entries must be finite")
        if np.isinf(array).any():
            array = np.clip(array, -HUGE, HUGE)
            self.note(f"infinite entries of {known.name or otherwise!r} stand as {HUGE:g}")
        called = known.name and (f"{known.name}.moved" if known.mixed else known.name)
        first = self._direct.get(known.name) if known.name else None
        wanted = clean(called) if called else self.free_name(otherwise)
        name, n = wanted, 2
        while called and name in self._names and name != otherwise:
            there = self.weights.get(name)
            if there is not None and (np.array_equal(there, array) or (first and _rounded(there, array))):
                return name  # two ops share it, or one a cast of it
            name, n = f"{wanted}.{n}", n + 1
        if name != wanted and first is not None:  # its codes, say: an update of one would not be seen by the other
            self.note(f"parameter {known.name!r} is used in two forms; {name!r} is the second")
            self.settle(known, f"{name!r}, another form of it, of ")
            self.fixed.append(name)
        self.weights[name] = array
        self._names.add(name)
        if known.name:
            self._direct.setdefault(known.name, known)
        if known.scale is not None:
            self.store(name, "int8", known.scale)
        layout = known.told(array.ndim) if known.name else None
        if layout is not None:
            self.layouts[name] = layout
        return name

    def view(self, tensor: str, shape: Shape) -> str:
        """A tensor's elements under another shape (of the network); views of views are one."""
        source = self._views.get(tensor, tensor)
        if self.net.shape(source) == shape:
            return source
        if self.net.shape(tensor) == shape:
            return tensor
        if (source, shape) not in self._seen:
            made = self.op("reshape", [source], shape=shape)
            self._views[made] = source
            self._seen[source, shape] = made
        return self._seen[source, shape]

    def wrap(self, tensor: str, shape: Shape) -> Made:
        """A tensor of the network as a value of a full ``shape`` of as many elements."""
        return Made(self.view(tensor, sample(shape)), shape)

    def full(self, value: Made) -> str:
        """The tensor with all axes of its full shape."""
        return self.view(value.tensor, value.shape)

    def reshape(self, x: Made, shape: Shape) -> Made:
        """Another full shape of as many elements."""
        if math.prod(shape) != math.prod(x.shape):
            raise NetworkError(f"shape {x.shape} cannot be read as {shape}")
        return self.wrap(x.tensor, shape)

    def transpose(self, x: Made, perm: Sequence[int]) -> Made:
        """Axes permuted; only those of more than one element are moved."""
        if sorted(perm) != list(range(x.rank)):
            raise NetworkError(f"perm={tuple(perm)} is no permutation of {x.rank} axes")
        shape = tuple(x.shape[i] for i in perm)
        long = [i for i in range(x.rank) if x.shape[i] > 1]
        order = [long.index(i) for i in perm if x.shape[i] > 1]
        if order == sorted(order):
            return self.wrap(x.tensor, shape)
        tight = self.view(x.tensor, tuple(x.shape[i] for i in long))
        return self.wrap(self.op("transpose", [tight], perm=tuple(order)), shape)

    def made(self, value: Value) -> Made:
        """A value as a tensor of the network: a constant becomes an op without inputs."""
        found = self.tensor(value)
        if found is not None:
            return found
        assert isinstance(value, Known)
        if value.parents:
            self.settle(value)
        shape = sample(value.shape)
        kind = "parameter" if value.name else "constant"
        return self.wrap(self.op(kind, [], {"weight": value.reshaped(shape)}, shape=shape), value.shape)

    # -- parameters, and what is computed from them ---------------------------------------------
    def parents(self, value: Value) -> frozenset[str]:
        """Names of the parameters that a constant is, or was computed from; those that no training updates left out."""
        if isinstance(value, Made):
            return frozenset()
        if value.name is None:
            return value.parents
        learned = self.trained(value.name) and (value.array.dtype.kind == "f" or value.array.dtype.name == "bfloat16")
        if not learned or value.name in self.formulas or (value.array.size == 1 and not self.learned(value.name)):
            return value.parents
        return frozenset((value.name,))

    def direct(self, known: Known) -> bool:
        """Whether a constant can be a parameter of an op: one that was not computed, in the form in which it is used
        elsewhere."""
        if known.name is None or known.name not in self.parents(known):
            return not known.parents and known.source is None
        if known.mixed:
            return False
        there = self._direct.get(known.name)
        return there is None or there.form == known.form

    def tensor(self, value: Value) -> Made | None:
        """A value that is a tensor of the network, or can be one from which gradients reach parameters; else None."""
        if isinstance(value, Made):
            return value
        if value.source is not None:
            made = value.source()
            return None if made is None else self._moved(made, value.moves)
        if value.name is None or value.name not in self.parents(value):
            return None
        if self.direct(value):
            return self._learned_tensor(value)
        base = self._direct.get(value.name)
        if base is None:
            base = Known(value.unmoved(), value.name, scale=value.scale)
        made = self._learned_tensor(base)
        if base.moves:  # back to the form that it had in the origin
            order = tuple(range(len(base.first))) if base.layout is None else base.layout
            made = self.reshape(made, tuple(base.first[i] for i in order))
            made = self.transpose(made, [int(i) for i in np.argsort(order)])
        return self._moved(made, value.moves)

    def _learned_tensor(self, known: Known) -> Made:
        """A parameter as a tensor, once, in the one form in which ops read it."""
        assert known.name is not None
        if known.name not in self._learned:
            kept = self._direct.get(known.name, known.reshaped(sample(known.shape)))
            wanted, self.wanted = self.wanted, (f"{known.name}.tensor",)
            self._learned[known.name] = self.op("parameter", [], {"weight": kept}, shape=kept.shape)
            self.wanted = wanted
        return self.wrap(self._learned[known.name], known.shape)

    def _moved(self, made: Made, moves: Sequence[Move]) -> Made:
        for kind, numbers in moves:
            made = self.reshape(made, numbers) if kind == "reshape" else self.transpose(made, numbers)
        return made

    def settle(self, value: Value, what: str = "", surely: bool = True) -> None:
        """Parameters that are read as constants here are never updated; a note says so, of those that may be numbers
        of a formula (not ``surely`` parameters) only if some op reads them as parameters, too."""
        for name in sorted(self.parents(value)):
            text = (
                f"parameter {name!r} is read as a constant for {what}{self.reader}, which passes no gradient to it: it "
                "is never updated"
            )
            self.settled.setdefault(name, text)
            if surely:
                self.note(self.settled[name])


def _rounded(a: FloatArray, b: FloatArray) -> bool:
    """Whether one of two forms of a parameter is the other cast to 16 bits: a cast's gradient is that of the whole."""
    return a.shape == b.shape and bool(np.allclose(a, b, rtol=2**-8, atol=2**-24))
