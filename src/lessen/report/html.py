"""`report.html`: one file that opens offline, without scripts, fonts or pictures from elsewhere."""

from __future__ import annotations

import os
from collections import defaultdict
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined

from lessen.report import charts, phrases
from lessen.report.plain import write_whole
from lessen.report.schema import LayerRow, Report
from lessen.report.terminal import costliest


def render_html(report: Report) -> str:
    """The report as one HTML page. Every text of the report is escaped: layer names are untrusted."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(
        bytes=phrases.size, count=phrases.number, share=phrases.share, seconds=phrases.seconds,
        three=phrases.three, safe_line=phrases.printable, kept=kept,
    )  # fmt: skip
    template = environment.from_string(files("lessen.report").joinpath("report.html.j2").read_text("utf-8"))
    return template.render(**_facts(report))


def write_html(report: Report, path: str | os.PathLike[str]) -> None:
    """Write `report.html` whole or not at all."""
    write_whole(path, render_html(report))


def _facts(report: Report) -> dict[str, Any]:
    return {
        "report": report,
        "headline": phrases.outcome(report),
        "verdict": phrases.verdict(report),
        "mood": "plain" if not report.budget.asked else "good" if report.budget.met else "bad",
        "cards": cards(report),
        "curve": charts.curve(report),
        "series": charts.series(report.curve),
        "predicted": charts.predicted(report),
        "strips": charts.strips(report.layers),
        "fragile": {row.name for row in costliest(report.layers)},
        "zeros": phrases.zeros(report),
        "skipped": skipped(report.layers),
        "stages": stages(report.seconds),
    }


def kept(row: LayerRow) -> float:
    """Percent of the layer's bytes that are left, at most 100 (a full bar)."""
    return min(100.0, 100 * row.bytes_after / row.bytes_before) if row.bytes_before > 0 else 100.0


def cards(report: Report) -> list[dict[str, Any]]:
    """One card per compared figure, with the share of the original that is left (for its bar; None: no bar)."""
    before, after = report.baseline, report.result
    pairs = {
        "file size": (before.file_bytes, after.file_bytes),
        "peak memory": (before.peak_memory_bytes, after.peak_memory_bytes),
        "parameters": (before.parameters, after.parameters),
        "multiply-adds": (before.macs, after.macs),
    }
    made = []
    for name, was, now, said in phrases.comparison(report):
        first, last = pairs.get(name, (None, None))
        if name.startswith("time") and before.latency_ms and after.latency_ms:
            first, last = before.latency_ms.median, after.latency_ms.median  # type: ignore[assignment]
        if name == "packed file" and report.ratios.packed_size:
            first, last = 1, 1 / report.ratios.packed_size  # type: ignore[assignment]
        left = min(1.0, last / first) if first and last is not None else None
        made.append({"name": name, "was": was, "now": now, "said": said, "left": left})
    return made


def skipped(layers: tuple[LayerRow, ...]) -> list[tuple[str, list[str]]]:
    """Layers that were left alone, by reason; the most frequent reason first."""
    why: dict[str, list[str]] = defaultdict(list)
    for row in layers:
        if not row.done:
            why[row.why or "no reason was recorded"].append(row.name)
    return sorted(why.items(), key=lambda item: -len(item[1]))


def stages(seconds: dict[str, float]) -> list[tuple[str, int, float, float]]:
    """Stages in the order they ran: name, depth, seconds, share of the longest; inner ones after their outer one."""
    longest = max(seconds.values(), default=0.0) or 1.0
    outer = list(dict.fromkeys(name.split("/")[0] for name in seconds))
    order = [name for top in outer for name in sorted((n for n in seconds if n.split("/")[0] == top),
                                                      key=lambda n: n.count("/"))]  # fmt: skip
    return [(name.rsplit("/", 1)[-1], name.count("/"), seconds[name], seconds[name] / longest) for name in order]
