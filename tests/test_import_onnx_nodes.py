"""What a node of ONNX means is read whole: outputs that nobody reads, integers that are moved, inputs that decide."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnxmodels import TensorProto, difference, kinds, model, node, saved

from sparseplan.errors import NetworkError
from sparseplan.importers.onnxfile import read_onnx

I64 = np.int64


def ints(*numbers: int) -> Any:
    return np.array(numbers, I64)


# -- outputs without readers ------------------------------------------------------------------------
#: nodes with every output named, of which the first alone is read; and what they become
UNREAD: dict[str, tuple[Any, Mapping[str, Any], tuple[int, ...], list[str]]] = {
    "Dropout": (node("Dropout", "x", "d m"), {}, (1, 3, 5, 6), ["relu"]),
    "MaxPool": (node("MaxPool", "x", "d i", kernel_shape=[2, 2]), {}, (1, 3, 5, 6), ["max_pool", "relu"]),
    "LayerNormalization": (
        node("LayerNormalization", "x s b", "d mean inv"), {"s": (6,), "b": (6,)}, (1, 3, 5, 6), ["layer_norm", "relu"]
    ),
    "Split": (node("Split", "x", "d e f", axis=1), {}, (1, 3, 5, 6), ["slice", "relu"]),
}  # fmt: skip
for op, gates in (("LSTM", 4), ("GRU", 3), ("RNN", 1)):
    UNREAD[op] = (
        node(op, "x w r", "d h c" if op == "LSTM" else "d h", hidden_size=2),
        {"w": (1, gates * 2, 4), "r": (1, gates * 2, 2)}, (3, 1, 4), [],
    )  # fmt: skip


@pytest.mark.parametrize("name", UNREAD)
def test_an_output_that_nobody_reads_does_not_count(name: str, tmp_path: Path) -> None:
    made, constants, shape, expected = UNREAD[name]
    path = saved(model([made, node("Relu", "d")], {"x": shape}, constants), tmp_path)
    got = read_onnx(path)
    assert "opaque" not in kinds(got)
    assert kinds(got) == expected or not expected
    assert not any("frozen" in note for note in got.notes)
    assert difference(path, {"x": np.random.default_rng(0).normal(size=shape).astype(np.float32)}) < 1e-5


def test_of_outputs_that_are_read_the_first_is_computed_and_the_others_are_frozen(tmp_path: Path) -> None:
    nodes = [node("Conv", "x w", "a"), node("MaxPool", "a", "d i", kernel_shape=[2, 2]), node("Relu", "d")]
    path = saved(model(nodes, {"x": (1, 2, 4, 4)}, {"w": (2, 2, 1, 1)}, ("y", "i"), types={"i": TensorProto.INT64}),
                 tmp_path)  # fmt: skip
    got = read_onnx(path)
    assert sorted(kinds(got)) == ["conv", "max_pool", "opaque", "relu"]
    assert any("all its outputs but the first" in note for note in got.notes)
    assert kinds(read_onnx(path, outputs=["y"])) == ["conv", "max_pool", "relu"]


@pytest.mark.parametrize("outputs", ["d", "d a b c e"])
def test_outputs_that_say_that_statistics_are_taken_count_unread(outputs: str, tmp_path: Path) -> None:
    """Before opset 14 a batch-norm with outputs of statistics is one in training mode."""
    nodes = [node("BatchNormalization", "x s t m v", outputs), node("Relu", "d")]
    constants = {"s": (3,), "t": (3,), "m": (3,), "v": np.array([1, 2, 3], np.float32)}
    path = saved(model(nodes, {"x": (1, 3, 4, 4)}, constants, opset=11), tmp_path)
    got = read_onnx(path)
    assert kinds(got) == ["batch_norm" if outputs == "d" else "opaque", "relu"]
    assert any("training mode" in note for note in got.notes) == (outputs != "d")
    if outputs == "d":
        assert difference(path, {"x": np.random.default_rng(0).normal(size=(1, 3, 4, 4)).astype(np.float32)}) < 1e-5


@pytest.mark.parametrize("read", ["d", "h", "c"])
def test_an_opaque_node_costs_the_same_whichever_output_is_read(read: str, tmp_path: Path) -> None:
    """A recurrent layer over sequences of lengths that are not known."""
    nodes = [node("LSTM", "x w r  n", "d h c", hidden_size=2), node("Relu", read)]
    nodes[0].input[:] = ["x", "w", "r", "", "n"]
    proto = model(nodes, {"x": (3, 1, 4), "n": (1,)}, {"w": (1, 8, 4), "r": (1, 8, 2)},
                  types={"n": TensorProto.INT32})  # fmt: skip
    op = read_onnx(saved(proto, tmp_path)).network.ops[0]
    assert (op.kind, op.attrs["macs"]) == ("opaque", 3 * (8 * 4 + 8 * 2))


def test_nodes_that_lead_to_no_output_are_left_out(tmp_path: Path) -> None:
    nodes = [node("Relu", "x"), node("NoSuchOp", "y", "z"), node("Neg", "z", "n")]
    path = saved(model(nodes, {"x": (1, 3)}), tmp_path)
    assert kinds(read_onnx(path)) == ["relu"]
    with pytest.raises(NetworkError, match=r"node 'NoSuchOp_z' \(NoSuchOp\): cannot be read"):
        read_onnx(path, outputs=["n"])
    with pytest.raises(NetworkError, match="NoSuchOp"):
        read_onnx(path, outputs=["nn"])


# -- notes name the input that decides --------------------------------------------------------------
def test_the_note_names_the_input_that_decides(tmp_path: Path) -> None:
    """Of two inputs of integers, a choice depends on one; its numbers come from the other."""
    nodes = [
        node("Gather", "table ids", "e"), node("MatMul", "e w", "a"), node("Equal", "mask zero", "m"),
        node("Unsqueeze", "m last", "u"), node("Where", "u low a"),
    ]  # fmt: skip
    constants = {"table": (7, 4), "w": (4, 4), "zero": ints(0)[0], "last": ints(-1), "low": np.float32(-5)}
    types = {"ids": TensorProto.INT64, "mask": TensorProto.INT64}
    path = saved(model(nodes, {"ids": (1, 6), "mask": (1, 6)}, constants, types=types), tmp_path)
    notes = read_onnx(path).notes
    assert not any("--fix ids" in note for note in notes)
    assert sum("(--fix mask=1)" in note for note in notes) == 2
    assert kinds(read_onnx(path, fixed={"mask": 1})) == ["embedding", "linear"]


# -- integers that are moved ------------------------------------------------------------------------
#: from ids (1, 5) to integers of any shape
MOVES: dict[str, tuple[list[Any], Mapping[str, Any]]] = {
    "last": ([node("Gather", "ids c", "j", axis=1)], {"c": ints(-1)}),
    "one": ([node("Gather", "ids c", "j", axis=1)], {"c": ints(2)[0]}),
    "cut": ([node("Slice", "ids lo hi ax", "j")], {"lo": ints(1), "hi": ints(4), "ax": ints(1)}),
    "back": (
        [node("Slice", "ids lo hi ax st", "j")], {"lo": ints(-1), "hi": ints(-9), "ax": ints(1), "st": ints(-1)}
    ),
    "turned": ([node("Transpose", "ids", "j", perm=[1, 0])], {}),
    "joined": ([node("Slice", "ids lo hi ax", "k"), node("Concat", "k ids", "j", axis=1)],
               {"lo": ints(4), "hi": ints(5), "ax": ints(1)}),
    "split": ([node("Split", "ids s", "k j", axis=1)], {"s": ints(2, 3)}),
    "tiled": ([node("Tile", "ids r", "j")], {"r": ints(1, 2)}),
    "spread": ([node("Unsqueeze", "ids a", "k"), node("Expand", "k s", "j")], {"a": ints(1), "s": ints(1, 3, 5)}),
    "cast": ([node("Slice", "ids lo hi ax", "k"), node("Cast", "k", "j", to=TensorProto.INT32)],
             {"lo": ints(0), "hi": ints(2), "ax": ints(1)}),
    "renamed": ([node("Slice", "ids lo hi ax", "k"), node("Reshape", "k s", "m"), node("Squeeze", "m a", "j")],
                {"lo": ints(0), "hi": ints(4), "ax": ints(1), "s": ints(1, 2, 2), "a": ints(0)}),
}  # fmt: skip


@pytest.mark.parametrize("name", MOVES)
def test_integers_may_be_moved_before_they_are_looked_up(name: str, tmp_path: Path) -> None:
    nodes, constants = MOVES[name]
    proto = model([*nodes, node("Gather", "table j")], {"ids": (1, 5)}, {"table": (7, 4), **constants},
                  types={"ids": TensorProto.INT64})  # fmt: skip
    path = saved(proto, tmp_path)
    assert "opaque" not in kinds(read_onnx(path))
    assert difference(path, {"ids": ints(3, 0, 6, 1, 6)[None]}) < 1e-6


@pytest.mark.parametrize(
    ("nodes", "constants"),
    [
        ([node("Add", "ids c", "j")], {"c": ints(1)}),
        ([node("Concat", "ids c", "j", axis=1)], {"c": ints(1)[None]}),
        ([node("Slice", "ids lo hi ax", "k"), node("Mul", "k k", "j")], {"lo": ints(0), "hi": ints(2), "ax": ints(1)}),
    ],
)
def test_integers_that_are_computed_with_are_opaque_with_a_note(
    nodes: list[Any], constants: Mapping[str, Any], tmp_path: Path
) -> None:
    proto = model([*nodes, node("Gather", "table j")], {"ids": (1, 5)}, {"table": (7, 4), **constants},
                  types={"ids": TensorProto.INT64})  # fmt: skip
    got = read_onnx(saved(proto, tmp_path))
    assert "opaque" in kinds(got)
    assert any("(--fix ids=1)" in note for note in got.notes)


@given(data=st.data())
def test_any_chain_of_moves_equals_onnx_runtime(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    count = data.draw(st.integers(2, 6))
    shape, last = [1, count], "ids"
    nodes, constants = list[Any](), dict[str, Any]()
    for i in range(data.draw(st.integers(1, 4))):
        axis = data.draw(st.integers(0, len(shape) - 1))
        kind = data.draw(st.sampled_from(("Slice", "Gather", "Concat", "Transpose", "Tile", "Unsqueeze")))
        out = f"t{i}"
        if kind == "Slice":
            lo = data.draw(st.integers(0, shape[axis] - 1))
            hi = data.draw(st.integers(lo + 1, shape[axis]))
            constants |= {f"lo{i}": ints(lo), f"hi{i}": ints(hi), f"ax{i}": ints(axis)}
            nodes.append(node("Slice", f"{last} lo{i} hi{i} ax{i}", out))
            shape[axis] = hi - lo
        elif kind == "Gather":
            at = data.draw(st.lists(st.integers(-shape[axis], shape[axis] - 1), min_size=1, max_size=3))
            constants[f"at{i}"] = ints(*at)
            nodes.append(node("Gather", f"{last} at{i}", out, axis=axis))
            shape[axis] = len(at)
        elif kind == "Concat":
            nodes.append(node("Concat", f"{last} {last}", out, axis=axis))
            shape[axis] *= 2
        elif kind == "Transpose":
            perm = data.draw(st.permutations(range(len(shape))))
            nodes.append(node("Transpose", last, out, perm=list(perm)))
            shape = [shape[p] for p in perm]
        elif kind == "Tile":
            constants[f"r{i}"] = ints(*(2 if a == axis else 1 for a in range(len(shape))))
            nodes.append(node("Tile", f"{last} r{i}", out))
            shape[axis] *= 2
        else:
            constants[f"a{i}"] = ints(axis)
            nodes.append(node("Unsqueeze", f"{last} a{i}", out))
            shape.insert(axis, 1)
        last = out
    proto = model([*nodes, node("Gather", f"table {last}")], {"ids": (1, count)}, {"table": (9, 3), **constants},
                  types={"ids": TensorProto.INT64})  # fmt: skip
    path = saved(proto, tmp_path_factory.mktemp("moves"))
    assert "opaque" not in kinds(read_onnx(path))
    assert difference(path, {"ids": np.arange(count, dtype=I64)[None] * 4 % 9}) < 1e-6
