"""Folders in the layouts in which the authors of arXiv 2512.00086 publish their sets.

CSV files without a header list files by paths relative to a folder; arrays are npy files, pictures
npy or any common raster format. ``fb`` is an npy of one number, or a number.

===============  ===================================  ==========================================================
layout           lists                                columns
===============  ===================================  ==========================================================
micro-kitti      kitti_48x48/PART/annotations.csv     left picture, right picture, true depth, left disparity,
                 (paths relative to that folder)      left depth, right disparity, right depth, fb, metrics
micro-nyuv2      PART.csv at the root                 picture, true depth, depth, disparity, fb
idsia-micro-mde  PART.csv at the root                 picture, 8×8 depth, 8×8 disparity, fb
===============  ===================================  ==========================================================

PART is train, val or test. A share of the training set has a list of its own:
``annotations_10perc.csv``, ``train_10perc.csv``.

What is invalid becomes NaN before anything is made coarser or blown up: in KITTI and NYUv2 what is
not positive, in the sensor's sets depth outside 0 to 4 m. True depth is judged up to 80 m in KITTI,
clipped to 5 m in NYUv2; NYUv2's disparity is at least 1. Labels of KITTI and NYUv2 are reduced to
8×8 by the nearest surface of each block and blown up again, unless ``dense`` ones are asked for.
True depth of more pixels than the picture's is read at the middles of the picture's pixels.
"""

from __future__ import annotations

import csv
import io
import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sparseplan.errors import DataError, SparseplanError
from sparseplan.npzfile import Array, read_npy
from sparseplan.tasks.arrays import number
from sparseplan.tasks.base import Split
from sparseplan.tasks.depth import F32, LABELS
from sparseplan.tasks.real import SETTINGS, RealDepthTask, check_labels, dense_label, one_fb, pictures, sensor_split

PARTS = ("train", "val", "test")
#: bytes of a list, of a picture or array file; entries of a list
_MOST_CSV, _MOST_FILE, _MOST_ROWS = 2**26, 2**26, 100_000
#: Pillow also opens formats that run programs (EPS); these it only decodes
_FORMATS = ("PNG", "JPEG", "BMP", "PPM", "TIFF", "WEBP", "GIF")


@dataclass(frozen=True)
class Layout:
    """Where the lists are, and what their columns hold (positions from 0; None: not there).

    Attributes:
        list: of a part, with ``{part}`` and ``{share}`` ("" or "_10perc") to fill in.
        base: folder that the list's paths are relative to.
        columns: how many a row has, at least.
        high: metres up to which depth is judged; predictions are clipped to it.
        clip: true depth beyond ``high`` counts as ``high`` rather than not at all.
        least: disparities below it count as it.
    """

    name: str
    list: str
    base: str
    columns: int
    image: int
    truth: int
    disparity: int
    fb: int
    sensor: bool
    high: float
    clip: bool = False
    least: float = 0.0


KITTI = Layout(
    "micro-kitti", "kitti_48x48/{part}/annotations{share}.csv", "kitti_48x48/{part}", 9, 0, 2, 3, 7, False, 80.0
)
NYUV2 = Layout("micro-nyuv2", "{part}{share}.csv", ".", 5, 0, 1, 3, 4, False, 5.0, clip=True, least=1.0)
IDSIA = Layout("idsia-micro-mde", "{part}{share}.csv", ".", 4, 0, 1, 2, 3, True, 10.0)
LAYOUTS = (KITTI, NYUV2, IDSIA)


def folder_task(path: str | os.PathLike[str], labels: str = "tof-nearest", share: int | None = None) -> RealDepthTask:
    """The task in a folder of one of the three layouts, which is found out.

    Args:
        labels: ``tof-nearest`` or ``tof-bilinear`` (8×8, blown up), or ``dense`` (not in the sensor's sets).
        share: percent of the training set, of those for which there is a list; None for all.

    Raises:
        DataError: no such folder or layout; a list, file or column that is missing or malformed; a path
            out of the folder; no valid label. Names the list, its line, and the file.
    """
    root = Path(path)
    where = f"data {os.fspath(path)!r}"
    if not root.is_dir():
        raise DataError(f"{where}: there is no such folder")
    layout = detect(root)
    check_labels(labels, LABELS[:2] if layout.sensor else LABELS)
    if share is not None and (isinstance(share, bool) or not isinstance(share, int) or not 1 <= share <= 100):
        raise DataError(f"share={share!r} must be a whole number of percent, 1 to 100")
    loaded = {part: _load(root, layout, part, share if part == "train" else None) for part in PARTS}
    fbs = np.concatenate([entries.fb for entries in loaded.values()])
    fb = one_fb(fbs, f"{where}: fb")
    splits = []
    for part, entries in loaded.items():
        try:
            splits.append(_split(entries, layout, fb, labels, part))
        except SparseplanError as error:
            raise DataError(f"{where}: {part}: {error}") from None
    name = layout.name if share in (None, 100) else f"{layout.name}, {share} %"
    train, val, test = splits
    return RealDepthTask(name, train, val, test, SETTINGS, fb=fb, high=layout.high)


