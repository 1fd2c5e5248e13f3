"""report.html: well-formed, self-contained, escaped, small."""

import dataclasses
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lessen.report import Metric, Point, Report, Verdict, render_html, write_html
from report.samples import layers, sample

VOID = {"meta", "br", "hr", "img", "link", "input"}


class Tags(HTMLParser):
    """Checks that tags are balanced; collects them with their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def inert(page: str) -> None:
    for tag, attributes in Tags(page).seen:
        assert tag not in {"script", "img", "link", "iframe", "a", "object", "embed", "base", "form"}
        assert not {name for name in attributes if name.startswith("on") or name in {"src", "href", "xlink:href"}}


@pytest.mark.parametrize("met", [True, False])
def test_page_is_balanced_and_reaches_nowhere(met: bool) -> None:
    page = render_html(sample(met))
    inert(page)
    assert not re.search(r"https?:|//[a-z]|@import|url\(", page.split("</style>")[0] + page.split("</style>")[1])
    assert ("NOT met" in page) is not met


def test_pictures_are_well_formed_and_described() -> None:
    pictures = re.findall(r"<svg.*?</svg>", render_html(sample()), re.S)
    described = [p for p in map(ElementTree.fromstring, pictures) if p.get("aria-hidden") is None]
    assert len(described) == 6  # curve, predicted, bytes, bits, sparsity, harm
    for picture in described:
        assert picture.find("title") is not None and picture.find("desc") is not None
    ids = re.findall(r'id="([^"]+)"', "".join(pictures))
    assert len(ids) == len(set(ids))


def test_hostile_names_are_text() -> None:
    evil = "</title></svg><script>alert(1)</script>\"' onload=x {{ 7*7 }}"
    rows = tuple(dataclasses.replace(row, name=evil, technique=evil, why=evil, kind=evil) for row in layers(3))
    report = dataclasses.replace(
        sample(rows=rows), model=evil, risks=(evil,), command=evil, machine={evil: evil}, versions={evil: evil},
        seconds={evil: 1.0}, curve=(Point(10, 0.1, who=evil), Point(20, 0.1, measured_drop=0.2, who=evil, chosen=True),
                                    Point(30, 0.1, measured_drop=0.1)),
    )  # fmt: skip
    page = render_html(report)
    inert(page)
    assert "<script" not in page and "&lt;script&gt;" in page
    assert "{{ 7*7 }}" in page


@settings(max_examples=25, deadline=None)
@given(st.text(max_size=60), st.text(max_size=60))
def test_any_text_leaves_the_page_whole(name: str, other: str) -> None:
    rows = tuple(dataclasses.replace(row, name=name, why=other, done=False) for row in layers(1))
    report = dataclasses.replace(sample(rows=rows), model=other, curve=(Point(10, 0.1, who=name),))
    page = render_html(report)
    inert(page)
    page.encode()


plans = st.builds(Point, st.integers(0, 2**40), st.floats(), st.none(), st.none() | st.floats(), st.none(),
                  st.booleans(), st.sampled_from(["joint", "a", "b", "c", "d", "e", "f", "g", "h"]))  # fmt: skip


@settings(max_examples=30, deadline=None)
@given(st.lists(plans, max_size=12))
def test_any_curve_can_be_drawn(points: list[Point]) -> None:
    page = render_html(dataclasses.replace(sample(rows=layers(1)), curve=tuple(points)))
    for picture in re.findall(r"<svg.*?</svg>", page, re.S):
        ElementTree.fromstring(picture)
        assert not re.search(r'"-?(nan|inf)|[ ,](nan|inf)', picture)


def test_the_limit_is_drawn_where_the_axis_says() -> None:
    """A limit of 1 point is a drop of 0.01: the line must lie on the tick named 1."""
    page = render_html(sample())
    limit = re.search(r'<line class="level limit"[^>]* y1="([\d.]+)"', page)
    tick = re.search(r'<line class="grid"[^>]* y1="([\d.]+)"[^>]*/><text[^>]*>1</text>', page)
    assert limit and tick and limit[1] == tick[1]


def test_two_hundred_layers_stay_small() -> None:
    report = sample(rows=layers(66))
    assert len(report.layers) >= 199 and len(render_html(report).encode()) < 300_000


def test_every_layer_and_every_skipped_reason_is_there() -> None:
    report = sample()
    page = render_html(report)
    assert all(page.count(row.name) >= 2 for row in report.layers)
    assert "fragile: int8 costs 0.3 points here" in page and "head.custom could not be traced" in page


def test_smallest_report_and_simulated(tmp_path) -> None:
    report: Report = dataclasses.replace(
        sample(), layers=(), curve=(), risks=(), files=(), seconds={}, kernels=None, budget=Verdict.of([]),
        simulated=True, command="",
    )  # fmt: skip
    result = dataclasses.replace(report.result, metric=Metric("mse", 0.1, 3, False, False), latency_ms=None)
    write_html(dataclasses.replace(report, result=result), tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text("utf-8")
    inert(page)
    assert "SIMULATED" in page and "The layers" not in page and "undefined" not in page
    assert render_html(report) == render_html(report)
