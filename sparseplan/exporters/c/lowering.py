"""Steps of a plan as calls of kernels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from sparseplan.dtypes import bytes_of
from sparseplan.errors import ExportError, near
from sparseplan.exporters.c import dense, norms, pointwise, shapes
from sparseplan.exporters.c.calls import Call
from sparseplan.exporters.c.context import LOWER, LOWER_AUX, Context
from sparseplan.exporters.c.views import Places, Views
from sparseplan.ops import OpInfo, infos, loss_def, op_def
from sparseplan.plan import Plan
from sparseplan.scalars import plain_fields
from sparseplan.steps import OPTIMIZERS, PACKED_CODES, PACKED_SCALES, Arg, Step, TrainingOptions

#: the families of ops that enter their kernels in LOWER
FAMILIES = (pointwise, dense, shapes, norms)
#: losses that have a kernel
_LOSSES: Mapping[str, tuple[str, ...]] = {
    "l1": (), "mse": (), "huber": ("delta",), "berhu": ("fraction",), "cross_entropy": (),
}  # fmt: skip
#: largest and smallest of the float32 that kernels compute in (the least that is not zero when it is rounded)
MOST_FLOAT, _LEAST_FLOAT = float(np.finfo(np.float32).max), float(np.finfo(np.float32).smallest_subnormal)


@dataclass(frozen=True)
class Hyper:
    """Hyper-parameters that are compiled in; the learning rate is given with each call."""

    momentum: float = 0.9
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        plain_fields(self)
        if len(self.betas) != 2:
            raise ExportError(f"betas={self.betas!r} must be two numbers")
        checks = [
            ("momentum", self.momentum, 1.0),
            ("weight_decay", self.weight_decay, math.inf),
            ("eps", self.eps, math.inf),
        ]
        checks += [(f"betas[{i}]", b, 1.0) for i, b in enumerate(self.betas)]
        for name, value, below in checks:
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            least = _LEAST_FLOAT if name == "eps" else 0
            if not number or not least <= value <= MOST_FLOAT or value >= below:
                most = f"below {below}" if below < math.inf else f"at most {MOST_FLOAT:.4g}"
                raise ExportError(f"{name}={value!r} must be a number at least {least:.3g} and {most}")

    def floats(self, optimizer: str) -> tuple[float, ...]:
        """What an update's kernel is given."""
        first, second = self.betas
        extra: Mapping[str, tuple[float, ...]] = {
            "sgd": (),
            "momentum": (self.momentum,),
            "adam": (first, second, 1 - first, 1 - second, self.eps),
        }
        return (self.weight_decay, *extra[optimizer])


