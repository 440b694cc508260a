"""Depth from pictures that a camera took: what the loaders of files and folders have in common.

Focal length × baseline (``fb``) may differ a little from picture to picture, as it does in KITTI.
A task has one, the median, and all disparities are brought to it (``disparity * fb / fb_i``),
so that depth is ``fb`` over disparity throughout. Where a set has one ``fb`` nothing changes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparseplan.errors import DataError, near
from sparseplan.run.trainer import TrainSettings
from sparseplan.tasks.base import Array, Split
from sparseplan.tasks.depth import F32, LABELS, DepthTask
from sparseplan.tasks.metrics import depth_metrics
from sparseplan.tasks.tof import disparity, upsample

#: zones a side of the sensor that labels come from, or are reduced to
ZONES = 8
#: metres beyond which the time-of-flight sensor's readings do not count
REACH = 4.0
#: chosen on a validation split of real captures (docs/real-images.md): there l1 does better than the berHu that is
#: often used, and the milder augmentation of DepthTask better than a wide one
SETTINGS = TrainSettings(loss="l1", optimizer="adam", lr=1e-3, lr_drop=((2 / 3, 0.1),), epochs=30, batch=16)


@dataclass(frozen=True)
class RealDepthTask(DepthTask):
    """A DepthTask with the median depth among its baselines."""

    def baselines(self) -> dict[str, dict[str, float]]:
        """As of DepthTask, and first ``median``: the median depth of the training split for all."""
        judged = self.train.truth[self._judged(self.train.truth)]
        if not len(judged):
            raise DataError(f"task {self.name!r}: no depth of the training split is from {self.low} to {self.high} m")
        flat = np.full(self.test.truth.shape, np.median(judged), np.float32)
        return {"median": depth_metrics(flat, self.test.truth, self.low, self.high), **super().baselines()}


def check_labels(labels: str, known: tuple[str, ...] = LABELS) -> None:
    """Raises DataError where ``labels`` is not one of ``known``."""
    if labels not in known:
        raise DataError(f"labels={labels!r} is unknown{near(str(labels), known)}")


def pictures(array: Array, what: str) -> F32:
    """(n, h, w, 3) uint8 RGB to (n, 3, h, w) float32 in 0 … 1; raises DataError."""
    if array.ndim != 4 or array.shape[3] != 3 or 0 in array.shape:
        raise DataError(f"{what} has shape {array.shape}, expected (n, h, w, 3)")
    if array.dtype != np.uint8:
        raise DataError(f"{what} has dtype={array.dtype}; give uint8, 0 to 255")
    return np.ascontiguousarray(array.transpose(0, 3, 1, 2), np.float32) / np.float32(255)


def one_fb(fb: NDArray[np.float64], what: str) -> float:
    """The median of all pictures' ``fb``; raises DataError where one is not finite and positive."""
    bad = np.flatnonzero(~(np.isfinite(fb) & (fb > 0)))
    if len(bad):
        raise DataError(f"{what}[{bad[0]}]={fb[bad[0]]} must be finite and positive")
    return float(np.median(fb))


def sensor_split(x: F32, depth: Array, fb: float, labels: str, what: str, reach: float = REACH) -> Split:
    """A split of pictures (n, 3, h, w) with sensor readings (n, z, z) in metres.

    A reading counts where 0 < depth < ``reach``; others become NaN before anything is blown up.
    Truth is the readings, nearest; the label is their disparity, nearest or bilinear.

    Raises:
        DataError: shapes that do not fit, or no reading that counts.
    """
    size = x.shape[2]
    zones = depth.shape[1] if depth.ndim == 3 else 0
    if depth.ndim != 3 or len(depth) != len(x) or depth.shape[2] != zones or zones == 0 or size % zones:
        raise DataError(
            f"{what} has shape {depth.shape}, expected ({len(x)}, z, z) with z a divisor of the pictures' side {size}"
        )
    if x.shape[3] != size:
        raise DataError(f"{what}: the pictures are {size}×{x.shape[3]}; only square ones can be labelled from zones")
    if depth.dtype.kind not in "fiu":
        raise DataError(f"{what} has dtype={depth.dtype}; give metres")
    valid = np.isfinite(depth) & (depth > 0) & (depth < reach)
    if not valid.any():
        raise DataError(f"{what}: none of {depth.size} depths is valid (above 0, below {reach} m)")
    metres = np.where(valid, depth, np.nan).astype(np.float32)
    target = upsample(disparity(metres, fb), size, labels.removeprefix("tof-"))
    return Split(x, target[:, None], upsample(metres, size, "nearest"))


def nearest_zones(dense: F32, zones: int = ZONES) -> F32:
    """The largest disparity, so the nearest surface, of each of zones × zones blocks; NaN where a block has none.

    Raises:
        DataError: sides of (n, h, w) that are not multiples of ``zones``.
    """
    n, h, w = dense.shape
    if h % zones or w % zones:
        raise DataError(f"disparity of shape {dense.shape} cannot be cut into {zones}×{zones} equal zones")
    blocks = np.where(np.isnan(dense), -np.inf, dense).reshape(n, zones, h // zones, zones, w // zones)
    most = blocks.max(axis=(2, 4))
    return np.where(np.isfinite(most), most, np.nan).astype(np.float32)


def dense_label(dense: F32, labels: str) -> F32:
    """Disparity labels (n, h, w) from dense ones, NaN unknown: as they are, or reduced to zones and blown up."""
    if labels == "dense":
        return dense
    return upsample(nearest_zones(dense), dense.shape[1], labels.removeprefix("tof-"))
