"""uPyD-Net: monocular depth from 48×48 images, a pyramid of 107,625 parameters (arXiv 2512.00086)."""

from __future__ import annotations

from sparseplan.builder import NetworkBuilder
from sparseplan.network import Network

#: slope of every LeakyReLU
SLOPE = 0.125


def upydnet() -> Network:
    """Input ``image`` (3, 48, 48), RGB in 0 … 1; output disparity (1, 48, 48).

    Six convolutions encode, three decoders of three convolutions follow, joined by 2×2 transposed
    convolutions (``ups0.tconv``, ``ups1.tconv``); decoder 1 and 2 also see the encoder's features
    of their resolution. Parameters are named as in PyTorch: ``decoder0.conv1.weight``.
    """
    net = NetworkBuilder("upydnet")
    x = net.input("image", (3, 48, 48))
    taps = []
    for i, (channels, stride) in enumerate([(8, 1), (8, 1), (16, 2), (16, 1), (32, 2), (32, 1)]):
        x = net.conv(x, channels, 3, stride, 1, name=f"encoder.conv{i}")
        x = net.leaky_relu(x, SLOPE, name=f"encoder.act{i}")
        if i % 2:
            taps.append(x)
    for d, last in enumerate([32, 32, 1]):
        for i, channels in enumerate([32, 32, last]):
            x = net.conv(x, channels, 3, 1, 1, name=f"decoder{d}.conv{i}")
            if i < 2:
                x = net.leaky_relu(x, SLOPE, name=f"decoder{d}.act{i}")
        if d < 2:
            x = net.conv_transpose(x, 32, 2, 2, name=f"ups{d}.tconv")
            x = net.concat([taps[1 - d], x], name=f"ups{d}.concat")
    return net.build(net.relu(x, name="disparity"))
