"""A network in stripes computes what the network computes, and runs in its planned bytes like any other."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from planted import any_picks, any_update, problem_of
from striped import lowered_networks, networks_by_rows

from sparseplan.autodiff import differentiate
from sparseplan.builder import NetworkBuilder, init_parameters
from sparseplan.errors import NetworkError, ProblemError
from sparseplan.liveness import analyse
from sparseplan.network import Network
from sparseplan.ops import OPS
from sparseplan.run.runner import random_data, run
from sparseplan.run.trainer import gradients, predict
from sparseplan.steps import TrainingOptions, UpdateSet
from sparseplan.stripegroups import candidates
from sparseplan.stripes import Lowered, Origin, Stripes, even, lower, of_height
from sparseplan.testing import check_rows
from sparseplan.testing.peers import plan_of, trainable
from sparseplan.verify import verify
from sparseplan.zoo.upydnet import upydnet

SLOW = settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large])

DECODER2 = ("ups1.tconv", "ups1.concat", "decoder2.conv0", "decoder2.act0", "decoder2.conv1", "decoder2.act1",
            "decoder2.conv2", "disparity")  # fmt: skip
FRONT = ("encoder.conv0", "encoder.act0", "encoder.conv1", "encoder.act1")


def chain() -> Network:
    net = NetworkBuilder("chain")
    x = net.input("image", (2, 8, 4))
    x = net.relu(net.conv(x, 4, 3, 1, 1, name="a"), name="b")
    return net.build(net.conv(x, 2, 3, 2, 1, name="c"))


def close(got: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5 * max(1e-3, float(np.abs(expected).max())))


# -- the theorem ------------------------------------------------------------------------------------------
@SLOW
@given(lowered_networks(), st.integers(0, 99))
def test_outputs_and_gradients_are_those_of_the_network(lowered: Lowered, seed: int) -> None:
    network = lowered.original
    parameters = init_parameters(network, seed)
    x, target = random_data(network, "mse", 2, seed)
    assert set(lowered.network.parameters) == set(network.parameters)
    assert lowered.network.outputs == network.outputs
    close(predict(lowered.network, parameters, x), predict(network, parameters, x))
    if not trainable(network):
        return
    update = dict.fromkeys(trainable(network), 1.0)
    loss, expected = gradients(network, parameters, x, target, "mse", update=update)
    again, found = gradients(lowered.network, parameters, x, target, "mse", update=update)
    assert again == pytest.approx(loss, rel=1e-5)
    for p, gradient in expected.items():
        close(found[p], gradient)


@SLOW
@given(lowered_networks(), st.integers(0, 99), st.sampled_from(["fused", "accumulate"]),
       st.sampled_from(["bf16", "fp32"]), st.sampled_from([1, 4]))  # fmt: skip
def test_a_network_in_stripes_runs_in_its_bytes(
    lowered: Lowered, seed: int, kind: str, dtype: str, alignment: int
) -> None:
    rng = random.Random(seed)
    problem = problem_of(lowered.network, gradients=kind, dtype=dtype, alignment=alignment, loss="mse")
    plan = plan_of(problem, any_update(problem, rng, 0.7), any_picks(problem, rng))
    assert verify(problem, plan) == ()
    report = run(plan, seed=seed, samples=2 if kind == "accumulate" else 1)
    assert report.faults == ()
    assert report.bitwise_equal


# -- what is made of a network ------------------------------------------------------------------------------
def test_each_op_becomes_one_op_a_stripe() -> None:
    lowered = lower(chain(), [Stripes(("a", "b", "c"), even(4, 2))])
    assert [op.name for op in lowered.network.ops] == [
        "image[0:5]", "a@0", "b@0", "c@0", "image[2:8]", "a@1", "b@1", "c@1", "c@join",
    ]  # fmt: skip
    # rows 0 and 1 of c see rows -1 to 3 of b, these see rows -2 to 4 of the image; padding stays at the border
    assert lowered.origin["a@0"] == Origin("a", 0, 0, (0, 4))
    assert lowered.origin["a@1"] == Origin("a", 0, 1, (3, 8))
    assert lowered.network.op["a@0"].attrs["padding"] == (1, 1, 0, 1)
    assert lowered.network.op["a@1"].attrs["padding"] == (0, 1, 1, 1)
    assert lowered.network.users["a.weight"] == tuple((lowered.network.op[f"a@{k}"], "weight") for k in (0, 1))
    assert lowered.network.tensor["c.out"].shape == (2, 4, 2)


def test_what_is_seen_outside_is_joined_without_its_halo() -> None:
    net = NetworkBuilder("side")
    x = net.input("image", (1, 4, 4))
    y = net.conv(x, 1, 3, 1, 1, name="a")
    z = net.conv(y, 1, 3, 1, 1, name="b")
    lowered = lower(net.build([z, net.relu(y, name="c")]), [Stripes(("a", "b"), even(4, 2))])
    assert lowered.origin["a@0"].rows == (0, 3)
    assert lowered.network.op["a@join"].inputs == ("a.out@0[0:2]", "a.out@1[1:3]")
    assert lowered.network.op["b@join"].inputs == ("b.out@0", "b.out@1")


def test_copies_are_made_for_a_group_alone() -> None:
    net = upydnet()
    lowered = lower(net, [Stripes(DECODER2, of_height(48, 24), FRONT)]).network
    assert "encoder.act1" in lowered.op  # encoder.conv2 reads it
    assert [op.name for op in lowered.consumers["encoder.act1.out"]] == ["encoder.conv2"]
    assert {op.name for op, _ in lowered.users["encoder.conv0.weight"]} == {
        "encoder.conv0", "encoder.conv0@0", "encoder.conv0@1",
    }  # fmt: skip


def test_halos_are_counted_in_macs() -> None:
    net = upydnet()
    plain = differentiate(net, UpdateSet({})).macs["forward"]
    macs = [differentiate(lower(net, [Stripes(DECODER2, of_height(48, h))]).network, UpdateSet({})).macs["forward"]
            for h in (48, 24, 8)]  # fmt: skip
    assert macs[0] == plain < macs[1] < macs[2]


def test_stripes_take_the_memory_down() -> None:
    net = upydnet()
    update = UpdateSet({p: 1.0 for p in net.parameters if p.startswith(("decoder0", "ups0"))})
    options = TrainingOptions("bf16", frozen="flash")
    assert analyse(differentiate(net, update, options)).peak() == 438_144
    stripes = lower(net, [Stripes(DECODER2, of_height(48, 4), FRONT)]).network
    assert analyse(differentiate(stripes, update, options)).peak() < 220_000


def test_rows_of_what_is_read_are_freed_as_stripes_go_on() -> None:
    memory = analyse(differentiate(lower(chain(), [Stripes(("a", "b", "c"), even(4, 4))]).network, UpdateSet({})))
    image = sorted((b.lo, b.stop) for b in memory.buffers if b.value == "image")
    assert len(image) > 1
    assert image == sorted(image, key=lambda b: b[1])


def test_stripes_need_one_sample_and_split_concats() -> None:
    network = lower(chain(), [Stripes(("a", "b", "c"), even(4, 2))]).network
    for options in (TrainingOptions(batch=2), TrainingOptions(concat="adjoin")):
        with pytest.raises(
            ProblemError, match=r"op 'image\[0:5\]' works on rows, which takes batch=1 and concat='split"
        ):
            differentiate(network, UpdateSet({}), options)


# -- bad input ----------------------------------------------------------------------------------------------
BAD = {
    "unknown": (lambda: Stripes(("a", "bee"), even(4, 2)), "op 'bee' is unknown to network 'chain'"),
    "both": (lambda: Stripes(("b",), even(8, 2), ("b",)), "op 'b' is both in ops and copied; choose one"),
    "empty": (lambda: Stripes((), even(4, 2)), "give at least one of each"),
    "gap": (lambda: Stripes(("c",), ((0, 1), (2, 4))), "must be ranges from 0 on that adjoin"),
    "short": (lambda: Stripes(("c",), even(3, 2)), "must end at 4, the rows of 'c.out'"),
    "not convex": (lambda: Stripes(("a", "c"), even(4, 2)), "op 'c' reads 'b.out', which depends on what the group"),
    "too many": (lambda: Stripes(("c",), even(4, 5)), "count=5 stripes of 4 rows; give 1 to 4"),
    "no rows": (lambda: Stripes(("c",), of_height(4, 0)), "rows=0 of a stripe must be at least 1"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_groups_are_refused_in_words(case: str) -> None:
    make, message = BAD[case]
    with pytest.raises(ProblemError) as error:
        lower(chain(), [make()])
    assert message in str(error.value)


def test_an_op_is_in_one_group() -> None:
    with pytest.raises(ProblemError, match="op 'c' is named twice"):
        lower(chain(), [Stripes(("c",), even(4, 2)), Stripes(("b", "c"), even(4, 2))])


def test_ops_that_mix_all_rows_stay_out() -> None:
    net = NetworkBuilder("pooled")
    x = net.conv(net.input("image", (1, 4, 4)), 1, 1, name="a")
    network = net.build(net.op("global_avg_pool", x, name="mean"))
    with pytest.raises(ProblemError, match=r"op 'mean' \(global_avg_pool\) cannot work by rows; leave it out"):
        lower(network, [Stripes(("a", "mean"), even(1, 1))])


def test_names_must_be_free() -> None:
    net = NetworkBuilder("taken")
    x = net.relu(net.input("image", (1, 4, 4)), name="a")
    network = net.build(net.relu(x, name="a@0"))
    with pytest.raises(NetworkError, match="'a@0' is used twice"):
        lower(network, [Stripes(("a",), even(4, 2))])


def test_every_op_that_keeps_rows_apart_can_be_cut() -> None:
    able = {kind for kind, d in OPS.items() if type(d).stripe is not OPS["global_avg_pool"].__class__.stripe}
    assert able >= {"conv", "conv_transpose", "relu", "leaky_relu", "add", "mul", "concat", "upsample", "max_pool"}


# -- candidates -----------------------------------------------------------------------------------------------
def test_candidates_are_regions_of_large_tensors() -> None:
    net = upydnet()
    found = candidates(net)
    heights = {(g.ops, g.copied): [] for g in found}
    for g in found:
        heights[g.ops, g.copied].append(g.rows[0][1])
    for copied in ((), FRONT):
        assert heights[DECODER2, copied] == [24, 16, 12, 8, 6, 4, 3, 2, 1]
    assert any(set(FRONT) <= set(g.ops) for g in found)  # the front as a group of its own
    for g in found:
        lower(net, [g])


def test_small_networks_without_large_tensors_have_no_candidates() -> None:
    net = NetworkBuilder("flat")
    assert candidates(net.build(net.op("linear", net.input("x", (4,)), out_features=2))) == ()


@SLOW
@given(networks_by_rows())
def test_candidates_of_any_network_can_be_lowered(network: Network) -> None:
    for group in candidates(network, heights=(1, 2, 3)):
        assert len(group.rows) > 1
        assert lower(network, [group]).origin


@SLOW
@given(lowered_networks(), st.integers(0, 99), st.sampled_from([1, 4]))
def test_the_solvers_rows_are_the_bytes_of_liveness(lowered: Lowered, seed: int, alignment: int) -> None:
    rng = random.Random(seed)
    problem = problem_of(lowered.network, dtype="bf16", alignment=alignment, loss="mse")
    check_rows(problem, any_update(problem, rng, 0.7), any_picks(problem, rng))


def test_what_all_readers_have_copies_of_is_gone() -> None:
    """b is read by c and d alone, whose stripes make it themselves."""
    net = NetworkBuilder("forked")
    b = net.conv(net.conv(net.input("image", (2, 8, 4)), 2, 3, padding=1, name="a"), 2, 3, padding=1, name="b")
    ends = [net.conv(b, 2, 3, padding=1, name=name) for name in ("c", "d")]
    original = net.build(net.add(ends, name="s"))
    lowered = lower(original, [Stripes(("c", "d", "s"), even(8, 2), ("a", "b"))])
    assert {"a", "b"}.isdisjoint(lowered.network.op)
    assert {"a@0", "b@0", "a@1", "b@1"} <= set(lowered.network.op)
