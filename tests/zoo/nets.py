"""The small networks of the zoo, trained by scripts/train_nets.py; their weights are in tests/zoo/checkpoints/."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lessen.demo.network import ResNet

__all__ = ["CharacterGPT", "Depthwise", "LeNet5", "LeNet300100", "LettersMLP", "ResNet"]


class LeNet300100(nn.Sequential):
    """Two hidden layers of 300 and 100: 267 k parameters, images [n, 1, 28, 28] -> [n, 10]. (LeCun et al. 1998)"""

    def __init__(self) -> None:
        super().__init__(
            nn.Flatten(), nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10)
        )


class LeNet5(nn.Sequential):
    """Caffe's LeNet-5: 431 k parameters, images [n, 1, 28, 28] -> [n, 10]. The one that pruning papers use."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 20, 5), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10),
        )  # fmt: skip


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU6())


class Depthwise(nn.Sequential):
    """MobileNet (Howard et al. 2017) for [n, 1, 28, 28]: 73 k parameters, the kind that int8 hurts."""

    def __init__(self) -> None:
        layers = [_conv(1, 16, 3, 2)]
        widths, strides = (16, 32, 64, 64, 128, 128, 256), (1, 2, 1, 2, 1, 1)
        for inputs, outputs, stride in zip(widths, widths[1:], strides, strict=False):
            layers += [_conv(inputs, inputs, 3, stride, inputs), _conv(inputs, outputs, 1)]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 10))


class LettersMLP(nn.Sequential):
    """Two hidden layers of 256: 77 k parameters, 16 features of a drawn letter [n, 16] -> [n, 26]."""

    def __init__(self) -> None:
        super().__init__(
            nn.Linear(16, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 26)
        )  # fmt: skip


class GPTBlock(nn.Module):
    """Pre-norm attention and feed-forward, qkv in one weight."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, t, d = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(n, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(n, t, d)
        x = x + self.out(mixed)
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class CharacterGPT(nn.Module):
    """A GPT of 4 blocks over characters: 0.83 M parameters, tokens [n, t <= 128] -> logits [n, t, vocabulary]."""

    def __init__(self, vocabulary: int, context: int = 128, width: int = 128, depth: int = 4, heads: int = 4) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(GPTBlock(width, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.positions(torch.arange(tokens.shape[1], device=tokens.device))
        return self.head(self.norm(self.blocks(x)))
