"""`Wanda`: weights that are small where their input is small go."""

from __future__ import annotations

from dataclasses import dataclass

from ..codings import Sparse
from ..models.layer import Layer
from ..statistics.problem import problem
from ..statistics.second_order import join
from ..statistics.statistics import Statistics
from .mask import check_sparsity, sparse, strongest


@dataclass(frozen=True)
class Wanda:
    """Removes from each output the weights with the least |w_j| * sqrt(E[x_j^2]), and changes no other.

    Sun et al. 2023, https://arxiv.org/abs/2306.11695. Without statistics it is magnitude pruning for each output.

    Args:
        sparsity: share of each output's weights to remove, 0 <= s < 1; at least one stays.

    >>> Wanda(sparsity=0.5).encode(layer, statistics)  # doctest: +SKIP
    """

    sparsity: float = 0.5

    def __post_init__(self) -> None:
        check_sparsity(self.sparsity, "Wanda")

    def encode(self, layer: Layer, statistics: Statistics) -> Sparse:
        """The layer's weights that matter; `LessenError` if they aren't finite."""
        p = problem(layer, statistics)
        scores = join(p.W.abs() * p.diagonal.sqrt()[:, :, None])
        mask = strongest(scores if layer.mask is None else scores * layer.mask, self.sparsity)
        return sparse(p.matrix, mask if layer.mask is None else mask & layer.mask)

    @classmethod
    def offers(cls) -> tuple[Wanda, ...]:
        """Light to heavy pruning."""
        return tuple(cls(s) for s in (0.3, 0.5, 0.7))
