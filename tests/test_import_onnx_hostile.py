"""Malformed and hostile ONNX files give one line that names the file and what is wrong: soon, and in bounded memory."""

from __future__ import annotations

import gzip
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnxmodels import TensorProto, helper, model, node, numpy_helper, onnx, saved

from sparseplan.errors import NetworkError
from sparseplan.importers.onnxfile import read_onnx

I64 = np.int64
X = {"x": (1, 3, 4, 5)}


def ints(*numbers: int) -> Any:
    return np.array(numbers, I64)


def plain(**rest: Any) -> Any:
    """A model that is well-formed, to be spoilt."""
    return model([node("Conv", "x w b", "h"), node("Relu", "h")], X, {"w": (2, 3, 2, 2), "b": (2,)}, **rest)


SPOILS: dict[str, tuple[Callable[[], Any], str]] = {}


def spoil(name: str, match: str) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    def keep(make: Callable[[], Any]) -> Callable[[], Any]:
        assert name not in SPOILS
        SPOILS[name] = make, match
        return make

    return keep


def changed(name: str, match: str, change: Callable[[Any], Any]) -> None:
    """The plain model after ``change``."""

    def make() -> Any:
        proto = plain()
        change(proto)
        return proto

    spoil(name, match)(make)


def single(name: str, match: str, *args: Any, **rest: Any) -> None:
    """A model of these nodes."""
    spoil(name, match)(lambda: model(list(args), **{"inputs": X, **rest}))


# -- the file's frame ---------------------------------------------------------------------------------
changed("no graph", "no graph", lambda m: m.ClearField("graph"))
changed("no nodes", "no graph of any nodes", lambda m: m.graph.ClearField("node"))
changed("no opset", "names no opset", lambda m: m.ClearField("opset_import"))
changed("opset 5", "opset 5; 7 or later", lambda m: setattr(m.opset_import[0], "version", 5))
changed("opset negative", "opset -3", lambda m: setattr(m.opset_import[0], "version", -3))
changed("opset unknown", "opset 999999.*install a newer", lambda m: setattr(m.opset_import[0], "version", 999999))
changed("opset of another domain alone", "names no opset", lambda m: setattr(m.opset_import[0], "domain", "nobody"))
changed("functions", "functions of its own.*inline", lambda m: m.functions.add(name="f"))
changed("no outputs", "has no outputs", lambda m: m.graph.ClearField("output"))
changed("output of nobody", "output 'z' is made by no node", lambda m: setattr(m.graph.output[0], "name", "z"))
changed("sparse", "sparse initialisers", lambda m: m.graph.sparse_initializer.add())

