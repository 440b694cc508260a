"""PyTorch modules through ONNX files: outputs and gradients of every parameter by its name, as autograd has them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch.nn", reason="PyTorch is not installed")
pytest.importorskip("onnx", reason="onnx is not installed")
import torch
import torch.nn.functional as F
from autograd import compare, settle
from computed import CASES as COMPUTED
from modules import CASES as MODULES
from modules import image
from torch import nn

from sparseplan import importers
from sparseplan.importers.draft import Imported
from sparseplan.run.trainer import gradients


class Numbers(nn.Module):
    """Learned numbers at the module's root and within, factors, divisors and summands; and a buffer of one number."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.ParameterDict({"gain": torch.tensor(0.7), "offset": torch.tensor(0.2)})
        self.heat, self.low, self.one = (nn.Parameter(torch.tensor(v)) for v in (1.3, 0.4, [0.9]))
        self.fc = nn.Linear(4, 4)
        self.register_buffer("factor", torch.tensor(0.5))

    def forward(self, x: Any) -> Any:
        y = self.fc(x * self.inner["gain"] + self.inner["offset"]) / self.heat - self.low
        return torch.softmax(y * self.one * self.factor, -1)


class Tables(nn.Module):
    """Positions that are a part of a table, all of one, and a token that is spread."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places, self.whole = nn.Embedding(20, 8), nn.Embedding(16, 8), nn.Embedding(6, 8)
        self.rest = nn.Parameter(torch.randn(1, 16, 8))
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.fc = nn.Linear(8, 3)

    def forward(self, ids: Any) -> Any:
        count = ids.shape[1]
        y = self.words(ids) + self.rest[:, :count] + self.places(torch.arange(count) + 2)
        y = y + self.whole(torch.arange(count))
        return self.fc(torch.cat([self.token.expand(ids.shape[0], -1, -1), y], 1))


class Products(nn.Module):
    """Parameters of three axes in products: by heads, and with axes merged."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.pairs = nn.Parameter(torch.randn(4, 6, 5)), nn.Parameter(torch.randn(3, 5, 7))

    def forward(self, x: Any) -> Any:
        y = torch.einsum("bni,hio->bhno", x, self.heads)
        # the weight of a matrix product, moved and then merged
        merged = self.pairs.permute(1, 0, 2).reshape(5, 21)
        return torch.matmul(y, merged)


