"""Every op's gradients are its finite differences; parts of them are slices of the whole."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from op_cases import Case, case, cases

from sparseplan.ops import OPS

KINDS = sorted(set(OPS) - {"opaque"})  # that one computes nothing
STEP = 1e-5


def _close(got: np.ndarray, expected: np.ndarray) -> None:
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)


def _differences(c: Case, of: np.ndarray) -> np.ndarray:
    """Central differences of <forward, dy> in every entry of one of the case's arrays."""
    grad = np.empty(of.shape)
    for at in np.ndindex(of.shape):
        kept = of[at]
        of[at] = kept + STEP
        high = c.forward()
        of[at] = kept - STEP
        low = c.forward()
        of[at] = kept
        grad[at] = np.sum((high - low) * c.dy) / (2 * STEP)
    return grad


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15, derandomize=True)
@given(data=st.data())
def test_gradients_are_finite_differences(kind: str, data: st.DataObject) -> None:
    c = data.draw(cases(kind))
    for slot in c.reached:
        expected = _differences(c, c.x[slot])
        for choice in range(len(c.definition.needs_for_input(c.info, slot))):
            _close(c.grad_input(slot, choice=choice), expected)
    for slot in c.updatable:
        _close(c.grad_param(slot), _differences(c, c.params[slot]))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15, derandomize=True)
@given(data=st.data())
def test_kernels_make_new_arrays_of_the_right_shape_and_dtype(kind: str, data: st.DataObject) -> None:
    c = data.draw(cases(kind))
    c = dataclasses.replace(
        c,
        x=[x.astype(np.float32) if x.dtype.kind == "f" else x for x in c.x],
        params={s: p.astype(np.float32) for s, p in c.params.items()},
        dy=c.dy.astype(np.float32),
    )
    for array in (*c.x, *c.params.values(), c.dy):
        array.flags.writeable = False  # a write to an argument would raise
    batch = c.dy.shape[0]
    y = c.forward()
    made = [(y, (batch, *c.info.output))]
    made += [(c.grad_input(i), c.x[i].shape) for i in c.reached]
    made += [(c.grad_param(slot), c.info.params[slot]) for slot in c.updatable]
    for array, shape in made:
        assert array.shape == shape
        assert array.dtype == np.float32
        assert array.flags.c_contiguous
        assert not any(np.shares_memory(array, a) for a in (*c.x, *c.params.values(), c.dy))


@pytest.mark.parametrize("kind", [k for k in KINDS if OPS[k].partial_input])
@settings(max_examples=15, derandomize=True)
@given(data=st.data())
def test_gradient_of_some_channels_is_a_slice_of_the_whole(kind: str, data: st.DataObject) -> None:
    c = data.draw(cases(kind))
    for slot in c.reached:
        shape = c.info.inputs[slot]
        first = data.draw(st.integers(0, shape[0] - 1))
        last = data.draw(st.integers(first + 1, shape[0]))
        part = c.grad_input(slot, (first, last))
        whole = c.grad_input(slot)[:, first:last]
        assert part.shape == whole.shape
        np.testing.assert_allclose(part, whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15, derandomize=True)
@given(data=st.data())
def test_gradient_of_a_fraction_is_a_slice_of_the_whole(kind: str, data: st.DataObject) -> None:
    c = data.draw(cases(kind))
    for slot in c.updatable:
        shape, fraction = c.info.params[slot], c.definition.fraction(c.info, slot)
        if fraction is None:
            continue
        assert fraction.units * fraction.per_unit == shape[fraction.axis]
        if fraction.rows is not None:
            assert fraction.units * fraction.rows == c.info.inputs[0][0]
        keep = data.draw(st.integers(1, fraction.units))
        whole = c.grad_param(slot)
        cut = [slice(None)] * len(shape)
        cut[fraction.axis] = slice(keep * fraction.per_unit)
        part = c.grad_param(slot, keep)
        assert part.shape == whole[tuple(cut)].shape
        np.testing.assert_allclose(part, whole[tuple(cut)], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=10, derandomize=True)
@given(data=st.data())
def test_auxiliaries_are_the_same_from_every_source(kind: str, data: st.DataObject) -> None:
    c = data.draw(cases(kind))
    at = {"y": c.forward(), **{f"x{i}": x for i, x in enumerate(c.x)}}
    for tag, aux in c.definition.aux(c.info).items():
        made = [c.definition.make_aux(c.info, tag, source, at[source]) for source in aux.sources]
        for array in made:
            assert array.shape == (c.dy.shape[0], *aux.shape)
            assert array.dtype == (np.bool_ if aux.dtype == "bit" else np.uint8)
            np.testing.assert_array_equal(array, made[0])
    with pytest.raises(NotImplementedError, match="no auxiliary 'nonsense'"):
        c.definition.make_aux(c.info, "nonsense", "y", at["y"])