# -- nodes --------------------------------------------------------------------------------------------
changed("no op type", "has no op_type", lambda m: setattr(m.graph.node[0], "op_type", ""))
changed(
    "unknown op", r"node 'Relu_y' \(Rleu\).*no operator Rleu", lambda m: setattr(m.graph.node[1], "op_type", "Rleu")
)
changed("unknown domain", r"\(nobody.Relu\).*no operator", lambda m: setattr(m.graph.node[1], "domain", "nobody"))
changed("missing input", "reads 'gone', which no node makes", lambda m: m.graph.node[0].input.__setitem__(0, "gone"))
changed("empty input", "input 0 is missing", lambda m: m.graph.node[1].input.__setitem__(0, ""))
changed("no inputs", "input 0 is missing", lambda m: m.graph.node[1].ClearField("input"))
changed("no outputs of a node", "no outputs", lambda m: m.graph.node[0].ClearField("output"))
changed("self loop", "form a cycle", lambda m: m.graph.node[0].input.__setitem__(0, "h"))
changed("cycle", "form a cycle: .* reads .* reads", lambda m: m.graph.node[0].input.__setitem__(0, "y"))
changed("made twice", "makes 'y' already", lambda m: m.graph.node[0].output.__setitem__(0, "y"))
changed("makes an input", "which is an input or an initialiser", lambda m: m.graph.node[0].output.__setitem__(0, "x"))
changed("makes a weight", "which is an input or an initialiser", lambda m: m.graph.node[0].output.__setitem__(0, "w"))
changed(
    "attribute twice",
    "given twice",
    lambda m: m.graph.node[0].attribute.extend([helper.make_attribute("group", 1)] * 2),
)
changed(
    "attribute of wrong kind",
    "'group' is of kind string",
    lambda m: m.graph.node[0].attribute.append(helper.make_attribute("group", "one")),
)
changed("attribute of no kind", "is of type 0", lambda m: m.graph.node[0].attribute.add(name="group"))
changed(
    "attribute that refers",
    "refers to a function",
    lambda m: m.graph.node[0].attribute.add(name="group", type=2, ref_attr_name="g"),
)
changed("group 0", "group=0", lambda m: m.graph.node[0].attribute.append(helper.make_attribute("group", 0)))
changed("group negative", "group=-1", lambda m: m.graph.node[0].attribute.append(helper.make_attribute("group", -1)))
changed("stride 0", "strides", lambda m: m.graph.node[0].attribute.append(helper.make_attribute("strides", [0, 0])))
changed("pads too few", "pads", lambda m: m.graph.node[0].attribute.append(helper.make_attribute("pads", [1])))
changed("pads negative", "pads", lambda m: m.graph.node[0].attribute.append(helper.make_attribute("pads", [-1] * 4)))
changed(
    "kernel of another size",
    "kernel_shape",
    lambda m: m.graph.node[0].attribute.append(helper.make_attribute("kernel_shape", [7, 7])),
)
changed(
    "auto_pad unknown",
    "auto_pad='LEFT'",
    lambda m: m.graph.node[0].attribute.append(helper.make_attribute("auto_pad", "LEFT")),
)
changed(
    "dilation huge",
    "node 'Conv_h'",
    lambda m: m.graph.node[0].attribute.append(helper.make_attribute("dilations", [2**40] * 2)),
)
changed("nodes without end", "over 20000 nodes", lambda m: m.graph.node.extend([node("Relu", "x", "q")] * 20_001))
changed(
    "name that does not print",
    "node",
    lambda m: (setattr(m.graph.node[1], "op_type", "Re\nlu"), setattr(m.graph.node[1], "name", "a\r\nb")),
)

