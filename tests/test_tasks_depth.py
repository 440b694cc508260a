"""Splits, tasks, the depth task and its baselines."""

from __future__ import annotations

import dataclasses
import pickle
from typing import Any

import numpy as np
import pytest

from sparseplan.errors import DataError
from sparseplan.run.trainer import predict, train
from sparseplan.tasks.base import Split, Task
from sparseplan.tasks.depth import FB, LABELS, SETTINGS, DepthTask, depth_task
from sparseplan.tasks.domains import SOURCE
from sparseplan.tasks.metrics import DEPTH_METRICS, depth_metrics
from sparseplan.weights import pretrained
from sparseplan.zoo import upydnet


@pytest.fixture(scope="module")
def task() -> DepthTask:
    return depth_task(3, n_train=24, n_val=4, n_test=12)


def made_split(n: int = 4, **changes: Any) -> Split:
    arrays = {
        "x": np.full((n, 3, 6, 6), 0.5, np.float32),
        "target": np.ones((n, 1, 6, 6), np.float32),
        "truth": np.full((n, 6, 6), 4, np.float32),
        **changes,
    }
    return Split(**arrays)


def test_the_task_has_three_disjoint_splits(task: DepthTask) -> None:
    assert [len(s) for s in (task.train, task.val, task.test)] == [24, 4, 12]
    assert task.name == "depth-target"
    assert task.train.x.shape == (24, 3, 48, 48)
    assert task.train.target.shape == (24, 1, 48, 48)
    assert task.train.truth.shape == (24, 48, 48)
    assert not np.array_equal(task.train.x[:4], task.val.x)
    assert not np.array_equal(task.train.x[:12], task.test.x)


def test_the_task_repeats_with_its_seed(task: DepthTask) -> None:
    again, other = depth_task(3, 2, 1, 1), depth_task(4, 2, 1, 1)
    np.testing.assert_array_equal(again.train.x, task.train.x[:2])
    np.testing.assert_array_equal(again.test.truth, task.test.truth[:1])
    assert not np.array_equal(again.train.x, other.train.x)


def test_labels_are_what_the_sensor_sees(task: DepthTask) -> None:
    target, truth = task.train.target[:, 0], task.train.truth
    zones = target[:, ::6, ::6]
    np.testing.assert_array_equal(target, zones.repeat(6, axis=1).repeat(6, axis=2))
    invalid = np.isnan(zones).mean()
    assert 0.02 < invalid < 0.3
    nearest = truth.reshape(-1, 8, 6, 8, 6).min(axis=(2, 4))
    error = FB / zones / nearest - 1
    assert abs(np.nanmean(error)) < 0.01
    assert 0.02 < np.nanstd(error) < 0.04


def test_other_labels() -> None:
    nearest, bilinear, dense = (depth_task(3, 2, 1, 1, labels=kind) for kind in LABELS)
    np.testing.assert_array_equal(dense.train.target[:, 0], FB / dense.train.truth)
    a, b = nearest.train.target, bilinear.train.target
    np.testing.assert_array_equal(np.isnan(a), np.isnan(b))
    assert not np.array_equal(a, b, equal_nan=True)
    np.testing.assert_array_equal(nearest.train.x, dense.train.x)


def test_metrics_take_disparity(task: DepthTask) -> None:
    perfect = task.metrics(FB / task.test.truth[:, None], task.test)
    assert perfect["d1"] == 1
    assert perfect["abs_rel"] == pytest.approx(0, abs=1e-6)
    far = task.metrics(np.zeros((12, 1, 48, 48), np.float32), task.test)
    assert far == depth_metrics(np.full((12, 48, 48), 10.0), task.test.truth), "no disparity is the farthest depth"
    assert task.better == DEPTH_METRICS
    assert task.score(perfect) == 1
    assert task.score(far, "rmse") == -far["rmse"]
    with pytest.raises(DataError, match="metric='rsme' is unknown to task 'depth-target'; did you mean 'rmse'"):
        task.score(far, "rsme")


