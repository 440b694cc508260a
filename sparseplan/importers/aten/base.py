"""What a rule for an ATen op is: it reads a call, and says it by the draft's ops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sparseplan.errors import NetworkError
from sparseplan.importers.draft import Array, Draft, Known, Made, Shape, Value, axis_of

Result = Value | Sequence[Value]


class Unsaid(Exception):
    """No ops say this call; it stands by its shapes alone. The text is the reason, for the user."""


@dataclass(frozen=True, slots=True, eq=False)
class Ids:
    """Integers of an input of the network, moved about.

    Attributes:
        source: the input.
        places: for each element, which element of the source it is; has the full shape.
    """

    source: Made
    places: Array

    @property
    def shape(self) -> Shape:
        """Full shape."""
        return self.places.shape


@dataclass(frozen=True)
class Call:
    """One call of an ATen op.

    Attributes:
        op: its name without overload (``conv2d``); overload: ``default``, ``dim`` …
        args: every argument of the op's schema by name, defaults included; tensors are values.
        shapes: full shapes of the outputs that are tensors; dtypes: what PyTorch stores them as (``torch.float32``).
        frozen: constants that a value made of parameters alone amounts to, by identity of the value.
        buffers: names of constants that are buffers of the module, by identity of the value.
    """

    draft: Draft
    op: str
    overload: str
    args: dict[str, Any]
    shapes: tuple[Shape, ...]
    dtypes: tuple[str, ...] = ()
    frozen: dict[int, Known] = field(default_factory=dict)
    buffers: dict[int, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        return self.args[name]

    def get(self, name: str, default: Any = None) -> Any:
        """An argument that not every overload has."""
        return self.args.get(name, default)

    @property
    def shape(self) -> Shape:
        """Full shape of the first output."""
        return self.shapes[0]

    def made(self, name: str = "self") -> Made:
        """A tensor argument as a tensor of the network."""
        value = self.args[name]
        if not isinstance(value, (Known, Made)):
            raise NetworkError(f"{name}={value!r} must be a tensor")
        return self.draft.made(value)

    def known(self, name: str) -> Known:
        """A tensor argument that must be constant: a parameter, a buffer, or made of such."""
        found = self.maybe(name)
        if found is None:
            raise Unsaid(f"{name} is missing")
        return found

    def maybe(self, name: str) -> Known | None:
        """As ``known``, of an argument that may be absent."""
        return self.constant(self.args.get(name), name)

    def weight(self, name: str) -> Known:
        """As ``known``, of a weight that may be computed from the network's input, too."""
        given = self.args.get(name)
        if not isinstance(given, Made) or id(given) in self.frozen:
            return self.known(name)
        nothing = np.broadcast_to(np.float32(0), given.shape)
        return Known(nothing, source=lambda: given)

    def constant(self, value: Any, name: str) -> Known | None:
        """``value`` as a constant; None stays. Raises Unsaid where it depends on the input."""
        if value is None or isinstance(value, Known):
            return value
        if id(value) in self.frozen:
            return self.frozen[id(value)]
        raise Unsaid(f"its {name} depends on the network's input")

    def array(self, name: str) -> Array:
        """The numbers of a tensor argument that must be constant; parameters that it depends on stay as they are."""
        return self.numbers(self.args.get(name), name)

    def numbers(self, value: Any, name: str) -> Array:
        """The numbers of ``value``, as ``array``."""
        known = self.constant(value, name)
        if known is None:
            raise Unsaid(f"{name} is missing")
        self.draft.settle(known, f"{name} of ")
        return known.array

    def number(self, name: str) -> float | None:
        """A scalar argument, or a constant of one element; None: it is neither."""
        return number(self.args.get(name))

    def axes(self, name: str, rank: int) -> list[int]:
        """Axes counted from the front; None or empty: all."""
        given = self.args.get(name)
        if given is None or given == []:
            return list(range(rank))
        return [axis_of(int(a), rank) for a in ([given] if isinstance(given, int) else given)]


def number(value: Any) -> float | None:
    """A Python number, or a nameless constant of one element, as a float."""
    if isinstance(value, Known):
        return float(value.array.reshape(())) if value.array.size == 1 and is_fixed(value) else None
    return float(value) if isinstance(value, (int, float)) else None


def is_fixed(value: Value) -> bool:
    """Whether a value is a constant that depends on no parameter."""
    return isinstance(value, Known) and value.name is None and not value.parents


def value(given: Any) -> Value:
    """A value from a value or a number."""
    if isinstance(given, (Known, Made)):
        return given
    if isinstance(given, (int, float)):
        return Known(np.asarray(given, np.float32))
    raise NetworkError(f"{given!r} is no tensor and no number")


def floats(array: Array) -> Known:
    """A nameless constant of float32."""
    return Known(np.asarray(array, np.float32))


Rule = Callable[[Call], Result]

#: op (without overload) to its rule
RULES: dict[str, Rule] = {}


def rule(*ops: str) -> Callable[[Rule], Rule]:
    """Decorator: the rule for these ops."""

    def register(function: Rule) -> Rule:
        for op in ops:
            if op in RULES:
                raise RuntimeError(f"ATen op {op!r} has two rules")
            RULES[op] = function
        return function

    return register
