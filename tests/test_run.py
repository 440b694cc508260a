"""A plan runs in exactly its bytes and computes what the unconstrained reference does."""

from __future__ import annotations

import dataclasses
import itertools
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted import RandomNetwork, any_picks, any_update, plan_of, problem_of

from sparseplan.builder import NetworkBuilder, init_parameters
from sparseplan.errors import DataError, PlanError, ProblemError
from sparseplan.network import Network, Op, Tensor
from sparseplan.ops import OPS, infos, loss_def
from sparseplan.plan import Plan
from sparseplan.run import Arithmetic, Optimizer, RunReport, reference, run
from sparseplan.run.runner import random_data
from sparseplan.run.spread import spread
from sparseplan.solve.cpsat import Limits
from sparseplan.solve.search import solve
from sparseplan.steps import OPTIMIZERS
from sparseplan.zoo import upydnet


def chain() -> Network:
    net = NetworkBuilder("chain")
    x = net.input("image", (2, 6, 6))
    for i in range(3):
        x = net.leaky_relu(net.conv(x, 4, 3, padding=1, name=f"conv{i}"), 0.125)
    return net.build(net.conv(x, 1, 1, name="head"))


def residual() -> Network:
    net = NetworkBuilder("residual")
    x = net.conv(net.input("image", (3, 6, 6)), 8, 3, padding=1, name="stem")
    for i in range(2):
        y = net.op("hardswish", net.conv(net.relu(x), 8, 3, padding=1, name=f"a{i}"))
        x = net.add([net.conv(y, 8, 1, name=f"b{i}"), x])
    return net.build(net.op("sigmoid", x))


def u_shape() -> Network:
    net = NetworkBuilder("u")
    top = net.relu(net.conv(net.input("image", (2, 8, 8)), 4, 3, padding=1, name="down"))
    low = net.leaky_relu(net.conv(top, 8, 3, stride=2, padding=1, name="bottom"), 0.1)
    x = net.concat([top, net.conv_transpose(low, 4, 2, stride=2, name="up")])
    return net.build(net.conv(net.relu(net.conv(x, 4, 3, padding=1, name="join")), 1, 1, name="out"))


def classifier() -> Network:
    """Depthwise convolutions, pooling, squeeze and excite, a linear head."""
    net = NetworkBuilder("classifier")
    x = net.op("relu6", net.conv(net.input("image", (3, 8, 8)), 8, 3, stride=2, padding=1, name="stem"))
    x = net.op("relu6", net.affine(net.conv(x, 8, 3, padding=1, groups=8, name="depth")))
    x = net.op("max_pool", net.conv(x, 8, 1, name="point"), kernel=2)
    gate = net.op("sigmoid", net.conv(net.op("global_avg_pool", x), 8, 1, name="gate"))
    x = net.op("mul", [x, gate]) if len(net.shape(gate)) == 3 else x
    return net.build(net.linear(net.op("flatten", x), 5, name="head"))


NETWORKS = {"chain": chain, "residual": residual, "u": u_shape, "classifier": classifier}


def planned(network: Network, fraction: float = 1.0, seed: int = 0, **options: Any) -> Plan:
    """A plan that updates everything, of each parameter the largest allowed fraction up to one."""
    problem = problem_of(network, **options)
    update = {p: max((r for r in rs if r <= fraction), default=rs[0]) for p, rs in problem.choices.items()}
    return plan_of(problem, update, any_picks(problem, random.Random(seed)))


def check(report: RunReport) -> None:
    assert report.faults == ()
    assert report.guard_intact
    assert report.claimed_bytes == report.touched_bytes
    assert report.max_abs_gradient_difference == 0
    assert report.max_abs_parameter_difference == 0
    assert report.bitwise_equal


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("gradients", ["fused", "accumulate"])
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_the_arena_equals_the_reference(name: str, dtype: str, gradients: str, optimizer: str) -> None:
    loss = "cross_entropy" if name == "classifier" else "l1"
    network = NETWORKS[name]()
    fraction = 0.25 if gradients == "fused" else 1.0
    plan = planned(network, fraction, dtype=dtype, gradients=gradients, optimizer=optimizer, loss=loss,
                   frozen="flash", alignment=4)  # fmt: skip
    check(run(plan, samples=3, seed=1))


