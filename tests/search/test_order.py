"""Which form of a network is looked at first."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest

from lessen import KMeans, Uniform
from lessen.report import Progress
from lessen.search import order

EIGHT = (Uniform(8),)


class Form:
    """An exporter whose outputs suffer this much."""

    def __init__(self, suffers: float) -> None:
        self.suffers, self.asked = suffers, 0

    def disturbance(self, how: str) -> float:
        self.asked += 1
        return self.suffers


def forms(monkeypatch, plain: float, smooth: float | None, using=EIGHT, linear: int = 90):
    layers = (SimpleNamespace(kind="linear", macs=linear), SimpleNamespace(kind="conv", macs=100 - linear))
    bench = SimpleNamespace(traced=SimpleNamespace(layers=layers))
    first, second = Form(plain), Form(smooth or 0.0)
    monkeypatch.setattr(order, "smoothed_bench", lambda b, e: None if smooth is None else ("smoothed", second))
    found = order.forms(SimpleNamespace(using=using), bench, first, Progress(io.StringIO(), quiet=True))
    return found, first, second


@pytest.mark.parametrize(("smooth", "names"), [(0.1, ["smoothed", "plain"]), (0.3, ["plain", "smoothed"])])
def test_the_calmer_form_comes_first(monkeypatch, smooth: float, names: list[str]) -> None:
    found, *_ = forms(monkeypatch, 0.2, smooth)
    assert ["smoothed" if b == "smoothed" else "plain" for b, _ in found] == names


def test_what_hardly_suffers_is_not_slowed_down_by_scaling(monkeypatch) -> None:
    found, *_ = forms(monkeypatch, 5e-4, 1e-4)
    assert next(found)[0] != "smoothed"


def test_nothing_to_smooth_is_one_form_and_no_trial(monkeypatch) -> None:
    found, plain, _ = forms(monkeypatch, 0.2, None)
    assert len(list(found)) == 1 and plain.asked == 0


@pytest.mark.parametrize("changes", [{"linear": 10}, {"using": (KMeans(16),)}])
def test_where_smoothing_hardly_matters_nothing_is_tried_before_the_plain_form(monkeypatch, changes) -> None:
    found, plain, second = forms(monkeypatch, 0.2, 0.1, **changes)
    assert next(found)[0] != "smoothed"
    assert plain.asked == second.asked == 0
    assert next(found)[0] == "smoothed"
