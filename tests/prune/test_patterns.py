"""Patterns: n of m with chosen neighbours, and blocks."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from lessen import NM, Blocks, LessenError
from lessen.models.layer import Layer
from lessen.prune.permute import permutation
from lessen.statistics import Statistics
from lessen.statistics.problem import problem as normalised


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def problem(rows: int, columns: int) -> tuple[Layer, Statistics]:
    mix = torch.eye(columns) + 2 * draw(columns, columns) / columns**0.5
    x = draw(3 * columns, columns, seed=1) @ mix * (0.7 * draw(columns, seed=2)).exp()
    return Layer("w", "linear", draw(rows, columns, seed=3)), Statistics((x.T @ x / len(x))[None], observations=len(x))


def held(scores: Tensor, order: Tensor, n: int, m: int) -> float:
    return float(scores[:, order].reshape(len(scores), -1, m).topk(n, 2).values.sum())


def order_of(layer: Layer, known: Statistics) -> Tensor:
    p = normalised(layer, known)
    return permutation(layer.matrix.square() * p.diagonal, 2, 4)


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (4, 8)])
def test_columns_that_sit_well_together_hold_more(n: int, m: int) -> None:
    scores = (draw(32, 64) * draw(64, seed=1).exp()).square()
    order = permutation(scores, n, m)
    assert sorted(order.tolist()) == list(range(64))
    assert held(scores, order, n, m) > 1.003 * held(scores, torch.arange(64), n, m)
    assert torch.equal(order, permutation(scores, n, m))


def test_the_best_exchange_is_found() -> None:
    """Two blocks whose large columns all lie in the first: half of them must change places."""
    scores = torch.tensor([[9.0, 8, 7, 6, 1, 1, 1, 1]]).repeat(3, 1)
    assert held(scores, permutation(scores, 2, 4), 2, 4) == 3 * 30


def test_a_search_that_finds_no_exchange_is_at_an_optimum_of_all_exchanges() -> None:
    scores = draw(5, 8).square()
    order = permutation(scores, 2, 4)
    best = held(scores, order, 2, 4)
    for i, j in itertools.product(range(4), range(4, 8)):
        other = order.clone()
        other[i], other[j] = order[j], order[i]
        assert held(scores, other, 2, 4) <= best * (1 + 1e-5)


@pytest.mark.parametrize("second_order", [True, False])
def test_a_permuted_pattern_costs_less_and_is_n_of_m_in_some_order(second_order: bool) -> None:
    layer, known = problem(24, 64)
    plain, permuted = (NM(2, 4, second_order, p).encode(layer, known) for p in (False, True))
    harms = [known.harm(c.decode() - layer.matrix) for c in (plain, permuted)]
    assert harms[1] < harms[0]
    order = order_of(layer, known)
    assert bool((permuted.mask[:, order].reshape(24, -1, 4).sum(2) == 2).all())
    assert not bool((permuted.mask.reshape(24, -1, 4).sum(2) == 2).all())  # in memory the pattern is gone


def test_permuting_keeps_each_weight_in_its_place() -> None:
    layer, known = problem(24, 64)
    coding = NM(2, 4, second_order=False, permute=True).encode(layer, known)
    assert torch.equal(coding.decode(), layer.matrix * coding.mask)


def test_columns_in_another_order_solve_the_same_problem() -> None:
    """Shuffled columns, shuffled back: with the columns in their order already the permuted form is the plain one."""
    layer, known = problem(16, 32)
    order = order_of(layer, known)
    there = Layer("w", "linear", layer.matrix[:, order])
    H = known.H[:, order][:, :, order]
    direct = NM(2, 4).encode(there, Statistics(H, observations=known.observations)).decode()
    assert torch.allclose(NM(2, 4, permute=True).encode(layer, known).decode()[:, order], direct, atol=1e-4)


@pytest.mark.parametrize(("rows", "columns"), [(1, 4), (4, 1), (2, 8), (16, 32)])
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9])
def test_blocks_go_whole(rows: int, columns: int, sparsity: float) -> None:
    layer, known = problem(32, 64)
    mask = Blocks(rows, columns, sparsity).encode(layer, known).mask
    blocks = mask.reshape(32 // rows, rows, 64 // columns, columns).transpose(1, 2).flatten(2)
    assert bool((blocks.all(2) == blocks.any(2)).all())
    count = blocks.shape[0] * blocks.shape[1]
    assert int(blocks.all(2).sum()) == max(1, count - round(sparsity * count))


def test_the_blocks_that_matter_least_go_and_the_rest_makes_up_for_them() -> None:
    layer, known = problem(32, 64)
    coding = Blocks(1, 4, 0.5).encode(layer, known)
    sums = (layer.matrix.square() * known.diagonal(64)).reshape(32, 16, 4).sum(2)
    gone = ~coding.mask.reshape(32, 16, 4).any(2)
    assert float(sums[gone].max()) <= float(sums[~gone].min())
    assert known.harm(coding.decode() - layer.matrix) < 0.8 * known.harm(layer.matrix * coding.mask - layer.matrix)


def test_blocks_that_do_not_divide_a_layer_are_refused_by_name() -> None:
    with pytest.raises(LessenError, match="w: 6 x 10 weights can't be cut into blocks of 1 x 4"):
        Blocks(1, 4).encode(Layer("w", "linear", draw(6, 10)), Statistics())


@pytest.mark.parametrize(("rows", "columns"), [(0, 4), (1, -1), (1.0, 4), (True, 4), (1, 5000), (1, 1)])
def test_blocks_that_are_none_are_refused(rows: int, columns: int) -> None:
    with pytest.raises(LessenError, match="Blocks"):
        Blocks(rows, columns)
