"""Modules of several outputs: which are read, by which names; joint losses equal PyTorch's, gradients and all."""

from __future__ import annotations

import importlib.util
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch.nn", reason="PyTorch is not installed")
import torch
import torch.nn.functional as F
from torch import nn

from sparseplan import api, importers
from sparseplan.cli import main
from sparseplan.errors import NetworkError
from sparseplan.exporters import pytorch
from sparseplan.plan import Plan
from sparseplan.run import run

Pair = namedtuple("Pair", ["class_scores", "box"])


class Heads(nn.Module):
    """A trunk, a head for classes, and one for boxes that also reads the classes' scores."""

    def __init__(self, give: Callable[[Any, Any], Any]) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.trunk, self.logits, self.box = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(11, 4)
        self.give = give

    def forward(self, x: Any) -> Any:
        h = torch.tanh(self.trunk(x))
        z = self.logits(h)
        return self.give(z, self.box(torch.cat([h, z], 1)))


WAYS: dict[str, tuple[Callable[[Any, Any], Any], list[str]]] = {
    "dict": (lambda z, b: {"logits": z, "box": b}, ["logits", "box"]),
    "tuple": (lambda z, b: (z, b), ["0", "1"]),
    "nested": (lambda z, b: {"heads": [z, {"box": b}]}, ["heads.0", "heads.1.box"]),
    "named tuple": (lambda z, b: Pair(z, b), ["class_scores", "box"]),
    "with a constant": (lambda z, b: {"logits": z, "none": None, "box": b}, ["logits", "box"]),
}


@pytest.mark.parametrize("way", WAYS)
def test_outputs_are_known_by_what_the_module_calls_them(way: str) -> None:
    give, names = WAYS[way]
    found = importers.torch(Heads(give), torch.randn(2, 6))
    assert dict(found.outputs) == dict(zip(names, ("logits.out", "box.out"), strict=True))
    (note,) = (n for n in found.notes if "outputs" in n)
    assert note.startswith(f"of 2 outputs, {names[0]!r} (tensor 'logits.out')")
    assert "the loss is on the first, unless --output NAME" in note
    one = importers.torch(Heads(give), torch.randn(1, 6), outputs=[names[1]])
    assert one.network.outputs == ("box.out",)
    assert not any("outputs" in n for n in one.notes)
    turned = importers.torch(Heads(give), torch.randn(1, 6), outputs=list(reversed(names)))
    assert turned.network.outputs == ("box.out", "logits.out")


def test_outputs_by_position_and_by_tensor() -> None:
    module = Heads(WAYS["dict"][0])
    assert importers.torch(module, torch.randn(1, 6), outputs=["1"]).network.outputs == ("box.out",)
    inside = importers.torch(module, torch.randn(1, 6), outputs=["trunk.out"])
    assert inside.network.outputs == ("trunk.out",)
    assert set(inside.network.parameters) == {"trunk.weight", "trunk.bias"}
    with pytest.raises(NetworkError, match="output 'bax' is unknown; did you mean 'box'"):
        importers.torch(module, torch.randn(1, 6), outputs=["bax"])


def planned(**options: Any) -> tuple[Heads, Plan]:
    module = Heads(WAYS["dict"][0])
    found = importers.torch(module, torch.randn(1, 6))
    settings = {"dtype": "fp32", "must": ["*"], "loss": {"logits": "cross_entropy", "box": "0.5*huber"}, **options}
    return module, api.plan(found, **settings)


@pytest.mark.parametrize("box", ["0.5*huber", "2*l1", "0.1*mse", "berhu"])
@pytest.mark.parametrize("batch", [1, 3])
def test_gradients_equal_autograds_of_the_weighted_sum(box: str, batch: int) -> None:
    module, plan = planned(loss={"logits": "cross_entropy", "box": box}, batch=batch)
    rng = np.random.default_rng(0)
    x, boxes = rng.random((batch, 6), np.float32), rng.standard_normal((batch, 4)).astype(np.float32)
    boxes[0, 1] = np.nan
    classes = rng.integers(0, 3, (batch, 1), np.int32)
    weights = {p: a.detach().numpy().copy() for p, a in module.named_parameters()}
    targets = {"logits.out": classes, "box.out": boxes}
    report = run(plan, weights, x, targets)
    assert report.bitwise_equal
    out = module(torch.from_numpy(x))
    label = torch.from_numpy(boxes)
    r = (out["box"] - label)[~torch.isnan(label)]
    weight, _, kind = box.rpartition("*")
    bend = 0.2 * r.abs().max().detach()
    value = {
        "l1": r.abs().mean(), "mse": (r**2).mean(), "huber": F.huber_loss(r, torch.zeros_like(r)),
        "berhu": torch.where(r.abs() <= bend, r.abs(), (r**2 + bend**2) / (2 * bend)).mean(),
    }[kind]  # fmt: skip
    classed = F.cross_entropy(out["logits"], torch.from_numpy(classes[:, 0]).long())
    total = classed + float(weight or 1) * value
    total.backward()
    (found,) = report.output_losses
    assert found == {"logits.out": pytest.approx(classed.item(), rel=1e-5),
                     "box.out": pytest.approx(value.item(), rel=1e-5)}  # fmt: skip
    assert report.loss == pytest.approx(total.item(), rel=1e-5)
    assert set(report.gradients) == {p for p, _ in module.named_parameters()}
    for p, a in module.named_parameters():
        assert a.grad is not None
        np.testing.assert_allclose(report.gradients[p], a.grad.numpy(), atol=1e-6, rtol=1e-4, err_msg=p)


