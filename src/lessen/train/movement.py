"""`Movement`: weights that move away from zero stay, those that shrink go."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .masks import globally
from .rule import Every, Rule, Weights
from .schedules import cubic
from .sparsifier import Sparsifier


@dataclass(frozen=True)
class Movement(Sparsifier):
    """The mask keeps the highest scores, and the scores learn through the mask: dL/dS = dL/dW' w.

    Sanh, Wolf & Rush 2020, "Movement Pruning", https://arxiv.org/abs/2005.07683, first order, one threshold for all
    layers (topK), along a cubic schedule. What counts is where fine-tuning takes a weight, not how large it was.

    >>> sparser = lessen.apply(model, Movement(sparsity=0.9, epochs=3), train_data)  # doctest: +SKIP
    """

    def rule(self) -> Rule:
        return _Movement(self.sparsity)


class _Movement(Rule):
    rate = 10.0

    def begin(self, weights: Weights, layers: object, generator: torch.Generator) -> None:
        self.due = Every()
        self.scores = {n: torch.zeros_like(w.detach()).requires_grad_() for n, w in weights.items()}
        self.held = {n: torch.ones_like(w) for n, w in weights.items()}

    def learned(self) -> list[Tensor]:
        return list(self.scores.values())

    def update(self, done: float, weights: Weights, gradients: Weights) -> None:
        if self.due(done):
            self.held = {n: m.float() for n, m in self._highest(cubic(done, self.sparsity)).items()}

    def _highest(self, sparsity: float) -> dict[str, Tensor]:
        return globally({n: s.detach() for n, s in self.scores.items()}, sparsity)

    def effective(self, name: str, weight: Tensor) -> Tensor:
        score = self.scores[name]
        return weight * (self.held[name] + score - score.detach())

    def masks(self, weights: Weights) -> dict[str, Tensor]:
        return self._highest(self.sparsity)
