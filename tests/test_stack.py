"""`Stack`: what one technique leaves, the next one keeps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lessen.codings import Codebook, Grid, LowRank, Sparse
from lessen.errors import LessenError
from lessen.factorize import SVD
from lessen.models.layer import Layer
from lessen.prune import Magnitude, OptimalBrain
from lessen.quantize import Uniform
from lessen.share import KMeans
from lessen.stack import Stack
from lessen.statistics import Statistics


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def problem() -> tuple[Layer, Statistics]:
    x = draw(400, 96) @ (torch.eye(96) + draw(96, 96, seed=1) / 5)
    known = Statistics(H=(x.T @ x / 400)[None], mean=x.mean(0)[None], G=draw(48).square() + 0.1)
    return Layer("w", "linear", draw(48, 96, seed=2)), known


@pytest.mark.parametrize(("last", "kind"), [(Uniform(4), Grid), (KMeans(16), Codebook), (Magnitude(0.7), Sparse)])
def test_zeros_stay_zero_in_one_coding(last: object, kind: type) -> None:
    layer, known = problem()
    coding = Stack((OptimalBrain(0.5), last)).encode(layer, known)
    mask = OptimalBrain(0.5).encode(layer, known).mask
    assert isinstance(coding, kind)
    assert bool((coding.decode()[~mask] == 0).all())


def test_three_steps() -> None:
    layer, known = problem()
    coding = Stack((Magnitude(0.3), OptimalBrain(0.5), Uniform(4))).encode(layer, known)
    assert float((coding.decode() == 0).float().mean()) >= 0.5


def test_both_factors_are_quantized_at_little_harm() -> None:
    layer, known = problem()
    coding = Stack((SVD(0.5), Uniform(8))).encode(layer, known)
    assert isinstance(coding, LowRank)
    assert isinstance(coding.left, Grid)
    assert isinstance(coding.right, Grid)
    alone = known.harm(SVD(0.5).encode(layer, known).decode() - layer.matrix)
    assert known.harm(coding.decode() - layer.matrix) < 1.01 * alone


def test_nothing_follows_a_grid() -> None:
    layer, known = problem()
    with pytest.raises(LessenError, match="OptimalBrain can't follow Uniform"):
        Stack((Uniform(4), OptimalBrain(0.5))).encode(layer, known)


@pytest.mark.parametrize("steps", [(), (Uniform(4),), [Uniform(4), Uniform(4)], (OptimalBrain, Uniform(4)), None])
def test_steps_that_are_none_are_refused(steps: object) -> None:
    with pytest.raises(LessenError, match="steps="):
        Stack(steps)
