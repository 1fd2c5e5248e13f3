"""Learning the rounding of one unit."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from ..codings import Grid
from ..errors import LessenError
from ..models.layer import Layer
from .blocks_round import SoftRounding
from .blocks_seen import Seen, run
from .blocks_units import Unit

_PRESSURE = (1.5, 4.5)  # of the regularizer, first and last: 1 where all of it weighs as much as the start's error
_SETTLE = 3e-3  # learning rate of steps (of their logarithm) and of biases


@dataclass(frozen=True, eq=False)
class Rounded:
    """The weights of a unit.

    Args:
        codings: by layer name.
        biases: by parameter name, those that are not the network's own.
    """

    codings: Mapping[str, Grid]
    biases: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Problem:
    """One unit: the coded network it is in, its layers with their float weights, what it reads and should put out.

    Args:
        train, check: batches to learn from, and to judge by.
        weights: importance of each output, [1, ...] like one sample's; None where all weigh the same.
    """

    network: nn.Module
    unit: Unit
    layers: Mapping[str, Layer]
    train: Sequence[Seen]
    check: Sequence[Seen]
    weights: Tensor | None = None

    @torch.no_grad()
    def error(self, made: Rounded) -> float:
        """Mean weighted squared error on samples that no step learns from."""
        fixed = {n: self.layers[n].from_matrix(c.decode()) for n, c in made.codings.items()}
        return sum(float(self.loss({**fixed, **made.biases}, at)) for at in self.check) / max(len(self.check), 1)

    def loss(self, weights: Mapping[str, Tensor], at: Seen) -> Tensor:
        """The same for one batch and these weights, by parameter name."""
        delta = (run(self.network, self.unit, weights, at) - at.target).square()
        return (delta if self.weights is None else delta * self.weights).mean()


def learn(problem: Problem, start: Rounded, steps: int, lr: float, tell: Callable[[int], object]) -> Rounded:
    """The unit's codes after `steps` of Adam on error / error of the start + pressure · undecided.

    The pressure grows evenly. Measured on residual blocks: where rounding starts from codes that are good already,
    that leaves a third less error than annealing the regularizer's exponent does.

    Raises:
        LessenError: the error is not finite.
    """
    soft = {n: SoftRounding(problem.layers[n], g) for n, g in start.codings.items()}
    scale, size = max(problem.error(start), 1e-12), sum(s.V.numel() for s in soft.values())

    def loss(at: Seen, done: float) -> Tensor:
        pressure = _PRESSURE[0] + (_PRESSURE[1] - _PRESSURE[0]) * done
        error = problem.loss({**{n: s() for n, s in soft.items()}, **start.biases}, at) / scale
        return error + pressure / size * torch.stack([s.undecided() for s in soft.values()]).sum()

    _descend(problem, [s.V for s in soft.values()], loss, (steps, lr), tell)
    return replace(start, codings={n: s.coding() for n, s in soft.items()})


def settle(problem: Problem, start: Rounded, steps: int, tell: Callable[[int], object]) -> Rounded:
    """The unit's steps and biases, learned with its codes as they are."""
    grow = {n: torch.zeros_like(g.scale, requires_grad=True) for n, g in start.codings.items()}
    biases = {n: b.clone().requires_grad_() for n, b in {**_biases(problem), **start.biases}.items()}
    levels = {n: replace(g, scale=torch.ones_like(g.scale)).decode() for n, g in start.codings.items()}

    def loss(at: Seen, done: float) -> Tensor:
        scales = {n: (g.scale * grow[n].exp()).repeat_interleave(g.group_size, 1) for n, g in start.codings.items()}
        return problem.loss(
            {**{n: problem.layers[n].from_matrix(levels[n] * s) for n, s in scales.items()}, **biases}, at
        )

    _descend(problem, [*grow.values(), *biases.values()], loss, (steps, _SETTLE), tell)
    with torch.no_grad():
        codings = {n: replace(g, scale=g.scale * grow[n].exp()) for n, g in start.codings.items()}
    return Rounded(codings, {n: b.detach() for n, b in biases.items()})


def _descend(
    problem: Problem, parameters: list[Tensor], loss: Callable[[Seen, float], Tensor], how: tuple[int, float],
    tell: Callable[[int], object],
) -> None:  # fmt: skip
    steps, lr = how
    optimizer = torch.optim.Adam(parameters, lr=lr)
    with torch.enable_grad():
        for step, at in zip(range(steps), _shuffled(problem.train), strict=False):
            value = loss(at, step / steps)
            if not bool(torch.isfinite(value)):
                raise LessenError("the error of its outputs is not finite", where=problem.unit.layers[0])
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            optimizer.step()
            tell(1)


def _biases(problem: Problem) -> dict[str, Tensor]:
    """Those of the unit's layers that nothing else uses."""
    every = [(n, id(p)) for n, p in problem.network.named_parameters(remove_duplicate=False)]
    ids = [i for _, i in every]
    names = {x.module + ".bias" for n, x in problem.layers.items() if n.endswith(".weight")}
    return {n: problem.network.get_parameter(n).detach() for n, i in every if n in names and ids.count(i) == 1}


def _shuffled(items: Sequence[Seen]) -> Iterator[Seen]:
    generator = torch.Generator().manual_seed(0)
    for _ in itertools.count():
        for i in torch.randperm(len(items), generator=generator).tolist():
            yield items[i]
