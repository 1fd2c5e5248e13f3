"""The most memory of one job in a process of its own, above what imports, network and data take.

What ran before would count as free where it was not given back; so every job gets a process. A job on a tiny network
comes first, so that what the runtime and the exporter load late counts as imports.

    python _memory.py MODEL WHO [RUNTIME]     prints bytes; WHO is of int8_peers, ours with the runtime
"""

from __future__ import annotations

import importlib
import logging
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
from int8_tasks import TASKS, Task
from int8_tools import tools
from torch import Tensor, nn

from lessen import Compression, Uniform
from lessen.models import fold_batchnorm
from lessen.targets import float_onnx, target

OURS = {"lessen": (Uniform(8),), "lessen/any bits": "uniform"}
LATE = ("nncf", "openvino", "onnxruntime.quantization", "onnxscript", "onnx_ir")


def needed(what: str, who: str, runtime: str = "") -> int:
    """Bytes; see the module."""
    asked = [sys.executable, __file__, what, who, *([runtime] if runtime else [])]
    return int(subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split()[-1])


def main() -> None:
    """Run, print."""
    what, who, *runtime = sys.argv[1:]
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    for package in LATE:
        importlib.import_module(package)
    task = TASKS[what]()
    for p in task.network.parameters():
        p.detach().sum()  # pages of a file that nobody has read yet are the network's too
    with tempfile.TemporaryDirectory() as folder:
        job = (_ours if runtime else _peer)(task, who, Path(folder), *runtime)
        with common.Peak() as peak:
            job()
    print(peak.bytes)


def _ours(task: Task, who: str, folder: Path, runtime: str) -> Callable[[], object]:
    tiny, x = _tiny()
    Compression(tiny, x, using=(Uniform(8),), target=runtime, metric="cosine").run(folder / "tiny")
    job = Compression(task.network, task.parts, using=OURS[who], target=runtime, metric=task.metric)
    return lambda: job.run(folder / "made")


def _peer(task: Task, who: str, folder: Path) -> Callable[[], object]:
    tool = tools(task.transformer)[who]
    tiny, x = _tiny()
    tool(_written(tiny, (x[:2],), folder / "tiny.onnx"), [{_input(folder / "tiny.onnx")[0]: x[:1].numpy()}] * 4,
         folder / "tiny-made.onnx", False)  # fmt: skip
    opened = Compression(task.network, task.parts, target="onnxruntime", metric=task.metric).open()
    source = _written(opened.model.module, opened.model.inputs, folder / "float32.onnx")
    samples = [
        {n: np.ascontiguousarray(x.numpy()) for n, x in zip(_input(source), batch.inputs, strict=True)}
        for batch in opened.data.calibration.batches(1)
    ]
    return lambda: tool(source, samples, folder / "made.onnx", task.transformer)


def _tiny() -> tuple[nn.Module, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, 10)).eval()
        return net, torch.randn(96, 3, 8, 8)


def _written(network: nn.Module, inputs: Sequence[Any], path: Path) -> Path:
    folded, _ = fold_batchnorm(network, tuple(inputs))
    target("onnxruntime").export(float_onnx(folded, tuple(inputs)), path, None, {})
    return path


def _input(path: Path) -> list[str]:
    import onnx

    return [i.name for i in onnx.load(path, load_external_data=False).graph.input]


if __name__ == "__main__":
    main()
