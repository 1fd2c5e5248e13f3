"""`Wanda`: weights that are small where their input is small go."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..codings import Sparse
from ..errors import LessenError, did_you_mean
from ..models.layer import Layer
from ..statistics.problem import problem
from ..statistics.second_order import join
from ..statistics.statistics import Statistics
from .mask import check_sparsity, pruned, sparse, strongest

AMONG = ("either", "output", "layer")


@dataclass(frozen=True)
class Wanda:
    """Removes the weights with the least |w_j| * sqrt(E[x_j^2]), and changes no other.

    Sun et al. 2023, https://arxiv.org/abs/2306.11695. Without statistics it is magnitude pruning.

    Args:
        sparsity: share of the weights to remove, 0 <= s < 1; at least one stays.
        among: which weights are compared. "output": those of each output, as in the paper; "layer": those of the whole
            layer; "either": both are tried, and the one with less predicted harm is taken. Neither of the first two is
            always better: benchmarks/oneshot_pruning.py.

    >>> Wanda(sparsity=0.5).encode(layer, statistics)  # doctest: +SKIP
    """

    sparsity: float = 0.5
    among: str = "either"

    def __post_init__(self) -> None:
        check_sparsity(self.sparsity, "Wanda")
        if self.among not in AMONG:
            raise LessenError(f"among={self.among!r}", where="Wanda", mend=did_you_mean(str(self.among), AMONG))

    def encode(self, layer: Layer, statistics: Statistics) -> Sparse:
        """The layer's weights that matter; `LessenError` if they aren't finite."""
        p = problem(layer, statistics)
        scores = join(p.W.abs() * p.diagonal.sqrt()[:, :, None])
        if self.among != "either":
            return self._pruned(layer, scores, self.among)
        both = [self._pruned(layer, scores, among) for among in ("output", "layer")]
        return min(both, key=lambda made: statistics.harm(made.decode() - p.matrix))

    def _pruned(self, layer: Layer, scores: Tensor, among: str) -> Sparse:
        if among == "layer":
            return pruned(layer, scores, self.sparsity)
        mask = strongest(scores if layer.mask is None else scores * layer.mask, self.sparsity)
        return sparse(layer.matrix, mask if layer.mask is None else mask & layer.mask)

    @classmethod
    def offers(cls) -> tuple[Wanda, ...]:
        """Light to heavy pruning."""
        return tuple(cls(s) for s in (0.3, 0.5, 0.7))
