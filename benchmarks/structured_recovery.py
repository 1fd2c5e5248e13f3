"""Structured pruning with recovery: twice as fast as measured, then fine-tuned; what is lost, and what do peers lose?

Every setting of every tool prunes until the float32 file is twice as fast as the original's in ONNX Runtime (one
thread, by turns in one process), and is fine-tuned for a few steps with distillation. The two that are then best on the
validation part are fine-tuned in full, and the better one's file, on the validation part again, is judged on the test
part. The same data, steps, loss, learning rate and device for everybody.

    PYTHONPATH=tests python benchmarks/structured_recovery.py [--tasks resnet,minilm] [--scratch DIR] [--quick]

Each step leaves its result in the scratch folder, so a run that was stopped goes on where it was. Trains on a GPU where
there is one; latency is always that of the processor.
"""

from __future__ import annotations

import io
import json
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
from structured_recovery_tasks import DEVICE, TASKS, Samples, Task
from structured_recovery_tools import parameters, settings, solved
from structured_recovery_tune import teachings, tune
from torch import Tensor, nn

from lessen.data import load_data
from lessen.data.interval import paired_drop
from lessen.data.metrics import Score, evaluate, metric_named
from lessen.models import fold_batchnorm
from lessen.targets import OnnxRuntime, float_onnx
from lessen.targets.ort import session_of

NAME = "structured_recovery"
GOAL = 2.0  # times as fast
QUICK = ("depth 3, second_order/norms", "Magnitude")
MARGIN = 1.02  # of the goal, while searching: another measurement must not fall below it
SHORT = {"resnet": 200, "minilm": 40}  # steps, to choose a setting
FINAL = 2  # settings, the best after the short run, that get the long one
LONG = {"resnet": 4000, "minilm": 600}  # steps
PACKAGES = ("torch", "torch-pruning", "onnxruntime", "transformers")


def judged(run: Callable[[Any], Any], samples: Samples, metric: str) -> Score:
    """The score of a session or a network on samples."""
    inputs = samples[0] if len(samples[0]) > 1 else samples[0][0]
    data = load_data(dict.fromkeys(("calibration", "validation", "test"), (inputs, samples[1])))
    return evaluate(metric_named(metric, True), run, data.test)


