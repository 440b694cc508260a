"""What all measures share: which entries of a parameter a fraction updates, and checked arguments."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from sparseplan.errors import DataError, ProblemError, near
from sparseplan.network import Network
from sparseplan.ops import infos, op_def
from sparseplan.ops.base import Array, Fraction
from sparseplan.run.checks import check_inputs, check_target, same_length
from sparseplan.run.samples import Samples
from sparseplan.run.trainer import Trainer, TrainSettings
from sparseplan.steps import allowed_levels

Choices = Mapping[str, Sequence[float]]
Table = dict[str, dict[float, float]]


class ValueFunction(Protocol):
    """A measure of what updates are worth: parameter to fraction to value.

    ``parameters`` holds all of the network's arrays; ``data`` may be None where no gradient is
    needed; ``choices`` maps a parameter to the fractions of its units that may be updated.
    """

    def __call__(
        self, network: Network, parameters: Mapping[str, Array], data: Samples | None, choices: Choices
    ) -> Table: ...


@dataclass(frozen=True)
class Levels:
    """The fractions of one parameter that may be updated.

    Attributes:
        fractions: (fraction, kept units or None for the whole), ascending.
        cut: how the parameter is cut, or None where it cannot be.
    """

    name: str
    op: str
    slot: str
    elements: int
    fractions: tuple[tuple[float, int | None], ...]
    cut: Fraction | None

    def share(self, kept: int | None) -> float:
        """Share of the parameter's units that ``kept`` of them are, in (0, 1]."""
        return 1.0 if kept is None or self.cut is None else kept / self.cut.units

    def sums(self, entries: Array) -> dict[float, float]:
        """Sums of an array of the parameter's shape over the entries that each fraction updates."""
        return self.running(self.by_unit(entries))

    def by_unit(self, entries: Array) -> Array:
        """Sums over each unit in float64, ``(units,)``; the whole is one unit where nothing can be cut."""
        if self.cut is None:
            return np.array([np.sum(entries, dtype=np.float64)])
        others = tuple(i for i in range(entries.ndim) if i != self.cut.axis)
        slices = np.sum(entries, axis=others, dtype=np.float64)
        units: Array = slices.reshape(self.cut.units, self.cut.per_unit).sum(axis=1)
        return units

    def running(self, units: Array) -> dict[float, float]:
        """From a number for each unit to its sum over the first units, those that a fraction keeps."""
        total = np.concatenate([[0.0], np.cumsum(units)])
        return {r: float(total[-1 if kept is None else kept]) for r, kept in self.fractions}


def levels_of(network: Network, choices: Choices) -> dict[str, Levels]:
    """The levels of each parameter in ``choices``.

    Raises:
        ProblemError: an unknown parameter, or a fraction that cannot be updated.
    """
    table = infos(network)
    found = {}
    for p, fractions in choices.items():
        if p not in network.owner:
            raise ProblemError(f"parameter {p!r} is unknown to network {network.name!r}{near(p, network.owner)}")
        op, slot = network.owner[p]
        info = table[op.name]
        levels = allowed_levels(info, slot, fractions)
        for r in fractions:
            if r not in {allowed for allowed, _ in levels}:
                raise ProblemError(f"fraction of {p!r}={r} cannot be updated; could be {[a for a, _ in levels]}")
        cut = op_def(op.kind).fraction(info, slot)
        found[p] = Levels(p, op.name, slot, network.tensor[p].elements, levels, cut)
    return found


def array_of(parameters: Mapping[str, Array], levels: Levels) -> Array:
    """A parameter's array; raises DataError where it is missing, of another size, or not finite."""
    if levels.name not in parameters:
        raise DataError(f"parameter {levels.name!r} has no array{near(levels.name, parameters)}")
    array = np.asarray(parameters[levels.name])
    if array.size != levels.elements or not np.isfinite(array.astype(np.float64)).all():
        raise DataError(f"parameter {levels.name!r} of shape {array.shape} must hold {levels.elements} finite numbers")
    return array


def batches_of_gradients(
    network: Network,
    parameters: Mapping[str, Array],
    data: Samples | None,
    levels: Mapping[str, Levels],
    batch: int,
) -> Iterator[dict[str, Array]]:
    """Gradients of the mean loss of each batch, by parameter (in whole), float32.

    Raises:
        DataError: no data, or arrays that do not fit the network or are not finite.
        ProblemError: ``batch`` is no whole number of at least 1.
    """
    if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
        raise ProblemError(f"batch={batch!r} must be a whole number, at least 1")
    if data is None:
        raise DataError("data=None, but this measure differentiates a loss; give Samples, as task.samples() does")
    arrays, labels = check_inputs(network, data.x), check_target(network, data.target, data.loss)
    count = same_length([*arrays.items(), ("target", labels)])
    settings = TrainSettings(data.loss, data.loss_attrs, "sgd")
    trainer = Trainer(network, parameters, dict.fromkeys(levels, 1.0), settings)
    for start in range(0, count, batch):
        part = slice(start, start + batch)
        _, found = trainer.gradients({n: a[part] for n, a in arrays.items()}, labels[part])
        yield found


def mean_over_batches(
    network: Network,
    parameters: Mapping[str, Array],
    data: Samples | None,
    choices: Choices,
    batch: int,
    by_unit: Callable[[Levels, Array], Array],
) -> Table:
    """Mean over batches of ``by_unit(levels, gradient)``, summed over the units that each fraction keeps."""
    levels = levels_of(network, choices)
    sums: dict[str, Array] = {}
    batches = 0
    for found in batches_of_gradients(network, parameters, data, levels, batch):
        batches += 1
        for p, level in levels.items():
            units = by_unit(level, found[p])
            sums[p] = sums[p] + units if p in sums else units
    return {p: level.running(sums[p] / batches) for p, level in levels.items()}
