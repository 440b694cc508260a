"""Fast training: the pruned schedule over plain arrays, without an arena.

The same kernels run in the same order and round at the same points as in the arena; values are
kept as float32 arrays, masks as booleans, and dropped after their last use. The schedule is
traced for one sample and run on whole batches, so concats stay free and only the gradients of
channels that matter are computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sparseplan.autodiff import differentiate
from sparseplan.errors import ProblemError
from sparseplan.network import Network
from sparseplan.objective import TARGET
from sparseplan.ops import infos
from sparseplan.ops.base import Array
from sparseplan.run.arrays import ArrayStore, Program
from sparseplan.run.checks import Inputs, stored_parameters
from sparseplan.run.execute import Clock, Executor
from sparseplan.run.fitting import (
    Advance,
    Augment,
    Progress,
    TrainResult,
    Validation,
    by_array,
    check_data,
    fit,
    weights_of,
)
from sparseplan.run.forward import predict
from sparseplan.run.settings import EarlyStopping, TrainSettings
from sparseplan.scalars import plain_arguments
from sparseplan.steps import Schedule, Step, TrainingOptions, UpdateSet

__all__ = [
    "Augment",
    "EarlyStopping",
    "TrainResult",
    "TrainSettings",
    "Trainer",
    "Validation",
    "gradients",
    "predict",
    "train",
]


class Trainer:
    """One update set's training step, compiled once; ``step`` runs it on a batch.

    With ``settings.accumulate`` above 1, ``update`` runs it on several batches and updates once, by
    the mean of their gradients weighted by numbers of labels: the gradient of all batches joined,
    for every loss that is a mean over labels (all but ``berhu``, whose bend is each batch's own).

    Parameters are copied, and updated in the trainer alone. ``Trainer`` checks its parameters
    but, for speed, not the data of each step: ``train`` and ``gradients`` do.
    """

    def __init__(
        self,
        network: Network,
        params: Mapping[str, Array],
        update: Mapping[str, float],
        settings: TrainSettings | None = None,
    ) -> None:
        settings = settings or TrainSettings()
        self.network = network
        options = settings.options()
        schedule = _schedule(network, update, options)
        self.clock = Clock(settings.lr)
        self.store = ArrayStore(schedule)
        for name, array in stored_parameters(network, params, options).items():
            self.store.values[name] = array.copy()
        executor = Executor(infos(network), options, settings.rule(), self.clock)
        self._gradients = Program(schedule, executor, self.store, lambda s: s.kind != "update")
        self._sums = {n: np.zeros(v.shape, np.float32) for n, v in schedule.values.items() if v.role == "accumulator"}
        self._fused = settings.accumulate == 1
        kept = (lambda s: True) if self._fused else (lambda s: s.kind == "update")
        self._step = Program(schedule, executor, self.store, kept)

    def step(self, x: Mapping[str, Array], target: Array) -> float:
        """One forward, backward and update on a batch; returns the loss before the update."""
        if not self._fused:
            return self.update([(x, target)], self.clock.lr)[0]
        self._load(x, target)
        loss = self._step.run()
        self.clock.count += 1
        return loss

    def update(self, batches: Sequence[tuple[Mapping[str, Array], Array]], lr: float) -> list[float]:
        """One update from several batches (one, unless the trainer accumulates); returns their losses."""
        clock = self.clock
        clock.lr = lr
        if self._fused:
            ((x, target),) = batches
            return [self.step(x, target)]
        weights = weights_of([target for _, target in batches])
        losses = []
        for (x, target), clock.weight in zip(batches, weights, strict=True):
            self._load(x, target)
            losses.append(self._gradients.run())
        clock.samples = sum(weights)
        self._step.run()
        clock.count += 1
        self.store.values.update(self._sums)  # arrays are never written to: these stay zero
        return losses

    def profile(self, x: Mapping[str, Array], target: Array) -> list[tuple[Step, float]]:
        """As ``step``; returns every step of the schedule with its seconds of CPU time."""
        self._only_fused("profile")
        self._load(x, target)
        found = self._step.timed()
        self.clock.count += 1
        return found

    @plain_arguments
    def gradients(self, x: Mapping[str, Array], target: Array) -> tuple[float, dict[str, Array]]:
        """The loss and the gradient of every updated parameter (cut where updated in part)."""
        self._only_fused("gradients")
        self._load(x, target)
        loss = self._gradients.run()
        return loss, self.store.take("parameter gradient")

    def _only_fused(self, what: str) -> None:
        if not self._fused:
            raise ProblemError(f"{what} takes one batch; give settings with accumulate=1")

    def _load(self, x: Mapping[str, Array], target: Array) -> None:
        for name in self.network.inputs:
            self.store.put(name, x[name])
        self.store.put(TARGET, target)

    def parameters(self) -> dict[str, Array]:
        """Copies of all parameters as they stand."""
        return {name: self.store.values[name].copy() for name in self.network.parameters}


def _schedule(network: Network, update: Mapping[str, float], options: TrainingOptions) -> Schedule:
    """The pruned schedule that keeps outputs rather than masks: memory is no concern here."""
    plain = differentiate(network, UpdateSet(update), options)
    kept = {op: "y" for op, option in plain.picks.items() if option == "mask"}
    try:
        return differentiate(network, UpdateSet(update), options, kept) if kept else plain
    except ProblemError:  # some op has a mask and no such alternative
        return plain


def gradients(
    network: Network,
    params: Mapping[str, Array],
    x: Inputs,
    target: Array,
    loss: str = "l1",
    loss_attrs: Mapping[str, Any] | None = None,
    update: Mapping[str, float] | None = None,
    dtype: str = "fp32",
) -> tuple[float, dict[str, Array]]:
    """The loss over all samples at once, and its gradient by parameter.

    Args:
        x: ``(samples, *shape)``, or a mapping from input to such.
        target: ``(samples, *shape)``; NaN where there is no label, or integer classes.
        update: parameter to the fraction of its channels wanted; a part comes cut to its first
            units. None: every parameter that can be updated, in whole, int8 ones aside.

    Raises:
        DataError: arrays that do not fit the network, or are not finite.
        ProblemError: an update that is not possible.
    """
    if update is None:
        update = UpdateSet.all(network).fractions
    settings = TrainSettings(loss=loss, loss_attrs=loss_attrs or {}, optimizer="sgd", dtype=dtype)
    arrays, labels = check_data(network, x, target, loss)
    return Trainer(network, params, update, settings).gradients(arrays, labels)


@plain_arguments
def train(
    network: Network,
    params: Mapping[str, Array],
    update: Mapping[str, float],
    x: Inputs,
    target: Array,
    settings: TrainSettings | None = None,
    augment: Augment | None = None,
    progress: Progress | None = None,
    validation: Validation | None = None,
    advance: Advance | None = None,
) -> TrainResult:
    """Train the parameters in ``update`` on data; the others, and the caller's arrays, stay as they are.

    Args:
        update: parameter to the fraction of its channels to update.
        x: ``(samples, *shape)``, or a mapping from input to such.
        target: ``(samples, *shape)``; NaN where there is no label, or integer classes.
        augment: called with each batch (copies) and a seeded generator; returns the batch to train on.
        progress: called after each epoch with (epoch from 1, epochs, mean loss).
        advance: called after each update with (updates made, of all).
        validation: data to measure with after each epoch; see ``TrainSettings.stopping``.

    Raises:
        DataError: arrays that do not fit the network or are not finite, or a loss that became so.
        ProblemError: an update that is not possible, or early stopping without validation data.
    """
    settings = settings or TrainSettings()
    data = check_data(network, x, target, settings.loss)
    trainer = Trainer(network, params, update, settings)
    return fit(trainer, network, data, settings, augment if isinstance(x, Mapping) else by_array(network, augment),
               progress, validation, advance=advance)  # fmt: skip
