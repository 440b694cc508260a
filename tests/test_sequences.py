"""Networks of sequences, integers and learned tensors: planned, verified and run like any other."""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from op_cases import resolved

import sparseplan as sp
from sparseplan.atomic import write_npz
from sparseplan.builder import NetworkBuilder, init_parameters
from sparseplan.cli import main
from sparseplan.errors import DataError, NetworkError, OpError, ProblemError
from sparseplan.importers.spec import from_dict, to_dict
from sparseplan.inspection import inspect_rows
from sparseplan.network import Network, Tensor
from sparseplan.planfile import write_plan
from sparseplan.run import TrainSettings, gradients, predict, run, train
from sparseplan.run.runner import random_data
from sparseplan.run.samples import Samples
from sparseplan.steps import UpdateSet
from sparseplan.testing import check_full_gradients
from sparseplan.value import fisher_information
from sparseplan.value.units import units_of
from sparseplan.verify import verify

LENGTH, WIDTH, HEADS = 4, 6, 2


def _attention(net: NetworkBuilder, x: str, length: int) -> str:
    """Attention of ``HEADS`` heads over ``(length, WIDTH)``."""
    heads = []
    for name in ("query", "key", "value"):
        split = net.op("reshape", net.linear(x, WIDTH, name=name), shape=(length, HEADS, WIDTH // HEADS))
        heads.append(net.op("transpose", split, perm=(1, 0, 2)))
    scores = net.op("matmul", heads[:2], transpose_b=True)
    mixed = net.op("matmul", [net.op("softmax", scores), heads[2]])
    joined = net.op("reshape", net.op("transpose", mixed, perm=(1, 0, 2)), shape=(length, WIDTH))
    return net.linear(joined, WIDTH, name="mix")


def transformer() -> Network:
    """Words and a class token through one block of attention and MLP, to three classes."""
    net = NetworkBuilder("transformer")
    words = net.op("embedding", net.input("words", (LENGTH,), "i32"), "table", num=11, dim=WIDTH)
    token = net.op("parameter", [], "token", shape=(1, WIDTH))
    x = net.concat([token, words], name="sequence")
    x = net.add([x, net.op("parameter", [], "positions", shape=(LENGTH + 1, WIDTH))])
    x = net.add([x, _attention(net, net.op("layer_norm", x), LENGTH + 1)])
    wide = net.op("prelu", net.linear(net.op("layer_norm", x), 2 * WIDTH, name="widen"))
    x = net.add([x, net.linear(wide, WIDTH, name="narrow")])
    flat = net.op("flatten", net.op("layer_norm", x, params=("weight",)))
    return net.build(net.linear(flat, 3, name="classes"))


def sound() -> Network:
    """A small network on a waveform, with every op on sequences and every norm."""
    net = NetworkBuilder("sound")
    x = net.op("conv1d", net.input("wave", (2, 32)), kernel=5, out_channels=6, stride=2, padding=2)
    x = net.op("prelu", net.op("batch_norm", x))
    x = net.op("max_pool1d", net.op("group_norm", x, groups=3), kernel=2)
    up = net.op("conv_transpose1d", x, kernel=3, out_channels=6, stride=2, padding=1, output_padding=1)
    up = net.op("avg_pool1d", net.op("instance_norm", up), kernel=2)
    x = net.concat([x, up])
    return net.build(net.op("log_softmax", net.linear(net.op("flatten", x), 4)))


def tokens() -> Network:
    """Words weighed against learned tensors; nothing but the words comes from outside."""
    net = NetworkBuilder("tokens")
    words = net.op("embedding", net.input("words", (LENGTH,), "i32"), "table", num=5, dim=WIDTH)
    learned = net.op("layer_norm", net.op("parameter", [], "token", shape=(3, WIDTH)))
    weights = net.op("softmax", net.op("matmul", [learned, words], transpose_b=True))
    mixed = net.relu(net.linear(net.op("matmul", [weights, words]), WIDTH))
    return net.build(net.linear(net.op("flatten", net.add([mixed, learned])), 3))


NETWORKS = {"transformer": transformer, "sound": sound, "tokens": tokens}


@pytest.mark.parametrize(
    ("name", "savings"), [("transformer", ("page", "int8")), ("sound", ("recompute",)), ("tokens", ("recompute",))]
)
@pytest.mark.parametrize(("batch", "how"), [(1, "fused"), (2, "accumulate")])
def test_plans_are_verified_and_run_bit_for_bit(name: str, savings: tuple[str, ...], batch: int, how: str) -> None:
    network = NETWORKS[name]()
    roomy = sp.plan(network, "gap9", l2="1MB", batch=batch, gradients=how, loss="cross_entropy", dtype="fp32")
    tight = sp.plan(network, "gap9", l2=int(0.9 * roomy.peak_bytes["L2"]), batch=batch, gradients=how,
                    loss="cross_entropy", dtype="fp32", savings=savings)  # fmt: skip
    for plan in (roomy, tight):
        assert plan.status == "OPTIMAL"
        assert not sp.verify(plan.problem, plan)
        report = run(plan, samples=2)
        assert report.bitwise_equal
        assert report.guard_intact, report.faults
    assert tight.objective <= roomy.objective


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_gradients_of_whole_networks(make) -> None:
    network = make()
    statistics = sum(p.endswith((".mean", ".var")) for p in network.parameters)
    assert check_full_gradients(network, seed=1, batch=3) >= len(network.parameters) - statistics - 2


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_specs_and_tables_know_them(make) -> None:
    network = make()
    assert from_dict(to_dict(network)) == network
    assert len(inspect_rows(network)) == len(network.ops)


def test_the_trainer_takes_any_number_of_samples() -> None:
    network = transformer()
    params = init_parameters(network, 3)
    x, target = random_data(network, "cross_entropy", 5, 0)
    outputs = predict(network, params, x, batch=2)
    assert outputs.shape == (5, 3)
    loss, found = gradients(network, params, x, target, "cross_entropy")
    singles = [gradients(network, params, {"words": x["words"][i : i + 1]}, target[i : i + 1], "cross_entropy")
               for i in range(5)]  # fmt: skip
    assert np.isclose(loss, np.mean([single for single, _ in singles]))
    for p, g in found.items():
        np.testing.assert_allclose(g, np.mean([g1[p] for _, g1 in singles], axis=0), rtol=1e-4, atol=1e-6)
    assert {"token.weight", "positions.weight", "table.weight"} <= found.keys()


def test_drawn_parameters_make_sense() -> None:
    drawn = init_parameters(sound()) | init_parameters(transformer())
    assert (drawn["batch_norm0.var"] == 1).all()
    assert (drawn["batch_norm0.mean"] == 0).all()
    for norm in ("batch_norm0", "group_norm0", "instance_norm0", "layer_norm0"):
        assert (drawn[f"{norm}.weight"] == 1).all()
        assert (drawn[f"{norm}.bias"] == 0).all()
    assert (drawn["prelu0.weight"] == 0.25).all()
    assert 0.8 < drawn["table.weight"].std() < 1.2
    assert 0.01 < drawn["positions.weight"].std() < 0.03


def test_statistics_are_never_updated() -> None:
    network = sound()
    plan = sp.plan(network, "gap9", l2="1MB", loss="cross_entropy")
    assert not {"batch_norm0.mean", "batch_norm0.var"} & plan.update.keys()
    assert {"batch_norm0.weight", "batch_norm0.bias"} <= plan.update.keys()
    measured = {p for unit in units_of(network) for p in unit.parameters}
    assert set(network.parameters) - measured == {"batch_norm0.mean", "batch_norm0.var"}
    with pytest.raises(ProblemError, match=r"batch_norm0\.var"):
        sp.plan(network, "gap9", l2="1MB", loss="cross_entropy", must=["batch_norm0.var"])


def normed() -> Network:
    """Images of digits scaled by a constant, a batch-norm, ten classes."""
    net = NetworkBuilder("normed")
    x = net.op("const_mul", net.input("image", (1, 16, 16)), "scale", shape=(1, 1, 1))
    x = net.relu(net.op("batch_norm", net.conv(x, 2, 3, stride=4, name="stem"), "norm"))
    return net.build(net.linear(net.op("flatten", x), 10, name="classes"))


FIXED = {"scale.weight", "norm.mean", "norm.var"}


def test_a_full_update_leaves_alone_what_is_never_updated(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    network = normed()
    assert UpdateSet.all(network).fractions.keys() == set(network.parameters) - FIXED
    weights = init_parameters(network, 1)
    write_npz(tmp_path / "start.npz", weights)
    write_plan(sp.plan(network, "gap9", l2="64kB", loss="cross_entropy"), tmp_path / "plan.json")
    asked = ["--task", "digits", "--weights", str(tmp_path / "start.npz"), "--epochs", "1", "--seeds", "1"]
    assert main(["check", str(tmp_path / "plan.json"), "--full", "--jobs", "1", *asked]) == 0
    assert "full (1 seeds)" in capsys.readouterr().out
    x, target = random_data(network, "cross_entropy", 2, 0)
    trained = train(
        network,
        weights,
        UpdateSet.all(network).fractions,
        x,
        target,
        TrainSettings(loss="cross_entropy", lr=0.1, epochs=1),
    )
    same = {p for p, a in trained.parameters.items() if np.array_equal(a, weights[p])}
    assert same == FIXED


def test_the_verifier_finds_an_update_of_what_is_never_updated() -> None:
    network = normed()
    plan = sp.plan(network, "gap9", l2="64kB", loss="cross_entropy")
    for p in sorted(FIXED):
        update = {**plan.update, p: 1.0}
        found = verify(plan.problem, replace(plan, update=update))
        assert any(v.kind == "decision" and p in v.where for v in found), p
        # nor where a problem allows it, which no checked one does
        problem = copy(plan.problem)
        object.__setattr__(problem, "choices", {**plan.problem.choices, p: (1.0,)})
        object.__setattr__(problem, "values", {**plan.problem.values, p: {1.0: 0.0}})
        found = verify(problem, replace(plan, update=update))
        assert any(v.kind == "decision" and p in v.where and "never is" in v.message for v in found), p


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (
            np.full((1, LENGTH), 11),
            r"input 'words' holds id 11 at \(0, 0\), but op 'table' has rows 0 to 10 \(num=11\)",
        ),
        (np.full((1, LENGTH), -1), r"input 'words' holds id -1"),
        (np.zeros((1, LENGTH)), r"input 'words' has dtype=float64; give integers"),
    ],
)
def test_ids_that_no_table_has_are_refused(ids: np.ndarray, message: str) -> None:
    network = transformer()
    with pytest.raises(DataError, match=message):
        predict(network, init_parameters(network), ids)


def test_integers_go_where_integers_are_read() -> None:
    net = NetworkBuilder("wrong")
    with pytest.raises(OpError, match=r"embedding reads integers, but input 'x' has dtype=None"):
        net.build(net.op("embedding", net.input("x", (3,)), num=2, dim=2))
    net = NetworkBuilder("wrong")
    with pytest.raises(OpError, match=r"relu reads floats, but input 'x' has dtype=i32"):
        net.build(net.relu(net.input("x", (3,), "i32")))
    with pytest.raises(NetworkError, match=r"dtype=i32 with role='parameter'"):
        Tensor("w", (2,), "parameter", "i32")


def test_without_inputs_nothing_tells_the_samples() -> None:
    net = NetworkBuilder("none")
    network = net.build(net.op("parameter", [], shape=(3,)))
    with pytest.raises(DataError, match="has no inputs"):
        predict(network, init_parameters(network), {})


def test_ids_are_trained_on() -> None:
    network = transformer()
    params = init_parameters(network, 3)
    x, target = random_data(network, "cross_entropy", 8, 0)
    update = {"table.weight": 1.0, "token.weight": 1.0, "classes.weight": 1.0}
    settings = TrainSettings(loss="cross_entropy", epochs=6, batch=4, lr=0.05, optimizer="adam")
    trained = train(network, params, update, x["words"], target, settings)
    assert trained.losses[-1] < trained.losses[0]
    assert all((trained.parameters[p] != params[p]).any() == (p in update) for p in params)
    choices = dict.fromkeys(network.parameters, (1.0,))
    worth = fisher_information(network, params, Samples(x["words"], target, "cross_entropy"), choices)
    assert all(worth[p][1.0] > 0 for p in update)


@pytest.mark.parametrize(
    ("kind", "shapes", "attrs", "output"),
    [
        ("layer_norm", [(3, 4, 5)], {"dims": 2}, (3, 4, 5)),
        ("matmul", [(1, 4, 5), (3, 5, 2)], {}, (3, 4, 2)),
        ("matmul", [(5, 4), (2, 5)], {"transpose_a": True, "transpose_b": True}, (4, 2)),
        ("embedding", [(3, 4)], {"num": 9, "dim": 2}, (3, 4, 2)),
        ("parameter", [], {"shape": 7}, (7,)),
        ("conv1d", [(4, 9)], {"out_channels": 6, "kernel": 3, "stride": 2, "padding": (0, 1), "groups": 2}, (6, 4)),
        ("conv_transpose1d", [(4, 9)], {"out_channels": 6, "kernel": 3, "stride": 2, "output_padding": 1}, (6, 20)),
        ("max_pool1d", [(4, 9)], {"kernel": 3}, (4, 3)),
        ("avg_pool1d", [(4, 9)], {"kernel": 3, "stride": 1, "padding": 1}, (4, 9)),
    ],
)
def test_output_shapes(kind: str, shapes: list[tuple[int, ...]], attrs: dict, output: tuple[int, ...]) -> None:
    assert resolved(kind, shapes, **attrs).output == output


@pytest.mark.parametrize(
    ("kind", "shapes", "attrs", "message"),
    [
        ("layer_norm", [(3,)], {"dims": 2}, r"dims=2 is beyond the 1 axes of input shape \(3,\)"),
        ("layer_norm", [(3,)], {"eps": 0}, r"eps=0 must be above 0"),
        ("group_norm", [(3, 2)], {"groups": 2}, r"input channels=3 is not a multiple of groups=2"),
        ("group_norm", [(3, 2)], {}, r"attribute 'groups' of group_norm is missing"),
        ("instance_norm", [()], {}, r"input has shape \(\)"),
        ("softmax", [(3, 2)], {"axis": 2}, r"axis=2 is beyond the 2 axes"),
        ("matmul", [(3, 2), (3, 2)], {}, r"the extents summed over, 2 and 3, differ"),
        ("matmul", [(3, 2), (1, 2, 3)], {}, r"equal ranks of at least 2"),
        ("matmul", [(3, 2, 2), (2, 2, 2)], {}, r"leading extents must be equal, or 1 to spread"),
        ("embedding", [(3,)], {"num": 0, "dim": 2}, r"num=0 must be at least 1"),
        ("parameter", [], {"shape": (2, 0)}, r"shape=0 must be at least 1"),
        ("conv1d", [(4, 9, 1)], {"out_channels": 6, "kernel": 3}, r"\(4, 9, 1\), expected \(channels, length\)"),
        ("conv1d", [(4, 9)], {"out_channels": 6, "kernel": (3, 3)}, r"kernel=\(3, 3\) must be an integer"),
        ("conv1d", [(4, 9)], {"out_channels": 6, "kernel": 3, "padding": (1, 1, 1)}, r"padding=\(1, 1, 1\) must be"),
        ("max_pool1d", [(4, 9)], {"kernel": 300}, r"at most 256"),
        ("prelu", [(4, 9)], {"shared": 1}, r"shared=1 must be true or false"),
    ],
)
def test_errors_name_the_culprit(kind: str, shapes: list[tuple[int, ...]], attrs: dict, message: str) -> None:
    with pytest.raises(OpError, match=message):
        resolved(kind, shapes, **attrs)
