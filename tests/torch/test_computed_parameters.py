"""A parameter that reaches an op through arithmetic, or in several forms, stays one parameter: as autograd has it."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch.nn", reason="PyTorch is not installed")
import torch
import torch.nn.functional as F
from autograd import compare, settle
from computed import CASES
from torch import nn

from sparseplan import importers
from sparseplan.api import problem
from sparseplan.testing.theorems import check_accepted, check_runs_within_budget


@pytest.mark.parametrize("name", CASES)
def test_every_parameter_has_autograds_gradient(name: str) -> None:
    torch.manual_seed(0)
    make, example = CASES[name]
    module, x = settle(make()), example()
    found = importers.torch(module, x)
    assert not [n for n in found.notes if "shapes alone" in n or "as a constant" in n], found.notes
    compare(module, found, x)


@pytest.mark.parametrize("name", ["lora", "conv_twice", "standardised", "tied_autoencoder", "embedding_part", "cells"])
def test_plans_of_all_parameters_run_within_their_budgets(name: str) -> None:
    torch.manual_seed(0)
    make, example = CASES[name]
    module = settle(make())
    found = importers.torch(module, example())
    asked = {"loss": "mse", "dtype": "fp32", "must": ("*",)}
    whole = check_accepted(problem(found, l2="1MB", **asked))
    assert {n for n, _ in module.named_parameters()} <= set(whole.update)
    check_runs_within_budget(whole)
    # less than is needed without running anything again
    tight = problem(found, l2=whole.peak_bytes["L2"] - 4, savings=("recompute",), **asked)
    plan = check_accepted(tight)
    if plan.status == "OPTIMAL":
        check_runs_within_budget(plan)


@pytest.mark.parametrize("kind", [torch.int32, torch.bool, torch.int64, torch.uint8])
def test_a_parameter_that_is_read_as_integers_is_a_constant_there(kind: torch.dtype) -> None:
    class Counted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w, self.v = nn.Parameter(torch.randn(6, 6) * 3 + 4), nn.Parameter(torch.randn(6, 6))

        def forward(self, x: Any) -> Any:
            return F.linear(F.linear(F.linear(x, self.w), self.w.to(kind).float()), self.v)

    torch.manual_seed(0)
    module, x = Counted(), torch.randn(1, 6)
    compare(module, importers.torch(module, x), x, frozen=frozenset(("w",)))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_a_parameter_that_is_cast_among_floats_is_tied(kind: torch.dtype) -> None:
    module = nn.Linear(6, 6, bias=False)
    cast = Cast(module, kind)
    found = importers.torch(cast, torch.randn(1, 6))
    assert found.network.parameters == ("layer.weight",)
    assert not found.fixed


class Cast(nn.Module):
    def __init__(self, layer: nn.Linear, kind: torch.dtype) -> None:
        super().__init__()
        self.layer, self.kind = layer, kind

    def forward(self, x: Any) -> Any:
        return F.linear(self.layer(x), self.layer.weight.to(self.kind).float())
