"""Networks of a wanted number of ops for the benchmarks of recomputation: real convolutions, real shapes."""

from __future__ import annotations

from sparseplan.autodiff import differentiate
from sparseplan.builder import NetworkBuilder
from sparseplan.network import Network
from sparseplan.solve.rematinstance import RematInstance, instance
from sparseplan.steps import TrainingOptions, UpdateSet
from sparseplan.zoo import get


def chain(ops: int, side: int = 64) -> Network:
    """``ops`` ops: 3×3 convolutions of 16 channels, each with a ReLU; the resolution halves three times on the way."""
    net = NetworkBuilder(f"chain {ops}")
    x = net.input("image", (3, side, side))
    layers = ops // 2
    halve = {layers * k // 4 for k in range(1, 4)}
    for i in range(layers):
        x = net.relu(net.conv(x, 16, 3, 2 if i in halve else 1, 1))
    if ops % 2:
        x = net.conv(x, 16, 1)
    return net.build([x])


def poet_chain() -> Network:
    """27 ops in a row, as the linearised networks in POET's evaluation: 13 convolutions with ReLU, a head."""
    net = NetworkBuilder("chain of 27")
    x = net.input("image", (3, 64, 64))
    for i, channels in enumerate([8, 8, 8, 8, 16, 16, 16, 16, 16, 16, 16, 16, 16]):
        x = net.relu(net.conv(x, channels, 3, 2 if i in (4, 9) else 1, 1))
    return net.build([net.conv(x, 8, 1)])


def residual(ops: int, side: int = 64) -> Network:
    """Blocks of conv, ReLU, conv, add, ReLU; four stages, each begun by a strided convolution with ReLU."""
    net = NetworkBuilder(f"residual {ops}")
    x = net.relu(net.conv(net.input("image", (3, side, side)), 8, 3, 1, 1))
    channels, blocks = 8, max(4, (ops - 8) // 5)
    for b in range(blocks):
        if b in {blocks * k // 4 for k in range(1, 4)}:
            channels += 8
            x = net.relu(net.conv(x, channels, 3, 2, 1))
        y = net.conv(net.relu(net.conv(x, channels, 3, 1, 1)), channels, 3, 1, 1)
        x = net.relu(net.add([x, y]))
    return net.build([x])


def unet(ops: int, side: int = 64) -> Network:
    """A U-net of four levels, as many convolutions with ReLU a level as make about ``ops`` ops; skips by concat."""
    net = NetworkBuilder(f"U-net {ops}")
    x = net.input("image", (3, side, side))
    depth, base = 4, 8  # channels: base * (level + 1)
    each = max(1, round((ops - 2 * depth) / (2 * (2 * depth - 1))))
    skips = []
    for level in range(depth):
        for i in range(each):
            stride = 2 if level and i == 0 else 1
            x = net.relu(net.conv(x, base * (level + 1), 3, stride, 1))
        skips.append(x)
    for level in reversed(range(depth - 1)):
        x = net.concat([skips[level], net.conv_transpose(x, base * (level + 1), 2, 2)])
        for _ in range(each):
            x = net.relu(net.conv(x, base * (level + 1), 3, 1, 1))
    return net.build([net.conv(x, 1, 1)])


def full_update(network: Network, **options: object) -> RematInstance:
    """Every parameter updated, fused, bf16, one sample."""
    vector = len(network.tensor[network.outputs[0]].shape) == 1
    setting = TrainingOptions(loss="cross_entropy" if vector else "l1", **options)  # type: ignore[arg-type]
    return instance(differentiate(network, UpdateSet.all(network), setting))


def upydnet() -> RematInstance:
    """The zoo's uPyD-Net, full update."""
    return full_update(get("upydnet"))
