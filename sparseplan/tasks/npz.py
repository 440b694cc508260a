"""Tasks from an npz file: pictures with sensor readings, or any data of one's own.

**Captures.** ``image`` (n, h, w, 3) uint8 RGB; ``depth`` (n, z, z) metres of a ranging sensor, not
positive or 4 m and more where it saw nothing; ``fb``, one number or (n,): the disparity of a
surface one metre away; ``split`` (n,): 0 train, 1 val, 2 test. Other arrays are ignored.

**One's own.** ``kind`` is ``depth``, ``classify`` or ``regress``; then, for each of ``train``, ``val``, ``test``:

- ``train_x`` (n, *input): the network's input, float (as it is), uint8 (divided by 255) or other integers (as they
  are: what an embedding looks up);
- ``train_target``: for ``depth`` disparity (n, h, w) or (n, 1, h, w), not positive or NaN where
  unknown; for ``classify`` classes (n,), integers from 0; for ``regress`` numbers (n, *output), NaN where unknown, or
  left out of all three where the input is its own target (an auto-encoder);
- ``train_truth``, for ``depth``, optional: metres (n, h, w), not positive or NaN where unknown;
  without it, ``fb`` over the target.

and, for all of them, ``fb`` (``depth`` only, needed) and optionally ``loss``, ``optimizer`` (text),
``lr``, ``epochs``, ``batch``, ``low``, ``high`` (metres that are judged, ``depth`` only), ``name``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sparseplan.errors import DataError, SparseplanError, near
from sparseplan.npzfile import read_npz
from sparseplan.run.trainer import TrainSettings
from sparseplan.tasks.arrays import number, text
from sparseplan.tasks.base import Array, Split, Task
from sparseplan.tasks.classify import SETTINGS as CLASSIFY
from sparseplan.tasks.classify import ClassificationTask
from sparseplan.tasks.real import SETTINGS, RealDepthTask, check_labels, one_fb, pictures, sensor_split
from sparseplan.tasks.regress import SETTINGS as REGRESS
from sparseplan.tasks.regress import RegressionTask

PARTS = ("train", "val", "test")
KINDS = ("depth", "classify", "regress")
_CAPTURES = ("image", "depth", "fb", "split")


def npz_task(path: str | os.PathLike[str], labels: str = "tof-nearest") -> Task:
    """The task in an npz file of either layout.

    Args:
        labels: of captures: ``tof-nearest`` or ``tof-bilinear``.

    Raises:
        DataError: an unreadable file, an array that is missing or does not fit, no valid label.
    """
    where = f"data {os.fspath(path)!r}"
    arrays = read_npz(path)
    try:
        if "kind" in arrays:
            return _own(arrays, Path(path).stem)
        if "image" in arrays:
            return _captures(arrays, Path(path).stem, labels)
    except SparseplanError as error:
        raise DataError(f"{where}: {error}") from None
    found = ", ".join(sorted(arrays)) or "nothing"
    raise DataError(
        f"{where} is of no known layout: neither 'image' ({', '.join(_CAPTURES)}) nor 'kind'"
        f" (one of {', '.join(KINDS)}, with train_x, train_target, …) is among {found[:200]}"
    )


def _need(arrays: Mapping[str, Array], name: str) -> Array:
    if name not in arrays:
        raise DataError(f"array {name!r} is missing{near(name, arrays)}")
    return arrays[name]


def _captures(arrays: Mapping[str, Array], name: str, labels: str) -> RealDepthTask:
    check_labels(labels, ("tof-nearest", "tof-bilinear"))
    x = pictures(_need(arrays, "image"), "image")
    n = len(x)
    depth, fb, split = (_need(arrays, key) for key in _CAPTURES[1:])
    if fb.dtype.kind not in "fiu":
        raise DataError(f"fb has dtype={fb.dtype}; give numbers")
    if fb.shape not in ((), (1,), (n,)):
        raise DataError(f"fb has shape {fb.shape}, expected one number or ({n},)")
    if split.shape != (n,) or split.dtype.kind not in "iu":
        raise DataError(f"split has dtype={split.dtype}, shape {split.shape}; expected integers ({n},)")
    if not np.isin(split, (0, 1, 2)).all():
        raise DataError(f"split holds {split[~np.isin(split, (0, 1, 2))][0]}; expected 0 train, 1 val, 2 test")
    if depth.ndim != 3 or len(depth) != n:
        raise DataError(f"depth has shape {depth.shape}, expected ({n}, z, z)")
    usual = one_fb(np.broadcast_to(fb, (n,)).astype(np.float64), "fb")
    splits = []
    for number_, part in enumerate(PARTS):
        chosen = split == number_
        if not chosen.any():
            raise DataError(f"split {part!r} is empty: no entry of split is {number_}")
        splits.append(sensor_split(x[chosen], depth[chosen], usual, labels, f"depth ({part})"))
    train, val, test = splits
    return RealDepthTask(name, train, val, test, SETTINGS, fb=usual)


def _own(arrays: Mapping[str, Array], name: str) -> Task:
    kind = text(arrays["kind"], "kind")
    if kind not in KINDS:
        raise DataError(f"kind={kind!r} is unknown{near(kind, KINDS)}")
    called = text(arrays["name"], "name") if "name" in arrays else name
    settings = _settings(arrays, {"depth": SETTINGS, "classify": CLASSIFY, "regress": REGRESS}[kind])
    if kind == "classify":
        train, val, test = (_classes(arrays, part) for part in PARTS)
        return ClassificationTask(called, train, val, test, settings)
    if kind == "regress":
        own = not any(f"{part}_target" in arrays for part in PARTS)
        train, val, test = (_numbers(arrays, part, own) for part in PARTS)
        return RegressionTask(called, train, val, test, settings)
    fb = number(_need(arrays, "fb"), "fb")
    one_fb(np.array([fb]), "fb")
    limits = {key: number(arrays[key], key) for key in ("low", "high") if key in arrays}
    train, val, test = (_dense(arrays, part, fb) for part in PARTS)
    return RealDepthTask(called, train, val, test, settings, fb, **limits)


def _settings(arrays: Mapping[str, Array], usual: TrainSettings) -> TrainSettings:
    changes: dict[str, Any] = {key: text(arrays[key], key) for key in ("loss", "optimizer") if key in arrays}
    if "lr" in arrays:
        changes["lr"] = number(arrays["lr"], "lr")
    for key in ("epochs", "batch"):
        if key in arrays:
            value = number(arrays[key], key)
            changes[key] = int(value) if value == int(value) else value
    return replace(usual, **changes)


def _inputs(arrays: Mapping[str, Array], part: str, whole: bool = False) -> Array:
    x = _need(arrays, f"{part}_x")
    if x.ndim < 1 or 0 in x.shape[1:]:
        raise DataError(f"{part}_x has shape {x.shape}, expected (n, *input)")
    if x.dtype == np.uint8:
        return x.astype(np.float32) / np.float32(255)
    if x.dtype.kind not in ("fiu" if whole else "f"):
        other = ", or integers to be looked up" if whole else ""
        raise DataError(f"{part}_x has dtype={x.dtype}; give floats, or uint8 to be divided by 255{other}")
    if x.dtype.kind == "u":
        x = x.astype(np.int64)
    return x


def _classes(arrays: Mapping[str, Array], part: str) -> Split:
    target = _need(arrays, f"{part}_target")
    if target.ndim != 1 or target.dtype.kind not in "iu":
        raise DataError(f"{part}_target has dtype={target.dtype}, shape {target.shape}; expected integer classes (n,)")
    return Split(_inputs(arrays, part, whole=True), target[:, None], target)


def _numbers(arrays: Mapping[str, Array], part: str, own: bool) -> Split:
    x = _inputs(arrays, part, whole=True)
    if own:
        target = x.astype(np.float32)
    else:
        target = _need(arrays, f"{part}_target")
        if target.ndim < 1 or target.dtype.kind not in "fiu" or 0 in target.shape[1:]:
            raise DataError(f"{part}_target has dtype={target.dtype}, shape {target.shape}; expected numbers "
                            "(n, *output)")  # fmt: skip
        target = target.astype(np.float32)
    if target.ndim == 1:
        target = target[:, None]
    return Split(x, target, target)


def _dense(arrays: Mapping[str, Array], part: str, fb: float) -> Split:
    x, given = _inputs(arrays, part), _need(arrays, f"{part}_target")
    if x.ndim != 4:
        raise DataError(f"{part}_x has shape {x.shape}, expected (n, 3, h, w)")
    if given.dtype.kind not in "fiu" or given.shape not in ((len(given), *x.shape[2:]), (len(given), 1, *x.shape[2:])):
        raise DataError(
            f"{part}_target has dtype={given.dtype}, shape {given.shape}; expected disparities"
            f" (n, {x.shape[2]}, {x.shape[3]}) for {part}_x of shape {x.shape}"
        )
    target = _known(given.reshape(len(given), 1, *x.shape[2:]))
    truth = fb / target[:, 0]
    if f"{part}_truth" in arrays:
        metres = arrays[f"{part}_truth"]
        if metres.dtype.kind not in "fiu":
            raise DataError(f"{part}_truth has dtype={metres.dtype}; give metres")
        truth = _known(metres)
    return Split(x, target, truth)


def _known(values: Array) -> Array:
    """Float32, NaN where a disparity or depth is not positive; an infinity stays, and is refused later."""
    wide = values.astype(np.float32)
    return np.where(wide > 0, wide, np.float32(np.nan))
