"""Depth metrics of Eigen et al., NeurIPS 2014: means over pictures of means over valid pixels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sparseplan.errors import DataError

#: every metric and which way it improves
DEPTH_METRICS: Mapping[str, Literal["lower", "higher"]] = MappingProxyType(
    {
        "abs_rel": "lower",
        "sq_rel": "lower",
        "rmse": "lower",
        "rmse_log": "lower",
        "d1": "higher",
        "d2": "higher",
        "d3": "higher",
        "silog": "lower",
    }
)


def depth_metrics(
    predicted: NDArray[np.floating], truth: NDArray[np.floating], low: float = 0.1, high: float = 10.0
) -> dict[str, float]:
    """Compare predicted with true depth, both (n, h, w) in metres.

    With p the prediction clipped to ``low``..``high`` and t the truth, for each picture over
    its valid pixels (t finite, ``low`` <= t <= ``high``), then averaged over the pictures
    that have any:

    - ``abs_rel`` mean of \\|p - t\\| / t; ``sq_rel`` mean of (p - t)² / t, metres;
    - ``rmse`` root of the mean of (p - t)², metres; ``rmse_log`` the same of ln p - ln t;
    - ``d1``, ``d2``, ``d3`` share of pixels with max(p / t, t / p) < 1.25, 1.25², 1.25³;
    - ``silog`` 10 times the standard deviation of ln p - ln t (as the tables of arXiv 2512.00086;
      the KITTI benchmark has 100 times).

    Raises:
        DataError: shapes differ, ``low`` and ``high`` are not 0 < low < high, the
            prediction has NaN or infinite values, or no pixel is valid.
    """
    if not (0 < low < high < math.inf):
        raise DataError(f"clip range low={low!r}, high={high!r} must satisfy 0 < low < high")
    p, t = np.asarray(predicted, np.float64), np.asarray(truth, np.float64)
    if p.shape != t.shape or p.ndim != 3:
        raise DataError(f"predicted depth of shape {p.shape} must be (n, h, w) like the truth's {t.shape}")
    bad = int((~np.isfinite(p)).sum())
    if bad:
        raise DataError(f"predicted depth has {bad} NaN or infinite values; did training diverge? lower its lr")
    valid = np.isfinite(t) & (t >= low) & (t <= high)
    counts = valid.sum(axis=(1, 2))
    if not counts.any():
        raise DataError(f"the truth has no valid pixel (finite, {low} to {high} m) in {t.shape[0]} pictures")
    p, t, valid, counts = p[counts > 0], t[counts > 0], valid[counts > 0], counts[counts > 0]
    p = np.clip(p, low, high)
    t = np.where(valid, t, 1.0)
    log = np.log(p / t)
    ratio = np.maximum(p / t, t / p)

    def over(values: NDArray[np.floating]) -> NDArray[np.float64]:
        return np.asarray(np.where(valid, values, 0.0).sum(axis=(1, 2), dtype=np.float64) / counts)

    square_log, mean_log = over(log**2), over(log)
    each = {
        "abs_rel": over(np.abs(p - t) / t),
        "sq_rel": over((p - t) ** 2 / t),
        "rmse": np.sqrt(over((p - t) ** 2)),
        "rmse_log": np.sqrt(square_log),
        "d1": over((ratio < 1.25).astype(np.float64)),
        "d2": over((ratio < 1.25**2).astype(np.float64)),
        "d3": over((ratio < 1.25**3).astype(np.float64)),
        "silog": 10 * np.sqrt(np.maximum(square_log - mean_log**2, 0)),
    }
    return {name: float(values.mean()) for name, values in each.items()}
