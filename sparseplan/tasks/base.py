"""What a task is: data in three splits, a loss, metrics, and baselines that need no network."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sparseplan.errors import DataError, near
from sparseplan.run.samples import Samples
from sparseplan.run.trainer import TrainSettings
from sparseplan.scalars import plain_arguments

Array = NDArray[Any]
Better = Literal["lower", "higher"]


@dataclass(frozen=True)
class Split:
    """Samples to train on or to measure with. Arrays are kept as read-only views.

    Attributes:
        x: (n, *input) float32, finite, or int32 (what an embedding looks up): the network's input.
        target: (n, *output) what the loss compares the output with: float32 with NaN where
            there is no label, or integer classes.
        truth: (n, ...) what metrics compare with; floats (NaN: unknown) or integers.

    Raises:
        DataError: no samples, different numbers of samples, an input that is not finite,
            an infinite label, or nothing but NaN in target or truth.
    """

    x: Array
    target: Array
    truth: Array

    def __post_init__(self) -> None:
        n = len(self.x)
        for name in ("x", "target", "truth"):
            array = np.asarray(getattr(self, name))
            if array.dtype.kind not in "fiu":
                raise DataError(f"{name} has dtype={array.dtype}; give floats, or integers for classes")
            if name == "x" and array.dtype.kind == "i" and array.size and abs(array).max() < 2**31:
                array = array.astype(np.int32, copy=False)
            elif array.dtype.kind == "f" or name == "x":
                array = array.astype(np.float32, copy=False)
            if array.ndim == 0 or len(array) == 0:
                raise DataError(f"{name} of shape {array.shape} holds no samples; a split needs at least one")
            if len(array) != n:
                raise DataError(f"{name} has {len(array)} samples where x has {n}; give one for each")
            if np.isinf(array).any() or (name == "x" and np.isnan(array).any()):
                bad = int(np.flatnonzero((~np.isfinite(array)).reshape(n, -1).any(axis=1))[0])
                hint = "replace or drop it" if name == "x" else "mark what is unknown by NaN"
                raise DataError(f"{name}[{bad}] holds NaN or infinite values; {hint}")
            if np.isnan(array).all():
                raise DataError(f"{name} is NaN throughout: all {n} samples are without a valid label")
            view = array.view()
            view.flags.writeable = False
            object.__setattr__(self, name, view)

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True)
class Task(ABC):
    """Data and metrics to adapt a network with. Subclasses say what is measured, and how.

    Attributes:
        name: shown in reports.
        train, val, test: to train on, to choose by, to report.
        settings: recommended training, loss and its attributes included.
    """

    name: str
    train: Split
    val: Split
    test: Split
    settings: TrainSettings

    def __post_init__(self) -> None:
        for split in (self.val, self.test):
            for part in ("x", "target", "truth"):
                one, other = getattr(self.train, part).shape[1:], getattr(split, part).shape[1:]
                if one != other:
                    raise DataError(f"task {self.name!r}: {part} has samples of shape {one} and of shape {other}")

    @property
    def loss(self) -> str:
        """Kind of the loss."""
        return self.settings.loss

    @property
    def loss_attrs(self) -> Mapping[str, Any]:
        """Attributes of the loss."""
        return self.settings.loss_attrs

    @plain_arguments
    def samples(self, count: int | None = None, seed: int = 0) -> Samples:
        """``count`` training samples drawn without replacement, in their order (all of them without)."""
        if count is None or count >= len(self.train):
            return Samples(self.train.x, self.train.target, self.loss, self.loss_attrs)
        if isinstance(count, bool) or count < 1:
            raise DataError(f"count={count!r} must be a whole number, at least 1")
        picked = np.sort(np.random.default_rng(seed).choice(len(self.train), count, replace=False))
        return Samples(self.train.x[picked], self.train.target[picked], self.loss, self.loss_attrs)

    @property
    @abstractmethod
    def better(self) -> Mapping[str, Better]:
        """Every metric, and whether lower or higher is better."""

    @property
    @abstractmethod
    def headline(self) -> str:
        """The metric that sums the task up; a key of ``better``."""

    @abstractmethod
    def metrics(self, output: Array, split: Split) -> dict[str, float]:
        """Every metric of the network's output (n, *output) on a split.

        Raises:
            DataError: an output of the wrong shape, or with NaN or infinite values.
        """

    @abstractmethod
    def baselines(self) -> dict[str, dict[str, float]]:
        """Metrics on ``test`` of predictions that need no network, by name.

        They are fitted to ``train.truth``, which the network never sees: no easy opponents.
        """

    def augment(self, x: Array, target: Array, rng: np.random.Generator) -> tuple[Array, Array]:
        """A changed copy of a training batch; by default the batch itself."""
        return x, target

    def score(self, metrics: Mapping[str, float], metric: str | None = None) -> float:
        """A metric (by default the headline) with its sign set so that more is better."""
        name = self.headline if metric is None else metric
        if name not in self.better:
            raise DataError(f"metric={name!r} is unknown to task {self.name!r}{near(str(name), self.better)}")
        value = float(metrics[name])
        if math.isnan(value):
            raise DataError(f"metric {name!r} is NaN")
        return value if self.better[name] == "higher" else -value
