"""Ops of which only shapes are known: what onnx's own inference, or the file, says of their outputs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparseplan.importers.draft import Array, Shape
from sparseplan.importers.onnxdata import DTYPES
from sparseplan.importers.onnxgraph import Model, Node, Port, captured

#: constants up to so many elements are shown to shape inference
_SHOWN = 4096
_MICROSOFT = "com.microsoft"
_NUMBERS = {dtype: number for number, dtype in reversed(DTYPES.items())}


#: ops that multiply and accumulate, and the input that is their weight
_WEIGHTS = {
    "Conv": 1, "ConvInteger": 1, "DynamicQuantizeMatMul": 1, "FusedConv": 1, "FusedMatMul": 1, "Gemm": 1, "MatMul": 1,
    "MatMulInteger": 1, "MatMulIntegerToFloat": 1, "QGemm": 3, "QLinearConv": 3, "QLinearMatMul": 3,
    "ConvTranspose": 1, "DeformConv": 1, "LSTM": 1, "GRU": 1, "RNN": 1,
}  # fmt: skip
#: ops that move elements or compare them
_MOVES = frozenset((
    "And", "ArgMax", "ArgMin", "Cast", "CastLike", "Compress", "Concat", "ConstantOfShape", "DepthToSpace", "Equal",
    "Expand", "EyeLike", "Flatten", "Gather", "GatherElements", "GatherND", "Greater", "GreaterOrEqual", "Identity",
    "IsInf", "IsNaN", "Less", "LessOrEqual", "Max", "MaxPool", "MaxRoiPool", "Min", "NonZero", "Not", "OneHot", "Or",
    "Pad", "Relu", "Reshape", "ReverseSequence", "ScatterElements", "ScatterND", "Shape", "Sign", "Size", "Slice",
    "SpaceToDepth", "Split", "Squeeze", "Tile", "TopK", "Transpose", "Trilu", "Unique", "Unsqueeze", "Where", "Xor",
))  # fmt: skip
#: ops of one multiplication an element, or one value of a curve
_POINTWISE = frozenset((
    "Abs", "Add", "Ceil", "Clip", "Cos", "DequantizeLinear", "Div", "Elu", "Erf", "Exp", "Floor", "Log", "Mod", "Mul",
    "Neg", "PRelu", "Pow", "QLinearAdd", "QLinearLeakyRelu", "QLinearMul", "QLinearSigmoid", "QuantizeLinear",
    "Reciprocal", "Round", "Sigmoid", "Sin", "Sqrt", "Sub", "Tan", "Tanh", "ThresholdedRelu", "Dropout", "Bernoulli",
    "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike",
))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Stated:
    """What is known of an input: full shape, element type, the array where it is constant."""

    name: str
    shape: Shape | None
    dtype: np.dtype[Any] | None
    array: Array | None


Output = tuple[Shape, "np.dtype[Any] | None"]


def outputs_of(model: Model, node: Node, inputs: Sequence[Stated], declared: Mapping[str, Port]) -> list[Output] | str:
    """Shapes and element types of a node's outputs, or why they are not known."""
    wanted = [name for name in node.outputs if name]
    told, reason = _inferred(model, node, inputs)
    result: list[Output] = []
    for i, name in enumerate(node.outputs):
        if name:
            port = told.get(name)
            if port is None or port.dims is None or not all(isinstance(n, int) for n in port.dims):
                port = declared.get(name, port)
            shape = _concrete(port, first=i == 0)
            if shape is None and told.get(name) is None:
                own = _own_shape(node, inputs)
                shape = own if i == 0 else None
            if shape is None:
                return reason or "neither shape inference nor the file tells them"
            dtype = DTYPES.get(port.dtype) if port is not None else None
        else:
            shape, dtype = (1,), None
        result.append((shape, dtype))
    while result and not node.outputs[len(result) - 1]:
        result.pop()
    return result if wanted else "it has no outputs"


def _concrete(port: Port | None, first: bool) -> Shape | None:
    """A declared shape, an open leading axis being the batch."""
    if port is None or port.dims is None:
        return None
    dims = [1 if i == 0 and not isinstance(n, int) else n for i, n in enumerate(port.dims)]
    return tuple(n for n in dims if isinstance(n, int)) if all(isinstance(n, int) for n in dims) else None


