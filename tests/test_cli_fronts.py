"""The commands that draw fronts, measure values and train: what they print, write and refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from sparseplan.cli import main
from sparseplan.planfile import read_plan
from sparseplan.run.machine import Machine
from sparseplan.verify import verify

pytest.importorskip("sklearn", reason="the digits task needs scikit-learn")

SMALL = ("--device", "gap9", "--loss", "cross_entropy", "--together", "layer", "--fractions", "1", "--jobs", "1")
QUICK = ("--task", "digits", "--epochs", "1", "--seeds", "1", "--jobs", "1")


def call(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    code = main(args)
    found = capsys.readouterr()
    return code, found.out, found.err


@pytest.fixture(scope="module")
def plan_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plans") / "plan.json"
    assert main(["plan", "mobilenetv2_digits", "--device", "gap9", "--l2", "160kB", "--loss", "cross_entropy", "-o",
                 str(path)]) == 0  # fmt: skip
    return path


def test_pareto_tells_writes_and_draws(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    csv, figure, plans = tmp_path / "front.csv", tmp_path / "front.png", tmp_path / "plans"
    code, out, err = call(capsys, "pareto", "resnet8", *SMALL, "--csv", str(csv), "--figure", str(figure),
                          "--plans", str(plans))  # fmt: skip
    assert (code, err) == (0, "")
    frame = pd.read_csv(csv)
    assert f"{len(frame)} points of the front, {len(frame)} proven optimal" in out
    assert frame["cost"].is_monotonic_increasing
    assert frame["value"].is_monotonic_increasing
    assert figure.stat().st_size > 10_000
    written = sorted(int(p.stem.removeprefix("plan-")) for p in plans.iterdir())
    assert written == list(frame["cost"])
    cheapest = read_plan(plans / f"plan-{written[0]}.json")
    assert not verify(cheapest.problem, cheapest)
    assert cheapest.problem.device.level("L2").bytes == written[0]


def test_pareto_as_json_thinned_and_sampled(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "pareto", "resnet8", *SMALL, "--points", "4", "--json")
    front = json.loads(out)
    assert code == 0
    assert not front["exhaustive"]
    assert len(front["points"]) <= 4
    code, out, _ = call(capsys, "pareto", "resnet8", *SMALL, "--budgets", "300kB,400kB", "--json")
    sampled = json.loads(out)["points"]
    assert [p["cost"] for p in sampled] == [300_000, 400_000]
    assert all(p["status"] == "OPTIMAL" and p["l2_bytes"] <= p["cost"] for p in sampled)


def test_a_front_is_trained_beside_what_people_use(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    store, figure, rows = tmp_path / "runs", tmp_path / "front.png", tmp_path / "rows.csv"
    command = ("pareto", "mobilenetv2_digits", "--device", "gap9", "--loss", "cross_entropy", "--together", "block",
               "--fractions", "1", *QUICK, "--points", "2", "--random", "1", "--store", str(store), "--figure",
               str(figure), "--train-csv", str(rows))  # fmt: skip
    code, first, err = call(capsys, *command)
    assert (code, err) == (0, "")
    for kind in ("planned", "last layers", "biases", "blocks", "random", "none", "full", "without network"):
        assert kind in first
    table = pd.read_csv(rows)
    assert set(table["split"]) == {"val", "test"}
    assert set(table["kind"]) == {"planned", "last layers", "biases", "blocks", "random", "none", "full"}
    assert figure.stat().st_size > 20_000
    runs = sorted(p.name for p in store.iterdir())
    assert runs
    code, again, _ = call(capsys, *command)  # nothing is trained again
    assert again == first
    assert sorted(p.name for p in store.iterdir()) == runs


def test_values_by_measure_and_by_training(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for by in ("count", "absolute-gradient"):
        path = tmp_path / f"{by}.json"
        code, out, err = call(capsys, "value", "mobilenetv2_digits", "--by", by, "--task", "digits", "-o", str(path))
        assert (code, err) == (0, "")
        assert "block1.expand.conv.weight" in out
    path = tmp_path / "measured.json"
    code, out, err = call(capsys, "value", "mobilenetv2_digits", *QUICK, "--units",
                          "early=block0.*,block1.*;late=block4.*,block5.*", "--tied", "-o", str(path))  # fmt: skip
    assert (code, err) == (0, "")
    assert "early+late" in out
    found = json.loads(path.read_text())
    assert found["source"]["task"].startswith("digits")
    assert len(found["ties"]) == 2
    code, out, err = call(capsys, "plan", "mobilenetv2_digits", "--device", "gap9", "--l2", "200kB", "--loss",
                          "cross_entropy", "--value", str(path), "--json")  # fmt: skip
    assert (code, err) == (0, "")
    update = json.loads(out)["update"]
    for tie in found["ties"]:
        assert len([p for p in tie if p in update]) in (0, len(tie))


def test_check_takes_training_options(capsys: pytest.CaptureFixture[str], plan_file: Path) -> None:
    code, out, err = call(capsys, "check", str(plan_file), *QUICK, "--train-optimizer", "momentum", "--lr", "0.01",
                          "--schedule", "cosine", "--warmup", "0.1", "--accumulate", "2", "--early-stopping", "2",
                          "--json")  # fmt: skip
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert set(report["after"]) == {"planned"}
    assert len(report["training"]["planned"][0]["val_scores"]) >= 1


def test_check_trains_in_the_arena(capsys: pytest.CaptureFixture[str], plan_file: Path) -> None:
    code, out, err = call(capsys, "check", str(plan_file), *QUICK, "--arena", "--lr", "0.005")
    assert (code, err) == (0, "")
    assert "trained in its arena" in out
    assert "all of it touched; guard zones intact" in out
    assert "equal to the reference bit for bit" in out


def test_an_arena_that_is_not_as_claimed_fails_the_check(
    capsys: pytest.CaptureFixture[str], plan_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Machine, "touched", lambda self: dict.fromkeys(self.arena.levels, 1))
    code, out, _ = call(capsys, "check", str(plan_file), *QUICK, "--arena", "--lr", "0.005")
    assert code == 1
    assert "NOT all of it touched" in out


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("pareto", "resnet8", "--device", "gap9", "--axis", "l5"), "--axis l5 must be one of l2, l1, macs, time"),
        (("pareto", "resnet8", "--device", "gap9", "--axis", "time"), "gives no MAC rates"),
        (("pareto", "resnet8", "--axis", "l1"), "has no L1 of known size"),
        (("pareto", "resnet8", *SMALL, "--budgets", "1kB"), "none is feasible"),
        (("pareto", "resnet8", *SMALL, "--budgets", "x"), "size='x' is not a number of bytes"),
        (("pareto", "resnet8", *SMALL, "--points", "1"), "--points 1 must be a whole number, at least 2"),
        (("pareto", "resnet8", *SMALL, "--csv", "no/such/folder.csv"), "does not exist; make it first"),
        (("pareto", "resnet8", *SMALL, "--figure", "front.xyz"), "format 'xyz' is unknown"),
        (("pareto", "resnet8", *SMALL, "--train", "--no-train"), "give one of them"),
        (("pareto", "resnet8", "--device", "gap9", "--together", "a=conv;a=b"), "a name of its own"),
        (("value", "resnet8", "--by", "fish", "-o", "v.json"), "did you mean 'fisher'?"),
        (("value", "resnet8", "--by", "count", "-o", "no/such/v.json"), "does not exist; make it first"),
        (("value", "mobilenetv2_digits", "--task", "nosuch/data.npz", "-o", "v.json"), "nosuch/data.npz"),
        (("check", "nosuch.json"), "plan 'nosuch.json' cannot be read"),
    ],
)
def test_bad_input_is_one_clear_message(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    args: tuple[str, ...],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = call(capsys, *args)
    assert code == 2
    assert words in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())
    assert "Traceback" not in out + err


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--arena", "--full"), "leave --full out"),
        (("--arena", "--train-optimizer", "adam"), "the plan is for sgd"),
        (("--lr", "-1"), "--lr -1.0 must be a number"),
        (("--warmup", "2"), "--warmup 2.0 must be a share"),
        (("--task", "digit"), "did you mean 'digits'?"),
    ],
)
def test_bad_training_options(
    capsys: pytest.CaptureFixture[str], plan_file: Path, args: tuple[str, ...], words: str
) -> None:
    code, _, err = call(capsys, "check", str(plan_file), "--task", "digits", *args)
    assert code == 2
    assert words in err
    assert err.count("\n") == 1
