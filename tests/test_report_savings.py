"""What a plan does to hold less, as tables and marks."""

from __future__ import annotations

from dataclasses import replace

import pytest
from planted import index_of, problem_of
from savings import with_savings

from sparseplan.builder import NetworkBuilder
from sparseplan.network import Network
from sparseplan.plan import Plan
from sparseplan.recompute import NO_SAVINGS, Savings
from sparseplan.report import copies, describe, figure, saving_rows, saving_text, summary
from sparseplan.testing.peers import plan_of

RERUNS = Savings(frozenset({("a", "s.grad_x0"), ("s", "s.grad_x0")}))
FETCHES = Savings(fetches=frozenset({("s.out", "b.grad_weight"), ("s.out", "s.grad_x0"), ("image", "a.grad_weight")}))


def line() -> Network:
    net = NetworkBuilder("line")
    t = net.conv(net.input("image", (1, 4, 4)), 2, 1, name="a", bias=False)
    return net.build(net.conv(net.op("sigmoid", (t,), name="s"), 1, 1, name="b", bias=False))


def plan(savings: Savings, optimizer: str = "sgd") -> Plan:
    problem = with_savings(problem_of(line(), alignment=4, optimizer=optimizer))
    return plan_of(problem, {"a.weight": 1.0, "b.weight": 1.0}, None, savings)


def test_reruns_tell_macs_bytes_and_steps() -> None:
    found = plan(RERUNS)
    data = saving_rows(found)
    a, s = data["recomputed"]
    assert (a["op"], a["before"], a["macs"], a["bytes"]) == ("a", "s.grad_x0", 32, 64)
    assert (s["op"], s["before"], s["bytes"], s["read_by"]) == ("s", "s.grad_x0", 64, ["s.grad_x0"])
    assert a["read_by"] == ["s.forward again"]
    # s.out was last read by b.grad_weight, and a.out overwritten by s
    assert s["steps_away"] == index_of(found, "s.forward again") - index_of(found, "b.grad_weight") - 1
    assert a["steps_away"] == index_of(found, "a.forward again") - index_of(found, "s.forward")
    assert data["added_macs"] == a["macs"] + s["macs"] == found.macs["recompute"]
    assert data["added_share"] == data["added_macs"] / (found.macs["forward"] + found.macs["backward"])
    assert (data["paged"], data["packed"], data["elsewhere"], data["traffic_bytes"]) == ([], [], [], 0)


def test_pages_tell_traffic_both_ways() -> None:
    found = plan(FETCHES)
    data = saving_rows(found)
    image, s = data["paged"]
    assert (image["tensor"], image["bytes"], image["out_bytes"], image["in_bytes"]) == ("image", 32, 32, 32)
    assert (s["tensor"], s["out_bytes"], s["in_bytes"]) == ("s.out", 64, 128)
    assert s["before"] == ["b.grad_weight", "s.grad_x0"]
    assert data["traffic_bytes"] == 32 + 32 + 64 + 128
    assert image["steps_away"] == index_of(found, "page in image") - index_of(found, "a.forward") - 1


def test_what_is_packed_and_what_lives_elsewhere() -> None:
    found = plan(replace(NO_SAVINGS, packed=frozenset({"b"})), "momentum")
    (row,) = saving_rows(found)["packed"]
    assert (row["tensor"], row["bytes"], row["packed_bytes"]) == ("s.out", 64, 32 + 4 * 2)
    assert row["read_by"] == ["b.grad_weight"]
    assert "saved in 8 bits" in saving_text(found)
    assert figure(found).axes
    names = [v.name for v in found.values if v.role == "state" and v.tensor == "a.weight"]
    moved = frozenset((n, "L3") for n in names)
    (state,) = saving_rows(plan(replace(NO_SAVINGS, moved=moved), "momentum"))["elsewhere"]
    assert (state["role"], state["level"], state["bytes"], state["traffic_bytes"]) == ("state", "L3", 4, 8)


def test_text_has_totals() -> None:
    both = plan(replace(RERUNS, fetches=FETCHES.fetches - {("s.out", "s.grad_x0")}))
    text = describe(both)
    assert "what was done to hold less:" in text
    assert f"MACs added: {both.macs['recompute']:,}, " in text
    assert f", {both.macs['recompute']:,} run again" in text
    assert "traffic of pages: 192 B a run" in text
    assert "total: 2 runs" in text
    assert "total: 2 tensors" in text
    assert summary(both)["savings"] == saving_rows(both)
    assert "everything of value is updated" in text
    assert "does not bind" not in text


def test_plans_that_save_nothing_say_nothing() -> None:
    found = plan(NO_SAVINGS)
    assert saving_text(found) == ""
    assert "to hold less" not in describe(found)
    assert copies(found) == frozenset()


def test_figure_marks_what_is_there_again() -> None:
    both = plan(replace(RERUNS, fetches=FETCHES.fetches - {("s.out", "s.grad_x0")}))
    assert copies(both) == {"image (2)", "s.out (2)", "s.out (3)", "a.out (2)"}
    upper, lower, slow = figure(both).axes
    labels = [t.get_text() for t in lower.get_legend().get_texts()]
    assert labels == ["runs again (2)", "paged out (2)", "paged in (2)", "there again"]
    hatched = [p for p in lower.patches if p.get_hatch()]
    assert len(hatched) == sum(b.value in copies(both) for b in both.buffers)
    assert slow.get_ylabel() == "offset in L3 (kB)"
    assert slow.get_xlabel() == "step of the schedule"
    assert upper.get_xlabel() == lower.get_xlabel() == ""


@pytest.mark.parametrize("savings", [RERUNS, NO_SAVINGS])
def test_figure_without_pages_has_two_parts(savings: Savings) -> None:
    assert len(figure(plan(savings)).axes) == 2
