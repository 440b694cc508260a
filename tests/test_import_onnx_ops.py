"""Every op of ONNX that becomes an op of a network computes what ONNX Runtime computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnxmodels import difference, kinds, model, node, saved

from sparseplan.importers.onnxfile import read_onnx

I64 = np.int64


@dataclass(frozen=True)
class Case:
    """A model, which op kinds it must become (None: any but opaque), and where inputs are drawn from."""

    nodes: Sequence[Any]
    shape: tuple[int, ...] = (1, 3, 5, 6)
    constants: Mapping[str, Any] = field(default_factory=dict)
    opset: int = 17
    outputs: tuple[str, ...] = ("y",)
    low: float = -2.0
    high: float = 2.0
    more: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    only: tuple[str, ...] | None = None


def ints(*numbers: int) -> Any:
    return np.array(numbers, I64)


def f32(*numbers: float) -> Any:
    return np.array(numbers, np.float32)


CASES: dict[str, Case] = {}


def case(name: str, *nodes: Any, **rest: Any) -> None:
    assert name not in CASES
    CASES[name] = Case(nodes, **rest)


# -- elementwise ------------------------------------------------------------------------------------
for op, attrs in {
    "Abs": {}, "Ceil": {}, "Cos": {}, "Erf": {}, "Exp": {}, "Floor": {}, "Neg": {}, "Relu": {}, "Round": {},
    "Sigmoid": {}, "Sign": {}, "Sin": {}, "Softplus": {}, "Softsign": {}, "Tanh": {}, "HardSwish": {},
    "LeakyRelu": {"alpha": 0.2}, "Elu": {"alpha": 0.7}, "Celu": {"alpha": 1.5}, "Selu": {}, "HardSigmoid": {},
}.items():  # fmt: skip
    case(op, node(op, "x", **attrs))
for op in ("Log", "Sqrt", "Reciprocal"):
    case(op, node(op, "x"), low=0.1)
case("Mish", node("Mish", "x"), opset=18)
case("Gelu", node("Gelu", "x"), opset=20)
case("Gelu tanh", node("Gelu", "x", approximate="tanh"), opset=20)
case("Selu other", node("Selu", "x", alpha=1.2, gamma=0.9))
case("HardSigmoid other", node("HardSigmoid", "x", alpha=0.3, beta=0.4))
case("Identity and Dropout", node("Identity", "x", "a"), node("Dropout", "a", "b"), node("Relu", "b"))
case("Clip both", node("Clip", "x lo hi"), constants={"lo": np.float32(-0.5), "hi": np.float32(0.7)}, only=("clip",))
case("Clip low", node("Clip", "x lo"), constants={"lo": np.float32(-0.5)})
case("Clip high", node("Clip", "x - hi"), constants={"hi": np.float32(0.5)})
case(
    "Clip relu6", node("Clip", "x lo hi"), constants={"lo": np.float32(0), "hi": np.float32(6)}, high=8, only=("relu6",)
)
case("Clip relu", node("Clip", "x lo"), constants={"lo": np.float32(0)}, only=("relu",))
case("PRelu channels", node("PRelu", "x s"), constants={"s": (3, 1, 1)}, only=("prelu",))
case("PRelu shared", node("PRelu", "x s"), constants={"s": (1,)}, only=("prelu",))
for op in ("Add", "Sub", "Mul", "Div", "Max", "Min"):
    positive = {"low": 0.5} if op == "Div" else {}
    case(f"{op} scalar", node(op, "x c"), constants={"c": np.float32(1.7)}, **positive)
    case(f"{op} scalar first", node(op, "c x"), constants={"c": np.float32(1.7)}, **positive)
    case(f"{op} channels", node(op, "x c"), constants={"c": np.linspace(0.5, 2, 3, dtype=np.float32).reshape(3, 1, 1)})
    case(f"{op} row first", node(op, "c x"), constants={"c": np.linspace(0.5, 2, 6, dtype=np.float32)}, **positive)
    case(f"{op} whole", node(op, "x c"), constants={"c": np.linspace(0.5, 2, 90, dtype=np.float32).reshape(1, 3, 5, 6)})
    case(f"{op} tensors", node(op, "x z"), more={"z": (1, 3, 5, 6)}, **positive)
    case(f"{op} spread", node(op, "x z"), more={"z": (1, 3, 1, 1)}, **positive)
    case(f"{op} spread both", node(op, "x z"), shape=(1, 3, 1, 6), more={"z": (3, 5, 1)}, **positive)
    case(
        f"{op} constant spreads",
        node(op, "x c"),
        shape=(1, 1, 6),
        constants={"c": np.linspace(0.5, 2, 24, dtype=np.float32).reshape(4, 6)},
    )
case("Mul itself", node("Mul", "x x"), only=("square",))
case("Add itself", node("Add", "x x"))
case("Max three", node("Max", "x c z"), constants={"c": np.float32(0.2)}, more={"z": (1, 3, 5, 6)})
case("Sum", node("Sum", "x z c"), constants={"c": (3, 1, 1)}, more={"z": (1, 3, 5, 6)})
case("Mean", node("Mean", "x z"), more={"z": (1, 3, 5, 6)})
for exponent in (2.0, 3.0, 1.0, 0.5, -1.0, 1.5):
    case(f"Pow {exponent}", node("Abs", "x", "h"), node("Pow", "h c"), constants={"c": np.float32(exponent)}, low=0.2)
case("Where", node("Where", "m x c"), constants={"m": np.tri(5, 6, dtype=bool), "c": np.float32(-3)})
case("Where other", node("Where", "m c x"), constants={"m": np.tri(5, 6, dtype=bool), "c": (6,)})
case("Where both", node("Where", "m x z"), constants={"m": np.tri(5, 6, dtype=bool)}, more={"z": (1, 3, 5, 6)})
for op in ("Gelu", "FastGelu", "QuickGelu"):
    case(f"com.microsoft.{op}", node(op, "x", domain="com.microsoft"))
case("com.microsoft.BiasGelu", node("BiasGelu", "x c", domain="com.microsoft"), constants={"c": (6,)})

# -- convolutions -----------------------------------------------------------------------------------
W = {"w": (4, 3, 3, 3), "b": (4,)}
case("Conv", node("Conv", "x w b"), constants=W, only=("conv",))
case("Conv no bias", node("Conv", "x w"), constants={"w": (4, 3, 3, 3)})
case("Conv pads", node("Conv", "x w b", pads=[1, 2, 0, 1], strides=[2, 1]), constants=W)
case("Conv dilated", node("Conv", "x w b", pads=[2, 2, 2, 2], dilations=[2, 2]), constants=W)
case("Conv groups", node("Conv", "x w b", group=2), shape=(1, 4, 5, 6), constants={"w": (6, 2, 3, 3), "b": (6,)})
case("Conv depthwise", node("Conv", "x w", group=3), constants={"w": (3, 1, 3, 3)})
for mode in ("SAME_UPPER", "SAME_LOWER", "VALID"):
    case(f"Conv {mode}", node("Conv", "x w b", auto_pad=mode, strides=[2, 2]), constants=W)
    case(f"MaxPool {mode}", node("MaxPool", "x", auto_pad=mode, kernel_shape=[3, 2], strides=[2, 2]))
case(
    "Conv 1d",
    node("Conv", "x w b", pads=[1, 0], strides=[2]),
    shape=(1, 3, 9),
    constants={"w": (4, 3, 3), "b": (4,)},
    only=("conv1d",),
)
case("FusedConv", node("FusedConv", "x w b", domain="com.microsoft", activation="Relu"), constants=W)
case(
    "FusedConv leaky",
    node("FusedConv", "x w b", domain="com.microsoft", activation="LeakyRelu", activation_params=[0.3]),
    constants=W,
)
V = {"w": (3, 4, 3, 3), "b": (4,)}
case("ConvTranspose", node("ConvTranspose", "x w b", strides=[2, 2]), constants=V, only=("conv_transpose",))
case(
    "ConvTranspose pads",
    node("ConvTranspose", "x w b", strides=[2, 2], pads=[1, 0, 1, 1], output_padding=[1, 0]),
    constants=V,
)
case("ConvTranspose shape", node("ConvTranspose", "x w b", strides=[2, 2], output_shape=[10, 12]), constants=V)
case("ConvTranspose same", node("ConvTranspose", "x w b", strides=[2, 2], auto_pad="SAME_UPPER"), constants=V)
case("ConvTranspose lower", node("ConvTranspose", "x w b", strides=[2, 2], auto_pad="SAME_LOWER"), constants=V)
case("ConvTranspose groups", node("ConvTranspose", "x w", group=3), constants={"w": (3, 2, 3, 3)})
case(
    "ConvTranspose 1d",
    node("ConvTranspose", "x w b", strides=[2], pads=[1, 1], output_padding=[1]),
    shape=(1, 3, 7),
    constants={"w": (3, 4, 4), "b": (4,)},
)

# -- matrices ---------------------------------------------------------------------------------------
case("Gemm", node("Gemm", "x w b", transB=1), shape=(1, 6), constants={"w": (4, 6), "b": (4,)}, only=("linear",))
case("Gemm plain", node("Gemm", "x w b"), shape=(1, 6), constants={"w": (6, 4), "b": (1, 4)}, only=("linear",))
case("Gemm factors", node("Gemm", "x w b", alpha=0.5, beta=2.0), shape=(1, 6), constants={"w": (6, 4), "b": (4,)})
case(
    "Gemm factor and bias",
    node("Flatten", "x", "f"),
    node("Gemm", "f w b", alpha=0.5, transB=1),
    constants={"w": (4, 90), "b": (4,)},
)
case("Gemm one bias", node("Gemm", "x w b"), shape=(1, 6), constants={"w": (6, 4), "b": (1,)})
case("Gemm turned", node("Gemm", "x w", transA=1), shape=(6, 3), constants={"w": (6, 4)})
case("Gemm tensors", node("Gemm", "x z", transB=1), shape=(5, 6), more={"z": (4, 6)})
case("MatMul", node("MatMul", "x w"), shape=(1, 5, 6), constants={"w": (6, 4)}, only=("linear",))
case(
    "MatMul and bias",
    node("MatMul", "x w", "h"),
    node("Add", "b h"),
    shape=(1, 5, 6),
    constants={"w": (6, 4), "b": (4,)},
    only=("linear",),
)
case("MatMul vector", node("MatMul", "x w"), shape=(1, 5, 6), constants={"w": (6,)})
case("MatMul stacked", node("MatMul", "x w"), shape=(1, 3, 5, 6), constants={"w": (3, 6, 4)})
case("MatMul first", node("MatMul", "w x"), shape=(1, 6, 5), constants={"w": (4, 6)})
case("MatMul tensors", node("MatMul", "x z"), shape=(1, 3, 5, 6), more={"z": (1, 3, 6, 4)})
case("MatMul spread", node("MatMul", "x z"), shape=(1, 3, 5, 6), more={"z": (1, 6, 4)})
case(
    "FusedMatMul",
    node("FusedMatMul", "x z", domain="com.microsoft", transB=1, alpha=0.25),
    shape=(1, 3, 5, 6),
    more={"z": (1, 3, 4, 6)},
)
for equation, z in {
    "bhqd,bhkd->bhqk": (1, 3, 4, 6), "bhqd,bhdk->bqhk": (1, 3, 6, 2), "bhqd,hdk->bqhk": (3, 6, 2),
    "bcij,cj->bi": (3, 6),
}.items():  # fmt: skip
    case(f"Einsum {equation}", node("Einsum", "x z", equation=equation), more={"z": z})
case(
    "Einsum constant",
    node("Einsum", "x w", equation="bij,jk->bik"),
    shape=(1, 5, 6),
    constants={"w": (6, 4)},
    only=("linear",),
)

# -- norms ------------------------------------------------------------------------------------------
N = {"s": (3,), "b": (3,), "m": (3,), "v": np.linspace(0.5, 2, 3, dtype=np.float32)}
case("BatchNormalization", node("BatchNormalization", "x s b m v", epsilon=1e-3), constants=N, only=("batch_norm",))
case("BatchNormalization flat", node("BatchNormalization", "x s b m v"), shape=(1, 3), constants=N)
case("LayerNormalization", node("LayerNormalization", "x s b"), constants={"s": (6,), "b": (6,)}, only=("layer_norm",))
case("LayerNormalization axis", node("LayerNormalization", "x s", axis=2), constants={"s": (5, 6)})
case("InstanceNormalization", node("InstanceNormalization", "x s b"), constants={"s": (3,), "b": (3,)})
case(
    "GroupNormalization",
    node("GroupNormalization", "x s b", num_groups=2),
    shape=(1, 4, 5, 6),
    constants={"s": (4,), "b": (4,)},
    opset=21,
)
case(
    "GroupNormalization of 18",
    node("GroupNormalization", "x s b", num_groups=2),
    shape=(1, 4, 5, 6),
    constants={"s": (2,), "b": (2,)},
    opset=18,
)
case("LpNormalization", node("LpNormalization", "x", axis=1, p=2))
case("LpNormalization 1", node("LpNormalization", "x", axis=-1, p=1))
case(
    "SkipLayerNormalization",
    node("SkipLayerNormalization", "x z s b", domain="com.microsoft"),
    shape=(1, 5, 6),
    more={"z": (1, 5, 6)},
    constants={"s": (6,), "b": (6,)},
)
for opset in (11, 13):
    for axis in (1, 2, 3, -1):
        case(f"Softmax {axis} of {opset}", node("Softmax", "x", axis=axis), opset=opset)
    case(f"LogSoftmax of {opset}", node("LogSoftmax", "x"), opset=opset)

# -- pools ------------------------------------------------------------------------------------------
case("MaxPool", node("MaxPool", "x", kernel_shape=[2, 3], strides=[2, 2], pads=[1, 1, 0, 1]), only=("max_pool",))
case("MaxPool 1d", node("MaxPool", "x", kernel_shape=[3], strides=[2]), shape=(1, 3, 9))
case("MaxPool ceil", node("MaxPool", "x", kernel_shape=[2, 3], strides=[2, 2], ceil_mode=1))
case("MaxPool ceil pads", node("MaxPool", "x", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1, pads=[1, 1, 1, 1]))
case("AveragePool", node("AveragePool", "x", kernel_shape=[2, 3], strides=[2, 1], pads=[1, 1, 1, 1]))
case("AveragePool counted", node("AveragePool", "x", kernel_shape=[2, 3], pads=[1, 1, 1, 1], count_include_pad=1))
case("AveragePool ceil", node("AveragePool", "x", kernel_shape=[2, 3], strides=[2, 2], ceil_mode=1))
case("AveragePool 1d", node("AveragePool", "x", kernel_shape=[4], strides=[3]), shape=(1, 3, 10))
case("GlobalAveragePool", node("GlobalAveragePool", "x"), only=("global_avg_pool",))
case("GlobalAveragePool 1d", node("GlobalAveragePool", "x"), shape=(1, 3, 7))
case("GlobalMaxPool", node("GlobalMaxPool", "x"))

# -- reductions -------------------------------------------------------------------------------------
for op in ("Mean", "Max", "Min", "L1", "L2", "SumSquare", "LogSumExp"):
    case(f"Reduce{op}", node(f"Reduce{op}", "x", axes=[1, -1]))
    case(f"Reduce{op} dropped", node(f"Reduce{op}", "x", axes=[2], keepdims=0))
    case(f"Reduce{op} all", node(f"Reduce{op}", "x", keepdims=0))
case("ReduceLogSum", node("ReduceLogSum", "x", axes=[1]), low=0.1)
case("ReduceSum", node("ReduceSum", "x a"), constants={"a": ints(0, 2)})
case("ReduceSum of 11", node("ReduceSum", "x", axes=[0, 2]), opset=11)
case("ReduceSum nothing", node("ReduceSum", "x", "h", noop_with_empty_axes=1), node("Relu", "h"), only=("relu",))
case("ReduceMean of 18", node("ReduceMean", "x a"), constants={"a": ints(-2)}, opset=18)

# -- moves ------------------------------------------------------------------------------------------
case("Concat", node("Concat", "x z x", axis=1), more={"z": (1, 2, 5, 6)})
case("Concat batch", node("Concat", "x z", axis=0), more={"z": (1, 3, 5, 6)})
case("Concat constant", node("Concat", "c x", axis=2), constants={"c": (1, 3, 1, 6)})
case("Split", node("Split", "x s", "a b"), node("Mul", "a b"), shape=(4, 6), constants={"s": ints(2, 2)})
case("Split attribute", node("Split", "x", "a b c", axis=3, split=[1, 2, 3]), opset=11, outputs=("a", "c"))
case("Split even", node("Split", "x", "a b c", axis=1), outputs=("a", "b", "c"))
case("Split uneven", node("Split", "x", "a b", axis=1, num_outputs=2), opset=18, outputs=("a", "b"))
case(
    "Slice",
    node("Slice", "x s e a t"),
    constants={"s": ints(1, -3), "e": ints(100, -1), "a": ints(2, -1), "t": ints(2, 1)},
)
case(
    "Slice backwards",
    node("Slice", "x s e a t"),
    constants={"s": ints(-1), "e": ints(-100), "a": ints(3), "t": ints(-2)},
)
case(
    "Slice turned around",
    node("Slice", "x s e a t"),
    constants={"s": ints(-1, -1), "e": ints(-100, 0), "a": ints(3, 2), "t": ints(-1, -1)},
)
case("Slice plain", node("Slice", "x s e"), constants={"s": ints(0, 1), "e": ints(1, 3)})
case("Transpose", node("Transpose", "x", perm=[0, 2, 3, 1]))
case("Transpose all", node("Transpose", "x"))
case(
    "Squeeze Unsqueeze",
    node("Unsqueeze", "x a", "h"),
    node("Squeeze", "h b", "k"),
    node("Relu", "k"),
    constants={"a": ints(1, -1), "b": ints(1, 5)},
)
case("Squeeze Unsqueeze of 11", node("Unsqueeze", "x", "h", axes=[1, 5]), node("Squeeze", "h", axes=[1]), opset=11)
case("Flatten", node("Flatten", "x", axis=2))
case("Reshape", node("Reshape", "x s"), constants={"s": ints(0, -1, 6)})
case("Expand", node("Expand", "x s"), shape=(1, 3, 1, 6), constants={"s": ints(2, 1, 4, 1)})
case("Tile", node("Tile", "x r"), constants={"r": ints(1, 2, 1, 3)})
case("Tile batch", node("Tile", "x r"), constants={"r": ints(2, 1, 1, 1)})
case("Gather", node("Gather", "x i", axis=1), constants={"i": ints(2, 0, -1)})
case("Gather range", node("Gather", "x i", axis=2), constants={"i": ints(1, 2, 3)})
case("Gather one", node("Gather", "x i", axis=-1), constants={"i": np.array(2, I64)})
case("Gather square", node("Gather", "x i", axis=3), constants={"i": np.array([[0, 2], [5, 1]], I64)})
for mode in ("constant", "reflect", "edge"):
    case(f"Pad {mode}", node("Pad", "x p", mode=mode), constants={"p": ints(0, 0, 1, 2, 0, 0, 2, 1)})
case("Pad value", node("Pad", "x p v"), constants={"p": ints(0, 1, 0, 0, 0, 0, 0, 1), "v": np.float32(1.5)})
case("Pad cut", node("Pad", "x p"), constants={"p": ints(0, 0, -1, 1, 0, 0, 0, -2)})
case("Pad axes", node("Pad", "x p - a"), constants={"p": ints(1, 2), "a": ints(-1)}, opset=18)
case("DepthToSpace", node("DepthToSpace", "x", blocksize=2), shape=(1, 8, 2, 3))
case("DepthToSpace CRD", node("DepthToSpace", "x", blocksize=2, mode="CRD"), shape=(1, 8, 2, 3))
case("SpaceToDepth", node("SpaceToDepth", "x", blocksize=2), shape=(1, 2, 4, 6))

# -- resizing ---------------------------------------------------------------------------------------
for mode in ("nearest", "linear", "cubic"):
    for place in ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"):
        attrs = {"mode": mode, "coordinate_transformation_mode": place}
        case(
            f"Resize {mode} {place} up",
            node("Resize", "x - - s", **attrs),
            shape=(1, 2, 4, 5),
            constants={"s": ints(1, 2, 7, 10)},
        )
        case(
            f"Resize {mode} {place} twice",
            node("Resize", "x - s", **attrs),
            shape=(1, 2, 4, 5),
            constants={"s": f32(1, 1, 2, 2)},
        )
    case(
        f"Resize {mode} down",
        node("Resize", "x - s", mode=mode),
        shape=(1, 2, 8, 10),
        constants={"s": f32(1, 1, 0.5, 0.4)},
    )
for rounding in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil"):
    attrs = {"nearest_mode": rounding, "coordinate_transformation_mode": "asymmetric"}
    case(f"Resize {rounding}", node("Resize", "x - s", **attrs), shape=(1, 2, 4, 5), constants={"s": f32(1, 1, 2, 3)})
for mode in ("nearest", "linear"):
    # sizes that are whole multiples, of scales that are not
    attrs = {"mode": mode, "coordinate_transformation_mode": "half_pixel"}
    case(f"Resize {mode} not whole", node("Resize", "x - s", **attrs), shape=(1, 2, 4, 4),
         constants={"s": f32(1, 1, 2.2, 2.2)})  # fmt: skip
    case(f"Resize {mode} asymmetric ceil", node("Resize", "x - s", mode=mode, nearest_mode="ceil",
         coordinate_transformation_mode="asymmetric"), shape=(1, 2, 4, 4),
         constants={"s": f32(1, 1, 2, 3)})  # fmt: skip
case("Resize 1d", node("Resize", "x - - s", mode="linear"), shape=(1, 2, 5), constants={"s": ints(1, 2, 8)})
case("Resize axes", node("Resize", "x - s", axes=[2, 3]), constants={"s": f32(2, 3)}, opset=18)
case(
    "Resize antialias up",
    node("Resize", "x - s", antialias=1, mode="linear"),
    constants={"s": f32(1, 1, 2, 3)},
    opset=18,
)
case("Reshape that lets zeros be", node("Reshape", "x s", allowzero=1), constants={"s": ints(3, 30)})
case("Dropout of 11", node("Dropout", "x", "d", ratio=0.3), node("Relu", "d"), opset=11)
case("Sub of itself", node("Sub", "x x"))
case("Cast to double and back", node("Cast", "x", "d", to=11), node("Cast", "d", "f", to=1), node("Tanh", "f"))
case("Resize upsample", node("Resize", "x - s", mode="nearest"), constants={"s": f32(1, 1, 2, 3)}, only=("upsample",))

# -- recurrent --------------------------------------------------------------------------------------
for op, gates in (("LSTM", 4), ("GRU", 3), ("RNN", 1)):
    outs = ("y", "h", "c") if op == "LSTM" else ("y", "h")
    for direction, d in (("forward", 1), ("reverse", 1), ("bidirectional", 2)):
        weights = {"w": (d, gates * 4, 6), "r": (d, gates * 4, 4), "b": (d, 2 * gates * 4)}
        case(
            f"{op} {direction}",
            node(op, "x w r b", " ".join(outs), direction=direction, hidden_size=4),
            shape=(5, 1, 6), constants=weights, outputs=outs,
        )  # fmt: skip
    weights = {"w": (1, gates * 4, 6), "r": (1, gates * 4, 4)}
    case(f"{op} no bias", node(op, "x w r", "y", hidden_size=4), shape=(5, 1, 6), constants=weights)
    states = "x w r - - h0 c0" if op == "LSTM" else "x w r - - h0"
    before = dict.fromkeys(states.split()[5:], (1, 1, 4))
    case(
        f"{op} states",
        node(op, states, " ".join(outs), hidden_size=4),
        shape=(3, 1, 6),
        constants=weights,
        more=before,
        outputs=outs,
    )
case(
    "GRU after",
    node("GRU", "x w r b", "y", hidden_size=4, linear_before_reset=1),
    shape=(5, 1, 6),
    constants={"w": (1, 12, 6), "r": (1, 12, 4), "b": (1, 24)},
)
case(
    "RNN relu",
    node("RNN", "x w r b", "y", hidden_size=4, activations=["Relu"]),
    shape=(5, 1, 6),
    constants={"w": (1, 4, 6), "r": (1, 4, 4), "b": (1, 8)},
)

# -- patterns ---------------------------------------------------------------------------------------
HALF = {"r": np.float32(2**0.5), "one": np.float32(1), "half": np.float32(0.5)}
case(
    "pattern gelu",
    node("Div", "x r", "a"),
    node("Erf", "a", "e"),
    node("Add", "e one", "p"),
    node("Mul", "x p", "m"),
    node("Mul", "m half"),
    constants=HALF,
    only=("gelu",),
)
case(
    "pattern gelu half first",
    node("Mul", "x half", "k"),
    node("Div", "x r", "a"),
    node("Erf", "a", "e"),
    node("Add", "e one", "p"),
    node("Mul", "k p"),
    constants=HALF,
)
case(
    "pattern gelu half last",
    node("Div", "x r", "a"),
    node("Erf", "a", "e"),
    node("Add", "e one", "p"),
    node("Mul", "half p", "m"),
    node("Mul", "x m"),
    constants=HALF,
    only=("gelu",),
)
case(
    "no pattern: another constant",
    node("Div", "x r", "a"),
    node("Erf", "a", "e"),
    node("Add", "e one", "p"),
    node("Mul", "x p", "m"),
    node("Mul", "m half"),
    constants={**HALF, "r": np.float32(1.4)},
)
case(
    "no pattern: read in between",
    node("Div", "x r", "a"),
    node("Erf", "a", "e"),
    node("Add", "e one", "p"),
    node("Mul", "x p", "m"),
    node("Mul", "m half"),
    constants=HALF,
    outputs=("y", "e"),
)
NORM = (
    node("ReduceMean", "x", "m", axes=[-1]),
    node("Sub", "x m", "d"),
    node("Pow", "d two", "q"),
    node("ReduceMean", "q", "v", axes=[-1]),
    node("Add", "v eps", "e"),
    node("Sqrt", "e", "r"),
)
NORMED = {"two": np.float32(2), "eps": np.float32(1e-5), "s": (6,), "b": (6,)}
case(
    "pattern layer norm",
    *NORM,
    node("Div", "d r", "n"),
    node("Mul", "n s", "k"),
    node("Add", "k b"),
    constants=NORMED,
    only=("layer_norm",),
)
case("pattern layer norm bare", *NORM, node("Div", "d r"), constants=NORMED, only=("layer_norm",))
case("pattern layer norm read", *NORM, node("Div", "d r"), constants=NORMED, outputs=("y", "v"))
CUBE = {
    "third": np.float32(0.044715),
    "root": np.float32((2 / np.pi) ** 0.5),
    "one": np.float32(1),
    "half": np.float32(0.5),
}
for form, first, last in (
    ("cube", [node("Mul", "x x", "q"), node("Mul", "q x", "k"), node("Mul", "third k", "t")], "x g"),
    ("power", [node("Pow", "x three", "k"), node("Mul", "k third", "t")], "g x"),
    ("third first", [node("Mul", "third x", "q"), node("Mul", "x q", "k"), node("Mul", "x k", "t")], "x g"),
):
    rest = [node("Add", "x t", "a"), node("Mul", "root a", "p"), node("Tanh", "p", "w"), node("Add", "one w", "v")]
    nodes = [*first, *rest, node("Mul", "half v", "g"), node("Mul", last)]
    case(f"pattern tanh gelu {form}", *nodes, constants={**CUBE, "three": np.float32(3)}, only=("gelu",))
    nodes = [*first, *rest, node("Mul", "half x", "g"), node("Mul", "g v")]
    case(f"pattern tanh gelu {form}, half of x", *nodes, constants={**CUBE, "three": np.float32(3)}, only=("gelu",))
    other = {**CUBE, "three": np.float32(3), "third": np.float32(0.05)}
    case(f"no pattern: tanh gelu {form} of another third", *nodes, constants=other)
case("pattern silu", node("Sigmoid", "x", "s"), node("Mul", "x s"), only=("silu",))
case(
    "pattern hard swish",
    node("HardSigmoid", "x", "s", alpha=1 / 6),
    node("Mul", "s x"),
    only=("hardswish",),
    high=5,
    low=-5,
)
case(
    "pattern hard swish clip",
    node("Add", "x three", "a"),
    node("Clip", "a zero six", "c"),
    node("Mul", "x c", "m"),
    node("Div", "m six"),
    constants={"three": np.float32(3), "zero": np.float32(0), "six": np.float32(6)},
    only=("hardswish",),
    high=5,
    low=-5,
)
case(
    "pattern scale and shift",
    node("Mul", "x s", "a"),
    node("Add", "t a"),
    constants={"s": f32(1.5), "t": f32(-0.5)},
    only=("scale_shift",),
)


def _check(c: Case, folder: Path) -> None:
    path = saved(model(c.nodes, {"x": c.shape, **c.more}, c.constants, c.outputs, c.opset), folder)
    rng = np.random.default_rng(3)
    feed = {n: rng.uniform(c.low, c.high, s).astype(np.float32) for n, s in {"x": c.shape, **c.more}.items()}
    found = kinds(read_onnx(path))
    assert "opaque" not in found
    if c.only is not None:
        assert tuple(found) == c.only
    assert difference(path, feed) < 2e-6 * 20


@pytest.mark.parametrize("name", CASES)
def test_as_onnx_runtime(name: str, tmp_path: Path) -> None:
    _check(CASES[name], tmp_path)


@given(
    height=st.integers(1, 9), width=st.integers(1, 9), kernel=st.integers(1, 4), stride=st.integers(1, 3),
    pads=st.lists(st.integers(0, 2), min_size=4, max_size=4), dilation=st.integers(1, 2),
)  # fmt: skip
def test_convolutions_of_any_window(height: int, width: int, kernel: int, stride: int, pads: list[int], dilation: int,
                                    tmp_path_factory: pytest.TempPathFactory) -> None:  # fmt: skip
    extent = (kernel - 1) * dilation + 1
    if height + pads[0] + pads[2] < extent or width + pads[1] + pads[3] < extent:
        return
    conv = node("Conv", "x w b", pads=pads, strides=[stride, stride], dilations=[dilation, dilation])
    constants = {"w": (3, 2, kernel, kernel), "b": (3,)}
    _check(Case([conv], (1, 2, height, width), constants), tmp_path_factory.mktemp("conv"))


@given(shape=st.lists(st.integers(1, 5), min_size=1, max_size=4), opset=st.sampled_from([11, 13, 18]), data=st.data())
def test_slices_of_any_axes(shape: list[int], opset: int, data: st.DataObject,
                            tmp_path_factory: pytest.TempPathFactory) -> None:  # fmt: skip
    axes = data.draw(st.lists(st.integers(-len(shape), len(shape) - 1), min_size=1, unique_by=lambda a: a % len(shape)))
    starts, ends, steps = (
        data.draw(st.lists(numbers, min_size=len(axes), max_size=len(axes)))
        for numbers in (st.integers(-6, 6), st.integers(-6, 6), st.sampled_from([-2, -1, 1, 2]))
    )
    picked = np.zeros(shape)[tuple(_numpy_slice(shape, axes, starts, ends, steps))]
    if not picked.size:
        return
    constants = {"s": ints(*starts), "e": ints(*ends), "a": ints(*axes), "t": ints(*steps)}
    cut = [node("Slice", "x s e a t", "h"), node("Relu", "h")]
    _check(Case(cut, tuple(shape), constants, opset=opset), tmp_path_factory.mktemp("slice"))


def _numpy_slice(shape: list[int], axes: list[int], starts: list[int], ends: list[int], steps: list[int]) -> list[Any]:
    """The slices of NumPy, which count a negative end from the end as ONNX does."""
    cuts: list[Any] = [slice(None)] * len(shape)
    for axis, lo, hi, step in zip(axes, starts, ends, steps, strict=True):
        n = shape[axis]
        end: int | None = hi
        if step < 0 and hi < -n:
            end = None
        cuts[axis] = slice(lo, end, step)
    return cuts


@pytest.mark.parametrize(
    ("nodes", "macs", "once"),
    [
        ([node("RandomNormalLike", "x", "n"), node("Add", "x n")], 64, True),
        ([node("Dropout", "x half yes", "n"), node("Add", "x n")], 64, True),
        ([node("Multinomial", "flat", "n"), node("Cast", "n", "f", to=1), node("Mul", "x f")], None, True),
        ([node("Det", "x", "n"), node("Mul", "x n")], None, False),
        ([node("TopK", "x four", "n i"), node("Mul", "x n")], 0, False),
    ],
)
def test_what_opaque_ops_cost_and_whether_they_draw(nodes: Any, macs: int | None, once: bool, tmp_path: Path) -> None:
    constants = {"half": np.float32(0.5), "yes": np.bool_(True), "four": np.array([4], I64)}
    shape = (1, 4, 4, 4)
    if nodes[0].op_type == "Multinomial":
        nodes, shape = [node("Flatten", "x", "flat"), *nodes], (1, 1)
    if nodes[0].op_type == "Det":
        shape = (1, 1, 4, 4)
    found = read_onnx(saved(model(nodes, {"x": shape}, constants), tmp_path))
    op = next(op for op in found.network.ops if op.kind == "opaque")
    assert (op.attrs.get("macs"), bool(op.attrs.get("once"))) == (macs, once)


def test_dropout_that_trains_is_no_identity(tmp_path: Path) -> None:
    for trains, found in ((True, ["opaque"]), (False, [])):
        constants = {"r": np.float32(0.5), "t": np.array(trains)}
        nodes = [node("Dropout", "x r t", "d"), node("Relu", "d")]
        got = read_onnx(saved(model(nodes, {"x": (1, 3, 4, 4)}, constants), tmp_path))
        assert kinds(got) == [*found, "relu"]
        assert any("training_mode=true" in n for n in got.notes) == trains
