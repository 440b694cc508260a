"""Small modules that between them use every rule of the importer; each with an example input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


class ResNet(nn.Module):
    """Batch-norms, in-place activations, a residual through a projection, dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
        )
        self.a, self.norm = nn.Conv2d(8, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16)
        self.b, self.short = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(8, 16, 1, 2)
        self.drop, self.fc = nn.Dropout(0.3), nn.Linear(16, 5)

    def forward(self, x: Any) -> Any:
        x = self.stem(x)
        y = self.b(F.relu(self.norm(self.a(x))))
        y += self.short(x)
        x = F.relu_(y)
        return self.fc(self.drop(F.adaptive_avg_pool2d(x, 1).flatten(1)))


class SqueezeExcite(nn.Module):
    """MobileNetV3's parts."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, 8, 3, 2, 1), nn.Hardswish()
        self.depth, self.prelu = nn.Conv2d(8, 8, 5, padding="same", groups=8), nn.PReLU(8)
        self.down, self.up, self.gate = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1), nn.Hardsigmoid()
        self.head = nn.Linear(8, 3)

    def forward(self, x: Any) -> Any:
        x = self.prelu(self.depth(self.act(self.conv(x))))
        x = x * self.gate(self.up(F.relu6(self.down(x.mean((2, 3), keepdim=True)))))
        return self.head(x.mean((-1, -2)))


class UNet(nn.Module):
    """Transposed convolution, concat, group norm, two ways of upsampling, no batch axis dropped."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1)
        self.up, self.c, self.norm = nn.ConvTranspose2d(8, 4, 2, 2), nn.Conv2d(8, 4, 3, padding=1), nn.GroupNorm(2, 4)
        self.out = nn.Conv2d(4, 1, 1)

    def forward(self, x: Any) -> Any:
        a = F.elu(self.a(x))
        b = F.silu(self.b(F.avg_pool2d(a, 2)))
        y = F.gelu(self.norm(self.c(torch.cat([self.up(b), a], 1))))
        y = F.interpolate(y, scale_factor=2, mode="bilinear", align_corners=False)
        y = F.interpolate(y, size=(11, 9), mode="bicubic")
        return self.out(F.interpolate(y, size=(10, 10), mode="nearest"))


class ConvNeXtBlock(nn.Module):
    """Channels moved last and back, a layer scale."""

    def __init__(self) -> None:
        super().__init__()
        self.depth, self.norm = nn.Conv2d(6, 6, 7, padding=3, groups=6), nn.LayerNorm(6, eps=1e-6)
        self.wide, self.back = nn.Linear(6, 24), nn.Linear(24, 6)
        self.gamma = nn.Parameter(torch.rand(6))

    def forward(self, x: Any) -> Any:
        y = self.depth(x).permute(0, 2, 3, 1)
        y = self.back(F.gelu(self.wide(self.norm(y)), approximate="tanh"))
        return x + (self.gamma * y).permute(0, 3, 1, 2)


class ViT(nn.Module):
    """Patches, a class token, learned positions, PyTorch's own encoder layers."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 4, 4)
        self.cls, self.pos = nn.Parameter(torch.randn(1, 1, 8)), nn.Parameter(torch.randn(1, 5, 8))
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True, activation="gelu")
        self.encoder, self.head = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(8, 4)

    def forward(self, x: Any) -> Any:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1) + self.pos
        return self.head(self.encoder(x)[:, 0])


class Attention(nn.Module):
    """Attention by hand, by F.scaled_dot_product_attention, and by nn.MultiheadAttention."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.norm = nn.Linear(8, 8), nn.RMSNorm(8)
        self.heads = nn.MultiheadAttention(8, 4, batch_first=True, dropout=0.1)
        self.register_buffer("mask", torch.tril(torch.ones(6, 6)).bool())

    def forward(self, x: Any) -> Any:
        q = self.q(x).view(x.shape[0], 6, 2, 4).transpose(1, 2)
        y = F.scaled_dot_product_attention(q, q, q, is_causal=True).transpose(1, 2).reshape(x.shape[0], 6, 8)
        y = self.norm(y)
        y = y + self.heads(y, y, y, attn_mask=~self.mask)[0]
        scores = (y @ x.transpose(-2, -1) / 8**0.5).masked_fill(~self.mask, float("-inf")).softmax(-1)
        return torch.einsum("bts,bsd->btd", scores, y)


