"""Files of opset 7 to 10 are converted with a note, and compute as ONNX Runtime does; what cannot be is refused."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnxmodels import difference, kinds, model, node, numpy_helper, onnx, saved

from sparseplan.errors import NetworkError
from sparseplan.importers.onnxfile import read_onnx


def _ints(*numbers: int) -> Any:
    return np.array(numbers, np.int64)


def _floats(*numbers: float) -> Any:
    return np.array(numbers, np.float32)


def older(opset: int, nodes: list[Any], shape: tuple[int, ...], constants: Mapping[str, Any] | None = None) -> Any:
    """A model as old exporters wrote it: initialisers are inputs, too."""
    proto = model(nodes, {"x": shape}, constants, opset=opset)
    proto.ir_version = 3
    for tensor in proto.graph.initializer:
        proto.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    return proto


IMAGE = (1, 2, 4, 5)
NORM = {name: _floats(0.5, 2) for name in "sbmv"}
CASES: dict[str, Any] = {
    "Upsample 7": older(7, [node("Upsample", "x", scales=[1.0, 1.0, 2.0, 3.0])], IMAGE),
    "Upsample 8 linear": older(8, [node("Upsample", "x", mode="linear", scales=[1.0, 1.0, 1.5, 2.0])], IMAGE),
    "Upsample 9": older(9, [node("Upsample", "x s")], IMAGE, {"s": _floats(1, 1, 2, 2)}),
    "Upsample 9 between": older(9, [node("Upsample", "x s")], IMAGE, {"s": _floats(1, 1, 1.5, 2.5)}),
    "Upsample 9 linear": older(9, [node("Upsample", "x s", mode="linear")], IMAGE, {"s": _floats(1, 1, 2, 2)}),
    "Resize 10": older(10, [node("Resize", "x s")], IMAGE, {"s": _floats(1, 1, 0.5, 0.7)}),
    "Resize 10 linear": older(10, [node("Resize", "x s", mode="linear")], IMAGE, {"s": _floats(1, 1, 0.5, 1.7)}),
    "Dropout 7": older(7, [node("Dropout", "x", "d", ratio=0.3), node("Relu", "d")], IMAGE),
    "Dropout 10": older(10, [node("Dropout", "x", "d m", ratio=0.3), node("Relu", "d")], IMAGE),
    "Clip 6": older(7, [node("Clip", "x", min=-0.5, max=0.7)], IMAGE),
    "Clip 6 low": older(10, [node("Clip", "x", min=0.0)], IMAGE),
    "Slice 1": older(9, [node("Slice", "x", axes=[2, 3], starts=[1, -3], ends=[3, 9999])], IMAGE),
    "Slice 1 of all": older(7, [node("Slice", "x", starts=[0, 0, 1], ends=[1, 2, -1])], IMAGE),
    "Slice 10": older(10, [node("Slice", "x lo hi ax st")], IMAGE,
                      {"lo": _ints(1), "hi": _ints(4), "ax": _ints(2), "st": _ints(2)}),
    "Pad 2": older(9, [node("Pad", "x", pads=[0, 0, 1, 1, 0, 0, 1, 2], mode="reflect")], IMAGE),
    "Pad 2 value": older(10, [node("Pad", "x", pads=[0, 0, 1, 1, 0, 0, 0, 1], value=1.5)], IMAGE),
    "BatchNormalization 7": older(7, [node("BatchNormalization", "x s b m v", epsilon=1e-3)], IMAGE, NORM),
    "BatchNormalization 9": older(9, [node("BatchNormalization", "x s b m v")], IMAGE, NORM),
    "Conv": older(7, [node("Conv", "x w b", pads=[1, 1, 1, 1])], IMAGE, {"w": (3, 2, 3, 3), "b": (3,)}),
    "Conv of many weights": older(8, [node("Conv", "x w")], IMAGE, {"w": (700, 2, 3, 3)}),
    "Flatten and Gemm": older(7, [node("Flatten", "x", "f"), node("Gemm", "f w b", transB=1)], IMAGE,
                              {"w": (3, 40), "b": (3,)}),
    "Softmax": older(7, [node("Softmax", "x")], IMAGE),
    "AveragePool": older(7, [node("AveragePool", "x", kernel_shape=[2, 2], pads=[1, 1, 1, 1], count_include_pad=1)],
                         IMAGE),
    "Unsqueeze": older(8, [node("Unsqueeze", "x", "u", axes=[0]), node("Relu", "u")], IMAGE),
    "ReduceMean": older(9, [node("ReduceMean", "x", axes=[2, 3])], IMAGE),
    "Split": older(8, [node("Split", "x", "z y", axis=1, split=[1, 1]), node("Relu", "y", "r")], IMAGE),
    "LSTM": older(7, [node("LSTM", "x w r b", hidden_size=3)], (4, 1, 2),
                  {"w": (1, 12, 2), "r": (1, 12, 3), "b": (1, 24)}),
    "Gelu of Microsoft": older(9, [node("Gelu", "x", domain="com.microsoft")], IMAGE),
    "a shape": older(9, [
        node("Shape", "x", "s"), node("Slice", "s", "h", axes=[0], starts=[0], ends=[2]),
        node("Constant", "", "k", value=numpy_helper.from_array(_ints(-1))), node("Concat", "h k", "t", axis=0),
        node("Reshape", "x t"),
    ], IMAGE),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_as_onnx_runtime(name: str, tmp_path: Path) -> None:
    proto = CASES[name]
    path = saved(proto, tmp_path)
    found = read_onnx(path)
    opset = proto.opset_import[0].version
    assert f"opset {opset} was converted to 11 by onnx.version_converter" in found.notes
    assert "opaque" not in kinds(found)
    shape = [d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim]
    assert difference(path, {"x": np.random.default_rng(0).normal(size=shape).astype(np.float32)}) < 1e-5


def test_parameters_keep_their_names_and_values(tmp_path: Path) -> None:
    proto = CASES["Conv of many weights"]
    found = read_onnx(saved(proto, tmp_path))
    np.testing.assert_array_equal(found.weights["w"], numpy_helper.to_array(proto.graph.initializer[0]))


def test_what_cannot_be_converted_is_refused_in_one_line(tmp_path: Path) -> None:
    spatial = older(8, [node("BatchNormalization", "x s b m v", spatial=0)], (1, 2), NORM)
    with pytest.raises(
        NetworkError, match=r"opset 8, which onnx.version_converter cannot bring to 11 \(.*spatial"
    ) as caught:
        read_onnx(saved(spatial, tmp_path))
    assert "\n" not in str(caught.value)
    with pytest.raises(NetworkError, match="is of opset 6; 7 or later can be read"):
        read_onnx(saved(older(6, [node("Relu", "x")], IMAGE), tmp_path))
    branch = onnx.helper.make_graph([node("Slice", "x", "z", starts=[0], ends=[1])], "b", [], [
        onnx.helper.make_tensor_value_info("z", 1, None)])  # fmt: skip
    nodes = [node("If", "c", then_branch=branch, else_branch=branch)]
    with pytest.raises(NetworkError, match="does not convert a subgraph's Slice to opset 11; export it anew"):
        read_onnx(saved(older(9, nodes, IMAGE, {"c": np.array(True)}), tmp_path))


@given(seed=st.integers(0, 2**32 - 1))
def test_bytes_that_were_changed_never_end_it(seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The converter is native code: what it cannot take must not reach it."""
    r = random.Random(seed)
    raw = bytearray(r.choice(list(CASES.values())).SerializeToString())
    for _ in range(r.randint(1, 4)):
        raw[r.randrange(len(raw))] = r.randrange(256)
    path = tmp_path_factory.mktemp("changed") / "model.onnx"
    path.write_bytes(bytes(raw))
    with contextlib.suppress(NetworkError):
        read_onnx(path)
