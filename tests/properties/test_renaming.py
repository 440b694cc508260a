"""Renaming ops and tensors changes nothing but names."""

from __future__ import annotations

from hypothesis import given

from sparseplan.problem import Problem
from sparseplan.testing import check_renaming, problems


@given(problem=problems())
def test_renaming_changes_nothing(problem: Problem) -> None:
    check_renaming(problem)
