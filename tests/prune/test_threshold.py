"""Thresholds: what they remove, what they say beforehand, and that they empty nothing."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lessen import LessenError, Threshold
from lessen.models.layer import Layer
from lessen.statistics import Statistics

WEIGHT = torch.randn(20, 30, generator=torch.Generator().manual_seed(0)) * 0.1
LAYER = Layer("w", "linear", WEIGHT)


@pytest.mark.parametrize(
    ("technique", "edge"),
    [
        (Threshold(0.05, of="absolute"), 0.05),
        (Threshold(0.2), 0.2 * WEIGHT.abs().max().item()),
        (Threshold(0.7, of="std"), 0.7 * WEIGHT.double().std(correction=0).item()),
    ],
)
def test_what_is_smaller_goes_and_the_share_was_said_beforehand(technique: Threshold, edge: float) -> None:
    coding = technique.encode(LAYER, Statistics())
    assert torch.equal(coding.mask, WEIGHT.abs().double() >= edge)
    assert torch.equal(coding.decode(), WEIGHT * coding.mask)
    assert technique.forecast(LAYER) == pytest.approx(float((coding.decode() == 0).double().mean()))
    assert 0 < technique.forecast(LAYER) < 1


@pytest.mark.parametrize("of", ["absolute", "std"])
def test_a_threshold_that_empties_a_layer_is_refused_with_the_largest_that_does_not(of: str) -> None:
    with pytest.raises(LessenError, match=r"w: a threshold of 100\.0 .* removes all of its 600 weights") as caught:
        Threshold(100.0, of).forecast(LAYER)
    most = float(caught.value.mend.split()[2])
    assert int(Threshold(most, of).encode(LAYER, Statistics()).mask.sum()) == 1
    with pytest.raises(LessenError, match="removes all"):
        Threshold(most * (1 + 1e-7), of).encode(LAYER, Statistics())


@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=12), st.sampled_from(["absolute", "std"]))
def test_the_largest_threshold_always_leaves_one(values: list[float], of: str) -> None:
    layer = Layer("w", "linear", torch.tensor([values]))
    try:
        Threshold(1e6, of).forecast(layer)
    except LessenError as error:
        if any(values):
            assert Threshold(float(error.mend.split()[2]), of).forecast(layer) < 1
        else:
            assert "all are zero" in error.mend


def test_a_layer_without_spread_is_left_whole_by_its_spread() -> None:
    constant = Layer("w", "linear", torch.full((4, 4), 0.3))
    assert Threshold(2.0, "std").forecast(constant) == 0


def test_what_a_mask_removed_stays_removed_and_counts() -> None:
    mask = torch.arange(600).reshape(20, 30) % 2 == 0
    masked = LAYER.with_matrix(WEIGHT * mask, mask)
    coding = Threshold(0.01, "absolute").encode(masked, Statistics())
    assert not bool(coding.mask[~mask].any())
    assert Threshold(0.01, "absolute").forecast(masked) == float((~coding.mask).double().mean())


@pytest.mark.parametrize(
    ("threshold", "of"),
    [
        (1.0, "largest"),
        (0.0, "std"),
        (-1, "absolute"),
        (float("inf"), "std"),
        (float("nan"), "absolute"),
        (True, "std"),
    ],
)
def test_thresholds_that_make_no_sense_are_refused(threshold: float, of: str) -> None:
    with pytest.raises(LessenError, match="Threshold: threshold="):
        Threshold(threshold, of)


def test_a_unit_that_nobody_knows_is_refused() -> None:
    with pytest.raises(LessenError, match="did you mean 'std'"):
        Threshold(0.5, of="stdd")
