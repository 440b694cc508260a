"""Shape rules: what fits, and what an error says where it does not."""

from __future__ import annotations

from typing import Any

import pytest
from op_cases import resolved

from sparseplan.errors import NetworkError, OpError
from sparseplan.ops import op_def

IMAGE = [(4, 8, 8)]


@pytest.mark.parametrize(
    ("kind", "shapes", "attrs", "output"),
    [
        ("conv", IMAGE, {"kernel": 3, "out_channels": 6}, (6, 6, 6)),
        ("conv", IMAGE, {"kernel": (3, 1), "out_channels": 6, "stride": 2, "padding": (1, 0)}, (6, 4, 4)),
        ("conv", IMAGE, {"kernel": 3, "out_channels": 6, "padding": (0, 1, 1, 2)}, (6, 7, 9)),
        ("conv", IMAGE, {"kernel": 3, "out_channels": 8, "dilation": 3, "groups": 4}, (8, 2, 2)),
        ("conv_transpose", IMAGE, {"kernel": 2, "out_channels": 6, "stride": 2}, (6, 16, 16)),
        (
            "conv_transpose",
            IMAGE,
            {"kernel": 3, "out_channels": 6, "stride": 2, "padding": 1, "output_padding": 1},
            (6, 16, 16),
        ),
        ("linear", [(5,)], {"out_features": 3}, (3,)),
        ("linear", [(7, 5)], {"out_features": 3}, (7, 3)),
        ("flatten", IMAGE, {}, (256,)),
        ("reshape", IMAGE, {"shape": (16, -1)}, (16, 16)),
        ("reshape", IMAGE, {"shape": 256}, (256,)),
        ("max_pool", IMAGE, {"kernel": 2}, (4, 4, 4)),
        ("avg_pool", IMAGE, {"kernel": 3, "stride": 2, "padding": 1}, (4, 4, 4)),
        ("global_avg_pool", IMAGE, {}, (4, 1, 1)),
        ("upsample", IMAGE, {"scale": (2, 3)}, (4, 16, 24)),
        ("concat", [(4, 8, 8), (2, 8, 8)], {}, (6, 8, 8)),
        ("concat", [(4, 8, 8), (4, 8, 3)], {"axis": 2}, (4, 8, 11)),
        ("add", [(4, 8, 8)] * 3, {}, (4, 8, 8)),
        ("mul", [(4, 8, 8), (4, 1, 1)], {}, (4, 8, 8)),
    ],
)
def test_output_shapes(kind: str, shapes: list[tuple[int, ...]], attrs: dict[str, Any], output: Any) -> None:
    assert resolved(kind, shapes, **attrs).output == output


