"""Small modules whose layers read weights that are computed from parameters, or that stand in several forms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, parametrize


class By(nn.Module):
    """Parameters of given shapes, and a function of (parameters, input)."""

    def __init__(self, function: Callable[..., Any], **shapes: tuple[int, ...]) -> None:
        super().__init__()
        self.function = function
        for name, shape in shapes.items():
            setattr(self, name, nn.Parameter(torch.randn(shape)))

    def forward(self, x: Any) -> Any:
        return self.function(self, x)


class Symmetric(nn.Module):
    def forward(self, w: Any) -> Any:
        return (w + w.transpose(-1, -2)) * 0.5


class Standardised(nn.Conv2d):
    """Weight standardisation (Qiao et al., 2019), with a gain."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.gain = nn.Parameter(torch.rand(self.out_channels, 1, 1, 1) + 0.5)

    def forward(self, x: Any) -> Any:
        w = self.weight
        mean, var = w.mean((1, 2, 3), keepdim=True), w.var((1, 2, 3), keepdim=True, unbiased=False)
        return F.conv2d(x, self.gain * (w - mean) * torch.rsqrt(var + 1e-5), self.bias, self.stride, self.padding)


class Experts(nn.Module):
    """A kernel mixed by what the image holds (Yang et al., 2019)."""

    def __init__(self) -> None:
        super().__init__()
        self.route = nn.Linear(3, 2)
        self.kernels = nn.Parameter(torch.randn(2, 4, 3, 3, 3) * 0.3)

    def forward(self, x: Any) -> Any:
        shares = torch.softmax(self.route(x.mean((2, 3))), 1).reshape(2, 1, 1, 1, 1)
        return F.conv2d(x, (shares * self.kernels).sum(0), padding=1)


class Attention(nn.Module):
    """Queries with a learned scale in the weight, keys and values tied, a bias table that is looked up."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.kv = nn.Linear(6, 6, bias=False), nn.Linear(6, 6)
        self.heat, self.table = nn.Parameter(torch.tensor(0.4)), nn.Parameter(torch.randn(7, 1))
        self.register_buffer("places", torch.arange(4)[:, None] - torch.arange(4)[None] + 3)

    def forward(self, x: Any) -> Any:
        q = F.linear(x, self.q.weight * torch.exp(self.heat))
        k, v = self.kv(x), F.linear(x, self.kv.weight.t(), self.kv.bias)
        bias = self.table[self.places.reshape(-1)].reshape(1, 4, 4) * 2
        return torch.softmax(q @ k.transpose(-1, -2) + bias, -1) @ v


class Cells(nn.Module):
    """Gates of a GRU and of an LSTM from one weight, scaled and moved."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.u = nn.Parameter(torch.randn(12, 4) * 0.3), nn.Parameter(torch.randn(12, 4) * 0.3)
        self.b = nn.Parameter(torch.randn(12) * 0.3)

    def forward(self, x: Any) -> Any:
        h = torch.zeros(1, 4)
        for _ in range(3):
            h = torch.gru_cell(x, h, self.w, self.u * 0.5, self.b, self.b + 1)
        return h


def _batch_norm(s: Any, x: Any) -> Any:
    return F.batch_norm(x, torch.zeros(3), torch.ones(3), 1 + s.g, s.b * 2)


def _tied_autoencoder(s: Any, x: Any) -> Any:
    return F.linear(torch.tanh(F.linear(x, s.w)), s.w.t())


