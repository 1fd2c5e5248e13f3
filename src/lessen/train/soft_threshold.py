"""`STR`: soft-threshold reparameterization; every layer learns its own threshold."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .masks import globally
from .rule import Every, Rule, Weights
from .schedules import cubic
from .sparsifier import Sparsifier


@dataclass(frozen=True)
class STR(Sparsifier):
    """Weights computed as sign(w) max(|w| - threshold, 0), with a threshold for each layer that is learned.

    Kusupati et al. 2020, "Soft Threshold Weight Reparameterization", https://arxiv.org/abs/2002.03231: the layers'
    budgets are found by the gradient. In the paper the weight decay decides, by trial, how sparse the network
    becomes; here the thresholds are c exp(s_l), s_l learned and c such that the sparsity asked for is reached
    along a cubic schedule. What the survivors are shrunk by fades out along the way: a short run has no time to grow
    it back.

    >>> sparser = lessen.apply(model, STR(sparsity=0.9, epochs=3), train_data)  # doctest: +SKIP
    """

    def rule(self) -> Rule:
        return _SoftThreshold(self.sparsity)


class _SoftThreshold(Rule):
    def begin(self, weights: Weights, layers: object, generator: torch.Generator) -> None:
        self.due, self.common, self.shrunk = Every(), torch.zeros(()), 1.0
        self.levels = {n: torch.zeros((), requires_grad=True) for n in weights}

    def learned(self) -> list[Tensor]:
        return list(self.levels.values())

    @torch.no_grad()
    def update(self, done: float, weights: Weights, gradients: Weights) -> None:
        self.shrunk = max(0.0, 1 - done)
        if self.due(done):
            flat = torch.cat([s.flatten() for s in self._relative(weights).values()])
            gone = round(cubic(done, self.sparsity) * flat.numel())
            self.common = flat.kthvalue(gone).values if gone else torch.zeros(())

    def _relative(self, weights: Weights) -> dict[str, Tensor]:
        """|w| / exp(s_l): what the common factor is compared with."""
        return {n: w.detach().abs() / self.levels[n].detach().exp() for n, w in weights.items()}

    def effective(self, name: str, weight: Tensor) -> Tensor:
        threshold = self.common * self.levels[name].exp()
        over = (weight.abs() - threshold).relu()
        return weight.sign() * (over + (1 - self.shrunk) * threshold.detach() * (over > 0))

    def masks(self, weights: Weights) -> dict[str, Tensor]:
        self.shrunk = 0.0
        return globally(self._relative(weights), self.sparsity)
