"""Fields of a plan file that say something are read as they were written, and wrong ones are named."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from planted import planned

from sparseplan.errors import PlanError, SparseplanError
from sparseplan.planfile import READABLE, VERSION, plan_from_dict, plan_to_dict


def data() -> dict[str, Any]:
    return copy.deepcopy(plan_to_dict(planned(gradients="accumulate", frozen="flash", partial=True)[1]))


def refused(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(SparseplanError, match=words):
        plan_from_dict(changed)


def test_all_comes_back() -> None:
    plan = planned(gradients="accumulate", frozen="flash", partial=True)[1]
    again = plan_from_dict(data())
    assert again == plan
    assert {v.level for v in again.values} == {"L2", "flash"}
    assert any(a.add for s in again.steps for a in s.writes)
    assert plan_to_dict(again) == data()


def test_levels_reserve_and_align() -> None:
    changed = data()
    for i, level in enumerate(changed["problem"]["device"]["levels"]):
        level.update(bytes=100_000, reserved=64 + i, alignment=4)
    levels = plan_from_dict(changed).problem.device.levels
    assert [(v.bytes, v.reserved, v.alignment) for v in levels] == [(100_000, 64 + i, 4) for i in range(len(levels))]


@pytest.mark.parametrize("version", [VERSION + 1, 0, -1, "1", True, None, 1.5])
def test_other_versions_are_refused(version: object) -> None:
    changed = data()
    changed["version"] = version
    with pytest.raises(PlanError, match=r"version=.*, this sparseplan reads 1, 2, 3 and 4; update it or plan anew"):
        plan_from_dict(changed)
    assert VERSION in READABLE


@pytest.mark.parametrize(("field", "least"), [("lo", 0), ("bytes", 1), ("start", 0), ("stop", 0), ("offset", 0)])
def test_buffers_have_bytes(field: str, least: int) -> None:
    changed = data()
    changed["buffers"][1][field] = least - 1
    refused(changed, rf"buffers\[1\]\.{field}={least - 1} must be {least} or more")


def test_roles_levels_and_kinds_are_known() -> None:
    for path, field in (("values", "role"), ("values", "level"), ("buffers", "level"), ("steps", "kind")):
        changed = data()
        changed[path][0][field] = "elsewhere"
        refused(changed, rf"{path}\[0\]\.{field}='elsewhere' is unknown")
