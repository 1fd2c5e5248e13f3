"""A file that integers make slower is not what was asked for: then layers compute in float."""

from __future__ import annotations

import pytest

import small
from lessen.compression import Compression
from lessen.quantize import Uniform
from lessen.search.pricing import TargetPrices
from lessen.search.track import Track


@pytest.fixture(autouse=True)
def a_table_that_likes_integers(monkeypatch, tmp_path):
    monkeypatch.setenv("LESSEN_CACHE", str(tmp_path))
    monkeypatch.setattr(TargetPrices, "seconds", lambda prices, layer, coding, integer: 1e-3 if integer else 2e-3)


@pytest.mark.parametrize(("speed", "integers"), [(0.5, False), (2.0, True)])
def test_integers_are_used_only_where_the_measured_file_is_faster(monkeypatch, tmp_path, speed, integers):
    monkeypatch.setattr(Track, "_speed", lambda track, path: speed)
    made = Compression(small.trained(), small.data(), "5%", (Uniform(8),)).run(tmp_path / "out")
    assert any(t.activations for t in made.plan.layers.values()) is integers
    assert any("slower than float" in risk for risk in made.report.risks) is not integers
    assert made.report.ratios.size > 2  # the weights are stored in 8 bits either way


def test_the_figure_is_measured_once_on_a_machine(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(Track, "_speed", lambda track, path: asked.append(path) or 2.0)
    net, data = small.trained(), small.data()
    first, second = (Compression(net, data, "5%", (Uniform(8),)).run(tmp_path / name) for name in ("a", "b"))
    assert len(asked) == 1
    assert first.plan.sha256() == second.plan.sha256()