class Conv1d(nn.Module):
    """Convolutions and pools over time."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Conv1d(2, 4, 5, 2, 2), nn.BatchNorm1d(4)
        self.b, self.up = nn.Conv1d(4, 6, 3, dilation=2), nn.ConvTranspose1d(6, 3, 4, 2, 1)
        self.max, self.mean = nn.MaxPool1d(2, ceil_mode=True), nn.AvgPool1d(3, 2, 1)
        self.head = nn.Linear(3, 2)

    def forward(self, x: Any) -> Any:
        x = self.max(F.leaky_relu(self.norm(self.a(x))))
        x = F.pad(self.up(self.mean(torch.tanh(self.b(x)))), (2, 1), mode="replicate")
        return self.head(F.adaptive_max_pool1d(x, 1).squeeze(-1))


class Text(nn.Module):
    """Token ids, learned positions, recurrent layers in both directions and stacked."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(20, 6, padding_idx=0), nn.Embedding(12, 6)
        self.both = nn.GRU(6, 5, batch_first=True, bidirectional=True)
        self.stack, self.out = nn.LSTM(10, 4, 2, batch_first=True), nn.Linear(4, 3)

    def forward(self, ids: Any) -> Any:
        x = self.tokens(ids) + self.places(torch.arange(ids.shape[1]))
        x, _ = self.both(x)
        _, (h, c) = self.stack(x)
        return self.out(h[-1] + c[0])


class Tied(nn.Module):
    """One weight as embedding and as the last layer, one layer twice, one matrix in two orders, a weight norm."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.twice = nn.Embedding(9, 6), nn.Linear(6, 6)
        self.matrix = nn.Parameter(torch.randn(6, 6))
        self.normed = torch.nn.utils.parametrizations.weight_norm(nn.Linear(6, 6))

    def forward(self, ids: Any) -> Any:
        x = self.twice(self.twice(self.tokens(ids)))
        x = torch.einsum("btd,de->bte", self.normed(x @ self.matrix), self.matrix)
        return x @ self.tokens.weight.t()


class BothWays(nn.Module):
    """One matrix as it is, turned, and reshaped; a table that is looked up in and multiplied by."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix, self.table = nn.Parameter(torch.randn(4, 4)), nn.Parameter(torch.randn(3, 4))

    def forward(self, x: Any) -> Any:
        y = torch.tanh(x @ self.matrix) @ self.matrix.t() + self.matrix.reshape(2, 8)[:, :4].sum(0)
        return y @ self.table.t() @ self.table + self.table[1]


class Elman(nn.Module):
    """Recurrent layers without gates and without a batch axis in front, cells by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.cell = nn.RNN(3, 4, nonlinearity="relu"), nn.LSTMCell(4, 4)
        self.gru = nn.GRUCell(4, 4, bias=False)

    def forward(self, x: Any) -> Any:
        y, h = self.rnn(x.transpose(0, 1))
        h, c = self.cell(y[-1], (h[0], torch.ones_like(h[0])))
        return self.gru(h, c)


class SequenceFirst(nn.Module):
    """A layer for which the batch axis is the second."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 4, 12, bias=False)

    def forward(self, x: Any) -> Any:
        return self.layer(x.transpose(0, 1)).transpose(0, 1)


class Moved(nn.Module):
    """Token ids that are turned, cut and joined before they are looked up; bags of them; learned slices."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.bag, self.rnn = nn.Embedding(9, 6), nn.EmbeddingBag(9, 4), nn.LSTM(6, 4)
        self.out, self.table = nn.Linear(4, 3), nn.Parameter(torch.randn(5, 3))

    def forward(self, ids: Any) -> Any:
        first, second = ids.t().flip(0).long()[1:].split([2, 2])
        y, _ = self.rnn(self.tokens(torch.cat([second, first])))
        bias = self.table[:2].sum(0) + torch.softmax(self.table, 0)[torch.tensor([0, 3])].mean(0)
        return self.out(y[-1] + self.bag(ids)) + bias


class Decoder(nn.Transformer):
    """Two inputs, attention from one to the other."""

    def __init__(self) -> None:
        super().__init__(8, 2, 1, 1, 16, batch_first=True)


class Writes(nn.Module):
    """Writes into parts of tensors, every other entry included."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(4, 4)

    def forward(self, x: Any) -> Any:
        x = self.lin(x)
        y = torch.zeros_like(x)
        y[:, 0] = x[:, 1]
        y[:, 1:, ::2] += x[:, 1:, ::2]
        y[:, :, 1] *= 2
        return y


