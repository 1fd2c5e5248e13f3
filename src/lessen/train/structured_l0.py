"""`StructuredL0`: a gate on every channel, neuron and head, trained with the weights; closed ones are removed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .gate_saliency import saliency
from .gates import Gates, Opened
from .hard_concrete import chance_of_open, drawn, noise_like, settled
from .method import Lesson
from .rule import Weights
from .structured import GateRule, StructuredSparsifier

_SPREAD = 3.0  # standard deviation of the scores at the start: most gates are nearly open or nearly closed
_COLD = 0.2  # temperature of the gates at the end, when hardly any is half open; 1 at the start
_FULL = 0.995  # share of the multiply-adds that gates leave which are all open


@dataclass(frozen=True)
class StructuredL0(StructuredSparsifier):
    """Units multiplied by random gates in [0, 1], open with a learned chance, under a budget of multiply-adds.

    Louizos, Welling & Kingma 2018, https://arxiv.org/abs/1712.01312, sec. 2.3: one gate for a group of weights, by the
    hard concrete distribution of `L0`. The chance of unit u is that of score_u - t, with the threshold t at which the
    expected cost sum_l macs_l P(inputs open) P(outputs open) is what a cubic schedule allows; as t moves with the
    scores, a gate is pulled by dL/dz - m dcost/dz, m the Lagrange multiplier of the constraint (which Wang, Wohlwend &
    Lei 2020, https://arxiv.org/abs/1910.04732, learn instead). Scores start as the logarithm of `saliency` per cost.
    A unit of a residual group has one gate for all layers that write it; heads of attention are units. What is closed
    is then really removed, and the narrower network trained on.

    >>> narrower = lessen.apply(model, StructuredL0(sparsity=0.5, epochs=5), train_data)  # doctest: +SKIP
    """

    def gate_rule(self, gates: Gates, student: nn.Module, lesson: Lesson) -> GateRule:
        return _HardConcreteGates(gates, self.sparsity, _started(gates, saliency(student, gates, lesson.part)))


def _started(gates: Gates, harms: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """log(harm / cost) of each unit, with mean 0 and standard deviation `_SPREAD`."""
    whole = {n: v.requires_grad_() for n, v in gates.open(1.0).items()}
    with torch.enable_grad():
        costs = torch.autograd.grad(gates.macs(whole), list(whole.values()), allow_unused=True)
    each = torch.cat(
        [h / (1.0 if c is None else c.clamp_min(1e-12)) for h, c in zip(harms.values(), costs, strict=True)]
    )
    logs = each.clamp_min(max(float(each.max()) * 1e-8, 1e-30)).log()
    scores = (logs - logs.mean()) / logs.std().clamp_min(1e-6) * _SPREAD
    return dict(zip(harms, scores.split([len(h) for h in harms.values()]), strict=True))


class _HardConcreteGates(GateRule):
    rate = 10.0

    def __init__(self, gates: Gates, sparsity: float, start: Opened) -> None:
        super().__init__(gates, sparsity)
        self.start = start

    def begin(self, weights: Weights, layers: object, generator: torch.Generator) -> None:
        self.generator = generator
        self.learning = {n: v.clone().requires_grad_() for n, v in self.start.items()}
        self.now: Opened = self.gates.open(1.0)

    def learned(self) -> list[Tensor]:
        return list(self.learning.values())

    def update(self, done: float, weights: Weights, gradients: Weights) -> None:
        heat = _COLD**done
        logits = {n: v / heat for n, v in self.learning.items()}
        edge = threshold(self.gates, logits, min(self.allowed(done), _FULL))
        self.now = {n: drawn(v - edge, noise_like(v, self.generator)) for n, v in logits.items()}

    def opened(self) -> Opened:
        return self.now

    def scores(self) -> Opened:
        return {n: v.detach() for n, v in self.learning.items()}

    def masks(self, weights: Weights) -> dict[str, Tensor]:
        logits = {n: v.detach() / _COLD for n, v in self.learning.items()}
        edge = threshold(self.gates, logits, 1 - self.sparsity).detach()
        self.now = {n: settled(v - edge) for n, v in logits.items()}  # without noise
        return super().masks(weights)


def threshold(gates: Gates, scores: Opened, allowed: float) -> Tensor:
    """The t at which the expected cost of gates with the logits score - t is the one allowed; differentiable.

    By the implicit function theorem dt/dscore = (dcost/dscore) / (sum of dcost/dscore over all).
    """
    at = torch.tensor(_bisected(gates, {n: s.detach() for n, s in scores.items()}, allowed), requires_grad=True)
    with torch.enable_grad():
        cost = gates.macs({n: chance_of_open(s - at) for n, s in scores.items()})
        (slope,) = torch.autograd.grad(cost, at, retain_graph=True)
    return at.detach() - (cost - cost.detach()) / slope.clamp_max(-1e-9)


def _bisected(gates: Gates, scores: Opened, allowed: float) -> float:
    every = torch.cat(list(scores.values()))
    low, high = float(every.min()) - 12, float(every.max()) + 12
    for _ in range(24):
        middle = (low + high) / 2
        if float(gates.macs({n: chance_of_open(s - middle) for n, s in scores.items()})) > allowed:
            low = middle
        else:
            high = middle
    return high
