"""Every measure gives any network values of at least 0, and a larger fraction no less."""

from __future__ import annotations

import itertools
import math

from hypothesis import given
from hypothesis import strategies as st

from sparseplan.network import Network
from sparseplan.problem import resolve_choices
from sparseplan.run.runner import random_data
from sparseplan.run.samples import Samples
from sparseplan.testing.gradients import generic_parameters
from sparseplan.testing.strategies import networks
from sparseplan.value import VALUES


@given(networks(), st.sampled_from(sorted(VALUES)), st.integers(0, 99))
def test_values_are_at_least_zero_and_grow_with_the_fraction(network: Network, name: str, seed: int) -> None:
    if len(network.inputs) > 1:
        return
    choices, _ = resolve_choices(network)
    x, target = random_data(network, "mse", 2, seed)
    data = Samples(x[network.inputs[0]], target, "mse")
    values = VALUES[name](network, generic_parameters(network, seed), data, choices)
    assert {p: tuple(t) for p, t in values.items()} == choices
    for table in values.values():
        found = list(table.values())
        assert all(0 <= v < math.inf for v in found)
        assert all(b >= a * (1 - 1e-12) for a, b in itertools.pairwise(found))