@pytest.mark.parametrize("losses", [
    {"logits": "cross_entropy", "box": "0.5*huber"}, {"logits": "0.3*berhu", "box": "2*mse"}, {"box": "l1"},
    ["box=l1", "box=0.1*mse", "logits=mse"],
], ids=str)  # fmt: skip
def test_the_follower_has_the_losses(losses: Any, tmp_path: Path) -> None:
    module, plan = planned(loss=losses, must=[])
    pytorch.export(plan, tmp_path / "follow.py")
    spec = importlib.util.spec_from_file_location("follow", tmp_path / "follow.py")
    assert spec is not None
    assert spec.loader is not None
    follow = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(follow)
    handle = follow.apply(module)
    rng = np.random.default_rng(1)
    x = rng.random((1, 6), np.float32)
    targets: dict[str, np.ndarray] = {}
    for s in plan.problem.options.loss_steps(plan.network):
        shape = plan.network.tensor[s.loss.output].shape
        targets[s.label] = rng.standard_normal((1, *shape)).astype(np.float32)
        targets[s.label][0, 0] = np.nan
        if s.loss.kind == "cross_entropy":
            targets[s.label] = np.array([[2]], np.int32)
    weights = {p: a.detach().numpy().copy() for p, a in module.named_parameters()}
    report = run(plan, weights, x, targets)
    out = module(torch.from_numpy(x))
    outputs = {"logits.out": out["logits"], "box.out": out["box"]}
    for total in (follow.objective, pytorch.loss_of(plan)):
        module.zero_grad()
        value = total(outputs, {n: torch.from_numpy(a) for n, a in targets.items()})
        value.backward(retain_graph=True)
        assert value.item() == pytest.approx(report.loss, rel=1e-5)
        for p, gradient in report.gradients.items():
            mine = dict(module.named_parameters())[p].grad
            assert mine is not None
            np.testing.assert_allclose(gradient, mine.numpy(), atol=1e-6, rtol=1e-4, err_msg=p)
    with pytest.raises(ValueError, match="outputs lack"):
        follow.objective({}, targets)
    handle.remove()


MODULE = """
import torch
from torch import nn

class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk, self.scores, self.box = nn.Linear(6, 6), nn.Linear(6, 3), nn.Linear(6, 4)

    def forward(self, x):
        h = self.trunk(x).relu()
        return {"scores": self.scores(h), "box": self.box(h)}

def make():
    return TwoHeads(), torch.randn(1, 6)
"""


def test_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "my_heads.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    common = ["plan", "my_heads:make", "--l2", "50kB", "--dtype", "fp32"]
    assert main([*common, "--loss", "scores=cross_entropy", "--loss", "box=0.5*l1", "-o", "p.json"]) == 0
    told = capsys.readouterr()
    assert "note: of 2 outputs, 'scores' (tensor 'scores.out'), 'box' (tensor 'box.out')" in told.err
    assert "loss: 1 cross_entropy on 'scores.out' + 0.5 l1 on 'box.out'" in told.out
    assert main(["verify", "p.json"]) == 0
    assert main(["run", "p.json", "--weights", "random"]) == 0
    told = capsys.readouterr()
    assert "scores.out" in told.out
    assert "(weight 0.5)" in told.out
    assert main(["check", "p.json", "--task", "digits"]) == 2
    assert "a task takes one target" in capsys.readouterr().err
    assert main(common) == 0
    assert "loss: l1 on 'scores.out'; none on 'box.out'" in capsys.readouterr().out
    assert main([*common, "--output", "box"]) == 0
    told = capsys.readouterr()
    assert "box" in told.out
    assert "scores" not in told.out + told.err
    assert main([*common, "--output", "scoers"]) == 2
    assert "output 'scoers' is unknown; did you mean 'scores'" in capsys.readouterr().err
