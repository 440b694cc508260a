"""Losses: values by hand, gradients by finite differences, masks, wrong targets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sparseplan.errors import DataError, OpError
from sparseplan.ops import LOSSES, loss_def

DENSE = ["l1", "mse", "huber", "berhu"]


def test_values_by_hand() -> None:
    output = np.array([[1.0, 2.0], [3.0, 9.0]])
    target = np.array([[0.5, 2.0], [1.0, np.nan]])  # residuals 0.5, 0, 2
    expected = {
        "l1": 2.5 / 3,
        "mse": 4.25 / 3,
        "huber": (0.125 + 0 + 1.5) / 3,
        "berhu": ((0.25 + 0.16) / 0.8 + 0 + (4 + 0.16) / 0.8) / 3,  # bend at 0.2 * 2
    }
    for kind, value in expected.items():
        assert loss_def(kind).value_and_grad(output, target, {})[0] == pytest.approx(value), kind


@pytest.mark.parametrize("kind", DENSE)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nothing_valid_is_nothing_lost(kind: str, dtype: str) -> None:
    output = np.ones((2, 1, 3, 3), dtype)
    value, grad = loss_def(kind).value_and_grad(output, np.full_like(output, np.nan), {})
    assert value == 0
    assert grad.dtype == dtype
    np.testing.assert_array_equal(grad, 0)
    value, grad = loss_def(kind).value_and_grad(output, output.copy(), {})
    assert value == 0
    np.testing.assert_array_equal(grad, 0)


@pytest.mark.parametrize(
    ("kind", "attrs"),
    [("l1", {}), ("mse", {}), ("huber", {}), ("huber", {"delta": 0.3}), ("berhu", {"fraction": 0.4}), ("berhu", {})],
)
def test_gradients_are_finite_differences(kind: str, attrs: dict[str, Any], rng: np.random.Generator) -> None:
    output = rng.standard_normal((2, 1, 3, 4))
    target = rng.standard_normal(output.shape)
    target[0, 0, 0] = np.nan
    # the bend of berhu depends on the largest residual, which the gradient takes as a constant
    target[1, 0, 2, 3] = output[1, 0, 2, 3] + 5
    loss = loss_def(kind)
    _, grad = loss.value_and_grad(output, target, attrs)
    for at in np.ndindex(output.shape):
        if at == (1, 0, 2, 3) and kind == "berhu":
            continue
        high, low = output.copy(), output.copy()
        high[at] += 1e-6
        low[at] -= 1e-6
        slope = (loss.value_and_grad(high, target, attrs)[0] - loss.value_and_grad(low, target, attrs)[0]) / 2e-6
        assert grad[at] == pytest.approx(slope, abs=1e-6)
    assert grad[0, 0, 0].tolist() == [0] * 4


def test_cross_entropy(rng: np.random.Generator) -> None:
    loss = loss_def("cross_entropy")
    assert loss.target((5,)) == ((1,), "i32")
    output = rng.standard_normal((3, 5)) * 4
    target = np.array([[0], [4], [2]], np.int32)
    value, grad = loss.value_and_grad(output, target, {})
    chance = np.exp(output) / np.exp(output).sum(axis=1, keepdims=True)
    assert value == pytest.approx(-np.log(chance[[0, 1, 2], [0, 4, 2]]).mean())
    for at in np.ndindex(output.shape):
        high, low = output.copy(), output.copy()
        high[at] += 1e-6
        low[at] -= 1e-6
        slope = (loss.value_and_grad(high, target, {})[0] - loss.value_and_grad(low, target, {})[0]) / 2e-6
        assert grad[at] == pytest.approx(slope, abs=1e-6)
    huge, grad = loss.value_and_grad(np.array([[1e4, 0.0]]), np.array([[1]]), {})
    assert huge == pytest.approx(1e4)
    assert np.isfinite(grad).all()


@pytest.mark.parametrize("label", [-1, 5, 1.5])
def test_labels_must_be_classes(label: float) -> None:
    with pytest.raises(DataError, match=rf"label={label} is not a class in 0 … 4"):
        loss_def("cross_entropy").value_and_grad(np.zeros((1, 5)), np.array([[label]]), {})


def test_wrong_shapes_and_attributes() -> None:
    with pytest.raises(OpError, match=r"takes an output of shape \(classes,\), not \(2, 3\); flatten it"):
        loss_def("cross_entropy").target((2, 3))
    with pytest.raises(DataError, match=r"target has shape \(3,\), expected \(3, 1\)"):
        loss_def("cross_entropy").value_and_grad(np.zeros((3, 5)), np.zeros(3), {})
    with pytest.raises(DataError, match=r"loss l1: target has shape \(2,\), output \(2, 1\)"):
        loss_def("l1").value_and_grad(np.zeros((2, 1)), np.zeros(2), {})
    with pytest.raises(OpError, match=r"delta=0 must be above 0"):
        loss_def("huber").value_and_grad(np.zeros(2), np.zeros(2), {"delta": 0})
    with pytest.raises(OpError, match=r"fraction=-1 must be above 0"):
        loss_def("berhu").value_and_grad(np.zeros(2), np.zeros(2), {"fraction": -1})
    with pytest.raises(OpError, match=r"attribute 'delt' is unknown to loss huber; did you mean 'delta'"):
        loss_def("huber").value_and_grad(np.zeros(2), np.zeros(2), {"delt": 1})
    with pytest.raises(OpError, match=r"loss 'hubber' is unknown; did you mean 'huber'"):
        loss_def("hubber")


@pytest.mark.parametrize("kind", sorted(LOSSES))
def test_arguments_are_not_written(kind: str, rng: np.random.Generator) -> None:
    loss = loss_def(kind)
    output = rng.standard_normal((2, 4)).astype(np.float32)
    target = rng.integers(0, 4, (2, 1)) if kind == "cross_entropy" else rng.standard_normal((2, 4))
    output.flags.writeable = target.flags.writeable = False
    _, grad = loss.value_and_grad(output, target, {})
    assert grad.dtype == np.float32
