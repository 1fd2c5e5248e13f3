"""Dynamic quantization: what does it lose, how fast is it, beside fixed ranges and ONNX Runtime's own quantizer?

All linear layers in 8 bits, per channel, embeddings left alone. Ranges of the inputs: fixed by calibration
(`static`), found in every batch (`per tensor`, LSTMs too) or in every token (`per token`), each with the network as it
is and with the outliers of its activations moved into the weights first (`smoothed`); `weights only` rounds no inputs.
`lessen` is what the chooser makes of `--using dynamic`. Every file is judged in its runtime against the float one and
timed by turns with it: one sample, one thread.

    python benchmarks/dynamic.py [--quick] [--tasks minilm,lstm] [--runtimes onnxruntime,openvino]
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common
import torch
from int8_tasks import TASKS, Task
from int8_tools import ort_dynamic
from torch import Tensor, nn

from lessen import Compression, Dynamic, Treatment, Uniform
from lessen.artifact import Exporter
from lessen.bench import Bench, realize
from lessen.report import Progress
from lessen.search.prepare import prepared
from lessen.smoothing import smoothed_bench
from lessen.targets.measure import on_one_core
from lessen.verify import Judge, one_sample

NAME, QUICK = "dynamic", "toy"
RUNTIMES = ("onnxruntime", "openvino")
WAYS: dict[str, int | str | None] = {"static": "static", "per tensor": "dynamic", "per token": "token"}


class Toy(nn.Module):
    """A feed-forward block on tokens of very different sizes; random weights."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(128, 512), nn.Linear(512, 128)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(nn.functional.gelu(self.up(x)))


class Gates(nn.Module):
    """Two LSTM layers in both directions, as in keyword spotters; random weights."""

    def __init__(self) -> None:
        super().__init__()
        self.gates = nn.LSTM(64, 256, 2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(512, 40)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gates(x)[0])


def lstm() -> Task:
    """50 steps."""
    return _drawn(Gates, (50, 64))


def toy() -> Task:
    """For the quick run."""
    return _drawn(Toy, (32, 128))


def _drawn(kind: type[nn.Module], shape: tuple[int, ...]) -> Task:
    g = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = kind().eval()
    parts = {n: torch.randn(60, *shape, generator=g) for n in ("calibration", "validation", "test")}
    return Task(network, parts, "cosine", "100 x (1 - cosine), random weights")


