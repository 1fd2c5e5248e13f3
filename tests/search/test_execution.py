"""The same plan with more layers on integers, where the whole file is faster so."""

from __future__ import annotations

import pytest

import small
from lessen.compression import Compression
from lessen.plan import Treatment
from lessen.quantize import Uniform
from lessen.search.execution import on_integers, timed
from lessen.search.pricing import TargetPrices
from lessen.search.track import Track
from lessen.solve import Candidate, Price, Solution

PRICE = Price(1e-3, 1e3)


def candidates(name: str) -> list[Candidate]:
    return [
        Candidate(name, Treatment(), 0.0, 400, 2e-3),
        Candidate(name, Treatment(Uniform(8)), 0.1, 100, 2e-3),
        Candidate(name, Treatment(Uniform(8), 8), 0.2, 100, 3e-3),
        Candidate(name, Treatment(Uniform(4)), 0.3, 50, 2e-3),
    ]


def test_rounded_layers_go_to_integers_and_kept_ones_stay() -> None:
    items = {n: candidates(n) for n in "abc"}
    mixed = Solution.of({"a": items["a"][0], "b": items["b"][1], "c": items["c"][3]}, PRICE)
    whole = on_integers(mixed, items, PRICE)
    assert whole is not None
    assert [whole.picks[n].choice for n in "abc"] == [Treatment(), Treatment(Uniform(8), 8), Treatment(Uniform(4))]
    assert whole.nbytes == mixed.nbytes and whole.harm == pytest.approx(mixed.harm + 0.1)
    assert on_integers(whole, items, PRICE) is None


def test_a_measured_time_takes_the_place_of_the_sum() -> None:
    solution = Solution.of({"a": candidates("a")[1]}, PRICE)
    assert timed(solution, 1e-3, PRICE).cost == pytest.approx(solution.cost - 1.0)


@pytest.mark.parametrize(("whole", "taken"), [(3.0, True), (1.2, False)])
def test_the_faster_of_both_files_is_taken(monkeypatch, tmp_path, whole: float, taken: bool) -> None:
    monkeypatch.setenv("LESSEN_CACHE", str(tmp_path / "cache"))
    slow: list[str] = []

    def seconds(prices, layer, coding, integer) -> float:  # the first layer alone is slower in integers
        slow[:] = slow or [layer.name]
        return (3e-3 if layer.name in slow else 1e-3) if integer else 2e-3

    def ratio(track, trial) -> float:
        return whole if all(c.choice.activations for c in trial.measured.solution.picks.values()) else 1.5

    monkeypatch.setattr(TargetPrices, "seconds", seconds)
    monkeypatch.setattr(Track, "_ratio", ratio)
    made = Compression(small.trained(), small.data(), "5%", (Uniform(8),)).run(tmp_path / "out")
    assert all(t.activations for t in made.plan.layers.values()) is taken
    assert any(t.activations for t in made.plan.layers.values())