@given(seed=st.integers(0, 2**32))
def test_any_plan_of_any_network_runs_in_its_bytes(seed: int) -> None:
    rng = random.Random(seed)
    network = RandomNetwork(rng, rng.randint(2, 14)).network
    problem = problem_of(
        network, dtype=rng.choice(("fp32", "fp16", "bf16")), optimizer=rng.choice(tuple(OPTIMIZERS)),
        gradients=rng.choice(("fused", "accumulate")), frozen=rng.choice(("L2", "flash")),
        alignment=rng.choice((1, 4, 8, 64)), concat=rng.choice(("split", "adjoin")),
        batch=rng.choice((1, 1, 2)), loss=rng.choice(("l1", "mse", "huber")),
    )  # fmt: skip
    plan = plan_of(problem, any_update(problem, rng, rng.choice((0.3, 1.0))), any_picks(problem, rng))
    check(run(plan, samples=rng.choice((1, 2, 3)), seed=seed))


@pytest.mark.parametrize("batch", [1, 3])
def test_gradients_equal_the_plain_reference_closely(batch: int) -> None:
    """Against the reference without any hint of how the plan calls its kernels."""
    network = u_shape()
    plan = planned(network, batch=batch, dtype="fp32")
    x, target = random_data(network, "l1", batch, 5)
    params = init_parameters(network, 3)
    found = run(plan, params, x, target)
    plain = reference(network, params, x, target, "l1")
    assert found.loss == pytest.approx(plain.loss, rel=1e-6)
    for p, g in found.gradients.items():
        np.testing.assert_allclose(g, plain.gradients[p], rtol=1e-5, atol=1e-6, err_msg=p)


def test_a_part_of_a_gradient_is_the_part_of_the_whole() -> None:
    network = chain()
    plan = planned(network, 0.5, dtype="fp32")
    x, target = random_data(network, "l1", 1, 0)
    found = run(plan, x=x, target=target)
    plain = reference(network, init_parameters(network), x, target, "l1")
    assert found.gradients["conv1.weight"].shape == (4, 2, 3, 3)
    np.testing.assert_allclose(
        found.gradients["conv1.weight"], plain.gradients["conv1.weight"][:, :2], rtol=1e-5, atol=1e-7
    )
    before, after = init_parameters(network)["conv1.weight"], found.parameters["conv1.weight"]
    assert (before[:, 2:] == after[:, 2:]).all()
    assert (before[:, :2] != after[:, :2]).any()


def test_accumulated_updates_take_the_mean_over_samples() -> None:
    network = chain()
    params = init_parameters(network)
    x, target = random_data(network, "mse", 4, 0)
    target[np.isnan(target)] = 0  # then the mean of losses is the loss of the batch
    plan = planned(network, dtype="fp32", gradients="accumulate", loss="mse")
    found = run(plan, params, x, target, samples=4, optimizer=Optimizer("sgd", lr=0.1))
    plain = reference(network, params, x, target, "mse")
    for p in network.parameters:
        np.testing.assert_allclose(found.parameters[p], params[p] - 0.1 * plain.gradients[p], rtol=1e-4, atol=1e-6)


