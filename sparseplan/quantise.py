"""Networks whose tensors are stored in int8, as they are deployed on microcontrollers."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from sparseplan.dtypes import TRAINABLE
from sparseplan.errors import NetworkError, near
from sparseplan.network import Network, Tensor

#: biases, as most int8 kernels have them: 32 bits
FLOATS: Mapping[str, str] = MappingProxyType({"*.bias": "fp32"})


def quantised(network: Network, scale: float = 1 / 128, floats: Mapping[str, str] = FLOATS) -> Network:
    """The same network with every tensor in int8, save those that ``floats`` names and inputs of integers.

    Args:
        scale: value of one quantum of every int8 tensor. Bytes do not depend on it; for values that are
            to be computed with, give scales from measured ranges to the tensors instead.
        floats: shell-style pattern (an exact name wins) to ``fp32``, ``fp16`` or ``bf16``; a later
            pattern overrides an earlier one.

    Raises:
        NetworkError: a pattern that names no tensor, a dtype that is no float, a scale that is not positive.
    """
    stored: dict[str, str] = {}
    for pattern, dtype in floats.items():
        if dtype not in TRAINABLE:
            raise NetworkError(f"floats[{pattern!r}]={dtype!r} must be fp32, fp16 or bf16")
        names = [pattern] if pattern in network.tensor else fnmatch.filter(network.tensor, pattern)
        if not names:
            raise NetworkError(f"floats: {pattern!r} names no tensor{near(pattern, network.tensor)}")
        stored.update(dict.fromkeys(names, dtype))

    def change(t: Tensor) -> Tensor:
        if t.name in stored:
            return replace(t, dtype=stored[t.name], scale=None)
        return t if t.dtype == "i32" else replace(t, dtype="int8", scale=scale)

    return Network(network.name, tuple(change(t) for t in network.tensors), network.ops, network.outputs)
