"""`RigL`: dynamic sparse training; a sparse network drops and grows connections while it learns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import LessenError
from ..models.layer import Layer
from .masks import erdos_renyi, within
from .rule import Every, Rule, Weights
from .schedules import cosine_decay
from .sparsifier import Sparsifier


@dataclass(frozen=True)
class RigL(Sparsifier):
    """Drops the smallest weights and grows those whose gradient is largest, at a constant sparsity.

    Evci et al. 2020, "Rigging the Lottery", https://arxiv.org/abs/1911.11134: layer budgets by ERK; the share of
    weights that changes falls along a cosine; grown weights start at zero. The paper starts from random masks on a
    random network; here, where the network is trained, the first mask keeps each layer's largest weights.

    Args:
        drop: share of each layer's weights that is dropped and grown at the first exchange.

    >>> sparser = lessen.apply(model, RigL(sparsity=0.9, epochs=3), train_data)  # doctest: +SKIP
    """

    drop: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.drop < 1:
            raise LessenError(f"drop={self.drop!r}", where="RigL", mend="give a share, 0 <= drop < 1 (0.3)")

    def rule(self) -> Rule:
        return _DropAndGrow(self.sparsity, self.drop)


class _DropAndGrow(Rule):
    def __init__(self, sparsity: float, drop: float) -> None:
        super().__init__(sparsity)
        self.drop, self.due = drop, Every()

    def begin(self, weights: Weights, layers: Mapping[str, Layer], generator: torch.Generator) -> None:
        self.kept = erdos_renyi(layers, self.sparsity)
        self.held = within({n: w.detach().abs() for n, w in weights.items()}, self.kept)

    @torch.no_grad()
    def update(self, done: float, weights: Weights, gradients: Weights) -> None:
        if not self.due(done) or not gradients:
            return
        for name, weight in weights.items():
            if name in gradients:
                self._exchange(name, weight, gradients[name], cosine_decay(done, self.drop))

    def _exchange(self, name: str, weight: Tensor, gradient: Tensor, share: float) -> None:
        held = self.held[name]
        count = min(round(share * self.kept[name]), int((~held).sum()))
        scores = torch.where(held, weight.abs(), -1.0)
        stay = within({name: scores}, {name: self.kept[name] - count})[name] if count < self.kept[name] else held
        count = int((held & ~stay).sum())
        if not count:
            return
        grown = within({name: torch.where(held, -1.0, gradient.abs())}, {name: count})[name]
        weight[~stay] = 0.0  # dropped ones forget their value; grown ones start from nothing
        self.held[name] = stay | grown

    def effective(self, name: str, weight: Tensor) -> Tensor:
        return weight * self.held[name]

    def masks(self, weights: Weights) -> dict[str, Tensor]:
        return self.held
