"""Plans as C compute what plans compute: losses, gradients and updated parameters, in exactly the claimed RAM.

The oracle is ``run``: the same schedule over NumPy kernels. Sums are taken in another order, so float32
agrees to a few units of the last place of what was summed; 16-bit types to one of theirs.
"""

from __future__ import annotations

import random
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from compiled import COMPILER, Compiled, compile_object
from kind_networks import KINDS, unary
from planted import RandomNetwork, any_picks, any_update, plan_of, problem_of
from savings import graph_of, possible, with_savings
from test_run import NETWORKS, classifier, planned, u_shape

from sparseplan import api
from sparseplan.atomic import write_npz
from sparseplan.builder import NetworkBuilder, init_parameters
from sparseplan.cli import main
from sparseplan.errors import DataError, ExportError, OutputError, SparseplanError
from sparseplan.exporters.c import export, generate
from sparseplan.exporters.c.context import LOWER
from sparseplan.network import Network
from sparseplan.ops import OPS
from sparseplan.plan import Plan
from sparseplan.planfile import write_plan
from sparseplan.quantise import quantised
from sparseplan.recompute import Savings
from sparseplan.run import Optimizer, run
from sparseplan.run.runner import random_data, random_samples
from sparseplan.steps import OPTIMIZERS, UpdateSet
from sparseplan.stripes import Stripes, lower
from sparseplan.zoo import dscnn, resnet8, upydnet

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C compiler: install one that is called cc")

#: units in the last place: of float32 some, as sums differ in their order
_CLOSE = {"fp32": 1e-5, "bf16": 2**-6, "fp16": 2**-9}
LR = 0.01


def check(plan: Plan, folder: Path, samples: int = 1, seed: int = 1, lr: float = LR, **given: Any) -> Compiled:
    """Run the plan in Python and in C on the same data and compare all that comes out."""
    options = plan.problem.options
    parameters = given.get("parameters") or init_parameters(plan.network, seed)
    x, target = given.get("data") or random_samples(plan.network, options, samples * options.batch, seed)
    expected = run(plan, parameters, x, target, samples=samples, optimizer=Optimizer(options.optimizer, lr=lr),
                   guard_bytes=0, compare=False)  # fmt: skip
    compiled = Compiled(plan, parameters, folder, given.get("optimise", "-O0"))
    losses = compiled.train(x, target, samples, lr)
    close = _CLOSE[options.dtype]
    assert losses == pytest.approx(expected.losses, rel=close, abs=1e-7)
    assert set(compiled.gradients) == set(expected.gradients)
    most = max((float(np.abs(g).max()) for g in expected.gradients.values()), default=0.0)
    for p, g in expected.gradients.items():
        # what cancels is as exact as what it was summed from
        atol = close * float(np.abs(g).max()) + 0.1 * close * most
        np.testing.assert_allclose(compiled.gradients[p], g, rtol=0, atol=atol, err_msg=p)
    kept = compiled.parameters()
    for p, array in kept.items():
        atol = close * float(np.abs(expected.parameters[p]).max())
        if options.optimizer == "adam":  # a gradient near zero moves a parameter by lr whatever its size
            atol += 2 * lr * samples
        np.testing.assert_allclose(array, expected.parameters[p], rtol=0, atol=atol, err_msg=p)
    return compiled


def claimed(plan: Plan) -> int:
    """Bytes of RAM that a plan's buffers take."""
    ends: dict[str, int] = {}
    for b in plan.buffers:
        ends[b.level] = max(ends.get(b.level, 0), b.end)
    return sum(n for level, n in ends.items() if level != "flash")


# -- every kind of op --------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("name", KINDS)
def test_every_op_kind_computes_what_it_does_in_numpy(name: str, dtype: str, tmp_path: Path) -> None:
    network = KINDS[name]()
    batch = 2 if not {"rows", "join_rows"} & {op.kind for op in network.ops} else 1
    loss = "cross_entropy" if name in ("attention", "classifier") else "mse"
    plan = planned(network, dtype=dtype, batch=batch, loss=loss, alignment=4)
    optimise = "-O1" if dtype == "fp32" else "-O0"  # some warnings come with optimisation alone
    check(plan, tmp_path, samples=2, lr=1e-4, optimise=optimise)


def test_there_is_a_network_for_every_op_kind_with_kernels() -> None:
    tested = {op.kind for make in KINDS.values() for op in make().ops}
    assert {kind for kind, what in LOWER if what == "forward"} <= tested
    assert tested <= set(OPS)


