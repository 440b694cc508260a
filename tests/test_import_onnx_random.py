"""Any node of ONNX is read exactly as ONNX Runtime computes it, or as opaque with a note, or refused in one line."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_nodes import GENERATORS, Drawn
from onnxmodels import difference, kinds, model, node, saved, session

from sparseplan.errors import NetworkError
from sparseplan.importers import Imported
from sparseplan.importers.onnxfile import read_onnx


def _runs(path: Path, feed: Any) -> bool:
    """Whether ONNX Runtime takes the model at all."""
    try:
        session(path).run(None, feed)
    except Exception:  # whatever it raises: such a model means nothing
        return False
    return True


def _read(path: Path) -> tuple[Imported | None, str]:
    try:
        return read_onnx(path), ""
    except NetworkError as error:
        return None, str(error)


def check(drawn: Drawn, folder: Path) -> str:
    """What became of a model: exact, opaque, or refused."""
    path, feed = saved(drawn.proto(), folder), drawn.feed(1)
    found, refused = _read(path)
    if found is None:
        assert "\n" not in refused
        assert "Traceback" not in refused
        return "refused"
    if "opaque" in kinds(found):
        assert any("by their shapes alone" in note for note in found.notes)
        return "opaque"
    if _runs(path, feed):
        assert difference(path, feed) < 1e-5
    return "exact"


@pytest.mark.parametrize("name", GENERATORS)
@settings(max_examples=max(10, settings().max_examples // 3))
@given(seed=st.integers(0, 2**32 - 1))
def test_exact_or_opaque_or_refused(name: str, seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    check(GENERATORS[name](random.Random(seed)), tmp_path_factory.mktemp("node"))


@pytest.mark.parametrize("name", GENERATORS)
def test_most_are_exact(name: str, tmp_path: Path) -> None:
    """So that the property above does not hold by refusing."""
    found = [check(GENERATORS[name](random.Random(seed)), tmp_path) for seed in range(12)]
    assert found.count("exact") >= 5, found


# -- what was wrong once ----------------------------------------------------------------------------
def _resize(
    shape: tuple[int, ...], mode: str, scales: Any = None, sizes: Any = None, opset: int = 18, **attrs: Any
) -> Drawn:
    given = {"s": np.array(scales, np.float32)} if scales else {"z": np.array(sizes, np.int64)}
    made = node("Resize", "x - s" if scales else "x - - z", mode=mode, **attrs)
    return Drawn([made], {"x": shape}, given, opset)


EXACT: dict[str, Drawn] = {
    "scales of an axis that stays": _resize((1, 2, 3), "linear", [1, 1, 1.108],
                                            coordinate_transformation_mode="asymmetric"),
    "a tie in single precision": _resize((1, 1, 6, 7), "nearest", [1, 1, 0.7, 3]),
    "a scale beyond a whole number": _resize((1, 1, 12, 4), "nearest", [1, 1, 1.1, 1], nearest_mode="floor",
                                             coordinate_transformation_mode="asymmetric"),
    "channels last": _resize((1, 4, 5, 3), "linear", sizes=[1, 7, 9, 3]),
    "channels last, nearest": _resize((1, 4, 5, 3), "nearest", [1, 2, 2, 1]),
    "symmetric": _resize((1, 2, 4, 4), "linear", sizes=[1, 2, 6, 3], opset=19,
                         coordinate_transformation_mode="half_pixel_symmetric"),
    "transposed, with output padding": Drawn(
        [node("ConvTranspose", "x w b", strides=[2, 2], output_shape=[10, 10])],
        {"x": (1, 3, 4, 4)}, {"w": (3, 2, 3, 3), "b": (2,)}),
    "transposed, cut": Drawn(
        [node("ConvTranspose", "x w", strides=[2], output_shape=[7])], {"x": (1, 3, 4)}, {"w": (3, 2, 3)}),
    "transposed, same, short windows": Drawn(
        [node("ConvTranspose", "x w", strides=[3, 1], auto_pad="SAME_LOWER")],
        {"x": (1, 3, 3, 2)}, {"w": (3, 2, 2, 2)}),
    "max-pool, valid, rounded up": Drawn(
        [node("MaxPool", "x", kernel_shape=[2, 2], strides=[3, 2], auto_pad="VALID", ceil_mode=1)],
        {"x": (1, 2, 7, 6)}),
    "means that count padding, rounded up": Drawn(
        [node("AveragePool", "x", kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1], ceil_mode=1,
              count_include_pad=1)], {"x": (1, 2, 6, 6)}, opset=19),
    "means that count padding, a sequence": Drawn(
        [node("AveragePool", "x", kernel_shape=[3], strides=[2], pads=[1, 1], ceil_mode=1, count_include_pad=1)],
        {"x": (1, 2, 6)}, opset=19),
}  # fmt: skip


@pytest.mark.parametrize("name", EXACT)
def test_exact(name: str, tmp_path: Path) -> None:
    assert check(EXACT[name], tmp_path) == "exact"
    assert _runs(tmp_path / "model.onnx", EXACT[name].feed(1))


def test_what_runtimes_read_differently_is_opaque(tmp_path: Path) -> None:
    made = node("AveragePool", "x", kernel_shape=[1, 1], strides=[3, 3], auto_pad="SAME_UPPER")
    found = read_onnx(saved(model([made], {"x": (1, 1, 9, 9)}), tmp_path))
    assert any("runtimes read differently" in note for note in found.notes)
