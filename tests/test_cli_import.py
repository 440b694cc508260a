"""Commands that bring networks in and take plans out, as a stranger types them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparseplan.cli import main
from sparseplan.run.forward import predict
from sparseplan.sources import folded, imported
from sparseplan.weights import read_weights

onnx = pytest.importorskip("onnx")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Convolution, batch-norm, ReLU, pooling, a linear layer; height and width are open."""
    rng = np.random.default_rng(0)
    arrays = {
        "stem.weight": rng.standard_normal((4, 3, 3, 3)), "norm.weight": rng.random(4) + 0.5,
        "norm.bias": rng.standard_normal(4), "norm.running_mean": rng.standard_normal(4),
        "norm.running_var": rng.random(4) + 0.5, "head.weight": rng.standard_normal((4, 5)),
        "head.bias": rng.standard_normal(5),
    }  # fmt: skip
    nodes = [
        onnx.helper.make_node("Conv", ["image", "stem.weight"], ["a"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        onnx.helper.make_node("BatchNormalization", ["a", "norm.weight", "norm.bias", "norm.running_mean",
                                                     "norm.running_var"], ["b"]),
        onnx.helper.make_node("Relu", ["b"], ["c"]),
        onnx.helper.make_node("GlobalAveragePool", ["c"], ["d"]),
        onnx.helper.make_node("Flatten", ["d"], ["e"]),
        onnx.helper.make_node("Gemm", ["e", "head.weight", "head.bias"], ["logits"]),
    ]  # fmt: skip
    of = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes, "small", [of("image", 1, ["n", 3, "h", "w"])], [of("logits", 1, ["n", 5])],
        [onnx.numpy_helper.from_array(a.astype(np.float32), name) for name, a in arrays.items()],
    )  # fmt: skip
    path = tmp_path / "small net.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def said(capsys: pytest.CaptureFixture[str], *argv: object, code: int = 0) -> tuple[str, str]:
    """What a command prints on both streams."""
    assert main([str(a) for a in argv]) == code
    out, err = capsys.readouterr()
    return out, err


def asked(capsys: pytest.CaptureFixture[str], *argv: object) -> Any:
    """The JSON value that a command prints."""
    return json.loads(said(capsys, *argv, "--json")[0])


def test_import_plan_export(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec, weights, plan = tmp_path / "net.json", tmp_path / "w.npz", tmp_path / "plan.json"
    facts = asked(capsys, "import", model, "--shape", "image=1,3,8,8", "-o", spec, "--weights-out", weights)
    assert facts["inputs"] == {"image": [3, 8, 8]}
    assert facts["parameters"] == 108 + 16 + 25
    assert facts["kinds"]["batch_norm"] == 1
    assert facts["frozen_kinds"] == []
    found = imported(str(model), shapes={"image": (1, 3, 8, 8)})
    again = read_weights(weights, found.network)
    assert all(np.array_equal(again[p], a) for p, a in found.weights.items())
    planned = asked(capsys, "plan", model, "--shape", "image=1,3,8,8", "--l2", "4kB", "--dtype", "fp32", "-o", plan)
    assert planned["status"] == "OPTIMAL"
    assert "norm.running_mean" not in planned["update"]
    assert said(capsys, "run", plan, "--weights", weights)
    for target, out in (("json", "again.json"), ("torch", "follow.py"), ("c", "build")):
        assert asked(capsys, "export", plan, "--to", target, "-o", tmp_path / out, "--weights", weights)["to"] == target
    assert (tmp_path / "again.json").read_bytes() == plan.read_bytes()
    compile((tmp_path / "follow.py").read_text(), "follow.py", "exec")
    assert sorted(p.suffix for p in (tmp_path / "build").iterdir()) == [".c", ".h"]


def test_folding_keeps_the_function(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = asked(capsys, "import", model, "--shape", "image=1,3,8,8", "--fold")
    assert "batch_norm" not in facts["kinds"]
    assert any("1 norms are folded" in note for note in facts["notes"])
    found = imported(str(model), shapes={"image": (1, 3, 8, 8)})
    bare = folded(found)
    x = {"image": np.random.default_rng(1).standard_normal((2, 3, 8, 8)).astype(np.float32)}
    np.testing.assert_allclose(
        predict(bare.network, bare.weights, x), predict(found.network, found.weights, x), rtol=1e-5, atol=1e-5
    )


def test_constants_of_the_file_are_neither_measured_nor_updated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    arrays = {"v": rng.random((2, 4, 1, 1))}
    numbers = {"w": rng.random((4, 3, 3, 3)), "two": np.full((1, 1, 1, 3), 2)}
    nodes = [
        *(onnx.helper.make_node("Constant", [], [name], value=onnx.numpy_helper.from_array(a.astype(np.float32)))
          for name, a in numbers.items()),
        onnx.helper.make_node("Mul", ["w", "two"], ["made"]),
        onnx.helper.make_node("Conv", ["x", "made"], ["a"]),
        onnx.helper.make_node("Conv", ["a", "v"], ["y"]),
    ]  # fmt: skip
    of = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes, "fixed", [of("x", 1, [1, 3, 8, 8])], [of("y", 1, None)],
        [onnx.numpy_helper.from_array(a.astype(np.float32), name) for name, a in arrays.items()],
    )  # fmt: skip
    path, worth = tmp_path / "fixed.onnx", tmp_path / "worth.json"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), path)
    assert len(imported(str(path)).fixed) == 1
    assert asked(capsys, "value", path, "--by", "magnitude", "-o", worth)["values"].keys() == {"v"}
    assert asked(capsys, "plan", path, "--l2", "10kB", "--value", worth)["update"].keys() == {"v"}


def test_schemas_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    for what in ("plan", "network"):
        assert json.loads(said(capsys, "schema", what)[0])["title"]


def test_mistakes(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    known = ("--shape", "image=1,3,8,8")
    for argv, message in [
        (("import", model), "leaves axis 2 .'h'. open; give --shape image=1,3,N2,N3$"),
        (("import", model, "--shape", "picture=1,3,8,8"), "picture"),
        (("import", model, "--shape", "image=1,3,8"), "image"),
        (("import", model, "--shape", "image=1,3,-8,8"), "must be INPUT=N,C,H,W"),
        (("import", model, *known, "--fix", "image"), "must be INPUT=NUMBER"),
        (("import", model, *known, "--fix", "sr=16000"), "sr"),
        (("import", model, *known, "--output", "nothing"), "nothing"),
        (("import", "upydnet", "--shape", "image=1,3,8,8"), "for ONNX files"),
        (("import", "upydnet", "--weights-out", tmp_path / "no" / "w.npz"), "does not exist"),
        (("import", "resnet8", "--fold"), "without parameters"),
        (("import", tmp_path / "absent.onnx"), r"absent\.onnx"),
        (("import", "sparseplan.nothing:make"), "PyTorch cannot be imported|nothing"),
        (("export", tmp_path / "absent.json", "--to", "c", "-o", tmp_path / "build"), r"absent\.json"),
    ]:
        _, err = said(capsys, *argv, code=2)
        assert len(err.strip().splitlines()) == 1, err
        assert re.search(message, err), err
    assert not (tmp_path / "build").exists()
