"""`OptimalBrain`: one-shot second-order pruning of single weights, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..codings import Sparse
from ..errors import LessenError
from ..models.layer import Layer
from ..statistics.problem import problem
from ..statistics.statistics import Statistics
from .mask import check_sparsity, strongest
from .removal import prune, tell_dampening

_BLOCK = 128  # columns that a threshold is chosen for


@dataclass(frozen=True)
class OptimalBrain:
    """Removes the weights whose loss the others can best make up for, and updates those.

    The layer-wise Optimal Brain Surgeon (Hassibi & Stork 1992) in the one-pass form of SparseGPT (Frantar & Alistarh
    2023, https://arxiv.org/abs/2301.00774), then a few steps of conjugate gradients on the survivors. A singular second
    moment is dampened; where it is missing it is Wanda's criterion for the whole layer, without update. Both are told.

    Args:
        sparsity: share of the layer's weights to remove, 0 <= s < 1; at least one stays.
        steps: of conjugate gradients afterwards (twice as many under a singular second moment); each costs one product
            with H.

    >>> OptimalBrain(sparsity=0.5).encode(layer, statistics)  # doctest: +SKIP
    """

    sparsity: float = 0.5
    steps: int = 4

    def __post_init__(self) -> None:
        check_sparsity(self.sparsity, "OptimalBrain")
        if not isinstance(self.steps, int) or not 0 <= self.steps <= 1000:
            raise LessenError(f"steps={self.steps!r}", where="OptimalBrain", mend="give 0 to 1000")

    def encode(self, layer: Layer, statistics: Statistics) -> Sparse:
        """The surviving weights, updated; `LessenError` if the layer's weights aren't finite."""
        p = problem(layer, statistics)
        steps = self.steps * (2 if tell_dampening(layer, statistics) else 1)
        return prune(p, self._choose, _BLOCK, steps)

    def _choose(self, scores: Tensor) -> Tensor:
        """The highest scores of a block over all its rows: the threshold adapts to where pruning hurts."""
        return strongest(scores.flatten(), self.sparsity).reshape(scores.shape).float()

    @classmethod
    def offers(cls) -> tuple[OptimalBrain, ...]:
        """Light to heavy pruning."""
        return tuple(cls(s) for s in (0.3, 0.5, 0.7, 0.8, 0.9))
