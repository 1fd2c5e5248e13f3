"""Tables of `lessen inspect` (a forecast) and `lessen measure` (files side by side)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, TextIO

from rich.console import RenderableType
from rich.text import Text

from lessen.report import phrases
from lessen.report.console import FOLD, KEEP, RIGHT, line, show, table
from lessen.report.schema import Measured, Ratios


class LayerForecast(NamedTuple):
    """A layer of a model and the techniques that can work on it. `why_not`: if none can."""

    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int
    macs: int
    can: tuple[str, ...]
    why_not: str = ""


class TechniqueForecast(NamedTuple):
    """What one technique, used alone, is expected to bring. `latency_ms` None: no table for the target."""

    technique: str
    file_bytes: int
    ratio: float
    latency_ms: float | None = None
    note: str = ""
    packed_bytes: int | None = None


def print_inspect(
    layers: Sequence[LayerForecast],
    techniques: Sequence[TechniqueForecast] = (),
    notes: Iterable[str] = (),
    file: TextIO | None = None,
) -> None:
    """Print what is in a model and what each technique would bring; every figure is called a forecast."""
    show(_inspect(layers, techniques, notes), file)


def _inspect(
    layers: Sequence[LayerForecast], techniques: Sequence[TechniqueForecast], notes: Iterable[str]
) -> Iterator[RenderableType]:
    total = sum(row.parameters for row in layers)
    macs = sum(row.macs for row in layers)
    rows = (
        (row.name, row.kind, "×".join(map(str, row.shape)), phrases.number(row.parameters),
         phrases.share(row.parameters / total if total else None), phrases.number(row.macs),
         ", ".join(row.can) or f"nothing: {row.why_not or 'no technique fits'}")
        for row in layers
    )  # fmt: skip
    columns = [("layer", FOLD), ("kind", KEEP), ("shape", KEEP), ("params", RIGHT), ("share", RIGHT), ("MACs", RIGHT)]
    yield table([*columns, ("can be done", {"ratio": 1, **FOLD})], rows)
    yield line(f"{len(layers)} layers, {phrases.number(total)} parameters, {phrases.number(macs)} multiply-adds")
    if techniques:
        yield Text()
        yield line("Forecast for each technique alone (nothing below is measured on a compressed file)", "bold")
        yield _techniques(techniques)
    for note in notes:
        yield line(f"note: {note}", "yellow")


def _techniques(techniques: Sequence[TechniqueForecast]) -> RenderableType:
    columns = [("technique", FOLD), ("file", RIGHT), ("", RIGHT), ("packed", RIGHT), ("time", RIGHT), ("", FOLD)]
    return table(columns, (
        (row.technique, phrases.size(row.file_bytes), phrases.ratio(row.ratio, "smaller", "larger"),
         phrases.size(row.packed_bytes), phrases.milliseconds(row.latency_ms), row.note)
        for row in techniques
    ))  # fmt: skip


class MeasuredFile(NamedTuple):
    """One file of `lessen measure`, with what it is against the first one."""

    path: str
    measured: Measured
    ratios: Ratios | None = None
    note: str = ""


def print_measure(files: Sequence[MeasuredFile], notes: Iterable[str] = (), file: TextIO | None = None) -> None:
    """Print files side by side, one row each; ratios are against the first."""
    show(_measure(files, notes), file)


def _measure(files: Sequence[MeasuredFile], notes: Iterable[str]) -> Iterator[RenderableType]:
    metric = files[0].measured.metric.name if files else "metric"
    columns = [("file", FOLD), ("bytes", RIGHT), (phrases.printable(metric), RIGHT), ("time", RIGHT),
               ("p10-p90", RIGHT), ("memory", RIGHT), ("against the first", FOLD)]  # fmt: skip
    yield table(columns, (_measured_row(row) for row in files))
    if files:
        batch = next((row.measured.latency_ms.batch for row in files if row.measured.latency_ms), None)
        timed = f"; time for a batch of {batch}" if batch else ""
        yield line(f"{metric} over {files[0].measured.metric.n} samples{timed}", "dim")
    for note in [*(f"{row.path}: {row.note}" for row in files if row.note), *notes]:
        yield line(f"note: {note}", "yellow")


def _measured_row(row: MeasuredFile) -> tuple[str, ...]:
    measured, latency = row.measured, row.measured.latency_ms
    spread = f"{phrases.three(latency.p10)}-{phrases.three(latency.p90)}" if latency else "-"
    against = () if row.ratios is None else (
        phrases.ratio(row.ratios.size, "smaller", "larger"), phrases.ratio(row.ratios.latency, "faster", "slower")
    )  # fmt: skip
    return (
        row.path, phrases.size(measured.file_bytes), phrases.score(measured.metric),
        phrases.milliseconds(latency.median if latency else None), spread,
        phrases.size(measured.peak_memory_bytes), ", ".join(part for part in against if part),
    )  # fmt: skip
