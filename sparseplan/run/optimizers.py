"""Optimizers: how a gradient changes a parameter and the optimizer's state."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sparseplan.errors import ProblemError, near
from sparseplan.ops.base import Array
from sparseplan.scalars import plain_fields
from sparseplan.steps import OPTIMIZERS


@dataclass(frozen=True, slots=True)
class Optimizer:
    """An optimizer and its hyper-parameters; the formulas are PyTorch's.

    Attributes:
        kind: ``sgd``, ``momentum`` (state m) or ``adam`` (states m and v, bias-corrected).
        lr: learning rate, at least 0.
        momentum: factor on m of ``momentum``, in [0, 1).
        betas: decay rates of Adam's m and v, each in [0, 1).
        eps: added to the root of Adam's second moment, positive.
        weight_decay: this many times the parameter is added to its gradient, at least 0.

    Raises:
        ProblemError: an unknown kind, or a number outside its range.
    """

    kind: str = "sgd"
    lr: float = 1e-3
    momentum: float = 0.9
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        plain_fields(self)
        if self.kind not in OPTIMIZERS:
            raise ProblemError(f"optimizer={self.kind!r} is unknown{near(str(self.kind), OPTIMIZERS)}")
        checks = [("lr", self.lr, math.inf), ("weight_decay", self.weight_decay, math.inf),
                  ("momentum", self.momentum, 1.0), ("eps", self.eps, math.inf)]  # fmt: skip
        checks += [(f"betas[{i}]", b, 1.0) for i, b in enumerate(self.betas)]
        for name, value, below in checks:
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not 0 <= value < below or (name == "eps" and value == 0):
                least = "above 0" if name == "eps" else "at least 0"
                raise ProblemError(f"{name}={value!r} must be a number {least} and below {below}")
        if len(self.betas) != 2:
            raise ProblemError(f"betas={self.betas!r} must be two numbers")

    def apply(
        self, param: Array, grad: Array, states: Sequence[Array], lr: float, count: int
    ) -> tuple[Array, tuple[Array, ...]]:
        """The new parameter and states (new arrays), from those before the ``count``-th update.

        ``count`` starts at 1; ``lr`` is the present learning rate.
        """
        if self.weight_decay:
            grad = grad + self.weight_decay * param
        if self.kind == "sgd":
            return param - lr * grad, ()
        if self.kind == "momentum":
            m = self.momentum * states[0] + grad
            return param - lr * m, (m,)
        beta1, beta2 = self.betas
        m = beta1 * states[0] + (1 - beta1) * grad
        v = beta2 * states[1] + (1 - beta2) * (grad * grad)
        root = np.sqrt(v / (1 - beta2**count)) + self.eps
        return param - lr * ((m / (1 - beta1**count)) / root), (m, v)
