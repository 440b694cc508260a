"""The value of an update by squared gradient norm."""

from __future__ import annotations

import numpy as np
import pytest

from sparseplan.builder import init_parameters
from sparseplan.errors import DataError, ProblemError
from sparseplan.problem import resolve_choices
from sparseplan.run import TrainSettings, gradients, train
from sparseplan.run.runner import random_data
from sparseplan.run.samples import Samples
from sparseplan.value import squared_gradient_norm
from sparseplan.zoo import upydnet

NET = upydnet()
CHOICES, _ = resolve_choices(NET)


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_values_are_means_of_squared_gradients_of_what_is_updated(batch: int) -> None:
    params = init_parameters(NET)
    x, target = random_data(NET, "l1", 3, 0)
    values = squared_gradient_norm(NET, params, Samples(x["image"], target), CHOICES, batch=batch)
    assert {p: tuple(v) for p, v in values.items()} == CHOICES
    batches = [slice(i, i + batch) for i in range(0, 3, batch)]
    for fraction in (0.25, 1.0):
        name = "decoder1.conv0.weight"
        expected = []
        for part in batches:
            _, g = gradients(NET, params, x["image"][part], target[part], update={name: fraction})
            expected.append(float((g[name].astype(np.float64) ** 2).sum()))
        assert values[name][fraction] == pytest.approx(np.mean(expected), rel=1e-4)


def test_more_is_worth_no_less() -> None:
    x, target = random_data(NET, "l1", 1, 1)
    for by in squared_gradient_norm(NET, init_parameters(NET), Samples(x["image"], target), CHOICES).values():
        assert list(by.values()) == sorted(by.values())


def test_a_value_is_the_first_order_decrease_of_the_loss() -> None:
    params = init_parameters(NET, 1)
    params["decoder2.conv2.bias"][:] = 1  # the last ReLU passes
    x, target = random_data(NET, "mse", 2, 1)
    name, lr = "decoder2.conv2.weight", 1e-2
    data = Samples(x["image"], target, "mse")
    value = squared_gradient_norm(NET, params, data, {name: (1.0,)}, batch=2)[name][1.0]
    settings = TrainSettings("mse", optimizer="sgd", lr=lr, batch=2)
    after = train(NET, params, {name: 1.0}, x, target, settings).parameters
    losses = [gradients(NET, p, x, target, "mse", update={})[0] for p in (params, after)]
    assert losses[0] - losses[1] == pytest.approx(lr * value, rel=0.05)


def test_bad_choices_are_refused() -> None:
    x, target = random_data(NET, "l1", 1, 0)
    data = Samples(x["image"], target)
    with pytest.raises(ProblemError, match=r"did you mean 'decoder0\.conv0\.bias'"):
        squared_gradient_norm(NET, init_parameters(NET), data, {"decoder0.conv0.bais": (1.0,)})
    with pytest.raises(ProblemError, match=r"fraction of 'decoder0\.conv0\.bias'=0\.5 cannot be updated"):
        squared_gradient_norm(NET, init_parameters(NET), data, {"decoder0.conv0.bias": (0.5,)})
    with pytest.raises(ProblemError, match="batch=0"):
        squared_gradient_norm(NET, init_parameters(NET), data, {}, batch=0)
    with pytest.raises(DataError, match="data=None, but this measure differentiates a loss; give Samples"):
        squared_gradient_norm(NET, init_parameters(NET), None, {})
