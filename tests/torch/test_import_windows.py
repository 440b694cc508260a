"""Pools, transposed convolutions and images of another size, of any attributes, as PyTorch computes them.

Outputs, and the gradients of a convolution before them, so that the gradient of the input is tried, too.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

pytest.importorskip("torch.nn", reason="PyTorch is not installed")
import torch
import torch.nn.functional as F
from test_import_torch import compare
from torch import nn

from sparseplan import importers

Random = random.Random


class After(nn.Module):
    """A function after a convolution of kernel 1, over one or two spatial axes."""

    def __init__(self, function: Any, spatial: int, channels: int = 2) -> None:
        super().__init__()
        self.first = (nn.Conv1d, nn.Conv2d)[spatial - 1](2, channels, 1)
        self.function = function

    def forward(self, x: Any) -> Any:
        return self.function(self.first(x))


def _attributes(r: Random) -> tuple[int, dict[str, Any]]:
    spatial = r.choice((1, 2))
    kernel = [r.randint(1, 4) for _ in range(spatial)]
    stride = r.choice((None, [r.randint(1, 4) for _ in range(spatial)]))
    padding = [r.randint(0, k // 2) for k in kernel]
    return spatial, {"kernel_size": kernel, "stride": stride, "padding": padding, "ceil_mode": r.random() < 0.5}


def average(r: Random) -> tuple[nn.Module, int]:
    spatial, attrs = _attributes(r)
    attrs["count_include_pad"] = r.random() < 0.5
    if spatial == 2 and r.random() < 0.3:
        attrs["divisor_override"] = r.randint(1, 5)
    pool = (F.avg_pool1d, F.avg_pool2d)[spatial - 1]
    return After(lambda x: pool(x, **attrs), spatial), spatial


def largest(r: Random) -> tuple[nn.Module, int]:
    spatial, attrs = _attributes(r)
    pool = (F.max_pool1d, F.max_pool2d)[spatial - 1]
    return After(lambda x: pool(x, **attrs), spatial), spatial


def transposed(r: Random) -> tuple[nn.Module, int]:
    spatial = r.choice((1, 2))
    stride, dilation = r.randint(1, 3), r.randint(1, 2)
    groups = r.choice((1, 2))
    extra = r.randint(0, max(stride, dilation) - 1)
    last = (nn.ConvTranspose1d, nn.ConvTranspose2d)[spatial - 1](
        4, 2 * groups, r.randint(2, 4), stride, r.randint(0, 1), extra, groups, r.random() < 0.5, dilation
    )
    return After(last, spatial, 4), spatial


def resized(r: Random) -> tuple[nn.Module, int]:
    spatial = r.choice((1, 2, 2))
    mode = r.choice(("nearest", "nearest-exact", *(("linear",) if spatial == 1 else ("bilinear", "bicubic"))))
    attrs: dict[str, Any] = {"mode": mode}
    if r.random() < 0.5:
        attrs["size"] = [r.randint(1, 12) for _ in range(spatial)]
    else:
        known = (2, 3, 0.5, 1.5, 0.7, 2.3, 4 / 3, 1.1, 1.7, round(r.uniform(0.4, 3), 2))
        attrs["scale_factor"] = r.choice((r.choice(known), [r.choice(known) for _ in range(spatial)]))
        attrs["recompute_scale_factor"] = r.choice((None, True, False))
    if "linear" in mode or "cubic" in mode:
        attrs["align_corners"] = r.choice((True, False))
    return After(lambda x: F.interpolate(x, **attrs), spatial), spatial


@pytest.mark.parametrize("draw", [average, largest, transposed, resized])
@settings(max_examples=max(10, settings().max_examples // 5))
@given(seed=st.integers(0, 2**32 - 1))
def test_as_pytorch(draw: Any, seed: int) -> None:
    r = Random(seed)
    torch.manual_seed(seed)
    module, spatial = draw(r)
    x = torch.randn(1, 2, *(r.randint(4, 9) for _ in range(spatial)))
    # PyTorch's gradient is not that of its output here: one copies, the other does not
    assume(draw is not resized or module(x).shape != module.first(x).shape)
    found = importers.torch(module.eval(), x)
    assert not [n for n in found.notes if "shapes alone" in n]
    compare(module, found, x)
