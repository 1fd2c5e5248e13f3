"""`Wanda`: weights that are small where their input is small go."""

from __future__ import annotations

from dataclasses import dataclass

from ..codings import Sparse
from ..errors import LessenError
from ..models.layer import Layer
from ..statistics.problem import problem
from ..statistics.second_order import join
from ..statistics.statistics import Statistics
from .mask import check_sparsity, pruned, sparse, strongest


@dataclass(frozen=True)
class Wanda:
    """Removes the weights with the least |w_j| * sqrt(E[x_j^2]), and changes no other.

    Sun et al. 2023, https://arxiv.org/abs/2306.11695. Without statistics it is magnitude pruning.

    Args:
        sparsity: share of the weights to remove, 0 <= s < 1; at least one stays.
        among: "output": of each output's weights, as in the paper; "layer": of the whole layer's, which measured better
            on small perceptrons and convolutional networks (benchmarks/oneshot_pruning.py).

    >>> Wanda(sparsity=0.5).encode(layer, statistics)  # doctest: +SKIP
    """

    sparsity: float = 0.5
    among: str = "output"

    def __post_init__(self) -> None:
        check_sparsity(self.sparsity, "Wanda")
        if self.among not in ("output", "layer"):
            raise LessenError(f"among={self.among!r}", where="Wanda", mend='give "output" or "layer"')

    def encode(self, layer: Layer, statistics: Statistics) -> Sparse:
        """The layer's weights that matter; `LessenError` if they aren't finite."""
        p = problem(layer, statistics)
        scores = join(p.W.abs() * p.diagonal.sqrt()[:, :, None])
        if self.among == "layer":
            return pruned(layer, scores, self.sparsity)
        mask = strongest(scores if layer.mask is None else scores * layer.mask, self.sparsity)
        return sparse(p.matrix, mask if layer.mask is None else mask & layer.mask)

    @classmethod
    def offers(cls) -> tuple[Wanda, ...]:
        """Light to heavy pruning."""
        return tuple(cls(s) for s in (0.3, 0.5, 0.7))
