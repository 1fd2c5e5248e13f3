"""`Channels` ranks units of groups; what goes is a share of the cost, rounded to what the target likes."""

from dataclasses import dataclass

import pytest
import torch

from lessen.errors import LessenError
from lessen.prune.channels import Channels
from lessen.prune.importance import magnitude, taylor


@dataclass(frozen=True)
class Fake:
    name: str
    size: int
    unit: int = 1


def test_the_least_important_go_first_and_the_share_is_kept():
    groups = [Fake("a", 10), Fake("b", 10)]
    importance = {"a": torch.arange(10.0), "b": torch.arange(10.0) + 100}
    units, harm = Channels(0.25).rank(groups, importance, {"a": 1.0, "b": 1.0})
    assert units == {"a": (0, 1, 2, 3, 4)} and harm == 10


def test_importance_counts_per_cost():
    groups = [Fake("cheap", 4), Fake("dear", 4)]
    importance = {"cheap": torch.ones(4), "dear": torch.ones(4) * 2}
    units, _ = Channels(0.3).rank(groups, importance, {"cheap": 1.0, "dear": 10.0})
    assert set(units) == {"dear"}


@pytest.mark.parametrize("multiple", [1, 4, 8])
def test_what_stays_is_a_round_number_and_never_nothing(multiple):
    groups = [Fake("a", 32)]
    for fraction in (0.1, 0.5, 0.99):
        units, _ = Channels(fraction).rank(groups, {"a": torch.rand(32)}, {"a": 1.0}, multiple)
        stay = 32 - len(units.get("a", ()))
        assert stay % multiple == 0 and stay >= 4


def test_taylor_is_the_squared_gate_gradient():
    w = torch.tensor([[1.0, 2.0], [3.0, -1.0]], requires_grad=True)
    b = torch.tensor([0.5, 1.0], requires_grad=True)
    (w.sum() * 2 + b.sum()).backward()
    index = torch.arange(2)[:, None]
    scores = taylor({"g": [(w, 0, index), (b, 0, index)]})["g"]
    assert scores.tolist() == [(2 * 3 + 0.5) ** 2, (2 * 2 + 1.0) ** 2]
    assert magnitude({"g": [(w, 0, index)]})["g"].tolist() == [5.0, 10.0]


@pytest.mark.parametrize("bad", [{"fraction": 0}, {"fraction": 1}, {"criterion": "luck"}, {"least": 0}])
def test_nonsense_is_refused(bad):
    with pytest.raises(LessenError):
        Channels(**bad)
