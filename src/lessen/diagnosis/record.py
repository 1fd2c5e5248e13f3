"""`diagnosis.json`: the comparison as plain values, the one thing that the terminal and the page are made from."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field

from ..report.plain import to_plain, write_whole
from .diagnosis import Cause, Diagnosis, LayerNoise
from .repair import Fixed, Step


@dataclass(frozen=True)
class Reasoned:
    """A reason in words and its share of the layer's own noise."""

    reason: str
    says: str
    share: float


@dataclass(frozen=True)
class LayerRecord:
    """One layer; decibels are signal to noise, None where there is no noise. See `LayerNoise`."""

    name: str
    node: str
    kind: str
    matched_by: str
    arrives_db: float | None
    alone_db: float | None
    weights_db: float | None
    pays: float | None
    only_db: float | None
    reasons: tuple[Reasoned, ...]
    mend: str
    mended_db: float | None


@dataclass(frozen=True)
class CauseRecord:
    """A kind of reason that layers share; `pays` if all of them are put back to float."""

    reason: str
    says: str
    layers: tuple[str, ...]
    pays: float
    mend: str


@dataclass(frozen=True)
class StepRecord:
    """One mend that `--fix` tried; drops on the validation part."""

    mend: str
    says: str
    layers: tuple[str, ...]
    drop_before: float
    drop_after: float
    output_db: float | None
    file_bytes: int
    kept: bool


@dataclass(frozen=True)
class FixRecord:
    """What `--fix` came to; drops on the test part."""

    held: bool
    max_drop: float
    drop_before: float
    drop_after: float
    low: float
    high: float
    n: int
    file_bytes: int
    steps: tuple[StepRecord, ...]


@dataclass(frozen=True)
class DiagnosisRecord:
    """Everything that is told of a pair of models."""

    original: str
    compressed: str
    metric: str
    percent: bool
    unit: str
    original_score: float
    score: float
    drop: float
    low: float
    high: float
    n: int
    samples: int
    output_db: float | None
    exact_output_db: float | None
    runtime_db: float | None
    first_broken: str
    causes: tuple[CauseRecord, ...]
    layers: tuple[LayerRecord, ...]
    worst: tuple[str, ...]
    notes: tuple[str, ...] = ()
    fixed: FixRecord | None = None
    files: tuple[str, ...] = field(default_factory=tuple)

    def write_json(self, path: str | os.PathLike[str]) -> None:
        """The record as a file, whole or not at all."""
        write_whole(path, json.dumps(to_plain(self), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def record(diagnosis: Diagnosis, fixed: Fixed | None = None) -> DiagnosisRecord:
    """A diagnosis as plain values."""
    d, broken = diagnosis, diagnosis.first_broken
    relative = d.original.metric.unit == "relative"
    return DiagnosisRecord(
        str(d.pair.job.model.origin), str(d.pair.compressed), d.original.metric.name, not relative,
        "percent" if relative else "points", d.original.value, d.score.value, d.drop.value, d.drop.low, d.drop.high,
        d.score.n, d.samples, _db(d.whole_db), _db(d.exact_db), _db(d.runs_db), broken.unit if broken else "",
        tuple(_cause(c) for c in d.causes), tuple(_layer(x) for x in d.layers), tuple(x.unit for x in d.worst()),
        d.notes, None if fixed is None else _fixed(fixed),
    )  # fmt: skip


def _db(value: float | None) -> float | None:
    return None if value is None or value >= 200 else round(value, 2)


def _cause(c: Cause) -> CauseRecord:
    mend = "" if c.mend is None else str(c.mend)
    return CauseRecord(c.reason.__name__, c.reason.words, c.units, round(c.pays, 4), mend)  # type: ignore[attr-defined]


def _layer(x: LayerNoise) -> LayerRecord:
    why = tuple(Reasoned(type(f.reason).__name__, str(f.reason), round(f.noise, 3)) for f in x.findings)
    return LayerRecord(
        x.name, x.unit, x.kind, x.by, _db(x.arrives_db), _db(x.alone_db), _db(x.weights_db),
        None if x.pays is None else round(x.pays, 4), _db(x.only_db), why, "" if x.mend is None else str(x.mend),
        _db(x.mended_db),
    )  # fmt: skip


def _fixed(fixed: Fixed) -> FixRecord:
    return FixRecord(
        fixed.held, fixed.max_drop, fixed.before.value, fixed.drop.value, fixed.drop.low, fixed.drop.high,
        fixed.score.n, fixed.path.stat().st_size, tuple(_step(s) for s in fixed.steps),
    )  # fmt: skip


def _step(s: Step) -> StepRecord:
    return StepRecord(type(s.mend).__name__, str(s.mend), s.mend.units, s.before, s.after, _db(s.db), s.file_bytes,
                      s.kept)  # fmt: skip
