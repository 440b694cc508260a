"""A simulated multi-zone time-of-flight sensor, and the pseudo-labels made from it.

As in arXiv 2512.00086, a coarse ranging sensor beside the camera teaches a depth network
in the field: each zone reports its nearest surface, and the zones' disparities are blown
up to the picture's size. Invalid zones are NaN, and NaN they stay: they never mix into
their neighbours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparseplan.errors import DataError, near
from sparseplan.scalars import plain_fields

F32 = NDArray[np.float32]

UPSAMPLINGS = ("nearest", "bilinear")


@dataclass(frozen=True)
class TofSensor:
    """A square multi-zone ranging sensor; the defaults are of the VL53L5CX's kind.

    Attributes:
        zones: zones a side.
        reach: metres beyond which a zone is invalid (the nearest is not limited).
        noise, noise_share: standard deviation of a reading: metres, plus a share of the depth.
        dropout: chance that any zone is invalid. dropout_far: chance added at full reach;
            it grows with the square of the depth, as the returned light falls.

    Raises:
        DataError: a value out of its range.
    """

    zones: int = 8
    reach: float = 4.0
    noise: float = 0.01
    noise_share: float = 0.02
    dropout: float = 0.02
    dropout_far: float = 0.5

    def __post_init__(self) -> None:
        plain_fields(self)
        if isinstance(self.zones, bool) or not isinstance(self.zones, int) or self.zones < 1:
            raise DataError(f"zones={self.zones!r} must be an integer of at least 1")
        for label, high in (
            ("reach", math.inf),
            ("noise", math.inf),
            ("noise_share", 1),
            ("dropout", 1),
            ("dropout_far", 1),
        ):
            value = getattr(self, label)
            if not (math.isfinite(value) and 0 <= value <= high) or (label == "reach" and value == 0):
                raise DataError(f"{label}={value!r} must be a finite number from 0{'' if high > 1 else ' to 1'}")

    def measure(self, depth: F32, seed: int) -> F32:
        """Simulate one reading of each picture.

        Args:
            depth: (n, h, w) metres; h and w are multiples of ``zones``. NaN is no surface.

        Returns:
            (n, zones, zones) metres: the nearest surface of each zone with noise; NaN where
            the sensor sees nothing.

        Raises:
            DataError: ``depth`` of another shape, or a depth that is not positive.
        """
        depth = np.asarray(depth)
        if depth.ndim != 3 or depth.shape[1] % self.zones or depth.shape[2] % self.zones or 0 in depth.shape[1:]:
            raise DataError(f"depth of shape {depth.shape} must be (n, h, w), h and w multiples of zones={self.zones}")
        if (depth <= 0).any():
            raise DataError(f"depth has {int((depth <= 0).sum())} values that are not positive; mark no surface by NaN")
        n, h, w = depth.shape
        split = depth.reshape(n, self.zones, h // self.zones, self.zones, w // self.zones)
        nearest = np.where(np.isnan(split), np.inf, split).min(axis=(2, 4)).astype(np.float32)
        rng = np.random.default_rng([seed, 8_8])
        error, luck = rng.standard_normal(nearest.shape), rng.uniform(size=nearest.shape)
        known = np.where(np.isfinite(nearest), nearest, 0)
        reading = known + error * (self.noise + self.noise_share * known)
        lost = luck < self.dropout + self.dropout_far * (known / self.reach) ** 2
        invalid = ~np.isfinite(nearest) | lost | (reading <= 0) | (reading > self.reach)
        return np.where(invalid, np.nan, reading).astype(np.float32)


def disparity(depth: F32, fb: float) -> F32:
    """``fb / depth``, NaN where depth is NaN; ``fb`` is focal length × baseline.

    Raises:
        DataError: ``fb`` not positive and finite.
    """
    if not (math.isfinite(fb) and fb > 0):
        raise DataError(f"fb={fb!r} must be finite and positive")
    return np.asarray(fb / depth, np.float32)


def upsample(zones: F32, size: int, how: str = "nearest") -> F32:
    """Blow (n, z, z) up to (n, size, size); NaN zones stay NaN and mix into nothing.

    ``nearest`` repeats each zone. ``bilinear`` interpolates between zone centres (half-pixel
    convention, edges clamped) over the valid ones of the four zones around, their weights
    renormalised; a pixel is valid if and only if the zone it lies in is.

    Raises:
        DataError: ``how`` unknown, or ``size`` not a multiple of z.
    """
    zones = np.asarray(zones, np.float32)
    if how not in UPSAMPLINGS:
        raise DataError(f"upsampling how={how!r} is unknown{near(str(how), UPSAMPLINGS)}")
    if zones.ndim != 3 or zones.shape[1] != zones.shape[2] or zones.shape[1] == 0 or size % zones.shape[1]:
        raise DataError(f"zones of shape {zones.shape} must be (n, z, z) with size={size} a multiple of z")
    factor = size // zones.shape[1]
    repeated = zones.repeat(factor, axis=1).repeat(factor, axis=2)
    if how == "nearest":
        return repeated
    valid = ~np.isnan(zones)
    weights = _weights(zones.shape[1], size)
    total = np.einsum("pi,nij,qj->npq", weights, np.where(valid, zones, 0).astype(np.float64), weights, optimize=True)
    share = np.einsum("pi,nij,qj->npq", weights, valid.astype(np.float64), weights, optimize=True)
    return np.where(np.isnan(repeated), np.nan, total / np.maximum(share, 1e-12)).astype(np.float32)


def _weights(zones: int, size: int) -> NDArray[np.float64]:
    """(size, zones) linear interpolation weights between zone centres, clamped at the edges."""
    where = np.clip((np.arange(size) + 0.5) * zones / size - 0.5, 0, zones - 1)
    low = np.floor(where).astype(int)
    part = where - low
    table = np.zeros((size, zones))
    table[np.arange(size), low] += 1 - part
    table[np.arange(size), np.minimum(low + 1, zones - 1)] += part
    return table
