"""Int8 static on every real model there is, without turning a knob: what is lost, how large and how fast the files are.

Ours is one call for each runtime: `Compression(model, data, "0.5%", using=(Uniform(8),), target=runtime)`. Peers, as
their documentation says, from the same float ONNX file and the same calibration samples: NNCF's `quantize` (of the
OpenVINO model and of the ONNX model), NNCF's `quantize_with_accuracy_control` with the same half point to lose, and
ONNX Runtime's `quantize_static`. Every file is judged on the same test samples in each runtime that opens it, against
the float file there; `loss_points` is the worse of the two runtimes.

Files and figures are kept in --files, so that a long run can be cut anywhere and latencies can be taken later, one
thread each and by turns:

    python benchmarks/int8_zoo.py [--models letters_mlp,minilm] [--again lessen]     # accuracy and size
    python benchmarks/int8_zoo.py --latency [--seconds 10]                           # speed of the files that are there
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
from int8_tasks import Task
from int8_tools import Feed, Made, file_bytes, nncf_onnx, nncf_openvino, ort_static
from int8_zoo_control import nncf_control
from int8_zoo_kept import Kept
from int8_zoo_summary import summed_up
from int8_zoo_tasks import TASKS

from lessen import Compression, Uniform
from lessen.data import Data, evaluate, outputs_of, paired_drop
from lessen.job import Job
from lessen.models import fold_batchnorm
from lessen.targets import float_onnx, target
from lessen.targets.export import as_ir
from lessen.targets.measure import on_one_core
from lessen.verify import one_sample

NAME, QUICK = "int8_zoo", "letters_mlp"
RUNTIMES = ("openvino", "onnxruntime")
BUDGET, PROMISED = "0.5%", 0.5
FLOAT, OURS = "float32", "lessen"


class Contest:
    """One model: everybody's files, and what was measured of them."""

    def __init__(self, what: str, folder: Path) -> None:
        self.what, self.kept = what, Kept(folder / what, what)
        self._task: Task | None = None
        self._jobs: dict[str, Job] = {}

    @property
    def task(self) -> Task:
        if self._task is None:
            self._task = TASKS[self.what]()
        return self._task

    def job(self, runtime: str) -> Job:
        """The task opened; its data is read once."""
        if runtime not in self._jobs:
            data: Data | Any = next(iter(self._jobs.values())).data if self._jobs else self.task.parts
            self._jobs[runtime] = Compression(
                self.task.network, data, BUDGET, using=(Uniform(8),), target=runtime, metric=self.task.metric
            ).open()
        return self._jobs[runtime]

    def makers(self) -> dict[str, Callable[[Path], Made]]:
        """Who -> what makes a file, given its path."""
        nncf, ort = common.peer("nncf"), common.peer("onnxruntime")
        tools = {f"{nncf} (OpenVINO)": nncf_openvino, f"{nncf} (ONNX)": nncf_onnx, f"{ort} static": ort_static}
        made: dict[str, Callable[[Path], Made]] = {FLOAT: self._float32}
        for runtime in RUNTIMES:
            made[f"{OURS} for {runtime}"] = lambda out, r=runtime: self._ours(out, r)  # type: ignore[misc]
        for who, tool in tools.items():
            made[who] = lambda out, t=tool: t(self._source(), self._samples(), out, self.task.transformer)  # type: ignore[misc]
        made[f"{nncf} (accuracy control)"] = lambda out: nncf_control(
            self._source(), self._samples(), out, self.task.transformer, self.job("openvino")
        )
        return made

    def run(self, again: Sequence[str], without: Sequence[str]) -> None:
        """Makes and judges what is not there yet, or whose name contains a word of `again`."""
        for who, maker in self.makers().items():
            if any(word in who for word in without):
                continue
            if any(word in who for word in again):
                self.kept.forget(who)
            if not self.kept.has(who):
                self.note(who)
                try:
                    made = maker(self.kept.folder / (_plain(who) + ".onnx"))
                except Exception as error:  # peers fail in many ways; that is a result
                    self.kept.failed(who, f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:160]}")
                    continue
                self.kept.made(who, made.path)
                self.kept.row(who, "file_bytes", file_bytes(made.path), "bytes")
                if made.seconds:
                    self.kept.row(who, "compress_seconds", made.seconds, "s", cpu_seconds=round(made.cpu, 2))
            for runtime in self.runtimes(who):
                if not self.kept.has(who, runtime):
                    self.note(f"{who}, judged in {runtime}")
                    self._judged(who, runtime)

    def against(self) -> None:
        """Ours against the peer that loses least in each runtime, sample by sample."""
        for runtime in RUNTIMES:
            metric = self.job(runtime).metric
            ours = self.kept.score(f"{OURS} for {runtime}", runtime, metric)
            peers = {w: self.kept.score(w, runtime, metric) for w in self.kept.everyone() if w != FLOAT}
            peers = {w: s for w, s in peers.items() if s and np.isfinite(s.value) and not w.startswith(OURS)}
            if ours is None or not peers:
                continue
            drops = {w: paired_drop(s, ours) for w, s in peers.items()}
            best = max(drops, key=lambda w: drops[w].value)
            low, high = (x if np.isfinite(x) else None for x in (drops[best].low, drops[best].high))
            self.kept.row(f"{OURS} for {runtime}", f"loss_over_best_peer_{runtime}", drops[best].value, "points",
                          n=ours.n, low=low, high=high, note=best)  # fmt: skip

    def runtimes(self, who: str) -> list[str]:
        """Where a file of this name runs."""
        if who.startswith(OURS):
            return [r for r in RUNTIMES if who.endswith(r)]
        path = self.kept.path(who)
        return [] if path is None else [r for r in RUNTIMES if r == "openvino" or path.suffix == ".onnx"]

    def note(self, text: str) -> None:
        """A line to follow the run by."""
        print(f"  {self.what}: {text}", file=sys.stderr, flush=True)

    def _float32(self, out: Path) -> Made:
        """What all start from: a file as it came, a torch network as it is exported with its batch norms folded."""
        job = self.job(RUNTIMES[0])
        if callable(given := getattr(job.model.module, "to_onnx", None)):
            return Made(job.target.export(as_ir(given()), out, None, {}), 0.0, 0.0)
        network, _ = fold_batchnorm(job.model.module, job.model.inputs)
        return Made(job.target.export(float_onnx(network, job.model.inputs), out, None, {}), 0.0, 0.0)

    def _source(self) -> Path:
        path = self.kept.path(FLOAT)
        assert path is not None
        return path

    def _samples(self) -> list[Feed]:
        """The calibration part, one sample at a time, by the names of the file's inputs."""
        import onnx

        names = [i.name for i in onnx.load(self._source(), load_external_data=False).graph.input]
        batches = self.job(RUNTIMES[0]).data.calibration.batches(1)
        return [{n: np.ascontiguousarray(x.numpy()) for n, x in zip(names, b.inputs, strict=True)} for b in batches]

    def _ours(self, out: Path, runtime: str) -> Made:
        job = self.job(runtime)
        start, cpu = time.perf_counter(), time.process_time()
        done = Compression(
            self.task.network, job.data, BUDGET, using=(Uniform(8),), target=runtime, metric=self.task.metric
        ).run(out.parent / f"ours-{runtime}")
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        report = done.report
        name = f"{OURS} for {runtime}"
        for stage, value in report.seconds.items():
            self.kept.row(name, f"seconds_{stage}", value, "s")
        if (kernels := report.kernels) is not None:
            self.kept.row(name, "integer_kernels", kernels.integer, f"of {kernels.integer + kernels.float_}")
        return Made(done.files["model.onnx"], seconds, cpu)

    def _judged(self, who: str, runtime: str) -> None:
        """Score, loss against the float file in the same runtime, and the task's other figures."""
        path, job = self.kept.path(who), self.job(runtime)
        try:
            session = target(runtime).session(path, 1)  # type: ignore[arg-type]
            reference = None
            if job.metric.against == "reference":
                reference = outputs_of(job.target.session(self._source(), 1), job.data.test)
            score = evaluate(job.metric, session, job.data.test, reference)
        except Exception as error:  # whatever stops it
            why = str(error).splitlines()[0][:160]
            self.kept.row(who, f"loss_points_{runtime}", None, "points", note=f"does not run: {why}")
            self.kept.judged(who, runtime, None)
            return
        base = self.kept.score(FLOAT, runtime, job.metric) or score
        drop = paired_drop(base, score)
        self.kept.row(who, f"loss_points_{runtime}", drop.value, "points", n=score.n, low=drop.low, high=drop.high,
                      note=self.task.says)  # fmt: skip
        for figure, (value, unit) in self.task.more(session).items():
            known = {} if np.isfinite(value) else {"note": "not a number"}
            self.kept.row(who, f"{figure}_{runtime}", None if known else value, unit, **known)
        self.kept.judged(who, runtime, score)

    def timed(self, seconds: float) -> None:
        """All files by turns in each runtime, one thread each; then ours against the fastest peer's, just the two.

        And against the fastest of the peers that keep the same promise.
        """
        for runtime in RUNTIMES:
            everyone = {w: p for w in self.kept.everyone() if (p := self.kept.path(w)) and runtime in self.runtimes(w)}
            files = {w: p for w, p in everyone.items() if self._opens(p, runtime)}
            if not files:
                continue
            place, one = self.job(runtime).target, one_sample(self.job(runtime).data.test)
            times = dict(zip(files, on_one_core(list(files.values()), one, place, seconds), strict=True))
            for who, t in times.items():
                self.kept.row(who, f"latency_ms_{runtime}", t.median, "ms", n=t.n, low=t.p10, high=t.p90)
                self.kept.row(
                    who, f"speedup_{runtime}", t.ratio, "x float32", n=t.n, low=t.ratio_low, high=t.ratio_high
                )
            ours = f"{OURS} for {runtime}"
            peers = [w for w in files if not w.startswith(OURS) and w != FLOAT]
            for figure, rivals in {"": peers, "_that_holds": [w for w in peers if self._holds(w, runtime)]}.items():
                if ours in files and rivals:
                    best = min(rivals, key=lambda w: times[w].median)
                    pair = on_one_core([files[best], files[ours]], one, place, seconds)[1]
                    self.kept.row(ours, f"latency_ratio{figure}_{runtime}", pair.ratio, "fastest peer / ours", n=pair.n,
                                  low=pair.ratio_low, high=pair.ratio_high, note=best)  # fmt: skip
        self.kept.save()

    def _holds(self, who: str, runtime: str) -> bool:
        """Whether no more than half a point was lost."""
        metric = self.job(runtime).metric
        base, score = self.kept.score(FLOAT, runtime, metric), self.kept.score(who, runtime, metric)
        return base is not None and score is not None and paired_drop(base, score).value <= PROMISED

    def _opens(self, path: Path, runtime: str) -> bool:
        try:
            target(runtime).session(path)(one_sample(self.job(runtime).data.test))
        except Exception:  # whatever stops it: the accuracy run has said why
            return False
        return True


