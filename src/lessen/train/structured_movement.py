"""`StructuredMovement`: units whose columns move away from zero stay, the others are removed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .gates import Gates, Opened
from .method import Lesson
from .rule import Every, Weights
from .structured import GateRule, StructuredSparsifier


@dataclass(frozen=True)
class StructuredMovement(StructuredSparsifier):
    """The units with the highest scores compute, and the scores learn through the mask: dL/dS = sum over w of dL/dw w.

    Lagunas et al. 2021, "Block Pruning for Faster Transformers", https://arxiv.org/abs/2109.04838: movement pruning
    with one score for a structure, here for a unit of a dimension group; one threshold for all groups, along a cubic
    schedule of the multiply-adds. What is closed is then really removed, and the narrower network trained on.

    >>> narrower = lessen.apply(model, StructuredMovement(sparsity=0.5, epochs=5), train_data)  # doctest: +SKIP
    """

    def gate_rule(self, gates: Gates, student: nn.Module, lesson: Lesson) -> GateRule:
        return _MovementGates(gates, self.sparsity)


class _MovementGates(GateRule):
    rate = 10.0

    def begin(self, weights: Weights, layers: object, generator: torch.Generator) -> None:
        self.due, self.held = Every(), self.gates.open(1.0)
        self.learning = {n: v.requires_grad_() for n, v in self.gates.open(0.0).items()}

    def learned(self) -> list[Tensor]:
        return list(self.learning.values())

    def update(self, done: float, weights: Weights, gradients: Weights) -> None:
        if self.due(done):
            self.held = self.gates.without(self.gates.closing(self.scores(), 1 - self.allowed(done)))

    def opened(self) -> Opened:
        return {n: self.held[n] + s - s.detach() for n, s in self.learning.items()}

    def masks(self, weights: Weights) -> dict[str, Tensor]:
        found = super().masks(weights)
        self.held = self.gates.without(self.closed)
        return found

    def scores(self) -> Opened:
        return {n: s.detach() for n, s in self.learning.items()}
