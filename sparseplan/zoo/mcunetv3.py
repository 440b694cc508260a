"""The three backbones on which MCUNetV3 trains (Lin et al., "On-Device Training Under 256KB Memory", NeurIPS 2022).

Architectures are those of github.com/mit-han-lab/tiny-training, commit 7bf8e05, folder
``algorithm/assets/mcu_models``: MobileNetV2 of width 0.35, MCUNet for five frames a second, and
ProxylessNAS of width 0.3, all at 128×128. Batch-norms are folded. The source's networks are int8,
and the range of an int8 output does what ReLU6 would; here ReLU6 is an op after the stem, every
expansion and every depthwise convolution, as in the architectures from which they were quantised.
"""

from __future__ import annotations

from collections.abc import Sequence

from sparseplan.network import Network
from sparseplan.zoo.mobilenetv2 import STAGES, Block, bottlenecks, mobilenetv2

#: (hidden channels, or None without an expansion; outputs; stride; kernel of the depthwise convolution)
Row = tuple[int | None, int, int, int]

MCUNET_5FPS: tuple[Row, ...] = (
    (None, 8, 1, 3),
    (32, 16, 2, 3),
    (48, 16, 1, 3),
    (48, 24, 2, 7),
    (120, 24, 1, 3),
    (120, 40, 2, 3),
    (160, 40, 1, 7),
    (160, 48, 1, 5),
    (144, 48, 1, 3),
    (192, 48, 1, 3),
    (240, 96, 2, 7),
    (384, 96, 1, 5),
    (384, 96, 1, 5),
    (576, 160, 1, 3),
)
PROXYLESS_W03: tuple[Row, ...] = (
    (None, 8, 1, 3),
    (24, 16, 2, 5),
    (48, 16, 1, 3),
    (48, 16, 2, 7),
    (48, 16, 1, 3),
    (48, 16, 1, 5),
    (48, 16, 1, 5),
    (96, 24, 2, 7),
    (72, 24, 1, 5),
    (72, 24, 1, 5),
    (72, 24, 1, 5),
    (144, 32, 1, 5),
    (96, 32, 1, 5),
    (96, 32, 1, 5),
    (96, 32, 1, 5),
    (192, 64, 2, 7),
    (384, 64, 1, 7),
    (192, 64, 1, 7),
    (192, 64, 1, 7),
    (384, 96, 1, 7),
)


def mbv2_w035(classes: int = 1000) -> Network:
    """MobileNetV2 of width 0.35 without its last convolution: input ``image`` (3, 128, 128), 51 convolutions
    with 238,688 weights and 5,760 biases, 357,448 parameters with 1000 classes."""
    return mobilenetv2("mbv2_w035", shape=(3, 128, 128), classes=classes, width=0.35, stages=STAGES, last=None)


def mcunet_5fps(classes: int = 1000) -> Network:
    """MCUNet for five frames a second: input ``image`` (3, 128, 128), 42 convolutions with 463,216 weights and
    6,008 biases, 630,224 parameters with 1000 classes."""
    return _backbone("mcunet_5fps", MCUNET_5FPS, classes)


def proxyless_w03(classes: int = 1000) -> Network:
    """ProxylessNAS of width 0.3: input ``image`` (3, 128, 128), 60 convolutions with 320,816 weights and 5,416
    biases, 423,232 parameters with 1000 classes."""
    return _backbone("proxyless_w03", PROXYLESS_W03, classes)


def _backbone(name: str, rows: Sequence[Row], classes: int) -> Network:
    blocks = [Block(hidden, outs, stride, kernel) for hidden, outs, stride, kernel in rows]
    return bottlenecks(name, (3, 128, 128), classes, (16, 2), blocks)
