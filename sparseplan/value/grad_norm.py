"""Value by squared gradient norm."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sparseplan.network import Network
from sparseplan.ops.base import Array
from sparseplan.run.samples import Samples
from sparseplan.value.common import Choices, Levels, Table, mean_over_batches


def squared_gradient_norm(
    network: Network,
    parameters: Mapping[str, Array],
    data: Samples | None,
    choices: Choices,
    *,
    batch: int = 1,
) -> Table:
    """How much each allowed update lowers the loss, to first order.

    A step of SGD with rate ``lr`` on some entries of a parameter lowers the loss by ``lr`` times the
    sum of their squared gradients. The value of a parameter and fraction is that sum over the
    entries which it updates, a mean over batches; values of several parameters add up, as the
    planner's objective does. With ``batch=1`` it is the trace of the empirical Fisher matrix;
    larger batches average gradients first, and so discount what samples disagree about. Choosing
    layers by gradient norm: Lee et al., "Surgical Fine-Tuning", ICLR 2023 (there relative to the
    norm of the weights).

    Args:
        parameters: all of the network's.
        data: labelled samples and the loss.
        choices: parameter to the fractions of its units that may be updated.
        batch: samples whose mean loss is differentiated at once.

    Returns:
        Parameter to fraction to value (loss squared over parameter squared), at least 0; a larger
        fraction is worth no less.

    Raises:
        ProblemError: a parameter that is unknown, or a fraction that cannot be updated.
        DataError: arrays that do not fit the network, or are not finite; no data.
    """

    def squares(levels: Levels, gradient: Array) -> Array:
        return levels.by_unit(np.square(gradient, dtype=np.float64))

    return mean_over_batches(network, parameters, data, choices, batch, squares)
