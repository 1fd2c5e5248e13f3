"""`diagnosis.html`: the signal through the network as a picture, and every layer as a row; opens offline."""

from __future__ import annotations

import os
from collections.abc import Iterator

from markupsafe import Markup

from ..report.phrases import printable, share
from ..report.plain import write_whole
from ..report.svg import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Scale, element, frame, picture
from .diagnosis import BROKEN
from .record import DiagnosisRecord, LayerRecord
from .show import headline, where

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:62rem;padding:0 1rem;color:#222;background:#fff}
table{border-collapse:collapse;width:100%;font-size:13px}td,th{text-align:left;padding:.25rem .6rem .25rem 0;
border-bottom:1px solid #ddd;vertical-align:top}td.n{text-align:right;white-space:nowrap}svg{width:100%;max-width:46rem}
.grid{stroke:#ddd}.tick,.axis{font-size:11px;fill:#666}.arrives{fill:none;stroke:#c2410c;stroke-width:2}
.alone{fill:none;stroke:#2563eb;stroke-width:1.5;stroke-dasharray:4 3}.broken{stroke:#999;stroke-dasharray:2 3}
@media(prefers-color-scheme:dark){body{background:#111;color:#ddd}td,th{border-color:#333}.grid{stroke:#333}}
"""
TOP_DB = 60.0


def render_page(d: DiagnosisRecord) -> str:
    """The page. Every text is escaped: layer names are untrusted."""
    body = [
        element("h1", "lessen diagnose"), element("p", element("strong", headline(d))), element("p", where(d)),
        _picture(d), element("p", "Solid: the signal as it arrives in the file. Dashed: with only that layer rounded. "
                             f"Dotted: {BROKEN:.0f} dB."),
        *(element("p", f"note: {printable(n)}") for n in d.notes), _steps(d), _table(d),
    ]  # fmt: skip
    head = [element("meta", charset="utf-8"), element("title", "lessen diagnose"), element("style", Markup(STYLE))]
    return "<!doctype html>" + element("html", element("head", *head), element("body", *body), lang="en")


def write_page(d: DiagnosisRecord, path: str | os.PathLike[str]) -> None:
    """Write `diagnosis.html` whole or not at all."""
    write_whole(path, render_page(d))


def _picture(d: DiagnosisRecord) -> Markup:
    x = Scale(0, max(len(d.layers) - 1, 1), LEFT, WIDTH - RIGHT)
    y = Scale(0, TOP_DB, HEIGHT - BOTTOM, TOP)
    lines = [frame(x, y, ("layer, in order of execution", "signal to noise, dB"), (_whole, _whole))]
    lines.append(element("line", class_="broken", x1=LEFT, x2=WIDTH - RIGHT, y1=y(BROKEN), y2=y(BROKEN)))
    for name in ("alone", "arrives"):
        lines.append(element("polyline", class_=name, points=" ".join(_points(d, name + "_db", x, y))))
    about = "Signal to noise at the output of each layer: as it arrives, and with only that layer rounded"
    return picture("signal", "Signal through the network", about, lines)


def _points(d: DiagnosisRecord, figure: str, x: Scale, y: Scale) -> Iterator[str]:
    for number, layer in enumerate(d.layers):
        value = getattr(layer, figure)
        yield f"{x(number):.1f},{y(TOP_DB if value is None else value):.1f}"


def _whole(value: float) -> str:
    return f"{value:g}"


def _steps(d: DiagnosisRecord) -> Markup:
    if d.fixed is None:
        return Markup("")
    rows = [_row("td", s.says, f"{len(s.layers)}", f"{s.drop_before:.2f} to {s.drop_after:.2f}", _db(s.output_db),
                 "kept" if s.kept else "undone") for s in d.fixed.steps]  # fmt: skip
    outcome = f"{'Mended' if d.fixed.held else 'NOT mended'}: {d.fixed.drop_after:.2f} {d.unit} lost on the test part"
    return element("h2", outcome) + element("table", _row("th", "mend", "layers", "lost", "output", ""), *rows)


def _table(d: DiagnosisRecord) -> Markup:
    head = _row("th", "layer", "operator", "arrives", "alone", "pays", "why", "mend")
    return element("h2", "Every layer") + element("table", head, *(_layer(x) for x in d.layers))


def _layer(x: LayerRecord) -> Markup:
    why = "; ".join(f"{r.says} ({share(r.share)})" for r in x.reasons[:2])
    pays = "" if x.pays is None else share(x.pays)
    return _row("td", printable(x.name), x.kind, _db(x.arrives_db), _db(x.alone_db), pays, why, x.mend)


def _row(tag: str, *cells: str) -> Markup:
    return element("tr", *(element(tag, c) for c in cells))


def _db(value: float | None) -> str:
    return "" if value is None else f"{value:.1f} dB"
