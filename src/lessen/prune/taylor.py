"""`Taylor`: the weights go whose removal changes the loss least, by the square of its first-order change."""

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
class Taylor:
    """Removes the weights with the least E[(w dL/dw)^2], the mean over mini-batches of 8.

    The squared first-order Taylor criterion (Molchanov et al. 2019, https://arxiv.org/abs/1906.10771) for single
    weights. The loss is the task's on the labels of the first 128 calibration samples at most. One mini-batch of all
    samples would be `Snip`, mini-batches of one `Fisher`.

    Args:
        sparsity: share of the weights to remove, 0 <= s < 1; at least one weight of each layer stays.
        budget: "global": a share of all layers' weights, as in the paper; "layer": of each layer's.

    >>> Taylor(sparsity=0.5).encode(layer, statistics)  # doctest: +SKIP
    """

    sparsity: float = 0.5
    budget: str = "global"

    def __post_init__(self) -> None:
        check_sparsity(self.sparsity, "Taylor")
        check_budget(self.budget, "Taylor", ("global", "layer"))

    def allocate(self, layers: Sequence[Layer], statistics: Mapping[str, Statistics]) -> dict[str, Taylor]:
        """Each layer's own sparsity under the budget; all layers that share it must be given."""
        return allocate(self, layers, lambda x: first_order(x, statistics.get(x.name, Statistics()), "square"))

    def encode(self, layer: Layer, statistics: Statistics) -> Sparse:
        """The weights that matter; `LessenError` if weights or gradients aren't finite."""
        return pruned(layer, first_order(layer, statistics, "square"), self.sparsity)

    @classmethod
    def offers(cls) -> tuple[Taylor, ...]:
        """Nothing: `OptimalBrain` needs no labels and does less harm; it is there for those who ask."""
        return ()
