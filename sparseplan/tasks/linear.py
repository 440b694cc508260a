"""Ridge regression, the baseline that needs no network, for inputs of any size."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sparseplan.tasks.base import Array

F64 = NDArray[np.float64]
#: ridges that are tried, relative to the mean squared size of an input
RIDGES = (1e-3, 1e-2, 1e-1, 1.0)
#: samples that are fitted at most where there are more numbers in an input than that
MOST_SAMPLES = 4000


class Ridge:
    """The ridge regression of y (n, k) on x (n, *input); the constant is not shrunk.

    Solved in whichever of samples and inputs there are fewer of, which is the same. Of more than ``MOST_SAMPLES``
    samples of such large inputs some are taken, evenly.
    """

    def __init__(self, x: Array, y: F64, ridge: float) -> None:
        known = x.reshape(len(x), -1)
        if min(known.shape) > MOST_SAMPLES:
            some = np.linspace(0, len(known) - 1, MOST_SAMPLES).round().astype(int)
            known, y = known[some], y[some]
        inner = known.astype(np.float64)
        self._centre, self._usual = inner.mean(axis=0), y.mean(axis=0)
        inner -= self._centre
        n, p = inner.shape
        extra = ridge * max(float((inner**2).sum()) / p, 1e-12)
        if n < p:
            dual = np.linalg.solve(inner @ inner.T + extra * np.eye(n), y - self._usual)
            self._known, self._slope = inner, dual
        else:
            self._known = None
            self._slope = np.linalg.solve(inner.T @ inner + extra * np.eye(p), inner.T @ (y - self._usual))

    _known: F64 | None

    def __call__(self, x: Array) -> F64:
        """Predictions (n, k)."""
        asked = x.reshape(len(x), -1).astype(np.float64) - self._centre
        if self._known is not None:
            asked = asked @ self._known.T
        return np.asarray(asked @ self._slope + self._usual, np.float64)
