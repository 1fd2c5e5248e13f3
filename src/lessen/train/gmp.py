"""`GMP`: gradual magnitude pruning."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .masks import globally
from .rule import Every, Rule, Weights
from .schedules import cubic
from .sparsifier import Sparsifier


@dataclass(frozen=True)
class GMP(Sparsifier):
    """The smallest weights go little by little, along a cubic schedule, while the network trains.

    Zhu & Gupta 2017, "To prune, or not to prune", https://arxiv.org/abs/1710.01878. One threshold for all layers. A
    weight that is out keeps its value and comes back should others fall below it.

    >>> sparser = lessen.apply(model, GMP(sparsity=0.9, epochs=3), train_data)  # doctest: +SKIP
    """

    def rule(self) -> Rule:
        return _Gradual(self.sparsity)


class _Gradual(Rule):
    def begin(self, weights: Weights, layers: object, generator: torch.Generator) -> None:
        self.due, self.held = Every(), {n: torch.ones_like(w) for n, w in weights.items()}

    def update(self, done: float, weights: Weights, gradients: Weights) -> None:
        if self.due(done):
            self.held = {n: m.float() for n, m in self._strongest(weights, cubic(done, self.sparsity)).items()}

    def effective(self, name: str, weight: Tensor) -> Tensor:
        return weight * self.held[name]

    def masks(self, weights: Weights) -> dict[str, Tensor]:
        return self._strongest(weights, self.sparsity)

    def _strongest(self, weights: Weights, sparsity: float) -> dict[str, Tensor]:
        return globally({n: w.detach().abs() for n, w in weights.items()}, sparsity)
