"""Single ops drawn at random, with float64 arrays that keep away from kinks and ties."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import op_cases_sequences
from hypothesis import strategies as st

from sparseplan.builder import NetworkBuilder
from sparseplan.ops import OpDef, OpInfo, op_def, resolve


@dataclass(frozen=True)
class Case:
    """An op, its inputs (batched) and parameters."""

    definition: OpDef
    info: OpInfo
    x: list[np.ndarray]
    params: dict[str, np.ndarray]
    dy: np.ndarray

    def forward(self) -> np.ndarray:
        y = self.definition.forward(self.info, self.x, self.params)
        return y if self.x else np.repeat(y, len(self.dy), axis=0)

    @property
    def reached(self) -> list[int]:
        """Slots of the inputs that a gradient reaches."""
        return [slot for slot in range(len(self.x)) if self.definition.differentiable(self.info, slot)]

    @property
    def updatable(self) -> list[str]:
        """Slots of the parameters that have a gradient."""
        return [slot for slot in self.params if self.definition.updatable(slot)]

    def saved(self, tags: frozenset[str]) -> dict[str, np.ndarray]:
        """Tags of one alternative to arrays, auxiliaries made from their first source."""
        y = self.forward()
        at = {"y": y, **{f"x{i}": x for i, x in enumerate(self.x)}, **self.params}
        for tag in self.definition.aux(self.info):
            at[tag] = self.definition.forward_aux(self.info, tag, self.x, y)
        return {tag: at[tag] for tag in tags}

    def grad_input(self, slot: int, channels: tuple[int, int] | None = None, choice: int = 0) -> np.ndarray:
        needs = self.definition.needs_for_input(self.info, slot)
        return self.definition.grad_input(self.info, slot, self.dy, self.saved(needs[choice]), channels)

    def grad_param(self, slot: str, keep: int | None = None) -> np.ndarray:
        saved = self.saved(self.definition.needs_for_param(self.info, slot)[0])
        fraction = self.definition.fraction(self.info, slot)
        if keep is not None and fraction is not None and fraction.rows is not None:
            saved["x0"] = saved["x0"][:, : keep * fraction.rows].copy()  # all that is kept
        return self.definition.grad_param(self.info, slot, self.dy, saved, keep)


def resolved(kind: str, shapes: list[tuple[int, ...]], slots: tuple[str, ...] | None = None, **attrs: Any) -> OpInfo:
    """A single op between inputs of ``shapes``, resolved."""
    net = NetworkBuilder("case")
    whole = op_def(kind).integer_inputs or ()
    names = [net.input(f"in{i}", shape, "i32" if i in whole else None) for i, shape in enumerate(shapes)]
    network = net.build(net.op(kind, names, "op", slots, **attrs))
    return resolve(network, network.ops[0])


def case(
    kind: str,
    shapes: list[tuple[int, ...]],
    batch: int = 2,
    seed: int = 0,
    dtype: str = "float64",
    slots: tuple[str, ...] | None = None,
    **attrs: Any,
) -> Case:
    """A single op with arrays: entries of an input are distinct multiples of 0.1 off by 0.05."""
    info = resolved(kind, shapes, slots, **attrs)
    rng = np.random.default_rng(seed)

    def distinct(shape: tuple[int, ...]) -> np.ndarray:
        n = int(np.prod(shape))
        return (((rng.permutation(n) - n // 2) * 0.1) + 0.05).reshape(shape).astype(dtype)

    x = [distinct((batch, *shape)) for shape in shapes]
    params = {slot: rng.standard_normal(shape).astype(dtype) for slot, shape in info.params.items()}
    dy = rng.standard_normal((batch, *info.output)).astype(dtype)
    return Case(op_def(kind), info, x, params, dy)


_small = st.integers(1, 3)
_pairs = st.one_of(_small, st.tuples(_small, _small))


@st.composite
def convs(draw: st.DrawFn, kind: str = "conv") -> Case:
    """Convolutions of either direction: grouped, dilated, strided, padded on every side."""
    groups = draw(st.integers(1, 3))
    channels, outs = groups * draw(_small), groups * draw(_small)
    kernel = draw(st.tuples(_small, _small))
    stride, dilation = draw(_pairs), draw(st.one_of(st.integers(1, 2), st.tuples(st.integers(1, 2), st.integers(1, 2))))
    pad = st.integers(0, 3)
    padding = draw(st.one_of(pad, st.tuples(pad, pad), st.tuples(pad, pad, pad, pad)))
    height, width = draw(st.tuples(st.integers(1, 6), st.integers(1, 6)))
    attrs: dict[str, Any] = {
        "kernel": kernel,
        "out_channels": outs,
        "stride": stride,
        "dilation": dilation,
        "padding": padding,
        "groups": groups,
    }
    definition = op_def(kind)
    if kind == "conv_transpose":
        full = definition.complete_attrs(attrs)
        most = [max(s, d) - 1 for s, d in zip(full["stride"], full["dilation"], strict=True)]
        attrs["output_padding"] = tuple(draw(st.integers(0, m)) for m in most)
    full = definition.complete_attrs(attrs)
    # grow what is too small for its window rather than throw it away
    shape = (channels, height, width)
    while min(definition.output_shape(full, [shape])) < 1:
        shape = (channels, shape[1] + 1, shape[2] + 1)
    slots = ("weight", "bias") if draw(st.booleans()) else ("weight",)
    return case(kind, [shape], draw(_small), draw(st.integers(0, 99)), slots=slots, **attrs)


@st.composite
def pools(draw: st.DrawFn, kind: str) -> Case:
    """Pools whose windows overlap, leave gaps, and reach into the padding."""
    kernel = draw(st.tuples(_small, _small))
    padding = draw(
        st.tuples(*(st.integers(0, kernel[i % 2] - 1) for i in range(4)))
        | st.tuples(st.integers(0, kernel[0] - 1), st.integers(0, kernel[1] - 1))
    )
    attrs: dict[str, Any] = {"kernel": kernel, "padding": padding}
    if draw(st.booleans()):
        attrs["stride"] = draw(_pairs)
    if kind == "avg_pool":
        attrs["count_include_pad"] = draw(st.booleans())
    shape = (draw(_small), draw(st.integers(kernel[0], 6)), draw(st.integers(kernel[1], 6)))
    return case(kind, [shape], draw(_small), draw(st.integers(0, 99)), **attrs)


_extent = st.integers(1, 4)
_shapes = st.lists(_extent, min_size=1, max_size=3).map(tuple)


@st.composite
def others(draw: st.DrawFn, kind: str) -> Case:
    """Any op but convolutions and windowed pools."""
    batch, seed = draw(_small), draw(st.integers(0, 99))
    shape = draw(_shapes)
    image = (draw(_extent), draw(_extent), draw(_extent))
    if kind == "leaky_relu":
        return case(kind, [shape], batch, seed, slope=draw(st.sampled_from([0.0, 0.125, 1.0, 2.0])))
    if kind == "add":
        return case(kind, [shape] * draw(st.integers(2, 4)), batch, seed)
    if kind == "mul":
        spread = [tuple(1 if draw(st.booleans()) else n for n in image) for _ in range(2)]
        return case(kind, spread, batch, seed)
    if kind == "concat":
        axis = draw(st.integers(0, 2))
        parts = [(*image[:axis], draw(_extent), *image[axis + 1 :]) for _ in range(draw(st.integers(1, 3)))]
        return case(kind, parts, batch, seed, axis=axis)
    if kind == "reshape":
        return case(kind, [image], batch, seed, shape=(image[2], -1))
    if kind == "linear":
        slots = ("weight", "bias") if draw(st.booleans()) else ("weight",)
        return case(kind, [shape], batch, seed, slots=slots, out_features=draw(_extent))
    if kind == "affine":
        slots = ("weight", "bias") if draw(st.booleans()) else ("weight",)
        return case(kind, [shape], batch, seed, slots=slots)
    if kind == "upsample":
        mode, scale = draw(st.sampled_from(["nearest", "bilinear"])), draw(st.tuples(_small, _small))
        top = draw(st.integers(0, image[1] * scale[0] - 1))
        crop = (top, draw(st.integers(0, image[1] * scale[0] - 1 - top)))
        return case(kind, [image], batch, seed, scale=scale, mode=mode, crop=crop)
    if kind == "rows":
        low = draw(st.integers(0, image[1] - 1))
        return case(kind, [image], batch, seed, lo=low, hi=draw(st.integers(low + 1, image[1])))
    if kind == "join_rows":
        return case(kind, [(image[0], draw(_extent), image[2]) for _ in range(draw(st.integers(1, 3)))], batch, seed)
    if kind == "global_avg_pool":
        return case(kind, [image], batch, seed)
    return case(kind, [shape], batch, seed)


def cases(kind: str) -> st.SearchStrategy[Case]:
    """Random cases of any kind."""
    if kind in op_cases_sequences.KINDS:
        return op_cases_sequences.cases(kind)
    import op_cases_elementwise  # it draws its arrays with ``case``, so it cannot be imported before

    if kind in op_cases_elementwise.CASES:
        return op_cases_elementwise.elementwise(kind)
    if kind.startswith("conv"):
        return convs(kind)
    return pools(kind) if kind in ("max_pool", "avg_pool") else others(kind)
