"""`Snip`: the weights go that the loss would not notice at first order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..codings import Sparse
from ..models.layer import Layer
from ..statistics.statistics import Statistics
from .budgets import allocate, check_budget
from .mask import check_sparsity, pruned
from .saliency import first_order


@dataclass(frozen=True)
class Snip:
    """Removes the weights with the least connection sensitivity |w E[dL/dw]| (SNIP).

    Lee, Ajanthan & Torr 2019, https://arxiv.org/abs/1810.02340; the paper does it before training, here the
    network is a trained one. The loss is the task's on the labels of the first 128 calibration samples at most.

    Args:
        sparsity: share of the weights to remove, 0 <= s < 1; at least one weight of each layer stays.
        budget: "global": a share of all layers' weights, as in the paper; "layer": of each layer's.

    >>> Snip(sparsity=0.5).encode(layer, statistics)  # doctest: +SKIP
    """

    sparsity: float = 0.5
    budget: str = "global"

    def __post_init__(self) -> None:
        check_sparsity(self.sparsity, "Snip")
        check_budget(self.budget, "Snip", ("global", "layer"))

    def allocate(self, layers: Sequence[Layer], statistics: Mapping[str, Statistics]) -> dict[str, Snip]:
        """Each layer's own sparsity under the budget; all layers that share it must be given."""
        return allocate(self, layers, lambda x: first_order(x, statistics.get(x.name, Statistics()), "mean"))

    def encode(self, layer: Layer, statistics: Statistics) -> Sparse:
        """The weights that matter; `LessenError` if weights or gradients aren't finite."""
        return pruned(layer, first_order(layer, statistics, "mean"), self.sparsity)

    @classmethod
    def offers(cls) -> tuple[Snip, ...]:
        """Nothing: `OptimalBrain` needs no labels and does less harm; it is there for those who ask."""
        return ()
