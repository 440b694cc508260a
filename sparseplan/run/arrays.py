"""A storage of plain arrays, and programs that run steps over it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np

from sparseplan.ops.base import Array
from sparseplan.run.execute import Executor, Kernel, Read, Write
from sparseplan.run.numerics import rounded
from sparseplan.steps import Arg, Box, Schedule, Span, Step

#: values of which a batch has one each
_SHARED = ("parameter", "parameter gradient", "accumulator", "state")


def keep_heap() -> None:
    """Have the C library keep freed memory for the next step instead of returning it to the system.

    glibc raises its limits to the size of the largest mapped block that was freed (32 MiB at most);
    without that, page faults took a tenth of a training step. Elsewhere it does nothing.
    """
    np.empty(2**25 - 2**16, np.uint8)


class ArrayStore:
    """Values by name, as kernels see them, for any batch size.

    Arrays are shared, never written to, save those that the store makes for values written row by row.
    Values that adjoin are joined once, on the first read, and kept until the last.
    """

    def __init__(self, schedule: Schedule) -> None:
        keep_heap()
        self.values: dict[str, Array] = {}
        self._infos = schedule.values
        self._made: dict[str, Array] = {}  # of values that are written row by row
        self._samples = 0
        self._per_sample = {n: v.shape[1:] for n, v in schedule.values.items() if v.role not in _SHARED}
        for name, v in schedule.values.items():
            if v.role in ("accumulator", "state"):
                self.values[name] = np.zeros(v.shape, np.float32)

    def put(self, name: str, array: Array) -> None:
        """Store a value from outside, as it comes back from the type it is stored in.

        One that no step reads is dropped.
        """
        self._samples = len(array)
        info = self._infos.get(name)
        if info is not None:
            self.values[name] = rounded(array, info.dtype, info.scale)

    def samples(self, arg: Arg) -> int:
        """See execute.Storage: as many as what came last from outside."""
        return self._samples

    def take(self, role: str) -> dict[str, Array]:
        """Remove all values of a role and return them by the tensor they belong to."""
        found = [n for n, v in self._infos.items() if v.role == role and n in self.values]
        return {self._infos[n].tensor: self.values.pop(n) for n in found}

    @staticmethod
    def keys(arg: Arg) -> tuple[str, ...]:
        """Names under which an argument is held: its values, and their join."""
        names = tuple(s.value for s in arg.spans)
        if arg.boxes:
            return (*names, _patchwork_key(arg))
        return names if len(names) == 1 else (*names, "\n".join(names))

    def reader(self, arg: Arg) -> Read:
        """See execute.Storage."""
        values = self.values
        names = [s.value for s in arg.spans]
        first = names[0]
        if first not in self._per_sample:
            return lambda: values[first]
        shape = arg.shape[1:]
        if arg.boxes:
            return self._patchwork(arg)
        if len(names) > 1:
            return _joined(values, names, shape)
        full = self._per_sample[first]
        if shape == full:
            return lambda: values[first]
        if shape and full and shape[1:] == full[1:]:
            rows = shape[0]
            return lambda: values[first][:, :rows]
        if math.prod(shape) == math.prod(full):
            return lambda: values[first].reshape(-1, *shape)
        return lambda: _leading(values[first], shape)

    def writer(self, arg: Arg) -> Write:
        """See execute.Storage."""
        values = self.values
        name = arg.spans[0].value
        info = self._infos[name]
        dtype, scale = info.dtype, info.scale
        plain = dtype in ("fp32", "u8", "i32", "bit")
        shape = self._per_sample.get(name)
        if arg.boxes and shape is not None and shape[1] != arg.shape[2]:
            return self._rows_writer(arg, shape)
        same = shape is None or arg.shape[1:] == shape

        def write(array: Array) -> Array:
            if not same:
                array = array.reshape(-1, *shape)  # type: ignore[misc]
            if arg.add:
                array = values[name] + array
            if not plain:
                array = rounded(array, dtype, scale)
            values[name] = array
            return array

        if plain and same and not arg.add:

            def put(array: Array) -> Array:
                values[name] = array
                return array

            return put
        return write

    def _rows(self, span: Span) -> slice:
        """The rows of a value that a span of a boxed argument holds."""
        info = self._infos[span.value]
        height = info.shape[2]
        row = info.bytes // height
        return slice(span.lo // row, min(-(-span.hi // row), height))

    def _patchwork(self, arg: Arg) -> Read:
        values = self.values
        parts = [(s.value, self._rows(s), b) for s, b in zip(arg.spans, arg.boxes, strict=True)]
        full = Box((0, arg.shape[1]), (0, arg.shape[2]))
        if [box for _, _, box in parts] == [full]:
            ((only, rows, _),) = parts
            if rows == slice(0, self._per_sample[only][1]):
                return lambda: values[only]
            return lambda: values[only][:, :, rows]
        key, shape = _patchwork_key(arg), arg.shape[1:]

        def read() -> Array:
            whole = values.get(key)
            if whole is None:
                first = values[parts[0][0]]
                whole = np.zeros((len(first), *shape), first.dtype)
                for name, rows, box in parts:
                    whole[:, slice(*box.channels), slice(*box.rows)] = values[name][:, :, rows]
                values[key] = whole
            return whole

        return read

    def _rows_writer(self, arg: Arg, shape: tuple[int, ...]) -> Write:
        values, made = self.values, self._made
        (span,) = arg.spans
        name, rows, info = span.value, self._rows(span), self._infos[span.value]

        def write(array: Array) -> Array:
            array = array.reshape(-1, *arg.shape[1:])
            whole = values.get(name)
            if whole is None:
                whole = np.zeros((len(array), *shape), np.float32)
            elif whole is not made.get(name):  # a kernel made it, and may share it
                whole = whole.copy()
            values[name] = made[name] = whole
            if arg.add:
                array = whole[:, :, rows] + array
            array = rounded(array, info.dtype, info.scale)
            whole[:, :, rows] = array
            return array

        return write


def _patchwork_key(arg: Arg) -> str:
    """Name under which an argument that is put together is held."""
    return "\n".join(f"{s.value}[{s.lo}:{s.hi}]" for s in arg.spans)


def _joined(values: dict[str, Array], names: list[str], shape: tuple[int, ...]) -> Read:
    key = "\n".join(names)

    def read() -> Array:
        whole = values.get(key)
        if whole is None:
            parts = [values[n] for n in names]
            if all(p.ndim == len(shape) + 1 and p.shape[2:] == shape[1:] for p in parts):
                whole = np.concatenate(parts, axis=1)
            else:
                whole = np.concatenate([p.reshape(len(p), -1) for p in parts], axis=1)
            values[key] = whole
        if whole.shape[1:] == shape:
            return whole
        if whole.shape[2:] == shape[1:]:
            return whole[:, : shape[0]]
        return _leading(whole, shape)

    return read


def _leading(array: Array, shape: tuple[int, ...]) -> Array:
    """The leading elements of each sample, as many as ``shape`` has."""
    return array.reshape(len(array), -1)[:, : math.prod(shape)].reshape(-1, *shape)


class Program:
    """Compiled steps of a schedule, with what to drop after each."""

    def __init__(
        self,
        schedule: Schedule,
        executor: Executor,
        store: ArrayStore,
        wanted: Callable[[Step], bool],
        result: Arg | None = None,
    ) -> None:
        self._values = store.values
        steps = [s for s in schedule.steps if wanted(s)]
        last: dict[str, int] = {}
        for i, step in enumerate(steps):
            for arg in (*step.reads, *step.writes):
                last.update(dict.fromkeys(store.keys(arg), i))
        kept = set(store.keys(result)) if result is not None else set()
        kept |= {n for n, v in schedule.values.items() if v.persistent}
        if not any(s.kind == "update" for s in steps):
            kept |= {n for n, v in schedule.values.items() if v.role == "parameter gradient"}
        dead: list[list[str]] = [[] for _ in steps]
        for name, i in last.items():
            if name not in kept:
                dead[i].append(name)
        self._steps = steps
        self._kernels: list[tuple[Kernel, tuple[str, ...]]] = [
            (executor.compile(s, store), tuple(d)) for s, d in zip(steps, dead, strict=True)
        ]
        self._result = store.reader(result) if result is not None else None
        self._transient = tuple(store.keys(result)) if result is not None else ()

    def run(self) -> float:
        """Run every step; returns the loss (0 without one)."""
        values, loss = self._values, 0.0
        for kernel, dead in self._kernels:
            value = kernel()
            if value is not None:
                loss = value
            for name in dead:
                values.pop(name, None)
        return loss

    def timed(self) -> list[tuple[Step, float]]:
        """Run every step; returns each with its seconds of CPU time."""
        found = []
        for step, (kernel, dead) in zip(self._steps, self._kernels, strict=True):
            start = time.process_time()
            kernel()
            found.append((step, time.process_time() - start))
            for name in dead:
                self._values.pop(name, None)
        return found

    def output(self) -> Array:
        """The result asked for, removed from the store."""
        assert self._result is not None
        found = self._result()
        for name in self._transient:
            self._values.pop(name, None)
        return found
