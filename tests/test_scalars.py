"""NumPy's scalars are numbers wherever the Python interface takes numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import sparseplan as sp
from sparseplan.baselines import baselines
from sparseplan.builder import NetworkBuilder, init_parameters
from sparseplan.costs import plan_costs
from sparseplan.device import Level
from sparseplan.exporters import c
from sparseplan.planfile import plan_to_dict
from sparseplan.run import adapt, plan_settings
from sparseplan.run.optimizers import Optimizer
from sparseplan.run.schedules import LrSchedule
from sparseplan.run.settings import EarlyStopping, TrainSettings
from sparseplan.scalars import plain
from sparseplan.steps import UpdateSet
from sparseplan.tasks import digits_task
from sparseplan.terms import Pair

I = (np.int16, np.int64, np.uint32)  # noqa: E741
F = (np.float32, np.float64, np.float16)


def _network(n: Any = 2) -> Any:
    net = NetworkBuilder("small")
    x = net.conv(net.input("x", (n, 4, 4)), n, 3, n - 1, n - 1, name="a")
    return net.build(net.conv(x, 4, 3, 1, 1, name="b"))


@pytest.mark.parametrize("number", F)
def test_a_plan_from_numpy_numbers_is_the_same_and_can_be_written(number: Any) -> None:
    net = _network()

    def problem(f: Callable[[float], Any], i: Callable[[int], Any]) -> Any:
        return sp.problem(
            net, l2=i(20_000), l1=i(8192), batch=i(2), alignment=i(8), values={p: f(0.5) for p in net.parameters},
            fractions=(f(0.5), f(1.0)), max_macs=i(10**6), int8_price=f(0.25),
            terms=[Pair({"a.weight": f(1.0)}, {"b.weight": f(0.5)}, f(2.0))], loss="huber",
            loss_attrs={"delta": f(0.5)},
        )  # fmt: skip

    plain_ = problem(float, int)
    for whole in (np.int32, np.int64):
        made = problem(number, whole)
        assert made == plain_
        plan, other = sp.plan(made, time_limit=number(60), seed=whole(3)), sp.plan(plain_, time_limit=60, seed=3)
        data, expected = plan_to_dict(plan), plan_to_dict(other)
        assert json.dumps({**data, "solve_seconds": 0}) == json.dumps({**expected, "solve_seconds": 0})
    table = {number(0.5): number(1), number(1): number(2)}
    given = sp.problem(
        net, l2=20_000, values=dict.fromkeys(net.parameters, table), fractions=np.array([0.5, 1], number)
    )
    assert given.values["a.weight"] == {0.5: 1.0, 1.0: 2.0}
    assert {type(v) for t in given.values.values() for pair in t.items() for v in pair} == {float}


@pytest.mark.parametrize("whole", I)
def test_networks_devices_settings_and_the_rest(whole: Any) -> None:
    assert _network(whole(2)) == _network(2)
    assert json.dumps(sp.importers.spec.to_dict(_network(whole(2))))
    assert Level("L2", whole(1000), whole(0), whole(4)) == Level("L2", 1000, 0, 4)
    assert UpdateSet({"a.weight": np.float32(0.5)}) == UpdateSet({"a.weight": 0.5})
    assert LrSchedule("cosine", np.float32(0.5)) == LrSchedule("cosine", 0.5)
    assert EarlyStopping(whole(3), np.float64(0.1)) == EarlyStopping(3, 0.1)
    settings = TrainSettings(lr=np.float32(0.5), epochs=whole(2), batch=whole(4), seed=whole(1), accumulate=whole(2),
                             betas=(np.float32(0.5), np.float32(0.75)),
                             lr_drop=((np.float64(0.5), np.float32(0.5)),))  # fmt: skip
    assert settings == TrainSettings(lr=0.5, epochs=2, batch=4, seed=1, accumulate=2, betas=(0.5, 0.75),
                                     lr_drop=((0.5, 0.5),))  # fmt: skip
    assert Optimizer("sgd", lr=np.float32(0.5)) == Optimizer("sgd", lr=0.5)


def test_calls_that_run(tmp_path: Any) -> None:
    net = _network()
    plan = sp.plan(net, l2="20kB", dtype="fp32")
    weights = init_parameters(net, np.int64(1))
    one = sp.run(plan, weights, seed=np.int64(1), samples=np.int16(2))
    assert one.losses == sp.run(plan, weights, seed=1, samples=2).losses
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(6, 2, 4, 4)).astype(np.float32), rng.normal(size=(6, 4, 4, 4)).astype(np.float32)
    settings = plan_settings(plan, epochs=np.int64(2), lr=np.float32(0.5))
    found = adapt(plan, weights, x, y, settings, check_every=np.int8(2), guard_bytes=np.int64(16))
    assert found.result.epochs == 2
    front = sp.pareto(sp.problem(net, l2="20kB"), points=np.int64(3), jobs=np.int64(1), seed=np.int32(0))
    assert front.points
    assert front.thin(np.int64(2)).points
    assert baselines(front.problem, "l2", random_budgets=[np.int64(20_000)], random_sets=np.int64(1)) is not None
    plan_costs(plan).for_training(np.int64(100), np.int64(2)) if plan_costs(plan).cycles else None
    task = digits_task(seed=np.int64(1), n_train=np.int64(10), n_val=np.int64(5), n_test=np.int64(5))
    assert len(task.samples(np.int64(4), np.int64(0))) == 4
    sampled = sp.pareto(sp.problem(net, l2="20kB"), budgets=np.array([5000, 20_000]))
    assert len(sampled.points) <= 2

    c.export(plan, weights, tmp_path, lr=np.float32(0.5))


@pytest.mark.parametrize("kind", [Fraction, Decimal])
def test_fractions_and_decimals_are_numbers_too(kind: Callable[[str], Any]) -> None:
    net = _network()
    whole = sp.problem(net, l2=kind("20000"), values=dict.fromkeys(net.parameters, kind("0.5")), batch=kind("1"))
    assert whole == sp.problem(net, l2=20_000, values=dict.fromkeys(net.parameters, 0.5), batch=1)
    assert {type(plain(kind(t))) for t in ("3", "0.5")} == {int, float}
    assert plain(Decimal("Infinity")) == np.inf
    assert plain(-(Fraction(10) ** 400) / 3) == -np.inf
    assert np.isnan(plain(Decimal("NaN")))
    with pytest.raises(sp.SparseplanError, match="must be a finite number"):
        sp.problem(net, l2=20_000, values=dict.fromkeys(net.parameters, Decimal("sNaN")))


def test_what_is_no_number_stays_none() -> None:
    for wrong in (np.bool_(True), np.str_("1"), np.array([1.0, 2.0]), np.float32("nan"), None, "1"):
        with pytest.raises(sp.SparseplanError):
            sp.problem(_network(), l2="20kB", values={"*": wrong})
    for wrong in (np.float32(2.5), np.bool_(True), np.int64(0)):
        with pytest.raises(sp.SparseplanError):
            sp.problem(_network(), l2="20kB", batch=wrong)


def test_arrays_and_plain_data_are_left_as_they_are() -> None:
    data = {"a": np.zeros(3), "b": [1, (2.0, "x")], "c": np.array(1.0)}
    assert plain(data) is data
    made = plain({"a": data["a"], "b": (np.int8(3), [np.float32(0.5)]), np.int64(7): np.bool_(False)})
    assert made == {"a": data["a"], "b": (3, [0.5]), 7: False} or made["a"] is data["a"]
    assert [type(v) for v in (made["b"][0], made["b"][1][0], made[7])] == [int, float, bool]
