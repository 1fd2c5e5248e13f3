"""`SVD` against the theorem of Eckart and Young."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lessen.errors import LessenError
from lessen.factorize import SVD
from lessen.models.layer import Layer
from lessen.statistics import Statistics


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(24, 40), (40, 24)])
def test_without_statistics_it_is_the_truncated_decomposition(shape: tuple[int, int]) -> None:
    layer = Layer("w", "linear", draw(*shape))
    coding = SVD(0.5).encode(layer, Statistics())
    values = torch.linalg.svdvals(layer.matrix)
    assert coding.rank == round(0.5 * 24 * 40 / 64)
    error = (coding.decode() - layer.matrix).square().sum()
    assert float(error) == pytest.approx(float(values[coding.rank :].square().sum()), rel=1e-3)


@pytest.mark.parametrize("shape", [(24, 40), (40, 24)])
def test_with_statistics_no_product_of_this_rank_does_less_harm(shape: tuple[int, int]) -> None:
    """Harm is 1/2 of the discarded squared singular values of sqrt(G) W S, H = S ST."""
    rows, columns = shape
    x = draw(200, columns, seed=1) @ draw(columns, columns, seed=2)
    H, G = x.T @ x / 200, 0.5 + draw(rows, seed=3).square()
    layer, known = Layer("w", "linear", draw(rows, columns)), Statistics(H=H[None], G=G, observations=10**9)
    coding = SVD(0.5).encode(layer, known)
    S = torch.linalg.cholesky(H.double())
    values = torch.linalg.svdvals(G.double().sqrt()[:, None] * (layer.matrix.double() @ S))
    best = 0.5 * float(values[coding.rank :].square().sum())
    ours = known.harm(coding.decode() - layer.matrix)
    assert best * 0.999 <= ours <= 1.02 * best
    assert ours < 0.9 * known.harm(SVD(0.5, weighted=False).encode(layer, known).decode() - layer.matrix)


def test_energy_picks_the_least_rank_that_holds_it() -> None:
    w = draw(32, 4) @ draw(4, 32, seed=1) + 0.01 * draw(32, 32, seed=2)
    assert SVD(energy=0.99).encode(Layer("w", "linear", w), Statistics()).rank <= 4


@pytest.mark.parametrize("rank", [0.05, 0.5, 0.99])
def test_two_layers_are_always_smaller_than_one(rank: float) -> None:
    coding = SVD(rank).encode(Layer("w", "linear", draw(30, 50)), Statistics())
    assert coding.rank * (30 + 50) < 30 * 50


def test_a_convolution_is_cut_between_its_kernel_and_its_outputs() -> None:
    layer = Layer("w", "conv", draw(16, 8, 3, 3))
    coding = SVD(0.5).encode(layer, Statistics())
    assert coding.left.shape == (16, coding.rank)
    assert coding.right.shape == (coding.rank, 72)


def test_where_no_rank_saves_anything_it_says_so() -> None:
    with pytest.raises(LessenError, match=r"w: rank 0 of 1 x 16 saves nothing"):
        SVD().encode(Layer("w", "linear", draw(1, 16)), Statistics())
    with pytest.raises(LessenError, match="saves nothing"):
        SVD(energy=0.999).encode(Layer("w", "linear", draw(16, 16)), Statistics())
    with pytest.raises(LessenError, match="grouped"):
        SVD().encode(Layer("w", "conv", draw(8, 1, 3, 3), groups=8), Statistics())
