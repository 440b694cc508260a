"""Networks of the MLPerf Tiny benchmark (Banbury et al., NeurIPS Datasets 2021).

Batch-norms are affines, to be updated or folded. Strided convolutions pad as TensorFlow's
"same", more at the bottom right, as the benchmark's trained models do. Classifiers give logits.
"""

from __future__ import annotations

from sparseplan.builder import NetworkBuilder
from sparseplan.network import Network


def _same(extent: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's "same" padding of an axis: (before, after)."""
    total = max(0, (-(-extent // stride) - 1) * stride + kernel - extent)
    return total // 2, total - total // 2


def _conv_norm(
    net: NetworkBuilder,
    x: str,
    name: str,
    channels: int,
    kernel: tuple[int, int],
    stride: int = 1,
    groups: int = 1,
    relu: bool = True,
) -> str:
    """Convolution with "same" padding, affine, and ReLU unless told otherwise."""
    _, height, width = net.shape(x)
    (top, bottom), (left, right) = _same(height, kernel[0], stride), _same(width, kernel[1], stride)
    pads = (top, left, bottom, right)
    x = net.conv(x, channels, kernel, stride, pads, name=f"{name}.conv", bias=False, groups=groups)
    x = net.affine(x, name=f"{name}.norm")
    return net.relu(x, name=f"{name}.relu") if relu else x


def _head(net: NetworkBuilder, x: str, classes: int) -> Network:
    x = net.op("global_avg_pool", x, "pool")
    return net.build(net.linear(net.op("flatten", x, "flatten"), classes, name="classifier"))


def resnet8() -> Network:
    """ResNet-8 on CIFAR-10: input ``image`` (3, 32, 32), 10 classes, 77,946 parameters."""
    net = NetworkBuilder("resnet8")
    x = _conv_norm(net, net.input("image", (3, 32, 32)), "stem", 16, (3, 3))
    for i, (channels, stride) in enumerate([(16, 1), (32, 2), (64, 2)]):
        y = _conv_norm(net, x, f"stack{i}.a", channels, (3, 3), stride)
        y = _conv_norm(net, y, f"stack{i}.b", channels, (3, 3), relu=False)
        if stride > 1:
            x = net.conv(x, channels, 1, stride, name=f"stack{i}.shortcut")
        x = net.relu(net.add([x, y], name=f"stack{i}.add"), name=f"stack{i}.relu")
    return _head(net, x, 10)


def dscnn() -> Network:
    """DS-CNN for keyword spotting: input ``spectrogram`` (1, 49, 10), 12 classes, 23,180 parameters."""
    net = NetworkBuilder("dscnn")
    x = _conv_norm(net, net.input("spectrogram", (1, 49, 10)), "stem", 64, (10, 4), 2)
    for i in range(4):
        x = _conv_norm(net, x, f"block{i}.depthwise", 64, (3, 3), groups=64)
        x = _conv_norm(net, x, f"block{i}.pointwise", 64, (1, 1))
    return _head(net, x, 12)


def mobilenetv1_025() -> Network:
    """MobileNet v1 of width 0.25 for visual wake words: input ``image`` (3, 96, 96), 2 classes,
    213,586 parameters."""
    net = NetworkBuilder("mobilenetv1_025")
    x = _conv_norm(net, net.input("image", (3, 96, 96)), "stem", 8, (3, 3), 2)
    channels = 8
    plan = [(16, 1), (32, 2), (32, 1), (64, 2), (64, 1), (128, 2), *[(128, 1)] * 5, (256, 2), (256, 1)]
    for i, (outs, stride) in enumerate(plan):
        x = _conv_norm(net, x, f"block{i}.depthwise", channels, (3, 3), stride, groups=channels)
        x = _conv_norm(net, x, f"block{i}.pointwise", outs, (1, 1))
        channels = outs
    return _head(net, x, 2)


def autoencoder() -> Network:
    """Anomaly detection by an autoencoder: input ``features`` (640,), five frames of 128 log-mel bins, output the
    same shape, 267,928 parameters."""
    net = NetworkBuilder("autoencoder")
    x = net.input("features", (640,))
    for i, outs in enumerate([128] * 4 + [8] + [128] * 4):
        name = f"encoder{i}" if i < 4 else "code" if i == 4 else f"decoder{i - 5}"
        x = net.affine(net.linear(x, outs, name=f"{name}.linear"), name=f"{name}.norm")
        x = net.relu(x, name=f"{name}.relu")
    return net.build(net.linear(x, 640, name="output"))