def test_the_reference_agrees_with_finite_differences() -> None:
    network = u_shape()
    params = {p: a.astype(np.float64) for p, a in init_parameters(network, 2).items()}
    x, target = random_data(network, "mse", 2, 4)
    x = {n: a.astype(np.float64) for n, a in x.items()}
    found = reference(network, params, x, target.astype(np.float64), "mse")
    rng = np.random.default_rng(0)
    for p, g in found.gradients.items():
        direction = rng.standard_normal(g.shape)
        losses = [
            reference(network, {**params, p: params[p] + s * 1e-6 * direction}, x, target, "mse").loss for s in (1, -1)
        ]
        assert (losses[0] - losses[1]) / 2e-6 == pytest.approx(float((g * direction).sum()), rel=1e-4, abs=1e-8), p


def test_int8_tensors_are_stored_as_quanta() -> None:
    """A frozen int8 backbone under a trained float head."""
    shape = (4, 5, 5)
    tensors = (
        Tensor("image", (2, 5, 5), "input", "int8", 1 / 127), Tensor("w", (4, 2, 1, 1), "parameter", "int8", 0.01),
        Tensor("y", shape, dtype="int8", scale=0.02), Tensor("r", shape, dtype="int8", scale=0.02),
        Tensor("v", (1, 4, 1, 1), "parameter"), Tensor("out", (1, 5, 5)),
    )  # fmt: skip
    ops = (
        Op("conv", "conv", ("image",), "y", {"weight": "w"}, {"kernel": 1, "out_channels": 4}),
        Op("act", "relu", ("y",), "r"),
        Op("head", "conv", ("r",), "out", {"weight": "v"}, {"kernel": 1, "out_channels": 1}),
    )
    network = Network("int8", tensors, ops, ("out",))
    plan = planned(network, dtype="fp32")
    assert set(plan.update) == {"v"}
    report = run(plan)
    check(report)
    assert report.parameters["w"] == pytest.approx(np.round(report.parameters["w"] / 0.01) * 0.01)


# -- uPyD-Net ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("may", "frozen", "most"),
    [(("decoder0.*", "ups0.*"), "L2", 600_000), ((), "L2", 1_020_000), (("decoder0.*", "ups0.*"), "flash", 450_000)],
)
def test_upydnet_runs_in_the_bytes_that_were_promised(may: tuple[str, ...], frozen: str, most: int) -> None:
    problem = problem_of(upydnet(), may=may, must=may or ("*",), dtype="bf16", frozen=frozen)
    plan = solve(problem, Limits(seed=0))
    report = run(plan, guard_bytes=16)
    check(report)
    assert report.claimed_bytes["L2"] == plan.peak_bytes["L2"] <= most
    assert set(report.gradients) == set(plan.update)


def test_the_reference_agrees_with_pytorch(reference_data: Path) -> None:
    """Loss and all gradients of four real images, as PyTorch computed them."""
    network = upydnet()
    with np.load(reference_data / "upydnet_tartanair.npz") as f:
        params = dict(f)
    with np.load(reference_data / "upydnet_reference.npz") as f:
        expected = dict(f)
    with np.load(reference_data / "micro_sec_mde.npz") as f:
        picked = expected["grad_index"]
        image = np.moveaxis(f["image"][picked], -1, 1).astype(np.float32) / 255
        depth, disparity = f["depth"][picked], f["disp"][picked]
    target = np.where((depth > 0) & (depth < 4), disparity, np.nan).astype(np.float32)
    target = target.repeat(6, 1).repeat(6, 2)[:, None]
    found = reference(network, params, {"image": image}, target, "l1")
    assert found.loss == pytest.approx(float(expected["loss"]), rel=1e-5)
    for p in network.parameters:
        want = expected[f"grad/{p}"]
        np.testing.assert_allclose(found.gradients[p], want, rtol=1e-3, atol=1e-4 * np.abs(want).max(), err_msg=p)


# -- planted faults ------------------------------------------------------------------------------


def with_buffer(plan: Plan, index: int, **change: Any) -> Plan:
    buffers = list(plan.buffers)
    buffers[index] = dataclasses.replace(buffers[index], **change)
    return dataclasses.replace(plan, buffers=tuple(buffers))


