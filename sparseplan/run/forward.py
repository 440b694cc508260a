"""Forward passes over plain arrays: predictions, and the loss that they make."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sparseplan.autodiff import differentiate
from sparseplan.dtypes import TRAINABLE
from sparseplan.errors import ProblemError, near
from sparseplan.network import Network
from sparseplan.ops import infos
from sparseplan.ops.base import Array
from sparseplan.run.arrays import ArrayStore, Program
from sparseplan.run.checks import Inputs, check_inputs, stored_parameters
from sparseplan.run.execute import Clock, Executor
from sparseplan.run.optimizers import Optimizer
from sparseplan.run.settings import check_count
from sparseplan.steps import TrainingOptions, UpdateSet


class Forward:
    """The forward pass of a network, compiled once, for any batch size and any parameters."""

    def __init__(self, network: Network, params: Mapping[str, Array], dtype: str = "fp32") -> None:
        if dtype not in TRAINABLE:
            raise ProblemError(f"dtype={dtype!r} cannot be computed in{near(str(dtype), TRAINABLE)}")
        self.network = network
        self._options = TrainingOptions(dtype)
        # any loss that takes such an output would do: its step is not run
        schedule = differentiate(network, UpdateSet({}), self._options)
        self._store = ArrayStore(schedule)
        self.load(params)
        executor = Executor(infos(network), self._options, Optimizer(), Clock(0.0))
        loss = next(s for s in schedule.steps if s.kind == "loss")
        self._program = Program(schedule, executor, self._store, lambda s: s.kind == "forward", loss.read("y"))

    def load(self, params: Mapping[str, Array]) -> None:
        """Take these parameters from now on; raises DataError where they do not fit."""
        self._store.values.update(stored_parameters(self.network, params, self._options))

    def __call__(self, arrays: Mapping[str, Array], batch: int = 32) -> Array:
        """The first output for checked inputs, ``(samples, *shape)``."""
        count = len(next(iter(arrays.values())))
        parts = []
        for start in range(0, count, batch):
            for name, array in arrays.items():
                self._store.put(name, array[start : start + batch])
            self._program.run()
            parts.append(self._program.output())
        return np.concatenate(parts) if len(parts) > 1 else parts[0].copy()


def predict(network: Network, params: Mapping[str, Array], x: Inputs, batch: int = 32, dtype: str = "fp32") -> Array:
    """The network's first output for every sample, ``(samples, *shape)`` float32.

    Args:
        batch: samples computed at once.
        dtype: type in which parameters and activations are stored.

    Raises:
        DataError: parameters or inputs that do not fit the network, or are not finite.
    """
    check_count("batch", batch)
    arrays = check_inputs(network, x)
    return Forward(network, params, dtype)(arrays, batch)
