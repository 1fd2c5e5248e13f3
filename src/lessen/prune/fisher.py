"""`Fisher`: the weights go whose removal changes the loss least at second order, each by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..codings import Sparse
from ..models.layer import Layer
from ..statistics.statistics import Statistics
from .budgets import allocate, check_budget
from .mask import check_sparsity, pruned
from .saliency import second_order


@dataclass(frozen=True)
class Fisher:
    """Removes the weights with the least w^2 F / 2, F = E[(dL/dw)^2] over single samples.

    Optimal Brain Damage (LeCun, Denker & Solla 1989) with the diagonal of the Fisher information for that of the
    Hessian (Theis et al. 2018, https://arxiv.org/abs/1801.05787). It needs no labels: F is that of the loss that
    statistics are collected with, on the first 64 calibration samples at most.

    Args:
        sparsity: share of the weights to remove, 0 <= s < 1; at least one weight of each layer stays.
        budget: "global": a share of all layers' weights, as in the papers; "layer": of each layer's.

    >>> Fisher(sparsity=0.5).encode(layer, statistics)  # doctest: +SKIP
    """

    sparsity: float = 0.5
    budget: str = "global"

    def __post_init__(self) -> None:
        check_sparsity(self.sparsity, "Fisher")
        check_budget(self.budget, "Fisher", ("global", "layer"))

    def allocate(self, layers: Sequence[Layer], statistics: Mapping[str, Statistics]) -> dict[str, Fisher]:
        """Each layer's own sparsity under the budget; all layers that share it must be given."""
        return allocate(self, layers, lambda x: second_order(x, statistics.get(x.name, Statistics())))

    def encode(self, layer: Layer, statistics: Statistics) -> Sparse:
        """The weights that matter; `LessenError` if weights or gradients aren't finite."""
        return pruned(layer, second_order(layer, statistics), self.sparsity)

    @classmethod
    def offers(cls) -> tuple[Fisher, ...]:
        """Nothing: `OptimalBrain` sees what weights do together and does less harm; it is there for those who ask."""
        return ()
