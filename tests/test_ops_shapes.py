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
        ("add", [(4, 8, 1), (1, 1, 8), (4, 8, 8)], {}, (4, 8, 8)),
        ("sub", [(4, 1, 8), (4, 8, 1)], {}, (4, 8, 8)),
        ("param_add", [(4, 8, 6)], {"shape": (8, 1)}, (4, 8, 6)),
        ("param_mul", [(4, 8, 6)], {"shape": 6}, (4, 8, 6)),
        ("mean", [(4, 8, 6)], {"axes": (-1, 1)}, (4, 1, 1)),
        ("amax", [(4, 8, 6)], {"axes": 0, "keepdims": False}, (8, 6)),
        ("sum", [(4, 8)], {"axes": (0, 1), "keepdims": False}, ()),
        ("transpose", [(4, 8, 6)], {"perm": (2, 0, -2)}, (6, 4, 8)),
        ("slice", [(4, 8, 6)], {"starts": (0, -3, 1), "stops": (4, 99, 6), "steps": (1, 2, 3)}, (4, 2, 2)),
        ("slice", [(4, 8)], {"starts": (1, 2), "stops": (-1, 8)}, (2, 6)),
        ("pad", [(4, 8)], {"before": (0, 2), "after": (1, 3)}, (5, 13)),
        ("pad", [(4, 8)], {"before": (3, 0), "after": (0, 7), "mode": "reflect"}, (7, 15)),
        ("gather", [(4, 8)], {"indices": (3, 0, 0)}, (3, 8)),
        ("gather", [(4, 8)], {"axis": -1, "indices": (7,)}, (4, 1)),
        ("expand", [(4, 1, 1)], {"shape": (4, 3, 1)}, (4, 3, 1)),
        ("tile", [(4, 8)], {"repeats": (1, 3)}, (4, 24)),
        ("resize", IMAGE, {"size": (3, 11)}, (4, 3, 11)),
        ("resize", [(4, 8)], {"size": 5, "mode": "linear"}, (4, 5)),
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
        ("gelu", IMAGE, {"approximate": "tan"}, r"approximate='tan' is unknown.*give none or tanh"),
        ("elu", IMAGE, {"alpha": -1.0}, r"alpha=-1.0 must be at least 0"),
        ("celu", IMAGE, {"alpha": 0}, r"alpha=0 must be above 0"),
        ("hard_sigmoid", IMAGE, {"alpha": -1}, r"alpha=-1 must be above 0"),
        ("clip", IMAGE, {}, r"low and high are both missing; give one at least"),
        ("clip", IMAGE, {"low": 1, "high": 1.0}, r"low=1.0 must be below high=1.0"),
        ("power", IMAGE, {}, r"attribute 'exponent' of power is missing"),
        ("sub", IMAGE * 3, {}, r"3 inputs given, sub takes 2"),
        ("div", [(4, 8), (3, 8)], {}, r"div takes equal ones, or extents of 1 to spread"),
        ("param_add", IMAGE, {"shape": (4,)}, r"shape=\(4,\) cannot be laid over input shape \(4, 8, 8\)"),
        ("param_mul", [(8,)], {"shape": (1, 8)}, r"shape=\(1, 8\) cannot be laid over input shape \(8,\)"),
        ("mean", IMAGE, {"axes": ()}, r"axes=\(\) reduce nothing"),
        ("mean", IMAGE, {"axes": (0, 3)}, r"axes=3 is beyond the 3 axes of input shape \(4, 8, 8\)"),
        ("sum", IMAGE, {"axes": (0, -3)}, r"axes=\(0, -3\) name an axis of input shape \(4, 8, 8\) twice"),
        ("amin", IMAGE, {"axes": 1, "keepdims": 1}, r"keepdims=1 must be true or false"),
        ("transpose", IMAGE, {"perm": (0, 2, 2)}, r"perm=\(0, 2, 2\) must hold each of the axes 0 to 2 once"),
        ("transpose", IMAGE, {"perm": (1, 0)}, r"perm=\(1, 0\) must have one entry for each of the 3 axes"),
        ("slice", [(4,)], {"starts": 0, "stops": (4, 4)}, r"starts=\(0,\), stops=\(4, 4\).* must be of one length"),
        ("slice", [(4,)], {"starts": 4, "stops": 9}, r"leave nothing of axis 0 of input shape \(4,\)"),
        ("slice", [(4,)], {"starts": 3, "stops": 0, "steps": -1}, r"steps=-1 must be integers of at least 1"),
        ("pad", [(4,)], {"before": -1, "after": 0}, r"before=-1 must be integers of at least 0"),
        ("pad", [(4,)], {"before": 4, "after": 0, "mode": "reflect"}, r"axis 0 of extent 4 can be reflected by 3"),
        ("pad", [(4,)], {"before": 1, "after": 0, "mode": "wrap"}, r"mode='wrap' is unknown"),
        ("gather", [(4,)], {"indices": (0, 4)}, r"indices=\(0, 4\) reach beyond the 4 entries of axis 0"),
        ("gather", [(4,)], {"axis": 1, "indices": 0}, r"axis=1 is beyond the 1 axes"),
        ("expand", [(4, 2)], {"shape": (4, 4)}, r"shape=\(4, 4\) must have the extents of input shape \(4, 2\)"),
        ("tile", [(4, 2)], {"repeats": (2,)}, r"repeats=\(2,\) must have one entry for each of the 2 axes"),
        ("resize", IMAGE, {"size": 8}, r"expected \(channels, …\) with 1 spatial axes, as size=\(8,\) has"),
        ("resize", IMAGE, {"size": (8, 8), "mode": "bicubic"}, r"mode='bicubic' is unknown; did you mean 'cubic'"),
        ("resize", IMAGE, {"size": (8, 8), "scales": "2"}, r"scales='2' must be as many as size=\(8, 8\)"),
        ("resize", IMAGE, {"size": (8, 8), "scales": "1,x"}, r"scales='1,x' must be numbers with commas between"),
        ("resize", IMAGE, {"size": (8, 8), "scales": "1,2"}, r"size=\(8, 8\) is not input shape \(4, 8, 8\) times"),
        ("resize", IMAGE, {"size": (8, 99999)}, r"has an extent over 16384; use fewer"),
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
