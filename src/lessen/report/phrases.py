"""Figures as people read them, and the sentences that the terminal and the HTML report share."""

from __future__ import annotations

import math

from lessen.report.schema import Drop, Measured, Metric, Report

JOINT = "joint"
_MANY_ZEROS = 0.2  # share of the weights; a grid of few bits has some by itself


def printable(text: object) -> str:
    """`text` on one line without control, bidi or other invisible characters: layer names are untrusted."""
    return "".join(char if char.isprintable() else "?" for char in str(text))


def size(count: float | None) -> str:
    """Bytes in decimal units: "3.42 MB"."""
    return _scaled(count, (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)), "B")


def number(count: float | None) -> str:
    """A count: "3.50 M"."""
    return _scaled(count, (("G", 1e9), ("M", 1e6), ("k", 1e3)), "")


def _scaled(count: float | None, units: tuple[tuple[str, float], ...], base: str) -> str:
    if count is None or not math.isfinite(count):
        return "-"
    for unit, factor in units:
        if abs(count) >= factor:
            return f"{three(count / factor)} {unit}"
    return f"{count:.0f} {base}".rstrip()


def three(value: float) -> str:
    """Three significant digits without exponent for everyday figures: 3.42, 34.2, 342."""
    if not math.isfinite(value):
        return "-"
    if value == 0 or abs(value) >= 1e6 or abs(value) < 1e-3:
        return f"{value:.3g}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def milliseconds(value: float | None) -> str:
    """Milliseconds: "2.31 ms"."""
    return "-" if value is None else f"{three(value)} ms"


def seconds(value: float) -> str:
    """A duration: "0.4 s", "1 min 12 s"."""
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest} s"


def share(value: float | None) -> str:
    """A share of 1 in percent: "97.2 %"; never rounded up to 100 %."""
    if value is None or not math.isfinite(value):
        return "-"
    rounded = round(100 * value, 1)
    rounded = 99.9 if rounded == 100 and value < 1 else rounded
    return f"{rounded:g} %"


def ratio(value: float | None, better: str, worse: str) -> str:
    """A ratio as a comparison: "3.9x smaller", "1.20x larger"; "the same" when it is 1."""
    if value is None or not math.isfinite(value) or value <= 0:
        return ""
    if 0.995 <= value < 1.005:
        return "the same"
    return f"{_times(value)} {better}" if value > 1 else f"{_times(1 / value)} {worse}"


def _times(value: float) -> str:
    return f"{value:.2f}x" if value < 1.95 else f"{value:.1f}x" if value < 99.5 else f"{value:.0f}x"


def score(metric: Metric) -> str:
    """The metric's value: "71.88 %", or "0.0123"."""
    return f"{100 * metric.value:.2f} %" if metric.percent else three(metric.value)


def points(value: float, metric: Metric) -> str:
    """A difference of the metric: in points when it is a share, else in its own units."""
    if not math.isfinite(value):
        return "-"
    text = f"{100 * value:.2f}" if metric.percent else three(value)
    return "0.00" if text == "-0.00" else text


def lost(drop: Drop, metric: Metric) -> str:
    """The drop with its interval: "0.21 points lost (95 %: -0.10 to 0.50)"."""
    unit = "points" if metric.percent else f"of {printable(metric.name)}"
    word, low, high = ("lost", drop.low, drop.high) if drop.value >= 0 else ("gained", -drop.high, -drop.low)
    within = f"{share(drop.confidence)}: {points(low, metric)} to {points(high, metric)}"
    return f"{points(abs(drop.value), metric)} {unit} {word} ({within})"


def outcome(report: Report) -> str:
    """What was won and what it cost: "3.9x smaller, 2.8x faster, 0.21 points lost (95 %: -0.10 to 0.50)"."""
    said = [
        ratio(report.ratios.size, "smaller", "larger"),
        ratio(report.ratios.latency, "faster", "slower"),
        lost(report.drop, report.result.metric) + ("" if report.data.labelled else " of agreement with the original"),
    ]
    return ", ".join(part for part in said if part)


