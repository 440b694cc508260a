"""What calls without a rule cost and do: MACs as PyTorch's own counter has them, and whether they draw numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("torch.nn", reason="PyTorch is not installed")
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from sparseplan import importers
from sparseplan.inspection import uncounted
from sparseplan.network import Op


class Call(nn.Module):
    """A call before a layer."""

    def __init__(self, function: Callable[[Any], Any], *shape: int) -> None:
        super().__init__()
        self.function, self.weight = function, nn.Parameter(torch.randn(shape)) if shape else None

    def forward(self, x: Any) -> Any:
        return self.function(x) if self.weight is None else self.function(x, self.weight)


def opaque(module: nn.Module, x: Any) -> Op:
    (op,) = (op for op in importers.torch(module.eval(), x).network.ops if op.kind == "opaque")
    return op


@pytest.mark.parametrize(
    ("function", "weight", "x"),
    [
        (lambda x, w: F.conv3d(x, w, None, 2, 1), (6, 4, 3, 3, 2), (1, 4, 5, 6, 7)),
        (lambda x, w: F.conv3d(x, w, groups=2), (6, 2, 2, 1, 3), (1, 4, 4, 4, 4)),
        (lambda x, w: F.conv_transpose3d(x, w, None, 2, 1, 1, 2), (4, 3, 3, 3, 2), (1, 4, 3, 4, 5)),
    ],
)
def test_macs_are_those_that_pytorch_counts(function: Any, weight: tuple[int, ...], x: tuple[int, ...]) -> None:
    module, given = Call(function, *weight), torch.randn(x)
    with FlopCounterMode(display=False) as counter:
        module(given)
    assert opaque(module, given).attrs["macs"] * 2 == counter.get_total_flops()


def test_a_long_sequence_costs_its_steps() -> None:
    class Long(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.LSTM(3, 5, batch_first=True, bidirectional=True)

        def forward(self, x: Any) -> Any:
            return self.rnn(x)[0]

    op = opaque(Long(), torch.randn(1, 80, 3))
    assert op.attrs["macs"] == 80 * 2 * (20 * 3 + 20 * 5)


@pytest.mark.parametrize(
    ("function", "once"),
    [
        (lambda x: x + torch.randn_like(x), True),
        (lambda x: F.rrelu(x, training=True), True),
        (torch.poisson, True),
        (lambda x: torch.sort(x).values, False),
        (lambda x: x * torch.linalg.det(x[0]), False),
    ],
)
def test_what_draws_numbers_is_told(function: Callable[[Any], Any], once: bool) -> None:
    found = importers.torch(Call(function), torch.rand(1, 4, 4))
    ops = [op for op in found.network.ops if op.kind == "opaque"]
    assert any(bool(op.attrs.get("once")) for op in ops[:1]) == once
    assert any("shapes alone" in note for note in found.notes)


def test_slopes_that_are_not_drawn_are_one_slope() -> None:
    found = importers.torch(Call(lambda x: F.rrelu(x, 0.1, 0.3)), torch.rand(1, 4))
    assert [op.kind for op in found.network.ops] == ["leaky_relu"]


def test_unknown_costs_are_named() -> None:
    found = importers.torch(Call(lambda x: x * torch.linalg.det(x[0])), torch.rand(1, 4, 4))
    assert ["det" in name for name in uncounted(found.network)] == [True]


def test_unknown_costs_are_named_whichever_output_is_read() -> None:
    found = importers.torch(Call(lambda x: torch.linalg.svdvals(x[0])), torch.rand(1, 4, 4))
    assert ["svd" in name for name in uncounted(found.network)] == [True]
