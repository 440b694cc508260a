"""Handwritten digits in another light: scikit-learn's 8×8 digits, before and after a shift of domain.

The *source*, on which the shipped network was pretrained, has bright digits on dark paper, nearly
upright. The *target* has dark digits on bright paper, turned, smaller, unevenly lit, with less contrast
and more noise. The images are the 1,797 of the UCI set "Optical Recognition of Handwritten Digits"
(Alpaydin and Kaynak, 1998), which scikit-learn ships; half of them are for pretraining only, the other
half for adapting, so that no image is ever in two splits or seen in both domains.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from sparseplan.errors import DataError, MissingExtraError, near
from sparseplan.run.trainer import TrainSettings
from sparseplan.scalars import plain_arguments, plain_fields
from sparseplan.tasks.base import Array, Split
from sparseplan.tasks.classify import ClassificationTask

F32 = NDArray[np.float32]
Range = tuple[float, float]

#: pixels of a picture, a side
SIZE = 16
#: images for pretraining; the others are for adapting
_PRETRAINING = 897


@dataclass(frozen=True)
class DigitsDomain:
    """How digits look. Ranges are drawn from uniformly for each picture.

    Attributes:
        name: shown in reports.
        turn: degrees, anticlockwise. zoom: size relative to the whole picture.
        move: pixels of the 16×16, along each axis.
        paper, ink: grey levels, 0 to 1.
        light: the change of grey level from one side of the picture to the other, in any direction.
        noise: standard deviation of a pixel.

    Raises:
        DataError: a range that is not (low, high) with finite low <= high, or a zoom that is not positive.
    """

    name: str
    turn: Range
    zoom: Range
    move: Range
    paper: Range
    ink: Range
    light: Range
    noise: Range

    def __post_init__(self) -> None:
        plain_fields(self)
        for label in ("turn", "zoom", "move", "paper", "ink", "light", "noise"):
            low, high = getattr(self, label)
            if not (math.isfinite(low) and math.isfinite(high) and low <= high):
                raise DataError(f"{label}=({low}, {high}) must be finite, the lower first")
            if label in ("zoom", "noise") and (low < 0 or (label == "zoom" and low == 0)):
                raise DataError(f"{label}=({low}, {high}) must not be negative (zoom: nor 0)")


SOURCE = DigitsDomain("source", (-12, 12), (0.85, 1.05), (-1, 1), (0.0, 0.1), (0.8, 1.0), (0.0, 0.1), (0.0, 0.05))
TARGET = DigitsDomain("target", (15, 40), (0.8, 1.0), (-1, 1), (0.7, 0.95), (0.05, 0.3), (0.0, 0.25), (0.02, 0.08))
#: training that adapts the pretrained network in about ten seconds
SETTINGS = TrainSettings(loss="cross_entropy", optimizer="adam", lr=5e-3, lr_drop=((2 / 3, 0.1),), epochs=16, batch=16)
DOMAINS = {domain.name: domain for domain in (SOURCE, TARGET)}


@cache
def _images() -> tuple[F32, NDArray[np.int64]]:
    """All images (1797, 8, 8), 0 to 1, and their classes."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise MissingExtraError(
            "the digits come with scikit-learn, which is not installed; pip install 'sparseplan[digits]'"
        ) from None
    found = load_digits()
    return np.asarray(found.images / 16, np.float32), np.asarray(found.target, np.int64)


def draw(images: F32, domain: DigitsDomain, rng: np.random.Generator) -> F32:
    """Pictures (n, 1, 16, 16) of digits (n, 8, 8) as they look in a domain, grey levels 0 to 1.

    Each digit is turned, zoomed and moved (bilinear, nothing outside its 8×8), then inked.
    """
    n, side = len(images), images.shape[1]

    def drawn(span: Range) -> NDArray[np.float64]:
        return rng.uniform(*span, n)[:, None, None]

    angle, zoom = np.radians(drawn(domain.turn)), drawn(domain.zoom)
    down, right = drawn(domain.move), drawn(domain.move)
    paper, ink, light = drawn(domain.paper), drawn(domain.ink), drawn(domain.light)
    towards, sigma = rng.uniform(0, 2 * math.pi, n)[:, None, None], drawn(domain.noise)

    centred = np.arange(SIZE) + 0.5 - SIZE / 2
    rows, columns = np.meshgrid(centred, centred, indexing="ij")
    y, x = (rows - down) / zoom * side / SIZE, (columns - right) / zoom * side / SIZE
    # where a pixel's centre comes from: the digit turned back, in the digit's own pixels
    from_y = np.cos(angle) * y + np.sin(angle) * x + side / 2 - 0.5
    from_x = -np.sin(angle) * y + np.cos(angle) * x + side / 2 - 0.5
    cover = _bilinear(images, from_y, from_x)

    slope = (np.cos(towards) * rows + np.sin(towards) * columns) / SIZE
    grey = paper + (ink - paper) * cover + light * slope + sigma * rng.standard_normal(cover.shape)
    return np.asarray(np.clip(grey, 0, 1)[:, None], np.float32)


