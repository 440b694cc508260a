"""A plain PyTorch loop over a module that follows a plan changes exactly the plan's channels, as our trainer does."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch.nn", reason="PyTorch is not installed")
import torch
import torch.nn.functional as F
from modules import ResNet, Tied
from torch import nn

from sparseplan import api, importers
from sparseplan.errors import ExportError, PlanError
from sparseplan.exporters import pytorch
from sparseplan.importers.draft import Imported
from sparseplan.ops import infos, op_def
from sparseplan.plan import Plan
from sparseplan.run.settings import TrainSettings
from sparseplan.run.trainer import Trainer

SGD = TrainSettings(loss="mse", optimizer="sgd", lr=0.05, batch=1, dtype="fp32")


def planned(found: Imported, *must: str) -> Plan:
    return api.plan(found.network, must=list(must), may=list(must), dtype="fp32", loss="mse")


def resnet() -> tuple[ResNet, Imported, Plan]:
    torch.manual_seed(0)
    module = ResNet()
    module.stem[1].running_mean.uniform_(-0.5, 0.5)
    found = importers.torch(module, torch.randn(1, 3, 16, 16))
    return module, found, planned(found, "b.weight@1/4", "b.bias", "norm.weight", "fc.*", "a.weight@1/2")


def loop(module: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 3) -> list[tuple[Any, Any]]:
    """As anybody would train; in train mode, save dropout."""
    torch.manual_seed(1)
    module.train()
    for m in module.modules():
        if isinstance(m, nn.Dropout):
            m.eval()
    data = [(torch.randn(1, 3, 16, 16), torch.randn(1, 5)) for _ in range(steps)]
    for x, t in data:
        optimizer.zero_grad()
        F.mse_loss(module(x), t).backward()
        optimizer.step()
    return data


def kept(plan: Plan, name: str) -> tuple[slice, ...]:
    """What of a parameter the plan updates, told from the op's definition alone."""
    fraction, net = plan.update.get(name, 0.0), plan.problem.network
    if fraction == 1:
        return (slice(None),)
    if not fraction:
        return (slice(0, 0),)
    op, slot = net.owner[name]
    cut = op_def(op.kind).fraction(infos(net)[op.name], slot)
    assert cut is not None
    return (*(slice(None),) * cut.axis, slice(0, int(cut.units * fraction) * cut.per_unit))


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, 0.05),
    "momentum and decay": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9, weight_decay=0.1, nesterov=True),
    "adamw": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.5),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_exactly_the_planned_channels_change(optimizer: str) -> None:
    module, _, plan = resnet()
    # an earlier training leaves gradients and momentum behind
    chosen = OPTIMIZERS[optimizer](module.parameters())
    loop(module, chosen, 1)
    before = {n: t.detach().clone() for n, t in module.state_dict().items()}
    handle = pytorch.apply(plan, module)
    loop(module, chosen)
    after = module.state_dict()
    for name, old in before.items():
        changed = (after[name] != old).numpy()
        allowed = np.zeros(old.shape, bool)
        if name in plan.problem.network.parameters and old.ndim:
            allowed[kept(plan, name)] = True
        assert not changed[~allowed].any(), name
        # weight decay moves all that may move; without it, entries behind a dead ReLU have no gradient
        assert (changed[allowed].any() if optimizer == "sgd" else changed[allowed].all()) or not allowed.any(), name
    assert handle.updated == sum(int(np.prod(before[n][kept(plan, n)].shape)) for n in plan.update)
    assert handle.updated + handle.frozen == sum(p.numel() for p in module.parameters())


def test_steps_are_those_of_our_trainer() -> None:
    module, found, plan = resnet()
    handle = pytorch.apply(plan, module)
    trainer = Trainer(found.network, found.weights, plan.update, SGD)
    (name,) = found.network.inputs
    for x, t in loop(module, torch.optim.SGD(module.parameters(), 0.05), 4):
        trainer.step({name: x.numpy()}, t.numpy())
    handle.remove()
    for name, array in trainer.parameters().items():
        expected = module.state_dict()[name].numpy()
        np.testing.assert_allclose(array, expected, rtol=1e-4, atol=2e-6, err_msg=name)


