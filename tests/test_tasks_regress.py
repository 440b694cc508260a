"""Regression from an npz: inputs and targets of any shape, auto-encoders, metrics and baselines without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparseplan.builder import NetworkBuilder
from sparseplan.cli import main
from sparseplan.errors import DataError
from sparseplan.importers.spec import write_spec
from sparseplan.tasks import get_task
from sparseplan.tasks import linear as linear_module
from sparseplan.tasks.base import Split
from sparseplan.tasks.linear import Ridge
from sparseplan.tasks.regress import SETTINGS, RegressionTask, _nearest, regression_metrics

PARTS = ("train", "val", "test")


def _write(path: Path, x: tuple[int, ...], y: tuple[int, ...] | None, n: int = 12, **more: Any) -> Path:
    rng = np.random.default_rng(0)
    data: dict[str, Any] = {"kind": "regress"}
    for part in PARTS:
        data[f"{part}_x"] = rng.normal(size=(n, *x))
        if y is not None:
            data[f"{part}_target"] = rng.normal(size=(n, *y))
    np.savez(path, **{**data, **more})
    return path


@given(st.integers(1, 4), st.lists(st.integers(1, 3), max_size=3), st.floats(0, 0.5), st.integers(0, 2**32 - 1))
def test_metrics_by_the_definition(n: int, shape: list[int], lost: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    p, t = rng.normal(size=(2, n, *shape))
    t = np.where(rng.random(t.shape) < lost, np.nan, t)
    if np.isnan(t).all():
        with pytest.raises(DataError, match="is known"):
            regression_metrics(p, t)
        return
    found = regression_metrics(p, t)
    pairs, spreads = [], []
    for place in np.ndindex(*shape):
        column = [(float(a), float(b)) for a, b in zip(p[(slice(None), *place)], t[(slice(None), *place)], strict=True)
                  if not np.isnan(b)]  # fmt: skip
        pairs += column
        mean = sum(b for _, b in column) / max(len(column), 1)
        spreads += [(b - mean) ** 2 for _, b in column]
    wrong = sum((a - b) ** 2 for a, b in pairs)
    assert found["mse"] == pytest.approx(wrong / len(pairs))
    assert found["mae"] == pytest.approx(sum(abs(a - b) for a, b in pairs) / len(pairs))
    if sum(spreads) > 1e-9:
        assert found["r2"] == pytest.approx(1 - wrong / sum(spreads))


def test_r2_agrees_with_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    p, t = rng.normal(size=(2, 30, 4))
    assert regression_metrics(p, t)["r2"] == pytest.approx(metrics.r2_score(t, p, multioutput="variance_weighted"))
    assert regression_metrics(t, t) == {"mse": 0, "mae": 0, "r2": 1}
    assert regression_metrics(np.ones((3, 1)), np.zeros((3, 1)))["r2"] == 0


@pytest.mark.parametrize("shape", [(40, 3), (5, 30)])
def test_ridge_is_the_least_of_its_objective_in_either_form(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=shape) + 3, rng.normal(size=(shape[0], 2))
    fit = Ridge(x, y, 0.1)
    centred = x - x.mean(axis=0)
    weight = 0.1 * (centred**2).sum() / shape[1]
    # least squares of the stacked system: rows of data above rows of the ridge
    above = np.vstack([centred, np.sqrt(weight) * np.eye(shape[1])])
    slope = np.linalg.lstsq(above, np.vstack([y - y.mean(axis=0), np.zeros((shape[1], 2))]), rcond=None)[0]
    asked = rng.normal(size=(7, shape[1]))
    np.testing.assert_allclose(fit(asked), (asked - x.mean(axis=0)) @ slope + y.mean(axis=0), atol=1e-9)


def test_large_inputs_are_fitted_on_some_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_module, "MOST_SAMPLES", 10)
    rng = np.random.default_rng(2)
    x = rng.normal(size=(50, 30))
    fit = Ridge(x, x @ rng.normal(size=(30, 1)), 1e-3)
    assert fit._slope.shape == (10, 1)
    assert np.isfinite(fit(x)).all()


def test_nearest_by_brute_force(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparseplan.tasks.regress._AT_ONCE", 40)
    rng = np.random.default_rng(3)
    known, asked = rng.normal(size=(17, 2, 3)) + 100, rng.normal(size=(23, 2, 3)) + 100
    expected = [min(range(17), key=lambda i: float(((known[i] - a) ** 2).sum())) for a in asked]
    assert _nearest(known, asked).tolist() == expected


@pytest.mark.parametrize(("x", "y"), [((5,), (3,)), ((2, 4, 4), (1, 4, 4)), ((), ()), ((6,), None), ((1, 3, 3), None)])
def test_any_shape_is_read(tmp_path: Path, x: tuple[int, ...], y: tuple[int, ...] | None) -> None:
    task = get_task(_write(tmp_path / "own.npz", x, y, loss="l1", epochs=3, name="mine"))
    assert isinstance(task, RegressionTask)
    assert (task.name, task.loss, task.settings.epochs, task.headline) == ("mine", "l1", 3, "mse")
    target = task.train.x.shape if y is None else (12, *(y or (1,)))
    assert task.train.target.shape == task.train.truth.shape == target
    assert task.own_target == (y is None)
    rows = task.baselines()
    assert {"mean", "median", "nearest"} <= set(rows)
    assert ("linear" in rows) == (y is not None)
    assert rows["mean"]["r2"] <= 1e-9  # the mean of other samples is no better than their own


def test_baselines_by_hand() -> None:
    def split(x: list[list[float]], y: list[list[float]]) -> Split:
        return Split(np.array(x), np.array(y, np.float32), np.array(y, np.float32))

    train = split([[0, 0], [1, 0], [5, 5]], [[0, 1], [np.nan, 2], [6, 9]])
    val, test = split([[1, 1]], [[2, 3]]), split([[0.9, 0], [4, 5]], [[1, 2], [5, np.nan]])
    rows = RegressionTask("t", train, val, test, SETTINGS).baselines()
    mean = np.array([[3.0, 4.0]] * 2)
    assert rows["mean"] == regression_metrics(mean, test.truth)
    assert rows["median"] == regression_metrics(np.array([[3.0, 2.0]] * 2), test.truth)
    assert rows["nearest"] == regression_metrics(np.array([[3.0, 2.0], [6.0, 9.0]]), test.truth)
    assert rows["input"] == regression_metrics(test.x, test.truth)


def test_a_linear_relation_is_found() -> None:
    rng = np.random.default_rng(4)
    slope = rng.normal(size=(4, 2))

    def split() -> Split:
        x = rng.normal(size=(50, 4))
        y = (x @ slope).astype(np.float32)
        return Split(x, y, y)

    rows = RegressionTask("t", split(), split(), split(), SETTINGS).baselines()
    assert rows["linear"]["r2"] > 0.999 > 0.9 > rows["mean"]["r2"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"val_target": np.zeros((12, 4))}, "target has samples of shape"),
        ({"train_target": np.array(["a"] * 12)}, "train_target has dtype=<U1"),
        ({"train_target": np.zeros((11, 3))}, "target has 11 samples where x has 12"),
        ({"train_target": np.full((12, 3), np.inf)}, "infinite"),
        ({"loss": "cross_entropy"}, "loss='cross_entropy' takes classes"),
        ({"kind": "regres"}, "did you mean 'regress'"),
        ({"train_x": np.full((12, 5), np.nan)}, "NaN"),
    ],
)
def test_malformed(tmp_path: Path, more: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        get_task(_write(tmp_path / "own.npz", (5,), (3,), **more))


def test_one_target_missing_is_no_auto_encoder(tmp_path: Path) -> None:
    path = _write(tmp_path / "own.npz", (5,), None, val_target=np.zeros((12, 5)))
    with pytest.raises(DataError, match="'train_target' is missing"):
        get_task(path)


def test_a_network_of_another_shape_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"predictions have shape \(12, 4\), the targets \(12, 3\)"):
        get_task(_write(tmp_path / "own.npz", (5,), (3,))).metrics(
            np.zeros((12, 4)), get_task(tmp_path / "own.npz").test
        )


def test_an_auto_encoder_from_plan_to_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    net = NetworkBuilder("auto")
    x = net.linear(net.input("x", (6,)), 3, name="in")
    write_spec(net.build(net.linear(x, 6, name="out")), "net.json")
    _write(tmp_path / "own.npz", (6,), None, n=40)
    assert main(["plan", "net.json", "--l2", "10kB", "--dtype", "fp32", "--task", "own.npz", "-o", "p.json"]) == 0
    argv = [
        "check",
        "p.json",
        "--task",
        "own.npz",
        "--weights",
        "random",
        "--seeds",
        "1",
        "--jobs",
        "1",
        "--lr",
        "0.02",
    ]
    capsys.readouterr()
    for arena in ([], ["--arena", "--lr", "0.02", "--epochs", "20"]):
        assert main([*argv, *arena]) == 0
        text = capsys.readouterr().out
        rows = {line.split("  ")[0].strip(): line.split("  ") for line in text.splitlines() if "  " in line}
        before, after = (float(next(c for c in rows[k][1:] if c.strip()).split("±")[0]) for k in
                         ("before", "planned (1 seeds)"))  # fmt: skip
        assert after < 0.9 * before
        assert "baseline: nearest" in text


def test_classes_and_numbers_of_looked_up_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    net = NetworkBuilder("words")
    x = net.op("embedding", net.input("ids", (4,), "i32"), "table", num=10, dim=3)
    write_spec(net.build(net.linear(net.op("flatten", x, "f"), 2, name="fc")), "net.json")
    rng = np.random.default_rng(5)
    ids = {f"{part}_x": rng.integers(0, 10, (9, 4)) for part in PARTS}
    np.savez("classes.npz", kind="classify", **ids, **{f"{part}_target": rng.integers(0, 2, 9) for part in PARTS})
    np.savez("numbers.npz", kind="regress", **ids, **{f"{part}_target": rng.normal(size=(9, 2)) for part in PARTS})
    for own in ("classes.npz", "numbers.npz"):
        assert main(["plan", "net.json", "--l2", "10kB", "--task", own, "-o", "p.json"]) == 0
        assert main(["check", "p.json", "--task", own, "--weights", "random", "--seeds", "1", "--epochs", "1"]) == 0
