"""What was done instead of what a technique's name promises comes out in the result, layer by layer."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn

from lessen import OptimalBrain, Snip, Uniform
from lessen.account import _row
from lessen.bench import Bench, realize
from lessen.models.layer import Layer
from lessen.models.trace import Trace
from lessen.plan import Treatment
from lessen.propose import settings_of
from lessen.prune import Fisher, Magnitude
from lessen.statistics import Statistics
from lessen.statistics.fallback import fall_back, fall_backs
from lessen.techniques import named

TOLD = "no second moment of its input: ranked by |w| sqrt(E[x^2]) (Wanda), survivors not updated"


def bench() -> Bench:
    net = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 2)).requires_grad_(False)
    layers = tuple(Layer(f"{i}.weight", "linear", net[i].weight) for i in (0, 1))
    known = Statistics(torch.eye(4)[None], observations=100)
    return Bench(net, Trace(layers, (), 1.0, None), {"1.weight": known})


def test_a_result_says_where_something_simpler_was_done() -> None:
    done = realize(bench(), {"0.weight": Treatment(OptimalBrain(0.5)), "1.weight": Treatment(OptimalBrain(0.5))})
    assert done.why == {"0.weight": TOLD}


def test_it_is_remembered_with_the_coding() -> None:
    here = bench()
    for _ in range(2):
        here.coding(here.layers["0.weight"], OptimalBrain(0.5))
        assert here.fallen_back(here.layers["0.weight"], OptimalBrain(0.5)) == TOLD
    assert here.fallen_back(here.layers["0.weight"], Magnitude(0.5)) == ""


def test_the_report_s_row_of_the_layer_tells_it() -> None:
    class Target:
        def nbytes(self, layer, coding) -> int:
            return 1

    here = bench()

    class Anything:
        bench, target, predicted, why = here, Target(), {}, {}

    done = realize(here, {"0.weight": Treatment(OptimalBrain(0.5)), "1.weight": Treatment(Uniform(8))})
    rows = [_row(Anything, Anything, layer, done) for layer in done.layers.values()]
    assert [r.why for r in rows] == [f"stored small, computed in float; {TOLD}", "stored small, computed in float"]


def test_only_the_innermost_listener_hears_and_the_log_always(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "lessen"), fall_backs() as outer:
        with fall_backs() as inner:
            fall_back("a", "one")
            fall_back("a", "one")
        fall_back("b", "two")
    fall_back("c", "three")
    assert (inner, outer) == (["one"], ["two"])
    assert [r.getMessage() for r in caplog.records][:3] == ["a: one", "a: one", "b: two"]


def test_what_offers_nothing_is_tried_when_it_is_named_and_only_then() -> None:
    assert settings_of(named("snip, magnitude"))[0] == Snip()
    assert Snip not in named(None)
    assert Fisher(0.9) in settings_of((Fisher(0.9),))