def headline(report: Report) -> str:
    """The whole result in one sentence: the outcome and the verdict."""
    return f"{outcome(report)} — {verdict(report)}"


def verdict(report: Report) -> str:
    """Whether the budget is met, in words."""
    if not report.budget.asked:
        return "no demand was made"
    if report.budget.met:
        return "every demand met"
    return "NOT met: " + ", ".join(printable(name) for name in report.budget.unmet)


def zeros(report: Report) -> str:
    """What the zeros bring, plainly: a smaller packed file, and speed or none; "" where there are few.

    Measured (`benchmarks/sparse_execution.py`): ONNX Runtime multiplies zeros at every sparsity as it does other
    numbers; OpenVINO too, but for large linear layers in integers on a CPU with AMX.
    """
    rows = [row for row in report.layers if row.parameters]
    total = sum(row.parameters or 0 for row in rows)
    gone = sum((row.sparsity or 0) * (row.parameters or 0) for row in rows)
    if not total or gone / total < _MANY_ZEROS:
        return ""
    patterns = (
        "2:4 and other N:M patterns bring time on a GPU only. " if any("NM(" in r.technique for r in rows) else ""
    )
    if report.kernels is not None and report.kernels.sparse:
        return (
            f"{share(gone / total)} of the layers' weights are zero. {report.kernels.sparse} layers run by kernels "
            "that pass over zeros, if OpenVINO is asked to: compile with CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE=0.85. "
            "The time above is with it."
        )
    return (
        f"{share(gone / total)} of the layers' weights are zero. That makes the packed file smaller, not the network "
        f"faster: {_runtimes(report.target)}. {patterns}What saves time is removed channels, low "
        "rank and 8-bit integers."
    )


def _runtimes(target: str) -> str:
    said = {
        "onnxruntime": "ONNX Runtime multiplies zeros like other numbers at any sparsity",
        "openvino": "OpenVINO passes over zeros only in linear layers of 8-bit integers, 85 % of them zero, "
                    "on a CPU with AMX",
    }  # fmt: skip
    return said.get(printable(target), f"{said['onnxruntime']}, {said['openvino']}")


def comparison(report: Report) -> list[tuple[str, str, str, str]]:
    """Rows of the before/after table: what, before, after, the ratio in words. What nobody measured is left out."""
    before, after, ratios = report.baseline, report.result, report.ratios
    rows = [
        ("file size", size(before.file_bytes), size(after.file_bytes), ratio(ratios.size, "smaller", "larger")),
        (printable(after.metric.name), score(before.metric), score(after.metric), change(report.drop, after.metric)),
        (_latency_label(after), _latency(before), _latency(after), ratio(ratios.latency, "faster", "slower")),
        ("peak memory", size(before.peak_memory_bytes), size(after.peak_memory_bytes),
         ratio(ratios.memory, "less", "more")),
        ("parameters", number(before.parameters), number(after.parameters),
         ratio(before.parameters / max(after.parameters, 1), "fewer", "more")),
        ("multiply-adds", number(before.macs), number(after.macs), ratio(ratios.macs, "fewer", "more")),
    ]  # fmt: skip
    if ratios.packed_size is not None:
        packed = size(before.file_bytes / ratios.packed_size) if ratios.packed_size > 0 else "-"
        rows.insert(1, ("packed file", size(before.file_bytes), packed, ratio(ratios.packed_size, "smaller", "larger")))
    return [row for row in rows if row[1] != "-" and row[2] != "-"]


def change(drop: Drop, metric: Metric) -> str:
    """The drop in a few words, for a table."""
    unit = " points" if metric.percent else ""
    return f"{points(abs(drop.value), metric)}{unit} {'lost' if drop.value >= 0 else 'gained'}"


def _latency_label(measured: Measured) -> str:
    return f"time, batch {measured.latency_ms.batch}" if measured.latency_ms else "time"


def _latency(measured: Measured) -> str:
    return milliseconds(measured.latency_ms.median if measured.latency_ms else None)
