"""Compact convolutional transformers (Hassani et al. 2021, "Escaping the Big Data Paradigm with Compact Transformers").

Architecture of github.com/SHI-Labs/Compact-Transformers, which differs from the usual pre-norm encoder in
one place: the second norm of a layer is applied to the residual path itself, so that the sum behind it
starts from normalised tokens. Query, key and value are linears of their own without biases; the source's
one weight of 3 × width rows is theirs, one below the other.
"""

from __future__ import annotations

import math

from sparseplan.builder import NetworkBuilder
from sparseplan.errors import NetworkError
from sparseplan.network import Network
from sparseplan.scalars import plain_arguments


@plain_arguments
def cct(
    name: str,
    *,
    shape: tuple[int, int, int] = (3, 32, 32),
    classes: int = 10,
    layers: int = 2,
    heads: int = 2,
    width: int = 128,
    hidden: int = 128,
    tokeniser: tuple[int, ...] = (64,),
    kernel: int = 3,
) -> Network:
    """A compact convolutional transformer: input ``image`` of ``shape``, output logits (classes,).

    The tokeniser is convolutions without bias of ``tokeniser`` channels and of ``width``, each followed by
    ReLU and 3×3 max pooling of stride 2; then come a learned positional embedding, ``layers`` encoder
    layers, a norm, pooling of the tokens by a learned softmax over them, and a linear classifier.

    Args:
        heads: of each attention; divides width. hidden: features inside the MLP of a layer.

    Raises:
        NetworkError: a value that is no number above 0, or a width that heads do not divide.
    """
    whole = {"classes": classes, "layers": layers, "heads": heads, "width": width, "hidden": hidden, "kernel": kernel}
    for label, value in whole.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise NetworkError(f"{label}={value!r} must be a whole number, at least 1")
    if width % heads:
        raise NetworkError(f"width={width} must be a multiple of heads={heads}")
    net = NetworkBuilder(name)
    x = net.input("image", shape)
    for i, channels in enumerate((*tokeniser, width)):
        x = net.conv(x, channels, kernel, 1, max(1, kernel // 2), name=f"tokeniser{i}.conv", bias=False)
        x = net.relu(x, name=f"tokeniser{i}.relu")
        x = net.op("max_pool", x, f"tokeniser{i}.pool", kernel=3, stride=2, padding=1)
    tokens = math.prod(net.shape(x)[1:])
    x = net.op("reshape", x, "tokens.flat", shape=(width, tokens))
    x = net.op("transpose", x, "tokens", perm=(1, 0))
    x = net.op("param_add", x, "position", shape=(tokens, width))
    for i in range(layers):
        x = _encoder(net, x, f"encoder{i}", heads, hidden)
    x = net.op("layer_norm", x, "norm")
    share = net.op("softmax", net.linear(x, 1, name="pool.score"), "pool.softmax", axis=0)
    x = net.op("matmul", (share, x), "pool.sum", transpose_a=True)
    return net.build(net.linear(net.op("flatten", x, "flatten"), classes, name="classifier"))


def _encoder(net: NetworkBuilder, x: str, name: str, heads: int, hidden: int) -> str:
    width = net.shape(x)[1]
    y = _attention(net, net.op("layer_norm", x, f"{name}.norm0"), f"{name}.attention", heads)
    x = net.op("layer_norm", net.add([x, y], name=f"{name}.add0"), f"{name}.norm1")
    y = net.op("gelu", net.linear(x, hidden, name=f"{name}.linear0"), f"{name}.gelu")
    return net.add([x, net.linear(y, width, name=f"{name}.linear1")], name=f"{name}.add1")


def _attention(net: NetworkBuilder, x: str, name: str, heads: int) -> str:
    tokens, width = net.shape(x)
    size = width // heads
    parts = {}
    for part in ("query", "key", "value"):
        y = net.linear(x, width, name=f"{name}.{part}", bias=False)
        y = net.op("reshape", y, f"{name}.{part}.split", shape=(tokens, heads, size))
        parts[part] = net.op("transpose", y, f"{name}.{part}.heads", perm=(1, 0, 2))
    scores = net.op("matmul", (parts["query"], parts["key"]), f"{name}.scores", transpose_b=True)
    scores = net.op("scale_shift", scores, f"{name}.scale", scale=1 / math.sqrt(size))
    shares = net.op("softmax", scores, f"{name}.softmax")
    y = net.op("matmul", (shares, parts["value"]), f"{name}.sum")
    y = net.op("transpose", y, f"{name}.join", perm=(1, 0, 2))
    return net.linear(net.op("reshape", y, f"{name}.flat", shape=(tokens, width)), width, name=f"{name}.project")


def cct_2_3x2() -> Network:
    """CCT-2/3×2 on CIFAR-10: input ``image`` (3, 32, 32), 10 classes, 283,723 parameters."""
    return cct("cct_2_3x2")