def detect(root: Path) -> Layout:
    """The layout of a folder; raises DataError that lists what was looked for."""
    if (root / KITTI.list.format(part="train", share="")).is_file():
        return KITTI
    lists = root / "train.csv"
    if lists.is_file():
        rows = _rows(lists)
        width = len(rows[0]) if rows else 0
        for layout in (NYUV2, IDSIA):
            if width == layout.columns:
                return layout
        if not rows:
            raise DataError(f"data {os.fspath(root)!r}: list 'train.csv' is empty; it must name at least one sample")
        raise DataError(
            f"data {os.fspath(root)!r}: 'train.csv' has {width} columns; micro-nyuv2 has {NYUV2.columns},"
            f" idsia-micro-mde {IDSIA.columns}, without a header"
        )
    raise DataError(
        f"data {os.fspath(root)!r} is of no known layout: looked for 'kitti_48x48/train/annotations.csv' (micro-kitti)"
        " and 'train.csv' (micro-nyuv2, idsia-micro-mde); name the folder that holds them"
    )


@dataclass(frozen=True)
class _Entries:
    """Samples as read: pictures (n, 3, h, w), arrays (n, …), fb (n,)."""

    x: F32
    truth: Array
    disparity: Array
    fb: NDArray[np.float64]


def _load(root: Path, layout: Layout, part: str, share: int | None) -> _Entries:
    suffix = "" if share in (None, 100) else f"_{share}perc"
    relative = layout.list.format(part=part, share=suffix)
    where = f"data {os.fspath(root)!r}: list {relative!r}"
    source = root / relative
    if not source.is_file():
        hint = ""
        if share is not None:
            found = sorted(p.name for p in source.parent.glob(Path(layout.list.format(part=part, share="_*")).name))
            hint = f"; there are {', '.join(found)}" if found else "; there is none for any share"
        raise DataError(f"{where} is missing{hint}")
    rows = _rows(source)
    if not rows:
        raise DataError(f"{where} is empty; it must name at least one sample")
    base = root / layout.base.format(part=part)
    images: list[Array] = []
    truths: list[Array] = []
    disparities: list[Array] = []
    fbs: list[float] = []
    for line, row in enumerate(rows, start=1):
        at = f"{where}, line {line}"
        if len(row) < layout.columns:
            raise DataError(f"{at} has {len(row)} columns; {layout.name} has {layout.columns}")
        images.append(_picture(_inside(base, root, row[layout.image], at), at))
        truths.append(_plane(_inside(base, root, row[layout.truth], at), at))
        disparities.append(_plane(_inside(base, root, row[layout.disparity], at), at))
        fbs.append(_fb(row[layout.fb], base, root, at))
        for column, arrays in (("picture", images), ("true depth", truths), ("disparity", disparities)):
            if arrays[-1].shape != arrays[0].shape:
                raise DataError(
                    f"{at}: the {column} has shape {arrays[-1].shape}, the first one {arrays[0].shape};"
                    " all must have one"
                )
    return _Entries(
        pictures(np.stack(images), where), np.stack(truths), np.stack(disparities), np.array(fbs, np.float64)
    )


def _split(entries: _Entries, layout: Layout, fb: float, labels: str, part: str) -> Split:
    x, size = entries.x, entries.x.shape[2:]
    if layout.sensor:
        return sensor_split(x, entries.truth, fb, labels, "depth")
    if entries.disparity.shape[1:] != size:
        raise DataError(f"disparity has shape {entries.disparity.shape[1:]}, the pictures {size}; they must agree")
    given = entries.disparity.astype(np.float32)
    valid = np.isfinite(given) & (given > 0)
    if not valid.any():
        raise DataError(f"none of {valid.size} disparities is valid (above 0)")
    ratio = (fb / entries.fb)[:, None, None].astype(np.float32)
    dense = np.where(valid, np.maximum(given, layout.least) * ratio, np.float32(np.nan))
    metres = _at_pixels(entries.truth, (size[0], size[1])).astype(np.float32)
    known = np.isfinite(metres) & (metres > 0)
    if layout.clip:
        metres = np.minimum(metres, layout.high)
    else:
        known &= metres <= layout.high
    if not known.any():
        raise DataError(f"none of {known.size} true depths is valid (above 0, up to {layout.high} m)")
    return Split(x, dense_label(dense, labels)[:, None], np.where(known, metres, np.float32(np.nan)))


