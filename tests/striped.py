"""Random networks of ops that can work by rows, and random groups of them, for the tests of stripes."""

from __future__ import annotations

import itertools
from typing import Any

from hypothesis import assume
from hypothesis import strategies as st

from sparseplan.builder import NetworkBuilder
from sparseplan.errors import ProblemError
from sparseplan.network import Network
from sparseplan.ops import op_def
from sparseplan.stripes import Lowered, Stripes, lower


class _Drawing:
    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.net = NetworkBuilder("striped")
        self.made = [self.net.input("image", (self.pick(1, 2, 4), self.pick(6, 4, 7, 8), self.pick(3, 4)))]
        self.read: set[str] = set()

    def pick(self, *choices: Any) -> Any:
        return self.draw(st.sampled_from(choices))

    def op(self, kind: str, *inputs: str, **attrs: Any) -> None:
        d = op_def(kind)
        shape = d.output_shape(d.complete_attrs(attrs), [self.net.shape(t) for t in inputs])
        if min(shape) >= 1 and max(shape[1:]) <= 16:
            self.made.append(self.net.op(kind, inputs, **attrs))
            self.read.update(inputs)

    def step(self) -> None:
        t = self.made[-1] if self.pick(True, False) else self.pick(*self.made)
        channels, height, _ = self.net.shape(t)
        kind = self.pick("conv", "unary", "conv", "conv_transpose", "pool", "upsample", "join", "join", "affine")
        kernel = self.pick(3, 1, 2)
        if kind == "unary":
            self.op(self.pick("relu", "leaky_relu", "sigmoid"), t)
        elif kind == "affine":
            self.op("affine", t)
        elif kind == "conv" and height >= 5:
            groups = self.pick(1, channels)
            padding = self.pick(kernel // 2, 0, tuple(self.pick(0, 1) if kernel > 1 else 0 for _ in range(4)))
            self.op("conv", t, kernel=kernel, out_channels=groups * self.pick(1, 2), groups=groups, padding=padding,
                    stride=self.pick(1, 2), dilation=self.pick(1, 1, 2))  # fmt: skip
        elif kind == "conv_transpose" and height <= 8:
            stride = self.pick(2, 1, 3)
            self.op("conv_transpose", t, kernel=kernel, out_channels=self.pick(2, 1), stride=stride,
                    padding=self.pick(0, kernel // 2), output_padding=self.pick(0, stride - 1))  # fmt: skip
        elif kind == "pool" and height >= 4:
            attrs: dict[str, Any] = {"kernel": kernel, "stride": self.pick(1, 2), "padding": self.pick(0, kernel // 2)}
            name = self.pick("max_pool", "avg_pool")
            if name == "avg_pool":
                attrs["count_include_pad"] = self.pick(True, False)
            self.op(name, t, **attrs)
        elif kind == "upsample" and height <= 8:
            self.op("upsample", t, scale=self.pick(2, (1, 2), (3, 1)), mode=self.pick("nearest", "bilinear"))
        elif kind == "join":
            shape = self.net.shape(t)
            fits = [u for u in self.made if u != t and self.net.shape(u)[1:] == shape[1:]]
            if fits:
                u = self.pick(*fits)
                kinds = ["concat", "add", "mul"] if self.net.shape(u) == shape else ["concat"]
                self.op(self.pick(*kinds), t, u)

    def build(self) -> Network:
        if "image" not in self.read:
            self.op("relu", "image")
        loose = [t for t in self.made if t not in self.read]
        return self.net.build([loose[-1], *loose[:-1]])


@st.composite
def networks_by_rows(draw: st.DrawFn, most_ops: int = 7) -> Network:
    """Small networks of all ops that can work by rows: chains, branches, joins, several outputs."""
    drawing = _Drawing(draw)
    for _ in range(draw(st.integers(1, most_ops))):
        drawing.step()
    return drawing.build()


@st.composite
def ranges(draw: st.DrawFn, height: int) -> tuple[tuple[int, int], ...]:
    """Any rows of stripes."""
    ends = sorted({0, height, *draw(st.lists(st.integers(1, max(1, height - 1)), max_size=4))} & set(range(height + 1)))
    return tuple(itertools.pairwise(ends))


@st.composite
def groups_of(draw: st.DrawFn, network: Network) -> Stripes:
    """A run of ops in network order, which is convex; perhaps with copies of what comes before it."""
    count = len(network.ops)
    first = draw(st.integers(0, count - 1))
    last = draw(st.integers(first + 1, count))
    inside = network.ops[first:last]
    names = {op.name for op in inside}
    seen = [op for op in inside if op.output in network.outputs
            or any(reader.name not in names for reader in network.consumers[op.output])]  # fmt: skip
    height = network.tensor[seen[-1].output].shape[1]
    copied = tuple(op.name for op in network.ops[:first] if draw(st.booleans()))
    return Stripes(tuple(op.name for op in inside), draw(ranges(height)), copied)


@st.composite
def lowered_networks(draw: st.DrawFn, most_ops: int = 7, most_groups: int = 2) -> Lowered:
    """Networks with one group in stripes, or two."""
    network = draw(networks_by_rows(most_ops))
    groups: list[Stripes] = []
    for _ in range(draw(st.integers(1, most_groups))):
        group = draw(groups_of(network))
        if not {op for g in groups for op in g.ops} & set(group.ops):
            groups.append(group)
    try:
        return lower(network, groups)
    except ProblemError as error:
        if not any(text in str(error) for text in ("lie between", "but padding", "in stripes only", "nothing reads")):
            raise
        assume(False)
        raise
