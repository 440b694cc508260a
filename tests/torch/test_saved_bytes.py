"""What PyTorch holds for backward, by a definition that gives the two published figures of uPyD-Net exactly."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

pytest.importorskip("torch.nn", reason="PyTorch is not installed")
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from sparseplan import importers, zoo
from sparseplan.builder import init_parameters
from sparseplan.exporters import pytorch
from sparseplan.run.trainer import predict
from sparseplan.zoo.upydnet import SLOPE


class _Convs(nn.Module):
    def __init__(self, channels: list[int], strides: tuple[int, ...] = ()) -> None:
        super().__init__()
        for i, (ins, outs) in enumerate(pairwise(channels)):
            self.add_module(f"conv{i}", nn.Conv2d(ins, outs, 3, strides[i] if strides else 1, 1))


class _Up(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tconv = nn.ConvTranspose2d(32, 32, 2, 2)


class UPyDNet(nn.Module):
    """As published: six convolutions encode, three decoders of three follow; LeakyReLUs are not in place."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = _Convs([3, 8, 8, 16, 16, 32, 32], (1, 1, 2, 1, 2, 1))
        self.decoder0, self.decoder1 = _Convs([32, 32, 32, 32]), _Convs([48, 32, 32, 32])
        self.decoder2 = _Convs([40, 32, 32, 1])
        self.ups0, self.ups1 = _Up(), _Up()

    def forward(self, x: Any) -> Any:
        taps = []
        for i, conv in enumerate(self.encoder.children()):
            x = F.leaky_relu(conv(x), SLOPE)
            if i % 2:
                taps.append(x)
        for d, block in enumerate((self.decoder0, self.decoder1, self.decoder2)):
            for i, conv in enumerate(block.children()):
                x = conv(x)
                x = F.leaky_relu(x, SLOPE) if i < 2 else x
            if d < 2:
                x = torch.cat([taps[1 - d], (self.ups0, self.ups1)[d].tconv(x)], 1)
        return F.relu(x)


def only(module: nn.Module, *stems: str) -> nn.Module:
    for name, p in module.named_parameters():
        p.requires_grad_(not stems or name.startswith(stems))
    return module


#: bytes in float32, batch 1: the input image (27,648) counts, parameters and what only the loss saves do not
PUBLISHED = [((), 2_672_640, 27_648), (("decoder0.", "ups0."), 2_147_328, 0)]


@pytest.mark.parametrize(("stems", "expected", "image"), PUBLISHED)
@pytest.mark.parametrize("loss", [F.l1_loss, F.mse_loss])
def test_upydnet(stems: tuple[str, ...], expected: int, image: int, loss: Any) -> None:
    torch.manual_seed(0)
    module = only(UPyDNet(), *stems)
    assert sum(p.numel() for p in module.parameters()) == 107_625
    x, target = torch.rand(1, 3, 48, 48), torch.rand(1, 1, 48, 48)
    assert pytorch.saved_bytes(module, loss, x, target) == expected
    parts = pytorch.saved_parts(module, loss, x, target)
    assert parts["forward"] == expected
    assert parts["input"] == image
    assert parts["loss"] == 4 * 48 * 48  # the sign of the difference, or the difference itself


@pytest.mark.parametrize(("stems", "expected", "image"), PUBLISHED)
def test_the_zoos_network_as_a_module_saves_as_much(stems: tuple[str, ...], expected: int, image: int) -> None:
    net = zoo.get("upydnet")
    module = only(pytorch.module_of(net, init_parameters(net, 0)), *stems)
    x, target = torch.rand(1, 3, 48, 48), torch.rand(1, 1, 48, 48)
    assert pytorch.saved_bytes(module, F.l1_loss, x, target) == expected


def test_the_module_is_the_zoos_network() -> None:
    torch.manual_seed(0)
    module, net = UPyDNet(), zoo.get("upydnet")
    x = torch.rand(2, 3, 48, 48)
    found = importers.torch(module, x)
    assert set(found.weights) == set(net.parameters)
    assert [op.kind for op in found.network.ops] == [op.kind for op in net.ops]
    weights = {n: p.detach().numpy() for n, p in module.named_parameters()}
    ours = predict(net, weights, {"image": x.numpy()})
    np.testing.assert_allclose(ours, module(x).detach().numpy(), rtol=1e-5, atol=1e-6)


def test_parts_by_hand() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    x, target = torch.randn(1, 4), torch.randn(1, 2)
    # x for the first weight, tanh's output for itself and for the second weight: one storage
    parts = pytorch.saved_parts(module, F.mse_loss, x, target)
    assert parts == {"forward": 4 * (4 + 8), "loss": 4 * (2 + 2), "parameters": 4 * 16, "input": 4 * 4}
    only(module, "2.bias")
    assert pytorch.saved_bytes(module, F.mse_loss, x, target) == 0