def _plain(who: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in who)


def _options() -> argparse.Namespace:
    parser = common.parser(__doc__ or "", f"{QUICK} alone")
    parser.add_argument("--models", help=f"of {', '.join(TASKS)}; by default all")
    parser.add_argument("--again", default="", help="words of the names whose files are to be made again")
    parser.add_argument("--without", default="", help="words of the names that are left out")
    parser.add_argument("--files", type=Path, default=Path(".cache") / NAME, help="where files and figures are kept")
    parser.add_argument("--latency", action="store_true", help="time the files that are there")
    parser.add_argument("--seconds", type=float, default=8.0, help="of timing, for each model and runtime")
    return parser.parse_args()


def _chosen(options: argparse.Namespace) -> Iterator[str]:
    for what in (options.models or (QUICK if options.quick else ",".join(TASKS))).split(","):
        if what == "character_gpt" and not options.models and not _has_checkpoint():
            continue
        yield what


def _has_checkpoint() -> bool:
    from zoo.cache import CHECKPOINTS

    return (CHECKPOINTS / "character_gpt.safetensors").is_file()


def main() -> None:
    """Run, print, write."""
    options = _options()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) if options.quick else options.files
        for what in _chosen(options):
            started = time.perf_counter()
            contest = Contest(what, folder)
            if not options.latency:
                contest.run(_words(options.again), _words(options.without))
                contest.against()
            if options.latency or options.quick:
                contest.timed(1.0 if options.quick else options.seconds)
            rows, seconds = contest.kept.rows(), time.perf_counter() - started
            common.show(r for r in rows if "seconds_" not in r["figure"])
            print(f"{what}: {seconds:.0f} s", flush=True)
            if options.out or not options.quick:
                path = options.out or common.RESULTS / f"{NAME}.json"
                common.save(path, f"python benchmarks/{NAME}.py", what, rows, contest.kept.clock(seconds), ("nncf",))
                zoo = summed_up([r for r in common.rows(path) if r["what"] != "zoo"])
                common.save(path, f"python benchmarks/{NAME}.py", "zoo", zoo, 0.0, ("nncf",))
        if options.out or not options.quick:
            common.show(r for r in common.rows(options.out or common.RESULTS / f"{NAME}.json") if r["what"] == "zoo")


def _words(text: str) -> list[str]:
    return [w for w in text.split(",") if w]


if __name__ == "__main__":
    main()
