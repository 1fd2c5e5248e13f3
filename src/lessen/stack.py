"""`Stack`: several techniques on one weight, one after the other."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .codings import Coding, Dense, LowRank, Sparse
from .errors import LessenError
from .factorize import SVD
from .models.layer import Layer
from .prune import OptimalBrain
from .quantize import Uniform
from .share import KMeans
from .statistics.statistics import Statistics

__all__ = ["Stack"]


@dataclass(frozen=True)
class Stack:
    """Prune then quantize, factorize then quantize: each step works on what the one before it left.

    After a pruning step the zeros stay zero; after a factorisation the rest is done to both factors, the right one
    first, the left one then refitted to what became of it.

    Args:
        steps: techniques, at least two; only the last may give a grid or a codebook.

    >>> Stack((OptimalBrain(0.5), Uniform(4))).encode(layer, statistics)  # doctest: +SKIP
    """

    steps: tuple[Any, ...] = (OptimalBrain(0.5), Uniform(4))

    def __post_init__(self) -> None:
        some = isinstance(self.steps, tuple) and len(self.steps) > 1
        if not some or not all(hasattr(s, "encode") and not isinstance(s, type) for s in self.steps):
            mend = "give at least two techniques: (OptimalBrain(0.5), Uniform(4))"
            raise LessenError(f"steps={self.steps!r}", where="Stack", mend=mend)

    def encode(self, layer: Layer, statistics: Statistics) -> Coding:
        """The coding of the last step; `LessenError` where a step can't be done or can't follow the one before."""
        first, rest = self.steps[0], self.steps[1:]
        coding: Coding = first.encode(layer, statistics)
        if isinstance(coding, LowRank):
            return _factors(coding, layer, statistics, rest)
        if not isinstance(coding, (Sparse, Dense)):
            raise LessenError(
                f"{type(rest[0]).__name__} can't follow {type(first).__name__}, which gives a {type(coding).kind}",
                where="Stack",
                mend="put the technique that quantizes or shares last",
            )
        mask = coding.mask if isinstance(coding, Sparse) else layer.mask
        return _encode(rest, layer.with_matrix(coding.decode(), mask), statistics)

    @classmethod
    def offers(cls) -> tuple[Stack, ...]:
        """Sparse grids and codebooks, and factors on grids."""
        sparse = ((0.5, 8), (0.7, 8), (0.5, 6), (0.3, 4), (0.5, 4), (0.7, 4))
        grids = (cls((OptimalBrain(s), Uniform(b))) for s, b in sparse)
        tables = (cls((OptimalBrain(s), KMeans(k))) for s, k in ((0.5, 16),))
        return (*grids, *tables, *(cls((SVD(r), Uniform(8))) for r in (0.75, 0.5, 0.25)))


def _encode(steps: tuple[Any, ...], layer: Layer, statistics: Statistics) -> Coding:
    coding: Coding = (steps[0] if len(steps) == 1 else Stack(steps)).encode(layer, statistics)
    return coding


def _factors(coding: LowRank, layer: Layer, statistics: Statistics, steps: tuple[Any, ...]) -> LowRank:
    """Both factors with the remaining steps done, each under the second moments that it meets."""
    left, right = coding.left.decode(), coding.right.decode()
    inner = replace(statistics, G=_through(left, statistics))
    done = _encode(steps, _part(layer, "right", right), inner)
    R = done.decode()
    H = statistics.diagonal(layer.shape[1])[0].diag() if statistics.full is None else statistics.full[0]
    left = _refitted(layer.matrix, R, H)
    outer = replace(statistics, H=(R @ H @ R.T)[None], mean=_mean(R, statistics))
    return LowRank(_encode(steps, _part(layer, "left", left), outer), done)


def _part(layer: Layer, side: str, matrix: Tensor) -> Layer:
    return Layer(f"{layer.name} ({side} factor)", "linear", matrix)


def _through(left: Tensor, statistics: Statistics) -> Tensor:
    """Importance of the inner dimensions: what they do to the outputs, diag(LT diag(G) L)."""
    return (left.square() * statistics.row_weights(len(left))[:, None]).sum(0)


def _mean(R: Tensor, statistics: Statistics) -> Tensor | None:
    return None if statistics.mean is None else statistics.mean @ R.T


def _refitted(W: Tensor, R: Tensor, H: Tensor) -> Tensor:
    """The left factor that is best for this right one: W H RT (R H RT)^-1."""
    inner = (R @ H @ R.T).double()
    inner.diagonal().add_(1e-6 * inner.diagonal().mean().clamp_min(1e-30))
    return torch.linalg.solve(inner, (W @ (H @ R.T)).double().T).T.float()
