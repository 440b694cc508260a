"""What a check trains: arenas of plans, early stopping by validation alone, stored runs, one message for bad input."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from planted import plan_of, problem_of
from test_longwork import SETS, Tiny, tiny, tiny_task

from sparseplan.builder import init_parameters
from sparseplan.check import CheckReport, check, train_sets
from sparseplan.errors import DataError, OutputError, PlanError, ProblemError
from sparseplan.plan import Plan
from sparseplan.run import EarlyStopping, LrSchedule, TrainSettings, adapt, plan_settings, predict, train
from sparseplan.tasks.base import Split

NET = tiny()
PARAMS = init_parameters(NET)
TASK = tiny_task()
NAMED = {f"set {i}": u for i, u in enumerate(SETS)}


def a_plan(**options: object) -> Plan:
    return plan_of(problem_of(NET, loss="mse", dtype="fp32", **options), {"a.weight": 1.0, "b.bias": 1.0}, {})


def test_rows_of_every_set_seed_and_split() -> None:
    rows = train_sets(NET, PARAMS, {**NAMED, "none": {}}, TASK, seeds=[3, 5])
    assert {name: len(r) for name, r in rows.items()} == dict.fromkeys([*NAMED, "none"], 2)
    settings = replace(TASK.settings, seed=5)
    x, target = TASK.train.x, TASK.train.target
    trained = train(NET, PARAMS, SETS[1], x, target, settings, TASK.augment).parameters
    for name, split in (("val", TASK.val), ("test", TASK.test)):
        assert rows["set 1"][1][name] == TASK.metrics(predict(NET, trained, split.x), split)
        assert rows["none"][0][name] == TASK.metrics(predict(NET, PARAMS, split.x), split)
    report = check(NET, PARAMS, NAMED, TASK, seeds=[3, 5])
    assert report.after["set 1"] == tuple(row["test"] for row in rows["set 1"])


def test_runs_are_kept_and_shared_between_calls(tmp_path: Path) -> None:
    lines: list[str] = []
    first = check(NET, PARAMS, NAMED, TASK, seeds=1, store=tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
    again = check(NET, PARAMS, NAMED, TASK, seeds=2, store=tmp_path, progress=lines.append)
    assert len(list(tmp_path.iterdir())) == 6
    assert lines[0] == "training: 6 runs, 1 at a time, 3 of them stored before"
    rows = train_sets(NET, PARAMS, NAMED, TASK, seeds=2, store=tmp_path)
    assert len(list(tmp_path.iterdir())) == 6
    assert again == check(NET, PARAMS, NAMED, TASK, seeds=2)
    assert {n: r[0]["test"] for n, r in rows.items()} == {n: r[0] for n, r in first.after.items()}


def test_plans_train_in_their_arenas() -> None:
    fused, summed = a_plan(), a_plan(gradients="accumulate", optimizer="adam", batch=2)
    report = check(NET, PARAMS, {}, TASK, seeds=2, epochs=2, plans={"fused": fused, "summed": summed})
    for name, plan in (("fused", fused), ("summed", summed)):
        settings = plan_settings(plan, epochs=2, seed=1)
        direct = adapt(plan, PARAMS, TASK.train.x, TASK.train.target, settings, augment=TASK.augment)
        output = predict(NET, direct.result.parameters, TASK.test.x, dtype=settings.dtype)
        assert report.after[name][1] == TASK.metrics(output, TASK.test)
        told = report.training[name][1]
        assert told["claimed_bytes"] == told["touched_bytes"] == dict(plan.peak_bytes)
        assert told["guard_intact"]
        assert told["losses"] == list(direct.result.losses)
    assert "fused: trained in its arena of L2" in report.text()
    assert "all of it touched; guard zones intact; 3 of 24 updates under all checks" in report.text()
    assert json.loads(json.dumps(report.to_json()))["training"]["summed"][0]["updates"] == 2
    # the plan's set fast, with the same settings, is the same training
    fast = check(NET, PARAMS, {"fast": fused.update}, TASK, seeds=2, settings=plan_settings(fused, epochs=2))
    assert fast.after["fast"] == report.after["fused"]


def test_the_rate_of_an_arena_is_the_settings_where_the_optimizer_is() -> None:
    plan = a_plan()
    for settings, lr in (
        (TrainSettings("mse", optimizer="sgd", lr=0.5, batch=4), 0.5),
        (TrainSettings("mse", optimizer="adam", lr=0.5, batch=4, schedule=LrSchedule("cosine")), 0.01),
    ):
        found = check(NET, PARAMS, {}, TASK, seeds=1, plans={"p": plan}, settings=settings)
        own = plan_settings(plan, settings, lr=lr)
        direct = adapt(plan, PARAMS, TASK.train.x, TASK.train.target, own, augment=TASK.augment)
        assert found.training["p"][0]["losses"] == list(direct.result.losses)


def test_early_stopping_goes_by_the_headline_on_validation_alone() -> None:
    stop = replace(TASK.settings, epochs=30, lr=0.5, stopping=EarlyStopping(2))
    found = check(NET, PARAMS, {"set": SETS[0]}, TASK, seeds=3, settings=stop)
    for told in found.training["set"]:
        scores = told["val_scores"]
        assert told["best"] == int(np.argmax(scores))
        assert told["epochs"] in (30, told["best"] + 2)
        assert len(scores) == told["epochs"] + 1
    # the test split does not enter: another one, the same training
    other = Tiny(TASK.name, TASK.train, TASK.val, Split(TASK.test.x, TASK.test.truth, 5 * TASK.test.truth), stop)
    again = check(NET, PARAMS, {"set": SETS[0]}, other, seeds=3)
    assert again.training == found.training
    assert again.after != found.after


def test_reports_without_training_are_as_before() -> None:
    report = CheckReport("t", {"error": 1.0}, {"a": ({"error": 0.5}, {"error": 1.5})}, {}, {"error": "lower"})
    assert report.mean("a", "error") == 1.0
    assert report.spread("a", "error") == pytest.approx(0.7071, abs=1e-4)
    assert report.text().splitlines()[0] == "task t, test split"


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(ProblemError, match="name='p' is an update set and a plan; give each a name of its own"):
        check(NET, PARAMS, {"p": SETS[0]}, TASK, plans={"p": a_plan()})
    with pytest.raises(PlanError, match="plan 'p' with status=UNKNOWN has nothing to train"):
        check(NET, PARAMS, {}, TASK, plans={"p": Plan(a_plan().problem, "UNKNOWN", 0.0, 0.0)})
    from test_trainer import small

    with pytest.raises(ProblemError, match=r"plan 'p' is of network 'tiny', which is not the one given \('small'\)"):
        check(small(), init_parameters(small()), {}, tiny_like_small(), plans={"p": a_plan()})
    with pytest.raises(ProblemError, match=r"seeds=\[1, 1\] must be different whole numbers"):
        train_sets(NET, PARAMS, NAMED, TASK, seeds=[1, 1])
    with pytest.raises(ProblemError, match=r"seeds=\[\] must be different whole numbers, at least one"):
        train_sets(NET, PARAMS, NAMED, TASK, seeds=[])
    with pytest.raises(ProblemError, match="seed=-1 must be a whole number, at least 0"):
        train_sets(NET, PARAMS, NAMED, TASK, seeds=[-1])
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"store='.*file' is a file; name a folder for finished runs"):
        check(NET, PARAMS, NAMED, TASK, store=tmp_path / "file")
    with pytest.raises(DataError, match=r"'a\.weight' has shape"):
        check(NET, {**PARAMS, "a.weight": np.zeros(3)}, NAMED, TASK)
    wild = TrainSettings("mse", optimizer="sgd", lr=1e30, epochs=5)
    with pytest.raises(DataError, match=r"the loss became .* lower lr=1e\+30"), np.errstate(all="ignore"):
        check(NET, PARAMS, {"all": dict.fromkeys(PARAMS, 1.0)}, TASK, settings=wild)


def tiny_like_small() -> Tiny:
    x = np.random.default_rng(0).random((4, 2, 6, 6), np.float32)
    split = Split(x, x[:, :1], x[:, :1])
    return Tiny("other", split, split, split, TrainSettings("mse"))
