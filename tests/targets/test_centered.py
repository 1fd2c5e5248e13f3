"""Zero in the middle of single ranges, where not all of them can have it."""

import numpy as np
import onnx_ir as ir
import pytest

from lessen.targets import onnx_file, trial
from lessen.targets.coded import Coded
from lessen.targets.ranges import MIDDLE, Range

FOUND = {
    "both": Range(-3.9, 4.0),
    "most": Range(-3.5, 4.0),
    "apart": Range(-2.5, 4.0),
    "behind": Range(-0.3, 4.0),
    "positive": Range(0.0, 4.0),
}


@pytest.mark.parametrize("harm", [1.0, 100.0])
def test_only_what_is_nearly_centered_already_is_where_the_outputs_tell(monkeypatch, harm):
    """`harm`: how many times further off the outputs are with every range centered."""
    centered = {name: r.centered for name, r in FOUND.items()}
    monkeypatch.setattr(trial, "disturbance", lambda m, c, found, *_: 0.01 * (harm if found == centered else 1.0))
    made = onnx_file._centered(ir.Model(ir.Graph([], [], nodes=[]), ir_version=9), Coded((), {}), [], None, FOUND)
    assert made["positive"] == FOUND["positive"]
    assert made["both"].zero_point == MIDDLE and made["both"].high >= 4.0
    assert all((made[n].zero_point == MIDDLE) == (harm == 1.0) for n in ("behind", "apart"))
    assert made["most"].zero_point == MIDDLE
    for name, r in made.items():
        assert r.low <= FOUND[name].low and r.high >= FOUND[name].high
        if harm > 1:
            assert 20 * np.log10(r.scale / FOUND[name].scale) <= 1.01  # dB