def test_metrics_refuse_bad_output(task: DepthTask) -> None:
    with pytest.raises(DataError, match=r"disparity of shape \(12, 48, 48\) must be \(n, 1, 48, 48\)"):
        task.metrics(task.test.truth, task.test)
    with pytest.raises(DataError, match="disparity has NaN or infinite values; did training diverge"):
        task.metrics(np.full((12, 1, 48, 48), np.nan), task.test)
    with pytest.raises(DataError, match=r"must be \(n, h, w\) like the truth's"):
        task.metrics(np.ones((11, 1, 48, 48)), task.test)


def test_the_constant_baseline_is_the_best_one(task: DepthTask) -> None:
    known = dataclasses.replace(task, test=task.train).baselines()["constant"]
    truth = task.train.truth
    tried = [depth_metrics(np.full(truth.shape, c), truth) for c in np.geomspace(0.2, 6, 60)]
    for metric, better in DEPTH_METRICS.items():
        best = (min if better == "lower" else max)(m[metric] for m in tried)
        assert known[metric] == pytest.approx(best, rel=0.03), metric


def test_baselines_find_what_is_linear_in_colour() -> None:
    rng = np.random.default_rng(0)

    def split(n: int) -> Split:
        colour = rng.uniform(0.2, 0.8, (n, 3)).astype(np.float32)
        x = np.broadcast_to(colour[:, :, None, None], (n, 3, 8, 8)).copy()
        slope = np.linspace(0.5, 1.5, 64).reshape(8, 8)
        truth = (1 + colour @ np.array([1, 2, 0.5], np.float32))[:, None, None] * slope
        truth[:, 0, 0] = np.nan
        return Split(x, np.ones((n, 1, 8, 8), np.float32), truth)

    task = DepthTask("made", split(40), split(5), split(20), SETTINGS)
    rows = task.baselines()
    assert list(rows) == ["constant", "colour", "colour map"]
    assert rows["colour map"]["rmse"] < 0.01
    assert rows["colour map"]["d1"] == 1
    assert rows["colour map"]["rmse"] < rows["colour"]["rmse"] < rows["constant"]["rmse"]


def test_baselines_survive_pixels_and_pictures_without_truth(task: DepthTask) -> None:
    truth = task.train.truth.copy()
    truth[:, 5, 7] = np.nan
    truth[2] = np.nan
    holed = dataclasses.replace(task, train=Split(task.train.x, task.train.target, truth))
    for name, row in holed.baselines().items():
        assert all(np.isfinite(v) for v in row.values()), name
        assert row["rmse"] == pytest.approx(task.baselines()[name]["rmse"], rel=0.1)


def test_augmentation_mirrors_labels_with_pictures(task: DepthTask) -> None:
    x, target = task.train.x[:8].copy(), task.train.target[:8].copy()
    seen, labels = task.augment(x, target, np.random.default_rng(0))
    np.testing.assert_array_equal(x, task.train.x[:8])
    assert seen.shape == x.shape
    assert seen.dtype == labels.dtype == np.float32
    assert seen.min() >= 0
    assert seen.max() <= 1
    mirrored = 0
    for i in range(8):
        kept = np.array_equal(labels[i], target[i], equal_nan=True)
        turned = np.array_equal(labels[i], target[i, ..., ::-1], equal_nan=True)
        assert kept != turned
        mirrored += turned
        source = x[i, ..., ::-1] if turned else x[i]
        assert np.corrcoef(source.ravel(), seen[i].ravel())[0, 1] > 0.95
    assert 0 < mirrored < 8


def test_the_task_goes_to_other_processes(task: DepthTask) -> None:
    again = pickle.loads(pickle.dumps(task))
    np.testing.assert_array_equal(again.train.target, task.train.target)
    assert again.settings == task.settings
    assert (again.loss, again.loss_attrs) == (task.loss, task.loss_attrs)