@dataclass(frozen=True, eq=False)
class Contest:
    """One network in one runtime."""

    what: str
    task: Task
    runtime: str
    folder: Path

    def rows(self) -> list[common.Row]:
        """What everybody loses, and how large the files are; they stay in the folder."""
        job = Compression(self.task.network, self.task.parts, target=self.runtime, metric=self.task.metric).open()
        bench = prepared(job, Progress(quiet=True))
        exporter = Exporter(job.target, bench, job.model.inputs, job.data.calibration)
        judge = Judge(job, exporter.write_original(self.folder / "float32.onnx"))
        files = {"float32": judge.baseline, **dict(self._ours(bench, exporter)), **self._peer(judge.baseline)}
        found = []
        for who, path in files.items():
            _, drop = judge.drop(path, job.data.test)
            kernels = job.target.verify(path)
            found += [
                self._row(who, "loss_points", drop.value, "points", n=job.data.test.n, low=drop.low, high=drop.high,
                          note=self.task.says),
                self._row(who, "file_bytes", path.stat().st_size, "bytes"),
                self._row(who, "integer_kernels", len(kernels.integer), "products",
                          note=f"of {len(kernels.integer) + len(kernels.floating)}"),
            ]  # fmt: skip
        (self.folder / "files.json").write_text(json.dumps({who: str(path) for who, path in files.items()}))
        return found

    def latency(self, seconds: float) -> list[common.Row]:
        """How long each file in the folder takes, by turns."""
        files = {who: Path(path) for who, path in json.loads((self.folder / "files.json").read_text()).items()}
        job = Compression(self.task.network, self.task.parts, target=self.runtime, metric=self.task.metric).open()
        found = []
        times = on_one_core(list(files.values()), one_sample(job.data.test), job.target, seconds)
        for who, t in zip(files, times, strict=True):
            found.append(self._row(who, "latency_ms", t.median, "ms", low=t.p10, high=t.p90))
            found.append(self._row(who, "speedup", t.ratio, "times float32", low=t.ratio_low, high=t.ratio_high))
        return found

    def _row(self, who: str, figure: str, value: float, unit: str, **more: Any) -> common.Row:
        return common.row(who, self.what, figure, value, unit, **more)

    def _ours(self, bench: Bench, exporter: Exporter) -> Iterator[tuple[str, Path]]:
        forms: dict[str, tuple[Bench, Exporter] | None] = {"": (bench, exporter)}
        forms[", smoothed"] = smoothed_bench(bench, exporter)
        for text, form in forms.items():
            for way, activations in WAYS.items() if form is not None else ():
                yield f"lessen/{way}{text}", self._written(*form, f"{way}{text}", activations)  # type: ignore[misc]
        yield "lessen/weights only", self._written(bench, exporter, "weights", None)
        job = Compression(self.task.network, self.task.parts, "0.5%", (Dynamic,), self.runtime, self.task.metric)
        yield "lessen", job.run(self.folder / "chosen").files["model.onnx"]

    def _written(self, bench: Bench, exporter: Exporter, name: str, activations: int | str | None) -> Path:
        kinds = ("linear", "recurrent") if activations == "dynamic" else ("linear",)
        layers = [x.name for x in bench.traced.layers if x.kind in kinds]
        made = realize(bench, dict.fromkeys(layers, Treatment(Uniform(8), activations)))
        return exporter.write(made, self.folder / f"{name.replace(' ', '-').replace(',', '')}.onnx")

    def _peer(self, source: Path) -> dict[str, Path]:
        if self.runtime != "onnxruntime":
            return {}
        return {f"{common.peer('onnxruntime')} quantize_dynamic": ort_dynamic(
            source, [], self.folder / "peer.onnx", self.task.transformer).path}  # fmt: skip


def main() -> None:
    """Run, print, write."""
    parser = common.parser(__doc__ or "", "two layers with random weights")
    parser.add_argument("--tasks", default="minilm,lstm", help=f"of {', '.join([*TASKS, 'lstm', QUICK])}")
    parser.add_argument("--runtimes", default=",".join(RUNTIMES))
    parser.add_argument("--folder", type=Path, help="where the files stay")
    parser.add_argument("--latency", action="store_true", help="only time the files that are in --folder, once more")
    options = parser.parse_args()
    tasks: dict[str, Callable[[], Task]] = {**TASKS, "lstm": lstm, QUICK: toy}
    for name in [QUICK] if options.quick else options.tasks.split(","):
        task = tasks[name]()
        for runtime in options.runtimes.split(","):
            started, what = time.perf_counter(), f"{name}, {runtime}"
            with folder_for(options.folder, what) as folder:
                contest = Contest(what, task, runtime, folder)
                rows = (
                    _kept(options.out or common.RESULTS / f"{NAME}.json", what) if options.latency else contest.rows()
                )
                rows += contest.latency(0.3 if options.quick else 20.0)
            common.show(rows)
            common.keep(options, NAME, what, rows, time.perf_counter() - started, ("transformers",))


@contextlib.contextmanager
def folder_for(asked: Path | None, what: str) -> Iterator[Path]:
    """A folder that is kept, or one that is not."""
    if asked is None:
        with tempfile.TemporaryDirectory() as made:
            yield Path(made)
        return
    folder = asked / what.replace(", ", "-")
    folder.mkdir(parents=True, exist_ok=True)
    yield folder


def _kept(path: Path, what: str) -> list[common.Row]:
    """The rows that a run before left, but for its times."""
    return [r for r in common.rows(path) if r["what"] == what and r["figure"] not in ("latency_ms", "speedup")]


if __name__ == "__main__":
    main()
