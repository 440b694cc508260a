"""Small least squares with some unknowns held at or above zero."""

from __future__ import annotations

import numpy as np

from sparseplan.ops.base import Array


def bounded_least_squares(a: Array, b: Array, free: int = 0, start: Array | None = None) -> Array:
    """``argmin |a v - b|`` with ``v >= 0`` save for its last ``free`` entries, which are unbounded.

    The active-set method of Lawson and Hanson (Solving Least Squares Problems, 1974, ch. 23); what
    the data leave open gets the least norm. ``a``: (rows, unknowns) float64; ``start``: unknowns whose
    positive entries are a good first guess of which are not at zero.
    """
    n = a.shape[1]
    passive = np.zeros(n, bool)
    passive[n - free :] = free > 0
    if start is not None:
        passive |= start > 0
    v = _solve(a, b, passive)
    while (bad := passive & (v <= 0) & (np.arange(n) < n - free)).any():
        passive &= ~bad
        v = _solve(a, b, passive)
    slack = 1e-11 * max(1.0, float(np.abs(a.T @ b).max(initial=0.0)))
    for _ in range(3 * n + 3):
        gain = np.where(passive, -np.inf, a.T @ (b - a @ v))
        if not n or gain.max() <= slack:
            break
        passive[int(gain.argmax())] = True
        while True:
            s = _solve(a, b, passive)
            bad = passive & (s <= 0)
            bad[n - free :] = False
            if not bad.any():
                v = s
                break
            step = float(np.min(v[bad] / np.maximum(v[bad] - s[bad], 1e-300)))
            v = v + step * (s - v)
            passive &= ~(bad & (v <= 1e-14))
            v[~passive] = 0.0
            if step == 0.0 and not (passive & bad).any():
                v = _solve(a, b, passive)
                break
    return v


def _solve(a: Array, b: Array, passive: Array) -> Array:
    v = np.zeros(a.shape[1])
    if passive.any():
        v[passive] = np.linalg.lstsq(a[:, passive], b, rcond=None)[0]
    return v
