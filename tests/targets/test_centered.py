"""Zero in the middle of single ranges, where not all of them can have it."""

import numpy as np
import onnx_ir as ir
import pytest

from lessen.targets import onnx_file, trial
from lessen.targets.coded import Coded
from lessen.targets.placement import Placement, Rules
from lessen.targets.ranges import MIDDLE, Range

FOUND = {
    "both": Range(-3.9, 4.0),
    "most": Range(-3.5, 4.0),
    "apart": Range(-2.5, 4.0),
    "behind": Range(-0.3, 4.0),
    "positive": Range(0.0, 4.0),
}


GRAPH = ir.Model(ir.Graph([], [], nodes=[]), ir_version=9)


def centered(monkeypatch, found, told) -> dict[str, Range]:
    """The ranges that come out when the outputs tell, ten times further off, once one of `told` is centered."""

    def disturbance(model, coded, ranges, *_):
        return 0.01 * (10 if any(ranges[n] != found[n] for n in told) else 1)

    monkeypatch.setattr(trial, "disturbance", disturbance)
    return onnx_file._centered(GRAPH, Coded((), {}), [], Rules(), found)


@pytest.mark.parametrize("told", [(), ("apart",), ("apart", "most")], ids=str)
def test_only_what_is_nearly_centered_already_is_where_the_outputs_tell(monkeypatch, told):
    made = centered(monkeypatch, FOUND, told)
    assert made["positive"] == FOUND["positive"]
    assert made["both"].zero_point == MIDDLE and made["both"].high >= 4.0
    assert all((made[n].zero_point == MIDDLE) == (not told) for n in ("behind", "apart"))
    assert (made["most"].zero_point == MIDDLE) == ("most" not in told)
    for name, r in made.items():
        assert r.low <= FOUND[name].low and r.high >= FOUND[name].high
        if told:
            assert 20 * np.log10(r.scale / FOUND[name].scale) <= 1.01  # dB


def test_many_that_are_nearly_centered_are_tried_together(monkeypatch):
    """So that a network of hundreds of them takes no hundreds of trials."""
    found = {f"t{i}": Range(-3.9 + i / 100, 4.0) for i in range(20)} | {"apart": FOUND["apart"]}
    assert centered(monkeypatch, found, ["apart", "t3"]) == found
    made = centered(monkeypatch, found, ["apart"])
    assert [n for n, r in made.items() if r.zero_point == MIDDLE] == [n for n in found if n != "apart"]


@pytest.mark.parametrize(
    ("told", "left"),
    [
        ((), ()),
        (("of one",), ("of one",)),
        (("of one", "apart"), ("of one", "apart")),
        (("behind",), ("of one", "behind")),
    ],
    ids=["nothing", "1x1", "linear", "3x3"],
)
def test_what_pays_for_an_offset_is_centered_where_all_can_not_be(monkeypatch, told, left):
    weights = {n: ir.Value(name=f"w{n}", shape=ir.Shape([1, 1, n, n])) for n in (1, 3)}
    found = FOUND | {"of one": Range(-0.4, 4.0)}
    read = {"apart": ("MatMul", 1), "behind": ("Conv", 3), "both": ("Conv", 1), "of one": ("Conv", 1)}
    placement = Placement()
    for name, (op, size) in read.items():
        value = ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT))
        placement.add(value, [(ir.node(op, [value, weights[size]]), 0)])
    monkeypatch.setattr(onnx_file, "activations", lambda *_: placement)
    made = centered(monkeypatch, found, told)
    assert {n for n, r in made.items() if r.zero_point != MIDDLE} == {*left, "positive"}