# -- inputs and initialisers ----------------------------------------------------------------------------
changed("input twice", "input 'x' is there twice", lambda m: m.graph.input.append(m.graph.input[0]))
changed("input without type", "is no tensor", lambda m: m.graph.input[0].ClearField("type"))
changed(
    "input a sequence",
    "is no tensor",
    lambda m: m.graph.input[0].type.sequence_type.elem_type.tensor_type.SetInParent(),
)
changed("input of strings", "element type 8", lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", 8))
changed(
    "input without shape",
    r"no shape in the file; give shapes=",
    lambda m: m.graph.input[0].type.tensor_type.ClearField("shape"),
)
changed(
    "input open",
    r"leaves axis 2 open; give shapes=\{'x': \(1, 3, N2, 5\)\}, or --shape x=1,3,N2,5",
    lambda m: m.graph.input[0].type.tensor_type.shape.dim[2].Clear(),
)
changed(
    "input negative",
    "leaves axis 2 open",
    lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[2], "dim_value", -7),
)
changed(
    "input huge",
    "2\\*\\*40",
    lambda m: [setattr(d, "dim_value", 2**62) for d in m.graph.input[0].type.tensor_type.shape.dim[2:]],
)
changed(
    "input of many axes",
    "axes",
    lambda m: [m.graph.input[0].type.tensor_type.shape.dim.add(dim_value=1) for _ in range(99)],
)
changed(
    "channels do not fit",
    "do not fit a weight",
    lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[1], "dim_value", 4),
)
changed("initialiser twice", "used twice", lambda m: m.graph.initializer.append(m.graph.initializer[0]))
changed("initialiser nameless", "nameless", lambda m: m.graph.initializer[0].ClearField("name"))
changed(
    "bytes too few",
    "take 96 bytes, but 92 are there",
    lambda m: setattr(m.graph.initializer[0], "raw_data", m.graph.initializer[0].raw_data[:-4]),
)
changed(
    "bytes too many",
    "bytes, but 97",
    lambda m: setattr(m.graph.initializer[0], "raw_data", m.graph.initializer[0].raw_data + b"x"),
)
changed("dims negative", "negative extent", lambda m: m.graph.initializer[0].dims.__setitem__(0, -2))
changed("dims huge", "2\\*\\*40", lambda m: m.graph.initializer[0].dims.__setitem__(0, 2**62))
changed("dims that overflow", "2\\*\\*40", lambda m: m.graph.initializer[0].dims.extend([2**31] * 4))
changed("dims without bytes", "bytes, but 96 are there", lambda m: m.graph.initializer[0].dims.__setitem__(0, 2**30))
changed("dims zero", "take 0 bytes", lambda m: m.graph.initializer[0].dims.__setitem__(0, 0))
changed("dims many", "40 axes", lambda m: m.graph.initializer[0].dims.extend([1] * 36))
changed("type unknown", "element type 99", lambda m: setattr(m.graph.initializer[0], "data_type", 99))
changed("type complex", "complex", lambda m: setattr(m.graph.initializer[0], "data_type", 14))
changed(
    "strings",
    "strings",
    lambda m: m.graph.initializer[0].CopyFrom(helper.make_tensor("w", TensorProto.STRING, [1], [b"a"])),
)
changed("segments", "segments", lambda m: setattr(m.graph.initializer[0].segment, "begin", 1))
changed(
    "weights of integers",
    "node 'Conv_h'",
    lambda m: m.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ones((2, 3), I64), "w")),
)
changed(
    "weights of NaN",
    "NaN",
    lambda m: m.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.full((2, 3, 2, 2), np.nan, np.float32), "w")),
)
changed(
    "list too short",
    "12 elements, but 1 are listed",
    lambda m: m.graph.initializer[0].CopyFrom(TensorProto(name="w", data_type=1, dims=[12], float_data=[1.0])),
)
changed(
    "bias of another size",
    "bias",
    lambda m: m.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.ones(7, np.float32), "b")),
)