@given(data=st.data(), name=st.sampled_from(sorted(NETWORKS)))
def test_a_lifetime_that_ends_too_early_is_found(data: st.DataObject, name: str) -> None:
    plan = planned(NETWORKS[name](), dtype="fp32", loss="cross_entropy" if name == "classifier" else "l1")
    overwritten = {x for s in plan.steps for _, x in s.inplace}
    ends = [
        i for i, b in enumerate(plan.buffers)
        if b.stop - b.start > 1 and b.value not in overwritten and b.stop < len(plan.steps)
    ]  # fmt: skip
    i = data.draw(st.sampled_from(ends))
    with pytest.raises(PlanError, match=r"freed or unwritten|not alive|which holds"):
        run(with_buffer(plan, i, stop=plan.buffers[i].stop - 1), guard_bytes=0)


@given(data=st.data())
def test_an_overlap_is_found(data: st.DataObject) -> None:
    plan = planned(u_shape(), dtype="fp32")
    pairs = [
        (i, b) for i, a in enumerate(plan.buffers) for b in plan.buffers
        if a.value != b.value and a.start < b.stop and b.start < a.stop and a.level == b.level
        and b.offset + a.bytes <= plan.peak_bytes[b.level] and a.lo == 0
    ]  # fmt: skip
    i, other = data.draw(st.sampled_from(pairs))
    with pytest.raises(PlanError):
        run(with_buffer(plan, i, offset=other.offset), guard_bytes=0)


def test_a_buffer_beyond_the_claim_is_found() -> None:
    plan = planned(chain(), dtype="fp32")
    short = dataclasses.replace(plan, peak_bytes={"L2": plan.peak_bytes["L2"] - 1})
    with pytest.raises(PlanError, match=r"peak_bytes.*, but its buffers end at byte"):
        run(short)


def test_a_missing_buffer_is_found() -> None:
    plan = planned(chain(), dtype="fp32")
    kept = tuple(b for b in plan.buffers if b.value != "conv1.weight")
    with pytest.raises(PlanError, match=r"'conv1\.weight' has no buffer"):
        run(dataclasses.replace(plan, buffers=kept))


def test_a_kernel_that_writes_to_its_input_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = OPS["conv"].forward

    def forward(info: Any, x: Any, params: Any) -> Any:
        y = honest(info, x, params)
        x[0][..., -1] += 1
        return y

    monkeypatch.setattr(OPS["conv"], "forward", forward)
    report = run(planned(chain(), dtype="fp32"), compare=False)
    assert not report.guard_intact
    assert "conv0.forward" in report.faults[0]


def test_a_kernel_that_writes_beside_its_arguments_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """One element behind the last of its input: another buffer, a guard or a red zone."""
    honest = OPS["leaky_relu"].forward

    def forward(info: Any, x: Any, params: Any) -> Any:
        flat = x[0].reshape(-1)
        beside = np.lib.stride_tricks.as_strided(flat, (flat.size + 1,), flat.strides)
        beside[flat.size] = 7.0
        return honest(info, x, params)

    monkeypatch.setattr(OPS["leaky_relu"], "forward", forward)
    report = run(planned(chain(), dtype="fp32"), compare=False, guard_bytes=16)
    assert not report.guard_intact
    assert any(f.startswith("with guard zones") for f in report.faults)


