"""Fast training: the pruned schedule over plain arrays, without an arena.

The same kernels run in the same order and round at the same points as in the arena; values are
kept as float32 arrays, masks as booleans, and dropped after their last use. The schedule is
traced for one sample and run on whole batches, so concats stay free and only the gradients of
channels that matter are computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sparseplan.autodiff import differentiate
from sparseplan.dtypes import TRAINABLE
from sparseplan.errors import DataError, ProblemError, near
from sparseplan.network import Network
from sparseplan.ops import infos
from sparseplan.ops.base import Array
from sparseplan.run.arrays import ArrayStore, Program
from sparseplan.run.checks import Inputs, check_inputs, check_target, same_length, stored_parameters
from sparseplan.run.execute import Clock, Executor
from sparseplan.run.optimizers import Optimizer
from sparseplan.steps import TARGET, Schedule, Step, TrainingOptions, UpdateSet

Augment = Callable[[Any, Array, np.random.Generator], tuple[Any, Array]]


@dataclass(frozen=True)
class TrainSettings:
    """How to train.

    Attributes:
        loss, loss_attrs: the loss on the network's first output.
        optimizer: ``sgd``, ``momentum`` or ``adam``, with lr, momentum, betas, eps, weight_decay.
        lr_drop: (fraction of the epochs after which, factor) pairs; factors multiply.
        epochs: passes over the data.
        batch: samples a step; the last step of an epoch takes what is left.
        seed: of shuffling and augmentation.
        dtype: storage of parameters, activations and gradients: fp32, fp16 or bf16.

    Raises:
        ProblemError: a value outside its range.
    """

    loss: str = "l1"
    loss_attrs: Mapping[str, Any] = field(default_factory=dict)
    optimizer: str = "adam"
    lr: float = 1e-3
    momentum: float = 0.9
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    lr_drop: tuple[tuple[float, float], ...] = ()
    epochs: int = 1
    batch: int = 16
    seed: int = 0
    dtype: str = "fp32"

    def __post_init__(self) -> None:
        self.rule()  # checks the optimizer's numbers
        self.options()  # checks dtype and loss
        for name, value in (("epochs", self.epochs), ("batch", self.batch)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ProblemError(f"{name}={value!r} must be a whole number, at least 1")
        for at, factor in self.lr_drop:
            if not 0 <= at <= 1 or not 0 <= factor < math.inf:
                raise ProblemError(f"lr_drop={self.lr_drop!r} must be (epoch fraction up to 1, factor) pairs")

    def rule(self) -> Optimizer:
        """The optimizer."""
        return Optimizer(self.optimizer, self.lr, self.momentum, self.betas, self.eps, self.weight_decay)

    def options(self) -> TrainingOptions:
        """The options of the schedule (of one sample)."""
        return TrainingOptions(self.dtype, 1, self.optimizer, "fused", loss=self.loss, loss_attrs=self.loss_attrs)

    def lr_at(self, epoch: int) -> float:
        """Learning rate of an epoch (from 0)."""
        drops = [factor for at, factor in self.lr_drop if epoch >= at * self.epochs]
        return self.lr * math.prod(drops)


@dataclass(frozen=True)
class TrainResult:
    """Trained parameters (all of the network's, float32) and the mean loss of each epoch."""

    parameters: Mapping[str, Array]
    losses: tuple[float, ...]


class Trainer:
    """One update set's training step, compiled once; ``step`` runs it on a batch.

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
        self._step = Program(schedule, executor, self.store, lambda s: True)
        self._gradients = Program(schedule, executor, self.store, lambda s: s.kind != "update")

    def step(self, x: Mapping[str, Array], target: Array) -> float:
        """One forward, backward and update on a batch; returns the loss before the update."""
        self._load(x, target)
        loss = self._step.run()
        self.clock.count += 1
        return loss

    def profile(self, x: Mapping[str, Array], target: Array) -> list[tuple[Step, float]]:
        """As ``step``; returns every step of the schedule with its seconds of CPU time."""
        self._load(x, target)
        found = self._step.timed()
        self.clock.count += 1
        return found

    def gradients(self, x: Mapping[str, Array], target: Array) -> tuple[float, dict[str, Array]]:
        """The loss and the gradient of every updated parameter (cut where updated in part)."""
        self._load(x, target)
        loss = self._gradients.run()
        return loss, self.store.take("parameter gradient")

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


def predict(network: Network, params: Mapping[str, Array], x: Inputs, batch: int = 32, dtype: str = "fp32") -> Array:
    """The network's first output for every sample, ``(samples, *shape)`` float32.

    Args:
        batch: samples computed at once.
        dtype: type in which parameters and activations are stored.

    Raises:
        DataError: parameters or inputs that do not fit the network, or are not finite.
    """
    if dtype not in TRAINABLE:
        raise ProblemError(f"dtype={dtype!r} cannot be computed in{near(str(dtype), TRAINABLE)}")
    if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
        raise ProblemError(f"batch={batch!r} must be a whole number, at least 1")
    arrays = check_inputs(network, x)
    options = TrainingOptions(dtype)
    store, program = _forward_only(network, params, options)
    count = len(next(iter(arrays.values())))
    parts = []
    for start in range(0, count, batch):
        for name, array in arrays.items():
            store.put(name, array[start : start + batch])
        program.run()
        parts.append(program.output())
    return np.concatenate(parts) if len(parts) > 1 else parts[0].copy()


def _forward_only(
    network: Network, params: Mapping[str, Array], options: TrainingOptions
) -> tuple[ArrayStore, Program]:
    # any loss that takes such an output would do: its step is not run
    schedule = differentiate(network, UpdateSet({}), options)
    store = ArrayStore(schedule)
    store.values.update(stored_parameters(network, params, options))
    executor = Executor(infos(network), options, Optimizer(), Clock(0.0))
    loss = next(s for s in schedule.steps if s.kind == "loss")
    return store, Program(schedule, executor, store, lambda s: s.kind == "forward", loss.reads[0])


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
            units. None: every parameter in whole (save int8 ones).

    Raises:
        DataError: arrays that do not fit the network, or are not finite.
        ProblemError: an update that is not possible.
    """
    if update is None:
        update = {p: 1.0 for p in network.parameters if network.tensor[p].dtype != "int8"}
    settings = TrainSettings(loss=loss, loss_attrs=loss_attrs or {}, optimizer="sgd", dtype=dtype)
    arrays, labels = _data(network, x, target, loss)
    return Trainer(network, params, update, settings).gradients(arrays, labels)


def train(
    network: Network,
    params: Mapping[str, Array],
    update: Mapping[str, float],
    x: Inputs,
    target: Array,
    settings: TrainSettings | None = None,
    augment: Augment | None = None,
    progress: Callable[[int, int, float], None] | None = None,
) -> TrainResult:
    """Train the parameters in ``update`` on data; the others, and the caller's arrays, stay as they are.

    Args:
        update: parameter to the fraction of its channels to update.
        x: ``(samples, *shape)``, or a mapping from input to such.
        target: ``(samples, *shape)``; NaN where there is no label, or integer classes.
        augment: called with each batch (copies) and a seeded generator; returns the batch to train on.
        progress: called after each epoch with (epoch from 1, epochs, mean loss).

    Raises:
        DataError: arrays that do not fit the network or are not finite, or a loss that became so.
        ProblemError: an update that is not possible.
    """
    settings = settings or TrainSettings()
    arrays, labels = _data(network, x, target, settings.loss)
    trainer = Trainer(network, params, update, settings)
    rng = np.random.default_rng(settings.seed)
    losses: list[float] = []
    for epoch in range(settings.epochs):
        trainer.clock.lr = settings.lr_at(epoch)
        total = 0.0
        for picked in _batches(len(labels), settings.batch, rng):
            part, label = {name: a[picked] for name, a in arrays.items()}, labels[picked]
            if augment is not None:
                one = part if isinstance(x, Mapping) else part[network.inputs[0]]
                part, label = _data(network, *augment(one, label, rng), settings.loss)
            loss = trainer.step(part, label)
            if not math.isfinite(loss):
                raise DataError(f"the loss became {loss} in epoch {epoch + 1}; lower lr={settings.lr}")
            total += loss * len(picked)
        losses.append(total / len(labels))
        if progress is not None:
            progress(epoch + 1, settings.epochs, losses[-1])
    return TrainResult(trainer.parameters(), tuple(losses))


def _batches(samples: int, batch: int, rng: np.random.Generator) -> Iterator[Array]:
    order = rng.permutation(samples)
    for start in range(0, samples, batch):
        yield order[start : start + batch]


def _data(network: Network, x: Inputs, target: Any, loss: str) -> tuple[dict[str, Array], Array]:
    arrays = check_inputs(network, x)
    labels = check_target(network, target, loss)
    same_length([("x", next(iter(arrays.values()))), ("target", labels)])
    return arrays, labels
