"""Random cases of elementwise ops, of ops that move or spread elements, and of reductions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st
from op_cases import Case, case

_extent = st.integers(1, 4)
_shapes = st.lists(_extent, min_size=1, max_size=3).map(tuple)

#: attributes that fit an input of the given shape
Attrs = Callable[[st.DrawFn, tuple[int, ...]], dict[str, Any]]


def _slice(draw: st.DrawFn, shape: tuple[int, ...]) -> dict[str, Any]:
    starts = tuple(draw(st.integers(-n, n - 1)) for n in shape)
    stops = tuple(draw(st.integers(s % n + 1, n + 2)) for s, n in zip(starts, shape, strict=True))
    return {"starts": starts, "stops": stops, "steps": tuple(draw(st.integers(1, 3)) for _ in shape)}


def _pad(draw: st.DrawFn, shape: tuple[int, ...]) -> dict[str, Any]:
    mode = draw(st.sampled_from(["constant", "reflect", "edge"]))
    most = [n - 1 if mode == "reflect" else 3 for n in shape]
    before, after = (tuple(draw(st.integers(0, m)) for m in most) for _ in range(2))
    return {"before": before, "after": after, "mode": mode, "value": draw(st.sampled_from([0.0, -1.5]))}


def _gather(draw: st.DrawFn, shape: tuple[int, ...]) -> dict[str, Any]:
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    return {"axis": axis, "indices": tuple(draw(st.lists(st.integers(0, shape[axis] - 1), min_size=1, max_size=5)))}


def _clip(draw: st.DrawFn, shape: tuple[int, ...]) -> dict[str, Any]:
    """Limits between entries; of some the output tells the mask in every dtype, of some not."""
    low, high = draw(st.sampled_from([(-0.5, 0.5), (None, 0.2), (-0.3, None), (0, 6), (-0.7, 0.1)]))
    return {name: limit for name, limit in (("low", low), ("high", high)) if limit is not None}


def _nothing(draw: st.DrawFn, shape: tuple[int, ...]) -> dict[str, Any]:
    return {}


def _spread(draw: st.DrawFn, kind: str, shape: tuple[int, ...], batch: int, seed: int) -> Case:
    """Inputs of one shape, and some with extents of 1; no two entries of two inputs are equal."""
    count = draw(st.integers(2, 4)) if kind == "add" else 2
    equal = draw(st.booleans())
    parts = [shape if equal else tuple(1 if draw(st.booleans()) else n for n in shape) for _ in range(count)]
    c = case(kind, parts, batch, seed)
    if kind == "div":
        return dataclasses.replace(c, x=[c.x[0], np.where(np.abs(c.x[1]) < 0.5, c.x[1] + 2, c.x[1])])
    return dataclasses.replace(c, x=[x + 0.03 * i for i, x in enumerate(c.x)])


def _weight(draw: st.DrawFn, shape: tuple[int, ...]) -> dict[str, Any]:
    rank = draw(st.integers(0, len(shape)))
    return {"shape": tuple(1 if draw(st.booleans()) else n for n in shape[len(shape) - rank :])}


def _axes(draw: st.DrawFn, shape: tuple[int, ...]) -> dict[str, Any]:
    rank = len(shape)
    axes = draw(st.lists(st.integers(0, rank - 1), min_size=1, max_size=rank, unique=True))
    return {"axes": tuple(a - draw(st.sampled_from([0, rank])) for a in axes), "keepdims": draw(st.booleans())}


def _expand(draw: st.DrawFn, shape: tuple[int, ...]) -> dict[str, Any]:
    return {"shape": tuple(draw(_extent) if n == 1 else n for n in shape)}


def _tile(draw: st.DrawFn, shape: tuple[int, ...]) -> dict[str, Any]:
    return {"repeats": tuple(draw(st.integers(1, 3)) for _ in shape)}


#: ops of one input of any shape
ALONE: dict[str, Attrs] = {
    "transpose": lambda draw, shape: {"perm": tuple(draw(st.permutations(range(len(shape)))))},
    "slice": _slice,
    "pad": _pad,
    "gather": _gather,
    "clip": _clip,
    "gelu": lambda draw, shape: {"approximate": draw(st.sampled_from(["none", "tanh"]))},
    "hard_sigmoid": lambda draw, shape: draw(st.sampled_from([{}, {"alpha": 0.2}, {"alpha": 0.5, "beta": 0.25}])),
    "elu": lambda draw, shape: {"alpha": draw(st.sampled_from([1.0, 0.5, 0.0]))},
    "celu": lambda draw, shape: {"alpha": draw(st.sampled_from([1.0, 0.5, 2.0]))},
    "power": lambda draw, shape: {"exponent": draw(st.sampled_from([2, 0.5, -1.5, 0, 1, 3.0]))},
    "scale_shift": lambda draw, shape: draw(st.sampled_from([{}, {"scale": -0.5}, {"scale": 2, "shift": 1.5}])),
    **dict.fromkeys(("param_add", "param_mul", "const_add", "const_mul"), _weight),
    **dict.fromkeys(("mean", "sum", "amax", "amin"), _axes),
    "expand": _expand,
    "tile": _tile,
    **dict.fromkeys(
        ("silu", "selu", "softplus", "softsign", "mish", "exp", "log", "sqrt", "reciprocal", "neg", "abs", "erf", "sin",
         "cos", "square", "floor", "ceil", "round", "sign"),
        _nothing,
    ),
}  # fmt: skip
#: ops of inputs whose extents of 1 are spread
SPREAD = ("add", "sub", "mul", "div", "maximum", "minimum")
#: ops of positive numbers alone
POSITIVE = ("log", "sqrt", "power")
CASES = {*ALONE, *SPREAD, "resize"}


def _resize(draw: st.DrawFn, shape: tuple[int, ...]) -> dict[str, Any]:
    """Any size of images, by whole and broken ratios."""
    attrs: dict[str, Any] = {
        "size": tuple(draw(st.integers(1, 9)) for _ in shape[1:]),
        "mode": draw(st.sampled_from(["nearest", "linear", "cubic"])),
        "coordinates": draw(st.sampled_from(["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"])),
        "rounding": draw(st.sampled_from(["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])),
    }
    if draw(st.booleans()):
        ratios = [draw(st.sampled_from([0.5, 0.7, 1.0, 1.3, 2.0])) for _ in shape[1:]]
        attrs["scales"] = ",".join(map(str, ratios))
        attrs["size"] = tuple(max(1, int(n * r)) for n, r in zip(shape[1:], ratios, strict=True))
    return attrs


@st.composite
def elementwise(draw: st.DrawFn, kind: str) -> Case:
    """Cases of one of ``CASES``."""
    batch, seed = draw(st.integers(1, 3)), draw(st.integers(0, 99))
    shape = draw(_shapes)
    if kind == "resize":
        image = (draw(_extent), draw(st.integers(1, 7)), draw(st.integers(1, 7)))
        return case(kind, [image], batch, seed, **_resize(draw, image))
    if kind in SPREAD:
        return _spread(draw, kind, shape, batch, seed)
    c = case(kind, [shape], batch, seed, **ALONE[kind](draw, shape))
    if kind in POSITIVE:
        return dataclasses.replace(c, x=[np.abs(x) for x in c.x])
    return dataclasses.replace(c, x=[x / 4 for x in c.x]) if kind == "exp" else c
