"""Memory of sparse update schemes as MCUNetV3 counts it (Lin et al., NeurIPS 2022).

The accounting of github.com/mit-han-lab/tiny-training, commit 7bf8e05, in bits, for one sample:

* an updated weight, 8 an element of the kept input channels; their number is ``int(in_channels * ratio)``;
* an updated bias, 32 an element: those of the last ``biases`` convolutions;
* the input of a convolution whose weight is updated, 8 an element of the kept channels;
* a mask of one bit an element of the output of each of the last ``biases`` convolutions;
* the classifier's input, 8 an element; its weights, and momentum, nothing.

Lifetimes do not enter, nor do working memory of the forward pass, activation gradients and weight
gradients: ``plan`` counts those. Convolutions are numbered from input to output, without the classifier.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from sparseplan.errors import ProblemError
from sparseplan.network import Network, Op
from sparseplan.ops import OpInfo, resolve

#: bits of an element of a weight or a saved input, and of a bias
WEIGHT_BITS, BIAS_BITS = 8, 32


@dataclass(frozen=True)
class Scheme:
    """What is updated.

    Attributes:
        biases: convolutions whose biases are updated, counted from the last one backward.
        weights: number of a convolution to the ratio of its input channels whose weights are updated, in [0, 1].
    """

    biases: int
    weights: Mapping[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.biases, bool) or not isinstance(self.biases, int) or self.biases < 0:
            raise ProblemError(f"biases={self.biases!r} must be a whole number, at least 0")
        for i, ratio in self.weights.items():
            if isinstance(i, bool) or not isinstance(i, int) or i < 0:
                raise ProblemError(f"weights: convolution {i!r} must be a whole number, at least 0")
            if isinstance(ratio, bool) or not isinstance(ratio, (int, float)) or not 0 <= ratio <= 1:
                raise ProblemError(f"weights[{i}]={ratio!r} must be a ratio from 0 to 1")
        object.__setattr__(self, "weights", MappingProxyType(dict(self.weights)))


@dataclass(frozen=True, slots=True)
class Account:
    """Bits of what a scheme holds."""

    weight_bits: int
    activation_bits: int
    momentum_bits: int = 0

    @property
    def total_bits(self) -> int:
        """Of all together."""
        return self.weight_bits + self.activation_bits + self.momentum_bits

    @property
    def total_bytes(self) -> float:
        """The same in bytes; a fraction where masks do not fill the last one."""
        return self.total_bits / 8


@dataclass(frozen=True, slots=True)
class Convolution:
    """What the accounting knows of a convolution.

    Attributes:
        in_channels: of its input.
        input, weight, bias, output: elements.
    """

    op: str
    in_channels: int
    input: int
    weight: int
    bias: int
    output: int

    def weight_bits(self, ratio: float) -> int:
        """Of the weights that a ratio of the input channels keeps."""
        return self.weight // self.in_channels * int(self.in_channels * ratio) * WEIGHT_BITS

    def input_bits(self, ratio: float) -> int:
        """Of the input that has to be saved for them."""
        return self.input // self.in_channels * int(self.in_channels * ratio) * WEIGHT_BITS

    @property
    def bias_bits(self) -> int:
        """Of its bias."""
        return self.bias * BIAS_BITS


def convolutions(network: Network) -> tuple[Convolution, ...]:
    """The convolutions of a network, from input to output."""
    return tuple(_convolution(network, op, resolve(network, op)) for op in network.ops if op.kind == "conv")


def _convolution(network: Network, op: Op, info: OpInfo) -> Convolution:
    sizes = {slot: network.tensor[p].elements for slot, p in op.params.items()}
    return Convolution(
        op.name, info.inputs[0][0], math.prod(info.inputs[0]), sizes["weight"], sizes.get("bias", 0), info.out_elements
    )


def account(network: Network, scheme: Scheme) -> Account:
    """What MCUNetV3 says that a scheme takes.

    Raises:
        ProblemError: a convolution that does not exist, or a network without a linear classifier at its end.
    """
    found = convolutions(network)
    if scheme.biases > len(found):
        raise ProblemError(f"biases={scheme.biases}: network {network.name!r} has {len(found)} convolutions")
    for i in scheme.weights:
        if i >= len(found):
            raise ProblemError(f"weights: network {network.name!r} has convolutions 0 to {len(found) - 1}, not {i}")
    head = network.producer[network.outputs[0]]
    if head.kind != "linear":
        raise ProblemError(f"network {network.name!r} ends in {head.kind} {head.name!r}; the accounting needs a linear")
    weights = sum(found[i].weight_bits(r) for i, r in scheme.weights.items())
    inputs = sum(found[i].input_bits(r) for i, r in scheme.weights.items())
    last = found[len(found) - scheme.biases :]
    features = network.tensor[head.inputs[0]].elements * WEIGHT_BITS
    return Account(weights + sum(c.bias_bits for c in last), features + inputs + sum(c.output for c in last))