class Sizes(nn.Module):
    """Images of other sizes, in every way that has an op."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular")

    def forward(self, x: Any) -> Any:
        x = self.conv(x)
        row = x.flatten(1, 2)
        parts = [
            F.interpolate(x, scale_factor=1.5, mode="bilinear"),
            F.interpolate(x, size=6, mode="bilinear", align_corners=True),
            F.interpolate(x, scale_factor=0.5), F.interpolate(x, size=(7, 5), mode="bicubic"),
            F.interpolate(x, size=7, mode="nearest-exact"), F.interpolate(row, size=7, mode="linear"),
            F.interpolate(row, size=9), F.avg_pool2d(x, 3, 2, ceil_mode=True),
            F.avg_pool2d(x, 3, 2, 1, count_include_pad=False), F.max_pool2d(x, 3, 2, ceil_mode=True),
            F.adaptive_max_pool2d(x, 2), F.adaptive_avg_pool1d(row, 3), F.unfold(x, 2),
        ]  # fmt: skip
        return torch.cat([p.flatten(1) for p in parts], 1)


class Arrays(nn.Module):
    """Cuts, joins, reductions, masks, writes into parts."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 8, 1), nn.InstanceNorm2d(8, affine=True)
        self.q, self.t = nn.Parameter(torch.randn(3, 2, 1)), nn.Parameter(torch.tensor(0.7))
        self.register_buffer("k", torch.rand(8, 1, 1) + 0.5)

    def forward(self, x: Any) -> Any:
        x = F.pixel_shuffle(torch.cat([x, x.flip(1)], 1), 2)[:, :, ::2, 1::2]
        x = self.norm(self.conv(torch.cat([x, x], 1))) * self.k / self.t.exp()
        x = F.pad(x, (1, 1, 1, 1), mode="reflect")[..., 1:-1, 1:-1].roll((1, 2), (2, 3))
        a, b = x.chunk(2, 1)
        x = F.normalize(a.contiguous() * torch.sigmoid(b), dim=1)
        v = x.var((2, 3), unbiased=False) + x.std(1).mean((1, 2))[:, None]
        z = F.adaptive_avg_pool2d(x, (4, 5)).pow(2)
        r = self.q * x[:, :2].unsqueeze(1).clone()[:, :, :, :1, 0]
        u = F.pad(x, (1, 0, 2, 1), mode="circular").cumsum(2)[:, torch.tensor([2, 0, 3])]
        x = x.clone()
        x[:, 1] = 2 * x[:, 0]
        x.mul_(3).add_(1, alpha=2)
        s = torch.stack(x.unbind(1), 1).tril() + torch.where(x.new_ones(6, 6).triu() > 0, x, torch.zeros(()))
        parts = [v, z, r, u, s, x.abs().sqrt(), (1 + x.square()).log1p().logsumexp((1, 2, 3))[:, None]]
        parts += [x.max(dim=1)[0], F.pixel_unshuffle(x, 2).repeat(1, 2, 1, 1), x.repeat_interleave(2, 1), F.glu(x, 1)]
        parts += [torch.rsqrt(x.square() + 1), 1 - x, 2 / (3 + x.square()), x.addcmul(x, x, value=0.5), 1.5**x]
        return torch.cat([p.flatten(1) for p in parts], 1)


class Activations(nn.Module):
    """Every activation function of torch.nn that has an op."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.randn(12, 5))
        self.acts = nn.ModuleList([
            nn.ReLU(), nn.ReLU6(), nn.ELU(0.7), nn.SELU(), nn.CELU(1.3), nn.GELU(), nn.SiLU(), nn.Mish(),
            nn.Softplus(2.0), nn.Softsign(), nn.Tanhshrink(), nn.LogSigmoid(), nn.Hardtanh(-0.5, 0.7),
            nn.LeakyReLU(-0.2), nn.Softmax(-1), nn.LogSoftmax(1), nn.Threshold(0.1, 0.1), nn.Hardswish(),
            nn.Sigmoid(), nn.RReLU(),
        ])  # fmt: skip

    def forward(self, x: Any) -> Any:
        x = x * self.scale
        return torch.cat([act(x) for act in self.acts], -1)


def image(*shape: int) -> Callable[[], Any]:
    return lambda: torch.randn(shape)


def ids(most: int, *shape: int) -> Callable[[], Any]:
    return lambda: torch.randint(0, most, shape)


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[], Any]]] = {
    "resnet": (ResNet, image(1, 3, 16, 16)),
    "squeeze_excite": (SqueezeExcite, image(1, 3, 16, 16)),
    "unet": (UNet, image(1, 1, 8, 8)),
    "convnext": (ConvNeXtBlock, image(1, 6, 7, 7)),
    "vit": (ViT, image(1, 3, 8, 8)),
    "encoder_layer": (lambda: nn.TransformerEncoderLayer(8, 2, 12, dropout=0.2, batch_first=True), image(1, 5, 8)),
    "sequence_first": (SequenceFirst, image(1, 5, 8)),
    "attention": (Attention, image(1, 6, 8)),
    "conv1d": (Conv1d, image(1, 2, 33)),
    "text": (Text, ids(20, 1, 7)),
    "tied": (Tied, ids(9, 1, 5)),
    "both_ways": (BothWays, image(1, 4)),
    "elman": (Elman, image(1, 6, 3)),
    "arrays": (Arrays, image(1, 4, 6, 6)),
    "moved": (Moved, ids(9, 1, 5)),
    "writes": (Writes, image(1, 3, 4)),
    "sizes": (Sizes, image(1, 2, 4, 4)),
    "decoder": (Decoder, lambda: (torch.randn(1, 5, 8), torch.randn(1, 4, 8))),
    "activations": (Activations, image(1, 12, 5)),
}
