"""Pruning of single weights: counts, patterns, and the second order against SparseGPT."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lessen.errors import LessenError
from lessen.models.layer import Layer
from lessen.prune import NM, Magnitude, OptimalBrain, Wanda
from lessen.statistics import Statistics


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def problem(rows: int, columns: int) -> tuple[Layer, Statistics, Tensor]:
    mix = torch.eye(columns) + 2 * draw(columns, columns) / columns**0.5
    x = draw(3 * columns, columns, seed=1) @ mix * (0.7 * draw(columns, seed=2)).exp()
    H = x.T @ x / len(x)
    return Layer("w", "linear", draw(rows, columns, seed=3)), Statistics(H=H[None], observations=len(x)), H


def sparsegpt(W: Tensor, H: Tensor, sparsity: float, pattern: tuple[int, int] | None = None) -> Tensor:
    """The published algorithm (Frantar & Alistarh 2023, algorithm 1; blocks of 128, 1 % dampening) in float64."""
    W, H = W.double().clone(), H.double().clone()
    H.diagonal().add_(0.01 * H.diagonal().mean())
    U = torch.linalg.cholesky(torch.linalg.inv(H), upper=True)
    gone = torch.zeros_like(W, dtype=torch.bool)
    for j in range(W.shape[1]):
        width = pattern[1] if pattern else 128
        if j % width == 0:
            scores = W[:, j : j + width].square() / U.diagonal()[j : j + width].square()
            if pattern:
                worst = scores.topk(pattern[1] - pattern[0], 1, largest=False).indices
                gone.scatter_(1, j + worst, True)
            else:
                gone[:, j : j + width] = scores <= scores.flatten().sort().values[int(scores.numel() * sparsity)]
        e = torch.where(gone[:, j], W[:, j], torch.zeros_like(W[:, j])) / U[j, j]
        W[:, j + 1 :] -= e[:, None] * U[j, j + 1 :]
        W[:, j] = torch.where(gone[:, j], torch.zeros_like(W[:, j]), W[:, j])
    return W


def harm(technique: object, layer: Layer, known: Statistics) -> float:
    return known.harm(technique.encode(layer, known).decode() - layer.matrix)


@pytest.mark.parametrize("sparsity", [0.3, 0.5, 0.8])
def test_the_layer_s_error_is_at_most_that_of_sparsegpt_and_below_wanda_below_magnitude(sparsity: float) -> None:
    layer, known, H = problem(48, 256)
    theirs = known.harm((sparsegpt(layer.matrix, H, sparsity) - layer.matrix).float())
    second, wanda, magnitude = (harm(t(sparsity), layer, known) for t in (OptimalBrain, Wanda, Magnitude))
    assert second <= theirs
    assert second < wanda < magnitude


def test_two_of_four_is_at_most_sparsegpt_s_error() -> None:
    layer, known, H = problem(48, 256)
    theirs = known.harm((sparsegpt(layer.matrix, H, 0, (2, 4)) - layer.matrix).float())
    assert harm(NM(2, 4), layer, known) <= theirs < harm(NM(2, 4, second_order=False), layer, known)


@pytest.mark.parametrize("technique", [Magnitude, OptimalBrain, Wanda])
@pytest.mark.parametrize("sparsity", [0.0, 0.25, 0.5, 0.9, 0.999])
def test_as_many_weights_go_as_were_asked_for(technique: type, sparsity: float) -> None:
    layer, known, _ = problem(16, 128)
    coding = technique(sparsity).encode(layer, known)
    assert float((~coding.mask).float().mean()) == pytest.approx(sparsity, abs=0.01)
    assert bool(coding.mask.any())


def test_no_sparsity_changes_nothing() -> None:
    layer, known, _ = problem(16, 128)
    for technique in (Magnitude, OptimalBrain, Wanda):
        assert torch.allclose(technique(0.0).encode(layer, known).decode(), layer.matrix, atol=1e-5)


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (4, 8)])
@pytest.mark.parametrize("second_order", [True, False])
def test_n_of_every_m_stay(n: int, m: int, second_order: bool) -> None:
    layer, known, _ = problem(16, 64)
    mask = NM(n, m, second_order).encode(layer, known).mask
    assert bool((mask.reshape(16, -1, m).sum(2) == n).all())


def test_magnitude_keeps_the_largest_even_among_equals() -> None:
    layer = Layer("w", "linear", torch.tensor([[3.0, -1.0, 1.0, 1.0], [0.0, 2.0, 1.0, -4.0]]))
    mask = Magnitude(0.5).encode(layer, Statistics()).mask
    assert mask.tolist() == [[True, True, False, False], [False, True, False, True]]


@pytest.mark.parametrize("technique", [Magnitude, OptimalBrain, Wanda])
@pytest.mark.parametrize("sparsity", [1, 1.0, -0.1, 2, "half", float("nan")])
def test_a_sparsity_that_empties_the_layer_is_refused(technique: type, sparsity: object) -> None:
    with pytest.raises(LessenError, match="sparsity="):
        technique(sparsity)


@pytest.mark.parametrize(("n", "m"), [(4, 4), (5, 4), (0, 4), (2.0, 4)])
def test_a_pattern_that_is_none_is_refused(n: int, m: int) -> None:
    with pytest.raises(LessenError, match="1 <= n < m"):
        NM(n, m)


def test_columns_that_m_does_not_divide_are_refused_by_name() -> None:
    with pytest.raises(LessenError, match=r"w: 30 columns can't be cut into groups of 4"):
        NM(2, 4).encode(Layer("w", "linear", draw(4, 30)), Statistics())
