"""C kernels where tolerances would hide a fault: rounding bit for bit, equals in a pool, parts of weights."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import numpy as np
import pytest
from compiled import COMPILER, FLAGS, Compiled
from planted import plan_of, problem_of
from test_export_c import check
from test_run import planned

from sparseplan.builder import NetworkBuilder, init_parameters
from sparseplan.dtypes import numpy_dtype
from sparseplan.exporters.c import library
from sparseplan.run.runner import random_data

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C compiler: install one that is called cc")

_WRAPPED = "\n".join(
    f"void {way}({a} *x, {b} *y, uint32_t n) {{ uint32_t i; for (i = 0; i < n; i++) y[i] = sp_{way}(x[i]); }}"
    for dtype in ("bf16", "fp16")
    for way, a, b in ((f"to_{dtype}", "const float", "uint16_t"), (f"from_{dtype}", "const uint16_t", "float"))
)


@pytest.fixture(scope="module")
def rounding(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The functions of core.c that round."""
    folder = tmp_path_factory.mktemp("rounding")
    text = library.gather(["sp_to_bf16", "sp_to_fp16", "sp_from_bf16", "sp_from_fp16"])
    (folder / "r.c").write_text("#include <stdint.h>\n#include <string.h>\n" + text + _WRAPPED)
    flags = [f for f in FLAGS if f not in ("-Werror", "-Wall", "-Wextra")]
    command = [str(COMPILER), *flags, "-O1", "-shared", "-fPIC", str(folder / "r.c"), "-o", str(folder / "r.so")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(folder / "r.so"))


def called(function: object, given: np.ndarray, made: type) -> np.ndarray:
    out = np.empty(given.shape, made)
    function(given.ctypes.data_as(ctypes.c_void_p), out.ctypes.data_as(ctypes.c_void_p), given.size)  # type: ignore[operator]
    return out


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_storage_rounds_as_numpy_does(dtype: str, rounding: ctypes.CDLL) -> None:
    """Every value of 16 bits, all ties between neighbours and what lies beside them, and numbers of every size."""
    codes = np.arange(2**16, dtype=np.uint16)
    exact = called(getattr(rounding, f"from_{dtype}"), codes, np.float32)
    if dtype == "fp16":
        wanted = codes.view(np.float16).astype(np.float32)
    else:
        wanted = (codes.astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(exact, wanted)
    finite = np.unique(wanted[np.isfinite(wanted)]).astype(np.float64)
    ties = ((finite[1:] + finite[:-1]) / 2).astype(np.float32)
    beside = np.concatenate([np.nextafter(ties, np.float32(s * np.inf), dtype=np.float32) for s in (-1, 1)])
    rng = np.random.default_rng(1)
    some = rng.integers(0, 2**32, 100_000, dtype=np.uint32).view(np.float32)
    x = np.ascontiguousarray(np.concatenate([exact, ties, beside, some]))
    got = called(getattr(rounding, f"from_{dtype}"), called(getattr(rounding, f"to_{dtype}"), x, np.uint16), np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = x.astype(numpy_dtype(dtype)).astype(np.float32)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("pick", ["index", "x0"])
def test_the_first_of_equals_gets_the_gradient(pick: str, tmp_path: Path) -> None:
    """All of a pool's inputs are equal, but what they were made from is not: the weight's gradient tells which."""
    net = NetworkBuilder("equals")
    stem = net.conv(net.input("image", (2, 6, 6)), 2, 1, name="stem")
    network = net.build(net.op("max_pool", stem, "pool", kernel=(3, 2), stride=(2, 2), padding=(1, 0)))
    plan = plan_of(problem_of(network, dtype="fp32", loss="mse"), {"stem.weight": 1.0}, {"pool": pick})
    parameters = init_parameters(network, 1)
    parameters["stem.weight"][:] = 0
    check(plan, tmp_path, parameters=parameters)


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
def test_a_part_of_the_inputs_of_a_whole_convolution(optimizer: str, tmp_path: Path) -> None:
    """Of each output's weights the first half: they lie apart in the parameter."""
    net = NetworkBuilder("halves")
    x = net.conv(net.input("image", (3, 4, 4)), 4, 1, name="a")
    network = net.build(net.linear(net.op("flatten", net.conv(x, 2, 3, name="b")), 3, name="c"))
    plan = planned(network, 0.5, dtype="fp32", loss="mse", optimizer=optimizer)
    assert {s.op for s in plan.steps if s.keep is not None} == {"a", "b", "c"}
    check(plan, tmp_path, samples=2)


def test_weight_decay_pulls_at_the_parameter(tmp_path: Path) -> None:
    """A step without a gradient shrinks every updated parameter by its share."""
    net = NetworkBuilder("decay")
    network = net.build(net.conv(net.input("image", (2, 4, 4)), 2, 1, name="a"))
    plan = planned(network, dtype="fp32", loss="mse")
    parameters = init_parameters(network, 1)
    x, _ = random_data(network, "mse", 1, 1)
    compiled = Compiled(plan, parameters, tmp_path, weight_decay=0.25)
    compiled.train(x, np.full((1, 2, 4, 4), np.nan, np.float32), 1, 0.5)  # no label: no gradient
    for name, array in compiled.parameters().items():
        np.testing.assert_allclose(array, parameters[name] * (1 - 0.5 * 0.25), rtol=1e-6)


@pytest.mark.parametrize("loss", ["l1", "mse", "huber", "berhu"])
def test_labels_that_are_missing_do_not_count(loss: str, tmp_path: Path) -> None:
    net = NetworkBuilder("missing")
    network = net.build(net.conv(net.input("image", (2, 4, 4)), 2, 1, name="a"))
    plan = planned(network, dtype="fp32", loss=loss)
    x, target = random_data(network, loss, 1, 1)
    target[0, 0, 1:3] = np.nan
    check(plan, tmp_path, data=(x, target))
