"""Errors carry the input, the place and the mend."""

from __future__ import annotations

import pytest

from lessen.errors import BudgetNotMet, LessenError, did_you_mean, extra


def test_message_has_place_fault_and_mend() -> None:
    error = LessenError("bits=9", where="conv1.weight", mend="give 2 to 8")
    assert str(error) == "conv1.weight: bits=9\n  mend: give 2 to 8"
    assert (error.what, error.where, error.mend) == ("bits=9", "conv1.weight", "give 2 to 8")


def test_message_without_place_and_mend() -> None:
    assert str(LessenError("no data")) == "no data"


def test_exit_codes() -> None:
    assert LessenError("x").exit_code == 2
    assert BudgetNotMet("x").exit_code == 3
    assert isinstance(BudgetNotMet("x"), LessenError)
    assert isinstance(LessenError("x"), ValueError)  # callers may catch the standard type


def test_extra_gives_the_module() -> None:
    assert extra("json", "all").dumps([1]) == "[1]"


def test_extra_names_what_to_install() -> None:
    with pytest.raises(LessenError, match=r"(?s)no_such_module.*pip install 'lessen\[openvino\]'"):
        extra("no_such_module", "openvino")


@pytest.mark.parametrize(
    ("word", "options", "text"),
    [
        ("Unifrom", ["Uniform", "KMeans"], "did you mean 'Uniform'? known: KMeans, Uniform"),
        ("kmeans", ["Uniform", "KMeans"], "did you mean 'KMeans'? known: KMeans, Uniform"),
        ("xyz", ["Uniform", "KMeans"], "known: KMeans, Uniform"),
        ("openvin", iter(["onnxruntime", "openvino"]), "did you mean 'openvino'? known: onnxruntime, openvino"),
    ],
)
def test_did_you_mean(word: str, options, text: str) -> None:
    assert did_you_mean(word, options) == text
