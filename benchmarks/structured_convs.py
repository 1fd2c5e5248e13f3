"""Convolutional networks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def cbr(i: int, o: int, k: int = 3, s: int = 1, g: int = 1, act: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Convolution, batch norm, activation."""
    return nn.Sequential(nn.Conv2d(i, o, k, s, k // 2, groups=g, bias=False), nn.BatchNorm2d(o), act())


class Head(nn.Module):
    """Global pooling and a classifier."""

    def __init__(self, c: int, n: int = 10) -> None:
        super().__init__()
        self.fc = nn.Linear(c, n)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


class SE(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(c, max(4, c // 4), 1), nn.Conv2d(max(4, c // 4), c, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.b(self.a(x.mean((2, 3), keepdim=True)).relu()).sigmoid()


class LeNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.c1, self.c2 = nn.Conv2d(1, 6, 5), nn.Conv2d(6, 16, 5)
        self.f1, self.f2, self.f3 = nn.Linear(256, 120), nn.Linear(120, 84), nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.c1(x).relu(), 2)
        x = F.max_pool2d(self.c2(x).relu(), 2).view(-1, 16 * 4 * 4)
        return self.f3(self.f2(self.f1(x).relu()).relu())


class Residual(nn.Module):
    """Basic, bottleneck, grouped and squeeze-excite residual blocks."""

    def __init__(self, i: int, o: int, s: int = 1, mid: int = 0, g: int = 1, se: bool = False) -> None:
        super().__init__()
        if mid:
            self.body = nn.Sequential(
                cbr(i, mid, 1),
                cbr(mid, mid, 3, s, g),
                SE(mid) if se else nn.Identity(),
                nn.Conv2d(mid, o, 1),
                nn.BatchNorm2d(o),
            )
        else:
            self.body = nn.Sequential(
                cbr(i, o, 3, s), nn.Conv2d(o, o, 3, 1, 1), nn.BatchNorm2d(o), SE(o) if se else nn.Identity()
            )
        self.short = nn.Identity() if i == o and s == 1 else nn.Sequential(nn.Conv2d(i, o, 1, s), nn.BatchNorm2d(o))

    def forward(self, x: Tensor) -> Tensor:
        return (self.body(x) + self.short(x)).relu()


def resnet(**block: object) -> nn.Module:
    return nn.Sequential(
        cbr(3, 16), Residual(16, 16, **block), Residual(16, 32, 2, **block), Residual(32, 32, **block), Head(32)
    )


class DenseNet(nn.Module):
    def __init__(self, c: int = 16, k: int = 8, n: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, c, 3, padding=1)
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.BatchNorm2d(c + i * k),
                nn.ReLU(),
                nn.Conv2d(c + i * k, 4 * k, 1),
                nn.BatchNorm2d(4 * k),
                nn.ReLU(),
                nn.Conv2d(4 * k, k, 3, padding=1),
            )
            for i in range(n)
        )
        self.end = nn.Sequential(nn.BatchNorm2d(c + n * k), nn.ReLU(), Head(c + n * k))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return self.end(x)


class Inverted(nn.Module):
    """MobileNetV2/V3 and EfficientNet blocks."""

    def __init__(self, i: int, o: int, s: int, e: int, se: bool, act: type[nn.Module]) -> None:
        super().__init__()
        self.body = nn.Sequential(
            cbr(i, i * e, 1, act=act),
            cbr(i * e, i * e, 3, s, i * e, act),
            SE(i * e) if se else nn.Identity(),
            nn.Conv2d(i * e, o, 1),
            nn.BatchNorm2d(o),
        )
        self.same = i == o and s == 1

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.same else self.body(x)


def mobilenet(se: bool, act: type[nn.Module]) -> nn.Module:
    return nn.Sequential(
        cbr(3, 16, act=act),
        Inverted(16, 24, 2, 4, se, act),
        Inverted(24, 24, 1, 4, se, act),
        Inverted(24, 32, 2, 4, se, act),
        Inverted(32, 32, 1, 4, se, act),
        cbr(32, 64, 1),
        Head(64),
    )


class Ghost(nn.Module):
    def __init__(self, i: int, o: int) -> None:
        super().__init__()
        self.a, self.b = cbr(i, o // 2, 1), cbr(o // 2, o // 2, 3, g=o // 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return torch.cat([y, self.b(y)], 1)


def shuffle(x: Tensor, g: int) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, g, c // g, h, w).transpose(1, 2).reshape(n, c, h, w)


class Shuffle1(nn.Module):
    def __init__(self, c: int, g: int) -> None:
        super().__init__()
        self.g, self.a, self.b, self.c = g, cbr(c, c, 1, g=g), cbr(c, c, 3, g=c), cbr(c, c, 1, g=g)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.c(self.b(shuffle(self.a(x), self.g)))


class Shuffle2(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.body = nn.Sequential(cbr(c // 2, c // 2, 1), cbr(c // 2, c // 2, 3, g=c // 2), cbr(c // 2, c // 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, 1)
        return shuffle(torch.cat([a, self.body(b)], 1), 2)


class Fire(nn.Module):
    def __init__(self, i: int, s: int, e: int) -> None:
        super().__init__()
        self.s, self.a, self.b = nn.Conv2d(i, s, 1), nn.Conv2d(s, e, 1), nn.Conv2d(s, e, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.s(x).relu()
        return torch.cat([self.a(x).relu(), self.b(x).relu()], 1)


class Inception(nn.Module):
    def __init__(self, i: int, o: int) -> None:
        super().__init__()
        self.a, self.b = cbr(i, o, 1), nn.Sequential(cbr(i, o, 1), cbr(o, o))
        self.c, self.d = nn.Sequential(cbr(i, o // 2, 1), cbr(o // 2, o, 5)), cbr(i, o, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.a(x), self.b(x), self.c(x), self.d(F.max_pool2d(x, 3, 1, 1))], 1)


class C2f(nn.Module):
    """YOLOv8's split-transform-merge block."""

    def __init__(self, i: int, o: int) -> None:
        super().__init__()
        self.c = o // 2
        self.a, self.z = cbr(i, o, 1, act=nn.SiLU), cbr(3 * self.c, o, 1, act=nn.SiLU)
        self.b = nn.Sequential(cbr(self.c, self.c, act=nn.SiLU), cbr(self.c, self.c, act=nn.SiLU))

    def forward(self, x: Tensor) -> Tensor:
        y = list(self.a(x).split((self.c, self.c), 1))
        y.append(y[-1] + self.b(y[-1]))
        return self.z(torch.cat(y, 1))


class Yolo(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Sequential(cbr(3, 16, s=2), C2f(16, 32)), nn.Sequential(cbr(32, 32, s=2), C2f(32, 64))
        self.pool, self.mix = cbr(128, 64, 1), C2f(96, 32)
        self.heads = nn.ModuleList([nn.Conv2d(32, 18, 1), nn.Conv2d(64, 18, 1)])

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x)
        b = self.b(a)
        b = self.pool(torch.cat([b, F.max_pool2d(b, 5, 1, 2)], 1))
        a = self.mix(torch.cat([F.interpolate(b, scale_factor=2.0), a], 1))
        return torch.cat([h(t).view(x.shape[0], 18, -1) for h, t in zip(self.heads, (a, b))], 2)


class CSP(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.a, self.b, self.body, self.z = cbr(c, c // 2, 1), cbr(c, c // 2, 1), Residual(c // 2, c // 2), cbr(c, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.z(torch.cat([self.body(self.a(x)), self.b(x)], 1))


class RepVGG(nn.Module):
    def __init__(self, i: int, o: int) -> None:
        super().__init__()
        self.a = nn.Sequential(nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o))
        self.b = nn.Sequential(nn.Conv2d(i, o, 1), nn.BatchNorm2d(o))
        self.c = nn.BatchNorm2d(o) if i == o else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x) + self.b(x)
        return (y if self.c is None else y + self.c(x)).relu()


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.d1, self.d2, self.mid = cbr(3, 16), cbr(16, 32), cbr(32, 64)
        self.u2, self.u1 = nn.ConvTranspose2d(64, 32, 2, 2), nn.ConvTranspose2d(32, 16, 2, 2)
        self.c2, self.c1, self.end = cbr(64, 32), cbr(32, 16), nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.d1(x)
        b = self.d2(F.max_pool2d(a, 2))
        y = self.u2(self.mid(F.max_pool2d(b, 2)))
        y = self.u1(self.c2(torch.cat([b, y], 1)))
        return self.end(self.c1(torch.cat([a, y], 1)))


class Diffusion(nn.Module):
    """Group norms, a time embedding, spatial attention, scale and shift from one projection."""

    def __init__(self, c: int = 32) -> None:
        super().__init__()
        self.stem, self.t = (
            nn.Conv2d(3, c, 3, padding=1),
            nn.Sequential(nn.Linear(8, 32), nn.SiLU(), nn.Linear(32, 2 * c)),
        )
        self.n1, self.c1 = nn.GroupNorm(8, c), nn.Conv2d(c, c, 3, padding=1)
        self.n2, self.c2 = nn.GroupNorm(8, c), nn.Conv2d(c, c, 3, padding=1)
        self.na, self.qkv, self.o = nn.GroupNorm(8, c), nn.Conv2d(c, 3 * c, 1), nn.Conv2d(c, c, 1)
        self.end = nn.Sequential(nn.GroupNorm(8, c), nn.SiLU(), nn.Conv2d(c, 3, 3, padding=1))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        x = self.stem(x)
        scale, shift = self.t(t)[:, :, None, None].chunk(2, 1)
        y = self.n2(self.c1(F.silu(self.n1(x)))) * (1 + scale) + shift
        x = x + self.c2(F.silu(y))
        b, _, h, w = x.shape
        q, k, v = self.qkv(self.na(x)).reshape(b, 3, 4, -1, h * w).unbind(1)
        y = (q.transpose(-1, -2) @ k * 0.35).softmax(-1) @ v.transpose(-1, -2)
        return self.end(x + self.o(y.transpose(-1, -2).reshape(b, -1, h, w)))


class Generator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 32 * 4 * 4)
        self.body = nn.Sequential(
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.ConvTranspose2d(32, 16, 4, 2, 1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.ConvTranspose2d(16, 3, 4, 2, 1),
            nn.Tanh(),
        )

    def forward(self, z: Tensor) -> Tensor:
        return self.body(self.fc(z).view(-1, 32, 4, 4))


class VAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.z = nn.Sequential(nn.Conv2d(1, 16, 4, 2, 1), nn.ReLU(), nn.Flatten()), nn.Linear(16 * 49 * 4, 16)
        self.b = nn.Sequential(nn.Linear(8, 128), nn.ReLU(), nn.Linear(128, 784))

    def forward(self, x: Tensor) -> Tensor:
        mean, spread = self.z(self.a(x)).chunk(2, 1)
        return self.b(mean + spread.exp()).view(-1, 1, 28, 28)


class PointNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Sequential(nn.Conv1d(3, 32, 1), nn.BatchNorm1d(32), nn.ReLU(), nn.Conv1d(32, 64, 1))
        self.b = nn.Sequential(nn.Conv1d(128, 32, 1), nn.ReLU(), nn.Conv1d(32, 4, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        return self.b(torch.cat([y, y.amax(2, keepdim=True).expand(-1, -1, y.shape[2])], 1))


class CBAM(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.a, self.b, self.s, self.c = (
            nn.Linear(c, c // 4),
            nn.Linear(c // 4, c),
            nn.Conv2d(2, 1, 3, padding=1),
            cbr(c, c),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.c(x)
        gate = sum(self.b(self.a(y).relu()) for y in (x.mean((2, 3)), x.amax((2, 3))))
        x = x * gate.sigmoid()[:, :, None, None]
        return x * self.s(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)).sigmoid()


class FPN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = cbr(3, 16, s=2), cbr(16, 32, s=2), cbr(32, 64, s=2)
        self.l = nn.ModuleList(nn.Conv2d(n, 24, 1) for n in (16, 32, 64))
        self.o = nn.ModuleList(nn.Conv2d(24, 24, 3, padding=1) for _ in range(3))
        self.h = nn.Conv2d(24, 6, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        a = self.a(x)
        b = self.b(a)
        p = [layer(y) for layer, y in zip(self.l, (a, b, self.c(b)))]
        p[1] = p[1] + F.interpolate(p[2], scale_factor=2.0)
        p[0] = p[0] + F.interpolate(p[1], scale_factor=2.0)
        return tuple(self.h(o(y)) for o, y in zip(self.o, p))


class HRNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.s, self.a, self.b = cbr(3, 16), Residual(16, 16), cbr(16, 32, s=2)
        self.up, self.down, self.h = cbr(32, 16, 1), cbr(16, 32, s=2), Head(48)

    def forward(self, x: Tensor) -> Tensor:
        x = self.s(x)
        a, b = self.a(x), self.b(x)
        a, b = a + F.interpolate(self.up(b), scale_factor=2.0), b + self.down(a)
        return self.h(torch.cat([a, F.interpolate(b, scale_factor=2.0)], 1))


class Siamese(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.t = nn.Sequential(cbr(3, 16), cbr(16, 32, s=2), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 32))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return F.cosine_similarity(self.t(a), self.t(b))


class OptionA(nn.Module):
    """A residual net whose short cut pads channels with zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.s, self.a, self.b, self.h = cbr(3, 16), cbr(16, 32, s=2), nn.Conv2d(32, 32, 3, padding=1), Head(32)

    def forward(self, x: Tensor) -> Tensor:
        x = self.s(x)
        return self.h((self.b(self.a(x)) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 8, 8))).relu())
