"""Value by magnitude of weights."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sparseplan.network import Network
from sparseplan.ops.base import Array
from sparseplan.run.samples import Samples
from sparseplan.value.common import Choices, Table, array_of, levels_of


def weight_magnitude(
    network: Network, parameters: Mapping[str, Array], data: Samples | None, choices: Choices
) -> Table:
    """Sum of the absolute values of the entries that each allowed update changes.

    Large weights carry what a network knows (Han et al., "Learning both weights and connections for
    efficient neural networks", NeurIPS 2015, prune by it). It needs no data: ``data`` may be None.

    Returns:
        Parameter to fraction to value, at least 0; a larger fraction is worth no less.

    Raises:
        ProblemError: a parameter that is unknown, or a fraction that cannot be updated.
        DataError: a parameter without an array, of another size, or not finite.
    """
    return {
        p: levels.sums(np.abs(array_of(parameters, levels).reshape(network.tensor[p].shape)))
        for p, levels in levels_of(network, choices).items()
    }
