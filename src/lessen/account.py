"""The account: every figure of the report, measured on the files."""

from __future__ import annotations

import dataclasses
import math
import shlex
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .bench import Compressed
from .budget import Budget
from .codings import Codebook, Coding, Grid, LowRank, ScaledCodebook, Sparse
from .data import Score, enough
from .data.interval import Drop as PairedDrop
from .data.interval import is_relative
from .errors import LessenError
from .folder import RunFolder
from .job import Job
from .models import Layer
from .plan import Treatment
from .report import (
    Coverage,
    DataParts,
    Demand,
    Drop,
    File,
    Kernels,
    Latency,
    LayerRow,
    Left,
    Measured,
    Metric,
    Ratios,
    Report,
    Verdict,
)  # fmt: skip
from .search.found import Found
from .targets import compare, machine, peak_memory, versions
from .targets.executed import stored_only
from .technique import describe
from .verify import one_sample, sqnr_db

RUNS = {
    None: "stored small, computed in float", 8: "8-bit integers", 16: "16-bit integers",
    "static": "8-bit integers, fixed range", "dynamic": "8-bit integers, inputs rounded in every batch",
    "token": "8-bit integers, inputs rounded in every token",
}  # fmt: skip


def account(job: Job, found: Found, compressed: Compressed, folder: RunFolder) -> Report:
    """Measures the artifact against the baseline, on the test part and by the clock, and writes it all down."""
    artifact, packed = folder.path("model" + job.target.suffix), folder.path("model.lessen")
    original = found.judge.original(job.data.test)
    score, drop = found.judge.drop(artifact, job.data.test)
    before, after = _measured(job, found, compressed, artifact, original, score)
    ratios = _ratios(before, after, packed)
    verdict = _verdict(job.budget, drop, before, after, found.reason)
    if not verdict.met and not verdict.reason:
        lost = any(d.name == "--max-drop" and not d.met for d in verdict.asked)
        here = "missed on the test part" if lost else "missed when the delivered file was measured again"
        verdict = dataclasses.replace(verdict, reason=f"met on the validation part, {here}")
    kernels = job.target.verify(artifact)
    return Report(
        model=job.model.origin or job.model.name, target=job.target.name, baseline=before, result=after,
        drop=_drop(job, drop, original), ratios=ratios, layers=_rows(job, found, compressed),
        plan_sha256=found.plan.sha256(), seed=job.seed, versions=versions(), machine=_flat(machine()), seconds={},
        budget=verdict, data=_parts(job), coverage=_coverage(found), curve=tuple(found.points),
        risks=(*_risks(job, found, drop, kernels.integer, kernels.floating), *_doubts(job, found, compressed)),
        files=_files(folder),
        kernels=Kernels(len(kernels.integer), len(kernels.floating), len(kernels.sparse)), command=_command(job),
    )  # fmt: skip


def _measured(
    job: Job, found: Found, compressed: Compressed, artifact: Path, original: Score, score: Score
) -> tuple[Measured, Measured]:
    one = one_sample(job.data.test)
    times = compare([found.judge.baseline, artifact], one, job.target)
    macs = found.macs
    parameters = (job.model.parameters, sum(p.numel() for p in compressed.module.parameters()))
    made = []
    for path, latency, s, p, m in zip(
        (found.judge.baseline, artifact), times, (original, score), parameters, macs, strict=True
    ):
        clock = Latency(latency.median, latency.p10, latency.p90, latency.batch)
        metric = Metric(
            s.metric.name, s.value, s.n, s.metric.higher_is_better, not is_relative(s.metric, original.value)
        )
        made.append(Measured(path.stat().st_size, p, m, metric, clock, _memory(job, path, one)))
    return made[0], made[1]


def _memory(job: Job, path: Path, inputs: object) -> int | None:
    try:
        return peak_memory(path, inputs, job.target).peak  # type: ignore[arg-type]
    except LessenError:
        return None


def _ratios(before: Measured, after: Measured, packed: Path) -> Ratios:
    memory = None
    if before.peak_memory_bytes and after.peak_memory_bytes:
        memory = before.peak_memory_bytes / after.peak_memory_bytes
    assert before.latency_ms is not None and after.latency_ms is not None
    return Ratios(
        size=before.file_bytes / after.file_bytes,
        packed_size=before.file_bytes / packed.stat().st_size,
        latency=before.latency_ms.median / after.latency_ms.median,
        memory=memory,
        macs=before.macs / after.macs if after.macs else None,
    )


def _drop(job: Job, drop: PairedDrop, original: Score) -> Drop:
    """In the units of the metric: points become shares, percent of the original's error become the error's own unit."""
    unit = abs(original.value) / 100 if is_relative(job.metric, original.value) else 0.01
    return Drop(unit * drop.value, unit * drop.low, unit * drop.high, drop.confidence)


def _verdict(budget: Budget, drop: PairedDrop, before: Measured, after: Measured, reason: str) -> Verdict:
    assert after.latency_ms is not None
    figures: dict[str, float | None] = {
        "drop": drop.value, "file_bytes": after.file_bytes, "latency_ms": after.latency_ms.median,
        "ratio": before.file_bytes / after.file_bytes, "memory_bytes": after.peak_memory_bytes,
    }  # fmt: skip
    return Verdict.of([Demand(*row) for row in budget.account(figures)], reason)


def _parts(job: Job) -> DataParts:
    calibration, validation, test = (p.n for p in job.data.parts)
    return DataParts(calibration, validation, test, job.metric.against == "labels", job.metric.name)


def _coverage(found: Found) -> Coverage:
    traced = found.bench.traced
    return Coverage(traced.share, tuple(Left(n, w) for n, w in traced.left))


