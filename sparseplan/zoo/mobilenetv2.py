"""MobileNetV2 (Sandler et al., CVPR 2018): inverted bottlenecks with linear ends and residual adds.

Batch-norms are folded: every convolution has a bias and no normalisation follows, as in a network
that is ready for a device. So adapting it needs no statistics of batches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sparseplan.builder import NetworkBuilder
from sparseplan.errors import NetworkError
from sparseplan.network import Network
from sparseplan.scalars import plain_arguments

#: (expansion t, channels c, blocks n, stride of the first s): table 2 of the paper
STAGES: tuple[tuple[int, int, int, int], ...] = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
#: the same shape for 16×16 pictures of digits
DIGIT_STAGES: tuple[tuple[int, int, int, int], ...] = ((1, 16, 1, 1), (4, 24, 2, 2), (4, 32, 2, 2), (4, 48, 1, 1))


def _channels(wanted: float, divisor: int) -> int:
    """The multiple of ``divisor`` nearest to ``wanted``, not more than a tenth below it (as the paper's code)."""
    nearest = max(divisor, math.floor(wanted / divisor + 0.5) * divisor)
    return nearest if nearest >= 0.9 * wanted else nearest + divisor


@plain_arguments
def mobilenetv2(
    name: str = "mobilenetv2",
    *,
    shape: tuple[int, int, int] = (3, 224, 224),
    classes: int = 1000,
    width: float = 1.0,
    stages: Sequence[tuple[int, int, int, int]] = STAGES,
    stem: int = 32,
    stem_stride: int = 2,
    last: int | None = 1280,
    divisor: int = 8,
) -> Network:
    """A network of the MobileNetV2 kind; by default the published one, with 3,487,816 parameters.

    Input ``image`` of ``shape`` (channels, height, width), output logits (classes,). A block is
    ``block<i>.expand`` (1×1, left out where t is 1), ``.depthwise`` (3×3), ``.project`` (1×1, no
    activation), and ``.add`` where stride is 1 and channels stay.

    Args:
        width: multiplies all channels but the input's; those of the last convolution only if above 1.
        stages: (expansion, channels, blocks, stride of the first block) each.
        stem, stem_stride: channels and stride of the first convolution; last: channels of the last, None for none.
        divisor: channels are multiples of it.

    Raises:
        NetworkError: a value that is no number above 0, or no stages.
    """
    whole = {"classes": classes, "stem": stem, "stem_stride": stem_stride, "divisor": divisor}
    whole |= {"last": last} if last is not None else {}
    whole |= {f"stages[{i}][{j}]": v for i, stage in enumerate(stages) for j, v in enumerate(stage)}
    for label, value in whole.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise NetworkError(f"{label}={value!r} must be a whole number, at least 1")
    if not stages or any(len(stage) != 4 for stage in stages):
        raise NetworkError(f"stages={list(stages)!r} must be (expansion, channels, blocks, stride) each, at least one")
    if not (math.isfinite(width) and width > 0):
        raise NetworkError(f"width={width!r} must be a number above 0")
    blocks: list[Block] = []
    ins = _channels(stem * width, divisor)
    for t, c, n, s in stages:
        outs = _channels(c * width, divisor)
        for i in range(n):
            blocks.append(Block(t * ins if t > 1 else None, outs, s if i == 0 else 1))
            ins = outs
    last = None if last is None else _channels(last * max(1.0, width), divisor)
    return bottlenecks(name, shape, classes, (_channels(stem * width, divisor), stem_stride), blocks, last)


@dataclass(frozen=True, slots=True)
class Block:
    """An inverted bottleneck.

    Attributes:
        hidden: channels of the depthwise convolution; None: those of the input, without an expansion.
        outs: channels of the output.
        stride, kernel: of the depthwise convolution, which pads by half its kernel.
    """

    hidden: int | None
    outs: int
    stride: int = 1
    kernel: int = 3


def bottlenecks(
    name: str,
    shape: tuple[int, int, int],
    classes: int,
    stem: tuple[int, int],
    blocks: Sequence[Block],
    last: int | None = None,
) -> Network:
    """A stem, inverted bottlenecks, perhaps a last 1×1 convolution, the mean of each channel, a classifier.

    Args:
        stem: channels and stride of the first convolution (3×3).
        last: channels of the last convolution, or None.

    Raises:
        NetworkError, OpError: shapes that do not fit.
    """
    net = NetworkBuilder(name)
    x = _conv(net, net.input("image", shape), "stem", stem[0], 3, stem[1])
    for i, block in enumerate(blocks):
        x = _bottleneck(net, x, f"block{i}", block)
    if last is not None:
        x = _conv(net, x, "last", last, 1)
    x = net.op("flatten", net.op("global_avg_pool", x, "pool"), "flatten")
    return net.build(net.linear(x, classes, name="classifier"))


def _conv(
    net: NetworkBuilder, x: str, name: str, channels: int, kernel: int, stride: int = 1, depthwise: bool = False
) -> str:
    groups = channels if depthwise else 1
    x = net.conv(x, channels, kernel, stride, kernel // 2, name=f"{name}.conv", groups=groups)
    return net.op("relu6", x, f"{name}.relu6")


def _bottleneck(net: NetworkBuilder, x: str, name: str, block: Block) -> str:
    ins = net.shape(x)[0]
    hidden = ins if block.hidden is None else block.hidden
    y = x if block.hidden is None else _conv(net, x, f"{name}.expand", hidden, 1)
    y = _conv(net, y, f"{name}.depthwise", hidden, block.kernel, block.stride, depthwise=True)
    y = net.conv(y, block.outs, 1, name=f"{name}.project.conv")
    return net.add([x, y], name=f"{name}.add") if block.stride == 1 and ins == block.outs else y


def mobilenetv2_digits() -> Network:
    """For 16×16 grey pictures of digits: input ``image`` (1, 16, 16), 10 classes, 43,034 parameters."""
    return mobilenetv2(
        "mobilenetv2_digits", shape=(1, 16, 16), classes=10, stages=DIGIT_STAGES, stem=16, stem_stride=1, last=96
    )
