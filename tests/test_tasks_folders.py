"""Folders as the paper's authors publish their sets: small made ones of all three layouts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sparseplan.errors import DataError
from sparseplan.tasks import get_task, load_task
from sparseplan.tasks.folders import folder_task
from sparseplan.tasks.real import RealDepthTask

SIZES = {"train": 4, "val": 2, "test": 3}


def picture(rng: np.random.Generator, path: Path) -> np.ndarray:
    array = rng.integers(0, 256, (48, 48, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, array)
    else:
        Image.fromarray(array).save(path)
    return array


def plane(path: Path, array: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.asarray(array))
    return path.name


def kitti(root: Path, fb: float = 50.0, gt_size: int = 48) -> dict[str, list[Any]]:
    """Nine columns, lists and paths in each part's own folder; -1 and 0 are invalid. Returns what was written."""
    rng = np.random.default_rng(0)
    made: dict[str, list[Any]] = {"image": [], "disp": [], "truth": []}
    for part, n in SIZES.items():
        base, lines = root / "kitti_48x48" / part, []
        for i in range(n):
            image = picture(rng, base / f"left/{i}.png")
            picture(rng, base / f"right/{i}.png")
            disp = rng.uniform(1, 40, (48, 48)).astype(np.float32)
            disp[rng.uniform(size=disp.shape) < 0.3] = -1
            disp[:6, :6] = -1  # a block without any
            truth = rng.uniform(2, 100, (gt_size, gt_size)).astype(np.float32)
            truth[rng.uniform(size=truth.shape) < 0.5] = 0
            plane(base / f"gt/{i}.npy", truth)
            for name in ("ldisp", "rdisp", "ldepth", "rdepth"):
                plane(base / f"{name}/{i}.npy", disp if name == "ldisp" else np.zeros_like(disp))
            plane(base / f"fb/{i}.npy", np.array([[fb]]))
            lines.append(
                f"left/{i}.png,right/{i}.png,gt/{i}.npy,ldisp/{i}.npy,ldepth/{i}.npy,rdisp/{i}.npy,rdepth/{i}.npy,"
                f"fb/{i}.npy,metrics/{i}.csv"
            )
            if part == "train":
                made["image"].append(image)
                made["disp"].append(disp)
                made["truth"].append(truth)
        (base / "annotations.csv").write_text("\n".join(lines) + "\n")
        if part == "train":
            (base / "annotations_25perc.csv").write_text(lines[2] + "\n")
    return made


def nyuv2(root: Path) -> dict[str, list[Any]]:
    """Five columns at the root; true depth has a last axis of 1, fb is a number."""
    rng = np.random.default_rng(1)
    made: dict[str, list[Any]] = {"disp": [], "truth": []}
    for part, n in SIZES.items():
        lines = []
        for i in range(n):
            picture(rng, root / part / f"img/{i}.npy")
            disp = rng.uniform(0.2, 60, (48, 48)).astype(np.float32)
            disp[3, 4] = -1
            truth = rng.uniform(0.5, 9, (48, 48, 1)).astype(np.float32)
            truth[0, 0] = 0
            plane(root / part / f"gt/{i}.npy", truth)
            plane(root / part / f"depth/{i}.npy", 80 / disp)
            plane(root / part / f"disp/{i}.npy", disp)
            lines.append(f"{part}/img/{i}.npy,{part}/gt/{i}.npy,{part}/depth/{i}.npy,{part}/disp/{i}.npy,80.0")
            if part == "train":
                made["disp"].append(disp)
                made["truth"].append(truth[..., 0])
        (root / f"{part}.csv").write_text("\n".join(lines))
    (root / "train_50perc.csv").write_text("\n".join((root / "train.csv").read_text().splitlines()[:2]))
    return made


def idsia(root: Path) -> dict[str, list[Any]]:
    """Four columns at the root, 8×8 arrays, JPEG pictures."""
    rng = np.random.default_rng(2)
    made: dict[str, list[Any]] = {"depth": []}
    for part, n in SIZES.items():
        lines = []
        for i in range(n):
            picture(rng, root / part / f"img/{i}.jpg")
            depth = rng.uniform(0.3, 5, (8, 8)).astype(np.float32)
            depth[2, 3] = -9.999
            plane(root / part / f"depth/{i}.npy", depth)
            plane(root / part / f"disp/{i}.npy", np.where(depth > 0, 80 / depth, 80000))
            plane(root / part / f"fb/{i}.npy", np.float32(80))
            lines.append(f"{part}/img/{i}.jpg,{part}/depth/{i}.npy,{part}/disp/{i}.npy,{part}/fb/{i}.npy")
            if part == "train":
                made["depth"].append(depth)
        (root / f"{part}.csv").write_text("\n".join(lines) + "\n")
    return made


