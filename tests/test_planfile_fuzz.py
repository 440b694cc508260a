"""Plan files from elsewhere: whatever is wrong with them, one clear error, quickly; never a silent acceptance."""

from __future__ import annotations

import contextlib
import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import sparseplan as sp
from sparseplan.errors import SparseplanError
from sparseplan.jsonio import parse
from sparseplan.plan import Plan
from sparseplan.planfile import plan_from_dict, plan_to_dict
from sparseplan.verify import verify


def small_plan() -> Plan:
    b = sp.NetworkBuilder("small")
    x = b.input("x", (2, 6, 6))
    a = b.relu(b.conv(x, 4, 3, padding=1, name="a"))
    y = b.relu(b.conv(a, 2, 3, padding=1, name="b"))
    net = b.build(b.conv(b.concat([a, y]), 1, 1, name="c"))
    return sp.plan(net, "gap9", l2="2000B", dtype="fp32", frozen="flash")


PLAN = small_plan()
DATA = plan_to_dict(PLAN)
TEXT = json.dumps(DATA).encode()


def paths(node: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [prefix] if prefix else []
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, child in items:
        found += paths(child, (*prefix, key))
    return found


PATHS = paths(DATA)
#: what says nothing about what is planned
HARMLESS = {"made_by", "solve_seconds", "seed", "method", "ties"}

junk = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**40), 2**40), st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8), st.just([]), st.just({}), st.just([[]]), st.just({"a": {}}),
)  # fmt: skip


def damaged(path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    data = copy.deepcopy(DATA)
    node: Any = data
    for key in path[:-1]:
        node = node[key]
    if value is ...:
        del node[path[-1]]
    else:
        node[path[-1]] = value
    return data


def test_the_plan_itself_is_accepted() -> None:
    assert PLAN.feasible
    again = plan_from_dict(json.loads(TEXT))
    assert again == PLAN
    assert verify(PLAN.problem, again) == ()


@given(path=st.sampled_from(PATHS), value=st.one_of(junk, st.just(...)))
def test_any_field_replaced_or_removed(path: tuple[Any, ...], value: Any) -> None:
    try:
        plan = plan_from_dict(damaged(path, value))
        accepted = not verify(PLAN.problem, plan)
    except SparseplanError:
        return
    if accepted and plan.feasible:  # then it must still be a plan that runs, for the problem that was asked
        done = sp.run(Plan(**{**vars(plan), "problem": PLAN.problem}))
        assert done.guard_intact
        assert done.max_abs_gradient_difference == 0
        assert plan.objective == PLAN.objective or path[0] in HARMLESS


@given(cut=st.integers(0, len(TEXT) - 1))
def test_truncated(cut: int) -> None:
    with pytest.raises(SparseplanError):
        plan_from_dict(parse(TEXT[:cut], "plan", SparseplanError))


@given(at=st.integers(0, len(TEXT) - 1), byte=st.integers(0, 255))
def test_a_byte_flipped(at: int, byte: int) -> None:
    data = TEXT[:at] + bytes([byte]) + TEXT[at + 1 :]
    with contextlib.suppress(SparseplanError):
        verify(PLAN.problem, plan_from_dict(parse(data, "plan", SparseplanError)))


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        (b"", "not JSON"),
        (b"[]", "no plan"),
        (b'{"sparseplan": "plan"}', "version"),
        (b'{"sparseplan": "plan", "version": 99}', "99"),
        (b"\xff\xfe", "UTF-8"),
        (b"[" * 100_000, "nested"),
        (b'{"a": 1, "a": 2}', "twice"),
    ],
)
def test_files_that_are_no_plans(tmp_path: Path, content: bytes, hint: str) -> None:
    path = tmp_path / "plan.json"
    path.write_bytes(content)
    with pytest.raises(SparseplanError, match=hint) as caught:
        sp.read_plan(path)
    assert str(path) in str(caught.value)


def test_a_claim_of_endless_memory_allocates_none() -> None:
    data = damaged(("peak_bytes", "L2"), 2**50)
    with pytest.raises(SparseplanError):
        sp.run(plan_from_dict(data))
