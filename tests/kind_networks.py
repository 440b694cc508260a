"""Small networks that hold every kind of op that computes, for tests of exporters."""

from __future__ import annotations

from test_run import classifier

from sparseplan.builder import NetworkBuilder
from sparseplan.network import Network


def unary() -> Network:
    """One branch for each unary op, all added up."""
    net = NetworkBuilder("unary")
    x = net.op("affine", net.input("image", (3, 4, 5)), "start")
    positive = net.op("scale_shift", net.op("softplus", x), shift=0.25)
    made = []
    for kind in ("relu", "relu6", "leaky_relu", "sigmoid", "tanh", "hardswish", "softplus", "softsign", "elu", "selu",
                 "celu", "square", "erf", "sin", "cos", "gelu", "silu", "mish", "abs", "neg", "hard_sigmoid", "exp",
                 "floor", "ceil", "round", "sign", "prelu"):  # fmt: skip
        made.append(net.op(kind, x, kind))
    made.append(net.op("gelu", x, approximate="tanh"))
    made += [net.op(kind, positive) for kind in ("log", "sqrt", "reciprocal")]
    made += [
        net.op("power", positive, exponent=1.5),
        net.op("clip", x, low=0.25, high=0.7),
        net.op("clip", x, high=0.5),
    ]
    y = net.op("batch_norm", net.add(made), "norm")
    return net.build(net.op("affine", y, "end"))


def binary() -> Network:
    """Ops of two inputs, one of them spread, and ops with a parameter."""
    net = NetworkBuilder("binary")
    x = net.op("param_add", net.input("image", (3, 4, 5)), "positions", shape=(4, 5))
    x = net.op("param_mul", x, "scales", shape=(3, 1, 1))
    x = net.op("const_mul", net.op("const_add", x, "shift", shape=(4, 1)), "weights", shape=(4, 5))
    x = net.add([x, net.op("constant", (), "fixed", shape=(3, 4, 5))])
    small = net.op("global_avg_pool", x)
    other = net.op("affine", net.op("parameter", (), "token", shape=(3, 4, 5)), "more")
    made = [net.op(kind, pair) for kind in ("add", "sub", "mul", "maximum", "minimum")
            for pair in ([x, other], [small, x])]  # fmt: skip
    below = net.op("scale_shift", net.op("sigmoid", other), shift=1.0)
    made += [net.op("div", [x, below]), net.op("div", [small, below]), net.op("div", [x, net.op("exp", small)])]
    return net.build(net.add(made))


def moves() -> Network:
    """Ops that move and reduce."""
    net = NetworkBuilder("moves")
    x = net.conv(net.input("image", (3, 4, 6)), 4, 3, padding=1, name="stem")
    x = net.op("slice", x, starts=(0, 1, 0), stops=(4, 4, 6), steps=(1, 1, 2))  # 4, 3, 3
    made = [
        net.op("pad", x, before=(1, 0, 2), after=(0, 1, 0), mode=mode, value=0.5 if mode == "constant" else 0.0)
        for mode in ("constant", "edge", "reflect")
    ]  # 5, 4, 5
    y = net.op("gather", net.add(made), axis=2, indices=(4, 0, 0, 3))  # 5, 4, 4
    y = net.op("transpose", y, perm=(1, 2, 0))  # 4, 4, 5
    wide = net.op("expand", net.op("mean", y, axes=(0,)), shape=(4, 4, 5))
    tiled = net.op("tile", net.op("sum", y, axes=(1, 2)), repeats=(1, 4, 5))
    most = net.op("expand", net.op("amax", y, axes=(-1,)), shape=(4, 4, 5))
    least = net.op("reshape", net.op("amin", y, axes=(1,), keepdims=False), shape=(4, 1, 5))
    joined = net.op("concat", [y, least], axis=1)
    rows = net.op("rows", joined, lo=1, hi=5)
    stacked = net.op("join_rows", [net.op("rows", rows, lo=0, hi=1), net.op("rows", rows, lo=1, hi=4)])
    y = net.add([stacked, wide, tiled, most])
    up = net.op("upsample", y, scale=(2, 1), mode="bilinear", crop=(1, 1))
    near = net.op("upsample", y, scale=(2, 1), crop=(0, 2))
    return net.build(net.op("log_softmax", net.op("flatten", net.conv(net.add([up, near]), 2, 1, name="head"))))


