"""Value by Fisher information, in the form of TinyTrain."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sparseplan.network import Network
from sparseplan.ops.base import Array
from sparseplan.run.samples import Samples
from sparseplan.value.common import Choices, Levels, Table, array_of, levels_of, mean_over_batches


def fisher_information(
    network: Network, parameters: Mapping[str, Array], data: Samples | None, choices: Choices
) -> Table:
    """Fisher information of the channels that an update touches.

    TinyTrain (Kwon et al., ICML 2024, arXiv 2307.09988) scores a channel with activations ``a`` and
    gradients ``g`` of the loss by ``1/(2N) Σₙ (Σ_d aₙ_d gₙ_d)²`` (n: samples, d: pixels; the form
    of Theis et al., "Faster gaze prediction with dense networks and Fisher pruning", 2018) and a
    layer by the sum over its channels. Here the channels are those that a fraction cuts: the
    *input* channels of the op, as far as they act through this op. For them the inner sum is
    ``⟨θ_c, ∂Lₙ/∂θ_c⟩``, with ``θ_c`` all weights that read channel c: an op that is linear in
    channel and weights has ``Σ_d x_d (∂L/∂x_d) = ⟨θ_c, ∂L/∂θ_c⟩``. So gradients of parameters
    suffice, and the value of fraction r is the sum over the first channels that r keeps.

    A parameter that cannot be cut is scored entry by entry, ``1/(2N) Σₙ (θ_i ∂Lₙ/∂θ_i)²``; a bias
    that is zero is then worth nothing, as removing it would change nothing.

    Args and raises as ``squared_gradient_norm``; every sample is differentiated by itself.

    Returns:
        Parameter to fraction to value (loss squared), at least 0; a larger fraction is worth no less.
    """
    arrays = {p: array_of(parameters, v).astype(np.float64) for p, v in levels_of(network, choices).items()}

    def scores(levels: Levels, gradient: Array) -> Array:
        product = arrays[levels.name].reshape(gradient.shape) * gradient
        if levels.cut is None:
            return np.array([np.sum(product**2) / 2])
        score: Array = levels.by_unit(product) ** 2 / 2
        return score

    return mean_over_batches(network, parameters, data, choices, 1, scores)