def test_splits_cannot_be_written_to_but_leave_their_arrays_alone() -> None:
    x = np.zeros((1, 2), np.float32)
    split = Split(x, np.zeros((1, 1)), np.zeros((1, 1)))
    with pytest.raises(ValueError, match="read-only"):
        split.x[0, 0] = 1
    x[0, 0] = 1
    assert Split(x, np.array([[3]]), np.array([[3]])).target.dtype.kind == "i", "classes stay integers"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": np.zeros((0, 3, 6, 6))}, r"x of shape \(0, 3, 6, 6\) holds no samples"),
        ({"target": np.ones((3, 1, 6, 6))}, "target has 3 samples where x has 4"),
        ({"x": np.full((4, 3, 6, 6), np.nan)}, r"x\[0\] holds NaN or infinite values; replace or drop it"),
        ({"x": np.where(np.arange(4).reshape(4, 1, 1, 1) == 2, np.inf, np.ones((4, 3, 6, 6)))}, r"x\[2\] holds"),
        ({"target": np.full((4, 1, 6, 6), np.inf)}, r"target\[0\] holds NaN or infinite values; mark .* by NaN"),
        ({"target": np.full((4, 1, 6, 6), np.nan)}, "target is NaN throughout: all 4 samples are without"),
        ({"truth": np.full((4, 6, 6), np.nan)}, "truth is NaN throughout"),
        ({"x": np.full((4, 3, 6, 6), "a")}, "x has dtype=<U1; give floats"),
    ],
)
def test_bad_splits(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        made_split(**changes)


def test_bad_tasks() -> None:
    good = made_split()
    small = Split(np.ones((1, 3, 4, 4)), np.ones((1, 1, 4, 4)), np.ones((1, 4, 4)))
    with pytest.raises(DataError, match=r"task 'd': x has samples of shape \(3, 6, 6\) and of shape \(3, 4, 4\)"):
        DepthTask("d", good, small, good, SETTINGS)
    with pytest.raises(DataError, match="fb=-1 must be finite and positive"):
        DepthTask("d", good, good, good, SETTINGS, fb=-1)
    with pytest.raises(DataError, match=r"low=5\.0, high=1.0 must be 0 < low < high"):
        DepthTask("d", good, good, good, SETTINGS, low=5.0, high=1.0)
    flat = Split(np.ones((1, 3, 4, 4)), np.ones((1, 4, 4)), np.ones((1, 4, 4)))
    with pytest.raises(DataError, match=r"must be \(n, 3, h, w\), \(n, 1, h, w\), \(n, h, w\)"):
        DepthTask("d", flat, flat, flat, SETTINGS)


def test_bad_requests() -> None:
    with pytest.raises(DataError, match="labels='tof-nearset' is unknown; did you mean 'tof-nearest'"):
        depth_task(labels="tof-nearset")
    with pytest.raises(DataError, match="n_val=0 must be an integer of at least 1"):
        depth_task(n_val=0)
    with pytest.raises(DataError, match="seed=-1 must be an integer of at least 0"):
        depth_task(-1, 1, 1, 1)


def test_progress_covers_all_splits() -> None:
    seen: list[tuple[int, int]] = []
    depth_task(0, 2, 1, 1, progress=lambda done, n: seen.append((done, n)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_task_needs_its_metrics() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Task("t", made_split(), made_split(), made_split(), SETTINGS)  # type: ignore[abstract]


def test_adapting_helps() -> None:
    """A glimpse of what benchmarks/depth_adaptation.py measures: three epochs on 96 pictures."""
    task = depth_task(0, n_train=96, n_val=1, n_test=48)
    network = upydnet()
    start = pretrained(network)
    before = task.metrics(predict(network, start, task.test.x), task.test)
    settings = dataclasses.replace(task.settings, epochs=3)
    x, target = task.train.x, task.train.target
    after = {}
    for prefix in ("decoder2.conv2", ""):
        update = {p: 1.0 for p in network.parameters if p.startswith(prefix)}
        result = train(network, start, update, x, target, settings, augment=task.augment)
        after[prefix] = task.metrics(predict(network, result.parameters, task.test.x), task.test)
    assert after[""]["abs_rel"] < 0.5 * before["abs_rel"]
    assert after[""]["d1"] > before["d1"] + 0.2
    assert after[""]["d1"] > after["decoder2.conv2"]["d1"] + 0.05, "the last layer alone does less"


def test_the_pretrained_network_knows_its_source() -> None:
    network = upydnet()
    weights = pretrained(network)
    assert sum(a.size for a in weights.values()) == 107_625
    task = depth_task(0, n_train=64, n_val=1, n_test=48, domain=SOURCE, labels="dense")
    ours = task.metrics(predict(network, weights, task.test.x), task.test)
    for name, row in task.baselines().items():
        assert ours["d1"] > row["d1"] + 0.15, name
        assert ours["abs_rel"] < 0.8 * row["abs_rel"], name
