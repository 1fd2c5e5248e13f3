"""The ONNX project's own node tests, all of them: what passed must go on passing."""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))

HOPELESS = ("bernoulli", "training_dropout")  # their expected values are one draw of a random generator


@pytest.mark.slow
def test_node_tests() -> None:
    from onnx_coverage import outcome

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        from onnx.backend.test.loader import load_model_tests

        results = {case.name: outcome(case) for case in load_model_tests(kind="node")}
    counts = Counter(kind for kind, _ in results.values())
    failing = {n: why for n, (kind, why) in results.items() if kind == "fail" and not any(h in n for h in HOPELESS)}
    assert counts["native"] / len(results) > 0.79, counts
    assert len(failing) <= 0.012 * len(results), failing


def test_a_sample_of_node_tests() -> None:
    from onnx_coverage import outcome

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        from onnx.backend.test.loader import load_model_tests

        cases = [c for c in load_model_tests(kind="node") if not any(h in c.name for h in HOPELESS)][::15]
        kinds = Counter(outcome(case)[0] for case in cases)
    assert kinds["native"] > 0.75 * len(cases)
    assert kinds["fail"] <= 0.02 * len(cases), kinds
