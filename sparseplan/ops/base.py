"""What an op is: one definition that serves the planner and the trainer.

An ``OpDef`` tells the shape of its output, the MACs of each pass, what its backward needs,
what may be overwritten, how it is tiled, and computes itself in NumPy. Bytes and
mathematics thus cannot drift apart.

Conventions
    * Shapes in ``OpInfo`` are per sample; arrays given to kernels have a leading batch axis.
    * Kernels compute in the floating dtype of their inputs (float32, or float64 in tests) and
      return new arrays; they never write to their arguments.
    * Tags name what a step reads or writes: ``x0``, ``x1`` … inputs by slot; ``y`` the output;
      ``dy``, ``dx`` gradients; ``weight``, ``bias`` … parameter slots; ``mask``, ``index`` …
      auxiliary tensors that the forward pass leaves for the backward pass.
    * A *pass* is named by what it computes: ``forward``; ``x0`` … the gradient of that input;
      ``weight`` … the gradient of that parameter.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from sparseplan.errors import OpError, near
from sparseplan.network import Attr, Network, Op

Array = npt.NDArray[Any]
Shape = tuple[int, ...]

#: sets of tags, any one of which suffices for a backward pass; the first is the default
Alternatives = tuple[frozenset[str], ...]
NOTHING: Alternatives = (frozenset(),)


def need(*tags: str) -> Alternatives:
    """One alternative that needs all of ``tags``."""
    return (frozenset(tags),)


def either(*tags: str) -> Alternatives:
    """Alternatives of one tag each."""
    return tuple(frozenset((t,)) for t in tags)


@dataclass(frozen=True)
class OpInfo:
    """An op with its attributes completed and its shapes resolved (per sample)."""

    name: str
    kind: str
    attrs: Mapping[str, Any]
    inputs: tuple[Shape, ...]
    output: Shape
    params: Mapping[str, Shape] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "attrs", MappingProxyType(dict(self.attrs)))
        object.__setattr__(self, "params", MappingProxyType(dict(self.params)))

    @property
    def out_elements(self) -> int:
        """Elements of one sample of the output."""
        return math.prod(self.output)

    def __hash__(self) -> int:
        return hash((self.name, self.kind, self.inputs, self.output))


@dataclass(frozen=True, slots=True)
class Aux:
    """An auxiliary tensor: made in forward for backward's use.

    Attributes:
        shape: per sample.
        dtype: ``bit`` (kernels see a bool array) or ``u8``.
        sources: tags from which, alone, it can be made at any later time too (each an
            alternative, say ``("y", "x0")``); none where it takes several, which only forward has.
    """

    shape: Shape
    dtype: str
    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Fraction:
    """How a parameter can be updated in part: its first ``k`` of ``units`` slices.

    Attributes:
        axis: of the parameter that is cut.
        units: number of cuttable units (input channels; groups of a grouped convolution).
        per_unit: extent along ``axis`` of a unit.
        rows: leading entries of the saved input ``x0`` (its channel axis) that a unit needs, or
            None when the whole input is needed whatever the fraction.
    """

    axis: int
    units: int
    per_unit: int
    rows: int | None


@dataclass(frozen=True, slots=True)
class Dim:
    """One dimension of an operand's tile: ``min(full, (t - 1) * scale + window)`` for a tile of
    ``t`` along ``axis``; ``full`` when ``axis`` is None (never tiled)."""

    axis: str | None
    full: int
    scale: int = 1
    window: int = 1


@dataclass(frozen=True, slots=True)
class Operand:
    """A tensor that a pass streams through L1.

    Attributes:
        tag: which tensor (``x0``, ``weight``, ``dy`` …).
        dims: extents of its tile; the product is the elements of a tile.
        role: ``in`` or ``out``. An ``out`` operand that lacks a reduced axis is accumulated
            over that axis: it stays in L1 or is written and read again.
        dtype: ``data`` (the plan's dtype), ``bit``, ``u8`` or ``i32``.
    """

    tag: str
    dims: tuple[Dim, ...]
    role: str = "in"
    dtype: str = "data"


@dataclass(frozen=True, slots=True)
class TileSpace:
    """The loop nest of a pass: axes with extents, and the operands that it touches."""

    axes: tuple[tuple[str, int], ...]
    operands: tuple[Operand, ...]
    macs: int


@dataclass(frozen=True, slots=True)
class Stripe:
    """How an op makes some rows of its output.

    Attributes:
        inputs: half-open range of rows that it reads, by slot; None for an input that is read in whole.
        attrs: completed attributes of the op that makes exactly these rows from those.
    """

    inputs: tuple[tuple[int, int] | None, ...]
    attrs: Mapping[str, Any]


REQUIRED: Any = object()


class OpDef(ABC):
    """Base of all op definitions; one instance a kind, without state."""

    kind: ClassVar[str]
    #: least and most inputs (None: any number)
    arity: ClassVar[tuple[int, int | None]] = (1, 1)
    #: attribute name to default; REQUIRED has none
    defaults: ClassVar[Mapping[str, Any]] = {}
    #: the output is the input's bytes under another shape; costs nothing
    view: ClassVar[bool] = False
    #: inputs laid side by side along axis 0 are the output; costs nothing where that is possible
    concat: ClassVar[bool] = False
    #: the output is rows ``attrs["lo"]`` to ``attrs["hi"]`` of the input; costs nothing where that is possible
    window: ClassVar[bool] = False
    #: inputs one below the other are the output; costs nothing where that is possible
    stack: ClassVar[bool] = False
    #: ``grad_input`` honours ``channels``, so a gradient of some channels costs only these
    partial_input: ClassVar[bool] = False
    #: parameter slots that are never updated: statistics of a batch-norm, say
    frozen: ClassVar[frozenset[str]] = frozenset()

    #: input slots that read numbers of things (``i32`` inputs of the network), all others floats; None: either
    integer_inputs: ClassVar[frozenset[int] | None] = frozenset()

    # -- shapes ---------------------------------------------------------------------------
    def complete_attrs(self, attrs: Mapping[str, Attr]) -> dict[str, Any]:
        """Attributes with defaults, normalised and checked. Overriders call this first.

        Raises:
            OpError: an attribute is unknown, missing, or of a wrong value.
        """
        for name in attrs:
            if name not in self.defaults:
                raise OpError(f"attribute {name!r} is unknown to {self.kind}{near(name, self.defaults)}")
        full = {**self.defaults, **attrs}
        for name, value in full.items():
            if value is REQUIRED:
                raise OpError(f"attribute {name!r} of {self.kind} is missing; give it")
        return full

    @abstractmethod
    def output_shape(self, attrs: Mapping[str, Any], inputs: Sequence[Shape]) -> Shape:
        """Shape of the output. Raises OpError where the inputs do not fit."""

    def param_shapes(self, attrs: Mapping[str, Any], inputs: Sequence[Shape]) -> dict[str, Shape]:
        """Slots to shapes of all parameters that the op can have."""
        return {}

    def required_params(self, attrs: Mapping[str, Any]) -> frozenset[str]:
        """Slots that must be present (``weight``, but not ``bias``)."""
        return frozenset()

    def init(self, slot: str, shape: Shape, rng: np.random.Generator) -> Array | None:
        """A float32 parameter to begin training with; None: as is usual (see ``builder.init_parameters``)."""
        return None

    # -- planning -------------------------------------------------------------------------
    def macs(self, info: OpInfo, pass_: str) -> int:
        """Multiply-accumulates of one sample of a pass; additions alone count nothing."""
        return 0

    def aux(self, info: OpInfo) -> Mapping[str, Aux]:
        """Auxiliary tensors that backward may ask for, by tag."""
        return {}

    def needs_for_input(self, info: OpInfo, slot: int) -> Alternatives:
        """What the gradient of input ``slot`` reads besides ``dy``."""
        return NOTHING

    def needs_for_param(self, info: OpInfo, slot: str) -> Alternatives:
        """What the gradient of a parameter reads besides ``dy``."""
        return NOTHING

    def differentiable(self, info: OpInfo, slot: int) -> bool:
        """Whether a gradient can flow to input ``slot``."""
        return True

    def updatable(self, slot: str) -> bool:
        """Whether parameter ``slot`` has a gradient, so that it can be updated."""
        return slot not in self.frozen

    def repeatable(self, attrs: Mapping[str, Any]) -> bool:
        """Whether the op may run a second time: that makes the same numbers, at a cost that is known."""
        return True

    def obstacle(self, info: OpInfo) -> str:
        """Why no gradient passes where ``differentiable`` says so, and what would be needed; ends a message."""
        return f"{self.kind} has no gradient; choose an output before it"

    def inplace(self, info: OpInfo) -> tuple[int, ...]:
        """Input slots whose bytes the output may overwrite while it is computed."""
        return ()

    def inplace_grad(self, info: OpInfo, slot: int) -> bool:
        """Whether the gradient of input ``slot`` may overwrite ``dy`` while it is computed."""
        return False

    def fraction(self, info: OpInfo, slot: str) -> Fraction | None:
        """How parameter ``slot`` can be updated in part; None: as a whole only."""
        return None

    def stripe(self, info: OpInfo, lo: int, hi: int) -> Stripe | None:
        """How rows ``[lo, hi)`` (axis 1) of the output are made; None: the op cannot work by rows.

        Stripes whose rows adjoin or overlap, and together are all rows, read all rows of the inputs.

        Raises:
            OpError: these rows alone cannot be made.
        """
        return None

    def tile_space(self, info: OpInfo, pass_: str) -> TileSpace | None:
        """The loop nest of a pass for the search of L1 tiles; None: it moves no data."""
        return None

    # -- computing ------------------------------------------------------------------------
    @abstractmethod
    def forward(self, info: OpInfo, x: Sequence[Array], params: Mapping[str, Array]) -> Array:
        """The output; ``x`` by slot, each ``(batch, *shape)``."""

    def make_aux(self, info: OpInfo, tag: str, source: str, array: Array) -> Array:
        """Auxiliary ``tag`` from one of its sources: a bool or uint8 array ``(batch, *shape)``."""
        raise NotImplementedError(f"{self.kind} has no auxiliary {tag!r}")

    def forward_aux(self, info: OpInfo, tag: str, x: Sequence[Array], y: Array) -> Array:
        """Auxiliary ``tag`` as the forward pass makes it: from its first source, unless an op overrides this."""
        source = self.aux(info)[tag].sources[0]
        return self.make_aux(info, tag, source, y if source == "y" else x[int(source[1:])])

    def grad_input(
        self,
        info: OpInfo,
        slot: int,
        dy: Array,
        saved: Mapping[str, Array],
        channels: tuple[int, int] | None = None,
    ) -> Array:
        """Gradient of input ``slot``; ``saved`` holds one alternative of ``needs_for_input``.

        With ``channels`` (only if ``partial_input``): of that half-open range of its axis 0.
        """
        raise NotImplementedError(f"{self.kind} has no gradient for input {slot}")

    def grad_param(
        self, info: OpInfo, slot: str, dy: Array, saved: Mapping[str, Array], keep: int | None = None
    ) -> Array:
        """Gradient of a parameter, summed over the batch.

        With ``keep``: of its first ``keep`` units (see Fraction); then ``saved["x0"]`` holds only
        the leading rows that these units need.
        """
        raise NotImplementedError(f"{self.kind} has no parameter {slot!r}")


class LossDef(ABC):
    """A loss between the network's output and a target; one instance a kind.

    Invalid target entries of the masked losses are NaN: no bytes for a mask.
    """

    kind: ClassVar[str]
    defaults: ClassVar[Mapping[str, Any]] = {}

    @abstractmethod
    def target(self, output: Shape) -> tuple[Shape, str]:
        """Shape (per sample) and dtype (``data`` or ``i32``) of the target.

        Raises OpError where such an output cannot be judged."""

    @abstractmethod
    def value_and_grad(self, output: Array, target: Array, attrs: Mapping[str, Any]) -> tuple[float, Array]:
        """The loss, a mean over all valid entries of the batch (0 if none), and its gradient."""


OPS: dict[str, OpDef] = {}
LOSSES: dict[str, LossDef] = {}


def register(cls: type[OpDef]) -> type[OpDef]:
    """Class decorator: make an op known by its ``kind``."""
    if cls.kind in OPS:
        raise RuntimeError(f"op kind {cls.kind!r} is registered twice")
    OPS[cls.kind] = cls()
    return cls


def register_loss(cls: type[LossDef]) -> type[LossDef]:
    """Class decorator: make a loss known by its ``kind``."""
    if cls.kind in LOSSES:
        raise RuntimeError(f"loss {cls.kind!r} is registered twice")
    LOSSES[cls.kind] = cls()
    return cls


def op_def(kind: str) -> OpDef:
    """The definition of an op kind; raises OpError with near matches."""
    if kind not in OPS:
        raise OpError(f"op kind {kind!r} is unknown{near(str(kind), OPS)}")
    return OPS[kind]


def loss_def(kind: str) -> LossDef:
    """The definition of a loss; raises OpError with near matches."""
    if kind not in LOSSES:
        raise OpError(f"loss {kind!r} is unknown{near(str(kind), LOSSES)}")
    return LOSSES[kind]


def resolve(network: Network, op: Op) -> OpInfo:
    """Complete an op's attributes and check its shapes against its definition.

    Raises:
        OpError: naming the op, the shapes at hand, and what was expected.
    """
    try:
        definition = op_def(op.kind)
        low, high = definition.arity
        if len(op.inputs) < low or (high is not None and len(op.inputs) > high):
            wanted = f"{low}" if low == high else f"{low} or more" if high is None else f"{low} to {high}"
            raise OpError(f"{len(op.inputs)} inputs given, {op.kind} takes {wanted}")
        attrs = definition.complete_attrs(op.attrs)
        shapes = tuple(network.tensor[t].shape for t in op.inputs)
        output = definition.output_shape(attrs, shapes)
        if any(n < 1 for n in output):
            raise OpError(f"inputs {list(shapes)} are too small: the output would have shape {output}")
        if output != network.tensor[op.output].shape:
            raise OpError(
                f"output {op.output!r} has shape {network.tensor[op.output].shape}, but {op.kind} makes {output}"
            )
        _check_integers(network, op, definition)
        expected = definition.param_shapes(attrs, shapes)
        for slot, name in op.params.items():
            if slot not in expected:
                raise OpError(f"parameter slot {slot!r} is unknown to {op.kind}{near(slot, expected)}")
            if network.tensor[name].shape != expected[slot]:
                raise OpError(f"{slot} {name!r} has shape {network.tensor[name].shape}, expected {expected[slot]}")
        for slot in sorted(definition.required_params(attrs)):
            if slot not in op.params:
                raise OpError(f"parameter {slot!r} of shape {expected[slot]} is missing")
    except OpError as error:
        message = str(error)
        prefix = f"network {network.name!r}: op {op.name!r} ({op.kind}): "
        raise OpError(message if message.startswith(prefix) else prefix + message) from None
    return OpInfo(op.name, op.kind, attrs, shapes, output, {s: expected[s] for s in op.params})


def _check_integers(network: Network, op: Op, definition: OpDef) -> None:
    """Integers go where numbers of things are read, and nowhere else."""
    if definition.integer_inputs is None:
        return
    for slot, t in enumerate(op.inputs):
        tensor, wanted = network.tensor[t], slot in definition.integer_inputs
        if wanted and tensor.dtype != "i32":
            raise OpError(
                f"{op.kind} reads integers, but {tensor.role} {t!r} has dtype={tensor.dtype}; "
                "give it an input of the network with dtype 'i32'"
            )
        if not wanted and tensor.dtype == "i32":
            raise OpError(f"{op.kind} reads floats, but input {t!r} has dtype=i32, which ops like embedding take")


def infos(network: Network) -> dict[str, OpInfo]:
    """Every op of a network resolved, by name. Raises OpError on the first that does not fit."""
    return {op.name: resolve(network, op) for op in network.ops}
