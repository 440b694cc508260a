"""Loops whose turns are known are unrolled as ONNX Runtime runs them; others are opaque, or refused in one line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnxmodels import TensorProto, difference, helper, kinds, model, node, saved

from sparseplan.errors import NetworkError
from sparseplan.importers.onnxfile import read_onnx

F, I64, B = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def body(*nodes: Any, going: str = "k2", outputs: tuple[str, ...] = ("v2",)) -> Any:
    """Of a loop with one state ``v``."""

    def port(name: str, kind: int = F, shape: Any = None) -> Any:
        return helper.make_tensor_value_info(name, kind, shape)

    more = [node("Identity", "k", "k2")] if going == "k2" else []
    return helper.make_graph(
        [*more, *nodes], "body", [port("i", I64, []), port("k", B, []), port("v", shape=[1, 4])],
        [port(going, B, []), *(port(name) for name in outputs)],
    )  # fmt: skip


COUNTED = body(node("Less", "i n", "k3"), node("MatMul", "v w", "m"), node("Tanh", "m", "v2"), going="k3")
BY_DATA = body(
    node("ReduceMax", "v", "t", keepdims=0), node("Less", "t top", "k3"), node("Add", "v v", "v2"), going="k3"
)
SILU = body(node("Sigmoid", "v", "s"), node("Mul", "v s", "v2"))
TRUE, THREE = np.array(True), np.array(3, np.int64)

#: nodes, constants, and kinds of the ops that they become
CASES: dict[str, tuple[list[Any], Mapping[str, Any], list[str]]] = {
    "counted": ([node("Loop", "m c r", body=body(node("Relu", "v", "v2")))], {"m": THREE, "c": TRUE}, ["relu"] * 4),
    "no trip count": ([node("Loop", "- c r", body=COUNTED)], {"c": TRUE, "n": THREE - 1, "w": (4, 4)},
                      ["relu", *["linear", "tanh"] * 3]),
    "reads from outside": ([node("Loop", "m - r", "l", body=body(node("Add", "v x", "v2"))), node("Relu", "l")],
                           {"m": THREE}, ["relu", "add", "add", "add", "relu"]),
    "a pattern in every turn": ([node("Loop", "m - r", body=SILU)], {"m": THREE}, ["relu", "silu", "silu", "silu"]),
    "what turns give": ([node("Loop", "m - r", "l y", body=body(node("Relu", "v", "v2"), outputs=("v2", "v2")))],
                        {"m": THREE}, []),
    "numbers of turns": ([node("Loop", "m - r", "l y", body=body(
        node("Cast", "i", "f", to=F), node("Add", "v f", "v2"), outputs=("v2", "v2")))], {"m": THREE}, []),
    "no turn": ([node("Loop", "m - r", body=body(node("Relu", "v", "v2")))], {"m": THREE - 3}, ["relu"]),
    "never begun": ([node("Loop", "- c r", body=body(node("Relu", "v", "v2")))], {"c": ~TRUE}, ["relu"]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_loop_is_unrolled(name: str, tmp_path: Path) -> None:
    nodes, constants, expected = CASES[name]
    path = saved(model([node("Relu", "x", "r"), *nodes], {"x": (1, 4)}, constants), tmp_path)
    found = read_onnx(path)
    assert "opaque" not in kinds(found)
    assert kinds(found) == expected or not expected
    assert any("is unrolled over" in note for note in found.notes)
    assert difference(path, {"x": np.array([[0.5, -1, 2, 0.1]], np.float32)}) < 1e-6


def test_a_weight_of_all_turns_is_one(tmp_path: Path) -> None:
    nodes, constants, _ = CASES["no trip count"]
    found = read_onnx(saved(model([node("Relu", "x", "r"), *nodes], {"x": (1, 4)}, constants), tmp_path))
    assert found.network.parameters == ("w",)
    assert len(found.network.users["w"]) == 3


OTHERS: dict[str, tuple[list[Any], Mapping[str, Any], str]] = {
    "goes on by data": ([node("Loop", "- c x", "l", body=BY_DATA)], {"c": TRUE, "top": np.float32(9)},
                        "it has no trip count, and whether it goes on is computed from data"),
    "trip count by data": (
        [node("ReduceSum", "x", "q", keepdims=0), node("Cast", "q", "m", to=I64),
         node("Loop", "m - x", "l", body=body(node("Relu", "v", "v2")))],
        {}, r"its trip count \('m'\) is computed from data"),
    "too many turns": ([node("Loop", "m - x", "l", body=body(node("Relu", "v", "v2")))], {"m": THREE * 999},
                       "it takes more than 64 turns"),
    "without end": ([node("Loop", "- c x", "l", body=body(node("Relu", "v", "v2")))], {"c": TRUE},
                    "it takes more than 64 turns"),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_others_are_opaque_where_shapes_are_told_and_refused_in_words_elsewhere(name: str, tmp_path: Path) -> None:
    nodes, constants, words = OTHERS[name]
    proto = model([*nodes, node("Relu", "l")], {"x": (1, 4)}, constants)
    with pytest.raises(NetworkError, match=words) as caught:
        read_onnx(saved(proto, tmp_path))
    assert "\n" not in str(caught.value)
    if "data" not in name:  # onnx's inference is not asked where the body reads from outside
        proto.graph.value_info.append(helper.make_tensor_value_info("l", F, [1, 4]))
        assert kinds(read_onnx(saved(proto, tmp_path))) == ["opaque", "relu"]


def test_loops_in_loops_are_bounded(tmp_path: Path) -> None:
    inner = body(node("Identity", "v", "v2"))
    for _ in range(3):
        inner = body(node("Loop", "m - v", "v2", body=inner))
    path = saved(model([node("Loop", "m - x", body=inner)], {"x": (1, 4)}, {"m": THREE * 20}), tmp_path)
    with pytest.raises(NetworkError, match="all loops take more than 4096 turns"):
        read_onnx(path)


@pytest.mark.parametrize(
    "nodes",
    [
        [node("SplitToSequence", "x", "s", axis=1), node("SequenceAt", "s j")],
        [node("SequenceConstruct", "x x", "s"), node("ConcatFromSequence", "s", axis=1)],
        [node("Optional", "x", "o"), node("OptionalGetElement", "o")],
    ],
)
def test_sequences_are_refused_in_one_line(nodes: list[Any], tmp_path: Path) -> None:
    path = saved(model(nodes, {"x": (1, 4)}, {"j": THREE - 3}), tmp_path)
    with pytest.raises(NetworkError, match="cannot be read") as caught:
        read_onnx(path)
    assert "\n" not in str(caught.value)
