"""Plans side by side: what is known of each, on the command line too."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from planted import problem_of, small_u
from savings import AGAIN, with_savings

import sparseplan as sp
from sparseplan.cli import main
from sparseplan.costs import plan_costs
from sparseplan.errors import ProblemError
from sparseplan.plan import Plan
from sparseplan.rates import MacRate
from sparseplan.recompute import NO_SAVINGS, Savings
from sparseplan.report import compare_rows, compare_text
from sparseplan.report.time import duration
from sparseplan.testing.peers import plan_of

RERUNS = frozenset({("stem", "join.grad_weight"), ("tap", "join.grad_weight")})
FETCHES = frozenset({("image", "stem.grad_weight")})


def plan(savings: Savings = NO_SAVINGS) -> Plan:
    problem = with_savings(problem_of(small_u(), alignment=4), AGAIN)
    return plan_of(problem, dict.fromkeys(problem.choices, 1.0), None, savings)


def call(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    try:
        code = main(argv)
    except SystemExit as stop:  # argparse
        code = int(stop.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


def lines(text: str) -> dict[str, list[str]]:
    """Cells of each line by its name, which is followed by two blanks or more."""
    found = {}
    for line in text.splitlines()[2:]:
        name, _, rest = line.partition("  ")
        found[name] = rest.split()
    return found


def test_rows_are_the_plans_figures() -> None:
    plain, saving = plan(), plan(Savings(RERUNS, FETCHES))
    a, b = compare_rows({"plain": plain, "saving": saving})
    assert (a["plan"], b["plan"]) == ("plain", "saving")
    assert a["value"] == b["value"] == plain.objective
    assert (a["bytes"], b["bytes"]) == (dict(plain.peak_bytes), dict(saving.peak_bytes))
    assert b["macs"] == dict(saving.macs)
    assert a["macs"] == {**plain.macs, "recompute": 0}
    assert (a["recomputes"], a["pages"], b["recomputes"], b["pages"]) == (0, 0, 2, 1)
    assert (a["traffic_bytes"], b["traffic_bytes"]) == (0, 2 * 2 * 72)


def test_time_where_the_tables_allow_it() -> None:
    """A device without tables has no time."""
    known = sp.plan("resnet8", replace(sp.load_device("gap9"), mac_rates=(MacRate("*", "*", "*", 2.0),)), never=["*"])
    (row,) = compare_rows({"known": known})
    assert row["seconds"] == plan_costs(known).seconds
    assert row["seconds"] > 0
    assert lines(compare_text({"known": known}))["time a run"] == duration(row["seconds"]).split()
    assert compare_rows({"unknown": plan()})[0]["seconds"] is None
    assert lines(compare_text({"a": plan(), "b": plan()}))["time a run"] == ["unknown", "unknown"]


def test_text_has_a_column_a_plan_and_no_empty_lines() -> None:
    plain, saving = plan(), plan(Savings(RERUNS, FETCHES))
    found = lines(compare_text({"plain": plain, "saving": saving}))
    assert found["status"] == ["FEASIBLE", "FEASIBLE"]
    assert found["L2 B"] == [f"{plain.peak_bytes['L2']:,}", f"{saving.peak_bytes['L2']:,}"]
    assert found["L3 B"] == ["-", f"{saving.peak_bytes['L3']:,}"]
    assert found["MACs recomputed"] == ["0", f"{saving.macs['recompute']:,}"]
    assert found["ops run again"] == ["0", "2"]
    assert found["tensors paged"] == ["0", "1"]
    alone = lines(compare_text({"plain": plain}))
    assert not {"L1 B", "L3 B", "flash B", "MACs recomputed", "ops run again", "tensors paged"} & set(alone)


def test_a_problem_without_a_plan_has_a_column_too() -> None:
    none = sp.plan("resnet8", l2="1kB")
    found = lines(compare_text({"none": none, "some": plan()}))
    assert found["status"][0] == "INFEASIBLE"
    assert found["value"][0] == found["time a run"][0] == found["MACs forward"][0] == "-"


def test_compare_on_the_command_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for name, savings in (("plain", NO_SAVINGS), ("saving", Savings(RERUNS))):
        sp.write_plan(plan(savings), tmp_path / f"{name}.json")
    paths = [str(tmp_path / f"{name}.json") for name in ("plain", "saving")]
    code, out, _ = call(capsys, "compare", *paths)
    assert code == 0
    assert out.split()[:2] == ["plain", "saving"]
    code, out, _ = call(capsys, "compare", *paths, "--json")
    assert [r["recomputes"] for r in json.loads(out)] == [0, 2]


def test_plan_beside_others(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    other = str(tmp_path / "other.json")
    sp.write_plan(sp.plan("resnet8", l2="300kB"), other)
    code, out, _ = call(capsys, "plan", "resnet8", "--l2", "320kB", "--compare", other)
    assert code == 0
    assert "this plan" in out
    assert "300,000" in out.split("this plan")[1]
    code, out, _ = call(capsys, "plan", "resnet8", "--l2", "320kB", "--compare", other, "--json")
    assert [r["plan"] for r in json.loads(out)["compare"]] == ["this plan", "other"]


def test_files_of_one_name_are_told_apart(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    paths = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        paths.append(str(tmp_path / folder / "plan.json"))
        sp.write_plan(plan(), paths[-1])
    _, out, _ = call(capsys, "compare", *paths, "--json")
    assert [r["plan"] for r in json.loads(out)] == paths


def test_bad_files(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = str(tmp_path / "plan.json")
    sp.write_plan(plan(), path)
    code, _, err = call(capsys, "compare", path, path)
    assert code == 2
    assert f"plan {path!r} is given twice; give each file once" in err
    code, _, err = call(capsys, "plan", "resnet8", "--l2", "1MB", "--compare", str(tmp_path / "none.json"))
    assert code == 2
    assert "none.json" in err
    code, _, err = call(capsys, "compare")
    assert code == 2


def test_names_of_plans_are_those_of_files(tmp_path: Path) -> None:
    from sparseplan.cli.comparing import named_plans

    sp.write_plan(plan(), tmp_path / "one.json")
    assert list(named_plans([str(tmp_path / "one.json")])) == ["one"]
    with pytest.raises(ProblemError, match="given twice"):
        named_plans([str(tmp_path / "one.json")] * 2)
