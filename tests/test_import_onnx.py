"""What is read of ONNX graphs beyond single ops: shapes, fixed inputs, conditions, names, and what stays opaque."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnxmodels import TensorProto, difference, helper, kinds, model, node, numpy_helper, saved

import sparseplan as sp
from sparseplan import importers
from sparseplan.errors import MissingExtraError, NetworkError
from sparseplan.importers.onnxfile import read_onnx
from sparseplan.run.trainer import gradients

F32, I64 = np.float32, np.int64
CONV = node("Conv", "x w b", "h", pads=[1, 1, 1, 1])
WEIGHTS = {"w": (2, 3, 3, 3), "b": (2,)}


def _graph(name: str, nodes: list[Any], output: str) -> Any:
    return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)])


# -- shapes -------------------------------------------------------------------------------------------
def test_an_open_leading_axis_is_the_batch(tmp_path: Path) -> None:
    path = saved(model([CONV, node("Relu", "h")], {"x": ("n", 3, 4, 5)}, WEIGHTS), tmp_path)
    net = read_onnx(path).network
    assert net.tensor["x"].shape == (3, 4, 5)
    assert net.tensor[net.outputs[0]].shape == (2, 4, 5)


def test_open_axes_follow_from_shapes_that_are_given_or_named_alike(tmp_path: Path) -> None:
    nodes = [node("Add", "x z", "a"), node("Relu", "a")]
    path = saved(model(nodes, {"x": ("n", 3, "h"), "z": ("n", 3, "h")}), tmp_path)
    with pytest.raises(NetworkError, match=r"input 'x' leaves axis 2 \('h'\) open; give shapes=\{'x': \(1, 3, N2\)\}"):
        read_onnx(path)
    net = read_onnx(path, shapes={"x": (1, 3, 7)}).network
    assert net.tensor["z"].shape == (3, 7)


def test_a_batch_of_several_is_brought_to_one(tmp_path: Path) -> None:
    path = saved(model([CONV, node("Relu", "h")], {"x": (8, 3, 4, 5)}, WEIGHTS), tmp_path)
    assert kinds(read_onnx(path, shapes={"x": (1, 3, 4, 5)})) == ["conv", "relu"]
    kept = read_onnx(path)  # a sample of eight images has no convolution of ours
    assert kinds(kept) == ["opaque", "relu"]
    assert any("Conv" in note for note in kept.notes)


def test_shapes_are_computed_while_reading(tmp_path: Path) -> None:
    nodes = [
        node("Shape", "x", "s"), node("Gather", "s one", "c"), node("Unsqueeze", "c zero", "cs"),
        node("Concat", "first cs rest", "to", axis=0), node("Reshape", "x to", "r"), node("Relu", "r"),
    ]  # fmt: skip
    constants = {"one": np.array(1, I64), "zero": np.array([0], I64), "first": np.array([1], I64),
                 "rest": np.array([-1], I64)}  # fmt: skip
    path = saved(model(nodes, {"x": ("n", 3, 4, 5)}, constants), tmp_path)
    net = read_onnx(path).network
    assert [op.kind for op in net.ops] == ["reshape", "relu"]
    assert net.tensor[net.outputs[0]].shape == (3, 20)


# -- conditions, fixed inputs ---------------------------------------------------------------------------
def _switched(tmp_path: Path) -> Path:
    nodes = [
        node("Equal", "rate high", "c"),
        node("If", "c", "y", then_branch=_graph("a", [node("Relu", "x", "t")], "t"),
             else_branch=_graph("b", [node("Neg", "x", "e")], "e")),
    ]  # fmt: skip
    types = {"rate": TensorProto.INT64}
    return saved(model(nodes, {"x": (1, 4), "rate": ()}, {"high": np.array(16000, I64)}, types=types), tmp_path)


def test_a_fixed_input_decides_a_condition(tmp_path: Path) -> None:
    path = _switched(tmp_path)
    x = np.array([[-1, 2, -3, 4]], F32)
    for rate, kind in ((16000, "relu"), (8000, "neg")):
        found = importers.onnx(path, fixed={"rate": rate})
        assert kinds(found) == [kind]
        assert found.network.inputs == ("x",)
        assert difference(path, {"x": x, "rate": np.array(rate, I64)}, fixed={"rate": rate}) == 0
    with pytest.raises(NetworkError, match=r"\(If\): its condition is not constant; .* fixed=\{'rate': .*--fix rate="):
        read_onnx(path)


def test_a_condition_on_shapes_is_decided(tmp_path: Path) -> None:
    nodes = [
        node("Shape", "x", "s"), node("Size", "s", "n"), node("Equal", "n three", "c"),
        node("If", "c", "z", then_branch=_graph("a", [node("Relu", "x", "t")], "t"),
             else_branch=_graph("b", [node("Neg", "x", "e")], "e")),
        node("Exp", "z"),
    ]  # fmt: skip
    path = saved(model(nodes, {"x": (1, 4, 2)}, {"three": np.array(3, I64)}), tmp_path)
    assert kinds(read_onnx(path)) == ["relu", "exp"]


# -- integers -------------------------------------------------------------------------------------------
def test_a_table_is_an_embedding(tmp_path: Path) -> None:
    nodes = [
        node("Unsqueeze", "ids a", "u"),
        node("Squeeze", "u a", "v"),
        node("Gather", "t v", "e"),
        node("Relu", "e"),
    ]
    constants = {"t": (9, 4), "a": np.array([2], I64)}
    path = saved(model(nodes, {"ids": ("n", 5)}, constants, types={"ids": TensorProto.INT64}), tmp_path)
    found = read_onnx(path)
    assert kinds(found) == ["embedding", "relu"]
    assert found.network.tensor["ids"].dtype == "i32"
    assert difference(path, {"ids": np.array([[0, 8, 3, 3, 1]], I64)}) < 1e-6


@pytest.mark.parametrize("shape", [(5, 1), (5,)])
def test_a_one_hot_times_a_table_is_an_embedding(shape: tuple[int, ...], tmp_path: Path) -> None:
    ready = [] if len(shape) == 2 else [node("Unsqueeze", "ids a", "u")]
    nodes = [
        *ready, node("Equal", "u count" if ready else "ids count", "q"), node("Cast", "q", "f", to=TensorProto.FLOAT),
        node("MatMul", "f t", "e"), node("Tanh", "e"),
    ]  # fmt: skip
    constants = {"t": (9, 4), "a": np.array([-1], I64), "count": np.arange(9, dtype=I64)}
    path = saved(model(nodes, {"ids": (1, *shape)}, constants, types={"ids": TensorProto.INT64}), tmp_path)
    assert kinds(read_onnx(path))[0] == "embedding"
    assert difference(path, {"ids": np.array([0, 8, 3, 3, 1], I64).reshape(1, *shape)}) < 1e-6


def test_integers_that_are_only_cast_to_floats_are_read_as_floats(tmp_path: Path) -> None:
    nodes = [node("Cast", "x", "f", to=TensorProto.FLOAT), node("Mul", "f s")]
    path = saved(model(nodes, {"x": (1, 4)}, {"s": F32(0.5)}, types={"x": TensorProto.UINT8}), tmp_path)
    found = read_onnx(path)
    assert found.network.tensor["x"].dtype is None
    assert any("read as floats" in note for note in found.notes)
    assert difference(path, {"x": np.array([[0, 9, 255, 128]], np.uint8)}) == 0


# -- names ------------------------------------------------------------------------------------------------
def test_a_mask_under_other_shapes_is_read_as_floats_and_no_output(tmp_path: Path) -> None:
    nodes = [
        node("Unsqueeze", "m two", "u"), node("Expand", "u wide", "e"), node("Cast", "e", "f", to=TensorProto.FLOAT),
        node("Mul", "x f"), node("Identity", "m", "given"),
    ]  # fmt: skip
    constants = {"two": np.array([2], I64), "wide": np.array([1, 3, 4], I64)}
    inputs = {"x": (1, 3, 4), "m": (1, 3)}
    types = {"m": TensorProto.INT64, "given": TensorProto.INT64}
    path = saved(model(nodes, inputs, constants, ("y", "given"), types=types), tmp_path)
    found = read_onnx(path)
    assert any("output 'given' is input 'm'" in note for note in found.notes)
    feed = {"x": np.ones((1, 3, 4), F32), "m": np.array([[1, 0, 1]], I64)}
    assert difference(path, feed, outputs=["y"]) == 0
    with pytest.raises(NetworkError, match="or are inputs; there is nothing to plan"):
        read_onnx(path, outputs=["given"])


def test_a_number_fixes_every_entry_of_an_input(tmp_path: Path) -> None:
    nodes = [node("Not", "m", "n"), node("Where", "n low x")]
    proto = model(nodes, {"x": (1, 5), "m": (1, 5)}, {"low": np.array(-1e9, F32)}, types={"m": TensorProto.BOOL})
    path = saved(proto, tmp_path)
    assert any("--fix m=1" in note for note in read_onnx(path).notes)
    nodes = [node("Cast", "m", "f", to=TensorProto.FLOAT), node("ReduceSum", "f", "n", keepdims=0), node("Mul", "x n")]
    path = saved(model(nodes, {"x": (1, 5), "m": (1, "l")}, types={"m": TensorProto.BOOL}), tmp_path)
    feed = {"x": np.ones((1, 5), F32), "m": np.ones((1, 3), np.bool_)}
    assert difference(path, feed, shapes={"m": (1, 3)}, fixed={"m": 1}) == 0  # three entries, so times 3
    notes = read_onnx(path, shapes={"m": (1, 3)}, fixed={"m": 1}).notes
    assert "all 3 entries of input 'm' are True, as fixed" in notes


def test_parameters_keep_their_names_and_tell_how_their_axes_moved(tmp_path: Path) -> None:
    constants = {"body.weight": (6, 4), "body.bias": (4,), "head.weight": (3, 4)}
    nodes = [
        node("MatMul", "x body.weight", "m"), node("Add", "m body.bias", "a"), node("Relu", "a", "r"),
        node("Transpose", "head.weight", "t", perm=[1, 0]), node("MatMul", "r t"),
    ]  # fmt: skip
    proto = model(nodes, {"x": ("n", 6)}, constants)
    found = read_onnx(saved(proto, tmp_path))
    origin = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    assert set(found.weights) == set(origin)
    for name, weight in found.weights.items():
        layout = found.layouts.get(name, tuple(range(weight.ndim)))
        np.testing.assert_array_equal(weight, origin[name].transpose(layout))
    assert found.layouts == {"body.weight": (1, 0)}
    assert [op.name for op in found.network.ops] == ["body", "Relu_r", "head"]


def test_a_parameter_that_was_reshaped_and_moved_tells_its_layout_or_is_moved_by_ops(tmp_path: Path) -> None:
    nodes = [
        node("Transpose", "w", "t", perm=[1, 0, 2]), node("Reshape", "t to", "m"), node("MatMul", "x m", "a"),
        node("Reshape", "v cut", "u"), node("Transpose", "u", "s", perm=[1, 0, 2]), node("Reshape", "s to", "k"),
        node("MatMul", "x k", "b"), node("Add", "a b"),
    ]  # fmt: skip
    constants = {"w": (3, 5, 7), "v": (15, 7), "to": np.array([5, 21], I64), "cut": np.array([3, 5, 7], I64)}
    path = saved(model(nodes, {"x": (1, 4, 5)}, constants), tmp_path)
    found = read_onnx(path)
    origin = numpy_helper.to_array(onnx.load(path).graph.initializer[0])
    weight = found.weights["w"]
    assert (weight == origin.transpose(found.layouts["w"]).reshape(weight.shape)).all()
    # no permutation of its two axes leads to the matrix that is read
    ((reader, _),) = found.network.users["v"]
    assert reader.kind == "parameter"
    np.testing.assert_array_equal(found.weights["v"], numpy_helper.to_array(onnx.load(path).graph.initializer[1]))
    assert found.fixed == ()
    assert difference(path, {"x": np.ones((1, 4, 5), F32)}) < 1e-5


def test_selections_of_a_parameter_are_learned(tmp_path: Path) -> None:
    nodes = [
        node("Gather", "all order", "p"), node("Add", "x p", "a"),  # every row in its order
        node("Slice", "some zero four one", "q"), node("Add", "a q"),
    ]  # fmt: skip
    constants = {"all": (4, 6), "some": (9, 6), "order": np.arange(4), "zero": np.array([0], I64),
                 "one": np.array([0], I64), "four": np.array([4], I64)}  # fmt: skip
    path = saved(model(nodes, {"x": (1, 4, 6)}, constants), tmp_path)
    found = read_onnx(path)
    assert {n: w.shape for n, w in found.weights.items()} == {"all": (4, 6), "some": (9, 6)}
    assert found.fixed == ()
    assert difference(path, {"x": np.ones((1, 4, 6), F32)}) < 1e-6


@pytest.mark.parametrize(("name", "producer", "learned"), [
    ("block.scale", "", True), ("scale", "pytorch", True), ("scale", "", False), ("onnx::Mul_7", "pytorch", False),
])  # fmt: skip
def test_a_number_is_learned_if_it_has_a_parameters_name(
    name: str, producer: str, learned: bool, tmp_path: Path
) -> None:
    for op in ("Mul", "Div", "Add", "Sub"):
        nodes = [node("Relu", "x", "h"), node(op, f"h {name}")]
        proto = model(nodes, {"x": (1, 4)}, {name: np.array(0.7, F32)})
        proto.producer_name = producer
        path = saved(proto, tmp_path)
        assert (name in read_onnx(path).weights) == learned
        assert difference(path, {"x": np.ones((1, 4), F32)}) < 1e-6
    nodes = [node("Mul", f"x {name}", "h"), node("Add", "h one")]
    proto = model(nodes, {"x": (1, 4)}, {name: np.array(0.7, F32), "one": np.array(1, F32)})
    proto.producer_name = producer
    assert (name in read_onnx(saved(proto, tmp_path)).weights) == learned


def test_buffers_that_an_exporter_names_are_never_updated(tmp_path: Path) -> None:
    nodes = [node("Add", "x table", "h"), node("Mul", "h scale")]
    proto = model(nodes, {"x": (1, 3, 4)}, {"table": (3, 4), "scale": (4,)})
    for name, kind in (("table", "BUFFER"), ("scale", "PARAMETER")):
        told = proto.graph.value_info.add(name=name)
        told.metadata_props.add(key="pkg.torch.export.graph_signature.InputSpec.kind", value=kind)
    found = read_onnx(saved(proto, tmp_path))
    assert found.fixed == ("table",)
    assert set(sp.plan(found, l2="1MB").update) == {"scale"}


def test_softplus_with_a_threshold_is_softplus(tmp_path: Path) -> None:
    nodes = [node("Softplus", "x", "s"), node("Greater", "x most", "g"), node("Where", "g x s")]
    path = saved(model(nodes, {"x": (1, 5)}, {"most": np.array(20, F32)}), tmp_path)
    assert kinds(read_onnx(path)) == ["softplus"]
    assert difference(path, {"x": np.array([[-30, -1, 0, 19, 40]], F32)}) < 1e-6
    low = saved(model(nodes, {"x": (1, 5)}, {"most": np.array(2, F32)}), tmp_path)
    assert "opaque" in kinds(read_onnx(low))


def test_weights_in_constant_nodes_are_parameters(tmp_path: Path) -> None:
    weight = np.ones((4, 6), F32)
    nodes = [
        node("Constant", "", "fc.weight", value=numpy_helper.from_array(weight)),
        node("Gemm", "x fc.weight", transB=1),
    ]
    found = read_onnx(saved(model(nodes, {"x": ("n", 6)}), tmp_path))
    assert set(found.weights) == {"fc.weight"}
    assert sp.plan(found.network, l2="10kB").update.keys() == {"fc.weight"}


def test_a_bias_of_one_channel_is_a_parameter_too(tmp_path: Path) -> None:
    bias = numpy_helper.from_array(np.ones(1, F32))
    nodes = [node("Constant", "", "bias", value=bias), node("Conv", "x w bias", name="bias")]
    found = read_onnx(saved(model(nodes, {"x": ("n", 3, 4, 4)}, {"w": (1, 3, 3, 3)}), tmp_path))
    assert set(found.weights) == {"w", "bias"}
    assert found.fixed == ()
    assert found.notes == ()


def test_a_parameter_used_twice_is_one(tmp_path: Path) -> None:
    nodes = [node("Gemm", "x w b", "h", transB=1), node("Relu", "h", "r"), node("Gemm", "r w b", transB=1)]
    found = read_onnx(saved(model(nodes, {"x": ("n", 6)}, {"w": (6, 6), "b": (6,)}), tmp_path))
    assert set(found.weights) == {"w", "b"}


def test_outputs_can_be_chosen_also_within_a_pattern(tmp_path: Path) -> None:
    nodes = [node("Sigmoid", "x", "s"), node("Mul", "x s", "m"), node("Exp", "m")]
    path = saved(model(nodes, {"x": (1, 4)}), tmp_path)
    assert kinds(read_onnx(path)) == ["silu", "exp"]
    assert kinds(read_onnx(path, outputs=["s"])) == ["sigmoid"]
    assert kinds(read_onnx(path, outputs=["m", "s"])) == ["sigmoid", "mul"]


def test_a_plan_of_what_was_read_updates_everything(tmp_path: Path) -> None:
    nodes = [CONV, node("Relu", "h", "r"), node("GlobalAveragePool", "r", "g"), node("Flatten", "g")]
    found = read_onnx(saved(model(nodes, {"x": ("n", 3, 8, 8)}, WEIGHTS), tmp_path))
    plan = sp.plan(found.network, l2="100kB")
    assert plan.status == "OPTIMAL"
    assert plan.update.keys() == {"w", "b"}


# -- opaque -----------------------------------------------------------------------------------------------
def test_what_is_not_known_is_planned_as_frozen(tmp_path: Path) -> None:
    nodes = [CONV, node("CumSum", "h one", "c"), node("Conv", "c v")]
    path = saved(model(nodes, {"x": ("n", 3, 4, 5)}, {**WEIGHTS, "v": (2, 2, 3, 3), "one": np.array(1, I64)}), tmp_path)
    found = read_onnx(path)
    assert kinds(found) == ["conv", "opaque", "conv"]
    assert "1 ops are known by their shapes alone and planned as frozen: 1 CumSum" in found.notes
    assert sp.plan(found.network, l2="100kB").update.keys() == {"v"}


@pytest.mark.parametrize(
    ("nodes", "constants", "reason"),
    [
        ([node("MaxPool", "x", kernel_shape=[2, 2], dilations=[2, 2])], {}, r"dilations=\[2, 2\]"),
        ([node("AveragePool", "x", kernel_shape=[1, 1], strides=[4, 4], auto_pad="SAME_UPPER")], {}, "auto_pad"),
        ([node("Pow", "x x")], {}, "exponent"),
        ([node("ArgMax", "x", "a"), node("Cast", "a", to=TensorProto.FLOAT)], {}, None),
        ([node("TopK", "x k", "y i")], {"k": np.array([2], I64)}, None),
        ([node("Resize", "x - s", mode="linear", coordinate_transformation_mode="half_pixel_symmetric")],
         {"s": np.array([1, 1, 1.6, 1.6], F32)}, "half_pixel_symmetric"),
        ([node("Greater", "x c", "g"), node("Where", "g x c")], {"c": F32(0)}, None),
    ],
)  # fmt: skip
def test_attributes_that_no_op_has_are_opaque_and_told(
    nodes: Any, constants: Any, reason: str | None, tmp_path: Path
) -> None:
    types = {"i": TensorProto.INT64}
    found = read_onnx(saved(model(nodes, {"x": (1, 3, 6, 6)}, constants, types=types), tmp_path))
    assert "opaque" in kinds(found)
    if reason is not None:
        assert any(reason.replace("\\", "") in note for note in found.notes)


def test_a_long_sequence_is_opaque_with_its_weights(tmp_path: Path) -> None:
    lstm = node("LSTM", "x w r", "y", hidden_size=4)
    path = saved(model([lstm], {"x": (65, 1, 6)}, {"w": (1, 16, 6), "r": (1, 16, 4)}), tmp_path)
    found = read_onnx(path)
    assert kinds(found) == ["opaque"]
    assert set(found.weights) == {"w", "r"}
    assert any("65 steps; up to 64 are unrolled" in note for note in found.notes)


# -- 8 bits -------------------------------------------------------------------------------------------------
def test_weights_in_8_bits_stay_in_8_bits(tmp_path: Path) -> None:
    codes = np.arange(-12, 12, dtype=np.int8).reshape(4, 6)
    nodes = [node("DequantizeLinear", "w s", "d"), node("Gemm", "x d", transB=1)]
    path = saved(model(nodes, {"x": ("n", 6)}, {"w": codes, "s": F32(0.25)}), tmp_path)
    found = read_onnx(path)
    assert kinds(found) == ["linear"]
    weight = found.network.tensor["w"]
    assert (weight.dtype, weight.scale) == ("int8", 0.25)
    assert difference(path, {"x": np.ones((1, 6), F32)}) < 1e-6


def test_scales_by_channel_are_read_as_floats(tmp_path: Path) -> None:
    codes = np.arange(-12, 12, dtype=np.int8).reshape(4, 6)
    scales = np.array([0.5, 0.25, 1, 2], F32)
    nodes = [node("DequantizeLinear", "w s", "d", axis=0), node("Gemm", "x d", transB=1)]
    path = saved(model(nodes, {"x": ("n", 6)}, {"w": codes, "s": scales}), tmp_path)
    assert any("planned as floats" in note for note in read_onnx(path).notes)
    assert difference(path, {"x": np.ones((1, 6), F32)}) < 1e-6


def test_quantised_ops_are_frozen_and_their_bytes_counted(tmp_path: Path) -> None:
    zero, scale = np.uint8(128), F32(0.1)
    nodes = [
        node("QuantizeLinear", "x s z", "q"),
        node("QLinearConv", "q s z w s wz s z", "c", kernel_shape=[3, 3]),
        node("DequantizeLinear", "c s z", "d"),
        node("Flatten", "d", "f"),
        node("Gemm", "f v"),
    ]
    constants = {"s": scale, "z": zero, "wz": np.int8(0), "w": np.ones((2, 3, 3, 3), np.int8), "v": (24, 5)}
    found = read_onnx(saved(model(nodes, {"x": (1, 3, 5, 6)}, constants), tmp_path))
    assert kinds(found) == ["opaque", "opaque", "opaque", "reshape", "linear"]
    assert any(note.startswith("quantised: 3 ops") for note in found.notes)
    net = found.network
    assert net.tensor["w"].dtype == "int8"
    assert [net.tensor[op.output].dtype for op in net.ops[:3]] == ["int8", "int8", None]
    assert net.ops[1].attrs["macs"] == 2 * 3 * 4 * 27
    assert sp.plan(net, l2="100kB").update.keys() == {"v"}


def test_weights_that_are_quantised_in_the_file_stay_parameters(tmp_path: Path) -> None:
    nodes = [
        node("QuantizeLinear", "w s z", "q", axis=0), node("DequantizeLinear", "q s z", "d", axis=0),
        node("Gemm", "x d", "g", transB=1), node("QuantizeLinear", "g t", "r"), node("DequantizeLinear", "r t"),
    ]  # fmt: skip
    constants = {"w": (4, 6), "s": np.array([0.02, 0.03, 0.04, 0.05], F32), "z": np.zeros(4, np.int8), "t": F32(0.1)}
    found = read_onnx(saved(model(nodes, {"x": (1, 6)}, constants), tmp_path))
    assert kinds(found) == ["linear", "opaque", "opaque"]
    assert set(found.network.parameters) == {"w"}
    assert len([note for note in found.notes if "QuantizeLinear" in note]) == 2  # a reason, and the sum
    head = saved(model(nodes[:3], {"x": (1, 6)}, constants, outputs=("g",)), tmp_path, "head.onnx")
    assert difference(head, {"x": np.linspace(-1, 1, 6, dtype=F32)[None]}) < 1e-6


def test_dynamic_quantisation_is_read(tmp_path: Path) -> None:
    nodes = [
        node("DynamicQuantizeLinear", "x", "q s z"), node("MatMulInteger", "q w z", "m"),
        node("Cast", "m", "f", to=TensorProto.FLOAT), node("Mul", "f s"),
    ]  # fmt: skip
    types = {"q": TensorProto.UINT8}
    found = read_onnx(saved(model(nodes, {"x": (1, 6)}, {"w": np.ones((6, 4), np.int8)}, types=types), tmp_path))
    assert "opaque" in kinds(found)
    assert found.network.tensor["w"].elements == 24


def test_without_onnx_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'sparseplan\[onnx\]'"):
        read_onnx(tmp_path / "any.onnx")


def test_numbers_of_a_formula_are_no_parameters_that_are_lost(tmp_path: Path) -> None:
    nodes = [node("Conv", "x w", "c"), node("Resize", "c roi scales", mode="nearest")]
    constants = {"w": (2, 3, 1, 1), "scales": np.array([1, 1, 2, 2], F32), "roi": np.zeros(0, F32)}
    found = read_onnx(saved(model(nodes, {"x": (1, 3, 4, 4)}, constants), tmp_path))
    assert (found.notes, found.fixed, found.network.parameters) == ((), (), ("w",))


def test_a_parameter_in_a_condition_stays_as_it_is_and_is_told(tmp_path: Path) -> None:
    nodes = [
        node("Greater", "w zero", "g"), node("Where", "g w zero", "kept"), node("Gemm", "x kept", "a"),
        node("Gemm", "x w", "b"), node("Add", "a b"),
    ]  # fmt: skip
    found = read_onnx(saved(model(nodes, {"x": (1, 3)}, {"w": (3, 3), "zero": F32(0)}), tmp_path))
    assert found.fixed == ("w",)
    (note,) = found.notes
    assert note.startswith("parameter 'w' is read as a constant for input 0 of node 'Where_kept' (Where)")


@pytest.mark.parametrize("through", ["Transpose", "Slice", "Reshape", "Cast", "float16", "bfloat16"])
def test_a_tied_weight_is_one_parameter_whatever_it_holds(through: str, tmp_path: Path) -> None:
    moves = {
        "Transpose": ([node("Transpose", "w", "m", perm=[1, 0])], lambda w: w.T),
        "Slice": ([node("Slice", "w zero two", "s"), node("Concat", "s s", "m", axis=0)], lambda w: w[[0, 1, 0, 1]]),
        "Reshape": ([node("Reshape", "w flat", "r"), node("Reshape", "r square", "m")], lambda w: w),
        "Cast": ([node("Cast", "w", "h", to=11), node("Cast", "h", "m", to=1)], lambda w: w),
        "float16": ([node("Cast", "w", "h", to=10), node("Cast", "h", "m", to=1)], lambda w: w),
        "bfloat16": ([node("Cast", "w", "h", to=16), node("Cast", "h", "m", to=1)], lambda w: w),
    }
    nodes, moved = moves[through]
    constants = {"zero": np.array([0], I64), "two": np.array([2], I64), "flat": np.array([2, 8], I64),
                 "square": np.array([4, 4], I64)}  # fmt: skip
    rng = np.random.default_rng(0)
    for w in (rng.standard_normal((4, 4)).astype(F32), np.ones((4, 4), F32)):  # the second is its own transpose
        ops = [*nodes, node("MatMul", "x w", "a"), node("MatMul", "a m")]
        found = read_onnx(saved(model(ops, {"x": (1, 4)}, {**constants, "w": w}), tmp_path))
        assert found.network.parameters == ("w",)
        x, target = rng.standard_normal((1, 4)).astype(F32), rng.standard_normal((1, 4)).astype(F32)
        _, grads = gradients(found.network, found.weights, {"x": x}, target, "mse")

        def loss(v: Any, x: Any = x, target: Any = target) -> Any:
            return ((x @ v @ moved(v) - target) ** 2).mean()

        step = 1e-5 * np.eye(16).reshape(16, 4, 4)
        v = w.astype(np.float64)
        slopes = np.array([loss(v + s) - loss(v - s) for s in step]).reshape(4, 4) / 2e-5
        layout = found.layouts.get("w", (0, 1))
        np.testing.assert_allclose(grads["w"], slopes.transpose(layout), rtol=1e-3, atol=1e-4)


def test_a_weight_that_is_read_as_it_is_and_in_8_bits_is_never_updated(tmp_path: Path) -> None:
    """The codes would stay when the weight moves, so neither moves, and a note says so."""
    nodes = [
        node("MatMul", "x w", "a"), node("QuantizeLinear", "w s z", "q"), node("DequantizeLinear", "q s z", "m"),
        node("MatMul", "a m", "b"), node("MatMul", "b v"),
    ]  # fmt: skip
    constants = {"w": (4, 4), "v": (4, 4), "s": F32(0.02), "z": np.int8(0)}
    path = saved(model(nodes, {"x": (1, 4)}, constants), tmp_path)
    found = read_onnx(path)
    assert set(found.network.parameters) - set(found.fixed) == {"v"}
    assert any(note.startswith("parameter 'w' is read as a constant") for note in found.notes)
    assert difference(path, {"x": np.random.default_rng(0).normal(size=(1, 4)).astype(F32)}) < 1e-4


def test_a_one_hot_of_its_own_node_times_a_table_is_an_embedding(tmp_path: Path) -> None:
    nodes = [node("OneHot", "ids depth values", "h"), node("MatMul", "h t")]
    constants = {"t": (9, 4), "depth": np.array(9, I64), "values": np.array([0, 1], F32)}
    path = saved(model(nodes, {"ids": (1, 5)}, constants, types={"ids": TensorProto.INT64}), tmp_path)
    assert kinds(read_onnx(path)) == ["embedding"]
    assert difference(path, {"ids": np.array([[0, 8, 3, 3, 1]], I64)}) < 1e-6
