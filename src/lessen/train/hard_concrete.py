"""`L0`: a gate on every weight, trained with the weights; the number of open gates is the penalty."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .masks import globally
from .rule import Rule, Weights
from .schedules import cubic
from .sparsifier import Sparsifier

BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1  # of the hard concrete distribution, as in the paper
_OPEN = math.log(0.9 / 0.1)  # gates start open with a probability of 0.9 before stretching
_ASCENT = 10.0  # step of the multiplier: the gates follow the schedule within a few steps


@dataclass(frozen=True)
class L0(Sparsifier):
    """Weights multiplied by random gates in [0, 1] whose chance of being open is learned.

    Louizos, Welling & Kingma 2018, "Learning Sparse Neural Networks through L0 Regularization",
    https://arxiv.org/abs/1712.01312: z = clamp(sigmoid((log u - log(1 - u) + log a) / beta) (zeta - gamma) + gamma),
    E|z|_0 = sigmoid(log a - beta log(-gamma / zeta)). The weight of the penalty is a Lagrange multiplier that rises
    until the expected share of open gates is the one asked for, along a cubic schedule (Gallego-Posada et al. 2022).

    >>> sparser = lessen.apply(model, L0(sparsity=0.9, epochs=3), train_data)  # doctest: +SKIP
    """

    def rule(self) -> Rule:
        return _HardConcrete(self.sparsity)


class _HardConcrete(Rule):
    rate = 20.0

    def begin(self, weights: Weights, layers: object, generator: torch.Generator) -> None:
        self.generator = generator
        self.gates = {n: torch.full_like(w.detach(), _OPEN).requires_grad_() for n, w in weights.items()}
        self.noise: dict[str, Tensor] = {}
        self.count = sum(w.numel() for w in weights.values())
        self.multiplier, self.allowed = 0.0, 1.0

    def learned(self) -> list[Tensor]:
        return list(self.gates.values())

    @torch.no_grad()
    def update(self, done: float, weights: Weights, gradients: Weights) -> None:
        self.allowed = 1 - cubic(done, self.sparsity)
        for name, gate in self.gates.items():
            u = torch.rand(gate.shape, generator=self.generator).clamp_(1e-6, 1 - 1e-6)
            self.noise[name] = u.log() - (1 - u).log()

    def effective(self, name: str, weight: Tensor) -> Tensor:
        gate = self.gates[name]
        stretched = torch.sigmoid((self.noise[name] + gate) / BETA) if name in self.noise else torch.sigmoid(gate)
        return weight * (stretched * (ZETA - GAMMA) + GAMMA).clamp(0, 1)

    def penalty(self, weights: Weights) -> Tensor | None:
        """multiplier * (expected share of open gates - allowed share)."""
        share = torch.stack([torch.sigmoid(g - BETA * math.log(-GAMMA / ZETA)).sum() for g in self.gates.values()])
        excess = share.sum() / self.count - self.allowed
        self.multiplier = max(0.0, self.multiplier + _ASCENT * float(excess.detach()))
        return self.multiplier * excess

    def masks(self, weights: Weights) -> dict[str, Tensor]:
        self.noise = {}  # what stays of a gate is its value without noise
        return globally({n: g.detach() for n, g in self.gates.items()}, self.sparsity)
