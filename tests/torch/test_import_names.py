"""Names and forms of parameters of imported modules: tied ones, scalars, sequences first."""

from __future__ import annotations

import pytest

pytest.importorskip("torch.nn", reason="PyTorch is not installed")
import torch

import sparseplan as sp
from sparseplan.errors import NetworkError


class Tied(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(11, 6)
        self.head = torch.nn.Linear(6, 11, bias=False)
        self.head.weight = self.table.weight
        self.scale = torch.nn.Parameter(torch.tensor(0.7))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.table(ids)) * self.scale


def test_a_tied_parameter_has_the_name_that_named_parameters_gives_and_scalars_are_parameters() -> None:
    module = Tied()
    found = sp.importers.torch(module, torch.zeros(1, 4, dtype=torch.int64))
    assert set(found.network.parameters) == {name for name, _ in module.named_parameters()} == {"table.weight", "scale"}
    assert len(found.network.users["table.weight"]) == 2
    plan = sp.plan(found, l2="10kB", dtype="fp32")
    assert set(plan.update) == {"table.weight", "scale"}
    assert sp.run(plan, dict(found.weights)).bitwise_equal


def test_the_batch_axis_can_be_named() -> None:
    layer = torch.nn.TransformerEncoderLayer(8, 2, 16)
    steps_first = torch.randn(5, 3, 8)
    found = sp.importers.torch(layer, steps_first, batch_axis=1)
    assert found.network.tensor[found.network.inputs[0]].shape == (5, 1, 8)
    assert any("of 3 samples" in note for note in found.notes)
    alone = sp.importers.torch(layer, steps_first[:, :1], batch_axis=None)
    assert alone.network == found.network
    with pytest.raises(NetworkError, match="batch_axis=3 is no axis"):
        sp.importers.torch(layer, steps_first, batch_axis=3)
