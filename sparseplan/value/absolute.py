"""Value by absolute gradient."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sparseplan.network import Network
from sparseplan.ops.base import Array
from sparseplan.run.samples import Samples
from sparseplan.value.common import Choices, Levels, Table, mean_over_batches


def absolute_gradient(
    network: Network,
    parameters: Mapping[str, Array],
    data: Samples | None,
    choices: Choices,
    *,
    batch: int = 16,
) -> Table:
    """How much each allowed update lowers the loss in Adam's first step, to first order.

    That step (Kingma and Ba, ICLR 2015) moves every entry by the learning rate against the sign of
    its gradient, so the loss falls by the rate times the summed absolute gradients of the entries
    that move. With plain SGD the squares count instead: ``squared_gradient_norm``.

    Args:
        parameters: all of the network's.
        data: labelled samples and the loss.
        choices: parameter to the fractions of its units that may be updated.
        batch: samples whose mean loss is differentiated at once.

    Returns:
        Parameter to fraction to value (loss over parameter), at least 0; a larger fraction is worth
        no less. A mean over batches.

    Raises:
        ProblemError: a parameter that is unknown, or a fraction that cannot be updated.
        DataError: arrays that do not fit the network, or are not finite; no data.
    """

    def sizes(levels: Levels, gradient: Array) -> Array:
        return levels.by_unit(np.abs(gradient, dtype=np.float64))

    return mean_over_batches(network, parameters, data, choices, batch, sizes)
