"""Pruned gradients = full gradients = finite differences."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sparseplan.network import Network
from sparseplan.problem import resolve_choices
from sparseplan.testing import check_full_gradients, check_pruned_gradients, trainable_networks
from sparseplan.testing.peers import trainable


@given(network=trainable_networks(), seed=st.integers(0, 99), batch=st.sampled_from([1, 2]))
def test_full_gradients_are_finite_differences(network: Network, seed: int, batch: int) -> None:
    check_full_gradients(network, seed, batch)


@given(network=trainable_networks(), seed=st.integers(0, 99), batch=st.sampled_from([1, 2]), data=st.data())
def test_pruned_gradients_are_full_gradients(network: Network, seed: int, batch: int, data: st.DataObject) -> None:
    choices, _ = resolve_choices(network, trainable(network))
    names = data.draw(st.lists(st.sampled_from(trainable(network)), min_size=1, unique=True))
    check_pruned_gradients(network, {p: data.draw(st.sampled_from(choices[p])) for p in names}, seed, batch)
