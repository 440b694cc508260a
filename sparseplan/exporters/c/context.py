"""A step with its op, as the functions that choose its kernel see it; and the table of these functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from sparseplan.errors import ExportError
from sparseplan.exporters.c.calls import Call
from sparseplan.exporters.c.views import Image, Places, View, Views
from sparseplan.ops import OpDef, OpInfo
from sparseplan.ops.base import Shape
from sparseplan.steps import PACKED_CODES, PACKED_SCALES, Arg, Step

What = Literal["forward", "grad_input", "grad_param"]


@dataclass(frozen=True)
class Context:
    """A step of an op and where its arguments lie."""

    step: Step
    info: OpInfo
    definition: OpDef
    places: Places

    @property
    def attrs(self) -> Mapping[str, Any]:
        return self.info.attrs

    @property
    def slot(self) -> int:
        """The input whose gradient is computed."""
        return int(self.step.target[1:])

    def arg(self, tag: str) -> Arg | None:
        """What the step reads under a tag; sums that it adds to are not read as such."""
        return next((a for a in self.step.reads if a.tag == tag and tag not in ("dx", "acc")), None)

    def has(self, tag: str) -> bool:
        return self.arg(tag) is not None or (tag == "x0" and self.arg(PACKED_CODES) is not None)

    def read(self, tag: str, image: Image | None = None) -> View:
        """What the step reads under a tag; an input that was saved in 8 bits is read through its scales."""
        arg = self.arg(tag)
        if arg is not None:
            return self.places.read(arg, image)
        codes, scales = self.arg(PACKED_CODES), self.arg(PACKED_SCALES)
        if codes is None or scales is None:
            raise ExportError(f"step {self.step.name!r} reads no {tag!r}; verify the plan")
        by, view = self.places.read(scales), self.places.read(codes, image)
        return replace(view, dtype="codes", scales=by, group=view.count // by.count)

    def params(self, *slots: str) -> Views:
        """Those of the parameters that there are."""
        return tuple(self.read(slot) for slot in slots if self.has(slot))

    def inputs(self, image: Image | None = None) -> Views:
        """Inputs of a forward step, by slot."""
        return tuple(self.places.read(self.step.read(f"x{i}"), image) for i in range(len(self.info.inputs)))

    def y(self, image: Image | None = None) -> Views:
        """The output that a forward step writes."""
        return (self.places.written(self.step.write("y"), self.info.output, image),)

    def dx(self, image: Image | None = None) -> Views:
        """The parts of an input's gradient that a step writes."""
        shape = self.info.inputs[self.slot]
        return tuple(self.places.written(a, shape, image) for a in self.step.writes)

    def dp(self) -> Views:
        """The parameter's gradient."""
        arg = self.step.write("dp")
        return (self.places.written(arg, arg.shape),)

    def dp_shape(self) -> Shape:
        """Shape of the parameter's gradient, cut where the parameter is updated in part."""
        return self.step.write("dp").shape

    def kept(self, whole: int) -> int:
        """Units of a parameter that is updated in part, else ``whole``."""
        return whole if self.step.keep is None else self.step.keep


Lower = Callable[[Context], Call]
#: makes auxiliary ``tag`` from its source, or from all inputs: (context, tag, what is read, what is written)
LowerAux = Callable[[Context, str, Views, View], Call]

#: by kind of op and what is computed
LOWER: dict[tuple[str, str], Lower] = {}
LOWER_AUX: dict[str, LowerAux] = {}


def lowers(what: What, *kinds: str) -> Callable[[Lower], Lower]:
    """Decorator: the function that chooses the kernel of a pass."""

    def enter(function: Lower) -> Lower:
        LOWER.update({(kind, what): function for kind in kinds})
        return function

    return enter


def lowers_aux(*kinds: str) -> Callable[[LowerAux], LowerAux]:
    """Decorator: the function that chooses the kernel of an auxiliary."""

    def enter(function: LowerAux) -> LowerAux:
        LOWER_AUX.update(dict.fromkeys(kinds, function))
        return function

    return enter


def inner(shape: Shape) -> int:
    """Elements of a channel (axis 0)."""
    return math.prod(shape[1:])


def flat(*parts: int | Iterable[int]) -> tuple[int, ...]:
    """Numbers and shapes one after the other."""
    found: list[int] = []
    for p in parts:
        found += [p] if isinstance(p, int) else list(p)
    return tuple(found)