def _bilinear(images: F32, y: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Images (n, s, s) at places (n, h, w); 0 outside."""
    side = images.shape[1]
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    y, x = np.clip(y + 1, 0, side + 1), np.clip(x + 1, 0, side + 1)
    top, left = np.minimum(y.astype(int), side), np.minimum(x.astype(int), side)
    dy, dx = y - top, x - left
    which = np.arange(len(images))[:, None, None]
    upper = padded[which, top, left] * (1 - dx) + padded[which, top, left + 1] * dx
    lower = padded[which, top + 1, left] * (1 - dx) + padded[which, top + 1, left + 1] * dx
    return np.asarray(upper * (1 - dy) + lower * dy, np.float64)


@dataclass(frozen=True)
class DigitsTask(ClassificationTask):
    """A ClassificationTask of pictures that may be moved by a pixel."""

    def augment(self, x: Array, target: Array, rng: np.random.Generator) -> tuple[Array, Array]:
        """Move each picture by -1, 0 or 1 pixels along each axis; edges are repeated."""
        n, _, h, w = x.shape
        padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
        down, right = rng.integers(0, 3, (2, n, 1, 1))
        which, rows, columns = np.arange(n)[:, None, None], np.arange(h)[:, None], np.arange(w)
        return padded[which, :, rows + down, columns + right].transpose(0, 3, 1, 2), target


@plain_arguments
def digits_task(
    seed: int = 0, n_train: int = 384, n_val: int = 128, n_test: int = 388, domain: str | DigitsDomain = TARGET
) -> DigitsTask:
    """Draw the task: pictures (n, 1, 16, 16) of ten classes, each image in one split alone.

    Args:
        seed: of which images are in which split, and of how each looks.
        n_train, n_val, n_test: pictures in each split; 900 images are there for adapting, and 897
            others for the domain ``source``.
        domain: a name (``target``, ``source``) or a domain of one's own.

    Raises:
        DataError: an unknown domain, an empty split, or more pictures than there are images.
        MissingExtraError: scikit-learn is not installed.
    """
    if isinstance(domain, str):
        if domain not in DOMAINS:
            raise DataError(f"domain={domain!r} is unknown{near(domain, DOMAINS)}")
        domain = DOMAINS[domain]
    sizes = {"n_train": n_train, "n_val": n_val, "n_test": n_test}
    for label, value in {"seed": seed, **sizes}.items():
        least = 0 if label == "seed" else 1
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise DataError(f"{label}={value!r} must be an integer of at least {least}")
    images, classes = pool(domain.name == SOURCE.name)
    if sum(sizes.values()) > len(images):
        raise DataError(f"n_train + n_val + n_test = {sum(sizes.values())}, but there are {len(images)} images")
    rng = np.random.default_rng([seed, 16_16])
    order = rng.permutation(len(images))
    splits, start = [], 0
    for n in sizes.values():
        chosen = order[start : start + n]
        splits.append(Split(draw(images[chosen], domain, rng), classes[chosen][:, None], classes[chosen]))
        start += n
    train, val, test = splits
    return DigitsTask(f"digits-{domain.name}", train, val, test, SETTINGS)


def pool(pretraining: bool) -> tuple[F32, NDArray[np.int64]]:
    """Images (n, 8, 8) and classes for pretraining, or those for adapting; raises MissingExtraError."""
    images, classes = _images()
    # the set's order follows its writers: shuffled once and for all
    order = np.random.default_rng(1797).permutation(len(images))
    chosen = order[:_PRETRAINING] if pretraining else order[_PRETRAINING:]
    return images[chosen], classes[chosen]
