"""`lessen measure`: several files side by side, in one runtime, on the same samples."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .data import Metric, Score, evaluate, load_data, metric_for, outputs_of
from .data.interval import is_relative
from .errors import LessenError
from .job import example_like
from .models import Model, load, trace
from .models.packed import unpack_file
from .report import Latency, Measured, MeasuredFile, Ratios
from .report import Metric as MetricFigure
from .targets import Target, compare, peak_memory
from .targets import target as target_named
from .verify import one_sample


def measure_files(
    files: Sequence[str | Path], data: Any, target: Any = "onnxruntime", metric: str | None = None
) -> list[MeasuredFile]:
    """Size, score, latency and memory of each file; the first one is what the others are compared with.

    Raises:
        LessenError: a file is missing or not a model, or they don't take the same inputs.
    """
    paths = [_existing(Path(f)) for f in files]
    place = target_named(target)
    with tempfile.TemporaryDirectory() as folder:
        runnable = [_runnable(p, Path(folder), i) for i, p in enumerate(paths)]
        models = [load(p) for p in runnable]
        samples = load_data(data, like=example_like(models[0]))
        chosen, part = metric_for(samples, metric), samples.test
        reference = outputs_of(place.session(runnable[0]), part) if chosen.against == "reference" else None
        scores = [evaluate(chosen, place.session(p), part, reference) for p in runnable]
        times = compare(runnable, one_sample(part), place)
        rows = [
            _measured(*row, place, chosen, part) for row in zip(paths, runnable, models, scores, times, strict=True)
        ]
    return [
        MeasuredFile(str(p), m, _ratios(rows[0], m) if i else None)
        for i, (p, m) in enumerate(zip(paths, rows, strict=True))
    ]


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise LessenError("no such file", where=str(path))
    if path.suffix.lower() not in (".onnx", ".lessen"):
        raise LessenError(
            f"can't be measured: {path.suffix or 'no'} files don't run",
            where=str(path),
            mend="give .onnx or .lessen files",
        )
    return path


def _runnable(path: Path, folder: Path, number: int) -> Path:
    return path if path.suffix.lower() == ".onnx" else unpack_file(path, folder / f"{number}.onnx")


def _measured(
    path: Path, runnable: Path, model: Model, score: Score, time: Any, place: Target, metric: Metric, part: Any
) -> Measured:
    one = one_sample(part)
    try:
        memory: int | None = peak_memory(runnable, one, place).peak
    except LessenError:
        memory = None
    figure = MetricFigure(
        metric.name, score.value, score.n, metric.higher_is_better, not is_relative(metric, score.value)
    )
    clock = Latency(time.median, time.p10, time.p90, time.batch)
    macs = trace(model.module, one).macs
    return Measured(path.stat().st_size, model.parameters, macs, figure, clock, memory)


def _ratios(first: Measured, other: Measured) -> Ratios:
    assert first.latency_ms is not None and other.latency_ms is not None
    memory = (
        first.peak_memory_bytes / other.peak_memory_bytes
        if first.peak_memory_bytes and other.peak_memory_bytes
        else None
    )
    return Ratios(first.file_bytes / other.file_bytes, None, first.latency_ms.median / other.latency_ms.median, memory,
                  first.macs / other.macs if other.macs else None)  # fmt: skip
