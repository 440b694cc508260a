"""The training loop: order of samples, learning rate, validation, early stopping.

It is the same whether updates are computed fast or inside an arena: a ``Stepper`` does that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from sparseplan.errors import DataError, ProblemError
from sparseplan.network import Network
from sparseplan.ops import loss_def
from sparseplan.ops.base import Array
from sparseplan.run.checks import Inputs, check_inputs, check_target, same_length
from sparseplan.run.forward import Forward
from sparseplan.run.settings import TrainSettings

#: changes a batch: (x, target, generator) to (x, target)
Augment = Callable[[Any, Array, np.random.Generator], tuple[Any, Array]]
#: called after each epoch with (epoch from 1, epochs, mean loss)
Progress = Callable[[int, int, float], None]
#: called after each update with (updates made, of all)
Advance = Callable[[int, int], None]
#: checked inputs by name, and the target
Batch = tuple[Mapping[str, Array], Array]


@dataclass(frozen=True)
class Validation:
    """Data that are measured after each epoch and never trained on.

    Attributes:
        x, target: as of ``train``.
        score: what judges the network's first output on ``x``, ``(samples, *shape)``; more is
            better. Without, the loss judges (less is better).
    """

    x: Inputs
    target: Array
    score: Callable[[Array], float] | None = None


@dataclass(frozen=True)
class TrainResult:
    """What training gave.

    Attributes:
        parameters: all of the network's, float32: those of epoch ``best``.
        losses: mean training loss of each epoch that was run.
        val_losses: validation loss before training and after each epoch (empty without validation).
        val_scores: in the same way, what judged: the score, or minus the loss. More is better.
        best: epoch (from 1; 0 is before training) whose parameters these are: with early stopping
            the one that validation judged best, else the last.
        updates: number of updates made.
    """

    parameters: Mapping[str, Array]
    losses: tuple[float, ...]
    val_losses: tuple[float, ...] = ()
    val_scores: tuple[float, ...] = ()
    best: int = 0
    updates: int = 0

    @property
    def epochs(self) -> int:
        """Epochs that were run."""
        return len(self.losses)


class Stepper(Protocol):
    """What computes updates."""

    def update(self, batches: Sequence[Batch], lr: float) -> list[float]:
        """One update from one or several batches; returns the loss of each, before the update."""
        ...

    def parameters(self) -> dict[str, Array]:
        """Copies of all parameters as they stand."""
        ...


def fit(
    stepper: Stepper,
    network: Network,
    data: Batch,
    settings: TrainSettings,
    augment: Augment | None = None,
    progress: Progress | None = None,
    validation: Validation | None = None,
    whole: bool = False,
    advance: Advance | None = None,
) -> TrainResult:
    """Train for the settings' epochs, or until validation gets no better.

    Args:
        data: checked; see ``check_data``.
        whole: leave out the samples of an epoch that do not fill a batch.
        advance: called after each update with (updates made, of all).

    Raises:
        DataError: too few samples, bad validation data, or a loss that became infinite.
        ProblemError: early stopping without validation data.
    """
    stopping = settings.stopping
    if stopping is not None and validation is None:
        raise ProblemError(f"stopping={stopping!r} needs validation data; give validation, or stopping=None")
    judge = None if validation is None else _Judge(network, stepper.parameters(), validation, settings)
    arrays, labels = data
    rng = np.random.default_rng(settings.seed)
    batch = settings.batch
    used = len(labels) // batch * batch if whole else len(labels)
    if not used:
        raise DataError(f"{len(labels)} samples do not fill one batch={batch}; give more samples")
    stride = batch * settings.accumulate
    per_epoch = -(-used // stride)
    measured: list[tuple[float, float]] = [] if judge is None else [judge(stepper.parameters(), 0)]
    best, kept = 0, stepper.parameters() if stopping is not None else None
    losses: list[float] = []
    for epoch in range(settings.epochs):
        order = rng.permutation(len(labels))[:used]
        total = 0.0
        for number, start in enumerate(range(0, used, stride)):
            picks = [order[i : i + batch] for i in range(start, min(start + stride, used), batch)]
            batches = list(_batches(network, arrays, labels, picks, augment, settings.loss, rng))
            found = stepper.update(batches, settings.lr_at(epoch, number, per_epoch))
            for loss, picked in zip(found, picks, strict=True):
                if not math.isfinite(loss):
                    raise DataError(f"the loss became {loss} in epoch {epoch + 1}; lower lr={settings.lr}")
                total += loss * len(picked)
            if advance is not None:
                advance(epoch * per_epoch + number + 1, settings.epochs * per_epoch)
        losses.append(total / used)
        if judge is not None:
            measured.append(judge(stepper.parameters(), epoch + 1))
        if progress is not None:
            progress(epoch + 1, settings.epochs, losses[-1])
        if stopping is not None:
            if measured[-1][1] > measured[best][1] + stopping.min_delta:
                best, kept = epoch + 1, stepper.parameters()
            elif epoch + 1 - best >= stopping.patience:
                break
    trained = stepper.parameters() if kept is None else kept
    _finite(trained, len(losses), settings.lr)
    return TrainResult(
        parameters=trained,
        losses=tuple(losses),
        val_losses=tuple(loss for loss, _ in measured),
        val_scores=tuple(score for _, score in measured),
        best=len(losses) if kept is None else best,
        updates=len(losses) * per_epoch,
    )


def _batches(
    network: Network, arrays: Mapping[str, Array], labels: Array, picks: Sequence[Array], augment: Augment | None,
    loss: str, rng: np.random.Generator,
) -> Iterator[Batch]:  # fmt: skip
    for picked in picks:
        part, label = {name: a[picked] for name, a in arrays.items()}, labels[picked]
        yield (part, label) if augment is None else check_data(network, *augment(part, label, rng), loss)


def _finite(params: Mapping[str, Array], epoch: int, lr: float) -> None:
    for name, array in params.items():
        if not np.isfinite(array).all():
            raise DataError(f"parameter {name!r} became infinite or NaN in epoch {epoch}; lower lr={lr}")


class _Judge:
    """Validation loss and score of parameters."""

    def __init__(
        self, network: Network, params: Mapping[str, Array], validation: Validation, settings: TrainSettings
    ) -> None:
        self._arrays, self._target = check_data(network, validation.x, validation.target, settings.loss, "validation ")
        self._score = validation.score
        self._forward = Forward(network, params, settings.dtype)
        self._loss, self._lr = loss_def(settings.loss), settings.lr
        self._attrs = {**self._loss.defaults, **settings.loss_attrs}

    def __call__(self, params: Mapping[str, Array], epoch: int) -> tuple[float, float]:
        _finite(params, epoch, self._lr)
        self._forward.load(params)
        output = self._forward(self._arrays)
        loss = self._loss.value_and_grad(output, self._target, self._attrs)[0]
        if not math.isfinite(loss):
            raise DataError(f"the validation loss became {loss} in epoch {epoch}; lower lr={self._lr}")
        if self._score is None:
            return loss, -loss
        score = float(self._score(output))
        if math.isnan(score):
            raise DataError(f"the validation score became NaN in epoch {epoch}; check the validation data")
        return loss, score


def check_data(network: Network, x: Inputs, target: Any, loss: str, what: str = "") -> Batch:
    """Data as kernels take them.

    Raises:
        DataError: arrays that do not fit the network, are not finite, or differ in number.
    """
    try:
        arrays = check_inputs(network, x)
        labels = check_target(network, target, loss)
        same_length([("x", next(iter(arrays.values()))), ("target", labels)])
    except DataError as error:
        raise DataError(f"{what}{error}") from None
    return arrays, labels


def by_array(network: Network, augment: Augment | None) -> Augment | None:
    """An augmentation of the one input's array, as one of inputs by name."""
    if augment is None:
        return None
    change = augment
    return lambda x, target, rng: change(x[network.inputs[0]], target, rng)


def weights_of(targets: Sequence[Array]) -> list[float]:
    """Weights of batches that make one update: labels of each over those of the first that has any."""
    counts = [t.size - int(np.isnan(t).sum()) if t.dtype.kind == "f" else t.size for t in targets]
    unit = next((n for n in counts if n), 1)
    return [n / unit for n in counts]
