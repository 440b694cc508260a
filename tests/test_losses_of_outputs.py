"""Losses as users give them: on which outputs, with which weights, from which files; what is refused, in one line."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparseplan import api, importers
from sparseplan.builder import NetworkBuilder, init_parameters
from sparseplan.cli import main
from sparseplan.errors import DataError, NetworkError, ProblemError, SparseplanError
from sparseplan.importers.spec import write_spec
from sparseplan.network import Network
from sparseplan.objective import Loss, parse_loss
from sparseplan.planfile import plan_from_dict, plan_to_dict, read_plan
from sparseplan.run import adapt, run
from sparseplan.sources import imported
from sparseplan.steps import TrainingOptions
from sparseplan.verify import verify


def heads() -> Network:
    net = NetworkBuilder("heads")
    h = net.op("relu", (net.op("linear", net.input("x", (6,)), "trunk", out_features=5),))
    classes = net.op("linear", h, "classes", out_features=3)
    return net.build((classes, net.op("linear", h, "box", out_features=4)))


NET = heads()


def problem(loss: Any, **options: Any) -> Any:
    return api.problem(NET, l2="50kB", dtype="fp32", loss=loss, **options)


@pytest.mark.parametrize("given", [
    {"classes.out": "cross_entropy", "box.out": "0.5*l1"},
    ["classes.out=cross_entropy", "box.out=0.5*l1"],
    [Loss("classes.out", "cross_entropy"), Loss("box.out", "l1", 0.5)],
    ("cross_entropy", Loss("box.out", "l1", np.float32(0.5))),
    ["0=cross_entropy", "1=0.5*l1"],
], ids=str)  # fmt: skip
def test_all_forms_say_the_same(given: Any) -> None:
    found = problem(given).options
    assert found.losses == (Loss("classes.out", "cross_entropy", 1.0), Loss("box.out", "l1", 0.5))
    assert found.loss == ""


def test_one_loss_on_the_first_output_is_as_before() -> None:
    assert problem("mse").options == TrainingOptions("fp32", loss="mse")
    assert set(problem("mse").choices) == {"trunk.weight", "trunk.bias", "classes.weight", "classes.bias"}
    assert set(problem("box.out=mse").choices) == {"trunk.weight", "trunk.bias", "box.weight", "box.bias"}
    assert set(problem(["mse", "box.out=mse"]).choices) == set(NET.parameters)


@pytest.mark.parametrize(("given", "message"), [
    ("bax.out=l1", r"^loss on 'bax.out': network 'heads' has no such output; did you mean 'box.out'"),
    ("x=l1", r"^loss on 'x': network 'heads' has no such output"),
    ("trunk.out=l1", r"^loss on 'trunk.out': network 'heads' has no such output"),
    ("2=l1", r"^loss on '2': network 'heads' has no such output"),
    ("box.out=l3", r"^loss on output 'box.out': loss 'l3' is unknown; did you mean 'l1'"),
    ("box.out=0*l1", r"^loss on output 'box.out': weight=0.0 must be a finite number above 0"),
    ("box.out=-2*l1", r"^loss on output 'box.out': weight=-2.0 must be a finite number above 0"),
    ("box.out=inf*l1", r"^loss on output 'box.out': weight=inf must be a finite number above 0"),
    ("box.out=nan*l1", r"^loss on output 'box.out': weight=nan must be a finite number above 0"),
    ("box.out=1e-60*l1", r"^loss on output 'box.out': weight=1e-60 must be a finite number above 0"),
    ("box.out=half*l1", r"^loss='box.out=half\*l1': weight='half' is no number such as 0.5$"),
    ("=l1", r"^loss='=l1' must be KIND, OUTPUT=KIND or OUTPUT=WEIGHT\*KIND, such as box=0.5\*l1$"),
    (["box.out=l1", "box.out=2*l1"], r"^loss l1 on output 'box.out' is given twice; give it once, its weights added$"),
    (["mse", "classes.out=mse"], r"^loss mse on output 'classes.out' is given twice"),
    ([], r"^loss=\[\] names none; give at least one$"),
    ([3], r"^loss=3 must be a text such as 'l1' or 'box=0.5\*l1', or a Loss$"),
], ids=str)  # fmt: skip
def test_bad_losses_are_one_line(given: Any, message: str) -> None:
    with pytest.raises(SparseplanError, match=message) as error:
        problem(given)
    assert "\n" not in str(error.value)


def test_a_loss_that_does_not_suit_its_output_names_it() -> None:
    net = NetworkBuilder("image")
    y = net.conv(net.input("x", (1, 2, 2)), 3, 1)
    found = net.build((net.op("linear", net.op("flatten", (y,)), "head", out_features=2), y))
    with pytest.raises(SparseplanError, match=r"^network 'image': output 'conv0.out': loss cross_entropy takes an"):
        api.problem(found, l2="50kB", loss={"head.out": "l1", y: "cross_entropy"})


def test_attributes_belong_to_their_losses() -> None:
    found = problem([Loss("box.out", "huber", 2, {"delta": 0.5})]).options.losses
    assert found[0].attrs == {"delta": 0.5}
    with pytest.raises(ProblemError, match=r"loss on output 'box.out': loss 'huber' has no attribute 'delt'"):
        Loss("box.out", "huber", 1, {"delt": 1})
    with pytest.raises(ProblemError, match="is for one loss on the first output; give Loss"):
        problem({"box.out": "huber"}, loss_attrs={"delta": 1})
    with pytest.raises(ProblemError, match="give one of them"):
        TrainingOptions(loss="mse", losses=(Loss("box.out", "l1"),))


@settings(max_examples=50)
@given(st.sampled_from(["classes.out", "box.out"]), st.floats(1e-30, 1e30), st.sampled_from(["l1", "berhu"]))
def test_what_is_written_is_read(output: str, weight: float, kind: str) -> None:
    assert parse_loss(f"{output}={weight!r}*{kind}", NET) == Loss(output, kind, weight)


# -- targets ------------------------------------------------------------------------------------------


def planned(loss: Any = ("cross_entropy", "box.out=0.5*l1")) -> Any:
    return api.plan(problem(list(loss), must=["*"]))


X, CLASSES, BOXES = np.ones((1, 6), np.float32), np.array([[2]], np.int32), np.zeros((1, 4), np.float32)


@pytest.mark.parametrize(("target", "message"), [
    (BOXES, r"^the plan has losses on \['classes.out', 'box.out'\]; give target as a mapping"),
    ({"classes.out": CLASSES}, r"^target 'box.out' is missing"),
    ({"classes.out": CLASSES, "bax.out": BOXES}, r"^target 'bax.out' is of no loss of the plan; did you mean 'b"),
    ({"classes.out": CLASSES, "box.out": BOXES[:, :3]}, r"^target 'box.out' has shape \(1, 3\)"),
    ({"classes.out": BOXES[:, :1], "box.out": BOXES}, r"^target 'classes.out' has dtype=float32"),
    ({"classes.out": CLASSES, "box.out": np.zeros((2, 4))}, r"^numbers of samples differ"),
], ids=str)  # fmt: skip
def test_targets_that_do_not_fit(target: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        run(planned(), init_parameters(NET, 0), X, target)


def test_targets_by_label_where_an_output_has_two_losses() -> None:
    plan = planned(["box.out=l1", "box.out=2*mse"])
    ones = np.ones_like(BOXES)
    report = run(plan, init_parameters(NET, 0), X, {"box.out=l1": BOXES, "box.out=mse": ones})
    assert report.bitwise_equal
    (losses,) = report.output_losses
    assert list(losses) == ["box.out=l1", "box.out=mse"]
    assert report.loss == pytest.approx(losses["box.out=l1"] + 2 * losses["box.out=mse"])
    assert report.to_json()["output_losses"] == [losses]


def test_training_on_a_task_refuses_in_words() -> None:
    with pytest.raises(
        ProblemError, match=r"classes.out=cross_entropy, box.out=0.5\*l1: training on a task's data takes"
    ):
        adapt(planned(), init_parameters(NET, 0), X, BOXES)


# -- plan files ----------------------------------------------------------------------------------------


def test_plans_of_version_3_have_one_loss() -> None:
    plan = api.plan(problem("mse"))
    data = plan_to_dict(plan)
    assert data["problem"]["options"]["loss"] == "mse"
    assert "losses" not in data["problem"]["options"]
    assert plan_from_dict(data | {"version": 3}) == plan


def test_losses_in_files() -> None:
    plan = planned()
    data = plan_to_dict(plan)
    options = data["problem"]["options"]
    assert "loss" not in options
    assert options["losses"] == [
        {"output": "classes.out", "kind": "cross_entropy", "weight": 1.0, "attrs": {}},
        {"output": "box.out", "kind": "l1", "weight": 0.5, "attrs": {}},
    ]
    assert plan_from_dict(data) == plan
    for change, message in (
        ({"loss": "l1"}, "must have one of loss and losses"),
        ({"losses": []}, "must have one of loss and losses|loss '' is unknown"),
        ({"losses": [{"output": "box.out", "kind": "l1", "weight": -1}]}, "weight=-1"),
        ({"losses": [{"output": "nowhere", "kind": "l1"}]}, "loss on 'nowhere'"),
        ({"losses": [{"kind": "l1"}]}, "output"),
    ):
        broken = {**data, "problem": {**data["problem"], "options": {**options, **change}}}
        with pytest.raises(SparseplanError, match=message):
            plan_from_dict(broken)


def test_an_edit_of_what_a_loss_step_is_of_is_found() -> None:
    plan = planned(["classes.out=l1", "box.out=l1"])
    data = plan_to_dict(plan)
    steps = [s for s in data["steps"] if s["kind"] == "loss"]
    steps[0]["target"], steps[1]["target"] = steps[1]["target"], steps[0]["target"]
    edited = plan_from_dict(data)
    assert verify(edited.problem, edited)


# -- where networks come from ----------------------------------------------------------------------------


def test_outputs_of_specs_and_of_objects(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_spec(NET, tmp_path / "heads.json")
    found = imported(str(tmp_path / "heads.json"), outputs=["box.out"]).network
    assert found.outputs == ("box.out",)
    assert set(found.parameters) == {"trunk.weight", "trunk.bias", "box.weight", "box.bias"}
    with pytest.raises(NetworkError, match=r"output 'bax.out' is no tensor that an op of 'heads' makes; did you mean"):
        imported(NET, outputs=["bax.out"])
    common = ["plan", str(tmp_path / "heads.json"), "--l2", "50kB", "--dtype", "fp32"]
    assert main([*common, "--loss", "cross_entropy", "--loss", "box.out=0.5*l1", "-o", str(tmp_path / "p.json")]) == 0
    assert "loss: 1 cross_entropy on 'classes.out' + 0.5 l1 on 'box.out'" in capsys.readouterr().out
    assert read_plan(tmp_path / "p.json").problem.options.losses[1].weight == 0.5
    assert main([*common, "--loss", "box.out=0*l1"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_values_are_measured_of_what_the_losses_need(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_spec(NET, tmp_path / "heads.json")
    np.savez(tmp_path / "w.npz", **init_parameters(NET, 0))
    net, values = str(tmp_path / "heads.json"), str(tmp_path / "v.json")
    both = ["--loss", "classes.out=cross_entropy", "--loss", "box.out=0.5*l1"]
    measured = ["value", net, "--weights", str(tmp_path / "w.npz"), "-o", values, *both, "--by"]
    assert main([*measured, "magnitude"]) == 0
    assert main(["plan", net, "--l2", "50kB", "--value", values, *both]) == 0
    assert "6 of 6 tensors" in capsys.readouterr().out
    for by in ("fisher", "contribution"):
        assert main([*measured, by, "--task", "digits"]) == 2
        assert "is given by outputs, but task 'digits-target' has data for one loss" in capsys.readouterr().err


def test_an_output_by_its_position() -> None:
    assert imported(NET, outputs=["1"]).network.outputs == NET.outputs[1:2]
    assert imported(NET, outputs=["1", "0"]).network.outputs == (NET.outputs[1], NET.outputs[0])
    with pytest.raises(NetworkError, match="output '7' is no tensor"):
        imported(NET, outputs=["7"])
    assert parse_loss("1=l1", NET).output == NET.outputs[1]
    keys = {"a": NET.outputs[1], "again": NET.outputs[1], "b": NET.outputs[0]}
    assert parse_loss("2=l1", NET, keys).output == NET.outputs[0]
    # positions are names here, and 0 is none of them: an input that the module returns, say
    tuples = {"1": NET.outputs[1], "2": NET.outputs[0]}
    assert parse_loss("2=l1", NET, tuples).output == NET.outputs[0]
    with pytest.raises(ProblemError, match="loss on '0': network 'heads' has no such output"):
        parse_loss("0=l1", NET, tuples)


def test_names_of_an_onnx_file(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    names = ["scores", "box"]
    weights = [onnx.numpy_helper.from_array(np.ones((6, n), np.float32), f"w{n}") for n in (3, 4)]
    nodes = [
        helper.make_node("MatMul", ["x", w.name], [out], f"product_{out}")
        for w, out in zip(weights, names, strict=True)
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", kind, [1, 6])],
        [helper.make_tensor_value_info(out, kind, [1, n]) for out, n in zip(names, (3, 4), strict=True)], weights,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, tmp_path / "heads.onnx")
    found = importers.onnx(tmp_path / "heads.onnx")
    assert list(found.outputs) == names
    asked = api.problem(tmp_path / "heads.onnx", l2="50kB", loss={"scores": "cross_entropy", "box": "2*mse"})
    assert [x.output for x in asked.options.losses] == [found.outputs[n] for n in names]
    assert math.isclose(asked.options.losses[1].weight, 2.0)
    for wanted in ("box", "1"):
        one = importers.onnx(tmp_path / "heads.onnx", outputs=[wanted])
        assert one.network.outputs == (found.outputs["box"],)
    with pytest.raises(NetworkError, match="output '2' is unknown"):
        importers.onnx(tmp_path / "heads.onnx", outputs=["2"])
