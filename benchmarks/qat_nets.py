"""The networks of qat: trained, with the samples to train on again and the score on those they never saw."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

import zoo
from lessen.data import Part, load_data
from lessen.models import Layer, fold_batchnorm, trace
from lessen.train import Distillation

STEPS = 64  # frames of 512 samples in one lesson of the voice-activity net: two seconds
SCENES = 80  # of each voice; every fourth is for the test


@dataclass(frozen=True, eq=False)
class Net:
    """A network under test.

    Args:
        module: batch norms folded.
        layers: those that are quantized.
        lessons: (seed, quick) -> what it is calibrated and trained on.
        score: (network, quick) -> points, higher is better.
        n: test samples.
        epochs: by bits; None: as many as the method takes by itself.
        lr: by bits; two-bit weights have a longer way to go.
        bfloat16: whether products are computed in bfloat16 while it trains (never when it is scored).
    """

    module: nn.Module
    layers: tuple[Layer, ...]
    lessons: Callable[[int, bool], Part]
    score: Callable[[nn.Module, bool], float]
    n: int
    metric: str
    epochs: Mapping[str, int | None]
    lr: Mapping[str, float]
    batch: int
    distillation: Distillation = field(default_factory=Distillation)
    bfloat16: bool = False


@cache
def resnet_8() -> Net:
    """ResNet-8 on Fashion-MNIST, all layers: 60,000 training images, 10,000 test images.

    The temperature and the learning rates were chosen on the last 5,000 training images, by trials on the others: at
    four bits the divergence from the float network after a third of an epoch was 0.029 with temperature 4 (2: 0.030, 8:
    0.057), at two bits after two epochs 0.0093 with a rate of 0.002 (0.001: 0.0096, 0.004: 0.0111). Averages of the
    weights were no better than the end. Epochs are what time allowed.
    """
    x, y, x_test, y_test = zoo.fashion_mnist()
    module = fold_batchnorm(zoo.resnet_8(), (x[:2],))[0]

    def lessons(seed: int, quick: bool) -> Part:
        rows = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[: 2048 if quick else None]
        return part(x[rows], y[rows])

    def score(net: nn.Module, quick: bool) -> float:
        few = slice(0, 2000 if quick else None)
        return 100 * zoo.accuracy(net, x_test[few], y_test[few])

    return Net(module, trace(module, (x[:2],)).layers, lessons, score, len(x_test), "accuracy",
               {"W4A4": 4, "W2A8": 10}, dict.fromkeys(("W4A4", "W2A8"), 2e-3), 64, Distillation(temperature=4.0),
               bfloat16=True)  # fmt: skip


@cache
def silero() -> Net:
    """Silero's voice-activity net on recorded prompts in noise (10 dB), convolutions and recurrent cell.

    Its first convolution is a fixed Fourier transform and stays in float, as does the cell's memory c; the cell's
    input and state are quantized. Score: 100 x area under the ROC curve of frames. Test prompts are others than those
    that it is trained on, and it learns from the float network alone: that never saw these prompts, so with their
    labels the quantized one would not only recover what it lost but learn something new.

    Steps and rate were chosen at W4A4 on a quarter of the training prompts, which these trials did not train on: the
    error from the float network, two seeds, was 0.037 after 10 epochs with a rate of 0.003, 0.028 after 40, 0.012
    after 40 with a rate of 0.001 (0.0004: 0.010 against 0.009 with one seed).
    """
    scenes = zoo.vad_task(10, SCENES, 0)
    test, rest = scenes[::4], [s for i, s in enumerate(scenes) if i % 4]
    x, y = pieces(rest)
    module = zoo.silero()
    layers = tuple(layer for layer in trace(module, (x[:2],)).layers if not layer.name.startswith("stft"))

    def lessons(seed: int, quick: bool) -> Part:
        rows = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[: 64 if quick else None]
        return part(x[rows], y[rows])

    @torch.no_grad()
    def score(net: nn.Module, quick: bool) -> float:
        heard = test[:20] if quick else test
        return 100 * zoo.auc(torch.cat([net(w[None])[0] for w, _ in heard]), torch.cat([t for _, t in heard]))

    return Net(module, layers, lessons, score, sum(len(t) for _, t in test), "AUC",
               dict.fromkeys(("W4A4", "W2A8")), dict.fromkeys(("W4A4", "W2A8"), 1e-3), 16,
               Distillation(alpha=1.0))  # fmt: skip


def pieces(scenes: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Sounds cut into pieces of equal length."""
    x, y = [], []
    for sound, labels in scenes:
        for start in range(0, len(labels) - STEPS + 1, STEPS):
            x.append(sound[start * zoo.speech.FRAME : (start + STEPS) * zoo.speech.FRAME])
            y.append(labels[start : start + STEPS])
    return torch.stack(x), torch.stack(y)


def part(x: Tensor, y: Tensor) -> Part:
    """All of it as one part."""
    whole: Any = {"calibration": (x, y), "validation": (x[:8], y[:8]), "test": (x[8:16], y[8:16])}
    return load_data(whole).calibration


NETS: dict[str, Callable[[], Net]] = {"resnet_8": resnet_8, "silero": silero}
