"""Random edits of plan files: of single fields, and such as keep a plan consistent with itself in all but one thing."""

from __future__ import annotations

import contextlib
import copy
import functools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from planted import planned, problem_of, small_u
from test_planfile_savings import made
from test_shared_parameters import twice
from test_verify_random import random_plan
from test_verify_random_savings import random_plan as random_saving_plan
from test_verify_savings import planned as planned_again
from test_verify_stripes import in_stripes

from sparseplan.builder import NetworkBuilder
from sparseplan.exporters.c.lowering import Hyper, Lowering
from sparseplan.network import Network
from sparseplan.plan import Plan
from sparseplan.planfile import plan_from_dict, plan_to_dict
from sparseplan.problem import Problem
from sparseplan.run import RunReport, run
from sparseplan.testing.peers import plan_of
from sparseplan.verify import verify

Data = Any
Edit = Callable[[Data, random.Random], bool]


# -- plans to edit ---------
def ordered() -> Network:
    """Ops whose operands are not alike, three terms in one gradient, one parameter used by three ops."""
    net = NetworkBuilder("ordered")
    shared = {"weight": "shared.weight", "bias": "shared.bias"}
    x = net.op("conv", net.input("image", (2, 4, 4)), "a", shared, kernel=1, out_channels=2)
    y = net.op("conv", net.op("tanh", x), "b", shared, kernel=1, out_channels=2)
    z = net.op("conv", net.op("sigmoid", x), "c", shared, kernel=1, out_channels=2)
    w = net.op("div", [net.op("sub", [x, y]), net.op("scale_shift", net.op("sigmoid", z), shift=1.0)])
    w = net.op("batch_norm", net.op("sub", [w, x]), "norm")
    return net.build(net.op("prelu", net.concat([w, x, y]), "slope"))


def words() -> Network:
    """Integer inputs, products of matrices, vectors."""
    net = NetworkBuilder("words")
    x = net.op("embedding", net.input("ids", (3,), "i32"), "table", num=5, dim=4)
    x = net.op("layer_norm", x, "norm")
    q, k = net.linear(x, 4, name="q"), net.linear(x, 4, name="k")
    x = net.op("matmul", [net.op("softmax", net.op("matmul", [q, k], transpose_b=True)), x])
    return net.build(net.linear(net.op("flatten", x), 3, name="head"))


@dataclass(frozen=True)
class Base:
    """A plan that is right, as data, with what it computes."""

    name: str
    plan: Plan
    data: Data

    @functools.cached_property
    def report(self) -> RunReport:
        return ran(self.plan)

    @property
    def problem(self) -> Problem:
        return self.plan.problem


def all_of(problem: Problem) -> Plan:
    return plan_of(problem, {p: r[-1] for p, r in problem.choices.items()})


def _made() -> Iterator[tuple[str, Problem, Plan]]:
    for name, options in {
        "fused": {}, "accumulated": {"gradients": "accumulate", "optimizer": "adam", "dtype": "bf16"},
        "adjoined": {"concat": "adjoin", "dtype": "fp16"}, "frozen in flash": {"frozen": "flash", "partial": True},
        "batches": {"batch": 2, "optimizer": "adam"},
    }.items():  # fmt: skip
        yield (name, *planned(**options))
    for gradients in ("fused", "accumulate"):
        for name, network in (("shared", twice()), ("ordered", ordered()), ("words", words())):
            problem = problem_of(network, gradients=gradients, alignment=4, optimizer="momentum", dtype="fp32")
            yield f"{name}, {gradients}", problem, all_of(problem)
        yield (f"again, {gradients}", *planned_again(gradients))
    for saving in ("recompute", "page", "stream", "int8", "stripes"):
        plan = made(saving)
        yield saving, plan.problem, plan
    yield ("in stripes", *in_stripes())
    problem = replace(problem_of(small_u(), alignment=4), savings=("order",))
    yield "order", problem, all_of(problem)
    for seed in range(1, 9):
        yield (f"random {seed}", *random_plan(random.Random(seed)))
        yield (f"random with savings {seed}", *random_saving_plan(random.Random(seed)))


