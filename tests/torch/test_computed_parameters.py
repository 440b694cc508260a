"""A parameter that reaches an op through arithmetic, or in several forms, stays one parameter: as autograd has it."""

from __future__ import annotations

import pytest

pytest.importorskip("torch.nn", reason="PyTorch is not installed")
import torch
from autograd import compare, settle
from computed import CASES

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
