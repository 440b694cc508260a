"""The one interpreter of a training step, over whatever holds its values.

A storage turns the arguments of a step into functions that read or write them; ``compile_step``
resolves all else once (definitions, arguments, slices) and returns a kernel to call without
arguments. The arena and the fast trainer differ in their storage alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from sparseplan.errors import PlanError
from sparseplan.ops import OpDef, OpInfo, loss_def, op_def
from sparseplan.ops.base import Array
from sparseplan.run.optimizers import Optimizer
from sparseplan.run.packing import pack, unpack
from sparseplan.steps import OPTIMIZERS, PACKED_CODES, PACKED_SCALES, Arg, Step, TrainingOptions

Read = Callable[[], Array]
Write = Callable[[Array], Array]
#: runs one step; a loss returns its value, without its weight
Kernel = Callable[[], float | None]

#: read arguments that say what a sum is added to; the writer reads them itself
_SUMS = ("dx", "acc")  # and "dy" of a loss, which reads its arguments by their places


class Storage(Protocol):
    """What holds the values of a training step."""

    def reader(self, arg: Arg) -> Read:
        """A function that gives the argument: float32 with its batch axis, bool, uint8 or int32."""
        ...

    def writer(self, arg: Arg) -> Write:
        """A function that stores (with ``arg.add``: adds) an array and returns what is then stored."""
        ...

    def samples(self, arg: Arg) -> int:
        """Samples that an argument with a batch axis holds at the moment."""
        ...


@dataclass(slots=True)
class Clock:
    """What changes from one run of a schedule to the next.

    Attributes:
        lr: learning rate.
        count: number of the update, from 1.
        samples: runs whose gradients an accumulator sums (the sum of their weights); updates use
            their mean.
        weight: of this run among them; what the loss sends back is multiplied by it.
    """

    lr: float
    count: int = 1
    samples: float = 1
    weight: float = 1


@dataclass(frozen=True, slots=True)
class Executor:
    """What kernels need besides their arguments."""

    infos: Mapping[str, OpInfo]
    options: TrainingOptions
    optimizer: Optimizer
    clock: Clock

    def compile(self, step: Step, storage: Storage) -> Kernel:
        """The kernel that runs ``step`` over ``storage``."""
        if step.kind == "loss":
            return self._loss(step, storage)
        if step.kind in ("page_out", "page_in"):
            return _copy(step, storage)
        if step.kind == "pack":
            return _pack(step, storage)
        if step.op not in self.infos:
            raise PlanError(f"step {step.name!r} runs op {step.op!r}, which the network does not have")
        info = self.infos[step.op]
        d = op_def(info.kind)
        if step.kind in ("forward", "recompute"):
            return _forward(step, info, d, storage)
        if step.kind == "aux":
            return _aux(step, info, d, storage)
        if step.kind == "grad_param":
            return _grad_param(step, info, d, storage)
        if step.kind == "grad_input":
            return _grad_input(step, info, d, storage)
        return self._update(step, info, d, storage)

    def _loss(self, step: Step, storage: Storage) -> Kernel:
        judged = self.options.loss_of(step)
        if judged is None:
            raise PlanError(f"step {step.name!r} is loss {step.op!r} with target={step.target!r}, which is none of "
                            "those that the options name")  # fmt: skip
        definition, weight = loss_def(judged.kind), judged.weight
        attrs = {**definition.defaults, **judged.attrs}
        output, target = storage.reader(step.read("y")), storage.reader(step.read("target"))
        writes = [(_cutter(a), storage.writer(a)) for a in step.writes]
        clock = self.clock

        def run() -> float:
            value, dy = definition.value_and_grad(output(), target(), attrs)
            if weight != 1:
                dy = dy * weight
            if clock.weight != 1:
                dy = dy * clock.weight
            for cut, write in writes:
                write(dy if cut is None else cut(dy))
            return float(value)

        return run

    def _update(self, step: Step, info: OpInfo, d: OpDef, storage: Storage) -> Kernel:
        optimizer, clock = self.optimizer, self.clock
        mean = self.options.gradients == "accumulate"
        kept_states = OPTIMIZERS[self.options.optimizer]
        grad, param, *states = [storage.reader(step.read(tag)) for tag in ("grad", "param", *kept_states)]
        put, *put_states = [storage.writer(step.write(tag)) for tag in ("param", *kept_states)]
        kept: tuple[slice, ...] | None = None
        if step.keep is not None:
            fraction = d.fraction(info, step.target)
            if fraction is None:
                raise PlanError(f"step {step.name!r} updates {step.keep} units of a parameter that cannot be cut")
            kept = (*[slice(None)] * fraction.axis, slice(0, step.keep * fraction.per_unit))

        def run() -> None:
            whole, g = param(), grad()
            if mean and clock.samples > 1:
                g = g / clock.samples
            part = whole if kept is None else whole[kept]
            new, news = optimizer.apply(part, g, [s() for s in states], clock.lr, clock.count)
            if kept is not None:
                full = whole.copy()
                full[kept] = new
                new = full
            put(new)
            for write, state in zip(put_states, news, strict=True):
                write(state)

        return run


def _copy(step: Step, storage: Storage) -> Kernel:
    """A tensor copied between levels, as a DMA does."""
    read, write = storage.reader(step.read("x0")), storage.writer(step.write("y"))

    def run() -> None:
        write(read())

    return run


def _pack(step: Step, storage: Storage) -> Kernel:
    """A tensor quantised to 8 bits."""
    read = storage.reader(step.read("x0"))
    codes, scales = (storage.writer(step.write(tag)) for tag in (PACKED_CODES, PACKED_SCALES))

    def run() -> None:
        for write, array in zip((codes, scales), pack(read()), strict=True):
            write(array)

    return run


def _forward(step: Step, info: OpInfo, d: OpDef, storage: Storage) -> Kernel:
    tags = [f"x{i}" for i in range(len(info.inputs))]
    inputs = [storage.reader(step.read(tag)) for tag in tags]
    params = [(a.tag, storage.reader(a)) for a in step.reads if a.tag not in tags]
    y_arg, extra = step.write("y"), [a for a in step.writes if a.tag != "y"]
    put = storage.writer(y_arg)
    before: list[tuple[str, Write]] = []
    after: list[tuple[str, Write]] = []
    for a in extra:
        (after if d.aux(info)[a.tag].sources[:1] == ("y",) else before).append((a.tag, storage.writer(a)))

    def run() -> None:
        x = [read() for read in inputs]
        y = d.forward(info, x, {tag: read() for tag, read in params})
        if not x:  # what is made from nothing is the same for every sample
            y = np.repeat(y, storage.samples(y_arg), axis=0)
        # made before y is stored, since y may take the place of its input
        made = [(write, d.forward_aux(info, tag, x, y)) for tag, write in before]
        y = put(y)
        for write, array in made:
            write(array)
        for tag, write in after:  # from y as stored: the same bits as if made later
            write(d.forward_aux(info, tag, x, y))

    return run


def _aux(step: Step, info: OpInfo, d: OpDef, storage: Storage) -> Kernel:
    (arg,) = step.reads
    read, write = storage.reader(arg), storage.writer(step.write(step.target))

    def run() -> None:
        write(d.make_aux(info, step.target, arg.tag, read()))

    return run


def _saved(step: Step, storage: Storage) -> tuple[Read, list[tuple[str, Read]]]:
    others = [a for a in step.reads if a.tag not in ("dy", *_SUMS)]
    return storage.reader(step.read("dy")), [(a.tag, storage.reader(a)) for a in others]


def _grad_param(step: Step, info: OpInfo, d: OpDef, storage: Storage) -> Kernel:
    dy, saved = _saved(step, storage)
    write = storage.writer(step.write("dp"))
    slot, keep = step.target, step.keep
    fraction = d.fraction(info, slot) if keep is not None else None
    rows = keep * fraction.rows if keep is not None and fraction is not None and fraction.rows is not None else None

    def run() -> None:
        arrays = {tag: read() for tag, read in saved}
        if PACKED_CODES in arrays:
            arrays["x0"] = unpack(arrays.pop(PACKED_CODES), arrays.pop(PACKED_SCALES))
        if rows is not None and "x0" in arrays and arrays["x0"].shape[1] > rows:
            arrays["x0"] = arrays["x0"][:, :rows]  # of several samples the whole input is held
        write(d.grad_param(info, slot, dy(), arrays, keep))

    return run


def _grad_input(step: Step, info: OpInfo, d: OpDef, storage: Storage) -> Kernel:
    dy, saved = _saved(step, storage)
    slot = int(step.target[1:])
    rank = 1 + len(info.inputs[slot])
    writers = [storage.writer(a) for a in step.writes]
    ranges = separate_parts(step, info, d)
    if ranges:
        cuts_of_parts = [_rows_cutter(a) for a in step.writes]

        def run_parts() -> None:
            arrays = {tag: read() for tag, read in saved}
            g = dy()
            parts = {channels: d.grad_input(info, slot, g, arrays, channels) for channels in ranges}
            for arg, cut, write in zip(step.writes, cuts_of_parts, writers, strict=True):
                part = parts[arg.channels]  # type: ignore[index]
                write(part if cut is None else cut(part))

        return run_parts
    cuts = [_cutter(a, rank) for a in step.writes]

    def run() -> None:
        dx = d.grad_input(info, slot, dy(), {tag: read() for tag, read in saved})
        for cut, write in zip(cuts, writers, strict=True):
            write(dx if cut is None else cut(dx))

    return run


def separate_parts(step: Step, info: OpInfo, d: OpDef) -> list[tuple[int, int]]:
    """Channel ranges of an input's gradient that a step computes one by one; none where it
    computes the whole, because the kernel cannot do less or because all of it is wanted."""
    shape = info.inputs[int(step.target[1:])]
    given = [a.channels for a in step.writes if a.channels is not None and len(a.shape) == 1 + len(shape)]
    if not d.partial_input or len(given) != len(step.writes):
        return []
    ranges = list(dict.fromkeys(given))  # several rows of the same channels are computed at once
    return ranges if sum(hi - lo for lo, hi in ranges) < shape[0] else []


def _cutter(arg: Arg, rank: int = 0) -> Callable[[Array], Array] | None:
    """What takes an argument's part out of a whole gradient: rows where the argument has the
    gradient's rank, else elements of each sample."""
    if arg.channels is None:
        return None
    lo, hi = arg.channels
    rows = _rows_cutter(arg)
    if rows is not None:
        return lambda whole: rows(whole[:, lo:hi])
    if rank and len(arg.shape) == rank:
        return lambda whole: whole[:, lo:hi]
    return lambda whole: whole.reshape(len(whole), -1)[:, lo:hi]


def _rows_cutter(arg: Arg) -> Callable[[Array], Array] | None:
    """What takes an argument's rows out of an array of its channels."""
    if arg.rows is None:
        return None
    lo, hi = arg.rows
    return lambda part: part[:, :, lo:hi]