def zones_by_loops(disp: np.ndarray) -> np.ndarray:
    """The largest valid disparity of each 6×6 block, NaN where there is none, on all of its pixels."""
    found = np.full((48, 48), np.nan)
    for r in range(0, 48, 6):
        for c in range(0, 48, 6):
            known = [float(v) for v in disp[r : r + 6, c : c + 6].ravel() if v > 0]
            if known:
                found[r : r + 6, c : c + 6] = max(known)
    return found


def test_kitti(tmp_path: Path) -> None:
    made = kitti(tmp_path)
    task = get_task(tmp_path)
    assert isinstance(task, RealDepthTask)
    assert (task.name, task.fb, task.high) == ("micro-kitti", 50.0, 80.0)
    assert [len(s) for s in (task.train, task.val, task.test)] == [4, 2, 3]
    for i in range(4):
        np.testing.assert_allclose(task.train.x[i], made["image"][i].transpose(2, 0, 1) / 255, rtol=1e-6)
        np.testing.assert_allclose(task.train.target[i, 0], zones_by_loops(made["disp"][i]), rtol=1e-6)
        truth = made["truth"][i]
        np.testing.assert_array_equal(task.train.truth[i], np.where((truth > 0) & (truth <= 80), truth, np.nan))
    dense = load_task(tmp_path, "dense").train.target[:, 0]
    np.testing.assert_array_equal(dense, np.where(np.array(made["disp"]) > 0, made["disp"], np.nan))


def test_kitti_metrics_are_of_depth(tmp_path: Path) -> None:
    made = kitti(tmp_path)
    task = folder_task(tmp_path)
    output = np.full((4, 1, 48, 48), 2.5, np.float32)  # 20 m
    errors = []
    for truth in made["truth"]:
        known = truth[(truth > 0) & (truth <= 80)].astype(np.float64)
        errors.append(np.mean(np.abs(20 - known) / known))
    assert task.metrics(output, task.train)["abs_rel"] == pytest.approx(np.mean(errors), rel=1e-5)


def test_a_folder_named_by_its_inside_is_told(tmp_path: Path) -> None:
    kitti(tmp_path)
    with pytest.raises(
        DataError, match=r"looked for 'kitti_48x48/train/annotations.csv' \(micro-kitti\) and 'train.cs"
    ):
        load_task(tmp_path / "kitti_48x48")


def test_larger_true_depth_is_read_at_the_middles(tmp_path: Path) -> None:
    made = kitti(tmp_path, gt_size=144)
    truth = folder_task(tmp_path).train.truth[1]
    wide = made["truth"][1]
    middles = np.array([[wide[3 * r + 1, 3 * c + 1] for c in range(48)] for r in range(48)])
    np.testing.assert_array_equal(truth, np.where((middles > 0) & (middles <= 80), middles, np.nan))


def test_shares(tmp_path: Path) -> None:
    made = kitti(tmp_path)
    task = get_task(f"{tmp_path}?share=25&labels=tof-bilinear")
    assert len(task.train) == 1
    assert task.name == "micro-kitti, 25 %"
    assert [len(task.val), len(task.test)] == [2, 3]
    np.testing.assert_allclose(task.train.x[0], made["image"][2].transpose(2, 0, 1) / 255, rtol=1e-6)
    assert np.isnan(task.train.target[0, 0, :6, :6]).all(), "an invalid zone stays so"
    assert len(folder_task(tmp_path, share=100).train) == 4
    with pytest.raises(DataError, match=r"annotations_10perc.csv' is missing; there are annotations_25perc.csv"):
        load_task(tmp_path, share=10)
    with pytest.raises(DataError, match="share=0 must be a whole number of percent, 1 to 100"):
        folder_task(tmp_path, share=0)