def test_a_wrong_gradient_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison does compare: a plan whose schedule lacks a step that sums differs."""
    plan = planned(residual(), dtype="fp32")
    steps = tuple(
        dataclasses.replace(s, writes=tuple(dataclasses.replace(a, add=False) for a in s.writes))
        if s.kind == "grad_input" else s
        for s in plan.steps
    )  # fmt: skip
    report = run(dataclasses.replace(plan, steps=steps))
    assert report.guard_intact
    assert report.max_abs_gradient_difference > 0
    assert not report.bitwise_equal


# -- guard zones ---------------------------------------------------------------------------------


@given(seed=st.integers(0, 2**32), guard=st.sampled_from([1, 16, 64]), alignment=st.sampled_from([1, 8]))
def test_spread_buffers_keep_their_distance(seed: int, guard: int, alignment: int) -> None:
    rng = random.Random(seed)
    problem = problem_of(RandomNetwork(rng, 8).network, alignment=alignment, concat="adjoin")
    plan = plan_of(problem, any_update(problem, rng, 0.7))
    buffers, sizes = spread(plan.buffers, plan.steps, guard, alignment)
    home = {b.value: b.offset - b.lo for b in buffers}
    old = {b.value: b.offset - b.lo for b in plan.buffers}
    for step in plan.steps:
        for arg in (*step.reads, *step.writes):
            for v in arg.spans:
                assert home[v.value] - home[arg.spans[0].value] == old[v.value] - old[arg.spans[0].value]
    for a in buffers:
        assert a.offset % alignment == 0
        assert a.end <= sizes[a.level]
        for b in buffers:
            if a is not b and a.level == b.level and a.start < b.stop and b.start < a.stop and a.offset <= b.offset:
                assert a.end <= b.offset


def test_guard_zones_widen_the_layout() -> None:
    plan = planned(chain(), dtype="fp32")
    buffers, sizes = spread(plan.buffers, plan.steps, 64, 1)
    assert sizes["L2"] > plan.peak_bytes["L2"]
    live = sorted((b for b in buffers if b.start <= 2 < b.stop), key=lambda b: b.offset)
    gaps = [b.offset - a.end for a, b in itertools.pairwise(live)]
    assert all(g >= 64 for g in gaps)


# -- bad input -----------------------------------------------------------------------------------


def test_bad_input_is_refused() -> None:
    network = chain()
    plan = planned(network, dtype="fp32")
    x, target = random_data(network, "l1", 1, 0)
    with pytest.raises(DataError, match="give both"):
        run(plan, x=x)
    with pytest.raises(DataError, match="2 samples; samples=1"):
        run(plan, x={n: np.repeat(a, 2, 0) for n, a in x.items()}, target=np.repeat(target, 2, 0))
    with pytest.raises(DataError, match=r"expected \(samples, 2, 6, 6\)"):
        run(plan, x=np.zeros((1, 3, 6, 6)), target=target)
    with pytest.raises(DataError, match="NaN or infinity"):
        run(plan, x=np.full((1, 2, 6, 6), np.nan), target=target)
    with pytest.raises(DataError, match="missing"):
        run(plan, parameters={})
    with pytest.raises(ProblemError, match="differs from the plan's 'sgd'"):
        run(plan, optimizer=Optimizer("adam"))
    with pytest.raises(ProblemError, match="samples=0"):
        run(plan, samples=0)
    with pytest.raises(ProblemError, match="guard_bytes=-1"):
        run(plan, guard_bytes=-1)
    unknown = dataclasses.replace(plan, status="UNKNOWN", steps=(), update={})
    with pytest.raises(PlanError, match="status=UNKNOWN has nothing to run"):
        run(unknown)


def test_the_report_is_plain_data() -> None:
    data = run(planned(chain(), dtype="bf16")).to_json()
    assert data["claimed_bytes"] == data["touched_bytes"]
    assert data["guard_intact"] is True
    assert data["max_abs_gradient_difference"] == 0
    bare = run(planned(chain(), dtype="bf16"), compare=False).to_json()
    assert bare["max_abs_gradient_difference"] is None


def test_random_data_suits_the_loss() -> None:
    network = classifier()
    _, target = random_data(network, "cross_entropy", 3, 0)
    output = network.tensor[network.outputs[0]].shape
    assert (target.shape[1:], "i32") == loss_def("cross_entropy").target(output)
    assert infos(network)
    assert Arithmetic().dtype == "fp32"
