"""Plans with losses on several outputs, as C: losses, gradients and parameters are those of the run in Python."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from compiled import COMPILER
from test_export_c import check

from sparseplan.api import plan
from sparseplan.builder import NetworkBuilder
from sparseplan.network import Network
from sparseplan.plan import Plan
from sparseplan.problem import Problem

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C compiler: install one that is called cc")


def heads() -> Network:
    """A trunk with two heads, of which one reads what the other gives out."""
    net = NetworkBuilder("heads")
    t = net.conv(net.input("image", (2, 4, 4)), 4, 3, padding=1)
    trunk = net.op("relu", (t,))
    depth = net.op("conv", (trunk,), "depth", out_channels=1, kernel=1)
    both = net.op("concat", (trunk, depth))
    logits = net.op("linear", (net.op("flatten", (both,)),), "logits", out_features=3)
    return net.build((depth, logits))


LOSSES = {"depth.out": "0.25*huber", "logits.out": "3*cross_entropy"}


def planned(**options: object) -> Plan:
    return plan(heads(), **{"dtype": "fp32", "must": ["*"], "loss": LOSSES, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize("kinds", [
    {"depth.out": "l1", "logits.out": "cross_entropy"},
    LOSSES,
    {"depth.out": "2*berhu", "logits.out": "0.5*mse"},
    {"depth.out": "mse"},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("gradients", ["fused", "accumulate"])
def test_losses_of_outputs(kinds: dict[str, str], gradients: str, tmp_path: Path) -> None:
    compiled = check(planned(loss=kinds, gradients=gradients), tmp_path, samples=2)
    assert all(f"*target_{name.replace('.', '_')}" in compiled.made.header for name in kinds)


def test_two_losses_on_one_output(tmp_path: Path) -> None:
    found = planned(loss=["depth.out=mse", "depth.out=0.5*l1", "logits.out=0.1*cross_entropy"], optimizer="adam")
    compiled = check(found, tmp_path, samples=2)
    assert "target_depth_out_mse" in compiled.made.header
    assert "weighted sum of the losses" in compiled.made.header


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_half_precision_and_batches(dtype: str, tmp_path: Path) -> None:
    check(planned(dtype=dtype, batch=2), tmp_path)


@pytest.mark.parametrize("saving", ["recompute", "stripes", "int8", "order"])
def test_savings(saving: str, tmp_path: Path) -> None:
    problem: Problem = planned().problem
    tight = replace(problem, savings=(saving,))
    check(plan(tight, time_limit=20), tmp_path)