def by_network(network: nn.Module) -> Callable[[Any], Any]:
    network = network.to(DEVICE)

    @torch.no_grad()
    def run(inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return (network(*(x.to(DEVICE) for x in inputs)).cpu(),)

    return run


def quick_file(network: nn.Module, inputs: tuple[Tensor, ...]) -> bytes:
    """ONNX for timing while searching: the tracing exporter is ten times faster than the one for the final files."""
    file = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        folded, _ = fold_batchnorm(network, inputs)
        torch.onnx.export(folded, inputs, file, dynamo=False, opset_version=18)
    return file.getvalue()


def speeds(files: Sequence[bytes | str], inputs: tuple[Tensor, ...], seconds: float) -> np.ndarray:
    """Milliseconds [rounds, files], one thread, by turns, every other round backwards."""
    sessions = [session_of(f, "benchmark", 1) for f in files]
    for session in sessions * 5:
        session(inputs)
    rows, end = [], time.perf_counter() + seconds
    while len(rows) < 30 or time.perf_counter() < end:
        row = np.zeros(len(sessions))
        for i in range(len(sessions)) if len(rows) % 2 else reversed(range(len(sessions))):
            start = time.perf_counter()
            sessions[i](inputs)
            row[i] = (time.perf_counter() - start) * 1e3
        rows.append(row)
    return np.array(rows)


def ratio(times: np.ndarray, i: int) -> tuple[float, float, float]:
    """The first file's time / file i's, each round with itself: median and its 95 % interval."""
    each = np.sort(times[:, 0] / times[:, i])
    n = len(each)
    half = 0.98 * np.sqrt(n)
    return float(np.median(each)), float(each[max(0, int(n / 2 - half))]), float(each[min(n - 1, int(n / 2 + half))])


@dataclass(eq=False)
class Race:
    """One task, its scratch folder, and what has been measured so far."""

    name: str
    task: Task
    scratch: Path
    short: int
    long: int
    only: tuple[str, ...] = ()  # settings; none means all
    goal: float = GOAL

    def __post_init__(self) -> None:
        self.scratch.mkdir(parents=True, exist_ok=True)
        self.example = tuple(x[:1] for x in self.task.test[0])
        self.original = quick_file(self.task.network, self.example)
        self.known: dict[tuple, float] = {}
        self._taught: Tensor | None = None

    @property
    def taught(self) -> Tensor:
        """What the original says of the training samples; kept in the scratch folder."""
        kept = self.scratch / "taught.pt"
        if self._taught is None and not kept.is_file():
            torch.save(teachings(self.task.network, self.task), kept)
        if self._taught is None:
            self._taught = torch.load(kept)
        return self._taught

    def speed(self, network: nn.Module) -> float:
        """Times as fast as the original; networks of the same shapes are timed once."""
        shapes = tuple(tuple(p.shape) for p in network.parameters())
        if shapes not in self.known:
            times = speeds([self.original, quick_file(network, self.example)], self.example, 0.5)
            self.known[shapes] = ratio(times, 1)[0]
        return self.known[shapes]

    def tried(self, who: str, setting: str, make: Callable[[], Any]) -> dict[str, Any]:
        """Pruned to the goal and fine-tuned for the short run: its speed and its score on the validation part."""
        note, kept = (self.scratch / f"{who}.{setting.replace('/', '-')}{end}" for end in (".json", ".pt"))
        if note.is_file():
            return {**json.loads(note.read_text()), "network": kept}
        started = time.perf_counter()
        try:
            network, speed = solved(make(), self.speed, MARGIN * self.goal)
        except Exception as error:  # a peer may fail in its own way
            found: dict[str, Any] = {
                "setting": setting,
                "score": None,
                "note": f"{type(error).__name__}: {error}"[:200],
            }
        else:
            torch.save(network, kept)
            before = judged(by_network(network), self.task.validation, self.task.metric).value
            tune(network, self.task, self.taught, self.short, self.task.rate)
            score = judged(by_network(network), self.task.validation, self.task.metric).value
            found = {
                "setting": setting,
                "score": score,
                "untuned": before,
                "speed": speed,
                "parameters": parameters(network),
            }
        found["seconds"] = round(time.perf_counter() - started, 1)
        note.write_text(json.dumps(found))
        print("  ", self.name, who, found, flush=True)
        return {**found, "network": kept}

    def finished(self, who: str, found: dict[str, Any]) -> tuple[Path, float]:
        """A setting's network, fine-tuned in full, as a file; and its score on the validation part."""
        path = self.scratch / f"{who}.{found['setting'].replace('/', '-')}.onnx"
        tuned = path.with_suffix(".tuned")
        if not path.is_file():
            network = torch.load(found["network"], weights_only=False)
            state = path.with_suffix(".state")
            tune(network, self.task, self.taught, self.long, self.task.rate, state)
            state.unlink(missing_ok=True)
            torch.save(network, tuned)
            write(network, self.task, path)
        network = torch.load(tuned, weights_only=False)
        score = judged(by_network(network), self.task.validation, self.task.metric).value
        print("  ", self.name, who, found["setting"], "after the long run", score, flush=True)
        return path, score

    def chosen(self, who: str) -> dict[str, Any] | None:
        """The setting that is best on the validation part after the long run, of those that are fast enough.

        The best two after the short run get it: what tunes fast at first may end lower.
        """
        makers = settings(self.task, self.name)[who]
        tries = [self.tried(who, s, make) for s, make in makers.items() if not self.only or s in self.only]
        able = [t for t in tries if t["score"] is not None and t["speed"] >= self.goal]
        best = sorted(able, key=lambda t: -t["score"])[:FINAL]
        ended = [t | dict(zip(("file", "ended"), self.finished(who, t), strict=True)) for t in best]
        return max(ended, key=lambda t: t["ended"], default=None)

    def file(self, who: str) -> Path | None:
        """The tool's file; None where no setting is fast enough."""
        best = self.chosen(who)
        return best["file"] if best else None

    def rows(self) -> list[common.Row]:
        """Everything, and the figures."""
        whole = self.scratch / "original.onnx"
        if not whole.is_file():
            write(self.task.network, self.task, whole)
        chosen = {who: best for who in settings(self.task, self.name) if (best := self.chosen(who))}
        files = {who: best["file"] for who, best in chosen.items()}
        return self._figures(whole, files, chosen)

    def _figures(self, whole: Path, files: dict[str, Path], chosen: dict[str, dict[str, Any]]) -> list[common.Row]:
        target, metric = OnnxRuntime(), self.task.metric
        before = judged(target.session(whole), self.task.test, metric)
        times = speeds([str(whole), *(str(f) for f in files.values())], self.example, 8.0)
        made = [common.row("original", self.name, metric, before.value, "share", n=before.n, trained_on=DEVICE,
                           file_bytes=whole.stat().st_size, latency_ms=float(np.median(times[:, 0])))]  # fmt: skip
        scores = {who: judged(target.session(f), self.task.test, metric) for who, f in files.items()}
        for i, (who, path) in enumerate(files.items(), 1):
            speed, low, high = ratio(times, i)
            drop, best = paired_drop(before, scores[who]), chosen[who]
            name = common.peer(who) if who != "lessen" else who
            more = {"setting": best["setting"], "steps": self.long}
            made += [
                common.row(name, self.name, "speedup", speed, "x", n=len(times), low=low, high=high, **more),
                common.row(name, self.name, "loss_points", drop.value, "points", n=before.n, low=drop.low,
                           high=drop.high, **more),
                common.row(name, self.name, metric, scores[who].value, "share", n=before.n, **more),
                common.row(name, self.name, "validation_untuned", best["untuned"], "share"),
                common.row(name, self.name, "validation", best["ended"], "share"),
                common.row(name, self.name, "file_bytes", path.stat().st_size, "bytes"),
            ]  # fmt: skip
        if {"lessen", "torch-pruning"} <= files.keys():
            gap = paired_drop(scores["lessen"], scores["torch-pruning"])
            made.append(common.row("lessen", self.name, "points_ahead_of_torch_pruning", gap.value, "points",
                                   n=before.n, low=gap.low, high=gap.high))  # fmt: skip
        return made + self._tries()

    def _tries(self) -> list[common.Row]:
        """Every setting after its short run, on the validation part."""
        rows = []
        for note in sorted(self.scratch.glob("*.json")):
            who, found = note.name.split(".")[0], json.loads(note.read_text())
            name = f"{who if who == 'lessen' else common.peer(who)}/{found['setting']}"
            rows.append(common.row(name, self.name, "validation_after_short_run", found["score"], "share",
                                   speed=found.get("speed"), untuned=found.get("untuned"), seconds=found["seconds"],
                                   note=found.get("note")))  # fmt: skip
        return rows


def write(network: nn.Module, task: Task, path: Path) -> None:
    """The file of the target, in float32."""
    inputs = tuple(x[:2] for x in task.test[0])
    folded, _ = fold_batchnorm(network.cpu().eval(), inputs)
    OnnxRuntime().export(float_onnx(folded, inputs), path, None, {})


def main() -> None:
    """Run, print, write."""
    parser = common.parser(__doc__ or "", "the ResNet, one setting each, four steps")
    parser.add_argument("--tasks", default="resnet,minilm")
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()) / NAME)
    parser.add_argument("--who", help="only prune and fine-tune for this tool; a later run goes on from there")
    options = parser.parse_args()
    torch.set_num_threads(1 if DEVICE == "cpu" else 4)
    for name in ["resnet"] if options.quick else options.tasks.split(","):
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as fresh:
            scratch = Path(fresh) if options.quick else options.scratch / name
            scratch.mkdir(parents=True, exist_ok=True)
            steps = (2, 4) if options.quick else (SHORT[name], LONG[name])
            only = QUICK if options.quick else ()
            race = Race(name, TASKS[name](scratch, options.quick), scratch, *steps, only)
            if options.who:
                print("   file:", race.file(options.who), flush=True)
                continue
            rows = race.rows()
        seconds = time.perf_counter() - started
        common.show(rows)
        common.keep(options, NAME, name, rows, seconds, PACKAGES)


if __name__ == "__main__":
    main()