class Lowering:
    """Calls for every step of a plan.

    Raises:
        ExportError: an op, a loss or an option without a kernel; names the step.
    """

    def __init__(self, plan: Plan, hyper: Hyper) -> None:
        self.plan, self.hyper = plan, hyper
        self.options: TrainingOptions = plan.problem.options
        self.values = {v.name: v for v in plan.values}
        self.places = Places(self.values, plan.buffers, self.options.batch)
        self.infos: Mapping[str, OpInfo] = infos(plan.network)
        #: values of training targets, in the order of their losses, with what their losses are called
        self.targets = {s.target: s.label for s in self.options.loss_steps(plan.network)}

    def calls(self) -> list[list[Call]]:
        """Of each step its calls, in order; what arrives from outside is not among them."""
        return [self.step(s) for s in self.plan.steps]

    def step(self, step: Step) -> list[Call]:
        if step.kind == "loss":
            return [self._loss(step)]
        if step.kind in ("page_out", "page_in"):
            return [self._move(step)]
        if step.kind == "pack":
            return [self._pack(step)]
        if step.op not in self.infos:
            raise ExportError(f"step {step.name!r} runs op {step.op!r}, which the network does not have")
        info = self.infos[step.op]
        context = Context(step, info, op_def(info.kind), self.places)
        if step.kind == "update":
            return [self._update(context)]
        if step.kind == "aux":
            return [self._aux(context, step.target, tuple(map(self.places.read, step.reads)), step.write(step.target))]
        if step.kind in ("forward", "recompute"):
            return self._forward(context)
        return [self._lower(context, step.kind)]

    def _lower(self, c: Context, what: str) -> Call:
        function = LOWER.get((c.info.kind, what))
        if function is None:
            kinds = sorted(kind for kind, made in LOWER if made == what)
            passes = {"forward": "forward", "grad_input": "input gradient", "grad_param": "parameter gradient"}
            raise ExportError(
                f"op {c.info.name!r}: kind {c.info.kind!r} has no C kernel for its {passes[what]}"
                f"{near(c.info.kind, kinds) if what == 'forward' else ''}; leave it out, or export to torch"
            )
        return function(c)

    def _forward(self, c: Context) -> list[Call]:
        """The output; auxiliaries of inputs before it, as it may take their place, those of the output after it."""
        before, after = [], []
        for arg in (a for a in c.step.writes if a.tag != "y"):
            sources = c.definition.aux(c.info)[arg.tag].sources[:1]
            if sources == ("y",):
                (y,) = c.y()
                after.append(self._aux(c, arg.tag, (replace(y, add=False),), arg))
                continue
            inputs = [c.step.read(f"x{i}") for i in range(len(c.info.inputs))]
            reads = [a for a in inputs if not sources or a.tag == sources[0]]
            before.append(self._aux(c, arg.tag, tuple(map(self.places.read, reads)), arg))
        return [*before, self._lower(c, "forward"), *after]

    def _aux(self, c: Context, tag: str, reads: Views, write: Arg) -> Call:
        """An auxiliary from its source, or from all inputs."""
        function = LOWER_AUX.get(c.info.kind)
        if function is None:
            raise ExportError(f"op {c.info.name!r}: kind {c.info.kind!r} has no C kernel for its auxiliary {tag!r}")
        return function(c, tag, reads, self.places.written(write, write.shape[1:]))

    def _loss(self, step: Step) -> Call:
        if step.op not in _LOSSES:
            raise ExportError(f"loss {step.op!r} has no C kernel{near(step.op, _LOSSES)}; train with one of these")
        judged = self.options.loss_of(step)
        if judged is None:
            raise ExportError(f"step {step.name!r} is loss {step.op!r} with target={step.target!r}, which is none of "
                              "those that the options name")  # fmt: skip
        attrs = {**loss_def(step.op).defaults, **judged.attrs}
        numbers = (judged.weight, *(float(attrs[n]) for n in _LOSSES[step.op]))
        output, target = (self.places.read(step.read(tag)) for tag in ("y", "target"))
        shape = step.read("y").shape[1:]
        writes = tuple(self.places.written(a, shape) for a in step.writes)
        return Call(f"sp_{step.op}", (output, target), writes, (), numbers)

    def _move(self, step: Step) -> Call:
        x, y = step.read("x0"), step.write("y")
        size = bytes_of(math.prod(x.shape), x.dtype)
        return Call("sp_move", (self.places.read(x),), (self.places.written(y, y.shape[1:]),), (size,))

    def _pack(self, step: Step) -> Call:
        x, codes, scales = step.read("x0"), step.write(PACKED_CODES), step.write(PACKED_SCALES)
        count = math.prod(scales.shape)
        view = self.places.read(x)
        made = (self.places.written(codes, codes.shape[1:]), self.places.read(scales))
        return Call("sp_pack", (view,), made, (count, view.count // count))

    def _update(self, c: Context) -> Call:
        step, kind = c.step, self.options.optimizer
        kept = OPTIMIZERS[kind]
        grad, param, *states = (self.places.read(step.read(tag)) for tag in ("grad", "param", *kept))
        changed = [step.write(tag) for tag in ("param", *kept)]
        writes = tuple(self.places.written(a, a.shape) for a in changed)
        shape = changed[0].shape
        ints = (1, 1, 1, math.prod(shape))
        if step.keep is not None:
            cut = c.definition.fraction(c.info, step.target)
            if cut is None:
                raise ExportError(f"step {step.name!r} updates {step.keep} units of a parameter that cannot be cut")
            a = cut.axis
            ints = (math.prod(shape[:a]), shape[a], step.keep * cut.per_unit, math.prod(shape[a + 1 :]))
        mean = int(self.options.gradients == "accumulate")
        return Call(f"sp_{kind}", (grad, param, *states), writes, (*ints, mean), self.hyper.floats(kind))

    # -- what comes from outside -------------------------------------------------------------------------
    def arrivals(self) -> dict[int, list[Call]]:
        """By step, before which of them what is copied into the arena: inputs and targets."""
        found: dict[int, list[Call]] = {}
        there = [name for name in (*self.plan.network.inputs, *self.targets) if name in self.values]
        for k, name in enumerate(there):
            starts = {b.start for b in self.plan.buffers if b.value == name}
            if len(starts) != 1:
                raise ExportError(f"buffers of {name!r} begin at steps {sorted(starts)}; verify the plan")
            kernel = "sp_arrive_integers" if self.values[name].dtype == "i32" else "sp_arrive"
            call = Call(kernel, (), (self.places.value(name),), (k,))
            found.setdefault(starts.pop(), []).append(call)
        return found
