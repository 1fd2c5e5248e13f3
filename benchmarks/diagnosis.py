"""Int8 files as peers' defaults leave them: is what breaks them found and named, and can the file be mended?

Of each network NNCF (default preset) and ONNX Runtime's `quantize_static` (all its defaults: min-max, one step for a
weight) make a file; `lessen diagnose --fix` examines it and mends it until it holds the promise, on data of its own.
"""

from __future__ import annotations

import logging
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common
import int8_tasks
import numpy as np
import torch
from int8_tools import Feed, nncf_onnx
from torch import Tensor, nn

import zoo
from lessen.diagnosis.run import Options, run_diagnosis
from lessen.diagnosis.show import print_diagnosis
from lessen.models import fold_batchnorm
from lessen.targets import float_onnx
from lessen.targets.graph import serialized

NAME = "diagnosis"
DEFAULT, QUICK = "letters,depthwise,silero,efficientnet_lite0,minilm", "letters"
FRAMES = 8  # of 512 samples: the recurrent cell is unrolled over them
Parts = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Task:
    """A network, its data, what is promised (points), and whether a peer's mode for transformers is used."""

    network: nn.Module
    parts: Parts
    promise: float
    transformer: bool = False


def letters() -> Task:
    """77 k parameters, 20,000 drawn letters."""
    x, y, xt, yt = zoo.letters()
    return Task(zoo.letters_mlp(), _labelled(x, y, xt, yt), 0.2)


def depthwise() -> Task:
    """73 k parameters, Fashion-MNIST."""
    x, y, xt, yt = zoo.fashion_mnist()
    return Task(zoo.depthwise(), _labelled(x, y, xt, yt), 0.1)


def silero() -> Task:
    """Speech or not; sounds of 8 frames, agreement with the float outputs."""
    sounds = [s for s, _ in zoo.vad_task(count=10)]
    x = torch.stack([s[16000 : 16000 + 512 * FRAMES] for s in sounds if len(s) > 16000 + 512 * FRAMES])
    third = len(x) // 3
    cuts = {"calibration": slice(0, third), "validation": slice(third, 2 * third), "test": slice(2 * third, None)}
    return Task(zoo.silero(), {name: x[cut] for name, cut in cuts.items()}, 1.0)


def efficientnet_lite0() -> Task:
    """Real ImageNet weights, photographs without labels: agreement with the float outputs."""
    counts = {"calibration": 64, "validation": 100, "test": 100}
    return Task(zoo.efficientnet_lite0(), {k: zoo.photos(n, seed=i) for i, (k, n) in enumerate(counts.items())}, 1.0)


