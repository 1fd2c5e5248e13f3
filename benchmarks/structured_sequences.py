"""Networks over sequences, tokens and tables: recurrent, attention, experts."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from structured_mixers import Patches
from torch import Tensor, nn


class Tagger(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], layers: int = 2, bi: bool = True) -> None:
        super().__init__()
        self.e, self.r = nn.Embedding(100, 24), kind(24, 32, layers, batch_first=True, bidirectional=bi)
        self.f = nn.Linear(64 if bi else 32, 9)

    def forward(self, x: Tensor) -> Tensor:
        return self.f(self.r(self.e(x))[0])


class Cell(nn.Module):
    """A recurrent cell stepped by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.f = nn.LSTMCell(8, 32), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(x.shape[0], self.c.hidden_size)
        s = torch.zeros_like(h)
        for t in range(x.shape[1]):
            h, s = self.c(x[:, t], (h, s))
        return self.f(h)


class ConvLSTM(nn.Module):
    def __init__(self, c: int = 16) -> None:
        super().__init__()
        self.c, self.g, self.f = c, nn.Conv2d(3 + c, 4 * c, 3, padding=1), nn.Conv2d(c, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = s = torch.zeros(x.shape[0], self.c, *x.shape[3:])
        for t in range(x.shape[1]):
            i, f, o, g = torch.split(self.g(torch.cat([x[:, t], h], 1)), self.c, 1)
            s = f.sigmoid() * s + i.sigmoid() * g.tanh()
            h = o.sigmoid() * s.tanh()
        return self.f(h)


class TCN(nn.Module):
    def __init__(self, norm: bool) -> None:
        super().__init__()
        wrap: Callable = torch.nn.utils.parametrizations.weight_norm if norm else lambda m: m
        self.a, self.b = wrap(nn.Conv1d(4, 32, 3, padding=2)), wrap(nn.Conv1d(32, 32, 3, padding=4, dilation=2))
        self.s, self.f = nn.Conv1d(4, 32, 1), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.b(self.a(x)[..., :-2].relu())[..., :-4].relu()
        return self.f((y + self.s(x)).relu()[:, :, -1])


class WaveNet(nn.Module):
    def __init__(self, c: int = 32) -> None:
        super().__init__()
        self.i, self.g = nn.Conv1d(1, c, 1), nn.ModuleList(nn.Conv1d(c, 2 * c, 2, dilation=2**k) for k in range(3))
        self.r, self.s = (nn.ModuleList(nn.Conv1d(c, c, 1) for _ in range(3)) for _ in range(2))
        self.o = nn.Conv1d(c, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        x, out = self.i(x), 0
        for g, r, s in zip(self.g, self.r, self.s):
            y = F.glu(g(x), 1)
            x = r(y) + x[..., -y.shape[-1] :]
            out = s(y)[..., -8:] + out
        return self.o(out)


class FusedAttention(nn.Module):
    """GPT as commonly written: one projection, sizes from the input."""

    def __init__(self, c: int, h: int) -> None:
        super().__init__()
        self.h, self.qkv, self.o = h, nn.Linear(c, 3 * c), nn.Linear(c, c)

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.shape
        q, k, v = (y.view(b, t, self.h, c // self.h).transpose(1, 2) for y in self.qkv(x).split(c, 2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o(y.transpose(1, 2).contiguous().view(b, t, c))


class ViTAttention(nn.Module):
    """timm's: reshape to (3, heads, width), permute, unbind."""

    def __init__(self, c: int, h: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.qkv, self.proj = h, c // h, nn.Linear(c, 3 * c), nn.Linear(c, c)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        x = ((q * self.head_dim**-0.5) @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.proj(x.transpose(1, 2).reshape(b, n, c))


class GroupedQuery(nn.Module):
    """Llama-like: grouped queries, rotary positions."""

    def __init__(self, c: int, h: int, g: int) -> None:
        super().__init__()
        self.h, self.g, self.d = h, g, c // h
        self.q, self.k, self.v = nn.Linear(c, c), nn.Linear(c, g * self.d), nn.Linear(c, g * self.d)
        self.o = nn.Linear(c, c)

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q, k, v = (
            p(x).view(b, t, n, self.d).transpose(1, 2)
            for p, n in ((self.q, self.h), (self.k, self.g), (self.v, self.g))
        )
        angle = torch.outer(torch.arange(t), 1.0 / 100 ** (torch.arange(0, self.d, 2) / self.d)).repeat(1, 2)
        q, k = (
            y * angle.cos() + torch.cat([-y[..., self.d // 2 :], y[..., : self.d // 2]], -1) * angle.sin()
            for y in (q, k)
        )
        k, v = (y.repeat_interleave(self.h // self.g, 1) for y in (k, v))
        y = (q @ k.transpose(-1, -2) / self.d**0.5).softmax(-1) @ v
        return self.o(y.transpose(1, 2).reshape(b, t, -1))


class Block(nn.Module):
    def __init__(self, c: int, attention: nn.Module, gated: bool = False) -> None:
        super().__init__()
        norm = nn.RMSNorm if gated else nn.LayerNorm
        self.n1, self.n2, self.att = norm(c), norm(c), attention
        self.u, self.d, self.g = nn.Linear(c, 4 * c), nn.Linear(4 * c, c), nn.Linear(c, 4 * c) if gated else None

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.att(self.n1(x))
        y = self.n2(x)
        y = F.gelu(self.u(y)) if self.g is None else F.silu(self.g(y)) * self.u(y)
        return x + self.d(y)


class Language(nn.Module):
    """Token and position embeddings, blocks, tied output."""

    def __init__(self, attention: Callable[[int], nn.Module], gated: bool = False, c: int = 32) -> None:
        super().__init__()
        self.e, self.p = nn.Embedding(64, c), nn.Embedding(16, c)
        self.blocks = nn.Sequential(*(Block(c, attention(c), gated) for _ in range(2)))
        self.n, self.head = nn.LayerNorm(c), nn.Linear(c, 64, bias=False)
        self.head.weight = self.e.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.n(self.blocks(self.e(x) + self.p(torch.arange(x.shape[1])))))


class ViT(nn.Module):
    def __init__(self, c: int = 32) -> None:
        super().__init__()
        self.p, self.cls = Patches(c), nn.Parameter(torch.zeros(1, 1, c))
        self.pos, self.f = nn.Parameter(torch.zeros(1, 17, c)), nn.Linear(c, 10)
        self.blocks = nn.Sequential(*(Block(c, ViTAttention(c, 4)) for _ in range(2)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.p(x)
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1) + self.pos
        return self.f(self.blocks(x)[:, 0])


class TorchEncoder(nn.Module):
    def __init__(self, c: int = 32) -> None:
        super().__init__()
        self.e, self.f = nn.Embedding(64, c), nn.Linear(c, 5)
        self.t = nn.TransformerEncoder(nn.TransformerEncoderLayer(c, 4, 64, batch_first=True), 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.f(self.t(self.e(x)).mean(1))


class Translator(nn.Module):
    def __init__(self, c: int = 32) -> None:
        super().__init__()
        self.a, self.b, self.f = nn.Embedding(64, c), nn.Embedding(64, c), nn.Linear(c, 64)
        self.t = nn.Transformer(c, 4, 2, 2, 64, batch_first=True)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.f(self.t(self.a(x), self.b(y)))


class DLRM(nn.Module):
    def __init__(self, c: int = 16) -> None:
        super().__init__()
        self.e, self.d = (
            nn.ModuleList(nn.Embedding(50, c) for _ in range(3)),
            nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, c)),
        )
        self.t = nn.Sequential(nn.Linear(16 + c, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, x: Tensor, i: Tensor) -> Tensor:
        d = self.d(x)
        z = torch.stack([d, *(e(i[:, k]) for k, e in enumerate(self.e))], 1)
        return self.t(torch.cat([torch.bmm(z, z.transpose(1, 2)).flatten(1), d], 1))


class Experts(nn.Module):
    """Soft mixture of experts, their weights in one tensor."""

    def __init__(self, c: int = 16, n: int = 4, h: int = 32) -> None:
        super().__init__()
        self.r, self.i, self.o = nn.Linear(c, n), nn.Linear(8, c), nn.Linear(c, 3)
        self.a, self.b = nn.Parameter(torch.randn(n, c, h) * 0.2), nn.Parameter(torch.randn(n, h, c) * 0.2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.i(x)
        y = torch.einsum("bc,nch->bnh", x, self.a).relu()
        y = torch.einsum("bnh,nhc->bnc", y, self.b)
        return self.o(x + (y * self.r(x).softmax(-1)[..., None]).sum(1))


class Window(nn.Module):
    """Attention within windows of an image, with a table of relative positions."""

    def __init__(self, c: int = 32, h: int = 4, w: int = 4) -> None:
        super().__init__()
        self.h, self.w, self.p, self.n = h, w, nn.Conv2d(3, c, 2, 2), nn.LayerNorm(c)
        self.qkv, self.o, self.f = nn.Linear(c, 3 * c), nn.Linear(c, c), nn.Linear(c, 10)
        self.table = nn.Parameter(torch.randn(49, h) * 0.1)
        y, x = torch.meshgrid(torch.arange(w), torch.arange(w), indexing="ij")
        y, x = y.flatten(), x.flatten()
        self.register_buffer("index", (y[:, None] - y + w - 1) * (2 * w - 1) + x[:, None] - x + w - 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.p(x).permute(0, 2, 3, 1)
        b, s, _, c = x.shape
        n, w = s // self.w, self.w
        y = self.n(x).view(b, n, w, n, w, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, w * w, c)
        q, k, v = self.qkv(y).reshape(-1, w * w, 3, self.h, c // self.h).permute(2, 0, 3, 1, 4)
        bias = self.table[self.index.view(-1)].view(w * w, w * w, -1).permute(2, 0, 1)
        y = ((q @ k.transpose(-1, -2)) * 0.35 + bias).softmax(-1) @ v
        y = self.o(y.transpose(1, 2).reshape(-1, w * w, c))
        y = y.view(b, n, n, w, w, c).permute(0, 1, 3, 2, 4, 5).reshape(b, s, s, c)
        return self.f((x + y).mean((1, 2)))