def _weights(name: str, **kwargs: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        layer: nn.Module = nn.Conv2d(3, 4, 3, **kwargs) if name == "conv" else nn.Linear(6, 4)
        return parametrizations.weight_norm(layer)

    return make


def _spectral() -> nn.Module:
    return nn.Sequential(parametrizations.spectral_norm(nn.Linear(6, 6)), nn.Tanh(), nn.Linear(6, 2))


def _symmetric() -> nn.Module:
    layer = nn.Linear(6, 6)
    parametrize.register_parametrization(layer, "weight", Symmetric())
    return nn.Sequential(layer, nn.Tanh(), nn.Linear(6, 2))


def _by(function: Callable[..., Any], **shapes: tuple[int, ...]) -> Callable[[], nn.Module]:
    return lambda: By(function, **shapes)


def row(*shape: int) -> Callable[[], Any]:
    return lambda: torch.randn(shape)


#: name to (module, example input)
CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[], Any]]] = {
    # a weight times, plus, by something
    "tied_scaled": (_by(lambda s, x: F.linear(F.linear(x, s.w), s.w * 0.1), w=(6, 6)), row(1, 6)),
    "lora": (_by(lambda s, x: F.linear(x, s.w + 0.5 * s.b @ s.a, s.c), w=(5, 6), a=(2, 6), b=(5, 2), c=(5,)),
             row(1, 6)),
    "two_biases": (_by(lambda s, x: F.linear(x, s.w, s.a + s.b), w=(4, 6), a=(4,), b=(4,)), row(1, 6)),
    "bias_of_conv": (_by(lambda s, x: F.conv2d(x, s.w, s.a - s.b), w=(4, 3, 3, 3), a=(4,), b=(4,)), row(1, 3, 6, 6)),
    "masked": (_by(lambda s, x: F.linear(x, s.w * torch.tril(torch.ones(6, 6))), w=(6, 6)), row(1, 6)),
    "rows_scaled": (_by(lambda s, x: F.linear(x, s.w * s.m[:, None]), w=(4, 6), m=(4,)), row(1, 6)),
    "ternary": (_by(lambda s, x: F.linear(x, torch.clamp(s.w, -0.5, 0.5) / 0.5), w=(4, 6)), row(1, 6)),
    "temperature": (_by(lambda s, x: F.linear(x, s.w) / F.softplus(s.t), w=(4, 6), t=()), row(1, 6)),
    "gain_plus_one": (_by(lambda s, x: x * (1 + s.g), g=(6,)), row(1, 6)),
    "gain_of_channels": (_by(lambda s, x: x * (1 + s.g)[None, :, None, None], g=(3,)), row(1, 3, 4, 4)),
    "layer_scale": (_by(lambda s, x: x + (s.g * 0.1) * F.linear(x, s.w), g=(6,), w=(6, 6)), row(1, 5, 6)),
    "cosine": (_by(lambda s, x: F.linear(F.normalize(x), F.normalize(s.w)), w=(4, 6)), row(1, 6)),
    "mixed": (_by(lambda s, x: F.linear(x, (torch.softmax(s.a, 0)[:, None, None] * s.w).sum(0)), a=(3,), w=(3, 4, 6)),
              row(1, 6)),
    "parts": (_by(lambda s, x: F.linear(x, torch.cat([s.a, s.b * 2], 0)), a=(2, 6), b=(3, 6)), row(1, 6)),
    "stacked": (_by(lambda s, x: F.linear(x, torch.stack([s.a, -s.a, s.b])), a=(6,), b=(6,)), row(1, 6)),
    "squared": (_by(lambda s, x: F.linear(x, s.w**2 - s.w.abs()), w=(4, 6)), row(1, 6)),
    "low_rank": (_by(lambda s, x: F.linear(x, (s.u * s.d) @ s.v), u=(4, 2), d=(2,), v=(2, 6)), row(1, 6)),
    "film": (_by(lambda s, x: F.linear(x, s.w) * (1 + F.linear(x, s.g)) + F.linear(x, s.g * 2), w=(4, 6), g=(4, 6)),
             row(1, 6)),
    "straight_through": (_by(lambda s, x: F.linear(x, s.w + (torch.round(s.w) - s.w).detach()), w=(4, 6)), row(1, 6)),
    "ended": (_by(lambda s, x: F.linear(x, s.w * s.g.detach() + s.g) + F.linear(x, s.w).detach(), w=(4, 6), g=(4, 1)),
              row(1, 6)),
    "chosen": (_by(lambda s, x: F.linear(x, torch.where(torch.eye(6) > 0, s.a, s.b)), a=(6, 6), b=(6, 6)), row(1, 6)),
    # convolutions
    "conv_scaled": (_by(lambda s, x: F.conv2d(x, s.w * 2, s.b, 2, 1), w=(4, 3, 3, 3), b=(4,)), row(1, 3, 7, 6)),
    "conv_twice": (_by(lambda s, x: F.conv2d(x, s.w) + F.conv2d(x, s.w.abs()), w=(4, 3, 3, 3)), row(1, 3, 6, 6)),
    "conv_grouped": (_by(lambda s, x: F.conv2d(x, s.w * s.m, None, 1, 2, 2, 4), w=(8, 1, 3, 3), m=(8, 1, 1, 1)),
                     row(1, 4, 6, 6)),
    "conv_flipped": (_by(lambda s, x: F.conv2d(x, s.w + s.w.flip(-1)), w=(2, 3, 3, 3)), row(1, 3, 6, 6)),
    "conv_turned": (_by(lambda s, x: F.conv2d(F.conv2d(x, s.w), s.w.transpose(2, 3)), w=(3, 3, 3, 2)), row(1, 3, 7, 7)),
    "conv_from_matrix": (_by(lambda s, x: F.conv2d(F.linear(x, s.w), s.w.view(3, 2, 1, 3)), w=(6, 3)), row(1, 2, 5, 3)),
    "conv_1x1_and_linear": (_by(lambda s, x: F.conv2d(x, s.w[:, :, None, None]).mean((2, 3)) @ s.w, w=(4, 3)),
                            row(1, 3, 4, 4)),
    "conv1d_scaled": (_by(lambda s, x: F.conv1d(x, s.w.exp(), s.b, 2, 1, 2), w=(4, 3, 3), b=(4,)), row(1, 3, 9)),
    "conv_transposed": (_by(lambda s, x: F.conv_transpose2d(x, s.w * s.g, s.b, 2, 1, 1), w=(3, 2, 3, 3), g=(1, 2, 1, 1),
                            b=(2,)), row(1, 3, 4, 5)),
    "conv_transposed1d": (_by(lambda s, x: F.conv_transpose1d(x, -s.w, None, 2, 0, 1), w=(3, 2, 3)), row(1, 3, 4)),
    "conv_and_its_adjoint": (_by(lambda s, x: F.conv_transpose2d(F.relu(F.conv2d(x, s.w, None, 2)), s.w, None, 2),
                                 w=(4, 3, 2, 2)), row(1, 3, 6, 6)),
    "conv_from_basis": (_by(lambda s, x: F.conv2d(x, torch.einsum("oib,bhw->oihw", s.c, s.b)), c=(4, 3, 2),
                            b=(2, 3, 3)),
                        row(1, 3, 5, 5)),
    "standardised": (lambda: nn.Sequential(Standardised(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1)),
                     row(1, 3, 6, 6)),
    "experts": (Experts, row(1, 3, 5, 5)),
    # parametrisations of PyTorch
    "weight_norm": (_weights("linear"), row(1, 6)),
    "weight_norm_conv": (_weights("conv", stride=2), row(1, 3, 7, 7)),
    "weight_norm_depthwise": (lambda: parametrizations.weight_norm(nn.Conv2d(4, 4, 3, groups=4, padding=1)),
                              row(1, 4, 5, 5)),
    "weight_norm_transposed": (lambda: parametrizations.weight_norm(nn.ConvTranspose1d(3, 2, 4, 2, 1)), row(1, 3, 5)),
    "spectral": (_spectral, row(1, 6)),
    "symmetric": (_symmetric, row(1, 6)),
    # the same weight in several forms
    "tied_autoencoder": (_by(_tied_autoencoder, w=(4, 6)), row(1, 6)),
    "tied_slices": (_by(lambda s, x: F.linear(x, s.w[:3]).sum(-1, keepdim=True) * F.linear(x, s.w), w=(5, 6)),
                    row(1, 6)),
    "tied_columns": (_by(lambda s, x: F.linear(F.linear(x, s.w), s.w[:, :5]), w=(5, 6)), row(1, 6)),
    "tied_view": (_by(lambda s, x: F.linear(x, s.w).reshape(1, 2, 3) @ s.w.reshape(3, 12), w=(6, 6)), row(1, 6)),
    "tied_cut_and_turned": (_by(lambda s, x: F.linear(x, s.w.reshape(2, 3, 4).permute(0, 2, 1).reshape(8, 3))[:, :4]
                                + F.linear(F.linear(x, s.w.reshape(8, 3)[:3]), s.w.reshape(4, 6)[:, :3]), w=(6, 4)),
                            row(1, 3)),
    "tied_bias": (_by(lambda s, x: F.linear(x, s.w, s.w[:, 0]) * s.w.sum(1), w=(4, 6)), row(1, 6)),
    "tied_prelu": (_by(lambda s, x: F.prelu(x, s.a) + F.prelu(-x, s.a * 2), a=(3,)), row(1, 3, 4, 4)),
    # norms
    "layer_norm": (_by(lambda s, x: F.layer_norm(x, (6,), 1 + s.g, s.b), g=(6,), b=(6,)), row(1, 5, 6)),
    "layer_norm_bias": (_by(lambda s, x: F.layer_norm(x, (5, 6), s.g, s.g - s.b), g=(5, 6), b=(5, 6)), row(1, 5, 6)),
    "group_norm": (_by(lambda s, x: F.group_norm(x, 2, 1 + s.g, s.b), g=(4,), b=(4,)), row(1, 4, 3, 3)),
    "instance_norm": (_by(lambda s, x: F.instance_norm(x, None, None, s.g.exp(), s.b), g=(4,), b=(4,)), row(1, 4, 5)),
    "batch_norm": (_by(_batch_norm, g=(3,), b=(3,)), row(1, 3, 4, 4)),
    "rms_norm": (_by(lambda s, x: F.rms_norm(x, (6,), 1 + s.g), g=(6,)), row(1, 5, 6)),
    # tables
    "embedding_scaled": (_by(lambda s, x: F.embedding(x, s.w * 3), w=(9, 4)), lambda: torch.randint(0, 9, (1, 5))),
    "embedding_low_rank": (_by(lambda s, x: F.linear(F.embedding(x, s.e @ s.p), s.e), e=(9, 2), p=(2, 2)),
                           lambda: torch.randint(0, 9, (1, 5))),
    "embedding_part": (_by(lambda s, x: F.embedding(x, s.w[:9]) @ s.w.t(), w=(12, 4)),
                       lambda: torch.randint(0, 9, (1, 5))),
    "tied_embedding": (_by(lambda s, x: F.linear(F.embedding(x, s.w) * 2, s.w), w=(9, 4)),
                       lambda: torch.randint(0, 9, (1, 5))),
    "positions_resized": (_by(lambda s, x: x + F.interpolate(s.p, scale_factor=2, mode="nearest"), p=(1, 3, 2, 2)),
                          row(1, 3, 4, 4)),
    "attention": (Attention, row(1, 4, 6)),
    "cells": (Cells, row(1, 4)),
}  # fmt: skip
