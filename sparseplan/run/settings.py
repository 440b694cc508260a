"""How to train: plain settings that check themselves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sparseplan.errors import ProblemError
from sparseplan.run.optimizers import Optimizer
from sparseplan.run.schedules import LrSchedule, check_drops, dropped
from sparseplan.scalars import plain_fields
from sparseplan.steps import TrainingOptions


def check_count(name: str, value: object, least: int = 1) -> None:
    """Raise ProblemError unless ``value`` is a whole number, at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ProblemError(f"{name}={value!r} must be a whole number, at least {least}")


@dataclass(frozen=True, slots=True)
class EarlyStopping:
    """End training when validation gets no better, and go back to the best parameters.

    Attributes:
        patience: epochs without improvement after which training ends.
        min_delta: what the score must rise (or the loss fall) by to count as an improvement.

    Raises:
        ProblemError: a number outside its range.
    """

    patience: int = 5
    min_delta: float = 0.0

    def __post_init__(self) -> None:
        plain_fields(self)
        check_count("patience", self.patience)
        number = isinstance(self.min_delta, (int, float)) and not isinstance(self.min_delta, bool)
        if not number or not 0 <= self.min_delta < math.inf:
            raise ProblemError(f"min_delta={self.min_delta!r} must be a finite number, at least 0")


_CONSTANT = LrSchedule()


@dataclass(frozen=True)
class TrainSettings:
    """How to train.

    Attributes:
        loss, loss_attrs: the loss on the network's first output.
        optimizer: ``sgd``, ``momentum`` or ``adam``, with lr, momentum, betas, eps, weight_decay.
        lr_drop: (fraction of the epochs after which, factor) pairs; factors multiply. Short for a
            ``step`` schedule.
        epochs: passes over the data, at most.
        batch: samples of one run of the schedule; the last run of an epoch takes what is left.
        seed: of shuffling and augmentation.
        dtype: storage of parameters, activations and gradients: fp32, fp16 or bf16.
        schedule: factor on the learning rate, evaluated for every update.
        accumulate: runs whose gradients make one update; each weighs as many labels as it holds, so
            that the update is that of one batch of ``accumulate * batch`` samples (see Trainer).
        stopping: when to end early; needs validation data.

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
    schedule: LrSchedule = _CONSTANT
    accumulate: int = 1
    stopping: EarlyStopping | None = None

    def __post_init__(self) -> None:
        plain_fields(self)
        self.rule()  # checks the optimizer's numbers
        for name in ("epochs", "batch", "accumulate"):
            check_count(name, getattr(self, name))
        self.options()  # checks dtype and loss
        check_drops("lr_drop", self.lr_drop)
        if not isinstance(self.schedule, LrSchedule):
            raise ProblemError(f"schedule={self.schedule!r} must be an LrSchedule")
        if self.lr_drop and self.schedule.kind != "constant":
            raise ProblemError(
                f"lr_drop={self.lr_drop!r} beside schedule={self.schedule.kind!r}: give one; lr_drop=() leaves it out"
            )

    def rule(self) -> Optimizer:
        """The optimizer."""
        return Optimizer(self.optimizer, self.lr, self.momentum, self.betas, self.eps, self.weight_decay)

    def options(self) -> TrainingOptions:
        """The options of the schedule (of one sample)."""
        gradients = "fused" if self.accumulate == 1 else "accumulate"
        return TrainingOptions(self.dtype, 1, self.optimizer, gradients, loss=self.loss, loss_attrs=self.loss_attrs)

    def lr_at(self, epoch: int, update: int = 0, per_epoch: int = 1) -> float:
        """Learning rate of the ``update``-th of the ``per_epoch`` updates of an epoch (both from 0)."""
        factor = self.schedule.factor(epoch * per_epoch + update, per_epoch, self.epochs)
        return self.lr * factor * dropped(self.lr_drop, epoch, self.epochs)
