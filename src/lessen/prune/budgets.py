"""How many weights each layer may keep when a sparsity is meant for all of them together."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..errors import LessenError, did_you_mean
from ..models.layer import Layer
from .mask import lowest

T = TypeVar("T", bound=Any)
Scores = Callable[[Layer], Tensor]  # of a layer's weights, any shape; the lowest go first
EVERY = ("layer", "global", "lamp", "erk")


def check_budget(budget: object, where: str, known: Sequence[str] = EVERY) -> None:
    """`LessenError` unless it is one of `known`."""
    if budget not in known:
        raise LessenError(f"budget={budget!r}", where=where, mend=did_you_mean(str(budget), known))


def allocate(technique: T, layers: Sequence[Layer], scores: Scores) -> dict[str, T]:
    """Layer name -> the technique with the layer's own sparsity, so that a plan says exactly what was done.

    Args:
        technique: a dataclass with `sparsity` and `budget`.
        layers: all that share the budget.
        scores: what "global" and "lamp" compare.
    """
    if technique.budget == "layer" or not layers:
        return {layer.name: technique for layer in layers}
    if technique.budget == "erk":
        kept = erk({x.name: tuple(x.weight.shape) for x in layers}, technique.sparsity)
    else:
        ranked = {x.name: _masked(x, scores(x)) for x in layers}
        kept = together(ranked if technique.budget == "global" else lamp(ranked), technique.sparsity)
    sizes = {x.name: x.weight.numel() for x in layers}
    return {n: replace(technique, sparsity=(sizes[n] - k) / sizes[n], budget="layer") for n, k in kept.items()}


def _masked(layer: Layer, scores: Tensor) -> Tensor:
    return (scores if layer.mask is None else scores * layer.mask.reshape(scores.shape)).flatten()


def together(scores: Mapping[str, Tensor], sparsity: float) -> dict[str, int]:
    """Weights kept of each layer when the lowest scores of all of them go; at least one of each stays.

    Ties go to the earlier one, as in `strongest`.
    """
    every = torch.cat([s.flatten() for s in scores.values()])
    left = max(1, len(every) - round(sparsity * len(every)))
    edge = lowest(every, len(every) - left)
    kept = {name: int((s > edge).sum()) for name, s in scores.items()}
    ties = left - sum(kept.values())
    for name, s in scores.items():
        more = min(ties, int((s == edge).sum()))
        kept[name], ties = kept[name] + more, ties - more
    return {name: max(1, k) for name, k in kept.items()}


def lamp(scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """w^2 over the sum of the squares of all weights of the layer that are not smaller (Lee et al. 2021).

    https://arxiv.org/abs/2010.07611: the sparsity of each layer that loses least of the network's output, bounded
    layer by layer.
    """
    return {name: _lamp(s) for name, s in scores.items()}


def _lamp(scores: Tensor) -> Tensor:
    ordered, order = scores.double().square().sort(descending=True, stable=True)
    share = ordered / ordered.cumsum(0).clamp_min(1e-300)
    return torch.empty_like(share).scatter_(0, order, share)


def erk(shapes: Mapping[str, tuple[int, ...]], sparsity: float) -> dict[str, int]:
    """Weights kept of each layer when its density is in proportion to sum(shape) / prod(shape), at most 1.

    Erdos-Renyi-Kernel (Evci et al. 2020, RigL, https://arxiv.org/abs/1911.11134): small layers stay denser.
    """
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    odds = {name: sum(shape) for name, shape in shapes.items()}  # density x size
    dense: set[str] = set()
    left = (1 - sparsity) * sum(sizes.values())
    while True:
        rest = [name for name in shapes if name not in dense]
        scale = (left - sum(sizes[n] for n in dense)) / max(sum(odds[n] for n in rest), 1)
        full = {name for name in rest if scale * odds[name] > sizes[name]}
        if not full:
            return {n: sizes[n] if n in dense else max(1, round(scale * odds[n])) for n in shapes}
        dense |= full
