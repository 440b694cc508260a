"""Tensors saved in 8 bits: codes and scales stand for every number within half a step of its channel, and the
gradients that are computed from them are those of NumPy on the numbers that the codes stand for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from planted import problem_of

from sparseplan.builder import NetworkBuilder, init_parameters
from sparseplan.network import Network
from sparseplan.plan import Plan
from sparseplan.recompute import Savings
from sparseplan.run import run
from sparseplan.run.packing import pack, unpack
from sparseplan.run.runner import random_data
from sparseplan.testing.peers import plan_of
from sparseplan.verify import verify

Array = np.ndarray[Any, Any]

SHAPES = st.one_of(
    st.tuples(st.integers(1, 2), st.integers(1, 3)),
    st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(1, 4)),
    st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3)),
)
#: from the smallest subnormal to the largest number, of either sign
ANY = st.one_of(st.floats(width=32, allow_nan=False, allow_infinity=False), st.sampled_from([0.0, -0.0, 1.0, 3.4e38]))


def groups(x: Array) -> list[Array]:
    """What shares a scale: a channel over all samples; all elements of vectors."""
    return [x[:, c] for c in range(x.shape[1])] if x.ndim > 2 else [x]


# -- numbers -------------------------------------------------------------------------------------------
@given(SHAPES.flatmap(lambda shape: hnp.arrays(np.float32, shape, elements=ANY)))
def test_every_number_comes_back_within_half_a_step_of_its_channel(x: Array) -> None:
    codes, scales = pack(x)
    back = unpack(codes, scales)
    assert (codes.dtype, codes.shape) == (np.uint8, x.shape)
    assert (scales.dtype, scales.shape) == (np.float32, (1, x.shape[1] if x.ndim > 2 else 1))
    assert (back.dtype, back.shape) == (np.float32, x.shape)
    assert codes.min() >= 1
    for original, made in zip(groups(x), groups(back), strict=True):
        wide = original.astype(np.float64)
        step = float(np.abs(wide).max()) / 127
        # the scale is itself a float32: half a unit of its last place, 127 times
        slack = 1e-6 * step * 127 + 127 * 2.0**-149
        assert np.abs(made.astype(np.float64) - wide).max() <= step / 2 + slack


@given(SHAPES.flatmap(lambda shape: hnp.arrays(np.float32, shape, elements=st.floats(-1e3, 1e3, width=32))))
def test_signs_zeros_and_the_largest_are_kept(x: Array) -> None:
    back = unpack(*pack(x))
    assert (back[x == 0] == 0).all()
    assert (np.sign(back) * np.sign(x) >= 0).all()
    mirrored = unpack(*pack(-x))
    np.testing.assert_array_equal(mirrored, -back)
    for original, made in zip(groups(x), groups(back), strict=True):
        most = np.abs(original).max()
        if most > 1e-30:
            assert np.abs(made).max() == pytest.approx(most, rel=1e-6)


@given(SHAPES.flatmap(lambda shape: hnp.arrays(np.float32, shape, elements=st.floats(-10, 10, width=32))))
def test_packing_what_was_packed_changes_nothing(x: Array) -> None:
    codes, scales = pack(x)
    again, other = pack(unpack(codes, scales))
    np.testing.assert_allclose(other, np.where(scales < 1e-37, other, scales), rtol=1e-6)
    if (scales > 1e-37).all():
        np.testing.assert_array_equal(again, codes)


def test_channels_have_scales_of_their_own_and_samples_share_them() -> None:
    x = np.array([[[1.0, -0.5], [100.0, 50.0]], [[2.0, 0.0], [0.0, 127.0]]], np.float32)
    codes, scales = pack(x)
    np.testing.assert_array_equal(scales, np.array([[2 / 127, 1]], np.float32))
    np.testing.assert_array_equal(codes[:, 1], [[228, 178], [128, 255]])
    # halves round to even: 63.5 to 64, -31.75 to -32
    np.testing.assert_array_equal(codes[:, 0], [[192, 96], [255, 128]])


def test_a_vector_has_one_scale() -> None:
    codes, scales = pack(np.array([[1.0, -127.0, 0.4]], np.float32))
    np.testing.assert_array_equal(scales, np.array([[1]], np.float32))
    np.testing.assert_array_equal(codes, [[129, 1, 128]])


def test_channels_of_zeros_come_back_as_zeros() -> None:
    codes, scales = pack(np.zeros((1, 3, 2, 2), np.float32))
    assert (codes == 128).all()
    assert (scales == 1).all()
    assert not unpack(codes, scales).any()


def test_subnormal_channels_come_back_finite_and_no_larger() -> None:
    x = np.array([[[1e-44, -3e-45], [1.2e-38, 5e-39]]], np.float32)
    back = unpack(*pack(x))
    assert np.isfinite(back).all()
    assert np.abs(back[0, 0]).max() <= 1.5 * 1e-44
    np.testing.assert_allclose(back[0, 1], x[0, 1], rtol=0.01)


def test_the_largest_numbers_do_not_overflow() -> None:
    most = np.finfo(np.float32).max
    back = unpack(*pack(np.array([[[most, -most, most / 2]]], np.float32)))
    assert np.isfinite(back).all()
    np.testing.assert_allclose(back, [[[most, -most, most / 2]]], rtol=0.01)


def test_what_is_not_finite_is_zero_or_the_largest_finite_magnitude() -> None:
    x = np.array([[[np.nan, np.inf, -np.inf, 2.0, -1.0]]], np.float32)
    np.testing.assert_allclose(unpack(*pack(x)), [[[0, 2, -2, 2, -1]]], rtol=0.01)


def test_a_channel_of_nothing_finite_has_scale_one() -> None:
    codes, scales = pack(np.array([[[np.nan, np.nan, np.inf]]], np.float32))
    assert scales.tolist() == [[1.0]]
    assert codes.tolist() == [[[128, 128, 255]]]


# -- gradients -------------------------------------------------------------------------------------------
def line() -> Network:
    """Two pointwise convolutions, whose gradients NumPy computes in one line each."""
    net = NetworkBuilder("line")
    t = net.conv(net.input("image", (3, 4, 4)), 4, 1, name="a", bias=False)
    return net.build(net.conv(t, 2, 1, name="b", bias=True))


def packed_plan(network: Network, ops: tuple[str, ...], update: dict[str, float], **options: Any) -> Plan:
    problem = replace(problem_of(network, alignment=4, **options), savings=("int8",))
    plan = plan_of(problem, update, None, Savings(packed=frozenset(ops)))
    assert verify(problem, plan) == ()
    return plan


def by_hand(x: Array) -> Array:
    """What codes stand for, one channel after the other, in plain Python."""
    found = np.zeros_like(x)
    for c in range(x.shape[1]):
        scale = np.float32(np.float32(max(abs(float(v)) for v in x[:, c].ravel())) / np.float32(127))
        for at in np.ndindex(x[:, c].shape):
            code = round(float(np.float32(x[:, c][at] / scale)))  # to even, as IEEE
            found[:, c][at] = np.float32(max(-127, min(127, code))) * scale
    return found


def line_gradients(network: Network, x: Array, target: Array, packed: bool) -> dict[str, Array]:
    """Of the mean square over what is not NaN, by hand."""
    p = init_parameters(network, 0)
    a, b, bias = p["a.weight"][:, :, 0, 0], p["b.weight"][:, :, 0, 0], p["b.bias"]
    hidden = np.einsum("oc,nchw->nohw", a, x)
    y = np.einsum("oc,nchw->nohw", b, hidden) + bias[:, None, None]
    known = ~np.isnan(target)
    dy = np.where(known, y - np.where(known, target, 0), 0) * (2 / known.sum())
    dhidden = np.einsum("oc,nohw->nchw", b, dy)
    seen, read = (by_hand(x), by_hand(hidden)) if packed else (x, hidden)
    return {
        "a.weight": np.einsum("nohw,nchw->oc", dhidden, seen)[:, :, None, None],
        "b.weight": np.einsum("nohw,nchw->oc", dy, read)[:, :, None, None],
        "b.bias": dy.sum(axis=(0, 2, 3)),
    }


@pytest.mark.parametrize("gradients", ["fused", "accumulate"])
@pytest.mark.parametrize("batch", [1, 2])
def test_gradients_from_packed_inputs_are_those_of_numpy(gradients: str, batch: int) -> None:
    network = line()
    update = dict.fromkeys(network.parameters, 1.0)
    plan = packed_plan(network, ("a", "b"), update, dtype="fp32", loss="mse", gradients=gradients, batch=batch)
    x, target = random_data(network, "mse", batch, 3)
    report = run(plan, init_parameters(network, 0), x, target)
    expected = line_gradients(network, x["image"], target, True)
    exact = line_gradients(network, x["image"], target, False)
    assert report.bitwise_equal
    assert report.guard_intact
    for p in network.parameters:
        np.testing.assert_allclose(report.gradients[p], expected[p], rtol=2e-5, atol=1e-6)
    assert set(report.packed_errors) == {"a.weight", "b.weight"}
    for p, error in report.packed_errors.items():
        wanted = np.linalg.norm(expected[p] - exact[p]) / np.linalg.norm(exact[p])
        assert error == pytest.approx(wanted, rel=0.01)
        assert 0 < error < 0.05


def test_only_what_is_packed_differs() -> None:
    network = line()
    plan = packed_plan(network, ("b",), {"a.weight": 1.0, "b.weight": 0.5, "b.bias": 1.0}, dtype="fp32", loss="mse")
    x, target = random_data(network, "mse", 1, 4)
    report = run(plan, init_parameters(network, 0), x, target)
    exact = line_gradients(network, x["image"], target, False)
    packed = line_gradients(network, x["image"], target, True)
    assert report.bitwise_equal
    assert list(report.packed_errors) == ["b.weight"]
    np.testing.assert_allclose(report.gradients["a.weight"], exact["a.weight"], rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(report.gradients["b.bias"], exact["b.bias"], rtol=2e-5, atol=1e-6)
    kept = report.gradients["b.weight"].shape[1]
    assert kept == 2
    np.testing.assert_allclose(report.gradients["b.weight"], packed["b.weight"][:, :kept], rtol=2e-5, atol=1e-6)


def test_a_plan_without_packed_inputs_has_no_errors_to_tell() -> None:
    network = line()
    plan = packed_plan(network, (), dict.fromkeys(network.parameters, 1.0), dtype="fp32")
    assert run(plan).packed_errors == {}
    assert run(plan).to_json()["packed_errors"] == {}


def test_errors_are_not_told_where_nothing_was_compared() -> None:
    network = line()
    plan = packed_plan(network, ("a",), dict.fromkeys(network.parameters, 1.0))
    assert run(plan, compare=False).packed_errors == {}
