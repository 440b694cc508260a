"""Imported modules compute what PyTorch computes: outputs, and gradients of every parameter, to float32's accuracy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch.nn", reason="PyTorch is not installed")
import torch
import torch.nn.functional as F
from autograd import compare, settle
from modules import CASES, ResNet, Tied
from torch import nn

from sparseplan import importers
from sparseplan.errors import NetworkError
from sparseplan.importers.exported import from_reference


@pytest.mark.parametrize("name", CASES)
def test_outputs_and_gradients(name: str) -> None:
    torch.manual_seed(0)
    make, example = CASES[name]
    module, x = settle(make()), example()
    found = importers.torch(module, x)
    assert not [n for n in found.notes if "shapes alone" in n]
    assert found.fixed == ()
    assert set(found.network.parameters) >= {n for n, _ in module.named_parameters()}
    compare(module, found, x)


def test_the_module_is_left_as_it_was_and_read_in_eval_mode() -> None:
    torch.manual_seed(0)
    module = settle(ResNet()).train()
    module.stem[1].eval()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    flags = [m.training for m in module.modules()]
    found = importers.torch(module, torch.randn(4, 3, 16, 16))
    assert [m.training for m in module.modules()] == flags
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    assert any("of 4 samples" in n for n in found.notes)
    assert found.network.tensor[found.network.inputs[0]].shape == (3, 16, 16)
    compare(module.eval(), found, torch.randn(1, 3, 16, 16))


def test_names_are_those_of_the_module() -> None:
    module = ResNet()
    found = importers.torch(module, torch.randn(1, 3, 16, 16), name="small")
    net = found.network
    assert net.name == "small"
    assert {"stem.0", "stem.1", "stem.2", "stem.3", "a", "norm", "fc"} <= set(net.op)
    assert net.op["a"].params == {"weight": "a.weight"}
    assert net.op["norm"].params["mean"] == "norm.running_mean"
    assert net.op["stem.1"].kind == "batch_norm"
    for name, p in module.named_parameters():
        assert net.tensor[name].shape == tuple(p.shape)


def test_shared_parameters_are_one() -> None:
    found = importers.torch(Tied(), torch.randint(0, 9, (1, 5)))
    assert len(found.network.users["twice.weight"]) == 2
    assert {op.kind for op, _ in found.network.users["tokens.weight"]} == {"embedding", "linear"}


def test_a_reading_is_repeatable() -> None:
    torch.manual_seed(0)
    module, x = ResNet(), torch.randn(1, 3, 16, 16)
    one, two = importers.torch(module, x), importers.torch(module, x)
    assert one.network == two.network
    assert one.notes == two.notes


class _Opaque(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x: Any) -> Any:
        return self.b(torch.sort(self.a(x), dim=-1).values)


def test_what_no_op_says_stands_by_its_shapes() -> None:
    found = importers.torch(_Opaque(), torch.randn(1, 6))
    kinds = {op.name: op.kind for op in found.network.ops}
    assert "opaque" in kinds.values()
    (note,) = (n for n in found.notes if "shapes alone" in n)
    assert "aten.sort" in note
    assert found.network.tensor[found.network.outputs[0]].shape == (2,)


def test_constants_where_parameters_are_expected_are_told() -> None:
    class Blur(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 1)
            self.register_buffer("kernel", torch.rand(2, 1, 3, 3))

        def forward(self, x: Any) -> Any:
            return F.conv2d(self.conv(x), self.kernel, groups=2)

    module, x = Blur(), torch.randn(1, 2, 6, 6)
    found = importers.torch(module, x)
    (fixed,) = found.fixed
    assert found.network.tensor[fixed].shape == (2, 1, 3, 3)
    assert any("constants of the origin" in n for n in found.notes)
    compare(module, found, x)


class _Noted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 2, 3))
        self.rnn = nn.LSTM(4, 3, batch_first=True)

    def forward(self, x: Any) -> Any:
        x = F.dropout(self.conv(x.float() / 255))
        with torch.no_grad():
            y = x.mean()
        return {"y": x - y, "same": (self.rnn(x.flatten(1, 2))[0], x.detach() * 2)}


def test_what_a_reader_should_know_is_noted() -> None:
    found = importers.torch(_Noted(), torch.randint(0, 255, (1, 2, 40, 6), dtype=torch.uint8))
    net = found.network
    assert [net.tensor[t].shape for t in net.outputs] == [(2, 38, 4), (76, 3), (2, 38, 4)]
    assert net.tensor[net.inputs[0]].dtype is None
    for words in (
        "holds integers, which the module turns to floats", "dropout that is on in eval mode", "no_grad is read as",
        "its sequence has 76 steps; up to 64 are unrolled",
    ):  # fmt: skip
        assert any(words in note for note in found.notes), words
    assert found.fixed == ()
    assert net.op["conv"].kind == "dynamic_conv"


class _Compared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(9, 4)

    def forward(self, ids: Any) -> Any:
        return self.tokens(ids) * (ids != 0).unsqueeze(-1)


class _Drawn(nn.Module):
    def forward(self, x: Any) -> Any:
        return x + torch.rand(3)


class _Branch(nn.Module):
    def forward(self, x: Any) -> Any:
        return x * 2 if x.sum() > 0 else x


class _Item(nn.Module):
    def forward(self, x: Any) -> Any:
        return x[: int(x.argmax())]


class _Constant(nn.Module):
    def forward(self, x: Any) -> Any:
        return torch.ones(3)


@pytest.mark.parametrize(
    ("module", "x", "words"),
    [
        (_Drawn(), torch.randn(1, 3), "node 'rand' .*random numbers"),
        (_Branch(), torch.randn(1, 3), "module '_Branch': .*depends on data"),
        (_Item(), torch.randn(1, 3), "module '_Item'"),
        (_Compared(), torch.ones(1, 3, dtype=torch.long), "node 'ne' .*integers as inputs of embeddings alone"),
        (_Constant(), torch.randn(1, 3), "returns no tensor that depends on its input"),
        (nn.Linear(3, 3), torch.randn(1, 4), "module 'Linear': torch.export cannot read it"),
        (nn.Linear(3, 3), [1.0, 2.0], "example_input=list must be a tensor"),
        (nn.Linear(3, 3), torch.randn(0, 3), r"example_input\[0\] has shape \(0, 3\)"),
        (nn.ReLU(), torch.ones(1, 3, dtype=torch.bool), "booleans"),
        ("no module", torch.randn(1, 3), "module=str must be a torch.nn.Module"),
    ],
)
def test_what_cannot_be_read_is_named(module: Any, x: Any, words: str) -> None:
    with pytest.raises(NetworkError, match=words):
        importers.torch(module, x)


def test_references(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = (
        "import torch\n"
        "def make():\n    return torch.nn.Linear(3, 2), torch.zeros(1, 3)\n"
        "def broken():\n    raise OSError('no file')\n"
        "def other():\n    return 3\n"
        "number = 4\n"
    )
    Path("mynets_for_reference.py").write_text(text, encoding="utf-8")
    assert from_reference("mynets_for_reference:make").network.parameters == ("weight", "bias")
    for reference, words in {
        "mynets_for_reference:absent": "has no attribute 'absent'",
        "mynets_for_reference:number": "is no function",
        "mynets_for_reference:broken": "raises OSError: no file",
        "mynets_for_reference:other": "returns int",
        "no_such_module_here:make": "cannot be imported",
        "nonsense": "must be package.module:function",
    }.items():
        with pytest.raises(NetworkError, match=words):
            from_reference(reference)
