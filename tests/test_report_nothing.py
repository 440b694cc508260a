"""Where nothing can be updated the report says why and what to do, and the exit code is 3."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import sparseplan as sp
from sparseplan import report
from sparseplan.builder import NetworkBuilder
from sparseplan.cli import main
from sparseplan.errors import ProblemError
from sparseplan.gradientflow import stops, without_gradient, without_way
from sparseplan.importers.spec import write_spec
from sparseplan.network import Network
from sparseplan.ops import infos, op_def
from sparseplan.steps import reached_by_gradient, updatable


def _walled(kind: str = "QuantizeLinear", behind: bool = False) -> Network:
    net = NetworkBuilder("walled")
    x = net.conv(net.input("x", (2, 6, 6)), 3, 3, 1, 1, name="a")
    x = net.conv(x, 3, 3, 1, 1, name="b")
    x = net.op("opaque", x, "wall", type=kind, shape=(3, 6, 6), macs=10)
    return net.build(net.conv(x, 2, 1, 1, 0, name="c") if behind else net.op("relu", x, "tail"))


def test_the_op_that_stops_the_gradient_is_named_with_what_lies_behind() -> None:
    plan = sp.plan(_walled(), l2="100kB")
    text = report.describe(plan)
    assert (plan.status, plan.objective, dict(plan.update)) == ("OPTIMAL", 0.0, {})
    assert "gradient stops at op 'wall' (QuantizeLinear): 4 parameters of 4 behind it" in text
    assert "choose an output before it" in text
    assert "not quantised yet" in text
    assert "everything of value" not in text
    found = report.summary(plan)["nothing"]
    assert found["gradient_stops_at"][0]["parameters"] == ["a.weight", "a.bias", "b.weight", "b.bias"]
    assert "not quantised yet" not in report.describe(sp.plan(_walled("LSTM"), l2="100kB"))


def test_it_is_told_too_where_something_is_updated() -> None:
    plan = sp.plan(_walled(behind=True), l2="100kB")
    text = report.describe(plan)
    assert set(plan.update) == {"c.weight", "c.bias"}
    assert "everything of value is updated, as far as the gradient reaches" in text
    assert "'wall' (QuantizeLinear): 4 parameters of 6 behind it" in text
    assert report.summary(plan)["nothing"] is None


def _heads() -> Network:
    """A trunk with three heads: one as it is, two behind ops without a gradient."""
    net = NetworkBuilder("heads")
    trunk = net.conv(net.input("x", (2, 6, 6)), 3, 3, 1, 1, name="trunk")
    plain = net.conv(trunk, 2, 1, 1, 0, name="plain")
    shut = []
    for name in ("first", "second"):
        y = net.conv(trunk, 2, 1, 1, 0, name=name)
        shut.append(net.op("opaque", y, f"wall_{name}", type="Sort", shape=(2, 6, 6), macs=10))
    return net.build((shut[0], plain, shut[1]))


@pytest.mark.parametrize("judged", [
    ["plain"], ["wall_first"], ["wall_first", "wall_second"], ["plain", "wall_second"],
    ["wall_second", "plain", "wall_first"],
], ids="+".join)  # fmt: skip
def test_the_gradient_is_followed_from_every_loss_and_from_no_other_output(judged: list[str]) -> None:
    plan = sp.plan(_heads(), l2="100kB", loss=[f"{op}.out=mse" for op in judged])
    walls = {f"wall_{name}" for name in ("first", "second") if f"wall_{name}" in judged}
    text = report.describe(plan)
    told = {line.split("'")[1] for line in text.splitlines() if "the gradient stops at op" in line}
    assert told == walls
    reached = {"trunk", "plain"} if "plain" in judged else set()
    assert {p.partition(".")[0] for p in plan.update} == reached
    if reached:
        assert ("as far as the gradient reaches" in text) == bool(walls)
        behind = 2  # the head's own: the trunk has another way
    else:
        found = report.summary(plan)["nothing"]["gradient_stops_at"]
        assert {row["op"] for row in found} == walls
        behind = 4
    assert text.count(f"{behind} parameters of 8 behind it") == len(walls)


def test_fronts_say_it_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_spec(_heads(), tmp_path / "heads.json")
    asked = ["pareto", str(tmp_path / "heads.json"), "--l2", "100kB"]
    assert main([*asked, "--loss", "wall_second.out=mse"]) == 3
    text = capsys.readouterr().out
    assert "nothing is updated:\n  the gradient stops at op 'wall_second' (Sort): 4 parameters of 8" in text
    assert "wall_first" not in text
    assert main([*asked, "--loss", "wall_second.out=mse", "--json"]) == 3
    assert "'wall_second'" in json.loads(capsys.readouterr().out)["nothing"][0]
    assert main([*asked, "--loss", "wall_second.out=mse", "--loss", "plain.out=l1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["nothing"] is None


def test_what_is_behind_another_output_is_not_said_to_be_stopped() -> None:
    with pytest.raises(ProblemError, match=r"'first.weight' .*: nothing of it reaches the loss's output 'plain.out'"):
        sp.plan(_heads(), l2="100kB", loss="plain.out=mse", must=["first.weight"])
    with pytest.raises(ProblemError, match="op 'wall_first' stands between it and the loss"):
        sp.plan(_heads(), l2="100kB", loss=["plain.out=mse", "wall_first.out=l1"], must=["first.weight"])


def test_nothing_upstream_of_the_output() -> None:
    net = NetworkBuilder("apart")
    x = net.input("x", (2, 4, 4))
    first = net.op("relu", x, "plain")
    other = net.conv(x, 2, 3, 1, 1, name="other")
    text = report.describe(sp.plan(net.build((first, other)), l2="100kB"))
    assert "2 parameters (other.weight, other.bias) have no way to the loss's output 'plain.out'" in text


def test_no_parameters_at_all() -> None:
    net = NetworkBuilder("bare")
    text = report.describe(sp.plan(net.build(net.op("relu", net.input("x", (4,)), "r")), l2="1kB"))
    assert "no parameters that could be updated" in text


def test_everything_frozen_by_name_or_worth_nothing() -> None:
    text = report.describe(sp.plan("resnet8", l2="300kB", never=["*"]))
    assert "27 parameters (stem.conv.weight, " in text
    assert "could be updated, but may not be" in text
    text = report.describe(sp.plan("resnet8", l2="300kB", values={"*": 0}))
    assert "none of the 27 parameters that may be updated has a value above 0" in text
    assert "everything of value" not in text


def test_no_room_names_the_bytes_of_the_least_update() -> None:
    net = NetworkBuilder("two")
    x = net.conv(net.input("x", (4, 8, 8)), 4, 3, 1, 1, name="a")
    made = net.build(net.conv(net.op("relu", x, "r"), 4, 3, 1, 1, name="b"))
    bare = sp.plan(made, l2="100kB", never=["*"]).peak_bytes["L2"]
    plan = sp.plan(made, l2=bare, may=["a.*"])
    text = report.describe(plan)
    assert plan.update == {}
    assert "no update fits: the smallest tried" in text
    wanted = int(text.split("alone, holds ")[1].split(" B")[0].replace(",", ""))
    name = text.split("smallest tried, of '")[1].split("'")[0]
    assert wanted > bare
    # given that much, it can be made
    assert name in sp.plan(made, l2=wanted, may=[name]).update


def test_no_tile() -> None:
    net = NetworkBuilder("wide")
    x = net.conv(net.input("x", (4, 8, 8)), 8, 1, 1, 0, name="a")
    made = net.build(net.op("layer_norm", x, "norm"))
    # as much as the forward pass needs: going back through the norm takes more
    enough = sp.plan(made, l1=8, l2="1MB", never=["*"]).reason
    assert enough is not None
    plan = sp.plan(made, l1=enough.fewest_bytes, l2="1MB", may=["a.*"])
    text = report.describe(plan)
    assert (plan.status, plan.update) == ("OPTIMAL", {})
    assert "no tile of norm" in text
    assert "without such tiles 2 parameters of 2 cannot be updated; give more L1" in text


def test_a_cap_on_macs() -> None:
    bare = sp.plan("resnet8", l2="1MB", never=["*"]).macs["forward"]
    plan = sp.plan("resnet8", l2="1MB", may=["*.conv.weight"], max_macs=bare)
    assert plan.update == {}
    assert f"no update keeps max_macs={bare}; raise the cap" in report.describe(plan)


def test_a_search_cut_short_says_so() -> None:
    plan = sp.plan("resnet8", l2="300kB", values={"*": 0})
    asked = sp.problem("resnet8", l2="300kB")
    text = report.describe(replace(plan, problem=asked, status="FEASIBLE", bound=10.0))
    assert "no update was found before the search ended; value may be up to 10: give more time" in text


def test_exit_codes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    write_spec(_walled(), tmp_path / "walled.json")
    for argv in (["plan", str(tmp_path / "walled.json"), "--l2", "1MB"],
                 ["plan", "resnet8", "--l2", "300kB", "--never", "*"],
                 ["pareto", str(tmp_path / "walled.json"), "--l2", "1MB"]):  # fmt: skip
        assert main([*argv, "--json"]) == 3
        json.loads(capsys.readouterr().out)
    assert main(["plan", "resnet8", "--l2", "300kB"]) == 0
    assert main(["plan", "resnet8", "--l2", "1kB"]) == 1
    assert main(["plan", "resnet8", "--l2", "0"]) == 2
    capsys.readouterr()
    for command in ([], ["plan"]):
        with pytest.raises(SystemExit):
            main([*command, "--help"])
        text = " ".join(capsys.readouterr().out.split())
        assert "3 solved, but the plan updates nothing" in text


@given(st.integers(0, 2**32 - 1))
def test_stops_and_the_rest_account_for_every_parameter(seed: int) -> None:
    """By walking each parameter's ways to the output one by one, in random graphs with walls."""
    draw = random.Random(seed)
    net = NetworkBuilder("drawn")
    tensors, read = [net.input("x", (2, 4, 4))], set()
    for i in range(draw.randint(2, 9)):
        kind = draw.choice(("conv", "conv", "opaque", "add", "sign"))
        x = draw.choice(tensors[-3:])
        if kind == "conv":
            tensors.append(net.conv(x, 2, 3, 1, 1, name=f"n{i}"))
        elif kind == "opaque":
            tensors.append(net.op("opaque", x, f"n{i}", type="Odd", shape=(2, 4, 4), macs=1))
        elif kind == "sign":
            tensors.append(net.op("sign", x, f"n{i}"))
        else:
            other = draw.choice(tensors)
            read.add(other)
            tensors.append(net.op("add", (x, other), f"n{i}"))
        read.add(x)
    made = net.build((tensors[-1], *dict.fromkeys(t for t in tensors[1:-1] if t not in read)))
    table = infos(made)

    def ways(tensor: str) -> list[list[str]]:
        """Walls on each way from a tensor to the output."""
        found = [[]] if tensor == made.outputs[0] else []
        for op in made.consumers[tensor]:
            for i, t in enumerate(op.inputs):
                if t == tensor:
                    wall = [] if op_def(op.kind).differentiable(table[op.name], i) else [op.name]
                    found += [wall + way for way in ways(op.output)]
        return found

    expected: dict[str, set[str]] = {}
    apart, lost = set(), set()
    for p in made.parameters:
        routes = ways(made.owner[p][0].output)
        if not routes:
            apart.add(p)
        elif all(routes):
            lost.add(p)
            for wall in {w for route in routes for w in route}:
                expected.setdefault(wall, set()).add(p)
    assert {s.op: set(s.parameters) for s in stops(made)} == expected
    assert set(without_way(made)) == apart
    reached = reached_by_gradient(made, table)
    assert lost | apart == {p for p in made.parameters if not updatable(made, reached, p)}
    assert not without_gradient(made)
    order = [o.name for o in made.ops]
    assert [s.op for s in stops(made)] == sorted(expected, key=order.index, reverse=True)
