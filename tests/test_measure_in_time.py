"""Measuring units by training within a limit: what tells most is trained first, and nothing is begun too late."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from planted import small_u

from sparseplan import measuring
from sparseplan.builder import init_parameters
from sparseplan.errors import ProblemError
from sparseplan.measuring import measure_units, measured_values
from sparseplan.problem import resolve_choices
from sparseplan.solve import clock
from sparseplan.tasks import get_task
from sparseplan.tasks.base import Split
from sparseplan.tasks.regress import SETTINGS, RegressionTask
from sparseplan.value.contribution import BASE
from sparseplan.value.units import units_of

SECONDS = 3.0


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of sets in the order of their trainings, each of which takes three seconds on a clock of ours."""
    order: list[str] = []

    def train(_net: Any, _params: Any, sets: Mapping[str, Mapping[str, float]], task: Any, **_: Any) -> Any:
        order.extend(sets)
        return {name: ({"val": {task.headline: 0.1 * len(update)}},) for name, update in sets.items()}

    monkeypatch.setattr(measuring, "train_sets", train)
    monkeypatch.setattr(clock, "now", lambda: SECONDS * len(order))
    return order


def measured(limit: float | None) -> Any:
    network = small_u()
    return measure_units(network, init_parameters(network), get_task("digits"), units_of(network, "layer"),
                         time_limit=limit)  # fmt: skip


def test_the_whole_is_trained_before_each_alone(trained: list[str]) -> None:
    names = [unit.name for unit in units_of(small_u(), "layer")]
    found = measured(4 * SECONDS)
    assert trained == [BASE, "+".join(names), *names[:2]]
    assert set(found.scores) == set(trained)
    choices, _ = resolve_choices(small_u(), (), (), (), (1.0,))
    table = measured_values(small_u(), found, units_of(small_u(), "layer"), choices)
    assert set(table.values) == set(choices)  # the whole tells something of each


def test_without_a_limit_all_are_trained(trained: list[str]) -> None:
    assert len(measured(None).sets) == len(trained) == len(units_of(small_u(), "layer")) + 2


def test_no_time_for_anything(trained: list[str]) -> None:
    with pytest.raises(ProblemError, match="time_limit=1: no set of units was trained in that time; give more"):
        measured(1)
    assert trained == [BASE]


def test_a_training_under_way_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the first update; what was trained before it stays."""
    network, done = small_u(), []
    inner = measuring.train_sets

    def train(*args: Any, **named: Any) -> Any:
        done.append(list(args[2]))
        return inner(*args, **{**named, "until": 0.0 if len(done) == 3 else None})

    monkeypatch.setattr(measuring, "train_sets", train)
    rng = np.random.default_rng(0)

    def split() -> Split:
        x = rng.normal(size=(8, 2, 6, 6)).astype(np.float32)
        y = x.mean(1, keepdims=True)
        return Split(x, y, y)

    task = RegressionTask("t", split(), split(), split(), replace(SETTINGS, epochs=2, batch=4))
    found = measure_units(network, init_parameters(network), task, units_of(network, "layer"), time_limit=1000.0)
    assert len(done) == 3
    assert list(found.scores) == [name for names in done[:2] for name in names]
