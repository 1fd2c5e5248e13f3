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
OPEN = math.log(0.9 / 0.1)  # gates start open with a probability of 0.9 before stretching
_ASCENT = 10.0  # step of the multiplier: the gates follow the schedule within a few steps


def noise_like(gate: Tensor, generator: torch.Generator) -> Tensor:
    """Logistic noise: log u - log(1 - u)."""
    u = torch.rand(gate.shape, generator=generator).clamp_(1e-6, 1 - 1e-6)
    return u.log() - (1 - u).log()


def drawn(gate: Tensor, noise: Tensor) -> Tensor:
    """A sample of the hard concrete distribution, in [0, 1]."""
    return _stretched(torch.sigmoid((noise + gate) / BETA))


def settled(gate: Tensor) -> Tensor:
    """What a gate is when nothing is drawn any more."""
    return _stretched(torch.sigmoid(gate))


def _stretched(share: Tensor) -> Tensor:
    return (share * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


def chance_of_open(gate: Tensor) -> Tensor:
    """E|z|_0, the chance that a gate is not 0."""
    return torch.sigmoid(gate - BETA * math.log(-GAMMA / ZETA))


class Ascent:
    """The weight of a constraint: it rises while the constraint is violated, and falls while there is room."""

    def __init__(self) -> None:
        self.multiplier = 0.0

    def __call__(self, excess: Tensor) -> Tensor:
        """multiplier * excess."""
        self.multiplier = max(0.0, self.multiplier + _ASCENT * float(excess.detach()))
        return self.multiplier * excess


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
        self.gates = {n: torch.full_like(w.detach(), OPEN).requires_grad_() for n, w in weights.items()}
        self.noise: dict[str, Tensor] = {}
        self.count = sum(w.numel() for w in weights.values())
        self.ascent, self.allowed = Ascent(), 1.0

    def learned(self) -> list[Tensor]:
        return list(self.gates.values())

    @torch.no_grad()
    def update(self, done: float, weights: Weights, gradients: Weights) -> None:
        self.allowed = 1 - cubic(done, self.sparsity)
        for name, gate in self.gates.items():
            self.noise[name] = noise_like(gate, self.generator)

    def effective(self, name: str, weight: Tensor) -> Tensor:
        gate = self.gates[name]
        return weight * (drawn(gate, self.noise[name]) if name in self.noise else settled(gate))

    def penalty(self, weights: Weights) -> Tensor | None:
        """multiplier * (expected share of open gates - allowed share)."""
        share = torch.stack([chance_of_open(g).sum() for g in self.gates.values()]).sum() / self.count
        return self.ascent(share - self.allowed)

    def masks(self, weights: Weights) -> dict[str, Tensor]:
        self.noise = {}  # what stays of a gate is its value without noise
        return globally({n: g.detach() for n, g in self.gates.items()}, self.sparsity)
