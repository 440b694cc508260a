"""Terms and ties in plan files: they come back as they went out, older files are read, bad terms are named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from planted import problem_of, small_u

from sparseplan.errors import SparseplanError
from sparseplan.plan import Plan
from sparseplan.planfile import VERSION, plan_from_dict, plan_to_dict, read_plan, write_plan
from sparseplan.problem import Pair, Problem, Saturation
from sparseplan.testing.peers import plan_of
from sparseplan.verify import verify

UPDATE = {"join.weight": 0.5, "join.bias": 1.0, "head.bias": 1.0}
TERMS = (
    Pair({"join.weight": 0.5}, {"head.bias": 1.0}, -7.25),
    Saturation({"join.weight": {r / 8: r / 3 for r in range(1, 9)}, "head.bias": {1.0: 1.0}}, ((1.0, 3.0), (3.0, 4.0))),
)


def plan(**changes: Any) -> Plan:
    problem: Problem = replace(problem_of(small_u(), alignment=4), **changes)
    return plan_of(problem, UPDATE)


def test_terms_and_ties_come_back(tmp_path: Path) -> None:
    written = plan(terms=TERMS, ties=(("join.weight", "join.bias"),))
    write_plan(written, tmp_path / "plan.json")
    again = read_plan(tmp_path / "plan.json")
    assert again == written
    assert again.problem.terms == TERMS
    assert verify(written.problem, again) == ()
    data = json.loads((tmp_path / "plan.json").read_text())
    assert data["version"] == VERSION
    pair, saturation = data["problem"]["terms"]
    assert pair == {"pair": {"a": {"join.weight": 0.5}, "b": {"head.bias": 1.0}, "value": -7.25}}
    assert saturation["saturation"]["weights"]["head.bias"] == {"1.0": 1.0}
    assert saturation["saturation"]["points"] == [[1.0, 3.0], [3.0, 4.0]]


def test_a_file_of_version_1_is_read() -> None:
    """It differs from version 2 in that terms and ties are unknown to it."""
    written = plan()
    data = plan_to_dict(written) | {"version": 1}
    del data["problem"]["terms"], data["problem"]["ties"]
    assert plan_from_dict(data) == written
    with pytest.raises(
        SparseplanError, match=r"^plan: version=5, this sparseplan reads 1, 2, 3 and 4; update it or plan anew$"
    ):
        plan_from_dict(data | {"version": 5})


POINTS = [[1, 1]]


@pytest.mark.parametrize(
    ("term", "message"),
    [
        ([], r"problem.terms\[1\]=\[\] must be an object"),
        ({"kind": "pair", "a": {"join.bias": 1}, "b": {"head.bias": 1}, "value": 1}, "key 'kind' is unknown"),
        ({"pair": {"a": {"join.bias": 1}, "b": {"head.bias": 1}}}, r"terms\[1\].pair: key 'value' is missing"),
        ({"pair": {"a": {}, "b": {"head.bias": 1}, "value": 1}}, r"problem.terms\[1\]: pair: a names no parameter"),
        ({"pair": {"a": {"nobody": 1}, "b": {"head.bias": 1}, "value": 1}}, r"terms\[1\].*'nobody'"),
        ({"saturation": {"weights": {"nobody": {"1": 1}}, "points": POINTS}}, r"terms\[1\].*'nobody'"),
        ({"saturation": {"weights": {"join.weight": {"0.5": 1}}, "points": POINTS}}, r"terms\[1\].*'join.weight'"),
        ({"saturation": {"weights": {"head.bias": {"5": 1}}, "points": POINTS}}, r"\['head.bias'\]: fraction '5' must"),
        ({"saturation": {"weights": {"head.bias": {"1": -1}}, "points": POINTS}}, r"terms\[1\]: .*'head.bias'.*-1.0"),
        ({"saturation": {"weights": {"head.bias": {"1": 1}}, "points": []}}, r"terms\[1\]: saturation: points=\(\)"),
    ],
)
def test_a_bad_term_is_named(tmp_path: Path, term: Any, message: str) -> None:
    data = plan_to_dict(plan(terms=TERMS))
    data["problem"]["terms"][1] = term
    (tmp_path / "plan.json").write_text(json.dumps(data))
    with pytest.raises(SparseplanError, match=message) as caught:
        read_plan(tmp_path / "plan.json")
    assert str(caught.value).count("plan.json") == 1
    assert "\n" not in str(caught.value)
