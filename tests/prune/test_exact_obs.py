"""Optimal Brain Surgeon, one weight at a time: against plain linear algebra, its limit, and its fall-backs."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from lessen import ExactOBS, LessenError, OptimalBrain, Wanda
from lessen.models.layer import Layer
from lessen.statistics import Statistics
from lessen.statistics.brain_surgeon import best_values, removals
from lessen.statistics.fallback import fall_backs


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def moment(columns: int, samples: int = 0) -> Tensor:
    x = draw(samples or 4 * columns, columns, seed=1) @ (torch.eye(columns) + draw(columns, columns, seed=2) * 0.4)
    return (x.T @ x / len(x)).double()


def cost(w: Tensor, q: Tensor, H: Tensor) -> float:
    return float((w - q).double() @ H @ (w - q).double())


def test_each_step_removes_the_weight_whose_loss_the_others_make_up_for_best() -> None:
    """Hassibi & Stork 1992 by hand: the inverse of what is left is taken anew after every step."""
    w, H = draw(7, seed=3).double(), moment(7)
    order, costs = removals(w[None], H)
    left, now = list(range(7)), w.clone()
    for n in range(7):
        inverse = torch.linalg.inv(H[left][:, left])
        loss = now[left].square() / inverse.diagonal()
        i = int(loss.argmin())
        assert int(order[0, n]) == left[i]
        assert float(costs[0, n]) == pytest.approx(float(loss[i]), rel=1e-6)
        now[left] -= now[left[i]] / inverse[i, i] * inverse[:, i]
        now[left[i]] = 0
        left.pop(i)


def test_costs_add_up_to_the_error_of_the_best_values() -> None:
    W, H = draw(5, 9, seed=4).double(), moment(9)
    order, costs = removals(W, H)
    keep = torch.ones(5, 9, dtype=torch.bool).scatter_(1, order[:, :4], False)
    Q = best_values(W, H, keep)
    for r in range(5):
        assert cost(W[r], Q[r], H) == pytest.approx(float(costs[r, :4].sum()), rel=1e-6)


def test_no_values_at_the_survivors_are_better() -> None:
    W, H, keep = draw(3, 6, seed=5), moment(6), draw(3, 6, seed=6) > 0
    Q = best_values(W, H, keep)
    assert bool((Q[~keep] == 0).all())
    slope = ((W - Q).double() @ H)[keep]
    assert float(slope.abs().max()) < 1e-5


def test_it_finds_nearly_the_best_of_all_masks() -> None:
    w, H = draw(10, seed=7), moment(10)
    layer = Layer("w", "linear", w[None])
    found = ExactOBS(0.5).encode(layer, Statistics(H.float()[None], observations=10**9)).decode()
    every = [torch.tensor([i in c for i in range(10)]) for c in itertools.combinations(range(10), 5)]
    costs = sorted(cost(w, best_values(w[None], H, k[None])[0], H) for k in every)
    assert cost(w, found[0], H) <= costs[12]  # of 252


@pytest.mark.parametrize("sparsity", [0.3, 0.5, 0.8])
def test_it_does_less_harm_than_one_pass_over_the_columns(sparsity: float) -> None:
    layer, known = Layer("w", "linear", draw(16, 64, seed=8)), Statistics(moment(64).float()[None], observations=256)
    harms = [known.harm(t(sparsity).encode(layer, known).decode() - layer.matrix) for t in (ExactOBS, OptimalBrain)]
    assert harms[0] < harms[1]


def test_outputs_that_matter_keep_more_weights() -> None:
    known = Statistics(moment(24).float()[None], G=torch.tensor([1.0] * 4 + [100.0] * 4), observations=96)
    mask = ExactOBS(0.5).encode(Layer("w", "linear", draw(8, 24, seed=9)), known).mask
    assert int(mask[4:].sum()) > 1.5 * int(mask[:4].sum())
    assert int(mask.sum()) == 96


def test_the_groups_of_a_convolution_have_each_their_own_second_moment() -> None:
    layer = Layer("w", "conv", draw(6, 2, 2, 2, seed=10), 0, 3)
    H = torch.stack([moment(8), 3 * moment(8, 30), moment(8, 50)]).float()
    whole = ExactOBS(0.5).encode(layer, Statistics(H, observations=10**9))
    assert whole.mask.sum() == 24
    dampened = H / H.diagonal(dim1=1, dim2=2).mean() + 1e-3 * torch.eye(8)
    parts = zip(layer.matrix.chunk(3), dampened, whole.mask.chunk(3), strict=True)
    again = [best_values(w, h, keep) for w, h, keep in parts]
    assert torch.allclose(whole.decode(), torch.cat(again), atol=1e-5)


def test_a_large_layer_is_refused_with_the_limit() -> None:
    layer = Layer("big.weight", "linear", torch.zeros(1000, 1000))
    with pytest.raises(LessenError, match=r"big\.weight: 1000 x 1000 weights would take 1e\+12 steps, over 4e\+09"):
        ExactOBS(0.5).encode(layer, Statistics())


@pytest.mark.parametrize("technique", [ExactOBS(0.5), OptimalBrain(0.5)])
def test_a_singular_second_moment_is_dampened_and_that_is_told(technique: object) -> None:
    layer, H = Layer("w", "linear", draw(12, 64, seed=11)), moment(64, 20)
    known = Statistics(H.float()[None], observations=20)
    with fall_backs() as told:
        decoded = technique.encode(layer, known).decode()
    assert "the second moment of its 64 inputs is singular (20 observations): dampened by 0.2 of its mean" in told
    fresh = Statistics(moment(64).float()[None])
    sure = technique.encode(layer, Statistics(known.H, observations=10**9)).decode()  # as if that were no matter
    assert fresh.harm(decoded - layer.matrix) < fresh.harm(sure - layer.matrix)  # on inputs that it never saw


@pytest.mark.parametrize("technique", [ExactOBS(0.5), OptimalBrain(0.5)])
def test_without_a_second_moment_it_is_wanda_s_criterion_and_that_is_told(technique: object) -> None:
    layer, diagonal = Layer("w", "linear", draw(12, 64, seed=12)), draw(1, 64, seed=13).square()
    with fall_backs() as told:
        coding = technique.encode(layer, Statistics(diagonal))
    assert told == ["no second moment of its input: ranked by |w| sqrt(E[x^2]) (Wanda), survivors not updated"]
    assert bool((coding.decode()[coding.mask] == layer.matrix[coding.mask]).all())
    if isinstance(technique, ExactOBS):
        assert torch.equal(coding.mask, Wanda(0.5, "layer").encode(layer, Statistics(diagonal)).mask)


def test_dead_inputs_are_no_trouble() -> None:
    H = moment(16)
    H[3], H[:, 3] = 0, 0
    decoded = ExactOBS(0.75).encode(Layer("w", "linear", draw(8, 16, seed=14)), Statistics(H.float()[None])).decode()
    assert bool((decoded[:, 3] == 0).all())
