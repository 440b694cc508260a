"""Memory as a plan lays it out: one byte array a level, every value at its planned offset.

The arena is strict about what a plan says. A buffer can be written while it is alive and read
while what was written is still there; freed bytes are poisoned (0xFF: NaN in every float type);
red zones lie outside both ends; after each step every byte that the step did not write must be
as it was before.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sparseplan.dtypes import bytes_of, numpy_dtype
from sparseplan.errors import PlanError
from sparseplan.ops.base import Array
from sparseplan.plan import PlacedBuffer
from sparseplan.run.execute import Read, Write
from sparseplan.run.numerics import decode, encode
from sparseplan.steps import MAIN, PAGE_LEVEL, Arg, Box, Span, Step, Value

POISON = 0xFF
CANARY = 0xA5
#: bytes of a red zone, at either end; a multiple of every alignment in use
RED_ZONE = 4096

Bytes = npt.NDArray[np.uint8]


class Memory:
    """One level: exactly ``size`` bytes between two red zones, and what is known of each byte."""

    def __init__(self, level: str, size: int) -> None:
        self.level, self.size = level, size
        whole = np.full(size + 2 * RED_ZONE + 64, CANARY, np.uint8)
        start = -whole.ctypes.data % 64  # element views need aligned addresses
        self._raw: Bytes = whole[start : start + size + 2 * RED_ZONE]
        self._expected = self._raw.copy()
        self.bytes: Bytes = self._raw[RED_ZONE : RED_ZONE + size]
        #: value (number from 1) whose buffer is alive at each byte, and whose data it holds; 0 none
        self.alive = np.zeros(size, np.int32)
        self.holds = np.zeros(size, np.int32)
        self.touched = np.zeros(size, np.bool_)
        self.poison(0, size)

    def poison(self, lo: int, hi: int) -> None:
        """Make bytes unreadable."""
        self.bytes[lo:hi] = POISON
        self.holds[lo:hi] = 0
        self._accept(lo, hi)

    def write(self, lo: int, hi: int, data: Bytes, value: int) -> None:
        """Write ``data`` at ``lo`` and zeros behind it up to ``hi``."""
        self.bytes[lo : lo + len(data)] = data
        self.bytes[lo + len(data) : hi] = 0
        self.holds[lo:hi] = value
        self.touched[lo:hi] = True
        self._accept(lo, hi)

    def _accept(self, lo: int, hi: int) -> None:
        self._expected[RED_ZONE + lo : RED_ZONE + hi] = self.bytes[lo:hi]

    def expect(self, free: npt.NDArray[np.bool_]) -> None:
        """Take bytes that ``free`` marks as they are."""
        np.copyto(self._expected[RED_ZONE : RED_ZONE + self.size], self.bytes, where=free)

    def strays(self) -> list[tuple[int, int]]:
        """Ranges (relative to the arena) that changed without a write; then taken as they are."""
        if np.array_equal(self._raw, self._expected):
            return []
        changed = np.flatnonzero(self._raw != self._expected)
        parts = np.split(changed, np.flatnonzero(np.diff(changed) > 1) + 1)
        np.copyto(self._expected, self._raw)
        return [(int(p[0]) - RED_ZONE, int(p[-1]) + 1 - RED_ZONE) for p in parts]


@dataclass(frozen=True, slots=True)
class Place:
    """Where an argument lies: bytes ``[lo, hi)`` of a level, part by part with the values' numbers."""

    memory: Memory
    lo: int
    hi: int
    parts: tuple[tuple[int, int, int], ...]