def _at_pixels(planes: Array, size: tuple[int, int]) -> Array:
    """Planes (n, H, W) at the middles of ``size`` pixels: the planes themselves where they have that size."""
    rows, columns = (((np.arange(n) + 0.5) * m / n).astype(int) for n, m in zip(size, planes.shape[1:], strict=True))
    if planes.shape[1] < size[0] or planes.shape[2] < size[1]:
        raise DataError(f"true depth has shape {planes.shape[1:]}, less than the pictures' {size}")
    found: Array = planes[:, rows[:, None], columns]
    return found


def _rows(source: Path) -> list[list[str]]:
    """The rows of a CSV without a header; raises DataError."""
    where = f"list {os.fspath(source)!r}"
    try:
        with source.open("rb") as file:
            data = file.read(_MOST_CSV + 1)
        content = data.decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise DataError(f"{where} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(data) > _MOST_CSV:
        raise DataError(f"{where} is longer than {_MOST_CSV:,} bytes")
    try:
        rows = [row for row in csv.reader(io.StringIO(content, newline=""), strict=True) if row]
    except csv.Error as error:
        raise DataError(f"{where} is not CSV: {error}") from None
    if len(rows) > _MOST_ROWS:
        raise DataError(f"{where} has {len(rows)} rows; at most {_MOST_ROWS:,} are read")
    return rows


def _inside(base: Path, root: Path, name: str, at: str) -> Path:
    """A file named in a list; raises DataError where it is not below ``root`` or not there."""
    shown = repr(name[:120])
    if not name or "\0" in name:
        raise DataError(f"{at}: path {shown} names no file")
    if Path(name).is_absolute():
        raise DataError(f"{at}: path {shown} is absolute; paths must be relative to the folder")
    try:
        found = (base / name).resolve()
        if not found.is_relative_to(root.resolve()):
            raise DataError(f"{at}: path {shown} leads out of the folder")
        if not found.is_file():
            raise DataError(f"{at}: file {shown} is missing")
        size = found.stat().st_size
    except (OSError, RuntimeError) as error:  # too long, or a loop of links
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{at}: file {shown} cannot be read: {reason}") from None
    if size > _MOST_FILE:
        raise DataError(f"{at}: file {shown} has {size:,} bytes; at most {_MOST_FILE:,} are read")
    return found


def _picture(path: Path, at: str) -> Array:
    """(h, w, 3) uint8 of an npy or a picture file."""
    what = f"{at}: picture {path.name!r}"
    if path.suffix == ".npy":
        array = read_npy(path, what, _MOST_FILE)
    else:
        from PIL import Image, UnidentifiedImageError

        try:
            with Image.open(path, formats=_FORMATS) as image:
                if math.prod(image.size) * 3 > _MOST_FILE:
                    raise DataError(f"{what} is {image.size[0]}×{image.size[1]}; it is too large")
                array = np.array(image.convert("RGB"), np.uint8)
        except UnidentifiedImageError:
            raise DataError(f"{what} is no picture in a known format ({', '.join(_FORMATS)}, npy)") from None
        except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
            raise DataError(f"{what} cannot be read: {error}") from None
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        raise DataError(f"{what} has dtype={array.dtype}, shape {array.shape}; expected uint8 (h, w, 3)")
    return array


def _plane(path: Path, at: str) -> Array:
    """(h, w) float32 of an npy, which may have a last or first axis of 1."""
    what = f"{at}: array {path.name!r}"
    array = read_npy(path, what, _MOST_FILE)
    if array.dtype.kind not in "fiu":
        raise DataError(f"{what} has dtype={array.dtype}; give numbers")
    plane = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
    plane = plane[0] if plane.ndim == 3 and plane.shape[0] == 1 else plane
    if plane.ndim != 2 or 0 in plane.shape:
        raise DataError(f"{what} has shape {array.shape}, expected (h, w)")
    return plane.astype(np.float32)


def _fb(cell: str, base: Path, root: Path, at: str) -> float:
    """A number, or the one number of an npy."""
    if cell.endswith(".npy"):
        found = number(read_npy(_inside(base, root, cell, at), f"{at}: fb {cell!r}"), f"{at}: fb")
    else:
        try:
            found = float(cell)
        except ValueError:
            raise DataError(f"{at}: fb={cell[:80]!r} is neither a number nor an npy file") from None
    if not (math.isfinite(found) and found > 0):
        raise DataError(f"{at}: fb={found} must be finite and positive")
    return found
