"""The published network on real captures: what it is before adapting, what a constant reaches, that adapting helps.

The whole experiment is benchmarks/real_images.py; its table stands in docs/real-images.md.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from sparseplan.errors import DataError
from sparseplan.longwork import Case, Training
from sparseplan.run.trainer import predict, train
from sparseplan.tasks import get_task
from sparseplan.tasks.real import RealDepthTask
from sparseplan.weights import Weights, read_weights
from sparseplan.zoo import upydnet

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def task(reference_data: Path) -> RealDepthTask:
    found = get_task(reference_data / "micro_sec_mde.npz")
    assert isinstance(found, RealDepthTask)
    return found


@pytest.fixture(scope="module")
def weights(reference_data: Path) -> Weights:
    return read_weights(reference_data / "upydnet_tartanair.npz", upydnet())


@pytest.fixture(scope="module")
def script() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:  # as when it is run: beside what the benchmarks share
        patch.syspath_prepend(FOLDER)
        return importlib.import_module("real_images")


def test_the_captures(task: RealDepthTask) -> None:
    assert [len(s) for s in (task.train, task.val, task.test)] == [139, 30, 30]
    assert task.fb == 80
    invalid = np.isnan(np.concatenate([s.truth for s in (task.train, task.val, task.test)])).mean()
    assert 0.2 < invalid < 0.3
    assert np.nanmax(task.train.truth) < 4


def test_outputs_and_figures_are_the_published_ones(
    task: RealDepthTask, weights: Weights, reference_data: Path
) -> None:
    """Outputs computed in PyTorch to 1e-4; abs_rel 4.26, RMSE 6.54 m, δ1 0.005 by others' code."""
    with np.load(reference_data / "upydnet_reference.npz", allow_pickle=False) as reference:
        wanted, index = reference["test_output"], reference["test_index"]
    with np.load(reference_data / "micro_sec_mde.npz", allow_pickle=False) as real:
        np.testing.assert_array_equal(index, np.flatnonzero(real["split"] == 2))
    output = predict(upydnet(), weights, task.test.x)
    np.testing.assert_allclose(output[:, 0], wanted, rtol=1e-4, atol=1e-4)
    found = task.metrics(output, task.test)
    assert found["abs_rel"] == pytest.approx(4.26, abs=0.005)
    assert found["rmse"] == pytest.approx(6.54, abs=0.005)
    assert found["d1"] == pytest.approx(0.005, abs=0.0005)


def test_the_constant_is_the_published_one(task: RealDepthTask) -> None:
    """The median depth of the training split: abs_rel 0.301, RMSE 0.584 m, δ1 0.506 by others' code."""
    median = task.baselines()["median"]
    assert median["abs_rel"] == pytest.approx(0.301, abs=0.0005)
    assert median["rmse"] == pytest.approx(0.584, abs=0.0005)
    assert median["d1"] == pytest.approx(0.506, abs=0.0005)


def test_adapting_goes_most_of_the_way(task: RealDepthTask, weights: Weights) -> None:
    """Four epochs of decoder 0 undo the wrong scale; what is learnt beyond a constant takes the whole thirty."""
    network = upydnet()
    update = {p: 1.0 for p in network.parameters if p.startswith(("decoder0.", "ups0."))}
    settings = dataclasses.replace(task.settings, epochs=4, lr=3e-3)
    result = train(network, weights, update, task.train.x, task.train.target, settings, augment=task.augment)
    found = task.metrics(predict(network, result.parameters, task.val.x), task.val)
    constant = dataclasses.replace(task, test=task.val).baselines()["median"]
    assert found["rmse"] < 1.15 * constant["rmse"]
    assert found["abs_rel"] < 1.15 * constant["abs_rel"]


def test_a_stopped_benchmark_goes_on(
    script: ModuleType, reference_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """What is stored is not run again, nor planned; a damaged file is named, not believed; the table is the same."""
    ran: list[str] = []

    def run(training: Training, shared: Case) -> dict[str, object]:
        row = dict.fromkeys(shared.task.better, 0.25)
        ran.append("training")
        told = {"losses": [], "val_losses": [], "val_scores": [], "epochs": training.settings.epochs, "best": 0}
        return {"metrics": {"val": row, "test": row}, "training": told}

    def planned_sets(*_: object) -> dict[str, dict[str, float]]:
        ran.append("planning")
        return {"planned, 600kB": {"decoder2.conv2.bias": 1.0}}

    monkeypatch.setenv("SPARSEPLAN_REFERENCE_DATA", str(reference_data))
    monkeypatch.setattr(Training, "run", run)
    monkeypatch.setattr(script, "planned_sets", planned_sets)
    monkeypatch.setattr(script, "fits", lambda *_: "600kB")
    store = tmp_path / "runs"
    call = ["real_images.py", "--seeds", "2", "--store", str(store), "--sets", "encoder", "planned, 600kB"]
    monkeypatch.setattr(sys, "argv", call)
    assert script.main() == 0
    table = capsys.readouterr().out
    assert ran == ["planning", *["training"] * 4]
    assert "| *median* | | 0.301 |" in table
    assert "| planned, 600kB | 600kB | 0.250 |" in table
    files = {json.loads(path.read_text())["about"]["mode"]: path for path in store.iterdir()}
    assert len(list(store.iterdir())) == 5
    for path in files.values():
        whole = path.read_text()
        path.write_text(whole[:40])
        assert script.main() == 2
        assert "delete the file to have that run computed again" in capsys.readouterr().err
        path.unlink()
        assert script.main() == 0
        assert path.read_text() == whole
        assert capsys.readouterr().out == table
    assert sorted(ran) == ["planning"] * 2 + ["training"] * 5
    assert script.main() == 0
    assert len(ran) == 7, "everything is stored"
    assert capsys.readouterr().out == table


def test_absent_data_are_told(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSEPLAN_REFERENCE_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"no reference data at .*; set SPARSEPLAN_REFERENCE_DATA to their folder"):
        script.reference_folder()