def minilm() -> Task:
    """all-MiniLM-L6-v2, sentences of 64 tokens: agreement with the float embeddings."""
    task = int8_tasks.minilm()
    counts = {"calibration": 100, "validation": 100, "test": 200}
    parts = {name: task.parts[name][: -(-n // 25)] for name, n in counts.items()}
    return Task(task.network, parts, 0.5, True)


TASKS: dict[str, Callable[[], Task]] = {
    "letters": letters, "depthwise": depthwise, "silero": silero, "efficientnet_lite0": efficientnet_lite0,
    "minilm": minilm,
}  # fmt: skip


def _labelled(x: Tensor, y: Tensor, xt: Tensor, yt: Tensor, each: int = 1500) -> Parts:
    cuts = {"validation": slice(0, each), "test": slice(each, 2 * each)}
    return {"calibration": (x[:200], y[:200])} | {name: (xt[cut], yt[cut]) for name, cut in cuts.items()}


def ort_defaults(source: Path, samples: Sequence[Feed], out: Path, transformer: bool) -> Path:
    """`quant_pre_process`, then `quantize_static` with every option left as it is."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(samples)

        def get_next(self) -> Any:
            return next(self.left, None)

    ready = out.with_suffix(".ready.onnx")
    quant_pre_process(str(source), str(ready), skip_symbolic_shape=transformer)
    quantize_static(str(ready), str(out), Reader())
    return out


def nncf_defaults(source: Path, samples: Sequence[Feed], out: Path, transformer: bool) -> Path:
    """`nncf.quantize` of the ONNX model."""
    return nncf_onnx(source, samples, out, transformer).path


TOOLS = {"nncf": nncf_defaults, "onnxruntime": ort_defaults}


def rows_of(what: str, task: Task, tool: str, folder: Path) -> list[common.Row]:
    """The file as the peer makes it, examined and mended."""
    source, feeds = _float_file(task, folder / f"{what}.onnx")
    who = f"{common.peer(tool)} + lessen diagnose"
    try:
        made = TOOLS[tool](source, feeds, folder / f"{what}-{tool}.onnx", task.transformer)
    except Exception as error:
        return [common.row(who, what, "loss_points_before", None, "points", note=f"the peer fails: {error}"[:200])]
    started = time.process_time()
    found = run_diagnosis(
        task.network, made, task.parts, Options(repair=True, max_drop=task.promise, out=folder / tool)
    ).report
    seconds = time.process_time() - started
    print_diagnosis(found)
    assert found.fixed is not None
    kept = [f"{s.says} ({len(s.layers)})" for s in found.fixed.steps if s.kept]
    cause = found.causes[0] if found.causes else None
    says = f"{cause.says}, {len(cause.layers)} of {len(found.layers)} layers" if cause else "nothing noisy"
    n = found.fixed.n
    return [
        common.row(who, what, "loss_points_before", found.fixed.drop_before, "points", n=n),
        common.row(who, what, "loss_points_after", found.fixed.drop_after, "points", n=n, low=found.fixed.low,
                   high=found.fixed.high, note="; ".join(kept) or "nothing to mend"),
        common.row(who, what, "promise_held", float(found.fixed.held), "1 = yes", note=f"{task.promise} points"),
        common.row(who, what, "main_cause_pays", cause.pays if cause else 0.0, "share of the error", note=says),
        common.row(who, what, "bytes_after", found.fixed.file_bytes, "bytes", note=f"before {made.stat().st_size}"),
        common.row(who, what, "cpu_seconds", seconds, "s"),
    ]  # fmt: skip


def _float_file(task: Task, path: Path) -> tuple[Path, list[Feed]]:
    """The float model as ONNX, and the calibration samples as peers want them, one by one."""
    part = task.parts["calibration"]
    if isinstance(part, list):
        inputs = tuple(torch.cat([b[k] for b in part]) for k in part[0])
    else:
        inputs = (part[0] if isinstance(part, tuple) else part,)
    module, _ = fold_batchnorm(task.network, tuple(x[:2] for x in inputs))
    graph = float_onnx(module, tuple(x[:2] for x in inputs))
    path.write_bytes(serialized(graph))
    names = [str(i.name) for i in graph.graph.inputs]
    arrays = [np.asarray(x) for x in inputs]
    return path, [{n: a[i : i + 1] for n, a in zip(names, arrays, strict=True)} for i in range(len(arrays[0]))]


def main() -> None:
    """Run, print, write."""
    parser = common.parser(__doc__ or "", f"{QUICK} alone, one tool")
    parser.add_argument("--tasks", help=f"of {DEFAULT}; by default all")
    parser.add_argument("--tools", help=f"of {','.join(TOOLS)}; by default both")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    for what in (options.tasks or (QUICK if options.quick else DEFAULT)).split(","):
        task = TASKS[what]()
        for tool in (options.tools or ("nncf" if options.quick else ",".join(TOOLS))).split(","):
            started = time.perf_counter()
            with tempfile.TemporaryDirectory() as folder:
                rows = rows_of(f"{what} {tool}", task, tool, Path(folder))
            common.show(rows)
            if options.out:
                common.save(options.out, f"python benchmarks/{NAME}.py", f"{what} {tool}", rows,
                            time.perf_counter() - started, ("nncf",))  # fmt: skip
            elif not options.quick:
                common.write(NAME, f"{what} {tool}", rows, time.perf_counter() - started, ("nncf",))


if __name__ == "__main__":
    main()
