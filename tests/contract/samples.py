"""Layers of every kind, with and without statistics, that each technique must be able to look at."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lessen.models.layer import Layer
from lessen.statistics import Statistics


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def layer(kind: str, *shape: int, groups: int = 1, weight: Tensor | None = None) -> Layer:
    axis = 1 if kind == "conv_transpose" else 0
    return Layer(f"{kind}.weight", kind, draw(*shape) * 0.1 if weight is None else weight, axis, groups)


LAYERS: dict[str, Callable[[], Layer]] = {
    "linear": lambda: layer("linear", 24, 32),
    "linear, input first": lambda: Layer("x.weight", "linear", draw(32, 24) * 0.1, 1),
    "conv": lambda: layer("conv", 16, 8, 3, 3),
    "conv 1d": lambda: layer("conv", 16, 8, 4),
    "grouped": lambda: layer("conv", 16, 8, 3, 3, groups=2),
    "depthwise": lambda: layer("conv", 12, 1, 3, 3, groups=12),
    "transposed": lambda: layer("conv_transpose", 8, 6, 2, 2),
    "transposed, grouped": lambda: layer("conv_transpose", 8, 6, 2, 2, groups=2),
    "embedding": lambda: layer("embedding", 40, 16),
    "recurrent": lambda: layer("recurrent", 32, 8),
    "one weight": lambda: layer("linear", 1, 1),
    "one row": lambda: layer("linear", 1, 16),
    "one column": lambda: layer("linear", 16, 1),
    "constant": lambda: layer("linear", 16, 16, weight=torch.full((16, 16), 0.25)),
    "zero": lambda: layer("linear", 16, 16, weight=torch.zeros(16, 16)),
    "a dead row": lambda: layer("linear", 16, 16, weight=draw(16, 16) * (torch.arange(16) != 3)[:, None]),
    "one outlier": lambda: layer("linear", 16, 16, weight=draw(16, 16) + 1e4 * torch.eye(16)),
    "tiny values": lambda: layer("linear", 16, 16, weight=draw(16, 16) * 1e-30),
    "half precision": lambda: layer("linear", 16, 16, weight=draw(16, 16).half()),
}


def statistics(of: Layer, seed: int = 1) -> Statistics:
    """Correlated inputs of very different sizes, and outputs of different importance."""
    rows, columns = of.shape
    groups = of.groups if of.kind != "embedding" else 1
    mix = draw(groups, columns, columns, seed=seed) * draw(columns, seed=seed + 1).exp()
    x = draw(groups, 4 * columns + 8, columns, seed=seed + 2) @ mix + 0.3
    H = x.transpose(1, 2) @ x / x.shape[1]
    return Statistics(H, x.mean(1), draw(rows, seed=seed + 3).square(), -1.0, 1.0, 4, 16, x.shape[1])


KNOWN: dict[str, Callable[[Layer], Statistics]] = {
    "nothing": lambda of: Statistics(),
    "all": statistics,
    "diagonal": lambda of: Statistics(statistics(of).diagonal(of.shape[1]).contiguous()),
    "singular": lambda of: Statistics(torch.ones(1, of.shape[1], of.shape[1])),
    "dead inputs": lambda of: Statistics(torch.zeros(1, of.shape[1], of.shape[1]), G=torch.zeros(of.shape[0])),
}