def test_nyuv2(tmp_path: Path) -> None:
    made = nyuv2(tmp_path)
    task = folder_task(tmp_path, "dense")
    assert (task.name, task.fb, task.high) == ("micro-nyuv2", 80.0, 5.0)
    disp, truth = np.array(made["disp"]), np.array(made["truth"])
    np.testing.assert_array_equal(task.train.target[:, 0], np.where(disp > 0, np.maximum(disp, 1), np.nan))
    np.testing.assert_array_equal(task.train.truth, np.where(truth > 0, np.minimum(truth, 5), np.nan))
    zones = folder_task(tmp_path).train.target
    np.testing.assert_allclose(zones[3, 0], np.maximum(zones_by_loops(disp[3]), 1), rtol=1e-6)
    assert len(folder_task(tmp_path, share=50).train) == 2


def test_idsia(tmp_path: Path) -> None:
    made = idsia(tmp_path)
    task = folder_task(tmp_path)
    assert (task.name, task.fb, task.high) == ("idsia-micro-mde", 80.0, 10.0)
    depth = np.array(made["depth"]).repeat(6, axis=1).repeat(6, axis=2)
    valid = (depth > 0) & (depth < 4)
    np.testing.assert_array_equal(task.train.truth, np.where(valid, depth, np.nan))
    np.testing.assert_allclose(task.train.target[:, 0], np.where(valid, 80 / depth, np.nan), rtol=1e-6)
    with pytest.raises(DataError, match="labels='dense' is unknown; known: tof-bilinear, tof-nearest"):
        folder_task(tmp_path, "dense")


def test_disparities_are_brought_to_one_fb(tmp_path: Path) -> None:
    made = kitti(tmp_path)
    np.save(tmp_path / "kitti_48x48/train/fb/0.npy", np.array(25.0))
    task = folder_task(tmp_path, "dense")
    assert task.fb == 50
    got, given = task.train.target[:2, 0], np.array(made["disp"])[:2]
    np.testing.assert_allclose(got[0][given[0] > 0], 2 * given[0][given[0] > 0], rtol=1e-6)
    np.testing.assert_allclose(got[1][given[1] > 0], given[1][given[1] > 0], rtol=1e-6)


def rewrite(root: Path, part: str, row: int, column: int, cell: str) -> None:
    path = root / f"{part}.csv"
    rows = [line.split(",") for line in path.read_text().splitlines()]
    rows[row][column] = cell
    path.write_text("\n".join(",".join(r) for r in rows))


