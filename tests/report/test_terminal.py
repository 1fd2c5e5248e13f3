"""Summaries and tables: their width, plain text, ASCII, and hostile layer names."""

import dataclasses
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from lessen.report import (
    Drop,
    LayerForecast,
    Measured,
    MeasuredFile,
    Metric,
    Ratios,
    Report,
    TechniqueForecast,
    Verdict,
    print_inspect,
    print_measure,
    print_summary,
)  # fmt: skip
from lessen.report.phrases import headline, lost, number, ratio, seconds, share, size, three
from report.samples import layers, sample


class Tape(io.StringIO):
    """A text file that claims an encoding, and maybe to be a terminal."""

    def __init__(self, encoding: str = "utf-8", terminal: bool = False) -> None:
        super().__init__()
        self._encoding, self._terminal = encoding, terminal

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._encoding

    def isatty(self) -> bool:
        return self._terminal


def summary(report: Report, tape: Tape | None = None) -> str:
    tape = tape or Tape()
    print_summary(report, tape)
    return tape.getvalue()


def test_headline() -> None:
    said = "3.9x smaller, 2.8x faster, 0.21 points lost (95 %: -0.10 to 0.50) — every demand met"
    assert headline(sample()) == said


def test_headline_admits_what_got_worse() -> None:
    report = dataclasses.replace(sample(), ratios=Ratios(0.5, latency=0.8), drop=Drop(-0.003, -0.005, -0.001))
    assert headline(report).startswith("2.0x larger, 1.25x slower, 0.30 points gained (95 %: 0.10 to 0.50)")


def test_no_labels_and_no_percent() -> None:
    report = dataclasses.replace(sample(), data=dataclasses.replace(sample().data, labelled=False))
    assert "of agreement with the original" in headline(report)
    metric = Metric("mse", 0.5, 10, higher_is_better=False, percent=False)
    assert lost(Drop(0.0123, 0.01, 0.02), metric) == "0.0123 of mse lost (95 %: 0.0100 to 0.0200)"


def test_met_summary_has_what_one_needs() -> None:
    text = summary(sample())
    for part in ("Every demand met", "3.05 MB", "782 kB", "1 point", "risk: 5000", "model.lessen", "head.custom"):
        assert part in text
    assert "SIMULATED" not in text and "NOT" not in text


def test_not_met_says_why_and_what_was_kept() -> None:
    text = summary(sample(met=False))
    assert "NOT met: max_latency" in text
    assert "Why: int8 with float depthwise layers" in text
    assert "Nearest point, kept: 782 kB, 1.52 ms, 0.21 points lost" in text


def test_simulated_is_flagged() -> None:
    assert summary(dataclasses.replace(sample(), simulated=True)).startswith("SIMULATED")


def test_plain_off_a_terminal_and_coloured_on_one(monkeypatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    assert "\x1b" not in summary(sample())
    assert "\x1b[" in summary(sample(), Tape(terminal=True))


def test_ascii_where_the_encoding_needs_it() -> None:
    report = dataclasses.replace(sample(met=False), risks=("größer — 漢字…",))
    text = summary(report, Tape("latin-1"))
    assert text.isascii() and "gr??er - ??~" in text


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=200), st.sampled_from(["utf-8", "cp1252"]))
def test_any_name_stays_within_80_columns_and_inert(name: str, encoding: str) -> None:
    rows = tuple(dataclasses.replace(row, name=name, technique=name, harm=1.0) for row in layers(2))
    report = dataclasses.replace(sample(rows=rows), risks=(name,))
    text = summary(report, Tape(encoding))
    assert all(cell_len(line) <= 80 for line in text.splitlines())
    assert all(char == "\n" or char.isprintable() for char in text)


def test_markup_in_a_name_is_only_text() -> None:
    rows = (dataclasses.replace(layers(1)[0], name="[red]a[/red]\x1b[31m"),)
    assert "[red]a[/red]?[31m" in summary(sample(rows=rows)).replace("\n", "")


def test_smallest_report() -> None:
    plain = dataclasses.replace(
        sample(), layers=(), curve=(), risks=(), files=(), kernels=None, budget=Verdict.of([]), ratios=Ratios(2.0),
        baseline=Measured(2000, 10, 0, Metric("accuracy", 0.5, 4)),
        result=Measured(1000, 10, 0, Metric("accuracy", 0.5, 4)),
    )  # fmt: skip
    text = summary(plain)
    assert "2.0x smaller" in text and "No demand was made" in text and "peak memory" not in text


def test_inspect_table() -> None:
    tape = Tape()
    print_inspect(
        [LayerForecast("a.weight", "conv", (32, 3, 3, 3), 864, 10_000_000, ("uniform", "kmeans")),
         LayerForecast("b.weight", "embedding", (10, 64), 640, 0, (), "no statistics")],
        [TechniqueForecast("uniform", 1000, 3.9, 1.5), TechniqueForecast("magnitude", 2000, 2.0, None, "zeros bring no "
         "speed in ONNX Runtime")],
        file=tape,
    )  # fmt: skip
    text = tape.getvalue()
    for part in ("32×3×3×3", "uniform, kmeans", "nothing: no statistics", "57.4 %", "3.9x smaller", "zeros bring no"):
        assert part in text
    assert "Forecast" in text


def test_measure_table() -> None:
    tape, report = Tape(), sample()
    print_measure([MeasuredFile("a.onnx", report.baseline), MeasuredFile("b.onnx", report.result, report.ratios)],
                  file=tape)  # fmt: skip
    text = tape.getvalue()
    assert "71.88 %" in text and "3.9x smaller, 2.8x" in text and "accuracy over 5000 samples" in text


@pytest.mark.parametrize(
    ("said", "expected"),
    [(size(0), "0 B"), (size(999), "999 B"), (size(1_000_000), "1.00 MB"), (size(None), "-"), (number(1500), "1.50 k"),
     (share(0.99999), "99.9 %"), (share(1.0), "100 %"), (ratio(1.0, "smaller", "larger"), "the same"),
     (ratio(None, "", ""), ""), (ratio(250, "smaller", "larger"), "250x smaller"), (seconds(72), "1 min 12 s"),
     (three(float("inf")), "-"), (three(0.00012), "0.00012"), (three(1234.5), "1234")],
)  # fmt: skip
def test_figures(said: str, expected: str) -> None:
    assert said == expected
