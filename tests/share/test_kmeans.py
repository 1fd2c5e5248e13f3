"""`KMeans` against Lloyd and Max."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lessen.models.layer import Layer
from lessen.share import KMeans
from lessen.share.lloyd import kmeans
from lessen.statistics import Statistics


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("clusters", "optimum"), [(4, 0.1175), (8, 0.03454), (16, 0.009497), (32, 0.002499)])
def test_on_gaussian_weights_the_error_is_that_of_the_lloyd_max_quantizer(clusters: int, optimum: float) -> None:
    w = draw(400, 1000)
    found = KMeans(clusters).encode(Layer("w", "linear", w), Statistics()).decode()
    assert float((found - w).square().mean()) == pytest.approx(optimum, rel=0.01)


def test_many_clusters_follow_the_panter_dite_law() -> None:
    w = draw(400, 1000)
    found = KMeans(256).encode(Layer("w", "linear", w), Statistics()).decode()
    assert float((found - w).square().mean()) == pytest.approx(3**0.5 * torch.pi / 2 / 256**2, rel=0.03)


def test_few_values_are_found_exactly_in_one_dimension() -> None:
    """All partitions of a small set tried: the optimum."""
    v = draw(1, 12).sort(dim=1).values
    best = min(
        sum(float((part - part.mean()).square().sum()) for part in (v[0, :a], v[0, a:b], v[0, b:]))
        for a in range(1, 11)
        for b in range(a + 1, 12)
    )
    found = kmeans(v, torch.ones(1, 12), 3)
    nearest = (v[0][:, None] - found[0]).square().min(1).values.sum()
    assert float(nearest) == pytest.approx(best, rel=1e-4)


def test_weights_decide_where_the_values_lie() -> None:
    v = torch.cat([torch.zeros(50), torch.linspace(9, 11, 50)])[None]
    heavy = kmeans(v, torch.cat([torch.full((50,), 1e-6), torch.ones(50)])[None], 3)[0]
    assert int(((heavy > 8.9) & (heavy < 11.1)).sum()) >= 2


def test_values_that_are_shared_already_are_kept_as_they_are() -> None:
    w = draw(7)[torch.randint(7, (30, 20), generator=torch.Generator().manual_seed(0))]
    for per in ("tensor", "channel"):
        assert torch.equal(KMeans(8, per).encode(Layer("w", "linear", w), Statistics()).decode(), w)


@pytest.mark.parametrize("per", ["tensor", "channel"])
@pytest.mark.parametrize("clusters", [4, 16, 64])
def test_feedback_lowers_the_error_of_the_layer(per: str, clusters: int) -> None:
    x = draw(600, 96) @ (torch.eye(96) + draw(96, 96, seed=1) / 5)
    known = Statistics(H=(x.T @ x / 600)[None], G=draw(32).square())
    layer = Layer("w", "linear", draw(32, 96, seed=2))
    fed, plain = (
        known.harm(KMeans(clusters, per, feedback=f).encode(layer, known).decode() - layer.matrix)
        for f in (True, False)
    )
    assert fed < 0.7 * plain


def test_with_a_mask_one_value_is_exactly_zero() -> None:
    mask = draw(16, 64) > 0
    layer = Layer("w", "linear", (draw(16, 64, seed=1).abs() + 3) * mask, mask=mask)
    for per in ("tensor", "channel"):
        found = KMeans(4, per).encode(layer, Statistics())
        assert bool((found.centroids == 0).any(1).all())
        assert bool((found.decode()[~mask] == 0).all())
        assert bool((found.decode()[mask] != 0).all())
