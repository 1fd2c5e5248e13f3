"""Int8: how fast, how small and how true are the files of lessen, NNCF and ONNX Runtime's own quantizers?

Everybody starts from the same float network and the same calibration samples. Every file is timed in both runtimes
where it loads, all of them by turns in one process, one sample at a time, and judged against the float file in the
same runtime. OpenVINO computes what is not quantized in float32, for everybody.

`compress_seconds` is the whole job: ours from the torch network to the verified file (export, search, measuring and
report included), peers' from the float ONNX file to theirs. `seconds_<stage>` tells ours apart, and
`quantize_seconds` is the part that peers do too: statistics, codings, ranges, writing.

    python benchmarks/int8_peers.py [--quick] [--models resnet50,efficientnet_lite0,minilm]
"""

from __future__ import annotations

import importlib
import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
from _memory import OURS
from _memory import needed as memory
from _sessions import needed
from int8_tasks import TASKS, Task
from int8_tools import Feed, Made, file_bytes, tools

from lessen import Compression
from lessen.data import Score, outputs_of, paired_drop
from lessen.models import fold_batchnorm
from lessen.targets import compare, float_onnx, target
from lessen.verify import Judge, one_sample

NAME, DEFAULT, QUICK = "int8_peers", "resnet50,efficientnet_lite0,minilm", "demo_resnet"
RUNTIMES = ("openvino", "onnxruntime")
ALONE = "in a process of its own, above imports, network and data"
SAME_PART = ("trace", "statistics", "propose", "smooth", "ranges", "apply", "export")  # stages that peers have too