def test_removing_undoes_all_but_the_training() -> None:
    module, _, plan = resnet()
    module.a.weight.requires_grad_(False)
    flags = {n: p.requires_grad for n, p in module.named_parameters()}
    handle = pytorch.apply(plan, module)
    assert {n for n, p in module.named_parameters() if p.requires_grad} == set(plan.update)
    module.train()
    module(torch.randn(1, 3, 16, 16))
    assert not module.norm.training
    handle.remove()
    handle.remove()
    assert {n: p.requires_grad for n, p in module.named_parameters()} == flags
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    old = {n: p.detach().clone() for n, p in module.named_parameters()}
    module.train()
    F.mse_loss(module(torch.randn(2, 3, 16, 16)), torch.randn(2, 5)).backward()
    optimizer.step()
    assert all(torch.equal(p, old[n]) != flags[n] for n, p in module.named_parameters())
    assert module.norm.training


def test_weights_loaded_between_steps_stay() -> None:
    module, _, plan = resnet()
    pytorch.apply(plan, module)
    optimizer = torch.optim.AdamW(module.parameters(), 0.01)
    loop(module, optimizer, 1)
    module.load_state_dict({n: torch.rand_like(t) if t.ndim else t for n, t in module.state_dict().items()})
    fresh = module.b.weight.detach().clone()
    loop(module, optimizer, 1)
    rest = np.ones(fresh.shape, bool)
    rest[kept(plan, "b.weight")] = False
    assert torch.equal(module.b.weight.detach()[rest], fresh[rest])


def _load(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location("exported_plan", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["exported_plan"] = module
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules["exported_plan"]
    return module


def test_the_file_does_the_same_alone(tmp_path: Path) -> None:
    module, _, plan = resnet()
    path = tmp_path / "plan_torch.py"
    pytorch.export(plan, path)
    text = path.read_text(encoding="utf-8")
    assert not any(line.lstrip().startswith(("import sparseplan", "from sparseplan")) for line in text.splitlines())
    written = _load(path)
    twin = ResNet()
    twin.load_state_dict(module.state_dict())
    assert written.apply(module).table == pytorch.apply(plan, twin).table == written.TABLE
    for m in (module, twin):
        loop(m, torch.optim.AdamW(m.parameters(), 0.01))
    assert all(torch.equal(a, b) for a, b in zip(module.state_dict().values(), twin.state_dict().values(), strict=True))
    with pytest.raises(written.MismatchError, match=r"'a\.weight'"):
        written.apply(nn.Linear(2, 2))


def test_moved_axes_and_shared_parameters() -> None:
    torch.manual_seed(0)
    module = Tied()
    found = importers.torch(module, torch.randint(0, 9, (1, 5)))
    plan = planned(found, "tokens.weight", "matrix", "twice.weight")
    pytorch.apply(plan, module, layouts=found.layouts)
    assert {n for n, p in module.named_parameters() if p.requires_grad} == {"tokens.weight", "matrix", "twice.weight"}

    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.randn(8, 3))

        def forward(self, x: Any) -> Any:
            return x @ self.w

    product = Product()
    found = importers.torch(product, torch.randn(1, 8))
    assert found.layouts == {"w": (1, 0)}
    assert any("axes of parameters ['w'] are moved" in note for note in found.notes)
    plan = planned(found, "w@1/4")
    with pytest.raises(ExportError, match=r"'w' has shape \(8, 3\) in the module and \(3, 8\).*give layouts"):
        pytorch.apply(plan, product)
    pytorch.apply(plan, product, layouts=found.layouts)
    optimizer, old = torch.optim.SGD(product.parameters(), 0.1, weight_decay=0.1), product.w.detach().clone()
    product(torch.randn(1, 8)).sum().backward()
    optimizer.step()
    changed = (product.w != old).all(1)
    assert changed.tolist() == [True, True] + [False] * 6


def test_what_does_not_fit_is_named() -> None:
    module, found, plan = resnet()

    class Renamed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.bb, self.norm, self.fc = module.a, module.b, module.norm, module.fc

    with pytest.raises(ExportError, match=r"parameter 'b\.weight', which the plan updates, is not in the module; did"):
        pytorch.apply(plan, Renamed())
    module.fc = nn.Linear(16, 6)
    with pytest.raises(ExportError, match=r"'fc.weight' has shape \(6, 16\) in the module and \(5, 16\) in the plan"):
        pytorch.apply(plan, module)
    none = api.plan(found.network, l2=100, dtype="fp32")
    with pytest.raises(PlanError, match="nothing to export"):
        pytorch.apply(none, module)
    layouts: Mapping[str, Any] = {"b.weight": (0, 0, 1, 2)}
    with pytest.raises(ExportError, match="is no permutation"):
        pytorch.table(plan, layouts)
