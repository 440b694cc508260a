"""Ops known by their shapes alone: planned as frozen, with an error that names them where they are in the way."""

from __future__ import annotations

import pytest

import sparseplan as sp
from sparseplan.autodiff import trace
from sparseplan.builder import NetworkBuilder
from sparseplan.errors import OpError, ProblemError
from sparseplan.network import Network
from sparseplan.steps import TrainingOptions
from sparseplan.verify import verify


def _network() -> Network:
    net = NetworkBuilder("walled")
    x = net.conv(net.input("x", (4, 8, 8)), 4, 3, 1, 1, name="before")
    x = net.op("opaque", x, "lstm", type="LSTM", shape=(4, 8, 8), p0=(4, 7), macs=1000)
    return net.build(net.conv(x, 2, 3, 1, 1, name="behind"))


def test_what_lies_behind_the_last_opaque_op_is_updated() -> None:
    plan = sp.plan(_network(), l2="100kB")
    assert plan.status == "OPTIMAL"
    assert set(plan.update) == {"behind.weight", "behind.bias"}
    assert not verify(plan.problem, plan)
    held = {v.tensor: v.bytes for v in plan.values if v.role == "parameter"}
    assert held["lstm.p0"] == 4 * 7 * 2


@pytest.mark.parametrize("option", ["must", "may"])
def test_an_update_behind_it_names_it_and_what_is_needed(option: str) -> None:
    with pytest.raises(ProblemError, match=r"before\.weight.*op 'lstm' stands between.*LSTM is known by its shapes"):
        sp.plan(_network(), l2="100kB", **{option: ["before.*"]})
    with pytest.raises(ProblemError, match=r"lstm\.p0.*op 'lstm' \(opaque\) has no gradient for its p0"):
        sp.plan(_network(), l2="100kB", **{option: ["lstm.*"]})
    with pytest.raises(ProblemError, match="op 'lstm' stands between"):
        trace(_network(), TrainingOptions(), {"before.weight": (1.0,)})


def test_it_cannot_be_run() -> None:
    with pytest.raises(OpError, match="op 'lstm': LSTM is known by its shapes alone and cannot be run"):
        sp.run(sp.plan(_network(), l2="100kB"))


@pytest.mark.parametrize(
    ("attrs", "message"),
    [
        ({"type": "", "shape": (1,)}, "type=''"),
        ({"type": "X", "shape": (0,)}, "shape=0 must be at least 1"),
        ({"type": "X", "shape": "big"}, "shape='big' must be a tuple"),
        ({"type": "X", "shape": (1,), "p0": (2, -1)}, "p0=-1 must be at least 1"),
        ({"type": "X", "shape": (1,), "macs": -1}, "macs=-1"),
        ({"type": "X", "shape": (1,), "q0": (1,)}, "'q0' is unknown"),
    ],
)
def test_malformed(attrs: dict[str, object], message: str) -> None:
    net = NetworkBuilder("bad")
    with pytest.raises(OpError, match=message):
        net.op("opaque", net.input("x", (1,)), "op", **attrs)  # type: ignore[arg-type]
