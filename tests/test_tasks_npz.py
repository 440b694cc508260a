"""Tasks from npz files: captures with sensor readings, and data of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparseplan.errors import DataError
from sparseplan.tasks import TASKS, get_task, load_task
from sparseplan.tasks.classify import ClassificationTask
from sparseplan.tasks.real import RealDepthTask, nearest_zones


def captures(seed: int = 0, **changes: Any) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    depth = rng.uniform(0.5, 3.9, (6, 8, 8)).astype(np.float32)
    depth[rng.uniform(size=depth.shape) < 0.2] = -9.999
    depth[0, 0, 0], depth[0, 0, 1], depth[0, 0, 2], depth[0, 0, 3] = 4.0, np.nan, 0, np.inf
    arrays = {
        "image": rng.integers(0, 256, (6, 48, 48, 3), dtype=np.uint8),
        "depth": depth,
        "fb": np.full(6, 80.0, np.float32),
        "split": np.array([0, 0, 0, 1, 2, 2], np.uint8),
        "capture_id": np.arange(6),
    }
    return {k: v for k, v in {**arrays, **changes}.items() if v is not None}


def own(kind: str = "depth", /, **changes: Any) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    arrays: dict[str, Any] = {"kind": kind}
    for part, n in (("train", 4), ("val", 2), ("test", 3)):
        arrays[f"{part}_x"] = rng.uniform(size=(n, 3, 6, 6)).astype(np.float32)
        dense = rng.uniform(1, 4, (n, 6, 6)).astype(np.float32)
        arrays[f"{part}_target"] = dense if kind == "depth" else np.arange(n) % 3
    if kind == "depth":
        arrays["fb"] = 4.0
    return {k: v for k, v in {**arrays, **changes}.items() if v is not None}


def saved(folder: Path, arrays: dict[str, Any]) -> Path:
    path = folder / "data.npz"
    np.savez(path, **arrays)
    return path


def test_captures(tmp_path: Path) -> None:
    arrays = captures()
    task = get_task(str(saved(tmp_path, arrays)))
    assert isinstance(task, RealDepthTask)
    assert (task.name, task.fb, task.low, task.high) == ("data", 80.0, 0.1, 10.0)
    assert [len(s) for s in (task.train, task.val, task.test)] == [3, 1, 2]
    np.testing.assert_allclose(task.test.x[1], arrays["image"][5].transpose(2, 0, 1) / 255, rtol=1e-6)
    for i, n in ((0, 0), (2, 2)):
        for r in range(48):
            for c in range(48):
                d = arrays["depth"][n, r // 6, c // 6]
                truth, label = task.train.truth[i, r, c], task.train.target[i, 0, r, c]
                if 0 < d < 4:
                    assert truth == d
                    assert label == pytest.approx(80 / d, rel=1e-6)
                else:
                    assert np.isnan(truth)
                    assert np.isnan(label)


def test_captures_bilinear(tmp_path: Path) -> None:
    path = saved(tmp_path, captures())
    nearest, bilinear = load_task(path), get_task(f"{path}?labels=tof-bilinear")
    np.testing.assert_array_equal(np.isnan(nearest.train.target), np.isnan(bilinear.train.target))
    np.testing.assert_array_equal(nearest.train.truth, bilinear.train.truth)
    assert np.nanmax(bilinear.train.target) <= 80 / 0.5
    assert not np.array_equal(nearest.train.target, bilinear.train.target, equal_nan=True)


def test_one_fb_for_all(tmp_path: Path) -> None:
    task = load_task(saved(tmp_path, captures(fb=np.array([70.0, 80, 80, 80, 90, 80]))))
    assert isinstance(task, RealDepthTask)
    assert task.fb == 80
    np.testing.assert_allclose(task.train.target[:, 0], 80 / task.train.truth, rtol=1e-6)
    assert load_task(saved(tmp_path, captures(fb=np.array(60.0)))).fb == 60  # type: ignore[attr-defined]


def test_the_median_baseline(tmp_path: Path) -> None:
    task = load_task(saved(tmp_path, captures()))
    truth = task.test.truth
    middle = np.nanmedian(task.train.truth)
    errors = [np.abs(middle - t[~np.isnan(t)]) / t[~np.isnan(t)] for t in truth]
    assert task.baselines()["median"]["abs_rel"] == pytest.approx(np.mean([e.mean() for e in errors]), rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": np.zeros((6, 48, 48), np.uint8)}, r"image has shape \(6, 48, 48\), expected \(n, h, w, 3\)"),
        ({"image": np.zeros((6, 48, 48, 3))}, "image has dtype=float64; give uint8, 0 to 255"),
        ({"depth": np.ones((5, 8, 8))}, r"depth has shape \(5, 8, 8\), expected \(6, z, z\)"),
        ({"depth": np.ones((6, 7, 7))}, r"depth \(train\) has shape \(3, 7, 7\), expected .* divisor of .* 48"),
        ({"depth": np.full((6, 8, 8), -9.999)}, r"depth \(train\): none of 192 depths is valid \(above 0, below 4.0 m"),
        ({"depth": np.full((6, 8, 8), "1")}, r"depth \(train\) has dtype=<U1; give metres"),
        ({"depth": None}, "array 'depth' is missing"),
        ({"fb": None}, "array 'fb' is missing"),
        ({"fb": np.full(6, "80")}, "fb has dtype=<U2; give numbers"),
        ({"fb": np.zeros(6)}, r"fb\[0\]=0.0 must be finite and positive"),
        ({"fb": np.ones(4)}, r"fb has shape \(4,\), expected one number or \(6,\)"),
        ({"split": np.array([0, 0, 0, 2, 2, 2])}, "split 'val' is empty: no entry of split is 1"),
        ({"split": np.array([0, 1, 2, 3, 0, 0])}, "split holds 3; expected 0 train, 1 val, 2 test"),
        ({"split": np.zeros(6)}, r"split has dtype=float64, shape \(6,\); expected integers"),
        ({"image": np.zeros((6, 48, 40, 3), np.uint8)}, "pictures are 48×40; only square ones"),
    ],
)
def test_bad_captures(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=r"^data '.*data.npz': .*" + message):
        load_task(saved(tmp_path, captures(**changes)))


def test_own_depth(tmp_path: Path) -> None:
    truth = np.full((4, 6, 6), 2.0)
    truth[0, 0, 0] = -1
    arrays = own(train_truth=truth, epochs=3, lr=0.5, loss="berhu", high=8.0, name="mine", batch=2)
    arrays["train_target"] = arrays["train_target"][:, None]
    arrays["val_target"][0, 0, 0] = 0
    task = load_task(saved(tmp_path, arrays))
    assert isinstance(task, RealDepthTask)
    assert (task.name, task.fb, task.high, task.loss) == ("mine", 4.0, 8.0, "berhu")
    assert (task.settings.epochs, task.settings.lr, task.settings.batch) == (3, 0.5, 2)
    assert np.isnan(task.train.truth[0, 0, 0])
    assert np.nanmax(task.train.truth) == 2
    assert np.isnan(task.val.target[0, 0, 0, 0])
    np.testing.assert_allclose(task.test.truth, 4 / arrays["test_target"], rtol=1e-6)


def test_own_classes(tmp_path: Path) -> None:
    arrays = own("classify", train_x=np.full((4, 3, 6, 6), 51, np.uint8))
    task = load_task(saved(tmp_path, arrays))
    assert isinstance(task, ClassificationTask)
    assert task.loss == "cross_entropy"
    np.testing.assert_array_equal(task.train.target, [[0], [1], [2], [0]])
    np.testing.assert_allclose(task.train.x, 0.2, rtol=1e-6)
    assert task.classes == 3


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("dpeth", {}, "kind='dpeth' is unknown; did you mean 'depth'"),
        ("depth", {"kind": np.array(3)}, "kind of dtype=int64 .* must be one text"),
        ("depth", {"fb": None}, "array 'fb' is missing"),
        ("depth", {"fb": "eighty"}, "fb='eighty' must be one number"),
        ("depth", {"fb": -2.0}, r"fb\[0\]=-2.0 must be finite and positive"),
        ("depth", {"val_x": None}, "array 'val_x' is missing; did you mean"),
        ("depth", {"train_x": np.full((4, 3, 6, 6), np.nan)}, r"x\[0\] holds NaN or infinite values"),
        ("depth", {"train_x": np.full((4, 3, 6, 6), np.inf)}, r"x\[0\] holds NaN or infinite values"),
        ("depth", {"train_x": np.zeros((4, 3, 6, 6), np.int16)}, "train_x has dtype=int16; give floats, or uint8"),
        ("depth", {"train_target": np.ones((4, 5, 6))}, r"train_target has dtype=float64, shape \(4, 5, 6\)"),
        ("depth", {"train_target": np.zeros((4, 6, 6))}, "target is NaN throughout: all 4 samples"),
        ("depth", {"train_target": np.full((4, 6, 6), np.inf)}, r"target\[0\] holds NaN or infinite"),
        ("depth", {"train_target": np.ones((3, 6, 6))}, "target has 3 samples where x has 4"),
        ("depth", {"test_x": np.zeros((0, 3, 6, 6)), "test_target": np.zeros((0, 6, 6))}, "holds no samples"),
        ("depth", {"low": 3.0, "high": 1.0}, "low=3.0, high=1.0 must be 0 < low < high"),
        ("depth", {"epochs": 1.5}, "epochs=1.5 must be a whole number"),
        ("depth", {"optimizer": "adma"}, "adma"),
        ("classify", {"train_target": np.ones(4)}, r"train_target has dtype=float64, shape \(4,\); expected integer"),
        ("classify", {"train_target": np.array([0, 1, -1, 2])}, "targets that are not its classes, from 0 on"),
    ],
)
def test_bad_own(tmp_path: Path, kind: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=r"^data '.*data.npz': .*" + message):
        load_task(saved(tmp_path, own(kind, **changes)))


def test_unknown_layout(tmp_path: Path) -> None:
    path = saved(tmp_path, {"pictures": np.zeros(3)})
    with pytest.raises(DataError, match=r"no known layout: neither 'image' .* nor 'kind' .* is among pictures"):
        load_task(path)


def test_names_and_paths(tmp_path: Path) -> None:
    assert set(TASKS) == {"depth", "digits"}
    with pytest.raises(DataError, match="task='detph' is unknown; did you mean 'depth'\\?; or give a path"):
        get_task("detph")
    with pytest.raises(DataError, match=r"data 'gone.npz': there is no such file or folder"):
        get_task("gone.npz")
    with pytest.raises(DataError, match=r"data '.*/gone': there is no such file or folder"):
        get_task(tmp_path / "gone")
    path = saved(tmp_path, captures())
    with pytest.raises(DataError, match=r"option 'label=dense' is unknown; did you mean 'labels'"):
        get_task(f"{path}?label=dense")
    with pytest.raises(DataError, match=r"share=10: an npz has no shares"):
        get_task(f"{path}?share=10")
    with pytest.raises(DataError, match=r"share='ten' must be a whole number of percent"):
        get_task(f"{path}?share=ten")
    with pytest.raises(DataError, match=r"labels='dense' is unknown"):
        get_task(f"{path}?labels=dense")


@given(st.integers(0, 10_000), st.sampled_from([1, 2, 4]), st.integers(1, 3))
def test_nearest_zones_by_loops(seed: int, zones: int, side: int) -> None:
    rng = np.random.default_rng(seed)
    dense = rng.uniform(1, 9, (2, zones * side, zones * side)).astype(np.float32)
    dense[rng.uniform(size=dense.shape) < 0.5] = np.nan
    got = nearest_zones(dense, zones)
    for i in range(2):
        for r in range(zones):
            for c in range(zones):
                block = dense[i, r * side : (r + 1) * side, c * side : (c + 1) * side]
                known = [float(v) for v in block.ravel() if v == v]
                assert (got[i, r, c] == max(known)) if known else np.isnan(got[i, r, c])


def test_nearest_zones_need_whole_blocks() -> None:
    with pytest.raises(DataError, match=r"shape \(1, 9, 9\) cannot be cut into 8×8"):
        nearest_zones(np.ones((1, 9, 9), np.float32))
