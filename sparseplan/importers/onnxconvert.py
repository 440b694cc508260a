"""Files of older opsets, converted by onnx to the oldest that the rules here speak of."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from sparseplan.errors import NetworkError
from sparseplan.importers.onnxdata import text_of

#: opsets that are read as they are, and that can be converted
MIN_OPSET, MIN_CONVERTED = 11, 7
#: larger constants are kept from the converter, which copies all that it sees
_SHOWN = 4096


def converted(proto: Any, opset: int) -> Any:
    """A model of ``opset`` as one of ``MIN_OPSET``; ``proto`` has been read once, so that it is well formed.

    Raises:
        NetworkError: onnx cannot convert it; names the reason.
    """
    import onnx
    from google.protobuf.message import DecodeError, EncodeError
    from onnx import checker, shape_inference, version_converter

    advice = "export it anew, of opset 11 or later"
    for node in _inner(proto.graph):
        if _changed(node, opset):
            raise NetworkError(
                f"is of opset {opset}, and onnx.version_converter does not convert a subgraph's "
                f"{text_of(node.op_type)[:80]} to opset {MIN_OPSET}; {advice}"
            )
    modes = {node.output[0]: _mode(node) for node in proto.graph.node if node.op_type in ("Resize", "Upsample")}
    slim = onnx.ModelProto()
    slim.CopyFrom(proto)
    slim.ir_version = max(int(proto.ir_version), 4)  # from then on initialisers need not be inputs, too
    large = [t for t in slim.graph.initializer if t.data_location == 1 or math.prod(t.dims) > _SHOWN]
    kept = [onnx.TensorProto.FromString(t.SerializeToString()) for t in large]
    known = {v.name for v in slim.graph.input}
    for tensor in large:
        if tensor.name not in known:
            slim.graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            )
    names = {t.name for t in kept}
    small = [t for t in slim.graph.initializer if t.name not in names]
    del slim.graph.initializer[:]
    slim.graph.initializer.extend(small)
    try:
        context = checker.C.CheckerContext()
        context.ir_version, context.opset_imports = slim.ir_version, {"": opset}
        for node in slim.graph.node:
            if text_of(node.domain) in ("", "ai.onnx"):
                checker.check_node(node, context)
        made = version_converter.convert_version(slim, MIN_OPSET)
    except (
        checker.ValidationError, shape_inference.InferenceError, version_converter.ConvertError, DecodeError,
        EncodeError, RuntimeError, ValueError, TypeError, IndexError,
    ) as error:  # fmt: skip
        reason = " ".join(str(error).split())
        raise NetworkError(
            f"is of opset {opset}, which onnx.version_converter cannot bring to {MIN_OPSET} ({reason[-200:]}); {advice}"
        ) from None
    made.graph.initializer.extend(kept)
    for node in made.graph.node:
        if node.op_type == "Resize" and not node.domain:  # the converter says nothing of what older opsets meant
            del node.attribute[:]
            node.attribute.extend(_older(modes.get(node.output[0], "nearest")))
    return made


def _mode(node: Any) -> str:
    return next((text_of(a.s) for a in node.attribute if a.name == "mode"), "nearest")


def _older(mode: str) -> list[Any]:
    """Attributes of a Resize that does what Upsample, or Resize of opset 10, does."""
    from onnx import helper

    wanted = {"mode": mode, "coordinate_transformation_mode": "asymmetric", "nearest_mode": "simple"}
    return [helper.make_attribute(name, value) for name, value in wanted.items()]


def _inner(graph: Any, inside: bool = False) -> Iterator[Any]:
    """Nodes of subgraphs."""
    for node in graph.node:
        if inside:
            yield node
        for attr in node.attribute:
            for sub in (*([attr.g] if attr.HasField("g") else []), *attr.graphs):
                yield from _inner(sub, True)


def _changed(node: Any, opset: int) -> bool:
    """Whether an operator means something else in the opset that is converted to."""
    from onnx import defs

    if text_of(node.domain) not in ("", "ai.onnx"):
        return False
    try:
        old, new = (defs.get_schema(text_of(node.op_type), v, "").since_version for v in (opset, MIN_OPSET))
    except defs.SchemaError:
        return True
    return bool(old != new)
