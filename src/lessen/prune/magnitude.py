"""`Magnitude`: the smallest weights go."""

from __future__ import annotations

from dataclasses import dataclass

from ..codings import Sparse
from ..models.layer import Layer
from ..statistics.problem import problem
from ..statistics.statistics import Statistics
from .mask import check_sparsity, sparse, strongest


@dataclass(frozen=True)
class Magnitude:
    """Removes the weights of a layer with the least |w| (Han et al. 2015, https://arxiv.org/abs/1506.02626).

    Args:
        sparsity: share of the layer's weights to remove, 0 <= s < 1; at least one weight stays.

    >>> Magnitude(sparsity=0.5).encode(layer, statistics)  # doctest: +SKIP
    """

    sparsity: float = 0.5

    def __post_init__(self) -> None:
        check_sparsity(self.sparsity, "Magnitude")

    def encode(self, layer: Layer, statistics: Statistics) -> Sparse:
        """The layer's largest weights; `LessenError` if they aren't finite."""
        p = problem(layer, statistics)
        scores = p.matrix.abs().flatten() if layer.mask is None else (p.matrix.abs() * layer.mask).flatten()
        mask = strongest(scores, self.sparsity).reshape(layer.shape)
        return sparse(p.matrix, mask if layer.mask is None else mask & layer.mask)

    @classmethod
    def offers(cls) -> tuple[Magnitude, ...]:
        """Light to heavy pruning."""
        return tuple(cls(s) for s in (0.3, 0.5, 0.7, 0.9))
