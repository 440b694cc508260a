"""Arguments of steps as views: boxes of an array, each with the place where it lies."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sparseplan.errors import ExportError
from sparseplan.ops.base import Shape
from sparseplan.plan import PlacedBuffer
from sparseplan.steps import PACKED_SCALES, Arg, Box, Span, Value, ValueRole

#: levels that may hold buffers, in the order in which views number them
LEVELS = ("L2", "L3", "flash")
#: storage types of views; "codes" are u8 with a scale for each channel
TYPES = {"fp32": 0, "bf16": 1, "fp16": 2, "int8": 3, "u8": 4, "i32": 5, "bit": 6, "codes": 7}
#: roles of values without a batch axis
_PER_NETWORK: tuple[ValueRole, ...] = ("parameter", "parameter gradient", "accumulator", "state")
Image = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Part:
    """Channels ``[c0, c1)`` and rows ``[r0, r1)`` of an array, at ``offset`` of a level."""

    level: str
    offset: int
    c0: int
    c1: int
    r0: int
    r1: int
    by_row: bool = False


@dataclass(frozen=True, slots=True)
class View:
    """An array over its parts.

    Attributes:
        count: elements of a sample of the whole array.
        image: rows and columns of a channel; (1, 1) where elements are their own channels.
        group, scales: of ``codes``, how many elements share a scale, and the view of scales.
    """

    count: int
    image: Image
    parts: tuple[Part, ...]
    dtype: str
    add: bool = False
    scale: float = 1.0
    batched: bool = True
    group: int = 1
    scales: View | None = None

    @property
    def covered(self) -> int:
        """Elements of a sample that lie somewhere; the others are zero."""
        return sum((p.c1 - p.c0) * (p.r1 - p.r0) for p in self.parts) * self.image[1]

    @property
    def whole(self) -> bool:
        """Whether elements lie in order in one piece."""
        return len(self.parts) == 1 and not self.parts[0].by_row and self.covered == self.count


#: what a kernel reads or writes, in its order
Views = tuple[View, ...]


class Places:
    """Where values lie.

    Raises:
        ExportError: a level that is no memory of the generated code, buffers of one value that do not adjoin.
    """

    def __init__(self, values: Mapping[str, Value], buffers: Iterable[PlacedBuffer], batch: int) -> None:
        self.values, self.batch = values, batch
        self._base: dict[str, tuple[str, int]] = {}
        for b in buffers:
            if b.level not in LEVELS:
                raise ExportError(f"value {b.value!r} lies at level={b.level!r}; C code has {', '.join(LEVELS)}")
            home = (b.level, b.offset - b.lo)
            if self._base.setdefault(b.value, home) != home:
                raise ExportError(f"buffers of {b.value!r} are pieces of one value, but do not adjoin; verify the plan")

    def home(self, name: str, byte: int = 0) -> tuple[str, int]:
        """Level and offset of a byte of a value."""
        if name not in self._base:
            raise ExportError(f"value {name!r} has no buffer; verify the plan")
        level, base = self._base[name]
        return level, base + byte

    def value(self, name: str) -> View:
        """A value in whole, as it is declared."""
        v = self.values[name]
        boxes = (Box((0, v.shape[1]), (0, v.shape[2])),) if v.layout == "hcw" else ()
        return self.read(Arg(v.role, v.shape, v.dtype, (Span(name, 0, v.bytes),), boxes=boxes))

    def read(self, arg: Arg, image: Image | None = None) -> View:
        """What a step reads; with ``image`` as channels of that many rows and columns."""
        first = self.values[arg.spans[0].value]
        batched = first.role not in _PER_NETWORK and arg.tag != PACKED_SCALES
        shape = arg.shape[1:] if batched else arg.shape
        count = math.prod(shape)
        parts = []
        if arg.boxes:
            image = (shape[1], shape[2])
            for s, box in zip(arg.spans, arg.boxes, strict=True):
                by_row = self.values[s.value].layout == "hcw"
                parts.append(Part(*self.home(s.value, s.lo), *box.channels, *box.rows, by_row))
        else:
            ends, at = [], 0
            for s in arg.spans:
                elements = math.prod(self.values[s.value].shape) // (self.batch if batched else 1)
                take = count - at if len(arg.spans) == 1 else min(count - at, elements)
                ends.append((at, at + take))
                at += take
            if at != count:
                raise ExportError(
                    f"argument {arg.tag!r} of shape {arg.shape} is larger than its parts; verify the plan"
                )
            image = self._image(arg, image, ends)
            plane = image[0] * image[1]
            for s, (lo, hi) in zip(arg.spans, ends, strict=True):
                parts.append(Part(*self.home(s.value, s.lo), lo // plane, hi // plane, 0, image[0]))
        return View(count, image, tuple(parts), arg.dtype, False, first.scale or 1.0, batched)

    def written(self, arg: Arg, shape: Shape, image: Image | None = None) -> View:
        """What a step writes of an array whose samples have ``shape``."""
        value = self.values[arg.spans[0].value]
        batched = value.role not in _PER_NETWORK
        by_row = bool(arg.boxes) and value.layout == "hcw"
        count = math.prod(shape)
        if arg.rows is not None or by_row or arg.boxes:
            channels = arg.channels or (0, shape[0])
            rows = arg.rows or (0, shape[1])
            image = (shape[1], shape[2])
            lo, hi = channels
        else:
            lo, hi = (0, count)
            if arg.channels is not None:
                # of a gradient's rank: channels; else elements of the sample
                each = math.prod(shape[1:]) if len(arg.shape) == len(shape) + 1 else 1
                lo, hi = arg.channels[0] * each, arg.channels[1] * each
            image = self._image(arg, image, [(lo, hi)])
            rows = (0, image[0])
            lo, hi = lo // (image[0] * image[1]), hi // (image[0] * image[1])
        part = Part(*self.home(value.name, arg.spans[0].lo), lo, hi, *rows, by_row)
        if part.level == "flash":
            raise ExportError(f"value {value.name!r} is written, but lies in flash; verify the plan")
        return View(count, image, (part,), arg.dtype, arg.add, value.scale or 1.0, batched)

    @staticmethod
    def _image(arg: Arg, image: Image | None, ends: Iterable[tuple[int, int]]) -> Image:
        """``image`` if every part consists of whole channels of it."""
        if image is None:
            return (1, 1)
        plane = image[0] * image[1]
        if any(end % plane for pair in ends for end in pair):
            values = [s.value for s in arg.spans]
            raise ExportError(
                f"argument {arg.tag!r} is an image in parts {values} that break its channels, which the C kernels of "
                "convolutions and pools cannot read; plan with concat='adjoin'"
            )
        return image
