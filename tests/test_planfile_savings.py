"""Plans that save bytes in files: each comes back as it went out, with its caps and price; bad values are named."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from planted import problem_of
from savings import possible, with_savings
from timed import complete, with_l3

from sparseplan.autodiff import trace
from sparseplan.builder import NetworkBuilder
from sparseplan.device import load_device
from sparseplan.errors import SparseplanError
from sparseplan.jsonio import dump
from sparseplan.network import Network
from sparseplan.plan import Plan
from sparseplan.planfile import plan_from_dict, plan_to_dict, read_plan, write_plan
from sparseplan.problem import INT8_PRICE
from sparseplan.recompute import Savings
from sparseplan.run import run
from sparseplan.solve.search import solve
from sparseplan.steps import UpdateSet
from sparseplan.testing.peers import plan_of
from sparseplan.verify import verify


def chain() -> Network:
    net = NetworkBuilder("chain")
    x = net.input("image", (2, 16, 8))
    for i in range(3):
        x = net.relu(net.conv(x, 8, 3, 1, 1, name=f"a{i}"), name=f"b{i}")
    return net.build(net.op("avg_pool", (net.conv(x, 2, 3, 2, 1, name="c"),), kernel=4))


@cache
def made(saving: str) -> Plan:
    """A plan that makes use of a saving, all it can."""
    problem = problem_of(chain(), alignment=4, optimizer="momentum", gradients="accumulate")
    problem = replace(problem, device=complete(with_l3(problem.device)), int8_price=0.125, max_seconds=100.0,
                      max_joules=50.5)  # fmt: skip
    if saving == "stripes":
        problem = problem_of(chain(), 6300, alignment=4, may=("c.*",), must=("c.*",))
        return solve(replace(problem, savings=("recompute", "stripes")))
    problem = with_savings(problem, (saving,))
    update = {p: 1.0 for p in problem.choices if p != "a0.weight"}
    graph = trace(problem.network, problem.options, problem.choices)
    may = possible(problem, graph.restrict(UpdateSet(update)))
    some = Savings(frozenset(sorted(may.reruns)[-3:]), may.fetches, may.packed, may.moved)
    return plan_of(problem, update, None, some)


EACH = ("recompute", "page", "stream", "int8", "stripes")


@pytest.mark.parametrize("saving", EACH)
def test_plans_that_save_come_back(saving: str, tmp_path: Path) -> None:
    plan = made(saving)
    assert verify(plan.problem, plan) == ()
    write_plan(plan, tmp_path / "plan.json")
    again = read_plan(tmp_path / "plan.json")
    assert again == plan
    assert again.problem.savings == plan.problem.savings
    assert verify(plan.problem, again) == ()
    assert run(again).bitwise_equal
    write_plan(again, tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "plan.json").read_bytes()


def test_what_savings_leave_in_a_file() -> None:
    kinds = {saving: {s["kind"] for s in plan_to_dict(made(saving))["steps"]} for saving in EACH}
    assert "recompute" in kinds["recompute"]
    assert {"page_out", "page_in"} <= kinds["page"]
    assert "pack" in kinds["int8"]
    values = {saving: {(v["role"], v["level"]) for v in plan_to_dict(made(saving))["values"]} for saving in EACH}
    assert ("accumulator", "L3") in values["page"]
    assert ("parameter", "flash") in values["stream"]
    data = plan_to_dict(made("stripes"))
    assert data["stripes"][0]["ops"][0] == "a0"
    assert any(v["layout"] == "hcw" for v in data["values"])
    assert any("boxes" in a for s in data["steps"] for a in s["reads"])
    assert any("rows" in a for s in data["steps"] for a in (*s["reads"], *s["writes"]))


def test_caps_and_price_come_back() -> None:
    data = plan_to_dict(made("int8"))["problem"]
    assert (data["int8_price"], data["max_seconds"], data["max_joules"]) == (0.125, 100.0, 50.5)
    problem = plan_from_dict(json.loads(json.dumps(plan_to_dict(made("int8"))))).problem
    assert (problem.int8_price, problem.max_seconds, problem.max_joules) == (0.125, 100.0, 50.5)


@pytest.mark.parametrize("device", ["gap9", None])
def test_whole_numbers_are_written_as_they_are_read_back(device: str | None) -> None:
    """Rates and clocks of TOML files may be whole, and so may a user's caps."""
    changes = {"int8_price": 0, "max_seconds": 100, "max_joules": 7}
    problem = replace(made("int8").problem, **changes)  # type: ignore[arg-type]
    if device is not None:
        named = load_device(device)
        options = replace(problem.options, alignment=named.level("L2").alignment)
        problem = replace(problem, device=named, options=options, max_seconds=None, max_joules=None)
    plan = plan_of(problem, {})
    text = dump(plan_to_dict(plan))
    assert dump(plan_to_dict(plan_from_dict(json.loads(text)))) == text