def attention() -> Network:
    """A transformer's block over looked-up words."""
    net = NetworkBuilder("attention")
    words = net.input("words", (6,), "i32")
    x = net.op("embedding", words, "table", num=9, dim=8)
    x = net.op("param_add", x, "positions", shape=(6, 8))
    y = net.op("layer_norm", x, "norm")
    q, k, v = (net.op("transpose", net.op("reshape", net.linear(y, 8, name=name), shape=(6, 2, 4)), perm=(1, 0, 2))
               for name in ("query", "key", "value"))  # fmt: skip
    scores = net.op("scale_shift", net.op("matmul", [q, k], transpose_b=True), scale=0.5)
    mixed = net.op("matmul", [net.op("softmax", scores), v])
    mixed = net.op("reshape", net.op("transpose", mixed, perm=(1, 0, 2)), shape=(6, 8))
    x = net.add([x, net.linear(mixed, 8, name="out")])
    x = net.op("layer_norm", net.op("gelu", net.linear(x, 12, name="wide")), "norm2", dims=2)
    return net.build(net.linear(net.op("mean", x, axes=(0,), keepdims=False), 3, name="head"))


def sequences() -> Network:
    """Sequences, and norms over groups of channels."""
    net = NetworkBuilder("sequences")
    x = net.op("conv1d", net.input("sound", (2, 16)), "conv", out_channels=6, kernel=3, padding=1, stride=2)
    x = net.op("group_norm", x, "groups", groups=2)
    x = net.op("conv1d", x, "depth", out_channels=6, kernel=3, padding=(2, 0), groups=6)
    x = net.op("instance_norm", x, "instance")
    a, b = net.op("max_pool1d", x, kernel=3, stride=2, padding=1), net.op("avg_pool1d", x, kernel=2)
    x = net.op("conv_transpose1d", net.add([a, b]), "up", out_channels=4, kernel=3, stride=2, output_padding=1)
    return net.build(net.op("prelu", x, "slope", shared=True))


def images() -> Network:
    """Convolutions and pools with every option."""
    net = NetworkBuilder("images")
    x = net.conv(net.input("image", (4, 9, 8)), 6, (3, 2), stride=(2, 1), padding=(1, 0, 2, 1), groups=2, name="a")
    x = net.op("conv", x, "b", kernel=3, out_channels=6, padding=2, dilation=2, groups=6)
    a = net.op("max_pool", x, kernel=(3, 2), stride=(1, 2), padding=(1, 0))
    b = net.op("avg_pool", x, kernel=(3, 2), stride=(1, 2), padding=(1, 0), count_include_pad=False)
    x = net.add([a, b])
    x = net.op("conv_transpose", x, "c", kernel=3, out_channels=4, stride=(1, 2), padding=1, groups=2,
               output_padding=(0, 1))  # fmt: skip
    return net.build(net.op("sigmoid", net.op("global_avg_pool", x)))


def sizes() -> Network:
    """Images, and a sequence, resized in every way."""
    net = NetworkBuilder("sizes")
    x = net.conv(net.input("image", (2, 5, 4)), 2, 1, name="stem")
    ways = [{"mode": "nearest", "rounding": "ceil"}, {"mode": "nearest", "coordinates": "asymmetric"},
            {"mode": "linear", "coordinates": "align_corners"}, {"mode": "cubic"},
            {"mode": "linear", "coordinates": "pytorch_half_pixel", "scales": "1.5,0.8"}]  # fmt: skip
    y = net.add([net.op("resize", x, size=(7, 3), **way) for way in ways])
    line = net.op("reshape", y, shape=(2, 21))
    return net.build(net.op("affine", net.op("resize", line, size=(30,), mode="linear"), "end"))


def computed() -> Network:
    """Weights that are computed from parameters and from the data, so that each sample has its own."""
    net = NetworkBuilder("computed")
    x = net.input("image", (4, 6, 5))
    gain = net.op("reshape", net.op("mean", net.op("affine", x, "start"), axes=(0, 1, 2)), shape=(1, 1, 1, 1))
    kernel = net.op("mul", [net.op("parameter", (), "kernel", shape=(6, 2, 3, 2)), gain])
    x = net.op("dynamic_conv", [x, kernel], "a", {"bias": "a.bias"}, kernel=(3, 2), out_channels=6, groups=2,
               padding=(1, 0, 2, 1), stride=(2, 1))  # fmt: skip
    kernel = net.op("mul", [net.op("parameter", (), "other", shape=(6, 1, 2, 3)), gain])
    x = net.op("dynamic_conv_transpose", [x, kernel], "b", kernel=(2, 3), out_channels=2, groups=2, stride=2,
               output_padding=1)  # fmt: skip
    table = net.op("mul", [net.op("parameter", (), "table", shape=(5, 2)), net.op("reshape", gain, shape=(1, 1))])
    rows = net.op("lookup", [net.input("words", (4,), "i32"), table])
    found = net.op("reshape", net.op("mean", rows, axes=(0,)), shape=(2, 1, 1))
    x = net.op("mul", [x, net.op("detach", net.op("sigmoid", x))])
    return net.build(net.op("tanh", net.op("mul", [x, found])))


KINDS = {"unary": unary, "binary": binary, "moves": moves, "sizes": sizes, "attention": attention,
         "sequences": sequences, "images": images, "classifier": classifier,
         "computed": computed}  # fmt: skip
