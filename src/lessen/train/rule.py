"""What tells sparse training methods apart: a `Rule` says how the weights that compute come from those that learn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from ..models.layer import Layer

Weights = Mapping[str, Tensor]  # parameter name -> the values that the optimizer moves, in the parameter's layout


class Rule:
    """One run of a method: `effective` weights while it shapes the network, `masks` when that is over.

    Args:
        sparsity: share of the watched weights that is zero at the end.
        until: share of the steps after which the masks are final and the survivors settle.
    """

    rate = 1.0  # learning rate of `learned`, as a multiple of the weights'

    def __init__(self, sparsity: float, until: float = 0.75) -> None:
        self.sparsity, self.until = sparsity, until

    def watched(self, student: nn.Module, layers: Mapping[str, Layer]) -> Iterable[str]:
        """Names of the parameters that this rule makes sparse; the layers' weights unless a rule says otherwise."""
        return layers

    def begin(self, weights: Weights, layers: Mapping[str, Layer], generator: torch.Generator) -> None:
        """Called once, before the first step."""

    def learned(self) -> list[Tensor]:
        """What is trained besides the weights (thresholds, gates, scores)."""
        return []

    def update(self, done: float, weights: Weights, gradients: Weights) -> None:
        """Called before each step.

        Args:
            done: share of the shaping that is over, 0 to 1.
            gradients: of the last step's loss, by the effective weights: zeroed weights have one too. {} at first.
        """

    def effective(self, name: str, weight: Tensor) -> Tensor:
        """The weight that the network computes with; differentiable in `weight` and in what is learned."""
        return weight

    def penalty(self, weights: Weights) -> Tensor | None:
        """What is added to the loss, differentiable in the weights and in what is learned."""
        return None

    def masks(self, weights: Weights) -> dict[str, Tensor]:
        """bool, by name: the final survivors, as many as asked for."""
        raise NotImplementedError


class Fixed(Rule):
    """Masks that are settled: nothing is shaped any more."""

    def __init__(self, masks: Mapping[str, Tensor]) -> None:
        super().__init__(0.0, 1.0)
        self.held = dict(masks)

    def watched(self, student: nn.Module, layers: Mapping[str, Layer]) -> Iterable[str]:
        return self.held

    def effective(self, name: str, weight: Tensor) -> Tensor:
        return weight * self.held[name]

    def masks(self, weights: Weights) -> dict[str, Tensor]:
        return self.held


class Every:
    """True once in a while: masks over all weights cost a sort."""

    def __init__(self, times: int = 100) -> None:
        self.times, self.last = times, -1

    def __call__(self, done: float) -> bool:
        due = int(done * self.times) != self.last
        self.last = int(done * self.times)
        return due
