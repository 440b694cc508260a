"""Resizing against ONNX's reference, in every mode and for coordinates beyond those of PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from op_cases import Case, case

onnx = pytest.importorskip("onnx", reason="onnx is not installed")

COORDINATES = ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"]


def _by_onnx(c: Case) -> np.ndarray:
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    a = c.info.attrs
    attrs: dict[str, Any] = {
        "mode": a["mode"],
        "coordinate_transformation_mode": a["coordinates"],
        "nearest_mode": a["rounding"],
        "cubic_coeff_a": a["cubic_a"],
    }
    x = c.x[0].astype(np.float64)
    feeds: dict[str, np.ndarray] = {"x": x}
    if a["scales"]:
        feeds["scales"] = np.array([1, 1, *map(float, a["scales"].split(","))], np.float32)
        names = ["x", "", "scales"]
    else:
        feeds["sizes"] = np.array([*x.shape[:2], *a["size"]], np.int64)
        names = ["x", "", "", "sizes"]
    node = helper.make_node("Resize", names, ["y"], **attrs)
    types = {np.dtype(np.float64): onnx.TensorProto.DOUBLE, np.dtype(np.float32): onnx.TensorProto.FLOAT,
             np.dtype(np.int64): onnx.TensorProto.INT64}  # fmt: skip
    inputs = [helper.make_tensor_value_info(n, types[v.dtype], v.shape) for n, v in feeds.items()]
    outputs = [helper.make_tensor_value_info("y", onnx.TensorProto.DOUBLE, None)]
    model = helper.make_model(
        helper.make_graph([node], "g", inputs, outputs), opset_imports=[helper.make_opsetid("", 18)]
    )
    return ReferenceEvaluator(model).run(None, feeds)[0]


@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("size", [(1, 1), (3, 4), (5, 7), (8, 13)])
def test_blends(mode: str, coordinates: str, size: tuple[int, int]) -> None:
    if (mode, coordinates, size) == ("cubic", "pytorch_half_pixel", (1, 1)):
        pytest.skip("the reference takes a single output to lie at -0.5, where the standard says 0")
    c = case("resize", [(1, 5, 6)], batch=1, size=size, mode=mode, coordinates=coordinates, cubic_a=-0.5)
    np.testing.assert_allclose(c.forward(), _by_onnx(c), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("rounding", ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
@pytest.mark.parametrize("size", [(1, 1), (3, 4), (5, 7), (8, 12)])
def test_nearest(rounding: str, coordinates: str, size: tuple[int, int]) -> None:
    c = case("resize", [(1, 4, 6)], batch=1, size=size, rounding=rounding, coordinates=coordinates)
    np.testing.assert_array_equal(c.forward(), _by_onnx(c))


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize(("scales", "size"), [("0.75,1.5", (3, 9)), ("0.6,2.25", (3, 13)), ((2, 3), (10, 18))])
def test_given_ratios(mode: str, scales: Any, size: tuple[int, int]) -> None:
    c = case("resize", [(1, 5, 6)], batch=1, size=size, mode=mode, scales=scales)
    np.testing.assert_allclose(c.forward(), _by_onnx(c), rtol=1e-5, atol=1e-5)
