"""The diagnosis in ten seconds: what was lost, where it breaks, who pays, why, and what to do."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TextIO

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from ..report import phrases
from ..report.console import FOLD, KEEP, RIGHT, line, show, table
from ..report.terminal import short
from .diagnosis import BROKEN
from .record import DiagnosisRecord, FixRecord, LayerRecord, StepRecord

_COLUMNS = 80
_SMALL = 0.01  # share of the damage below which a layer isn't worth a line
_FINE = 30.0  # decibels at the outputs above which nothing is wrong with the rounding


def print_diagnosis(found: DiagnosisRecord, file: TextIO | None = None) -> None:
    """Print the diagnosis to `file` (standard output), at most 80 columns wide."""
    show(_diagnosis(found), file, most_columns=_COLUMNS)


def _diagnosis(d: DiagnosisRecord) -> Iterator[RenderableType]:
    yield line(headline(d), "bold red" if d.drop > 1 else "bold")
    yield line(where(d))
    yield Text()
    if d.causes:
        causes = ((c.says, str(len(c.layers)), phrases.share(c.pays), c.mend or "none") for c in d.causes[:4])
        yield table([("what is wrong", KEEP), ("layers", RIGHT), ("pay", RIGHT), ("mend", FOLD)], causes)
        yield Text()
    named = {x.node: x for x in d.layers}
    worst = [x for x in (named[n] for n in d.worst) if (x.pays or 0) >= _SMALL]
    name = {"min_width": 30, "max_width": 46, **FOLD}
    rows = ((f"{i}  {short(x.name, 42)}", _db(x.arrives_db), _db(x.alone_db), phrases.share(x.pays))
            for i, x in enumerate(worst, 1))  # fmt: skip
    yield table([("layers that pay most", name), ("arrives", RIGHT), ("alone", RIGHT), ("pays", RIGHT)], rows)
    yield Text()
    yield _reasons(worst)
    yield Text()
    yield line("arrives: signal to noise at the layer's output in the file", "dim")
    yield line("alone:   the same with nothing but this layer rounded", "dim")
    yield line("pays:    part of the outputs' error that goes if it alone is put back to float", "dim")
    for note in d.notes:
        yield line(f"note: {note}", "yellow")
    yield Text()
    if d.fixed is not None:
        yield from _fixed(d, d.fixed)
    elif worst:
        yield line("--fix --max-drop 1% --out DIR tries the mends, cheapest first, and measures each")


def headline(d: DiagnosisRecord) -> str:
    """What was lost, in one line."""
    score = f"{100 * d.original_score:.2f} % to {100 * d.score:.2f} %" if d.percent else (
        f"{phrases.three(d.original_score)} to {phrases.three(d.score)}")  # fmt: skip
    word = "lost" if d.drop >= 0 else "gained"
    return f"{_points(abs(d.drop))} {d.unit} {word}: {d.metric} {score} " \
        f"(95 %: {_points(d.low)} to {_points(d.high)}, n = {d.n})"  # fmt: skip


def _points(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "all"


def where(d: DiagnosisRecord) -> str:
    """Where it breaks, in one sentence."""
    named = {x.node: x for x in d.layers}
    arrives = "no noise" if d.output_db is None else f"{d.output_db:.0f} dB"
    if not d.first_broken:
        fine = "" if d.output_db is not None and d.output_db < _FINE else "; nothing in it is broken"
        return f"no layer's signal falls below {BROKEN:.0f} dB; the outputs have {arrives}{fine}"
    layer = named[d.first_broken]
    order = [x.node for x in d.layers].index(layer.node) + 1
    return f"breaks at {short(layer.name, 40)} ({layer.kind}, {order} of {len(d.layers)}): the signal arrives with " \
        f"{_db(layer.arrives_db)}; the outputs have {arrives}"  # fmt: skip


def _db(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} dB"


def _reasons(worst: list[LayerRecord]) -> RenderableType:
    """Number, why, and the mend, hanging behind the number."""
    made = Table.grid(padding=(0, 2, 0, 0))
    made.add_column(no_wrap=True)
    made.add_column()
    for number, x in enumerate(worst, 1):
        better = f" ({_db(x.alone_db)} to {_db(x.mended_db)})" if x.mended_db is not None else ""
        made.add_row(str(number), line(x.reasons[0].says if x.reasons else "nothing odd"))
        made.add_row("", line(f"mend: {x.mend}{better}" if x.mend else "mend: none", "green"))
    return made


def _fixed(d: DiagnosisRecord, f: FixRecord) -> Iterator[RenderableType]:
    said = f"{_points(f.drop_before)} to {_points(f.drop_after)} {d.unit} lost on {f.n} test samples " \
        f"(95 %: {_points(f.low)} to {_points(f.high)}); asked: at most {f.max_drop:g}"  # fmt: skip
    if f.held and not any(s.kept for s in f.steps):
        yield line(f"Nothing to mend, it holds as it is: {said}", "bold green")
        return
    rows = ((_step(s), f"{s.drop_before:.2f} to {s.drop_after:.2f}", _db(s.output_db), phrases.size(s.file_bytes),
             line("kept", "green") if s.kept else line("undone", "dim")) for s in f.steps)  # fmt: skip
    yield table([("mends tried", {"max_width": 34, **FOLD}), (f"{d.unit} lost", RIGHT), ("output", RIGHT),
                 ("file", RIGHT), ("", KEEP)], rows)  # fmt: skip
    yield Text()
    yield line(f"{'Mended' if f.held else 'NOT mended'}: {said}", "bold green" if f.held else "bold red")
    if not f.held:
        yield line("What is left does not come from single layers: compress the original anew, with lessen compress")


def _step(s: StepRecord) -> str:
    return f"{s.says}, {len(s.layers)} layers" if len(s.layers) > 1 else f"{s.says}: {short(s.layers[0], 24)}"
