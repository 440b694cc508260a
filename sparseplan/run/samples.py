"""Data to differentiate a loss over: what measures of an update's worth take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sparseplan.errors import DataError
from sparseplan.ops.base import Array


@dataclass(frozen=True)
class Samples:
    """Inputs with labels, and the loss that compares the network's output with them.

    Attributes:
        x: ``(samples, *input)``: the network's input, finite.
        target: ``(samples, *output)``; NaN where there is no label, or integer classes.
        loss, loss_attrs: kind of the loss (l1, huber, mse, berhu, cross_entropy) and its attributes.

    Raises:
        DataError: no samples, or another number of labels than of inputs.
    """

    x: Array
    target: Array
    loss: str = "l1"
    loss_attrs: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        x, target = np.asarray(self.x), np.asarray(self.target)
        if x.ndim == 0 or len(x) == 0:
            raise DataError(f"x of shape {x.shape} holds no samples; give at least one")
        if target.ndim == 0 or len(target) != len(x):
            raise DataError(f"target of shape {target.shape} must hold one label for each of the {len(x)} samples of x")

    def __len__(self) -> int:
        return len(self.x)
