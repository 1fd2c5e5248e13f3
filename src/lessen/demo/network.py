"""The demo's network: a small ResNet for 28 x 28 grey images. `lessen compress network.py:network` opens it."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

WEIGHTS = Path(__file__).parent / "network.safetensors"


class Block(nn.Module):
    """The basic residual block. (He et al. 2016)"""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Module):
    """6 * depth + 2 layers, [n, 1, 28, 28] -> [n, 10]; 78 k parameters at depth 1, 175 k at depth 2."""

    def __init__(self, depth: int = 1, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        widths = [width] * (depth + 1) + [2 * width] * depth + [4 * width] * depth
        self.blocks = nn.Sequential(*(Block(i, o, 2 if o > i else 1) for i, o in pairwise(widths)))
        self.head = nn.Linear(4 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


def network() -> ResNet:
    """The trained network: Fashion-MNIST, 14 layers, 175 k parameters; made by scripts/make_demo.py."""
    model = ResNet(depth=2)
    model.load_state_dict(load_file(WEIGHTS))
    return model.eval()
