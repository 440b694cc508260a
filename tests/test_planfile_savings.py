"""Plans that recompute, page and pack come back from their files as they went out; older files are read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from planted import problem_of, small_u
from savings import AGAIN, with_savings

from sparseplan.errors import SparseplanError
from sparseplan.plan import Plan
from sparseplan.planfile import plan_from_dict, plan_to_dict, read_plan, write_plan
from sparseplan.recompute import NO_SAVINGS, Savings
from sparseplan.run import run
from sparseplan.testing.peers import plan_of
from sparseplan.verify import verify

SAVED = Savings(
    frozenset({("stem", "join.grad_weight"), ("tap", "join.grad_weight")}),
    frozenset({("image", "stem.grad_weight"), ("low.out", "up.grad_weight")}),
    frozenset({"head"}),
)


def plan(savings: Savings = SAVED) -> Plan:
    problem = with_savings(problem_of(small_u(), alignment=4), AGAIN)
    return plan_of(problem, dict.fromkeys(problem.choices, 1.0), None, savings)


def test_savings_come_back(tmp_path: Path) -> None:
    written = plan()
    kinds = {s.kind for s in written.steps}
    assert {"recompute", "page_out", "page_in", "pack"} <= kinds
    write_plan(written, tmp_path / "plan.json")
    again = read_plan(tmp_path / "plan.json")
    assert again == written
    assert again.problem.savings == AGAIN
    assert again.macs["recompute"] == written.macs["recompute"] > 0
    assert verify(again.problem, again) == ()
    done = run(again)
    assert done.bitwise_equal
    assert done.claimed_bytes == done.touched_bytes
    data = json.loads((tmp_path / "plan.json").read_text())
    assert data["problem"]["savings"] == list(AGAIN)


def test_a_file_of_version_2_is_read() -> None:
    """It knows no savings."""
    written = plan(NO_SAVINGS)
    plain = replace(written, problem=replace(written.problem, savings=()))
    data = plan_to_dict(plain) | {"version": 2}
    assert data["problem"].pop("savings") == []
    again = plan_from_dict(data)
    assert again == plain
    assert again.problem.savings == ()


@pytest.mark.parametrize(
    ("savings", "message"),
    [
        (["recomputing"], "savings='recomputing' is unknown; did you mean 'recompute'?"),
        ("recompute", "problem.savings"),
        ([1], "problem.savings[0]"),
        (["page"] * 40, "problem.savings"),
    ],
)
def test_bad_savings_are_named(savings: Any, message: str) -> None:
    data = plan_to_dict(plan(NO_SAVINGS))
    data["problem"]["savings"] = savings
    with pytest.raises(SparseplanError) as error:
        plan_from_dict(data)
    assert message in str(error.value)


def test_a_step_of_an_unknown_kind_is_named() -> None:
    data = plan_to_dict(plan())
    i = next(i for i, s in enumerate(data["steps"]) if s["kind"] == "recompute")
    data["steps"][i]["kind"] = "again"
    with pytest.raises(SparseplanError, match=rf"steps\[{i}\]\.kind"):
        plan_from_dict(data)
