"""The accuracy check: same figures whatever the number of processes; equal sets are trained once."""

from __future__ import annotations

import json

import pytest

import sparseplan as sp
from sparseplan.builder import init_parameters
from sparseplan.check import check
from sparseplan.errors import DataError, ProblemError
from sparseplan.tasks.depth import DepthTask, depth_task
from sparseplan.weights import pretrained


@pytest.fixture(scope="module")
def task() -> DepthTask:
    return depth_task(n_train=24, n_val=4, n_test=8)


@pytest.fixture(scope="module")
def weights() -> dict[str, object]:
    return dict(pretrained(sp.zoo.upydnet()))


SETS = {
    "none": {},
    "last": {"decoder2.conv2.weight": 1.0, "decoder2.conv2.bias": 1.0},
    "the same": {"decoder2.conv2.bias": 1.0, "decoder2.conv2.weight": 1.0},
}


def test_report(task: DepthTask, weights: dict[str, object]) -> None:
    lines: list[str] = []
    net = sp.zoo.upydnet()
    alone = check(net, weights, SETS, task, seeds=2, epochs=1, progress=lines.append)
    assert alone.after["none"] == (alone.before, alone.before)
    assert alone.after["last"] == alone.after["the same"]
    assert alone.after["last"][0] != alone.before
    assert sum("of 2 runs" in line for line in lines) == 2
    assert set(alone.before) == set(alone.better)
    assert json.loads(json.dumps(alone.to_json()))["after"]["last"]["std"]["d1"] >= 0
    assert "baseline: constant" in alone.text()
    together = check(net, weights, SETS, task, seeds=2, epochs=1, jobs=2)
    assert together == alone


def test_bad_input(task: DepthTask, weights: dict[str, object]) -> None:
    net = sp.zoo.upydnet()
    with pytest.raises(ProblemError, match="seeds=0"):
        check(net, weights, SETS, task, seeds=0)
    with pytest.raises(ProblemError, match="jobs=0"):
        check(net, weights, SETS, task, jobs=0)
    with pytest.raises(ProblemError, match=r"decoder9"):
        check(net, weights, {"wrong": {"decoder9.weight": 1.0}}, task, seeds=1)
    with pytest.raises(DataError):
        check(net, {p: a for p, a in weights.items() if "decoder2" not in p}, SETS, task, seeds=1)
    with pytest.raises(DataError):
        check(sp.zoo.resnet8(), init_parameters(sp.zoo.resnet8(), 0), {"none": {}}, task, seeds=1)
