"""The published schemas: every plan and spec that is written validates, and what is malformed does not.

What validates is also read, up to what a schema cannot say (names that exist, shapes that fit).
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from planted import plan_of, problem_of
from savings import graph_of, possible, with_savings

import sparseplan as sp
from sparseplan import planfile
from sparseplan.dtypes import TRAINABLE
from sparseplan.errors import PlanError
from sparseplan.exporters.json import export, schema
from sparseplan.importers.spec import from_dict, to_dict
from sparseplan.network import TENSOR_DTYPES, Network
from sparseplan.plan import Plan
from sparseplan.planfile import VERSION, plan_from_dict, plan_to_dict, read_plan
from sparseplan.problem import SAVINGS, Pair, Problem, Saturation
from sparseplan.quantise import quantised
from sparseplan.rates import TABLES
from sparseplan.recompute import Savings, apply
from sparseplan.solve.cpsat import Limits
from sparseplan.solve.search import solve
from sparseplan.steps import OPTIMIZERS, UpdateSet
from sparseplan.testing import networks, problems
from sparseplan.verify import verify

jsonschema = pytest.importorskip("jsonschema", reason="the package jsonschema is in the dev extra")


@cache
def validator(of: str) -> Any:
    found = schema(of)
    jsonschema.Draft202012Validator.check_schema(found)
    return jsonschema.Draft202012Validator(found)


def faults(data: Any, of: str = "plan") -> list[str]:
    return [f"{e.json_path}: {e.message[:200]}" for e in validator(of).iter_errors(data)]


def written(plan: Plan) -> dict[str, Any]:
    """As it comes back from a file: tuples are lists."""
    found: dict[str, Any] = json.loads(json.dumps(plan_to_dict(plan)))
    return found


def network(channels: int = 4) -> Network:
    net = sp.NetworkBuilder("small")
    x = net.relu(net.conv(net.input("image", (3, 8, 8)), channels, 3, padding=1, name="a"))
    x = net.conv(net.relu(net.conv(x, channels, 3, padding=1, name="b")), 2, 1, name="c")
    return net.build(net.linear(net.op("flatten", net.op("global_avg_pool", x)), 3, name="head"))


def tall() -> Network:
    net = sp.NetworkBuilder("tall")
    x = net.relu(net.conv(net.input("image", (1, 16, 16)), 8, 3, padding=1, name="a"))
    x = net.relu(net.conv(x, 8, 3, 2, 1, name="b"))
    return net.build(net.linear(net.op("flatten", net.op("global_avg_pool", x)), 3, name="head"))


def everything() -> dict[str, Plan]:
    """Plans that use every part of the format."""
    net = network()
    gap9 = sp.problem(net, "gap9", loss="cross_entropy", l2="64kB")
    terms = (Pair({"a.weight": 0.5}, {"b.weight": 1.0}, 3.5),
             Saturation({"c.weight": {r: r for r in gap9.choices["c.weight"]}}, ((0.5, 2.0), (1.0, 3.0))))  # fmt: skip
    rich = replace(gap9, terms=terms, ties=(("a.weight", "a.bias"),), must={"c.bias": 1.0}, max_macs=10**9)
    adapted = problem_of(net, must=("*",), loss="cross_entropy", optimizer="adam", gradients="accumulate", alignment=4)
    saving = with_savings(adapted)
    limits = Limits(20.0, 0)
    small = quantised(net, floats={"*.bias": "fp32", "head.*": "fp32"})
    return {
        "plain": solve(gap9, limits),
        "terms, ties, must, caps": solve(rich, limits),
        "savings": plan_of(saving, dict.fromkeys(net.parameters, 1.0), savings=all_savings(saving)),
        "int8": solve(problem_of(small, must=("a.weight@1/2",), loss="cross_entropy"), limits),
        "infeasible": solve(problem_of(net, l2=500, must=("*",), loss="cross_entropy"), limits),
        "upydnet": sp.plan("upydnet", "gap9", l2="500kB", must=("decoder0.*",), may=("decoder0.*",), frozen="flash"),
        "stripes": sp.plan(tall(), l2=4000, must=("head.bias",), may=("head.bias",), loss="cross_entropy",
                           frozen="flash", savings=("stripes",)),
    }  # fmt: skip


def all_savings(problem: Problem) -> Savings:
    """Every saving that is possible."""
    schedule = graph_of(problem).restrict(UpdateSet(dict.fromkeys(problem.choices, 1.0)))
    found = possible(problem, schedule)
    assert {s.kind for s in apply(schedule, found).steps} >= {"recompute", "pack"}
    return found


@pytest.fixture(scope="module")
def plans() -> dict[str, Plan]:
    return everything()


def test_plans_of_every_sort_validate(plans: dict[str, Plan]) -> None:
    for name, plan in plans.items():
        assert not faults(written(plan)), name
    assert plans["infeasible"].status == "INFEASIBLE"
    assert plans["stripes"].stripes
    assert plans["plain"].tiles
    kinds = {s.kind for p in plans.values() for s in p.steps}
    roles = {v.role for p in plans.values() for v in p.values}
    assert kinds >= {"forward", "loss", "grad_param", "grad_input", "update", "recompute", "pack", "page_out"}
    assert roles >= {"input", "activation", "auxiliary", "target", "gradient", "parameter", "accumulator", "packed"}


@given(problem=problems())
def test_any_plan_validates(problem: Problem) -> None:
    plan = solve(problem, Limits())
    data = written(plan)
    assert not faults(data)
    assert plan_to_dict(plan_from_dict(data)) == plan_to_dict(plan)


@given(net=networks())
def test_any_spec_validates(net: Network) -> None:
    data = json.loads(json.dumps(to_dict(net)))
    assert not faults(data, "network")
    assert from_dict(data) == net


def test_every_network_of_the_zoo_validates() -> None:
    for name in sp.zoo.NETWORKS:
        data = json.loads(json.dumps(to_dict(sp.zoo.get(name))))
        assert not faults(data, "network"), name


SHORT = {
    "sparseplan": "network", "version": 1, "name": "tiny", "outputs": ["act.out"],
    "inputs": {"image": [3, 16, 16], "more": {"shape": [1], "dtype": "int8", "scale": 0.5}},
    "ops": [
        {"name": "conv", "kind": "conv", "inputs": ["image"], "params": ["weight", "bias"],
         "attrs": {"out_channels": 8, "kernel": [3, 3], "padding": 1}},
        {"name": "act", "kind": "leaky_relu", "inputs": ["conv.out"], "output": "act.out", "attrs": {"slope": 0.1}},
    ],
}  # fmt: skip


def test_short_forms_of_specs_validate() -> None:
    assert not faults(SHORT, "network")


Change = Callable[[dict[str, Any]], Any]


def setter(*path: Any) -> Change:
    """Sets what the last but one leads to, to the last; ``...`` takes it away."""

    def change(data: dict[str, Any]) -> None:
        at: Any = data
        for key in path[:-2]:
            at = at[key]
        if path[-1] is ...:
            del at[path[-2]]
        else:
            at[path[-2]] = path[-1]

    return change


PLAN_FAULTS: dict[str, Change] = {
    "another file": setter("sparseplan", "network"),
    "old version": setter("version", 2),
    "unknown key": setter("speed", 1),
    "no problem": setter("problem", ...),
    "status": setter("status", "GOOD"),
    "no objective": setter("objective", None),
    "fraction above one": setter("update", "a.weight", 1.5),
    "fraction of nothing": setter("update", "a.weight", 0),
    "negative peak": setter("peak_bytes", "L2", -1),
    "half a byte": setter("peak_bytes", "L2", 0.5),
    "step kind": setter("steps", 0, "kind", "jump"),
    "no reads": setter("steps", 0, "reads", ...),
    "span of two": setter("steps", 0, "reads", 0, "spans", 0, ["image", 0]),
    "span of four": setter("steps", 0, "reads", 0, "spans", 0, ["image", 0, 1, 2]),
    "tag": setter("steps", 0, "reads", 0, "tag", 3),
    "value role": setter("values", 0, "role", "thing"),
    "value dtype": setter("values", 0, "dtype", "fp64"),
    "empty shape extent": setter("values", 0, "shape", [0]),
    "layout": setter("values", 0, "layout", "hwc"),
    "empty buffer": setter("buffers", 0, "bytes", 0),
    "buffer level": setter("buffers", 0, "level", "L4"),
    "buffer without offset": setter("buffers", 0, "offset", ...),
    "tile": setter("tiles", 0, "tiles", 0),
    "no steps": setter("steps", []),
    "device without levels": setter("problem", "device", "levels", []),
    "device without L2": setter("problem", "device", "levels", [{"name": "flash", "bytes": None, "reserved": 0,
                                                                "alignment": 1}]),
    "rate": setter("problem", "device", "rates", "mac_per_cycle", [{"op": "conv", "value": 1.0}]),
    "rate table": setter("problem", "device", "rates", "flops", []),
    "dtype": setter("problem", "options", "dtype", "int8"),
    "optimizer": setter("problem", "options", "optimizer", "lion"),
    "batch": setter("problem", "options", "batch", True),
    "saving": setter("problem", "savings", ["sleep"]),
    "saving twice": setter("problem", "savings", ["page", "page"]),
    "price": setter("problem", "int8_price", 2),
    "values": setter("problem", "values", "a.weight", [[1.0]]),
    "term": setter("problem", "terms", [{"pair": {"a": {}, "b": {"b.weight": 1}, "value": 1}}]),
    "two terms in one": setter("problem", "terms", [{"pair": None, "saturation": None}]),
    "network within": setter("problem", "network", "ops", 0, "kind", 7),
    "network version": setter("problem", "network", "version", 9),
    "name that does not print": setter("method", "a\u0007b"),
}  # fmt: skip


#: which the reader takes although they are never written: an older version, and what says nothing new
READ = ("old version", "saving twice")


@pytest.mark.parametrize("fault", PLAN_FAULTS)
def test_malformed_plans_do_not_validate(fault: str, plans: dict[str, Plan]) -> None:
    data = written(plans["plain"])
    PLAN_FAULTS[fault](data)
    assert faults(data), fault
    if fault in READ:
        return
    try:
        plan = plan_from_dict(data)
    except sp.SparseplanError:
        return
    assert verify(plans["plain"].problem, plan), "neither the reader nor the verifier minds"


def test_infeasible_plans_need_a_reason_and_no_schedule(plans: dict[str, Plan]) -> None:
    for change in (setter("reason", None), setter("reason", ...), setter("update", {"a.weight": 1.0}),
                   setter("reason", "needed", -1), setter("reason", "message", ...)):  # fmt: skip
        data = written(plans["infeasible"])
        change(data)
        assert faults(data)
    data = written(plans["infeasible"])
    data["steps"] = written(plans["plain"])["steps"]
    assert faults(data)


SPEC_FAULTS: dict[str, Change] = {
    "plan": setter("sparseplan", "plan"),
    "version": setter("version", 2),
    "no ops": setter("ops", []),
    "no outputs": setter("outputs", []),
    "output twice": setter("outputs", ["act.out", "act.out"]),
    "op without kind": setter("ops", 0, "kind", ...),
    "unknown key of an op": setter("ops", 0, "stride", 2),
    "attribute": setter("ops", 0, "attrs", {"kernel": {"a": 1}}),
    "attribute of fractions": setter("ops", 0, "attrs", {"kernel": [1.5]}),
    "slot twice": setter("ops", 0, "params", ["weight", "weight"]),
    "empty name": setter("name", ""),
    "extent": setter("inputs", "image", [3, 0, 16]),
    "int8 without a scale": setter("inputs", "more", "scale", ...),
    "scale without int8": setter("inputs", "more", "dtype", ...),
    "dtype": setter("inputs", "more", "dtype", "int4"),
    "role": setter("tensors", [{"name": "image", "role": "weight"}]),
    "nine axes": setter("inputs", "image", [1] * 9),
}


@pytest.mark.parametrize("fault", SPEC_FAULTS)
def test_malformed_specs_do_not_validate(fault: str) -> None:
    data = copy.deepcopy(SHORT)
    SPEC_FAULTS[fault](data)
    assert faults(data, "network"), fault
    with pytest.raises(sp.SparseplanError):
        from_dict(data)


def test_export_writes_a_plan_file(tmp_path: Path, plans: dict[str, Plan]) -> None:
    export(plans["plain"], tmp_path / "plan.json")
    assert read_plan(tmp_path / "plan.json") == plans["plain"]
    assert not faults(json.loads((tmp_path / "plan.json").read_text(encoding="utf-8")))


def test_the_schema_is_of_this_version() -> None:
    assert schema()["properties"]["version"] == {"const": VERSION}
    assert schema() is not schema()
    with pytest.raises(PlanError, match="schema of='device' is unknown"):
        schema("device")


def test_words_are_those_that_the_code_knows() -> None:
    """Step kinds, roles, levels, storage types and settings: none is missing, none too many."""
    defs, options = schema()["$defs"], schema()["$defs"]["options"]["properties"]
    assert set(defs["step"]["properties"]["kind"]["enum"]) == set(planfile.STEP_KINDS)
    assert set(defs["value"]["properties"]["role"]["enum"]) == set(planfile.ROLES)
    assert set(defs["level"]["enum"]) == set(planfile.LEVELS)
    assert set(defs["dtype"]["enum"]) == set(planfile.DTYPES)
    assert set(schema()["properties"]["status"]["enum"]) == set(planfile.STATUSES)
    assert set(defs["problem"]["properties"]["savings"]["items"]["enum"]) == set(SAVINGS)
    assert set(defs["rates"]["properties"]) == set(TABLES)
    assert set(options["optimizer"]["enum"]) == set(OPTIMIZERS)
    assert set(options["dtype"]["enum"]) == set(TRAINABLE)
    tensor = schema("network")["$defs"]["tensor"]["properties"]
    assert set(tensor["dtype"]["enum"]) == set(TENSOR_DTYPES)
