"""What a training step is made of: options, values, steps, schedules. Plain data, no algorithms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from sparseplan.dtypes import TRAINABLE
from sparseplan.errors import PlanError, ProblemError, near
from sparseplan.network import Network, Op
from sparseplan.objective import TARGET, WHOLE, Loss, LossStep, check_attrs, check_losses, labels_of, loss_steps
from sparseplan.ops import OpInfo, infos, op_def
from sparseplan.scalars import plain_fields

#: fractions of a parameter's input channels that may be updated, by default
FRACTIONS = (0.125, 0.25, 0.5, 1.0)

StepKind = Literal[
    "forward", "loss", "aux", "grad_param", "grad_input", "update", "recompute", "page_out", "page_in", "pack",
]  # fmt: skip
ValueRole = Literal[
    "input", "activation", "auxiliary", "target", "gradient",
    "parameter", "parameter gradient", "accumulator", "state", "packed",
]  # fmt: skip
#: states that each optimizer keeps for a parameter
OPTIMIZERS: Mapping[str, tuple[str, ...]] = MappingProxyType({"sgd": (), "momentum": ("m",), "adam": ("m", "v")})
#: the level where tensors live
MAIN = "L2"
#: the level to which tensors are paged
PAGE_LEVEL = "L3"
#: tags by which a kernel reads an input that was saved in 8 bits: codes, and a scale a channel
PACKED_CODES, PACKED_SCALES = "x0.codes", "x0.scales"


@dataclass(frozen=True)
class TrainingOptions:
    """How a training step is carried out, apart from what is updated.

    Attributes:
        dtype: storage of parameters, activations and gradients: fp32, fp16 or bf16.
        batch: samples processed at once.
        optimizer: ``sgd``, ``momentum`` (one state a parameter) or ``adam`` (two).
        gradients: ``fused`` (each parameter is updated as soon as its gradient is there) or
            ``accumulate`` (gradients are summed over many runs of the schedule; updates at the end).
        frozen: level where parameters that are not updated live: ``L2``, ``L3`` or ``flash``.
        alignment: of every buffer in main memory, bytes, a power of two.
        concat: ``split`` (kernels take the channels of a concat from where its parts lie; a tile's
            DMA or a table of channel pointers does that) or ``adjoin`` (kernels need one contiguous
            input, so the parts are laid side by side, or copied where they cannot be).
        loss, loss_attrs: the loss on the network's first output; "" with ``losses``.
        losses: or several, on outputs by name, whose weighted sum is minimised (see ``objective.Loss``).
    """

    dtype: str = "bf16"
    batch: int = 1
    optimizer: str = "sgd"
    gradients: str = "fused"
    frozen: str = MAIN
    alignment: int = 1
    loss: str = "l1"
    loss_attrs: Mapping[str, Any] = field(default_factory=dict)
    concat: str = "split"
    losses: tuple[Loss, ...] = ()

    def __post_init__(self) -> None:
        plain_fields(self)
        if self.dtype not in TRAINABLE:
            raise ProblemError(f"dtype={self.dtype!r} cannot be trained in{near(str(self.dtype), TRAINABLE)}")
        if isinstance(self.batch, bool) or not isinstance(self.batch, int) or not 1 <= self.batch <= 2**20:
            raise ProblemError(f"batch={self.batch!r} must be an integer from 1 to 2**20")
        if self.optimizer not in OPTIMIZERS:
            raise ProblemError(f"optimizer={self.optimizer!r} is unknown{near(str(self.optimizer), OPTIMIZERS)}")
        if self.gradients not in ("fused", "accumulate"):
            raise ProblemError(f"gradients={self.gradients!r} must be fused or accumulate")
        if self.frozen not in ("L2", "L3", "flash"):
            raise ProblemError(f"frozen={self.frozen!r} must be L2, L3 or flash")
        if self.concat not in ("split", "adjoin"):
            raise ProblemError(f"concat={self.concat!r} must be split or adjoin")
        a = self.alignment
        if isinstance(a, bool) or not isinstance(a, int) or a < 1 or a & (a - 1):
            raise ProblemError(f"alignment={a!r} must be a power of two, at least 1")
        object.__setattr__(self, "losses", tuple(self.losses))
        if self.losses:
            if self.loss or self.loss_attrs:
                raise ProblemError(
                    f"loss={self.loss!r} beside losses={[str(x) for x in self.losses]}: give one of them"
                )
            labels_of(self.losses)
        else:
            check_attrs(self.loss, self.loss_attrs)
        object.__setattr__(self, "loss_attrs", MappingProxyType(dict(self.loss_attrs)))

    def __reduce__(self) -> tuple[Any, ...]:
        return (
            TrainingOptions,
            (self.dtype, self.batch, self.optimizer, self.gradients, self.frozen, self.alignment, self.loss,
             dict(self.loss_attrs), self.concat, self.losses),
        )  # fmt: skip

    def loss_steps(self, network: Network) -> tuple[LossStep, ...]:
        """The steps of the losses, in order.

        Raises:
            ProblemError: a loss on what is no output of the network; OpError where it cannot judge one.
        """
        if self.losses:
            found = loss_steps(self.losses)
        else:
            one = Loss(network.outputs[0], self.loss, 1.0, self.loss_attrs)
            found = (LossStep(one, one.output, "loss", WHOLE, TARGET),)
        check_losses((x.loss for x in found), network)
        return found

    def loss_outputs(self, network: Network) -> tuple[str, ...]:
        """The outputs that a loss is on, each once."""
        return tuple(dict.fromkeys(x.output for x in self.losses)) or network.outputs[:1]

    def loss_of(self, step: Step) -> Loss | None:
        """The loss that a step of that kind computes (of the one loss, the output is not named); None for none."""
        if not self.losses:
            one = (step.op, step.target) == (self.loss, WHOLE)
            return Loss("the first", self.loss, 1.0, self.loss_attrs) if one else None
        return next((x for x in self.losses if (x.kind, x.output) == (step.op, step.target)), None)


@dataclass(frozen=True)
class UpdateSet:
    """Which parameters are updated, and which fraction of their channels (in (0, 1])."""

    fractions: Mapping[str, float]

    def __post_init__(self) -> None:
        plain_fields(self)
        for name, fraction in self.fractions.items():
            good = isinstance(fraction, (int, float)) and not isinstance(fraction, bool) and 0 < fraction <= 1
            if not good:
                raise ProblemError(f"fraction of {name!r}={fraction!r} must be a number in (0, 1]")
        object.__setattr__(self, "fractions", MappingProxyType(dict(self.fractions)))

    def __reduce__(self) -> tuple[Any, ...]:
        return (UpdateSet, (dict(self.fractions),))

    @staticmethod
    def all(network: Network, outputs: Sequence[str] | None = None) -> UpdateSet:
        """Every parameter that may be updated where nothing is said of it (see ``by_default``), in whole.

        ``outputs``: that losses are on (default: the first)."""
        reached = reached_by_gradient(network, infos(network), outputs)
        return UpdateSet({p: 1.0 for p in network.parameters if by_default(network, reached, p)})


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor of the training step; what buffers hold.

    Attributes:
        shape: with the batch axis where it has one.
        bytes: of storage, before alignment.
        tensor: name of the network's tensor or op that it belongs to.
        persistent: lives through the whole schedule (parameters, accumulators, state).
        level: where it lives.
        scale: value of one quantum of an int8 value.
        layout: ``chw`` (in the order of ``shape``) or ``hcw`` (an image row by row: rows are a range
            of its bytes). Kernels see ``shape`` either way.
    """

    name: str
    role: ValueRole
    shape: tuple[int, ...]
    dtype: str
    bytes: int
    tensor: str
    persistent: bool = False
    level: str = MAIN
    scale: float | None = None
    layout: str = "chw"


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes ``[lo, hi)`` of a value (``hi`` may include padding up to the alignment)."""

    value: str
    lo: int
    hi: int


@dataclass(frozen=True, slots=True)
class Box:
    """Half-open ranges of channels and rows of an image."""

    channels: tuple[int, int]
    rows: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Arg:
    """What a step reads or writes under a tag: an array laid over adjoining spans.

    Attributes:
        shape: with the batch axis where it has one.
        channels: for a gradient written in part, the half-open range of channels; else None.
        add: the array is added to what the spans hold.
        rows: for a gradient of which some rows are written, their half-open range; else None.
        boxes: what of the array each span holds, one a span; empty where the spans hold its
            consecutive elements, one after the other. Spans of row-by-row values have boxes. What
            no box covers is zero.
    """

    tag: str
    shape: tuple[int, ...]
    dtype: str
    spans: tuple[Span, ...]
    channels: tuple[int, int] | None = None
    add: bool = False
    rows: tuple[int, int] | None = None
    boxes: tuple[Box, ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """One kernel call.

    An argument means what its tag says, wherever it stands; gradients of parts (``dx``, ``dy`` of the loss) share
    a tag and say by ``channels`` and ``rows`` which part each is. ``verify`` also holds their order to one.

    Attributes:
        op: the op (or, of the loss, its kind).
        target: what is computed: ``y``, an auxiliary tag, a parameter slot, ``x0`` …
        keep: units of a parameter that is updated in part (see ops.base.Fraction).
        inplace: (value written, value read) pairs whose bytes may be the same.
    """

    name: str
    kind: StepKind
    op: str
    target: str
    reads: tuple[Arg, ...]
    writes: tuple[Arg, ...]
    inplace: tuple[tuple[str, str], ...] = ()
    keep: int | None = None
    macs: int = 0

    def read(self, tag: str) -> Arg:
        """What is read under a tag; raises PlanError unless it is one argument."""
        return self._one("reads", self.reads, tag)

    def write(self, tag: str) -> Arg:
        """What is written under a tag; raises PlanError unless it is one argument."""
        return self._one("writes", self.writes, tag)

    def _one(self, what: str, args: tuple[Arg, ...], tag: str) -> Arg:
        found = [a for a in args if a.tag == tag]
        if len(found) != 1:
            raise PlanError(f"step {self.name!r} {what} {len(found)} arguments {tag!r}, not one; verify the plan")
        return found[0]


@dataclass(frozen=True)
class Schedule:
    """The steps of one training step for given decisions, in execution order.

    Attributes:
        update: parameter to (fraction, kept units or None for whole).
        picks: op to the option by which its backward gets what it needs.
        composites: values whose bytes must adjoin, each with its relative offset.
    """

    network: Network
    options: TrainingOptions
    update: Mapping[str, tuple[float, int | None]]
    picks: Mapping[str, str]
    values: Mapping[str, Value]
    steps: tuple[Step, ...]
    composites: tuple[tuple[tuple[str, int], ...], ...]

    @property
    def macs(self) -> dict[str, int]:
        """MACs of the forward and the backward steps, and of what is recomputed where anything is."""
        return macs_of(self.steps)


def macs_of(steps: Iterable[Step]) -> dict[str, int]:
    """MACs of steps: forward, backward, and recomputed where anything is."""
    result = {"forward": 0, "backward": 0}
    for s in steps:
        phase = s.kind if s.kind in ("forward", "recompute") else "backward"
        result[phase] = result.get(phase, 0) + s.macs
    return result


def packed_parameters(network: Network, steps: Iterable[Step]) -> frozenset[str]:
    """Parameters whose gradients are computed from inputs that were saved in 8 bits."""
    return frozenset(
        network.op[s.op].params[s.target]
        for s in steps
        if s.kind == "grad_param" and any(a.tag == PACKED_CODES for a in s.reads)
    )


def allowed_levels(info: OpInfo, slot: str, fractions: Sequence[float]) -> tuple[tuple[float, int | None], ...]:
    """Distinct ways to update a parameter: (fraction, kept units or None for whole), ascending.

    A fraction keeps ``int(units * fraction)`` units, as MCUNetV3 (Lin et al., NeurIPS 2022); one
    that keeps none is not allowed. Parameters that cannot be cut have the whole only.
    """
    cut = op_def(info.kind).fraction(info, slot)
    result: dict[int | None, float] = {}
    for r in sorted(set(fractions)):
        if r == 1:
            result[None] = 1.0
        elif cut is not None and int(cut.units * r) >= 1:
            result.setdefault(int(cut.units * r), r)
    if cut is None and fractions and None not in result:
        result[None] = 1.0
    return tuple((r, k) for k, r in result.items())


def why_once(op: Op) -> str:
    """Why an op that is not ``repeatable`` runs once."""
    kind = op.attrs.get("type", op.kind)
    if op.attrs.get("once"):
        return f"{kind} draws random numbers, holds state or makes several outputs at once: it has to run once"
    return f"the MACs of {kind} are not known"


def reached_by_gradient(
    network: Network, infos: Mapping[str, OpInfo], outputs: Sequence[str] | None = None
) -> frozenset[str]:
    """Names of the ops to whose output a gradient of losses on ``outputs`` (default: the first) can flow."""
    reached = set(network.outputs[:1] if outputs is None else outputs)
    names = set()
    for op in reversed(network.ops):
        if op.output in reached:
            names.add(op.name)
            d = op_def(op.kind)
            reached.update(t for i, t in enumerate(op.inputs) if d.differentiable(infos[op.name], i))
    return frozenset(names)


def leading_to(network: Network, outputs: Sequence[str] | None = None) -> list[Op]:
    """Ops that ``outputs`` (default: the first) depend on, the last first."""
    found: list[Op] = []
    wanted = set(network.outputs[:1] if outputs is None else outputs)
    for op in reversed(network.ops):
        if op.output in wanted:
            found.append(op)
            wanted.update(op.inputs)
    return found


def updatable(network: Network, reached: frozenset[str], parameter: str) -> bool:
    """Whether a parameter can be updated: its gradient exists wherever it is used, and reaches one of its ops."""
    users = network.users[parameter]
    if not any(op.name in reached for op, _ in users):
        return False
    return all(op_def(op.kind).updatable(slot) for op, slot in users)


def by_default(network: Network, reached: frozenset[str], parameter: str) -> bool:
    """Whether a parameter may be updated where nothing is said of it: if it can be, and is not int8.

    An update of an int8 parameter is lost where it is less than half a quantum, so it has to be asked for.
    """
    return network.tensor[parameter].dtype != "int8" and updatable(network, reached, parameter)


def why_not_updatable(
    network: Network, infos: Mapping[str, OpInfo], parameter: str, outputs: Sequence[str] | None = None
) -> str:
    """Why ``updatable`` says no: names the op that is in the way, and what would be needed."""
    for op, slot in network.users[parameter]:
        if not op_def(op.kind).updatable(slot):
            return f"op {op.name!r} ({infos[op.name].kind}) has no gradient for its {slot}: freeze it"
    walls, seen = [], {op.output for op, _ in network.users[parameter]}
    for op in reversed(leading_to(network, outputs)):
        ways = [i for i, t in enumerate(op.inputs) if t in seen]
        if any(op_def(op.kind).differentiable(infos[op.name], i) for i in ways):
            seen.add(op.output)
        elif ways:
            walls.append(op)
    if not walls:
        judged = network.outputs[:1] if outputs is None else outputs
        return f"nothing of it reaches the loss's output {', '.join(map(repr, judged))}"
    first = walls[0]
    return f"op {first.name!r} stands between it and the loss: {op_def(first.kind).obstacle(infos[first.name])}"