# -- what would be computed -----------------------------------------------------------------------------
single(
    "filled with 1e12",
    "at most 2",
    node("ConstantOfShape", "s", "c"),
    node("Add", "x c"),
    constants={"s": ints(1000000, 1000000)},
)
single(
    "filled with a negative extent",
    "negative",
    node("ConstantOfShape", "s", "c"),
    node("Add", "x c"),
    constants={"s": ints(-1)},
)
single(
    "filled again and again",
    "2\\*\\*26",
    *[node("ConstantOfShape", "s", f"c{i}") for i in range(9)],
    node("Sum", "x " + " ".join(f"c{i}" for i in range(9))),
    constants={"s": ints(2**24)},
)
single(
    "tiled constant",
    "at most 2",
    node("Tile", "c r", "t"),
    node("Add", "x t"),
    constants={"c": np.ones(1000, np.float32), "r": ints(10**9)},
)
single("tiled input", "2\\*\\*40", node("Tile", "x r"), constants={"r": ints(1, 1, 10**9, 10**9)})
single(
    "expanded constant",
    "at most 2",
    node("Expand", "c s", "t"),
    node("Add", "x t"),
    constants={"c": np.ones(1, np.float32), "s": ints(10**6, 10**6)},
)
single(
    "expanded input",
    "2\\*\\*40",
    node("Expand", "x s"),
    constants={"s": ints(10**9, 10**9, 1, 1, 1, 1)},
    inputs={"x": (1, 1, 1, 1)},
)
single(
    "range",
    "at most 2",
    node("Range", "a b d", "c"),
    node("Cast", "c", "f", to=1),
    node("Add", "x f"),
    constants={"a": np.array(0, I64), "b": np.array(10**12, I64), "d": np.array(1, I64)},
)
single(
    "range without end",
    "no range",
    node("Range", "a b d", "c"),
    node("Add", "x c"),
    constants={"a": np.float32(0), "b": np.float32(np.inf), "d": np.float32(1)},
)
single(
    "range of steps of 0",
    "no range",
    node("Range", "a b d", "c"),
    node("Add", "x c"),
    constants={"a": np.float32(0), "b": np.float32(5), "d": np.float32(0)},
)
single("reshape to huge", "does not hold", node("Reshape", "x s"), constants={"s": ints(10**12)})
single("reshape to -2", "extents, and -1", node("Reshape", "x s"), constants={"s": ints(-2, 3)})
single("reshape by floats", "list of integers", node("Reshape", "x s"), constants={"s": np.array([1.5, 2], np.float32)})
single("pad by 1e9", "2\\*\\*40", node("Pad", "x p"), constants={"p": ints(0, 0, 10**9, 10**9, 0, 0, 10**9, 10**9)})
single("pad to nothing", "empty|nothing", node("Pad", "x p"), constants={"p": ints(0, 0, -9, 0, 0, 0, 0, 0)})
single("resize by 1e9", "Resize", node("Resize", "x - s"), constants={"s": np.array([1, 1, 1e9, 1e9], np.float32)})
single("resize to 1e9", "Resize", node("Resize", "x - - s"), constants={"s": ints(1, 3, 10**9, 10**9)})
single("resize by NaN", "above 0", node("Resize", "x - s"), constants={"s": np.array([1, 1, np.nan, 1], np.float32)})
single("resize by nothing", "neither scales nor sizes", node("Resize", "x"))
single(
    "outer product",
    "at most 2",
    node("MatMul", "a b", "c"),
    node("Add", "x c"),
    constants={"a": np.ones((2**13, 1), np.float32), "b": np.ones((1, 2**13), np.float32)},
)
single(
    "broadcast constants",
    "at most 2",
    node("Add", "a b", "c"),
    node("Add", "x c"),
    constants={"a": np.ones((2**13, 1), np.float32), "b": np.ones((1, 2**13), np.float32)},
)
single(
    "gathered constant",
    "at most 2",
    node("Gather", "a i", "c"),
    node("Add", "x c"),
    constants={"a": np.ones((2, 2**13), np.float32), "i": np.zeros(2**12, I64)},
)
single(
    "concatenated constant",
    "at most 2",
    node("Concat", " ".join(["a"] * 20), "c", axis=0),
    node("Add", "x c"),
    constants={"a": np.ones(2**20, np.float32)},
)
single(
    "integers divided by 0",
    "by 0",
    node("Div", "a z", "c"),
    node("Reshape", "x c"),
    constants={"a": ints(4), "z": ints(0)},
)
single("gather beyond", "outside extent", node("Gather", "x i", axis=1), constants={"i": ints(3)})
single("gather nothing", "gather nothing", node("Gather", "x i", axis=1), constants={"i": np.zeros(0, I64)})
single("axis beyond", "beyond rank", node("Softmax", "x", axis=9))
single("perm twice", "no permutation", node("Transpose", "x", perm=[0, 0, 1, 2]))
single("squeeze of more than one", "not 1 long", node("Squeeze", "x a"), constants={"a": ints(1)})
single("unsqueeze without end", "axes", node("Unsqueeze", "x a"), constants={"a": np.arange(1000, dtype=I64)})
single(
    "slice of nothing", "nothing of axis|empty", node("Slice", "x s e"), constants={"s": ints(0, 3), "e": ints(1, 3)}
)
single(
    "slice steps of 0",
    "must not be 0",
    node("Slice", "x s e a t"),
    constants={"s": ints(0), "e": ints(1), "a": ints(1), "t": ints(0)},
)
single("split that does not fit", "does not cut", node("Split", "x s", "y z", axis=1), constants={"s": ints(2, 2)})
single("split into a million", "num_outputs", node("Split", "x", "y z", axis=1, num_outputs=10**9), opset=18)
single("shapes that do not spread", "do not broadcast", node("Add", "x z"), inputs={**X, "z": (1, 3, 4, 7)})
single(
    "lstm of wrong weights",
    "expected",
    node("LSTM", "x w r", "y", hidden_size=4),
    inputs={"x": (5, 1, 6)},
    constants={"w": (1, 16, 7), "r": (1, 16, 4)},
)
single(
    "lstm of a huge state",
    "expected",
    node("LSTM", "x w r", "y", hidden_size=2**40),
    inputs={"x": (5, 1, 6)},
    constants={"w": (1, 16, 6), "r": (1, 16, 4)},
)
single("depth to nowhere", "channels", node("DepthToSpace", "x", blocksize=2**40))
single("einsum nonsense", "Einsum", node("Einsum", "x x", equation="->->...,,"))
single("constants alone", "constants alone", node("Add", "c c"), constants={"c": (4,)})
single(
    "a loop that is not known",
    "Loop",
    node(
        "Loop",
        "m - x",
        "y",
        body=helper.make_graph(
            [node("Relu", "q", "r")],
            "b",
            [helper.make_tensor_value_info("q", 1, None)],
            [helper.make_tensor_value_info("r", 1, None)],
        ),
    ),
    constants={"m": np.array(10**9, I64)},
)
single(
    "a sequence",
    "SequenceConstruct|sequence",
    node("SequenceConstruct", "x x", "s"),
    node("SequenceAt", "s i", "y"),
    constants={"i": np.array(0, I64)},
)
single(
    "constant of two values", "exactly one", node("Constant", "", "c", value_int=1, value_float=2.0), node("Add", "x c")
)
single(
    "constant of strings",
    "no constant that can be read",
    node("Constant", "", "c", value_string="abc"),
    node("Add", "x c"),
)


