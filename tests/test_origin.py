"""A plan remembers where its network's weights come from, and they are found again, or asked for."""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import sparseplan as sp
from sparseplan.builder import NetworkBuilder, init_parameters
from sparseplan.cli import main
from sparseplan.errors import DataError, PlanError
from sparseplan.importers import Imported
from sparseplan.importers.spec import write_spec
from sparseplan.network import Network
from sparseplan.origin import Origin, weights_sha256
from sparseplan.planfile import plan_from_dict, plan_to_dict, read_plan, write_plan
from sparseplan.sources import plan_weights


def _network(name: str = "small") -> Network:
    net = NetworkBuilder(name)
    x = net.conv(net.input("x", (1, 8, 8)), 2, 3, 1, 1, name="a")
    return net.build(net.linear(net.op("flatten", x, "f"), 3, name="b"))


def _call(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = main(argv)
    out, err = capsys.readouterr()
    return code, out, err


def test_weights_given_with_the_plan_are_found_from_every_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    net = _network()
    weights = init_parameters(net, 7)
    (tmp_path / "plans").mkdir()
    monkeypatch.chdir(tmp_path)
    write_spec(net, "net.json")
    np.savez("w.npz", **weights)
    assert _call(capsys, "plan", "net.json", "--l2", "1MB", "--weights", "w.npz", "-o", "plans/p.json")[0] == 0
    assert json.loads(Path("plans/p.json").read_text())["problem"]["origin"]["source"] == "../w.npz"
    for folder, plan in ((".", "plans/p.json"), ("plans", "p.json"), ("/", str(tmp_path / "plans/p.json"))):
        monkeypatch.chdir(tmp_path if folder == "." else folder if folder == "/" else tmp_path / folder)
        found, _ = plan_weights(read_plan(plan))
        assert weights_sha256(found) == weights_sha256(weights)
    monkeypatch.chdir(tmp_path)
    code, out, _ = _call(capsys, "run", "plans/p.json")
    assert code == 0
    assert "parameters: w.npz" in out
    shutil.move("plans", "moved")  # both together
    Path("moved/deep").mkdir()
    shutil.move("w.npz", "moved/deep/w.npz")
    for argv in (["run", "moved/p.json"], ["check", "moved/p.json", "--task", "digits", "--loss", "l1"],
                 ["export", "moved/p.json", "--to", "c", "-o", "c"]):  # fmt: skip
        code, _, err = _call(capsys, *argv)
        assert code == 2
        assert "are not there: moved or deleted?" in err
        assert err.count("\n") == 1
    assert not Path("c").exists()
    assert _call(capsys, "export", "moved/p.json", "--to", "c", "-o", "c", "--weights", "moved/deep/w.npz")[0] == 0


def test_weights_that_changed_since_are_an_error_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    net = _network()
    monkeypatch.chdir(tmp_path)
    write_spec(net, "net.json")
    weights = init_parameters(net, 7)
    np.savez("w.npz", **weights)
    assert _call(capsys, "plan", "net.json", "--l2", "1MB", "--weights", "w.npz", "-o", "p.json")[0] == 0
    weights["b.bias"] = weights["b.bias"] + np.float32(1e-7)
    np.savez("w.npz", **weights)
    for argv in (["run", "p.json"], ["check", "p.json"], ["export", "p.json", "--to", "c", "-o", "c"]):
        code, _, err = _call(capsys, *argv)
        assert code == 2
        assert "'w.npz' are others than when it was made (sha256 " in err
    assert _call(capsys, "run", "p.json", "--weights", "w.npz")[0] == 0  # asked for by name
    assert _call(capsys, "run", "p.json", "--weights", "random")[0] == 0


def test_drawn_weights_are_exported_only_where_they_are_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan, out = tmp_path / "p.json", tmp_path / "c"
    write_plan(sp.plan(_network(), l2="1MB"), plan)
    code, _, err = _call(capsys, "export", str(plan), "--to", "c", "-o", str(out))
    assert code == 2
    assert "the plan names no weights; give " in err
    assert "random" in err
    assert not out.exists()
    code, text, _ = _call(capsys, "export", str(plan), "--to", "c", "-o", str(out), "--weights", "random")
    assert code == 0
    assert "drawn from seed 0, as asked" in text
    code, text, _ = _call(capsys, "run", str(plan))
    assert "drawn from seed 0, as the plan names none" in text


def test_networks_in_memory_travel_with_their_weights(tmp_path: Path) -> None:
    net = _network()
    weights = init_parameters(net, 3)
    origin = Origin("", weights_sha256(weights), taken_from="the module 'small' in memory")
    plan = sp.plan(Imported(net, weights, origin=origin), l2="1MB")
    with pytest.raises(DataError, match=r"are those of the module 'small' in memory; give weights=FILE"):
        plan_weights(plan)
    write_plan(plan, tmp_path / "p.json", weights)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["p.json", "p.weights.npz"]
    (tmp_path / "elsewhere").mkdir()
    for name in ("p.json", "p.weights.npz"):
        shutil.move(tmp_path / name, tmp_path / "elsewhere" / name)
    back = read_plan(tmp_path / "elsewhere" / "p.json")
    found, _ = plan_weights(back)
    assert all(np.array_equal(found[p], weights[p]) for p in weights)
    assert back.problem.origin is not None
    assert back.problem.origin.taken_from == "the module 'small' in memory"
    with pytest.raises(DataError, match=r"'a\.bias' of shape .* is missing"):
        write_plan(plan, tmp_path / "q.json", {p: a for p, a in weights.items() if p != "a.bias"})
    assert not (tmp_path / "q.json").exists()


def test_code_that_a_plan_file_names_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "trap.py").write_text("open('sprung', 'w')\ndef make(): pass\n")
    monkeypatch.chdir(tmp_path)
    plan = sp.plan(_network(), l2="1MB")
    write_plan(replace(plan, problem=replace(plan.problem, origin=Origin("trap:make", "0" * 64))), "p.json")
    for argv in (["run", "p.json"], ["check", "p.json"], ["export", "p.json", "--to", "c", "-o", "c"]):
        code, _, err = _call(capsys, *argv)
        assert code == 2
        assert "made by code, which is not run because a plan file names it" in err
    assert not (tmp_path / "sprung").exists()
    assert "trap" not in sys.modules


