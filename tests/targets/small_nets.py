"""Small seeded networks, one for each thing that a file must get right, and plain 8-bit grids for them."""

from __future__ import annotations

import copy
import functools

import onnx_ir as ir
import torch
from torch import Tensor, nn

from lessen.codings import Grid
from lessen.models import Layer, trace
from lessen.targets import float_onnx


def seeded(module: nn.Module) -> nn.Module:
    g = torch.Generator().manual_seed(0)
    for p in module.parameters():
        with torch.no_grad():
            fan = p[0].numel() if p.ndim > 1 else 16
            p.copy_(torch.randn(p.shape, generator=g) * (1.4 / fan**0.5 if p.ndim > 1 else 0.1))
    return module.eval()


def built(kind: type[nn.Module]) -> nn.Module:
    """A network of this class; the initial weights that its constructor draws touch no global generator."""
    with torch.random.fork_rng():
        return seeded(kind())


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Residual(nn.Module):
    """Convolutions, depthwise, residual addition, ReLU6, pooling, a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 2, 1)
        self.wide = nn.Conv2d(16, 32, 1)
        self.depthwise = nn.Conv2d(32, 32, 3, 1, 1, groups=32)
        self.narrow = nn.Conv2d(32, 16, 1)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        y = nn.functional.relu6(self.wide(x))
        x = x + self.narrow(nn.functional.relu6(self.depthwise(y)))
        return self.head(torch.relu(x).mean((2, 3)))


class Gated(nn.Module):
    """Squeeze-and-excitation, hard swish, SiLU, concatenation, pooling, transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 2, 1)
        self.mix = nn.Conv2d(16, 16, 3, 1, 1)
        self.squeeze, self.excite = nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1)
        self.join = nn.Conv2d(32, 24, 3, 1, 1)
        self.up = nn.ConvTranspose2d(24, 8, 2, 2)
        self.head = nn.Linear(8 * 8 * 8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.hardswish(self.stem(x))
        y = nn.functional.silu(self.mix(x))
        y = y * torch.sigmoid(self.excite(torch.relu(self.squeeze(y.mean((2, 3), keepdim=True)))))
        z = nn.functional.max_pool2d(torch.cat([x, y], 1), 2)
        return self.head(torch.relu(self.up(torch.relu(self.join(z))))[..., :8, :8].flatten(1))


class Block(nn.Module):
    """One transformer block over tokens, with an outlier channel that only smoothing can tame."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 32)
        self.norm = nn.LayerNorm(32)
        self.qkv, self.out = nn.Linear(32, 96), nn.Linear(32, 32)
        self.up, self.down = nn.Linear(32, 64), nn.Linear(64, 32)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        q, k, v = self.qkv(self.norm(x)).view(*x.shape[:2], 3, 4, 8).permute(2, 0, 3, 1, 4)
        a = nn.functional.scaled_dot_product_attention(q, k, v)
        x = x + self.out(a.transpose(1, 2).reshape(x.shape))
        return x + self.down(nn.functional.gelu(self.up(x)))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(8, 16, batch_first=True), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0])


@functools.cache
def _exported(kind: type[nn.Module], shape: tuple[int, ...], floating: bool) -> tuple[nn.Module, ir.Model]:
    module = built(kind)
    x = noise(*shape) if floating else torch.zeros(shape, dtype=torch.int64)
    return module, float_onnx(module, (x,))


def exported(kind: type[nn.Module], x: Tensor) -> tuple[nn.Module, tuple[Layer, ...], ir.Model]:
    """A network of this class (a copy of one's own), its layers, its float graph; exported once for all tests."""
    module, graph = _exported(kind, (2, *x.shape[1:]), x.is_floating_point())
    module = copy.deepcopy(module)
    return module, layers_of(module, x), graph


def grid(layer: Layer, bits: int = 8) -> Grid:
    """Round to nearest, symmetric, per channel."""
    top = 2 ** (bits - 1) - 1
    scale = (layer.matrix.abs().amax(1, keepdim=True) / top).clamp_min(1e-12)
    codes = (layer.matrix / scale).round().clamp(-top, top).to(torch.int8)
    return Grid(codes, scale, torch.zeros(scale.shape, dtype=torch.int8), bits)


def layers_of(module: nn.Module, *inputs: Tensor) -> tuple[Layer, ...]:
    return trace(module, inputs).layers


def sqnr(wanted: Tensor, got: Tensor) -> float:
    """Decibels."""
    return float(10 * torch.log10(wanted.square().sum() / (wanted - got).square().sum().clamp_min(1e-30)))