class Arena:
    """The levels of a plan, as a storage for ``execute``.

    Args:
        values, buffers: of the plan.
        sizes: bytes of each level; a buffer beyond them is an error.
        steps: of the plan, for names in messages and to know what is overwritten in place.
        split: whether kernels take a concat's channels from where its parts lie; else they must adjoin.

    Raises:
        PlanError: buffers that are incomplete, inconsistent or beyond the claimed bytes; later,
            any access that the plan does not allow.
    """

    def __init__(
        self,
        values: Mapping[str, Value],
        buffers: Iterable[PlacedBuffer],
        sizes: Mapping[str, int],
        steps: Sequence[Step],
        split: bool,
    ) -> None:
        self.values, self.steps, self._split = values, steps, split
        self.levels = {level: Memory(level, size) for level, size in sizes.items()}
        self._number = {name: i + 1 for i, name in enumerate(values)}
        self._names = ("nothing", *values)
        self._base: dict[str, tuple[str, int]] = {}
        count = len(steps)
        self._begin: list[list[PlacedBuffer]] = [[] for _ in range(count + 1)]
        self._end: list[list[PlacedBuffer]] = [[] for _ in range(count + 1)]
        self._persistent: list[PlacedBuffer] = []
        for b in buffers:
            self._check_buffer(b, count)
            if values[b.value].persistent:
                self._persistent.append(b)
            else:
                self._begin[b.start].append(b)
                self._end[b.stop].append(b)
        self.step = 0
        self._pending: list[PlacedBuffer] = []
        self._writing = False
        #: whether accesses are checked and freed bytes poisoned; see ``trust``
        self.strict = True
        #: bytes that changed without a write: (step, level, lo, hi)
        self.strays: list[tuple[str, str, int, int]] = []
        self._live = set[PlacedBuffer]()
        for b in self._persistent:
            self._allocate(b)

    def _check_buffer(self, b: PlacedBuffer, count: int) -> None:
        if b.value not in self.values:
            raise PlanError(f"buffer of {b.value!r}: the plan has no such value")
        if b.level not in self.levels or b.end > self.levels[b.level].size:
            size = self.levels[b.level].size if b.level in self.levels else 0
            raise PlanError(
                f"buffer of {b.value!r} ends at byte {b.end} of {b.level}, beyond the {size} bytes that the plan claims"
            )
        if b.stop > count:
            raise PlanError(f"buffer of {b.value!r} lives until step {b.stop}, but there are {count} steps")
        value = self.values[b.value]
        if value.persistent and (b.start, b.stop) != (0, count):
            raise PlanError(f"buffer of persistent {b.value!r} lives for steps [{b.start}, {b.stop}) of {count}")
        home = (b.level, b.offset - b.lo)
        if self._base.setdefault(b.value, home) != home:
            raise PlanError(f"buffers of {b.value!r} are pieces of one value, but do not adjoin")

    # -- lifetimes ----------------------------------------------------------------------------
    def _allocate(self, b: PlacedBuffer) -> None:
        memory, number = self.levels[b.level], self._number[b.value]
        there = memory.alive[b.offset : b.end]
        if there.any():
            other = self._names[int(there[there != 0][0])]
            raise PlanError(f"{self._where()}: buffer of {b.value!r} overlaps that of {other!r} at {b.level} "
                            f"[{b.offset}, {b.end})")  # fmt: skip
        there[:] = number
        self._live.add(b)

    def _free(self, b: PlacedBuffer) -> None:
        if b in self._live:
            self._live.discard(b)
            memory = self.levels[b.level]
            memory.alive[b.offset : b.end] = 0
            memory.poison(b.offset, b.end)

    def _where(self) -> str:
        return f"step {self.step} {self.steps[self.step].name!r}" if self.step < len(self.steps) else "the end"

    def restart(self) -> None:
        """Free whatever is not persistent, for another run of the schedule."""
        for b in [b for b in self._live if not self.values[b.value].persistent]:
            self._free(b)

    def trust(self) -> None:
        """From now on, between runs of the schedule: bytes are read and written without checks.

        For runs of a schedule that has passed the checks before; many times faster.
        """
        self.restart()
        self.strict = False

    def distrust(self) -> None:
        """From now on, between runs of the schedule: everything is checked again.

        What ran without checks may have changed values that steps write, and free bytes: these are
        poisoned. Anything else that changed is noted as a stray write: red zones, frozen parameters.
        """
        self.strict = True
        written = {s.value for step in self.steps for arg in step.writes for s in arg.spans}
        numbers = [0, *(self._number[v] for v in written)]
        for level, memory in self.levels.items():
            memory.expect(np.isin(memory.alive, numbers))
            self.strays += [("unchecked steps", level, lo, hi) for lo, hi in memory.strays()]
            free = memory.alive == 0
            memory.bytes[free] = POISON
            memory.expect(free)

    def enter(self, step: int, arrivals: Mapping[str, Array]) -> None:
        """Begin a step: what ended is freed, what comes from outside arrives.

        What this step overwrites in place is freed later, between its reads and its writes.
        """
        self.step, self._writing = step, False
        begun = {b.value for b in self._begin[step]} if arrivals else set()
        if self.strict:
            self._free_and_allocate(step, arrivals)
        for name, array in arrivals.items():
            if name in begun:
                self.load(name, array)

    def _free_and_allocate(self, step: int, arrivals: Mapping[str, Array]) -> None:
        doomed = {x for y, x in self.steps[step].inplace if self._base.get(y) == self._base.get(x)}
        self._pending = []
        for b in self._end[step]:
            if b.value in doomed:
                self._pending.append(b)
            else:
                self._free(b)
        for b in self._begin[step]:
            if b.value in arrivals:
                self._allocate(b)

    def leave(self) -> None:
        """End a step: every byte that it did not write must be unchanged."""
        if not self.strict:
            return
        self._start_writing()
        for level, memory in self.levels.items():
            self.strays += [(self._where(), level, lo, hi) for lo, hi in memory.strays()]
        if self.step + 1 == len(self.steps):
            for b in self._end[self.step + 1]:
                self._free(b)

    def _start_writing(self) -> None:
        if self._writing or not self.strict:
            return
        self._writing = True
        for b in self._pending:
            self._free(b)
        for b in self._begin[self.step]:
            if b not in self._live:
                self._allocate(b)

    # -- access -------------------------------------------------------------------------------
    def load(self, name: str, array: Array) -> None:
        """Write a whole value from outside."""
        value = self.values[name]
        if array.shape != value.shape:
            raise PlanError(f"{name!r} has shape {array.shape}, planned {value.shape}")
        end = max((b.lo + b.bytes for b in self._live if b.value == name), default=0)
        place = self._place((Span(name, 0, max(end, value.bytes)),))
        self._put(place, encode(_as_stored(array, value), value.dtype, value.scale))

    def peek(self, name: str) -> Array:
        """A copy of a value as kernels see it; raises PlanError where it is not there."""
        value = self.values[name]
        place = self._place((Span(name, 0, value.bytes),))
        if value.layout == "hcw":
            batch, channels, height, width = value.shape
            stored = self._get(place, value.dtype, (batch, height, channels, width), value.scale)
            return np.ascontiguousarray(stored.swapaxes(1, 2))
        return self._get(place, value.dtype, value.shape, value.scale).copy()

    def reader(self, arg: Arg) -> Read:
        """See execute.Storage; float32 arguments are views of the arena where their parts adjoin."""
        scale = self.values[arg.spans[0].value].scale
        if arg.boxes:
            return self._patchwork(arg, scale)
        if self._split and len(arg.spans) > 1 and (arg.shape[0] > 1 or not self._adjoin(arg.spans)):
            return self._gather(arg, scale)
        place = self._place(arg.spans)
        if bytes_of(math.prod(arg.shape), arg.dtype) > place.hi - place.lo:
            raise PlanError(f"{arg.tag} of shape {arg.shape} does not fit its {place.hi - place.lo} bytes")
        return lambda: self._get(place, arg.dtype, arg.shape, scale)

    def _adjoin(self, spans: tuple[Span, ...]) -> bool:
        """Whether the elements of all spans lie in one piece, without padding between them."""
        homes = [self._base.get(s.value, ("", 0)) for s in spans]
        return all(
            a[0] == b[0] and a[1] + min(s.hi, self.values[s.value].bytes) == b[1] + t.lo
            for (a, s), (b, t) in itertools.pairwise(zip(homes, spans, strict=True))
        )

    def _gather(self, arg: Arg, scale: float | None) -> Read:
        """A concat read where its parts lie: each sample's parts, one after the other."""
        batch = arg.shape[0]
        left = math.prod(arg.shape[1:])
        parts: list[tuple[Place, tuple[int, int]]] = []
        for s in arg.spans:
            take = min(left, math.prod(self.values[s.value].shape) // batch)
            place = self._place((s,))
            if bytes_of(batch * take, arg.dtype) > place.hi - place.lo:
                raise PlanError(f"{arg.tag}: {take} elements of {s.value!r} do not fit {place.hi - place.lo} bytes")
            parts.append((place, (batch, take)))
            left -= take
        if left:
            raise PlanError(f"{arg.tag} of shape {arg.shape} is {left} elements larger than its parts")

        def read() -> Array:
            found = [self._get(place, arg.dtype, shape, scale) for place, shape in parts]
            return np.concatenate(found, axis=1).reshape(arg.shape)

        return read

    def _patchwork(self, arg: Arg, scale: float | None) -> Read:
        """An image of one sample put together from rows and channels that lie in several places, zero elsewhere."""
        parts: list[tuple[Place, tuple[int, ...], bool, Box]] = []
        for s, box in zip(arg.spans, arg.boxes, strict=True):
            (c0, c1), (r0, r1) = box.channels, box.rows
            by_row = self.values[s.value].layout == "hcw"
            shape = (1, r1 - r0, c1 - c0, arg.shape[3]) if by_row else (1, c1 - c0, r1 - r0, arg.shape[3])
            place = self._place((s,))
            if bytes_of(math.prod(shape), arg.dtype) > place.hi - place.lo:
                raise PlanError(f"{arg.tag}: {box} of {s.value!r} does not fit its {place.hi - place.lo} bytes")
            parts.append((place, shape, by_row, box))
        if sum(math.prod(shape) for _, shape, _, _ in parts) > math.prod(arg.shape):
            raise PlanError(f"{arg.tag} of shape {arg.shape} is not made up of {list(arg.boxes)}")

        def read() -> Array:
            whole: Array | None = None
            for place, shape, by_row, box in parts:
                part = self._get(place, arg.dtype, shape, scale)
                if whole is None:
                    whole = np.zeros(arg.shape, part.dtype)
                whole[:, slice(*box.channels), slice(*box.rows)] = part.swapaxes(1, 2) if by_row else part
            assert whole is not None  # an argument has a span
            return whole

        return read

    def writer(self, arg: Arg) -> Write:
        """See execute.Storage."""
        place = self._place(arg.spans)
        value = self.values[arg.spans[0].value]
        by_row = bool(arg.boxes) and value.layout == "hcw"
        if place.memory.level not in (MAIN, PAGE_LEVEL) or (value.role == "parameter" and value.level != MAIN):
            raise PlanError(f"{value.name!r} is written, but lies in {place.memory.level}, which is read-only")

        def write(array: Array) -> Array:
            if array.size != math.prod(arg.shape):
                raise PlanError(f"{self._where()}: the kernel made shape {array.shape}, planned {arg.shape}")
            if by_row:
                array = array.reshape(arg.shape).swapaxes(1, 2)
            if arg.add:
                array = self._get(place, arg.dtype, array.shape, value.scale) + array
            data = encode(array, arg.dtype, value.scale)
            self._start_writing()
            self._put(place, data)
            stored = decode(data, arg.dtype, array.shape, value.scale)
            return np.ascontiguousarray(stored.swapaxes(1, 2)) if by_row else stored

        return write

    def samples(self, arg: Arg) -> int:
        """See execute.Storage."""
        return arg.shape[0]

    def _place(self, spans: tuple[Span, ...]) -> Place:
        parts = []
        homes = set()
        for s in spans:
            if s.value not in self._base:
                raise PlanError(f"value {s.value!r} has no buffer")
            level, base = self._base[s.value]
            homes.add(level)
            parts.append((base + s.lo, base + s.hi, self._number[s.value]))
        if len(homes) > 1 or any(a[1] != b[0] for a, b in itertools.pairwise(parts)):
            raise PlanError(f"values {[s.value for s in spans]} are used as one array, but do not adjoin")
        memory = self.levels[homes.pop()]
        if parts[0][0] < 0 or parts[-1][1] > memory.size:
            raise PlanError(f"bytes [{parts[0][0]}, {parts[-1][1]}) lie outside the {memory.size} of {memory.level}")
        return Place(memory, parts[0][0], parts[-1][1], tuple(parts))

    def _get(self, place: Place, dtype: str, shape: tuple[int, ...], scale: float | None) -> Array:
        for lo, hi, number in place.parts if self.strict else ():
            there = place.memory.holds[lo:hi]
            if not (there == number).all():
                found = self._names[int(there[there != number][0])]
                raise PlanError(
                    f"{self._where()} reads {self._names[number]!r} at {place.memory.level} [{lo}, {hi}), "
                    f"which holds {'freed or unwritten bytes' if found == 'nothing' else repr(found)}"
                )
        size = bytes_of(math.prod(shape), dtype)
        stored = place.memory.bytes[place.lo : place.lo + size].view(numpy_dtype(dtype))
        if not stored.flags.aligned:
            stored = stored.copy()  # NumPy sums unaligned arrays in another order
        return decode(stored, dtype, shape, scale)

    def _put(self, place: Place, data: Array) -> None:
        raw = data.view(np.uint8).reshape(-1)
        if len(raw) > place.hi - place.lo:
            raise PlanError(f"{self._where()}: {len(raw)} bytes do not fit the {place.hi - place.lo} planned")
        if not self.strict:
            place.memory.bytes[place.lo : place.lo + len(raw)] = raw
            return
        for lo, hi, number in place.parts:
            there = place.memory.alive[lo:hi]
            if not (there == number).all():
                raise PlanError(
                    f"{self._where()} writes {self._names[number]!r} at {place.memory.level} [{lo}, {hi}), "
                    "where its buffer is not alive"
                )
            place.memory.write(lo, hi, raw[lo - place.lo : hi - place.lo], number)


def _as_stored(array: Array, value: Value) -> Array:
    """An array in the order in which its value is stored."""
    return array.swapaxes(1, 2) if value.layout == "hcw" else array
