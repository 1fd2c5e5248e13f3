"""Names become techniques, and techniques plain values and back."""

from __future__ import annotations

import pytest

from lessen import KMeans, LessenError, Uniform
from lessen.technique import describe
from lessen.techniques import build, known, named


@pytest.mark.parametrize("name", [n for n, t in known().items() if hasattr(t, "offers")])
def test_every_offer_survives_description(name):
    for setting in known()[name].offers():
        assert build(describe(setting)) == setting


def test_names_in_any_case_types_and_instances():
    assert named("uniform, KMEANS") == (Uniform, KMeans)
    assert named((Uniform(4), "kmeans")) == (Uniform(4), KMeans)
    slow = {known()["Depth"]}  # blocks are tried one by one
    assert set(named(None)) == {t for t in known().values() if t.offers()} - slow


@pytest.mark.parametrize(
    ("word", "told"),
    [("unifrom", "did you mean 'Uniform'"), (",", "no technique is named"), ((3,), "3 is not a technique")],
)
def test_names_that_nobody_has(word, told):
    with pytest.raises(LessenError, match=told):
        named(word)


@pytest.mark.parametrize(
    "values", [{}, {"technique": "Nope"}, {"technique": "Uniform", "bitz": 3}, {"technique": "Uniform", "bits": "x"},
               {"technique": "Uniform", "bits": [4]}, {"technique": ["Uniform"]}],
)  # fmt: skip
def test_values_that_make_no_technique(values):
    with pytest.raises(LessenError, match="here"):
        build(values, "here")
