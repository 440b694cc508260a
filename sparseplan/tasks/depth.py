"""Depth from one picture, learnt from a time-of-flight sensor: arXiv 2512.00086 in small.

The network (`sparseplan.zoo.upydnet`) gives disparity, ``fb`` over depth. It was trained on
dense labels of the source domain; the task adapts it to the target domain, where all it gets
is what an 8×8 sensor measures. Metrics compare with the true dense depth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparseplan.errors import DataError, near
from sparseplan.run.trainer import TrainSettings
from sparseplan.scalars import plain_arguments
from sparseplan.tasks.base import Array, Better, Split, Task
from sparseplan.tasks.metrics import DEPTH_METRICS, depth_metrics
from sparseplan.tasks.scenes import TARGET, Domain, render
from sparseplan.tasks.tof import TofSensor, disparity, upsample

F32 = NDArray[np.float32]

#: focal length × baseline: the disparity of the pretrained network's output is FB / depth in metres
FB = 4.0
#: pixels of the picture and of the disparity, a side
SIZE = 48
LABELS = ("tof-nearest", "tof-bilinear", "dense")
#: training that adapts the pretrained network in about 300 steps
SETTINGS = TrainSettings(loss="l1", optimizer="adam", lr=2e-3, lr_drop=((2 / 3, 0.1),), epochs=9, batch=16)


@dataclass(frozen=True)
class DepthTask(Task):
    """Pictures (n, 3, h, w), disparity labels (n, 1, h, w), true depth (n, h, w) in metres.

    Attributes:
        fb: the disparity of a surface one metre away.
        low, high: metres; true depth outside is not judged, predictions are clipped to it.
    """

    fb: float = FB
    low: float = 0.1
    high: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (math.isfinite(self.fb) and self.fb > 0):
            raise DataError(f"task {self.name!r}: fb={self.fb!r} must be finite and positive")
        if not (0 < self.low < self.high < math.inf):
            raise DataError(
                f"task {self.name!r}: depth range low={self.low!r}, high={self.high!r} must be 0 < low < high"
            )
        x, target, truth = self.train.x.shape, self.train.target.shape, self.train.truth.shape
        if len(x) != 4 or x[1] != 3 or target[1:] != (1, *x[2:]) or truth[1:] != x[2:]:
            raise DataError(
                f"task {self.name!r}: x, target, truth of shapes {x}, {target}, {truth}"
                " must be (n, 3, h, w), (n, 1, h, w), (n, h, w)"
            )

    @property
    def better(self) -> Mapping[str, Better]:
        return DEPTH_METRICS

    @property
    def headline(self) -> str:
        return "d1"

    def depth(self, output: Array) -> F32:
        """Depth (n, h, w) in metres, clipped, from disparity (n, 1, h, w); disparity 0 is far away.

        Raises:
            DataError: a wrong shape, or NaN or infinite disparity.
        """
        shape = self.train.target.shape[1:]
        if output.shape[1:] != shape:
            raise DataError(f"disparity of shape {output.shape} must be (n, {', '.join(map(str, shape))})")
        if not np.isfinite(output).all():
            raise DataError("the network's disparity has NaN or infinite values; did training diverge? lower its lr")
        return np.asarray(np.clip(self.fb / np.maximum(output[:, 0], 1e-9), self.low, self.high), np.float32)

    def metrics(self, output: Array, split: Split) -> dict[str, float]:
        """The metrics of `sparseplan.tasks.metrics.depth_metrics` for disparity (n, 1, h, w)."""
        return depth_metrics(self.depth(np.asarray(output)), split.truth, self.low, self.high)

    def baselines(self) -> dict[str, dict[str, float]]:
        """Three predictions without a network, each metric at its best for that kind on ``train``.

        ``constant``: one depth for all. ``colour``: one depth a picture, linear in its mean
        colour. ``colour map``: at each pixel another linear map from the picture's mean
        colour, so it also knows what depth is usual at that place. Linear fits are by least
        squares in depth, log depth and disparity.
        """
        known, tested = _colours(self.train.x), _colours(self.test.x)
        judged = self._judged(self.train.truth)
        truth = np.asarray(self.train.truth, np.float64)
        shape = self.test.truth.shape
        families: dict[str, list[tuple[F32, F32]]] = {"constant": [], "colour": [], "colour map": []}
        for depth in np.quantile(truth[judged], np.linspace(0.0125, 0.9875, 40)):
            families["constant"].append((_spread(depth, truth.shape), _spread(depth, shape)))
        for to, back in _SPACES:
            space = np.asarray(np.where(judged, to(np.where(judged, truth, 1.0)), np.nan)).reshape(len(truth), -1)
            counts = judged.reshape(len(truth), -1).sum(axis=1, keepdims=True)
            mean = np.where(counts > 0, np.nansum(space, axis=1, keepdims=True) / np.maximum(counts, 1), np.nan)
            for name, wanted in (("colour", mean), ("colour map", space)):
                fit = _least_squares(known, wanted)
                families[name].append((_spread(back(known @ fit), truth.shape), _spread(back(tested @ fit), shape)))
        return {name: self._best(pairs) for name, pairs in families.items()}

    def _judged(self, truth: Array) -> NDArray[np.bool_]:
        return np.asarray(np.isfinite(truth) & (truth >= self.low) & (truth <= self.high), np.bool_)

    def _best(self, pairs: list[tuple[F32, F32]]) -> dict[str, float]:
        """Each metric on ``test`` of the pair (training, test prediction) that is best by it on ``train``."""
        # every fourth row and column is enough to choose by
        thin = (slice(None), slice(None, None, 4), slice(None, None, 4))
        truth = self.train.truth[thin]
        trained = [depth_metrics(p[thin], truth, self.low, self.high) for p, _ in pairs]
        result = {}
        for metric in self.better:
            best = max(range(len(pairs)), key=lambda i: self.score(trained[i], metric))
            result[metric] = depth_metrics(pairs[best][1], self.test.truth, self.low, self.high)[metric]
        return result

    def augment(self, x: Array, target: Array, rng: np.random.Generator) -> tuple[Array, Array]:
        """Mirror half of the pictures; vary gamma, brightness and the balance of colours."""
        n = len(x)
        mirrored = (rng.uniform(size=n) < 0.5)[:, None, None, None]
        x, target = np.where(mirrored, x[..., ::-1], x), np.where(mirrored, target[..., ::-1], target)
        gamma = rng.uniform(0.8, 1.25, (n, 1, 1, 1))
        gain = rng.uniform(0.8, 1.2, (n, 1, 1, 1)) * rng.uniform(0.9, 1.1, (n, 3, 1, 1))
        return np.clip(x ** gamma.astype(np.float32) * gain.astype(np.float32), 0, 1), target


#: spaces in which baselines are fitted: (from depth, back to depth)
_SPACES: tuple[tuple[Callable[[Array], Array], Callable[[Array], Array]], ...] = (
    (lambda depth: depth, lambda depth: np.maximum(depth, 1e-3)),
    (np.log, np.exp),
    (lambda depth: 1 / depth, lambda inverse: 1 / np.maximum(inverse, 1e-3)),
)


def _colours(x: Array) -> NDArray[np.float64]:
    """(n, 4): one, and the mean of each colour."""
    return np.column_stack([np.ones(len(x)), x.mean(axis=(2, 3), dtype=np.float64)])


def _least_squares(known: NDArray[np.float64], wanted: Array) -> NDArray[np.float64]:
    """Coefficients (4, p) of the best linear maps from ``known`` (n, 4) to ``wanted`` (n, p), NaN left out."""
    valid = ~np.isnan(wanted)
    usual = float(wanted[valid].mean())
    centred = np.where(valid, wanted - usual, 0.0)
    square = np.einsum("ni,nj,np->pij", known, known, valid.astype(np.float64), optimize=True)
    # the ridge only matters at pixels that are (almost) never valid: they get the usual value
    square += 1e-6 * len(known) * np.eye(known.shape[1])
    fit = np.linalg.solve(square, (known.T @ centred).T[:, :, None])[:, :, 0].T
    fit[0] += usual
    return np.asarray(fit, np.float64)


def _spread(depth: Array | float, shape: tuple[int, ...]) -> F32:
    """A depth for all, for each picture (n, 1) or for each pixel (n, h·w), as float32 of ``shape``."""
    flat = np.broadcast_to(np.asarray(depth, np.float32), (shape[0], math.prod(shape[1:])))
    return flat.reshape(shape)


@plain_arguments
def depth_task(
    seed: int = 0,
    n_train: int = 512,
    n_val: int = 128,
    n_test: int = 256,
    domain: Domain = TARGET,
    labels: str = "tof-nearest",
    sensor: TofSensor | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> DepthTask:
    """Draw the task: pictures of a domain, and labels as a sensor gives them.

    Args:
        seed: of pictures and sensor; the splits are disjoint streams of it.
        n_train, n_val, n_test: pictures in each split.
        labels: ``tof-nearest`` or ``tof-bilinear`` (8×8 readings blown up that way), or ``dense``
            (the true depth of each pixel). All splits have them.
        sensor: by default an 8×8 sensor with a reach of 4 m.
        progress: called with (pictures done, of all) now and then.

    Raises:
        DataError: unknown labels, an empty split, or a sensor that sees nothing.
    """
    if labels not in LABELS:
        raise DataError(f"labels={labels!r} is unknown{near(str(labels), LABELS)}")
    sizes = {"n_train": n_train, "n_val": n_val, "n_test": n_test}
    for name, n in sizes.items():
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise DataError(f"{name}={n!r} must be an integer of at least 1")
    sensor = sensor or TofSensor()
    total, before = sum(sizes.values()), 0
    splits: list[Split] = []
    for stream, n in enumerate(sizes.values()):
        step = None if progress is None else _shifted(progress, before, total)
        x, depth = render(domain, n, seed, stream, SIZE, progress=step)
        if labels == "dense":
            target = disparity(depth, FB)
        else:
            zones = disparity(sensor.measure(depth, 3 * seed + stream), FB)
            target = upsample(zones, SIZE, labels.removeprefix("tof-"))
        splits.append(Split(x, target[:, None], depth))
        before += n
    train, val, test = splits
    return DepthTask(f"depth-{domain.name}", train, val, test, SETTINGS)


def _shifted(progress: Callable[[int, int], None], before: int, total: int) -> Callable[[int, int], None]:
    return lambda done, _n: progress(before + done, total)