@pytest.mark.parametrize(
    ("column", "cell", "message"),
    [
        (0, "train/img/9.jpg", r"list 'train.csv', line 2: file 'train/img/9.jpg' is missing"),
        (0, "", "line 2: path '' names no file"),
        (0, "/etc/hostname", "line 2: path '/etc/hostname' is absolute; paths must be relative"),
        (0, "../outside.npy", r"line 2: path '../outside.npy' leads out of the folder"),
        (1, "train/../../outside.npy", "leads out of the folder"),
        (0, "train/link.npy", "path 'train/link.npy' leads out of the folder"),
        (0, "x" * 5000, "line 2: file 'xxx.* cannot be read: File name too long"),
        (0, "train/depth/0.npy", r"picture '0.npy' has dtype=float32, shape \(8, 8\); expected uint8 \(h, w, 3\)"),
        (0, "train.csv", r"picture 'train.csv' is no picture in a known format"),
        (1, "train/img/0.jpg", "array '0.jpg' cannot be read as an npy array"),
        (1, "train/wide.npy", r"the true depth has shape \(4, 4\), the first one \(8, 8\); all must have one"),
        (1, "train/deep.npy", r"array 'deep.npy' has shape \(2, 3, 4\), expected \(h, w\)"),
        (1, "train/objects.npy", "array 'objects.npy' holds Python objects, which are never unpickled"),
        (1, "train/huge.npy", r"array 'huge.npy' declares shape=\(100000, 100000\), 80,000,000,000 bytes; at most"),
        (1, "train/short.npy", r"array 'short.npy' declares shape=\(8, 8\), 512 bytes, but has .*; is it truncated"),
        (1, "train/text.npy", "array 'text.npy' has dtype=<U1; give numbers"),
        (3, "eighty", "line 2: fb='eighty' is neither a number nor an npy file"),
        (3, "-80", "line 2: fb=-80.0 must be finite and positive"),
        (3, "nan", "line 2: fb=nan must be finite and positive"),
        (3, "train/depth/0.npy", r"line 2: fb=float32 of shape \(8, 8\) must be one number"),
    ],
)
def test_bad_cells(tmp_path: Path, column: int, cell: str, message: str) -> None:
    root = tmp_path / "set"
    idsia(root)
    np.save(tmp_path / "outside.npy", np.ones((8, 8)))
    os.symlink(tmp_path / "outside.npy", root / "train/link.npy")
    plane(root / "train/wide.npy", np.ones((4, 4)))
    plane(root / "train/deep.npy", np.ones((2, 3, 4)))
    plane(root / "train/text.npy", np.full((8, 8), "a"))
    np.save(root / "train/objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    plane(root / "train/short.npy", np.ones((8, 8)))
    whole = (root / "train/short.npy").read_bytes()
    (root / "train/short.npy").write_bytes(whole[:400])
    (root / "train/huge.npy").write_bytes(whole.replace(b"(8, 8), }" + b" " * 16, b"(100000, 100000), }" + b" " * 6))
    rewrite(root, "train", 1, column, cell)
    with pytest.raises(DataError, match=r"^data '.*set': .*" + message):
        load_task(root)


def test_bad_lists(tmp_path: Path) -> None:
    idsia(tmp_path)
    good = (tmp_path / "train.csv").read_text()
    (tmp_path / "val.csv").write_text("")
    with pytest.raises(DataError, match=r"list 'val.csv' is empty; it must name at least one sample"):
        load_task(tmp_path)
    (tmp_path / "val.csv").unlink()
    with pytest.raises(DataError, match=r"list 'val.csv' is missing"):
        load_task(tmp_path)
    (tmp_path / "train.csv").write_text("")
    with pytest.raises(DataError, match=r"list 'train.csv' is empty"):
        load_task(tmp_path)
    (tmp_path / "train.csv").write_text("a,b,c\n")
    with pytest.raises(DataError, match=r"'train.csv' has 3 columns; micro-nyuv2 has 5, idsia-micro-mde 4"):
        load_task(tmp_path)
    (tmp_path / "train.csv").write_text(good + "train/img/0.jpg,train/depth/0.npy\n")
    with pytest.raises(DataError, match=r"list 'train.csv', line 5 has 2 columns; idsia-micro-mde has 4"):
        load_task(tmp_path)
    (tmp_path / "train.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"train.csv' cannot be read: .*decode"):
        load_task(tmp_path)
    (tmp_path / "train.csv").write_text('"open,b\nc')
    with pytest.raises(DataError, match=r"train.csv' is not CSV"):
        load_task(tmp_path)
    (tmp_path / "train.csv").unlink()
    with pytest.raises(DataError, match=r"is of no known layout: looked for 'kitti_48x48/train/annotations.csv'"):
        load_task(tmp_path)
    with pytest.raises(DataError, match="there is no such folder"):
        folder_task(tmp_path / "gone")


def test_nothing_valid(tmp_path: Path) -> None:
    idsia(tmp_path)
    for path in (tmp_path / "test/depth").iterdir():
        np.save(path, np.full((8, 8), -9.999))
    with pytest.raises(DataError, match=r"test: depth: none of 192 depths is valid \(above 0, below 4.0 m\)"):
        load_task(tmp_path)
    root = tmp_path / "kitti"
    kitti(root)
    for path in (root / "kitti_48x48/val/ldisp").iterdir():
        np.save(path, np.full((48, 48), -1))
    with pytest.raises(DataError, match=r"val: none of 4608 disparities is valid \(above 0\)"):
        load_task(root)


def test_pictures_without_labels_or_infinite_ones(tmp_path: Path) -> None:
    """NaN and infinite readings count as invalid ones do."""
    made = idsia(tmp_path)
    depth = made["depth"][0].copy()
    depth[0, 0], depth[0, 1] = np.nan, np.inf
    np.save(tmp_path / "train/depth/0.npy", depth)
    task = load_task(tmp_path)
    assert np.isnan(task.train.truth[0, :6, :12]).all()
    assert np.isnan(task.train.target[0, 0, :6, :12]).all()


def test_a_truncated_picture_is_told(tmp_path: Path) -> None:
    idsia(tmp_path)
    path = tmp_path / "train/img/1.jpg"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match=r"line 2: picture '1.jpg' (cannot be read|is no picture)"):
        load_task(tmp_path)
