"""A small step of gradient descent on one parameter lowers the loss by its rate times the squared gradient norm."""

from __future__ import annotations

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from sparseplan.network import Network
from sparseplan.problem import resolve_choices
from sparseplan.run.reference import reference
from sparseplan.run.runner import random_data
from sparseplan.run.samples import Samples
from sparseplan.testing.gradients import generic_parameters, loss_of
from sparseplan.testing.strategies import networks
from sparseplan.value import squared_gradient_norm


@given(networks(), st.integers(0, 99), st.data())
def test_values_are_slopes_of_the_loss(network: Network, seed: int, data: st.DataObject) -> None:
    """The slope by differences in float64 along the gradient, the value from the float32 trainer."""
    choices, _ = resolve_choices(network, fractions=(1.0,))
    assume(choices and len(network.inputs) == 1)
    assume(all(network.tensor[t].dtype is None for t in network.tensor))
    name = data.draw(st.sampled_from(sorted(choices)))
    x32, target = random_data(network, "mse", 2, seed)
    params = generic_parameters(network, seed)
    samples = Samples(x32[network.inputs[0]], target, "mse")
    value = squared_gradient_norm(network, params, samples, {name: (1.0,)}, batch=2)[name][1.0]
    x, wanted = {n: a.astype(np.float64) for n, a in x32.items()}, target.astype(np.float64)
    gradient = reference(network, params, x, wanted, "mse").gradients[name]
    assume(value > 1e-6)
    step = 1e-5 / float(np.sqrt(np.sum(gradient**2)))

    def at(size: float) -> float:
        return loss_of(network, params | {name: params[name] + size * gradient}, x, wanted, "mse")

    ahead, back = (at(step) - at(0.0)) / step, (at(0.0) - at(-step)) / step
    assume(abs(ahead - back) <= 1e-3 * abs(ahead + back))  # no kink within the step
    assert abs((ahead + back) / 2 - value) <= 2e-3 * value
