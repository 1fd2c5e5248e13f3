"""What a run tells: `report.json`, `report.html`, the terminal, and progress on the way."""

from lessen.report.html import render_html, write_html
from lessen.report.progress import Progress, Step
from lessen.report.schema import (
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
    Point,
    Ratios,
    Report,
    Verdict,
    read_json,
)
from lessen.report.tables import (
    LayerForecast,
    MeasuredFile,
    TechniqueForecast,
    print_inspect,
    print_measure,
)
from lessen.report.terminal import print_summary

__all__ = [
    "Coverage",
    "DataParts",
    "Demand",
    "Drop",
    "File",
    "Kernels",
    "Latency",
    "LayerForecast",
    "LayerRow",
    "Left",
    "Measured",
    "MeasuredFile",
    "Metric",
    "Point",
    "Progress",
    "Ratios",
    "Report",
    "Step",
    "TechniqueForecast",
    "Verdict",
    "print_inspect",
    "print_measure",
    "print_summary",
    "read_json",
    "render_html",
    "write_html",
]