@pytest.mark.parametrize("fraction", [0.25, 0.5])
@pytest.mark.parametrize("name", ["images", "sequences", "binary"])
def test_parts_of_parameters(name: str, fraction: float, tmp_path: Path) -> None:
    plan = planned(KINDS[name](), fraction, dtype="fp32", loss="huber", optimizer="momentum")
    assert any(s.keep is not None for s in plan.steps)
    check(plan, tmp_path, samples=2)


@pytest.mark.parametrize("loss", ["l1", "mse", "huber", "berhu"])
def test_every_loss(loss: str, tmp_path: Path) -> None:
    """cross_entropy is that of the classifiers."""
    attrs = {"huber": {"delta": 0.3}, "berhu": {"fraction": 0.4}}.get(loss, {})
    check(planned(u_shape(), dtype="fp32", loss=loss, loss_attrs=attrs), tmp_path)


# -- any plan ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("gradients", ["fused", "accumulate"])
def test_optimizers(gradients: str, optimizer: str, tmp_path: Path) -> None:
    plan = planned(u_shape(), dtype="fp32", gradients=gradients, optimizer=optimizer, frozen="flash")
    check(plan, tmp_path, samples=3)


@pytest.mark.parametrize("seed", range(6))
def test_random_plans(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    network = RandomNetwork(rng, rng.randint(4, 14)).network
    problem = problem_of(
        network, dtype=rng.choice(("fp32", "fp16", "bf16")), optimizer=rng.choice(("sgd", "momentum")),
        gradients=rng.choice(("fused", "accumulate")), frozen=rng.choice(("L2", "flash")),
        alignment=rng.choice((1, 4, 64)), concat=rng.choice(("split", "adjoin")), batch=rng.choice((1, 1, 2)),
    )  # fmt: skip
    plan = plan_of(problem, any_update(problem, rng, rng.choice((0.3, 1.0))), any_picks(problem, rng))
    check(plan, tmp_path, samples=2, seed=seed)


def saving(seed: int = 0, **options: Any) -> Plan:
    """A plan that runs ops again, pages, packs inputs into 8 bits and keeps states in L3."""
    rng = random.Random(seed)
    problem = with_savings(problem_of(u_shape(), **options))
    update = {p: r[-1] for p, r in problem.choices.items()}
    schedule = graph_of(problem).restrict(UpdateSet(update))
    may = possible(problem, schedule)
    maker = {s.op: s.writes[0].spans[0].value for s in schedule.steps if s.kind == "forward"}
    reruns = rng.sample(sorted(may.reruns), 8)
    fetches = rng.sample(sorted(may.fetches - {(maker[op], at) for op, at in reruns}), 6)
    moved = rng.sample(sorted(may.moved), min(2, len(may.moved)))
    chosen = Savings(frozenset(reruns), frozenset(fetches), may.packed, frozenset(moved))
    plan = plan_of(problem, update, None, chosen)
    assert {"recompute", "page_out", "page_in", "pack"} <= {s.kind for s in plan.steps}
    return plan


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_plans_that_save(dtype: str, tmp_path: Path) -> None:
    batch = 2 if dtype == "fp16" else 1
    check(saving(dtype=dtype, batch=batch, gradients="accumulate", optimizer="momentum"), tmp_path, samples=2)


def test_int8_tensors(tmp_path: Path) -> None:
    network = quantised(NETWORKS["residual"](), 1 / 32)
    problem = problem_of(network, dtype="fp32")
    plan = plan_of(problem, {p: r[-1] for p, r in problem.choices.items()})
    check(plan, tmp_path, samples=2)


# -- networks ----------------------------------------------------------------------------------------------
def solved(network: Network | str, must: str = "*", l2: int | str = "8MB", **options: Any) -> Plan:
    plan = api.plan(network, must=[must], may=[must], l2=l2, **options)
    assert plan.feasible, plan.reason
    return plan


UPYDNET: Mapping[str, Mapping[str, Any]] = {
    "all": {"dtype": "fp32"},
    "all in bf16": {"dtype": "bf16"},
    "decoder 0": {"dtype": "fp32", "must": "decoder0.*"},
    "a quarter of decoder 0": {"dtype": "fp32", "must": "decoder0.*@1/4"},
    "accumulated": {"dtype": "fp32", "must": "decoder0.*", "gradients": "accumulate", "optimizer": "momentum"},
    "frozen in flash": {"dtype": "fp32", "must": "decoder0.*", "device": "stm32h743", "frozen": "flash"},
    "int8 inputs": {"dtype": "fp32", "savings": ("int8",), "l2": 1_700_000},
}


@pytest.mark.parametrize("name", UPYDNET)
def test_upydnet(name: str, tmp_path: Path) -> None:
    plan = solved("upydnet", **UPYDNET[name])
    compiled = check(plan, tmp_path, samples=2 if name == "accumulated" else 1, optimise="-O1")
    if "flash" in name:
        assert plan.peak_bytes["L2"] == compiled.made.ram_bytes["L2"] == claimed(plan)


def test_upydnet_runs_ops_again(tmp_path: Path) -> None:
    problem = problem_of(upydnet(), may=("decoder0.*", "decoder2.*"), dtype="fp32")
    problem = with_savings(problem, ("recompute",))
    update = {p: r[-1] for p, r in problem.choices.items()}
    schedule = graph_of(problem).restrict(UpdateSet(update))
    reruns = random.Random(0).sample(sorted(possible(problem, schedule).reruns), 40)
    plan = plan_of(problem, update, None, Savings(frozenset(reruns)))
    assert sum(s.kind == "recompute" for s in plan.steps) >= 5
    check(plan, tmp_path, optimise="-O1")


def test_upydnet_in_stripes(tmp_path: Path) -> None:
    network = upydnet()
    ops = tuple(op.name for op in network.ops if op.name.startswith(("decoder2", "up")) and "2" in op.name)
    height = network.tensor[network.op[ops[-1]].output].shape[1]
    rows = tuple((lo, min(lo + 12, height)) for lo in range(0, height, 12))
    striped = lower(network, [Stripes(ops, rows, ())]).network
    problem = problem_of(striped, may=("decoder0.*", "decoder2.*"), dtype="fp32", frozen="flash")
    plan = plan_of(problem, {p: r[-1] for p, r in problem.choices.items()})
    assert any(v.layout == "hcw" for v in plan.values)
    check(plan, tmp_path, optimise="-O1")


def test_a_plan_that_chose_stripes(tmp_path: Path) -> None:
    net = NetworkBuilder("tall")
    t = net.input("image", (1, 32, 8))
    for i in range(2):
        t = net.relu(net.conv(t, 6, 3, padding=1, name=f"conv{i}"))
    network = net.build(net.conv(net.conv(t, 1, 3, stride=2, padding=1, name="small"), 1, 1, name="head"))
    plan = solved(network, "head.*", 10_000, dtype="fp32", savings=("stripes",), loss="mse")
    assert plan.stripes
    check(plan, tmp_path)


@pytest.mark.parametrize("make", [resnet8, dscnn])
def test_classifiers(make: Any, tmp_path: Path) -> None:
    check(solved(make(), dtype="fp32", loss="cross_entropy"), tmp_path, optimise="-O1")


# -- memory and symbols ------------------------------------------------------------------------------------
def sections(path: Path) -> tuple[int, int]:
    """Bytes of .data and .bss."""
    tool = shutil.which("size")
    if tool is None:
        pytest.skip("no size: install binutils")
    text = subprocess.run([tool, str(path)], check=True, capture_output=True, text=True).stdout
    _, data, bss, *_ = text.splitlines()[1].split()
    return int(data), int(bss)


def small_plan(name: str) -> Plan:
    if name == "paged":
        return saving(dtype="fp32", alignment=1)
    if name == "accumulated":
        return planned(classifier(), dtype="fp32", gradients="accumulate", optimizer="adam", loss="cross_entropy",
                       alignment=16)  # fmt: skip
    if name == "odd bytes":
        return planned(u_shape(), 0.25, dtype="bf16", alignment=1)
    return planned(u_shape(), dtype="bf16", frozen="flash", alignment=4)


@pytest.mark.parametrize("name", ["fused", "odd bytes", "accumulated", "paged"])
def test_data_and_bss_are_the_claimed_bytes(name: str, tmp_path: Path) -> None:
    plan = small_plan(name)
    made = export(plan, init_parameters(plan.network), tmp_path, name="net")
    compiled = compile_object(tmp_path, made)
    assert sections(compiled) == (0, claimed(plan))
    assert sum(made.ram_bytes.values()) == claimed(plan)
    for level, size in made.ram_bytes.items():
        assert plan.peak_bytes[level] == size
        assert f"#define NET_{level}_BYTES {size}\n" in made.header


def test_upydnet_takes_what_its_plan_says(tmp_path: Path) -> None:
    plan = solved("upydnet", "decoder0.*", device="stm32h743", frozen="flash", dtype="bf16")
    made = export(plan, init_parameters(plan.network), tmp_path, name="net")
    assert sections(compile_object(tmp_path, made)) == (0, plan.peak_bytes["L2"])


def test_nothing_but_libc_and_libm_is_missing(tmp_path: Path) -> None:
    tool = shutil.which("nm")
    if tool is None:
        pytest.skip("no nm: install binutils")
    plan = planned(unary(), dtype="fp16", loss="mse", optimizer="adam")
    made = export(plan, init_parameters(plan.network), tmp_path, name="net")
    text = subprocess.run([tool, "-u", str(compile_object(tmp_path, made))], check=True, capture_output=True, text=True)
    missing = {line.split()[-1] for line in text.stdout.splitlines()}
    maths = {f"{n}f" for n in ("exp", "expm1", "log", "log1p", "tanh", "erf", "sin", "cos", "sqrt", "pow", "rint",
                               "floor", "ceil", "fabs")}  # fmt: skip
    assert missing <= maths | {"memcpy", "memset"}
    assert "malloc" not in made.source
    assert not re.search(r"^static (?!const|inline)\w+ \w+(\[\d+\])?( = |;)", made.source, re.MULTILINE)


# -- what the files say ------------------------------------------------------------------------------------
def test_the_header_lists_parameters_buffers_and_functions(tmp_path: Path) -> None:
    plan = planned(u_shape(), 0.5, dtype="fp32", alignment=4)
    made = generate(plan, init_parameters(plan.network), name="tiny", lr=0.125)
    for b in plan.buffers:
        assert f'X("{b.value}", {b.lo}, {b.level}, {b.offset}, {b.bytes}, {b.start}, {b.stop})' in made.header
    for step, live in zip(plan.steps, plan.bytes_at(), strict=True):
        assert f'X("{step.name}", {live})' in made.header
    assert "#define TINY_IN_IMAGE_ELEMENTS" in made.header
    assert "#define TINY_LEARNING_RATE 0.125f" in made.header
    assert f"#define TINY_STEPS {len(plan.steps)}" in made.header
    assert 'X("join.weight", 288, 1, 1, 4, 8)' in made.header  # the first 4 of 8 input channels, axis 1
    assert "void tiny_init(void);" in made.header
    assert "float tiny_step(const float *in_image, const float *target, float lr);" in made.header
    assert made.files == ()


def test_the_command_line_writes_both_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = NETWORKS["chain"]()
    plan, weights = planned(network, dtype="fp32"), tmp_path / "w.npz"
    write_npz(weights, init_parameters(network))
    write_plan(plan, tmp_path / "plan.json")
    command = [
        "export",
        str(tmp_path / "plan.json"),
        "--to",
        "c",
        "-o",
        str(tmp_path / "out"),
        "--weights",
        str(weights),
    ]
    assert main([*command, "--name", "net"]) == 0
    assert "net.c" in capsys.readouterr().out
    made = generate(plan, init_parameters(network), name="net")
    assert (tmp_path / "out" / "net.h").read_text() == made.header
    assert (tmp_path / "out" / "net.c").read_text() == made.source


def test_the_same_plan_gives_the_same_text() -> None:
    plan, parameters = planned(u_shape()), init_parameters(u_shape())
    one, other = generate(plan, parameters), generate(plan, parameters)
    assert (one.header, one.source) == (other.header, other.source)


def test_unused_kernels_are_left_out() -> None:
    made = generate(planned(NETWORKS["chain"]()), init_parameters(NETWORKS["chain"]()))
    assert "sp_conv_grad_weight" in made.source
    assert not {"sp_softmax", "sp_adam", "sp_max_pool", "sp_move"} & set(re.findall(r"sp_\w+", made.source))


def test_names_that_are_no_identifiers(tmp_path: Path) -> None:
    net = NetworkBuilder('a "quoted" */ name')
    names = ("left eye", "left-eye", "Left-Eye")
    x = net.conv(net.add([net.input(name, (1, 4, 4)) for name in names]), 2, 3, name="ctrl\\?")
    compiled = check(planned(net.build(x), dtype="fp32"), tmp_path)
    assert "in_left_eye, const float *in_left_eye_, const float *in_Left_Eye__," in compiled.made.header


def test_an_input_in_its_place_is_not_copied(tmp_path: Path) -> None:
    import ctypes

    plan = planned(NETWORKS["chain"](), dtype="fp32")
    parameters = init_parameters(plan.network)
    (x, target) = random_data(plan.network, "l1", 1, 0)
    expected = Compiled(plan, parameters, tmp_path).train(x, target, 1, LR)
    (tmp_path / "again").mkdir()
    compiled = Compiled(plan, parameters, tmp_path / "again")
    (place,) = [b for b in plan.buffers if b.value == "image"]
    assert place.start == 0
    compiled.library.net_memory.restype = ctypes.c_void_p
    raw = x["image"].tobytes()
    ctypes.memmove(compiled.library.net_memory(2) + place.offset, raw, len(raw))
    compiled.library.net_step.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_float]
    assert compiled.library.net_step(None, target.ctypes.data, LR) == expected[0]
    assert compiled.library.net_memory(3) is None
    assert compiled.library.net_read(10_000, None) == 0