def test_without_them_a_file_means_no_savings_no_caps_and_the_usual_price() -> None:
    data = plan_to_dict(plan_of(problem_of(chain(), alignment=4), {}))
    for name in ("savings", "int8_price", "max_seconds", "max_joules"):
        del data["problem"][name]
    del data["stripes"]
    problem = plan_from_dict(data).problem
    assert (problem.savings, problem.int8_price, problem.max_seconds, problem.max_joules) == (
        (),
        INT8_PRICE,
        None,
        None,
    )


# -- what is wrong -----------------------------------------------------------------------------------------
Change = Callable[[dict[str, Any]], Any]


def boxed(data: dict[str, Any]) -> dict[str, Any]:
    """The first argument in boxes."""
    return next(a for s in data["steps"] for a in s["reads"] if "boxes" in a)


def in_problem(**changes: Any) -> Change:
    return lambda data: data["problem"].update(changes)


BAD: list[tuple[str, Change, str]] = [
    ("int8", in_problem(savings=["int4"]), "savings='int4' is unknown; did you mean 'int8'"),
    ("int8", in_problem(savings="int8"), "problem.savings='int8' must be a list"),
    ("int8", in_problem(savings=[8]), "problem.savings[0]=8 must be"),
    ("int8", in_problem(savings=["page"] * 60), "has 60 entries; at most"),
    ("int8", in_problem(int8_price=1.5), "int8_price=1.5 must be a share from 0 to 1 of an update's worth"),
    ("int8", in_problem(int8_price=-0.1), "int8_price=-0.1 must be a share from 0 to 1 of an update's worth"),
    ("int8", in_problem(int8_price="cheap"), "problem.int8_price='cheap' must be a"),
    ("int8", in_problem(max_seconds=0), "max_seconds=0.0 must be a number above 0"),
    ("int8", in_problem(max_joules=-2), "max_joules=-2.0 must be a number above 0"),
    ("int8", in_problem(max_seconds="1 s"), "problem.max_seconds='1 s' must be a"),
    ("int8", in_problem(max_watts=3), "max_watts"),
    ("int8", lambda d: next(s for s in d["steps"] if s["kind"] == "pack").update(kind="compress"), "kind='compress'"),
    ("int8", lambda d: next(v for v in d["values"] if v["role"] == "packed").update(role="codes"), "role='codes'"),
    ("page", lambda d: next(v for v in d["values"] if v["level"] == "L3").update(level="L4"), "level='L4'"),
    ("page", lambda d: d["problem"]["device"].update(levels=[v for v in d["problem"]["device"]["levels"]
                                                            if v["name"] != "L3"]),
     "savings='page' needs L3, which device 'custom' lacks; drop it"),
    ("stream", lambda d: d["problem"]["device"].update(levels=[v for v in d["problem"]["device"]["levels"]
                                                              if v["name"] in ("L1", "L2")]),
     "savings='stream' needs flash or L3, which device 'custom' lacks; drop it"),
    ("stripes", lambda d: d["stripes"][0].update(rows=[[0]]), "stripes[0].rows[0]"),
    ("stripes", lambda d: d["stripes"][0].update(rows=[[-1, 4]]), "stripes[0].rows[0][0]=-1"),
    ("stripes", lambda d: d["stripes"][0].update(ops="a0"), "stripes[0].ops='a0' must be a list"),
    ("stripes", lambda d: d["stripes"][0].pop("ops"), "stripes[0]: key 'ops' is missing; give it"),
    ("stripes", lambda d: d["stripes"][0].update(columns=[]), "columns"),
    ("stripes", lambda d: boxed(d).update(boxes=[[0, 1, 2]]), "must be [first channel, last + 1, first row, last + 1]"),
    ("stripes", lambda d: next(v for v in d["values"] if v["layout"] == "hcw").update(layout="whc"), "layout='whc'"),
    ("stripes", lambda d: d["problem"]["options"].update(batch=2),
     "savings='stripes' needs batch=1, given batch=2; change one"),
]  # fmt: skip


@pytest.mark.parametrize(("saving", "change", "said"), BAD, ids=[f"{s}-{t[:40]}" for s, _, t in BAD])
def test_bad_values_give_one_clear_error(saving: str, change: Change, said: str) -> None:
    data = json.loads(json.dumps(plan_to_dict(made(saving))))
    change(data)
    with pytest.raises(SparseplanError) as error:
        plan_from_dict(data)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_stripes_that_the_network_does_not_have_are_a_finding_not_a_crash() -> None:
    data = json.loads(json.dumps(plan_to_dict(made("stripes"))))
    data["stripes"][0]["ops"][0] = "nothing"
    plan = plan_from_dict(data)
    assert [v.kind for v in verify(plan.problem, plan)] == ["stripe"]