@dataclass(eq=False)
class Contest:
    """One model: everybody's files, and what was measured of them."""

    what: str
    task: Task
    folder: Path
    seconds: float  # of timing, for each runtime
    rows: list[common.Row] = field(default_factory=list)
    made: dict[str, dict[str, Path]] = field(default_factory=dict)  # runtime -> who -> file
    started: float = field(default_factory=time.perf_counter)

    def run(self, ours: Mapping[str, Any]) -> list[common.Row]:
        """All rows."""
        for runtime in RUNTIMES:
            self.made[runtime] = {"float32": self._float32(runtime)}
        self._peers()
        for runtime in RUNTIMES:
            for who, using in ours.items():
                self._ours(who, using, runtime)
        for runtime in RUNTIMES:
            self._judged(runtime)
        self._summed_up()
        return self.rows

    def _summed_up(self) -> None:
        """The figures that both runtimes have, as one: the worse of the two."""
        for who in dict.fromkeys(r["who"] for r in self.rows):
            for figure in (
                "loss_points",
                "file_bytes",
                "compress_seconds",
                "compress_peak_bytes",
                "latency_ratio_to_best_peer",
            ):
                both = [r for r in self.rows if r["who"] == who and r["figure"] in {f"{figure}_{x}" for x in RUNTIMES}]
                if both := [r for r in both if r["value"] is not None]:
                    worst = max(both, key=lambda r: r["value"])
                    where = worst["figure"].rpartition("_")[2]
                    self.rows.append(worst | {"figure": figure, "note": f"the worse of {len(both)}, {where}"})

    def row(self, who: str, figure: str, value: float | None, unit: str, **more: Any) -> None:
        self.rows.append(common.row(who, self.what, figure, value, unit, **more))

    def note(self, text: str) -> None:
        """A line to follow the run by."""
        print(f"  {self.what} {time.perf_counter() - self.started:6.1f} s: {text}", file=sys.stderr, flush=True)

    def _job(self, runtime: str, using: Any = None) -> Compression:
        return Compression(self.task.network, self.task.parts, using=using, target=runtime, metric=self.task.metric)

    def _float32(self, runtime: str) -> Path:
        job = self._job(runtime).open()
        network, _ = fold_batchnorm(job.model.module, job.model.inputs)
        path = self.folder / "float32.onnx"
        if not path.is_file():
            job.target.export(float_onnx(network, job.model.inputs), path, None, {})
            self.row("float32", "file_bytes", path.stat().st_size, "bytes")
        return path

    def _peers(self) -> None:
        for package in ("nncf", "openvino", "onnxruntime.quantization"):
            importlib.import_module(package)  # before time and memory are looked at
        source = self.made[RUNTIMES[0]]["float32"]
        samples = list(self._samples(source))
        for who, tool in tools(self.task.transformer).items():
            out = self.folder / f"{tool.__name__}.onnx"
            self.note(who)
            try:
                made = tool(source, samples, out, self.task.transformer)
            except Exception as error:  # peers fail in many ways; that is a result
                why = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:160]}"
                self.row(who, "file_bytes", None, "bytes", note=why)
                continue
            self._placed(who, made)
            self.row(who, "compress_peak_bytes", memory(self.what, who), "bytes", note=ALONE)

    def _placed(self, who: str, made: Made) -> None:
        self.row(who, "compress_seconds", made.seconds, "s", cpu_seconds=round(made.cpu, 2))
        self.row(who, "file_bytes", file_bytes(made.path), "bytes")
        for runtime in RUNTIMES:
            if runtime == "openvino" or made.path.suffix == ".onnx":
                self.made[runtime][who] = made.path

    def _samples(self, source: Path) -> Iterator[Feed]:
        """The calibration part, one sample at a time, by the names of the file's inputs."""
        import onnx

        names = [i.name for i in onnx.load(source, load_external_data=False).graph.input]
        for batch in self._job("onnxruntime").open().data.calibration.batches(1):
            yield {n: np.ascontiguousarray(x.numpy()) for n, x in zip(names, batch.inputs, strict=True)}

    def _ours(self, who: str, using: Any, runtime: str) -> None:
        out = self.folder / f"{who.replace('/', '-').replace(' ', '-')}-{runtime}"
        self.note(f"{who}, {runtime}")
        start, cpu = time.perf_counter(), time.process_time()
        result = self._job(runtime, using).run(out)
        whole, cpu = time.perf_counter() - start, time.process_time() - cpu
        stages, path = result.report.seconds, result.files["model.onnx"]
        note = f"target {runtime}"
        self.row(who, f"compress_seconds_{runtime}", whole, "s", cpu_seconds=round(cpu, 2), note=note)
        self.row(
            who, f"compress_peak_bytes_{runtime}", memory(self.what, who, runtime), "bytes", note=f"{note}; {ALONE}"
        )
        same = sum(v for k, v in stages.items() if k in SAME_PART)
        self.row(who, f"quantize_seconds_{runtime}", same, "s", note=f"{note}: {' + '.join(SAME_PART)}")
        for stage, value in stages.items():
            self.row(who, f"seconds_{runtime}_{stage}", value, "s")
        self.row(who, f"file_bytes_{runtime}", path.stat().st_size, "bytes", note=note)
        self.made[runtime][who] = path

    def _judged(self, runtime: str) -> None:
        """Time and truth of every file in one runtime."""
        self.note(f"all files, {runtime}")
        job = self._job(runtime).open()
        judge = Judge(job, self.made[runtime]["float32"])
        files = {who: path for who, path in self.made[runtime].items() if self._loads(who, path, runtime)}
        one = one_sample(job.data.test)
        times = dict(zip(files, compare(list(files.values()), one, job.target, seconds=self.seconds), strict=True))
        scores: dict[str, Score] = {}
        reference = outputs_of(job.target.session(files["float32"]), job.data.test)
        for who, path in files.items():
            t = times[who]
            self.row(who, f"latency_ms_{runtime}", t.median, "ms", n=t.n, low=t.p10, high=t.p90)
            self.row(who, f"speedup_{runtime}", t.ratio, "x float32", n=t.n, low=t.ratio_low, high=t.ratio_high)
            scores[who], drop = judge.drop(path, job.data.test)
            self.row(who, f"loss_points_{runtime}", drop.value, "points", n=scores[who].n, low=drop.low, high=drop.high,
                     note=self.task.says)  # fmt: skip
            session = job.target.session(path)
            if who != "float32":
                outputs = outputs_of(session, job.data.test)
                self.row(who, f"sqnr_{runtime}", _sqnr(reference, outputs), "dB of the outputs", n=scores[who].n)
            for figure, (value, unit) in self.task.more(session).items():
                self.row(who, f"{figure}_{runtime}", value, unit)
        for who in (w for w in files if w.startswith("lessen")):
            self._against(who, files, scores, {w: t.median for w, t in times.items()}, runtime)
            self.row(who, f"sessions_peak_bytes_{runtime}", needed(runtime, [files["float32"], files[who]], one),
                     "bytes", note="the float file and this one in a process of their own: no job that times both "
                     "takes less")  # fmt: skip

    def _loads(self, who: str, path: Path, runtime: str) -> bool:
        try:
            target(runtime).session(path)
        except Exception as error:  # whatever stops it
            self.row(who, f"latency_ms_{runtime}", None, "ms", note=f"does not load: {str(error)[:160]}")
            return False
        return True

    def _against(
        self, who: str, files: Mapping[str, Path], scores: Mapping[str, Score], times: Mapping[str, float], runtime: str
    ) -> None:
        """Ours against the fastest of the peers whose accuracy is not surely lower; timed once more, just the two."""
        peers = [w for w in files if not w.startswith("lessen") and w != "float32"]
        good = [w for w in peers if paired_drop(scores[who], scores[w]).low <= 0]
        figure = f"latency_ratio_to_best_peer_{runtime}"
        if not good:
            self.row(who, figure, None, "ours / peer", note="no peer is as accurate")
            return
        best = min(good, key=lambda w: times[w])
        job = self._job(runtime).open()
        pair = compare([files[who], files[best]], one_sample(job.data.test), job.target, seconds=self.seconds)[1]
        self.row(who, figure, pair.ratio, "ours / peer", n=pair.n, low=pair.ratio_low, high=pair.ratio_high,
                 note=f"{best}, of {len(good)} as accurate")  # fmt: skip


def _sqnr(reference: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor]) -> float:
    signal = sum(float(r.double().square().sum()) for r in reference)
    noise = sum(float((r.double() - o.double()).square().sum()) for r, o in zip(reference, outputs, strict=True))
    return 10 * float(np.log10(signal / max(noise, 1e-30 * signal)))


def main() -> None:
    """Run, print, write."""
    parser = common.parser(__doc__ or "", f"{QUICK} alone")
    parser.add_argument("--models", help=f"of {', '.join(TASKS)}; by default {DEFAULT}")
    parser.add_argument("--ours", help=f"of {', '.join(OURS)}; by default all, with --quick the first")
    parser.add_argument("--seconds", type=float, default=20.0, help="of timing, for each model and runtime")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    float_onnx(torch.nn.Linear(1, 1).eval(), (torch.zeros(2, 1),))  # what is imported late, as with peers not counted
    ours = options.ours.split(",") if options.ours else list(OURS)[: 1 if options.quick else None]
    for what in (options.models or (QUICK if options.quick else DEFAULT)).split(","):
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            contest = Contest(what, TASKS[what](), Path(folder), 2.0 if options.quick else options.seconds)
            rows = contest.run({who: OURS[who] for who in ours})
        seconds = time.perf_counter() - started
        common.show(rows)
        print(f"{what}: {seconds:.0f} s", flush=True)
        common.keep(options, NAME, what, rows, seconds, ("nncf",))


if __name__ == "__main__":
    main()