@pytest.mark.parametrize("kind", ["relu", "leaky_relu", "relu6"])
def test_mask_is_exact_at_the_kink_and_below_normal_numbers(kind: str) -> None:
    c = case(kind, [(8,)], batch=1)
    tiny = float(np.finfo(np.float64).smallest_subnormal)
    x = np.array([[-0.0, 0.0, tiny, -tiny, 6.0, 5.999, -1e30, 1e30]])
    y = c.definition.forward(c.info, [x], {})
    expected = (x > 0) & (x < 6) if kind == "relu6" else x > 0
    np.testing.assert_array_equal(c.definition.make_aux(c.info, "mask", "x0", x), expected)
    np.testing.assert_array_equal(c.definition.make_aux(c.info, "mask", "y", y), expected)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=5, derandomize=True)
@given(data=st.data())
def test_a_sample_does_not_depend_on_its_batch(kind: str, data: st.DataObject) -> None:
    c = data.draw(cases(kind))
    y, dx = c.forward(), {slot: c.grad_input(slot) for slot in c.reached}
    for i in range(c.dy.shape[0]):
        one = dataclasses.replace(c, x=[x[i : i + 1] for x in c.x], dy=c.dy[i : i + 1])
        np.testing.assert_allclose(one.forward(), y[i : i + 1], rtol=1e-12, atol=1e-12)
        for slot, whole in dx.items():
            np.testing.assert_allclose(one.grad_input(slot), whole[i : i + 1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["conv", "conv_transpose"])
@pytest.mark.parametrize("padding", [1, (0, 1, 2, 1)])
@pytest.mark.parametrize(("channels", "outs"), [(12, 1), (1, 12), (12, 12)])
def test_wide_layers_take_every_method_and_agree(kind: str, channels: int, outs: int, padding: Any) -> None:
    # few outputs scatter, many gather, and columns come in several blocks
    c = case(kind, [(channels, 40, 41)], batch=3, seed=1, kernel=3, padding=padding, out_channels=outs, dtype="float64")
    rng = np.random.default_rng(2)
    probe = rng.standard_normal(c.x[0].shape)
    along = np.sum((c.definition.forward(c.info, [probe], c.params) - c.params["bias"][:, None, None]) * c.dy)
    assert np.isclose(np.sum(c.grad_input(0) * probe), along, rtol=1e-10)
    turned = {"weight": rng.standard_normal(c.params["weight"].shape)}
    along = np.sum(c.definition.forward(c.info, c.x, turned) * c.dy)
    assert np.isclose(np.sum(c.grad_param("weight") * turned["weight"]), along, rtol=1e-10)
    part = c.grad_input(0, (channels // 3, channels // 3 + 1))
    np.testing.assert_allclose(part, c.grad_input(0)[:, channels // 3 : channels // 3 + 1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("kind", "channels", "outs", "size", "attrs"),
    [
        ("conv", 40, 32, 48, {"kernel": 3, "padding": 1}),
        ("conv", 32, 1, 24, {"kernel": 3, "padding": 1}),
        ("conv", 8, 16, 48, {"kernel": 3, "padding": 1, "stride": 2}),
        ("conv", 24, 24, 24, {"kernel": 3, "padding": 1, "groups": 6}),
        ("conv_transpose", 32, 32, 24, {"kernel": 2, "stride": 2}),
    ],
)
def test_parts_of_large_layers_equal_the_whole_but_for_rounding(
    kind: str, channels: int, outs: int, size: int, attrs: dict[str, object]
) -> None:
    # at sizes that are cut into groups and strips; BLAS may sum a smaller product in another order
    c = case(kind, [(channels, size, size)], 4, dtype="float32", out_channels=outs, **attrs)
    dx, dw = c.grad_input(0), c.grad_param("weight")
    fraction = c.definition.fraction(c.info, "weight")
    assert fraction is not None
    for first, last in [(0, channels // 2), (channels // 2, channels), (3, 7), (5, 6)]:
        part, whole = c.grad_input(0, (first, last)), dx[:, first:last]
        np.testing.assert_allclose(part, whole, rtol=0, atol=1e-5 * np.abs(dx).max())
    for keep in (1, fraction.units // 2):
        whole = np.take(dw, range(keep * fraction.per_unit), axis=fraction.axis)
        np.testing.assert_allclose(c.grad_param("weight", keep), whole, rtol=0, atol=1e-5 * np.abs(dw).max())