@functools.cache
def bases() -> tuple[Base, ...]:
    found = []
    for name, problem, plan in _made():
        plan = replace(plan, problem=problem)
        if plan.update:
            assert verify(problem, plan) == (), (name, verify(problem, plan))
            found.append(Base(name, plan, plan_to_dict(plan)))
    return tuple(found)


def ran(plan: Plan) -> RunReport:
    return run(plan, samples=2, seed=3)


# -- edits ---------
def leaves(node: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = list(node.items()) if isinstance(node, dict) else list(enumerate(node)) if isinstance(node, list) else []
    found = [prefix] if prefix and not isinstance(node, (dict, list)) else []
    for key, child in items:
        found += leaves(child, (*prefix, key))
    return found


def at(data: Data, path: tuple[Any, ...]) -> Any:
    return functools.reduce(lambda node, key: node[key], path, data)


def put(data: Data, path: tuple[Any, ...], value: Any) -> None:
    at(data, path[:-1])[path[-1]] = value


#: parts of a file that edits go into, more often those that an execution follows
PARTS = (*("steps",) * 6, *("buffers",) * 3, *("values",) * 3, "tiles", "peak_bytes", "macs", "update", "picks",
         "lower_bound_bytes", "stripes", "objective", "bound", "resolution", "status", "ties")  # fmt: skip


def part_of(data: Data, rng: random.Random) -> tuple[Any, ...] | None:
    """A place of a single value."""
    name = rng.choice(PARTS)
    if not isinstance(data[name], (dict, list)):
        return (name,)
    node, path = data[name], (name,)
    while isinstance(node, (dict, list)) and node:
        key = rng.choice(list(node) if isinstance(node, dict) else range(len(node)))
        node, path = node[key], (*path, key)
    return None if isinstance(node, (dict, list)) else path


def form(path: tuple[Any, ...]) -> tuple[Any, ...]:
    """What places of the same meaning have in common."""
    return tuple("*" if isinstance(k, int) and i + 1 < len(path) else k for i, k in enumerate(path))


def number(data: Data, rng: random.Random) -> bool:
    """Another number."""
    for _ in range(20):
        path = part_of(data, rng)
        old = None if path is None else at(data, path)
        if path is None or not isinstance(old, (int, float)):
            continue
        if isinstance(old, bool):
            put(data, path, not old)
        else:
            by = rng.choice((1, -1, 2, -2, 4, -4, 8, -8, old, -old, 16))
            put(data, path, rng.choice((old + by, old + by, 0, old // 2)))
        return True
    return False


def like_another(data: Data, rng: random.Random) -> bool:
    """A field as it is somewhere else: names, types, levels, ranges, numbers."""
    path = part_of(data, rng)
    if path is None or len(path) < 2:
        return False
    others = {repr(at(data, p)): at(data, p) for p in leaves(data[path[0]], path[:1]) if form(p) == form(path)}
    others.pop(repr(at(data, path)), None)
    if not others:
        return False
    put(data, path, others[rng.choice(sorted(others))])
    return True


def any_list(data: Data, rng: random.Random, least: int = 1) -> list[Any] | None:
    """A list of objects or pairs."""
    found: list[list[Any]] = []
    for name in ("steps", "buffers", "values", "tiles"):
        if len(data[name]) >= least:
            found += [data[name]] * (len(data["steps"]) // 4)
    for s in data["steps"]:
        lists = [s["reads"], s["writes"], s["inplace"]]
        for a in (*s["reads"], *s["writes"]):
            lists += [a["spans"], a.get("boxes", []), a["shape"]]
        found += [entries for entries in lists if len(entries) >= least]
    return rng.choice(found) if found else None


def swap(data: Data, rng: random.Random) -> bool:
    """Two entries of a list in each other's place."""
    entries = any_list(data, rng, 2)
    if entries is None:
        return False
    i, j = rng.sample(range(len(entries)), 2)
    entries[i], entries[j] = entries[j], entries[i]
    return True


def drop(data: Data, rng: random.Random) -> bool:
    """An entry of a list less, or an optional field."""
    entries = any_list(data, rng)
    if entries is None:
        return False
    i = rng.randrange(len(entries))
    if isinstance(entries[i], dict) and rng.random() < 0.3:
        keys = [k for k in entries[i] if k in ("channels", "add", "rows", "boxes", "keep", "inplace")]
        if keys:
            key = rng.choice(keys)
            if key == "inplace":
                entries[i][key] = []
            else:
                del entries[i][key]
            return True
    del entries[i]
    return True


def twice_there(data: Data, rng: random.Random) -> bool:
    """An entry of a list twice."""
    entries = any_list(data, rng)
    if entries is None:
        return False
    entries.insert(rng.randrange(len(entries) + 1), copy.deepcopy(rng.choice(entries)))
    return True


def args_of(data: Data, rng: random.Random) -> list[Any]:
    step = rng.choice(data["steps"])
    return [*step["reads"], *step["writes"]]


def exchange_operands(data: Data, rng: random.Random) -> bool:
    """Two arguments of a step take each other's bytes, or tags, or everything."""
    args = args_of(data, rng)
    if len(args) < 2:
        return False
    a, b = rng.sample(args, 2)
    keys = rng.choice((("spans",), ("tag",), ("spans", "shape", "dtype"), ("spans", "shape", "dtype", "boxes"), None))
    for key in keys or {*a, *b}:
        x, y = a.get(key), b.get(key)
        for arg, value in ((a, y), (b, x)):
            if value is None:
                arg.pop(key, None)
            else:
                arg[key] = value
    return True


def rename(data: Data, old: str, new: str, since: int = 0) -> None:
    """A value under another name in all steps from one on."""
    for s in data["steps"][since:]:
        for a in (*s["reads"], *s["writes"]):
            for span in a["spans"]:
                span[0] = new if span[0] == old else span[0]
        s["inplace"] = [[new if n == old else n for n in pair] for pair in s["inplace"]]


def another_name(data: Data, rng: random.Random) -> bool:
    """A value under another name everywhere."""
    value = rng.choice(data["values"])
    old, new = value["name"], rng.choice(["other", value["name"] + " (7)", "grad(nothing)"])
    if any(v["name"] == new for v in data["values"]):
        return False
    rename(data, old, new)
    value["name"] = new
    for b in data["buffers"]:
        b["value"] = new if b["value"] == old else b["value"]
    return True


def exchange_values(data: Data, rng: random.Random) -> bool:
    """Two values of one shape in each other's place, in some steps or in all of them."""
    a = rng.choice(data["values"])
    others = [v for v in data["values"] if v["name"] != a["name"] and v["shape"] == a["shape"]]
    if not others:
        return False
    x, y = a["name"], rng.choice(others)["name"]
    since = rng.choice((0, rng.randrange(len(data["steps"]))))
    rename(data, x, "\0", since)
    rename(data, y, x, since)
    rename(data, "\0", y, since)
    return True


def split_value(data: Data, rng: random.Random) -> bool:
    """A value goes on as another one from some step on, in the same bytes or elsewhere."""
    value = rng.choice(data["values"])
    old, new, k = value["name"], value["name"] + " (8)", rng.randrange(1, len(data["steps"]))
    data["values"].append({**value, "name": new})
    rename(data, old, new, k)
    by = rng.choice((0, 0, 64))
    for b in [b for b in data["buffers"] if b["value"] == old]:
        fresh = {**b, "value": new, "offset": b["offset"] + by}
        if not value["persistent"] and b["start"] < k < b["stop"]:
            fresh["start"], b["stop"] = k, k
        data["buffers"].append(fresh)
    return True


def move_value(data: Data, rng: random.Random) -> bool:
    """A value elsewhere, or two in each other's place."""
    value, other = rng.choice(data["buffers"]), rng.choice(data["buffers"])
    by = rng.choice((-8, -4, -1, 1, 4, 8, other["offset"] - other["lo"] - value["offset"] + value["lo"]))
    back = rng.random() < 0.3
    for b in data["buffers"]:
        if b["value"] == value["value"]:
            b["offset"] += by
        elif back and b["value"] == other["value"]:
            b["offset"] -= by
    return True


def lifetime(data: Data, rng: random.Random) -> bool:
    """A buffer, or all of a value, that lives a little longer or shorter."""
    chosen, by, end = rng.choice(data["buffers"]), rng.choice((-2, -1, 1, 2)), rng.choice(("start", "stop"))
    whole = rng.random() < 0.5
    for b in data["buffers"]:
        if b is chosen or (whole and b["value"] == chosen["value"]):
            b[end] += by
    return True


def move_step(data: Data, rng: random.Random) -> bool:
    """A step elsewhere, with the lifetimes that follow."""
    count = len(data["steps"])
    i, j = rng.randrange(count), rng.randrange(count)
    if rng.random() < 0.6:
        j = min(count - 1, i + 1)
    order = list(range(count))
    order.insert(j, order.pop(i))
    return reorder(data, order, rng)


def swap_steps(data: Data, rng: random.Random) -> bool:
    """Two steps of one kind in each other's place, with the lifetimes that follow."""
    i = rng.randrange(len(data["steps"]))
    others = [j for j, s in enumerate(data["steps"]) if j != i and s["kind"] == data["steps"][i]["kind"]]
    if not others:
        return False
    order, j = list(range(len(data["steps"]))), rng.choice(others)
    order[i], order[j] = j, i
    return reorder(data, order, rng)


def reorder(data: Data, order: list[int], rng: random.Random) -> bool:
    count, now = len(order), {old: new for new, old in enumerate(order)}
    data["steps"] = [data["steps"][i] for i in order]
    keep = {v["name"] for v in data["values"] if v["persistent"]}
    follow = rng.random() < 0.8
    for b in data["buffers"] if follow else ():
        if b["value"] in keep or b["stop"] > count:
            continue
        used = [
            i for i, s in enumerate(data["steps"]) for a in (*s["reads"], *s["writes"]) for x in a["spans"]
            if x[0] == b["value"] and x[1] < b["lo"] + b["bytes"] and b["lo"] < x[2]
        ]  # fmt: skip
        taken = any(y == b["value"] for s in data["steps"] for y, _ in s["inplace"])
        first = now[b["start"]] if b["start"] < count else b["start"]
        b["start"] = min([*used, first]) if not taken or not used else min(used)
        b["stop"] = max([*used, b["start"]]) + 1
        if any(b["value"] == x for _, x in data["steps"][b["stop"] - 1]["inplace"]) and b["stop"] - 1 > b["start"]:
            b["stop"] -= 1
    return True


def fewer_steps(data: Data, rng: random.Random) -> bool:
    """A step less, everything later one step earlier."""
    i = rng.randrange(len(data["steps"]))
    del data["steps"][i]
    for b in data["buffers"]:
        b["start"], b["stop"] = (n - (n > i) for n in (b["start"], b["stop"]))
    return True


def more_steps(data: Data, rng: random.Random) -> bool:
    """A step twice, everything later one step later."""
    i = rng.randrange(len(data["steps"]))
    data["steps"].insert(i, {**copy.deepcopy(data["steps"][i]), "name": "one more"})
    for b in data["buffers"]:
        b["start"], b["stop"] = b["start"] + (b["start"] > i), b["stop"] + (b["stop"] > i)
    return True


def everywhere(data: Data, rng: random.Random) -> bool:
    """A type, level, role or layout of a value, in its declaration and wherever it is used."""
    value = rng.choice(data["values"])
    key, choices = rng.choice((
        ("dtype", ("fp32", "fp16", "bf16", "u8", "i32", "bit")), ("level", ("L2", "L3", "flash")),
        ("layout", ("chw", "hcw")), ("role", ("activation", "gradient", "state", "accumulator", "parameter gradient")),
        ("persistent", (True, False)), ("scale", (None, 0.5)),
    ))  # fmt: skip
    value[key] = rng.choice([c for c in choices if c != value[key]])
    if key == "dtype":
        for s in data["steps"]:
            for a in (*s["reads"], *s["writes"]):
                if a["spans"] and a["spans"][0][0] == value["name"]:
                    a["dtype"] = value[key]
    for b in data["buffers"]:
        if b["value"] == value["name"]:
            b["level"] = value["level"]
    return True


def fields(data: Data, rng: random.Random) -> bool:
    """What says how an argument or a step is taken."""
    step = rng.choice(data["steps"])
    args = [*step["reads"], *step["writes"]]
    if not args:
        return False
    arg = rng.choice(args)
    what = rng.choice(("add", "channels", "rows", "keep", "flat", "inplace", "target", "reshape"))
    shape = arg["shape"]
    if what == "add":
        arg["add"] = not arg.get("add", False)
    elif what in ("channels", "rows"):
        extent = shape[1] if what == "channels" and len(shape) > 1 else shape[2] if len(shape) > 2 else 2
        arg[what] = rng.choice(([0, extent], [0, 1], [1, extent], arg.get(what, [0, extent])))
    elif what == "keep":
        step["keep"] = rng.choice((None, 1, 2))
    elif what == "flat":
        arg["shape"] = [shape[0], int(np.prod(shape[1:]))]
    elif what == "reshape":
        arg["shape"] = rng.sample(shape, len(shape))
    elif what == "inplace":
        y, x = (rng.choice(a["spans"])[0] for a in rng.choices(args, k=2))
        step["inplace"] = rng.choice(([], [[y, x]], [*step["inplace"], [y, x]]))
    else:
        step["target"] = rng.choice([s["target"] for s in data["steps"]])
    return True


EDITS: tuple[Edit, ...] = (
    number, number, like_another, like_another, like_another, swap, swap, drop, twice_there, exchange_operands,
    exchange_operands, another_name, exchange_values, split_value, move_value, lifetime, move_step, swap_steps,
    fewer_steps, more_steps, everywhere, fields, fields,
)  # fmt: skip


def heal(data: Data) -> None:
    """Figures that follow from the buffers and the steps."""
    for level in data["peak_bytes"]:
        ends = [b["offset"] + b["bytes"] for b in data["buffers"] if b["level"] == level]
        if ends:
            data["peak_bytes"][level] = max(ends)
            data["lower_bound_bytes"][level] = min(data["lower_bound_bytes"].get(level, 0), max(ends))
    macs = {"forward": 0, "backward": 0}
    for s in data["steps"]:
        phase = s["kind"] if s["kind"] in ("forward", "recompute") else "backward"
        macs[phase] = macs.get(phase, 0) + s["macs"]
    data["macs"] = macs


def edited(base: Base, rng: random.Random) -> tuple[Data, list[str]]:
    """The plan's file after one to three edits, and which."""
    data, names = copy.deepcopy(base.data), []
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3))):
        edit = rng.choice(EDITS)
        with contextlib.suppress(KeyError, IndexError, ValueError, TypeError):  # what it needs was edited away
            if edit(data, rng):
                names.append(edit.__name__)
    if rng.random() < 0.5:
        heal(data)
    return data, names


# -- what an edit comes to ---------
def fate(base: Base, data: Data) -> str:
    """``unread``, ``rejected``, ``same`` (nothing has changed) or ``accepted``; raises AssertionError where a plan that
    is accepted does not do what it says, or what the plan did before."""
    from sparseplan.errors import SparseplanError

    if data == base.data:
        return "same"
    try:
        plan = plan_from_dict(data)
    except SparseplanError:
        return "unread"
    if plan == base.plan:
        return "same"
    if verify(base.problem, plan):
        return "rejected"
    if not plan.feasible:  # an answer without a plan says nothing that could be wrong but why
        return "accepted"
    report = ran(plan)
    assert report.passed, (report.differences, report.faults, report.claimed_bytes, report.touched_bytes)
    before = base.report
    assert report.losses == before.losses
    assert {p: a.tobytes() for p, a in report.parameters.items()} == {
        p: a.tobytes() for p, a in before.parameters.items()
    }
    assert (plan.objective, dict(plan.update), dict(plan.macs)) == (
        base.plan.objective, dict(base.plan.update), dict(base.plan.macs)
    )  # fmt: skip
    assert plan.bound >= plan.objective
    calls = Lowering(plan, Hyper()).calls()
    assert [[c.kernel for c in found] for found in calls]
    return "accepted"
