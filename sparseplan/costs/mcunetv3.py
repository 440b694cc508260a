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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from sparseplan.errors import ProblemError
from sparseplan.network import Network, Op
from sparseplan.ops import OpInfo, resolve
from sparseplan.scalars import plain_fields

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
        plain_fields(self)
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
    _check(network, len(found), scheme.biases, scheme.weights)
    weights = sum(found[i].weight_bits(r) for i, r in scheme.weights.items())
    inputs = sum(found[i].input_bits(r) for i, r in scheme.weights.items())
    last = found[len(found) - scheme.biases :]
    saved = _features(network) + inputs + sum(c.output for c in last)
    return Account(weights + sum(c.bias_bits for c in last), saved)


def _check(network: Network, count: int, biases: int, weights: Iterable[int]) -> None:
    if biases > count:
        raise ProblemError(f"biases={biases}: network {network.name!r} has {count} convolutions")
    for i in weights:
        if i >= count:
            raise ProblemError(f"weights: network {network.name!r} has convolutions 0 to {count - 1}, not {i}")


def _features(network: Network) -> int:
    """Bits of the classifier's input."""
    head = network.producer[network.outputs[0]]
    if head.kind != "linear":
        raise ProblemError(f"network {network.name!r} ends in {head.kind} {head.name!r}; the accounting needs a linear")
    return network.tensor[head.inputs[0]].elements * WEIGHT_BITS


def best_scheme(
    network: Network,
    budget_bits: int,
    weight_gains: Mapping[int, Mapping[float, float]],
    bias_gains: Mapping[int, float] | None = None,
    least_biases: int = 0,
) -> tuple[Scheme, float] | None:
    """The scheme of largest summed gain within a budget of this accounting, and its gain; exact.

    A weight is updated only among the convolutions whose biases are, as in MCUNetV3. A dynamic
    program over bits: with each further bias, that convolution's weight joins those that may be
    chosen, at one of its ratios or not at all.

    Args:
        weight_gains: number of a convolution to ratio to gain.
        bias_gains: number of a convolution to what its bias adds; 0 where absent.
        least_biases: biases that have to be updated.

    Returns:
        None where not even ``least_biases`` fit.

    Raises:
        ProblemError: see ``account`` and ``Scheme``.
    """
    found = convolutions(network)
    for i, table in weight_gains.items():
        for ratio in table:
            Scheme(least_biases, {i: ratio})  # raises what is wrong with either
    _check(network, len(found), least_biases, (*weight_gains, *(bias_gains or {})))
    options = {
        i: [(c.weight_bits(r) + c.input_bits(r), gain, r) for r, gain in sorted(weight_gains.get(i, {}).items())]
        for i, c in enumerate(found)
    }
    unit = math.gcd(*(cost for rows in options.values() for cost, *_ in rows)) or 1
    fixed, gained = _features(network), 0.0
    best = np.zeros(max(0, (budget_bits - fixed) // unit) + 1)  # by units of weights: the most they gain
    picks: dict[int, npt.NDArray[np.uint8]] = {}
    winner: tuple[float, int, int] | None = None  # gain, biases, units for weights
    for biases in range(len(found) + 1):
        if biases:
            i = len(found) - biases
            fixed += found[i].bias_bits + found[i].output
            gained += (bias_gains or {}).get(i, 0.0)
            best, picks[i] = _widen(best, [(cost // unit, gain) for cost, gain, _ in options[i]])
        room = (budget_bits - fixed) // unit
        if room < 0:
            break
        total = float(best[room]) + gained
        if biases >= least_biases and (winner is None or total > winner[0]):
            winner = (total, biases, room)
    if winner is None:
        return None
    total, biases, room = winner
    weights: dict[int, float] = {}
    for i in range(len(found) - biases, len(found)):
        pick = int(picks[i][room])
        if pick:
            cost, _, weights[i] = options[i][pick - 1]
            room -= cost // unit
    return Scheme(biases, weights), total


def _widen(
    best: npt.NDArray[np.float64], options: Sequence[tuple[int, float]]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.uint8]]:
    """``best`` with one more thing to choose (cost, gain) or leave, and the choice made (0: none) at each capacity."""
    result, pick = best.copy(), np.zeros(len(best), np.uint8)
    for number, (cost, gain) in enumerate(options, start=1):
        if cost >= len(best):
            continue
        there = best[: len(best) - cost] + gain
        better = there > result[cost:]
        result[cost:][better] = there[better]
        pick[cost:][better] = number
    return result, pick
