"""Networks that mix patches: ConvNeXt, ConvMixer and multi-layer perceptrons."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ConvNeXt(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.d, self.n = nn.Conv2d(c, c, 7, padding=3, groups=c), nn.LayerNorm(c)
        self.a, self.b, self.scale = nn.Linear(c, 4 * c), nn.Linear(4 * c, c), nn.Parameter(torch.ones(c))

    def forward(self, x: Tensor) -> Tensor:
        y = self.n(self.d(x).permute(0, 2, 3, 1))
        return x + (self.scale * self.b(F.gelu(self.a(y)))).permute(0, 3, 1, 2)


class ConvMixer(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.d = nn.Sequential(nn.Conv2d(c, c, 5, padding=2, groups=c), nn.GELU(), nn.BatchNorm2d(c))
        self.p = nn.Sequential(nn.Conv2d(c, c, 1), nn.GELU(), nn.BatchNorm2d(c))

    def forward(self, x: Tensor) -> Tensor:
        return self.p(x + self.d(x))


class Patches(nn.Module):
    def __init__(self, c: int, p: int = 4) -> None:
        super().__init__()
        self.p = nn.Conv2d(3, c, p, p)

    def forward(self, x: Tensor) -> Tensor:
        return self.p(x).flatten(2).transpose(1, 2)


class Mixer(nn.Module):
    def __init__(self, t: int, c: int) -> None:
        super().__init__()
        self.n1, self.n2 = nn.LayerNorm(c), nn.LayerNorm(c)
        self.t1, self.t2, self.c1, self.c2 = (
            nn.Linear(t, 32),
            nn.Linear(32, t),
            nn.Linear(c, 4 * c),
            nn.Linear(4 * c, c),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.t2(F.gelu(self.t1(self.n1(x).transpose(1, 2)))).transpose(1, 2)
        return x + self.c2(F.gelu(self.c1(self.n2(x))))


class ResMLP(nn.Module):
    def __init__(self, t: int, c: int) -> None:
        super().__init__()
        self.alpha, self.beta = nn.Parameter(torch.ones(1, 1, c)), nn.Parameter(torch.zeros(1, 1, c))
        self.t, self.a, self.b = nn.Linear(t, t), nn.Linear(c, 4 * c), nn.Linear(4 * c, c)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.t((x * self.alpha + self.beta).transpose(1, 2)).transpose(1, 2)
        return x + self.b(F.gelu(self.a(x)))


class GMLP(nn.Module):
    def __init__(self, t: int, c: int) -> None:
        super().__init__()
        self.n, self.m, self.a = nn.LayerNorm(c), nn.LayerNorm(2 * c), nn.Linear(c, 4 * c)
        self.t, self.b = nn.Linear(t, t), nn.Linear(2 * c, c)

    def forward(self, x: Tensor) -> Tensor:
        u, v = F.gelu(self.a(self.n(x))).chunk(2, -1)
        return x + self.b(u * self.t(self.m(v).transpose(1, 2)).transpose(1, 2))


class MeanHead(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.fc = nn.Linear(c, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.mean(1))
