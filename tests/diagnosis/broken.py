"""Small networks, and what ONNX Runtime's quantizer makes of them, broken in one known way each."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

import small
from lessen.models import fold_batchnorm
from lessen.targets import float_onnx
from lessen.targets.graph import serialized


class Clipped(nn.Module):
    """Convolutions with ReLU6, the middle one depthwise: per-tensor weights and swallowed clips."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.last, self.head = nn.Conv2d(16, 24, 1), nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.relu6(self.first(x))
        x = nn.functional.relu6(self.last(nn.functional.relu6(self.middle(x))))
        return self.head(x.mean((2, 3)))


def clipped() -> nn.Module:
    """Seeded; one channel of the depthwise layer is 400 times larger than the others."""
    net = _seeded(Clipped)
    with torch.no_grad():
        net.middle.weight[5].mul_(400)
        net.last.weight[:, 5].div_(400)
    return net


def outlying() -> nn.Module:
    """Two linear layers with one hidden channel that is sixty times larger than the others."""
    net = _seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(144, 32), nn.ReLU(), nn.Linear(32, 4)))
    with torch.no_grad():
        net[1].weight[3].mul_(60)
        net[1].bias[3].mul_(60)
        net[3].weight[:, 3].div_(60)
    return net


def _seeded(build: Callable[[], Any]) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build().eval()


@functools.cache
def trained() -> nn.Module:
    """`small.trained()`, once for all."""
    return small.trained()


def saved(net: nn.Module, x: Tensor, path: Path) -> Path:
    """The float file, batch norms folded."""
    module, _ = fold_batchnorm(net, (x[:2],))
    path.write_bytes(serialized(float_onnx(module, (x[:2],))))
    return path


def quantized(source: Path, out: Path, x: Tensor, **settings: Any) -> Path:
    """`quantize_static` with its defaults but for `settings`, calibrated on x."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            name = ir.load(source).graph.inputs[0].name
            self.left = iter([{name: part.numpy()} for part in x.split(16)])

        def get_next(self) -> Any:
            return next(self.left, None)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantize_static(str(source), str(out), Reader(), **settings)
    return out


def dynamic(source: Path, out: Path) -> Path:
    """`quantize_dynamic` with its defaults."""
    from onnxruntime.quantization import quantize_dynamic

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantize_dynamic(str(source), str(out))
    return out


def samples(net: nn.Module, n: int = 300) -> dict[str, tuple[Tensor, Tensor]]:
    """Parts of the small task, labelled with what the network itself answers: every lost point is the file's."""
    x, _ = small.data(3 * n)
    with torch.no_grad():
        y = net(x).argmax(1)
    cuts = {"calibration": slice(0, 64), "validation": slice(n, 2 * n), "test": slice(2 * n, 3 * n)}
    return {name: (x[cut], y[cut]) for name, cut in cuts.items()}


def npz(parts: dict[str, tuple[Tensor, Tensor]], path: Path) -> Path:
    """The parts as a file."""
    arrays = {f"{k}_{name}": v.numpy() for name, (x, y) in parts.items() for k, v in (("x", x), ("y", y))}
    np.savez(path, **arrays)
    return path
