"""Plans and networks survive their JSON."""

from __future__ import annotations

from hypothesis import given

from sparseplan.network import Network
from sparseplan.problem import Problem
from sparseplan.testing import check_json, check_spec, networks, problems
from sparseplan.testing.theorems import solved


@given(problem=problems())
def test_plans_round_trip(problem: Problem) -> None:
    check_json(solved(problem))


@given(network=networks())
def test_networks_round_trip(network: Network) -> None:
    check_spec(network)
