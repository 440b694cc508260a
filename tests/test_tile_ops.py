"""The tile spaces of real ops: whole tiles are whole tensors, and every layer of a network fits L1."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest

from sparseplan import zoo
from sparseplan.device import load_device
from sparseplan.ops import infos, op_def
from sparseplan.ops.base import OpInfo, Shape
from sparseplan.solve.tile import best_tile, smallest_tile_bytes, tile_of, tiles_for


def info(name: str, kind: str, shapes: tuple[Shape, ...], **attrs: Any) -> OpInfo:
    definition = op_def(kind)
    full = definition.complete_attrs(attrs)
    return OpInfo(
        name, kind, full, shapes, definition.output_shape(full, shapes), definition.param_shapes(full, shapes)
    )


def passes(op: OpInfo) -> list[str]:
    slots = [f"x{i}" for i in range(len(op.inputs)) if op_def(op.kind).differentiable(op, i)]
    return ["forward", *slots, *op.params]


CASES: list[tuple[str, tuple[Shape, ...], Mapping[str, Any]]] = [
    ("conv", ((3, 9, 7),), {"kernel": 3, "out_channels": 4, "padding": 1}),
    ("conv", ((4, 9, 8),), {"kernel": (3, 2), "out_channels": 6, "stride": 2, "padding": 1, "groups": 2}),
    ("conv", ((4, 8, 8),), {"kernel": 3, "out_channels": 4, "groups": 4, "dilation": 2}),
    ("conv", ((5, 6, 6),), {"kernel": 1, "out_channels": 3}),
    ("conv_transpose", ((4, 5, 5),), {"kernel": 2, "out_channels": 3, "stride": 2}),
    ("relu", ((4, 5, 5),), {}),
    ("add", ((4, 5, 5), (4, 5, 5)), {}),
    ("mul", ((4, 5, 5), (4, 1, 1)), {}),
    ("concat", ((4, 5, 5), (3, 5, 5)), {}),
]


@pytest.mark.parametrize(("kind", "shapes", "attrs"), CASES)
def test_a_whole_tile_is_the_whole_tensor(kind: str, shapes: tuple[Shape, ...], attrs: Mapping[str, Any]) -> None:
    op = info("op", kind, shapes, **attrs)
    tensors = {"y": op.output, "dy": op.output, **{f"x{i}": s for i, s in enumerate(op.inputs)}}
    tensors |= dict(op.params) | {f"d{slot}": shape for slot, shape in op.params.items()}
    for pass_ in passes(op):
        space = op_def(kind).tile_space(op, pass_)
        if space is None:
            continue
        if pass_.startswith("x"):
            tensors["dx"] = op.inputs[int(pass_[1:])]
        order = tuple(axis for axis, _ in space.axes)
        tile = tile_of(space, "fp32", dict(space.axes), order, double_buffer=True)
        for operand in tile.operands:
            if operand.tag in tensors:
                whole = math.prod(tensors[operand.tag])
                # strided windows or a crop may leave rows and columns unread; nothing is moved twice
                assert operand.dma_bytes <= 4 * whole, (pass_, operand)
                assert operand.role == "in" or operand.dma_bytes == 4 * whole, (pass_, operand)
        least = smallest_tile_bytes(space, "fp32", True)
        assert best_tile(space, "fp32", least, True) is not None
        assert best_tile(space, "fp32", least - 1, True) is None


@pytest.mark.parametrize("preset", ["gap8", "gap9"])
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_every_pass_of_upydnet_has_a_tile(preset: str, dtype: str) -> None:
    level = load_device(preset).level("L1")
    assert level.usable is not None
    work = [(op, pass_) for op in infos(zoo.upydnet()).values() for pass_ in passes(op)]
    assert sum(op.kind in ("conv", "conv_transpose") for op, pass_ in work if pass_ == "forward") == 17
    tiles = tiles_for(work, dtype, level.usable, True, level.alignment)
    for (op, pass_), tile in tiles.items():
        assert tile is not None, (op, pass_)
        assert tile.l1_bytes <= level.usable
    assert len({op for op, _ in tiles}) >= 17