@spoil("split of truth values into a million", "num_outputs=1000000000, but 2")
def _split() -> Any:
    cut = node("Split", "x", "y z", axis=1, num_outputs=10**9)
    return model([cut], X, types={"x": TensorProto.BOOL, "y": TensorProto.BOOL}, opset=18)


@spoil("condition of an input", "condition is not constant; fix an input that it depends on, as fixed={'s'")
def _condition() -> Any:
    branch = helper.make_graph([node("Relu", "x", "r")], "b", [], [helper.make_tensor_value_info("r", 1, None)])
    test = node("Equal", "s one", "c")
    nodes = [test, node("If", "c", "y", then_branch=branch, else_branch=branch)]
    return model(nodes, {**X, "s": ()}, {"one": np.array(1, I64)}, types={"s": TensorProto.INT64})


@spoil("subgraphs in subgraphs", "nested more than 16 deep|no ONNX model")
def _nested() -> Any:
    graph = helper.make_graph([node("Relu", "x", "r0")], "b0", [], [helper.make_tensor_value_info("r0", 1, None)])
    for i in range(1, 25):
        inner = node("If", "t", f"r{i}", then_branch=graph, else_branch=graph if i < 4 else _leaf(i))
        graph = helper.make_graph([inner], f"b{i}", [], [helper.make_tensor_value_info(f"r{i}", 1, None)])
    outer = node("If", "t", "y", then_branch=graph, else_branch=_leaf(99))
    return model([outer], X, {"t": np.array(True)})


def _leaf(i: int) -> Any:
    return helper.make_graph(
        [node("Relu", "x", f"l{i}")], f"l{i}", [], [helper.make_tensor_value_info(f"l{i}", 1, None)]
    )


def _outside(**entries: str) -> Callable[[Any], None]:
    def change(proto: Any) -> None:
        tensor = proto.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=value)

    return change