def test_the_zoo_s_are_found_and_older_files_are_read() -> None:
    plan = sp.plan("upydnet", "gap9", may=["decoder0.*"])
    assert plan.problem.origin is not None
    assert plan.problem.origin.source == "upydnet"
    known = sp.pretrained(plan.problem.network) if hasattr(sp, "pretrained") else None
    found, where = plan_weights(plan)
    assert where == "the zoo's"
    assert known is None or all(np.array_equal(found[p], known[p]) for p in known)
    data = plan_to_dict(plan)
    del data["problem"]["origin"]
    old = plan_from_dict({**data, "version": 3})
    assert old.problem.origin is None
    assert weights_sha256(plan_weights(old)[0]) == plan.problem.origin.sha256


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sha256": "0" * 63}, "64 hexadecimal digits"),
        ({"sha256": "G" * 64}, "64 hexadecimal digits"),
        ({"source": 5}, "must be a string"),
        ({"shapes": {"x": [0]}}, "shapes"),
        ({"fixed": {"x": "1"}}, "fixed"),
        ({"outputs": [1]}, "outputs"),
        ({"fold": 1}, "fold"),
        ({"pickle": "x"}, "pickle"),
    ],
)
def test_malformed_origins(change: dict[str, object], message: str) -> None:
    data = plan_to_dict(sp.plan(_network(), l2="1MB"))
    data["problem"]["origin"] = {"source": "w.npz", "sha256": "0" * 64, **change}
    with pytest.raises(PlanError, match=message):
        plan_from_dict(data)


@given(
    st.text(st.characters(min_codepoint=97, max_codepoint=122), min_size=1, max_size=4),
    st.lists(st.sampled_from(["a", "b", "..", "."]), max_size=4),
    st.lists(st.sampled_from(["a", "b", "..", "."]), max_size=4),
)
def test_paths_are_the_same_file_seen_from_a_plan_s_folder_and_back(
    name: str, file: list[str], folder: list[str]
) -> None:
    source = "/".join([*file, name + ".npz"])
    where = "/".join(folder) or "."
    there = Origin(source, "0" * 64).seen_from(where).seen_here(where)
    assert os.path.abspath(there.source) == os.path.abspath(source)


def test_a_digest_tells_names_shapes_and_values_apart() -> None:
    base = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros(2, np.float32)}
    same = {"b": np.zeros(2, np.float64), "a": np.asfortranarray(base["a"]).astype(">f4")}
    others = [{**base, "a": base["a"].reshape(3, 2)}, {**base, "b": np.ones(2)}, {"a": base["a"], "c": base["b"]}]
    assert weights_sha256(base) == weights_sha256(same)
    assert len({weights_sha256(w) for w in (base, *others)}) == 4
