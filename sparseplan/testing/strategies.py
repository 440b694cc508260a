"""Hypothesis strategies: networks, devices, budgets, values, options, problems.

All are built from a list of moves, so that hypothesis shrinks a counterexample by dropping moves
and by drawing the first of each list of choices, which is the plainest.

>>> from hypothesis import given
>>> from sparseplan.testing import check_same_seed, problems
>>> @given(problems())
... def test_planning_is_reproducible(problem):
...     check_same_seed(problem)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

from hypothesis import strategies as st

from sparseplan.autodiff import trace
from sparseplan.builder import NetworkBuilder
from sparseplan.device import Device, Level
from sparseplan.errors import NetworkError
from sparseplan.network import Network
from sparseplan.problem import Pair, Problem, Saturation, Term, resolve_choices, resolve_values
from sparseplan.steps import FRACTIONS, TrainingOptions, UpdateSet
from sparseplan.testing.peers import memory_of, trainable

NetworkKind = Literal["any", "chain", "residual", "branch", "ushape"]
Move = Callable[["_Drawing", str], str]

#: images wider than this are not drawn: they test nothing more and take longer
_WIDEST = 8
_UNARY = ("relu", "leaky_relu", "relu6", "sigmoid", "tanh", "hardswish", "gelu", "silu", "elu", "softplus",
          "hard_sigmoid", "clip", "abs", "neg", "scale_shift")  # fmt: skip


class _Drawing:
    """A network under construction: what was made, and what of it was read."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.net = NetworkBuilder("drawn")
        self.made: list[str] = []
        self.read: set[str] = set()

    def pick(self, *choices: Any) -> Any:
        """One of ``choices``; shrinks to the first."""
        return self.draw(st.sampled_from(choices))

    def op(self, kind: str, *inputs: str, params: tuple[str, ...] | None = None, **attrs: Any) -> str:
        y = self.net.op(kind, inputs, None, params, **attrs)
        self.read.update(inputs)
        self.made.append(y)
        return y

    def slots(self) -> tuple[str, ...]:
        return ("weight", "bias") if self.draw(st.booleans()) else ("weight",)

    # -- one op after another ----------------------------------------------------------------------
    def unary(self, t: str) -> str:
        kind = self.pick(*_UNARY)
        attrs: dict[str, Any] = {"slope": self.pick(0.125, 0.0, 1.0)} if kind == "leaky_relu" else {}
        if kind == "clip":  # of some limits the output tells the mask, of others only the input
            attrs = self.pick({"low": -1, "high": 1}, {"high": 0.7}, {"low": -0.3})
        if kind == "scale_shift":
            attrs = {"scale": self.pick(0.5, 1, -1.5), "shift": 0.25}
        return self.op(kind, t, **attrs)

    def moved(self, t: str) -> str:
        """Elements in other places, fewer or more of them; or one in place of an axis."""
        shape = self.net.shape(t)
        kind = self.pick("transpose", "slice", "mean", "amax", "gather", "pad", "resize")
        axis, rank = self.pick(*range(len(shape))), len(shape)
        if kind == "transpose":
            return self.op(kind, t, perm=self.pick(tuple(reversed(range(rank))), (*range(axis, rank), *range(axis))))
        if kind == "slice":
            first = tuple(int(i == axis and n > 1) for i, n in enumerate(shape))
            return self.op(kind, t, starts=first, stops=shape, steps=(self.pick(1, 2),) * rank)
        if kind == "gather":
            return self.op(kind, t, axis=axis, indices=(shape[axis] - 1, 0))
        if kind == "pad":
            after = tuple(int(i == axis and 1 < n < _WIDEST) for i, n in enumerate(shape))
            return self.op(kind, t, before=(0,) * rank, after=after, mode=self.pick("constant", "edge", "reflect"))
        if kind == "resize" and rank == 3:
            return self.op(kind, t, size=(3, self.pick(shape[2], 2)), mode=self.pick("linear", "nearest"))
        return self.op("amax" if kind == "amax" else "mean", t, axes=(axis,))

    def conv(self, t: str, keep_size: bool = False) -> str:
        """Pointwise, grouped, depthwise, strided, padded on some sides."""
        c, *size = self.net.shape(t)
        kernel = self.pick(*(k for k in (1, 3, 2) if k <= min(size) or k == 3))
        if keep_size and kernel == 2:
            kernel = 1
        groups = self.pick(*dict.fromkeys(g for g in (1, 2, c) if c % g == 0))
        outs = c if keep_size else groups * self.pick(*((1, 2) if groups > 1 else (2, 1, 4, 8)))
        padding: Any = kernel // 2
        stride = dilation = 1
        if not keep_size:
            stride = self.pick(1, 2)
            if kernel <= min(size):
                padding = self.pick(kernel // 2, 0, (kernel // 2, 0, 0, kernel // 2))
            if kernel == 3 and min(size) >= 5:
                dilation = self.pick(1, 2)
        return self.op("conv", t, params=self.slots(), kernel=kernel, out_channels=outs, groups=groups, stride=stride,
                       padding=padding, dilation=dilation)  # fmt: skip

    def narrow(self, t: str) -> str:
        """Half the extent, by a stride or a pool."""
        kind = self.pick("max_pool", "conv", "avg_pool")
        if kind != "conv":
            return self.op(kind, t, kernel=2)
        return self.op("conv", t, params=self.slots(), kernel=2, out_channels=self.pick(2, 4), stride=2)

    def widen(self, t: str) -> str:
        """Twice the extent, by interpolation or a transposed convolution."""
        kind = self.pick("nearest", "conv_transpose", "bilinear")
        if kind != "conv_transpose":
            return self.op("upsample", t, scale=2, mode=kind)
        return self.op(kind, t, params=self.slots(), kernel=2, out_channels=self.pick(2, 1, 4), stride=2)

    def normal(self, t: str) -> str:
        """A norm of any kind or a softmax, a rectifier with slopes to learn."""
        shape = self.net.shape(t)
        kind = self.pick("layer_norm", "softmax", "batch_norm", "prelu", "group_norm", "log_softmax", "instance_norm")
        if kind == "layer_norm":
            return self.op(kind, t, params=self.slots(), dims=self.pick(*range(1, len(shape) + 1)))
        if kind == "group_norm":
            return self.op(kind, t, params=self.slots(), groups=self.pick(*(g for g in (1, 2, 4) if shape[0] % g == 0)))
        if kind in ("softmax", "log_softmax"):
            return self.op(kind, t, axis=self.pick(*range(-1, len(shape) - 1)))
        if kind == "batch_norm":
            return self.op(kind, t, params=(*self.slots(), "mean", "var"))
        return self.op(kind, t, params=("weight",) if kind == "prelu" else self.slots())

    def alone(self, t: str) -> str:
        """Any op of one input that fits."""
        shape = self.net.shape(t)
        moves: list[Move] = [_Drawing.unary]
        if len(shape) == 3:
            moves.append(_Drawing.conv)
            moves.append(lambda d, x: d.op("affine", x, params=d.slots()))
            if min(shape[1:]) >= 2:
                moves.append(_Drawing.narrow)
            if max(shape[1:]) * 2 <= _WIDEST:
                moves.append(_Drawing.widen)
            moves.append(lambda d, x: d.op("global_avg_pool", x))
        else:
            moves.append(lambda d, x: d.op("linear", x, params=d.slots(), out_features=d.pick(2, 1, 4)))
        moves.append(lambda d, x: d.op("reshape", x, shape=d.pick((-1, 1, 1), (1, -1, 1))))
        moves.append(lambda d, x: d.op("flatten", x))
        moves.append(_Drawing.moved)
        moves.append(_Drawing.normal)
        move: Move = self.pick(*moves)
        return move(self, t)

    def join(self, a: str, b: str) -> str:
        """Two tensors together by what their shapes allow; where nothing does, the second goes on alone."""
        s, t = self.net.shape(a), self.net.shape(b)
        kinds = ["add", "mul", "sub", "maximum"] if s == t else []
        if len(s) == len(t) and s[1:] == t[1:]:
            kinds.insert(1, "concat")
        elif len(s) == len(t) == 3 and s[0] == t[0] and t[1:] == (1, 1):
            kinds += ["mul", "add", "minimum"]
        if len(s) == len(t) > 1 and s[:-2] == t[:-2] and s[-1] == t[-1] and s[-2] * t[-2] <= _WIDEST**2:
            kinds.append("matmul")
        if not kinds:
            return self.alone(b)
        kind = self.pick(*kinds)
        return self.op(kind, a, b, transpose_b=True) if kind == "matmul" else self.op(kind, a, b)

    # -- blocks --------------------------------------------------------------------------------------
    def step_any(self, t: str) -> str:
        """An op on the last tensor or on an earlier one; now and then a join of two."""
        back = self.draw(st.integers(0, 3))
        source = self.made[-1 - min(back, len(self.made) - 1)]
        other = self.draw(st.integers(-1, 4))
        if other < 0:
            return self.alone(source)
        if other > 3:
            return self.join(source, self.op("parameter", shape=self.net.shape(source)))
        return self.join(self.made[-1 - min(other, len(self.made) - 1)], source)

    def step_residual(self, t: str) -> str:
        """``t + f(t)`` with f of one or two ops that keep the shape."""
        y = self.conv(t, keep_size=True)
        if self.draw(st.booleans()):
            y = self.unary(y)
        return self.op("add", t, y)

    def step_branch(self, t: str) -> str:
        """Two or three ways from one tensor, joined."""
        y = self.conv(t, keep_size=True)
        for _ in range(self.pick(1, 2)):
            z = self.conv(t, keep_size=True) if self.draw(st.booleans()) else self.unary(t)
            y = self.join(y, z)
        return y

    def ushape(self, depth: int) -> None:
        """Down and up again, with the tensors on the way down concatenated or added on the way up."""
        skips: list[str] = []
        t = self.made[-1]
        for _ in range(depth):
            if min(self.net.shape(t)[1:]) < 2:
                break
            t = self.unary(self.conv(t, keep_size=True))
            skips.append(t)
            t = self.narrow(t)
        for skip in reversed(skips):
            t = self.widen(t)
            if self.net.shape(t)[1:] == self.net.shape(skip)[1:]:
                t = self.join(skip, t)
            t = self.conv(t, keep_size=True)

    def head(self) -> None:
        """Perhaps a classifier's head."""
        kind = self.pick("none", "linear", "pooled")
        t = self.made[-1]
        if kind == "none":
            return
        if kind == "pooled" and len(self.net.shape(t)) == 3:
            t = self.op("global_avg_pool", t)
        self.op("linear", self.op("flatten", t), params=self.slots(), out_features=self.pick(2, 3))

    def build(self) -> Network:
        for t in list(self.made):
            if t not in self.read and t.startswith("in"):
                self.op("relu", t)
        loose = [t for t in self.made if t not in self.read]
        return self.net.build([loose[-1], *loose[:-1]])


def with_dtypes(network: Network, dtypes: Mapping[str, str]) -> Network:
    """The same network with some parameters stored in types of their own (int8 in quanta of 1/64)."""
    tensors = (
        replace(t, dtype=dtypes[t.name], scale=1 / 64 if dtypes[t.name] == "int8" else None) if t.name in dtypes else t
        for t in network.tensors
    )
    return Network(network.name, tuple(tensors), network.ops, network.outputs)


@st.composite
def networks(draw: st.DrawFn, kind: NetworkKind = "any", max_ops: int = 8) -> Network:
    """Networks over small images, of about ``max_ops`` ops at most.

    Args:
        kind: ``chain`` (each op reads the one before), ``residual`` (blocks ``x + f(x)``), ``branch``
            (ways that part and join), ``ushape`` (down and up, with skips), or ``any`` of these and
            free graphs with several inputs (one may be ids), dead ends, further outputs, tensors read many
            times, learned tensors, and parameters in int8 or fp32 whatever the plan's type.

    Convolutions are pointwise, grouped, depthwise, strided, padded on some sides only, with and
    without bias. The first output is the one that a loss is put on.
    """
    d = _Drawing(draw)
    free = kind == "any"
    if free:
        kind = d.pick("chain", "any", "residual", "branch", "ushape")
    side = d.pick(2, 4, 3, 6)
    # eight channels can be cut into the smallest of the usual fractions
    d.made.append(d.net.input("in0", (d.pick(1, 2, 4, 8), side, d.pick(side, 2))))
    if kind == "any":
        more = d.pick("none", "image", "ids")
        if more == "image":
            d.made.append(d.net.input("in1", d.net.shape("in0")))
        if more == "ids":
            d.op("embedding", d.net.input("in1", d.net.shape("in0")[:2], "i32"), num=d.pick(3, 1), dim=side)
    if kind == "ushape":
        d.ushape(draw(st.integers(1, max(1, min(2, max_ops // 5)))))
    else:
        cost = {"residual": 3, "branch": 4}.get(kind, 1)
        steps = draw(st.integers(1, max(1, max_ops // cost)))
        for _ in range(steps):
            t = d.made[-1]
            try:
                if kind == "chain":
                    d.alone(t)
                elif kind == "residual":
                    d.step_residual(t)
                elif kind == "branch":
                    d.step_branch(t)
                else:
                    d.step_any(t)
            except NetworkError:  # does not fit here: a smaller network then
                continue
    if kind != "ushape" and draw(st.booleans()):
        d.head()
    network = d.build()
    if not free or not network.parameters or not draw(st.booleans()):
        return network
    stored = st.dictionaries(st.sampled_from(network.parameters), st.sampled_from(["int8", "fp32"]), max_size=3)
    return with_dtypes(network, draw(stored))


def trainable_networks(kind: NetworkKind = "any", max_ops: int = 8) -> st.SearchStrategy[Network]:
    """Networks in which at least one parameter gets a gradient from the loss."""
    return networks(kind, max_ops).filter(lambda network: bool(trainable(network)))


@st.composite
def options(
    draw: st.DrawFn, network: Network | None = None, dtype: str | None = None, batch: int | None = None
) -> TrainingOptions:
    """Training options of every sort; ``dtype`` and ``batch`` may be fixed.

    With a network whose first output is a vector, the loss may be a cross-entropy.
    """
    losses = ["l1", "mse", "huber"]
    if network is not None and len(network.tensor[network.outputs[0]].shape) == 1:
        losses.append("cross_entropy")
    return TrainingOptions(
        dtype=dtype or draw(st.sampled_from(["fp32", "bf16", "fp16"])),
        batch=batch or draw(st.sampled_from([1, 1, 2])),
        optimizer=draw(st.sampled_from(["sgd", "momentum", "adam"])),
        gradients=draw(st.sampled_from(["fused", "accumulate"])),
        frozen=draw(st.sampled_from(["L2", "flash"])),
        alignment=draw(st.sampled_from([1, 4, 8, 64])),
        loss=draw(st.sampled_from(losses)),
        concat=draw(st.sampled_from(["split", "adjoin"])),
    )


@st.composite
def devices(
    draw: st.DrawFn,
    l2: int | None = None,
    l1: st.SearchStrategy[int | None] | None = None,
    alignment: int | None = None,
    flash: int | None = None,
) -> Device:
    """Devices with a main memory of ``l2`` usable bytes (None: unbounded), perhaps an L1 and a flash.

    Args:
        l1: what to draw the bytes of L1 from; by default there is none, or enough for small networks, or little.
        alignment: of the main memory; that of other levels may differ.
        flash: bytes of flash; None: unbounded.
    """
    at = alignment or draw(st.sampled_from([1, 4, 8, 64]))
    reserved = draw(st.sampled_from([0, 1, 100]))
    levels = [Level("L2", None if l2 is None else l2 + reserved, reserved, at)]
    scratch = draw(st.sampled_from([None, 1 << 14, 1 << 11, 1 << 8]) if l1 is None else l1)
    if scratch is not None:
        levels.insert(0, Level("L1", scratch, 0, draw(st.sampled_from([at, 4]))))
    levels.append(Level("flash", flash, 0, draw(st.sampled_from([at, 16]))))
    return Device("drawn", "A drawn device", tuple(levels), double_buffer=draw(st.booleans()))


@st.composite
def values(draw: st.DrawFn, network: Network) -> dict[str, float]:
    """Worth of updating each parameter in whole: whole numbers or not, ties, zeros, negatives."""
    style = draw(st.sampled_from(["ties", "integers", "floats", "elements"]))
    numbers: dict[str, st.SearchStrategy[float]] = {
        "ties": st.sampled_from([1, 0, 2, -1]),
        "integers": st.integers(-3, 1000),
        "floats": st.floats(-1e3, 1e12, allow_nan=False),
    }
    if style == "elements":
        return {p: float(network.tensor[p].elements) for p in network.parameters}
    return {p: draw(numbers[style]) for p in network.parameters}


def budgets(network: Network, options: TrainingOptions | None = None) -> st.SearchStrategy[int]:
    """Bytes of main memory between what updating nothing takes and a little above what updating everything does."""
    chosen = options or TrainingOptions()
    least = memory_of(network, chosen, {}).peak()
    most = memory_of(network, chosen, dict.fromkeys(trainable(network, chosen), 1.0)).peak()
    return st.integers(min(least, most), max(least, most) + max(1, most // 8))


@st.composite
def problems(
    draw: st.DrawFn,
    network: st.SearchStrategy[Network] | Network | None = None,
    setting: st.SearchStrategy[TrainingOptions] | TrainingOptions | None = None,
    max_choices: int | None = None,
    tight: bool = True,
) -> Problem:
    """Planning problems on small networks: choices, obligations, values, budgets, caps.

    Args:
        network, setting: what to plan for, or what to draw it from.
        max_choices: parameters that may be updated are dropped until there are at most so many
            update sets; for theorems that enumerate them.
        tight: draw a budget; else the memory is unbounded.
    """
    net = network if isinstance(network, Network) else draw(trainable_networks() if network is None else network)
    asked = setting if isinstance(setting, TrainingOptions) else draw(options(net) if setting is None else setting)
    reachable = trainable(net, asked)
    closed = draw(st.sets(st.sampled_from(reachable), max_size=len(reachable) - 1)) if reachable else set()
    fractions = draw(st.sampled_from([(1.0,), (0.5, 1.0), FRACTIONS, (0.25, 0.75)]))
    may = [p for p in reachable if p not in closed]
    choices, _ = resolve_choices(net, may, fractions=fractions, outputs=asked.loss_outputs(net))
    if max_choices is not None:
        while math.prod(1 + len(r) for r in choices.values()) > max_choices:
            choices.popitem()
    must = {}
    for p in choices:
        if draw(st.integers(0, 5)) == 5:
            must[p] = draw(st.sampled_from(choices[p]))
    worth = resolve_values(net, choices, draw(values(net)))
    l2 = None
    if tight:
        l2 = draw(budgets(net, asked))
    max_macs = None
    if draw(st.integers(0, 4)) == 4:
        graph = trace(net, asked, choices)
        full = sum(graph.restrict(UpdateSet({p: r[-1] for p, r in choices.items()})).macs.values())
        max_macs = draw(st.integers(full // 4, full + 1))
    flash = None
    if tight and asked.frozen == "flash" and draw(st.integers(0, 3)) == 3:
        flash = draw(st.integers(1, sum(4 * net.tensor[p].elements + 64 for p in net.parameters)))
    device = draw(devices(l2, alignment=asked.alignment, flash=flash))
    ties = draw(_ties(tuple(choices)))
    return Problem(net, device, asked, choices, must, worth, max_macs, draw(_terms(choices)), ties)


@st.composite
def _ties(draw: st.DrawFn, names: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    """Mostly none; else disjoint sets of parameters."""
    if len(names) < 2 or draw(st.integers(0, 3)) != 3:
        return ()
    group = {p: draw(st.integers(0, 2)) for p in names}
    ties = (tuple(p for p in names if group[p] == i) for i in (1, 2))
    return tuple(tie for tie in ties if tie)


@st.composite
def _terms(draw: st.DrawFn, choices: Mapping[str, tuple[float, ...]]) -> tuple[Term, ...]:
    """Mostly none; else pairs of any sign, and gains that saturate."""
    if not choices or draw(st.integers(0, 2)) != 2:
        return ()
    found: list[Term] = []
    part = st.dictionaries(st.sampled_from(list(choices)), st.sampled_from([0.1, 0.5, 1.0]), min_size=1, max_size=2)
    for _ in range(draw(st.integers(0, 2))):
        found.append(Pair(draw(part), draw(part), draw(st.sampled_from([-3.0, 0.5, 7.0, 1e3]))))
    if draw(st.booleans()):
        weights = {p: {r: draw(st.sampled_from([0.0, 1.0, 2.5])) * r for r in rs} for p, rs in choices.items()}
        found.append(Saturation(weights, draw(st.sampled_from([((2.0, 5.0),), ((1.0, 3.0), (2.0, 4.0), (4.0, 4.5))]))))
    return tuple(found)
