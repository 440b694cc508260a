"""Random models of one ONNX node: any attributes that the operator allows, now and then some that it does not."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnxmodels import model, node

Random = random.Random
Extents = tuple[int, ...]


@dataclass(frozen=True)
class Drawn:
    """One model: nodes that read ``inputs`` (floats) and ``constants`` (arrays, or shapes to be drawn)."""

    nodes: list[Any]
    inputs: Mapping[str, Extents]
    constants: Mapping[str, Any] = field(default_factory=dict)
    opset: int = 17
    outputs: tuple[str, ...] = ("y",)
    low: float = -2.0

    def proto(self) -> Any:
        """The model; inputs are negated first, so that no output is an input."""
        nodes = [node("Neg", name, f"{name}_n") for name in self.inputs]
        for made in self.nodes:
            for i, name in enumerate(made.input):
                if name in self.inputs:
                    made.input[i] = f"{name}_n"
        return model([*nodes, *self.nodes], self.inputs, self.constants, self.outputs, self.opset)

    def feed(self, seed: int) -> dict[str, Any]:
        """Arrays for the inputs."""
        rng = np.random.default_rng(seed)
        return {n: -rng.uniform(self.low, 2, s).astype(np.float32) for n, s in self.inputs.items()}


GENERATORS: dict[str, Callable[[Random], Drawn]] = {}


def generator(function: Callable[[Random], Drawn]) -> Callable[[Random], Drawn]:
    GENERATORS[function.__name__.strip("_")] = function
    return function


def _words(text: str) -> list[str]:
    return text.split()


def _i64(*numbers: int) -> Any:
    return np.array(numbers, np.int64)


def _shape(r: Random, *ranks: int, low: int = 1, first: float = 0.8) -> list[int]:
    """Extents; the first is 1 (the batch) with a probability of ``first``."""
    shape = [r.randint(low, 6) for _ in range(r.choice(ranks or (2, 3, 4)))]
    return [1 if r.random() < first else shape[0], *shape[1:]]


def _some(r: Random, chance: float = 0.5, **attrs: Any) -> dict[str, Any]:
    """Each of the attributes or not."""
    return {name: value for name, value in attrs.items() if r.random() < chance}


def _pads(r: Random, most: list[int], *modes: str) -> dict[str, Any]:
    """Explicit pads, or a mode, or nothing."""
    mode = r.choice(("none", "pads", "pads", "NOTSET", *modes))
    pads = {"pads": [r.randint(0, m) for m in most * 2]} if mode in ("pads", "NOTSET") else {}
    return pads | ({"auto_pad": mode} if mode not in ("none", "pads") else {})


_MODES = ("SAME_UPPER", "SAME_LOWER", "VALID")


@generator
def conv(r: Random) -> Drawn:
    n, g = r.choice((1, 2, 2)), r.choice((1, 1, 2, 3))
    kernel, ins, outs = [r.randint(1, 4) for _ in range(n)], g * r.randint(1, 3), g * r.randint(1, 3)
    attrs = _some(r, strides=[r.randint(1, 3) for _ in kernel], dilations=[r.randint(1, 2) for _ in kernel],
                  kernel_shape=kernel) | _pads(r, [3] * n, *_MODES)  # fmt: skip
    if g > 1:
        attrs["group"] = g
    bias = r.random() < 0.5
    constants = {"w": (outs, ins // g, *kernel)} | ({"b": (outs,)} if bias else {})
    x = (1, ins, *(r.randint(3, 10) for _ in kernel))
    return Drawn([node("Conv", "x w b" if bias else "x w", **attrs)], {"x": x}, constants)


@generator
def conv_transpose(r: Random) -> Drawn:
    n, g = r.choice((1, 2, 2)), r.choice((1, 1, 2, 3))
    kernel, ins, outs = [r.randint(1, 4) for _ in range(n)], g * r.randint(1, 3), r.randint(1, 3)
    x = (1, ins, *(r.randint(1, 6) for _ in kernel))
    attrs = _some(r, 0.6, strides=[r.randint(1, 3) for _ in kernel], dilations=[r.randint(1, 2) for _ in kernel])
    strides, dilations = attrs.get("strides", [1] * n), attrs.get("dilations", [1] * n)
    if r.random() < 0.4:
        attrs["output_padding"] = [r.randint(0, max(s, d) - 1) for s, d in zip(strides, dilations, strict=True)]
    if r.random() < 0.5:
        attrs |= _pads(r, [2] * n, *_MODES)
    else:
        reach = [(i - 1) * s + (k - 1) * d + 1 for i, s, k, d in zip(x[2:], strides, kernel, dilations, strict=True)]
        attrs["output_shape"] = [max(1, m + r.randint(-2, 3)) for m in reach]
        attrs |= _some(r, auto_pad=r.choice(("SAME_UPPER", "SAME_LOWER", "NOTSET")))
    attrs |= _some(r, kernel_shape=kernel) | ({"group": g} if g > 1 else {})
    bias = r.random() < 0.5
    constants = {"w": (ins, outs, *kernel)} | ({"b": (outs * g,)} if bias else {})
    return Drawn([node("ConvTranspose", "x w b" if bias else "x w", **attrs)], {"x": x}, constants)


def _pool(r: Random, op: str) -> Drawn:
    n, opset = r.choice((1, 2, 2, 2)), r.choice((11, 12, 17, 19, 22))
    kernel = [r.randint(1, 4) for _ in range(n)]
    attrs = _some(r, strides=[r.randint(1, 4) for _ in kernel], ceil_mode=r.randint(0, 1))
    attrs |= _pads(r, [k - 1 for k in kernel], *_MODES)
    if op == "AveragePool":
        attrs |= _some(r, count_include_pad=r.randint(0, 1))
    if op == "MaxPool" or opset >= 19:
        attrs |= _some(r, 0.1, dilations=[r.randint(1, 2) for _ in kernel])
    x = (1, r.randint(1, 3), *(r.randint(3, 9) for _ in kernel))
    return Drawn([node(op, "x", kernel_shape=kernel, **attrs)], {"x": x}, opset=opset)


@generator
def max_pool(r: Random) -> Drawn:
    return _pool(r, "MaxPool")


@generator
def average_pool(r: Random) -> Drawn:
    return _pool(r, "AveragePool")


@generator
def global_pool(r: Random) -> Drawn:
    return Drawn([node(r.choice(("GlobalAveragePool", "GlobalMaxPool")), "x")], {"x": tuple(_shape(r, 3, 4, 5))})


@generator
def resize(r: Random) -> Drawn:
    n, opset, layout = r.choice((1, 2, 2, 3)), r.choice((11, 13, 18, 19)), r.choice(("first", "first", "last"))
    extents = [r.randint(1, 7) for _ in range(n)]
    mode = r.choice(("nearest", "linear", "linear", "cubic"))
    coordinates = ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"]
    coordinates += ["half_pixel_symmetric"] if opset >= 19 else ["tf_half_pixel_for_nn"] if opset == 11 else []
    attrs: dict[str, Any] = {"mode": mode}
    attrs |= _some(r, 0.85, coordinate_transformation_mode=r.choice(coordinates))
    attrs |= _some(r, nearest_mode=r.choice(("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")))
    attrs |= _some(r, 0.2, cubic_coeff_a=r.choice((-0.5, -0.75)))
    if opset >= 18:
        attrs |= _some(r, 0.05, antialias=1)
    x = (1, r.randint(1, 3), *extents) if layout == "first" else (1, *extents, r.randint(1, 3))
    work = list(range(2, 2 + n)) if layout == "first" else list(range(1, 1 + n))
    axes = list(range(len(x)))
    if opset >= 18 and r.random() < 0.3:
        axes = attrs["axes"] = r.sample(work, r.randint(1, n))
    constants: dict[str, Any] = {"none": np.zeros(0, np.float32)} if opset < 13 else {}
    empty = "none" if opset < 13 else "-"
    if r.random() < 0.5:
        known = (1.0, 2.0, 3.0, 0.5, 1.5, 0.7, 2.3, 4 / 3, 1.1, round(r.uniform(0.3, 3), 3))
        constants["s"] = np.array([r.choice(known) if a in work else 1 for a in axes], np.float32)
        return Drawn([node("Resize", f"x {empty} s", **attrs)], {"x": x}, constants, opset)
    constants["z"] = _i64(*(r.randint(1, 14) if a in work else x[a] for a in axes))
    return Drawn([node("Resize", f"x {empty} {empty} z", **attrs)], {"x": x}, constants, opset)


_UNARY = _words(
    "Abs Ceil Cos Erf Exp Floor HardSwish Neg Relu Round Sigmoid Sign Sin Softplus Softsign Tanh Selu Elu Celu "
    "LeakyRelu HardSigmoid ThresholdedRelu Shrink Tan Atan Gelu Mish Identity"
)


@generator
def unary(r: Random) -> Drawn:
    op, attrs = r.choice(_UNARY), dict[str, Any]()
    if op in ("Elu", "Celu", "LeakyRelu", "HardSigmoid", "ThresholdedRelu"):
        attrs |= _some(r, alpha=r.choice((0.3, 1.0, 2.0, 0.05)))
    attrs |= _some(r, beta=0.3) if op == "HardSigmoid" else {}
    attrs |= {"alpha": 1.3, "gamma": r.choice((0.9, 1.05))} if op == "Selu" and r.random() < 0.5 else {}
    attrs |= _some(r, approximate=r.choice(("none", "tanh"))) if op == "Gelu" else {}
    return Drawn([node(op, "x", **attrs)], {"x": tuple(_shape(r, 1, 2, 3, 4, 5))}, opset=20)


@generator
def binary(r: Random) -> Drawn:
    op = r.choice(_words("Add Sub Mul Div Pow Max Min Mean Sum PRelu"))
    full = _shape(r, 1, 2, 3, 4)

    def part() -> Extents:
        spread = tuple(n if r.random() < 0.6 else 1 for n in full)
        return spread[r.randint(0, len(spread) - 1) :]

    rng = np.random.default_rng(r.randint(0, 999))
    inputs, constants, names = {"x": tuple(full) if r.random() < 0.7 else part()}, dict[str, Any](), ["x", "z"]
    if r.random() < 0.5 and op != "PRelu":
        inputs["z"] = part()
    else:
        number = r.choice((1.0, 2.0, 0.5, -1.0, 3.0))
        constants["z"] = (rng.uniform(0.5, 2, part()) if r.random() < 0.8 else np.full(part(), number)).astype("f")
    if r.random() < 0.4 and op != "PRelu":
        names.reverse()
    if op in ("Max", "Min", "Mean", "Sum") and r.random() < 0.3:
        names.append("k")
        constants["k"] = part()
    return Drawn([node(op, " ".join(names))], inputs, constants, low=0.2 if op in ("Pow", "Div") else -2.0)


@generator
def clip(r: Random) -> Drawn:
    constants = {"lo": np.float32(r.choice((-1, 0, -0.3, 0.2))), "hi": np.float32(r.choice((6, 1, 0.7, 0.2)))}
    bounds = [name if r.random() < 0.7 else "-" for name in constants]
    return Drawn([node("Clip", f"x {' '.join(bounds)}")], {"x": tuple(_shape(r))},
                 {b: constants[b] for b in bounds if b != "-"}, r.choice((11, 12, 13)))  # fmt: skip


@generator
def gemm(r: Random) -> Drawn:
    m, k, n = (r.randint(1, 5) for _ in range(3))
    attrs = _some(r, transA=1, transB=1) | _some(r, 0.3, alpha=r.choice((0.5, 2.0)), beta=r.choice((0.5, 2.0, 0.0)))
    inputs, constants, names = {"x": (k, m) if "transA" in attrs else (m, k)}, dict[str, Any](), "x b"
    (constants if r.random() < 0.6 else inputs)["b"] = (n, k) if "transB" in attrs else (k, n)
    if r.random() < 0.6:
        names += " c"
        (constants if r.random() < 0.7 else inputs)["c"] = r.choice(((n,), (1, n), (m, n), (m, 1), (1,)))
    return Drawn([node("Gemm", names, **attrs)], inputs, constants)


@generator
def matmul(r: Random) -> Drawn:
    k, lead = r.randint(1, 5), [r.choice((1, 1, 2, 3)) for _ in range(r.randint(0, 2))]
    a: Extents = (k,) if r.random() < 0.1 else (*lead, r.randint(1, 4), k)
    spread = tuple(1 if r.random() < 0.3 else n for n in lead)[r.randint(0, len(lead)) :]
    b: Extents = (k,) if r.random() < 0.1 else (*spread, k, r.randint(1, 4))
    inputs, constants = {"x": a, "z": b}, dict[str, Any]()
    constant = r.choice(("x", "z", "z", ""))
    if constant:
        constants[constant] = inputs.pop(constant)
    return Drawn([node("MatMul", "x z")], inputs, constants)


@generator
def einsum(r: Random) -> Drawn:
    text = r.choice(
        _words(
            "ij,jk->ik bij,bjk->bik bhid,bhjd->bhij bij,kj->bik ij,ij->ij ij,ij->i ij,kj->ki bchw,cd->bdhw ij->ji "
            "bij->bj i,j->ij ij,jk bnh,bmh->bnm"
        )
    )
    extent = {c: 1 if c == "b" else r.randint(1, 4) for c in "bijkhdcwnm"}
    names = ("x", "z")
    shapes = {n: tuple(extent[c] for c in t) for n, t in zip(names, text.split("->")[0].split(","), strict=False)}
    constants = {"z": shapes.pop("z")} if "z" in shapes and r.random() < 0.5 else {}
    read = " ".join(n for n in names if n in shapes or n in constants)
    return Drawn([node("Einsum", read, equation=text)], shapes, constants)


@generator
def transpose(r: Random) -> Drawn:
    shape = _shape(r, 2, 3, 4, 5)
    perm = r.sample(range(len(shape)), len(shape))
    return Drawn([node("Transpose", "x", **_some(r, 0.8, perm=perm))], {"x": tuple(shape)})


@generator
def slice_(r: Random) -> Drawn:
    shape = _shape(r, 1, 2, 3, 4)
    axes = r.sample(range(len(shape)), r.randint(1, min(2, len(shape))))
    steps = [r.choice((1, 1, 2, 3, -1, -2)) for _ in axes]
    low, high = [], []
    for axis, step in zip(axes, steps, strict=True):
        n = shape[axis]
        low.append(r.choice((0, 0, 1, -n, -99)) if step > 0 else r.choice((-1, 99, n - 1, n)))
        high.append(r.choice((n, 2**31 - 1, 2**63 - 1, -1)) if step > 0 else r.choice((-99, -n - 1, 0, -(2**31))))
    turned = [a - len(shape) if r.random() < 0.3 else a for a in axes]
    constants = {"lo": _i64(*low), "hi": _i64(*high), "ax": _i64(*turned), "st": _i64(*steps)}
    return Drawn([node("Slice", "x lo hi ax st")], {"x": tuple(shape)}, constants, r.choice((10, 11, 13)))


@generator
def gather(r: Random) -> Drawn:
    shape = _shape(r, 1, 2, 3, 4)
    axis, of = r.randrange(len(shape)), r.choice(((), (1,), (2,), (3,), (2, 2)))
    n = shape[axis]
    indices = np.array([r.randint(-n, n - 1) for _ in range(int(np.prod(of, dtype=int)))], np.int64).reshape(of)
    return Drawn([node("Gather", "x i", axis=axis - len(shape) * r.randint(0, 1))], {"x": tuple(shape)}, {"i": indices})


@generator
def concat(r: Random) -> Drawn:
    shape = _shape(r, 1, 2, 3, 4)
    axis, names = r.randrange(len(shape)), ["q0", "q1", "q2"][: r.randint(1, 3)]
    inputs, constants = dict[str, Extents](), dict[str, Any]()
    for name in names:
        part = (*shape[:axis], r.randint(1, 4), *shape[axis + 1 :])
        (inputs if name == "q0" or r.random() < 0.6 else constants)[name] = part
    names += ["q0"] * (r.random() < 0.2)
    return Drawn([node("Concat", " ".join(names), axis=axis - len(shape) * r.randint(0, 1))], inputs, constants)


@generator
def split(r: Random) -> Drawn:
    shape, opset = _shape(r, 1, 2, 3, 4), r.choice((11, 13, 18))
    axis, parts = r.randrange(len(shape)), [r.randint(1, 3) for _ in range(r.randint(1, 3))]
    attrs: dict[str, Any] = {"axis": axis}
    constants, names = dict[str, Any](), "x"
    if r.random() < 0.5:
        shape[axis] = sum(parts)
        if opset < 13:
            attrs["split"] = parts
        else:
            constants["p"], names = _i64(*parts), "x p"
    else:
        shape[axis] = len(parts) * r.randint(1, 3)
        if opset == 18:
            attrs["num_outputs"] = len(parts)
            shape[axis] = max(len(parts), shape[axis] - (len(parts) == 2))
    outputs = [f"y{i}" for i in range(len(parts))]
    wanted = tuple(r.sample(outputs, r.randint(1, len(parts))))
    return Drawn([node("Split", names, " ".join(outputs), **attrs)], {"x": tuple(shape)}, constants, opset, wanted)


@generator
def rename(r: Random) -> Drawn:
    shape, opset = _shape(r, 1, 2, 3, 4), r.choice((11, 13, 14, 18))
    op, count = r.choice(_words("Reshape Flatten Squeeze Unsqueeze Expand Tile Dropout")), int(np.prod(shape))
    attrs, numbers = dict[str, Any](), list[int]()
    if op == "Reshape":
        numbers = r.choice(([-1], [1, -1], [0, -1], [count, 1], [1, 1, count]))
        numbers = [-1] if numbers[0] == 0 and len(shape) < 2 else numbers
    elif op == "Flatten":
        attrs = _some(r, 0.8, axis=r.randint(-len(shape), len(shape)))
    elif op == "Squeeze":
        ones = [i for i, n in enumerate(shape) if n == 1]
        numbers = r.sample(ones, r.randint(0, len(ones)))
    elif op == "Unsqueeze":
        numbers = [r.randint(-len(shape) - 1, len(shape))]
    elif op == "Expand":
        numbers = [n if n > 1 else r.randint(1, 3) for n in shape]
        numbers = r.choice((numbers, [2, *numbers], numbers[1:] or [1]))
    elif op == "Tile":
        numbers = [r.choice((1, 1, 2, 3)) for _ in shape]
    if numbers and op in ("Squeeze", "Unsqueeze") and opset < 13:
        return Drawn([node(op, "x", axes=numbers)], {"x": tuple(shape)}, opset=opset)
    constants = {"t": _i64(*numbers)} if numbers else {}
    return Drawn([node(op, "x t" if numbers else "x", **attrs)], {"x": tuple(shape)}, constants, opset)


@generator
def pad(r: Random) -> Drawn:
    shape, opset = _shape(r, 2, 3, 4, low=3), r.choice((11, 13, 18, 19))
    mode = r.choice(("constant", "reflect", "edge"))
    most = [1 if mode == "reflect" and n == 1 else 2 for n in shape]
    numbers = [r.randint(-1 if n > 1 else 0, 0 if mode == "reflect" and n == 1 else m)
               for n, m in zip(shape * 2, most * 2, strict=True)]  # fmt: skip
    constants, names = {"p": _i64(*numbers)}, ["x", "p"]
    if r.random() < 0.4 and mode == "constant":
        constants["v"] = np.float32(r.choice((0, 1.5, -2)))
        names.append("v")
    if opset >= 18 and r.random() < 0.4:
        axes = r.sample(range(1, len(shape)), r.randint(1, len(shape) - 1))
        constants |= {"p": _i64(*(r.randint(0, 2) for _ in axes * 2)), "ax": _i64(*(a - len(shape) for a in axes))}
        names += ["-"] * (3 - len(names)) + ["ax"]
    return Drawn([node("Pad", " ".join(names), **_some(r, 0.9, mode=mode))], {"x": tuple(shape)}, constants, opset)


@generator
def blocks(r: Random) -> Drawn:
    size = r.randint(1, 3)
    if r.random() < 0.5:
        x = (1, size * size * r.randint(1, 2), r.randint(1, 4), r.randint(1, 4))
        return Drawn([node("DepthToSpace", "x", blocksize=size, mode=r.choice(("DCR", "CRD")))], {"x": x})
    x = (1, r.randint(1, 3), size * r.randint(1, 3), size * r.randint(1, 3))
    return Drawn([node("SpaceToDepth", "x", blocksize=size)], {"x": x})


@generator
def norm(r: Random) -> Drawn:
    op = r.choice(_words("Batch Instance Layer Group Lp RMS")) + "Normalization"
    # with a smaller one, entries that are nearly equal show how runtimes round
    attrs, rng = {"epsilon": r.choice((1e-2, 0.1))}, np.random.default_rng(r.randint(0, 99))
    if op == "BatchNormalization":
        shape = _shape(r, 2, 3, 4)
        constants = {k: rng.uniform(0.5, 2, shape[1]).astype(np.float32) for k in "sbmv"}
        return Drawn([node(op, "x s b m v", **attrs)], {"x": tuple(shape)}, constants, r.choice((11, 14, 15)))
    if op == "GroupNormalization":
        groups, opset = r.randint(1, 3), r.choice((18, 21))
        x = (1, groups * r.randint(1, 3), *(r.randint(1, 4) for _ in range(r.randint(1, 2))))
        n = groups if opset == 18 else x[1]
        return Drawn([node(op, "x s b", num_groups=groups, **attrs)], {"x": x}, {"s": (n,), "b": (n,)}, opset)
    shape = _shape(r, 3, 4, low=2, first=1) if op == "InstanceNormalization" else _shape(r, 2, 3, 4)
    axis = r.randint(-len(shape), len(shape) - 1)
    if op == "InstanceNormalization":
        return Drawn([node(op, "x s b", **attrs)], {"x": tuple(shape)}, {"s": (shape[1],), "b": (shape[1],)})
    if op == "LpNormalization":
        return Drawn([node(op, "x", **_some(r, axis=axis, p=1))], {"x": tuple(shape)})
    attrs |= _some(r, 0.8, axis=axis)
    learned = tuple(shape[attrs.get("axis", -1) :])
    opset, names = (23, "x s") if op == "RMSNormalization" else (17, r.choice(("x s", "x s b")))
    constants = {"s": learned, "b": learned} if "b" in names else {"s": learned}
    return Drawn([node(op, names, **attrs)], {"x": tuple(shape)}, constants, opset)


@generator
def softmax(r: Random) -> Drawn:
    shape = _shape(r)
    attrs = _some(r, 0.8, axis=r.randint(-len(shape), len(shape) - 1))
    return Drawn([node(r.choice(("Softmax", "LogSoftmax")), "x", **attrs)], {"x": tuple(shape)},
                 opset=r.choice((11, 13, 17)))  # fmt: skip


@generator
def reduction(r: Random) -> Drawn:
    op = "Reduce" + r.choice(_words("L1 L2 LogSum LogSumExp Max Mean Min Prod Sum SumSquare"))
    shape, opset = _shape(r, 1, 2, 3, 4), r.choice((11, 13, 18))
    attrs, constants, names = _some(r, keepdims=r.randint(0, 1)), dict[str, Any](), "x"
    axes = [a - len(shape) * r.randint(0, 1) for a in r.sample(range(len(shape)), r.randint(1, len(shape)))]
    given, as_input = r.random() < 0.8, opset >= 18 or (op == "ReduceSum" and opset >= 13)
    if given and as_input:
        constants["ax"], names = _i64(*axes), "x ax"
    elif given:
        attrs["axes"] = axes
    if as_input:
        attrs |= _some(r, 0.3, noop_with_empty_axes=1)
    low = 0.2 if op == "ReduceLogSum" else -2.0
    return Drawn([node(op, names, **attrs)], {"x": tuple(shape)}, constants, opset, low=low)


@generator
def recurrent(r: Random) -> Drawn:
    op, (h, f, t) = r.choice(("LSTM", "GRU", "RNN")), (r.randint(1, 4) for _ in range(3))
    gates, direction = {"LSTM": 4, "GRU": 3, "RNN": 1}[op], r.choice(("forward", "reverse", "bidirectional"))
    n = 2 if direction == "bidirectional" else 1
    attrs: dict[str, Any] = {"hidden_size": h, "direction": direction}
    attrs |= _some(r, linear_before_reset=1) if op == "GRU" else {}
    attrs |= _some(r, 0.1, clip=r.choice((0.5, 3.0)))
    if r.random() < 0.15:
        kinds = ("Sigmoid", "Tanh", "Relu", "HardSigmoid")
        attrs["activations"] = [r.choice(kinds) for _ in range({"LSTM": 3, "GRU": 2, "RNN": 1}[op] * n)]
    constants: dict[str, Any] = {"w": (n, gates * h, f), "r": (n, gates * h, h)}
    inputs: dict[str, Extents] = {"x": (t, 1, f)}
    names = ["x", "w", "r", "-", "-"]
    if r.random() < 0.6:
        constants["b"], names[3] = (n, 2 * gates * h), "b"
    if r.random() < 0.3:
        constants["l"], names[4] = np.array([t], np.int32), "l"
    for name in ("h0", "c0")[: r.randint(0, 2 if op == "LSTM" else 1)]:
        (constants if r.random() < 0.5 else inputs)[name] = (n, 1, h)
        names.append(name)
    outputs = ["y", "h", "c"] if op == "LSTM" else ["y", "h"]
    wanted = tuple(r.sample(outputs, r.randint(1, len(outputs))))
    return Drawn([node(op, " ".join(names), " ".join(outputs), **attrs)], inputs, constants, 14, wanted)


@generator
def where(r: Random) -> Drawn:
    full = _shape(r, 2, 3)

    def part() -> Extents:
        return tuple(n if r.random() < 0.6 else 1 for n in full)[r.randint(0, 1) :]

    inputs, constants = {"x": tuple(full)}, {"m": np.random.default_rng(r.randint(0, 9)).random(part()) < 0.5}
    if r.random() < 0.5:
        inputs["z"] = part()
    else:
        constants["z"] = np.random.default_rng(3).normal(size=part()).astype(np.float32)
    names = r.choice(("m x z", "m z x"))
    return Drawn([node("Where", names), node("Add", "y x", "s")], inputs, constants, outputs=("s",))