class Waves(nn.Module):
    """Dilated convolutions with gates, group and instance norms, a soft threshold."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv1d(3, 8, 3, dilation=2), nn.Conv1d(3, 8, 3, dilation=2)
        self.group, self.instance = nn.GroupNorm(2, 8), nn.InstanceNorm1d(8, affine=True)
        self.act, self.up = nn.PReLU(8), nn.ConvTranspose1d(8, 2, 3, 2, 1, output_padding=1)

    def forward(self, x: Any) -> Any:
        y = self.group(torch.tanh(self.a(x)) * torch.sigmoid(self.b(x)))
        return F.softplus(self.up(self.act(self.instance(y))))


CASES = {name: MODULES[name] for name in (
    "resnet", "squeeze_excite", "unet", "convnext", "vit", "conv1d",
)} | {
    "numbers": (Numbers, image(1, 3, 4)),
    "tables": (Tables, lambda: torch.randint(0, 20, (1, 6))),
    "products": (Products, image(1, 7, 6)),
    "waves": (Waves, image(1, 3, 20)),
}  # fmt: skip


#: what the older exporter cannot write, and what files cannot say: where a gradient ends
ELSEWHERE = {"spectral", "rms_norm", "straight_through", "ended"}


def drawn(name: str) -> tuple[nn.Module, Any]:
    """A case whose parameters all differ: exporters make one of those that are equal."""
    torch.manual_seed(0)
    make, example = CASES[name]
    module = settle(make())
    for p in module.parameters():
        p.data.add_(torch.randn_like(p), alpha=0.05)
    return module, example()


def exported(module: nn.Module, x: Any, path: Path, **options: Any) -> Imported:
    """A module through a file in which parameters keep their names: nothing folded, nothing fused."""
    given = x if isinstance(x, tuple) else (x,)
    kept: dict[str, Any] = {
        "dynamo": False, "do_constant_folding": False, "training": torch.onnx.TrainingMode.PRESERVE,
    }  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, given, str(path), **(options or {"opset_version": 17, **kept}))
    return importers.onnx(path)


@pytest.mark.parametrize("name", CASES)
def test_outputs_and_gradients(name: str, tmp_path: Path) -> None:
    module, x = drawn(name)
    found = exported(module, x, tmp_path / "model.onnx")
    assert not [n for n in found.notes if "shapes alone" in n]
    assert set(found.network.parameters) >= {n for n, _ in module.named_parameters()}
    assert not set(found.fixed) & {n for n, _ in module.named_parameters()}
    compare(module, found, x)


@pytest.mark.parametrize("name", ["numbers", "tables", "products", "waves", "vit"])
def test_the_newer_exporter(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="torch.onnx's newer exporter needs onnxscript")
    module, x = drawn(name)
    found = exported(module, x, tmp_path / "model.onnx", dynamo=True, optimize=False, verbose=False)
    assert set(found.network.parameters) >= {n for n, _ in module.named_parameters()}
    compare(module, found, x)


def test_folded_parameters_are_learned_under_the_names_that_the_file_gives(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)).eval()
    x = torch.randn(1, 3, 4)  # three axes: a MatMul, whose matrix the exporter turns
    found = exported(module, x, tmp_path / "model.onnx", dynamo=False, opset_version=17)
    y = module(x)
    target = torch.randn(y.shape)
    F.mse_loss(y, target).backward()
    _, grads = gradients(found.network, found.weights, {found.network.inputs[0]: x.numpy()}, target.numpy(), "mse")
    assert found.fixed == ()
    for name, p in module.named_parameters():
        same = [n for n, w in found.weights.items() if w.shape == p.shape and np.array_equal(w, p.detach().numpy())]
        assert len(same) == 1, name
        np.testing.assert_allclose(grads[same[0]], p.grad.numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("both", [False, True])
def test_gates_stay_one_parameter_where_the_file_sorts_them(kind: str, both: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, x = getattr(nn, kind)(3, 4, bidirectional=both).eval(), torch.randn(5, 1, 3)
    compare(module, exported(module, x, tmp_path / "model.onnx"), x)


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_sorted_gates_are_learned_in_the_order_of_onnx(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, x = getattr(nn, kind)(3, 4).eval(), torch.randn(5, 1, 3)
    found = exported(module, x, tmp_path / "model.onnx", dynamo=False, opset_version=17)
    net = found.network
    y, _ = module(x)
    target = torch.randn(y.shape)
    F.mse_loss(y, target).backward()
    given = {net.inputs[0]: x.numpy().reshape(1, *net.tensor[net.inputs[0]].shape)}
    shape = (1, *net.tensor[net.outputs[0]].shape)
    _, grads = gradients(net, found.weights, given, target.numpy().reshape(shape), "mse")
    assert found.fixed == ()
    order = (0, 3, 1, 2) if kind == "LSTM" else (1, 0, 2)
    for name, p in module.named_parameters():
        weight, grad = (
            np.concatenate([np.split(t.numpy(), len(order))[k] for k in order]) for t in (p.detach(), p.grad)
        )
        cuts = [8] if kind == "GRU" and "_hh" in name else []  # the last gate's are apart
        parts = [np.split(a, cuts) for a in (weight, grad)]
        for some, expected in zip(*parts, strict=True):
            (same,) = [n for n, w in found.weights.items() if w.size == some.size and np.array_equal(w, some)]
            np.testing.assert_allclose(grads[same], expected, rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("name", sorted(COMPUTED.keys() - ELSEWHERE))
def test_computed_parameters(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    make, example = COMPUTED[name]
    module, x = settle(make()), example()
    found = exported(module, x, tmp_path / "model.onnx")
    assert not [n for n in found.notes if "shapes alone" in n or "as a constant" in n], found.notes
    compare(module, found, x)


@pytest.mark.parametrize("name", ["lora", "conv_twice", "standardised", "experts", "tied_slices", "spectral"])
def test_computed_parameters_by_the_newer_exporter(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="torch.onnx's newer exporter needs onnxscript")
    torch.manual_seed(0)
    make, example = COMPUTED[name]
    module, x = settle(make()), example()
    found = exported(module, x, tmp_path / "model.onnx", dynamo=True, optimize=False, verbose=False)
    compare(module, found, x)
