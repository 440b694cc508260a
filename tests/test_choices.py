"""Patterns of parameters: wildcards pass over what can never be updated, exact names of such are errors."""

from __future__ import annotations

import re

import pytest

import sparseplan as sp
from sparseplan.builder import NetworkBuilder
from sparseplan.errors import ProblemError
from sparseplan.importers import Imported
from sparseplan.network import Network
from sparseplan.problem import resolve_choices

LEARNED = {"block.0.weight", "block.1.weight", "block.1.bias", "head.weight", "head.bias"}
STATISTICS = {"block.1.mean", "block.1.var"}


def _network() -> Network:
    net = NetworkBuilder("norms")
    x = net.input("x", (2, 6, 6))
    y = net.op("conv", x, "block.0", ["weight"], out_channels=4, kernel=3)
    y = net.op("batch_norm", y, "block.1", ["weight", "bias", "mean", "var"])
    return net.build(net.op("conv", y, "head", ["weight", "bias"], out_channels=2, kernel=1))


def test_a_wildcard_passes_over_statistics() -> None:
    net = _network()
    choices, least = resolve_choices(net, must=["block.*"])
    assert set(least) == {"block.0.weight", "block.1.weight", "block.1.bias"}
    assert set(choices) == LEARNED
    assert set(resolve_choices(net, must=["*"])[1]) == LEARNED
    assert set(resolve_choices(net, may=["block.*"])[0]) == set(least)
    assert set(sp.problem(net, l2="100kB", must=["*"]).must) == LEARNED


@pytest.mark.parametrize("what", ["must", "may"])
def test_an_exact_name_of_a_statistic_is_an_error(what: str) -> None:
    with pytest.raises(ProblemError, match=re.escape(f"{what}='block.1.mean': parameter 'block.1.mean' cannot be")):
        resolve_choices(_network(), **{what: ["block.1.mean"]})  # type: ignore[arg-type]
    with pytest.raises(ProblemError, match=re.escape(f"{what}='block.1.mean@1/2'")):
        resolve_choices(_network(), **{what: ["block.1.mean@1/2"]})  # type: ignore[arg-type]


@pytest.mark.parametrize("what", ["must", "may"])
def test_a_wildcard_of_nothing_else_is_an_error_that_says_why(what: str) -> None:
    text = f"{what}='*.[mv]ea*' names only parameters that cannot be updated, 'block.1.mean' for one: op 'block.1'"
    with pytest.raises(ProblemError, match=re.escape(text)):
        resolve_choices(_network(), **{what: ["*.[mv]ea*"]})  # type: ignore[arg-type]


def test_constants_of_the_origin_are_no_never_that_somebody_wrote() -> None:
    net = _network()
    origin = Imported(net, {}, fixed=("head.bias",))
    assert set(sp.problem(origin, l2="100kB", must=["*"]).must) == LEARNED - {"head.bias"}
    assert set(sp.problem(origin, l2="100kB").choices) == LEARNED - {"head.bias"}
    assert set(sp.problem(origin, l2="100kB", may=["head.*"]).choices) == {"head.weight"}
    for what in ("must", "may"):
        with pytest.raises(
            ProblemError, match="'head\\.bias' cannot be updated: it is a constant of the origin"
        ) as caught:
            sp.problem(origin, l2="100kB", **{what: ["head.bias"]})  # type: ignore[arg-type]
        assert "never" not in str(caught.value).replace("never updated", "")
    with pytest.raises(ProblemError, match="never='head"):
        resolve_choices(net, must=["head.*"], never=["head.b*"])
