"""The result in ten seconds: a summary for 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import TextIO

from rich.console import RenderableType
from rich.text import Text

from lessen.report import phrases
from lessen.report.console import FOLD, KEEP, RIGHT, line, show, table
from lessen.report.schema import LayerRow, Report

_COLUMNS = 80
_SHOWN = 3  # layers
_WHAT = {
    "model.onnx": "runs as it is, in ONNX Runtime or OpenVINO",
    "model.lessen": "for storage; lessen unpack, lessen.load_into",
    "plan.yaml": "what was done; lessen apply does it again",
}
_HARM = 15  # columns of the last cell and of the gaps between four


def print_summary(report: Report, file: TextIO | None = None) -> None:
    """Print the summary of a run to `file` (standard output), at most 80 columns wide."""
    show(_summary(report), file, most_columns=_COLUMNS)


def _summary(report: Report) -> Iterator[RenderableType]:
    bad = bool(report.budget.asked) and not report.budget.met
    if report.simulated:
        yield line("SIMULATED: measured on an imitation in float arithmetic, not on the file.", "bold yellow")
    yield line(phrases.outcome(report), "bold")
    yield line(_capital(phrases.verdict(report)), "bold red" if bad else "green" if report.budget.asked else "")
    yield Text()
    yield table([("", KEEP), ("before", RIGHT), ("after", RIGHT), ("", FOLD)], phrases.comparison(report))
    if report.budget.asked:
        yield Text()
        yield _budget(report)
    if bad:
        yield from _not_met(report)
    yield from _layers(report)
    yield from _risks(report)
    yield from _files(report)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _budget(report: Report) -> RenderableType:
    rows = [
        (demand.name, demand.asked, demand.measured,
         line("met", "green") if demand.met else line("NOT met", "bold red"), demand.why)
        for demand in report.budget.asked
    ]  # fmt: skip
    why = [("", FOLD)] if any(row[4] for row in rows) else []
    columns = [("budget", FOLD), ("asked", FOLD), ("measured", FOLD), ("", KEEP), *why]
    return table(columns, (row[: len(columns)] for row in rows))


def _not_met(report: Report) -> Iterator[RenderableType]:
    yield Text()
    yield line(f"Why: {report.budget.reason or 'no plan that was measured meets every demand'}")
    result = report.result
    time = [phrases.milliseconds(result.latency_ms.median)] if result.latency_ms else []
    said = [phrases.size(result.file_bytes), *time, phrases.change(report.drop, result.metric)]
    yield line(f"Nearest point, kept: {', '.join(said)}")


def costliest(layers: tuple[LayerRow, ...], count: int = _SHOWN) -> list[LayerRow]:
    """The layers that cost most: by harm where it is known, else by the bytes that are left."""
    if any(row.harm for row in layers):
        return sorted(layers, key=lambda row: -(row.harm or 0))[:count]
    return sorted(layers, key=lambda row: -row.bytes_after)[:count]


def short(name: str, most: int = 56) -> str:
    """The ends of a name that a converter made too long to read."""
    return name if len(name) <= most else f"{name[: most // 2 - 2]} … {name[1 - most // 2 :]}"


def _layers(report: Report) -> Iterator[RenderableType]:
    total = sum(row.harm or 0 for row in report.layers)
    rows = [
        (short(row.name), textwrap.shorten(row.technique, 36, placeholder=" …") or "-",
         f"{phrases.size(row.bytes_before)} to {phrases.size(row.bytes_after)}",
         phrases.share(row.harm / total) if total and row.harm is not None else "-")
        for row in costliest(report.layers)
    ]  # fmt: skip
    if rows:
        yield Text()
        width = min(28, max(21, *(len(row[0]) for row in rows)))
        room = _COLUMNS - width - max(len(row[2]) for row in rows) - _HARM
        names, how = {"width": width, **FOLD}, {"max_width": max(room, 18), **FOLD}
        yield table([("layers that cost most", names), ("how", how), ("bytes", RIGHT), ("harm", RIGHT)], rows)
    done = sum(row.done for row in report.layers)
    left = f"; not traced: {_few([part.name for part in report.coverage.left])}" if report.coverage.left else ""
    yield Text()
    integer = f", {report.kernels.integer} run in integer arithmetic" if report.kernels else ""
    yield line(f"{done} of {len(report.layers)} layers compressed{integer}{left}")
    if zeros := phrases.zeros(report):
        yield line(zeros)


def _few(names: list[str], most: int = 3) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(short(n) for n in names[:most]) + rest


def _risks(report: Report) -> Iterator[RenderableType]:
    for risk in report.risks:
        yield line(f"risk: {risk}", "yellow")


def _files(report: Report) -> Iterator[RenderableType]:
    if not report.files:
        return
    yield Text()
    rows = ((file.path or file.name, phrases.size(file.file_bytes), _WHAT.get(file.name, "")) for file in report.files)
    yield table([("files", FOLD), ("", RIGHT), ("", FOLD)], rows)