changed("external without a place", "without a location", _outside(offset="0"))
changed("external above", "outside the model's folder", _outside(location="../secret.bin"))
changed("external above, hidden", "outside the model's folder", _outside(location="a/../../secret.bin"))
changed("external above, backwards", "outside the model's folder", _outside(location="..\\secret.bin"))
changed("external absolute", "outside the model's folder", _outside(location="/etc/passwd"))
changed("external of a drive", "outside the model's folder", _outside(location="C:\\secret.bin"))
changed("external absent", "cannot be read: No such file", _outside(location="gone.bin"))
changed("external empty name", "give the name", _outside(location=""))
changed("external with a zero byte", "give the name", _outside(location="a\0b"))
changed("external a folder", "no regular file", _outside(location="folder"))
changed("external behind a link", "by a link", _outside(location="link.bin"))
changed("external links in a circle", "cannot be read", _outside(location="circle.bin"))
changed("external offset beyond", "reach beyond the 96 bytes", _outside(location="data.bin", offset="4"))
changed("external offset negative", "whole number", _outside(location="data.bin", offset="-4"))
changed("external offset huge", "whole number|reach beyond", _outside(location="data.bin", offset="9" * 30))
changed("external length of another", "but its dims take 96", _outside(location="data.bin", length="95"))
changed("external twice", "twice", lambda m: (_outside(location="data.bin")(m), _outside(location="data.bin")(m)))


def _fails(path: Path, match: str, **rest: Any) -> str:
    before = time.perf_counter()
    with pytest.raises(NetworkError, match=match) as caught:
        read_onnx(path, **rest)
    assert time.perf_counter() - before < 60  # far beyond what a busy machine takes: it hangs
    text = str(caught.value)
    assert path.name in text
    assert "\n" not in text
    assert len(text) < 2500
    return text


@pytest.mark.parametrize("name", SPOILS)
def test_one_line_that_names_what_is_wrong(name: str, tmp_path: Path) -> None:
    make, match = SPOILS[name]
    inside = tmp_path / "inside"
    (inside / "folder").mkdir(parents=True)
    (tmp_path / "secret.bin").write_bytes(bytes(96))
    (inside / "data.bin").write_bytes(bytes(96))
    (inside / "link.bin").symlink_to(tmp_path / "secret.bin")
    (inside / "circle.bin").symlink_to(inside / "circle.bin")
    _fails(saved(make(), inside), match)


def test_external_data_beside_the_model_are_read(tmp_path: Path) -> None:
    proto = plain()
    weight = numpy_helper.to_array(proto.graph.initializer[0])
    (tmp_path / "data.bin").write_bytes(b"1234" + proto.graph.initializer[0].raw_data)
    _outside(location="data.bin", offset="4", length="96")(proto)
    np.testing.assert_array_equal(read_onnx(saved(proto, tmp_path)).weights["w"], weight)


def test_nodes_out_of_order_are_sorted(tmp_path: Path) -> None:
    proto = plain()
    first, second = proto.graph.node[0], proto.graph.node[1]
    nodes = [onnx.NodeProto.FromString(n.SerializeToString()) for n in (second, first)]
    proto.graph.ClearField("node")
    proto.graph.node.extend(nodes)
    assert [op.kind for op in read_onnx(saved(proto, tmp_path)).network.ops] == ["conv", "relu"]


@pytest.mark.parametrize(
    ("raw", "match"),
    [
        (b"", "is empty"),
        (b"hello, I am a text file\n" * 9, "no ONNX model|no graph"),
        (gzip.compress(b"model", mtime=0), "compressed"),
        (b"PK\x03\x04 zip", "zip archive|no ONNX model"),
        (b"\x80\x04\x95pickle", "no ONNX model|no graph"),
        (b"{\"format\": 1}", "no ONNX model|no graph"),
        (b"\x00" * 4096, "no ONNX model"),
        (b"\x0a" * 4096, "no ONNX model|no graph"),
        (b"\x3a" * 100_000, "no ONNX model|no graph"),
    ],
)  # fmt: skip
def test_files_of_another_kind(raw: bytes, match: str, tmp_path: Path) -> None:
    path = tmp_path / "other.onnx"
    path.write_bytes(raw)
    _fails(path, match)


