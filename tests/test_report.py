"""Text and figures of plans."""

from __future__ import annotations

from pathlib import Path

import pytest

import sparseplan as sp
from sparseplan.errors import OutputError, PlanError
from sparseplan.plan import Plan
from sparseplan.report import KINDS, describe, figure, save_figure, summary


@pytest.fixture(scope="module")
def plan() -> Plan:
    return sp.plan("upydnet", "gap9", l2="600kB")


@pytest.fixture(scope="module")
def impossible() -> Plan:
    return sp.plan("upydnet", "gap9", l2="400kB")


def test_figure_shows_every_byte_and_the_budget(plan: Plan) -> None:
    upper, lower = figure(plan).axes
    assert upper.get_ylabel() == "live bytes in L2 (kB)"
    assert lower.get_ylabel() == "offset in L2 (kB)"
    labels = [t.get_text() for t in upper.get_legend().get_texts()]
    assert any(text.startswith("budget 600.0") for text in labels)
    assert set(labels) & set(KINDS)
    rectangles = lower.patches
    assert len(rectangles) == sum(b.level == "L2" for b in plan.buffers)
    area = sum(r.get_width() * r.get_height() for r in rectangles)
    assert area == pytest.approx(sum(plan.bytes_at("L2")) / 1000)


def test_text_names_what_was_left_out(plan: Plan) -> None:
    text = describe(plan)
    assert "left out for lack of room" in text
    assert f"peak: {max(plan.bytes_at()):,} B" in text
    assert "the budget does not bind" in describe(sp.plan("upydnet", "gap9", l2="1.2MB"))


def test_an_infeasible_plan_has_text_but_no_figure(impossible: Plan) -> None:
    assert "INFEASIBLE" in describe(impossible)
    assert summary(impossible)["reason"]["level"] == "L2"
    with pytest.raises(PlanError, match="no schedule to draw"):
        figure(impossible)


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_figures_are_written_whole(plan: Plan, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"plan.{suffix}"
    save_figure(plan, path)
    assert path.stat().st_size > 10_000
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_figures_that_cannot_be_written(plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="docx"):
        save_figure(plan, tmp_path / "plan.docx")
    with pytest.raises(OutputError, match="nowhere"):
        save_figure(plan, tmp_path / "nowhere" / "plan.png")
    assert list(tmp_path.iterdir()) == []
