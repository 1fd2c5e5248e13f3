"""Which of the plans that hold is taken."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from lessen.search import settle


def trial(cost: float, bound: float) -> SimpleNamespace:
    measured = SimpleNamespace(bound=bound, solution=SimpleNamespace(harm=bound), extra=SimpleNamespace(how="trained"))
    return SimpleNamespace(cost=cost, measured=measured, bench=None)


def taken(monkeypatch, trials, limit: float = 0.5):
    monkeypatch.setattr(settle, "_found", lambda track, chosen, reason: chosen)
    track = SimpleNamespace(
        trials=trials, limit=limit, cost=lambda t: t.cost, file=lambda t: t,
        job=SimpleNamespace(data=SimpleNamespace(test=None)),
        workshop=SimpleNamespace(small_and_fast=lambda measured: True),
        judge=SimpleNamespace(drop=lambda t, part: (None, SimpleNamespace(value=t.measured.bound))),
    )  # fmt: skip
    return settle.settled(track)


@pytest.mark.parametrize(("cheaper", "kept"), [(0.98, False), (0.90, True)])
def test_a_little_size_is_not_worth_all_the_accuracy(monkeypatch, cheaper: float, kept: bool) -> None:
    exact, small = trial(1.0, 0.01), trial(cheaper, 0.49)
    assert (taken(monkeypatch, [exact, small]) is small) == kept


def test_the_cheapest_of_plans_that_lose_alike(monkeypatch) -> None:
    trials = [trial(1.0, 0.2), trial(0.99, 0.21), trial(0.5, 0.6)]  # the last does not hold
    assert taken(monkeypatch, trials) is trials[1]
    gaining = [trial(1.0, -0.3), trial(0.999, -0.1)]
    assert taken(monkeypatch, gaining) is gaining[1]  # better than the original is not worth anything


@pytest.mark.parametrize("limit", [0.0, float("inf")])
def test_no_loss_or_any_allowed(monkeypatch, limit: float) -> None:
    trials = [trial(1.0, 0.0), trial(0.99, 0.0)]
    assert taken(monkeypatch, trials, limit) is trials[1]
