"""What training minimises: one loss on the network's first output, or a weighted sum of losses on several outputs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np

from sparseplan.errors import OpError, ProblemError, near
from sparseplan.network import Network
from sparseplan.ops import loss_def
from sparseplan.ops.base import Shape
from sparseplan.scalars import plain_fields

#: the value that holds the training target of the one loss
TARGET = "(target)"
#: the target of its step; of one of several losses it is the output
WHOLE = "dy"
#: weights are multiplied in float32, where they must be numbers with all their digits
_LEAST, _MOST = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True)
class Loss:
    """``weight`` times a loss on an output.

    Attributes:
        output: name of an output of the network.
        kind: l1, huber, mse, berhu or cross_entropy.
        weight: a number above 0 that float32 can hold.
        attrs: of the loss, as ``{"delta": 2.0}`` of huber.

    Raises:
        ProblemError: an unknown kind or attribute, or a weight out of range; names the output.
    """

    output: str
    kind: str
    weight: float = 1.0
    attrs: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        plain_fields(self)
        if not isinstance(self.output, str) or not self.output:
            raise ProblemError(f"output={self.output!r} of a loss must be the name of an output")
        where = f"loss on output {self.output!r}"
        given: object = self.weight
        weight = float(given) if isinstance(given, (int, float)) and not isinstance(given, bool) else math.nan
        if not _LEAST <= weight <= _MOST:
            least, most = f"{_LEAST:.3g}", f"{_MOST:.3g}"
            raise ProblemError(f"{where}: weight={given!r} must be a finite number above 0 ({least} to {most})")
        object.__setattr__(self, "weight", weight)
        try:
            check_attrs(str(self.kind), self.attrs)
        except (OpError, ProblemError) as error:
            raise ProblemError(f"{where}: {error}") from None
        object.__setattr__(self, "attrs", MappingProxyType(dict(self.attrs)))

    def __reduce__(self) -> tuple[Any, ...]:
        return (Loss, (self.output, self.kind, self.weight, dict(self.attrs)))

    def __str__(self) -> str:
        return f"{self.output}={'' if self.weight == 1 else f'{self.weight:g}*'}{self.kind}"


@dataclass(frozen=True, slots=True)
class LossStep:
    """A loss as a step of the schedule.

    Attributes:
        label: what targets and reports call it: the output, with the kind where the output has several losses.
        name: of the step.
        mark: the step's target; with the kind it tells which loss the step is.
        target: name of the value that holds the training target.
    """

    loss: Loss
    label: str
    name: str
    mark: str
    target: str


def check_attrs(kind: str, attrs: Mapping[str, Any]) -> None:
    """Raise OpError or ProblemError for a loss or an attribute that is not known."""
    known = loss_def(kind).defaults
    for key in attrs:
        if key not in known:
            raise ProblemError(f"loss {kind!r} has no attribute {key!r}{near(key, known)}")


def labels_of(losses: Sequence[Loss]) -> tuple[str, ...]:
    """A name for each loss: its output, or ``output=kind`` where an output has several.

    Raises:
        ProblemError: a loss that is given twice, or outputs so named that labels are the same.
    """
    outputs = [x.output for x in losses]
    labels: list[str] = []
    for x in losses:
        label = x.output if outputs.count(x.output) == 1 else f"{x.output}={x.kind}"
        if label in labels:
            raise ProblemError(f"loss {x.kind} on output {x.output!r} is given twice; give it once, its weights added")
        labels.append(label)
    return tuple(labels)


def loss_steps(losses: Sequence[Loss]) -> tuple[LossStep, ...]:
    """The steps of several losses, in their order."""
    labels = labels_of(losses)
    return tuple(
        LossStep(x, label, f"loss {label}", x.output, f"(target {label})")
        for x, label in zip(losses, labels, strict=True)
    )


def check_losses(losses: Iterable[Loss], network: Network) -> None:
    """Raise ProblemError for a loss on what is no output, or on one whose shape it cannot judge."""
    for x in losses:
        if x.output not in network.outputs:
            hint = near(x.output, network.outputs) or f"; it has {_listed(network.outputs)}"
            raise ProblemError(f"loss on {x.output!r}: network {network.name!r} has no such output{hint}")
        target_of(x, network)


def target_of(loss: Loss, network: Network) -> tuple[Shape, str]:
    """Shape (per sample) and dtype (``data`` or ``i32``) of a loss's training target.

    Raises:
        OpError: the loss cannot judge such an output.
    """
    try:
        return loss_def(loss.kind).target(network.tensor[loss.output].shape)
    except OpError as error:
        raise OpError(f"network {network.name!r}: output {loss.output!r}: {error}") from None


def _listed(names: Sequence[str], most: int = 8) -> str:
    return ", ".join(map(repr, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")


# -- as users write them ------------------------------------------------------------------------

#: a loss as it is written: ``kind``, ``output=kind`` or ``output=weight*kind``; or by itself
LossLike = str | Loss


def parse_loss(text: str, network: Network, names: Mapping[str, str] | None = None) -> Loss:
    """``[output=][weight*]kind`` as a loss; without an output it is on the network's first.

    Args:
        names: other names of outputs, as the origin calls them (keys, positions), to the network's.

    Raises:
        ProblemError: malformed; names what is wrong.
    """
    output, equals, rest = text.rpartition("=")
    if equals and not output:
        raise ProblemError(f"loss={text!r} must be KIND, OUTPUT=KIND or OUTPUT=WEIGHT*KIND, such as box=0.5*l1")
    number, times, kind = rest.rpartition("*")
    weight = 1.0
    if times:
        try:
            weight = float(number)
        except ValueError:
            raise ProblemError(f"loss={text!r}: weight={number!r} is no number such as 0.5") from None
    tensor = network.outputs[0] if not equals else output_named(output, network, names or {})
    return Loss(tensor, kind.strip(), weight)


def output_named(name: str, network: Network, names: Mapping[str, str]) -> str:
    """The network's output of that name: the network's own, or the origin's.

    Raises:
        ProblemError: there is none; with near matches.
    """
    if name in network.outputs:
        return name
    if name in names:
        return names[name]
    places = list(names.values()) or list(network.outputs)
    at = position_of(name, len(places))
    if at is not None and not any(n.isdigit() for n in names):  # by position, unless positions are what they are called
        return places[at]
    known = [*names, *network.outputs]
    hint = near(name, known) or f"; it has {_listed(list(dict.fromkeys(known)))}"
    raise ProblemError(f"loss on {name!r}: network {network.name!r} has no such output{hint}")


def position_of(name: str, count: int) -> int | None:
    """What a user calls the output at a position, as a number below ``count``; None where it is no such."""
    return int(name) if name.isascii() and name.isdigit() and len(name) < 10 and int(name) < count else None


def parse_losses(
    given: LossLike | Sequence[LossLike] | Mapping[str, str],
    attrs: Mapping[str, Any],
    network: Network,
    names: Mapping[str, str] | None = None,
) -> tuple[str, tuple[Loss, ...]]:
    """The kind of the one loss on the first output, or "" and the losses that are given by outputs or weights.

    Args:
        given: ``"mse"``; ``"box=0.5*l1"``; a Loss; several of these; or a mapping from output to ``"0.5*l1"``.
        attrs: of the one loss; several have their own.

    Raises:
        ProblemError: malformed, unknown or doubled; names what is wrong.
    """
    if isinstance(given, Mapping):
        texts: list[LossLike] = [f"{output}={kind}" for output, kind in given.items()]
    else:
        texts = [given] if isinstance(given, (str, Loss)) else list(given)
    if not texts:
        raise ProblemError("loss=[] names none; give at least one")
    for x in texts:
        if not isinstance(x, (str, Loss)):
            raise ProblemError(f"loss={x!r} must be a text such as 'l1' or 'box=0.5*l1', or a Loss")
    if len(texts) == 1 and isinstance(texts[0], str) and not set("=*") & set(texts[0]):
        return texts[0], ()
    if attrs:
        raise ProblemError(f"loss_attrs={dict(attrs)!r} is for one loss on the first output; give Loss(…, attrs=…)")
    found = []
    for x in texts:
        if isinstance(x, str):
            found.append(parse_loss(x, network, names))
        else:
            output = output_named(x.output, network, names or {})
            found.append(Loss(output, x.kind, x.weight, x.attrs))
    return "", tuple(found)


def weighted_sum(losses: Sequence[Loss], values: Sequence[float]) -> float:
    """The sum that is minimised, in float64; nothing is multiplied by a weight of 1."""
    return math.fsum(v if x.weight == 1 else x.weight * v for x, v in zip(losses, values, strict=True))