def _own_shape(node: Node, inputs: Sequence[Stated]) -> Shape | None:
    """Outputs of quantised ops that onnx does not know, but whose shapes are plain."""
    name = node.op.removeprefix(_MICROSOFT + ".")
    shapes = [i.shape for i in inputs]
    if not shapes or shapes[0] is None or not node.domain.startswith(_MICROSOFT):
        return None
    same = {"QLinearSigmoid", "QLinearLeakyRelu", "QLinearSoftmax", "DequantizeLinear", "QuantizeLinear", "QuickGelu",
            "BiasGelu", "FastGelu"}  # fmt: skip
    if name in same:
        return shapes[0]
    if name in ("QLinearAdd", "QLinearMul") and len(shapes) > 3 and shapes[3] is not None:
        try:
            return tuple(int(n) for n in np.broadcast_shapes(shapes[0], shapes[3]))
        except ValueError:
            return None
    if name == "QLinearGlobalAveragePool" and len(shapes[0]) > 2 and not _int(node, "channels_last", 0):
        return (*shapes[0][:2], *(1,) * (len(shapes[0]) - 2))
    if name in ("DynamicQuantizeMatMul", "MatMulIntegerToFloat", "FusedMatMul") and len(shapes) > 1:
        b = shapes[1]
        if b is not None and len(b) == 2 and shapes[0] and shapes[0][-1] == b[0]:
            return (*shapes[0][:-1], b[1])
    if name == "QGemm" and len(shapes) > 3 and shapes[3] is not None and len(shapes[3]) == len(shapes[0]) == 2:
        m = shapes[0][1 if _int(node, "transA", 0) else 0]
        return m, shapes[3][0 if _int(node, "transB", 0) else 1]
    return None


def _int(node: Node, name: str, default: int) -> int:
    attr = node.attrs.get(name)
    return int(attr.value) if attr is not None and attr.kind == "int" else default


def _inferred(model: Model, node: Node, inputs: Sequence[Stated]) -> tuple[dict[str, Port], str]:
    """What onnx's shape inference says of one node."""
    import onnx
    from google.protobuf.message import DecodeError, EncodeError
    from onnx import defs, helper, shape_inference

    version = model.opsets.get(node.domain, 1)
    try:
        schema = defs.get_schema(node.op.removeprefix(f"{node.domain}."), version, node.domain)
    except (defs.SchemaError, TypeError, OverflowError):  # the latter: no such version can be
        return {}, f"no operator {node.op} of opset {version} is known to onnx"
    types, data = {}, {}
    for stated in inputs:
        if not stated.name or stated.shape is None or stated.dtype is None:
            continue
        number = _NUMBERS.get(stated.dtype)
        if number is None:
            continue
        types[stated.name] = helper.make_tensor_type_proto(number, stated.shape)
        if stated.array is not None and stated.array.size <= _SHOWN and stated.array.dtype.kind in "iufb":
            raw = np.ascontiguousarray(stated.array)
            data[stated.name] = onnx.TensorProto(
                name=stated.name,
                data_type=number,
                dims=raw.shape,
                raw_data=raw.astype(raw.dtype.newbyteorder("<")).tobytes(),
            )
    opsets = [helper.make_opsetid(domain, number) for domain, number in model.opsets.items()]
    if _int(node, "num_outputs", 0) > max(1, len(node.outputs)):  # onnx would count them all
        return {}, f"num_outputs={_int(node, 'num_outputs', 0)}, but {len(node.outputs)} outputs are named"
    if any(name not in node.inputs for name in captured(node)):
        return {}, "its subgraph reads tensors from outside"
    try:
        found = shape_inference.infer_node_outputs(
            schema, node.proto, types, data, None, opset_imports=opsets, ir_version=model.ir_version
        )
    except (
        onnx.checker.ValidationError, shape_inference.InferenceError, DecodeError, EncodeError,
        RuntimeError, ValueError, TypeError, KeyError, IndexError,
    ) as error:  # fmt: skip
        return {}, " ".join(str(error).split())[:200]
    return {name: _port_of(name, proto) for name, proto in found.items()}, "onnx's shape inference does not tell them"


def _port_of(name: str, proto: Any) -> Port:
    tensor = proto.tensor_type
    if proto.WhichOneof("value") != "tensor_type" or not tensor.HasField("shape"):
        return Port(name, tensor.elem_type, None)
    return Port(
        name, tensor.elem_type, tuple(int(d.dim_value) if d.HasField("dim_value") else None for d in tensor.shape.dim)
    )


def draws(node: Node) -> bool:
    """Whether a node, or one within it, draws random numbers: a second run makes others."""
    name = node.op.rpartition(".")[2]
    if "Random" in name or name in ("Bernoulli", "Multinomial", "Sampling"):
        return True
    # a dropout that is read as opaque is one that is on
    return "Dropout" in name or any(draws(inner) for graph in node.graphs for inner in graph.nodes)


def macs_of(node: Node, shapes: Sequence[Shape | None], output: Shape) -> int | None:
    """Multiply-accumulates of a node, None where its shapes do not tell."""
    name = node.op.removeprefix(_MICROSOFT + ".")
    if name in _MOVES:
        return 0
    if name in _POINTWISE:
        return math.prod(output)
    at = _WEIGHTS.get(name)
    if at is None or at >= len(shapes):
        return None
    weight, given = shapes[at], shapes[0]
    if weight is None or len(weight) < 2:
        return None
    if name in ("LSTM", "GRU", "RNN"):
        again = shapes[2] if len(shapes) > 2 else None
        if given is None or again is None:
            return None
        return math.prod(given[:-1]) * (math.prod(weight) + math.prod(again))
    if "ConvTranspose" in name:
        return None if given is None else math.prod(given) * math.prod(weight[1:])
    if "Conv" in name:
        return math.prod(output) * math.prod(weight[1:])
    return math.prod(output) * (weight[-1] if _int(node, "transB", 0) else weight[-2])
