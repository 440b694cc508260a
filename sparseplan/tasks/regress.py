"""Regression: any numbers from any input. An auto-encoder's target is its input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from sparseplan.errors import DataError
from sparseplan.ops import loss_def
from sparseplan.run.trainer import TrainSettings
from sparseplan.tasks.base import Array, Better, Split, Task
from sparseplan.tasks.linear import RIDGES, Ridge

F64 = NDArray[np.float64]
#: every metric and which way it improves
REGRESSION_METRICS: Mapping[str, Better] = MappingProxyType({"mse": "lower", "mae": "lower", "r2": "higher"})
SETTINGS = TrainSettings(loss="mse", optimizer="adam", lr=1e-3, lr_drop=((2 / 3, 0.1),), epochs=20, batch=16)
#: squared distances that are held at once
_AT_ONCE = 1 << 24


def regression_metrics(predicted: Array, truth: Array) -> dict[str, float]:
    """Compare predictions with truth, both (n, *shape); NaN in the truth is unknown and left out.

    ``mse``, ``mae``: the mean squared and absolute difference over all known numbers. ``r2``: 1 less the summed
    squared differences over those of the truth from its mean (of each output over the samples, so that outputs of
    other levels are no merit); where the truth does not vary 1 for exact predictions, else 0.

    Raises:
        DataError: shapes that do not fit, predictions that are NaN or infinite, or nothing known.
    """
    p, t = np.asarray(predicted, np.float64), np.asarray(truth, np.float64)
    if p.shape != t.shape or not p.size:
        raise DataError(f"predictions have shape {p.shape}, the targets {t.shape}; a network's output has to be alike")
    bad = int((~np.isfinite(p)).sum())
    if bad:
        raise DataError(f"the network's output has {bad} NaN or infinite values; did training diverge? lower its lr")
    known = np.isfinite(t)
    count = int(known.sum())
    if not count:
        raise DataError(f"none of the {t.size} targets is known")
    off = np.where(known, p - np.where(known, t, 0.0), 0.0)
    spread = np.where(known, t - _means(t), 0.0)
    wrong, varied = float((off**2).sum()), float((spread**2).sum())
    r2 = 1 - wrong / varied if varied > 0 else float(wrong == 0)
    return {"mse": wrong / count, "mae": float(np.abs(off).sum()) / count, "r2": r2}


@dataclass(frozen=True)
class RegressionTask(Task):
    """Inputs (n, *input) and targets (n, *output), which are the truth, too; NaN where unknown.

    Raises:
        DataError: a target that is not the truth, or a loss that takes classes.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if loss_def(self.settings.loss).target((1,))[1] == "i32":
            raise DataError(f"task {self.name!r}: loss={self.settings.loss!r} takes classes; regression takes numbers")
        for part in ("train", "val", "test"):
            split: Split = getattr(self, part)
            if split.target.dtype.kind != "f" or not np.array_equal(split.target, split.truth, equal_nan=True):
                raise DataError(f"task {self.name!r}: {part} has targets that are not its truth, in floats")

    @property
    def better(self) -> Mapping[str, Better]:
        return REGRESSION_METRICS

    @property
    def headline(self) -> str:
        return "mse"

    @property
    def own_target(self) -> bool:
        """Whether every input is its own target."""
        return all(np.array_equal(s.x, s.target) for s in (self.train, self.val, self.test))

    def metrics(self, output: Array, split: Split) -> dict[str, float]:
        return regression_metrics(output, split.truth)

    def baselines(self) -> dict[str, dict[str, float]]:
        """Predictions without a network, fitted to ``train``.

        ``mean`` and ``median`` of each output; ``nearest``: the target of the training input that is nearest. Where
        inputs are not their own targets also ``linear``: ridge regression, with the ridge that is best on ``val``;
        and ``input`` itself, where it has the target's shape.
        """
        train, test = self.train, self.test
        flat = train.truth.reshape(len(train), -1).astype(np.float64)
        fill = _means(flat)
        whole = np.where(np.isfinite(flat), flat, fill)
        known = np.isfinite(flat).any(axis=0)
        median = np.where(known, np.nanmedian(np.where(known, flat, 0.0), axis=0), fill[0])
        rows = {"mean": np.broadcast_to(fill, (len(test), flat.shape[1])),
                "median": np.broadcast_to(median, (len(test), flat.shape[1])),
                "nearest": whole[_nearest(train.x, test.x)]}  # fmt: skip
        if not self.own_target:
            fits = [Ridge(train.x, whole, ridge) for ridge in RIDGES]
            best = min(fits, key=lambda fit: self._mse(fit(self.val.x), self.val))
            rows["linear"] = best(test.x)
            if test.x.shape == test.truth.shape:
                rows["input"] = np.asarray(test.x, np.float64).reshape(len(test), -1)
        return {name: self.metrics(row.reshape(test.truth.shape), test) for name, row in rows.items()}

    def _mse(self, predicted: F64, split: Split) -> float:
        return self.metrics(predicted.reshape(split.truth.shape), split)["mse"]


def _means(t: F64) -> F64:
    """Mean of each output (1, *shape) over the samples where it is known; of all where it never is."""
    known = np.isfinite(t)
    sums, counts = np.where(known, t, 0.0).sum(axis=0, keepdims=True), known.sum(axis=0, keepdims=True)
    overall = float(sums.sum()) / max(int(counts.sum()), 1)
    return np.asarray(np.where(counts > 0, sums / np.maximum(counts, 1), overall), np.float64)


def _nearest(known: Array, asked: Array) -> NDArray[np.intp]:
    """For each asked input the known one at the least Euclidean distance, the first of equal ones."""
    a = known.reshape(len(known), -1).astype(np.float64)
    b = asked.reshape(len(asked), -1).astype(np.float64)
    middle = a.mean(axis=0)  # differences of large squares would lose digits
    a, b = a - middle, b - middle
    sizes = (a**2).sum(axis=1)
    step = max(1, _AT_ONCE // len(a))
    parts = [(sizes - 2 * b[i : i + step] @ a.T).argmin(axis=1) for i in range(0, len(b), step)]
    return np.concatenate(parts)