@pytest.mark.parametrize(
    ("kind", "shapes", "attrs", "message"),
    [
        ("conv", IMAGE, {"out_channels": 6}, r"attribute 'kernel' of conv is missing; give it"),
        ("conv", IMAGE, {"kernel": 3, "out_channels": 6, "strides": 2}, r"'strides' is unknown.*did you mean 'stride'"),
        ("conv", IMAGE, {"kernel": 0, "out_channels": 6}, r"kernel=0 must be at least 1"),
        ("conv", IMAGE, {"kernel": 2.5, "out_channels": 6}, r"kernel=2.5 must be an integer or 2 of them"),
        ("conv", IMAGE, {"kernel": (3, 3, 3), "out_channels": 6}, r"kernel=\(3, 3, 3\) must be an integer or 2"),
        ("conv", IMAGE, {"kernel": True, "out_channels": 6}, r"kernel=True must be"),
        ("conv", IMAGE, {"kernel": 3, "out_channels": 6.0}, r"out_channels=6.0 must be an integer"),
        ("conv", IMAGE, {"kernel": 3, "out_channels": 6, "padding": (1, 1, 1)}, r"padding=\(1, 1, 1\).*2 or 4 of them"),
        ("conv", IMAGE, {"kernel": 3, "out_channels": 6, "padding": -1}, r"padding=-1 must be at least 0"),
        ("conv", IMAGE, {"kernel": 9, "out_channels": 6}, r"too small: the output would have shape \(6, 0, 0\)"),
        ("conv", IMAGE, {"kernel": 3, "out_channels": 6, "groups": 4}, r"out_channels=6 is not a multiple of groups=4"),
        ("conv", IMAGE, {"kernel": 3, "out_channels": 6, "groups": 3}, r"input channels=4 is not a multiple"),
        ("conv", [(4, 8)], {"kernel": 3, "out_channels": 6}, r"shape \(4, 8\), expected \(channels, height, width\)"),
        (
            "conv_transpose",
            IMAGE,
            {"kernel": 3, "out_channels": 6, "output_padding": 1},
            r"output_padding=\(1, 1\) must be below the stride=\(1, 1\)",
        ),
        ("leaky_relu", IMAGE, {"slope": -0.1}, r"slope=-0.1 must be at least 0"),
        ("leaky_relu", IMAGE, {"slope": float("nan")}, r"slope=nan must be a finite number"),
        ("reshape", IMAGE, {"shape": (3, -1)}, r"shape=\(3, -1\) does not hold the 256 elements"),
        ("reshape", IMAGE, {"shape": (4, 4)}, r"shape=\(4, 4\) does not hold the 256 elements"),
        ("reshape", IMAGE, {"shape": (-1, -1)}, r"at most one -1"),
        ("max_pool", IMAGE, {"kernel": 17}, r"kernel=\(17, 17\) has 289 entries; at most 256"),
        ("max_pool", IMAGE, {"kernel": 2, "padding": 2}, r"padding=\(2, 2, 2, 2\) must be below kernel=\(2, 2\)"),
        ("avg_pool", IMAGE, {"kernel": 2, "count_include_pad": 1}, r"count_include_pad=1 must be true or false"),
        ("upsample", IMAGE, {"scale": 2, "mode": "bicubic"}, r"mode='bicubic' is unknown; .*bilinear"),
        ("concat", [(4, 8, 8), (4, 8, 7)], {}, r"inputs have shapes .* they may differ along axis=0 only"),
        ("concat", [(4,)], {"axis": 1}, r"axis=1 is beyond the 1 axes"),
        ("add", [(4, 8, 8), (4, 2, 1)], {}, r"add takes equal ones, or extents of 1 to spread"),
        ("add", [(4, 8, 8), (8, 8)], {}, r"add takes equal ones"),
        ("add", IMAGE, {}, r"1 inputs given, add takes 2 or more"),
        ("mul", [(4, 8, 8), (4, 2, 1)], {}, r"mul takes equal ones, or extents of 1 to spread"),
        ("relu", [(4,), (4,)], {}, r"2 inputs given, relu takes 1"),
        ("conv2d", IMAGE, {"kernel": 3}, r"op kind 'conv2d' is unknown; did you mean .*'conv'"),
    ],
)
def test_errors_name_the_culprit(kind: str, shapes: list[tuple[int, ...]], attrs: dict[str, Any], message: str) -> None:
    with pytest.raises(NetworkError, match=message):
        resolved(kind, shapes, **attrs)


def test_parameters_must_be_known_and_present() -> None:
    with pytest.raises(OpError, match=r"parameter 'weight' of shape \(6, 4, 3, 3\) is missing"):
        resolved("conv", IMAGE, ("bias",), kernel=3, out_channels=6)
    with pytest.raises(OpError, match=r"parameter slot 'weigth' is unknown to conv; did you mean 'weight'"):
        resolved("conv", IMAGE, ("weigth",), kernel=3, out_channels=6)


@pytest.mark.parametrize("kind", ["relu", "relu6", "leaky_relu", "sigmoid", "tanh", "hardswish", "affine"])
def test_unary_ops_work_in_place(kind: str) -> None:
    info = resolved(kind, IMAGE)
    assert op_def(kind).inplace(info) == (0,)
    assert op_def(kind).inplace_grad(info, 0)


def test_products_in_place_only_where_nothing_is_spread() -> None:
    mul = op_def("mul")
    assert mul.inplace(resolved("mul", IMAGE * 2)) == (0, 1)
    assert mul.inplace(resolved("mul", [(4, 8, 8), (4, 1, 1)])) == ()
    assert not mul.inplace_grad(resolved("mul", [(4, 8, 8), (4, 1, 1)]), 0)
    assert op_def("add").inplace(resolved("add", IMAGE * 3)) == (0, 1, 2)


@pytest.mark.parametrize("kind", ["add", "sub", "div", "maximum", "minimum"])
def test_only_what_is_not_spread_is_overwritten(kind: str) -> None:
    info = resolved(kind, [(4, 1, 1), (4, 8, 8)])
    assert op_def(kind).inplace(info) == (1,)
    assert not op_def(kind).inplace_grad(info, 0)
    assert op_def(kind).inplace_grad(info, 1)
    assert op_def(kind).inplace(resolved(kind, [(4, 1, 8), (4, 8, 1)])) == ()