def test_no_files(tmp_path: Path) -> None:
    _fails(tmp_path, "no regular file")
    _fails(tmp_path / "gone.onnx", "cannot be read: No such file")
    with pytest.raises(NetworkError, match="cannot be read"):
        read_onnx("a\0b.onnx")
    if Path("/dev/zero").exists():
        with pytest.raises(NetworkError, match="no regular file"):
            read_onnx("/dev/zero")


def test_a_file_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large.onnx"
    with path.open("wb") as file:
        file.truncate(2**31)
    _fails(path, "at most 1073741824 are read")


def test_arguments_that_do_not_fit(tmp_path: Path) -> None:
    path = saved(plain(), tmp_path)
    _fails(path, "shapes names input 'z', which is unknown; did you mean|known: x", shapes={"z": (1, 2)})
    _fails(path, "fixed names input 'z'", fixed={"z": 3})
    _fails(path, "has 4 axes, but", shapes={"x": (1, 3)})
    _fails(path, "must be integers of at least 1", shapes={"x": (1, 3, 0, 5)})
    _fails(path, "is 4 long along axis 2", shapes={"x": (1, 3, 9, 5)})
    _fails(path, "output 'q' is unknown", outputs=["q"])
    _fails(path, r"outputs=\[\] name none", outputs=[])
    _fails(path, "neither a number nor an array", fixed={"x": "three"})
    _fails(path, "has 2 axes; the input has 4", fixed={"x": [[1, 2]]})


RAW = plain().SerializeToString()


@pytest.mark.parametrize("length", range(1, len(RAW), max(1, len(RAW) // 60)))
def test_cut_short(length: int, tmp_path: Path) -> None:
    path = tmp_path / "cut.onnx"
    path.write_bytes(RAW[:length])
    with pytest.raises(NetworkError, match=r"cut\.onnx") as caught:
        read_onnx(path)
    assert "\n" not in str(caught.value)


@given(
    flips=st.lists(st.tuples(st.integers(0, len(RAW) - 1), st.integers(0, 255)), min_size=1, max_size=12),
    cut=st.integers(0, 40),
)
def test_bytes_changed_at_random(
    flips: list[tuple[int, int]], cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    raw = bytearray(RAW[: len(RAW) - cut] if cut > 20 else RAW)
    for at, byte in flips:
        raw[at % len(raw)] = byte
    path = tmp_path_factory.mktemp("fuzz") / "fuzzed.onnx"
    path.write_bytes(raw)
    said = ""
    try:
        read_onnx(path)
    except NetworkError as error:
        said = str(error)
    assert not said or "fuzzed.onnx" in said
    assert "\n" not in said


_WORDS = ("1e12", "1e9", "huge", "again", "tiled", "expanded", "range", "outer", "broadcast constants", "gathered")
_WORDS += ("concatenated", "overflow", "without bytes", "without end")
BOMBS = [name for name in SPOILS if any(word in name for word in _WORDS)]


def test_bombs_in_little_memory(tmp_path: Path) -> None:
    paths = []
    for i, name in enumerate(BOMBS):
        proto = SPOILS[name][0]()
        paths.append(saved(proto, tmp_path, f"bomb{i}.onnx"))
    program = (
        "import resource, sys\n"
        "from sparseplan.errors import NetworkError\n"
        "from sparseplan.importers.onnxfile import read_onnx\n"
        "import onnx\n"
        "held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for path in sys.argv[1:]:\n"
        "    try:\n        read_onnx(path)\n"
        "    except NetworkError:\n        continue\n"
        "    raise SystemExit(path + ' was read')\n"
        "more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - held\n"
        "print(more)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, paths)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout) < 800 * 1024  # KiB: nine arrays of 2**24 floats at most, and no more
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss > 0