def _rows(job: Job, found: Found, compressed: Compressed) -> tuple[LayerRow, ...]:
    return tuple(_row(job, found, layer, compressed) for layer in compressed.layers.values())


def _row(job: Job, found: Found, layer: Layer, compressed: Compressed) -> LayerRow:
    treatment, coding = compressed.treatments.get(layer.name, Treatment()), compressed.codings.get(layer.name)
    before = 4 * layer.weight.numel()
    chosen = found.predicted.get(layer.name)
    if coding is None:
        why = found.why.get(layer.name) or "kept: nothing cheaper was worth its harm"
        return LayerRow(layer.name, layer.kind, "kept", False, why, before, before, bits=32.0,
                        parameters=layer.weight.numel(), macs=layer.macs)  # fmt: skip
    runs = RUNS[treatment.activations]
    folded = f"after {type(found.bench.refold).__name__}" if found.bench.refold else ""
    runs = "; ".join(filter(None, (runs, compressed.why.get(layer.name), folded)))
    return LayerRow(
        layer.name, layer.kind, label(treatment), True, runs, before, job.target.nbytes(layer, coding),
        sqnr_db(layer.matrix, coding.decode()), bits_of(coding), float((coding.decode() == 0).float().mean()),
        chosen.harm if chosen else None, layer.weight.numel(), layer.macs,
    )  # fmt: skip


def label(treatment: Treatment) -> str:
    """A treatment in a few words: "Uniform(bits=4)", "OptimalBrain(sparsity=0.8) + Uniform(bits=4)"."""
    return "kept" if treatment.technique is None else _words(treatment.technique)


def _words(technique: Any) -> str:
    steps = getattr(technique, "steps", None)
    if isinstance(steps, tuple):
        return " + ".join(map(_words, steps))
    fields = {f.name: getattr(technique, f.name) for f in dataclasses.fields(technique)}
    first = next(iter(fields), None)  # what a technique is mostly about: bits, clusters, sparsity
    shown = {k: v for k, v in fields.items() if k == first or k in describe(technique)}
    return f"{type(technique).__name__}({', '.join(f'{k}={v}' for k, v in shown.items())})"


def bits_of(coding: Coding) -> float:
    """Bits of one stored weight before entropy coding."""
    if isinstance(coding, Grid):
        return float(coding.bits)
    if isinstance(coding, (Codebook, ScaledCodebook)):
        return math.ceil(math.log2(max(coding.centroids.shape[1], 2)))
    if isinstance(coding, LowRank):
        rows, columns = coding.shape
        sides = (coding.left, coding.right)
        return sum(bits_of(c) * c.shape[0] * c.shape[1] for c in sides) / (rows * columns)
    if isinstance(coding, Sparse):
        return 32.0 * coding.values.numel() / coding.mask.numel()
    return 32.0


def _risks(
    job: Job, found: Found, drop: PairedDrop, integer: tuple[str, ...], floating: tuple[str, ...]
) -> tuple[str, ...]:
    risks = list(job.data.warnings)
    if job.budget.max_drop is not None:
        few = enough(job.data.test.n, job.budget.max_drop, job.metric)
        risks += [few] if few else []
        if drop.low <= job.budget.max_drop < drop.high:
            risks.append(
                f"the {drop.confidence:.0%} interval of the drop, {drop.low:.2f} to {drop.high:.2f} points, "
                f"lies across the promised {job.budget.max_drop:g}"
            )
    asked = sum(1 for t in found.treatments.values() if t.activations)
    if asked and len(integer) < asked // 2:
        risks.append(
            f"only {len(integer)} of {len(integer) + len(floating)} products run in integers; "
            f"{asked} layers were meant to"
        )
    if found.judge.consulted > 1:
        risks.append(f"the test part was looked at {found.judge.consulted} times, so its drop is slightly flattered")
    if found.bench.traced.why:
        risks.append(
            f"torch.export can't follow the network ({found.bench.traced.why}): layers were found by module type, and "
            "the file holds the branches that the example inputs took"
        )
    return (*risks, *found.risks)


def _doubts(job: Job, found: Found, compressed: Compressed) -> Iterator[str]:
    """What was asked for in so many words and is not executed; what was compressed and never seen at work."""
    asked = [
        x for n, x in compressed.layers.items() if compressed.treatments.get(n, Treatment()).technique in job.using
    ]
    yield from stored_only(job.target, asked, compressed.codings)
    known = found.bench.statistics
    unseen = [n for n in compressed.codings if n in known and not known[n].samples]
    if unseen:
        yield (
            f"no calibration sample was seen to reach {', '.join(unseen[:3])}"
            f"{f' and {len(unseen) - 3} more' if len(unseen) > 3 else ''}: what coding them does is not known; "
            "give samples that reach them, or leave them out with --skip"
        )


def _files(folder: RunFolder) -> tuple[File, ...]:
    return tuple(File(p.name, p.name, p.stat().st_size) for p in sorted(folder.work.iterdir())
                 if p.is_file() and p.name != "run.log")  # fmt: skip


def _command(job: Job) -> str:
    """What was typed; in Python, what was asked for."""
    if Path(sys.argv[0]).stem == "lessen":
        return shlex.join(["lessen", *sys.argv[1:]])
    return f"{job.model.origin or job.model.name}: {job.budget.describe()}, metric {job.metric.name}"


def _flat(values: Mapping[str, object]) -> dict[str, str | int | float]:
    return {
        k: v if isinstance(v, (int, float)) else " ".join(v) if isinstance(v, list) else str(v)
        for k, v in values.items()
    }
