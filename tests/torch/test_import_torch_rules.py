"""Rules of PyTorch's functions, one by one: defaults that are not given, factors, orders and axes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch.nn", reason="PyTorch is not installed")
import torch
import torch.nn.functional as F
from torch import nn

from sparseplan import importers
from sparseplan.run.trainer import predict

RULES: dict[str, Callable[[Any], Any]] = {
    "max pool by its kernel": lambda x: F.max_pool2d(x, (2, 3)),
    "mean pool by its kernel": lambda x: F.avg_pool2d(x, (3, 2)),
    "mean pool, ceiling": lambda x: F.avg_pool2d(x, 3, 2, ceil_mode=True),
    "adaptive": lambda x: F.adaptive_avg_pool2d(x, (4, 5)),
    "nearest exact": lambda x: F.interpolate(x, size=(9, 4), mode="nearest-exact"),
    "addmm": lambda x: torch.addmm(x[0, 0, :, :6], x[0, 1, :, :6], x[0, 2, :6, :6], beta=0.5, alpha=2.0),
    "baddbmm": lambda x: torch.baddbmm(x[0, :, :, :6], x[0, :, :, :6], x[0, :, :6, :6], beta=3.0),
    "norm of order 1": lambda x: torch.linalg.vector_norm(x, 1, dim=2),
    "norm of order 2": lambda x: torch.linalg.vector_norm(x, 2, dim=(1, 3)),
    "norm of order 3": lambda x: torch.linalg.vector_norm(x, 3, dim=1),
    "norm, largest": lambda x: torch.linalg.vector_norm(x, float("inf"), dim=3),
    "cumsum": lambda x: x.cumsum(1) + x.cumsum(-1),
    "variance of a sample": lambda x: x.var(2) + x.var(2, correction=0),
    "attention": lambda x: F.scaled_dot_product_attention(x[..., :4], x[..., 1:5], x[..., 2:6]),
    "causal attention": lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True, scale=0.3),
}


class _Function(nn.Module):
    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__()
        self.stem, self.function = nn.Conv2d(3, 3, 1), function

    def forward(self, x: Any) -> Any:
        return self.function(self.stem(x))


@pytest.mark.parametrize("name", RULES)
def test_a_rule_computes_what_pytorch_does(name: str) -> None:
    torch.manual_seed(1)
    module, x = _Function(RULES[name]).eval(), torch.randn(1, 3, 6, 7)
    found = importers.torch(module, x)
    y = module(x).detach().numpy()
    mine = predict(found.network, found.weights, {found.network.inputs[0]: x.numpy()})
    assert "opaque" not in {op.kind for op in found.network.ops}
    np.testing.assert_allclose(mine.reshape(y.shape), y, rtol=2e-5, atol=2e-5)
