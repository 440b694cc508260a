"""Small ONNX models built in code, and their comparison with ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparseplan.importers import Imported
from sparseplan.importers.onnxfile import read_onnx
from sparseplan.run.forward import predict

onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install 'sparseplan[onnx]'")
ort = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

_TYPES = {"f": TensorProto.FLOAT, "i": TensorProto.INT64, "b": TensorProto.BOOL, "u": TensorProto.UINT8}


def node(op: str, inputs: str, outputs: str = "y", name: str = "", domain: str = "", **attrs: Any) -> Any:
    """A node; inputs and outputs as words, ``-`` standing for one left out."""
    words = [[w if w != "-" else "" for w in text.split()] for text in (inputs, outputs)]
    return helper.make_node(op, *words, name=name or f"{op}_{outputs.split()[0]}", domain=domain, **attrs)


def model(
    nodes: Sequence[Any],
    inputs: Mapping[str, Sequence[Any]],
    constants: Mapping[str, Any] | None = None,
    outputs: Sequence[str] = ("y",),
    opset: int = 17,
    types: Mapping[str, int] | None = None,
) -> Any:
    """A ModelProto; a tuple among the constants is a shape to be drawn."""
    rng = np.random.default_rng(7)
    made = {
        name: rng.standard_normal(c).astype(np.float32) if isinstance(c, tuple) else np.asarray(c)
        for name, c in (constants or {}).items()
    }
    known = types or {}
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info(n, known.get(n, TensorProto.FLOAT), list(s)) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, known.get(n, TensorProto.FLOAT), None) for n in outputs],
        [numpy_helper.from_array(a, n) for n, a in made.items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8 if opset < 21 else 10)


def saved(proto: Any, folder: Path, name: str = "model.onnx") -> Path:
    """A model as a file."""
    path = folder / name
    path.write_bytes(proto.SerializeToString())
    return path


def session(path: Path | str) -> Any:
    """ONNX Runtime's session, without its rewriting of the graph."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def difference(
    path: Path | str,
    feed: Mapping[str, Any],
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    fixed: Mapping[str, Any] | None = None,
    outputs: Sequence[str] | None = None,
) -> float:
    """The largest difference of any output to ONNX Runtime's, over that output's largest entry (at least 1)."""
    running = session(path)
    names = list(outputs or (o.name for o in running.get_outputs()))
    wanted = running.run(names, dict(feed))
    worst = 0.0
    for name, reference in zip(names, wanted, strict=True):
        got = read_onnx(path, shapes=shapes, fixed=fixed, outputs=[name])
        mine = {t: np.asarray(feed[t]).reshape(1, *got.network.tensor[t].shape) for t in got.network.inputs}
        y = predict(got.network, got.weights, mine)
        assert y.size == reference.size, f"{name}: {y.shape} for {reference.shape}"
        assert np.isfinite(reference).all(), f"{name}: what is compared has to be numbers"
        gap = np.abs(y.reshape(-1).astype(np.float64) - reference.reshape(-1).astype(np.float64))
        assert np.isfinite(gap).all(), f"{name} is not finite"  # which no comparison below would tell
        worst = max(worst, float(gap.max() / max(1.0, np.abs(reference).max())))
    return worst


def kinds(imported: Imported) -> list[str]:
    """Kinds of a network's ops in order."""
    return [op.kind for op in imported.network.ops]
