"""`Magnitude`: the smallest weights go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..codings import Sparse
from ..models.layer import Layer
from ..statistics.problem import problem
from ..statistics.statistics import Statistics
from .budgets import allocate, check_budget
from .mask import check_sparsity, pruned


@dataclass(frozen=True)
class Magnitude:
    """Removes the weights with the least |w| (Han et al. 2015, https://arxiv.org/abs/1506.02626).

    Args:
        sparsity: share of the weights to remove, 0 <= s < 1; at least one weight of each layer stays.
        budget: what that is a share of. "layer": of each layer. Of all layers together, divided among them by "global":
            one threshold for all; "lamp": the layer-adaptive score (Lee et al. 2021); "erk": by the layers' shapes
            alone (Erdos-Renyi-Kernel, Evci et al. 2020).

    >>> Magnitude(sparsity=0.5).encode(layer, statistics)  # doctest: +SKIP
    """

    sparsity: float = 0.5
    budget: str = "layer"

    def __post_init__(self) -> None:
        check_sparsity(self.sparsity, "Magnitude")
        check_budget(self.budget, "Magnitude")

    def allocate(self, layers: Sequence[Layer], statistics: Mapping[str, Statistics]) -> dict[str, Magnitude]:
        """Each layer's own sparsity under the budget; all layers that share it must be given."""
        return allocate(self, layers, lambda layer: layer.matrix.abs())

    def encode(self, layer: Layer, statistics: Statistics) -> Sparse:
        """The layer's largest weights; `LessenError` if they aren't finite."""
        return pruned(layer, problem(layer, statistics).matrix.abs(), self.sparsity)

    @classmethod
    def offers(cls) -> tuple[Magnitude, ...]:
        """Light to heavy pruning; the chooser divides the budget itself."""
        return tuple(cls(s) for s in (0.3, 0.5, 0.7, 0.9))
