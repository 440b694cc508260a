"""Classification: logits against classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from sparseplan.errors import DataError
from sparseplan.run.trainer import TrainSettings
from sparseplan.tasks.base import Array, Better, Split, Task
from sparseplan.tasks.linear import RIDGES, Ridge

#: every metric and which way it improves
CLASS_METRICS: Mapping[str, Better] = MappingProxyType(
    {"accuracy": "higher", "macro_f1": "higher", "cross_entropy": "lower"}
)
SETTINGS = TrainSettings(loss="cross_entropy", optimizer="adam", lr=2e-3, lr_drop=((2 / 3, 0.1),), epochs=20, batch=16)


def class_metrics(logits: Array, classes: Array) -> dict[str, float]:
    """Compare logits (n, k) with classes (n,) in 0 … k - 1.

    ``accuracy``: the share of samples whose largest logit (the first of equal ones) is their class's.
    ``macro_f1``: the mean over classes, of those that occur or are predicted, of the harmonic mean
    of precision and recall. ``cross_entropy``: the mean of -ln softmax(logits)[class].

    Raises:
        DataError: shapes that do not fit, NaN or infinite logits, a class out of range.
    """
    z, t = np.asarray(logits, np.float64), np.asarray(classes)
    if z.ndim != 2 or t.shape != (len(z),) or not len(z):
        raise DataError(f"logits of shape {z.shape} must be (n, classes) with classes of shape {t.shape} being (n,)")
    if not np.isfinite(z).all():
        raise DataError("the network's logits have NaN or infinite values; did training diverge? lower its lr")
    if t.min() < 0 or t.max() >= z.shape[1]:
        raise DataError(f"classes run from {t.min()} to {t.max()}; the network's output has {z.shape[1]}")
    guess = z.argmax(axis=1)
    table = np.zeros((z.shape[1], z.shape[1]), np.int64)
    np.add.at(table, (t, guess), 1)
    hits, size = np.diag(table), table.sum(axis=0) + table.sum(axis=1)
    seen = size > 0
    shifted = z - z.max(axis=1, keepdims=True)
    losses = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(z)), t]
    return {
        "accuracy": float((guess == t).mean()),
        "macro_f1": float((2 * hits[seen] / size[seen]).mean()),
        "cross_entropy": float(losses.mean()),
    }


@dataclass(frozen=True)
class ClassificationTask(Task):
    """Inputs (n, *input), classes (n, 1) as the loss takes them, the same classes (n,) as truth."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for part in ("train", "val", "test"):
            split: Split = getattr(self, part)
            n = len(split)
            if split.truth.dtype.kind not in "iu" or split.truth.shape != (n,) or split.target.shape != (n, 1):
                raise DataError(
                    f"task {self.name!r}: {part} has targets {split.target.shape} and truth {split.truth.shape}"
                    f" of dtype={split.truth.dtype}; expected integer classes ({n}, 1) and ({n},)"
                )
            if not np.array_equal(split.target[:, 0], split.truth) or split.truth.min() < 0:
                raise DataError(f"task {self.name!r}: {part} has targets that are not its classes, from 0 on")

    @property
    def better(self) -> Mapping[str, Better]:
        return CLASS_METRICS

    @property
    def headline(self) -> str:
        return "accuracy"

    @property
    def classes(self) -> int:
        """One more than the largest class of any split."""
        return 1 + max(int(split.truth.max()) for split in (self.train, self.val, self.test))

    def metrics(self, output: Array, split: Split) -> dict[str, float]:
        return class_metrics(output, split.truth)

    def baselines(self) -> dict[str, dict[str, float]]:
        """Three predictions without a network, fitted to ``train``.

        ``majority``: the classes' shares. ``nearest mean``: the class whose mean input is nearest;
        logits are minus the squared distances over twice the mean variance within classes.
        ``linear``: least squares from the input to one of each class, with the ridge that is most
        accurate on ``val``; its logits are scaled to the lowest cross-entropy there.
        """
        known, tested = (s.x.reshape(len(s), -1).astype(np.float64) for s in (self.train, self.test))
        classes, truth = self.classes, self.train.truth
        one_hot = np.eye(classes)[truth]
        shares = (one_hot.sum(axis=0) + 1) / (len(truth) + classes)
        rows = {"majority": class_metrics(np.tile(np.log(shares), (len(tested), 1)), self.test.truth)}

        counts = one_hot.sum(axis=0)
        means = (one_hot.T @ known) / np.maximum(counts, 1)[:, None]
        variance = float(((known - means[truth]) ** 2).mean()) + 1e-12
        distances = np.stack([((tested - mean) ** 2).sum(axis=1) for mean in means], axis=1)
        # a class without samples has no mean: it is as far away as can be
        distances[:, counts == 0] = distances.max() + 1
        rows["nearest mean"] = class_metrics(-distances / (2 * variance), self.test.truth)

        fits = [Ridge(self.train.x, one_hot, ridge) for ridge in RIDGES]
        best = max(fits, key=lambda fit: class_metrics(fit(self.val.x), self.val.truth)["accuracy"])
        tried, scales = best(self.val.x), np.geomspace(0.5, 64, 15)
        chosen = min(scales, key=lambda s: class_metrics(tried * float(s), self.val.truth)["cross_entropy"])
        rows["linear"] = class_metrics(best(self.test.x) * float(chosen), self.test.truth)
        return rows