def test_sums_begin_anew_after_an_update(tmp_path: Path) -> None:
    plan = planned(u_shape(), dtype="fp32", gradients="accumulate")
    parameters = init_parameters(plan.network)
    x, target = random_data(plan.network, "l1", 2, 0)
    compiled = Compiled(plan, parameters, tmp_path)
    compiled.train(x, target, 2, 0.0)
    first = compiled.gradients
    compiled.gradients = {}
    compiled.train(x, target, 2, 0.0)
    for p, g in first.items():
        np.testing.assert_array_equal(compiled.gradients[p], g, err_msg=p)


# -- what cannot be exported -------------------------------------------------------------------------------
def test_a_kind_without_a_kernel_is_named_before_anything_is_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plan = planned(NETWORKS["residual"]())
    monkeypatch.delitem(LOWER, ("hardswish", "grad_input"))
    text = r"op 'hardswish\w*': kind 'hardswish' has no C kernel for its input gradient; leave it out"
    with pytest.raises(ExportError, match=text):
        export(plan, init_parameters(plan.network), tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"name": "2net"}, "name='2net' is no C identifier"),
        ({"name": "a-b"}, "name='a-b' is no C identifier"),
        ({"name": "sp_net"}, "name='sp_net' begins as the names inside"),
        ({"name": "math"}, "name='math': math.h would hide <math.h> of the C library; give another"),
        ({"name": "String"}, "String.h would hide <string.h>"),
        ({"lr": 1e60}, "lr=1e\\+60 must be a number, at least 0 and at most 3.403e\\+38"),
        ({"weight_decay": 1e39}, "weight_decay=1e\\+39 must be a number at least 0 and at most 3.403e"),
        ({"eps": 1e-60}, "eps=1e-60 must be a number at least 1.4e-45"),
        ({"lr": -1}, "lr=-1 must be a number, at least 0"),
        ({"momentum": 1.0}, "momentum=1.0 must be a number at least 0 and below 1.0"),
        ({"betas": (0.9, 2)}, r"betas\[1\]=2 must be"),
        ({"eps": 0}, "eps=0 must be a number at least 1.4e-45"),
    ],
)
def test_settings_out_of_range(given: dict[str, Any], text: str) -> None:
    plan = planned(NETWORKS["chain"]())
    with pytest.raises(ExportError, match=text):
        generate(plan, init_parameters(plan.network), **given)


def test_plans_and_parameters_that_are_wrong(tmp_path: Path) -> None:
    plan = planned(NETWORKS["chain"]())
    parameters = init_parameters(plan.network)
    with pytest.raises(DataError, match="is missing"):
        generate(plan, {})
    broken = replace(plan, buffers=plan.buffers[1:])
    with pytest.raises(ExportError, match="the plan is not valid: "):
        generate(broken, parameters)
    hopeless = api.plan(NETWORKS["chain"](), l2=100, must=["*"])
    with pytest.raises(ExportError, match="status=INFEASIBLE has nothing to export"):
        generate(hopeless, parameters)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot make folder"):
        export(plan, parameters, tmp_path / "file" / "sub")
    with pytest.raises(SparseplanError):
        export(plan, parameters, tmp_path / "file")
