"""`Channels` ranks units of groups; what goes is a share of the cost, rounded to what the target likes."""

from dataclasses import dataclass

import pytest
import torch

from lessen.errors import LessenError
from lessen.prune.channels import Channels
from lessen.prune.importance import batchnorm_scale, fisher, geometric_median, magnitude, taylor, wanda


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


def test_the_techniques_own_multiple_goes_before_the_targets():
    units, _ = Channels(0.3, multiple=8).rank([Fake("a", 32)], {"a": torch.rand(32)}, {"a": 1.0}, 4)
    assert (32 - len(units["a"])) % 8 == 0


def test_an_importance_that_is_no_number_names_the_group():
    importance = {"a": torch.tensor([0.0, float("nan")])}
    with pytest.raises(LessenError, match="not a number") as error:
        Channels(0.5).rank([Fake("a", 2)], importance, {"a": 1.0})
    assert error.value.where == "a" and "NaN" in error.value.mend


def test_fisher_sums_squares_where_taylor_squares_the_sum():
    w = torch.tensor([[1.0, -1.0], [2.0, 0.0]], requires_grad=True)
    w.sum().backward()
    owned = {"g": [(w, 0, torch.arange(2)[:, None])]}
    assert taylor(owned)["g"].tolist() == [0.0, 4.0] and fisher(owned)["g"].tolist() == [2.0, 4.0]


def test_the_geometric_median_is_the_unit_that_others_replace():
    w = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [5.0, 5.0]])
    scores = geometric_median({"g": [(w, 0, torch.arange(4)[:, None])]})["g"]
    assert scores.argmin() in (0, 1, 2) and scores.argmax() == 3
    assert float(scores[0]) == pytest.approx(2 + 50**0.5)


def test_batch_norm_scales_and_wanda_by_hand():
    gamma, w = torch.tensor([-2.0, 0.5]), torch.tensor([[1.0, -1.0], [0.0, 3.0]])
    rows = torch.arange(2)[:, None]
    assert batchnorm_scale({"g": [(gamma, 0, rows)]})["g"].tolist() == [2.0, 0.5]
    norms = {id(w): torch.tensor([[2.0, 10.0], [2.0, 10.0]])}
    assert wanda({"g": [(w, 1, rows)]}, norms)["g"].tolist() == [2.0, 40.0]
    assert wanda({"g": [(gamma, 0, rows)]}, norms) == {}


def test_a_group_too_narrow_for_the_multiple_shrinks_by_half_of_it():
    units, _ = Channels(0.5).rank([Fake("a", 16)], {"a": torch.rand(16)}, {"a": 1.0}, 16)
    assert len(units["a"]) == 8
