"""A ResNet-50 with random weights: what it weighs and how fast it runs is real, what it answers is not."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 around a shortcut. (He et al. 2016, with the stride in the 3x3 as everybody has it)"""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * width
        self.conv1, self.norm1 = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.norm3 = nn.Conv2d(width, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        y = F.relu(self.norm2(self.conv2(y)))
        return F.relu(self.norm3(self.conv3(y)) + self.shortcut(x))


class ResNet50(nn.Module):
    """25.6 M parameters, 4.1 G multiply-adds: [n, 3, 224, 224] -> [n, 1000]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        )
        blocks, inputs = [], 64
        for stage, depth in enumerate((3, 4, 6, 3)):
            for n in range(depth):
                blocks.append(Bottleneck(inputs, 64 << stage, 2 if stage and not n else 1))
                inputs = 256 << stage
        self.blocks, self.head = nn.Sequential(*blocks), nn.Linear(inputs, 1000)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


@torch.no_grad()
def resnet_50(images: Tensor, seed: int = 0) -> ResNet50:
    """Seeded random weights; the batch norms take their statistics from `images`, so that activations stay in range."""
    with torch.random.fork_rng():
        network = ResNet50()
    generator = torch.Generator().manual_seed(seed)
    for weight in (p for p in network.parameters() if p.ndim > 1):
        weight.normal_(0, math.sqrt(2 / weight[0].numel()), generator=generator)
    network.head.bias.zero_()
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    network.train()(images)
    return network.eval()
